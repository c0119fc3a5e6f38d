"""What a command needs of the running system: Temporal, and workers for its jobs."""

import asyncio
import contextlib
import sys
from asyncio import to_thread
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client

from opam_ci.app.connection import connect, has_pollers, served
from opam_ci.app.settings import Settings
from opam_ci.cli.local import services, system
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.worker import running
from opam_ci.workflows import options

_STAND_IN_INTERVAL = timedelta(seconds=5)
_ROOM_INTERVAL = timedelta(seconds=5)

_POLL_INTERVAL = timedelta(seconds=0.5)

_FIRST_CANARY_TIMEOUT = timedelta(minutes=2)
"""How long to wait for a worker that does not poll yet. A first canary takes seconds on an idle
machine, and a minute on a busy one; a quarantined worker may not poll for an hour."""


async def connected(settings: Settings, *, temporal: str | None) -> Client:
    """Connects to the named server, or to the embedded one if it runs.

    Args:
        settings: Of this process.
        temporal: The user's address, None for the embedded server's.

    Raises:
        UsageError: No server answers.
    """
    if temporal is not None:
        settings = settings.model_copy(update={"temporal": temporal})
    elif settings.explicit_temporal is None:
        embedded = services.status(settings.home)
        settings = settings if embedded is None else at_embedded(settings, embedded)
    return await connect(settings)


def at_embedded(settings: Settings, embedded: services.Embedded) -> Settings:
    """Returns settings of a process that talks to the embedded server."""
    return settings.model_copy(
        update={
            "temporal": embedded.address,
            "namespace": services.NAMESPACE,
            "embedded": True,
        }
    )


@contextlib.asynccontextmanager
async def working(
    settings: Settings,
    *,
    temporal: str | None,
    pools: frozenset[str],
    port: int | None = None,
    report: Callable[[str], None],
) -> AsyncIterator[Client]:
    """Connects to a system that runs jobs, and starts what is missing.

    Without an address, that is the embedded one: its server and its worker are started as
    daemons and continue afterwards. With an address, a worker runs inside this process for the
    duration of the block, if no other one polls. A worker that exists and does not poll yet, since
    its first canary runs, is waited for.

    Args:
        settings: Of this process.
        temporal: The user's address, None for the embedded server.
        pools: Pools whose jobs are to be built; none for repository jobs alone.
        port: Where the embedded server listens.
        report: Receives lines about progress.

    Raises:
        UsageError: No server answers, a port is in use, or a package is missing.
        InfrastructureError: This machine cannot build.
    """
    temporal = temporal or settings.explicit_temporal
    async with contextlib.AsyncExitStack() as stack:
        if temporal is None:
            if pools:
                system.require()
            embedded = await to_thread(services.start_temporal, settings.home, port=port)
            here = at_embedded(settings, embedded)
            stack.push_async_callback(_end, asyncio.create_task(_report_full(here.home, report)))
            if pools:
                report("starting the worker (the first start makes the root file system)")
                await to_thread(start_worker, here)
                yield await connect(here)
                return
        else:
            here = settings.model_copy(update={"temporal": temporal})
        client = await connect(here)
        await _await_polling(client, here, pools, report)
        missing = await _missing(client, here, pools, has_pollers)
        if missing.pools:
            system.require()
        if missing.orchestrate or missing.pools:
            report(
                f"no worker polls {here.temporal} for these jobs; this process runs one meanwhile"
            )
            await stack.enter_async_context(running(missing, client, on_progress=report))
        else:
            stand_in = asyncio.create_task(_stand_in(client, here, pools, report))
            stack.push_async_callback(_end, stand_in)
        yield client


async def _report_full(home: Path, report: Callable[[str], None]) -> None:
    """Reports that the state directory's disk is full, each time that it becomes so.

    The embedded server then hangs in its database instead of answering.
    """
    reported: str | None = None
    while True:
        lack = await to_thread(services.lack_of_room, home)
        if lack is not None and reported is None:
            report(f"{lack}: the check waits until there is room")
        reported = lack
        await asyncio.sleep(_ROOM_INTERVAL.total_seconds())


