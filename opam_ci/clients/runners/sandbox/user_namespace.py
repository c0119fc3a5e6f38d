"""A user namespace for each job, with bounds on what its builds make of the kernel.

The kernel counts namespaces, inotify instances and the like for each user of a user namespace,
and what is made in there also for the namespace's owner in the one around it: see namespaces(7),
/proc/sys/user. Users of all jobs have the same numbers, so without namespaces of their own one
job could use up what the machine has for all.
"""

import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from opam_ci.clients.runners.sandbox.bubblewrap import Rights
from opam_ci.clients.runners.sandbox.process import HOLD, ready_process, run_process
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

NAMESPACES = 1024
"""Namespaces of each kind: a command of opam's sandbox has one of each, a removed network
namespace counts for some seconds more, and the machine has some 96,000 with 24 GB of memory."""

INOTIFY_INSTANCES = 128
"""As many as Linux grants a user by default."""

INOTIFY_SHARE = 16
"""The same where they also count for the worker's own user, who has as many for all jobs."""

_BOUNDS = {
    **{
        f"max_{kind}_namespaces": NAMESPACES
        for kind in ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
    },
    "max_inotify_watches": 1 << 16,
}

_BOUND = (
    'cd /proc/sys/user && for each; do file="${each%=*}"; '
    '[ ! -e "$file" ] || echo "${each#*=}" > "$file" || exit 1; done'
)

# Nobody's: Linux distributions leave ids of 2^31 and more unassigned.
_OWNERS = range(1 << 31, (1 << 32) - 2)
_TIMEOUT = 30.0


@asynccontextmanager
async def job_namespace(rights: Rights) -> AsyncIterator[Rights]:
    """Makes a user namespace; it ends with the block and the last process in it.

    Args:
        rights: Of this worker.

    Yields:
        Rights of commands that enter it. Users have the same numbers in it as outside for root,
        subordinate ids for others.

    Raises:
        InfrastructureError: Cause `sandbox`: it cannot be made, or not bounded.
    """
    descriptor = await _make(rights)
    try:
        enter = ("nsenter", f"--user=/proc/{os.getpid()}/fd/{descriptor}", "--")
        output = bytearray()
        instances = INOTIFY_SHARE if rights.prefix else INOTIFY_INSTANCES
        bounds = {**_BOUNDS, "max_inotify_instances": instances}
        words = [f"{name}={value}" for name, value in bounds.items()]
        ended = await run_process(
            [*enter, "sh", "-c", _BOUND, "sh", *words], output=output.extend, time_limit=_TIMEOUT
        )
        if not ended.ok:
            raise _not_made(output.decode(errors="replace"))
        yield replace(rights, prefix=enter)
    finally:
        os.close(descriptor)


def _not_made(why: str) -> InfrastructureError:
    return InfrastructureError(
        f"no user namespace can be made for a job ({why.strip()}): allow user namespaces, and in a "
        "container a writable /proc/sys, e.g. docker's --privileged",
        cause=Cause.SANDBOX,
    )


async def _make(rights: Rights) -> int:
    """Returns a descriptor of a new user namespace.

    For root, its owner is a user of its own, whom the kernel counts apart.
    """
    maps = {name: _ranges(name) for name in ("uid_map", "gid_map")}
    start = rights.prefix
    if not start:
        owner = _OWNERS[secrets.randbelow(len(_OWNERS))]
        known = all(any(owner in ids for ids in ranges) for ranges in maps.values())
        become = (f"--reuid={owner}", f"--regid={owner}", "--clear-groups") if known else ()
        start = ("setpriv", *become, "--", "unshare", "--user", "--")
    # From within: it has made the namespace.
    async with ready_process((*start, *HOLD), _not_made) as pid:
        try:
            if not rights.prefix:
                _give_ids(pid, maps)
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
        except OSError as error:
            raise _not_made(str(error)) from error


def _ranges(name: str) -> list[range]:
    """Reads the ids that this process has in its own user namespace."""
    lines = (line.split() for line in Path(f"/proc/self/{name}").read_text().splitlines())
    return [range(int(first), int(first) + int(count)) for first, _, count in lines]


def _give_ids(pid: int, maps: Mapping[str, list[range]]) -> None:
    """Gives all ids the same numbers in another process's user namespace."""
    for name, ranges in maps.items():
        lines = "".join(f"{ids.start} {ids.start} {len(ids)}\n" for ids in ranges)
        Path(f"/proc/{pid}/{name}").write_text(lines)
