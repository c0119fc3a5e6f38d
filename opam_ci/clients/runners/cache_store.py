"""Compiled packages as read-only layers on disk: kept whole, bounded, never half.

An entry is a directory named by its key: `upper/` with the files that installing the package
added below the switch, `manifest.json`, and `lock`. It is made under another name and
renamed when complete. Whoever uses an entry holds its lock shared; who removes it takes the
lock alone, and the kernel releases the locks of a killed process.
"""

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import ValidationError

from opam_ci.clients.runners import locks
from opam_ci.clients.runners.image import HALF_MADE, remove_tree, remove_unlocked
from opam_ci.clients.runners.sandbox import Rights
from opam_ci.clients.runners.supervise import supervise
from opam_ci.core.model import Frozen

_NAME = 20
"""Hex digits of a key that name its directory, for an overlay's options have little room. The
manifest has the whole key."""

_BUCKETS = 2
"""Hex digits of a key that name the lock of its making: 256 lock files, never removed."""


class CachedFile(Frozen):
    """A file of an entry: enough to notice one that is missing, cut off or overwritten.

    Attributes:
        mode: Kind and permissions.
        size: In bytes.
        mtime: Nanoseconds.
    """

    mode: int
    size: int
    mtime: int


class CacheManifest(Frozen):
    """What an entry holds; written last.

    Attributes:
        key: Of the entry, its directory's name.
        package: Which package it is.
        files: Everything but directories, by path within the switch.
        bytes: Room that it takes.
        seconds: Time that its build took.
    """

    key: str
    package: str
    files: dict[str, CachedFile]
    bytes: int
    seconds: float


class CacheEntry:
    """An entry in use: nobody removes it until it is closed."""

    def __init__(self, directory: Path, manifest: CacheManifest, lock: int) -> None:
        self.upper = directory / "upper"
        self.manifest = manifest
        self._lock = lock

    def close(self) -> None:
        """Gives it back."""
        os.close(self._lock)


class CacheUse(Frozen):
    """How full a cache is."""

    entries: int
    bytes: int


