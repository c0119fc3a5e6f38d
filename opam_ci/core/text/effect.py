"""What is shown of a change's effect on packages that it does not touch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from opam_ci.core.submission.effect import Effect, LostPackage

_NAMED: Final = 3
"""Packages, and releases, that are named in a line."""


def effect_notices(effect: Effect | None) -> Iterator[str]:
    """Yields what a summary has of an effect: nothing if there is none."""
    if effect is None:
        return
    if effect.unknown is not None:
        yield f"effect on other packages not known: {effect.unknown}"
    if effect.number:
        names = [one.package for one in effect.lost]
        yield f"{effect_title(effect)}: {_some(names, effect.number)}"
    for cycle in effect.cycles[:_NAMED]:
        yield f"dependency cycle: {cycle_text(cycle)}"


def effect_text(effect: Effect | None) -> str:
    """Returns what the sentence of a head has of an effect; empty if there is none."""
    if effect is None:
        return ""
    if effect.number:
        return effect_title(effect)
    return "adds a dependency cycle" if effect.cycles else ""


def effect_title(effect: Effect) -> str:
    """Returns how many packages cannot be installed any more, and with which OCaml."""
    what = "1 package" if effect.number == 1 else f"{effect.number:,} packages"
    releases = {release for one in effect.lost for release in one.ocaml}
    on = [release for release in effect.ocaml if release in releases]
    return f"makes {what} uninstallable on OCaml {_some(on, len(on))}"


def lost_text(one: LostPackage) -> str:
    """Returns with which OCaml a package cannot be installed any more."""
    text = f"OCaml {', '.join(one.ocaml)}"
    if not one.last_on:
        return text
    if one.last_on == one.ocaml:
        return f"{text}; no other version can be installed"
    return f"{text}; no other version can be installed with {', '.join(one.last_on)}"


def cycle_text(cycle: Iterable[str]) -> str:
    """Returns the packages of a cycle in the order in which they need each other."""
    return " → ".join(cycle)


def _some(names: Sequence[str], number: int) -> str:
    shown = names[:_NAMED]
    rest = number - len(shown)
    if rest > 0:
        return f"{', '.join(shown)} and {rest:,} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))
