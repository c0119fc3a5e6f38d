"""Metrics of attempts and verdicts."""

import time
from collections import OrderedDict
from collections.abc import Iterable

from opam_ci.activities.observe import AttemptBegan, AttemptEnded
from opam_ci.core.jobs.build import SourceCounts
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause, Errored, Failed, FailureReason, Outcome
from opam_ci.core.jobs.records import RevisionKey, RowBatch
from opam_ci.core.jobs.summary import State
from opam_ci.metrics.catalog import Metrics

_VERDICTS_REMEMBERED = 10_000
"""Number of testings whose first verdict is remembered as counted: restarts lead to more."""

OUTCOMES = ("passed", "failed", "skipped", "errored", "cancelled")
"""Values of the label `outcome`: failed is a package failure, errored an infrastructure fault."""

GOOD = "good"
"""Value of the label `result` of a canary whose verdicts were both right."""


class AttemptMetrics:
    """Counts attempts; implements `Observer`.

    Counters start from zero with the process, as Prometheus' `rate` and `increase` expect.

    Args:
        metrics: The metrics to update.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counted: OrderedDict[RevisionKey, None] = OrderedDict()

    def declare(self, pool: str, kinds: Iterable[JobKind]) -> None:
        """Starts a pool's counters at zero: Prometheus sees no increase from absent to one.

        Args:
            pool: Of this worker.
            kinds: Kinds of jobs that it runs.
        """
        for kind in kinds:
            for outcome in OUTCOMES:
                self._metrics.attempts.labels(pool, kind.value, outcome)
                self._metrics.jobs.labels(pool, kind.value, outcome)
            for reason in FailureReason:
                self._metrics.failures.labels(pool, kind.value, reason.value)
        for cause in Cause:
            self._metrics.faults.labels(pool, cause.value)
        for origin in SourceCounts.model_fields:
            self._metrics.archives.labels(pool, origin)

    def declare_rejudged(self, kinds: Iterable[JobKind]) -> None:
        """Does the same for revised verdicts.

        Args:
            kinds: Kinds of jobs whose verdicts can be revised.
        """
        for kind in kinds:
            self._metrics.rejudged.labels(kind.value, "errored")

    def declare_canary(self, pool: str) -> None:
        """Does the same for the counters of a pool's canary."""
        for result in (GOOD, *(cause.value for cause in Cause)):
            self._metrics.canaries.labels(pool, result)

    def attempt_began(self, began: AttemptBegan) -> None:
        """Updates metrics at the start of an attempt."""
        metrics = self._metrics
        metrics.clock_offset.set((began.seen_at - began.began_at).total_seconds())
        if began.is_canary:
            return
        # Both times are the server's, whose clock may differ from this machine's.
        wait = max((began.began_at - began.due_at).total_seconds(), 0.0)
        metrics.wait.labels(began.pool, began.kind.value).observe(wait)
        metrics.running.labels(began.pool, began.kind.value).inc()
        if began.lost_before:
            # The lost worker cannot count it itself.
            metrics.faults.labels(began.pool, Cause.WORKER_LOST.value).inc(began.jobs)
            metrics.attempts.labels(began.pool, began.kind.value, "errored").inc(began.jobs)

    def attempt_ended(self, ended: AttemptEnded) -> None:
        """Updates metrics at the end of an attempt."""
        if ended.is_canary:
            return
        metrics = self._metrics
        metrics.running.labels(ended.pool, ended.kind.value).dec()
        labels = (ended.pool, ended.kind.value, _label(ended.outcome))
        metrics.attempt_duration.labels(*labels).observe(
            max((ended.ended_at - ended.began_at).total_seconds(), 0.0)
        )
        if ended.cpu_seconds is not None:
            metrics.cpu.labels(ended.pool, ended.kind.value).inc(ended.cpu_seconds)
        if ended.sources is not None:
            for origin, number in ended.sources:
                metrics.archives.labels(ended.pool, origin).inc(number)
        # Lint does the jobs of many packages together; each counts, as it does in the index.
        for outcome in ended.verdicts or (ended.outcome,):
            self._count(ended, outcome)

    def _count(self, ended: AttemptEnded, outcome: Outcome | None) -> None:
        metrics = self._metrics
        labels = (ended.pool, ended.kind.value, _label(outcome))
        metrics.attempts.labels(*labels).inc()
        if ended.is_last:
            metrics.jobs.labels(*labels).inc()
        match outcome:
            case Errored():
                metrics.faults.labels(ended.pool, outcome.cause.value).inc()
            case Failed():
                metrics.failures.labels(ended.pool, ended.kind.value, outcome.reason.value).inc()

    def recorded(self, batch: RowBatch, rejudged: Iterable[JobKind]) -> None:
        """Updates metrics of the first verdict of each testing, and of revised verdicts."""
        for kind in rejudged:
            self._metrics.rejudged.labels(kind.value, "errored").inc()
        record = batch.revision
        if record is None or not record.planned or record.state is State.PENDING:
            return
        if self._is_new(record.key):
            latency = (record.updated_at - record.key.opened_at).total_seconds()
            self._metrics.verdict_latency.labels(record.state.value).observe(max(latency, 0.0))

    def _is_new(self, key: RevisionKey) -> bool:
        if key in self._counted:
            return False
        self._counted[key] = None
        if len(self._counted) > _VERDICTS_REMEMBERED:
            self._counted.popitem(last=False)
        return True

    def canary_ended(self, pool: str, result: str, seconds: float) -> None:
        """Updates metrics at the end of a pool's canary.

        Args:
            pool: The pool.
            result: `good`, or the cause.
            seconds: Its duration.
        """
        self._metrics.canaries.labels(pool, result).inc()
        self._metrics.canary_duration.labels(pool).observe(seconds)
        if result == GOOD:
            self._metrics.canary_good_at.labels(pool).set(time.time())


def _label(outcome: Outcome | None) -> str:
    return outcome.kind if outcome is not None else "cancelled"
