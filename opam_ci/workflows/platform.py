"""PlatformWorkflow: all jobs of one head on one platform, or all lint of it."""

import asyncio
from collections import deque

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.jobs import JobActivities
    from opam_ci.core.job import Job, JobKind
    from opam_ci.core.job_table import JobTable
    from opam_ci.core.messages import (
        CountJobs,
        ImageReport,
        JobPage,
        JobReport,
        PlanRevdeps,
        PlatformStandings,
        QueuedJob,
        TakeJobs,
    )
    from opam_ci.core.outcome import Cancelled
    from opam_ci.core.plan import outcome_after
    from opam_ci.core.platforms import Platform
    from opam_ci.core.recording import rows_of
    from opam_ci.core.selector import JobSelector
    from opam_ci.core.signals import (
        AttemptFaulted,
        AttemptStarted,
        PlatformProgress,
        RestartJobs,
        StopJobs,
    )
    from opam_ci.core.summary import Counts, JobStatus, PlatformStanding, Summary, total
    from opam_ci.core.tally import Tally
    from opam_ci.core.text import markdown_matrix
    from opam_ci.workflows import options
    from opam_ci.workflows.base import Records, Tasks, ask, told
    from opam_ci.workflows.jobs import JobRunner, lost_verdict, reports_of
    from opam_ci.workflows.pause import pause, see_through
    from opam_ci.workflows.states import PlatformState


