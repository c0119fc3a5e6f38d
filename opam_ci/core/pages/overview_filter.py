"""The filter of pull requests in a URL: `is:failure author:somebody words`."""

from typing import Final, Self

from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.summary import State
from opam_ci.core.model import Frozen
from opam_ci.core.printable import clip, flat

LENGTH: Final = 300
"""Characters of a filter at most."""

_WORDS = 10
_STATES: Final = tuple(state.value for state in State)
_IS: Final = (*_STATES, "open", "closed", "any")


class OverviewFilter(Frozen):
    """Which pull requests; an empty field matches all.

    Attributes:
        state: `is:success` and the like: the state on GitHub of the newest testing.
        is_open: Whether it is open, which is the default; `is:closed`, or `is:any` for None.
        author: `author:`: the account that opened it.
        words: Each is contained in its title or target, in any case.
    """

    state: State | None = None
    is_open: bool | None = True
    author: str | None = None
    words: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses a filter.

        Raises:
            UsageError: It is too long, or has an unknown key or value; its text names what there
                is.
        """
        terms = text.split()
        if len(text) > LENGTH or len(terms) > _WORDS:
            raise UsageError(f"a filter has {LENGTH} characters and {_WORDS} words at most")
        state: State | None = None
        is_open: bool | None = True
        author: str | None = None
        words: list[str] = []
        for term in terms:
            key, colon, value = term.partition(":")
            if not colon:
                words.append(term)
            elif key == "author" and value:
                author = value
            elif key == "is" and value in _STATES:
                state = State(value)
            elif key == "is" and value in _IS:
                is_open = {"open": True, "closed": False, "any": None}[value]
            else:
                raise UsageError(
                    f"invalid filter {clip(flat(term), 60)!r}: use words of the title, "
                    f"author:NAME, or is: with one of {', '.join(_IS)}"
                )
        return cls(state=state, is_open=is_open, author=author, words=tuple(words))
