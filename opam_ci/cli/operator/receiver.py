"""The process that receives webhooks: `python -m …`, started by `opam-ci serve`.

A process of its own, since anybody may connect to it: whatever a flood takes (processor time,
memory, descriptors), it takes from nothing else. It needs Temporal and one table.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator

from opam_ci.app.connection import LONG_RETRY, connect
from opam_ci.app.github_settings import GitHubSettings
from opam_ci.app.pull_requests import PullRequests
from opam_ci.app.settings import Settings
from opam_ci.app.shutdown import stop_on_signal
from opam_ci.cli.operator.work import log_to_stderr
from opam_ci.clients.github.deliveries import StoredDeliveries
from opam_ci.clients.threads import INDEX
from opam_ci.core.jobs.requests import CheckOptions
from opam_ci.core.model import Frozen
from opam_ci.web.acceptance import Acceptance
from opam_ci.web.guard import GuardLimits
from opam_ci.web.server import affordable, receiving
from opam_ci.web.webhook import Webhook

_log = logging.getLogger(__name__)

_RESTART_DELAY = 1.0
"""Seconds; connections wait meanwhile, since the listening socket is the parent's."""

_STOP_TIMEOUT = 20.0
"""Seconds for the process to answer requests in flight when it is stopped, before it is killed."""


class ReceiverOptions(Frozen):
    """What the receiver gets on the first line of its standard input, beside the environment.

    Attributes:
        listener: Descriptor of the listening socket.
        temporal: Address of the Temporal server.
        checks: How heads are checked.
    """

    listener: int
    temporal: str
    checks: CheckOptions


@contextlib.asynccontextmanager
async def receiver_running(options: ReceiverOptions) -> AsyncIterator[None]:
    """Runs the receiver for the time of a block, which begins once it receives.

    A receiver that ends is started again.
    """
    ready = asyncio.Event()
    keeper = asyncio.create_task(_keep_running(options, ready))
    try:
        await ready.wait()
        yield
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper


async def _keep_running(options: ReceiverOptions, ready: asyncio.Event) -> None:
    while True:
        try:
            async with _started(options) as process:
                if process.stdout is not None and await process.stdout.readline():
                    ready.set()
                end = f"ended with code {await process.wait()}"
        except OSError as error:
            end = f"cannot be started: {error}"
        # If all processes are told to stop, this one is cancelled before it warns.
        await asyncio.sleep(_RESTART_DELAY)
        _log.warning("the receiver of webhooks %s; it is started again", end)


@contextlib.asynccontextmanager
async def _started(options: ReceiverOptions) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", __name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=[options.listener],
    )
    try:
        if process.stdin is not None:
            process.stdin.write(options.model_dump_json().encode() + b"\n")
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_STOP_TIMEOUT):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def main() -> None:
    """Receives webhooks until a signal, or the death of the parent."""
    options = ReceiverOptions.model_validate_json(sys.stdin.buffer.readline())
    log_to_stderr()
    asyncio.run(_receive(options))


async def _receive(options: ReceiverOptions) -> None:
    settings = Settings().model_copy(update={"temporal": options.temporal})
    github = GitHubSettings()
    policy = github.policy(options.checks, namespace=settings.namespace)
    stop = stop_on_signal()
    # The parent writes nothing more: the pipe ends with it, however it dies. The next one wants
    # the port at once.
    asyncio.get_running_loop().add_reader(sys.stdin, os._exit, 1)
    client = await connect(settings, retry=LONG_RETRY)
    deliveries = await INDEX.run(StoredDeliveries.open, settings.index_url)
    with contextlib.closing(deliveries):
        webhook = Webhook(
            secret=github.webhook_secret(),
            tracked=github.tracked,
            accept=Acceptance(PullRequests(client), policy).accept,
            deliveries=deliveries,
        )
        listener = socket.socket(fileno=options.listener)
        async with receiving(webhook, listener, affordable(GuardLimits())):
            print("ready", flush=True)
            await stop.wait()


if __name__ == "__main__":
    main()
