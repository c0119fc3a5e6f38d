"""Threads by purpose, and commands that end with their caller."""

import asyncio
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from opam_ci.clients.threads import Threads, run_command


def is_alive(process: str) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().split()[2] != "Z"


async def test_one_purpose_waits_for_no_other() -> None:
    stuck, other = Threads("stuck", 2), Threads("other", 1)
    released = threading.Event()
    waiting = [asyncio.create_task(stuck.run(released.wait)) for _ in range(20)]
    try:
        assert await asyncio.wait_for(other.run(sum, [1, 2]), 10) == 3
    finally:
        released.set()
        await asyncio.gather(*waiting)


async def test_a_command_and_its_children_end_with_the_caller(tmp_path: Path) -> None:
    threads = Threads("commands", 1)
    # The child holds the pipes after its parent's death, as git's transport does.
    script = f"sleep 300 & echo $! > {tmp_path}/child; exec sleep 300"
    command = ["sh", "-c", script]
    running = asyncio.create_task(
        threads.run(run_command, command, cwd=tmp_path, env=dict(os.environ), timeout=300)
    )
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():  # noqa: ASYNC110 - a process makes it
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    # The only thread is free again, and what it starts now is not killed.
    done = await asyncio.wait_for(
        threads.run(run_command, ["true"], cwd=tmp_path, env=dict(os.environ), timeout=10), 10
    )
    assert done.returncode == 0
    assert not is_alive((tmp_path / "child").read_text().strip())


async def test_a_command_started_after_the_caller_has_gone_is_killed(tmp_path: Path) -> None:
    threads = Threads("late", 1)
    begun, released = threading.Event(), threading.Event()
    ended: list[int] = []

    def late() -> None:
        begun.set()
        released.wait()
        done = run_command(["sleep", "300"], cwd=tmp_path, env=dict(os.environ), timeout=300)
        ended.append(done.returncode)

    running = asyncio.create_task(threads.run(late))
    await asyncio.to_thread(begun.wait)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    released.set()
    await asyncio.wait_for(threads.run(int), 10)
    assert ended == [-9]


def test_a_command_that_takes_too_long_leaves_nothing(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run_command(
            ["sh", "-c", "sleep 300 & sleep 300"], cwd=tmp_path, env=dict(os.environ), timeout=0.3
        )
    assert time.monotonic() - begun < 10
