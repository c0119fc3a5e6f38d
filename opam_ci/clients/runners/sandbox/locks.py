"""Files and directories that belong to a live process.

Ownership is a file lock, which the kernel releases when its holder dies, however it dies.
"""

import asyncio
import fcntl
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from opam_ci.clients import programs
from opam_ci.clients.runners.sandbox.bubblewrap import ROOT, Rights
from opam_ci.clients.runners.sandbox.process import LastOutput, run_process
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

HALF_MADE = "half-made-"
"""Prefix of directories in which something is made that is renamed when complete."""

_POLL = 0.05
_NOTIFY_EVERY = 5.0
_REMOVE_TRIES = 5

T = TypeVar("T")


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """Takes the lock of a file unless somebody else holds it.

    Returns:
        A descriptor to close when done, or None. It is not inherited by child processes,
        so that a build can never keep a dead worker's lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@asynccontextmanager
async def lock(
    path: Path, *, shared: bool = False, waiting: Callable[[], None] = lambda: None
) -> AsyncIterator[None]:
    """Holds the lock of a file, waiting for it without blocking the event loop.

    Args:
        path: The lock file; it is created and never removed.
        shared: Whether others may hold it at the same time, shared too.
        waiting: Called at once when the lock is held by others, then every 5 s.
    """
    notified_at = -_NOTIFY_EVERY
    while (descriptor := try_lock(path, shared=shared)) is None:
        now = time.monotonic()
        if now - notified_at >= _NOTIFY_EVERY:
            notified_at = now
            waiting()
        await asyncio.sleep(_POLL)
    try:
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def made_on_demand(
    path: Path,
    find: Callable[[], Awaitable[T | None]],
    make: Callable[[], Awaitable[None]],
    waiting: Callable[[], None],
) -> AsyncIterator[T]:
    """Holds something that is made when first needed, by one process, and used by many.

    Whoever uses or makes it holds its lock shared, and who removes it takes the lock exclusively.
    Making has a lock of its own: with one for both, a job that found nothing would wait until
    the jobs that use what was made meanwhile end.

    Args:
        path: Its lock file; its directory is made if need be.
        find: Returns it if it is there and complete.
        make: Makes it; until that is done, `find` returns None.
        waiting: As in `lock`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    async with lock(path, shared=True, waiting=waiting):
        if (found := await find()) is None:
            async with lock(path.with_suffix(".making"), waiting=waiting):
                while (found := await find()) is None:
                    await make()
        yield found


async def prune_unused(
    marks: Iterable[Path],
    keep: int,
    lock_file: Callable[[Path], Path],
    remove: Callable[[Path], Awaitable[None]],
) -> None:
    """Removes what was used longest ago; what somebody holds stays.

    Args:
        marks: The file of each thing whose existence says that it is complete, and whose time of
            modification when it was last used.
        keep: How many stay.
        lock_file: Returns the lock file of a thing, by its mark.
        remove: Removes a thing, by its mark, which is gone by then.
    """
    for mark in sorted(marks, key=modified_at, reverse=True)[keep:]:
        if (held := try_lock(lock_file(mark))) is None:
            continue
        try:
            # The mark goes first: what a killed removal leaves is not complete.
            mark.unlink(missing_ok=True)
            await remove(mark)
        finally:
            os.close(held)


