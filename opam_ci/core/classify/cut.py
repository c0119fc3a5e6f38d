"""A phase's text may lack its middle; offsets of its lines must be right all the same.

A runner keeps of each phase at most the first 64 KiB and the last 256 KiB of output. Where
something is missing it puts one line, `cut_mark(n)`, that says how many bytes.
"""

import re

HEAD_BYTES = 64 * 1024
"""How much of the start of a phase's output is kept: where a first error usually is."""

TAIL_BYTES = 256 * 1024
"""How much of its end is kept: where opam says what failed, with the output of it."""

_MARK = re.compile(r"^\[opam-ci: (\d{1,15}) bytes left out here\]$", re.MULTILINE)

# Decoding with replacement turns each undecodable byte into one character that would count
# three bytes; surrogate escapes stand for one byte as well.
_ONE_BYTE = re.compile("[\ufffd\udc80-\udcff]")


def cut_mark(dropped: int) -> str:
    """Returns the line (without newline) that stands for `dropped` bytes left out."""
    return f"[opam-ci: {dropped} bytes left out here]"


def cut(
    data: bytes, *, size: int | None = None, head: int = HEAD_BYTES, tail: int = TAIL_BYTES
) -> str:
    """Returns an output as the judge wants it: head, mark and tail, as text.

    Args:
        data: The output, or its ends joined (then `size` says how long it was).
        size: Bytes of the whole output; those of `data` if not given.
        head: Bytes to keep of its start.
        tail: Bytes to keep of its end.
    """
    whole = len(data) if size is None else size
    if whole <= head + tail:
        return data.decode("utf-8", "replace")
    first, last = data[:head], data[len(data) - tail :]
    mark = f"\n{cut_mark(whole - head - tail)}\n".encode()
    return (first + mark + last).decode("utf-8", "replace")


def byte_length(text: str) -> int:
    """Returns how many bytes of the log a text stands for.

    Exact for UTF-8. A byte that was no UTF-8 counts one, as it should; a real U+FFFD in
    the log counts one instead of three, and shifts what follows by two.
    """
    if text.isascii():
        return len(text)
    return len(text.encode("utf-8", "surrogatepass")) - 2 * len(_ONE_BYTE.findall(text))


class Offsets:
    """Maps positions in a phase's text to byte offsets in the attempt's whole log.

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
            # The log may quote such a line; the real one accounts for what is missing.
            dropped, added = int(mark.group(1)), len(mark.group()) + 2
            if abs(missing - (dropped - added)) <= slack:
                self._tail_at, self._shift = mark.end(), missing
                return

    def at(self, position: int, text_bytes: int) -> int:
        """Returns the offset in the log.

        Args:
            position: Index of the character in the text.
            text_bytes: How many bytes the text before it stands for.
        """
        shift = self._shift if self._tail_at is not None and position > self._tail_at else 0
        return self._start + text_bytes + shift
