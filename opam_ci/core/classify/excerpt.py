"""Excerpts of logs: text without its middle, with right offsets of its lines.

A runner keeps at most the first 64 KiB and the last 256 KiB of a phase's output. In place of the
missing bytes it has one line, `gap_mark(n)`, with their number.
"""

import re

HEAD_BYTES = 64 * 1024
"""Bytes that are kept of the start of a phase's output, where the first error usually is."""

TAIL_BYTES = 256 * 1024
"""Bytes that are kept of its end, where opam reports failures with their output."""

_MARK = re.compile(r"^\[opam-ci: (\d{1,15}) bytes left out here\]$", re.MULTILINE)

# Decoding with replacement turns each undecodable byte into one character that would count
# three bytes; surrogate escapes represent one byte as well.
_ONE_BYTE = re.compile("[\ufffd\udc80-\udcff]")


def gap_mark(dropped: int) -> str:
    """Return the line (without newline) that replaces `dropped` bytes."""
    return f"[opam-ci: {dropped} bytes left out here]"


def cut(
    data: bytes, *, size: int | None = None, head: int = HEAD_BYTES, tail: int = TAIL_BYTES
) -> str:
    """Return the input of the judge: head, mark and tail of an output, as text.

    Args:
        data: The output, or its ends joined (then `size` is its whole length).
        size: Bytes of the whole output; those of `data` by default.
        head: Bytes to keep of its start.
        tail: Bytes to keep of its end.
    """
    whole = len(data) if size is None else size
    if whole <= head + tail:
        return data.decode("utf-8", "replace")
    first, last = data[:head], data[len(data) - tail :]
    mark = f"\n{gap_mark(whole - head - tail)}\n".encode()
    return (first + mark + last).decode("utf-8", "replace")


def byte_length(text: str) -> int:
    """Return how many bytes of the log a text represents.

    Exact for UTF-8. A byte that was not UTF-8 counts one, as it should; a real U+FFFD in
    the log counts one instead of three, and shifts what follows by two.
    """
    if text.isascii():
        return len(text)
    return len(text.encode("utf-8", "surrogatepass")) - 2 * len(_ONE_BYTE.findall(text))


class Offsets:
    """Map of positions in a phase's text to byte offsets in the attempt's whole log.

    Before the mark, offsets count from the phase's start; after it, from its end backwards.
    Without a mark, or without a known end, they count from the start.
    """

    def __init__(self, text: str, *, log_start: int = 0, log_end: int | None = None) -> None:
        self._start = log_start
        self._tail_at: int | None = None
        self._shift = 0
        if log_end is None:
            return
        missing = (log_end - log_start) - byte_length(text)
        # A character cut in two, or a longer broken one, counts one byte instead of its two or
        # three: then the lengths agree only nearly.
        slack = 2 * text.count("\ufffd")
        for mark in _MARK.finditer(text):
            # The log may quote such a line; the real one has the number of the missing bytes.
            dropped, added = int(mark.group(1)), len(mark.group()) + 2
            if abs(missing - (dropped - added)) <= slack:
                self._tail_at, self._shift = mark.end(), missing
                return

    def at(self, position: int, text_bytes: int) -> int:
        """Return the offset in the log.

        Args:
            position: Index of the character in the text.
            text_bytes: How many bytes of the log the text before it represents.
        """
        shift = self._shift if self._tail_at is not None and position > self._tail_at else 0
        return self._start + text_bytes + shift
