"""A package repository as files on disk, such as an author's clone with changes in it."""

import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from opam_ci.clients.lint.run import PackageFiles
from opam_ci.clients.threads import GIT
from opam_ci.core.errors import UsageError
from opam_ci.core.lint.subject import DirectoryEntry, package_directory


class WorkTree:
    """The packages in a directory with `packages/NAME/NAME.VERSION/opam`.

    Args:
        root: The directory that holds `packages/`.

    Raises:
        UsageError: There is no such directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        if not (root / "packages").is_dir():
            raise UsageError(
                f"{root} is not a package repository: it has no directory `packages`. Give the"
                " path of a clone with --repo, and for a bare one a branch with --rev"
            )

    async def names(self) -> Collection[str]:
        """The names of all packages."""
        return await GIT.run(_directories, self._root / "packages")

    async def versions(self, names: Collection[str]) -> Mapping[str, Collection[str]]:
        """The full names of all versions of each of some packages."""
        return await GIT.run(self._versions, names)

    async def read(self, packages: Sequence[str]) -> Sequence[PackageFiles | None]:
        """The directory of each package, None for one without an opam file."""
        return await GIT.run(lambda: [self._read(package) for package in packages])

    def _versions(self, names: Iterable[str]) -> dict[str, Collection[str]]:
        return {name: _directories(self._root / "packages" / name) for name in names}

    def _read(self, package: str) -> PackageFiles | None:
        directory = self._root / package_directory(package)
        try:
            opam = (directory / "opam").read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        entries = [_entry(path) for path in sorted(directory.iterdir())]
        return PackageFiles(opam, tuple(entries))


def _directories(path: Path) -> list[str]:
    """The names in a directory that are not files; none when there is no such directory."""
    try:
        return [entry.name for entry in path.iterdir() if not entry.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _entry(path: Path) -> DirectoryEntry:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        # A symbolic link to nowhere.
        return DirectoryEntry(name=path.name, permissions=None)
    return DirectoryEntry(name=path.name, permissions=_recorded(mode))


def _recorded(mode: int) -> int | None:
    """The permissions that git would record: it keeps no more than the owner's execute bit.

    A clone's umask is not a fault of the submission.
    """
    if not stat.S_ISREG(mode):
        return None
    return 0o755 if mode & stat.S_IXUSR else 0o644
