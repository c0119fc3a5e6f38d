"""A package repository as a tree in git: of a branch, a commit, or a merge without a commit."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from opam_ci.clients.git.repository import Repository, TreeEntry
from opam_ci.clients.lint.run import PackageFiles
from opam_ci.clients.threads import GIT
from opam_ci.core.lint.subject import DirectoryEntry, package_directory, package_name

# Listing the whole of opam-repository takes 0.15 s, a few directories 5 ms.
_FEW: Final = 100
_PERMISSION_BITS: Final = 0o777
_REGULAR: Final = "100"
# packages / NAME / NAME.VERSION / file
_DEPTH: Final = 3


@dataclass(slots=True)
class _Directory:
    """A package directory: the id of its opam file, and its entries by name."""

    opam: str | None = None
    entries: dict[str, int | None] = field(default_factory=dict)

    def add(self, entry: TreeEntry, inner_path: str) -> None:
        name, _, below = inner_path.partition("/")
        regular = not below and entry.mode.startswith(_REGULAR)
        if regular and name == "opam":
            self.opam = entry.object_id
        permissions = int(entry.mode, 8) & _PERMISSION_BITS if regular else None
        self.entries[name] = permissions


class GitTree:
    """The packages of one tree.

    Args:
        repository: The clone.
        tree: Id of a tree or commit in it.
    """

    def __init__(self, repository: Repository, tree: str) -> None:
        self._repository = repository
        self._tree = tree
        self._all: dict[str, dict[str, _Directory]] | None = None

    async def names(self) -> Collection[str]:
        """The names of all packages."""
        return await GIT.run(self._names)

    async def versions(self, names: Collection[str]) -> Mapping[str, Collection[str]]:
        """The full names of all versions of each of some packages."""
        return await GIT.run(self._versions, names)

    async def read(self, packages: Sequence[str]) -> Sequence[PackageFiles | None]:
        """The directory of each package, None for one without an opam file."""
        return await GIT.run(self._read, packages)

    def _names(self) -> list[str]:
        if self._all is not None:
            return list(self._all)
        return list(self._repository.folders(self._tree, "packages"))

    def _versions(self, names: Collection[str]) -> dict[str, Collection[str]]:
        listing = self._listing([f"packages/{name}/" for name in names])
        return {
            name: [full for full in listing.get(name, ()) if package_name(full) == name]
            for name in names
        }

    def _read(self, packages: Sequence[str]) -> list[PackageFiles | None]:
        listing = self._listing([f"{package_directory(package)}/" for package in packages])
        directories = [
            listing.get(package_name(package), {}).get(package, _Directory())
            for package in packages
        ]
        contents = self._repository.objects([found.opam for found in directories if found.opam])
        return [
            PackageFiles(
                next(contents),
                tuple(
                    DirectoryEntry(name=name, permissions=permissions)
                    for name, permissions in found.entries.items()
                ),
            )
            if found.opam
            else None
            for found in directories
        ]

    def _listing(self, paths: Sequence[str]) -> Mapping[str, Mapping[str, _Directory]]:
        """The package directories at least of `paths`, by package name and full name."""
        if not paths:
            return {}
        if self._all is not None or len(paths) > _FEW:
            return self._whole()
        return _directories(self._repository.list_tree(self._tree, paths))

    def _whole(self) -> Mapping[str, Mapping[str, _Directory]]:
        if self._all is None:
            self._all = _directories(self._repository.list_tree(self._tree, ["packages/"]))
        return self._all


def _directories(entries: Iterable[TreeEntry]) -> dict[str, dict[str, _Directory]]:
    found: defaultdict[str, dict[str, _Directory]] = defaultdict(dict)
    for entry in entries:
        parts = entry.path.split("/", _DEPTH)
        if len(parts) > _DEPTH:
            _, name, package, inner_path = parts
            found[name].setdefault(package, _Directory()).add(entry, inner_path)
    return dict(found)
