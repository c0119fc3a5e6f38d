"""Fault drills: the machine under a build breaks, or opam's own root does."""

import asyncio
import fcntl
import os
import resource
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from opam_ci.clients.lint.program import FILES, confined
from opam_ci.clients.logs.reader import LogReader
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.writer import LogLimits, LogWriter
from opam_ci.clients.runners.images.image import Image
from opam_ci.clients.runners.phases.transcript import Transcript
from opam_ci.clients.runners.rootfs import RootfsRunner
from opam_ci.clients.runners.sandbox.cgroup_discovery import Hierarchy
from opam_ci.clients.runners.sandbox.cgroups import Cgroups, OomKills, remove
from opam_ci.clients.runners.sandbox.process import ProcessResult, run_process
from opam_ci.clients.runners.settings import JobLimits
from opam_ci.core.classify import judge
from opam_ci.core.jobs.facts import BuildFacts, PhaseRun
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Errored, Failed, Outcome, label
from opam_ci.core.platforms.model import EMBEDDED
from tests.e2e.conftest import wait_for
from tests.support.samples.drills import Drill, Result, check, closed_port, run
from tests.support.worlds.rootfs import World, needs_groups, overwrite, processes_with, repository

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

Excerpts = tuple[PhaseRun, dict[Phase, str]]

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and device nodes need root")
FILLS = 'build: ["sh" "-c" "cat /dev/zero > fill"]\n'
MANY = 'build: ["sh" "-c" "i=0; while : > f$i; do i=$((i+1)); done"]\n'
NOTHING = {"nothing.1": ""}


@contextmanager
def small_disk(directory: Path, *options: str) -> Iterator[Path]:
    """Mounts a small file system in memory."""
    directory.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", directory], check=True
    )
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


HOLDS = "my $x = q(x) x (140 << 20); exit(system(q(sleep), q(86397)) ? 1 : 0)"
"""Has twice 140 MiB, and waits for a process by which a test sees it."""


@contextmanager
def crowded(place: Hierarchy, memory_bytes: int) -> Iterator[Hierarchy]:
    """Makes a group above those of jobs, in which a neighbour then wants all memory.

    Args:
        place: Where jobs' groups are made on this machine.
        memory_bytes: What jobs and neighbour have together.
    """
    above = place.parent / f"opam-ci-test-{os.getpid()}"
    neighbour = above / "neighbour"
    above.mkdir()
    unified = (above / "memory.max").exists()
    if unified:
        (above / "cgroup.subtree_control").write_text("+memory")
    (above / ("memory.max" if unified else "memory.limit_in_bytes")).write_text(str(memory_bytes))
    neighbour.mkdir()

    def want_all() -> None:
        wait_for(lambda: processes_with("86397"), 120)
        # Slowly, so that it is never the largest of all.
        script = (
            f"echo 0 > {neighbour}/cgroup.procs; exec perl -e 'my @x; "
            "for (1..28) { push @x, q(y) x (10 << 20); select undef, undef, undef, 0.05 } sleep 60'"
        )
        subprocess.run(["sh", "-c", script], check=False)

    thread = threading.Thread(target=want_all)
    thread.start()
    try:
        yield Hierarchy(place.version, above, frozenset({"memory"}))
    finally:
        for pid in (neighbour / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        thread.join()
        asyncio.run(remove([neighbour, above]))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("drills"))


def drill(world: World, fault: Drill) -> Result:
    return asyncio.run(run(world, fault))


def layer_of(world: World) -> Path:
    """Makes the base layer by a job that passes, and returns its upper directory."""
    report, _ = asyncio.run(world.build(NOTHING, "nothing.1"))
    assert report.facts.installed
    (layer,) = (world.home / "layers").glob("*/upper")
    return layer


@AS_ROOT
def test_a_full_disk(tmp_path: Path) -> None:
    fault = Drill(
        "disk full",
        {"asked.1": FILLS},
        "errored(disk_full)",
        "host-disk",
        Phase.BUILD,
        "bytes free in the build root",
    )
    with small_disk(tmp_path / "small", "size=256m", "mode=755") as disk:
        check(fault, drill(World(disk), fault))


@AS_ROOT
def test_no_inode_left(tmp_path: Path) -> None:
    fault = Drill(
        "inodes gone",
        {"asked.1": MANY},
        "errored(disk_full)",
        "host-inodes",
        Phase.BUILD,
        "no inode free",
    )
    with small_disk(tmp_path / "small", "size=512m", "nr_inodes=4000", "mode=755") as disk:
        check(fault, drill(World(disk), fault))


@needs_groups
def test_the_kernel_kills_for_memory(tmp_path: Path) -> None:
    world = World(tmp_path, limits=JobLimits(memory_bytes=256 << 20))
    fault = Drill(
        "out of memory",
        {"asked.1": 'build: ["sh" "-c" "tail -c 1000000000 /dev/zero"]\n'},
        "errored(out_of_memory)",
        "own-memory-limit",
        Phase.BUILD,
        "killed 1 process",
    )
    check(fault, drill(world, fault))


