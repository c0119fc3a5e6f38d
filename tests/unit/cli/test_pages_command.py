"""Where pages are served, and what links to them."""

import logging
import socket
from pathlib import Path

import pytest

from opam_ci.app.github_settings import GitHubSettings
from opam_ci.app.settings import Settings
from opam_ci.cli.local import ports
from opam_ci.cli.operator.listening import address_of, listening
from opam_ci.cli.operator.serve import linking_to_pages, next_to
from opam_ci.core.errors import UsageError

LOOPBACK = "127.0.0.1"


def test_statuses_link_to_the_pages_that_others_reach(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(home=tmp_path)
    public = Settings(home=tmp_path, pages_url="https://ci.example.org/")
    own = GitHubSettings(page_url="https://other.example/{number}")
    with listening(LOOPBACK, 0) as listener:
        github = GitHubSettings(temporal_ui="http://ui:8233")
        target = "/{owner}/{repo}/pull/{number}"
        with caplog.at_level(logging.WARNING):
            found = linking_to_pages(github, public, listener).page_url
            assert found == f"https://ci.example.org{target}"
            assert linking_to_pages(own, public, listener) == own
            assert caplog.text == ""
            # Better than none, for one machine; but it is to be known.
            found = linking_to_pages(github, settings, listener).page_url
            assert found == f"http://{address_of(listener)}{target}"
            assert "OPAM_CI_PAGES_URL" in caplog.text


@pytest.mark.parametrize(
    "url", ["ci.example.org", "https://me:secret@x", "https://x/{owner}", "x y"]
)
def test_an_address_that_links_cannot_have_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="pages_url"):
        Settings(home=tmp_path, pages_url=url)


def test_pages_are_next_to_webhooks() -> None:
    assert [next_to(port) for port in (8080, 65535, 0)] == [8081, 65534, 0]


def test_a_port_that_is_taken_is_a_usage_error() -> None:
    with (
        listening(LOOPBACK, 0) as listener,
        pytest.raises(UsageError, match=r"cannot listen on .* choose another --pages-port"),
        listening(LOOPBACK, listener.getsockname()[1], options="--pages-port"),
    ):
        pass


def test_an_address_of_ipv6_is_in_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener:
        assert address_of(listener).startswith("[::1]:")


def test_a_port_is_the_preferred_one_if_that_is_free() -> None:
    with listening(LOOPBACK, 0) as taken:
        port = taken.getsockname()[1]
        assert ports.free_port(port) != port
    assert ports.free_port(port) == port
