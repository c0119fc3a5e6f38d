"""`opam-ci cache`: the size of this machine's cache of compiled dependencies; clears it."""

import asyncio
from typing import Annotated

import typer

from opam_ci.app.settings import Settings
from opam_ci.clients.runners.cache.dependencies import cache_store
from opam_ci.clients.runners.cache.store import CacheStore


def cache(
    *,
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove every entry that no running build uses.")
    ] = False,
) -> None:
    """Shows the size of this machine's cache of compiled dependencies, or clears it."""
    settings = Settings()
    store = cache_store(settings.cache, settings.build_cache_bytes)
    if clear:
        removed = asyncio.run(_clear(store))
        print(f"removed {removed} compiled packages")
    use = store.use()
    switch = "on" if settings.build_cache else "off (OPAM_CI_BUILD_CACHE)"
    print(
        f"{store.home}: {use.entries} compiled packages, {use.bytes >> 20} MiB of at most "
        f"{settings.build_cache_bytes >> 20}; the cache is {switch}"
    )


async def _clear(store: CacheStore) -> int:
    await store.sweep()
    return await store.prune(-1)
