"""What a wrong checksum means: the host serves something else for good, or just at times.

The fetch phase has network, and opam keeps nothing of a download that it refuses. So the
runner downloads once more, and looks whether the same wrong bytes come again.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence

from opam_ci.clients.runners.steps import Step
from opam_ci.clients.runners.supervise import Ended
from opam_ci.core.facts import OpamAction

_REFUSED = re.compile(r"(https?://\S+) \((?:Bad checksum|Checksum mismatch)")
_SUM = re.compile(r"\A([0-9a-f]{64}) ", re.MULTILINE)

_DOWNLOAD = (
    'file=$(mktemp) && curl --fail --location --silent --show-error --proto "=http,https" '
    '--connect-timeout 10 --max-time 300 --user-agent opam-ci --output "$file" -- "$1" '
    '&& sha256sum "$file"'
)

RunStep = Callable[[Step, bytearray], Awaitable[Ended]]
"""Runs one command and keeps its output."""


def refused(actions: Iterable[OpamAction]) -> tuple[str, ...]:
    """Returns the URLs whose content opam refused for its checksum."""
    found = (
        _REFUSED.search(action.command or "") for action in actions if action.action == "fetch"
    )
    return tuple(dict.fromkeys(match[1] for match in found if match))


def download(url: str) -> Step:
    """Downloads a file once and says its SHA-256."""
    return Step(
        ("sh", "-c", _DOWNLOAD, "sh", url),
        network=True,
        shown=f"download {url} again, for its checksum",
    )


async def repeats(
    actions: Iterable[OpamAction], fetches: Sequence[Step], run: RunStep
) -> bool | None:
    """Finds out whether wrong checksums come again.

    Args:
        actions: What opam reported of a failed fetch.
        fetches: The commands of the fetch.
        run: Runs a command in the build root.

    Returns:
        True if every refused file comes with the same content each time; False if one came
        right, or different, at another time; None if opam refused none, or it cannot be
        said.
    """
    urls = refused(actions)
    if not urls:
        return None
    again = [await run(step, bytearray()) for step in fetches]
    if all(ended.ok for ended in again):
        return False
    same = True
    for url in urls:
        sums = [await _sum(url, run) for _ in range(2)]
        if None in sums:
            return None
        same = same and sums[0] == sums[1]
    return same


async def _sum(url: str, run: RunStep) -> str | None:
    said = bytearray()
    ended = await run(download(url), said)
    found = _SUM.search(said.decode(errors="replace"))
    return found[1] if ended.ok and found else None