class CacheStore:
    """The entries below one directory.

    Args:
        home: The directory, on the file system of layers and job roots.
        inside: Path of the switch within an entry's `upper`.
        limit: Bytes above which the entries used longest ago are removed.
        rights: How to get the rights over files of builds.
    """

    def __init__(self, home: Path, inside: str, limit: int, rights: Rights) -> None:
        self.home = home
        self._inside = inside
        self._limit = limit
        self._rights = rights

    def find(self, key: str) -> CacheEntry | None:
        """Returns an entry, None if there is none or it is not what its manifest says."""
        directory = self.home / key[:_NAME]
        try:
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            manifest = CacheManifest.model_validate_json((directory / "manifest.json").read_bytes())
            if manifest.key == key and manifest.files == self._listed(directory)[0]:
                # Its age decides what is removed.
                os.utime(directory / "manifest.json")
                return CacheEntry(directory, manifest, lock)
        except (BlockingIOError, FileNotFoundError):
            pass  # somebody is removing it
        except ValidationError:
            pass  # not of this version; what is used longest ago is removed
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    @asynccontextmanager
    async def making(self, key: str, waiting: Callable[[], None]) -> AsyncIterator[None]:
        """Holds the right to make an entry, so that two jobs do not build the same."""
        (self.home / "making").mkdir(parents=True, exist_ok=True)
        async with locks.lock(self.home / "making" / key[:_BUCKETS], waiting=waiting):
            yield

    @asynccontextmanager
    async def directory(self) -> AsyncIterator[Path]:
        """Makes a directory to build in, and removes it at the end unless it was kept."""
        self.home.mkdir(parents=True, exist_ok=True)
        directory, mine = await asyncio.to_thread(locks.locked_directory, self.home, HALF_MADE)
        try:
            yield directory
        finally:
            try:
                await remove_tree(directory, self._rights)
            finally:
                os.close(mine)

    async def keep(
        self, built: Path, key: str, package: str, seconds: float, lowers: tuple[Path, ...]
    ) -> bool:
        """Makes an entry of what a build wrote.

        Args:
            built: A directory of `directory`, whose `upper` the build wrote; no process of it
                is alive.
            key: Of the entry.
            package: Which package was built.
            seconds: How long that took.
            lowers: The layers over which it was built.

        Returns:
            Whether it is kept: not if what was written cannot stand beside other entries.
        """
        rubbish = await asyncio.to_thread(_rubbish, built / "upper", self._inside, package)
        if rubbish is None:
            return False
        for path in (*rubbish, built / "work", built / "merged"):
            await remove_tree(path, self._rights)
        if await asyncio.to_thread(_replaces, built / "upper", lowers):
            return False
        await self._discard(key)
        async with self.directory() as directory:
            (directory / "upper").mkdir(mode=0o755)
            # New directories, the same files: the kernel marks each directory that a build
            # makes as one that hides what is below it, such as the same one of another entry.
            copy = ("cp", "--archive", "--link", "--no-preserve=xattr", "--no-target-directory")
            source, target = (str(one / "upper") for one in (built, directory))
            said = bytearray()
            ended = await supervise(
                [*self._rights.prefix, *copy, "--", source, target], output=said.extend
            )
            if not ended.ok:
                raise OSError(f"{source} cannot be kept: {said[-300:].decode(errors='replace')}")
            if not await asyncio.to_thread(self._complete, directory, key, package, seconds):
                return False
        await self.prune(self._limit, sparing=key)
        return True

    def _complete(self, directory: Path, key: str, package: str, seconds: float) -> bool:
        files, size = self._listed(directory)
        if any(not path.isprintable() for path in files):
            return False
        manifest = CacheManifest(
            key=key, package=package, files=files, bytes=size, seconds=round(seconds, 1)
        )
        (directory / "manifest.json").write_text(manifest.model_dump_json())
        # A complete manifest over files that a power failure lost must not be.
        os.sync()
        try:
            directory.rename(self.home / key[:_NAME])
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False  # a broken one is in the way that somebody still uses
            raise
        return True

    def _listed(self, directory: Path) -> tuple[dict[str, CachedFile], int]:
        """Lists an entry's files, following no link."""
        root = directory / "upper" / self._inside
        files, size = {}, 0
        for path, status in _walk(root):
            if not stat.S_ISDIR(status.st_mode):
                files[os.path.relpath(path, root)] = CachedFile(
                    mode=status.st_mode, size=status.st_size, mtime=status.st_mtime_ns
                )
            size += status.st_blocks * 512
        return files, size

    async def _discard(self, key: str) -> None:
        """Removes what is in the way of a new entry: one that `find` does not take."""
        path = self.home / key[:_NAME]
        # With no lock it is what a killed removal left.
        if path.exists() and not await self._remove(path) and not (path / "lock").exists():
            await remove_tree(path, self._rights)

    async def prune(self, limit: int, *, sparing: str = "") -> int:
        """Removes the entries that were used longest ago; those in use stay.

        Args:
            limit: Bytes that may be left.
            sparing: Key of an entry that stays.

        Returns:
            How many were removed.
        """
        entries = await asyncio.to_thread(self._by_age)
        total = sum(size for _, size in entries)
        removed = 0
        for path, size in entries:
            if total <= limit:
                break
            if path.name != sparing[:_NAME] and await self._remove(path):
                total -= size
                removed += 1
        return removed

    def _by_age(self) -> list[tuple[Path, int]]:
        found = []
        for path in self.home.iterdir() if self.home.is_dir() else ():
            if path.name.startswith(HALF_MADE) or not (path / "lock").exists():
                continue
            try:
                size = CacheManifest.model_validate_json(
                    (path / "manifest.json").read_bytes()
                ).bytes
                age = (path / "manifest.json").stat().st_mtime
            except (FileNotFoundError, ValidationError):
                size, age = 0, 0.0
            found.append((age, path, size))
        return [(path, size) for _, path, size in sorted(found)]

    async def _remove(self, path: Path) -> bool:
        try:
            mine = locks.try_lock(path / "lock")
        except FileNotFoundError:
            return False
        if mine is None:
            return False
        try:
            # The manifest goes first: without it the rest counts for nothing.
            (path / "manifest.json").unlink(missing_ok=True)
            await remove_tree(path, self._rights)
        finally:
            os.close(mine)
        return True

    def use(self) -> CacheUse:
        """Counts entries and bytes."""
        entries = self._by_age()
        return CacheUse(entries=len(entries), bytes=sum(size for _, size in entries))

    async def sweep(self) -> None:
        """Removes what killed workers left, entries without manifest, and what is too much."""
        await remove_unlocked(self.home, HALF_MADE, self._rights)
        for path, size in await asyncio.to_thread(self._by_age):
            if size == 0:
                await self._remove(path)
        await self.prune(self._limit)


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yields everything below a directory; not recursive, whatever a build nested."""
    waiting = [str(root)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                yield entry.path, status
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(entry.path)


def _replaces(upper: Path, lowers: tuple[Path, ...]) -> bool:
    """Whether a build replaced a whole directory of a layer below by one of its own."""
    for path, status in _walk(upper):
        if stat.S_ISDIR(status.st_mode) and any(
            attribute.endswith(".overlay.opaque") for attribute in os.listxattr(path)
        ):
            inside = os.path.relpath(path, upper)
            if any((lower / inside).is_dir() for lower in lowers):
                return True
    return False


def _rubbish(upper: Path, inside: str, package: str) -> list[Path] | None:
    """Finds what a build wrote and an entry does not hold.

    An entry has the files of the switch, and of opam's own records only those of its
    package: the lists of all that is installed are made anew for each job.

    Returns:
        Paths to remove; None if there is a link where a directory should be.
    """
    name = package.partition(".")[0]
    rubbish: list[Path] = []
    level = upper
    for part in (*Path(inside).parts, ".opam-switch"):
        if not stat.S_ISDIR(level.lstat().st_mode):
            return None
        if level != upper / inside:
            rubbish += [path for path in level.iterdir() if path.name != part]
        level /= part
        if not os.path.lexists(level):
            return None
    if not stat.S_ISDIR(level.lstat().st_mode):
        return None
    for path in level.iterdir():
        if path.name not in {"packages", "install", "config"}:
            rubbish.append(path)
            continue
        if not stat.S_ISDIR(path.lstat().st_mode):
            return None
        own = {package, *(f"{name}.{kind}" for kind in ("install", "changes", "config"))}
        rubbish += [one for one in path.iterdir() if one.name not in own]
    return rubbish
