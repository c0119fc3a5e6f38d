"""Readers of filters, version constraints and package formulas."""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from opam_ci.core.opam.errors import OcamlFailure
from opam_ci.core.opam.formula import (
    And,
    Atom,
    Block,
    Constraint,
    Dependency,
    FAnd,
    FBool,
    FDefined,
    FIdent,
    Filter,
    FNot,
    FOp,
    FOr,
    Formula,
    FString,
    Or,
    chain,
    join,
    negate,
    negate_relop,
)
from opam_ci.core.opam.nodes import (
    Bool,
    Group,
    Ident,
    Int,
    Logop,
    Option,
    Pfxop,
    PrefixRelop,
    Relop,
    String,
    Value,
)
from opam_ci.core.opam.package import check_name, check_version, quote
from opam_ci.core.opam.readers import BadFormat, Reader, Span, Unexpected, of_text, optional
from opam_ci.core.opam.values import (
    IDENT,
    LIST,
    PACKAGE_NAME,
    SIMPLE_ARG,
    STRING,
    list_of,
    option_of,
    span_of,
)

#: `%%`, `%{variable}%`, or `%{variable` that is not closed, as opam's OpamFilter has it.
INTERPOLATION: Final = re.compile(r"%%|%\{((?:[^}\n]|\}(?:[^%\n]|\Z))*)(\}%)?")

# Variables


def variable(text: str, *, in_string: bool = False) -> FIdent:
    """Read `variable`, `package:variable`, `a+b:variable` or `package:variable?yes:no`.

    Args:
        text: The text.
        in_string: Whether it was in `%{…}%`, where `?package:variable` is a hack of opam 2.2 for
            packages with `+` in their names.

    Raises:
        OcamlFailure: A package has an impossible name.
    """
    before, colon, last = text.rpartition(":")
    if not colon:
        return FIdent((), last)
    front, question, if_true = before.rpartition("?")
    if not question:
        return FIdent(_packages(before), last)
    if not front and in_string:
        package, colon, name = if_true.rpartition(":")
        return FIdent((check_name(package),), name) if colon else FIdent((), last)
    packages, colon, name = front.rpartition(":")
    return FIdent(_packages(packages) if colon else (), name, (if_true, last))


def _packages(text: str) -> tuple[str | None, ...]:
    return tuple(None if name == "_" else check_name(name) for name in text.split("+") if name)


def interpolated(text: str) -> list[FIdent]:
    """The variables in `%{…}%` of a text.

    Raises:
        OcamlFailure: One has an impossible package name.
    """
    if "%{" not in text:
        return []
    return [
        variable(match[1], in_string=True) for match in INTERPOLATION.finditer(text) if match[2]
    ]


FILTER_IDENT: Final = IDENT.then(of_text("filter-ident", variable))

# Filters


def _filter(values: Sequence[Value], span: Span) -> Filter:
    match values:
        case []:
            return FBool(value=True)
        case [Group(items=[inner])] | [inner] if not _is_wrong_group(values[0]):
            return _filter_of(inner)
    raise BadFormat(span, "expected a single filter expression")


def _is_wrong_group(value: Value) -> bool:
    return isinstance(value, Group) and len(value.items) != 1


def _filter_of(value: Value) -> Filter:  # noqa: PLR0911 -- one branch a kind of value
    match value:
        case Bool(value=truth):
            return FBool(truth)
        case String(value=text):
            return FString(text)
        case Int(value=number):
            return FString(str(number))
        case Ident():
            found: FIdent = FILTER_IDENT.read(value, span_of(value))
            return found
        case Group(items=items):
            return _filter(items, span_of(value))
        case Relop(left=left, op=op, right=right):
            right_side = _filter_of(right)
            return FOp(_filter_of(left), op, right_side)
        case Pfxop(op="!", value=operand):
            return FNot(_filter_of(operand))
        case Pfxop(op="?", value=operand):
            return FDefined(_filter_of(operand))
        case Logop(op=logop, operands=operands):
            filters = _from_the_right(_filter_of, operands)
            return chain(FAnd if logop == "&" else FOr, filters)
    raise Unexpected


def _from_the_right(read: Callable[[Value], Any], operands: Sequence[Value]) -> list[Any]:
    return [read(operand) for operand in reversed(operands)][::-1]


def _from_the_left(read: Callable[[Value], Any], operands: Sequence[Value]) -> list[Any]:
    return [read(operand) for operand in operands]


FILTER: Final = Reader(_filter, "filter-expression")
ARGUMENT: Final = option_of(SIMPLE_ARG, optional(FILTER))
COMMAND: Final = option_of(list_of(ARGUMENT), optional(FILTER))

# Formulas


