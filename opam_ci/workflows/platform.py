"""PlatformWorkflow: the jobs of one head on one platform."""

import asyncio
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from opam_ci.core.incidents.messages import Rejudge
    from opam_ci.core.job import Job
    from opam_ci.core.job_table import JobTable
    from opam_ci.core.messages import (
        AttemptFaulted,
        AttemptStarted,
        PlatformInput,
        PlatformProgress,
        RestartWaiting,
        RevdepsRestart,
    )
    from opam_ci.core.outcome import Cancelled
    from opam_ci.core.plan import depends_on, outcome_after
    from opam_ci.core.requests import RestartSelector
    from opam_ci.core.revdeps import RevdepsInput, new_group
    from opam_ci.core.summary import Counts, JobGroup, JobStatus, Summary, count
    from opam_ci.core.text import markdown_matrix
    from opam_ci.workflows import options
    from opam_ci.workflows.groups import revdeps_workflow
    from opam_ci.workflows.images import PlatformImage
    from opam_ci.workflows.jobs import Jobs, JobSetting
    from opam_ci.workflows.pause import pause, see_through
    from opam_ci.workflows.revdeps import RevdepsWorkflow


@workflow.defn
class PlatformWorkflow:
    """Runs build jobs in a bounded window, each after the job that it waits for.

    The jobs on reverse dependencies, which can be many thousands, run in children.
    """

    @workflow.init
    def __init__(self, given: PlatformInput) -> None:
        self._given = given
        self._table = JobTable(given.jobs)
        setting = JobSetting(
            pull_request=given.pull_request,
            head=given.head,
            opened_at=given.opened_at,
            platform=given.platform,
            repository=given.repository,
            options=given.options,
            submitted=given.submitted,
            notify=given.parent is not None,
        )
        self._jobs = Jobs(setting, self._table, in_flight=options.JOBS_IN_FLIGHT)
        self._image = PlatformImage(given, self._table)
        self._new_groups: list[JobGroup] = []
        self._running: asyncio.Future[Any] | None = None
        self._done = False

    @workflow.run
    async def run(self, given: PlatformInput) -> Counts:
        """Runs all jobs to an outcome, telling the parent on the way.

        Args:
            given: The jobs, and how to run them.

        Returns:
            How many jobs came to what, without those on reverse dependencies.
        """
        reporter = asyncio.create_task(self._report_changes())
        if self._image.is_needed and workflow.patched("image-of-platform"):
            self._running = asyncio.create_task(self._run_with_image(given))
        else:
            self._running = self._run_all(given)
        cancelled: asyncio.CancelledError | None = None
        try:
            await self._running
        except asyncio.CancelledError as error:
            self._table.cancel_undecided(Cancelled(by="request"), workflow.now())
            cancelled = error
        # Not in a `finally`: after a bug of ours nothing more may happen in this task. And
        # the last report must get out even when the workflow itself is cancelled.
        self._done = True
        cancelled = await see_through(reporter) or cancelled
        if cancelled is not None:
            raise cancelled
        return count(self._table.rows)

    @workflow.signal
    def attempt_faulted(self, said: AttemptFaulted | None = None) -> None:
        """An attempt met an infrastructure fault."""
        if said is not None:
            (self._image if self._image.is_sought else self._jobs).attempt_faulted(said)

    @workflow.signal
    def attempt_started(self, said: AttemptStarted | None = None) -> None:
        """An attempt after the first has begun; the one before may have lost its worker."""
        if said is not None:
            (self._image if self._image.is_sought else self._jobs).attempt_started(said)

    @workflow.signal
    def restart_waiting(self, said: RestartWaiting | None = None) -> None:
        """Jobs that wait for their automatic retry are to start at once."""
        if said is not None:
            (self._image if self._image.is_sought else self._jobs).restart_waiting(said)

    @workflow.signal
    def rejudge(self, said: Rejudge | None = None) -> None:
        """The fault of jobs that are tried again and again is their own."""
        if said is not None:
            self._jobs.rejudge(said)

    @workflow.signal
    def report(self) -> None:
        """The parent continued as new and asks whether this workflow is still there."""
        self._table.touch_all()

    @workflow.query
    def summary(self) -> Summary:
        """Returns the rows of this platform, without those on reverse dependencies."""
        return Summary(
            pull_request=self._given.pull_request.title,
            head=self._given.head,
            base=self._given.repository.base_commit,
            planned=True,
            jobs=self._table.rows,
            updated_at=workflow.now(),
        )

    async def _run_with_image(self, given: PlatformInput) -> None:
        if await self._image.find():
            self._jobs.use(self._image.platform)
        await self._run_all(given)

    def _run_all(self, given: PlatformInput) -> asyncio.Future[list[None]]:
        # Without an image all jobs are decided; those on reverse dependencies have a table of
        # their own, and meet what is wrong themselves.
        jobs = [row.job for row in self._table.rows if row.outcome is None]
        return asyncio.gather(
            *(self._run(job) for job in jobs),
            *(self._run_again(restart) for restart in given.revdeps),
        )

    async def _run(self, job: Job) -> None:
        needed = depends_on(job)
        if needed is not None and needed.id in self._table:
            await workflow.wait_condition(lambda: self._table[needed.id].outcome is not None)
            verdict = outcome_after(self._table[needed.id].outcome, needed)
            if verdict is not None:
                self._table.settle(job.id, verdict, workflow.now())
                return
        report = await self._jobs.run(job)
        self._table.decide(job.id, report)
        if report.listing is not None and report.listing.revdeps:
            before = self._given.rounds.get(job.package, 0)
            group = new_group(job.platform, job.package, report.listing, round_=before + 1)
            self._new_groups.append(group)
            await self._run_revdeps(group)

    async def _run_again(self, restart: RevdepsRestart) -> None:
        await self._run_revdeps(restart.group, restart.selector)

    async def _run_revdeps(self, group: JobGroup, *restarts: RestartSelector) -> None:
        given = self._given
        try:
            await workflow.execute_child_workflow(
                RevdepsWorkflow.run,
                RevdepsInput(
                    pull_request=given.pull_request,
                    head=given.head,
                    opened_at=given.opened_at,
                    parent=given.parent,
                    platform=self._image.platform,
                    repository=given.repository,
                    options=given.options,
                    group=group,
                    restarts=restarts,
                ),
                id=revdeps_workflow(workflow.info().workflow_id, group.package),
                parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
                cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                static_summary=f"{group.listed} reverse dependencies of {group.package}",
            )
        except FailureError as error:
            # The parent settles what is left undecided once this workflow is over.
            workflow.logger.warning("reverse dependencies of %s: %s", group.package, error)

    async def _report_changes(self) -> None:
        """Tells the parent of changed rows, collected over a while, until all is told."""
        told_all = False
        while not told_all:
            await workflow.wait_condition(lambda: self._table.is_dirty or self._done)
            length = options.report_interval(workflow.info().get_current_history_length())
            await pause(length, until=lambda: self._done)
            workflow.set_current_details(markdown_matrix(self.summary()))
            told_all = await self._tell_changes()

    async def _tell_changes(self) -> bool:
        """Tells of the rows that are changed now; returns whether these were the last words.

        What changes while it is told waits for the next time: on a busy platform that is
        always something.
        """
        if not workflow.patched("tell-once-an-interval"):
            return await self._tell_until_all_is_told()
        portions = [self._table.take_changed(options.PROGRESS_ROWS)]
        while self._table.is_dirty:
            portions.append(self._table.take_changed(options.PROGRESS_ROWS))
        for rows in portions[:-1]:
            await self._tell(rows, done=False)
        last = self._done and not self._table.is_dirty
        if portions[-1] or last:
            await self._tell(portions[-1], done=last)
        return last

    async def _tell_until_all_is_told(self) -> bool:
        """Does the same for workflows that were begun before there was an interval."""
        while True:
            rows = self._table.take_changed(options.PROGRESS_ROWS)
            last = self._done and not self._table.is_dirty
            if rows or last:
                await self._tell(rows, done=last)
            if last or not self._table.is_dirty:
                return last

    async def _tell(self, rows: tuple[JobStatus, ...], *, done: bool) -> None:
        groups, self._new_groups = tuple(self._new_groups), []
        if self._given.parent is None:
            return
        parent = workflow.get_external_workflow_handle(self._given.parent)
        progress = PlatformProgress(
            head=self._given.head,
            workflow_id=workflow.info().workflow_id,
            jobs=rows,
            groups=groups,
            done=done,
            platform=self._image.found,
            notice=self._image.notice,
        )
        try:
            await parent.signal("platform_progress", progress)
        except FailureError:
            # Nobody waits for these jobs any more: an operator ended the parent.
            workflow.logger.warning("parent %s is gone, stopping", self._given.parent)
            if self._running is not None and not self._done:
                self._running.cancel()
