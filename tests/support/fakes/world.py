"""An environment for workflows: a real (time-skipping) server and scripted activities."""

import asyncio
import contextlib
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import httpx
import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Interceptor, Worker

from opam_ci.activities.attempt import Attempt, run_attempt
from opam_ci.activities.heartbeats import heartbeating
from opam_ci.activities.images import ImageActivities
from opam_ci.activities.jobs import JobActivities
from opam_ci.clients.git.exported import reach_key
from opam_ci.clients.index import Index, Place
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.runners.containers.registry import ImageResolver
from opam_ci.core.errors import OpamCiError
from opam_ci.core.jobs.build import (
    BuildSpec,
    PhaseTimeouts,
    RepositoryRef,
    Revdep,
    RevdepList,
)
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.messages import (
    AnalysisReport,
    HeadTask,
    JobContext,
    JobReport,
    LintReport,
    LintVerdict,
    Listing,
    RepositoryTask,
    RunJob,
)
from opam_ci.core.jobs.moved_base import BaseLook
from opam_ci.core.jobs.outcome import Cause, Evidence, Outcome, Passed
from opam_ci.core.jobs.records import AttemptRecord, JobRecord, Recorded, RowBatch
from opam_ci.core.jobs.requests import CheckOptions, PullRequestRef, Revision
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.jobs.summary import JobStatus, Summary
from opam_ci.core.platforms.model import releases
from opam_ci.core.reuse.reach import Reachable
from opam_ci.core.submission.effect import Effect
from opam_ci.core.submission.inputs import HeadInputs
from opam_ci.core.submission.result import Analysis, ChangedPackage, ChangeKind
from opam_ci.worker import WORKFLOW_RUNNER, WORKFLOWS
from opam_ci.workflows import options
from opam_ci.workflows.pull_request import PullRequestWorkflow
from opam_ci.workflows.states import PullRequestState
from tests.support.fakes.histories import children_of

PASSED = Passed(evidence=Evidence(rule="test"))
REF = PullRequestRef(owner="local", repo="opam-repository", number=7)
HEAD_1 = "1" * 40
HEAD_2 = "2" * 40
BASE = "b" * 40

Step = Outcome | OpamCiError | Callable[[Attempt], Awaitable[Outcome]]
"""What an attempt does: return an outcome, raise, or run a function."""


Look = HeadInputs | str | OpamCiError | asyncio.Event | None
"""What a merge into a moved base does: find inputs, or a reason to refuse the head; raise; or wait
for an event and find what was there before."""


async def no_effect(task: RepositoryTask) -> Effect:
    """The effect of a head that takes nothing away."""
    return Effect(ocaml=releases(task.revision.options.platforms))


