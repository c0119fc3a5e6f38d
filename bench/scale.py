"""What a job of ours costs, from a hundred in one pull request to fifty thousand.

    .venv/bin/python bench/scale.py --jobs 1000 --shape builds
    .venv/bin/python bench/scale.py --jobs 50000 --shape revdeps --json

A pull request goes through PullRequestWorkflow, PlatformWorkflow and the index (SQLite) as in
production; only what its activities do is left out: the analysis is given, lint and builds
pass at once. Three processes: Temporal's development server, the orchestration worker (whose
memory and longest workflow task are reported), and a worker of builds.

Beside it, in turns, on the same server and in the same processes, bare workflows run as many
activities that return at once, in the same windows, and continue as new as ours do. What other
work on the machine costs hits both alike; ratios are medians over the rounds. CPU is that of all
three processes, for both.

Shapes:
  builds   packages on four platforms: JOBS builds, and lint of each package
  lint     JOBS packages: lint of each and, up to 10,000 packages, a build of each
  revdeps  one package with JOBS reverse dependencies

The costs are of one of the JOBS. With --json the last line of the output is an object:
  ms_per_job, cpu_ms_per_job      of ours, median of the rounds
  orchestration_cpu_ms_per_job    of that, the orchestration worker's own
  bare_ratio_wall, bare_ratio_cpu ours divided by bare
  peak_mb                         of the orchestration worker
  longest_task_ms                 longest activation of a workflow of ours
  events, history_bytes           of the longest run of a workflow of ours
"""

import argparse
import asyncio
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from zlib import crc32

from temporalio import activity, workflow
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import (
    Interceptor,
    UnsandboxedWorkflowRunner,
    Worker,
    WorkflowInstance,
    WorkflowInstanceDetails,
    WorkflowRunner,
)

from opam_ci import worker as production
from opam_ci.activities.attempt import run_attempt
from opam_ci.activities.build import BuildActivities
from opam_ci.activities.jobs import JobActivities
from opam_ci.activities.observe import ObservingInterceptor
from opam_ci.activities.record import RecordActivities
from opam_ci.activities.result_buffer import ResultBuffer
from opam_ci.app.collector import tune_gc
from opam_ci.app.connection import connect
from opam_ci.app.monitoring import Instruments
from opam_ci.app.settings import Settings
from opam_ci.cli.local import services
from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.runners.base import LogSink
from opam_ci.core.jobs.build import (
    BuildProgress,
    BuildReport,
    BuildSpec,
    RepositoryRef,
    Revdep,
    RevdepList,
)
from opam_ci.core.jobs.facts import BuildFacts, PhaseRun
from opam_ci.core.jobs.job import JobKind, Phase
from opam_ci.core.jobs.messages import (
    AnalysisReport,
    JobReport,
    LintReport,
    LintVerdict,
    Listing,
    RepositoryTask,
    RunJob,
)
from opam_ci.core.jobs.outcome import Evidence, Outcome, Passed
from opam_ci.core.jobs.requests import CheckOptions, PullRequestRef, Revision
from opam_ci.core.jobs.summary import Counts
from opam_ci.core.platforms.model import EMBEDDED, Platform
from opam_ci.core.submission.result import Analysis, ChangedPackage, ChangeKind
from opam_ci.workflows import options
from opam_ci.workflows.pull_request import PullRequestWorkflow
from opam_ci.workflows.states import PullRequestState
from tests.support.ports import free_port

SHAPES = ("builds", "lint", "revdeps")
PLATFORMS = 4
MOST_BUILT = 10_000
"""Packages of the shape `lint` above which nothing is built."""
SLOTS = 50
BARE_QUEUE = "bare"
PASSED = Passed(evidence=Evidence(rule="bench"))


# What is tested.


