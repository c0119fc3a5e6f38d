"""The analysis of a change in a clone: `core/submission/analysis.py` fed with git objects.

    with Repository.open(path) as repository:
        result = analyse(repository, base, head)

Blocks; run it in a thread where an event loop waits.
"""

from typing import Final

from opam_ci.clients.git.inspect import inspect
from opam_ci.clients.git.repository import Repository
from opam_ci.core.errors import UsageError
from opam_ci.core.opam.file import MAX_SIZE
from opam_ci.core.submission import analysis
from opam_ci.core.submission.admission import DEFAULT_LIMITS, ChangeLimits, too_many_packages
from opam_ci.core.submission.change import Content, FileChange, Oversized
from opam_ci.core.submission.result import Analysis

_REGULAR: Final = ("100644", "100755")


def analyse(
    repository: Repository, base: str, head: str, limits: ChangeLimits = DEFAULT_LIMITS
) -> Analysis:
    """Analyse the merge of two commits, given by their ids.

    Args:
        repository: The clone.
        base: Commit into which the head is merged.
        head: The head.
        limits: How much the head may add and modify.

    Raises:
        UsageError: The base is not an opam repository, or a shallow clone cannot merge.
        InfrastructureError: Git fails.
    """
    repository.require_packages(base)
    # What the head itself changes: the base may have moved on, or be behind.
    fork = repository.merge_base(base, head) or base
    trees = (repository.tree_of(fork), repository.tree_of(head))
    if (refused := inspect(repository, *trees, limits)) is not None:
        return Analysis(failure=refused)
    merged = repository.merge(base, head)
    if merged.tree is None:
        return analysis.conflict()
    return analyse_trees(repository, repository.tree_of(base), merged.tree)


def analyse_merge(
    repository: Repository, merge: str, limits: ChangeLimits = DEFAULT_LIMITS
) -> Analysis:
    """Analyse the change of a merge commit to its first parent.

    Args:
        repository: The clone.
        merge: The merge commit.
        limits: How much it may add and modify.

    Raises:
        UsageError: It is not a merge, or its first parent is not an opam repository.
        InfrastructureError: Git fails.
    """
    parents = repository.parents(merge)
    if not parents:
        raise UsageError(f"commit {merge[:12]} is not a merge: it has no parents")
    base = parents[0]
    repository.require_packages(base)
    trees = (repository.tree_of(base), repository.tree_of(merge))
    if (refused := inspect(repository, *trees, limits)) is not None:
        return Analysis(failure=refused)
    return analyse_trees(repository, *trees)


def analyse_trees(repository: Repository, old_tree: str, new_tree: str) -> Analysis:
    """Analyse the difference of two trees, given by their ids."""
    changes = repository.changes(old_tree, new_tree)
    if (refused := too_many_packages(changes)) is not None:
        return Analysis(failure=refused, merge_tree=new_tree)
    trees = _GitTrees(repository, old_tree, new_tree, changes)
    return analysis.analyse(changes, trees, merge_tree=new_tree)


class _GitTrees:
    """The opam files that a change touches, fetched from git at once."""

    def __init__(
        self, repository: Repository, old_tree: str, new_tree: str, changes: list[FileChange]
    ) -> None:
        self._repository = repository
        self._old_tree = old_tree
        self._new_tree = new_tree
        opam_files = [change for change in changes if change.path.endswith("/opam")]
        self._new = {change.path: change for change in opam_files}
        wanted = [change.old_id for change in opam_files if _was_regular(change)]
        wanted += [change.new_id for change in opam_files if change.new_mode in _REGULAR]
        self._contents = _contents(repository, sorted(set(wanted)))

    def old(self, change: FileChange) -> Content:
        if _was_regular(change):
            return self._contents[change.old_id]
        if not change.was_at_path:
            return None
        return self._repository.read(self._old_tree, change.path)

    def new(self, path: str) -> Content:
        change = self._new.get(path)
        if change is not None and change.new_mode in _REGULAR:
            return self._contents[change.new_id]
        return None if change is not None else _whole(self._repository, self._new_tree, path)

    def had(self, path: str) -> bool:
        return self._repository.exists(self._old_tree, path)


def _was_regular(change: FileChange) -> bool:
    return change.was_at_path and change.old_mode in _REGULAR


def _whole(repository: Repository, tree: str, path: str) -> Content:
    content = repository.read(tree, path)
    return Oversized(len(content)) if content is not None and len(content) > MAX_SIZE else content


def _contents(repository: Repository, ids: list[str]) -> dict[str, Content]:
    sizes = dict(zip(ids, repository.sizes(ids), strict=True))
    small = [object_id for object_id, size in sizes.items() if size <= MAX_SIZE]
    read = repository.objects(small, [sizes[object_id] for object_id in small])
    contents: dict[str, Content] = dict(zip(small, read, strict=True))
    for object_id, size in sizes.items():
        contents.setdefault(object_id, Oversized(size))
    return contents
