"""Globs for names of packages and platforms: `*` is any text, `?` any character.

They are parsed and bounded, since operators type them: what has no other special character is
matched in time in proportion to its length.
"""

import re
from fnmatch import fnmatchcase
from functools import cache

GLOB_LIMIT = 100
"""Characters of a glob; names of packages and platforms are shorter."""

_GLOB = re.compile(r"[A-Za-z0-9_+.~/*?-]+")


def is_glob(text: str) -> bool:
    """Whether a text is a glob: characters of names, `*` and `?`, `GLOB_LIMIT` at most."""
    return len(text) <= GLOB_LIMIT and _GLOB.fullmatch(text) is not None


def matches_everything(glob: str) -> bool:
    """Whether a glob has no character of a name, and so narrows nothing."""
    return not any(each.isalnum() for each in glob)


def matches(glob: str, name: str) -> bool:
    """Whether a glob matches a whole name."""
    return fnmatchcase(name, glob)


def matches_package(glob: str, package: str) -> bool:
    """Whether a glob matches a package: `NAME` all its versions, `NAME.VERSION` these alone."""
    parts = zip(_parts(glob), _parts(package), strict=True)
    return all(matches(wanted, part) for wanted, part in parts)


def overlap(one: str, other: str) -> bool:
    """Whether there is a name that both globs match."""

    @cache
    def meet(here: int, there: int) -> bool:
        a, b = one[here : here + 1], other[there : there + 1]
        if not a and not b:
            return True
        if a == "*":
            return meet(here + 1, there) or (b != "" and meet(here, there + 1))
        if b == "*":
            return meet(here, there + 1) or (a != "" and meet(here + 1, there))
        return a != "" and b != "" and (a == b or "?" in a + b) and meet(here + 1, there + 1)

    return meet(0, 0)


def packages_overlap(one: str, other: str) -> bool:
    """Whether there is a package that both globs match."""
    parts = zip(_parts(one), _parts(other), strict=True)
    return all(overlap(here, there) for here, there in parts)


def _parts(text: str) -> tuple[str, str]:
    """Splits a package, or a glob of packages, into name and version."""
    name, _, version = text.partition(".")
    return name, version or "*"
