"""PlatformWorkflow: all jobs of one head on one platform, or all lint of it."""

import asyncio
from collections import deque

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.jobs import JobActivities
    from opam_ci.core.jobs.build import not_built_notice
    from opam_ci.core.jobs.early_stop import ENOUGH, failures
    from opam_ci.core.jobs.hold import Hold
    from opam_ci.core.jobs.job import REVDEP_KINDS, Job, JobKind
    from opam_ci.core.jobs.messages import (
        CountJobs,
        EarlyStops,
        ImageReport,
        JobPage,
        JobReport,
        PlanRevdeps,
        PlatformStandings,
        QueuedJob,
        StopEarly,
        TakeJobs,
    )
    from opam_ci.core.jobs.outcome import Cancelled, Skipped
    from opam_ci.core.jobs.plan import outcome_after
    from opam_ci.core.jobs.records import Recorded, RowBatch
    from opam_ci.core.jobs.selector import JobSelector
    from opam_ci.core.jobs.signals import (
        AttemptFaulted,
        AttemptStarted,
        PlatformProgress,
        RestartJobs,
        StopJobs,
    )
    from opam_ci.core.jobs.summary import Counts, JobStatus, PlatformStanding, Summary, total
    from opam_ci.core.jobs.table import JobTable
    from opam_ci.core.jobs.tally import Tally
    from opam_ci.core.platforms.model import Platform
    from opam_ci.core.text.status import markdown_matrix
    from opam_ci.workflows import options
    from opam_ci.workflows.base import Records, Tasks, run_unless, signal_if_running
    from opam_ci.workflows.jobs import JobRunner, lost_verdict, reports_of
    from opam_ci.workflows.pause import finish, pause, wait_for
    from opam_ci.workflows.states import PlatformState


