"""A real Temporal server and real worker processes for the end-to-end tests."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError

from opam_ci.app.shutdown import PROCESS_TIMEOUT
from opam_ci.cli import debian
from opam_ci.cli.local import services
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.settings import default_home as default_cache
from tests.support.fakes.registry import docker_registry
from tests.support.ports import free_port
from tests.support.worlds.browser import chromium
from tests.support.worlds.container import (
    BETA_IMAGE,
    IMAGE,
    OPAM_IMAGE,
    Docker,
    Engine,
    Storage,
)
from tests.support.worlds.rootfs import ROOTS

TEMPORAL = Path(sys.executable).with_name("temporal")


HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a module in one process: most share a costly world, once a process.

    Before xdist reads the groups, which it does first if a module is named on the command line.
    """
    for item in items:
        if item.path.parent == HERE and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as found:
        yield found


def hand_back(directory: Path) -> None:
    """Gives an ordinary user what builds below a directory left to her subordinate ids.

    pytest cannot remove it, and some test or other fails by the warning.
    """
    if prefix := sandbox.rights().prefix:
        script = 'chown -R 0:0 "$1" && chmod -R u+rwX "$1"'
        subprocess.run([*prefix, "sh", "-c", script, "sh", directory], check=True)


@pytest.fixture(scope="session", autouse=True)
def _removable_at_the_end(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    hand_back(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """podman, with the image of a Debian root file system."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    if os.geteuid() != 0:
        pytest.skip("the image is made with files of many users")
    # Short: podman puts sockets below it.
    found = Storage(tmp_path_factory.mktemp("podman"))
    try:
        found.import_image()
        yield found
    finally:
        found.remove()


@pytest.fixture(scope="session")
def images(
    tmp_path_factory: pytest.TempPathFactory, podman: Storage
) -> Iterator[Mapping[str, str]]:
    """A registry's references, by digest, to the images of these tests."""
    folder = tmp_path_factory.mktemp("registry")
    with docker_registry(folder) as host:
        podman.allow(host)
        podman.make_opam_images()
        found = {}
        for image in (IMAGE, OPAM_IMAGE, BETA_IMAGE):
            to = f"docker://{host}/ocaml/opam:{image.rpartition(':')[2]}"
            options = ("--compression-format=zstd", "--compression-level=1")
            podman.call(
                *("push", "--quiet", *options, f"--digestfile={folder / 'digest'}", image, to)
            )
            found[image] = f"{host}/ocaml/opam@{(folder / 'digest').read_text()}"
        yield found


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory, images: Mapping[str, str]) -> Iterator[Docker]:
    """docker, with the image of a Debian root file system."""
    found = Docker(tmp_path_factory.mktemp("docker"))
    try:
        found.call("pull", "--quiet", images[IMAGE])
        found.call("tag", images[IMAGE], IMAGE)
        yield found
    finally:
        found.remove()


@pytest.fixture(scope="module", params=["podman", "docker"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of both engines; in a usual run docker has the tests of images alone, for their time."""
    is_short = os.environ.get(ROOTS) != "all" and "images" not in request.module.__name__
    if request.param == "docker" and is_short:
        pytest.skip(f"podman is enough here; {ROOTS}=all tries docker as well")
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Engine)
    return found


@pytest.fixture(autouse=True)
def _removable(tmp_path: Path) -> Iterator[None]:
    yield
    hand_back(tmp_path)


class System:
    """A Temporal server, workers as processes of their own, and the command line."""

    def __init__(self, home: Path, address: str) -> None:
        self.home = home
        self.address = address
        self.workers: list[subprocess.Popen[bytes]] = []
        self.checks: list[subprocess.Popen[str]] = []
        self.environment = os.environ | {
            "OPAM_CI_HOME": str(home),
            "OPAM_CI_CACHE": str(default_cache()),
            "OPAM_CI_TEMPORAL": address,
            # The tests of canaries turn them on: the others need not wait for one.
            "OPAM_CI_CANARY": "false",
            # Also where podman is installed: most need no containers.
            "OPAM_CI_POOLS": '["linux-amd64"]',
            "OPAM_CI_NETWORK_ALLOW": "127.0.0.1",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        }

    def start_worker(self, *words: str) -> subprocess.Popen[bytes]:
        """Starts a worker and waits until it takes work."""
        ready = self.home / f"ready-{len(self.workers)}"
        log = self.home / f"worker-{len(self.workers)}.log"
        with log.open("wb") as output:
            worker = subprocess.Popen(
                [sys.executable, "-m", "opam_ci.cli.main", "worker", *words],
                env=self.environment | {services.READY_FILE: str(ready)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.workers.append(worker)
        wait_for(lambda: ready.exists() or worker.poll() is not None, 120)
        if worker.poll() is not None:
            pytest.fail(log.read_text())
        return worker

    def stop(self) -> None:
        """Ends all checks and workers that still run, and what they left on the shared server.

        A workflow that waits for a worker would be the next test's first work, and its fault; and
        a schedule that is there is not triggered by the next test's worker.
        """
        self._stop_processes()
        asyncio.run(self._clear())

    async def _clear(self) -> None:
        client = await Client.connect(self.address)
        async for schedule in await client.list_schedules():
            with contextlib.suppress(RPCError):
                await client.get_schedule_handle(schedule.id).delete()
        async for each in client.list_workflows('ExecutionStatus = "Running"'):
            with contextlib.suppress(RPCError):  # it has just ended
                await client.get_workflow_handle(each.id, run_id=each.run_id).terminate()

    def _stop_processes(self) -> None:
        for check in self.checks:
            check.kill()
            check.wait()
            for pipe in (check.stdout, check.stderr):
                if pipe is not None:
                    pipe.close()
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            try:
                worker.wait(PROCESS_TIMEOUT.total_seconds())
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def run(self, *words: str, check: int | None = None) -> subprocess.CompletedProcess[str]:
        """Runs an `opam-ci` command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "opam_ci.cli.main", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if check is not None:
            assert done.returncode == check, (
                f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def start_check(self, *words: str) -> subprocess.Popen[str]:
        """Starts `opam-ci check --json` and leaves it running."""
        check = subprocess.Popen(
            [*(sys.executable, "-m", "opam_ci.cli.main", "check", "--json"), *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.checks.append(check)
        return check

    def temporal(self, *words: str) -> str:
        """Runs the stock Temporal command line."""
        done = subprocess.run(
            [TEMPORAL, *words, "--address", self.address],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    async def client(self) -> Client:
        return await Client.connect(self.address, data_converter=pydantic_data_converter)


def wait_for(condition: Any, seconds: float) -> None:
    """Waits until something is so, or fails the test."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not so after {seconds} s: {condition}")
        time.sleep(0.1)


def result(check: subprocess.Popen[str] | subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Returns the summary that `check --json` ends with."""
    text = (
        check.communicate(timeout=600)[0] if isinstance(check, subprocess.Popen) else check.stdout
    )
    last: dict[str, Any] = json.loads(text.splitlines()[-1])
    assert last["event"] == "summary"
    return last


def rows(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the job rows by job kind and package."""
    return {f"{row['job']['kind']} {row['job']['package']}".strip(): row for row in summary["jobs"]}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Embedded]:
    """One Temporal server for all end-to-end tests of a process."""
    if missing := debian.missing():
        pytest.skip(f"not installed: {', '.join(missing)}; `./opam-ci test` installs them")
    home = tmp_path_factory.mktemp("server")
    yield services.start_temporal(home, port=free_port(), ui_port=free_port())
    services.stop(home)


@pytest.fixture
def system(server: services.Embedded, tmp_path: Path) -> Iterator[System]:
    """A system of the test's own on the shared server: it starts what workers it needs."""
    home = tmp_path / "home"
    home.mkdir()
    found = System(home, server.address)
    yield found
    found.stop()
    shutil.rmtree(home, ignore_errors=True)