@AS_ROOT
def test_the_kernel_kills_for_a_neighbours_memory(tmp_path: Path) -> None:
    limits = JobLimits(memory_bytes=512 << 20)
    places = [each for each in Cgroups.here(limits)._hierarchies if "memory" in each.controllers]
    if not places:
        pytest.skip("this machine grants no control group for memory")
    world = World(tmp_path, limits=limits)
    assert isinstance(world.runner, RootfsRunner)
    fault = Drill(
        "out of memory, by a neighbour",
        {"asked.1": f'build: ["perl" "-e" "{HOLDS}"]\n'},
        "errored(out_of_memory)",
        "host-oom",
        Phase.BUILD,
        "the host or a neighbour used up the memory",
    )
    layer_of(world)
    with crowded(places[0], 450 << 20) as shared:
        world.runner.__dict__["_cgroups"] = Cgroups((shared,), limits)
        check(fault, drill(world, fault))


@needs_groups
async def test_a_kill_at_a_neighbours_own_limit_is_no_kill_of_ours(tmp_path: Path) -> None:
    on_the_host = OomKills((), OomKills((), 0).number)
    among_ours = OomKills.from_now_on()
    if not among_ours.groups:
        pytest.skip("the kernel does not count the kills in this process's group")
    async with Cgroups.here(JobLimits(memory_bytes=64 << 20)).open(tmp_path) as groups:
        in_the_group = OomKills.from_now_on(groups.directories)
        hog = groups.entered(["perl", "-e", "my $x = q(x) x (200 << 20)"])
        ended = await run_process(hog, output=lambda _: None, time_limit=60)
        assert ended.signal == signal.SIGKILL
        assert in_the_group.number == 1
    assert on_the_host.number >= 1
    assert among_ours.number == 0


def test_somebody_ends_the_sandbox(tmp_path: Path) -> None:
    world = World(tmp_path)
    fault = Drill(
        "sandbox killed",
        {"asked.1": 'build: ["sh" "-c" "touch started; sleep 86399.3"]\n'},
        "errored(worker_lost)",
        "sandbox-killed",
        Phase.BUILD,
        "ended from outside by SIGKILL",
    )

    def kill_it() -> None:
        wait_for(lambda: processes_with("86399.3"), 120)
        # The sandbox is what the worker started: here, a child of this process.
        for child in psutil.Process().children():
            if child.name() == "bwrap":
                child.kill()

    killer = threading.Thread(target=kill_it)
    killer.start()
    try:
        check(fault, drill(world, fault))
    finally:
        killer.join()


def test_a_corrupt_switch(tmp_path: Path) -> None:
    world = World(tmp_path)
    state = layer_of(world) / "home/opam/.opam/ci/.opam-switch/switch-state"
    overwrite(state, "installed: [ )) nonsense")
    fault = Drill(
        "corrupt root",
        NOTHING,
        "errored(opam_internal)",
        "opam-root",
        Phase.SOLVE,
        "Fatal error:",
        job="nothing.1",
    )
    check(fault, drill(world, fault))


@AS_ROOT
def test_opams_sandbox_cannot_run(tmp_path: Path) -> None:
    world = World(tmp_path)
    tool = layer_of(world) / "usr/bin/bwrap"
    tool.parent.mkdir(parents=True, exist_ok=True)
    # How an overlay says that a file of a lower layer is gone.
    os.mknod(tool, stat.S_IFCHR | 0o600, os.makedev(0, 0))
    fault = Drill(
        "no sandbox",
        {"asked.1": 'build: ["true"]\n'},
        "errored(sandbox)",
        "sandbox-bwrap",
        Phase.BUILD,
        "bwrap",
    )
    check(fault, drill(world, fault))


