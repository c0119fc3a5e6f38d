"""What a command needs of the running system: Temporal, and workers that take its jobs."""

import asyncio
import contextlib
import sys
from asyncio import to_thread
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

from temporalio.client import Client

from opam_ci.cli import services, system
from opam_ci.connection import connect, polled, served
from opam_ci.settings import Settings
from opam_ci.worker import running
from opam_ci.workflows import options

_LOOK_AGAIN = timedelta(seconds=5)

_LOOK_OFTEN = timedelta(seconds=0.5)

_PROVING_TIMEOUT = timedelta(minutes=2)
"""How long a worker that takes no jobs yet is waited for. A first canary takes seconds on an idle
machine, and a minute on a busy one; one that is quarantined may not come back for an hour."""


async def connected(settings: Settings, *, temporal: str | None) -> Client:
    """Connects to the named server, or to the embedded one if it runs.

    Args:
        settings: Of this process.
        temporal: Address that the user gave, None for the embedded server's.

    Raises:
        UsageError: Nothing answers.
    """
    address = temporal or settings.given_temporal
    if address is None and (embedded := services.status(settings.home)) is not None:
        address = embedded.address
    chosen = settings if address is None else settings.model_copy(update={"temporal": address})
    return await connect(chosen)


@contextlib.asynccontextmanager
async def working(
    settings: Settings,
    *,
    temporal: str | None,
    pools: frozenset[str],
    port: int | None = None,
    tell: Callable[[str], None],
) -> AsyncIterator[Client]:
    """Connects to a system that really takes jobs, starting what is missing.

    Without an address, that is the embedded one: its server and its worker are started as
    daemons and go on afterwards. With an address, a worker runs inside this process for as
    long as the block lasts, if nobody else polls. One that is there and does not poll yet, since
    it proves itself, is waited for.

    Args:
        settings: Of this process.
        temporal: Address that the user gave, None for the embedded server.
        pools: Pools whose jobs are to be built; none for repository jobs alone.
        port: Where the embedded server is to listen.
        tell: Receives words on what is being started.

    Raises:
        UsageError: Nothing answers, a port is busy, or a package is missing.
        InfrastructureError: This machine cannot build.
    """
    temporal = temporal or settings.given_temporal
    if temporal is None:
        if pools:
            system.require()
        embedded = await to_thread(services.start_temporal, settings.home, port=port)
        here = settings.model_copy(update={"temporal": embedded.address})
        if pools:
            tell("starting the worker (the first start makes the root file system)")
            await to_thread(start_worker, here)
            yield await connect(here)
            return
    else:
        here = settings.model_copy(update={"temporal": temporal})
    client = await connect(here)
    await _await_proven(client, here, pools, tell)
    missing = await _missing(client, here, pools, polled)
    if missing.pools:
        system.require()
    async with contextlib.AsyncExitStack() as stack:
        if missing.orchestrate or missing.pools:
            tell(f"no worker polls {here.temporal} for this; one runs in this process meanwhile")
            await stack.enter_async_context(running(missing, client, tell=tell))
        else:
            stand_in = asyncio.create_task(_stand_in(client, here, pools, tell))
            stack.push_async_callback(_end, stand_in)
        yield client


async def _missing(
    client: Client,
    settings: Settings,
    pools: frozenset[str],
    is_built: Callable[[Client, str], Awaitable[bool]],
) -> Settings:
    """Returns the settings of a worker for everything that nobody does.

    Args:
        client: To ask Temporal.
        settings: Of this process.
        pools: What is to be built.
        is_built: Whether somebody builds for a queue.
    """
    return settings.model_copy(
        update={
            "orchestrate": not await polled(client, options.ORCHESTRATION_QUEUE),
            "pools": tuple(
                [pool for pool in pools if not await is_built(client, options.build_queue(pool))]
            ),
        }
    )


async def _await_proven(
    client: Client, settings: Settings, pools: frozenset[str], tell: Callable[[str], None]
) -> None:
    """Waits until workers that are there poll for jobs, `_PROVING_TIMEOUT` at most."""
    queues = {options.build_queue(pool): pool for pool in sorted(pools)}
    told: set[str] = set()
    try:
        async with asyncio.timeout(_PROVING_TIMEOUT.total_seconds()):
            for queue, pool in queues.items():
                while not await polled(client, queue) and await served(client, queue):
                    if queue not in told:
                        told.add(queue)
                        tell(
                            f"waiting for the worker of pool {pool} at {settings.temporal}, which "
                            f"takes no jobs yet ({_PROVING_TIMEOUT.seconds} s at most)"
                        )
                    await asyncio.sleep(_LOOK_OFTEN.total_seconds())
    except TimeoutError:
        tell("the worker still takes no jobs: its log and /healthz say why")


async def _stand_in(
    client: Client, settings: Settings, pools: frozenset[str], tell: Callable[[str], None]
) -> None:
    """Starts a worker when the others turn out to be gone.

    A server remembers a poller for a while after it has ended, such as the one in the
    process of the command before this one.
    """
    while True:
        await asyncio.sleep(_LOOK_AGAIN.total_seconds())
        missing = await _missing(client, settings, pools, served)
        if missing.orchestrate or missing.pools:
            tell(f"the workers of {settings.temporal} are gone; one runs in this process now")
            async with running(missing, client, tell=tell):
                await asyncio.Event().wait()


async def _end(task: asyncio.Task[None]) -> None:
    """Ends a task; what it failed of is raised."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def start_worker(settings: Settings) -> services.Embedded:
    """Starts the embedded worker as a daemon, or finds it running with the same settings."""
    environment = {
        "OPAM_CI_TEMPORAL": settings.temporal,
        "OPAM_CI_CACHE": str(settings.cache),
    }
    return services.start_worker(
        settings.home,
        [sys.executable, "-m", "opam_ci.cli.main", "worker"],
        version=f"{services.code_version()} {settings.model_dump_json()}",
        environment=environment,
    )
