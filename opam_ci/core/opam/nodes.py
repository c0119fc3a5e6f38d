"""The typed tree of an opam file.

Every node has the byte offsets `start` (of its first byte) and `end` (just after its
last one); `OpamFile.position` turns them into lines and columns. Offsets do not take part
in equality, so two nodes are equal if they have the same content. Nodes are values: nothing
changes one after the parser made it. They are plain slotted classes and not frozen ones
because a frozen dataclass costs three times as much to make, and a lint of the whole
repository makes seven million of them.

`Logop` holds a whole chain (`a & b & c`) as one node with many operands, which is the same
information as opam's left-nested pairs and keeps the tree shallow on long formulas.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

RelopKind = Literal["=", "!=", ">=", ">", "<=", "<"]
LogopKind = Literal["&", "|"]
PfxopKind = Literal["!", "?"]
EnvopKind = Literal["=", "+=", "=+", "=+=", ":=", "=:"]


@dataclass(slots=True, kw_only=True)
class _Placed:
    """A part of the file.

    Attributes:
        start: The offset of its first byte, -1 if it is not in the file.
        end: The offset after its last byte.
    """

    start: int = field(default=-1, compare=False, repr=False)
    end: int = field(default=-1, compare=False, repr=False)


@dataclass(slots=True)
class String(_Placed):
    """A string, its escapes resolved; bytes that are not UTF-8 are surrogate escapes."""

    type: ClassVar[str] = "STRING"
    value: str


@dataclass(slots=True)
class Ident(_Placed):
    """An identifier, such as `os-family` or `ocaml:version`."""

    type: ClassVar[str] = "IDENT"
    name: str


@dataclass(slots=True)
class Bool(_Placed):
    """`true` or `false`."""

    type: ClassVar[str] = "LITERAL"
    value: bool


@dataclass(slots=True)
class Int(_Placed):
    """An integer."""

    type: ClassVar[str] = "LITERAL"
    value: int


@dataclass(slots=True)
class List(_Placed):
    """`[a b c]`."""

    items: tuple["Value", ...]


@dataclass(slots=True)
class Group(_Placed):
    """`(a b c)`."""

    items: tuple["Value", ...]


@dataclass(slots=True)
class Option(_Placed):
    """`value {a b c}`."""

    value: "Value"
    options: tuple["Value", ...]


@dataclass(slots=True)
class Relop(_Placed):
    """`left >= right`; `~` is read as `>=`, as opam does."""

    op: RelopKind
    left: "Atom"
    right: "Atom"


@dataclass(slots=True)
class PrefixRelop(_Placed):
    """`>= value`."""

    op: RelopKind
    value: "Atom"


@dataclass(slots=True)
class Logop(_Placed):
    """`a & b & c`: two operands or more, none of them a `Logop` of the same or a looser op."""

    op: LogopKind
    operands: tuple["Value", ...]


@dataclass(slots=True)
class Pfxop(_Placed):
    """`!value` or `?value`."""

    op: PfxopKind
    value: "Value"


@dataclass(slots=True)
class EnvBinding(_Placed):
    """`PATH += "dir"`. A plain `=` is read as a `Relop`, as opam does."""

    left: "Atom"
    op: EnvopKind
    right: "Atom"


Atom = String | Ident | Bool | Int
Value = (
    String
    | Ident
    | Bool
    | Int
    | List
    | Group
    | Option
    | Relop
    | PrefixRelop
    | Logop
    | Pfxop
    | EnvBinding
)


@dataclass(slots=True)
class Field(_Placed):
    """`name: value`; `start` is that of the name, `end` that of the value."""

    name: str
    value: Value


@dataclass(slots=True)
class Section(_Placed):
    """`kind "name" { items }`; `name` is None for `kind { items }`."""

    kind: str
    name: str | None
    items: "tuple[Item, ...]"

    def field(self, name: str) -> Field | None:
        """The first field of that name inside this section, or None."""
        return next(_fields(self.items, name), None)


Item = Field | Section
Node = Value | Item


def _fields(items: "tuple[Item, ...]", name: str) -> Iterator[Field]:
    return (item for item in items if isinstance(item, Field) and item.name == name)


class Position(NamedTuple):
    """The position of a node: 1-based lines, 0-based columns in bytes, `end_column` exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int
