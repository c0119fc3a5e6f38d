"""Opam repositories for builds, written from git objects as `tar.gz`.

Both exports are deterministic: the same trees give the same bytes, so that a digest of the
archive identifies its content. `.gitattributes` of the submission do not affect an archive,
unlike with `git archive`. Only files that a change may contain (`core/submission/admission.py`) are
written: symlinks, submodules and odd names in a base are left out, so that no archive can
point out of the folder into which it is unpacked, and that all of it can be unpacked.
"""

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from opam_ci.clients.git.repository import Repository, TreeEntry
from opam_ci.clients.tar_gz import add, tar_gz
from opam_ci.core.model import Frozen
from opam_ci.core.submission.admission import is_package, refusal
from opam_ci.core.submission.change import FileChange

_EXECUTABLE: Final = "100755"
#: The `repo` file of a repository that is made here.
_REPO: Final = b'opam-version: "2.0"\n'
_DELETED: Final = (
    b'opam-version: "2.0"\n'
    b'synopsis: "Deleted by the pull request under test"\n'
    b'description: "This stands in for a package that the pull request deletes."\n'
    b'maintainer: "opam-ci"\n'
    b"available: false\n"
)
_PACKAGE_DEPTH: Final = 3


class Overlay(Frozen):
    """An overlay repository that was written.

    Attributes:
        packages: The packages that differ and still exist.
        deleted: The deleted packages, each present as an unavailable one.
        total: Packages in the merged tree, to compare with once it is added.
    """

    packages: tuple[str, ...]
    deleted: tuple[str, ...]
    total: int


def archive_tree(repository: Repository, tree: str, target: Path) -> int:
    """Write `repo` and `packages/` of a tree or commit as an opam repository.

    Args:
        repository: The clone.
        tree: Id of a tree or commit.
        target: The file to write.

    Returns:
        How many packages it holds.
    """
    entries = _admitted(repository.list_tree(tree, ["repo", "packages/"]))
    with _writing(target) as archive:
        _add_entries(archive, repository, entries)
    return sum(is_package(entry.path) for entry in entries)


def overlay(
    repository: Repository,
    base_tree: str,
    merged_tree: str,
    target: Path,
    *,
    own_base: str | None = None,
) -> Overlay:
    """Write the packages that differ between two trees as a small opam repository.

    Added to the base's repository with a higher priority it makes the merged one.

    Args:
        repository: The clone.
        base_tree: Id of the tree that the builder's repository has.
        merged_tree: Id of the tree to be tested.
        target: The file to write.
        own_base: Id of the tree into which the head was merged, if the builder has another
            one. What the head changes is then in the overlay even if the builder's tree has
            it too: the builder may hide it there for want of a mirrored source.
    """
    changes = repository.changes(base_tree, merged_tree)
    if own_base is not None and own_base != base_tree:
        changes = [*changes, *repository.changes(own_base, merged_tree)]
    touched = _package_folders(changes)
    entries = _admitted(repository.list_tree(merged_tree, touched)) if touched else []
    present = {_folder(entry.path) for entry in entries if is_package(entry.path)}
    deleted = [folder for folder in touched if folder not in present]
    kept = [entry for entry in entries if _folder(entry.path) in present]
    with _writing(target) as archive:
        add(archive, "repo", _REPO)
        for folder in deleted:
            add(archive, f"{folder}/opam", _DELETED)
        _add_entries(archive, repository, kept)
    return Overlay(
        packages=tuple(sorted(folder.rpartition("/")[2] for folder in present)),
        deleted=tuple(sorted(folder.rpartition("/")[2] for folder in deleted)),
        total=repository.count_packages(merged_tree),
    )


def _package_folders(changes: Iterable[FileChange]) -> list[str]:
    paths = {path for change in changes for path in (change.path, change.old_path)}
    folders = {
        _folder(path)
        for path in paths
        if path.startswith("packages/") and path.count("/") >= _PACKAGE_DEPTH
    }
    # Other folders were never exported, so nothing of theirs has to be hidden.
    return sorted(folder for folder in folders if is_package(f"{folder}/opam"))


def _folder(path: str) -> str:
    return "/".join(path.split("/")[:_PACKAGE_DEPTH])


def _admitted(entries: Iterable[TreeEntry]) -> list[TreeEntry]:
    """Returns the entries without those of the base that no change may contain."""
    return [
        entry
        for entry in entries
        if entry.kind == "blob" and refusal(entry.path, entry.mode) is None
    ]


@contextmanager
def _writing(target: Path) -> Iterator[tarfile.TarFile]:
    """Writes an archive that appears under its name only when it is complete."""
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("wb") as file, tar_gz(file) as archive:
            yield archive
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _add_entries(
    archive: tarfile.TarFile, repository: Repository, entries: Sequence[TreeEntry]
) -> None:
    contents = repository.objects(
        [entry.object_id for entry in entries], [entry.size for entry in entries]
    )
    for entry, content in zip(entries, contents, strict=True):
        add(archive, entry.path, content, executable=entry.mode == _EXECUTABLE)