class Script:
    """What the activities do, by job id and attempt, and a record of their inputs.

    Attributes:
        images: The image on which each job ran last.
        unserved: Pools that no worker ever served.
        limits: The time limits of each job.
        specs: What each attempt of a build was to do, and for whom.
        inputs: What the analysis finds that jobs work on.
        reach: What is within reach of each package, None if no job is to have a plan key.
        reach_on_base: The same on the base alone, None if that is not exported.
        looks: What the merge of each head into a moved base comes to; the same as before if it is
            not there.
        looked: These merges: the head, and the base that was asked for.
        effect: Decides what a head does to other packages.
    """

    def __init__(self, index: Index | None = None) -> None:
        self.steps: dict[str, list[Step]] = defaultdict(list)
        self.analysis = Analysis(
            packages=(ChangedPackage(package="a.1", kind=ChangeKind.NEW_RELEASE, has_tests=True),),
            merge_tree="e" * 40,
        )
        self.analyses: dict[str, Analysis] = {}
        self.started: list[tuple[str, int, int]] = []
        self.cancelled: list[str] = []
        self.batches: list[RowBatch] = []
        self.index = ScriptedIndex(index)
        self.store = ArtifactStore.open("memory:")
        self.images: dict[str, str | None] = {}
        self.unserved: set[str] = set()
        self.limits: dict[str, PhaseTimeouts] = {}
        self.specs: list[tuple[JobContext, BuildSpec]] = []
        self.resolver = ImageResolver(known_for=timedelta(0), timeout=httpx.Timeout(0.5))
        self.revdeps: tuple[Revdep, ...] = ()
        self.flagged: tuple[str, ...] = ()
        self.inputs: HeadInputs | None = HeadInputs(changes="changes", reach="reach")
        self.reach: Reachable | None = None
        self.reach_on_base: Reachable | None = None
        self.looks: dict[str, Look] = {}
        self.looked: list[tuple[str, str]] = []
        self.effect: Callable[[RepositoryTask], Awaitable[Effect]] = no_effect
        self.opened: list[WorkflowHandle[PullRequestWorkflow, object]] = []

    async def served_pools(self, pools: frozenset[str]) -> frozenset[str]:
        """The pools that are not `unserved`."""
        return pools - self.unserved

    async def end(self) -> None:
        """Terminates the workflows: the next test's workers would continue and record them.

        Those of platforms, too, which outlive that of their pull request.
        """
        for handle in self.opened:
            # Activities get a second to end: the worker is slow to drop those of a dead workflow.
            for _ in range(20):
                described = await handle.describe()
                if not described.raw_description.pending_activities:
                    break
                await asyncio.sleep(0.05)
            history = await handle.fetch_history()
            client = handle._client
            for workflow_id in (handle.id, *children_of(history)):
                try:
                    await client.get_workflow_handle(workflow_id).terminate("the test is over")
                except RPCError as error:
                    if error.status is not RPCStatusCode.NOT_FOUND:
                        raise

    async def _play(self, job: str, attempt: Attempt) -> Outcome:
        self.started.append((job, attempt.context.round, attempt.number))
        steps = self.steps[job]
        step = steps.pop(0) if steps else PASSED
        if isinstance(step, OpamCiError):
            raise step
        if not callable(step):
            return step
        try:
            return await step(attempt)
        except asyncio.CancelledError:
            self.cancelled.append(job)
            raise

    @activity.defn
    async def run_job(self, task: RunJob) -> JobReport:
        job = task.spec.job
        self.specs.append((task.context, task.spec))
        self.images[job.id] = task.spec.platform.image
        self.limits[job.id] = task.spec.timeouts
        report = await run_attempt(
            task.context, job.id, lambda attempt: self._play(job.id, attempt)
        )
        if job.kind is not JobKind.LIST_REVDEPS:
            return report
        tested = sum(revdep.has_tests for revdep in self.revdeps)
        key = "revdeps.json"
        listed = RevdepList(revdeps=self.revdeps, flagged=self.flagged)
        await self.store.put(key, listed.model_dump_json().encode())
        listing = Listing(
            key=key, revdeps=len(self.revdeps), tested=tested, flagged=len(self.flagged)
        )
        return report.model_copy(update={"listing": listing})

    @activity.defn
    async def analyse(self, task: RepositoryTask) -> AnalysisReport:
        report = await run_attempt(
            task.context, task.job, lambda attempt: self._play("analysis", attempt)
        )
        repository = RepositoryRef(
            base_commit=BASE,
            base_archive="base",
            overlay_archive="overlay",
            overlay_packages=1,
            package_count=1,
        )
        analysis = self.analyses.get(task.revision.head, self.analysis)
        if self.reach is not None:
            key = reach_key(task.context.revision)
            await self.store.put(key, self.reach.model_dump_json().encode())
        if self.reach_on_base is not None:
            key = reach_key(task.context.revision, on_base=True)
            await self.store.put(key, self.reach_on_base.model_dump_json().encode())
        return AnalysisReport(
            analysis=analysis,
            repository=repository,
            base_repository=None if self.reach_on_base is None else repository,
            report=report,
            base=task.revision.base,
            inputs=self.inputs,
        )

    @activity.defn
    async def look_at_base(self, message: HeadTask) -> BaseLook:
        revision = message.on.revision
        self.looked.append((revision.head, revision.base))
        look = self.looks.get(revision.head, self.inputs)
        if isinstance(look, OpamCiError):
            raise look
        if isinstance(look, asyncio.Event):
            await look.wait()
            look = self.inputs
        if isinstance(look, str):
            return BaseLook(base=revision.base, failure=look)
        return BaseLook(base=revision.base, inputs=look)

    @activity.defn
    async def lint(self, task: RepositoryTask) -> LintReport:
        report = await run_attempt(
            task.context, task.job, lambda attempt: self._play("lint", attempt)
        )
        return LintReport(
            verdicts=tuple(
                LintVerdict(package=changed.package, outcome=report.outcome)
                for changed in task.packages
            ),
            report=report,
        )

    @activity.defn
    async def find_effect(self, message: HeadTask) -> Effect:
        with heartbeating(activity.heartbeat):
            return await self.effect(message.on)

    @activity.defn
    async def record(self, batch: RowBatch) -> Recorded:
        done = await asyncio.to_thread(self.index.record, batch)
        self.batches.append(batch)
        return Recorded(estimated_until=done.estimated_until)

    @property
    def jobs(self) -> tuple[JobRecord, ...]:
        """Every job that is in the index."""
        found: tuple[JobRecord, ...] = self.index.real.jobs(place=Place(limit=10_000)).items
        return found

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        """Every attempt that is in the index."""
        found: tuple[AttemptRecord, ...] = self.index.real.attempts(place=Place(limit=10_000)).items
        return found


