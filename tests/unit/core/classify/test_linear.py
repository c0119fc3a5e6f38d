"""No pattern that reads a log takes longer for a hostile line than in proportion to its length.

The hostile lines are made of each pattern's own parse tree: whatever a run of its parts matches is
repeated up to the longest line there is, behind what leads up to it. The measure is the cheapest
search there is that takes time in proportion to the square, in the same process: no pattern may
cost more than twice that.
"""

import importlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from re import _constants as sre
from re import _parser
from typing import Any

import pytest

from opam_ci.core.classify import attribution, every_rule, lines, sources
from opam_ci.core.classify import package_output as frames
from opam_ci.core.classify import salience as salient_line
from opam_ci.core.classify.lines import LINE_CAP, clean

_compiler = importlib.import_module("re._compiler")  # typeshed leaves it out

Search = Callable[[str], object]
Part = tuple[Any, Any]
"""A node of a pattern's tree: operation and operand."""

MATCHED = {
    lines: {"_STAMPS", "_QUOTE", "_DIFF_START", "_DIFF_LINE", "_SCRIPT", "_CITED"},
    frames: {"_REPORT", "_SANDBOXED", "_OUTPUT_END", "_COMMAND"},
    attribution: {"_SECTION_END", "_ACTION", "_PLANNED", "_REPORT"},
    sources: {"_HOST_REFUSED"},
}
"""Patterns that are tried at the start of a line alone."""

_REPEATS = {sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT}
_SETS = {sre.IN, sre.ANY, sre.NOT_LITERAL}
_TYPICAL = "ax1 -./\"'=:(\t"
_PUMPS = ("a", "1", " ", "x ", "/", "/a", "a.", "'", '"', "(", "[", "=", "# ", "\t", "é", "a: ")
_LONGEST_RUN = 6
_MOST_VARIANTS = 16


def _some(choices: list[Any], most: int) -> list[Any]:
    step = max(1.0, len(choices) / most)
    return [choices[int(at * step)] for at in range(min(most, len(choices)))]


def _texts_of(parts: Iterable[Part], most: int = 6) -> list[str]:
    """Returns a few texts that a sequence matches."""
    found = [""]
    for part in parts:
        found = _some([head + tail for head, tail in product(found, _texts(part))], most)
    return found


def _texts(part: Part) -> list[str]:
    operation, operand = part
    if operation is sre.LITERAL:
        return [chr(operand)]
    if operation is sre.BRANCH:
        return [text for branch in operand[1] for text in _texts_of(branch, 2)]
    if operation is sre.SUBPATTERN or operation is sre.ATOMIC_GROUP:
        return _texts_of(operand[-1] if operation is sre.SUBPATTERN else operand)
    if operation in _REPEATS:
        least, _, repeated = operand
        once = _texts_of(repeated, 4)
        return [text * least for text in once] if least else ["", *once]
    if operation in _SETS:
        tree = _parser.parse("x")
        tree.data[:] = [part]
        one = _compiler.compile(tree)
        own = (
            [chr(v if op is sre.LITERAL else v[0]) for op, v in operand if op in _CHARACTERS]
            if (operation is sre.IN)
            else []
        )
        return [char for char in (*_TYPICAL, *own) if one.match(char)][:3] or ["x"]
    return [""]  # an anchor, or a look around


_CHARACTERS = {sre.LITERAL, sre.RANGE}


def _variants(parts: Iterable[Part], most: int) -> list[list[Part]]:
    """Returns a pattern's sequences of parts, with groups opened and branches chosen."""
    found: list[list[Part]] = [[]]
    for operation, operand in parts:
        match operation:
            case sre.SUBPATTERN:
                further = _variants(operand[-1], 4)
            case sre.ATOMIC_GROUP:
                further = _variants(operand, 4)
            case sre.BRANCH:
                further = [each for branch in operand[1] for each in _variants(branch, 4)]
            case _:
                further = [[(operation, operand)]]
        found = _some([head + tail for head, tail in product(found, further)], most)
    return found


def _pieces(parts: Iterable[Part]) -> list[list[str]]:
    """Returns for each part what it may match; letters in a row are one part."""
    found: list[list[str]] = []
    word = ""
    for operation, operand in parts:
        if operation is sre.LITERAL:
            word += chr(operand)
            continue
        found += [[word]] if word else []
        word = ""
        found.append(_texts((operation, operand))[:4])
    return [piece for piece in [*found, [word]] if any(piece)]


