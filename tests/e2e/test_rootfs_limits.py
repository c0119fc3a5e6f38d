"""The limits of a job of the root-file-system runner, for real: memory, processes, disk."""

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path

import pytest

from opam_ci.clients.logs.reader import LogReader
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.writer import LogLimits, LogWriter
from opam_ci.clients.runners.sandbox.cgroups import Cgroups, remove_recorded
from opam_ci.clients.runners.settings import JobLimits
from opam_ci.core.classify import judge
from opam_ci.core.jobs.job import JobKind, Phase
from opam_ci.core.jobs.outcome import Cause, Errored, Failed, FailureReason, label
from tests.support.worlds.rootfs import World, last, needs_groups

LIMITS = JobLimits(memory_bytes=512 << 20, pids=150, disk_bytes=300 << 20, disk_inodes=20_000)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

HOG = "perl -e 'my $x = q(x) x (900 << 20); print length $x'"
BOMB = "perl -e 'for (1..500) { my $p = fork // die qq(fork: $!); $p or sleep 60 }'"
# What is written stays for a while: how often a busy machine looks is not the question here.
FILL = (
    "for i in 1 2 3 4; do dd if=/dev/zero of=big$i bs=1M count=100 status=none; sleep 0.3; done; "
    "sleep 60"
)
LITTER = (
    "for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5; do mkdir d$i$j; "
    "(cd d$i$j; seq 1000 | xargs touch); done; sleep 0.3; done; sleep 60"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("limits"), limits=LIMITS)


@needs_groups
async def test_a_memory_hog_is_killed_and_that_is_a_fact(world: World) -> None:
    report, log = await world.build({"hog.1": f'build: ["sh" "-c" "{HOG}"]\n'}, "hog.1")
    assert last(report).phase is Phase.BUILD
    assert report.facts.host.oom_kills >= 1
    assert report.facts.host.cpu_seconds is not None
    assert 0.1 <= report.facts.host.cpu_seconds < 120
    assert "512 MiB of memory" in log.text
    outcome = judge(report.facts, report.logs)
    assert isinstance(outcome, Errored)
    assert outcome.cause is Cause.OUT_OF_MEMORY


@needs_groups
async def test_a_fork_bomb_meets_the_process_limit(world: World) -> None:
    report, _ = await world.build({"bomb.1": f'build: ["sh" "-c" "{BOMB}"]\n'}, "bomb.1")
    assert last(report).phase is Phase.BUILD
    assert report.facts.host.pids_limit_hits >= 1
    assert report.facts.host.oom_kills == 0


@pytest.mark.parametrize("kind", [JobKind.BUILD, JobKind.TEST])
async def test_a_job_that_fills_the_disk_is_ended_and_its_own_fault(
    world: World, kind: JobKind
) -> None:
    where = "run-test" if kind is JobKind.TEST else "build"
    packages = {"fills.1": f'{where}: ["sh" "-c" "{FILL}"]\n'}
    report, log = await world.build(packages, "fills.1", kind=kind)
    overuse = report.facts.host.disk_overuse
    assert overuse is not None
    assert 300 << 20 < overuse.written_bytes < 800 << 20
    assert "disk budget in" in log.text
    outcome = judge(report.facts, report.logs)
    assert isinstance(outcome, Failed)
    assert outcome.evidence.rule == "disk-budget"
    assert outcome.reason is FailureReason(kind.value)
    assert world.job_roots() == []


async def test_a_dependency_that_fills_the_disk_is_not_the_packages_fault(world: World) -> None:
    packages = {"fills.1": f'build: ["sh" "-c" "{FILL}"]\n', "good.1": 'depends: "fills"\n'}
    report, _ = await world.build(packages, "good.1")
    outcome = judge(report.facts, report.logs)
    assert isinstance(outcome, Errored)
    assert outcome.cause is Cause.DISK_FULL


async def test_many_small_files_are_counted_too(world: World) -> None:
    report, _ = await world.build({"many.1": f'build: ["sh" "-c" "{LITTER}"]\n'}, "many.1")
    overuse = report.facts.host.disk_overuse
    assert overuse is not None
    assert overuse.written_inodes > 20_000


async def test_endless_output_is_capped_and_its_end_kept(world: World, tmp_path: Path) -> None:
    script = "yes this line is printed again and again | head -c 30000000; echo the-very-end"
    spec = world.spec({"loud.1": f'build: ["sh" "-c" "{script}; exit 1"]\n'}, "loud.1")
    store = ArtifactStore.open(tmp_path.as_uri())
    async with LogWriter(store, "log", limits=LogLimits(cap=2 << 20, head=1 << 20)) as log:
        report = await world.runner.run(spec, log, lambda _: None)
    text = await LogReader(store).read("log")
    assert len(text) < 3 << 20
    assert b"bytes of output cut here" in text
    assert text.count(b"the-very-end\n") >= 1
    assert text.rstrip().rpartition(b"\n")[2].startswith(b"==== opam-ci: phase build ends")
    assert "bytes left out here" in report.logs[Phase.BUILD]
    assert label(judge(report.facts, report.logs)) == "failed(build)"


@needs_groups
async def test_the_groups_of_a_killed_worker_are_swept(tmp_path: Path) -> None:
    cgroups = Cgroups.here(LIMITS)
    root = tmp_path / f"job-{os.getpid()}"
    root.mkdir()
    opened = cgroups.open(root)
    groups = await opened.__aenter__()
    assert all(path.is_dir() for path in groups.directories)
    words = ["sh", "-c", "echo in; exec sleep 86400"]
    # As when the worker is killed: nobody leaves the block, and a process lives on.
    left = await asyncio.create_subprocess_exec(
        *groups.entered(words), stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(5):
            assert left.stdout is not None
            assert await left.stdout.readline() == b"in\n"
            await remove_recorded(root)
            assert await left.wait() == -signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):
            left.kill()
        await left.wait()
    assert not any(path.exists() for path in groups.directories)
