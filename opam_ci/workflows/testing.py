"""The testing of one head inside a PullRequestWorkflow: its jobs and who runs them."""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterable
from datetime import datetime
from typing import Any

from temporalio import workflow
from temporalio.exceptions import (
    ChildWorkflowError,
    FailureError,
    WorkflowAlreadyStartedError,
)
from temporalio.workflow import (
    ChildWorkflowCancellationType,
    ParentClosePolicy,
)

with workflow.unsafe.imports_passed_through():
    from opam_ci.core.analysis_result import Analysis
    from opam_ci.core.incidents.messages import Rejudge
    from opam_ci.core.job import Job, JobKind
    from opam_ci.core.job_table import JobTable
    from opam_ci.core.messages import (
        PlatformInput,
        PlatformProgress,
        PullRequestInput,
        RevdepsProgress,
        RevdepsRestart,
        RunningChild,
        revision_key,
    )
    from opam_ci.core.outcome import Cancelled, Outcome
    from opam_ci.core.plan import (
        ANALYSIS,
        BUILT_KINDS,
        lint_jobs,
        platform_jobs,
        with_dependents,
    )
    from opam_ci.core.records import RevisionKey
    from opam_ci.core.requests import PullRequestRef, RestartAsker, RestartSelector, Revision
    from opam_ci.core.summary import JobState
    from opam_ci.workflows import options
    from opam_ci.workflows.groups import Groups
    from opam_ci.workflows.platform import PlatformWorkflow
    from opam_ci.workflows.rejudging import judge_again, tell_running
    from opam_ci.workflows.reports import lost_verdict
    from opam_ci.workflows.repository_jobs import RepositoryJobs
    from opam_ci.workflows.signalling import hurry


