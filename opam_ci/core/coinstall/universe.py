"""All packages as opam has them in a switch: its dump `opam config pef-universe`, parsed.

The dump has a paragraph a package, with variables replaced and formulas in conjunctive normal
form (`OpamSwitchState.dump_pef_state` of opam 2.3). Dependencies marked `{post}` are not in it.
"""

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opam_ci.core.opam import version

_ATOM = re.compile(r"(\S+)(?: \((=|!=|<=?|>=?) (\S+)\))?")
_PACKAGES_LIMIT = 200_000
_WORK_LIMIT = 20_000_000
"""Limit of the packages in all alternatives together; the real repository has some 300,000."""

Alternative = tuple[str, frozenset[int]]
"""A package name, and those of its versions that satisfy the constraint."""

Clause = tuple[Alternative, ...]
"""Alternatives, one of which must hold."""

Clauses = tuple[Clause, ...]
"""Clauses, all of which must hold."""


class DumpError(ValueError):
    """opam's output is malformed, or exceeds a limit."""


@dataclass(frozen=True)
class Universe:
    """All packages, each known by its place.

    Attributes:
        packages: Name and version of each.
        index: The place of `name.version`.
        versions: The places of a name's versions, the oldest first.
        available: Those that opam may choose.
        installed: Those that are installed.
        depends: Dependencies of each, without `{post}`.
        depopts: Optional dependencies of each.
        conflicts: Conflicts of each: each atom of each clause.
    """

    packages: Sequence[tuple[str, str]]
    index: Mapping[str, int]
    versions: Mapping[str, Sequence[int]]
    available: frozenset[int]
    installed: frozenset[int]
    depends: Sequence[Clauses]
    depopts: Sequence[Clauses]
    conflicts: Sequence[Clauses]

    def name(self, package: int) -> str:
        """Return `name.version`."""
        return ".".join(self.packages[package])


@dataclass
class Atoms:
    """Parser of constraints on packages; equal ones are parsed once."""

    packages: Sequence[tuple[str, str]]
    versions: Mapping[str, Sequence[int]]
    _known: dict[str, Alternative] = field(default_factory=dict)
    _clauses: dict[str, Clauses] = field(default_factory=dict)
    _ranges: dict[str, dict[object, tuple[int, int]]] = field(default_factory=dict)
    _work: int = 0

    def clauses(self, text: str) -> Clauses:
        """Parse a formula in the format of the dump.

        Raises:
            DumpError: It is malformed.
        """
        if not text:
            return ()
        found = self._clauses.get(text)
        if found is None:
            found = self._clauses[text] = tuple(
                tuple(self._atom(atom) for atom in clause.split(" | "))
                for clause in text.split(" , ")
            )
        return found

    def alternative(self, name: str, op: str | None = None, bound: str = "") -> Alternative:
        """Find the versions of a package that satisfy a constraint."""
        places = self.versions.get(name, ())
        if op is None:
            chosen = places
        else:
            low, high = self._range(name, places, bound)
            parts = {
                "<": (places[:low],),
                "<=": (places[:high],),
                "=": (places[low:high],),
                ">=": (places[low:],),
                ">": (places[high:],),
                "!=": (places[:low], places[high:]),
            }[op]
            chosen = [place for part in parts for place in part]
        self._work += len(chosen)
        if self._work > _WORK_LIMIT:
            raise DumpError("the dump's constraints name too many packages")
        return name, frozenset(chosen)

    def _range(self, name: str, places: Sequence[int], bound: str) -> tuple[int, int]:
        """Find the range of versions that equal a bound, an empty one at its place if none does."""
        ranges = self._ranges.get(name)
        if ranges is None:
            # Most bounds are versions that exist: no search, no comparisons.
            ranges = self._ranges[name] = {}
            for n, place in enumerate(places):
                same = version.canonical(self.packages[place][1])
                ranges[same] = (ranges.get(same, (n, n))[0], n + 1)
        found = ranges.get(version.canonical(bound))
        if found is None:
            low = bisect_left(
                places, version.key(bound), key=lambda place: version.key(self.packages[place][1])
            )
            found = (low, low)
        return found

    def _atom(self, text: str) -> Alternative:
        found = self._known.get(text)
        if found is None:
            match = _ATOM.fullmatch(text)
            if match is None:
                raise DumpError(f"not a constraint on a package: {text[:80]!r}")
            found = self._known[text] = self.alternative(match[1], match[2], match[3] or "")
        return found


def _paragraphs(dump: str) -> list[dict[str, str]]:
    read = []
    for paragraph in dump.split("\n\n"):
        if not paragraph.strip():
            continue
        fields = {}
        for line in paragraph.strip("\n").split("\n"):
            name, colon, value = line.partition(":")
            if not colon:
                raise DumpError(f"not a field: {line[:80]!r}")
            fields[name] = value.strip()
        if not fields.get("package") or not fields.get("version"):
            raise DumpError(f"a paragraph without package or version: {paragraph[:80]!r}")
        read.append(fields)
        if len(read) > _PACKAGES_LIMIT:
            raise DumpError(f"more than {_PACKAGES_LIMIT} packages")
    return read


def parse(dump: str) -> tuple[Universe, Atoms]:
    """Parse a dump.

    Returns:
        The universe, and the parser of constraints on its packages.

    Raises:
        DumpError: It is malformed, or too large.
    """
    fields = _paragraphs(dump)
    if not fields:
        raise DumpError("the dump is empty")
    packages = [(field["package"], field["version"]) for field in fields]
    index = {".".join(package): place for place, package in enumerate(packages)}
    if len(index) != len(packages):
        raise DumpError("a package is in the dump twice")
    versions: dict[str, list[int]] = {}
    for place, (name, _) in enumerate(packages):
        versions.setdefault(name, []).append(place)
    for places in versions.values():
        # The search relies on opam's order, which the dump should have already.
        places.sort(key=lambda place: version.key(packages[place][1]))
    atoms = Atoms(packages, versions)
    if any(field.get("pinned") == "true" for field in fields):
        raise DumpError("a package is pinned")

    def read(name: str) -> list[Clauses]:
        return [atoms.clauses(field.get(name, "")) for field in fields]

    def those(name: str) -> frozenset[int]:
        return frozenset(i for i, field in enumerate(fields) if field.get(name) == "true")

    universe = Universe(
        packages=packages,
        index=index,
        versions=versions,
        available=those("available"),
        installed=those("installed"),
        depends=read("depends"),
        depopts=read("recommends"),
        conflicts=read("conflicts"),
    )
    return universe, atoms
