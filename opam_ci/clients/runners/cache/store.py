"""Compiled packages as read-only layers on disk, up to a total size.

An entry is a directory named by its key: `upper/` with the files that installing the package
added below the switch, `manifest.json`, and `lock`. It is made under another name and
renamed when complete. Using an entry takes its lock shared, removing it takes the lock
exclusively; the kernel releases the locks of a killed process.
"""

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from opam_ci.clients.runners.cache.eviction import evict
from opam_ci.clients.runners.sandbox import locks
from opam_ci.clients.runners.sandbox import safe_read as beneath
from opam_ci.clients.runners.sandbox.bubblewrap import Rights
from opam_ci.clients.runners.sandbox.locks import HALF_MADE, remove_tree
from opam_ci.clients.runners.sandbox.process import LastOutput, run_process
from opam_ci.core.model import Frozen

_NAME = 20
"""Hex digits of a key in the name of its directory, since an overlay's options are limited to a
page. The manifest has the whole key."""

_BUCKETS = 2
"""Hex digits of a key in the name of its lock while it is made: 256 lock files, never removed."""

_MAX_FILES = 100_000
"""Files and directories of an entry; the packages with the most have some thousand."""
_MAX_PATHS = 8 << 20
"""Bytes of their paths."""
_MAX_MANIFEST = 32 << 20
"""Bytes of a manifest: these paths, and some 90 bytes a file."""
_MAX_RUBBISH = 1_000
"""What a build left beside what is kept, and is removed one by one."""


class CachedFile(Frozen):
    """A file of an entry, with what reveals that it was truncated or overwritten.

    Attributes:
        mode: Kind and permissions.
        size: In bytes.
        mtime: Nanoseconds.
    """

    mode: int
    size: int
    mtime: int


class CacheManifest(Frozen):
    """Content of an entry; written last.

    Attributes:
        key: The entry's key.
        package: The package, `name.version`.
        files: Everything but directories, by path within the switch.
        bytes: Its size on disk.
        seconds: Time that its build took.
    """

    key: str
    package: str
    files: dict[str, CachedFile]
    bytes: int
    seconds: float


class _TooMuchError(OSError):
    """A build left more than an entry may have."""


class CacheEntry:
    """An entry in use: it is not removed until it is closed."""

    def __init__(self, directory: Path, manifest: CacheManifest, lock: int) -> None:
        self.upper = directory / "upper"
        self.manifest = manifest
        self._lock = lock

    def close(self) -> None:
        """Releases its lock."""
        os.close(self._lock)


class CacheUse(Frozen):
    """Number of entries of a cache, and their size."""

    entries: int
    bytes: int


