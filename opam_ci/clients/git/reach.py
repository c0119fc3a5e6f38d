"""Reads what is within reach of each package of a tree, for plan keys."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from opam_ci.clients.git.folders import Files, FolderCache
from opam_ci.clients.git.repository import Repository
from opam_ci.core.reuse.reach import Reachable, References, reach_digest, reachable, references

KNOWN: Final = TypeAdapter(dict[str, References])
"""What the versions of a package name, by the id of its directory."""


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
    folders = repository.folders(tree, "packages")
    known = FolderCache(cache, KNOWN, _references)
    named = known.of(repository, tree, folders)
    return NamedInTree(folders, named, known.is_written)


def _references(files: Files) -> References:
    return reduce(or_, (references(package, opam) for package, opam in files), References())
