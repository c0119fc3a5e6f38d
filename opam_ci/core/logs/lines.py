r"""Splitting a log into lines, as the classifier does (`core/classify/lines.py`).

A line ends with `\n` alone. A carriage return in it begins another writing of the same line; the
last one that is not empty is shown, as on a terminal. What identifies a line is the byte offset at
which it begins; numbers count from 1, and a line of ours in place of bytes that were cut has one.
"""

import re
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from opam_ci.core.logs.sgr import PLAIN, Sgr, SgrScanner, after

LINE_BYTES: Final = 16 * 1024
"""Bytes of a line that are shown; a page links to the others."""


@lru_cache(maxsize=1024)
def whole_lines(count: int) -> re.Pattern[bytes]:
    """Returns a pattern of so many lines, with their ends: ten times as fast as a loop."""
    return re.compile(rb"(?:[^\n]*+\n){%d}" % count)


@dataclass(frozen=True, slots=True)
class RawLine:
    """One line of a log.

    Attributes:
        number: From 1.
        offset: Byte offset in the log of its first byte.
        end: Offset after its last byte, which is the line end unless it has none (yet).
        data: Its last writing, at most LINE_BYTES of it.
        data_at: Offset of that writing.
        sgr: The state at which the writing begins.
        is_cut: Whether the writing is longer.
        is_complete: Whether the line ended: otherwise it may grow.
        is_notice: Whether it is a line of ours that takes up no offsets.
    """

    number: int
    offset: int
    end: int
    data: bytes
    data_at: int
    sgr: Sgr = PLAIN
    is_cut: bool = False
    is_complete: bool = True
    is_notice: bool = False


class LineCutter:
    """Cuts output that comes in pieces into lines. It keeps at most LINE_BYTES, twice.

    Args:
        number: Of the line with which it begins.
        offset: At which that line begins.
        sgr: The state there.
    """

    def __init__(self, number: int = 1, offset: int = 0, sgr: Sgr = PLAIN) -> None:
        self._number = number
        self._offset = offset
        self._position = offset
        self._scanner = SgrScanner(sgr)
        self._writing = _Writing(offset, sgr)
        self._last: _Writing | None = None

    @property
    def number(self) -> int:
        """Number of the line that is not complete yet."""
        return self._number

    @property
    def line_offset(self) -> int:
        """Offset at which the line begins that is not complete yet."""
        return self._offset

    @property
    def position(self) -> int:
        """Offset of the next byte."""
        return self._position

    @property
    def partial(self) -> RawLine | None:
        """The line that is not complete yet, None if nothing of it has come."""
        return self._line(is_complete=False) if self._position > self._offset else None

    def copy(self) -> "LineCutter":
        """Returns another one at the same place."""
        return deepcopy(self)

    def feed(self, data: bytes) -> list[RawLine]:
        """Takes the next output, returns the lines that are complete by it."""
        first, *others = data.split(b"\n")
        if not others:
            self._add(first)
            return []
        lines = [self._ended(first)]
        for text in others[:-1]:
            if len(text) > LINE_BYTES or b"\r" in text:
                self._begin()
                lines.append(self._ended(text))
                continue
            # The usual line, several times as fast: a log has up to a million.
            end = self._position + len(text) + 1
            state = self._scanner.state
            lines.append(RawLine(self._number, self._offset, end, text, self._offset, state))
            self._scanner.state = after(state, text)
            self._number += 1
            self._offset = self._position = end
        self._begin()
        self._add(others[-1])
        return lines

    def gap(self, size: int, notice: bytes) -> list[RawLine]:
        """Takes a place at which bytes were cut.

        Args:
            size: How many.
            notice: What is shown instead.

        Returns:
            The line before, which ends here though it may be empty, and the notice.
        """
        before = self._line(is_complete=True)
        at = self._position
        cut = RawLine(before.number + 1, at, at + size, notice.strip(), at, is_notice=True)
        self._number = cut.number + 1
        self._offset = self._position = cut.end
        self._begin()
        return [before, cut]

    def _begin(self) -> None:
        self._writing, self._last = _Writing(self._offset, self._scanner.state), None

    def _ended(self, text: bytes) -> RawLine:
        self._add(text)
        self._scanner.feed(b"\n")
        self._position += 1
        line = self._line(is_complete=True)
        self._number += 1
        self._offset = self._position
        self._begin()
        return line

    def _add(self, text: bytes) -> None:
        first, *others = text.split(b"\r")
        self._write(first)
        for each in others:
            if self._writing.size:
                self._last = self._writing
            self._scanner.feed(b"\r")
            self._position += 1
            self._writing = _Writing(self._position, self._scanner.state)
            self._write(each)

    def _write(self, text: bytes) -> None:
        self._writing.add(text)
        self._scanner.feed(text)
        self._position += len(text)

    def _line(self, *, is_complete: bool) -> RawLine:
        shown = self._writing if self._writing.size or self._last is None else self._last
        return RawLine(
            number=self._number,
            offset=self._offset,
            end=self._position,
            data=bytes(shown.kept),
            data_at=shown.offset,
            sgr=shown.sgr,
            is_cut=shown.size > len(shown.kept),
            is_complete=is_complete,
        )


class _Writing:
    """What stands between two carriage returns."""

    def __init__(self, offset: int, sgr: Sgr) -> None:
        self.offset = offset
        self.sgr = sgr
        self.size = 0
        self.kept = bytearray()

    def add(self, text: bytes) -> None:
        self.kept += text[: LINE_BYTES - len(self.kept)]
        self.size += len(text)
