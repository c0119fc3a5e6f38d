"""The archives of sources that this machine has fetched, by checksum, up to a total size.

They lie as in a mirror of opam, `KIND/xx/DIGITS`, each under its strongest checksum. A job does
not see the store: it sees a directory of its own with hard links to what it may take, so that
nothing is removed while it is used, and what a job must fetch itself is not there. Content is
compared with all checksums before it is put in and before it is shown: neither a build nor a
torn file decides what a job gets.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from opam_ci.clients.runners.cache.eviction import evict
from opam_ci.clients.runners.cache.store import CacheUse
from opam_ci.clients.runners.sandbox import locks
from opam_ci.clients.runners.sandbox.whole_file import write_whole
from opam_ci.core.jobs.archives import KINDS, Archive

_BUCKETS: Final = 32
"""Locks under which archives are fetched. A job holds one for each archive that it fetches, and a
worker may have 1,024 files open."""

_PATIENCE: Final = 300.0
"""Seconds to wait for another job that fetches the same archives."""

_SMALLEST: Final = 64 << 10
"""Bytes that an archive counts for at least, so that tiny ones do not take all inodes."""


class ArchiveStore:
    """The archives below one directory; any number of processes may use it.

    Args:
        home: The directory, on the file system of job roots.
        limit: Bytes above which the archives used longest ago are removed.
    """

    def __init__(self, home: Path, limit: int) -> None:
        self.home = home
        self._limit = limit

    def show(self, archive: Archive, directory: Path) -> bool:
        """Links an archive into a job's directory, under each of its checksums.

        Args:
            archive: The archive.
            directory: A mirror, of one job.

        Returns:
            Whether it is there; not if the store lacks it, or its content is another one.

        Raises:
            OSError: It cannot be read or linked.
        """
        path = self.home / archive.paths[0]
        try:
            found = _checksums(path, archive)
            if archive.checksums[0] not in found:
                path.unlink(missing_ok=True)  # it is not what its name says
            if found != set(archive.checksums):
                return False
            for place in _places(directory, archive):
                with suppress(FileExistsError):
                    place.hardlink_to(path)
            os.utime(path)  # `prune` goes by its age
        except FileNotFoundError:
            return False  # it was never there, or another process has just removed it
        return True

    def keep(self, archive: Archive, data: bytes) -> bool:
        """Puts an archive into the store, unless it has another checksum.

        Args:
            archive: The archive.
            data: What a build root has in its place.

        Returns:
            Whether it was new.

        Raises:
            OSError: It cannot be written.
        """
        path = self.home / archive.paths[0]
        if any(hashlib.new(kind, data).hexdigest() != hexa for kind, hexa in archive.checksums):
            return False
        if path.is_file() and path.stat().st_size == len(data):
            os.utime(path)
            return False
        write_whole(path, data, mode=0o444)  # users of builds read it through a read-only mount
        return True

    @asynccontextmanager
    async def fetching(
        self, archives: Iterable[Archive], waiting: Callable[[], None]
    ) -> AsyncIterator[None]:
        """Holds the locks under which archives are fetched, so that two jobs do not fetch the same.

        After some minutes a job goes on without them: no other may hold it up for long.

        Args:
            archives: The archives.
            waiting: Called while others hold one of the locks, every 5 s.

        Raises:
            OSError: There can be no locks.
        """
        directory = self.home / "fetching"
        directory.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    # In one order, so that two jobs never wait for each other.
                    for name in sorted({_bucket(archive) for archive in archives}):
                        await stack.enter_async_context(
                            locks.lock(directory / name, waiting=waiting)
                        )
            yield

    async def prune(self, limit: int | None = None) -> int:
        """Removes the archives that were used longest ago.

        Args:
            limit: Bytes that may be left; by default the store's own limit.

        Returns:
            How many were removed.
        """

        async def remove(path: Path) -> bool:
            await asyncio.to_thread(path.unlink, missing_ok=True)
            return True

        entries = await asyncio.to_thread(self._by_age)
        return await evict(entries, self._limit if limit is None else limit, remove)

    def use(self) -> CacheUse:
        """Counts archives and bytes."""
        entries = self._by_age()
        return CacheUse(entries=len(entries), bytes=sum(size for _, size in entries))

    async def sweep(self) -> None:
        """Removes archives above the limit, and what killed workers did not complete."""
        await self.prune()

    def _by_age(self) -> list[tuple[Path, int]]:
        found = []
        for path in self._paths():
            with suppress(FileNotFoundError):
                status = path.lstat()
                found.append((status.st_mtime, path, max(_SMALLEST, status.st_blocks * 512)))
        return [(path, size) for _, path, size in sorted(found)]

    def _paths(self) -> Iterator[Path]:
        for kind in KINDS:
            yield from (self.home / kind).glob("*/*")


def show_mirrored(archive: Archive, directory: Path, mirror: Path, inside: str) -> bool:
    """Links an archive of a mirror into a job's directory, under each of its checksums.

    Args:
        archive: The archive.
        directory: Of the job.
        mirror: A mirror on this machine, without symbolic links in its path.
        inside: Where the job sees that.

    Returns:
        Whether it is there; not if the mirror has another content in its place.

    Raises:
        OSError: It cannot be read or linked.
    """
    for path in archive.paths:
        # A mirror may have the same file under other checksums as links.
        real = (mirror / path).resolve()
        if not real.is_file() or not real.is_relative_to(mirror):
            continue
        if _checksums(real, archive) == set(archive.checksums):
            for place in _places(directory, archive):
                with suppress(FileExistsError):
                    place.symlink_to(inside / real.relative_to(mirror))
            return True
    return False


def _places(directory: Path, archive: Archive) -> list[Path]:
    """Returns where a job finds an archive, in directories that users of builds can read."""
    places = []
    for path in archive.paths:
        kind, start, digits = path.split("/")
        parent = directory
        for name in (kind, start):
            parent /= name
            parent.mkdir(exist_ok=True)
            parent.chmod(0o755)  # whatever the worker's umask
        places.append(parent / digits)
    return places


def _bucket(archive: Archive) -> str:
    return f"{int(archive.checksums[0][1][:4], 16) % _BUCKETS:02}"


def _checksums(path: Path, archive: Archive) -> set[tuple[str, str]]:
    """Returns the checksums of a file, of the kinds that an archive has; none of a link.

    Raises:
        OSError: It is missing, or cannot be read.
    """
    if path.is_symlink():
        return set()
    digests = {kind: hashlib.new(kind) for kind, _ in archive.checksums}
    # O_NONBLOCK: a named pipe, which is empty, must not block the reader.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        while block := file.read(1 << 20):
            for digest in digests.values():
                digest.update(block)
    return {(kind, digest.hexdigest()) for kind, digest in digests.items()}
