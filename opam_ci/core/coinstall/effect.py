"""What a change does to packages that it does not touch: which ones cannot be installed any more.

A package that a change adds makes no other one uninstallable: nobody needs to choose it. So only
what the change removes or modifies counts, and of the others those that can come to need that.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Final

from opam_ci.core.coinstall import dependents, worlds
from opam_ci.core.coinstall.described import Assembled
from opam_ci.core.coinstall.universe import Clauses
from opam_ci.core.submission.effect import Effect, LostPackage

_CYCLES: Final = 20
"""Cycles that are reported."""

_COMPILER: Final = "ocaml-base-compiler"


def effect(
    before: Assembled,
    after: Assembled,
    releases: Iterable[str],
    report: Callable[[str], None] = lambda _line: None,
) -> Effect:
    """Compares a repository without and with a change.

    Args:
        before: Without it.
        after: With it.
        releases: Releases of OCaml, `5.4`; those of which the repository has no compiler are left
            out.
        report: Receives lines about progress.
    """
    changed = [
        place for place, one in enumerate(before.described) if one != _described(after, one.package)
    ]
    reaching = dependents.recursive(before.universe, *changed)
    decided = []
    lost: defaultdict[str, list[str]] = defaultdict(list)
    last: defaultdict[str, list[str]] = defaultdict(list)
    for release in releases:
        if not (invariant := _invariant(before, release)) or not _invariant(after, release):
            continue
        decided.append(release)
        # What every switch has is needed by all packages.
        needed = {place for _, places in invariant[0] for place in places}
        every = range(len(before.described)) if needed & reaching else reaching
        candidates = {before.universe.name(place) for place in every}
        candidates -= {before.universe.name(place) for place in changed}
        report(f"OCaml {release}: {len(candidates)} packages can come to need what is changed")
        for package in (gone := _lost(before, after, release, candidates, report)):
            lost[package].append(release)
        for name in _without_version(after, release, gone, report):
            last[name].append(release)
    found = [
        LostPackage(
            package=package,
            ocaml=tuple(on),
            last_on=tuple(each for each in on if each in last[package.partition(".")[0]]),
        )
        for package, on in lost.items()
    ]
    return Effect(
        ocaml=tuple(decided),
        lost=tuple(sorted(found, key=lambda one: (not one.last_on, one.package))),
        cycles=tuple(islice(_cycles(before, after), _CYCLES)),
        left_out=sum(not one.certain for one in after.described),
    )


def _described(repository: Assembled, package: str) -> object:
    place = repository.universe.index.get(package)
    return None if place is None else repository.described[place]


def _invariant(repository: Assembled, release: str) -> Clauses:
    """Returns the invariant of a switch with a release of OCaml; empty without a compiler."""
    universe = repository.universe
    series, tilde, _ = release.partition("~")
    compilers = frozenset(
        place
        for place in universe.versions.get(_COMPILER, ())
        if place in universe.available
        and _is_of(universe.packages[place][1], series, release if tilde else "")
    )
    return (((_COMPILER, compilers),),) if compilers else ()


def _is_of(version: str, series: str, prerelease: str) -> bool:
    if prerelease:
        return version.replace(f"{series}.0~", f"{series}~") == prerelease
    return f"{version}.".startswith(f"{series}.") and "~" not in version


def _installable(
    repository: Assembled, release: str, packages: Collection[str], report: Callable[[str], None]
) -> set[str]:
    universe = repository.universe
    places = frozenset(
        place
        for package in packages
        if (place := universe.index.get(package)) is not None and place in universe.available
    )
    problem = worlds.Problem(
        universe=universe,
        depends=universe.depends,
        uncertain=frozenset(),
        package=None,
        invariant=_invariant(repository, release),
        questions=[places],
    )
    return {universe.name(place) for place in worlds.coinstallable(problem, report)[0]}


def _lost(
    before: Assembled,
    after: Assembled,
    release: str,
    candidates: Collection[str],
    report: Callable[[str], None],
) -> list[str]:
    """Returns those of some packages that could be installed, and cannot be any more."""
    available = {
        package
        for package in candidates
        if (place := after.universe.index.get(package)) in after.universe.available
        and place is not None
    }
    if not available:
        return []
    refused = available - _installable(after, release, available, report)
    return sorted(_installable(before, release, refused, report)) if refused else []


def _without_version(
    after: Assembled,
    release: str,
    lost: Collection[str],
    report: Callable[[str], None],
) -> set[str]:
    """Returns names of lost packages of which no other version can be installed."""
    names = {package.partition(".")[0] for package in lost}
    universe = after.universe
    others = {universe.name(place) for name in names for place in universe.versions[name]}
    others -= set(lost)
    found = _installable(after, release, others, report) if others else set()
    return names - {package.partition(".")[0] for package in found}


def _cycles(before: Assembled, after: Assembled) -> Iterable[tuple[str, ...]]:
    """Yields the cycles of packages of the change that need themselves, and did not before."""
    naming: dict[str, list[int]] | None = None
    for place, one in enumerate(after.described):
        old = before.universe.index.get(one.package)
        if old is not None and before.described[old] == one:
            continue
        naming = _naming(after) if naming is None else naming
        cycle = _cycle(after, place, naming)
        if cycle and (old is None or not _cycle(before, old, _naming(before))):
            yield cycle


def _naming(repository: Assembled) -> dict[str, list[int]]:
    naming: defaultdict[str, list[int]] = defaultdict(list)
    for place, clauses in enumerate(repository.built_with):
        for name in {name for clause in clauses for name, _ in clause}:
            naming[name].append(place)
    return naming


def _cycle(
    repository: Assembled, package: int, naming: dict[str, list[int]]
) -> tuple[str, ...] | None:
    """Returns the way on which a package needs itself whatever is chosen, None if it does not.

    A package leads there if one of its clauses has alternatives that lead there alone: other
    versions of the name are no alternative, since one of it is there already.
    """
    universe = repository.universe
    others = frozenset(universe.versions[universe.packages[package][0]]) - {package}
    possible = universe.available - others
    leading: dict[int, int] = {}
    leads = {package}

    def next_of(place: int, name: str) -> int | None:
        for clause in repository.built_with[place]:
            if any(name == each for each, _ in clause):
                choices = frozenset().union(*(places for _, places in clause)) & possible
                # What the package itself satisfies is no dependency.
                if choices and choices <= leads and place not in choices:
                    return min(choices)
        return None

    todo = [package]
    while todo:
        name = universe.packages[todo.pop()][0]
        for place in naming.get(name, ()):
            if place in leading or place not in possible:
                continue
            if (found := next_of(place, name)) is not None:
                leading[place] = found
                leads.add(place)
                todo.append(place)
        if package in leading:
            return _way(repository, package, leading)
    return None


def _way(repository: Assembled, package: int, leading: dict[int, int]) -> tuple[str, ...]:
    way = [package, leading[package]]
    while way[-1] != package:
        way.append(leading[way[-1]])
    return tuple(map(repository.universe.name, way))
