"""Slots, their keeper, and the machines of the native runner."""

import asyncio
import os
import pwd
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from opam_ci.clients.runners import native
from opam_ci.clients.runners.native import NativeRunner
from opam_ci.clients.runners.phases import steps
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.clients.runners.phases.steps import OpamSandbox, Step
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.clients.runners.settings import JobLimits, NativeSettings
from opam_ci.clients.runners.slots.exec import NativeExecutor
from opam_ci.clients.runners.slots.machine import Machine
from opam_ci.clients.runners.slots.slot import Slot, Slots, User
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.platforms.model import Platform
from tests.support.worlds.rootfs import Artifacts

LIMITS = JobLimits(memory_bytes=64 << 20, pids=4096)

_DAEMON = "env -i setsid sh -c 'sleep {0} & exec sleep {0}' > /dev/null 2>&1 < /dev/null &"
_WORKER = """
import asyncio, sys
from pathlib import Path
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.slots.exec import NativeExecutor
from opam_ci.clients.runners.slots.slot import Slot
from opam_ci.core.jobs.job import Phase

executor = NativeExecutor(Slot(Path(sys.argv[1]), None), Mirrors())
step = Step(("sh", "-c", sys.argv[2]))
asyncio.run(executor.run(step, output=lambda _: None, phase=Phase.BUILD))
"""


@pytest.fixture
async def slot(tmp_path: Path) -> Slot:
    found = Slot(tmp_path / "slot", None)
    found.directory.mkdir()
    await found.renew()
    return found


async def run(
    executor: NativeExecutor, step: Step | str, *, time_limit: float = 30
) -> tuple[ProcessResult, str]:
    output = bytearray()
    ended = await executor.run(
        Step(("sh", "-c", step)) if isinstance(step, str) else step,
        output=output.extend,
        phase=Phase.BUILD,
        time_limit=time_limit,
    )
    return ended, output.decode()


def word(number: int) -> str:
    """A number of seconds that no other process of the machine sleeps for."""
    return f"86400.{os.getpid()}{number}"


def sleepers(seconds: str) -> list[int]:
    found = psutil.process_iter(["cmdline"])
    return [each.pid for each in found if each.info["cmdline"] == ["sleep", seconds]]


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def test_a_command_has_the_places_of_its_slot_and_nothing_of_the_worker(
    slot: Slot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    shown = Mirrors(urls=("file:///mirrors/0",), directories=((mirror, "/mirrors/0"),))
    executor = NativeExecutor(slot, shown, LIMITS)
    script = "pwd; ulimit -c; grep NoNewPrivs /proc/self/status; env; printf '%s\\n' \"$@\""
    words = ("--to=/home/opam/solution", 'mirrors=["file:///mirrors/0"]', "/home/opam-2")
    ended, output = await run(executor, Step(("sh", "-c", script, "sh", *words)))
    assert ended.ok
    home = str(slot.home)
    assert output.splitlines()[:3] == [home, "0", "NoNewPrivs:\t1"]
    assert output.splitlines()[-3:] == [
        f"--to={home}/solution",
        f'mirrors=["file://{mirror}"]',
        "/home/opam-2",
    ]
    assert f"HOME={home}\n" in output
    assert f"TMPDIR={slot.home / 'tmp'}\n" in output
    assert f"OPAMROOT={home}/.opam\n" in output
    assert "secret" not in output


async def test_how_a_command_ends_is_reported(slot: Slot) -> None:
    executor = NativeExecutor(slot, Mirrors(), LIMITS)
    assert (await run(executor, "exit 31"))[0].exit_code == 31
    assert (await run(executor, "kill -11 $$"))[0].signal == 11
    ended, output = await run(executor, Step(("no-such-program",)))
    assert not ended.started
    assert "no-such-program" in output


async def test_daemons_die_with_their_command_and_no_other_process(slot: Slot) -> None:
    mine = await asyncio.create_subprocess_exec("sleep", word(0))
    try:
        executor = NativeExecutor(slot, Mirrors())
        ended, _ = await run(executor, _DAEMON.format(word(1)) + " sleep 0.2")
        assert ended.ok
        assert sleepers(word(1)) == []
        assert sleepers(word(0)) == [mine.pid]
    finally:
        mine.kill()
        await mine.wait()


async def test_at_its_time_limit_all_processes_of_a_command_die(slot: Slot) -> None:
    executor = NativeExecutor(slot, Mirrors())
    script = f"{_DAEMON.format(word(2))} trap '' TERM; sleep {word(2)}; sleep {word(2)}"
    ended, _ = await run(executor, script, time_limit=1)
    assert ended.timed_out
    assert sleepers(word(2)) == []


async def test_a_cancelled_command_is_gone_within_5_seconds(slot: Slot) -> None:
    executor = NativeExecutor(slot, Mirrors(), LIMITS)
    script = f"{_DAEMON.format(word(3))} sleep {word(3)}"
    running = asyncio.create_task(run(executor, script))
    await until(lambda: len(sleepers(word(3))) == 3)
    began_at = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sleepers(word(3)) == []
    assert time.monotonic() - began_at < 5


async def test_what_a_killed_worker_ran_dies(slot: Slot) -> None:
    script = f"{_DAEMON.format(word(4))} sleep {word(4)}"
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _WORKER, slot.directory, script)
    )
    try:
        await until(lambda: len(sleepers(word(4))) == 3)
    finally:
        worker.kill()
        await worker.wait()
    await until(lambda: sleepers(word(4)) == [])


