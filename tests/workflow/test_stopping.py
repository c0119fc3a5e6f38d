"""Processes that are told to stop, with workers that do not."""

import asyncio
import logging
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from datetime import timedelta

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from opam_ci.app import github_service
from opam_ci.app import shutdown as stopping
from opam_ci.cli.operator import child
from opam_ci.web import server

A_SECOND = timedelta(seconds=1)


def test_all_of_serve_stops_within_the_time_limit_of_a_process() -> None:
    """One after the other, as `serve_github` nests them."""
    children = 2 * child.STOP_TIMEOUT
    assert timedelta(seconds=server.SHUTDOWN_TIMEOUT) < child.STOP_TIMEOUT
    assert github_service.GRACEFUL_SHUTDOWN_TIMEOUT < github_service.STOP_TIMEOUT
    workers = github_service.STOP_TIMEOUT + stopping.WORKERS_TIMEOUT
    assert children + workers < stopping.PROCESS_TIMEOUT


class Work:
    """An activity that is under way once asked, and does not care to be cancelled."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.begun = asyncio.Event()
        self.released = asyncio.Event()
        self._stubborn = stubborn

    @activity.defn
    async def work(self) -> None:
        self.begun.set()
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                if not self._stubborn:
                    raise


async def under_way(client: Client, work: Work) -> Worker:
    """A worker, and an activity for it."""
    name = f"stopping-{uuid.uuid4()}"
    await client.start_activity(
        work.work, id=name, task_queue=name, start_to_close_timeout=timedelta(minutes=1)
    )
    return Worker(
        client, task_queue=name, activities=[work.work], graceful_shutdown_timeout=A_SECOND
    )


async def test_workers_stop_at_the_same_time(real_client: Client) -> None:
    works = [Work() for _ in range(4)]
    async with stopping.polling([await under_way(real_client, work) for work in works]):
        await asyncio.gather(*(work.begun.wait() for work in works))
        began = time.monotonic()
    assert time.monotonic() - began < 3


async def test_a_worker_that_does_not_stop_is_left_behind(
    real_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    work, other = Work(stubborn=True), Work()
    workers = [await under_way(real_client, work), await under_way(real_client, other)]
    async with stopping.polling(workers, stop_timeout=2 * A_SECOND):
        await asyncio.gather(work.begun.wait(), other.begun.wait())
        began = time.monotonic()
    assert 1.5 < time.monotonic() - began < 4
    told = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    words = f"the worker of {workers[0].task_queue} has not stopped after 2 s and is abandoned"
    assert told.count(words) == 1
    assert workers[1].task_queue not in str(told)
    work.released.set()


async def test_a_worker_that_fails_for_good_ends_the_block_with_its_error(
    real_client: Client,
) -> None:
    config = real_client.config()
    config["namespace"] = "there-is-none"
    work = Work()
    worker = Worker(Client(**config), task_queue="stopping", activities=[work.work])
    with pytest.raises(RuntimeError, match="there-is-none"):
        async with stopping.polling([worker]):
            await asyncio.sleep(30)


def process(body: str) -> subprocess.Popen[str]:
    """A process that prints "ready" once a signal would be heard."""
    script = f"""
        import asyncio, time
        from datetime import timedelta
        from opam_ci.app import shutdown as stopping
        stopping.PROCESS_TIMEOUT = timedelta(seconds=1)
        async def main():
            stop = stopping.stop_on_signal()
            print("ready", flush=True)
            await stop.wait()
            print("told", flush=True)
            {body}
        asyncio.run(main())
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_hangs_prints_where_and_exits() -> None:
    with process("await asyncio.to_thread(time.sleep, 60)") as hanging:
        assert hanging.stdout is not None
        hanging.stdout.readline()
        hanging.send_signal(signal.SIGTERM)
        hanging.stdout.readline()
        _, told = hanging.communicate(timeout=30)
    assert hanging.returncode == 1
    assert "Timeout" in told


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(second: signal.Signals) -> None:
    # Which a thread at work would hold up if Python were let end.
    with process("await asyncio.to_thread(time.sleep, 60)") as slow:
        assert slow.stdout is not None
        slow.stdout.readline()
        slow.send_signal(signal.SIGINT)
        assert slow.stdout.readline() == "told\n"
        slow.send_signal(second)
        slow.communicate(timeout=10)
    assert slow.returncode == -second
