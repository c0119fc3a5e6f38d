"""Selecting platforms: by name, by their properties, by the pools that have workers."""

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from opam_ci.core.errors import UsageError
from opam_ci.core.platforms.model import Platform, PlatformTable, Runner

_SUGGESTIONS = 3


def named(platforms: Sequence[Platform], patterns: Iterable[str]) -> tuple[Platform, ...]:
    """Return the platforms that names or globs match, each once, in the order of the table.

    Args:
        platforms: The platforms to select from.
        patterns: Names, or globs such as `debian-*-ocaml-5.4/*`; `*` matches slashes too.

    Raises:
        UsageError: A pattern matches none; the message suggests similar names.
    """
    matched: set[str] = set()
    for pattern in patterns:
        names = [one.name for one in platforms if fnmatchcase(one.name, pattern)]
        if not names:
            raise UsageError(f"no such platform: {pattern!r}{_suggestion(pattern, platforms)}")
        matched.update(names)
    return tuple(one for one in platforms if one.name in matched)


def filtered(
    platforms: Iterable[Platform],
    *,
    pools: Collection[str] = (),
    arches: Collection[str] = (),
    distributions: Collection[str] = (),
) -> tuple[Platform, ...]:
    """Return the platforms that match one glob of each criterion that has globs."""

    def matches(value: str, globs: Collection[str]) -> bool:
        return not globs or any(fnmatchcase(value, glob) for glob in globs)

    return tuple(
        one
        for one in platforms
        if matches(one.pool, pools)
        and matches(one.arch, arches)
        and matches(one.distribution, distributions)
    )


def embedded(table: PlatformTable) -> tuple[Platform, ...]:
    """Return the platforms that need neither images nor a registry.

    Raises:
        UsageError: The table has none.
    """
    found = tuple(one for one in table.platforms if one.runner is Runner.ROOTFS)
    if not found:
        raise UsageError(
            "no platform of the file uses the root file system runner, which is the default; "
            "name others with --platform, as `opam-ci platforms` lists them"
        )
    return found


def served(
    platforms: Iterable[Platform], pools: Collection[str]
) -> tuple[tuple[Platform, ...], tuple[Platform, ...]]:
    """Split platforms into those whose pool has workers, and the others.

    Args:
        platforms: In the order of the plan, which is kept.
        pools: Names of the pools that have workers.
    """
    known = tuple(platforms)
    kept = tuple(one for one in known if one.pool in pools)
    return kept, tuple(one for one in known if one.pool not in pools)


def _suggestion(pattern: str, platforms: Sequence[Platform]) -> str:
    names = [one.name for one in platforms]
    close = [name for name in names if pattern and pattern in name]
    close = close[:_SUGGESTIONS] or get_close_matches(pattern, names, n=_SUGGESTIONS)
    if not close:
        return f"; `opam-ci platforms` lists all {len(names)}"
    return f"; did you mean {' or '.join(close)}?"
