"""A first check of what a head changes, before git merges, compares or exports it.

Git's own comparisons have no limit against a hostile tree: some thousand nested folders crash
them, and a few trees that name one another make millions of paths. This one stops at the limits
of `core/submission/admission.py`.
"""

import re
from typing import Final, NamedTuple

from opam_ci.clients.git.process import git_fault
from opam_ci.clients.git.repository import Repository
from opam_ci.core.submission.admission import (
    MAX_DEPTH,
    MAX_TREE_BYTES,
    ChangeLimits,
    refusal,
    too_large,
    too_many_entries,
)

#: An entry of a tree as git stores it, by the length of its ids in hexadecimal.
_ENTRIES: Final = {
    40: re.compile(rb"([0-7]{1,8}) ([^\0]*)\0(.{20})", re.DOTALL),
    64: re.compile(rb"([0-7]{1,8}) ([^\0]*)\0(.{32})", re.DOTALL),
}
_FOLDER: Final = 0o040000
_SUBMODULE: Final = 0o160000

_Entry = tuple[bytes, bytes]
"""A file or folder in a tree: its mode and the id of its object."""


class _Folder(NamedTuple):
    """A folder that differs: its path, its tree before (None if there was none), its tree now."""

    path: str
    old: str | None
    new: str


def inspect(
    repository: Repository, old_tree: str, new_tree: str, limits: ChangeLimits
) -> str | None:
    """Checks each file that a tree has and another one lacks, or has with another content.

    Args:
        repository: The clone.
        old_tree: Id of the tree from which the head started.
        new_tree: Id of the head's tree.
        limits: How much the head may add and modify.

    Returns:
        Why the change is refused, None if it is not.

    Raises:
        InfrastructureError: Git fails.
    """
    return _Inspection(repository, limits).run(old_tree, new_tree)


class _Inspection:
    """What was found so far, level by level of folders."""

    def __init__(self, repository: Repository, limits: ChangeLimits) -> None:
        self._repository = repository
        self._limits = limits
        self._tree_bytes = 0
        self._seen = 0
        self._blobs: dict[str, str] = {}
        self._below: list[_Folder] = []

    def run(self, old_tree: str, new_tree: str) -> str | None:
        """Returns why the change is refused, None if it is not."""
        self._below = [_Folder("", old_tree, new_tree)]
        while self._below:
            if (refused := self._check_level()) is not None:
                return refused
        ids = sorted(set(self._blobs.values()))
        sizes = dict(zip(ids, self._repository.sizes(ids), strict=True))
        by_path = {path: sizes[object_id] for path, object_id in self._blobs.items()}
        return too_large(by_path, self._limits)

    def _check_level(self) -> str | None:
        level, self._below = self._below, []
        ids = sorted({tree for folder in level for tree in (folder.old, folder.new) if tree})
        sizes = self._repository.sizes(ids)
        self._tree_bytes += sum(sizes)
        if self._tree_bytes > MAX_TREE_BYTES:
            return f"Too much is changed (over {MAX_TREE_BYTES} bytes of git trees)"
        trees = dict(zip(ids, self._repository.objects(ids, sizes), strict=True))
        for folder in level:
            old = {} if folder.old is None else _entries(trees[folder.old], folder.old)
            new = _entries(trees[folder.new], folder.new)
            for name, entry in sorted(new.items() - old.items()):
                path = f"{folder.path}{name.decode('utf-8', 'surrogateescape')}"
                if (refused := self._check(path, old.get(name), entry)) is not None:
                    return refused
        return None

    def _check(self, path: str, before: _Entry | None, now: _Entry) -> str | None:
        self._seen += 1
        mode, object_id = int(now[0], 8), now[1].hex()
        if mode == _FOLDER:
            was_folder = before is not None and int(before[0], 8) == _FOLDER
            known = before[1].hex() if before is not None and was_folder else None
            # Only its content is checked: the folder may differ by a deletion.
            if path.count("/") >= MAX_DEPTH and known is None:
                return refusal(path, "100644")
            self._below.append(_Folder(f"{path}/", known, object_id))
        elif (refused := refusal(path, f"{mode:o}")) is not None:
            return refused
        elif mode != _SUBMODULE:  # whose commit is no object of this repository
            self._blobs[path] = object_id
        return too_many_entries(self._seen, self._limits)


def _entries(tree: bytes, tree_id: str) -> dict[bytes, _Entry]:
    """Reads a tree as git stores it, by name: one of opam-repository's has 5,000 entries."""
    pattern = _ENTRIES[len(tree_id)]
    found = pattern.findall(tree)
    entries = {name: (mode, object_id) for mode, name, object_id in found}
    # Of two files with one name, only one would be checked.
    if pattern.sub(b"", tree) or len(entries) != len(found):
        raise git_fault(f"tree {tree_id} is damaged")
    return entries
