"""Evaluating the formulas of opam files as opam's solver does: to conjunctive normal form.

What is not certain to be opam's result is an error, so that nothing rests on a guess.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Final, Generic, Protocol, TypeVar

from opam_ci.core.opam import version
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
    atoms,
    leaves,
    truth,
)

_PHASES: Final = frozenset({"build", "post"})
_CLAUSES_LIMIT: Final = 2000

T = TypeVar("T")
"""A version of a package, however the caller knows it."""

T_co = TypeVar("T_co", covariant=True)

Cnf = list[tuple[tuple[str, frozenset[T]], ...]]
"""Clauses, all of which must hold: of the alternatives of each, one."""


class UncertainError(Exception):
    """The value of a formula under opam is not certain."""


class Versions(Protocol[T_co]):
    """What versions of a package there are."""

    def alternative(
        self, name: str, op: str | None = None, bound: str = ""
    ) -> tuple[str, frozenset[T_co]]:
        """Find the versions of a package that satisfy a constraint."""


@dataclass(frozen=True)
class Variables:
    """The variables of opam, as far as they are known.

    Attributes:
        values: Those with a known value.
        defined: All that are defined.
        all_known: Whether each that is defined has a known value.
    """

    values: Mapping[str, str]
    defined: frozenset[str]
    all_known: bool = False


class Evaluation(Generic[T]):
    """Evaluates the formulas of one package.

    Args:
        versions: Of all packages.
        variables: Those of opam.
        package: The package's name and version.
        with_test: Whether its tests are asked for.
    """

    def __init__(
        self,
        versions: Versions[T],
        variables: Variables,
        package: tuple[str, str],
        *,
        with_test: bool,
    ) -> None:
        self._versions = versions
        self._variables = variables
        self._own = dict(zip(("name", "version"), package, strict=True))
        self._flags = {
            "with-test": with_test,
            "with-doc": False,
            "with-dev-setup": False,
            "build": True,
        }

    def clauses(self, formula: Formula) -> Cnf[T]:
        """Return the conjunctive normal form of a formula without conditions on phases.

        Raises:
            UncertainError: It has one, or another one that cannot be evaluated.
        """
        return self._cnf(formula, {})

    def depends(self, formula: Formula, *, post: bool, dev: bool = False) -> Cnf[T]:
        """Return the conjunctive normal form of dependencies.

        Args:
            formula: The field.
            post: Whether with those that are marked `{post}`.
            dev: Whether the package is a development version.

        Raises:
            UncertainError: It cannot be evaluated.
        """
        return self._cnf(formula, {**self._flags, "dev": dev, "post": post})

    def conflicts(self, formula: Formula) -> list[Cnf[T]]:
        """Return the conflicts of a package: of each, the conditions on the other package.

        One with a condition that cannot be evaluated is left out, as opam does with those that
        depend on what is installed.
        """
        flags = {**self._flags, "dev": False, "post": True}
        found = []
        for each in atoms(formula):
            with suppress(UncertainError):
                found.append(self._dependency(each, flags))
        return [each for each in found if each]

    def is_available(self, condition: Filter) -> bool:
        """Evaluate the field `available`; what is undefined is false.

        Raises:
            UncertainError: It cannot be evaluated.
        """
        return truth(condition, lambda leaf: self._value(leaf, {})) is True

    def _cnf(self, formula: Formula, flags: Mapping[str, bool]) -> Cnf[T]:
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
        raise UncertainError

    @staticmethod
    def _distribute(
        parts: Collection[Cnf[T]],
    ) -> Cnf[T]:
        if not parts:
            return []
        _limit(parts)
        return [tuple(a for clause in row for a in clause) for row in product(*parts)]

    def _dependency(self, dependency: Dependency, flags: Mapping[str, bool]) -> Cnf[T]:
        bounds = self._bounds(dependency.name, dependency.condition, flags)
        if bounds is None:
            return []
        name, every = self._versions.alternative(dependency.name)
        return [((name, places),) for places in bounds or [every]]

    def _bounds(  # noqa: PLR0911 - one answer a kind of formula
        self, name: str, condition: Formula, flags: Mapping[str, bool]
    ) -> list[frozenset[T]] | None:
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
                if not all(some):
                    return []
                _limit(some)
                return [frozenset().union(*row) for row in product(*some)]
            case Atom(value=Constraint(op=op, version=bound)):
                return [self._versions.alternative(name, op, self._text(bound, flags))[1]]
            case Atom(value=value):
                return [] if self._holds(value, flags) else None

    def _all_bounds(
        self, name: str, conditions: Collection[Formula], flags: Mapping[str, bool]
    ) -> list[frozenset[T]] | None:
        unknown: UncertainError | None = None
        found: list[frozenset[T]] = []
        for condition in conditions:
            try:
                part = self._bounds(name, condition, flags)
            except UncertainError as error:
                # An unknown condition matters only if all others are true.
                unknown = error
                continue
            if part is None:
                return None
            found += part
        if unknown is not None:
            raise unknown
        return found

    def _text(self, term: Filter, flags: Mapping[str, bool]) -> str:
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
                if not packages and name in flags:
                    # opam compares truth values as their texts: `with-test = "false"`.
                    return "true" if flags[name] else "false"
        raise UncertainError

    def _holds(self, condition: Filter, flags: Mapping[str, bool]) -> bool:
        value = truth(condition, lambda leaf: self._value(leaf, flags))
        if value is None or _negates_a_phase(condition):
            raise UncertainError
        return value

    def _value(self, leaf: Filter, flags: Mapping[str, bool]) -> bool | None:
        """Return the value of a leaf of a filter, None if it is undefined."""
        match leaf:
            case FIdent(packages=(), variable=name, converter=None):
                return self._flag(name, flags)
            case FDefined(operand=FIdent(packages=(), variable=name)) if name not in flags:
                return name in self._variables.defined
            case FOp(left=left, op=op, right=right):
                if self._is_undefined(left, flags) or self._is_undefined(right, flags):
                    return None
                return version.satisfies(self._text(left, flags), op, self._text(right, flags))
        raise UncertainError

    def _is_undefined(self, term: Filter, flags: Mapping[str, bool]) -> bool:
        match term:
            case FIdent(packages=(), variable=name) if self._variables.all_known:
                return not any(
                    name in known for known in (self._own, self._variables.values, flags)
                )
        return False

    def _flag(self, name: str, flags: Mapping[str, bool]) -> bool | None:
        if name in flags:
            return flags[name]
        if name not in self._variables.defined and name not in {"pinned", "installed"}:
            return None
        raise UncertainError


def _limit(parts: Collection[Collection[object]]) -> None:
    """Refuses a product of too many clauses.

    Raises:
        UncertainError: It has too many.
    """
    if prod(map(len, parts)) > _CLAUSES_LIMIT:
        raise UncertainError


def _negates_a_phase(condition: Filter) -> bool:
    match condition:
        case FNot(operand=operand):
            idents = (leaf for leaf in leaves(operand) if isinstance(leaf, FIdent))
            return any(ident.variable in _PHASES for ident in idents)
        case FAnd(operands=operands) | FOr(operands=operands):
            return any(map(_negates_a_phase, operands))
    return False