async def _missing(
    client: Client,
    settings: Settings,
    pools: frozenset[str],
    has_worker: Callable[[Client, str], Awaitable[bool]],
) -> Settings:
    """Returns the settings of a worker for all task queues that have none.

    Args:
        client: Of Temporal.
        settings: Of this process.
        pools: Pools whose jobs are to be built.
        has_worker: Whether a build queue has a worker.
    """
    return settings.model_copy(
        update={
            "orchestrate": not await has_pollers(client, options.ORCHESTRATION_QUEUE),
            "pools": tuple(
                [pool for pool in pools if not await has_worker(client, options.build_queue(pool))]
            ),
        }
    )


async def _await_polling(
    client: Client, settings: Settings, pools: frozenset[str], report: Callable[[str], None]
) -> None:
    """Waits until existing workers poll for jobs, `_FIRST_CANARY_TIMEOUT` at most."""
    queues = {options.build_queue(pool): pool for pool in sorted(pools)}
    reported: set[str] = set()
    try:
        async with asyncio.timeout(_FIRST_CANARY_TIMEOUT.total_seconds()):
            for queue, pool in queues.items():
                while not await has_pollers(client, queue) and await served(client, queue):
                    if queue not in reported:
                        reported.add(queue)
                        report(
                            f"waiting for the worker of pool {pool} at {settings.temporal}, which "
                            f"takes no jobs yet ({_FIRST_CANARY_TIMEOUT.seconds} s at most)"
                        )
                    await asyncio.sleep(_POLL_INTERVAL.total_seconds())
    except TimeoutError:
        report("the worker still takes no jobs: see its log and /healthz")


async def _stand_in(
    client: Client, settings: Settings, pools: frozenset[str], report: Callable[[str], None]
) -> None:
    """Starts a worker when the others have ended.

    A server lists a poller for a while after it has ended, such as the worker in the process of
    the previous command.
    """
    while True:
        await asyncio.sleep(_STAND_IN_INTERVAL.total_seconds())
        try:
            missing = await _missing(client, settings, pools, served)
        except InfrastructureError:
            # Temporal did not answer in time; what waits for it says so. The next look is soon.
            continue
        if missing.orchestrate or missing.pools:
            report(f"the workers of {settings.temporal} have ended; this process runs one now")
            async with running(missing, client, on_progress=report):
                await asyncio.Event().wait()


async def _end(task: asyncio.Task[None]) -> None:
    """Cancels a task, and raises its error if it failed."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def start_worker(settings: Settings) -> services.Embedded:
    """Starts the embedded worker as a daemon, unless it runs with the same settings."""
    environment = {
        "OPAM_CI_TEMPORAL": settings.temporal,
        "OPAM_CI_NAMESPACE": settings.namespace,
        "OPAM_CI_EMBEDDED": "true",
        "OPAM_CI_CACHE": str(settings.cache),
    }
    if settings.platforms is not None:
        environment["OPAM_CI_PLATFORMS"] = str(settings.platforms)
    return services.start_worker(
        settings.home,
        [sys.executable, "-m", "opam_ci.cli.main", "worker"],
        version=f"{services.code_version()} {settings.model_dump_json()}",
        environment=environment,
    )


def start_pages(settings: Settings, embedded: services.Embedded) -> str:
    """Starts the pages of the embedded services as a daemon, unless they are served.

    Returns:
        Their address.
    """
    environment = {"OPAM_CI_NAMESPACE": settings.namespace, "OPAM_CI_CACHE": str(settings.cache)}
    if settings.platforms is not None:
        environment["OPAM_CI_PLATFORMS"] = str(settings.platforms)
    return services.start_pages(
        settings.home,
        [sys.executable, "-m", "opam_ci.cli.main", "pages", "--temporal-ui", embedded.ui_url],
        version=f"{services.code_version()} {settings.model_dump_json()}",
        environment=environment,
    )
