"""Watching attempts from outside: whoever wants to know of them hears of each one's end.

An interceptor, so that no activity has to think of it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from pydantic import AwareDatetime
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from opam_ci.activities.boundary import heartbeat_of, is_bug, outcome_of, report_in
from opam_ci.core.canary import is_canary
from opam_ci.core.job import JobKind
from opam_ci.core.messages import (
    AnalysisReport,
    JobContext,
    JobReport,
    LintReport,
    RepositoryTask,
    RunJob,
)
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Errored, Outcome
from opam_ci.core.recording import RowBatch

ORCHESTRATION_POOL = "orchestration"
"""Stands for a pool where jobs run that no build pool runs: analysis and lint."""


class _Attempt(Frozen):
    """What is known of an attempt from its beginning on.

    Attributes:
        pool: Of the worker.
        kind: What the job does.
        is_canary: Whether it is a canary's job and no submission's.
        pull_request: Whose job it is: id of its workflow.
        packages: Packages that a build is about; empty for analysis and lint.
    """

    pool: str
    kind: JobKind
    is_canary: bool
    pull_request: str
    packages: tuple[str, ...] = ()


class AttemptBegan(_Attempt):
    """An attempt has begun.

    Attributes:
        due_at: When Temporal put it into the queue.
        began_at: When Temporal gave it to this worker, by Temporal's clock.
        seen_at: The same by this machine's clock.
        lost_before: Whether the attempt before ended without a word: its worker was lost.
        jobs: How many jobs it does together: lint does those of many packages.
    """

    due_at: AwareDatetime
    began_at: AwareDatetime
    seen_at: AwareDatetime
    lost_before: bool
    jobs: int = 1


class AttemptEnded(_Attempt):
    """An attempt has ended.

    Attributes:
        outcome: What it came to, None if it was cancelled.
        verdicts: What each of its jobs came to, where it did several.
        is_last: Whether it decided the job: no retry follows.
        began_at: When it began, by this machine's clock.
        ended_at: When it ended.
    """

    outcome: Outcome | None
    verdicts: tuple[Outcome | None, ...] = ()
    is_last: bool
    began_at: AwareDatetime
    ended_at: AwareDatetime


class Observer(Protocol):
    """Hears of attempts, on the worker's event loop; must neither block nor raise."""

    def attempt_began(self, began: AttemptBegan) -> None:
        """An attempt has begun."""

    def attempt_ended(self, ended: AttemptEnded) -> None:
        """An attempt has ended, however it did."""

    def recorded(self, batch: RowBatch, rejudged: Sequence[JobKind]) -> None:
        """Rows were written to the index, and jobs of these kinds judged again because of them."""


class ObservingInterceptor(Interceptor):
    """Tells observers of every attempt of a worker.

    Args:
        pool: Pool of the worker.
        observers: Whom to tell.
    """

    def __init__(self, pool: str, observers: Sequence[Observer]) -> None:
        self._pool = pool
        self._observers = tuple(observers)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002  the base's name
        """Puts the observation around an activity."""
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
                rejudged: Sequence[JobKind] = await super().execute_activity(input)
                for observer in self._observers:
                    observer.recorded(task, rejudged)
                return rejudged
            case _:
                return await super().execute_activity(input)

    async def _attempt(
        self,
        given: ExecuteActivityInput,
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
            **dict(attempt),
            due_at=info.current_attempt_scheduled_time,
            began_at=info.started_time,
            seen_at=seen_at,
            lost_before=_was_lost(info),
            jobs=jobs,
        )
        for observer in self._observers:
            observer.attempt_began(began)
        # As it is said of an attempt that is cancelled.
        outcome: Outcome | None = None
        verdicts: tuple[Outcome | None, ...] | None = None
        is_last = True
        try:
            answer = await super().execute_activity(given)
        except Exception as error:
            report = report_in(error)
            outcome = report.outcome if report is not None else outcome_of(error)
            bug = report is None or is_bug(report)
            is_last = bug or not isinstance(outcome, Errored) or context.retry.is_last(info.attempt)
            raise
        else:
            outcome = _outcome(answer)
            verdicts = (outcome,)
            if isinstance(answer, LintReport):
                verdicts = tuple(verdict.outcome for verdict in answer.verdicts)
            return answer
        finally:
            ended = AttemptEnded(
                **dict(attempt),
                outcome=outcome,
                verdicts=(outcome,) * jobs if verdicts is None else verdicts,
                is_last=is_last,
                began_at=seen_at,
                ended_at=datetime.now(UTC),
            )
            for observer in self._observers:
                observer.attempt_ended(ended)


def _outcome(answer: Any) -> Outcome | None:
    report = answer.report if isinstance(answer, AnalysisReport | LintReport) else answer
    return report.outcome if isinstance(report, JobReport) else None


def _was_lost(info: activity.Info) -> bool:
    """Whether the attempt before left no word of how it ended.

    Every attempt that ends by a fault says so in its last heartbeat.
    """
    if info.attempt == 1:
        return False
    previous = heartbeat_of(info.heartbeat_details)
    return previous is None or previous.attempt < info.attempt - 1 or previous.fault is None
