"""Runs build jobs within a workflow: attempts, retries that are hurried, lost workers."""

import asyncio
from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ActivityError
from temporalio.workflow import ActivityCancellationType, ActivityHandle

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities import boundary
    from opam_ci.activities.build import BuildActivities
    from opam_ci.core.build import BuildSpec, RepositoryRef
    from opam_ci.core.incidents.messages import Rejudge
    from opam_ci.core.incidents.rejudge import rejudged
    from opam_ci.core.job import Job, JobKind
    from opam_ci.core.job_table import JobTable
    from opam_ci.core.lost_attempt import lost
    from opam_ci.core.messages import (
        AttemptFaulted,
        AttemptStarted,
        JobContext,
        JobReport,
        RestartWaiting,
        RunJob,
    )
    from opam_ci.core.model import Frozen
    from opam_ci.core.outcome import Errored, Failed
    from opam_ci.core.platforms import Platform
    from opam_ci.core.requests import CheckOptions, PullRequestRef, RestartAsker
    from opam_ci.core.summary import JobState, activity_id
    from opam_ci.core.text import activity_summary
    from opam_ci.workflows import options
    from opam_ci.workflows.reports import report_after, report_for


class JobSetting(Frozen):
    """What all jobs of one workflow have in common.

    Attributes:
        pull_request: To whom they belong.
        head: Commit under test.
        opened_at: When the testing of this head began.
        platform: Where to build.
        repository: With which packages.
        options: How.
        submitted: Packages that the pull request itself builds.
        notify: Whether the workflow is told of attempts by signals.
    """

    pull_request: PullRequestRef
    head: str
    opened_at: datetime
    platform: Platform
    repository: RepositoryRef
    options: CheckOptions
    submitted: tuple[str, ...] = ()
    notify: bool = True


class Jobs:
    """Runs jobs of a table, a bounded number at once."""

    def __init__(self, setting: JobSetting, table: JobTable, *, in_flight: int) -> None:
        self._setting = setting
        self._table = table
        self._handles: dict[str, ActivityHandle[JobReport]] = {}
        self._again: dict[str, RestartAsker] = {}
        self._verdicts: dict[str, Failed] = {}
        self._window = asyncio.Semaphore(in_flight)
        checks = setting.options
        # The same for all jobs, of which there can be thousands.
        self._timeouts = checks.timeouts.with_limits(setting.platform.timeouts)
        self._queue = options.build_queue(setting.platform.pool)
        self._job_timeout = options.job_timeout(self._timeouts)
        self._retry = options.job_retry(checks.retry)

    def use(self, platform: Platform) -> None:
        """Runs all jobs that are yet to start on the platform with this image."""
        self._setting = self._setting.model_copy(update={"platform": platform})

    def attempt_faulted(self, said: AttemptFaulted) -> None:
        """Notes that an attempt met an infrastructure fault."""
        self._table.fault(said.job, said)

    def attempt_started(self, said: AttemptStarted) -> None:
        """Notes an attempt after the first; the one before may have lost its worker."""
        if said.job not in self._table:
            return
        self._table.started(said.job, said)
        verdict = self._killer(said.job)
        handle = self._handles.get(said.job)
        if verdict is not None and handle is not None:
            self._verdicts[said.job] = verdict
            handle.cancel()

    def rejudge(self, said: Rejudge) -> None:
        """Ends jobs whose fault is their own: the attempt under way, or the wait for it."""
        for each in said.jobs:
            job_id = each.job.id
            handle = self._handles.get(job_id)
            if handle is None or self._table[job_id].outcome is not None:
                continue
            verdict = rejudged(self._table[job_id], each)
            if isinstance(verdict, Failed):
                self._verdicts[job_id] = verdict
                handle.cancel()

    def restart_waiting(self, said: RestartWaiting) -> None:
        """Starts jobs that wait for their automatic retry at once."""
        for job_id in said.jobs:
            handle = self._handles.get(job_id)
            if handle is not None and self._table[job_id].state is JobState.RETRYING:
                self._again[job_id] = said.asker
                handle.cancel()

    async def run(self, job: Job) -> JobReport:
        """Runs a queued job and returns the report of its last attempt.

        Raises:
            asyncio.CancelledError: The workflow is cancelled; the job's processes are gone.
        """
        async with self._window:
            return await self._attempts(job)

    async def _attempts(self, job: Job) -> JobReport:
        """Runs a job's activity, again from the start whenever a restart asks for it."""
        while True:
            self._table.start(job.id, workflow.now())
            # What was found of an earlier round is over with it.
            self._verdicts.pop(job.id, None)
            handle = self._start(job)
            self._handles[job.id] = handle
            try:
                return await handle
            except ActivityError as error:
                if job.id in self._again and boundary.is_cancelled(error):
                    self._table.queue(job, self._again[job.id])
                    continue
                return self._came_to(job, error)
            finally:
                self._again.pop(job.id, None)
                del self._handles[job.id]

    def _start(self, job: Job) -> ActivityHandle[JobReport]:
        common = self._setting
        checks = common.options
        return workflow.start_activity_method(
            BuildActivities.run_job,
            RunJob(
                context=JobContext(
                    pull_request=common.pull_request,
                    head=common.head,
                    opened_at=common.opened_at,
                    round=self._table[job.id].round,
                    retry=checks.retry,
                    notify=common.notify,
                ),
                spec=BuildSpec(
                    job=job,
                    platform=common.platform,
                    repository=common.repository,
                    timeouts=self._timeouts,
                    archive_mirrors=checks.archive_mirrors,
                    only_mirrored=checks.only_mirrored,
                    # A list in every job of a large pull request would be most of its history.
                    submitted=common.submitted if job.kind is JobKind.LIST_REVDEPS else (),
                    build_cache=checks.build_cache,
                ),
            ),
            activity_id=activity_id(self._table[job.id]),
            task_queue=self._queue,
            start_to_close_timeout=self._job_timeout,
            heartbeat_timeout=checks.heartbeat_timeout,
            retry_policy=self._retry,
            priority=options.job_priority(job.kind, common.pull_request),
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=activity_summary(job.kind, job.title),
        )

    def _came_to(self, job: Job, error: ActivityError) -> JobReport:
        now = workflow.now()
        row = self._table[job.id]
        verdict, report = self._verdicts.get(job.id), boundary.report_of(error)
        # One more fault changes nothing; an attempt that got through has the last word.
        if verdict is not None and (report is None or report.outcome.kind == "errored"):
            return report_for(row, verdict, now)
        if not boundary.is_lost(error):
            return report_after(error, row, now)
        fault = lost(boundary.last_heartbeat(error), max(row.attempt, 1), now)
        self._table.fault(job.id, AttemptFaulted(job=job.id, round=row.round, fault=fault))
        errored = Errored(cause=fault.cause, evidence=fault.evidence)
        return report_for(row, self._killer(job.id) or errored, now)

    def _killer(self, job_id: str) -> Failed | None:
        """Returns the verdict on a job that took workers down, else None."""
        if (before := self._table.killer(job_id, last_alone=False)) is None:
            return None
        if not workflow.patched("killer-ran-alone"):
            return before
        return self._table.killer(job_id)