def hostile_lines(pattern: str) -> Iterator[str]:
    """Yields lines of the longest length that a pattern may take long for."""
    tree = _parser.parse(pattern)
    whole = tree[0][1][1] if len(tree) == 1 and tree[0][0] is sre.BRANCH else [tree]
    seen = {(pump, "") for pump in _PUMPS}
    for parts in (each for alternative in whole for each in _variants(alternative, _MOST_VARIANTS)):
        pieces = _pieces(parts)
        for start in range(len(pieces)):
            before = "".join(max(piece, key=len) for piece in pieces[:start])
            for end in range(start + 1, min(len(pieces), start + _LONGEST_RUN) + 1):
                for choice in (0, 1, -1):
                    run = "".join(piece[min(choice, len(piece) - 1)] for piece in pieces[start:end])
                    seen |= {(run, ""), (run, before)}
    for run, before in seen:
        if run:
            yield (before + run * (LINE_CAP // len(run) + 1))[:LINE_CAP]


def _cost(search: Search, line: str, *, tries: int, enough: float = 0.0) -> float:
    """Returns the CPU seconds of the fastest of some tries, or the first that is fast enough."""
    fastest = float("inf")
    for _ in range(tries):
        started = time.thread_time()
        search(line)
        fastest = min(fastest, time.thread_time() - started)
        if fastest <= enough:
            break
    return fastest


def slowest_line(search: Search, pattern: str) -> str | None:
    """Returns a line for which a search takes longer than in proportion, None if there is none."""
    square = re.compile("x+y").search
    allowed = 2 * _cost(square, "x" * LINE_CAP, tries=5)
    for line in hostile_lines(pattern):
        if _cost(search, line, tries=3, enough=allowed) <= allowed:
            continue
        # The machine may just have been busy with something else.
        allowed = 2 * _cost(square, "x" * LINE_CAP, tries=30)
        if _cost(search, line, tries=30, enough=allowed) > allowed:
            return line
    return None


def _searches() -> Iterator[tuple[str, Search, str]]:
    for rule in every_rule():
        yield rule.id, rule.compiled.search, rule.compiled.pattern
        for name, pattern in (("after", rule.after), ("unless", rule.unless)):
            if pattern is not None:
                yield f"{rule.id}, {name}", re.compile(pattern).search, pattern
    for module in (lines, frames, attribution, sources, salient_line):
        for name, value in vars(module).items():
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, re.Pattern):
                    matched = name in MATCHED.get(module, ())
                    where = f"{module.__name__.rpartition('.')[2]}.{name}"
                    yield where, each.match if matched else each.search, each.pattern


SEARCHES = list(_searches())


@pytest.mark.parametrize(
    ("search", "pattern"), [each[1:] for each in SEARCHES], ids=[each[0] for each in SEARCHES]
)
def test_a_pattern_takes_time_in_proportion_to_the_line(search: Search, pattern: str) -> None:
    assert slowest_line(search, pattern) is None


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:/tmp|TMPDIR)\S*.{0,300}(?:Permission denied|not permitted)",
        r"(?:cc1\w*|as|ld\S*): out of memory",
        r"\d+ errors; \d+ (?:MiB|distinct)",
        r'\\?"(?:/\S*/)?(?:zfs|xfs\S*)\\?" .{0,900}\bfailed',
        r"^# Ran \d+ tests?, .*[1-9]\d* failed",
    ],
)
def test_patterns_that_were_slow_are_found(pattern: str) -> None:
    assert slowest_line(re.compile(pattern).search, pattern) is not None


PHASE = 320 * 1024
"""The longest text that is read of a phase; one line of it may be as long."""


@pytest.mark.parametrize(
    "pump",
    ["\x1b[1", "\x1b]a", "\x1b[ ", "&#1", "&gt", "a\r", "#1 ", " ", "--- a -", "- [", "^", "\x00"],
)
def test_cleaning_takes_time_in_proportion_to_the_text(pump: str) -> None:
    def took(size: int) -> float:
        return _cost(clean, (pump * size)[:size], tries=3)

    # A square would take sixteen times as long; the rest is for a busy machine.
    assert took(PHASE) < 10 * took(PHASE // 4) + 0.05


def test_a_number_that_python_refuses_does_not_crash() -> None:
    (line,) = clean(f"&gt; &#{'1' * 5000};")

    assert line.text.endswith("111;")
