"""Dependencies marked `{post}`: opam's solver respects them, its dump lacks them.

They are parsed from the `depends` fields that name `post`, as `opam list --columns` prints them,
and evaluated here. If our evaluation cannot be proved to be opam's, the package is `uncertain`:
the result without `{post}` differs from the dump, or a variable is unknown.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Final

from opam_ci.core.coinstall.universe import Alternative, Atoms, Clause, Clauses, DumpError, Universe
from opam_ci.core.opam import file, version
from opam_ci.core.opam.conditions import package_formula
from opam_ci.core.opam.errors import OpamSyntaxError
from opam_ci.core.opam.formula import (
    And,
    Atom,
    Block,
    Constraint,
    Dependency,
    Empty,
    FAnd,
    FDefined,
    FIdent,
    Filter,
    FNot,
    FOp,
    FOr,
    Formula,
    FString,
    Or,
    leaves,
    truth,
)
from opam_ci.core.opam.readers import BadFormat, Unexpected
from opam_ci.core.opam.values import span_of

SEPARATOR: Final = "|||"
_PHASES: Final = frozenset({"build", "post"})
_SIMPLE: Final = ("arch", "os", "opam-version", "sys-ocaml-")
"""Prefixes of the names of variables whose value is a single word."""

_CLAUSES_LIMIT: Final = 2000
_FORMULA: Final = package_formula(And)


class _UncertainError(Exception):
    """The value of a formula under opam is not certain."""


@dataclass(frozen=True)
class Variables:
    """The variables of opam, as far as they are known.

    Attributes:
        values: Those with a known value.
        defined: All that are defined.
    """

    values: Mapping[str, str]
    defined: frozenset[str]


@dataclass(frozen=True)
class PostDepends:
    """Depends fields with the dependencies that are marked `{post}`.

    Attributes:
        depends: By place; packages without `{post}` are missing.
        uncertain: Packages whose field cannot be evaluated.
    """

    depends: Mapping[int, Clauses]
    uncertain: frozenset[int]


def read_table(table: str) -> dict[str, str]:
    """Parse the printed fields: `package   |||field`, after comments.

    Raises:
        DumpError: A line has another form.
    """
    fields = {}
    for line in table.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        package, separator, field = line.partition(SEPARATOR)
        if not separator:
            raise DumpError(f"not a line of a table: {line[:80]!r}")
        fields[package.strip()] = field
    return fields


def evaluate(
    universe: Universe,
    atoms: Atoms,
    table: Mapping[str, str],
    variables: Variables,
    *,
    with_test: bool,
) -> PostDepends:
    """Evaluate the depends fields of a table."""
    depends = {}
    uncertain = set()
    for package, field in table.items():
        place = universe.index.get(package)
        if place is None:
            continue
        evaluation = _Evaluation(atoms, variables, universe.packages[place], with_test=with_test)
        try:
            formula = _read(field)
            depends[place] = evaluation.agreed(formula, universe.depends[place])
        except _UncertainError:
            uncertain.add(place)
    return PostDepends(depends, frozenset(uncertain))


def _as_sets(clauses: Collection[Clause]) -> set[frozenset[Alternative]]:
    """Convert clauses to a form in which order and repetition do not matter."""
    found = set()
    for clause in clauses:
        by_name: dict[str, frozenset[int]] = {}
        for name, places in clause:
            by_name[name] = by_name.get(name, frozenset()) | places
        found.add(frozenset(by_name.items()))
    return found


@lru_cache(maxsize=1024)  # the versions of a compiler have the same field
def _read(field: str) -> Formula:
    try:
        value = file.parse(f"depends: {field}\n".encode()).value("depends")
        if value is None:
            raise _UncertainError
        formula: Formula = _FORMULA.read(value, span_of(value))
    except (OpamSyntaxError, BadFormat, Unexpected, RecursionError) as error:
        raise _UncertainError from error
    return formula


def read_invariant(atoms: Atoms, text: str) -> Clauses:
    """Parse a switch's invariant as `opam switch invariant` prints it.

    Raises:
        DumpError: It is malformed.
    """
    evaluation = _Evaluation(atoms, Variables({}, frozenset()), ("", ""), with_test=False)
    try:
        return evaluation.all(_read(text.strip()))
    except _UncertainError as error:
        raise DumpError(f"not an invariant of a switch: {text[:80]!r}") from error


def read_variables(listing: str) -> Variables:
    """Parse opam's variables as `opam var` lists them: name, value, and `#` comment."""
    split = [line.split() for line in listing.splitlines() if not line.startswith("<")]
    named = [line for line in split if line and ":" not in line[0]]
    return Variables(
        values={
            line[0]: line[1]
            for line in named
            if line[0].startswith(_SIMPLE) and len(line) > 1 and line[1] != "#"
        },
        defined=frozenset(line[0] for line in named),
    )


