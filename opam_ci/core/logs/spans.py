"""A line as it is shown: spans of text with classes.

Of escape sequences, those of colours alone have an effect. Others (titles, links, cursors, device
control) are left out; a character that would be invisible or change the direction of writing is
shown by name, and so is an escape that begins no sequence, so that a log hides nothing.
"""

import re
import unicodedata
from itertools import groupby
from typing import Final, NamedTuple

from opam_ci.core.logs.lines import RawLine
from opam_ci.core.logs.sgr import SEQUENCE, Sgr, after, classes

_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC
    r"|\x1b[P^_X][^\x1b]*\x1b\\"  # DCS, PM, APC, SOS
    r"|\x1b[ -/]{1,4}[0-~]|\x1b[0-OQ-WYZ\\`-~]"  # character sets; all of two characters
)

_PICTURES: Final = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421}
"""ASCII's control characters and their pictures in Unicode."""

HIDDEN: Final = "hidden"
"""Class of characters that are shown by name."""


class Span(NamedTuple):
    """A piece of a line.

    Attributes:
        text: What is shown.
        classes: Classes with spaces between: `sgr1`, `sgr31` … by code, or HIDDEN.
    """

    text: str
    classes: str = ""


def spans(data: bytes, sgr: Sgr) -> tuple[Span, ...]:
    """Returns a line as it is shown.

    Args:
        data: The line, without its end.
        sgr: The state at which it begins.
    """
    text = data.decode("utf-8", "replace")
    if text.isprintable():
        return (Span(text, classes(sgr)),) if text else ()
    found: list[Span] = []
    start = 0
    for escape in _ESCAPES.finditer(text):
        found += _visible(text[start : escape.start()], sgr)
        start = escape.end()
        sequence = escape.group().encode()
        if SEQUENCE.fullmatch(sequence):
            sgr = after(sgr, sequence)
    found += _visible(text[start:], sgr)
    return tuple(found)


def shown_text(line: RawLine) -> str:
    """Returns a line as plain text."""
    return "".join(span.text for span in spans(line.data, line.sgr))


def _visible(text: str, sgr: Sgr) -> list[Span]:
    named = classes(sgr)
    if text.isprintable():
        return [Span(text, named)] if text else []
    return [
        Span("".join(map(_name, run)), HIDDEN) if is_hidden else Span("".join(run), named)
        for is_hidden, run in groupby(map(_spaced, text), key=_is_hidden)
    ]


def _spaced(char: str) -> str:
    return " " if unicodedata.category(char) == "Zs" else char


def _is_hidden(char: str) -> bool:
    return not char.isprintable() and char != "\t"


def _name(char: str) -> str:
    if char.isascii():
        return char.translate(_PICTURES)
    return f"<U+{ord(char):04X}>"
