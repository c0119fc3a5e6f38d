"""The mark of a log that somebody follows: meanwhile its writer uploads what it has more often.

A follower stores an object beside the log again and again; the writer looks for it when it has
output to upload. Clocks of different machines do not matter: what counts is that the object has
changed since the last look.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.errors import InfrastructureError

RENEWAL_INTERVAL = timedelta(seconds=7)
"""How often a process stores the mark of a log that it follows."""

VALIDITY = timedelta(seconds=20)
"""How long a log counts as followed after the mark was seen to change."""


def mark_key(key: str) -> str:
    """Names the mark of a log."""
    return f"{key}/watched"


class Watch:
    """Whether a log is followed, as its writer sees it.

    Args:
        store: Has the mark.
        key: Of the log.
        interval: Looks at the store at most once in it.
    """

    def __init__(self, store: ArtifactStore, key: str, interval: timedelta) -> None:
        self._store = store
        self._key = mark_key(key)
        self._interval = interval.total_seconds()
        self._looked_at = float("-inf")
        self._changed_at = float("-inf")
        self._last: datetime | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_watched(self) -> bool:
        """Whether somebody follows the log, as far as is known."""
        return time.monotonic() - self._changed_at < VALIDITY.total_seconds()

    @property
    def was_watched(self) -> bool:
        """Whether there was a mark."""
        return self._last is not None

    def look(self, on_watched: Callable[[], None]) -> None:
        """Looks for the mark in the background, unless that was done a moment ago.

        Args:
            on_watched: Called if the log is followed and was not before.
        """
        now = time.monotonic()
        if self._task is None and now - self._looked_at >= self._interval:
            self._looked_at = now
            self._task = asyncio.create_task(self._look(on_watched))

    def stop(self) -> None:
        """Ends a look that is under way."""
        if self._task is not None:
            self._task.cancel()

    async def _look(self, on_watched: Callable[[], None]) -> None:
        was_watched = self.is_watched
        # Without the mark, output is only shown later; what the store lacks is reported by uploads.
        with suppress(InfrastructureError):
            stored_at = await self._store.modified_at(self._key)
            if stored_at is not None and stored_at != self._last:
                self._last, self._changed_at = stored_at, time.monotonic()
        self._task = None
        if self.is_watched and not was_watched:
            on_watched()
