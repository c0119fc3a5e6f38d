"""The result of a decision about a change's effect on packages that it does not touch."""

from typing import Final

from opam_ci.core.model import Frozen
from opam_ci.core.submission.result import ChangeKind

FIRST: Final = 20
"""Lost packages that are passed on with a summary; the store has all."""

_NO_EFFECT: Final = frozenset({ChangeKind.INSIGNIFICANTLY_CHANGED, ChangeKind.UNCHANGED})


class LostPackage(Frozen):
    """A package that cannot be installed any more.

    Attributes:
        package: Its full name.
        ocaml: Releases of OCaml with which it could be installed before.
        last_on: Those of them with which no other version of it can be installed.
    """

    package: str
    ocaml: tuple[str, ...]
    last_on: tuple[str, ...] = ()


class Effect(Frozen):
    """The effect of a change on the packages of a repository that it does not touch.

    Attributes:
        ocaml: The releases of OCaml for which it was decided.
        lost: Packages that cannot be installed any more, those without another version first.
        more: How many there are beyond these.
        cycles: For packages of the change that come to need themselves, the way round: full names,
            the first one at the end again.
        left_out: How many packages have dependencies that could not be evaluated: they count as
            not available.
        unknown: Why nothing is known, None if it was decided.
    """

    ocaml: tuple[str, ...] = ()
    lost: tuple[LostPackage, ...] = ()
    more: int = 0
    cycles: tuple[tuple[str, ...], ...] = ()
    left_out: int = 0
    unknown: str | None = None

    @property
    def number(self) -> int:
        """How many packages cannot be installed any more."""
        return len(self.lost) + self.more

    def first(self, number: int = FIRST) -> "Effect":
        """Returns the same with the first packages alone."""
        more = self.more + max(0, len(self.lost) - number)
        return self.model_copy(update={"lost": self.lost[:number], "more": more})


def may_have_effect(kinds: frozenset[ChangeKind]) -> bool:
    """Whether packages that changed in these ways can have an effect on others."""
    return bool(kinds - _NO_EFFECT)
