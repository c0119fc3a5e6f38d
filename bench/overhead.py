"""What a job of ours costs beside a bare Temporal activity, on one server in one run.

    python bench/overhead.py [--jobs 1000] [--rounds 5]

A build that does nothing goes through everything that a real one does: PullRequestWorkflow,
PlatformWorkflow, `run_job`, its log in the store, the judge, the index. Beside it, a workflow
runs as many activities that return at once. Both use the same server, worker process,
concurrency and window, and take turns, so that a noisy machine hurts both alike. Beside the
wall time it shows the processor time of server and worker, which other work on the machine
hardly changes.

A pull request of 1,000 packages has as many lint jobs, which are no builds: the same pull request
is checked with `lint_only` too, and what a build job costs is the difference. The whole is
shown beside it.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.worker import Worker

from opam_ci.activities.build import BuildActivities
from opam_ci.activities.observe import ORCHESTRATION_POOL, ObservingInterceptor
from opam_ci.activities.outlast import OutlastInterceptor
from opam_ci.activities.record import RecordActivities
from opam_ci.cli import services
from opam_ci.clients.index import Index
from opam_ci.clients.runners.base import LogSink
from opam_ci.clients.store import ArtifactStore
from opam_ci.connection import connect, ensure_search_attributes
from opam_ci.core.analysis_result import Analysis, ChangedPackage, ChangeKind
from opam_ci.core.build import BuildProgress, BuildReport, BuildSpec
from opam_ci.core.facts import BuildFacts, PhaseRun
from opam_ci.core.job import Phase
from opam_ci.core.requests import PullRequestRef
from opam_ci.core.summary import Counts
from opam_ci.instruments import Instruments
from opam_ci.settings import Settings
from opam_ci.worker import WORKFLOW_RUNNER, WORKFLOWS, collect_rarely
from opam_ci.workflows import options
from tests.fakes.world import Script, World

QUEUE = options.build_queue("linux-amd64")
SLOTS = 50


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


@activity.defn
async def bare(number: int) -> int:
    return number


@workflow.defn
class BareWorkflow:
    """Runs activities that do nothing, in the same window as a PlatformWorkflow."""

    @workflow.run
    async def run(self, jobs: int) -> None:
        window = asyncio.Semaphore(options.JOBS_IN_FLIGHT)

        async def one(number: int) -> None:
            async with window:
                await workflow.execute_activity(
                    bare, number, task_queue="bare", start_to_close_timeout=timedelta(minutes=1)
                )

        await asyncio.gather(*(one(number) for number in range(jobs)))


def processor_time(server: int) -> float:
    """Returns the seconds that the server (a process id) and this process have computed."""
    stat = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + sum(map(int, stat[11:13])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Seconds that something took."""

    wall: float
    processor: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.wall - other.wall, self.processor - other.processor)


@contextmanager
def costing(server: int, costs: list[Cost]) -> Iterator[None]:
    wall, processor = time.perf_counter(), processor_time(server)
    yield
    costs.append(Cost(time.perf_counter() - wall, processor_time(server) - processor))


async def measure(jobs: int, rounds: int, home: Path) -> None:
    embedded = await asyncio.to_thread(services.start_temporal, home, port=17233)
    script = Script()
    script.analysis = Analysis(
        packages=tuple(
            ChangedPackage(package=f"p{n}.1", kind=ChangeKind.NEW_RELEASE, has_tests=False)
            for n in range(jobs)
        )
    )
    store = ArtifactStore.open((home / "store").as_uri())
    index = await asyncio.to_thread(Index.open, f"sqlite:///{home / 'index.sqlite'}")
    client = await connect(Settings(home=home, temporal=embedded.address))
    await ensure_search_attributes(client)
    world = World.__new__(World)
    world.client, world.script = client, script
    observers = Instruments(Settings(home=home, canary=False)).observers
    ours, theirs, unbuilt = list[Cost](), list[Cost](), list[Cost]()
    async with (
        Worker(
            client,
            task_queue=options.ORCHESTRATION_QUEUE,
            workflows=[*WORKFLOWS, BareWorkflow],
            workflow_runner=WORKFLOW_RUNNER,
            activities=[script.analyse, script.lint, RecordActivities(index).record],
            interceptors=[
                OutlastInterceptor(),
                ObservingInterceptor(ORCHESTRATION_POOL, observers),
            ],
        ),
        Worker(
            client,
            task_queue=QUEUE,
            activities=[BuildActivities(IdleRunner(), store).run_job],
            max_concurrent_activities=SLOTS,
            interceptors=[OutlastInterceptor(), ObservingInterceptor("linux-amd64", observers)],
        ),
        Worker(client, task_queue="bare", activities=[bare], max_concurrent_activities=SLOTS),
    ):
        for number in range(rounds + 1):
            with costing(embedded.temporal_pid, theirs):
                await client.execute_workflow(
                    BareWorkflow.run,
                    jobs,
                    id=f"bare-{number}",
                    task_queue=options.ORCHESTRATION_QUEUE,
                )
            for costs, lint_only, passed in (
                (ours, False, 2 * jobs + 1),
                (unbuilt, True, jobs + 1),
            ):
                name = "lint" if lint_only else "overhead"
                ref = PullRequestRef(owner="bench", repo=name, number=number + 1)
                revision = world.revision(keep_open=False, lint_only=lint_only)
                with costing(embedded.temporal_pid, costs):
                    handle = await world.open(ref, revision)
                    counts = Counts.model_validate(await handle.result())
                assert counts.passed == passed, counts
            if number:
                print(f"{jobs} jobs: {compared(ours[-1:], theirs[-1:])}")
    # The first round warms up.
    print(f"median, whole pull request: {compared(ours[1:], theirs[1:])}")
    built = [whole - lint for whole, lint in zip(ours[1:], unbuilt[1:], strict=True)]
    print(f"median, its {jobs} build jobs: {compared(built, theirs[1:])} (must be < 1.5)")
    each = statistics.median(cost.wall for cost in built) / jobs * 1000
    print(f"{each:.1f} ms a build job of ours")
    index.close()


def compared(ours: list[Cost], theirs: list[Cost]) -> str:
    def median(of: Callable[[Cost], float]) -> str:
        ratio = statistics.median(of(o) / of(t) for o, t in zip(ours, theirs, strict=True))
        bare, mine = (statistics.median(map(of, costs)) for costs in (theirs, ours))
        return f"{mine:.2f} s, bare {bare:.2f} s, ratio {ratio:.2f}"

    wall, processor = median(lambda cost: cost.wall), median(lambda cost: cost.processor)
    return f"wall {wall}; processor {processor}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    collect_rarely()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        try:
            asyncio.run(measure(given.jobs, given.rounds, home))
        finally:
            services.stop(home)


if __name__ == "__main__":
    main()
