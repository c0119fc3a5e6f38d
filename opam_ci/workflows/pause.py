"""Waiting for a time or a condition."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from temporalio import workflow


async def pause(length: timedelta, *, until: Callable[[], bool]) -> None:
    """Waits for a length of time, or less if a condition becomes true.

    The timer is not cancelled: that saves a command, and a race between a timer's firing and
    its cancellation that not every server survives.

    Args:
        length: Maximum wait.
        until: Ends the wait early.
    """
    timer = asyncio.create_task(asyncio.sleep(length.total_seconds()))
    await workflow.wait_condition(lambda: timer.done() or until())


async def wait_for(condition: Callable[[], bool], *, limit: timedelta | None) -> bool:
    """Waits for a condition, with an optional time limit.

    Not by the SDK's own limit: that is `asyncio.wait_for`, whose turns of the event loop differ
    between Python versions, so that a history of one would not replay on another.

    Args:
        condition: The condition.
        limit: Maximum wait; None for no limit.

    Returns:
        Whether it is true.
    """
    if limit is None:
        await workflow.wait_condition(condition)
        return True
    timer = asyncio.create_task(asyncio.sleep(limit.total_seconds()))
    try:
        await workflow.wait_condition(lambda: timer.done() or condition())
    finally:
        timer.cancel()
    return condition()


async def finish(*tasks: asyncio.Task[None]) -> asyncio.CancelledError | None:
    """Waits until tasks have ended, even if the workflow is cancelled meanwhile.

    Final reports and writes to the index must not be lost by a cancellation.

    Returns:
        The cancellation, for the caller to raise; None if there was none.
    """
    cancelled: asyncio.CancelledError | None = None
    for task in tasks:
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as error:
                cancelled = error
        task.result()
    return cancelled