class CacheStore:
    """The entries below one directory.

    Args:
        home: The directory, on the file system of layers and job roots.
        inside: Path of the switch within an entry's `upper`.
        limit: Bytes above which the entries used longest ago are removed.
        rights: Rights over files of builds.
    """

    def __init__(self, home: Path, inside: str, limit: int, rights: Rights) -> None:
        self.home = home
        self._inside = inside
        self._limit = limit
        self._rights = rights

    def find(self, key: str) -> CacheEntry | None:
        """Returns an entry, None if it is missing or differs from its manifest."""
        directory = self.home / key[:_NAME]
        try:
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            manifest = _manifest(directory)
            if manifest.key == key and manifest.files == self._listed(directory)[0]:
                os.utime(directory / "manifest.json")  # `prune` goes by its age
                return CacheEntry(directory, manifest, lock)
        except (BlockingIOError, FileNotFoundError):
            pass  # it is being removed
        except (ValidationError, _TooMuchError):
            pass  # of another version; `prune` removes it in the end
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    def making(self, key: str, waiting: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Holds the lock under which an entry is made, so that two jobs do not build the same."""
        (self.home / "making").mkdir(parents=True, exist_ok=True)
        return locks.lock(self.home / "making" / key[:_BUCKETS], waiting=waiting)

    def directory(self) -> AbstractAsyncContextManager[Path]:
        """Makes a directory to build in, and removes it at the end unless it was kept."""
        return locks.own_directory(self.home, HALF_MADE, self._rights)

    async def keep(
        self, built: Path, key: str, package: str, seconds: float, lowers: tuple[Path, ...]
    ) -> bool:
        """Makes an entry of what a build wrote.

        Args:
            built: A directory of `directory`, to whose `upper` the build wrote; no process of it
                is alive.
            key: The entry's key.
            package: The package that was built.
            seconds: Duration of the build.
            lowers: The layers over which it was built.

        Returns:
            Whether it is kept: not if the files would conflict with those of other entries.

        Raises:
            OSError: It cannot be kept, or is too much.
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
            # New directories, the same files: the kernel marks each directory that a build makes
            # as one that hides directories of this name below it, those of other entries too.
            copy = ("cp", "--archive", "--link", "--no-preserve=xattr", "--no-target-directory")
            source, target = (str(one / "upper") for one in (built, directory))
            errors = LastOutput()
            ended = await run_process(
                [*self._rights.prefix, *copy, "--", source, target], output=errors
            )
            if not ended.ok:
                raise OSError(f"{source} cannot be kept: {errors.text[-300:]}")
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
        os.sync()  # before the rename, so that no complete entry lacks files after a power failure
        try:
            directory.rename(self.home / key[:_NAME])
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False  # a damaged entry is in its place, and still in use
            raise
        return True

    def _listed(self, directory: Path) -> tuple[dict[str, CachedFile], int]:
        """Lists an entry's files, following no link.

        Raises:
            _TooMuchError: There are too many.
        """
        root = directory / "upper" / self._inside
        files, size, paths = {}, 0, 0
        for number, (path, status) in enumerate(_walk(root)):
            inside = os.path.relpath(path, root)
            paths += len(os.fsencode(inside))
            if number >= _MAX_FILES or paths > _MAX_PATHS:
                raise _TooMuchError(
                    f"it has over {_MAX_FILES} files, or {_MAX_PATHS} bytes of their paths"
                )
            if not stat.S_ISDIR(status.st_mode):
                files[inside] = CachedFile(
                    mode=status.st_mode, size=status.st_size, mtime=status.st_mtime_ns
                )
            size += status.st_blocks * 512
        return files, size

    async def _discard(self, key: str) -> None:
        """Removes an entry that `find` refuses, in the place of a new one."""
        path = self.home / key[:_NAME]
        # Without a lock it is the rest of a killed removal.
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

        async def remove(path: Path) -> bool:
            return path.name != sparing[:_NAME] and await self._remove(path)

        return await evict(await asyncio.to_thread(self._by_age), limit, remove)

    def _by_age(self) -> list[tuple[Path, int]]:
        found = []
        for path in self.home.iterdir() if self.home.is_dir() else ():
            if path.name.startswith(HALF_MADE) or not (path / "lock").exists():
                continue
            try:
                size = _manifest(path).bytes
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
            # The manifest goes first: what a killed removal leaves is not complete.
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
        """Removes leftovers of killed workers, entries without manifest and above the limit."""
        await locks.remove_unlocked(self.home, HALF_MADE, self._rights)
        for path, size in await asyncio.to_thread(self._by_age):
            if size == 0:
                await self._remove(path)
        await self.prune(self._limit)


def _manifest(directory: Path) -> CacheManifest:
    """Reads an entry's manifest.

    Raises:
        FileNotFoundError: There is none, or it is larger than any that is written.
        ValidationError: It is of another version.
    """
    data = beneath.read(directory, "manifest.json", limit=_MAX_MANIFEST)
    if data is None:
        raise FileNotFoundError(directory / "manifest.json")
    return CacheManifest.model_validate_json(data)


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yields everything below a directory, however deeply nested."""
    waiting = [str(root)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                yield entry.path, status
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(entry.path)


def _replaces(upper: Path, lowers: tuple[Path, ...]) -> bool:
    """Returns whether a build replaced a whole directory of a layer below by one of its own."""
    for path, status in _walk(upper):
        if stat.S_ISDIR(status.st_mode) and any(
            attribute.endswith(".overlay.opaque") for attribute in os.listxattr(path)
        ):
            inside = os.path.relpath(path, upper)
            if any((lower / inside).is_dir() for lower in lowers):
                return True
    return False


def _rubbish(upper: Path, inside: str, package: str) -> list[Path] | None:
    """Returns what a build wrote and an entry does not hold.

    An entry has the files of the switch, and of opam's own records only those of its package:
    the lists of all installed packages are made for each job.

    Returns:
        Paths to remove; None if a directory is missing, or is a link.

    Raises:
        _TooMuchError: There are too many.
    """
    name = package.partition(".")[0]
    rubbish: list[Path] = []
    level = upper
    for part in (*Path(inside).parts, ".opam-switch"):
        if not stat.S_ISDIR(level.lstat().st_mode):
            return None
        if level != upper / inside:
            rubbish += _others(level, {part})
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
        rubbish += _others(path, own)
    if len(rubbish) > _MAX_RUBBISH:
        raise _TooMuchError(f"it left over {_MAX_RUBBISH} files beside its own")
    return rubbish


def _others(directory: Path, own: Collection[str]) -> list[Path]:
    """Returns what a directory has beside some names, and no more than is too much anyway."""
    others = (path for path in directory.iterdir() if path.name not in own)
    return list(islice(others, _MAX_RUBBISH + 1))
