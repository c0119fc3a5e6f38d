"""Bounds on the version of a dependency, written into the text of an opam file.

The text is edited, and not printed anew: layout, comments and every other byte stay. The result is
parsed again, and refused unless it is the same file but for the bound.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from opam_ci.core.errors import OpamCiError
from opam_ci.core.opam.errors import OcamlFailure, OpamSyntaxError
from opam_ci.core.opam.file import MAX_SIZE, OpamFile, parse
from opam_ci.core.opam.formula import negate_relop
from opam_ci.core.opam.nodes import (
    Field,
    Group,
    Ident,
    List,
    Logop,
    Option,
    PrefixRelop,
    String,
    Value,
)
from opam_ci.core.opam.package import Package, check_name, check_version
from opam_ci.core.opam.version import compare, satisfies

_REST_OF_LINE: Final = re.compile(rb"[ \t]*(?:#[^\n]*)?\r?\n")
_INDENT: Final = re.compile(rb"\n[ \t]*\Z")


class NoBoundError(OpamCiError):
    """There is no such bound, or the opam file cannot have it; the message says why."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound on the version of a dependency.

    Attributes:
        name: The dependency.
        op: `<`, as for a version that breaks the package, or `>=`.
        version: The first version that is excluded, or the first one that is not.

    Raises:
        NoBoundError: Name or version is invalid.
    """

    name: str
    op: Literal["<", ">="]
    version: str

    def __post_init__(self) -> None:
        try:
            check_name(self.name)
            check_version(self.version)
        except OcamlFailure as error:
            raise NoBoundError(str(error)) from error

    @property
    def constraint(self) -> str:
        """The constraint as opam files have it: `< "3.18"`."""
        return f'{self.op} "{self.version}"'


class _Edit(NamedTuple):
    """Bytes from `start` to `end` that are replaced."""

    start: int
    end: int
    text: str


def bounded(data: bytes, package: Package, bound: Bound) -> bytes:
    """Adds a bound to the text of an opam file.

    Each occurrence of the dependency in `depends` gets it: a weaker bound is replaced, anything
    else is kept and joined with `&`. An optional dependency gets a conflict with what the bound
    excludes, since a bound in `depopts` would not keep opam from installing it.

    Args:
        data: The text.
        package: Whose opam file it is.
        bound: The bound.

    Returns:
        The new text; the same one if the file has that bound or a narrower one.

    Raises:
        NoBoundError: It is not a valid opam file, does not name the dependency, or would allow no
            version of it any more.
    """
    file = _parsed(data, package)
    depends, depopts = file.field("depends"), file.field("depopts")
    required = [each for name, each in _occurrences(depends) if name == bound.name]
    optional = [each for name, each in _occurrences(depopts) if name == bound.name]
    if not required and not optional:
        raise NoBoundError(f"{package} does not depend on {bound.name} itself")
    if required and all(_leaves_nothing(each, package, bound) for each in required):
        raise NoBoundError(
            f"{package} allows no version of {bound.name} {bound.op} {bound.version} even now: "
            "another bound would only hide that"
        )
    edits = [edit for each in required for edit in _edits(each, package, bound)]
    if optional and depopts is not None:
        edits += _conflict(file, depopts, bound)
    result = data
    for edit in sorted(edits, reverse=True):
        result = result[: edit.start] + edit.text.encode() + result[edit.end :]
    _check(file, result, bound)
    return result


def dependencies(data: bytes, package: Package) -> tuple[str, ...]:
    """Returns the names in `depends` and `depopts`, each once, in the order of the file.

    Args:
        data: The text of an opam file.
        package: Whose it is.

    Raises:
        NoBoundError: It is not a valid opam file.
    """
    file = _parsed(data, package)
    fields = (file.field("depends"), file.field("depopts"))
    return tuple(dict.fromkeys(name for each in fields for name, _ in _occurrences(each)))


def _parsed(data: bytes, package: Package) -> OpamFile:
    path = f"the opam file of {package}"
    try:
        return parse(data, filename=path)
    except OpamSyntaxError as error:
        raise NoBoundError(f"{path} cannot be read: {error.message}") from error


def _occurrences(field: Field | None) -> list[tuple[str, String | Option]]:
    """The packages of a package formula, wherever they are, with their conditions."""
    found: list[tuple[str, String | Option]] = []

    def visit(value: Value) -> None:
        match value:
            case String(value=name):
                found.append((name, value))
            case Option(value=String(value=name)):
                found.append((name, value))
            case List(items=values) | Group(items=values) | Logop(operands=values):
                for each in values:
                    visit(each)

    if field is not None:
        visit(field.value)
    return found


def _constraints(values: Sequence[Value]) -> Iterator[PrefixRelop]:
    """The comparisons that all hold where a condition does: those that no `|` or `!` has."""
    for value in values:
        match value:
            case PrefixRelop():
                yield value
            case Logop(op="&", operands=operands) | Group(items=operands):
                yield from _constraints(operands)


def _version(value: Value, package: Package) -> str | None:
    """The version in a comparison, None if it depends on something else."""
    match value:
        case String(value=text) if "%" not in text:
            return text
        case Ident(name="version" | "_:version"):
            return package.version
    return None


class _Meaning(NamedTuple):
    """What a comparison means for a bound.

    Attributes:
        has_bound: Whether it excludes all that the bound excludes.
        is_weaker: Whether it is a bound in the same direction that excludes less.
        contradicts: Whether nothing is left of it.
    """

    has_bound: bool = False
    is_weaker: bool = False
    contradicts: bool = False


def _meaning(constraint: PrefixRelop, package: Package, bound: Bound) -> _Meaning:
    version = _version(constraint.value, package)
    if version is None or constraint.op == "!=":
        return _Meaning()
    order = compare(version, bound.version)
    if constraint.op == "=":
        holds = satisfies(version, bound.op, bound.version)
        return _Meaning(has_bound=holds, contradicts=not holds)
    is_upper = bound.op == "<"
    if (constraint.op[0] == "<") == is_upper:
        # `<= V` still has V, `> V` excludes more than `>= V`.
        narrower = (order < 0 or (order == 0 and constraint.op == "<")) if is_upper else order >= 0
        return _Meaning(has_bound=narrower, is_weaker=not narrower)
    if is_upper:
        return _Meaning(contradicts=order >= 0)
    return _Meaning(contradicts=order < 0 or (order == 0 and constraint.op == "<"))


def _leaves_nothing(found: String | Option, package: Package, bound: Bound) -> bool:
    options = found.options if isinstance(found, Option) else ()
    return any(_meaning(each, package, bound).contradicts for each in _constraints(options))


def _edits(found: String | Option, package: Package, bound: Bound) -> list[_Edit]:
    if isinstance(found, String):
        return [_Edit(found.end, found.end, f" {{{bound.constraint}}}")]
    if not found.options:
        return [_Edit(found.end - 1, found.end - 1, bound.constraint)]
    constraints = list(_constraints(found.options))
    if any(_meaning(each, package, bound).has_bound for each in constraints):
        return []
    for each in constraints:
        if _meaning(each, package, bound).is_weaker:
            return [_Edit(each.start, each.end, bound.constraint)]
    last = found.options[-1]
    if isinstance(last, Logop) and last.op == "|":
        return [
            _Edit(last.start, last.start, "("),
            _Edit(last.end, last.end, f") & {bound.constraint}"),
        ]
    return [_Edit(last.end, last.end, f" & {bound.constraint}")]


def _conflict(file: OpamFile, depopts: Field, bound: Bound) -> list[_Edit]:
    """The edits that add a conflict with what the bound excludes."""
    conflict = f'"{bound.name}" {{{negate_relop(bound.op)} "{bound.version}"}}'
    conflicts = file.field("conflicts")
    if conflicts is None:
        if (rest := _REST_OF_LINE.match(file.data, depopts.end)) is not None:
            return [_Edit(rest.end(), rest.end(), f"conflicts: [{conflict}]\n")]
        return [_Edit(depopts.end, depopts.end, f"\nconflicts: [{conflict}]")]
    value = conflicts.value
    if not isinstance(value, List):
        return [_Edit(value.start, value.start, "["), _Edit(value.end, value.end, f" {conflict}]")]
    if not value.items:
        return [_Edit(value.end - 1, value.end - 1, conflict)]
    if _has_conflict(value, conflict):
        return []
    last = value.items[-1]
    indent = _INDENT.search(file.data[value.start : last.start])
    return [_Edit(last.end, last.end, f"{indent[0].decode() if indent else ' '}{conflict}")]


def _has_conflict(conflicts: List, conflict: str) -> bool:
    (field,) = parse(f"conflicts: [{conflict}]".encode()).items
    assert isinstance(field, Field)  # noqa: S101 -- for mypy: it is one
    assert isinstance(field.value, List)  # noqa: S101 -- the same
    return field.value.items[0] in conflicts.items


def _check(before: OpamFile, text: bytes, bound: Bound) -> None:
    """Refuses a text that differs in more than conditions of the dependency, and conflicts."""
    after = parse(text, filename=before.filename, max_size=2 * MAX_SIZE)
    if _without(before, bound.name) != _without(after, bound.name):
        raise RuntimeError(f"{before.filename} would differ in more than {bound}")


def _without(file: OpamFile, name: str) -> list[object]:
    kept: list[object] = []
    for item in file.items:
        match item:
            case Field(name="depends"):
                kept.append(replace(item, value=_plain(item.value, name)))
            case Field(name="conflicts", value=value):
                values = value.items if isinstance(value, List) else (value,)
                kept += [each for each in values if not _is(each, name)]
            case _:
                kept.append(item)
    return kept


def _plain(value: Value, name: str) -> Value:
    """A package formula with no condition of one of its packages."""
    match value:
        case Option(value=String(value=found)) if found == name:
            return value.value
        case List(items=items) | Group(items=items):
            return replace(value, items=tuple(_plain(each, name) for each in items))
        case Logop(operands=operands):
            return replace(value, operands=tuple(_plain(each, name) for each in operands))
    return value


def _is(value: Value, name: str) -> bool:
    return (
        isinstance(value, Option) and isinstance(value.value, String) and value.value.value == name
    )
