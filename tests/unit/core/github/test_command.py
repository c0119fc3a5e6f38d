"""Commands in comments, signatures, and waits for rate limits."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.github.command import (
    CancelCommand,
    NoSuchCommand,
    OkCommand,
    RestartCommand,
    is_permitted,
    parse_command,
)
from opam_ci.core.github.limits import is_limited, retry_after
from opam_ci.core.github.signature import is_signed, sign
from opam_ci.core.jobs.selector import RestartSelector, RestartWhich

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "which", "platform"),
    [
        ("/opam-ci restart", RestartWhich.ERRORED, None),
        ("/opam-ci restart errors", RestartWhich.ERRORED, None),
        ("/opam-ci  restart\tfailed  ", RestartWhich.FAILED, None),
        ("thanks!\r\n/opam-ci restart all\r\nbye", RestartWhich.ALL, None),
        (
            "/opam-ci restart failed debian-13-ocaml-5.3/amd64",
            RestartWhich.FAILED,
            "debian-13-ocaml-5.3/amd64",
        ),
        ("/opam-ci restart all " + "x" * 100, RestartWhich.ALL, "x" * 100),
    ],
)
def test_restart_is_read(text: str, which: RestartWhich, platform: str | None) -> None:
    selector = RestartSelector(which=which, platform=platform)
    assert parse_command(text) == RestartCommand(selector=selector)


def test_ok_is_for_a_head_or_always() -> None:
    assert parse_command("looks good\n/opam-ci ok") == OkCommand(always=False)
    assert parse_command("/opam-ci ok always") == OkCommand(always=True)


def test_first_command_counts() -> None:
    assert parse_command("/opam-ci cancel\n/opam-ci restart all") == CancelCommand()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "please /opam-ci cancel",
        "> /opam-ci cancel",
        "    /opam-ci cancel",
        "```\n/opam-ci cancel\n```",
        "~~~\n```\n/opam-ci cancel\n~~~",
        "/opam-cicancel",
        "/Opam-CI cancel",
        "a\x0c/opam-ci cancel",
    ],
)
def test_comments_without_a_command_are_ignored(text: str) -> None:
    assert parse_command(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "/opam-ci",
        "/opam-ci restart everything",
        "/opam-ci restart all $(reboot)",
        "/opam-ci restart all a b",
        "/opam-ci cancel now",
        "/opam-ci ok then",
        "/opam-ci ok always 1",
        "/opam-ci restart all " + "x" * 101,
    ],
)
def test_unknown_commands_are_recognised(text: str) -> None:
    assert parse_command(text) == NoSuchCommand()


@given(st.text())
def test_no_comment_breaks_the_reader(text: str) -> None:
    parse_command(text)
    parse_command(f"/opam-ci {text}")


def test_permission_is_write_or_triage() -> None:
    assert is_permitted("read", "triage")
    assert not is_permitted("read", "read")
    assert not is_permitted("none", "")
    assert not is_permitted("read", "a custom role")


def test_signature_is_githubs() -> None:
    # The example in GitHub's documentation of webhooks.
    secret, body = b"It's a Secret to Everybody", b"Hello, World!"
    expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert sign(secret, body) == expected
    assert is_signed(secret, body, expected)


@given(st.binary(max_size=50), st.text() | st.none())
def test_no_other_signature_is_one(body: bytes, header: str | None) -> None:
    assert not is_signed(b"a secret", body, header)
    assert not is_signed(b"", body, sign(b"", body))
    assert not is_signed(b"a secret", body + b" ", sign(b"a secret", body))


@pytest.mark.parametrize(
    ("headers", "status", "seconds"),
    [
        ({"retry-after": "30"}, 403, 30),
        ({"retry-after": "0"}, 429, 1),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:45 GMT"}, 503, 45),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1772366410"}, 403, 10),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"}, 403, 1),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9999999999"}, 403, 7200),
        ({"x-ratelimit-remaining": "12", "x-ratelimit-reset": "1772366410"}, 403, 60),
        ({"retry-after": "soon"}, 429, 60),
        ({"retry-after": "99999999999999"}, 429, 60),
        ({}, 502, None),
    ],
)
def test_wait_is_what_github_says(
    headers: dict[str, str], status: int, seconds: int | None
) -> None:
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert retry_after(status, headers, NOW) == expected


def test_missing_permission_is_not_a_rate_limit() -> None:
    assert not is_limited(403, {"x-ratelimit-remaining": "10"}, "Resource not accessible")
    assert is_limited(403, {}, "You have exceeded a secondary rate limit.")
    assert is_limited(403, {"x-ratelimit-remaining": "0"}, "")
    assert is_limited(429, {}, "")
    assert not is_limited(404, {"x-ratelimit-remaining": "0"}, "rate limit")


@given(st.dictionaries(st.sampled_from(["retry-after", "x-ratelimit-reset", "date"]), st.text()))
def test_no_header_breaks_the_wait(headers: dict[str, str]) -> None:
    wait = retry_after(429, headers | {"x-ratelimit-remaining": "0"}, NOW)
    assert wait is not None
    assert timedelta(0) < wait <= timedelta(hours=2)
