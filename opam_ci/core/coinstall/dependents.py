"""Packages that depend on a package: the candidates of opam's three queries."""

from collections import defaultdict
from collections.abc import Collection

from opam_ci.core.coinstall.universe import Clauses, Universe


def accepted(clauses: Clauses, name: str) -> frozenset[int]:
    """Find the versions of a package that satisfy a formula, as `OpamFormula.verifies` does.

    Clauses about this package alone are binding; others name it as one choice among several
    and apply only if none is binding.
    """
    binding: frozenset[int] | None = None
    optional: frozenset[int] = frozenset()
    for clause in clauses:
        mine = [places for other, places in clause if other == name]
        if not mine:
            continue
        places = frozenset().union(*mine)
        if len(mine) == len(clause):
            binding = places if binding is None else binding & places
        else:
            optional |= places
    return optional if binding is None else binding


def direct(universe: Universe, package: int) -> frozenset[int]:
    """Find the packages that depend on a package directly, optionally too."""
    name = universe.packages[package][0]
    return frozenset(
        place
        for place, (depends, depopts) in enumerate(
            zip(universe.depends, universe.depopts, strict=True)
        )
        if package in accepted(depends + depopts, name)
    )


def recursive(universe: Universe, *packages: int) -> frozenset[int]:
    """Find the packages that depend on some packages over any number of steps, and these."""
    naming: dict[str, list[int]] = {}
    for place, clauses in enumerate(universe.depends):
        for name in {name for clause in clauses for name, _ in clause}:
            naming.setdefault(name, []).append(place)
    known: dict[tuple[int, str], frozenset[int]] = {}
    found = set(packages)
    new: Collection[int] = found
    while new:
        by_name: dict[str, set[int]] = {}
        for place in new:
            by_name.setdefault(universe.packages[place][0], set()).add(place)
        reached = set()
        for name, places in by_name.items():
            for place in naming.get(name, ()):
                if place in found or place in reached:
                    continue
                versions = known.get((place, name))
                if versions is None:
                    versions = known[place, name] = accepted(universe.depends[place], name)
                if not places.isdisjoint(versions):
                    reached.add(place)
        found |= reached
        new = reached
    return frozenset(found)


def counts(universe: Universe) -> dict[str, int]:
    """Count for each name how many other names need it directly, in any version."""
    needing: defaultdict[str, set[str]] = defaultdict(set)
    for (name, _), clauses in zip(universe.packages, universe.depends, strict=True):
        for clause in clauses:
            for other, _ in clause:
                needing[other].add(name)
    return {name: len(others - {name}) for name, others in needing.items()}
