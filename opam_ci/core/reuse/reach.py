"""What opam's solver can read when it is asked for a package: the packages within reach.

The answer for a package depends on its own directory and on those of every name that it can come
to need, in all their versions: a new version of any of these can change it. It depends on no
other: a conflict with a package that cannot be in the solution rules nothing out.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from functools import reduce
from operator import or_
from typing import Final, NamedTuple, Self

from opam_ci.core.jobs.build_keys import is_false, is_fixed
from opam_ci.core.model import Frozen
from opam_ci.core.opam.errors import OpamSyntaxError
from opam_ci.core.opam.file import parse
from opam_ci.core.opam.formula import EMPTY, atoms
from opam_ci.core.opam.metadata import read

_OF_REQUESTED_ALONE: Final = frozenset({"with-test", "with-doc", "with-dev-setup"})
"""Variables that are false for a package that is not itself asked for. `post` is not one of them:
what is needed later is in the solution, too."""

REFERENCES_VERSION: Final = 1
"""Raised with each change of what `references` returns: it is stored."""

_DIGEST_BYTES: Final = 16
"""As strong as the SHA-1 by which git names what is digested; there are thousands in a file."""


class References(Frozen):
    """The names that an opam file, or all versions of a package, can come to need.

    Attributes:
        always: Those that are needed, or may be, whoever asks.
        tested: Those beyond, that only count for a package that is itself asked for, such as
            those of its tests.
        changing: Versions whose sources no checksum fixes: what they are built from is not in
            their directories.
    """

    always: frozenset[str] = frozenset()
    tested: frozenset[str] = frozenset()
    changing: frozenset[str] = frozenset()

    def __or__(self, other: Self) -> "References":
        """Returns what either of them names."""
        always = self.always | other.always
        return References(
            always=always,
            tested=(self.tested | other.tested) - always,
            changing=self.changing | other.changing,
        )


def references(package: str, opam: bytes) -> References:
    """Reads the names of an opam file: dependencies, optional ones included.

    Of a file that cannot be read there are none: opam does not see such a package either.

    Args:
        package: Its full name.
        opam: The file.
    """
    try:
        metadata = read(parse(opam))
    except OpamSyntaxError:
        return References()
    always, tested = set[str](), set[str]()
    for field in ("depends", "depopts"):
        for leaf in atoms(metadata.values.get(field, EMPTY)):
            (tested if is_false(leaf.condition, _OF_REQUESTED_ALONE) else always).add(leaf.name)
    return References(
        always=frozenset(always),
        tested=frozenset(tested - always),
        changing=frozenset() if is_fixed(metadata) else frozenset({package}),
    )


class Reachable(Frozen):
    """Digests of what the solver can read, for a whole repository.

    Attributes:
        plain: For a package of each name that is asked for without its tests.
        tested: With its tests, where that is something else.
        dependents: Of some names, for a question for what depends on them.
        changing: Packages whose sources no checksum fixes.
    """

    plain: dict[str, str]
    tested: dict[str, str]
    dependents: dict[str, str]
    changing: frozenset[str] = frozenset()

    def of(self, name: str, *, tests: bool) -> str:
        """Returns the digest for a name; empty for one that the repository does not have."""
        plain = self.plain.get(name, "")
        return self.tested.get(name, plain) if tests else plain


def reachable(
    trees: Mapping[str, str], named: Mapping[str, References], dependents_of: Collection[str]
) -> Reachable:
    """Finds what is within reach of each name of a repository.

    Args:
        trees: The digest of each package's directory, with all its versions, by name.
        named: What its versions name.
        dependents_of: Names for which their dependents are wanted.
    """
    names = sorted(trees)
    places = {name: place for place, name in enumerate(names)}
    within = _within(places, trees, named)
    plain = [each.digest for each in within]
    tested = [
        _joined([reach, *(within[places[each]] for each in named[name].tested if each in places)])
        for name, reach in zip(names, within, strict=True)
    ]
    of_tests = {
        name: tested[place].digest
        for place, name in enumerate(names)
        if tested[place].places != within[place].places
    }
    return Reachable(
        plain=dict(zip(names, plain, strict=True)),
        tested=of_tests,
        dependents={
            name: _digest(
                f"{other} {of_tests.get(other, plain[place])}\n".encode()
                for place, other in enumerate(names)
                if tested[place].places >> places[name] & 1
            )
            for name in sorted(dependents_of)
            if name in places
        },
        changing=frozenset().union(*(named[name].changing for name in names)),
    )


def reach_digest(
    trees: Mapping[str, str], named: Mapping[str, References], asked: Collection[str]
) -> str:
    """Returns the digest of all that the solver can read for some names, their tests included.

    It differs exactly if one of `Reachable.of` does, and is found in a hundredth of the time.

    Args:
        trees: As for `reachable`.
        named: As for `reachable`.
        asked: The names.
    """
    within = {name for name in asked if name in trees}
    new = within | {other for name in within for other in named[name].tested if other in trees}
    while new:
        within |= new
        new = {
            other
            for name in new
            for other in named[name].always
            if other in trees and other not in within
        }
    return _digest(f"{name} {trees[name]}\n".encode() for name in sorted(within))


class _Within(NamedTuple):
    """The names within reach.

    Attributes:
        places: Theirs, as bits of a number.
        digest: Of names and directories. What a directory names follows from its digest, so those
            that are needed at once, each with the digest of what is within its own reach, stand
            for all: there are thirty times less of them.
    """

    places: int
    digest: str


def _within(
    places: Mapping[str, int], trees: Mapping[str, str], named: Mapping[str, References]
) -> list[_Within]:
    """Returns what is within reach of each name."""
    # Importing it takes a quarter of a second, and few processes need it.
    from networkx import DiGraph, strongly_connected_components  # noqa: PLC0415

    names = list(places)
    graph: DiGraph[int] = DiGraph()
    graph.add_nodes_from(range(len(names)))
    graph.add_edges_from(
        (place, places[other])
        for place, name in enumerate(names)
        for other in named[name].always
        if other in places
    )
    found: dict[int, _Within] = {}
    # Each component comes after those that it reaches.
    for component in strongly_connected_components(graph):
        members = sorted(component)
        beyond = {other for place in members for other in graph.successors(place)} - component
        lines = [f"{names[place]} {trees[names[place]]}\n".encode() for place in members]
        own = reduce(or_, (1 << place for place in members))
        reach = _joined([found[place] for place in beyond], own, lines)
        found |= dict.fromkeys(members, reach)
    return [found[place] for place in range(len(names))]


def _joined(others: Collection[_Within], places: int = 0, lines: Iterable[bytes] = ()) -> _Within:
    """Returns what is within reach of some, and further places with their lines."""
    digests = sorted({each.digest for each in others})
    return _Within(
        places=reduce(or_, (each.places for each in others), places),
        digest=_digest([*lines, *(f"{digest}\n".encode() for digest in digests)]),
    )


def _digest(lines: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for line in lines:
        whole.update(line)
    return whole.hexdigest()[: 2 * _DIGEST_BYTES]
