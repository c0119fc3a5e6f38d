"""Keeping what is on disk within a size."""

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path


async def evict(
    entries: Iterable[tuple[Path, int]], limit: int, remove: Callable[[Path], Awaitable[bool]]
) -> int:
    """Removes entries until the others are within a size.

    Args:
        entries: All entries with their sizes, the one that was used longest ago first.
        limit: Bytes that may be left.
        remove: Removes an entry; returns whether it did.

    Returns:
        How many were removed.
    """
    known = list(entries)
    total = sum(size for _, size in known)
    removed = 0
    for path, size in known:
        if total <= limit:
            break
        if await remove(path):
            total -= size
            removed += 1
    return removed
