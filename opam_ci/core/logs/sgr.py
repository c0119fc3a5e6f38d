"""Select Graphic Rendition (ECMA-48, 8.3.117): colours and weights, the only escapes kept.

A state is the sorted tuple of the codes that are in force, such as `(1, 31)` for bold red. Written
with semicolons it is itself a sequence that sets it, and each code is a class of a page.
"""

import re
from functools import lru_cache
from typing import Final

Sgr = tuple[int, ...]
"""The codes in force, sorted."""

PLAIN: Final[Sgr] = ()
"""Nothing is set."""

SEQUENCE: Final = re.compile(rb"\x1b\[([0-9;:]{0,64})m")
"""One sequence; a longer one sets nothing, as terminals limit the number of parameters too."""

_UNFINISHED: Final = re.compile(rb"\x1b(?:\[[0-9;:]{0,64})?\Z")
_LONGEST = 67
"""Bytes of the longest sequence."""

_RESETS = (b"", b"0")
_WEIGHTS = frozenset({1, 2, 3, 4, 7, 9})
"""Bold, faint, italic, underlined, inverse, crossed out. Blinking is left out, and so is
concealing: a log hides nothing."""
_RESET, _UNDERLINED, _DOUBLY_UNDERLINED = 0, 4, 21
_EXTENDED_FOREGROUND, _DEFAULT_FOREGROUND = 38, 39
_EXTENDED_BACKGROUND, _DEFAULT_BACKGROUND = 48, 49
_SWITCHED_OFF: Final = {22: (1, 2), 23: (3,), 24: (4,), 27: (7,), 29: (9,)}
_FOREGROUND: Final = frozenset((*range(30, 38), *range(90, 98)))
_BACKGROUND: Final = frozenset((*range(40, 48), *range(100, 108)))
_NORMAL = range(8)
_DIGITS = 3
"""Of the largest parameter with a meaning."""

_PALETTE: Final = (
    *((0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0)),
    *((0, 0, 238), (205, 0, 205), (0, 205, 205), (229, 229, 229)),
    *((127, 127, 127), (255, 0, 0), (0, 255, 0), (255, 255, 0)),
    *((92, 92, 255), (255, 0, 255), (0, 255, 255), (255, 255, 255)),
)
"""xterm's sixteen colours; all others are shown as the nearest of them."""
_CUBE, _GREYS = range(16, 232), range(232, 256)
_LEVELS = (0, 95, 135, 175, 215, 255)
"""xterm's 256 colours: after the sixteen a cube of these levels, then greys."""


def text_of(state: Sgr) -> str:
    """Returns a state as the parameters of the sequence that sets it."""
    return ";".join(map(str, state))


def state_of(text: str) -> Sgr:
    """Undoes `text_of`."""
    return _applied(PLAIN, text.encode("ascii", "replace")) if text else PLAIN


def classes(state: Sgr) -> str:
    """Returns the classes of a state, such as `sgr1 sgr31`."""
    return " ".join(f"sgr{code}" for code in state)


def after(state: Sgr, data: bytes) -> Sgr:
    """Returns the state after output, which ends in no unfinished sequence."""
    if b"\x1b[" not in data:
        return state
    found = SEQUENCE.findall(data)
    # What was set before the last reset does not matter: most tools reset after each word.
    last = next((at for at in range(len(found) - 1, -1, -1) if found[at] in _RESETS), 0)
    for parameters in found[last:]:
        state = _applied(state, parameters)
    return state


class SgrScanner:
    """The state after output that comes in pieces, which may divide a sequence.

    Attributes:
        state: After all complete sequences so far.
    """

    def __init__(self, state: Sgr = PLAIN) -> None:
        self.state = state
        self._unfinished = b""

    def feed(self, data: bytes) -> None:
        """Takes the next piece."""
        if self._unfinished:
            data = self._unfinished + data
        elif b"\x1b" not in data:
            return
        self.state = after(self.state, data)
        rest = _UNFINISHED.search(data, max(len(data) - _LONGEST, 0))
        self._unfinished = rest.group() if rest else b""


@lru_cache(maxsize=4096)
def _applied(state: Sgr, parameters: bytes) -> Sgr:
    codes = set(state)
    pending = parameters.decode("ascii").split(";")
    while pending:
        first, *details = pending.pop(0).split(":")
        code = _number(first)
        if code in {_EXTENDED_FOREGROUND, _EXTENDED_BACKGROUND}:
            details = details or _taken(pending)
            _set_colour(codes, _nearest(details), background=code == _EXTENDED_BACKGROUND)
        elif code == _UNDERLINED and details[:1] == ["0"]:
            codes.discard(_UNDERLINED)
        else:
            _apply(codes, code)
    return tuple(sorted(codes))


def _apply(codes: set[int], code: int | None) -> None:
    if code is None:
        return
    if code == _RESET:
        codes.clear()
    elif code in _WEIGHTS:
        codes.add(code)
    elif code == _DOUBLY_UNDERLINED:
        codes.add(_UNDERLINED)
    elif code in _SWITCHED_OFF:
        codes.difference_update(_SWITCHED_OFF[code])
    elif code == _DEFAULT_FOREGROUND:
        codes -= _FOREGROUND
    elif code == _DEFAULT_BACKGROUND:
        codes -= _BACKGROUND
    else:
        for colours in (_FOREGROUND, _BACKGROUND):
            if code in colours:
                codes -= colours
                codes.add(code)


def _number(text: str) -> int | None:
    """Returns the value of a parameter: 0 if it is left out, None if it is far too large."""
    return int(text or "0") if len(text) <= _DIGITS else None


def _taken(pending: list[str]) -> list[str]:
    """Removes the parameters of a colour that are given as parameters of their own."""
    count = {"5": 2, "2": 4}.get(pending[0] if pending else "", 1)
    taken, pending[:count] = pending[:count], []
    return taken


def _set_colour(codes: set[int], colour: int | None, *, background: bool) -> None:
    if colour is None:
        return
    base = (30 if colour in _NORMAL else 82) + (10 if background else 0)
    _apply(codes, base + colour)


def _nearest(details: list[str]) -> int | None:
    """Returns which of the sixteen colours is nearest to one of 256, or to one of RGB."""
    numbers = [_number(each) for each in details]
    match numbers:
        case [5, int(index)]:
            return _nearest_of_256(index)
        case [2, *_, int(red), int(green), int(blue)]:
            return _nearest_to(red, green, blue)
        case _:
            return None


def _nearest_of_256(index: int) -> int | None:
    if index < len(_PALETTE):
        return index
    if index in _CUBE:
        place = index - _CUBE.start
        return _nearest_to(_LEVELS[place // 36], _LEVELS[place // 6 % 6], _LEVELS[place % 6])
    if index in _GREYS:
        grey = 8 + 10 * (index - _GREYS.start)
        return _nearest_to(grey, grey, grey)
    return None


def _nearest_to(red: int, green: int, blue: int) -> int:
    def distance(at: int) -> int:
        r, g, b = _PALETTE[at]
        return (r - red) ** 2 + (g - green) ** 2 + (b - blue) ** 2

    return min(range(len(_PALETTE)), key=distance)