def test_the_mirror_of_system_packages_is_down(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    options = (
        ("Acquire::http::Proxy", dead),
        ("Acquire::https::Proxy", dead),
        ("Acquire::Retries", "0"),
    )
    # No setting: the options come from the machine's own apt.
    assert isinstance(world.runner, RootfsRunner)
    archives = world.runner._archives.model_copy(update={"options": options})
    monkeypatch.setattr(world.runner, "_archives", archives)
    fault = Drill(
        "mirror down",
        {"asked.1": 'depexts: ["libdumbnet-dev"]\n'},
        "errored(network)",
        "connection",
        Phase.DEPEXTS,
        "Could not connect to 127.0.0.1",
    )
    check(fault, drill(world, fault))


def test_a_locked_root(world: World, tmp_path: Path) -> None:
    # Build roots share nothing, so that a lock is provoked with opam by itself.
    image = asyncio.run(world.runner.prepare(lambda _: None))
    assert isinstance(image, Image)
    source = tmp_path / FILES
    source.mkdir()
    archive = tmp_path / "repository.tar.gz"
    archive.write_bytes(repository(NOTHING))
    shutil.unpack_archive(archive, source, filter="data")
    said = bytearray()

    def opam(*words: str) -> ProcessResult:
        said.clear()
        command = confined(image.root, tmp_path, ("opam", *words), network=False)
        return asyncio.run(run_process(command, output=said.extend, time_limit=4))

    init = ("init", "--bare", "--no-setup", "--disable-sandboxing", "--kind=local", "default", ".")
    assert opam(*init).ok, said.decode()
    assert opam("switch", "create", "ci", "--empty").ok, said.decode()
    with (tmp_path / "root/ci/.opam-switch/lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        ended = opam("install", "nothing")
    assert ended.timed_out
    phase = PhaseRun(
        phase=Phase.DEPENDENCIES,
        exit_code=ended.exit_code,
        signal=ended.signal,
        timed_out=ended.timed_out,
        duration=ended.duration,
        log_start=0,
        log_end=len(said),
    )
    job = Job(platform=EMBEDDED.name, package="nothing.1", kind=JobKind.BUILD)
    outcome = judge(BuildFacts(job=job, phases=(phase,)), {phase.phase: said.decode()})

    assert isinstance(outcome, Errored)
    assert (label(outcome), outcome.evidence.rule) == ("errored(opam_internal)", "opam-locked")
    assert "locked" in outcome.evidence.lines[0].text


def test_a_log_without_its_end(world: World) -> None:
    report, log = asyncio.run(world.build(NOTHING, "nothing.1"))
    assert "job ends" in log.text.splitlines()[-1]
    # The same facts, had the worker died before it wrote that line.
    cut = report.facts.model_copy(update={"finished": False})

    outcome = judge(cut, report.logs)

    assert isinstance(outcome, Errored)
    assert (label(outcome), outcome.evidence.rule) == ("errored(unknown)", "no-end-marker")


def test_a_flood_of_output(world: World, tmp_path: Path) -> None:
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    # More than opam's report may hold: then its words must do. Each byte is in the log twice,
    # as it comes and in opam's report of the failure.
    chatter = "yes $(printf %0999d 7) | head -c 40000000"
    failing = f'build: ["sh" "-c" "{chatter}; echo; echo Error: Unbound module X; exit 3"]\n'
    spec = world.spec({"asked.1": failing}, "asked.1")
    limits = LogLimits(cap=1 << 20, head=1 << 18)

    async def job() -> tuple[Outcome, int, bytes]:
        async with LogWriter(store, "log", limits=limits) as log:
            report = await world.runner.run(spec, log, lambda _: None)
            size = log.size
        outcome = judge(report.facts, report.logs)
        return outcome, size, await LogReader(store).read("log")

    outcome, size, kept = asyncio.run(job())

    assert isinstance(outcome, Failed), outcome
    assert (label(outcome), outcome.evidence.rule) == ("failed(build)", "ocaml-error-words")
    assert size > 80_000_000
    assert len(kept) < 2 << 20
    assert b"bytes of output cut here" in kept
    # opam writes the output and its report to two streams, whose ends mix.
    assert b"Error: Unbound module X" in kept[-(1 << 19) :]


def test_a_gigabyte_of_output(tmp_path: Path) -> None:
    # Without opam, which handles 10 MB/s: what follows it is what must hold.
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    script = "yes $(printf %04000d 7) | head -c 1000000000; echo; echo not ok 3 - ends; exit 31"

    async def flood() -> tuple[Excerpts, int, int]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with LogWriter(store, "log") as log:
            transcript = Transcript(log, lambda _: None)
            transcript.begin(Phase.TEST, "flood")
            start = log.size
            ended = await run_process(["sh", "-c", script], output=transcript.output)
            end = log.size
            transcript.end("over")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        phase = PhaseRun(
            phase=Phase.TEST,
            exit_code=ended.exit_code,
            duration=ended.duration,
            log_start=start,
            log_end=end,
        )
        return (phase, transcript.texts), log.size, grown

    (phase, texts), size, grown_kib = asyncio.run(flood())
    job = Job(platform=EMBEDDED.name, package="asked.1", kind=JobKind.TEST)
    outcome = judge(BuildFacts(job=job, phases=(phase,)), texts)
    kept = asyncio.run(LogReader(store).read("log"))

    assert isinstance(outcome, Failed), outcome
    assert (label(outcome), outcome.evidence.rule) == ("failed(test)", "test-generic")
    (line,) = outcome.evidence.lines
    assert line.text == "not ok 3 - ends"
    # The evidence is found at its offset, behind all that was cut.
    found = asyncio.run(LogReader(store).read("log", line.offset, line.offset + 15))
    assert found == b"not ok 3 - ends"
    assert size > 1_000_000_000
    assert len(kept) < 70 << 20
    assert b"bytes of output cut here" in kept
    assert grown_kib < 400 << 10
