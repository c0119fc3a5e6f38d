"""PlatformWorkflow: the jobs of one head on one platform."""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError
from temporalio.workflow import ActivityCancellationType, ActivityHandle

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities import boundary
    from opam_ci.activities.build import BuildActivities
    from opam_ci.core.build import BuildSpec
    from opam_ci.core.job import Job
    from opam_ci.core.job_table import JobTable
    from opam_ci.core.messages import (
        AttemptFaulted,
        AttemptStarted,
        JobContext,
        JobReport,
        PlatformInput,
        PlatformProgress,
        RestartWaiting,
        RunJob,
        lost,
    )
    from opam_ci.core.outcome import Cancelled, Errored, Failed
    from opam_ci.core.plan import depends_on, outcome_after
    from opam_ci.core.summary import (
        Counts,
        JobState,
        JobStatus,
        Summary,
        activity_id,
        count,
    )
    from opam_ci.core.text import activity_summary, markdown_matrix
    from opam_ci.workflows import options
    from opam_ci.workflows.pause import pause
    from opam_ci.workflows.reports import report_after, report_for


@workflow.defn
class PlatformWorkflow:
    """Runs build jobs in a bounded window, each after the job that it waits for."""

    @workflow.init
    def __init__(self, given: PlatformInput) -> None:
        self._given = given
        self._table = JobTable(given.jobs)
        self._handles: dict[str, ActivityHandle[JobReport]] = {}
        self._again: set[str] = set()
        self._verdicts: dict[str, Failed] = {}
        self._window = asyncio.Semaphore(options.JOBS_IN_FLIGHT)
        self._running: asyncio.Future[list[None]] | None = None
        self._done = False

    @workflow.run
    async def run(self, given: PlatformInput) -> Counts:
        """Runs all jobs to an outcome, telling the parent on the way.

        Args:
            given: The jobs, and how to run them.

        Returns:
            How many jobs came to what.
        """
        reporter = asyncio.create_task(self._report_changes())
        self._running = asyncio.gather(*(self._run(row.job) for row in given.jobs))
        cancelled: asyncio.CancelledError | None = None
        try:
            await self._running
        except asyncio.CancelledError as error:
            self._table.cancel_undecided(Cancelled(by="request"), workflow.now())
            cancelled = error
        # Not in a `finally`: after a bug of ours nothing more may happen in this task. And
        # the last report must get out even when the workflow itself is cancelled.
        self._done = True
        await asyncio.shield(reporter)
        if cancelled is not None:
            raise cancelled
        return count(self._table.rows)

    @workflow.signal
    def attempt_faulted(self, said: AttemptFaulted | None = None) -> None:
        """An attempt met an infrastructure fault."""
        if said is not None:
            self._table.fault(said.job, said)

    @workflow.signal
    def attempt_started(self, said: AttemptStarted | None = None) -> None:
        """An attempt after the first has begun; the one before may have lost its worker."""
        if said is None or said.job not in self._table:
            return
        self._table.started(said.job, said)
        verdict = self._table.killer(said.job)
        handle = self._handles.get(said.job)
        if verdict is not None and handle is not None:
            self._verdicts[said.job] = verdict
            handle.cancel()

    @workflow.signal
    def restart_waiting(self, said: RestartWaiting | None = None) -> None:
        """Jobs that wait for their automatic retry are to start at once."""
        for job_id in said.jobs if said is not None else ():
            handle = self._handles.get(job_id)
            if handle is not None and self._table[job_id].state is JobState.RETRYING:
                self._again.add(job_id)
                handle.cancel()

    @workflow.signal
    def report(self) -> None:
        """The parent continued as new and asks whether this workflow is still there."""
        self._table.touch_all()

    @workflow.query
    def summary(self) -> Summary:
        """Returns the rows of this platform."""
        return Summary(
            pull_request=self._given.pull_request.title,
            head=self._given.head,
            base=self._given.repository.base_commit,
            planned=True,
            jobs=self._table.rows,
            updated_at=workflow.now(),
        )

    async def _run(self, job: Job) -> None:
        needed = depends_on(job)
        if needed is not None and needed.id in self._table:
            await workflow.wait_condition(lambda: self._table[needed.id].outcome is not None)
            verdict = outcome_after(self._table[needed.id].outcome, needed)
            if verdict is not None:
                self._table.settle(job.id, verdict, workflow.now())
                return
        async with self._window:
            self._table.decide(job.id, await self._attempts(job))

    async def _attempts(self, job: Job) -> JobReport:
        """Runs a job's activity, again from the start whenever a restart asks for it."""
        while True:
            self._table.start(job.id, workflow.now())
            handle = self._start(job)
            self._handles[job.id] = handle
            try:
                return await handle
            except ActivityError as error:
                if job.id in self._again and boundary.is_cancelled(error):
                    self._table.queue(job)
                    continue
                return self._came_to(job, error)
            finally:
                self._again.discard(job.id)
                del self._handles[job.id]

    def _start(self, job: Job) -> ActivityHandle[JobReport]:
        given = self._given
        return workflow.start_activity_method(
            BuildActivities.run_job,
            RunJob(
                context=JobContext(
                    pull_request=given.pull_request,
                    head=given.head,
                    opened_at=given.opened_at,
                    round=self._table[job.id].round,
                    retry=given.options.retry,
                    notify=given.parent is not None,
                ),
                spec=BuildSpec(
                    job=job,
                    platform=given.platform,
                    repository=given.repository,
                    timeouts=given.options.timeouts,
                    archive_mirrors=given.options.archive_mirrors,
                    only_mirrored=given.options.only_mirrored,
                ),
            ),
            activity_id=activity_id(self._table[job.id]),
            task_queue=options.build_queue(given.platform.pool),
            start_to_close_timeout=options.job_timeout(given.options.timeouts),
            heartbeat_timeout=given.options.heartbeat_timeout,
            retry_policy=options.job_retry(given.options.retry),
            priority=options.job_priority(job.kind, given.pull_request),
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=activity_summary(job.kind, job.title),
        )

    def _came_to(self, job: Job, error: ActivityError) -> JobReport:
        now = workflow.now()
        row = self._table[job.id]
        if job.id in self._verdicts and boundary.report_of(error) is None:
            return report_for(row, self._verdicts[job.id], now)
        if not boundary.is_lost(error):
            return report_after(error, row, now)
        fault = lost(boundary.last_heartbeat(error), max(row.attempt, 1), now)
        self._table.fault(job.id, AttemptFaulted(job=job.id, round=row.round, fault=fault))
        errored = Errored(cause=fault.cause, evidence=fault.evidence)
        return report_for(row, self._table.killer(job.id) or errored, now)

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
        """Tells of all changed rows; returns whether these were the last words."""
        while True:
            rows = self._table.take_changed(options.PROGRESS_ROWS)
            last = self._done and not self._table.is_dirty
            if rows or last:
                await self._tell(rows, done=last)
            if last or not self._table.is_dirty:
                return last

    async def _tell(self, rows: tuple[JobStatus, ...], *, done: bool) -> None:
        if self._given.parent is None:
            return
        parent = workflow.get_external_workflow_handle(self._given.parent)
        progress = PlatformProgress(
            head=self._given.head,
            workflow_id=workflow.info().workflow_id,
            jobs=rows,
            done=done,
        )
        try:
            await parent.signal("platform_progress", progress)
        except FailureError:
            # Nobody waits for these jobs any more: an operator ended the parent.
            workflow.logger.warning("parent %s is gone, stopping", self._given.parent)
            if self._running is not None and not self._done:
                self._running.cancel()
