"""Changes of a file as suggestions, in the form that comments of a review on GitHub take.

Such a comment is on lines of a file, and a suggestion in it replaces all of them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

_BACKTICKS: Final = re.compile(r"`+")
_FENCE: Final = 3
"""Backticks around a block of code in Markdown, at least."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Lines of a file, and those that are to take their place.

    Attributes:
        first: Number of the first line that is replaced, from 1.
        last: Number of the last one: at least one is replaced.
        lines: The new lines, without their ends; none to delete the old ones.
    """

    first: int
    last: int
    lines: tuple[str, ...]

    def markdown(self, path: str) -> str:
        """Returns it as Markdown, behind the lines that it is for.

        Args:
            path: Of the file, below the repository.
        """
        where = (
            f"lines {self.first}-{self.last}" if self.last > self.first else f"line {self.first}"
        )
        runs = (len(run) + 1 for line in self.lines for run in _BACKTICKS.findall(line))
        fence = "`" * max((_FENCE, *runs))
        return "\n".join((f"{path}, {where}:", f"{fence}suggestion", *self.lines, fence, ""))


def suggestions(before: str, after: str) -> tuple[Suggestion, ...]:
    """Returns what turns one text of a file into another, from its top; empty if they are the same.

    A difference in the end of the last line is none: a suggestion is of whole lines.

    Args:
        before: The text that the pull request has.
        after: The text that it is to have.
    """
    old, new = _lines(before), _lines(after)
    return tuple(
        Suggestion(first=start + 1, last=end, lines=tuple(new[into:until]))
        for start, end, into, until in _replaced(old, new)
    )


def suggested(path: str, before: str, after: str) -> str:
    """Returns what turns one text of a file into another, as Markdown; empty if they are the same.

    Args:
        path: Of the file, below the repository.
        before: The text that the pull request has.
        after: The text that it is to have.
    """
    return "\n".join(each.markdown(path) for each in suggestions(before, after))


def _lines(text: str) -> list[str]:
    # Not `splitlines`: to git and GitHub only a newline ends a line.
    return text.removesuffix("\n").split("\n")


def _replaced(old: list[str], new: list[str]) -> Iterator[tuple[int, int, int, int]]:
    """Yields ranges of old lines, none of them empty, with the ranges of new ones for them."""
    held: tuple[int, int, int, int] | None = None
    for tag, start, end, into, until in SequenceMatcher(None, old, new).get_opcodes():
        if tag == "equal":
            continue
        if start < end:
            found = (start, end, into, until)
        elif start > 0:
            # Nothing is replaced: the line before it is, by itself and what is new.
            found = (start - 1, end, into - 1, until)
        else:
            found = (start, end + 1, into, until + 1)
        if held is not None and found[0] < held[1]:
            found = (held[0], found[1], held[2], found[3])
        elif held is not None:
            yield held
        held = found
    if held is not None:
        yield held
