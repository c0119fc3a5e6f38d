"""Processes of `opam-ci serve` that strangers connect to, one for each listening socket.

Whatever a flood takes (processor time, memory, descriptors), it takes from nothing else. A child
is `python -m MODULE`; it reads its options from the first line of its standard input, and prints a
line once it serves. Its standard input ends with the parent, however that dies.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

from opam_ci.core.model import Frozen

_log = logging.getLogger(__name__)

_RESTART_DELAY = 1.0
"""Seconds; connections wait meanwhile, since the listening socket is the parent's."""

STOP_TIMEOUT = timedelta(seconds=12)
"""For a child to answer requests in flight when it is stopped, before it is killed."""


@contextlib.asynccontextmanager
async def child_running(
    name: str, module: str, options: Frozen, listener: int
) -> AsyncIterator[None]:
    """Runs a child for the time of a block, which begins once it serves.

    A child that ends is started again.

    Args:
        name: For messages.
        module: What it runs.
        options: For its standard input.
        listener: Descriptor of the listening socket, which it inherits.
    """
    ready = asyncio.Event()
    keeper = asyncio.create_task(_keep_running(name, module, options, listener, ready))
    try:
        await ready.wait()
        yield
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper


async def _keep_running(
    name: str, module: str, options: Frozen, listener: int, ready: asyncio.Event
) -> None:
    while True:
        try:
            async with _started(module, options, listener) as process:
                if process.stdout is not None and await process.stdout.readline():
                    ready.set()
                end = f"ended with code {await process.wait()}"
        except OSError as error:
            end = f"cannot be started: {error}"
        # If all processes are told to stop, this one is cancelled before it warns.
        await asyncio.sleep(_RESTART_DELAY)
        _log.warning("%s %s; it is started again", name, end)


@contextlib.asynccontextmanager
async def _started(
    module: str, options: Frozen, listener: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=[listener],
    )
    try:
        if process.stdin is not None:
            process.stdin.write(options.model_dump_json().encode() + b"\n")
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT.total_seconds()):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