def _formula(
    kind: type[And] | type[Or],
    leaf: Callable[[Value], Any],
    *,
    negate_leaf: Callable[[Any], Any] | None = None,
    operators: Collection[str] = ("&", "|"),
    read: Callable[[Callable[[Value], Formula], Sequence[Value]], list[Formula]] = _from_the_right,
) -> Callable[[Sequence[Value], Span], Formula]:
    """A function that reads formulas.

    Args:
        kind: What combines values that no operator separates.
        leaf: Reads a leaf; refuses other values with `Unexpected`.
        negate_leaf: Negates a leaf; None where no formula can be negated.
        operators: Those that the formula may have.
        read: Reads the operands of an operator, in opam's order.
    """

    def run(values: Sequence[Value], _span: Span) -> Formula:
        return join(kind, [one(value) for value in values])

    def one(value: Value) -> Formula:
        match value:
            case Group(items=items):
                return Block(run(items, span_of(value)))
            case Logop(op=op, operands=operands) if op in operators:
                return chain(And if op == "&" else Or, read(one, operands))
            case Pfxop(op="!", value=operand) if negate_leaf is not None:
                return negate(one(operand), negate_leaf)
        return Atom(leaf(value))

    return run


# Version constraints


def constraints(version: Reader) -> Reader:
    """A formula of `Constraint`s alone, for the old `ocaml-version` field."""

    def leaf(value: Value) -> Constraint:
        match value:
            case PrefixRelop(op=op, value=bound):
                return Constraint(op, FString(version.read(bound, span_of(bound))))
        raise Unexpected(span_of(value))

    run = _formula(And, leaf, negate_leaf=_negate_condition)
    return Reader(run, f"{version.name}-constraints")


def _negate_condition(leaf: Constraint | Filter) -> Constraint | Filter:
    if isinstance(leaf, Constraint):
        return Constraint(negate_relop(leaf.op), leaf.version)
    return FNot(leaf)


def _condition(value: Value) -> Constraint | Filter:
    match value:
        case PrefixRelop(op=op, value=bound):
            return Constraint(op, EXTENDED_VERSION.read(bound, span_of(bound)))
    condition: Filter = FILTER.run((value,), span_of(value))
    return condition


def _extended_version(value: Value, _span: Span) -> Filter:
    match value:
        case String(value=text):
            try:
                check_version(_with_variables_as_dashes(text))
            except OcamlFailure as failure:
                raise BadFormat(
                    span_of(value), f"Invalid version string {quote(text)}: {failure}"
                ) from None
            return FString(text)
        case Ident(name=name):
            return variable(name)
    raise Unexpected


def _with_variables_as_dashes(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        if not match[2]:
            return match[0]
        found = variable(match[1], in_string=True)
        # A converter of a value that is not a boolean yields its second text.
        return found.converter[1] if found.converter else "-"

    return INTERPOLATION.sub(replace, text)


EXTENDED_VERSION: Final = Reader(_extended_version, "version-expr")
FILTERED_CONSTRAINTS: Final = Reader(
    _formula(And, _condition, negate_leaf=_negate_condition), "filtered-constraints"
)

# Package formulas


def formula_items(
    name: str,
    kind: type[And] | type[Or],
    atom: Reader,
    condition: Reader,
    *,
    only_or: bool = False,
) -> Reader:
    """A list of atoms with conditions, combined by `kind` where an operator is missing."""
    with_condition = option_of(atom, condition)

    def leaf(value: Value) -> Dependency:
        if isinstance(value, String | Option):
            return Dependency(*with_condition.read(value, span_of(value)))
        raise Unexpected(span_of(value))

    operators = ("|",) if only_or else ("&", "|")
    return Reader(_formula(kind, leaf, operators=operators, read=_from_the_left), name)


def package_formula(kind: type[And] | type[Or]) -> Reader:
    """`depends:` and its kin: package names with filtered constraints."""
    items = formula_items("pkg-formula", kind, PACKAGE_NAME, FILTERED_CONSTRAINTS)
    return LIST.then(items)


# The old `os` field


def _os(value: Value) -> tuple[bool, str]:
    if isinstance(value, String):
        return True, value.value
    raise Unexpected(span_of(value))


OS_CONSTRAINT: Final = LIST.then(
    Reader(
        _formula(Or, _os, negate_leaf=lambda leaf: (not leaf[0], leaf[1])),
        "os-constraint",
    )
)

# Paths in environment variables


def _one_of(name: str, *texts: str) -> Reader:
    def run(value: Value, _span: Span) -> str:
        if isinstance(value, String) and value.value in texts:
            return value.value
        raise Unexpected

    return Reader(run, name)


def _rewrite_rule(atom: Reader) -> Reader:
    return LIST.then(formula_items(f"{atom.name}-filtered-formula", Or, atom, FILTER, only_or=True))


SEPARATOR_RULE: Final = _rewrite_rule(_one_of("separator", ":", ";"))
PATH_FORMAT_RULE: Final = _rewrite_rule(
    _one_of("path-format", "host", "target", "target-quoted", "host-quoted")
)
TAGS: Final = list_of(STRING)


def tags_as_filter(tags: Sequence[str]) -> Filter:
    """The filter that the tags in the old form of `depexts` mean."""
    if not tags:
        return FBool(value=True)
    *first, last = tags
    result: Filter = FString(last)
    for tag in reversed(first):
        result = FAnd((FString(tag), result))
    return result
