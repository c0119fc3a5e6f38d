"""Printing opam files: what is printed parses to the same nodes.

One field a line, lists of lists and of conditions one element a line, texts of several lines in
triple quotes.
"""

import re
from collections.abc import Iterable
from typing import Final

from opam_ci.core.opam.nodes import (
    Bool,
    EnvBinding,
    Field,
    Group,
    Ident,
    Int,
    Item,
    List,
    Logop,
    Option,
    Pfxop,
    PrefixRelop,
    Relop,
    Section,
    String,
    Value,
)

# A carriage return before a newline would be read as a part of the line end, a NUL is
# refused, and a byte that is no UTF-8 can only be written as its number.
_ALWAYS_ESCAPED: Final = re.compile(r"[\\\r\0\ud800-\udfff]")
_ESCAPES: Final = {"\\": "\\\\", "\r": "\\r", "\0": "\\000"}
# Quotes that would end a triple-quoted text, or join with its end.
_ENDING_QUOTE: Final = re.compile(r'"(?=""|\Z)')


def print_file(items: Iterable[Item]) -> str:
    """The text of an opam file with these fields and sections."""
    return "".join(f"{line}\n" for item in items for line in _item(item))


def _item(item: Item) -> list[str]:
    if isinstance(item, Section):
        name = "" if item.name is None else f"{print_value(String(item.name))} "
        inner = [f"  {line}" for field in item.items for line in _item(field)]
        return [f"{item.kind} {name}{{", *inner, "}"]
    return _field(item)


def _field(field: Field) -> list[str]:
    value = field.value
    if isinstance(value, List) and any(isinstance(one, List | Option) for one in value.items):
        return [f"{field.name}: [", *(f"  {print_value(one)}" for one in value.items), "]"]
    return [f"{field.name}: {print_value(value)}"]


def print_value(value: Value) -> str:  # noqa: C901, PLR0911 -- one branch a kind of value
    """The text of a value, on one line unless a string has several."""
    match value:
        case String(value=text):
            return _string(text)
        case Ident(name=name):
            return name
        case Bool(value=truth):
            return "true" if truth else "false"
        case Int(value=number):
            return str(number)
        case List(items=items):
            return f"[{_values(items)}]"
        case Group(items=items):
            return f"({_values(items)})"
        case Option(value=inner, options=options):
            return f"{print_value(inner)} {{{_values(options)}}}"
        case Relop(left=left, op=op, right=right) | EnvBinding(left=left, op=op, right=right):
            return f"{print_value(left)} {op} {print_value(right)}"
        case PrefixRelop(op=op, value=inner):
            return f"{op} {print_value(inner)}"
        case Logop(op=op, operands=operands):
            return f" {op} ".join(map(print_value, operands))
        case Pfxop(op=op, value=inner):
            return f"{op}{print_value(inner)}"


def _values(values: Iterable[Value]) -> str:
    return " ".join(map(print_value, values))


def _string(text: str) -> str:
    escaped = _ALWAYS_ESCAPED.sub(_escape, text)
    if "\n" not in text:
        return '"' + escaped.replace('"', '\\"') + '"'
    # The first line end is swallowed, so that the text begins on a line of its own.
    return '"""\\\n' + _protect_start(_ENDING_QUOTE.sub('\\"', escaped)) + '"""'


def _protect_start(text: str) -> str:
    """Blanks after a swallowed line end are swallowed too, unless one is escaped."""
    return f"\\{text}" if text.startswith(" ") else _protect_tab(text)


def _protect_tab(text: str) -> str:
    return f"\\t{text[1:]}" if text.startswith("\t") else text


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    # A surrogate escape stands for one byte, by its number above 0xDC00.
    return _ESCAPES.get(char) or f"\\x{ord(char) - 0xDC00:02x}"