class Testing:
    """Analyses, lints and builds one head, and restarts parts of that.

    Attributes:
        table: The job matrix.
        planned: Whether the list of jobs is complete.
        on_repository: Analysis and lint, and what the analysis found.
        crash: A bug that ended one of its tasks: the workflow task must fail of it.
        groups: The jobs on reverse dependencies.
        automatic: What restarts of its jobs have cost since somebody last asked for one.
    """

    def __init__(
        self,
        pull_request: PullRequestRef,
        revision: Revision,
        opened_at: datetime,
        table: JobTable | None = None,
    ) -> None:
        self.opened_at = opened_at
        self.table = JobTable() if table is None else table
        self.planned = False
        self.on_repository = RepositoryJobs(pull_request, revision, opened_at, self.table)
        self._pull_request = pull_request
        self._batch = 0
        # A dict, since the order of a set of tasks differs from replay to replay.
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._children: dict[str, set[str]] = {}
        self._adopted: set[str] = set()
        self._stopping: Cancelled | None = None
        self.groups = Groups()
        self.automatic = 0
        self.crash: BaseException | None = None

    @classmethod
    def resume(cls, given: PullRequestInput) -> "Testing | None":
        """Returns the testing that the run before this one carried over, if there was one."""
        if given.revision is None or given.opened_at is None:
            return None
        testing = cls(given.pull_request, given.revision, given.opened_at, JobTable(given.jobs))
        testing.planned = given.planned
        testing.automatic = given.automatic
        testing.on_repository.packages = given.packages
        testing.on_repository.merge_tree = given.merge_tree
        testing.on_repository.repository = given.repository
        testing.on_repository.platforms = given.platforms or given.revision.options.platforms
        testing._batch = given.batch
        testing._adopted = {child.workflow_id for child in given.running}
        testing.groups = Groups(given.groups)
        testing._children = {child.workflow_id: set(child.jobs) for child in given.running}
        return testing

    def carry_over(self, given: PullRequestInput) -> PullRequestInput:
        """Returns the input of the next run, which resumes this testing."""
        return given.model_copy(
            update={
                "revision": self.revision,
                "opened_at": self.opened_at,
                "jobs": self.table.rows,
                "packages": self.on_repository.packages,
                "merge_tree": self.on_repository.merge_tree,
                "repository": self.on_repository.repository,
                "platforms": self.on_repository.platforms,
                "planned": self.planned,
                "automatic": self.automatic,
                "batch": self._batch,
                "groups": self.groups.all,
                "running": tuple(
                    RunningChild(workflow_id=child, jobs=tuple(sorted(jobs)))
                    for child, jobs in sorted(self._children.items())
                ),
            }
        )

    @property
    def revision(self) -> Revision:
        """The head under test."""
        return self.on_repository.revision

    @property
    def key(self) -> RevisionKey:
        """The testing's name in the index."""
        return revision_key(self._pull_request, self.revision.head, self.opened_at)

    @property
    def is_dirty(self) -> bool:
        """Whether there is something new to tell of."""
        return self.table.is_dirty or self.groups.is_changed

    @property
    def is_restartable(self) -> bool:
        """Whether a restart could mend something."""
        lost = {"errored", "cancelled"}
        lost_rows = any(row.outcome and row.outcome.kind in lost for row in self.table.rows)
        return lost_rows or self.groups.is_restartable

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

    def begin(self, asker: RestartAsker | None = None) -> None:
        """Starts the testing from its beginning.

        Args:
            asker: Who asked for that, if it is a restart.
        """
        # At once, so that a cancel that comes before the first step finds a row to settle.
        self.table.queue(ANALYSIS, asker)
        self.groups.blank()
        self.planned = False
        self._spawn("check", self._check(asker))

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
        self.groups.settle(cancelled)
        self.planned = True
        self._stopping = None

    async def restart(self, selector: RestartSelector) -> int:
        """Starts the selected jobs again and returns how many there are.

        While the analysis runs, everything is about to be started anyway.
        """
        if ANALYSIS.id in self.table and self.table[ANALYSIS.id].outcome is None:
            return 0
        number = await self._restart(selector)
        self.automatic = selector.asker.charged(self.automatic, number)
        return number

    async def _restart(self, selector: RestartSelector) -> int:
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
            self.begin(selector.asker)
            return len(jobs) + len(waiting)
        grouped, again = await self.groups.restart(selector, jobs)
        self._run_again(jobs, again, selector.asker)
        if waiting:
            self._spawn("restart waiting", hurry(waiting, self._children, selector.asker))
        return len(jobs) + len(waiting) + grouped

    def rejudge(self, said: Rejudge) -> int:
        """Judges jobs again on the word of others; returns how many verdicts were taken back."""
        if self._stopping is not None or said.revision != self.key:
            return 0
        number, running = judge_again(said, self.table, self._children, self.groups)
        if running:
            self._spawn("rejudge", tell_running(running))
        return number

    def progress(self, said: PlatformProgress) -> None:
        """Takes over what a PlatformWorkflow reports."""
        if said.head != self.revision.head or said.workflow_id not in self._children:
            return
        self.on_repository.image_found(said)
        for row in said.jobs:
            if self._stopping and row.outcome is not None and row.outcome.kind == "cancelled":
                # The child cannot know why it was cancelled.
                self.table.merge(row.model_copy(update={"outcome": self._stopping}))
            else:
                self.table.merge(row)
        for group in said.groups:
            self.groups.begin(group, said.workflow_id, self._stopping)
        if said.done and said.workflow_id in self._adopted:
            self._give_up(said.workflow_id, "the platform's workflow ended without a verdict")

    def revdeps_progress(self, said: RevdepsProgress) -> None:
        """Takes over what a RevdepsWorkflow reports of its group."""
        if said.head != self.revision.head or self._child_of(said.workflow_id) is None:
            return
        self.groups.progress(said, self._stopping)

    def _child_of(self, workflow_id: str) -> str | None:
        """Returns the PlatformWorkflow under way to which a RevdepsWorkflow belongs."""
        return next(
            (child for child in self._children if workflow_id.startswith(f"{child}/")), None
        )

    async def look_for_adopted(self) -> None:
        """Asks the children of earlier runs for a sign of life; settles the jobs of lost ones."""
        for child in sorted(self._adopted):
            handle = workflow.get_external_workflow_handle(child)
            try:
                await handle.signal("report")
            except FailureError:
                self._give_up(child, "the workflow that ran it is gone")

    # What follows runs in tasks of its own.

    async def _check(self, asker: RestartAsker | None) -> None:
        analysis = await self.on_repository.analyse()
        if analysis is None or self._stopping is not None:
            # A short analysis can end before it hears that it was cancelled.
            self.planned = True
            return
        lint = lint_jobs(analysis)
        builds = [] if self.revision.options.lint_only else self._build_jobs(analysis)
        for job in (*lint, *builds):
            self.table.queue(job, asker)
        self.planned = True
        self._start(lint, builds)

    def _build_jobs(self, analysis: Analysis) -> list[Job]:
        return [
            job
            for platform in self.on_repository.platforms
            for job in platform_jobs(analysis.packages, platform)
        ]

    def _run_again(
        self, jobs: list[Job], groups: list[RevdepsRestart], asker: RestartAsker
    ) -> None:
        for job in jobs:
            self.table.queue(job, asker)
        self._start(
            [job for job in jobs if job.kind is JobKind.LINT],
            [job for job in jobs if job.kind is not JobKind.LINT],
            groups,
        )

    def _start(
        self, lint: Iterable[Job], builds: Iterable[Job], groups: Iterable[RevdepsRestart] = ()
    ) -> None:
        names = [job.package for job in lint]
        for start in range(0, len(names), options.LINT_PACKAGES):
            self._spawn(
                "lint", self.on_repository.lint(names[start : start + options.LINT_PACKAGES])
            )
        by_platform: dict[str, tuple[list[Job], list[RevdepsRestart]]]
        by_platform = defaultdict(lambda: ([], []))
        for job in builds:
            by_platform[job.platform][0].append(job)
        for restart in groups:
            by_platform[restart.group.platform][1].append(restart)
        if by_platform:
            self._batch += 1
        for platform, (jobs, restarts) in by_platform.items():
            # With the time: an operator may have ended a parent whose children go on.
            child = f"{self._pull_request.workflow_id}/{self.revision.head[:12]}"
            child += f"@{self.opened_at:%Y%m%dT%H%M%S}/{platform.replace('/', '-')}/{self._batch}"
            self._children[child] = {job.id for job in jobs}
            for restart in restarts:
                self.groups.run_by(restart.group, child)
            self._spawn(f"child {child}", self._build(child, platform, jobs, restarts))

    async def _build(
        self, child: str, platform_name: str, jobs: list[Job], restarts: list[RevdepsRestart]
    ) -> None:
        platform = next(
            known for known in self.on_repository.platforms if known.name == platform_name
        )
        if self.on_repository.repository is None:
            self._settle(jobs, lost_verdict("the analysis exported no repository to build from"))
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
                    repository=self.on_repository.repository,
                    options=self.revision.options,
                    jobs=tuple(self.table[job.id] for job in jobs),
                    submitted=tuple(
                        changed.package
                        for changed in self.on_repository.packages
                        if changed.kind in BUILT_KINDS
                    ),
                    rounds={
                        group.package: group.round
                        for group in self.groups.all
                        if group.platform == platform_name
                    },
                    revdeps=tuple(restarts),
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
        self.groups.forget(child)
        self.groups.settle(self._stopping or lost_verdict("the workflow that ran it is gone"))

    def _give_up(self, child: str, detail: str) -> None:
        jobs = [self.table[job_id].job for job_id in sorted(self._children.get(child, ()))]
        self._settle(jobs, lost_verdict(detail))
        self._forget(child)

    def _settle(self, jobs: Iterable[Job], outcome: Outcome) -> None:
        for job in jobs:
            if self.table[job.id].outcome is None:
                self.table.settle(job.id, outcome, workflow.now())
