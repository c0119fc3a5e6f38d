"""The throwaway directory of one job: its upper layer, its lock, its end."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from opam_ci.clients.runners.cgroups import remove_recorded
from opam_ci.clients.runners.image import remove_tree, remove_unlocked
from opam_ci.clients.runners.locks import locked_directory
from opam_ci.clients.runners.sandbox import ROOT, Overlay, Rights
from opam_ci.core.facts import HostFacts
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause


class JobRoots:
    """The job roots below one directory.

    A job root belongs to whoever holds the lock in it. The kernel releases the lock of a
    killed worker, so that a sweep can tell its leftovers from the roots of live workers.

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
        async with held_directory(self._home, "job-", self._rights) as directory:
            try:
                root = overlay(directory, lowers)
            except OSError as error:
                raise _not_made(directory, error) from error
            yield root

    async def sweep(self) -> int:
        """Removes the job roots of workers that are gone, and their control groups.

        Returns:
            How many there were.
        """
        return await remove_unlocked(self._home, "job-", self._rights, first=remove_recorded)


@asynccontextmanager
async def held_directory(home: Path, prefix: str, rights: Rights = ROOT) -> AsyncIterator[Path]:
    """Makes a directory that belongs to this process, and removes it at the end.

    Raises:
        InfrastructureError: Cause `disk_full` or `storage`: it cannot be made or removed.
    """
    try:
        directory, mine = _new_directory(home, prefix)
    except OSError as error:
        raise _not_made(home, error) from error
    try:
        yield directory
    finally:
        try:
            await remove_tree(directory, rights)
        finally:
            os.close(mine)


def _new_directory(home: Path, prefix: str) -> tuple[Path, int]:
    home.mkdir(parents=True, exist_ok=True)
    return locked_directory(home, prefix)


_FULL = (28, 122)
"""ENOSPC and EDQUOT."""


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
    """Makes what an overlay wrote its topmost read-only layer, and its upper directory new."""
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


def host_facts(root: Overlay) -> HostFacts:
    """Reads how much room is left where a build root writes."""
    try:
        status = os.statvfs(root.upper)
    except OSError:
        return HostFacts()
    return HostFacts(free_bytes=status.f_bavail * status.f_frsize, free_inodes=status.f_favail)
