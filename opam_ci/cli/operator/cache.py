"""`opam-ci cache`: the size of what this machine keeps for later builds; clears it."""

import asyncio
from typing import Annotated

import typer

from opam_ci.app.settings import Settings
from opam_ci.clients.runners.cache.archives import ArchiveStore
from opam_ci.clients.runners.cache.dependencies import cache_store
from opam_ci.clients.runners.cache.failures import failure_store
from opam_ci.clients.runners.cache.sources import SourceStore
from opam_ci.clients.runners.cache.store import CacheStore


def cache(
    *,
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove every entry that no running build uses.")
    ] = False,
) -> None:
    """Shows the size of what this machine keeps for later builds, or clears it.

    These are compiled dependencies, those that are known to fail, and archives of sources.
    """
    settings = Settings()
    compiled = cache_store(settings.cache, settings.build_cache_bytes)
    archives = SourceStore(settings.cache, settings.source_store_bytes).archives
    if clear:
        removed = asyncio.run(_clear(compiled, archives))
        known = failure_store(settings.cache).clear()
        print(
            f"removed {removed[0]} compiled packages, {known} known failures "
            f"and {removed[1]} archives of sources"
        )
    use = compiled.use()
    switch = "on" if settings.build_cache else "off (OPAM_CI_BUILD_CACHE)"
    print(
        f"{compiled.home}: {use.entries} compiled packages, {use.bytes >> 20} MiB of at most "
        f"{settings.build_cache_bytes >> 20}; the cache is {switch}"
    )
    use = archives.use()
    switch = "on" if settings.source_store_bytes else "off (OPAM_CI_SOURCE_STORE_BYTES)"
    print(
        f"{archives.home}: {use.entries} archives of sources, {use.bytes >> 20} MiB of at most "
        f"{settings.source_store_bytes >> 20}; the store is {switch}"
    )


async def _clear(compiled: CacheStore, archives: ArchiveStore) -> tuple[int, int]:
    await compiled.sweep()
    await archives.sweep()
    return await compiled.prune(-1), await archives.prune(-1)
