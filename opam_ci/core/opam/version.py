"""The order of versions: Debian's, with `~` before everything, as in opam.

The rules are those of opam's `OpamVersionCompare`: the part before the last `-` is compared
first, then the part after it; runs of digits compare as numbers; other characters one by one,
`~` before the end of the text, the end before letters, letters before the rest.
"""

import re
from functools import cmp_to_key, lru_cache
from itertools import zip_longest
from typing import Any, Final

_RUNS: Final = re.compile(r"([^0-9]*)([0-9]*)")
_TILDE: Final = -1
_END_OF_TEXT: Final = 0
#: More than any letter, so that all other characters follow the letters.
_NOT_A_LETTER: Final = 0x200

#: The results of `compare` for which a relation holds.
_ORDERS: Final[dict[str, tuple[int, ...]]] = {
    "<": (-1,),
    "<=": (-1, 0),
    "=": (0,),
    ">=": (0, 1),
    ">": (1,),
    "!=": (-1, 1),
}

_Weights = tuple[int, ...]


def compare(left: str, right: str) -> int:
    """-1, 0 or 1: `left` is older than, as new as, or newer than `right`."""
    for left_part, right_part in zip(_parts(left), _parts(right), strict=True):
        # The shorter one is filled with the end of the text, which is also the number zero.
        for one, other in zip_longest(left_part, right_part, fillvalue=_END_OF_TEXT):
            if one != other:
                return -1 if one < other else 1
    return 0


def satisfies(version: str, op: str, bound: str) -> bool:
    """Whether a version satisfies a constraint such as `>= "1.0"`."""
    return compare(version, bound) in _ORDERS[op]


#: A key for `sorted` and friends: `sorted(versions, key=version.key)`.
key: Any = cmp_to_key(compare)


def canonical(version: str) -> tuple[_Weights, _Weights]:
    """A hashable value that is equal exactly for versions that compare as equal."""
    return _parts(version)


@lru_cache(maxsize=65_536)  # the repository has some 9,000 distinct versions
def _parts(version: str) -> tuple[_Weights, _Weights]:
    upstream, _, revision = version.rpartition("-") if "-" in version else (version, "", "")
    return _weights(upstream), _weights(revision)


def _weights(text: str) -> _Weights:
    weights: list[int] = []
    for other, digits in _RUNS.findall(text):
        weights += [_weight(char) for char in other]
        weights += (_END_OF_TEXT, _number(digits))
    while weights and weights[-1] == 0:
        weights.pop()
    return tuple(weights)


def _number(digits: str) -> int:
    # Python reads at most 4,300 digits at once. Hexadecimal has no such limit and keeps the
    # order of numbers that are written in decimal.
    return int(digits, 16) if digits else 0


def _weight(char: str) -> int:
    if char == "~":
        return _TILDE
    if char.isascii() and char.isalpha():
        return ord(char)
    return ord(char) + _NOT_A_LETTER
