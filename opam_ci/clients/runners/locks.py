"""File locks that the kernel releases when their holder dies, however it dies."""

import asyncio
import fcntl
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

_POLL = 0.05
_TELL_EVERY = 5.0


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """Takes the lock of a file if nobody holds it.

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


def locked_directory(parent: Path, prefix: str) -> tuple[Path, int]:
    """Makes a directory that holds its own lock, the file `lock` in it.

    Returns:
        The directory and the descriptor to close in the end.
    """
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # Root of another user namespace looks in, and apt's own unprivileged user.
        directory.chmod(0o755)
        try:
            descriptor = try_lock(directory / "lock")
        except FileNotFoundError:
            continue
        # Between the two, a sweep may have taken it for a dead worker's: make another.
        if descriptor is not None and (directory / "lock").exists():
            return directory, descriptor
        if descriptor is not None:
            os.close(descriptor)


@asynccontextmanager
async def lock(
    path: Path, *, shared: bool = False, waiting: Callable[[], None] = lambda: None
) -> AsyncIterator[None]:
    """Holds the lock of a file, waiting for it without blocking the event loop.

    Args:
        path: The lock file; it is created and never removed.
        shared: Whether other shared holders are welcome.
        waiting: Called at once when the lock is held by others, then every 5 s.
    """
    told = -_TELL_EVERY
    while (descriptor := try_lock(path, shared=shared)) is None:
        now = time.monotonic()
        if now - told >= _TELL_EVERY:
            told = now
            waiting()
        await asyncio.sleep(_POLL)
    try:
        yield
    finally:
        os.close(descriptor)
