"""Reads what is within reach of each package of a tree, for plan keys."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from opam_ci.clients.git.repository import Repository
from opam_ci.core.opam.file import MAX_SIZE
from opam_ci.core.reuse.reach import Reachable, References, reachable, references
from opam_ci.core.submission.admission import is_package

KNOWN: Final = TypeAdapter(dict[str, References])
"""What the versions of a package name, by the id of its directory. To read all opam files of
opam-repository takes ten seconds, those of a pull request none."""

_FEW: Final = 100
"""Directories that are listed by name; all of opam-repository takes 0.15 s."""

_WORTH_KEEPING: Final = 50
"""As many new directories take a tenth of a second to read, and a megabyte to store."""


def read_reachable(
    repository: Repository, tree: str, changed: Collection[str], cache: Path
) -> tuple[Reachable, bool]:
    """Finds what is within reach of each package.

    Args:
        repository: The clone.
        tree: Id of the tree.
        changed: Names whose dependents are asked for.
        cache: File with what is known of an earlier tree, `KNOWN` as JSON; it may be missing.

    Returns:
        That, and whether the file was written anew, with what is known of this tree.

    Raises:
        InfrastructureError: Git fails.
    """
    trees, named, is_kept = read_references(repository, tree, cache)
    return reachable(trees, named, changed), is_kept


def read_references(
    repository: Repository, tree: str, cache: Path
) -> tuple[dict[str, str], dict[str, References], bool]:
    """Reads what the versions of each package name.

    Args:
        repository: The clone.
        tree: Id of the tree.
        cache: As for `read_reachable`.

    Returns:
        The id of each package's directory, by its name, what its versions name, and whether the
        file was written anew.

    Raises:
        InfrastructureError: Git fails.
    """
    trees = repository.folders(tree, "packages")
    try:
        known = KNOWN.validate_json(cache.read_bytes())
    except (FileNotFoundError, ValidationError):
        known = {}
    new = {name for name, folder in trees.items() if folder not in known}
    found = _read(repository, tree, new) if new else {}
    named = {
        name: found.get(name, References()) if name in new else known[folder]
        for name, folder in trees.items()
    }
    is_kept = len(new) >= _WORTH_KEEPING
    if is_kept:
        cache.write_bytes(KNOWN.dump_json({trees[name]: named[name] for name in trees}))
    return trees, named, is_kept


def _read(repository: Repository, tree: str, names: Collection[str]) -> dict[str, References]:
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
    found: dict[str, References] = {}
    for entry, opam in zip(entries, contents, strict=True):
        _, name, package, _ = entry.path.split("/")
        found[name] = found.get(name, References()) | references(package, opam)
    return found