@workflow.defn
class PlatformWorkflow:
    """Takes queued jobs from the index, a page at a time, and runs them in a window.

    It keeps the rows of the jobs in hand, and numbers of all others. When its history grows long
    it takes no more jobs, lets the running ones end, and continues as new.

    Signals from the pull request's workflow: `restart_jobs`, `stop_jobs`, `recount`, `approve`,
    `write_down`; from attempts: `attempt_faulted`, `attempt_started`. Query: `summary`.
    """

    @workflow.init
    def __init__(self, state: PlatformState) -> None:
        self._state = state
        self._table = JobTable()
        self._jobs = JobRunner(state, self._table, in_flight=options.JOBS_IN_FLIGHT)
        self._tally = Tally(state.standing or PlatformStanding(platform=state.name))
        self._tasks = Tasks()
        self._in_hand: dict[asyncio.Task[None], tuple[Job, ...]] = {}
        self._records = Records(self._written_down)
        self._written: dict[str, JobStatus] = {}
        self._page: deque[QueuedJob] = deque()
        self._after: str | None = None
        self._is_exhausted = False
        self._is_reading = False
        self._hold: Hold | None = None
        # Failures of reverse dependencies when it was decided last whether to skip the others.
        self._failures_seen = 0
        # Every run begins with a count of the whole list.
        self._recount = True
        self._orphans: set[str] = set()
        self._is_changed = False
        # The previous run recorded everything before it ended.
        self._write_collected = self._write_reported = state.write_requested
        self._finished = False

    @workflow.run
    async def run(self, state: PlatformState) -> Counts:
        """Runs until every job of the platform is decided and recorded.

        Args:
            state: The platform, with the state of the previous run.

        Returns:
            Numbers of its jobs.
        """
        reporter = asyncio.create_task(self._report_changes())
        writer = asyncio.create_task(self._records.run())
        cancelled: asyncio.CancelledError | None = None
        try:
            await self._serve()
        except asyncio.CancelledError as error:
            # `temporal workflow cancel`, of this workflow alone.
            state.stopping = state.stopping or "request"
            await asyncio.shield(self._stop())
            cancelled = error
        # Not in a `finally`: after a bug nothing more may happen in this task.
        self._finished = True
        cancelled = await finish(reporter) or cancelled
        if state.stopping is None:
            patience = pause(options.WRITE_PATIENCE, until=lambda: self._records.is_empty)
            cancelled = await finish(asyncio.create_task(patience)) or cancelled
        if state.stopping is not None or not self._records.is_empty:
            # The parent may wait for the end of the builds, or for their verdicts, but not for
            # the index.
            await self._report(stopped=state.stopping is not None)
        self._records.end()
        cancelled = await finish(writer) or cancelled
        if not self._is_more_to_do():
            await self._report(done=True)
        if cancelled is not None:
            raise cancelled
        # Checked again: a restart may have arrived during the final report.
        if self._is_more_to_do():
            state.standing = self._tally.standing()
            workflow.continue_as_new(state)
        return total(self._tally.standing().counts)

    @workflow.signal
    def restart_jobs(self, message: RestartJobs | None = None) -> None:
        """Jobs were queued again in the index; those that wait for their retry start at once."""
        if message is not None:
            self._jobs.retry_now(message)
            self._handle(message.number)

    @workflow.signal
    def stop_jobs(self, message: StopJobs | None = None) -> None:
        """Some jobs are to be cancelled, or all of them and no more taken."""
        if message is None:
            return
        if message.final:
            self._state.stopping = message.by
            return
        self._cancel(message.selector, Cancelled(by=message.by))
        self._handle(message.number)

    @workflow.signal
    def recount(self, number: int = 0) -> None:
        """The index was changed, or the parent checks whether this workflow is running."""
        self._handle(number)

    @workflow.signal
    def approve(self, number: int = 0) -> None:
        """No limit of the author applies any more: jobs that wait for that are run."""
        self._state.approved = True
        self._handle(number)

    @workflow.signal
    def write_down(self, number: int = 0) -> None:
        """Everything decided so far is to be recorded, and that reported to the parent."""
        self._state.write_requested = max(self._state.write_requested, number)

    @workflow.signal
    def attempt_faulted(self, event: AttemptFaulted | None = None) -> None:
        """An attempt met an infrastructure fault."""
        if event is not None:
            self._jobs.attempt_faulted(event)

    @workflow.signal
    def attempt_started(self, event: AttemptStarted | None = None) -> None:
        """An attempt after the first has begun; the one before may have lost its worker."""
        if event is not None:
            self._jobs.attempt_started(event)

    @workflow.query
    def summary(self) -> Summary:
        """Returns the standing of this platform's jobs."""
        return self._summary(self._tally.standing())

    def _summary(self, standing: PlatformStanding) -> Summary:
        return Summary(
            pull_request=self._state.pull_request.title,
            head=self._state.revision.head,
            base=self._state.revision.base,
            planned=True,
            tallies=standing.counts,
            jobs=standing.shown,
            hold=self._hold_of(standing),
            updated_at=workflow.now(),
        )

    def _hold_of(self, standing: PlatformStanding) -> Hold | None:
        return self._hold if total(standing.counts).queued else None

    def _handle(self, number: int) -> None:
        self._state.handled = max(self._state.handled, number)
        self._recount = True

    def _is_full(self) -> bool:
        return workflow.info().is_continue_as_new_suggested()

    def _has_room(self) -> bool:
        return len(self._tasks) < options.JOBS_QUEUED

    def _is_more_to_do(self) -> bool:
        left = self._recount or bool(self._page) or not self._is_exhausted
        return left and self._state.stopping is None

    async def _serve(self) -> None:
        """Takes jobs until there are no more, or the history is long; then lets them end."""
        while True:
            if self._state.stopping is not None:
                await self._stop()
                return
            if self._is_full():
                self._page.clear()
                self._is_exhausted = False
                await self._tasks.until(lambda: not self._tasks or self._state.stopping is not None)
                if self._state.stopping is None:
                    return
            elif self._recount:
                await self._count()
            elif self._page and self._has_room():
                self._begin()
            elif not self._page and not self._is_exhausted:
                await self._take()
            elif self._tasks:
                await self._tasks.until(self._has_work)
            elif hold := self._hold_of(self._tally.standing()):
                await self._wait_for_approval(hold)
            else:
                return

    def _has_work(self) -> bool:
        return (
            self._state.stopping is not None
            or self._recount
            or not self._tasks
            or (bool(self._page) and self._has_room())
        )

    async def _stop_early(self) -> None:
        """Skips the other reverse dependencies of a package if all before them fail alike."""
        await self._tasks.until(lambda: self._records.is_empty or self._is_stopping())
        found: EarlyStops | None = await run_unless(
            self._is_stopping,
            self._tasks,
            JobActivities.stop_early,
            StopEarly(key=self._state.key, platform=self._state.name),
        )
        if found is None or not found.outcomes:
            return
        for task, [job, *_] in list(self._in_hand.items()):
            outcome = found.outcomes.get(job.package) if job.kind in REVDEP_KINDS else None
            row = self._table[job.id]
            if outcome is None or row.outcome is not None or row.round > 1:
                continue
            self._end(task, (job,), outcome)
        self._recount = True

    async def _stop(self) -> None:
        cancelled = Cancelled(by=self._state.stopping or "request")
        self._page.clear()
        self._cancel(JobSelector(), cancelled)
        await workflow.wait_condition(lambda: not self._tasks)
        self._table.cancel_undecided(cancelled, workflow.now())

    def _cancel(self, selector: JobSelector, cancelled: Cancelled) -> None:
        """Cancels jobs in hand; an activity ends once its processes are gone.

        Lint of several packages continues as long as one of them is not cancelled.
        """
        for task, jobs in list(self._in_hand.items()):
            if not all(selector.narrows_to(job) for job in jobs):
                continue
            self._end(task, jobs, cancelled)

    def _end(
        self, task: asyncio.Task[None], jobs: tuple[Job, ...], outcome: Cancelled | Skipped
    ) -> None:
        """Ends jobs in hand, whether or not their activity has begun."""
        if self._jobs.end(jobs[0].id, outcome):
            return
        task.cancel()
        for job in jobs:
            if self._table[job.id].outcome is None:
                self._table.settle(job.id, outcome, workflow.now())

    async def _wait_for_approval(self, hold: Hold) -> None:
        """Waits until queued jobs may be run, or something else is to be done."""
        limit = None if hold.until is None else hold.until - workflow.now()
        if not await wait_for(lambda: self._is_stopping() or self._recount, limit=limit):
            self._recount = True

    async def _count(self) -> None:
        """Counts all jobs anew, and begins at the top of the list."""
        # Rows that are being written may be changed in the index as soon as they are there.
        await self._tasks.until(lambda: self._records.is_empty or self._is_stopping())
        self._forget_written()
        self._recount = False
        self._page.clear()
        self._after, self._is_exhausted = None, False
        rows = self._table.rows
        self._is_reading = True
        found: PlatformStandings | None = await run_unless(
            self._is_stopping,
            self._tasks,
            JobActivities.count_jobs,
            CountJobs(
                key=self._state.key,
                platforms=(self._state.name,),
                excluding=tuple(row.job.id for row in rows),
            ),
        )
        self._is_reading = False
        if found is None:
            self._recount = True
            return
        self._tally.replace(found.platforms[0], self._table.rows)
        self._is_changed = True
        self._forget_written()

    async def _take(self) -> None:
        self._is_reading = True
        revision, name = self._state.revision, self._state.name
        page: JobPage | None = await run_unless(
            lambda: self._is_stopping() or self._recount,
            self._tasks,
            JobActivities.take_jobs,
            TakeJobs(
                key=self._state.key,
                platform=self._state.name,
                limit=options.JOBS_AT_ONCE,
                after=self._after,
                author=revision.author if name and not self._state.approved else None,
                is_first_platform=name in {each.name for each in revision.options.platforms[:1]},
                reuse=bool(name) and revision.options.reuse_verdicts,
            ),
        )
        self._is_reading = False
        if page is None or self._recount:
            return
        if page.hold != self._hold:
            self._hold, self._is_changed = page.hold, True
        # Jobs in hand may still be queued in the index.
        self._page.extend(queued for queued in page.jobs if not self._has(queued))
        self._after, self._is_exhausted = page.following, page.following is None
        self._forget_written()

    def _has(self, queued: QueuedJob) -> bool:
        job_id = queued.job.id
        return job_id in self._table and self._table[job_id].round >= queued.round

    def _is_stopping(self) -> bool:
        return self._state.stopping is not None

    def _begin(self) -> None:
        """Takes the next job of the page in hand; lint of many packages at once."""
        taken = [self._page.popleft()]
        needs = taken[0].needs
        if taken[0].waits and needs is not None and needs not in self._table:
            self._find_needed(taken[0])
            return
        lint = taken[0].job.kind is JobKind.LINT
        while lint and self._page and len(taken) < options.LINT_PACKAGES:
            taken.append(self._page.popleft())
        for queued in taken:
            self._note_taken(queued)
        task = self._tasks.spawn(taken[0].job.id, self._run(tuple(taken)))
        self._in_hand[task] = tuple(queued.job for queued in taken)
        task.add_done_callback(lambda ended: self._in_hand.pop(ended, None))

    def _find_needed(self, queued: QueuedJob) -> None:
        """Searches again for the job that a job needs: it was queued again behind this page.

        If it is not found even so, no workflow runs it: an operator ended the one that did.
        """
        if queued.job.id not in self._orphans:
            self._orphans.add(queued.job.id)
            self._recount = True
            return
        self._note_taken(queued)
        verdict = lost_verdict(f"it needs {queued.needs}, which no workflow runs")
        self._table.settle(queued.job.id, verdict, workflow.now())

    def _note_taken(self, queued: QueuedJob) -> None:
        row = JobStatus(
            job=queued.job, round=queued.round, restart_budget_used=queued.restart_budget_used
        )
        self._table.take(row)
        self._tally.take(row)

    async def _run(self, taken: tuple[QueuedJob, ...]) -> None:
        jobs = tuple(queued.job for queued in taken)
        verdict = taken[0].inherited_outcome
        if (needs := taken[0].needs) is not None and needs in self._table:
            await workflow.wait_condition(lambda: self._table[needs].outcome is not None)
            verdict = outcome_after(self._table[needs].outcome, self._table[needs].job)
        if verdict is not None:
            self._table.settle(jobs[0].id, verdict, workflow.now())
            return
        result = await self._jobs.run(*jobs, known_verdicts=taken[0].known_verdicts)
        if result is None:
            return
        if isinstance(result, ImageReport):
            self._image_found(result)
        if isinstance(result, JobReport) and not await self._listed(jobs[0], result):
            return
        for job_id, report in reports_of(result, jobs).items():
            self._table.decide(job_id, report)

    def _image_found(self, report: ImageReport) -> None:
        self._state.notice = report.notice
        if report.image is not None and self._state.platform is not None:
            changed = self._state.platform.model_dump() | {"image": report.image}
            self._state.platform = Platform.model_validate(changed)

    async def _listed(self, job: Job, report: JobReport) -> bool:
        """Adds the jobs on listed reverse dependencies to the index.

        Before the listing is decided: a moment at which it is decided and its jobs are unknown
        would look green.

        Returns:
            Whether they were added; False if the workflow stops before.
        """
        if report.listing is None:
            return True
        notice = not_built_notice(self._state.name, job.package, report.listing.flagged)
        if notice is not None:
            self._state.listed[job.package] = notice
        if not report.listing.revdeps:
            return True
        try:
            await run_unless(
                self._is_stopping,
                self._tasks,
                JobActivities.plan_revdeps,
                PlanRevdeps(
                    key=self._state.key,
                    platform=self._state.name,
                    package=job.package,
                    listing=report.listing.key,
                    round=self._table[job.id].round,
                    on=self._state.platform,
                    reuse=self._state.revision.options.reuse,
                ),
                options.plan_activity(),
            )
        finally:
            # Also if the listing is cancelled: some may have been added after the cancel.
            self._recount = True
            self._tally.expect(JobKind.REVDEP, report.listing.revdeps)
        return self._state.stopping is None

    async def _report_changes(self) -> None:
        """Records and reports changes, collected over the report interval."""
        while not self._finished or self._table.is_dirty:
            await workflow.wait_condition(lambda: self._finished or self._has_changes())
            length = options.report_interval(workflow.info().get_current_history_length())
            await pause(length, until=lambda: self._finished or self._is_write_due())
            self._is_changed = False
            if self._records.is_empty:
                self._write_reported = self._write_collected
            self._write_collected = self._state.write_requested
            while self._table.is_dirty:
                self._collect()
            if self._records.is_empty:
                self._write_reported = self._write_collected
            if not self._finished:
                await self._report()

    def _is_write_due(self) -> bool:
        """Whether the parent waits for rows to be collected, or for the report that they are."""
        is_written = self._records.is_empty and self._write_collected > self._write_reported
        return is_written or self._state.write_requested > self._write_collected

    def _has_changes(self) -> bool:
        return self._table.is_dirty or self._is_changed or self._is_write_due()

    def _collect(self) -> None:
        rows = self._table.take_changed(options.PROGRESS_ROWS)
        for row in rows:
            self._tally.move(row)
        failed = failures(self._tally.counts)
        is_due = failed >= self._failures_seen + ENOUGH and not self._finished
        if is_due and workflow.patched("early stop"):
            self._failures_seen = failed
            self._tasks.spawn("early stop", self._stop_early())
        self._state.sequence += 1
        platform = self._state.platform
        self._records.add(
            RowBatch(
                key=self._state.key,
                rows=rows,
                sequence=self._state.sequence,
                updated_at=workflow.now(),
                pools={} if platform is None else {platform.name: platform.pool},
            )
        )

    def _written_down(self, batch: RowBatch, _: Recorded) -> None:
        self._written |= {row.job.id: row for row in batch.rows if row.outcome is not None}
        if not self._is_reading:
            self._forget_written()

    def _forget_written(self) -> None:
        """Drops recorded rows, but not while the index is read: that may be an older state.

        Nor those that a job of the page needs: the page may be older, too.
        """
        needed = {queued.needs for queued in self._page}
        for job_id, row in list(self._written.items()):
            if job_id in needed:
                continue
            del self._written[job_id]
            if job_id in self._table and self._table[job_id] == row:
                self._table.drop(job_id)
                self._tally.forget(job_id)

    async def _report(self, *, stopped: bool = False, done: bool = False) -> None:
        standing = self._tally.standing()
        workflow.set_current_details(markdown_matrix(self._summary(standing)))
        if self._state.parent is None:
            return
        progress = PlatformProgress(
            key=self._state.key,
            workflow_id=workflow.info().workflow_id,
            standing=standing,
            handled=self._state.handled,
            written=self._write_reported,
            stopped=stopped,
            done=done,
            platform=self._state.platform,
            notice=self._state.notice,
            listed=tuple(self._state.listed.values()),
            hold=self._hold_of(standing),
        )
        is_sent = await signal_if_running(self._state.parent, "platform_progress", progress)
        if not is_sent and not done:
            # An operator ended the parent: the jobs are not needed any more.
            self._state.stopping = self._state.stopping or "request"
