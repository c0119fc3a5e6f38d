"""Whether a wrong checksum repeats: the host's content changed, or varies between downloads.

The fetch phase has network, and opam keeps nothing of a download that it refuses. So the
runner downloads again, and compares the content.
"""

import re
from collections.abc import Iterable, Sequence

from opam_ci.clients.runners.phases.executor import RunStep
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.core.jobs.facts import OpamAction

_REFUSED = re.compile(r"(https?://\S+) \((?:Bad checksum|Checksum mismatch)")
_SUM = re.compile(r"\A([0-9a-f]{64}) ", re.MULTILINE)

_DOWNLOAD = (
    'file=$(mktemp) && curl --fail --location --silent --show-error --proto "=http,https" '
    '--connect-timeout 10 --max-time 300 --user-agent opam-ci --output "$file" -- "$1" '
    '&& sha256sum "$file"'
)


def refused(actions: Iterable[OpamAction]) -> tuple[str, ...]:
    """Returns the URLs whose content opam refused for its checksum."""
    found = (
        _REFUSED.search(action.command or "") for action in actions if action.action == "fetch"
    )
    return tuple(dict.fromkeys(match[1] for match in found if match))


def download(url: str) -> Step:
    """Downloads a file once and prints its SHA-256."""
    return Step(
        ("sh", "-c", _DOWNLOAD, "sh", url),
        network=True,
        shown=f"download {url} again, for its checksum",
    )


async def repeats(
    actions: Iterable[OpamAction], fetches: Sequence[Step], run: RunStep
) -> bool | None:
    """Finds out whether wrong checksums repeat.

    Args:
        actions: opam's report of a failed fetch.
        fetches: The commands of the fetch.
        run: Runs a command in the build root.

    Returns:
        True if every refused file has the same content in each download; False if one was
        right, or different, in another; None if opam refused none, or a download failed.
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
    output = bytearray()
    ended = await run(download(url), output)
    found = _SUM.search(output.decode(errors="replace"))
    return found[1] if ended.ok and found else None