@dataclass(frozen=True)
class Work:
    """A pull request of some shape, and its expected result."""

    jobs: int
    shape: str
    on: int = PLATFORMS

    @property
    def platforms(self) -> tuple[Platform, ...]:
        if self.shape == "lint":
            return (EMBEDDED,)
        if self.shape == "revdeps":
            return (EMBEDDED.model_copy(update={"revdeps": True}),)
        number = min(self.on, self.jobs)
        names = [EMBEDDED.model_dump() | {"ocaml": f"5.{minor}"} for minor in range(number)]
        return tuple(Platform.model_validate(each) for each in names)

    @property
    def packages(self) -> int:
        return {"builds": max(1, self.jobs // self.on), "lint": self.jobs}.get(self.shape, 1)

    @property
    def builds_nothing(self) -> bool:
        return self.shape == "lint" and self.jobs > MOST_BUILT

    @property
    def activities(self) -> int:
        """Activities that the jobs are, one each but for lint: as many run bare."""
        lint = -(-self.packages // options.LINT_PACKAGES)
        builds = 0 if self.builds_nothing else self.packages * len(self.platforms)
        return lint + builds + (1 + self.jobs if self.shape == "revdeps" else 0)

    @property
    def passed(self) -> int:
        """Jobs that pass: the analysis, lint, builds, and what follows."""
        builds = 0 if self.builds_nothing else self.packages * len(self.platforms)
        return 1 + self.packages + builds + (1 + self.jobs if self.shape == "revdeps" else 0)

    def analysis(self) -> Analysis:
        return Analysis(
            packages=tuple(
                ChangedPackage(package=f"p{n}.1", kind=ChangeKind.NEW_RELEASE, has_tests=False)
                for n in range(self.packages)
            ),
            merge_tree="e" * 40,
        )

    def revision(self) -> Revision:
        checks = CheckOptions(
            platforms=self.platforms, lint_only=self.builds_nothing, keep_open=False
        )
        return Revision(head="1" * 40, base="b" * 40, repository="/nowhere", options=checks)


# The processes.


@dataclass(frozen=True)
class Builds:
    """How builds are played.

    Attributes:
        seconds: How long they take on average, each by half more or less.
        slots: How many at once.
        whole: Whether each has a log and is judged; then it takes no time.
    """

    seconds: float = 0
    slots: int = SLOTS
    whole: bool = False


class IdleRunner:
    """A runner whose builds do nothing and succeed."""

    async def run(
        self, spec: BuildSpec, log: LogSink, progress: Callable[[BuildProgress], None]
    ) -> BuildReport:
        progress(BuildProgress(phase=Phase.BUILD, log_bytes=log.size))
        log.write(b"nothing to do\n")
        phase = PhaseRun(phase=Phase.BUILD, exit_code=0, duration=0, log_start=0, log_end=log.size)
        facts = BuildFacts(job=spec.job, phases=(phase,), installed=True, finished=True)
        return BuildReport(facts=facts, logs={Phase.BUILD: "nothing to do\n"})

    async def preflight(self) -> None:
        return


class Given:
    """Activities that answer at once. The work is found in the name of the pull request."""

    def __init__(self, store: ArtifactStore, seconds: float = 0) -> None:
        self._store = store
        self._seconds = seconds

    @activity.defn
    async def analyse(self, task: RepositoryTask) -> AnalysisReport:
        work = work_of(task.context.pull_request)
        report = await run_attempt(task.context, task.job, _passes)
        repository = RepositoryRef(
            base_commit="b" * 40,
            base_archive="base",
            overlay_archive="overlay",
            overlay_packages=1,
            package_count=1,
        )
        return AnalysisReport(analysis=work.analysis(), repository=repository, report=report)

    @activity.defn
    async def lint(self, task: RepositoryTask) -> LintReport:
        report = await run_attempt(task.context, task.job, _passes)
        verdicts = (LintVerdict(package=each.package, outcome=PASSED) for each in task.packages)
        return LintReport(verdicts=tuple(verdicts), report=report)

    @activity.defn
    async def run_job(self, task: RunJob) -> JobReport:
        job = task.spec.job

        async def lasts(_attempt: object) -> Outcome:
            # Not all as long, else slots are free in waves; but each as long every time.
            await asyncio.sleep(self._seconds * (0.5 + crc32(job.id.encode()) % 101 / 100))
            return PASSED

        report = await run_attempt(task.context, job.id, lasts)
        if job.kind is not JobKind.LIST_REVDEPS:
            return report
        number = work_of(task.context.pull_request).jobs
        revdeps = (Revdep(package=f"r{n}.1", has_tests=False) for n in range(number))
        listed = RevdepList(revdeps=tuple(revdeps))
        key = f"revdeps-{number}.json"
        await self._store.put(key, listed.model_dump_json().encode())
        return report.model_copy(update={"listing": Listing(key=key, revdeps=number, tested=0)})


async def _passes(_attempt: object) -> Outcome:
    return PASSED


@activity.defn
async def bare(number: int) -> int:
    return number


@workflow.defn
class BareWorkflow:
    """Runs activities that do nothing, in the window of a PlatformWorkflow."""

    @workflow.run
    async def run(self, left: int) -> None:
        window = asyncio.Semaphore(options.JOBS_IN_FLIGHT)
        running: set[asyncio.Task[None]] = set()

        async def one(number: int) -> None:
            try:
                await workflow.execute_activity(
                    bare, number, task_queue=BARE_QUEUE, start_to_close_timeout=timedelta(hours=1)
                )
            finally:
                window.release()

        while left and not workflow.info().is_continue_as_new_suggested():
            await window.acquire()
            task = asyncio.create_task(one(left))
            running.add(task)
            task.add_done_callback(running.discard)
            left -= 1
        await asyncio.gather(*running)
        if left:
            workflow.continue_as_new(left)


class TimedRunner(WorkflowRunner):
    """Runs workflows as production does, and keeps the time of the longest activation."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._runner = UnsandboxedWorkflowRunner()

    def prepare_workflow(self, defn: Any) -> None:
        self._runner.prepare_workflow(defn)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        instance = self._runner.create_instance(det)
        activate = instance.activate

        def timed(act: WorkflowActivation) -> WorkflowActivationCompletion:
            begun = time.perf_counter()
            done = activate(act)
            self.longest = max(self.longest, time.perf_counter() - begun)
            return done

        instance.activate = timed  # type: ignore[method-assign]  # of this one instance
        return instance

    def set_worker_level_failure_exception_types(
        self, types: Sequence[type[BaseException]]
    ) -> None:
        self._runner.set_worker_level_failure_exception_types(types)


async def orchestrate(client: Client, home: Path) -> dict[str, float]:
    """The orchestration worker, until its standard input ends."""
    runner = TimedRunner()
    production.WORKFLOW_RUNNER = runner  # type: ignore[assignment]  # production's own, timed
    tune_gc()
    store = ArtifactStore.open((home / "store").as_uri())
    index = await asyncio.to_thread(Index.open, f"sqlite:///{home / 'index.sqlite'}")
    given = Given(store)
    activities: list[Callable[..., Any]] = [
        given.analyse,
        given.lint,
        RecordActivities(index).record,
        *JobActivities(index, store, all_served).all,
    ]
    observers = Instruments(Settings(home=home, canary=False)).observers
    ours = production.orchestration_worker(client, activities, observers)
    theirs = Worker(
        client,
        task_queue=BARE_QUEUE,
        workflows=[BareWorkflow],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with ours, theirs:
        await _until_told()
    index.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mb": round(peak, 1), "longest_task_ms": round(runner.longest * 1000, 1)}


async def all_served(pools: frozenset[str]) -> frozenset[str]:
    """Every pool has workers here."""
    return pools


async def build(client: Client, home: Path, how: Builds) -> dict[str, float]:
    """The worker of builds, until its standard input ends."""
    store = ArtifactStore.open((home / "store").as_uri())
    observers = Instruments(Settings(home=home, canary=False)).observers
    watched: list[Interceptor] = [
        ResultBuffer(),
        ObservingInterceptor(EMBEDDED.pool, observers),
    ]
    given = Given(store, how.seconds)
    run_job = BuildActivities(IdleRunner(), store).run_job if how.whole else given.run_job
    queue = options.build_queue(EMBEDDED.pool)
    async with (
        Worker(
            client,
            task_queue=queue,
            activities=[run_job],
            max_concurrent_activities=how.slots,
            interceptors=watched,
        ),
        Worker(
            client, task_queue=BARE_QUEUE, activities=[bare], max_concurrent_activities=how.slots
        ),
    ):
        await _until_told()
    return {}


async def _until_told() -> None:
    sys.stdout.write("\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


async def serve(role: str, address: str, home: Path, how: Builds) -> None:
    # Activities that a terminated workflow leaves behind are not reported.
    logging.getLogger("temporalio").setLevel(logging.ERROR)
    client = await connect(Settings(home=home, temporal=address))
    if role == "build":
        measured = await build(client, home, how)
    else:
        measured = await orchestrate(client, home)
    sys.stdout.write(json.dumps(measured))


# What is measured.


@dataclass(frozen=True)
class Cost:
    """Seconds that something took: by the clock, and of each process's CPU."""

    wall: float
    cpu: Mapping[str, float]

    @property
    def total_cpu(self) -> float:
        return sum(self.cpu.values())


class Fleet:
    """A server and the two workers.

    Attributes:
        pids: Process id of each.
        reported: Measurements of the orchestration worker, from its end.
    """

    def __init__(self, home: Path, builds: Builds) -> None:
        embedded = services.start_temporal(home, port=free_port(), ui_port=free_port())
        self.address = embedded.address
        self.pids = {"server": embedded.temporal_pid}
        self.reported: dict[str, float] = {}
        self._workers: dict[str, subprocess.Popen[str]] = {}
        for role in ("orchestrate", "build"):
            how = json.dumps(asdict(builds))
            process = subprocess.Popen(
                [sys.executable, __file__, "--serve", role, self.address, str(home), how],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            )
            self._workers[role] = process
            self.pids[role] = process.pid
        for role, process in self._workers.items():
            assert process.stdout is not None
            if not process.stdout.readline():
                raise SystemExit(f"the process that is to {role} did not start; see above")

    def cpu(self) -> dict[str, float]:
        """Returns the seconds that each process has computed."""
        found = {}
        for role, pid in self.pids.items():
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[role] = sum(map(int, stat[11:13])) / os.sysconf("SC_CLK_TCK")
        return found

    @contextmanager
    def costing(self, costs: list[Cost]) -> Iterator[None]:
        wall, cpu = time.perf_counter(), self.cpu()
        yield
        spent = {role: after - cpu[role] for role, after in self.cpu().items()}
        costs.append(Cost(time.perf_counter() - wall, spent))

    def stop(self) -> None:
        """Ends the workers, and reads the measurements of the orchestration worker."""
        for role, process in self._workers.items():
            output, _ = process.communicate(timeout=60)
            # Temporal's SDK writes its warnings there, too.
            *warnings, last = output.splitlines()
            for warning in warnings:
                print_line(f"{role}: {warning}")
            if role == "orchestrate":
                self.reported = json.loads(last)


@contextmanager
def running(builds: Builds) -> Iterator[Fleet]:
    """Runs a fleet in a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="opam-ci-bench-") as directory:
        home = Path(directory)
        try:
            fleet = Fleet(home, builds)
            try:
                yield fleet
            finally:
                fleet.stop()
        finally:
            services.stop(home)


def reference(work: Work, number: int) -> PullRequestRef:
    """Names a pull request so that its activities know what it is."""
    return PullRequestRef(owner="bench", repo=f"{work.shape}-{work.jobs}-{work.on}", number=number)


def work_of(ref: PullRequestRef) -> Work:
    shape, jobs, on = ref.repo.split("-")
    return Work(int(jobs), shape, int(on))


async def start(client: Client, work: Work, number: int) -> WorkflowHandle[Any, Any]:
    """Opens a pull request."""
    ref = reference(work, number)
    return await client.start_workflow(
        PullRequestWorkflow.run,
        PullRequestState(pull_request=ref),
        id=ref.workflow_id,
        task_queue=options.ORCHESTRATION_QUEUE,
        start_signal="head_changed",
        start_signal_args=[work.revision()],
    )


async def check(client: Client, work: Work, number: int) -> None:
    """Lets a pull request be tested from its first signal to its end."""
    handle = await start(client, work, number)
    counts = Counts.model_validate(await handle.result())
    if counts != Counts(passed=work.passed):
        raise SystemExit(f"{handle.id}: {work.passed} jobs should pass: {counts}")


async def run_bare(client: Client, work: Work, name: str) -> None:
    """Runs as many bare activities, in as many workflows as there are platforms."""
    flows = len(work.platforms)
    shares = [work.activities // flows + (n < work.activities % flows) for n in range(flows)]
    await asyncio.gather(
        *(
            client.execute_workflow(
                BareWorkflow.run, share, id=f"bare-{name}-{n}", task_queue=BARE_QUEUE
            )
            for n, share in enumerate(shares)
        )
    )


async def histories(client: Client) -> AsyncIterator[tuple[str, int, int]]:
    """Yields id, events and bytes of each run of a workflow of ours."""
    async for run in client.list_workflows("WorkflowType != 'BareWorkflow'"):
        handle = client.get_workflow_handle(run.id, run_id=run.run_id)
        found = await handle.describe()
        yield run.id, found.history_length, found.raw_info.history_size_bytes


async def measure(fleet: Fleet, work: Work, rounds: int) -> dict[str, object]:
    client = await connect(Settings(temporal=fleet.address))
    warm = Work(min(work.jobs, 200), work.shape, work.on)
    await check(client, warm, 1)
    await run_bare(client, warm, "warm")
    ours, theirs = list[Cost](), list[Cost]()
    for number in range(1, rounds + 1):
        with fleet.costing(theirs):
            await run_bare(client, work, str(number))
        with fleet.costing(ours):
            await check(client, work, number + 1)
        print_line(
            f"round {number} of {rounds}: ours {ours[-1].wall:.1f} s, bare {theirs[-1].wall:.1f} s;"
            f" CPU {ours[-1].total_cpu:.1f} s {_rounded(ours[-1].cpu)},"
            f" bare {theirs[-1].total_cpu:.1f} s {_rounded(theirs[-1].cpu)};"
            f" load {os.getloadavg()[0]:.1f}"
        )
    longest = max([each async for each in histories(client)], key=lambda each: each[1])
    print_line(f"longest history: {longest[0]}, {longest[1]} events, {longest[2]} bytes")

    def a_job(of: Callable[[Cost], float]) -> float:
        return round(statistics.median(map(of, ours)) / work.jobs * 1000, 3)

    def ratio(of: Callable[[Cost], float]) -> float:
        pairs = zip(ours, theirs, strict=True)
        return round(statistics.median(of(mine) / of(bare) for mine, bare in pairs), 2)

    return {
        "shape": work.shape,
        "jobs": work.jobs,
        "platforms": len(work.platforms),
        "rounds": rounds,
        "ms_per_job": a_job(lambda cost: cost.wall),
        "cpu_ms_per_job": a_job(lambda cost: cost.total_cpu),
        "orchestration_cpu_ms_per_job": a_job(lambda cost: cost.cpu["orchestrate"]),
        "bare_ratio_wall": ratio(lambda cost: cost.wall),
        "bare_ratio_cpu": ratio(lambda cost: cost.total_cpu),
        "events": longest[1],
        "history_bytes": longest[2],
    }


def _rounded(cpu: Mapping[str, float]) -> str:
    return "(" + ", ".join(f"{role} {seconds:.1f}" for role, seconds in cpu.items()) + ")"


def print_line(text: str) -> None:
    """Tells how far it is, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--shape", choices=SHAPES, default="builds", help="of what (builds)")
    parser.add_argument(
        "--platforms", type=int, default=PLATFORMS, help=f"of the shape builds ({PLATFORMS})"
    )
    parser.add_argument("--rounds", type=int, help="of both (3; 1 above 5,000 jobs)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument(
        "--whole-builds",
        action="store_true",
        help="let builds open a log, write to it and be judged, with a runner that does nothing",
    )
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        role, address, home, how = given.serve
        asyncio.run(serve(role, address, Path(home), Builds(**json.loads(how))))
        return
    if given.platforms < 1 or given.jobs < given.platforms:
        parser.error("--jobs: at least one for each of the --platforms, and one of these")
    work = Work(given.jobs, given.shape, given.platforms)
    rounds = given.rounds or (3 if work.jobs <= 5000 else 1)
    with running(Builds(whole=given.whole_builds)) as fleet:
        found = asyncio.run(measure(fleet, work, rounds))
    found |= fleet.reported
    for name, value in found.items():
        print(f"{name:<30}{value}")
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
