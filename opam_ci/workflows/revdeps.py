"""RevdepsWorkflow: all jobs on the reverse dependencies of one package on one platform."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.revdeps import RevdepsActivities
    from opam_ci.core.incidents.messages import Rejudge
    from opam_ci.core.job import Job
    from opam_ci.core.job_table import JobTable
    from opam_ci.core.messages import (
        AttemptFaulted,
        AttemptStarted,
        RestartWaiting,
        RevdepsProgress,
        revision_key,
    )
    from opam_ci.core.outcome import Cancelled, Cause, Outcome
    from opam_ci.core.plan import depends_on, outcome_after
    from opam_ci.core.recording import RowBatch, rows_of
    from opam_ci.core.records import RevisionKey, Standing
    from opam_ci.core.requests import RestartAsker, RestartSelector
    from opam_ci.core.revdeps import (
        FindJobs,
        FoundJob,
        FoundJobs,
        ListPart,
        RevdepList,
        RevdepsInput,
        Tally,
        revdep_jobs,
    )
    from opam_ci.core.summary import Counts, JobGroup, JobState, JobStatus
    from opam_ci.core.text import group_details, problems
    from opam_ci.workflows import options
    from opam_ci.workflows.jobs import Jobs, JobSetting
    from opam_ci.workflows.pause import pause, see_through
    from opam_ci.workflows.writing import write_records

_UNDECIDED = frozenset({Standing.QUEUED, Standing.RUNNING, Standing.RETRYING})


@workflow.defn
class RevdepsWorkflow:
    """Runs a listing's jobs in a sliding window, and those that a restart asks for.

    It keeps the rows of what runs, and writes every row to the index itself: of ten
    thousand jobs it remembers numbers. When its history grows it takes nothing new, lets
    what runs come to its end, and continues as new.

    Signals: `restart` with a RestartSelector. Query: `group`.
    """

    @workflow.init
    def __init__(self, given: RevdepsInput) -> None:
        self._given = given
        self._table = JobTable()
        self._tally = Tally(given.group)
        setting = JobSetting(
            pull_request=given.pull_request,
            head=given.head,
            opened_at=given.opened_at,
            platform=given.platform,
            repository=given.repository,
            options=given.options,
            notify=True,
        )
        self._jobs = Jobs(setting, self._table, in_flight=options.REVDEPS_IN_FLIGHT)
        self._restarts = deque(given.restarts)
        self._taken = given.group.taken
        self._untaken = given.group.untaken
        self._round = given.group.round
        self._sequence = given.sequence
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._lost: dict[str, Outcome] = {}
        self._backlog: deque[RowBatch] = deque()
        self._group: JobGroup = given.group
        self._crash: BaseException | None = None
        self._finished = False

    @workflow.run
    async def run(self, given: RevdepsInput) -> Counts:
        """Runs until every job is decided and written down.

        Args:
            given: The listing, what is to run again, and how.

        Returns:
            How many jobs came to what.
        """
        self._tally.resume()
        reporter = asyncio.create_task(self._report_changes())
        writer = asyncio.create_task(
            write_records(
                self._backlog, is_over=lambda: self._finished and not self._table.is_dirty
            )
        )
        cancelled: asyncio.CancelledError | None = None
        try:
            await self._serve()
        except asyncio.CancelledError as error:
            await asyncio.shield(self._stop())
            cancelled = error
        self._finished = True
        cancelled = await see_through(reporter, writer) or cancelled
        if cancelled is not None:
            self._tally.give_up(Cancelled(by="request"))
            await asyncio.shield(self._tell(done=True))
            raise cancelled
        if not self._is_more_to_do():
            await self._tell(done=True)
        # Looked at again: a restart may have come with the last words.
        if self._is_more_to_do():
            workflow.continue_as_new(
                given.model_copy(
                    update={
                        "group": self._group,
                        "restarts": tuple(self._restarts),
                        "sequence": self._sequence,
                    }
                )
            )
        return self._group.counts

    @workflow.signal
    def restart(self, selector: Any = None) -> None:
        """Starts decided jobs again, and those that wait for their retry at once.

        Args:
            selector: A RestartSelector as JSON; nothing selects all errored jobs.
        """
        try:
            chosen = RestartSelector.model_validate(selector or {})
        except ValidationError as error:
            workflow.logger.warning("restart refused: %s", problems(error))
            return
        waiting = [
            row.job.id
            for row in self._table.rows
            if row.state is JobState.RETRYING
            and chosen.takes_waiting(row.job, row.faults[-1].cause)
        ]
        self._jobs.restart_waiting(RestartWaiting(jobs=tuple(waiting), asker=chosen.asker))
        self._restarts.append(chosen)

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

    @workflow.signal
    def rejudge(self, said: Rejudge | None = None) -> None:
        """The fault of jobs that are tried again and again is their own."""
        if said is not None:
            self._jobs.rejudge(said)

    @workflow.query
    def group(self) -> JobGroup:
        """Returns how the group stands."""
        return self._group

    def _is_more_to_do(self) -> bool:
        return bool(self._restarts) or self._taken < self._given.group.listed

    def _is_full(self) -> bool:
        return workflow.info().is_continue_as_new_suggested()

    async def _serve(self) -> None:
        """Takes jobs until there are no more, or the history is full; then lets them end."""
        while self._is_more_to_do() and not self._is_full():
            if self._restarts:
                await self._take_found(self._restarts.popleft())
            else:
                await self._take_listed()
            if not self._is_more_to_do():
                # A restart may still come while the last ones run.
                await self._until(lambda: not self._tasks or bool(self._restarts))
        await self._until(lambda: not self._tasks)

    async def _until(self, condition: Callable[[], bool]) -> None:
        await workflow.wait_condition(lambda: condition() or self._crash is not None)
        if self._crash is not None:
            # No failure of the workflow's: its task fails, and goes on with mended code.
            raise RuntimeError("a task of the reverse dependencies crashed") from self._crash

    async def _stop(self) -> None:
        self._restarts.clear()
        for task in self._tasks:
            task.cancel()
        await workflow.wait_condition(lambda: not self._tasks)
        self._table.cancel_undecided(Cancelled(by="request"), workflow.now())

    async def _take_listed(self) -> None:
        wanted = ListPart(
            key=self._given.group.listing, start=self._taken, limit=options.REVDEPS_AT_ONCE
        )
        part: RevdepList = await workflow.execute_activity_method(
            RevdepsActivities.list_part, wanted, **options.revdeps_activity()
        )
        for revdep in part.revdeps:
            await self._room()
            jobs = revdep_jobs(self._given.group, revdep)
            self._taken += 1
            self._untaken -= len(jobs)
            for job in jobs:
                self._tally.take(job, Standing.QUEUED)
            self._put(jobs, self._round)

    async def _take_found(self, selector: RestartSelector) -> None:
        self._round += 1
        round_, after = self._round, None
        while True:
            wanted = FindJobs(
                revision=self._key,
                platform=self._given.group.platform,
                package=self._given.group.package,
                selector=selector,
                after=after,
            )
            found: FoundJobs = await workflow.execute_activity_method(
                RevdepsActivities.find_jobs, wanted, **options.revdeps_activity()
            )
            for each in found.jobs:
                await self._room()
                self._take_again(each, round_, selector.asker)
            after = found.following
            if after is None:
                return

    def _take_again(self, found: FoundJob, round_: int, asker: RestartAsker) -> None:
        if found.job.id in self._table:
            return
        if found.standing in _UNDECIDED:
            # Left behind by a workflow that an operator ended: counted as lost since.
            self._tally.take(found.job, Standing.ERRORED, Cause.UNKNOWN)
        else:
            self._tally.take(found.job, found.standing, found.cause)
        self._put((found.job,), round_, automatic=asker.charged(found.automatic))

    def _put(self, jobs: tuple[Job, ...], round_: int, *, automatic: int = 0) -> None:
        for job in jobs:
            self._lost.pop(job.id, None)
            self._table.put(JobStatus(job=job, round=round_, automatic=automatic))
            task = asyncio.create_task(self._run(job))
            self._tasks[task] = None
            task.add_done_callback(self._ended)

    async def _room(self) -> None:
        """Waits until another job may be queued: the rows kept are bounded by that."""
        await self._until(lambda: len(self._tasks) < options.REVDEPS_QUEUED)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (crash := task.exception()) is not None:
            self._crash = crash

    async def _run(self, job: Job) -> None:
        needed = depends_on(job)
        if needed is not None:
            await workflow.wait_condition(
                lambda: needed.id not in self._table or self._table[needed.id].outcome is not None
            )
            verdict = outcome_after(self._came_to(needed), needed)
            if verdict is not None:
                self._decided(job, verdict)
                return
        report = await self._jobs.run(job)
        self._table.decide(job.id, report)
        self._remember(job, report.outcome)

    def _came_to(self, job: Job) -> Outcome | None:
        return self._table[job.id].outcome if job.id in self._table else self._lost.get(job.id)

    def _decided(self, job: Job, verdict: Outcome) -> None:
        self._table.settle(job.id, verdict, workflow.now())
        self._remember(job, verdict)

    def _remember(self, job: Job, outcome: Outcome) -> None:
        """Keeps what tests need of a build whose row is dropped before they start."""
        if outcome.kind != "passed":
            self._lost[job.id] = outcome

    async def _report_changes(self) -> None:
        """Counts and tells what changed, collected over a while, and drops decided rows."""
        while not self._finished or self._table.is_dirty:
            await workflow.wait_condition(lambda: self._finished or self._table.is_dirty)
            length = options.report_interval(workflow.info().get_current_history_length())
            await pause(length, until=lambda: self._finished)
            while self._table.is_dirty:
                self._collect()
            # The last words wait for the index; what came out does not.
            await self._tell()

    def _collect(self) -> None:
        rows = self._table.take_changed(options.PROGRESS_ROWS)
        for row in rows:
            self._tally.move(row)
            if row.outcome is not None:
                self._tally.forget(row.job.id)
                self._table.drop(row.job.id)
        self._sequence += 1
        platform = self._given.platform
        self._backlog.append(
            rows_of(
                self._key,
                rows,
                sequence=self._sequence,
                updated_at=workflow.now(),
                pools={platform.name: platform.pool},
            )
        )

    def _snapshot(self) -> None:
        self._group = self._tally.group(taken=self._taken, untaken=self._untaken, round=self._round)

    async def _tell(self, *, done: bool = False) -> None:
        self._snapshot()
        workflow.set_current_details(group_details(self._group))
        if self._given.parent is None:
            return
        parent = workflow.get_external_workflow_handle(self._given.parent)
        progress = RevdepsProgress(
            head=self._given.head,
            workflow_id=workflow.info().workflow_id,
            group=self._group,
            done=done,
        )
        try:
            await parent.signal("revdeps_progress", progress)
        except FailureError:
            # The PlatformWorkflow hears the same, and cancels this one.
            workflow.logger.warning("parent %s is gone", self._given.parent)

    @property
    def _key(self) -> RevisionKey:
        return revision_key(self._given.pull_request, self._given.head, self._given.opened_at)
