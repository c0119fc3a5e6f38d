"""Reads two trees, and decides what the second one does to packages that did not change."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from opam_ci.clients.git.folders import Files, FolderCache
from opam_ci.clients.git.repository import Repository
from opam_ci.core.coinstall.described import Assembled, Described, assemble, describe
from opam_ci.core.coinstall.effect import effect
from opam_ci.core.submission.effect import Effect

_DESCRIPTIONS: Final = TypeAdapter(dict[str, tuple[Described, ...]])


def read_effect(
    repository: Repository, before: str, after: str, releases: Iterable[str], cache: Path
) -> tuple[Effect, bool]:
    """Decides the effect of a change.

    Args:
        repository: The clone.
        before: Id of the tree without it.
        after: Id of the tree with it.
        releases: Releases of OCaml, `5.4`.
        cache: File with descriptions of the packages of an earlier tree; it may be missing.

    Returns:
        That, and whether the file was written anew.

    Raises:
        InfrastructureError: Git fails.
        DumpError: The repository is larger than any real one.
    """
    known = FolderCache(cache, _DESCRIPTIONS, _describe)
    old, new = (_assembled(known.of(repository, tree)) for tree in (before, after))
    return effect(old, new, releases), known.is_written


def read_described(repository: Repository, tree: str, cache: Path) -> Assembled:
    """Reads all packages of one tree.

    Args:
        repository: The clone.
        tree: Its id.
        cache: As in `read_effect`.

    Raises:
        InfrastructureError: Git fails.
        DumpError: The repository is larger than any real one.
    """
    return _assembled(FolderCache(cache, _DESCRIPTIONS, _describe).of(repository, tree))


def _assembled(packages: Mapping[str, tuple[Described, ...]]) -> Assembled:
    return assemble(one for some in packages.values() for one in some)


def _describe(files: Files) -> tuple[Described, ...]:
    found = (describe(package, opam) for package, opam in files)
    return tuple(one for one in found if one is not None)
