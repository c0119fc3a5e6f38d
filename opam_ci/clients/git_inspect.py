"""A first look at what a head brings, before git merges, compares or exports it.

Git's own comparisons go as deep and as far as a hostile tree does: some thousand nested folders
end them, and a few trees that name one another make millions of paths. This one stops at the
limits of `core/admission.py`.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from opam_ci.clients.git import Repository
from opam_ci.core.admission import MAX_DEPTH, MAX_TREE_BYTES, refusal, too_large

_FOLDER: Final = 0o040000


class _Entry(NamedTuple):
    """A file or folder in a tree: its mode and the id of its object."""

    mode: int
    object_id: str


class _Folder(NamedTuple):
    """A folder that differs: its path, its tree before (None if there was none), its tree now."""

    path: str
    old: str | None
    new: str


def inspect(repository: Repository, old_tree: str, new_tree: str) -> str | None:
    """Looks at each file that a tree has and another one lacks, or has with another content.

    Args:
        repository: The clone.
        old_tree: Id of the tree from which the head started.
        new_tree: Id of the head's tree.

    Returns:
        Why the change is refused, None if nothing speaks against it.

    Raises:
        InfrastructureError: Git fails.
    """
    return _Inspection(repository).run(old_tree, new_tree)


class _Inspection:
    """What was found so far, level by level of folders."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._tree_bytes = 0
        self._seen = 0
        self._blobs: list[str] = []
        self._below: list[_Folder] = []

    def run(self, old_tree: str, new_tree: str) -> str | None:
        """Returns why the change is refused, None if nothing speaks against it."""
        self._below = [_Folder("", old_tree, new_tree)]
        while self._below:
            if (wrong := self._look_at_level()) is not None:
                return wrong
        ids = sorted(set(self._blobs))
        sizes = dict(zip(ids, self._repository.sizes(ids), strict=True))
        return too_large(self._seen, sum(sizes[object_id] for object_id in self._blobs))

    def _look_at_level(self) -> str | None:
        level, self._below = self._below, []
        ids = sorted({tree for folder in level for tree in (folder.old, folder.new) if tree})
        self._tree_bytes += sum(self._repository.sizes(ids))
        if self._tree_bytes > MAX_TREE_BYTES:
            return f"Too much is changed (over {MAX_TREE_BYTES} bytes of git trees)"
        trees = dict(zip(ids, self._repository.objects(ids), strict=True))
        for folder in level:
            old = dict(_entries(trees[folder.old], len(folder.old) // 2)) if folder.old else {}
            for name, entry in _entries(trees[folder.new], len(folder.new) // 2):
                before = old.get(name)
                if entry != before:
                    wrong = self._look_at(f"{folder.path}{name}", before, entry)
                    if wrong is not None:
                        return wrong
        return None

    def _look_at(self, path: str, before: _Entry | None, now: _Entry) -> str | None:
        self._seen += 1
        if now.mode == _FOLDER:
            known = before.object_id if before is not None and before.mode == _FOLDER else None
            # What is in it counts, and not the folder: it may differ by a deletion.
            if path.count("/") >= MAX_DEPTH and known is None:
                return refusal(path, "100644")
            self._below.append(_Folder(f"{path}/", known, now.object_id))
        elif (wrong := refusal(path, f"{now.mode:o}")) is not None:
            return wrong
        elif path.startswith("packages/"):
            self._blobs.append(now.object_id)
        return too_large(self._seen, 0)


def _entries(tree: bytes, id_bytes: int) -> Iterator[tuple[str, _Entry]]:
    """Reads a tree as git stores it: `MODE NAME`, a NUL and the bytes of an id, again and again."""
    position = 0
    while position < len(tree):
        end = tree.index(b"\0", position)
        mode, _, name = tree[position:end].partition(b" ")
        position = end + 1 + id_bytes
        yield (
            name.decode("utf-8", "surrogateescape"),
            _Entry(int(mode, 8), tree[end + 1 : position].hex()),
        )
