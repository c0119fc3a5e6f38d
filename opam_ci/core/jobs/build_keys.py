"""Keys for a cache of compiled packages.

A key covers all that a package is built from when it is built in a root that has just its
own dependencies: its directory in the repository with the checksums of its sources, the keys
of its dependencies, and the environment that all of them share. Two packages with the same
key are the same build.
"""

import hashlib
import json
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Final

from opam_ci.core.model import Frozen
from opam_ci.core.opam.errors import OpamSyntaxError
from opam_ci.core.opam.file import parse
from opam_ci.core.opam.formula import (
    EMPTY,
    Constraint,
    FBool,
    FIdent,
    Filter,
    Formula,
    as_filter,
    atoms,
    truth,
)
from opam_ci.core.opam.metadata import Opam, read
from opam_ci.core.opam.sections import UrlSection

KEY_VERSION: Final = 2
"""Raised whenever the way of building for the cache, or what an entry holds, changes."""

_UNSET: Final = frozenset({"with-test", "with-doc", "with-dev-setup", "dev", "post"})
"""Variables that are false for a dependency. `post` is one that is needed only later."""

_UNFIXED: Final = frozenset({"git", "hg", "darcs"})
"""Kinds of URLs that opam does not check against a checksum."""

PackageFiles = Mapping[str, bytes]
"""A package's directory in the repository: `opam`, and `files/…`."""


class CachedBuild(Frozen):
    """A dependency whose build can be cached.

    Attributes:
        package: Full name.
        key: Of its build, 64 hex digits.
        needs: All packages of the solution that it needs, through others too, in an order
            in which they can be installed.
        plain: Whether neither it nor any of these names system packages: it is then built
            without those that apt installed for others of the solution, so that jobs with
            different ones share it.
    """

    package: str
    key: str
    needs: tuple[str, ...]
    plain: bool


def cached_builds(
    solution: Mapping[str, PackageFiles], surroundings: str, system: str = ""
) -> tuple[CachedBuild, ...]:
    """Find the packages of a solution whose builds can be cached, and their keys.

    Left out are packages whose sources are not fixed by a checksum, those whose files cannot
    be read, those that need one another, and all that need one of these.

    Args:
        solution: The files of each package that the solution installs.
        surroundings: Everything else that every build depends on, as one text.
        system: The system packages that are there for packages that are not plain.

    Returns:
        In an order in which they can be installed.
    """
    names = {package.partition(".")[0]: package for package in solution}
    metadata = {package: _metadata(files) for package, files in solution.items()}
    direct = {
        package: sorted(
            names[name] for name in _needed(opam) if name in names and names[name] != package
        )
        if opam is not None
        else []
        for package, opam in metadata.items()
    }
    done: dict[str, CachedBuild] = {}
    for package in _in_order(direct):
        opam = metadata[package]
        needs = direct[package]
        if opam is None or not is_fixed(opam) or any(need not in done for need in needs):
            continue
        # Indirect ones first, so that each comes after what it needs.
        closure = dict.fromkeys(one for need in needs for one in (*done[need].needs, need))
        plain = b"depexts" not in solution[package]["opam"] and all(
            done[need].plain for need in closure
        )
        parts = [
            KEY_VERSION,
            surroundings,
            None if plain else system,
            package,
            {path: _digest(data) for path, data in solution[package].items()},
            [done[need].key for need in needs],
        ]
        key = _digest(json.dumps(parts, sort_keys=True).encode())
        done[package] = CachedBuild(package=package, key=key, needs=tuple(closure), plain=plain)
    return tuple(done.values())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _metadata(files: PackageFiles) -> Opam | None:
    try:
        opam = read(parse(files["opam"]))
    except (KeyError, OpamSyntaxError):
        return None
    # What opam drops for an error could have named a dependency.
    return None if opam.errors else opam


def has_checksums(opam: bytes) -> bool:
    """Whether every source of an opam file has a checksum; those in version control need none.

    True for a file that cannot be read.
    """
    metadata = _metadata({"opam": opam})
    return metadata is None or all(
        source.checksums or source.url.backend in _UNFIXED for source in _sources(metadata)
    )


def is_fixed(opam: Opam) -> bool:
    """Whether a checksum fixes every source of an opam file."""
    return all(source.checksums and source.url.backend not in _UNFIXED for source in _sources(opam))


def fixed_sources(opam: bytes) -> tuple[UrlSection, ...] | None:
    """Returns the sources of an opam file; None unless a checksum fixes each of them.

    None of a file that cannot be read, too. Takes 1.5 ms.
    """
    metadata = _metadata({"opam": opam})
    return tuple(_sources(metadata)) if metadata is not None and is_fixed(metadata) else None


def _sources(opam: Opam) -> list[UrlSection]:
    sources = [source for _, source in opam.values.get("extra-sources") or ()]
    if opam.values.get("url") is not None:
        sources.append(opam.values["url"])
    return sources


def _needed(opam: Opam) -> set[str]:
    """Names in `depends` and `depopts` whose filter is not false for a dependency.

    Those that are in the solution are installed before the package is built, as opam does it.
    That is harmless for a dependency that its filter rules out for another reason.
    """
    return {
        leaf.name
        for field in ("depends", "depopts")
        for leaf in atoms(opam.values.get(field, EMPTY))
        if not is_false(leaf.condition, _UNSET)
    }


def is_false(condition: Formula, unset: frozenset[str]) -> bool:
    """Whether a condition is false whatever versions and the platform are.

    Args:
        condition: Of a dependency.
        unset: Variables that are false.
    """

    def value(leaf: Filter) -> bool | None:
        match leaf:
            case FIdent(packages=(), variable=variable, converter=None) if variable in unset:
                return False
        return None

    filters = as_filter(
        condition, lambda leaf: FBool(value=True) if isinstance(leaf, Constraint) else leaf
    )
    return truth(filters, value) is False


def _in_order(direct: Mapping[str, list[str]]) -> list[str]:
    """Sort so that each package comes after what it needs; without those in a cycle."""
    remaining = {package: set(needs) for package, needs in direct.items()}
    while True:
        # The same solution gives the same order everywhere.
        sorter = TopologicalSorter({one: sorted(remaining[one]) for one in sorted(remaining)})
        try:
            return list(sorter.static_order())
        except CycleError as error:
            for package in set(error.args[1]):
                remaining.pop(package, None)
            for needs in remaining.values():
                needs.intersection_update(remaining)
