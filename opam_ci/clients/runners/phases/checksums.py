"""Whether a wrong checksum repeats: the host's content changed, or varies between downloads.

The fetch phase has network, and opam keeps nothing of a download that it refuses. So the
runner downloads again, and compares the content, within the build root: the log is public, so
nothing about what was downloaded leaves it but whether it was the same.
"""

import re
from collections.abc import Iterable, Sequence

from opam_ci.clients.runners.phases.executor import RunStep
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.core.jobs.facts import OpamAction

_REFUSED = re.compile(r"(https?://\S+) \((?:Bad checksum|Checksum mismatch)")

_DIFFERENT = 1
"""Exit code of cmp(1); it and curl have others for trouble."""

_COMPARE = (
    'get() { curl --fail --location --silent --show-error --proto "=http,https" '
    '--connect-timeout 10 --max-time 300 --user-agent opam-ci --output "$1" -- "$2"; }; '
    'one=$(mktemp) && two=$(mktemp) && get "$one" "$1" && get "$two" "$1" || exit 2; '
    'cmp --quiet "$one" "$two"'
)


def refused(actions: Iterable[OpamAction]) -> tuple[str, ...]:
    """Returns the URLs whose content opam refused for its checksum."""
    found = (
        _REFUSED.search(action.command or "") for action in actions if action.action == "fetch"
    )
    return tuple(dict.fromkeys(match[1] for match in found if match))


def compare(url: str) -> Step:
    """Downloads a file twice: exit code 0 if the content is the same, `_DIFFERENT` if not."""
    return Step(
        ("sh", "-c", _COMPARE, "sh", url),
        network=True,
        shown=f"download {url} twice more, to see whether its content varies",
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
    ended = [await run(compare(url), bytearray()) for url in urls]
    if any(each.exit_code not in {0, _DIFFERENT} for each in ended):
        return None
    return all(each.ok for each in ended)
