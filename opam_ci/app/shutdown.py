"""Stopping a process on a signal, with its workers, within a time limit."""

import asyncio
import contextlib
import faulthandler
import logging
import signal
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from temporalio.worker import Worker

_log = logging.getLogger(__name__)

WORKERS_TIMEOUT = timedelta(seconds=30)
"""For stopping workers: their `GRACEFUL_SHUTDOWN_TIMEOUT`, and time to clean up a cancelled
build. The SDK itself waits for the server to end the last poll, for a minute if the server
overlooks it or rejects the worker's shutdown request (temporalio/temporal#11841,
temporalio/sdk-rust#1297): such a poll is abandoned."""

PROCESS_TIMEOUT = timedelta(seconds=75)
"""For a process that stops, before it prints where it hangs and exits. Less than the 90 seconds
after which systemd kills it."""


def stop_on_signal() -> asyncio.Event:
    """Returns an event that is set when the process gets SIGTERM or SIGINT.

    From then on the process ends within `PROCESS_TIMEOUT`, in the worst case with exit code 1
    and the stacks of its threads on stderr; a second signal ends it at once.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def handle() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
            # A KeyboardInterrupt would first wait for the clean-up.
            signal.signal(number, signal.SIG_DFL)
        faulthandler.dump_traceback_later(PROCESS_TIMEOUT.total_seconds(), exit=True)
        stop.set()

    for number in signals:
        loop.add_signal_handler(number, handle)
    return stop


@contextlib.asynccontextmanager
async def polling(
    workers: Sequence[Worker], *, stop_timeout: timedelta = WORKERS_TIMEOUT
) -> AsyncIterator[None]:
    """Runs workers for the time of a block, then stops them all at the same time.

    Args:
        workers: Not yet running.
        stop_timeout: How long to wait for them to stop; one that has not stopped by then is
            abandoned, with a warning.

    Raises:
        Exception: A worker failed fatally, in place of the cancellation of the block.
    """
    for worker in workers:
        await worker.__aenter__()
    ended: type[BaseException] | None = None
    try:
        yield
    except BaseException as error:
        ended = type(error)
        raise
    finally:
        await _stop(workers, ended, stop_timeout)


async def _stop(
    workers: Sequence[Worker], ended: type[BaseException] | None, stop_timeout: timedelta
) -> None:
    if not workers:
        return
    ends = {asyncio.create_task(worker.__aexit__(ended)): worker for worker in workers}
    done, late = await asyncio.wait(ends, timeout=stop_timeout.total_seconds())
    for end in late:
        end.cancel()
        _log.warning(
            "the worker of %s has not stopped after %d s and is abandoned",
            ends[end].task_queue,
            stop_timeout.total_seconds(),
        )
    for end in done:
        end.result()