def modified_at(path: Path) -> float:
    """Returns when a file was modified last, in seconds since the epoch; 0 if it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # another process has just removed it


@asynccontextmanager
async def own_directory(parent: Path, prefix: str, rights: Rights) -> AsyncIterator[Path]:
    """Makes a directory that belongs to this process; at the end removes it, if it is still there.

    Its lock is the file `lock` in it.

    Args:
        parent: Where; made if need be.
        prefix: Prefix of its name.
        rights: Rights over files of builds.

    Raises:
        OSError: It cannot be made.
        InfrastructureError: Cause `storage`: it cannot be removed.
    """
    directory, descriptor = _locked_directory(parent, prefix)
    try:
        yield directory
    finally:
        try:
            await remove_tree(directory, rights)
        finally:
            os.close(descriptor)


@asynccontextmanager
async def temporary_files_in(parent: Path) -> AsyncIterator[None]:
    """Has `tempfile` make files of this process in a directory that belongs to it.

    First removes those of processes that were killed. It is a setting of the whole process.

    Args:
        parent: Where the directory is made.

    Raises:
        OSError: It cannot be made.
        InfrastructureError: Cause `storage`: something cannot be removed.
    """
    await remove_unlocked(parent, "tmp-", ROOT, first=_unmount)
    async with own_directory(parent, "tmp-", ROOT) as directory:
        before, tempfile.tempdir = tempfile.tempdir, str(directory)
        try:
            yield
        finally:
            tempfile.tempdir = before


async def _unmount(directory: Path) -> None:
    for mounted in await asyncio.to_thread(_mounted_below, directory):
        await run_process(["umount", "--lazy", mounted], output=lambda _: None)


def _mounted_below(directory: Path) -> list[str]:
    """Returns where a dead process has left mounts, such as those of `empty_proc.py`."""
    mounts = Path("/proc/self/mounts")
    lines = mounts.read_text(errors="surrogateescape").splitlines() if mounts.exists() else ()
    points = (line.split(" ")[1].replace(r"\040", " ") for line in lines)
    return [point for point in points if point.startswith(f"{directory}/")]


def _locked_directory(parent: Path, prefix: str) -> tuple[Path, int]:
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # Root of another user namespace reads it, and apt's own unprivileged user.
        directory.chmod(0o755)
        try:
            descriptor = try_lock(directory / "lock")
        except FileNotFoundError:
            continue
        # Before it was locked, a sweep may have taken it for a dead worker's: make another.
        if descriptor is not None and (directory / "lock").exists():
            return directory, descriptor
        if descriptor is not None:
            os.close(descriptor)


async def _nothing(_: Path) -> None:
    pass


async def remove_unlocked(
    parent: Path,
    prefix: str,
    rights: Rights,
    *,
    first: Callable[[Path], Awaitable[None]] = _nothing,
) -> int:
    """Removes directories of `own_directory` whose processes died.

    Args:
        parent: Where they are.
        prefix: Prefix of their names.
        rights: Rights over files of builds.
        first: Called with each before it is removed.

    Returns:
        How many there were.
    """
    removed = 0
    for directory in await asyncio.to_thread(lambda: sorted(parent.glob(f"{prefix}*"))):
        try:
            held = try_lock(directory / "lock")
        except FileNotFoundError:
            continue  # its owner has just removed it
        if held is not None:
            try:
                await first(directory)
                await remove_tree(directory, rights)
            finally:
                os.close(held)
            removed += 1
    return removed


async def remove_unused(
    parent: Path, rights: Rights, *, used_before: float = 0.0, sparing: str = ""
) -> None:
    """Removes what killed removals left of things with a manifest, and things that are not used.

    Args:
        parent: Where they are; the lock of each is beside it.
        rights: Rights over their files.
        used_before: Those whose `manifest.json` has an older time, in seconds since the epoch;
            by default only those without one.
        sparing: Name of the one that stays.
    """
    for directory in await asyncio.to_thread(lambda: sorted(parent.glob("*/"))):
        if directory.name == sparing or directory.name.startswith(HALF_MADE):
            continue
        mark = directory / "manifest.json"
        if modified_at(mark) > used_before:
            continue
        if (held := try_lock(directory.with_suffix(".lock"))) is None:
            continue
        try:
            # The mark goes first, as in `prune_unused`.
            mark.unlink(missing_ok=True)
            await remove_tree(directory, rights)
        finally:
            os.close(held)


async def remove_tree(path: Path, rights: Rights) -> None:
    """Removes a directory tree, whoever owns its files and however deep it is.

    Raises:
        InfrastructureError: Cause `storage`: something is left.
    """
    # Not shutil: it recurses, and a package under test may nest thousands of directories.
    options = ("--recursive", "--force", "--one-file-system")
    command = [*rights.prefix, programs.gnu("rm"), *options, "--", str(path)]
    # A starting worker looks for the lock in it, and creates one that was just removed: then
    # the directory is not empty, and the next try removes it.
    for _ in range(_REMOVE_TRIES):
        output = LastOutput()
        ended = await run_process(command, output=output)
        if ended.ok:
            return
    raise InfrastructureError(
        f"{path} cannot be removed: {output.text[-300:]}", cause=Cause.STORAGE
    )
