"""The root-file-system runner with real opam: what a build sees, and what is left of it."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opam_ci.clients.runners.images.scratch import overlay
from opam_ci.clients.runners.rootfs import RootfsRunner, RootfsSettings
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox.process import run_process
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.build import BuildReport
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause
from tests.support.worlds.rootfs import Log, World, last, mounts_below, processes_with

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

_CHECKOUT = Path(__file__).resolve().parents[2]

_WORKER = """
import asyncio, sys
from pathlib import Path
from opam_ci.core.jobs.build import BuildSpec
from opam_ci.clients.runners.rootfs import RootfsRunner, RootfsSettings
from tests.support.worlds.rootfs import Artifacts

class Echo:
    size = 0
    def write(self, data):
        self.size += len(data)
        sys.stdout.buffer.write(data)
        sys.stdout.flush()

home, artifacts, spec = map(Path, sys.argv[1:])
runner = RootfsRunner(RootfsSettings(home=home), Artifacts(artifacts))
asyncio.run(runner.run(BuildSpec.model_validate_json(spec.read_text()), Echo(), lambda _: None))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("rootfs"))


async def until(condition: object, seconds: float) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def test_a_build_sees_nothing_of_the_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret-of-the-worker")
    look = (
        "env; cat /proc/*/environ | tr '\\\\0' '\\\\n'; cat /proc/mounts; ls /; ls /sys /run; "
        "cat /proc/[0-9]*/comm | sort | uniq -c; cat /proc/net/dev; id; "
        f"ls -d {_CHECKOUT} 2>&1; touch /etc/written 2>&1; grep CapEff /proc/self/status; exit 1"
    )
    report, _ = await world.build({"looks.1": f'build: ["sh" "-c" "{look}"]\n'}, "looks.1")
    seen = report.logs[Phase.BUILD]
    assert last(report).exit_code == 31
    assert "CI=true" in seen
    assert "secret-of-the-worker" not in seen
    assert "uid=1000" in seen
    assert "CapEff:\t0000000000000000" in seen
    assert f"cannot access '{_CHECKOUT}'" in seen
    assert "touch: cannot touch '/etc/written'" in seen
    # Of the host's processes, none; of its network interfaces, none.
    assert "pytest" not in seen
    assert "python" not in seen
    assert "eth0" not in seen
    assert str(world.home) not in seen


async def test_two_jobs_do_not_see_each_other(world: World) -> None:
    def packages(word: str) -> dict[str, str]:
        # What the build may write outlives it only in /tmp, which all of a job shares.
        script = (
            f"test ! -e /tmp/mine && echo {word} > /tmp/mine && sleep 2 && cat /tmp/mine && "
            "cat /proc/[0-9]*/cmdline | tr '\\\\0' ' ' && exit 1"
        )
        return {"same.1": f'build: ["sh" "-c" "{script}" "argument-{word}"]\n'}

    (one, _), (two, _) = await asyncio.gather(
        world.build(packages("first"), "same.1"), world.build(packages("second"), "same.1")
    )

    def seen(report: BuildReport) -> str:
        return report.logs[Phase.BUILD].split("### output ###", 1)[1]

    assert "first" in seen(one)
    assert "second" not in seen(one)
    assert "second" in seen(two)
    assert "first" not in seen(two)
    assert "argument-first" in seen(one)


async def test_a_cancelled_job_leaves_nothing(world: World) -> None:
    word = f"86400.{os.getpid()}1"
    script = f"sleep {word} & setsid sleep {word} & sleep {word}"
    spec = world.spec({"endless.1": f'build: ["sh" "-c" "{script}"]\n'}, "endless.1")
    log = Log()
    running = asyncio.create_task(world.runner.run(spec, log, lambda _: None))
    await until(lambda: len(processes_with(word)) == 3, 60)
    assert world.job_roots()
    begin = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - begin < 5
    # At once, not some time later: the method returns when everything is dead.
    assert processes_with(word) == []
    assert world.job_roots() == []
    assert mounts_below(world.home) == []


async def test_a_job_that_is_cancelled_twice_still_ends_clean(world: World) -> None:
    word = f"86400.{os.getpid()}2"
    spec = world.spec({"endless.1": f'build: ["sleep" "{word}"]\n'}, "endless.1")
    running = asyncio.create_task(world.runner.run(spec, Log(), lambda _: None))
    await until(lambda: processes_with(word), 60)
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes_with(word) == []
    await until(lambda: world.job_roots() == [], 5)


