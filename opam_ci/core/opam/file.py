"""Reading opam files: `parse` makes an `OpamFile` of bytes, or reports where they are wrong.

The API:

    file = parse(data, filename="packages/re/re.1.10.4/opam")
    file.items                      fields and sections in the order of the file
    file.field("depends")           the first field of that name, or None
    file.value("depends")           its value, or None
    file.section("url")             the first section of that kind, or None
    file.sections("extra-source")   all of them, in order
    file.position(node)             Position(line, column, end_line, end_column) of any node
    file.text                       the source as text

The nodes are in `opam_ci.core.opam.nodes`: match on them with `case List(items=...)`.
Errors in a file are reported as an `OpamSyntaxError` with `message`, `filename`, `line`,
`column`. This module handles the syntax only; `metadata.py` has the meaning of fields.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from lark.exceptions import UnexpectedToken

from opam_ci.core.opam.errors import OpamSyntaxError
from opam_ci.core.opam.grammar import PARSER
from opam_ci.core.opam.lexer import LexicalError
from opam_ci.core.opam.nodes import Field, Item, Node, Position, Section, String, Value
from opam_ci.core.opam.syntax_rules import (
    MAX_DEPTH,
    MAX_SIZE,
    check_depth,
    check_text,
    check_versions,
    header,
    major_minor,
    may_be_deep,
)

__all__ = ["MAX_DEPTH", "MAX_SIZE", "UNREADABLE", "OpamFile", "opam_text", "parse"]

#: The opam that our verdicts must agree with. It treats a file of a newer opam-version that it
#: cannot read as one of a newer format, and not as a syntax error.
_CURRENT_OPAM: Final = (2, 5)
#: The kind of the section that replaces the rest of a file of a newer format.
UNREADABLE: Final = "#"


@dataclass(slots=True)
class OpamFile:
    """A parsed opam file.

    Attributes:
        filename: The name of the file in messages.
        items: Fields and sections, in order.
        data: The source.
    """

    filename: str
    items: tuple[Item, ...]
    data: bytes = field(default=b"", repr=False, compare=False)
    _line_starts: list[int] | None = field(default=None, repr=False, compare=False)

    @property
    def text(self) -> str:
        """The source as text."""
        return self.data.decode("utf-8", "surrogateescape")

    def field(self, name: str) -> Field | None:
        """The first field of that name at top level, or None."""
        for item in self.items:
            if isinstance(item, Field) and item.name == name:
                return item
        return None

    def value(self, name: str) -> Value | None:
        """The value of the first field of that name at top level, or None."""
        found = self.field(name)
        return found.value if found else None

    def section(self, kind: str) -> Section | None:
        """The first section of that kind at top level, or None."""
        return next(self.sections(kind), None)

    def sections(self, kind: str) -> Iterator[Section]:
        """The sections of that kind at top level, in order."""
        return (item for item in self.items if isinstance(item, Section) and item.kind == kind)

    def position(self, node: Node) -> Position:
        """The position of a node of this file."""
        return self.position_of(node.start, node.end)

    def position_of(self, start: int, end: int) -> Position:
        """The lines and columns of byte offsets; the first line for negative ones."""
        return Position(*self._line_column(max(start, 0)), *self._line_column(max(end, 0)))

    def line(self, node: Node) -> int:
        """The 1-based line in which a node of this file begins."""
        return self._line_column(node.start)[0]

    def _line_column(self, offset: int) -> tuple[int, int]:
        if self._line_starts is None:
            self._line_starts = _line_starts(self.data)
        line = bisect.bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1]


def _line_starts(data: bytes) -> list[int]:
    starts = [0]
    while (newline := data.find(b"\n", starts[-1])) >= 0:
        starts.append(newline + 1)
    return starts


def opam_text(data: bytes) -> str:
    """The text of an opam file; empty for what no opam file can be, by size and encoding."""
    try:
        check_text(data)
    except LexicalError:
        return ""
    return data.decode()


def parse(data: bytes, *, filename: str = "opam", max_size: int = MAX_SIZE) -> OpamFile:
    """Parse the text of an opam file.

    Args:
        data: The text, UTF-8.
        filename: Its name, for messages.
        max_size: Largest size in bytes.

    Raises:
        OpamSyntaxError: The text is too big, not UTF-8, contains a NUL, nests too deep, or
            violates opam's grammar; then the message is opam's own.
    """
    text = data.decode("latin-1")
    version: String | None = None
    try:
        check_text(data, max_size)
        version = header(text)
        items: list[Item] = PARSER.parse(text)  # type: ignore[assignment]  # what Builder.first returns
        check_versions(items, version)
        if may_be_deep(text):
            check_depth(items)
    except LexicalError as lexical:
        failure = lexical
    except UnexpectedToken as unexpected:
        # lark's token is one of our nodes or marks, with the offset where it begins.
        failure = LexicalError("Parse error", getattr(unexpected.token, "start", len(data)))
    else:
        return OpamFile(filename, tuple(items), data)
    if version is None or major_minor(version.value) <= _CURRENT_OPAM:
        raise _with_place(failure, data, filename)
    first = Field("opam-version", version, start=0, end=version.end)
    return OpamFile(filename, (first, Section(UNREADABLE, None, ())), data)


def _with_place(error: LexicalError, data: bytes, filename: str) -> OpamSyntaxError:
    line = data.count(b"\n", 0, error.offset) + 1
    column = error.offset - (data.rfind(b"\n", 0, error.offset) + 1)
    return OpamSyntaxError(error.message, filename=filename, line=line, column=column)
