"""Reading files of a build root safely from outside it.

Files in a build root were written by packages under test. A symbolic link there would lead to
a file outside: none is ever followed, at any level.
"""

import os
import stat
from itertools import islice
from pathlib import Path, PurePosixPath


def _open(root: Path, path: str, flags: int) -> int | None:
    parts = PurePosixPath(path).parts
    if not parts or any(part in ("/", "..") for part in parts):
        raise ValueError(f"not a path beneath a root: {path!r}")
    current = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        wanted = flags if last else os.O_RDONLY | os.O_DIRECTORY
        try:
            # O_NONBLOCK: a named pipe must not block the reader.
            following = os.open(
                part,
                wanted | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK,
                dir_fd=current,
            )
        except OSError:
            return None
        finally:
            os.close(current)
        current = following
    return current


def read(root: Path, path: str, *, limit: int) -> bytes | None:
    """Reads a regular file beneath a root.

    Args:
        root: Directory that is trusted.
        path: Relative path within it.
        limit: Size in bytes above which the file is not read.

    Returns:
        The content; None if there is no such regular file, or it is larger.
    """
    descriptor = _open(root, path, os.O_RDONLY)
    if descriptor is None:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(descriptor)


def is_directory(root: Path, path: str) -> bool:
    """Returns whether a path beneath a root is a directory, reached through no link."""
    descriptor = _open(root, path, os.O_RDONLY | os.O_DIRECTORY)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def files(root: Path, path: str, *, limit: int, number: int) -> dict[str, bytes] | None:
    """Reads all files of a small directory tree beneath a root, by path within it.

    Args:
        root: Directory that is trusted.
        path: Relative path within it.
        limit: Bytes of the files together above which nothing is read.
        number: Files and directories above which nothing is read.

    Returns:
        The content by path; None if there is anything but directories and regular files, or
        more than that.
    """
    found: dict[str, bytes] = {}
    waiting = [path]
    while waiting:
        directory = waiting.pop()
        descriptor = _open(root, directory, os.O_RDONLY | os.O_DIRECTORY)
        if descriptor is None:
            return None
        try:
            with os.scandir(descriptor) as entries:
                listed = [
                    (one.name, one.is_dir(follow_symlinks=False))
                    for one in islice(entries, number + 1)
                ]
        finally:
            os.close(descriptor)
        if (number := number - len(listed)) < 0:
            return None
        for name, is_dir in listed:
            inside = f"{directory}/{name}"
            if is_dir:
                waiting.append(inside)
                continue
            data = read(root, inside, limit=limit)
            if data is None:
                return None
            limit -= len(data)
            found[inside.removeprefix(f"{path}/")] = data
    return found


def names(root: Path, path: str) -> tuple[str, ...]:
    """Lists the directories within a directory beneath a root, sorted; none if it is absent."""
    descriptor = _open(root, path, os.O_RDONLY | os.O_DIRECTORY)
    if descriptor is None:
        return ()
    try:
        with os.scandir(descriptor) as entries:
            return tuple(sorted(e.name for e in entries if e.is_dir(follow_symlinks=False)))
    finally:
        os.close(descriptor)


def packages(root: Path, repository: str) -> frozenset[str]:
    """Lists the packages (`name.version`) of an opam repository beneath a root."""
    return frozenset(
        package
        for name in names(root, f"{repository}/packages")
        for package in names(root, f"{repository}/packages/{name}")
        if package.startswith(f"{name}.")
    )
