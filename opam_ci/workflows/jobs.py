"""Runs jobs within a workflow: attempts, early retries, lost workers, cancellations."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError
from temporalio.workflow import ActivityCancellationType, ActivityHandle

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities import boundary
    from opam_ci.activities.build import BuildActivities
    from opam_ci.activities.images import ImageActivities
    from opam_ci.activities.repository import RepositoryActivities
    from opam_ci.core.jobs.build import BuildSpec
    from opam_ci.core.jobs.job import BASE_KINDS, Job, JobKind
    from opam_ci.core.jobs.known_verdict import KnownVerdict
    from opam_ci.core.jobs.lost_attempt import lost
    from opam_ci.core.jobs.messages import (
        ImageTask,
        JobContext,
        JobReport,
        LintReport,
        RepositoryTask,
        RunJob,
    )
    from opam_ci.core.jobs.outcome import (
        Cancelled,
        CancelledBy,
        Cause,
        Errored,
        Evidence,
        Failed,
        Outcome,
        Skipped,
    )
    from opam_ci.core.jobs.records import revision_folder
    from opam_ci.core.jobs.signals import AttemptFaulted, AttemptStarted, RestartJobs
    from opam_ci.core.jobs.summary import JobStatus, activity_id
    from opam_ci.core.jobs.table import JobTable
    from opam_ci.core.reuse.settled import is_audited
    from opam_ci.core.submission.result import BUILT_KINDS, ChangedPackage
    from opam_ci.core.text.status import activity_summary
    from opam_ci.workflows import options
    from opam_ci.workflows.states import PlatformState


@dataclass
class _Running:
    """An activity under way.

    Attributes:
        jobs: Its jobs; more than one only for lint.
        handle: The activity.
        again: Starts the jobs in another round once it is cancelled.
        verdict: The outcome of its job, if known already.
        by: Why it was cancelled.
    """

    jobs: tuple[Job, ...]
    handle: ActivityHandle[Any]
    again: RestartJobs | None = None
    verdict: Failed | Skipped | None = None
    by: CancelledBy | None = None


class JobRunner:
    """Runs jobs of a table, a bounded number at once.

    Args:
        state: Testing and options of the jobs; its platform may change.
        table: The jobs in hand.
        in_flight: Maximum number of activities at once.
    """

    def __init__(self, state: PlatformState, table: JobTable, *, in_flight: int) -> None:
        self._state = state
        self._table = table
        self._running: dict[str, _Running] = {}
        self._window = asyncio.Semaphore(in_flight)
        checks = state.revision.options
        self._timeouts = checks.timeouts
        if state.platform is not None:
            self._timeouts = checks.timeouts.with_limits(state.platform.timeouts)

    def attempt_faulted(self, event: AttemptFaulted) -> None:
        """Records that an attempt met an infrastructure fault."""
        for job in self._jobs_of(event.job):
            self._table.fault(job.id, event)

    def attempt_started(self, event: AttemptStarted) -> None:
        """Records an attempt after the first; the one before may have lost its worker."""
        for job in self._jobs_of(event.job):
            self._table.started(job.id, event)
        running = self._running.get(event.job)
        if running is None or self._table[event.job].round != event.round:
            return
        running.verdict = self._table.killer(event.job)
        if running.verdict is not None:
            running.handle.cancel()

    def retry_now(self, message: RestartJobs) -> None:
        """Starts the selected jobs that wait for their automatic retry at once."""
        for running in self._running.values():
            rows = [self._table[job.id] for job in running.jobs]
            if any(message.selector.takes_waiting(row) for row in rows):
                running.again = message
                running.handle.cancel()

    def end(self, job_id: str, outcome: Cancelled | Skipped) -> bool:
        """Ends the activity that began with a job, with an outcome; False if there is none."""
        running = self._running.get(job_id)
        if running is None:
            return False
        if isinstance(outcome, Cancelled):
            running.by = outcome.by
        else:
            running.verdict = outcome
        running.again = None
        running.handle.cancel()
        return True

    async def run(
        self, *jobs: Job, known_verdicts: Mapping[str, KnownVerdict] = MappingProxyType({})
    ) -> Any:
        """Runs queued jobs by one activity, until its last attempt.

        Args:
            jobs: One, or lint of several packages.
            known_verdicts: Verdicts that the one may turn out to have, by verdict key.

        Returns:
            The result of the activity, None if it failed: then the jobs are decided. Otherwise
            the caller decides them, with `reports_of`.

        Raises:
            asyncio.CancelledError: The workflow is cancelled; the processes are gone.
        """
        async with self._window:
            while True:
                for job in jobs:
                    self._table.start(job.id, workflow.now())
                running = _Running(jobs, self._start(jobs, known_verdicts))
                self._running[jobs[0].id] = running
                try:
                    return await running.handle
                except ActivityError as error:
                    again = running.again
                    if again is not None and boundary.is_cancelled(error):
                        self._restart(jobs, again)
                        continue
                    for job in jobs:
                        self._table.decide(job.id, self._report(running, job, error))
                    return None
                finally:
                    del self._running[jobs[0].id]

    def _jobs_of(self, job_id: str) -> tuple[Job, ...]:
        running = self._running.get(job_id)
        return running.jobs if running is not None else ()

    def _restart(self, jobs: tuple[Job, ...], message: RestartJobs) -> None:
        for job in jobs:
            restart_budget_used = message.selector.origin.charged(
                self._table[job.id].restart_budget_used
            )
            self._table.restart(
                job.id, round_=message.round, restart_budget_used=restart_budget_used
            )

    def _start(
        self, jobs: tuple[Job, ...], known_verdicts: Mapping[str, KnownVerdict]
    ) -> ActivityHandle[Any]:
        state, job = self._state, jobs[0]
        row = self._table[job.id]
        checks = state.revision.options
        context = JobContext(
            pull_request=state.pull_request,
            head=state.revision.head,
            opened_at=state.opened_at,
            round=row.round,
            retry=checks.retry,
            notify=state.parent is not None or job.kind is JobKind.ANALYSIS,
        )
        method: Any
        task: Any
        match job.kind:
            case JobKind.ANALYSIS | JobKind.LINT:
                lint = job.kind is JobKind.LINT
                method = RepositoryActivities.lint if lint else RepositoryActivities.analyse
                task = RepositoryTask(
                    context=context,
                    revision=state.revision,
                    packages=tuple(self._packages[each.package] for each in jobs) if lint else (),
                    merge_tree=state.merge_tree if lint else None,
                )
                how = options.repository_activity(job.kind, state.pull_request, checks)
            case JobKind.IMAGE:
                method = ImageActivities.pin_image
                image = state.platform.image if state.platform is not None else None
                task = ImageTask(context=context, job=job.id, image=image or "")
                how = options.repository_activity(job.kind, state.pull_request, checks)
            case _:
                method = BuildActivities.run_job
                task = RunJob(context=context, spec=self._spec(job, known_verdicts))
                how = options.build_activity(
                    job.kind, task.spec.platform, state.pull_request, checks, self._timeouts
                )
        return workflow.start_activity_method(
            method,
            task,
            activity_id=activity_id(row, state.revision.head),
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=activity_summary(job.kind, job.title),
            **how,
        )

    @cached_property
    def _packages(self) -> dict[str, ChangedPackage]:
        return {changed.package: changed for changed in self._state.packages}

    @cached_property
    def _submitted(self) -> tuple[str, ...]:
        packages = self._state.packages
        return tuple(changed.package for changed in packages if changed.kind in BUILT_KINDS)

    def _spec(self, job: Job, known_verdicts: Mapping[str, KnownVerdict]) -> BuildSpec:
        state, checks = self._state, self._state.revision.options
        repository = state.base_repository if job.kind in BASE_KINDS else state.repository
        if state.platform is None or repository is None:
            raise RuntimeError(f"{job.id} has no platform or no repository")
        return BuildSpec(
            job=job,
            platform=state.platform,
            repository=repository,
            timeouts=self._timeouts,
            archive_mirrors=checks.archive_mirrors,
            only_mirrored=checks.only_mirrored,
            # Only there: in every job of a large pull request it would be most of its history.
            submitted=self._submitted if job.kind is JobKind.LIST_REVDEPS else (),
            build_cache=checks.build_cache,
            source=state.revision.source,
            builds_known_failures=self._builds_known_failures(job),
            # A restarted job always runs, and is not compared with known verdicts.
            known_verdicts=dict(known_verdicts) if self._table[job.id].round == 1 else {},
        )

    def _builds_known_failures(self, job: Job) -> bool:
        """Whether a job builds what is known to fail: restarted, by request, or as an audit."""
        checks, testing = self._state.revision.options, revision_folder(self._state.key)
        return (
            self._table[job.id].round > 1
            or not checks.reuse_verdicts
            or is_audited(job.id, testing, checks.audited_percent)
        )

    def _report(self, running: _Running, job: Job, error: ActivityError) -> JobReport:
        now = workflow.now()
        row = self._table[job.id]
        report = boundary.report_in(error.cause)
        # A further fault does not change the verdict; an attempt that succeeded does.
        if running.verdict is not None and (report is None or report.outcome.kind == "errored"):
            return report_for(row, running.verdict, now)
        if report is not None:
            return report
        if boundary.is_cancelled(error):
            by = running.by or self._state.stopping or "request"
            return report_for(row, Cancelled(by=by), now)
        if not boundary.is_lost(error):
            return report_for(row, boundary.outcome_without_report(error), now)
        fault = lost(boundary.last_heartbeat(error), max(row.attempt, 1), now)
        self._table.fault(job.id, AttemptFaulted(job=job.id, round=row.round, fault=fault))
        errored = Errored(cause=fault.cause, evidence=fault.evidence)
        return report_for(row, self._table.killer(job.id) or errored, now)


def reports_of(result: Any, jobs: tuple[Job, ...]) -> dict[str, JobReport]:
    """Returns the report of each job, by its id, from the result of their activity."""
    if isinstance(result, JobReport):
        return {jobs[0].id: result}
    if not isinstance(result, LintReport):
        report: JobReport = result.report
        return {jobs[0].id: report}
    verdicts = {verdict.package: verdict.outcome for verdict in result.verdicts}
    missing = lost_verdict("lint returned no verdict for the package")
    return {
        job.id: result.report.model_copy(update={"outcome": verdicts.get(job.package, missing)})
        for job in jobs
    }


def report_for(row: JobStatus, outcome: Outcome, now: datetime) -> JobReport:
    """Synthesises the report of a job's last attempt, which failed without returning one."""
    return JobReport(
        outcome=outcome,
        attempt=max(row.attempt, 1),
        worker=row.worker or "",
        started_at=row.attempt_started_at or row.started_at or now,
        ended_at=now,
        log=row.log,
    )


def lost_verdict(detail: str) -> Errored:
    """Returns the outcome of a job whose verdict was lost."""
    return Errored(cause=Cause.UNKNOWN, evidence=Evidence(rule="no-verdict", detail=detail))
