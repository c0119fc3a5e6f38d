"""The container runner with real podman, real docker and real opam."""

import asyncio
import contextlib
import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from opam_ci.clients.runners.settings import JobLimits
from opam_ci.clients.runners.settings import default_home as default_cache
from opam_ci.core.classify import judge
from opam_ci.core.jobs.job import JobKind, Phase
from opam_ci.core.jobs.outcome import Failed, Passed, label
from tests.e2e.conftest import System, result
from tests.support.fakes import opam_repository
from tests.support.ports import free_port
from tests.support.worlds.container import IMAGE, ContainerWorld, Engine
from tests.support.worlds.machines import health
from tests.support.worlds.rootfs import Log, Server, archive, last, phase_names, processes_with

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    # Together with the other tests of images, which are costly to make.
    pytest.mark.xdist_group("containers"),
]

LIMITS = JobLimits(memory_bytes=512 << 20, pids=150, disk_bytes=300 << 20)

_CHECKOUT = Path(__file__).resolve().parents[2]

_WORKER = """
import asyncio, sys
from pathlib import Path
from opam_ci.core.jobs.build import BuildSpec
from opam_ci.clients.runners.container import ContainerRunner
from opam_ci.clients.runners.settings import ContainerSettings
from tests.support.worlds.rootfs import Artifacts, Log

home, artifacts, spec = map(Path, sys.argv[1:4])
settings = ContainerSettings(home=home, image=sys.argv[4], command=sys.argv[5])
runner = ContainerRunner(settings, Artifacts(artifacts))
asyncio.run(runner.run(BuildSpec.model_validate_json(spec.read_text()), Log(), lambda _: None))
"""


