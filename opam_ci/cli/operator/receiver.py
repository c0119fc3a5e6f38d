"""The process that receives webhooks: `python -m …`, started by `opam-ci serve`.

A process of its own, since anybody may connect to it: whatever a flood takes (processor time,
memory, descriptors), it takes from nothing else. It needs Temporal and one table.
"""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator

from opam_ci.app.connection import LONG_RETRY, connect
from opam_ci.app.github_settings import GitHubSettings
from opam_ci.app.pull_requests import PullRequests
from opam_ci.app.settings import Settings
from opam_ci.app.shutdown import stop_on_signal
from opam_ci.cli.operator.child import child_running
from opam_ci.cli.operator.work import log_to_stderr
from opam_ci.clients.github.deliveries import StoredDeliveries
from opam_ci.clients.threads import INDEX
from opam_ci.core.jobs.requests import CheckOptions
from opam_ci.core.model import Frozen
from opam_ci.web.acceptance import Acceptance
from opam_ci.web.guard import GuardLimits
from opam_ci.web.server import affordable, receiving
from opam_ci.web.webhook import Webhook


class ReceiverOptions(Frozen):
    """What the receiver gets on the first line of its standard input, beside the environment.

    Attributes:
        listener: Descriptor of the listening socket.
        temporal: Address of the Temporal server.
        checks: How heads are checked.
        page_url: Link of statuses, see `GitHubSettings`.
    """

    listener: int
    temporal: str
    checks: CheckOptions
    page_url: str = ""


@contextlib.asynccontextmanager
async def receiver_running(options: ReceiverOptions) -> AsyncIterator[None]:
    """Runs the receiver for the time of a block, which begins once it receives.

    A receiver that ends is started again.
    """
    async with child_running("the receiver of webhooks", __name__, options, options.listener):
        yield


def main() -> None:
    """Receives webhooks until a signal, or the death of the parent."""
    options = ReceiverOptions.model_validate_json(sys.stdin.buffer.readline())
    log_to_stderr()
    asyncio.run(_receive(options))


async def _receive(options: ReceiverOptions) -> None:
    settings = Settings().model_copy(update={"temporal": options.temporal})
    github = GitHubSettings().model_copy(update={"page_url": options.page_url})
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