@workflow.defn
class PlatformWorkflow:
    """Takes queued jobs from the index, a page at a time, and runs them in a window.

    It keeps the rows of what it has in hand, and numbers of all others. When its history grows
    it takes nothing new, lets what runs come to its end, and continues as new.

    Signals from the pull request's workflow: `restart_jobs`, `stop_jobs`, `recount`,
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
        # Every run begins with a look at the whole list.
        self._look_again = True
        self._orphans: set[str] = set()
        self._is_changed = False
        # The run before this one wrote everything down before it ended.
        self._write_collected = self._write_told = state.write_asked
        self._finished = False

    @workflow.run
    async def run(self, state: PlatformState) -> Counts:
        """Runs until every job of the platform is decided and written down.

        Args:
            state: The platform, and what a run before this one knew.

        Returns:
            How many jobs came to what.
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
        # Not in a `finally`: after a bug of ours nothing more may happen in this task.
        self._finished = True
        cancelled = await see_through(reporter) or cancelled
        if state.stopping is None:
            patience = pause(options.WRITE_PATIENCE, until=lambda: self._records.is_empty)
            cancelled = await see_through(asyncio.create_task(patience)) or cancelled
        if state.stopping is not None or not self._records.is_empty:
            # Whoever waits for the builds to be gone, or for their verdicts, need not wait for
            # the index.
            await self._tell(stopped=state.stopping is not None)
        self._records.end()
        cancelled = await see_through(writer) or cancelled
        if not self._is_more_to_do():
            await self._tell(done=True)
        if cancelled is not None:
            raise cancelled
        # Looked at again: a restart may have come with the last words.
        if self._is_more_to_do():
            state.standing = self._tally.standing()
            workflow.continue_as_new(state)
        return total(self._tally.standing().counts)

    @workflow.signal
    def restart_jobs(self, said: RestartJobs | None = None) -> None:
        """Jobs were queued again in the index; those that wait for their retry start at once."""
        if said is not None:
            self._jobs.hurry(said)
            self._hear(said.number)

    @workflow.signal
    def stop_jobs(self, said: StopJobs | None = None) -> None:
        """Jobs are to be cancelled, or all of them, and no more taken."""
        if said is None:
            return
        if said.final:
            self._state.stopping = said.by
            return
        self._cancel(said.selector, Cancelled(by=said.by))
        self._hear(said.number)

    @workflow.signal
    def recount(self, number: int = 0) -> None:
        """The index was changed, or the parent asks whether this workflow is still there."""
        self._hear(number)

    @workflow.signal
    def write_down(self, number: int = 0) -> None:
        """Everything decided so far is to be in the index, and the parent told of it."""
        self._state.write_asked = max(self._state.write_asked, number)

    @workflow.signal
    def attempt_faulted(self, said: AttemptFaulted | None = None) -> None:
        """An attempt met an infrastructure fault."""
        if said is not None:
            self._jobs.attempt_faulted(said)

    @workflow.signal
    def attempt_started(self, said: AttemptStarted | None = None) -> None:
        """An attempt after the first has begun; the one before may have lost its worker."""
        if said is not None:
            self._jobs.attempt_started(said)

    @workflow.query
    def summary(self) -> Summary:
        """Returns how this platform's jobs stand."""
        return self._summary(self._tally.standing())

    def _summary(self, standing: PlatformStanding) -> Summary:
        return Summary(
            pull_request=self._state.pull_request.title,
            head=self._state.revision.head,
            base=self._state.revision.base,
            planned=True,
            tallies=standing.counts,
            jobs=standing.shown,
            updated_at=workflow.now(),
        )

    def _hear(self, number: int) -> None:
        self._state.heard = max(self._state.heard, number)
        self._look_again = True

    def _is_full(self) -> bool:
        return workflow.info().is_continue_as_new_suggested()

    def _has_room(self) -> bool:
        return len(self._tasks) < options.JOBS_QUEUED

    def _is_more_to_do(self) -> bool:
        left = self._look_again or bool(self._page) or not self._is_exhausted
        return left and self._state.stopping is None

    async def _serve(self) -> None:
        """Takes jobs until there are no more, or the history is full; then lets them end."""
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
            elif self._look_again:
                await self._count()
            elif self._page and self._has_room():
                self._begin()
            elif not self._page and not self._is_exhausted:
                await self._take()
            elif self._tasks:
                await self._tasks.until(self._is_called)
            else:
                return

    def _is_called(self) -> bool:
        return (
            self._state.stopping is not None
            or self._look_again
            or not self._tasks
            or (bool(self._page) and self._has_room())
        )

    async def _stop(self) -> None:
        cancelled = Cancelled(by=self._state.stopping or "request")
        self._page.clear()
        self._cancel(JobSelector(), cancelled)
        await workflow.wait_condition(lambda: not self._tasks)
        self._table.cancel_undecided(cancelled, workflow.now())

    def _cancel(self, selector: JobSelector, cancelled: Cancelled) -> None:
        """Cancels jobs in hand; an activity says itself when its processes are gone.

        Lint of several packages goes on as long as one of them is wanted.
        """
        for task, jobs in list(self._in_hand.items()):
            if not all(selector.narrows_to(job) for job in jobs):
                continue
            if not self._jobs.cancel(jobs[0].id, cancelled.by):
                task.cancel()
                for job in jobs:
                    if self._table[job.id].outcome is None:
                        self._table.settle(job.id, cancelled, workflow.now())

    async def _count(self) -> None:
        """Counts all jobs anew, and begins at the top of the list."""
        # What is being written may be changed in the index as soon as it is there.
        await self._tasks.until(lambda: self._records.is_empty or self._is_overtaken())
        self._forget_written()
        self._look_again = False
        self._page.clear()
        self._after, self._is_exhausted = None, False
        rows = self._table.rows
        self._is_reading = True
        found: PlatformStandings | None = await ask(
            self._tasks,
            JobActivities.count_jobs,
            CountJobs(
                key=self._state.key,
                platforms=(self._state.name,),
                excluding=tuple(row.job.id for row in rows),
            ),
            self._is_overtaken,
        )
        self._is_reading = False
        if found is None:
            self._look_again = True
            return
        self._tally.replace(found.platforms[0], self._table.rows)
        self._is_changed = True
        self._forget_written()

    async def _take(self) -> None:
        self._is_reading = True
        page: JobPage | None = await ask(
            self._tasks,
            JobActivities.take_jobs,
            TakeJobs(
                key=self._state.key,
                platform=self._state.name,
                limit=options.JOBS_AT_ONCE,
                after=self._after,
            ),
            lambda: self._is_overtaken() or self._look_again,
        )
        self._is_reading = False
        if page is None or self._look_again:
            return
        # What is in hand may still be queued as far as the index knows.
        self._page.extend(queued for queued in page.jobs if not self._has(queued))
        self._after, self._is_exhausted = page.following, page.following is None
        self._forget_written()

    def _has(self, queued: QueuedJob) -> bool:
        job_id = queued.job.id
        return job_id in self._table and self._table[job_id].round >= queued.round

    def _is_overtaken(self) -> bool:
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
        """Looks again for the job that a job needs: it was queued again behind this page.

        If it is not found even so, nobody runs it: an operator ended who did.
        """
        if queued.job.id not in self._orphans:
            self._orphans.add(queued.job.id)
            self._look_again = True
            return
        self._note_taken(queued)
        verdict = lost_verdict(f"nobody runs {queued.needs}, which it waits for")
        self._table.settle(queued.job.id, verdict, workflow.now())

    def _note_taken(self, queued: QueuedJob) -> None:
        row = JobStatus(job=queued.job, round=queued.round, automatic=queued.automatic)
        self._table.take(row)
        self._tally.take(row)

    async def _run(self, taken: tuple[QueuedJob, ...]) -> None:
        jobs = tuple(queued.job for queued in taken)
        verdict = taken[0].comes_to
        if (needs := taken[0].needs) is not None and needs in self._table:
            await workflow.wait_condition(lambda: self._table[needs].outcome is not None)
            verdict = outcome_after(self._table[needs].outcome, self._table[needs].job)
        if verdict is not None:
            self._table.settle(jobs[0].id, verdict, workflow.now())
            return
        answer = await self._jobs.run(*jobs)
        if answer is None:
            return
        if isinstance(answer, ImageReport):
            self._image_found(answer)
        if isinstance(answer, JobReport) and not await self._listed(jobs[0], answer):
            return
        for job_id, report in reports_of(answer, jobs).items():
            self._table.decide(job_id, report)

    def _image_found(self, answer: ImageReport) -> None:
        self._state.notice = answer.notice
        if answer.image is not None and self._state.platform is not None:
            changed = self._state.platform.model_dump() | {"image": answer.image}
            self._state.platform = Platform.model_validate(changed)

    async def _listed(self, job: Job, report: JobReport) -> bool:
        """Puts the jobs on listed reverse dependencies into the index.

        Before the listing is decided: a moment at which it is decided and its jobs are unknown
        would look green.

        Returns:
            Whether they are there; False if the workflow stops before.
        """
        if report.listing is None or not report.listing.revdeps:
            return True
        await ask(
            self._tasks,
            JobActivities.plan_revdeps,
            PlanRevdeps(
                key=self._state.key,
                platform=self._state.name,
                package=job.package,
                listing=report.listing.key,
                round=self._table[job.id].round,
            ),
            self._is_overtaken,
            options.plan_activity(),
        )
        self._look_again = True
        return self._state.stopping is None

    async def _report_changes(self) -> None:
        """Writes down and tells what changed, collected over a while."""
        while not self._finished or self._table.is_dirty:
            await workflow.wait_condition(lambda: self._finished or self._has_news())
            length = options.report_interval(workflow.info().get_current_history_length())
            await pause(length, until=lambda: self._finished or self._is_write_due())
            self._is_changed = False
            if self._records.is_empty:
                self._write_told = self._write_collected
            self._write_collected = self._state.write_asked
            while self._table.is_dirty:
                self._collect()
            if self._records.is_empty:
                self._write_told = self._write_collected
            if not self._finished:
                await self._tell()

    def _is_write_due(self) -> bool:
        """Whether somebody waits for rows to be collected, or to hear that they are written."""
        is_written = self._records.is_empty and self._write_collected > self._write_told
        return is_written or self._state.write_asked > self._write_collected

    def _has_news(self) -> bool:
        return self._table.is_dirty or self._is_changed or self._is_write_due()

    def _collect(self) -> None:
        rows = self._table.take_changed(options.PROGRESS_ROWS)
        for row in rows:
            self._tally.move(row)
        self._state.sequence += 1
        platform = self._state.platform
        self._records.add(
            rows_of(
                self._state.key,
                rows,
                sequence=self._state.sequence,
                updated_at=workflow.now(),
                pools={} if platform is None else {platform.name: platform.pool},
            )
        )

    def _written_down(self, rows: tuple[JobStatus, ...]) -> None:
        self._written |= {row.job.id: row for row in rows if row.outcome is not None}
        if not self._is_reading:
            self._forget_written()

    def _forget_written(self) -> None:
        """Drops rows that the index has: not while it is read, for it may have been read before.

        Nor those that a job in hand waits for: what is in the page was read before, too.
        """
        needed = {queued.needs for queued in self._page}
        for job_id, row in list(self._written.items()):
            if job_id in needed:
                continue
            del self._written[job_id]
            if job_id in self._table and self._table[job_id] == row:
                self._table.drop(job_id)
                self._tally.forget(job_id)

    async def _tell(self, *, stopped: bool = False, done: bool = False) -> None:
        standing = self._tally.standing()
        workflow.set_current_details(markdown_matrix(self._summary(standing)))
        if self._state.parent is None:
            return
        progress = PlatformProgress(
            key=self._state.key,
            workflow_id=workflow.info().workflow_id,
            standing=standing,
            heard=self._state.heard,
            written=self._write_told,
            stopped=stopped,
            done=done,
            platform=self._state.platform,
            notice=self._state.notice,
        )
        if not await told(self._state.parent, "platform_progress", progress) and not done:
            # Nobody waits for these jobs any more: an operator ended the parent.
            self._state.stopping = self._state.stopping or "request"