@pytest.fixture(scope="module")
def world(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> ContainerWorld:
    directory = tmp_path_factory.mktemp(f"world-{engine.command}")
    return ContainerWorld(directory, limits=LIMITS, command=engine.command)


async def until(condition: object, seconds: float) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def test_the_preflight_passes_here(world: ContainerWorld, engine: Engine) -> None:
    await world.runner.preflight()
    assert world.job_roots() == []
    assert engine.containers() == []


async def test_a_job_passes_the_same_phases_and_no_process_outlives_one(
    world: ContainerWorld, engine: Engine
) -> None:
    word = f"86400.{os.getpid()}4"
    # It is built in two phases: the second finds no process of the first.
    leave = f"! pgrep -x sleep && {{ setsid sleep {word} > /dev/null 2>&1 < /dev/null & }}"
    packages = {
        "below.1": 'install: ["touch" "%{lib}%/below"]\n',
        "good.1": (
            'depends: "below"\nbuild: [["test" "-e" "%{lib}%/below"] '
            f'["sh" "-c" "{leave}"]]\n'
            'run-test: ["sh" "-c" "echo tested"]\n'
        ),
    }
    report, log = await world.build(packages, "good.1", kind=JobKind.TEST)
    assert phase_names(report) == [
        *(Phase.CHECKOUT, Phase.SETUP, Phase.SOLVE, Phase.FETCH),
        *(Phase.DEPENDENCIES, Phase.BUILD, Phase.TEST, Phase.VERIFY),
    ]
    assert isinstance(judge(report.facts, report.logs), Passed), log.text
    assert report.facts.installed is True
    assert "tested" in report.logs[Phase.TEST]
    assert "opam-ci starts" not in log.text
    assert IMAGE in log.text
    environment = report.facts.environment
    assert environment is not None
    assert environment.image == IMAGE
    assert sorted(environment.solution) == ["below.1", "good.1"]
    assert report.facts.host.free_bytes
    assert world.job_roots() == []
    assert engine.containers() == []


async def test_a_build_sees_nothing_of_the_worker_and_has_no_network(
    world: ContainerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret-of-the-worker")
    monkeypatch.setenv("http_proxy", "http://secret-of-the-worker@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server({"/source.tar.gz": archive({"looks/readme": "fetched"})})
    word = f"86400.{os.getpid()}1"
    neighbour = await asyncio.create_subprocess_exec("sleep", word)
    look = (
        "env; cat /proc/*/environ | tr '\\\\0' '\\\\n'; cat /proc/mounts; ls / /run; "
        "cat /proc/[0-9]*/cmdline | tr '\\\\0' ' '; cat /proc/net/dev; id; ls /sys; "
        f"ls -d {_CHECKOUT} 2>&1; touch /etc/written /usr/written /mirrors/written 2>&1; "
        "echo seen opam: $(pidof opam | wc -w); "
        f"echo sockets: $(find / -xdev -type s | wc -l); grep CapEff /proc/self/status; "
        "perl -e 'for (2, 40) { socket(S, $_, 1, 0) or print q(socket ), 0 + $! }'; "
        "cat /usr/sbin/policy-rc.d; "
        f"curl --silent --show-error --max-time 5 {server.url}/ 2>&1; cat readme; exit 1"
    )
    try:
        with server.running():
            package = server.source("/source.tar.gz") + f'build: ["sh" "-c" "{look}"]\n'
            report, _ = await world.build({"looks.1": package}, "looks.1")
    finally:
        neighbour.kill()
        await neighbour.wait()
    assert last(report).exit_code == 31
    seen = report.logs[Phase.BUILD].split("### output ###", 1)[1]
    assert "CI=true" in seen
    # opam's sandbox has a PID namespace of its own: opam is not among the processes.
    assert os.geteuid() != 0 or "seen opam: 0" in seen
    assert "secret-of-the-worker" not in seen
    assert "uid=1000" in seen
    assert "CapEff:\t0000000000000000" in seen
    assert f"cannot access '{_CHECKOUT}'" in seen
    assert seen.count("touch: cannot touch") >= 3
    assert "Couldn't connect" in seen or "Failed to connect" in seen
    # The fetch phase reached the server, the build did not.
    assert server.asked == ["/source.tar.gz"]
    assert "fetched" in seen
    assert word not in seen
    assert "eth0" not in seen
    assert "sockets: 0" in seen
    refused = f"socket {errno.EAFNOSUPPORT}"  # of the two, AF_VSOCK alone
    assert refused in seen
    assert f"{refused}socket" not in seen
    assert "exit 101" in seen


async def test_a_hog_is_killed_and_a_fork_bomb_stopped(
    world: ContainerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hog = "perl -e 'my $x = q(x) x (900 << 20); print length $x'"
    report, _ = await world.build({"hog.1": f'build: ["sh" "-c" "{hog}"]\n'}, "hog.1")
    assert report.facts.host.oom_kills >= 1
    assert label(judge(report.facts, report.logs)) == "errored(out_of_memory)"
    # podman's conmon writes a file `oom` into the directory that it is started in.
    assert names(tmp_path) == []

    bomb = "perl -e 'for (1..500) { my $p = fork // die qq(fork: $!); $p or sleep 60 }'"
    report, _ = await world.build({"bomb.1": f'build: ["sh" "-c" "{bomb}"]\n'}, "bomb.1")
    assert report.facts.host.pids_limit_hits >= 1


async def test_a_job_that_fills_the_disk_is_ended(world: ContainerWorld, engine: Engine) -> None:
    fill = (
        "for i in 1 2 3 4 5 6 7 8; do "
        "dd if=/dev/zero of=big$i bs=1M count=100 status=none; sleep 0.3; done"
    )
    report, _ = await world.build({"fills.1": f'build: ["sh" "-c" "{fill}"]\n'}, "fills.1")
    outcome = judge(report.facts, report.logs)
    assert label(outcome) == "failed(build)"
    assert isinstance(outcome, Failed)
    assert outcome.evidence.rule == "disk-budget"
    assert world.job_roots() == []
    assert engine.containers() == []


async def test_a_cancelled_job_is_gone_within_5_seconds(
    world: ContainerWorld, engine: Engine
) -> None:
    word = f"86400.{os.getpid()}2"
    script = f"sleep {word} & setsid sleep {word} & sleep {word}"
    spec = world.spec({"endless.1": f'build: ["sh" "-c" "{script}"]\n'}, "endless.1")
    running = asyncio.create_task(world.runner.run(spec, Log(), lambda _: None))
    await until(lambda: len(processes_with(word)) == 3 or running.done(), 60)
    begin = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes_with(word) == []
    assert time.monotonic() - begin < 5
    assert world.job_roots() == []
    assert engine.containers() == []


async def test_nothing_outlives_a_killed_worker_and_the_rest_is_swept(
    world: ContainerWorld, engine: Engine, tmp_path: Path
) -> None:
    word = f"86400.{os.getpid()}3"
    spec = tmp_path / "spec.json"
    packages = {"endless.1": f'build: ["sh" "-c" "setsid sleep {word} & sleep {word}"]\n'}
    spec.write_text(world.spec(packages, "endless.1").model_dump_json())
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _WORKER, world.home, world.artifacts.directory, spec, IMAGE),
        engine.command,
        cwd=_CHECKOUT,
    )
    try:
        await until(lambda: len(processes_with(word)) == 2 or worker.returncode is not None, 60)
        assert await world.runner.sweep() == 0
        worker.send_signal(signal.SIGKILL)
        await until(lambda: processes_with(word) == [], 5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        await worker.wait()
    assert await world.runner.sweep() == 1
    assert world.job_roots() == []
    assert engine.containers() == []


PLATFORMS = f"""
[pools.roots]
arch = "amd64"
[pools.boxes]
arch = "amd64"
runner = "container"
[pools.nobody]
arch = "s390x"
[[platforms]]
distribution = "debian-13"
ocaml = "5.3"
runner = "rootfs"
[[platforms]]
distribution = "debian-trixie"
ocaml = "5.3"
runner = "container"
image = "{IMAGE}"
compiler = "ocaml-system"
[[platforms]]
distribution = "debian-13"
ocaml = "5.3"
arch = "s390x"
"""


def test_one_worker_has_both_runners(engine: Engine, system: System) -> None:
    """By default it serves every pool of the file that it can; a check names what it cannot.

    Without canaries: the image of these tests cannot compile one.
    """
    file = system.home / "platforms.toml"
    file.write_text(PLATFORMS)
    del system.environment["OPAM_CI_POOLS"]
    port = free_port()
    system.environment |= {
        **engine.environment,
        "OPAM_CI_CONTAINER_COMMAND": engine.command,
        "OPAM_CI_PLATFORMS": str(file),
        "OPAM_CI_METRICS": f"127.0.0.1:{port}",
        "OPAM_CI_CACHE": str(system.home / "cache"),
    }
    (system.home / "cache").mkdir()
    (system.home / "cache" / "images").symlink_to(default_cache() / "images")
    system.start_worker("--builds", "2")
    assert states(port) == {("roots",): "healthy", ("boxes",): "healthy"}, json.dumps(health(port))
    repo = opam_repository.write(
        system.home / "r", {}, {"topic": opam_repository.package("a.1", 'build: ["true"]\n')}
    )
    words = ("check", "--repo", str(repo), "--branch", "topic", "--platform", "*", "--json")
    done = system.run(*words, check=0)
    assert "no worker builds for the pool nobody, and this machine cannot (it is for" in done.stderr
    summary = result(done)
    assert summary["result"] == "2 passed; 1 platform not served; analysis and lint passed"
    found = {
        f"{row['job']['kind']} {row['job']['platform']}": row["outcome"]["kind"]
        for row in summary["jobs"]
        if row["job"]["platform"]
    }
    assert found == {
        "build debian-13-ocaml-5.3/amd64": "passed",
        "build debian-trixie-ocaml-5.3/amd64": "passed",
        "image debian-trixie-ocaml-5.3/amd64": "passed",
        "platform debian-13-ocaml-5.3/s390x": "skipped",
    }
    log = system.run("log", "local/r/branch-topic", "build debian-trixie-ocaml-5.3/amd64 a.1")
    # docker has no digest of an image that is of no registry, but an id.
    name = IMAGE if engine.command == "docker" else IMAGE.partition(":")[0]
    assert f"Image: {name}@sha256:" in log.stdout


def states(port: int) -> dict[tuple[str, ...], str]:
    return {tuple(each["pools"]): each["state"] for each in health(port)[1]["runners"]}
