"""What is read from the opam files of a tree, kept by the directories of its packages.

To read all opam files of opam-repository takes ten seconds, those of a pull request none: git
names the directory of a package by its content.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Final, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from opam_ci.clients.git.repository import Repository
from opam_ci.core.opam.file import MAX_SIZE
from opam_ci.core.submission.admission import is_package

T = TypeVar("T")

_FEW: Final = 100
"""Directories that are listed by name; all of opam-repository takes 0.15 s."""

_WORTH_KEEPING: Final = 50
"""As many new directories take a tenth of a second to read, and a megabyte to store."""

Files = Iterable[tuple[str, bytes]]
"""The versions of a package by their full names, each with its opam file."""


class FolderCache(Generic[T]):
    """What is known of the directories of packages.

    Args:
        path: File with what is known of an earlier tree; it may be missing.
        known: The file's content: what is known, by the id of the directory.
        read: Reads the versions of a package.

    Attributes:
        is_written: Whether the file was written anew.
    """

    def __init__(
        self, path: Path, known: TypeAdapter[dict[str, T]], read: Callable[[Files], T]
    ) -> None:
        self._path = path
        self._adapter = known
        self._read = read
        try:
            self._known = known.validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            self._known = {}
        self.is_written = False

    def of(
        self, repository: Repository, tree: str, folders: Mapping[str, str] | None = None
    ) -> dict[str, T]:
        """Returns what is known of each package of a tree, and keeps it if that is worth it.

        Args:
            repository: The clone.
            tree: Id of the tree.
            folders: The ids of the packages' directories by name, if the caller has them.

        Raises:
            InfrastructureError: Git fails.
        """
        folders = repository.folders(tree, "packages") if folders is None else folders
        new = {name for name, folder in folders.items() if folder not in self._known}
        found = {name: self._read(files) for name, files in _packages(repository, tree, new)}
        for name in new:
            self._known[folders[name]] = found[name] if name in found else self._read(())
        if len(new) >= _WORTH_KEEPING:
            kept = {folder: self._known[folder] for folder in folders.values()}
            self._path.write_bytes(self._adapter.dump_json(kept))
            self.is_written = True
        return {name: self._known[folder] for name, folder in folders.items()}


def _packages(repository: Repository, tree: str, names: set[str]) -> Iterator[tuple[str, Files]]:
    if not names:
        return
    paths = [f"packages/{name}/" for name in sorted(names)]
    entries = [
        entry
        for entry in repository.list_tree(tree, paths if len(paths) <= _FEW else ["packages/"])
        if is_package(entry.path)
        and entry.path.split("/")[1] in names
        and entry.kind == "blob"
        and entry.size <= MAX_SIZE
    ]
    contents = repository.objects(
        [entry.object_id for entry in entries], [entry.size for entry in entries]
    )
    pairs = zip((entry.path.split("/") for entry in entries), contents, strict=True)
    for name, group in groupby(pairs, key=lambda pair: pair[0][1]):
        yield name, ((path[2], opam) for path, opam in group)
