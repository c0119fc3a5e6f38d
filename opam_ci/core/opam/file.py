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
from typing import Final, NamedTuple

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

__all__ = ["MAX_DEPTH", "MAX_SIZE", "UNREADABLE", "OpamFile", "parse", "parse_like"]

#: The opam that our verdicts must agree with. It treats a file of a newer opam-version that it
#: cannot read as one of a newer format, and not as a syntax error.
_CURRENT_OPAM: Final = (2, 5)
#: The kind of the section that replaces the rest of a file of a newer format.
UNREADABLE: Final = "#"


class _Edge(NamedTuple):
    """Where an item begins in the source.

    Attributes:
        start: The offset of its first byte.
        sure: The offset up to which two texts must agree for the item to begin there in both.
    """

    start: int
    sure: int

    def by(self, offset: int) -> "_Edge":
        """The same edge in a text that has `offset` bytes more before it."""
        return _Edge(self.start + offset, self.sure + offset)


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
    _edges: list[_Edge] | None = field(default=None, repr=False, compare=False)

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

    @property
    def edges(self) -> list[_Edge]:
        """Where each item begins, for `parse_like`."""
        if self._edges is None:
            self._edges = [_edge(item, self.data) for item in self.items]
        return self._edges

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


def parse_like(data: bytes, like: OpamFile, *, filename: str = "opam") -> OpamFile:
    """Parse a text, reusing the items that it shares with a file that is already parsed.

    An analysis reads two versions of each opam file, which are mostly the same. The items
    before the first difference and after the last one are reused, as the same objects; the
    rest is parsed on its own. If that fails, or nothing is shared, the whole text is parsed
    as usual. The positions of reused nodes are not those in `data`.

    Raises:
        OpamSyntaxError: See `parse`.
    """
    found = _reuse(data, like, filename)
    return parse(data, filename=filename) if found is None else found


def _reuse(data: bytes, like: OpamFile, filename: str) -> OpamFile | None:
    if any(item.start < 0 for item in like.items):
        return None  # of a newer format: its items are not those of its text
    kept, start = _same_at_the_start(data, like)
    rest, end = _same_at_the_end(data, like, kept, start)
    if kept + len(like.items) - rest == 0:
        return None
    try:
        check_text(data)
        text = data.decode("latin-1")
        version = header(text)
        between: list[Item] = PARSER.parse(text[start:end])  # type: ignore[assignment]  # what Builder.first returns
        items = (*like.items[:kept], *between, *like.items[rest:])
        check_versions(items, version)
        if may_be_deep(text):
            check_depth(items)
    except (LexicalError, UnexpectedToken):
        return None
    later = len(data) - len(like.data)
    edges = [
        *like.edges[:kept],
        *(_edge(item, data[start:]).by(start) for item in between),
        *(edge.by(later) for edge in like.edges[rest:]),
    ]
    return OpamFile(filename, items, data, _edges=edges)


def _edge(item: Item, data: bytes) -> _Edge:
    if isinstance(item, Section):
        return _Edge(item.start, item.start + len(item.kind) + 1)
    # `name:` may continue as one identifier, `name:variable`, unless a blank ends it.
    first = item.value.start
    return _Edge(item.start, first - 1 if data[first - 1 : first].isspace() else first)


def _same_at_the_start(data: bytes, like: OpamFile) -> tuple[int, int]:
    """Count the items that both have at their start, and find where the next one begins in both.

    An item is known to end only where the next one's name and what follows it are the same
    too: `a: "x"` may continue with `{build}`, but not with a name.
    """
    same = _common_prefix(data, like.data)
    for number in range(len(like.items) - 1, 0, -1):
        edge = like.edges[number]
        if edge.sure < same:
            return number, edge.start
    return 0, 0


def _same_at_the_end(data: bytes, like: OpamFile, kept: int, start: int) -> tuple[int, int]:
    """Find the item from which on both are the same, and where it begins in `data`.

    Before it there is a line end. Only a string or a comment can continue over that; its end
    is then missing in the part that is parsed on its own, which fails.
    """
    longest = min(len(data), len(like.data)) - start
    same = _common_prefix(data[::-1][:longest], like.data[::-1][:longest])
    for number in range(kept, len(like.items)):
        begins = like.edges[number].start
        if len(like.data) - begins < same and like.data[begins - 1 : begins] == b"\n":
            return number, len(data) - (len(like.data) - begins)
    return len(like.items), len(data)


def _common_prefix(left: bytes, right: bytes) -> int:
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
