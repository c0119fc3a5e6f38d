"""Reading the values of fields that opam accepted.

opam drops a field whose value has the wrong form. So do these readers: for a value that opam
would refuse they return nothing.
"""

from collections.abc import Iterator, Sequence

from opam_ci.core.opam.formula import negate_relop
from opam_ci.core.opam.nodes import (
    Group,
    Ident,
    List,
    Logop,
    Option,
    Pfxop,
    PrefixRelop,
    RelopKind,
    String,
    Value,
)
from opam_ci.core.opam.values import nested


def strings(value: Value) -> list[str] | None:
    """The strings of `"a"` or `["a" "b"]`; None for any other form."""
    items = value.items if isinstance(value, List) else (value,)
    texts = [item.value for item in items if isinstance(item, String)]
    return texts if len(texts) == len(items) else None


def idents(value: Value) -> list[str]:
    """The identifiers of `a` or `[a b]`."""
    items = value.items if isinstance(value, List) else (value,)
    return [item.name for item in items if isinstance(item, Ident)]


def rows(value: Value | None) -> tuple[Value, ...]:
    """The elements of a list of lists, where a single row may lack its outer brackets; () for None.

    opam decides by the first element only, and so does this: `["a" "b"]` is one row and
    `[["a"] ["b"]]` are two.
    """
    deep = None if value is None else nested(value, 2)
    return deep.items if isinstance(deep, List) else ()


def option(value: Value) -> tuple[Value, tuple[Value, ...]]:
    """`value {a b}` as value and options; the options are empty where there are no braces."""
    if isinstance(value, Option):
        return value.value, value.options
    return value, ()


def ungrouped(value: Value) -> Value:
    """The value inside `((value))`."""
    while isinstance(value, Group) and len(value.items) == 1:
        value = value.items[0]
    return value


def variable_name(ident: str) -> str:
    """The variable of `package+package:variable?then:else`."""
    return ident.partition("?")[0].rpartition(":")[2]


def package_atoms(value: Value | None) -> Iterator[tuple[String, tuple[Value, ...]]]:
    """Each `"name" {conditions}` of a package formula, in the order of the file; none for None."""
    stack: list[Value] = [] if value is None else [value]
    while stack:
        node = stack.pop()
        if isinstance(node, List | Group):
            stack.extend(reversed(node.items))
        elif isinstance(node, Logop):
            stack.extend(reversed(node.operands))
        else:
            name, conditions = option(node)
            if isinstance(name, String):
                yield name, conditions


def constraint_operators(conditions: Sequence[Value]) -> Iterator[RelopKind]:
    """The operators of the version constraints among a dependency's conditions.

    A `!` before a constraint inverts its operator; its effect on a filter does not matter here.
    """
    stack = [(value, False) for value in conditions]
    while stack:
        node, negated = stack.pop()
        match node:
            case PrefixRelop(op=op):
                yield negate_relop(op) if negated else op
            case Logop(operands=operands):
                stack.extend((operand, negated) for operand in operands)
            case Group(items=items):
                stack.extend((item, negated) for item in items)
            case Pfxop(op="!", value=inner):
                stack.append((inner, not negated))
            case _:
                pass


def plain_variables(conditions: Sequence[Value]) -> Iterator[str]:
    """The variables that are conditions of a dependency by themselves, as in `{build & dev}`.

    Those inside `!`, a comparison or a string are not.
    """
    stack = list(conditions)
    while stack:
        node = stack.pop()
        match node:
            case Ident(name=name):
                yield variable_name(name)
            case Logop(operands=operands):
                stack.extend(operands)
            case Group(items=items):
                stack.extend(items)
            case _:
                pass
