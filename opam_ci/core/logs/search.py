"""Searching a log for a text, literally; ASCII letters match in either case."""

import re
from typing import Final, NamedTuple

from opam_ci.core.logs.line_index import LineMark
from opam_ci.core.logs.lines import whole_lines
from opam_ci.core.logs.sgr import PLAIN
from opam_ci.core.logs.spans import spans

_ESCAPES: Final = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")
"""What may be in the middle of a word that is coloured."""

_LONG_LINE = 1024 * 1024
"""Bytes of a line that are kept until it ends; the text is searched in longer ones as they come."""

_OVERLAP = 2048
"""Bytes of such a line that are searched again with what follows."""

_BEFORE, _SHOWN = 80, 400
"""Bytes that are shown before the text, and altogether."""


class Hit(NamedTuple):
    """A line that has the text.

    Attributes:
        number: Its number, from 1.
        offset: Its byte offset.
        text: What is around the first place, fit to print.
    """

    number: int
    offset: int
    text: str


class Searcher:
    """Searches output that comes in pieces.

    Args:
        wanted: The text: not empty, and without line ends.
        start: The line with which the output begins.
        first: Lines before this one are no hits.
    """

    def __init__(self, wanted: str, start: LineMark, first: int = 1) -> None:
        self._wanted = wanted.encode("utf-8", "replace").lower()
        self._number = start.line
        self._line_at = self._position = start.offset
        self._carried = b""
        self._last = first - 1

    @property
    def number(self) -> int:
        """Number of the first line that has not been searched whole."""
        return self._number

    def feed(self, data: bytes) -> list[Hit]:
        """Takes the next output, returns the lines that have the text, each once."""
        data = self._carried + data
        end = data.rfind(b"\n") + 1
        self._carried = data[end:]
        hits = self._search(data[:end]) if end else []
        if len(self._carried) > _LONG_LINE:
            data, self._carried = self._carried, self._carried[-_OVERLAP:]
            hits += self._search(data)
            self._position -= len(self._carried)
        return hits

    def gap(self, size: int) -> list[Hit]:
        """Takes a place at which bytes were cut: the line before ends, and a notice follows."""
        hits = self.finish()
        self._number += 2
        self._position += size
        self._line_at = self._position
        return hits

    def finish(self) -> list[Hit]:
        """Takes the end of the output."""
        data, self._carried = self._carried, b""
        return self._search(data)

    def _search(self, data: bytes) -> list[Hit]:
        plain = _ESCAPES.sub(b"", data) if b"\x1b" in data else data
        lowered = plain.lower()
        hits: list[Hit] = []
        at, line_at = 0, 0
        while (found := lowered.find(self._wanted, at)) >= 0:
            passed = plain.count(b"\n", at, found)
            if passed:
                line_at = _after(data, line_at, passed)
                self._number += passed
                self._line_at = self._position + line_at
            start = plain.rfind(b"\n", 0, found) + 1
            at = plain.find(b"\n", found)
            at = len(plain) if at < 0 else at
            if self._number > self._last:
                self._last = self._number
                first = max(start, found - _BEFORE)
                text = "".join(each.text for each in spans(plain[first:at][:_SHOWN], PLAIN))
                hits.append(Hit(self._number, self._line_at, text))
        self._number += plain.count(b"\n", at)
        self._position += len(data)
        if data.endswith(b"\n"):
            self._line_at = self._position
        return hits


def _after(data: bytes, start: int, lines: int) -> int:
    """Returns where so many lines after a place end."""
    match = whole_lines(lines).match(data, start)
    return match.end() if match else len(data)