async def test_a_keeper_that_is_killed_is_an_infrastructure_fault(slot: Slot) -> None:
    executor = NativeExecutor(slot, Mirrors())
    with pytest.raises(InfrastructureError, match="may be left"):
        await run(executor, f"kill -9 $(cat {slot.directory}/pid); sleep 1")


async def test_memory_of_all_processes_together_is_limited(slot: Slot) -> None:
    hog = f"{sys.executable} -c 'x = b\"x\" * (45 << 20); import time; time.sleep(30)'"
    executor = NativeExecutor(slot, Mirrors(), LIMITS)
    ended, _ = await run(executor, f"{hog} & {hog}")
    assert ended.stopped
    assert ended.how == "memory budget"
    host = await executor.host()
    assert (host.oom_kills, host.memory_limit_reached) == (1, True)
    assert host.disk_overuse is None


async def test_files_are_read_beneath_the_home_alone(slot: Slot) -> None:
    executor = NativeExecutor(slot, Mirrors())
    await run(
        executor, "mkdir -p .opam/repo/x/packages/a/a.1; echo 1 > .opam/f; ln -s /etc/passwd l"
    )
    paths = ("home/opam/.opam/f", "home/opam/l", "home/opam/none")
    assert await executor.read(*paths, limit=100) == {"home/opam/.opam/f": b"1\n"}
    assert await executor.packages("home/opam/.opam/repo/x") == {"a.1"}
    with pytest.raises(ValueError, match="etc/passwd"):
        await executor.read("etc/passwd", limit=100)


async def test_scratch_is_there_for_one_command(slot: Slot) -> None:
    executor = NativeExecutor(slot, Mirrors())
    step = Step(("sh", "-c", "echo > base/file"), scratch=("/home/opam/base",))
    assert (await run(executor, step))[0].ok
    assert not (slot.home / "base").exists()


