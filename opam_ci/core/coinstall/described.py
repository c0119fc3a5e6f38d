"""Packages as opam's solver has them, made from opam files alone: no opam, no image, no switch.

`describe` reads one file into texts that can be kept, `assemble` makes a universe of many. For all
of opam-repository the result is that of `opam config pef-universe`: `tests/real/test_effect.py`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from opam_ci.core.coinstall.dependents import accepted
from opam_ci.core.coinstall.evaluation import Cnf, Evaluation, UncertainError, Variables
from opam_ci.core.coinstall.universe import Atoms, Clauses, Universe
from opam_ci.core.model import Frozen
from opam_ci.core.opam import version
from opam_ci.core.opam.errors import OpamSyntaxError
from opam_ci.core.opam.file import parse
from opam_ci.core.opam.formula import EMPTY
from opam_ci.core.opam.metadata import Opam, read

DESCRIPTION_VERSION: Final = 1
"""Raised with each change of what `describe` returns: it is stored."""

_VALUES: Final = {
    "arch": "x86_64",
    "make": "make",
    "opam-version": "2.5.1",
    "os": "linux",
    "os-distribution": "debian",
    "os-family": "debian",
    "os-version": "13",
}
_SIZE_LIMIT: Final = 200_000
"""Characters of a description. The longest one of opam-repository has 20,000; normal forms can be
far longer than what they are made of."""

_LINUX: Final = Variables(_VALUES, frozenset(_VALUES), all_known=True)
"""opam's variables on the platform for which packages are described: the one for which nearly all
packages are available. There is no OCaml of the system's."""


class Described(Frozen):
    """What the solver reads of a package, formulas as texts in the format of opam's dump.

    Attributes:
        package: Its full name.
        available: Whether opam may choose it.
        depends: Dependencies, in conjunctive normal form.
        post: The same with those marked `{post}`; None if there are none of these.
        conflicts: Conditions on other packages, all of which such a package meets.
        classes: Its conflict classes.
        certain: Whether all of it could be evaluated.
    """

    package: str
    available: bool = True
    depends: str = ""
    post: str | None = None
    conflicts: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    certain: bool = True

    @property
    def size(self) -> int:
        """Length of its texts."""
        return sum(map(len, (self.depends, self.post or "", *self.conflicts, *self.classes)))


@dataclass(frozen=True)
class Assembled:
    """All packages of a repository.

    Attributes:
        universe: Dependencies with those marked `{post}`; no package is installed.
        built_with: Dependencies of each package without these: what is installed before it.
        described: The description of each package, by its place.
    """

    universe: Universe
    built_with: Sequence[Clauses]
    described: Sequence[Described]


def describe(package: str, opam: bytes) -> Described | None:
    """Reads an opam file; None for one that opam cannot read: it has no such package either.

    Args:
        package: The full name.
        opam: The file.
    """
    try:
        metadata = read(parse(opam))
    except OpamSyntaxError:
        return None
    try:
        found = _evaluated(package, metadata)
    except UncertainError:
        found = None
    if found is None or found.size > _SIZE_LIMIT:
        return Described(package=package, available=False, certain=False)
    return found


def _evaluated(package: str, metadata: Opam) -> Described:
    name, _, number = package.partition(".")
    evaluation = Evaluation(_Texts(), _LINUX, (name, number), with_test=False)
    depends = metadata.values.get("depends", EMPTY)
    plain = _text(evaluation.depends(depends, post=False))
    post = _text(evaluation.depends(depends, post=True))
    conflicts = evaluation.conflicts(metadata.values.get("conflicts", EMPTY))
    return Described(
        package=package,
        available=evaluation.is_available(metadata.available),
        depends=plain,
        post=None if post == plain else post,
        conflicts=tuple(map(_text, conflicts)),
        classes=tuple(metadata.values.get("conflict-class", ())),
    )


class _Texts:
    """Constraints as they are written in a dump: which versions there are is not known yet."""

    def alternative(
        self, name: str, op: str | None = None, bound: str = ""
    ) -> tuple[str, frozenset[str]]:
        if op is None:
            return name, frozenset({name})
        if not bound or bound.split() != [bound] or ")" in bound:
            raise UncertainError
        return name, frozenset({f"{name} ({op} {bound})"})


def _text(cnf: Cnf[str]) -> str:
    return " , ".join(
        " | ".join(atom for _, atoms in clause for atom in sorted(atoms)) for clause in cnf
    )


def assemble(described: Iterable[Described]) -> Assembled:
    """Makes a universe of the packages of a repository.

    Of versions that opam considers equal, the first by name is taken.

    Raises:
        DumpError: A limit is exceeded.
    """
    known: dict[tuple[str, object], Described] = {}
    for one in sorted(described, key=lambda one: one.package):
        name, _, number = one.package.partition(".")
        known.setdefault((name, version.canonical(number)), one)
    ordered = tuple(known.values())
    packages = [tuple(one.package.split(".", 1)) for one in ordered]
    pairs = [(pair[0], pair[1]) for pair in packages]
    versions: dict[str, list[int]] = {}
    for place, (name, _) in enumerate(pairs):
        versions.setdefault(name, []).append(place)
    for places in versions.values():
        places.sort(key=lambda place: version.key(pairs[place][1]))
    atoms = Atoms(pairs, versions)
    built_with = [atoms.clauses(one.depends) for one in ordered]
    universe = Universe(
        packages=pairs,
        index={one.package: place for place, one in enumerate(ordered)},
        versions=versions,
        available=frozenset(place for place, one in enumerate(ordered) if one.available),
        installed=frozenset(),
        depends=[
            plain if one.post is None else atoms.clauses(one.post)
            for one, plain in zip(ordered, built_with, strict=True)
        ],
        depopts=[()] * len(ordered),
        conflicts=_conflicts(ordered, atoms),
    )
    return Assembled(universe, built_with, ordered)


def _conflicts(described: Sequence[Described], atoms: Atoms) -> list[Clauses]:
    members: defaultdict[str, defaultdict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for place, one in enumerate(described):
        for group in one.classes:
            members[group][one.package.partition(".")[0]].add(place)
    of_class = {
        group: [(name, frozenset(places)) for name, places in some.items()]
        for group, some in members.items()
    }
    found: list[Clauses] = []
    for one in described:
        alternatives = [each for group in one.classes for each in of_class[group]]
        for text in one.conflicts:
            clauses = atoms.clauses(text)
            (name, places), *rest = (each for clause in clauses for each in clause)
            alternatives.append((name, accepted(clauses, name) if rest else places))
        found.append(tuple((each,) for each in alternatives))
    return found
