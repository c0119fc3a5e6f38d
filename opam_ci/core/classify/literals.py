"""Literal texts that every match of a pattern contains: a cheap test before the search."""

from collections.abc import Iterable, Sequence
from re import _constants as sre
from re import _parser
from typing import Any

Part = tuple[Any, Any]
"""A node of a pattern's tree: operation and operand."""

_REPEATS = frozenset({sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT})


def literals(patterns: Iterable[str]) -> frozenset[str]:
    """Return lower-case texts; each text that a pattern matches contains one of them.

    Empty if a pattern has no such text: then only a search decides.
    """
    found: set[str] = set()
    for pattern in patterns:
        needed = _of_sequence(list(_parser.parse(pattern)))
        if not any(needed):
            return frozenset()
        found |= needed
    return frozenset(found)


def _of_sequence(parts: Sequence[Part]) -> frozenset[str]:
    """Return the best of the texts that the parts of a sequence require: the longest."""
    choices: list[frozenset[str]] = []
    run = ""
    for part in parts:
        if (char := _character(part)) is not None:
            run += char
            continue
        if part[0] is sre.AT:
            continue  # a position between two characters
        choices += [frozenset({run}), _of_part(part)]
        run = ""
    choices.append(frozenset({run}))
    return max(choices, key=lambda texts: min(map(len, texts), default=0))


def _of_part(part: Part) -> frozenset[str]:
    operation, operand = part
    if operation is sre.SUBPATTERN:
        _, flags, _, parts = operand
        # A match that ignores case may contain characters with other lower-case forms.
        return frozenset() if flags else _of_sequence(list(parts))
    if operation is sre.ATOMIC_GROUP:
        return _of_sequence(list(operand))
    if operation in _REPEATS:
        least, _, parts = operand
        return _of_sequence(list(parts)) if least else frozenset()
    if operation is sre.BRANCH:
        branches = [_of_sequence(list(parts)) for parts in operand[1]]
        return frozenset().union(*branches) if all(map(any, branches)) else frozenset()
    return frozenset()


def _character(part: Part) -> str | None:
    """Return the only lower-case character that a part matches, None if there are more."""
    operation, operand = part
    if operation is sre.LITERAL:
        return chr(operand).lower()
    if operation is sre.IN and all(each is sre.LITERAL for each, _ in operand):
        (first, *others) = {chr(code).lower() for _, code in operand}
        return None if others else first
    return None
