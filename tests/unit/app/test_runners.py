"""Which pools a machine can serve, and what it says of the others."""

import asyncio
from pathlib import Path

import pytest

from opam_ci.app import runners
from opam_ci.app.monitoring import Instruments
from opam_ci.app.settings import Settings
from opam_ci.clients.host import HostNeeds
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.platform_files import load_platforms
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.platforms.model import EMBEDDED, Runner
from opam_ci.core.workers.health import HealthPolicy, WorkerState
from opam_ci.worker import canary_platforms
from tests.support.fakes.runners import FakeRunner

POOLS = load_platforms(None).pools
NO_ENGINE = "this machine has no podman: apt-get install podman"


class Machine:
    """A machine of a system and an architecture, with some of the runners."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lacks: dict[Runner, str] = {}
        self._patch = monkeypatch
        monkeypatch.setattr(runners, "make_runner", self._make)
        self.be("Linux", "x86_64")

    def be(self, system: str, machine: str) -> None:
        self._patch.setattr("platform.system", lambda: system)
        self._patch.setattr("platform.machine", lambda: machine)

    def _make(self, runner: Runner, _settings: Settings, _store: ArtifactStore) -> "Required":
        return Required(self.lacks.get(runner))


class Required:
    def __init__(self, lack: str | None) -> None:
        self._lack = lack

    async def require(self) -> None:
        if self._lack is not None:
            raise UsageError(self._lack)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def served(settings: Settings) -> tuple[str, ...]:
    return asyncio.run(runners.with_pools(settings)).pools or ()


def test_a_worker_serves_all_pools_that_its_machine_can_serve(machine: Machine) -> None:
    assert served(Settings()) == ("linux-amd64", "linux-amd64-containers")
    machine.lacks[Runner.CONTAINER] = NO_ENGINE
    assert served(Settings()) == ("linux-amd64",)
    machine.be("Darwin", "arm64")
    assert served(Settings()) == ("macos-arm64",)
    # Named pools are served whatever they are for: the machine may emulate them.
    assert served(Settings(pools=("linux-s390x-containers",))) == ("linux-s390x-containers",)
    assert served(Settings(pools=())) == ()


def test_why_a_pool_is_not_served_here(machine: Machine) -> None:
    machine.lacks[Runner.CONTAINER] = NO_ENGINE
    reasons = asyncio.run(runners.unserved(Settings(), POOLS))
    assert {name: reasons.get(name) for name in ("linux-amd64", "linux-amd64-containers")} == {
        "linux-amd64": None,
        "linux-amd64-containers": NO_ENGINE,
    }
    assert reasons["linux-arm64-containers"] == "it is for arm64; this machine is amd64"
    assert reasons["macos-amd64"] == "it is for macos; this machine is linux"


def test_a_machine_that_can_serve_nothing_says_why(machine: Machine) -> None:
    machine.lacks = {Runner.CONTAINER: NO_ENGINE, Runner.ROOTFS: "this machine lacks bubblewrap"}
    with pytest.raises(UsageError) as caught:
        served(Settings())
    assert "linux-amd64: this machine lacks bubblewrap;" in str(caught.value)
    assert f"linux-amd64-containers: {NO_ENGINE};" in str(caught.value)


def test_the_runner_is_not_a_setting_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPAM_CI_RUNNER", "container")
    with pytest.raises(UsageError, match=r"OPAM_CI_RUNNER is not a setting any more.* unset it"):
        Settings()


def test_docker_is_the_engine_where_it_is_the_only_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Settings().container_command == "podman"
    for engine, chosen in (("docker", "docker"), ("podman", "podman")):
        (tmp_path / engine).touch(mode=0o755)
        assert Settings().container_command == chosen


def test_canaries_of_a_worker_are_those_of_its_pools() -> None:
    pools = ("linux-amd64-containers", "linux-riscv64-containers", "linux-amd64")
    found = canary_platforms(Settings(pools=pools))
    assert {name: (one.pool, one.runner, one.arch) for name, one in found.items()} == {
        "linux-amd64-containers": ("linux-amd64-containers", Runner.CONTAINER, "amd64"),
        "linux-riscv64-containers": ("linux-riscv64-containers", Runner.CONTAINER, "riscv64"),
        "linux-amd64": ("linux-amd64", Runner.ROOTFS, "amd64"),
    }
    with pytest.raises(UsageError, match="no such pool: 'linux-amd46'"):
        canary_platforms(Settings(pools=("linux-amd46",)))


async def test_each_runner_has_a_health_of_its_own(tmp_path: Path) -> None:
    pools = ("boxes", "roots")
    instruments = Instruments(Settings(home=tmp_path, pools=pools, orchestrate=False))
    store = ArtifactStore.open("memory:")
    needs = HostNeeds(home=tmp_path, free_bytes=0, free_inodes=0, memory_bytes=0)
    made = {}
    for pool in pools:
        made[pool] = FakeRunner(duration=0)
        platforms = {pool: EMBEDDED.model_copy(update={"pool": pool})}
        instruments.watch_builds(made[pool], store, needs, platforms, policy=HealthPolicy())
    made["boxes"].broken = Cause.SANDBOX
    async with instruments.watching(), asyncio.timeout(20):
        await instruments.proven()
        # Its first probe ends at about the same time.
        while instruments.status().runners[0].state is WorkerState.PROBING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        now = instruments.status()
    assert (now.state, now.pools, now.cause) == (WorkerState.HEALTHY, pools, None)
    boxes, roots = now.runners
    assert (boxes.pools, boxes.state, boxes.cause) == (
        ("boxes",), WorkerState.QUARANTINED, Cause.SANDBOX,
    )  # fmt: skip
    assert (roots.pools, roots.state) == (("roots",), WorkerState.HEALTHY)
    assert {runner.canaries for runner in made.values()} == {1}