class ScriptedIndex:
    """A real index that can be unavailable.

    Attributes:
        is_down: While set, nothing can be read or written.
    """

    def __init__(self, real: Index | None = None) -> None:
        self.is_down = False
        self._home = tempfile.TemporaryDirectory(
            prefix="opam-ci-index-", ignore_cleanup_errors=True
        )
        self.real = real or Index.open(f"sqlite:///{self._home.name}/index.sqlite3")

    def __getattr__(self, name: str) -> Any:
        if self.is_down:
            raise InfrastructureError("the index is down", cause=Cause.STORAGE)
        return getattr(self.real, name)

    def close(self) -> None:
        self.real.close()
        self._home.cleanup()


@contextlib.asynccontextmanager
async def workers(
    client: Client, script: Script, *interceptors: Interceptor
) -> AsyncIterator[None]:
    """Runs workers for workflows and scripted activities."""
    throttle = timedelta(seconds=1)
    with contextlib.closing(script.index):
        async with (
            Worker(
                client,
                task_queue=options.ORCHESTRATION_QUEUE,
                workflows=WORKFLOWS,
                workflow_runner=WORKFLOW_RUNNER,
                activities=[
                    script.analyse,
                    script.look_at_base,
                    script.lint,
                    script.find_effect,
                    ImageActivities(script.resolver).pin_image,
                    script.record,
                    *JobActivities(
                        cast("Index", script.index), script.store, script.served_pools
                    ).all,
                ],
                max_heartbeat_throttle_interval=throttle,
                interceptors=interceptors,
                # Without a limit of two seconds a task, which a busy machine under coverage may
                # not keep; bench/scale.py measures them.
                debug_mode=True,
            ),
            Worker(
                client,
                task_queue=options.build_queue("linux-amd64"),
                activities=[script.run_job],
                max_heartbeat_throttle_interval=throttle,
                interceptors=interceptors,
            ),
        ):
            try:
                yield
            finally:
                await script.end()


def passes_after(released: asyncio.Event) -> Step:
    """Makes a step that passes once an event is set."""

    async def step(_attempt: Attempt) -> Outcome:
        await released.wait()
        return PASSED

    return step


async def for_ever(attempt: Attempt) -> Outcome:
    """Takes longer than any test."""
    del attempt
    await asyncio.sleep(3600)
    return PASSED


class World:
    """A server, a worker with a script, and queries."""

    def __init__(self, env: WorkflowEnvironment, script: Script) -> None:
        self.env = env
        self.client: Client = env.client
        self.script = script

    def revision(self, head: str = HEAD_1, **changes: object) -> Revision:
        given: dict[str, object] = {
            "retry": RetrySettings(initial_interval=timedelta(seconds=1), maximum_attempts=3),
            "heartbeat_timeout": timedelta(seconds=5),
            # Which jobs are audited depends on when a head is tested.
            "audited_percent": 0,
        }
        return Revision(
            head=head,
            base=BASE,
            repository="/nowhere",
            options=CheckOptions.model_validate(given | changes),
        )

    async def open(
        self, ref: PullRequestRef, revision: Revision
    ) -> WorkflowHandle[PullRequestWorkflow, object]:
        handle = await self.client.start_workflow(
            PullRequestWorkflow.run,
            PullRequestState(pull_request=ref),
            id=ref.workflow_id,
            task_queue=options.ORCHESTRATION_QUEUE,
            start_signal="head_changed",
            start_signal_args=[revision],
        )
        self.script.opened.append(handle)
        return handle

    async def summary(self, handle: WorkflowHandle[PullRequestWorkflow, object]) -> Summary:
        return await handle.query(PullRequestWorkflow.summary)

    async def until(
        self,
        handle: WorkflowHandle[PullRequestWorkflow, object],
        wanted: Callable[[Summary], bool],
        *,
        skip: timedelta = timedelta(seconds=1),
    ) -> Summary:
        """Lets time pass until the summary is as wanted."""
        for _ in range(200):
            summary = await self.summary(handle)
            if wanted(summary):
                return summary
            await self.sleep(skip)
        pytest.fail(f"the summary never was as wanted: {summary.model_dump_json(indent=1)}")

    async def sleep(self, length: timedelta) -> None:
        """Lets time pass in steps: the server ends a request after ten seconds of real time, and
        on a busy machine that is not long for minutes in which much happens."""
        step = timedelta(seconds=20)
        while length > timedelta(0):
            await self.env.sleep(min(step, length))
            length -= step

    def row(self, summary: Summary, job_id: str) -> JobStatus:
        return next(row for row in summary.jobs if row.job.id == job_id)


def is_decided(summary: Summary) -> bool:
    return summary.planned and summary.concluded and not summary.counts.undecided
