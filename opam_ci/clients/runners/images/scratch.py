"""The throwaway directory of one job: its upper layer, its lock, its removal."""

import errno
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from opam_ci.clients.runners.sandbox.bubblewrap import ROOT, Overlay, Rights
from opam_ci.clients.runners.sandbox.cgroups import Counters, OomKills, remove_recorded
from opam_ci.clients.runners.sandbox.disk import DiskWatch
from opam_ci.clients.runners.sandbox.locks import own_directory, remove_unlocked
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import HostFacts
from opam_ci.core.jobs.outcome import Cause

_FULL = (errno.ENOSPC, errno.EDQUOT)


class JobRoots:
    """The job roots below one directory.

    A job root belongs to the process that holds the lock in it. The kernel releases the lock of
    a killed worker, so that a sweep can distinguish its leftovers from roots in use.

    Args:
        home: The directory.
        rights: How to get the rights that mounts need.
    """

    def __init__(self, home: Path, rights: Rights) -> None:
        self._home = home
        self._rights = rights

    @asynccontextmanager
    async def open(self, lowers: tuple[Path, ...]) -> AsyncIterator[Overlay]:
        """Makes a job root over read-only layers, and removes it at the end.

        Raises:
            InfrastructureError: Cause `disk_full` or `storage`: it cannot be made or removed.
        """
        async with job_directory(self._home, "job-", self._rights) as directory:
            try:
                root = overlay(directory, lowers)
            except OSError as error:
                raise _not_made(directory, error) from error
            yield root

    async def sweep(self) -> int:
        """Removes the job roots of dead workers, and their control groups.

        Returns:
            How many there were.
        """
        return await remove_unlocked(self._home, "job-", self._rights, first=remove_recorded)


@asynccontextmanager
async def job_directory(home: Path, prefix: str, rights: Rights = ROOT) -> AsyncIterator[Path]:
    """Makes a directory of a job; see `own_directory`.

    Raises:
        InfrastructureError: Cause `disk_full` or `storage`: it cannot be made or removed.
    """
    async with AsyncExitStack() as stack:
        try:
            directory = await stack.enter_async_context(own_directory(home, prefix, rights))
        except OSError as error:
            raise _not_made(home, error) from error
        yield directory


def _not_made(where: Path, error: OSError) -> InfrastructureError:
    return InfrastructureError(
        f"no job root can be made in {where}: {error}",
        cause=Cause.DISK_FULL if error.errno in _FULL else Cause.STORAGE,
    )


def overlay(directory: Path, lowers: tuple[Path, ...]) -> Overlay:
    """Makes the directories of an overlay within a directory two levels below `home`."""
    return Overlay(
        home=directory.parent.parent,
        lowers=lowers,
        upper=_directory(directory / "upper"),
        work=_directory(directory / "work"),
        merged=_directory(directory / "merged"),
        proc=_directory(directory / "proc"),
    )


def sealed(root: Overlay) -> Overlay:
    """Turns an overlay's upper directory into its topmost lower one, and makes a new upper one."""
    number = len(list(root.upper.parent.glob("sealed-upper-*")))
    lower = root.upper.rename(root.upper.with_name(f"sealed-upper-{number}"))
    # The kernel's scratch directory belongs to the upper directory that it has served.
    root.work.rename(root.work.with_name(f"sealed-work-{number}"))
    return replace(
        root,
        lowers=(lower, *root.lowers),
        upper=_directory(root.upper),
        work=_directory(root.work),
    )


def _directory(path: Path) -> Path:
    path.mkdir()
    # The mode of `upper` is that of the build's own "/", whatever the worker's umask.
    path.chmod(0o755)
    return path


def host_facts(
    directory: Path | None,
    counters: Counters,
    disk: DiskWatch | None,
    *,
    foreign_oom_kills: OomKills | None = None,
) -> HostFacts:
    """Returns the facts of the machine on which a job ran.

    Args:
        directory: Where it wrote, None if that is not on this machine.
        counters: Of its control groups.
        disk: The watch over what it wrote.
        foreign_oom_kills: Those that may be of the job; None where its groups count its own.
    """
    facts = HostFacts(
        oom_kills=counters.oom_kills,
        memory_limit_reached=counters.memory_limit_reached,
        foreign_oom_kills=0 if foreign_oom_kills is None else foreign_oom_kills.number,
        pids_limit_hits=counters.pids_limit_hits,
        disk_overuse=None if disk is None else disk.overuse,
        lowest_free_bytes=None if disk is None else disk.lowest_free_bytes,
        cpu_seconds=round(counters.cpu_seconds, 1) or None,
    )
    try:
        status = os.statvfs(directory) if directory is not None else None
    except OSError:
        status = None
    if status is None:
        return facts
    free = {"free_bytes": status.f_bavail * status.f_frsize, "free_inodes": status.f_favail}
    return facts.model_copy(update=free)
