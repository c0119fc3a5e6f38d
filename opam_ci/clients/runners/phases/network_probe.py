"""Whether the network works, asked after a failed download at hosts of the CI's own choice.

The hosts of sources are the authors' choice: that one of them opens no connection, or that its
name does not resolve, says nothing about the network between.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from opam_ci.clients.runners.phases.executor import RunStep
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.core.classify.sources import DNS_WORKS, NETWORK_WORKS

_UNRESOLVED = 6
"""curl's exit code for a name that does not resolve."""

_LAST_OF_CURL = 125
"""Above it are the exit codes of a shell: no such command, a signal."""

_AT_MOST = 2
"""Hosts that are asked: each may take 10 s."""


def hosts(urls: Iterable[str]) -> tuple[str, ...]:
    """Returns those URLs that can be asked over the network."""
    found = (url for url in urls if urlsplit(url).scheme in {"http", "https"})
    return tuple(dict.fromkeys(found))[:_AT_MOST]


def ask(url: str) -> Step:
    """Asks a host for the head of a page: exit code 0 for any answer."""
    curl = ("curl", "--silent", "--show-error", "--head", "--output", "/dev/null")
    limits = ("--connect-timeout", "5", "--max-time", "10", "--user-agent", "opam-ci")
    shown = f"ask {urlsplit(url).hostname}, a host of the CI's own, whether the network works"
    return Step((*curl, *limits, "--", url), network=True, shown=shown)


async def probe(urls: Iterable[str], run: RunStep) -> dict[str, bool]:
    """Asks one host after another until it is known that the network works, and names resolve.

    Args:
        urls: Archive mirrors of the configuration, and the archive of system packages.
        run: Runs a command in the build root.

    Returns:
        The facts `NETWORK_WORKS` and `DNS_WORKS`, as far as they are known: nothing if there is
        no host to ask, or no curl.
    """
    facts: dict[str, bool] = {}
    for url in hosts(urls):
        ended = await run(ask(url), bytearray())
        if ended.ok:
            facts |= {NETWORK_WORKS: True} | ({DNS_WORKS: True} if _has_name(url) else {})
            if DNS_WORKS in facts:
                break
        elif ended.exit_code is None or ended.exit_code > _LAST_OF_CURL:
            break
        else:
            facts.setdefault(NETWORK_WORKS, False)
            if ended.exit_code == _UNRESOLVED:
                facts[DNS_WORKS] = False
    return facts


def _has_name(url: str) -> bool:
    """Returns whether a name server is asked for the host of a URL."""
    host = urlsplit(url).hostname or ""
    try:
        ip_address(host)
    except ValueError:
        return host != "localhost"
    return False
