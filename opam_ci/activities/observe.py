"""Observers of attempts, notified by an interceptor of activities."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from opam_ci.activities.boundary import heartbeat_of, is_bug, outcome_of, report_in
from opam_ci.core.jobs.build import SourceCounts
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.messages import (
    AnalysisReport,
    JobContext,
    JobReport,
    LintReport,
    RepositoryTask,
    RunJob,
)
from opam_ci.core.jobs.outcome import Errored, Outcome
from opam_ci.core.jobs.records import Recorded, RowBatch
from opam_ci.core.workers.canary import is_canary

ORCHESTRATION_POOL = "orchestration"
"""In place of a pool for jobs that no build pool runs: analysis and lint."""


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """An attempt.

    Attributes:
        pool: Of the worker.
        kind: Of the job.
        is_canary: Whether it is a canary's job and not a submission's.
        pull_request: Id of the workflow of the job's pull request.
        packages: Packages of a build; empty for analysis and lint.
    """

    pool: str
    kind: JobKind
    is_canary: bool
    pull_request: str
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AttemptBegan(_Attempt):
    """An attempt has begun.

    Attributes:
        due_at: When Temporal queued it.
        began_at: When this worker got it, by Temporal's clock.
        seen_at: The same by this machine's clock.
        lost_before: Whether the worker of the previous attempt was lost.
        jobs: Number of its jobs: lint does those of many packages.
    """

    due_at: datetime
    began_at: datetime
    seen_at: datetime
    lost_before: bool
    jobs: int = 1


@dataclass(frozen=True, kw_only=True)
class AttemptEnded(_Attempt):
    """An attempt has ended.

    Attributes:
        outcome: None if it was cancelled.
        verdicts: Outcome of each of its jobs, if it has several.
        is_last: Whether it decided the job: no retry follows.
        began_at: When it began, by this machine's clock.
        ended_at: When it ended.
        cpu_seconds: Processor time that it used, None if unknown.
        sources: Where its archives came from, None if unknown.
    """

    outcome: Outcome | None
    verdicts: tuple[Outcome | None, ...] = ()
    is_last: bool
    began_at: datetime
    ended_at: datetime
    cpu_seconds: float | None = None
    sources: SourceCounts | None = None


class Observer(Protocol):
    """Is notified of attempts, on the worker's event loop; must neither block nor raise."""

    def attempt_began(self, began: AttemptBegan) -> None:
        """An attempt has begun."""

    def attempt_ended(self, ended: AttemptEnded) -> None:
        """An attempt has ended in any way."""

    def recorded(self, batch: RowBatch, rejudged: Sequence[JobKind]) -> None:
        """Rows were written to the index; verdicts of these kinds of jobs were revised."""


class ObservingInterceptor(Interceptor):
    """Notifies observers of every attempt of a worker.

    Args:
        pool: Pool of the worker.
        observers: The observers.
    """

    def __init__(self, pool: str, observers: Sequence[Observer]) -> None:
        self._pool = pool
        self._observers = tuple(observers)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002  the base's name
        """Wraps an activity in notifications."""
        return _Observing(next, self._pool, self._observers)


class _Observing(ActivityInboundInterceptor):
    def __init__(
        self, following: ActivityInboundInterceptor, pool: str, observers: tuple[Observer, ...]
    ) -> None:
        super().__init__(following)
        self._pool = pool
        self._observers = observers

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002  the base's name
        task = input.args[0] if input.args else None
        match task:
            case RunJob():
                job = task.spec.job
                packages = (job.package, job.revdep) if job.revdep else (job.package,)
                return await self._attempt(input, task.context, job.kind, packages, jobs=1)
            case RepositoryTask():
                kind = JobKind.LINT if task.packages else JobKind.ANALYSIS
                jobs = max(1, len(task.packages))
                return await self._attempt(input, task.context, kind, (), jobs)
            case RowBatch():
                done: Recorded = await super().execute_activity(input)
                for observer in self._observers:
                    observer.recorded(task, done.revised)
                return done
            case _:
                return await super().execute_activity(input)

    async def _attempt(
        self,
        activity_input: ExecuteActivityInput,
        context: JobContext,
        kind: JobKind,
        packages: tuple[str, ...],
        jobs: int,
    ) -> Any:
        info = activity.info()
        seen_at = datetime.now(UTC)
        attempt = _Attempt(
            pool=self._pool,
            kind=kind,
            is_canary=is_canary(context.pull_request),
            pull_request=context.pull_request.workflow_id,
            packages=packages,
        )
        began = AttemptBegan(
            **vars(attempt),
            due_at=info.current_attempt_scheduled_time,
            began_at=info.started_time,
            seen_at=seen_at,
            lost_before=_was_lost(info),
            jobs=jobs,
        )
        for observer in self._observers:
            observer.attempt_began(began)
        # The values for an attempt that is cancelled.
        outcome: Outcome | None = None
        verdicts: tuple[Outcome | None, ...] | None = None
        report: JobReport | None = None
        is_last = True
        try:
            result = await super().execute_activity(activity_input)
        except Exception as error:
            report = report_in(error)
            outcome = report.outcome if report is not None else outcome_of(error)
            bug = report is None or is_bug(report)
            is_last = bug or not isinstance(outcome, Errored) or context.retry.is_last(info.attempt)
            raise
        else:
            report = _report(result)
            outcome = None if report is None else report.outcome
            verdicts = (outcome,)
            if isinstance(result, LintReport):
                verdicts = tuple(verdict.outcome for verdict in result.verdicts)
            return result
        finally:
            ended = AttemptEnded(
                **vars(attempt),
                outcome=outcome,
                verdicts=(outcome,) * jobs if verdicts is None else verdicts,
                is_last=is_last,
                began_at=seen_at,
                ended_at=datetime.now(UTC),
                cpu_seconds=None if report is None else report.cpu_seconds,
                sources=None if report is None else report.sources,
            )
            for observer in self._observers:
                observer.attempt_ended(ended)


def _report(result: Any) -> JobReport | None:
    report = result.report if isinstance(result, AnalysisReport | LintReport) else result
    return report if isinstance(report, JobReport) else None


def _was_lost(info: activity.Info) -> bool:
    """Whether the worker of the previous attempt was lost.

    Every attempt that ends by a fault reports it in its last heartbeat.
    """
    if info.attempt == 1:
        return False
    previous = heartbeat_of(info.heartbeat_details)
    return previous is None or previous.attempt < info.attempt - 1 or previous.fault is None