async def test_a_slot_has_one_job_and_is_empty_for_the_next(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", (None,))
    waited: list[bool] = []

    async def second() -> list[str]:
        async with slots.take(lambda: waited.append(True)) as mine:
            return sorted(path.name for path in mine.home.iterdir())

    async with slots.take(lambda: None) as slot:
        (slot.home / "shut").mkdir()
        (slot.home / "shut" / "file").touch()
        (slot.home / "shut").chmod(0)
        following = asyncio.create_task(second())
        await asyncio.sleep(0.3)
        assert waited == [True]
        assert [each async for each in slots.left_by_the_dead()] == []
    assert await following == ["tmp"]
    assert not slot.home.exists()


async def test_a_sweep_empties_the_slots_of_dead_workers(tmp_path: Path) -> None:
    left = tmp_path / "native" / "own" / "home"
    left.mkdir(parents=True)
    runner = NativeRunner(NativeSettings(home=tmp_path, same_user=True), Artifacts(tmp_path))
    assert await runner.sweep() == 1
    assert not left.exists()
    assert await runner.sweep() == 0


PLATFORM = Platform(distribution="debian-13", ocaml="5.3", arch="amd64", pool="native", compiler="")
MACHINE = Machine(
    distribution="debian-13",
    arch="amd64",
    opam="2.4.1",
    ocaml="5.3.0",
    sandbox=OpamSandbox.NONE,
)


@pytest.mark.parametrize(
    ("wanted", "switch"),
    [
        ({}, "ocaml-system"),
        ({"opam": "2.4"}, "ocaml-system"),
        ({"opam": "dev", "compiler": "ocaml-base-compiler.5.3.0"}, "ocaml-system"),
        ({"ocaml": "4.14"}, '--formula "ocaml-base-compiler" {>= "4.14" & < "4.15~"}'),
        ({"ocaml": "4.14", "compiler": "ocaml-base-compiler.4.14.2"}, "ocaml-base-compiler.4.14.2"),
        ({"variant": "flambda", "compiler": "ocaml-variants.5.3.0+x"}, "ocaml-variants.5.3.0+x"),
    ],
)
def test_the_machines_own_ocaml_is_taken_if_it_fits(wanted: dict[str, str], switch: str) -> None:
    assert " ".join(MACHINE.switch(PLATFORM.model_copy(update=wanted))) == switch


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"distribution": "macos-homebrew"}, "belong into the pool of another machine"),
        ({"arch": "arm64"}, "belong into the pool of another machine"),
        ({"opam": "2.5"}, "install opam 2.5"),
        ({"opam": "2.40"}, "install opam 2.40"),
        ({"ocaml": "4.14", "compiler": "ocaml-system"}, "install OCaml 4.14"),
        ({"variant": "flambda"}, "install OCaml 5.3-flambda"),
        ({"ocaml": "5.5~beta1"}, "name the package of OCaml 5.5~beta1"),
    ],
)
def test_a_platform_of_another_machine_is_refused(wanted: dict[str, str], told: str) -> None:
    with pytest.raises(InfrastructureError, match=told) as raised:
        MACHINE.switch(PLATFORM.model_copy(update=wanted))
    assert "debian-13 on amd64 with opam 2.4.1 and OCaml 5.3.0" in str(raised.value)


@pytest.mark.parametrize(
    ("uid", "settings", "told"),
    [
        (0, {}, "must not run as root"),
        (0, {"same_user": True}, "must not run as root"),
        (0, {"users": ("root",)}, "names root"),
        (0, {"users": ("no-such-user",)}, "names no-such-user: make"),
        (0, {"users": ("nobody",)}, None),
        (1, {}, "accept that with OPAM_CI_NATIVE_SAME_USER=true"),
        (1, {"same_user": True}, None),
        (1, {"users": ("nobody",), "same_user": True}, "run this worker as root"),
    ],
)
async def test_jobs_run_as_users_of_their_own_unless_it_is_accepted(
    uid: int,
    settings: dict[str, Any],
    told: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(native, "missing_programs", lambda: None)
    runner = NativeRunner(NativeSettings(home=tmp_path, **settings), Artifacts(tmp_path))
    if told is None:
        await runner.require()
        return
    with pytest.raises(UsageError, match=told):
        await runner.require()


async def test_without_opam_the_worker_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    runner = NativeRunner(NativeSettings(home=tmp_path, same_user=True), Artifacts(tmp_path))
    with pytest.raises(UsageError, match="needs opam, curl, git, make, tar, cp, du, rm on"):
        await runner.require()


@pytest.mark.parametrize("system", ["darwin", "freebsd15"])
async def test_other_systems_need_users_and_do_not_count_the_kernels_kills(
    system: str, slot: Slot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    monkeypatch.setattr(native, "LINUX", False)
    monkeypatch.setattr("opam_ci.clients.runners.slots.exec.LINUX", False)
    monkeypatch.setattr(native, "missing_programs", lambda: None)
    monkeypatch.setattr(sys, "platform", system)
    runner = NativeRunner(NativeSettings(home=tmp_path, same_user=True), Artifacts(tmp_path))
    with pytest.raises(UsageError, match="jobs need users of their own on this system"):
        await runner.require()
    facts = await NativeExecutor(slot, Mirrors(), LIMITS).host()
    assert not facts.kernel_kills_counted


def test_users_are_those_of_the_machine() -> None:
    mine = pwd.getpwuid(os.getuid())
    assert User.named(mine.pw_name) == User(mine.pw_name, mine.pw_uid, mine.pw_gid)
    assert User.named("no-such-user") is None


def test_opams_sandbox_is_probed_by_its_own_program() -> None:
    probe = steps.opam_sandbox_probe(own_processes=False, sandbox=OpamSandbox.SANDBOX_EXEC)
    assert probe.argv[0] == "sandbox-exec"