class _Evaluation:
    def __init__(
        self, atoms: Atoms, variables: Variables, package: tuple[str, str], *, with_test: bool
    ) -> None:
        self._atoms = atoms
        self._variables = variables
        self._own = dict(zip(("name", "version"), package, strict=True))
        self._flags = {
            "with-test": with_test,
            "with-doc": False,
            "with-dev-setup": False,
            "build": True,
        }

    def all(self, formula: Formula) -> Clauses:
        """Return the conjunctive normal form of a formula without conditions."""
        return tuple(self._cnf(formula, {}))

    def agreed(self, formula: Formula, dumped: Clauses) -> Clauses:
        """Return the conjunctive normal form with `{post}`, if ours without it is opam's."""
        # Only opam knows whether a package is a development version: try both.
        matching = [
            self._cnf(formula, {**self._flags, "dev": dev, "post": True})
            for dev in (False, True)
            if _as_sets(self._cnf(formula, {**self._flags, "dev": dev, "post": False}))
            == _as_sets(dumped)
        ]
        if not matching or any(_as_sets(each) != _as_sets(matching[0]) for each in matching):
            raise _UncertainError
        return tuple(matching[0])

    def _cnf(self, formula: Formula, flags: Mapping[str, bool]) -> list[Clause]:
        match formula:
            case Empty():
                return []
            case Block(formula=inner):
                return self._cnf(inner, flags)
            case And(operands=operands):
                return [clause for part in operands for clause in self._cnf(part, flags)]
            case Or(operands=operands):
                # An alternative whose condition is false is dropped: it is not satisfied.
                parts = [part for each in operands if (part := self._cnf(each, flags))]
                return self._distribute(parts)
            case Atom(value=Dependency() as dependency):
                return self._dependency(dependency, flags)
        raise _UncertainError

    @staticmethod
    def _distribute(parts: Collection[list[Clause]]) -> list[Clause]:
        if not parts:
            return []
        size = 1
        for part in parts:
            size *= len(part)
        if size > _CLAUSES_LIMIT:
            raise _UncertainError
        return [tuple(a for clause in row for a in clause) for row in product(*parts)]

    def _dependency(self, dependency: Dependency, flags: Mapping[str, bool]) -> list[Clause]:
        bounds = self._bounds(dependency.name, dependency.condition, flags)
        if bounds is None:
            return []
        name, every = self._atoms.alternative(dependency.name)
        return [((name, places),) for places in bounds or [every]]

    def _bounds(  # noqa: PLR0911 - one answer a kind of formula
        self, name: str, condition: Formula, flags: Mapping[str, bool]
    ) -> list[frozenset[int]] | None:
        """Evaluate the condition in braces.

        Returns:
            Sets of versions, in all of which the package's must be; None if the condition is
            false, which drops the dependency.
        """
        match condition:
            case Empty():
                return []
            case Block(formula=inner):
                return self._bounds(name, inner, flags)
            case And(operands=operands):
                return self._all_bounds(name, operands, flags)
            case Or(operands=operands):
                found = [self._bounds(name, part, flags) for part in operands]
                some = [part for part in found if part is not None]
                if not some:
                    return None
                return [frozenset().union(*row) for row in product(*some)] if all(some) else []
            case Atom(value=Constraint(op=op, version=bound)):
                return [self._atoms.alternative(name, op, self._text(bound))[1]]
            case Atom(value=value):
                return [] if self._holds(value, flags) else None

    def _all_bounds(
        self, name: str, conditions: Collection[Formula], flags: Mapping[str, bool]
    ) -> list[frozenset[int]] | None:
        unknown: _UncertainError | None = None
        found: list[frozenset[int]] = []
        for condition in conditions:
            try:
                part = self._bounds(name, condition, flags)
            except _UncertainError as error:
                # An unknown condition matters only if all others are true.
                unknown = error
                continue
            if part is None:
                return None
            found += part
        if unknown is not None:
            raise unknown
        return found

    def _text(self, term: Filter) -> str:
        match term:
            case FString(value=text) if "%" not in text:
                return text
            case FIdent(packages=packages, variable=name, converter=None) if packages in {
                (),
                (None,),
            }:
                if name in self._own:
                    return self._own[name]
                if not packages and name in self._variables.values:
                    return self._variables.values[name]
        raise _UncertainError

    def _holds(self, condition: Filter, flags: Mapping[str, bool]) -> bool:
        value = truth(condition, lambda leaf: self._value(leaf, flags))
        if value is None or _negates_a_phase(condition):
            raise _UncertainError
        return value

    def _value(self, leaf: Filter, flags: Mapping[str, bool]) -> bool | None:
        """Return the value of a leaf of a filter, None if it is undefined."""
        match leaf:
            case FIdent(packages=(), variable=name, converter=None):
                return self._flag(name, flags)
            case FDefined(operand=FIdent(packages=(), variable=name)) if name not in flags:
                return name in self._variables.defined
            case FOp(left=left, op=op, right=right):
                return version.satisfies(self._text(left), op, self._text(right))
        raise _UncertainError

    def _flag(self, name: str, flags: Mapping[str, bool]) -> bool | None:
        if name in flags:
            return flags[name]
        if name not in self._variables.defined and name not in {"pinned", "installed"}:
            return None
        raise _UncertainError


def _negates_a_phase(condition: Filter) -> bool:
    match condition:
        case FNot(operand=operand):
            idents = (leaf for leaf in leaves(operand) if isinstance(leaf, FIdent))
            return any(ident.variable in _PHASES for ident in idents)
        case FAnd(operands=operands) | FOr(operands=operands):
            return any(map(_negates_a_phase, operands))
    return False
