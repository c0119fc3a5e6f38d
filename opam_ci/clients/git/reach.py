"""Reads what is within reach of each package of a tree, for plan keys."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from opam_ci.clients.git.repository import Repository
from opam_ci.core.opam.file import MAX_SIZE
from opam_ci.core.reuse.reach import Reachable, References, reach_digest, reachable, references
from opam_ci.core.submission.admission import is_package

KNOWN: Final = TypeAdapter(dict[str, References])
"""What the versions of a package name, by the id of its directory. To read all opam files of
opam-repository takes ten seconds, those of a pull request none."""

_FEW: Final = 100
"""Directories that are listed by name; all of opam-repository takes 0.15 s."""

_WORTH_KEEPING: Final = 50
"""As many new directories take a tenth of a second to read, and a megabyte to store."""


@dataclass(frozen=True)
class NamedInTree:
    """The packages of a tree, and what each can come to need.

    Attributes:
        trees: Id of each package's directory, by name.
        named: What its versions name.
        is_new: Whether the file with what is known was written anew, with what is in this tree.
    """

    trees: dict[str, str]
    named: dict[str, References]
    is_new: bool

    def reachable(self, changed: Collection[str]) -> Reachable:
        """Finds what is within reach of each package.

        Args:
            changed: Names whose dependents are asked for.
        """
        return reachable(self.trees, self.named, changed)

    def digest(self, asked: Collection[str]) -> str:
        """Returns the digest of what is within reach of some names."""
        return reach_digest(self.trees, self.named, asked)


def read_named(repository: Repository, tree: str, cache: Path) -> NamedInTree:
    """Reads what the packages of a tree name.

    Args:
        repository: The clone.
        tree: Id of the tree.
        cache: File with what is known of an earlier tree, `KNOWN` as JSON; it may be missing.

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
    return NamedInTree(trees, named, is_kept)


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
