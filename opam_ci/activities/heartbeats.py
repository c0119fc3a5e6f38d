"""Heartbeats of an activity while it runs, so that a lost worker is noticed."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

INTERVAL = timedelta(seconds=1)
"""Time between heartbeats; cancellation arrives with their responses, so this also bounds how
long a cancelled build continues."""


@contextmanager
def heartbeating(beat: Callable[[], None]) -> Iterator[None]:
    """Sends heartbeats for the time of a block, the first one after `INTERVAL`.

    Args:
        beat: Sends one heartbeat.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def again() -> None:
        nonlocal timer
        timer = loop.call_later(INTERVAL.total_seconds(), again)
        beat()

    timer = loop.call_later(INTERVAL.total_seconds(), again)
    try:
        yield
    finally:
        timer.cancel()
