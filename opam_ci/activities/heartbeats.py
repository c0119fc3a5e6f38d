"""Heartbeats for as long as an activity works, so that a lost worker is noticed."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

INTERVAL = timedelta(seconds=1)
"""How often an activity says that it is supervised; cancellation arrives with the answers, so
this also bounds how long a cancelled build goes on."""


@contextmanager
def beating(beat: Callable[[], None]) -> Iterator[None]:
    """Sends heartbeats for the time of a block; one that is over before the first costs none.

    Args:
        beat: Sends one.
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
