"""What all tests share."""

import asyncio
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine, QueuePool

from opam_ci.app.settings import Settings
from opam_ci.clients.index.engine import create
from opam_ci.clients.lint.opam import OpamLint
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.worker import make_lint
from tests.support.fakes.postgres import server as postgresql

_LONGEST_ID = 60

# How long an example takes is a matter of what else the machine does.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Hears Ctrl-C again where a shell started the run in the background, and forgets Temporal's.

    Such a shell has it ignored, and so would every process that a test starts and interrupts. A
    server of the machine's own, in variables or a profile, is none for tests.
    """
    for name in [each for each in os.environ if each.startswith("TEMPORAL_")]:
        del os.environ[name]
    os.environ["TEMPORAL_CONFIG_FILE"] = os.devnull
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names hostile texts by their hash: a name of a megabyte fits into no environment."""
    if not isinstance(val, str | bytes) or len(val) <= _LONGEST_ID:
        return None
    data = val.encode("utf-8", "surrogatepass") if isinstance(val, str) else val
    return f"{argname}-{hashlib.sha256(data).hexdigest()[:12]}"


@pytest.fixture(autouse=True)
def all_indexes_are_closed() -> Iterator[None]:
    """Fails a test that leaves an index open: its connections would be found in a later one."""
    # Not with the fixture `monkeypatch`: what a test patches would then outlive its other fixtures.
    opened: list[Engine] = []

    def noted(url: str) -> Engine:
        opened.append(create(url))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("opam_ci.clients.index.index.create", noted)
        yield
    pools = [cast("QueuePool", each.pool) for each in opened]
    assert [pool for pool in pools if pool.checkedin() or pool.checkedout()] == []


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; without it the test is skipped."""
    folder = Path(__file__).resolve().parents[1] / ".." / "shared"
    if not folder.is_dir():
        pytest.skip("there is no folder `shared` with real data beside the checkout")
    return folder.resolve()


@pytest.fixture(scope="session")
def real_repository(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real opam-repository as a bare clone, unpacked once for all workers of a run."""
    archive = shared / "real" / "opam-repository.git.tar.zst"
    if not archive.is_file() or shutil.which("zstd") is None:
        pytest.skip("the real repository's archive, or zstd to unpack it, is missing")
    base = tmp_path_factory.getbasetemp()
    # Each xdist worker has a folder of its own inside the one of the run.
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = run / "real-repository"
    with (run / "real-repository.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            part = run / "real-repository.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            subprocess.run(["tar", "--zstd", "-xf", archive, "-C", part], check=True)
            part.rename(folder)
    return folder / "opam-repository.git"


@pytest.fixture(scope="session")
def opam_lint() -> OpamLint:
    """The lint that authors are judged by, in the machine's root; the first run makes that."""
    if missing := sandbox.missing_tools():
        pytest.skip(missing)
    lint = make_lint(Settings(), print)
    asyncio.run(lint.program.prepare())
    return lint


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of an empty database on a real server that lives as long as the tests."""
    with postgresql() as server:
        yield server.url