async def test_a_killed_worker_leaves_no_process_and_is_swept(world: World, tmp_path: Path) -> None:
    word = f"86400.{os.getpid()}3"
    script = f"setsid sleep {word} & sleep {word}"
    packages = {"endless.1": f'build: ["sh" "-c" "{script}"]\n'}
    spec = tmp_path / "spec.json"
    spec.write_text(world.spec(packages, "endless.1").model_dump_json())
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _WORKER, world.home, world.artifacts.directory, spec),
        stdout=subprocess.DEVNULL,
        cwd=_CHECKOUT,
    )
    try:
        await until(lambda: len(processes_with(word)) == 2, 60)
        # A live worker's root is not swept.
        assert await world.runner.sweep() == 0
        worker.send_signal(signal.SIGKILL)
        await until(lambda: processes_with(word) == [], 5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        await worker.wait()
    assert len(world.job_roots()) == 1
    assert await world.runner.sweep() == 1
    assert world.job_roots() == []
    assert mounts_below(world.home) == []


async def test_deep_trees_and_odd_names_are_removed(world: World) -> None:
    script = (
        "perl -e 'for (1..3000) { mkdir q(d); chdir q(d) or die }' && "
        "ln -s /etc/passwd link && mkfifo pipe"
    )
    report, _ = await world.build(
        {"deep.1": f'build: ["sh" "-c" "cd /tmp && {script}"]\n'}, "deep.1"
    )
    assert report.facts.installed is True
    assert world.job_roots() == []


async def test_what_a_build_leaves_running_ends_with_its_phase(world: World) -> None:
    word = f"86400.{os.getpid()}4"
    script = f"setsid sleep {word} > /dev/null 2>&1 < /dev/null &"
    report, _ = await world.build({"leaves.1": f'build: ["sh" "-c" "{script}"]\n'}, "leaves.1")
    assert report.facts.installed is True
    assert processes_with(word) == []


async def test_the_preflight_passes_here(world: World) -> None:
    await world.runner.preflight()
    assert world.job_roots() == []


async def test_a_base_layer_is_made_once_for_two_jobs(tmp_path: Path) -> None:
    fresh = World(tmp_path)
    (_, one), (_, two) = await asyncio.gather(
        fresh.build({"nothing.1": ""}, "nothing.1"), fresh.build({"nothing.1": ""}, "nothing.1")
    )
    assert (one.text + two.text).count("base layer: opam init") == 1
    assert (one.text + two.text).count("waiting for another job") == 1


async def test_a_worker_killed_while_it_makes_a_layer_leaves_none(tmp_path: Path) -> None:
    fresh = World(tmp_path)
    spec = tmp_path / "spec.json"
    spec.write_text(fresh.spec({"nothing.1": ""}, "nothing.1").model_dump_json())
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _WORKER, fresh.home, fresh.artifacts.directory, spec),
        stdout=subprocess.DEVNULL,
        cwd=_CHECKOUT,
    )
    layers = fresh.home / "layers"
    await until(lambda: any(layers.glob("half-made-*/upper/home/opam/.opam")), 60)
    worker.kill()
    await worker.wait()
    assert list(layers.glob("*/manifest.json")) == []
    report, _ = await fresh.build({"nothing.1": ""}, "nothing.1")
    assert report.facts.installed is True
    assert list(layers.glob("half-made-*")) == []


async def test_what_is_killed_while_it_makes_an_image_leaves_no_mounts(tmp_path: Path) -> None:
    """As mmdebstrap does, whose mounts nobody could remove."""
    place = tmp_path / "rootfs"
    place.mkdir()
    made = 'mount -t tmpfs none "$1" && : > "$1/in" && test -e "$1/in" && echo ok && sleep 60'
    process = await asyncio.create_subprocess_exec(
        *sandbox.rights().making_images,
        *("sh", "-c", made, "sh", str(place)),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ok\n"
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    assert mounts_below(tmp_path) == []
    assert list(place.iterdir()) == []


async def test_layers_used_longest_ago_are_pruned(tmp_path: Path) -> None:
    fresh = World(tmp_path, keep_layers=1)
    for commit in ("a" * 40, "b" * 40):
        spec = fresh.spec({"nothing.1": ""}, "nothing.1")
        repository = spec.repository.model_copy(update={"base_commit": commit})
        await fresh.runner.run(
            spec.model_copy(update={"repository": repository}), Log(), lambda _: None
        )
    assert len(list((fresh.home / "layers").glob("*/manifest.json"))) == 1


async def test_a_sandbox_that_cannot_start_is_no_failed_command(tmp_path: Path) -> None:
    directory = tmp_path / "jobs" / "job-1"
    directory.mkdir(parents=True)
    root = overlay(directory, (tmp_path / "absent",))
    said = bytearray()
    confined = sandbox.Confined(("true",), environment=sandbox.environment())
    ended = await run_process(
        sandbox.confine(root, confined, sandbox.rights()), output=said.extend, time_limit=10
    )
    assert (ended.started, ended.ok) == (False, False)
    assert b"mount" in said


async def test_a_worker_does_not_run_jobs_of_another_platform(world: World) -> None:
    spec = world.spec({"nothing.1": ""}, "nothing.1")
    other = spec.model_copy(update={"platform": spec.platform.model_copy(update={"ocaml": "4.14"})})
    with pytest.raises(InfrastructureError, match=r"has OCaml 5\.3, not 4\.14"):
        await world.runner.run(other, Log(), lambda _: None)


async def test_a_preflight_wants_room(tmp_path: Path, world: World) -> None:
    settings = RootfsSettings(home=tmp_path, min_free_bytes=1 << 60)
    with pytest.raises(InfrastructureError, match="make room, or set another home") as caught:
        await RootfsRunner(settings, world.artifacts).preflight()
    assert caught.value.cause is Cause.DISK_FULL


async def test_a_preflight_names_the_packages_to_install(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InfrastructureError, match="apt-get install bubblewrap mmdebstrap"
    ) as caught:
        await world.runner.preflight()
    assert caught.value.cause is Cause.SANDBOX
    with pytest.raises(UsageError, match="apt-get install bubblewrap mmdebstrap"):
        await world.runner.require()
