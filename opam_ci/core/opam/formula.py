"""What dependency formulas and filters mean: the typed values behind the syntax.

A `Filter` is a condition on variables (`{build & os = "linux"}`, `available:`), a
`Formula` combines packages or version constraints. Two values are equal just when opam's
own are: a chain `a & b & c` is one node with its operands, which represents opam's
left-nested pairs, so `(a & b) & c` as a filter equals it and `a & (b & c)` does not.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, overload

from opam_ci.core.opam.nodes import RelopKind

# Filters


@dataclass(frozen=True, slots=True)
class FBool:
    """A literal `true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class FString:
    """A literal string; `%{variable}%` in it is not yet replaced."""

    value: str


@dataclass(frozen=True, slots=True)
class FIdent:
    """A variable, of some packages or of none; `None` among the packages is the own one.

    Attributes:
        packages: `("ocaml",)` for `ocaml:version`, `()` for a global variable.
        variable: Its name.
        converter: The two texts of `variable?yes:no`.
    """

    packages: tuple[str | None, ...]
    variable: str
    converter: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class FOp:
    """A comparison."""

    left: "Filter"
    op: RelopKind
    right: "Filter"


@dataclass(frozen=True, slots=True)
class FNot:
    """`!filter`."""

    operand: "Filter"


@dataclass(frozen=True, slots=True)
class FDefined:
    """`?filter`."""

    operand: "Filter"


@dataclass(frozen=True, slots=True)
class FAnd:
    """`a & b & …`."""

    operands: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class FOr:
    """`a | b | …`."""

    operands: "tuple[Filter, ...]"


Filter = FBool | FString | FIdent | FOp | FNot | FDefined | FAnd | FOr

# Formulas


@dataclass(frozen=True, slots=True)
class Empty:
    """No constraint at all."""


@dataclass(frozen=True, slots=True)
class Atom:
    """A leaf; the type of its value depends on the formula, see `Dependency` and `Constraint`."""

    value: Any


@dataclass(frozen=True, slots=True)
class Block:
    """Parentheses, which opam keeps."""

    formula: "Formula"


@dataclass(frozen=True, slots=True)
class And:
    """`a & b & …`."""

    operands: "tuple[Formula, ...]"


@dataclass(frozen=True, slots=True)
class Or:
    """`a | b | …`."""

    operands: "tuple[Formula, ...]"


Formula = Empty | Atom | Block | And | Or
EMPTY = Empty()


@dataclass(frozen=True, slots=True)
class Constraint:
    """`>= "1.0"`; the version is a filter since it may be a variable."""

    op: RelopKind
    version: Filter


@dataclass(frozen=True, slots=True)
class Dependency:
    """A package and the formula of `Constraint`s and `Filter`s in its braces."""

    name: str
    condition: Formula


_NEGATED: dict[RelopKind, RelopKind] = {
    "=": "!=",
    "!=": "=",
    ">=": "<",
    "<": ">=",
    ">": "<=",
    "<=": ">",
}


def negate_relop(op: RelopKind) -> RelopKind:
    """The comparison that is true when `op` is false."""
    return _NEGATED[op]


@overload
def chain(kind: type[FAnd] | type[FOr], operands: Iterable[Filter]) -> FAnd | FOr: ...
@overload
def chain(kind: type[And] | type[Or], operands: Iterable[Formula]) -> And | Or: ...
def chain(kind: Any, operands: Iterable[Any]) -> Any:
    """Combine two or more operands pair by pair from the left, as opam does."""
    first, *rest = operands
    head = first.operands if isinstance(first, kind) else (first,)
    return kind((*head, *rest))


def join(kind: type[And] | type[Or], formulas: Iterable[Formula]) -> Formula:
    """Combine formulas from the left, without the empty ones."""
    present = [formula for formula in formulas if not isinstance(formula, Empty)]
    if not present:
        return EMPTY
    return present[0] if len(present) == 1 else chain(kind, present)


def atoms(formula: Formula) -> Iterator[Any]:
    """The values of the leaves, from left to right."""
    match formula:
        case Atom(value=value):
            yield value
        case Block(formula=inner):
            yield from atoms(inner)
        case And(operands=operands) | Or(operands=operands):
            for operand in operands:
                yield from atoms(operand)


def negate(formula: Formula, negate_atom: Callable[[Any], Any]) -> Formula:
    """Negate a formula: swap `&` and `|`, and negate each leaf."""
    match formula:
        case Atom(value=value):
            return Atom(negate_atom(value))
        case Block(formula=inner):
            return Block(negate(inner, negate_atom))
        case And(operands=operands):
            return join(Or, [negate(operand, negate_atom) for operand in operands])
        case Or(operands=operands):
            return join(And, [negate(operand, negate_atom) for operand in operands])
    return formula


def alternatives(formula: Formula) -> list[Formula]:
    """The operands of a formula that is read as one disjunction; blocks are opened."""
    match formula:
        case Empty():
            return []
        case Or(operands=operands):
            return [one for operand in operands for one in alternatives(operand)]
        case Block(formula=inner):
            return alternatives(inner)
    return [formula]


def as_disjunction(formula: Formula) -> Formula:
    """Read `&` as `|` throughout; blocks stay. opam does so with `conflicts`."""
    match formula:
        case And(operands=operands) | Or(operands=operands):
            return join(Or, [as_disjunction(operand) for operand in operands])
        case Block(formula=inner):
            return replace(formula, formula=as_disjunction(inner))
    return formula


def as_filter(formula: Formula, of_leaf: Callable[[Any], Filter]) -> Filter:
    """Convert a formula to a filter.

    Args:
        formula: The formula.
        of_leaf: The filter of the value of a leaf.
    """
    match formula:
        case Empty():
            return FBool(value=True)
        case Atom(value=value):
            return of_leaf(value)
        case Block(formula=inner):
            return as_filter(inner, of_leaf)
        case And(operands=operands):
            return chain(FAnd, [as_filter(one, of_leaf) for one in operands])
        case Or(operands=operands):
            return chain(FOr, [as_filter(one, of_leaf) for one in operands])


def truth(condition: Filter, of_leaf: Callable[[Filter], bool | None]) -> bool | None:
    """Evaluate a filter in three-valued logic (Kleene's).

    Args:
        condition: The filter.
        of_leaf: The value of a variable, comparison, text or `?filter`; None if it is undefined.
    """
    match condition:
        case FBool(value=value):
            return value
        case FNot(operand=operand):
            opposite = truth(operand, of_leaf)
            return None if opposite is None else not opposite
        case FAnd(operands=operands) | FOr(operands=operands):
            values = {truth(operand, of_leaf) for operand in operands}
            decides = isinstance(condition, FOr)
            if decides in values:
                return decides
            return None if None in values else not decides
    return of_leaf(condition)


def leaves(condition: Filter) -> Iterator[FBool | FString | FIdent]:
    """The literals and variables of a filter, from left to right."""
    match condition:
        case FNot(operand=operand) | FDefined(operand=operand):
            yield from leaves(operand)
        case FOp(left=left, right=right):
            yield from leaves(left)
            yield from leaves(right)
        case FAnd(operands=operands) | FOr(operands=operands):
            for operand in operands:
                yield from leaves(operand)
        case _:
            yield condition


def filters_of(formula: Formula) -> Iterator[Filter]:
    """All filters in the conditions of a formula of `Dependency`s."""
    for dependency in atoms(formula):
        for leaf in atoms(dependency.condition):
            yield leaf.version if isinstance(leaf, Constraint) else leaf
