"""The testing of one head inside a PullRequestWorkflow: its jobs and who runs them."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from typing import Any

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ChildWorkflowError,
    FailureError,
    WorkflowAlreadyStartedError,
)
from temporalio.workflow import (
    ActivityCancellationType,
    ChildWorkflowCancellationType,
    ParentClosePolicy,
)

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.repository import RepositoryActivities
    from opam_ci.core.analysis_result import Analysis, ChangedPackage
    from opam_ci.core.build import RepositoryRef
    from opam_ci.core.job import Job, JobKind
    from opam_ci.core.job_table import JobTable
    from opam_ci.core.messages import (
        AnalysisReport,
        AttemptFaulted,
        AttemptStarted,
        JobContext,
        LintReport,
        PlatformInput,
        PlatformProgress,
        PullRequestInput,
        RepositoryTask,
        RestartWaiting,
        RunningChild,
    )
    from opam_ci.core.outcome import Cancelled, Cause, Errored, Evidence, Outcome
    from opam_ci.core.plan import ANALYSIS, lint_job, lint_jobs, platform_jobs, with_dependents
    from opam_ci.core.requests import PullRequestRef, RestartSelector, Revision
    from opam_ci.core.summary import JobState, JobStatus
    from opam_ci.core.text import activity_summary
    from opam_ci.workflows import options
    from opam_ci.workflows.platform import PlatformWorkflow
    from opam_ci.workflows.reports import report_after


class Testing:
    """Analyses, lints and builds one head, and restarts parts of that.

    Attributes:
        table: The job matrix.
        planned: Whether the list of jobs is complete.
        packages: What the analysis found.
        merge_tree: The merged tree.
        crash: A bug that ended one of its tasks: the workflow task must fail of it.
    """

    def __init__(
        self, pull_request: PullRequestRef, revision: Revision, opened_at: datetime
    ) -> None:
        self.revision = revision
        self.opened_at = opened_at
        self.table = JobTable()
        self.planned = False
        self.packages: tuple[ChangedPackage, ...] = ()
        self.merge_tree: str | None = None
        self._pull_request = pull_request
        self._repository: RepositoryRef | None = None
        self._batch = 0
        # A dict, since the order of a set of tasks differs from replay to replay.
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._children: dict[str, set[str]] = {}
        self._adopted: set[str] = set()
        self._stopping: Cancelled | None = None
        self.crash: BaseException | None = None

    @classmethod
    def resume(cls, given: PullRequestInput) -> "Testing | None":
        """Returns the testing that the run before this one carried over, if there was one."""
        if given.revision is None or given.opened_at is None:
            return None
        testing = cls(given.pull_request, given.revision, given.opened_at)
        testing.table = JobTable(given.jobs)
        testing.planned = given.planned
        testing.packages = given.packages
        testing.merge_tree = given.merge_tree
        testing._repository = given.repository
        testing._batch = given.batch
        testing._adopted = {child.workflow_id for child in given.running}
        testing._children = {child.workflow_id: set(child.jobs) for child in given.running}
        return testing

    def carry_over(self, given: PullRequestInput) -> PullRequestInput:
        """Returns the input of the next run, which resumes this testing."""
        return given.model_copy(
            update={
                "revision": self.revision,
                "opened_at": self.opened_at,
                "jobs": self.table.rows,
                "packages": self.packages,
                "merge_tree": self.merge_tree,
                "repository": self._repository,
                "planned": self.planned,
                "batch": self._batch,
                "running": tuple(
                    RunningChild(workflow_id=child, jobs=tuple(sorted(jobs)))
                    for child, jobs in sorted(self._children.items())
                ),
            }
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._tasks and not self._children

    @property
    def only_children_run(self) -> bool:
        """Whether all that is under way would survive a continue-as-new."""
        return all(task.get_name().startswith("child ") for task in self._tasks)

    @property
    def has_adopted(self) -> bool:
        """Whether PlatformWorkflows are under way that an earlier run started."""
        return bool(self._adopted)

    def begin(self) -> None:
        """Starts the testing from its beginning."""
        # At once, so that a cancel that comes before the first step finds a row to settle.
        self.table.queue(ANALYSIS)
        self.planned = False
        self._spawn("check", self._check())

    async def stop(self, cancelled: Cancelled) -> None:
        """Ends all that is under way; returns when the builds are really gone."""
        self._stopping = cancelled
        for task in self._tasks:
            task.cancel()
        for child in sorted(self._adopted):
            await self._cancel_adopted(child)
        while not self.is_idle:
            try:
                await workflow.wait_condition(
                    lambda: self.is_idle, timeout=options.ORPHAN_CHECK_INTERVAL
                )
            except TimeoutError:
                # An adopted child that an operator terminated never says that it is done.
                await self.look_for_adopted()
        self.table.cancel_undecided(cancelled, workflow.now())
        self.planned = True
        self._stopping = None

    async def restart(self, selector: RestartSelector) -> int:
        """Starts the selected jobs again and returns how many there are.

        While the analysis runs, everything is about to be started anyway.
        """
        if ANALYSIS.id in self.table and self.table[ANALYSIS.id].outcome is None:
            return 0
        chosen = with_dependents(
            [
                row
                for row in self.table.rows
                if row.outcome is not None and selector.takes(row.job, row.outcome)
            ],
            self.table.rows,
        )
        jobs = [row.job for row in chosen]
        waiting = [
            row.job.id
            for row in self.table.rows
            if row.state is JobState.RETRYING
            and selector.takes_waiting(row.job, row.faults[-1].cause)
        ]
        if any(job.kind is JobKind.ANALYSIS for job in jobs):
            if not self.is_idle:
                await self.stop(Cancelled(by="request"))
            self.begin()
        else:
            self._run_again(jobs)
        if waiting:
            self._spawn("restart waiting", self._hurry(waiting))
        return len(jobs) + len(waiting)

    def progress(self, said: PlatformProgress) -> None:
        """Takes over what a PlatformWorkflow reports."""
        if said.head != self.revision.head or said.workflow_id not in self._children:
            return
        for row in said.jobs:
            if self._stopping and row.outcome is not None and row.outcome.kind == "cancelled":
                # The child cannot know why it was cancelled.
                self.table.merge(row.model_copy(update={"outcome": self._stopping}))
            else:
                self.table.merge(row)
        if said.done and said.workflow_id in self._adopted:
            self._give_up(said.workflow_id, "the platform's workflow ended without a verdict")

    def attempt_faulted(self, said: AttemptFaulted) -> None:
        """Notes a faulted attempt of analysis or lint."""
        for row in self._rows_of(said.job):
            self.table.fault(row.job.id, said.model_copy(update={"round": row.round}))

    def attempt_started(self, said: AttemptStarted) -> None:
        """Notes a further attempt of analysis or lint."""
        for row in self._rows_of(said.job):
            self.table.started(row.job.id, said.model_copy(update={"round": row.round}))

    async def look_for_adopted(self) -> None:
        """Asks the children of earlier runs for a sign of life; settles the jobs of lost ones."""
        for child in sorted(self._adopted):
            handle = workflow.get_external_workflow_handle(child)
            try:
                await handle.signal("report")
            except FailureError:
                self._give_up(child, "the workflow that ran it is gone")

    # What follows runs in tasks of its own.

    async def _check(self) -> None:
        analysis = await self._analyse()
        if analysis is None or self._stopping is not None:
            # A short analysis can end before it hears that it was cancelled.
            self.planned = True
            return
        lint = lint_jobs(analysis)
        builds = [] if self.revision.options.lint_only else self._build_jobs(analysis)
        for job in (*lint, *builds):
            self.table.queue(job)
        self.planned = True
        self._start(lint, builds)

    def _build_jobs(self, analysis: Analysis) -> list[Job]:
        return [
            job
            for platform in self.revision.options.platforms
            for job in platform_jobs(analysis.packages, platform)
        ]

    def _run_again(self, jobs: list[Job]) -> None:
        for job in jobs:
            self.table.queue(job)
        self._start(
            [job for job in jobs if job.kind is JobKind.LINT],
            [job for job in jobs if job.kind is not JobKind.LINT],
        )

    def _start(self, lint: Iterable[Job], builds: Iterable[Job]) -> None:
        names = [job.package for job in lint]
        for start in range(0, len(names), options.LINT_PACKAGES):
            self._spawn("lint", self._lint(names[start : start + options.LINT_PACKAGES]))
        by_platform: dict[str, list[Job]] = defaultdict(list)
        for job in builds:
            by_platform[job.platform].append(job)
        if by_platform:
            self._batch += 1
        for platform, jobs in by_platform.items():
            # With the time: an operator may have ended a parent whose children go on.
            child = f"{self._pull_request.workflow_id}/{self.revision.head[:12]}"
            child += f"@{self.opened_at:%Y%m%dT%H%M%S}/{platform.replace('/', '-')}/{self._batch}"
            self._children[child] = {job.id for job in jobs}
            self._spawn(f"child {child}", self._build(child, platform, jobs))

    async def _analyse(self) -> Analysis | None:
        self.table.start(ANALYSIS.id, workflow.now())
        try:
            answer: AnalysisReport = await self._repository_activity(
                RepositoryActivities.analyse, ANALYSIS, ()
            )
        except ActivityError as error:
            self._decide(ANALYSIS.id, error)
            return None
        self.merge_tree = answer.analysis.merge_tree
        self.packages = answer.analysis.packages
        self._repository = answer.repository
        self.table.decide(ANALYSIS.id, answer.report)
        return answer.analysis

    async def _lint(self, names: list[str]) -> None:
        job_ids = {name: lint_job(name).id for name in names}
        for job_id in job_ids.values():
            self.table.start(job_id, workflow.now())
        packages = tuple(changed for changed in self.packages if changed.package in job_ids)
        try:
            answer: LintReport = await self._repository_activity(
                RepositoryActivities.lint,
                Job(platform="", package="", kind=JobKind.LINT),
                packages,
            )
        except ActivityError as error:
            for job_id in job_ids.values():
                self._decide(job_id, error)
            return
        verdicts = {verdict.package: verdict.outcome for verdict in answer.verdicts}
        for name, job_id in job_ids.items():
            outcome = verdicts.get(name) or _lost_verdict("lint said nothing about the package")
            self.table.decide(job_id, answer.report.model_copy(update={"outcome": outcome}))

    async def _repository_activity(
        self,
        method: Callable[[Any, RepositoryTask], Coroutine[Any, Any, Any]],
        job: Job,
        packages: tuple[ChangedPackage, ...],
    ) -> Any:
        revision = self.revision
        context = JobContext(
            pull_request=self._pull_request,
            head=revision.head,
            opened_at=self.opened_at,
            round=max((row.round for row in self._rows_of(job.id)), default=1),
            retry=revision.options.retry,
        )
        return await workflow.execute_activity_method(
            method,
            RepositoryTask(
                context=context,
                revision=revision,
                packages=packages,
                merge_tree=self.merge_tree,
            ),
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=activity_summary(job.kind, job.title),
            **options.repository_activity(job.kind, self._pull_request, revision.options),
        )

    async def _build(self, child: str, platform_name: str, jobs: list[Job]) -> None:
        platform = next(
            known for known in self.revision.options.platforms if known.name == platform_name
        )
        if self._repository is None:
            self._settle(jobs, _lost_verdict("the analysis exported no repository to build from"))
            self._forget(child)
            return
        try:
            await workflow.execute_child_workflow(
                PlatformWorkflow.run,
                PlatformInput(
                    pull_request=self._pull_request,
                    head=self.revision.head,
                    opened_at=self.opened_at,
                    parent=workflow.info().workflow_id,
                    platform=platform,
                    repository=self._repository,
                    options=self.revision.options,
                    jobs=tuple(self.table[job.id] for job in jobs),
                ),
                id=child,
                parent_close_policy=ParentClosePolicy.ABANDON,
                cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                static_summary=f"{platform_name}: {len(jobs)} jobs of {self._pull_request.title}",
            )
        except (ChildWorkflowError, WorkflowAlreadyStartedError) as error:
            if self._stopping is None:
                self._give_up(child, f"the platform's workflow ended: {error.__cause__ or error}")
        else:
            self._give_up(child, "the platform's workflow ended without a verdict")
        finally:
            self._forget(child)

    async def _hurry(self, waiting: list[str]) -> None:
        for child, jobs in sorted(self._children.items()):
            if mine := tuple(job for job in waiting if job in jobs):
                handle = workflow.get_external_workflow_handle(child)
                try:
                    await handle.signal("restart_waiting", RestartWaiting(jobs=mine))
                except FailureError:
                    workflow.logger.warning("platform workflow %s has just ended", child)

    async def _cancel_adopted(self, child: str) -> None:
        try:
            await workflow.get_external_workflow_handle(child).cancel()
        except FailureError:
            self._forget(child)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (crash := task.exception()) is not None:
            self.crash = crash

    def _forget(self, child: str) -> None:
        self._children.pop(child, None)
        self._adopted.discard(child)

    def _give_up(self, child: str, detail: str) -> None:
        jobs = [self.table[job_id].job for job_id in sorted(self._children.get(child, ()))]
        self._settle(jobs, _lost_verdict(detail))
        self._forget(child)

    def _decide(self, job_id: str, error: ActivityError) -> None:
        self.table.decide(job_id, report_after(error, self.table[job_id], workflow.now()))

    def _settle(self, jobs: Iterable[Job], outcome: Outcome) -> None:
        for job in jobs:
            if self.table[job.id].outcome is None:
                self.table.settle(job.id, outcome, workflow.now())

    def _rows_of(self, job_id: str) -> list[JobStatus]:
        """Returns the rows for which an activity stands: one attempt of lint is all of lint."""
        if job_id == JobKind.LINT.value:
            return [row for row in self.table.rows if row.job.kind is JobKind.LINT]
        return [self.table[job_id]] if job_id in self.table else []


def _lost_verdict(detail: str) -> Errored:
    return Errored(cause=Cause.UNKNOWN, evidence=Evidence(rule="no-verdict", detail=detail))
