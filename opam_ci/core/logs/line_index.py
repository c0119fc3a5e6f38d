"""The index of a log's lines: number, byte offset and colours of every 256th.

With it, any line of a long log is found by reading a few hundred others.
"""

from bisect import bisect_right
from typing import Final, NamedTuple

from opam_ci.core.logs.lines import whole_lines
from opam_ci.core.logs.sgr import PLAIN, Sgr, SgrScanner, state_of, text_of
from opam_ci.core.model import Frozen

LINES_APART: Final = 256
"""Lines from one mark to the next."""

_BYTES_APART: Final = 256 * 1024
"""Bytes after which the next line has a mark, where lines are long."""


class LineMark(NamedTuple):
    """A place at which a line begins.

    Attributes:
        line: Its number, from 1.
        offset: Its byte offset in the log.
        sgr: The state there.
    """

    line: int
    offset: int
    sgr: Sgr


START: Final = LineMark(1, 0, PLAIN)
"""The beginning of a log."""


class LineIndex(Frozen):
    """Marks of a log, as they are stored.

    Attributes:
        size: Bytes of the original output.
        lines: How many lines it has, notices of ours and an unfinished last one included.
        marks: Line, offset and state (see `sgr.text_of`) of each mark, in order.
        pieces: Offsets of the stored pieces, in order.
    """

    size: int
    lines: int
    marks: tuple[tuple[int, int, str], ...]
    pieces: tuple[int, ...]

    def at_line(self, number: int) -> LineMark:
        """Returns the last mark that is not after a line."""
        return self._mark(bisect_right(self.marks, number, key=lambda mark: mark[0]) - 1)

    def at_offset(self, offset: int) -> LineMark:
        """Returns the last mark that is not after an offset."""
        return self._mark(bisect_right(self.marks, offset, key=lambda mark: mark[1]) - 1)

    def _mark(self, at: int) -> LineMark:
        if at < 0:
            return START
        line, offset, sgr = self.marks[at]
        return LineMark(line, offset, state_of(sgr))


class LineCounter:
    """Makes the index of output that comes in pieces; keeps none of it.

    Attributes:
        marks: So far, the first one left out.
        position: Offset of the next byte.
    """

    def __init__(self) -> None:
        self.marks: list[tuple[int, int, str]] = []
        self.position = 0
        self._complete = 0
        self._line_at = 0
        self._marked = START
        self._scanner = SgrScanner()

    @property
    def lines(self) -> int:
        """Lines so far, an unfinished one included."""
        return self._complete + (self.position > self._line_at)

    def feed(self, data: bytes) -> None:
        """Takes the next output."""
        start = 0
        while end := self._block(data, start):
            self._take(data[start:end])
            start = end
            self._mark()
        if rest := data[start:]:
            self._take(rest)

    def gap(self, size: int) -> None:
        """Takes a place at which bytes were cut: the line before ends, and a notice follows."""
        self._complete += 2
        self.position += size
        self._line_at = self.position
        self._mark()

    def index(self, pieces: tuple[int, ...] = ()) -> LineIndex:
        """Returns the index of what has come so far."""
        return LineIndex.model_construct(
            size=self.position, lines=self.lines, marks=tuple(self.marks), pieces=pieces
        )

    def _block(self, data: bytes, start: int) -> int:
        """Returns where the next mark is in a piece of output, 0 if it is not there."""
        window = start + _BYTES_APART
        if block := whole_lines(self._until_mark).match(data, start, window):
            return block.end()
        if window >= len(data):
            return 0
        return (data.rfind(b"\n", start, window) + 1) or (data.find(b"\n", window) + 1)

    @property
    def _until_mark(self) -> int:
        """Lines until the next mark, where they are of usual length."""
        if self._line_at - self._marked.offset >= _BYTES_APART:
            return 1
        return max(self._marked.line + LINES_APART - 1 - self._complete, 1)

    def _take(self, data: bytes) -> None:
        self._scanner.feed(data)
        if lines := data.count(b"\n"):
            self._complete += lines
            self._line_at = self.position + data.rindex(b"\n") + 1
        self.position += len(data)

    def _mark(self) -> None:
        self._marked = LineMark(self._complete + 1, self._line_at, self._scanner.state)
        self.marks.append((self._marked.line, self._marked.offset, text_of(self._marked.sgr)))
