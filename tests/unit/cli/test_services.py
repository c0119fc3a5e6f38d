"""The embedded services with the real Temporal server."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client

from opam_ci.cli.local import daemon, ports, services, session
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.workflows import options
from tests.support.fakes.disk import small_disk
from tests.support.ports import free_port

READY_WORKER = (
    "import os, time; open(os.environ['OPAM_CI_READY_FILE'], 'w').close(); time.sleep(60)"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state directory with a running server."""
    folder = tmp_path_factory.mktemp("services") / "home"
    services.start_temporal(folder, port=free_port(), ui_port=free_port())
    yield folder
    services.stop(folder)


def worker(home: Path, script: str, version: str = "1") -> services.Embedded:
    return services.start_worker(
        home, [sys.executable, "-c", script], version=version, environment={}
    )


def test_workflows_survive_a_killed_server(home: Path) -> None:
    first = services.start_temporal(home)

    async def leave() -> None:
        client = await Client.connect(first.address)
        await client.start_workflow("Any", id="kept", task_queue="nobody")

    async def look() -> str:
        client = await Client.connect(first.address)
        return (await client.get_workflow_handle("kept").describe()).workflow_type

    asyncio.run(leave())
    os.kill(first.temporal_pid, signal.SIGKILL)
    while services.status(home) is not None:
        pass
    port = int(first.address.rpartition(":")[2])
    second = services.start_temporal(home, port=port, ui_port=int(first.ui_url.split(":")[-1]))
    assert second.temporal_pid != first.temporal_pid
    assert asyncio.run(look()) == "Any"


def test_a_second_start_finds_the_first(home: Path) -> None:
    running = services.status(home)
    assert running is not None
    assert services.start_temporal(home) == running
    with pytest.raises(UsageError, match="already runs with --port"):
        services.start_temporal(home, port=1)


def test_a_worker_is_kept_until_its_version_changes(home: Path) -> None:
    first = worker(home, READY_WORKER)
    assert first.worker_pid is not None
    assert worker(home, READY_WORKER).worker_pid == first.worker_pid
    assert worker(home, READY_WORKER, version="2").worker_pid != first.worker_pid


def test_a_worker_that_ends_shows_the_end_of_its_log(home: Path) -> None:
    with pytest.raises(InfrastructureError, match="the worker ended at once") as caught:
        worker(home, "raise SystemExit('no such root file system')", version="3")
    assert "no such root file system" in str(caught.value)
    running = services.status(home)
    assert running is not None
    assert running.worker_pid is None


def test_a_worker_that_never_gets_ready_is_not_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "WORKER_START_TIMEOUT", timedelta(seconds=0.2))
    with pytest.raises(InfrastructureError, match="the worker does not start in time"):
        worker(home, "import time; time.sleep(60)", version="4")
    running = services.status(home)
    assert running is not None
    assert running.worker_pid is None


@pytest.mark.parametrize("option", ["--port", "--ui-port"])
def test_with_a_used_port_nothing_is_started(tmp_path: Path, option: str) -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as server:
        busy = server.getsockname()[1]
        port, ui_port = (busy, free_port()) if option == "--port" else (free_port(), busy)
        with pytest.raises(UsageError, match=f"port {busy} is in use by .*{option}"):
            services.start_temporal(tmp_path, port=port, ui_port=ui_port)
    assert services.status(tmp_path) is None
    assert not (tmp_path / "temporal.db").exists()


def test_a_worker_needs_a_server(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="opam-ci up"):
        worker(tmp_path, READY_WORKER)


def test_stop_ends_both_and_is_repeatable(tmp_path: Path) -> None:
    started = services.start_temporal(tmp_path, port=free_port(), ui_port=free_port())
    assert worker(tmp_path, READY_WORKER).worker_pid is not None
    assert services.stop(tmp_path) == ("worker", "temporal")
    assert services.status(tmp_path) is None
    ports.require_free(int(started.address.rpartition(":")[2]), option="--port")
    assert services.stop(tmp_path) == ()
    assert services.stop(tmp_path / "never") == ()
    assert not (tmp_path / "never").exists()


def test_a_state_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="OPAM_CI_HOME"):
        services.start_temporal(tmp_path / "file" / "home")


@pytest.mark.parametrize("megabytes", [8, 24])
def test_on_a_full_disk_nothing_is_started(tmp_path: Path, megabytes: int) -> None:
    with small_disk(tmp_path / "disk", megabytes) as home:
        with pytest.raises(InfrastructureError) as caught:
            services.start_temporal(home, port=free_port(), ui_port=free_port())
        assert caught.value.cause is Cause.DISK_FULL
        assert str(caught.value) == (
            f"{home} has {megabytes} MiB free and needs 64: make room, or set OPAM_CI_HOME to "
            "another directory"
        )
        assert services.status(home) is None


async def test_a_disk_that_fills_up_under_a_check_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(session, "_ROOM_INTERVAL", timedelta(seconds=0.02))
    with small_disk(tmp_path / "disk", 80) as home:
        watching = asyncio.create_task(session._report_full(home, reported.put_nowait))
        # While the file is being written, more is free than at its end.
        expected = rf"{home} has [4-6]\d MiB free and needs 64: the check waits until there is room"
        for _ in range(2):
            (home / "big").write_bytes(bytes(40 << 20))
            assert re.fullmatch(expected, await asyncio.wait_for(reported.get(), 10))
            (home / "big").unlink()
            await asyncio.sleep(0.2)
        await session._end(watching)
    assert reported.empty()


def test_a_worker_reports_that_it_polls_only_to_its_starter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(services.READY_FILE, raising=False)
    services.announce_ready()
    monkeypatch.setenv(services.READY_FILE, str(tmp_path / "ready"))
    services.announce_ready()
    assert (tmp_path / "ready").exists()


def test_the_server_gets_every_search_attribute(home: Path) -> None:
    running = daemon.find(home / "run" / "temporal.json")
    assert running is not None
    words = Path(f"/proc/{running.pid}/cmdline").read_text().split("\0")
    assert {"CiState=Keyword", "CiCauses=KeywordList"} <= set(words)
    assert len(services.SEARCH_ATTRIBUTES) == len(options.SEARCH_ATTRIBUTES)
    assert "matching.enableFairness=true" in words
