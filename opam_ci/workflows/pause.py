"""Waiting a while, or until something makes further waiting pointless."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from temporalio import workflow


async def pause(length: timedelta, *, until: Callable[[], bool]) -> None:
    """Waits for a length of time, or less if a condition comes true.

    The timer is left to run out instead of being cancelled: that saves a command, and a
    race between a timer's firing and its cancellation that not every server survives.

    Args:
        length: How long at most.
        until: Ends the wait early.
    """
    timer = asyncio.create_task(asyncio.sleep(length.total_seconds()))
    await workflow.wait_condition(lambda: timer.done() or until())


async def came_true(condition: Callable[[], bool], *, limit: timedelta | None) -> bool:
    """Waits for a condition, for a while at most.

    Not by the SDK's own limit: that is `asyncio.wait_for`, whose turns of the event loop differ
    between Python versions, so that a history of one would not replay on another.

    Args:
        condition: What is waited for.
        limit: How long; None for as long as it takes.

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


async def see_through(*tasks: asyncio.Task[None]) -> asyncio.CancelledError | None:
    """Waits until tasks are over, also when the workflow is cancelled meanwhile.

    What is to be told and written down at the end must get out even then.

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
