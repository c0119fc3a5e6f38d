"""Selecting platforms: by name, by their properties, by the pools that are served."""

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
        if any(matches(each.pool, pools) for each in one.choices)
        and matches(one.arch, arches)
        and matches(one.distribution, distributions)
    )


def embedded(table: PlatformTable) -> Platform:
    """Return the first platform that needs neither images nor a registry.

    Raises:
        UsageError: The table has none.
    """
    found = next((one for one in table.platforms if one.runner is Runner.ROOTFS), None)
    if found is None:
        raise UsageError(
            "no platform of the file uses the root file system runner, which is the default; "
            "name others with --platform, as `opam-ci platforms` lists them"
        )
    return found


def choose(platform: Platform, pools: Collection[str]) -> Platform | None:
    """Return a platform in the first of its pools that is served, None if none is.

    Args:
        platform: As the file has it.
        pools: Names of the pools that are served.
    """
    return next((one for one in platform.choices if one.pool in pools), None)


def canary_platform(table: PlatformTable, pool: str) -> Platform:
    """Return the platform on which a pool's canary is built: the first of its own architecture.

    Raises:
        UsageError: The table has no such pool, or no platform for it.
    """
    known = {each.name: each for each in table.pools}
    if pool not in known:
        raise UsageError(
            f"no such pool: {pool!r}; the file of platforms has: {', '.join(known) or 'none'}"
        )
    own = [one for each in table.platforms for one in each.choices if one.pool == pool]
    native = [one for one in own if one.arch == known[pool].arch[0]]
    if not own:
        raise UsageError(f"no platform of the file is built in the pool {pool}")
    return (native or own)[0]


def _suggestion(pattern: str, platforms: Sequence[Platform]) -> str:
    names = [one.name for one in platforms]
    close = [name for name in names if pattern and pattern in name]
    close = close[:_SUGGESTIONS] or get_close_matches(pattern, names, n=_SUGGESTIONS)
    if not close:
        return f"; `opam-ci platforms` lists all {len(names)}"
    return f"; did you mean {' or '.join(close)}?"
