"""Choosing platforms: by name, by what they are, by which pools there are."""

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from opam_ci.core.errors import UsageError
from opam_ci.core.platforms import Platform, PlatformTable, Runner

_SUGGESTIONS = 3


def named(platforms: Sequence[Platform], patterns: Iterable[str]) -> tuple[Platform, ...]:
    """Returns the platforms that names or globs take, each once, in the order of the table.

    Args:
        platforms: From these.
        patterns: Names, or globs such as `debian-*-ocaml-5.4/*`; `*` takes slashes too.

    Raises:
        UsageError: A pattern takes none; the text says what may have been meant.
    """
    taken: set[str] = set()
    for pattern in patterns:
        names = [one.name for one in platforms if fnmatchcase(one.name, pattern)]
        if not names:
            raise UsageError(f"no platform {pattern!r}{_suggestion(pattern, platforms)}")
        taken.update(names)
    return tuple(one for one in platforms if one.name in taken)


def filtered(
    platforms: Iterable[Platform],
    *,
    pools: Collection[str] = (),
    arches: Collection[str] = (),
    distributions: Collection[str] = (),
) -> tuple[Platform, ...]:
    """Returns the platforms that match one glob of each criterion that is given."""

    def fits(word: str, globs: Collection[str]) -> bool:
        return not globs or any(fnmatchcase(word, glob) for glob in globs)

    return tuple(
        one
        for one in platforms
        if fits(one.pool, pools)
        and fits(one.arch, arches)
        and fits(one.distribution, distributions)
    )


def embedded(table: PlatformTable) -> tuple[Platform, ...]:
    """Returns what a machine builds on without images or a registry.

    Raises:
        UsageError: No platform of the table can be built so.
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
    """Parts platforms into those that some pool builds for, and those that nobody does.

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
        return f"; `opam-ci platforms` lists the {len(names)} there are"
    return f"; did you mean {' or '.join(close)}?"
