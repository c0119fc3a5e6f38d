"""Attempts and verdicts, counted where they happen."""

import time
from collections import OrderedDict
from collections.abc import Iterable

from opam_ci.activities.observe import AttemptBegan, AttemptEnded
from opam_ci.core.job import JobKind
from opam_ci.core.outcome import Cause, Errored, Failed, FailureReason, Outcome
from opam_ci.core.recording import RowBatch
from opam_ci.core.records import RevisionKey
from opam_ci.core.summary import State
from opam_ci.metrics.catalog import Metrics

_VERDICTS_REMEMBERED = 10_000
"""Testings whose first verdict has been counted: a restart brings further ones."""

OUTCOMES = ("passed", "failed", "skipped", "errored", "cancelled")
"""Values of the label `outcome`: failed is the submission's, errored is ours."""

GOOD = "good"
"""Value of the label `result` of a canary whose verdicts were both right."""


class AttemptMetrics:
    """Counts attempts; implements `Observer`.

    A process counts from zero when it starts, which Prometheus' `rate` and `increase` expect.

    Args:
        metrics: Where to count.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counted: OrderedDict[RevisionKey, None] = OrderedDict()

    def declare(self, pool: str, kinds: Iterable[JobKind]) -> None:
        """Starts a pool's counters at zero: an increase from nothing to one is none to Prometheus.

        Args:
            pool: Of this worker.
            kinds: What it runs.
        """
        for kind in kinds:
            for outcome in OUTCOMES:
                self._metrics.attempts.labels(pool, kind.value, outcome)
                self._metrics.jobs.labels(pool, kind.value, outcome)
            for reason in FailureReason:
                self._metrics.failures.labels(pool, kind.value, reason.value)
        for cause in Cause:
            self._metrics.faults.labels(pool, cause.value)

    def declare_rejudged(self, kinds: Iterable[JobKind]) -> None:
        """Does the same for verdicts that are judged again.

        Args:
            kinds: Of jobs whose verdicts can be.
        """
        for kind in kinds:
            self._metrics.rejudged.labels(kind.value, "errored")

    def declare_canary(self, pool: str) -> None:
        """Does the same for what is counted of a pool's canary."""
        for result in (GOOD, *(cause.value for cause in Cause)):
            self._metrics.canaries.labels(pool, result)

    def attempt_began(self, began: AttemptBegan) -> None:
        """Counts what is known at the start of an attempt."""
        metrics = self._metrics
        metrics.clock_offset.set((began.seen_at - began.began_at).total_seconds())
        if began.is_canary:
            return
        # Both times are the server's: its clock and this machine's may differ.
        wait = max((began.began_at - began.due_at).total_seconds(), 0.0)
        metrics.wait.labels(began.pool, began.kind.value).observe(wait)
        metrics.running.labels(began.pool, began.kind.value).inc()
        if began.lost_before:
            # Nobody is left to count it where it happened.
            metrics.faults.labels(began.pool, Cause.WORKER_LOST.value).inc(began.jobs)
            metrics.attempts.labels(began.pool, began.kind.value, "errored").inc(began.jobs)

    def attempt_ended(self, ended: AttemptEnded) -> None:
        """Counts what an attempt came to."""
        if ended.is_canary:
            return
        metrics = self._metrics
        metrics.running.labels(ended.pool, ended.kind.value).dec()
        labels = (ended.pool, ended.kind.value, _word(ended.outcome))
        metrics.attempt_duration.labels(*labels).observe(
            max((ended.ended_at - ended.began_at).total_seconds(), 0.0)
        )
        # Lint does the jobs of many packages together; each counts, as it does in the index.
        for outcome in ended.verdicts or (ended.outcome,):
            self._count(ended, outcome)

    def _count(self, ended: AttemptEnded, outcome: Outcome | None) -> None:
        metrics = self._metrics
        labels = (ended.pool, ended.kind.value, _word(outcome))
        metrics.attempts.labels(*labels).inc()
        if ended.is_last:
            metrics.jobs.labels(*labels).inc()
        match outcome:
            case Errored():
                metrics.faults.labels(ended.pool, outcome.cause.value).inc()
            case Failed():
                metrics.failures.labels(ended.pool, ended.kind.value, outcome.reason.value).inc()

    def recorded(self, batch: RowBatch, rejudged: Iterable[JobKind]) -> None:
        """Notes the first verdict of each testing, and verdicts that were judged again."""
        for kind in rejudged:
            self._metrics.rejudged.labels(kind.value, "errored").inc()
        record = batch.revision
        if record is None or not record.planned or record.state is State.PENDING:
            return
        if self._is_new(record.key):
            latency = (record.updated_at - record.key.opened_at).total_seconds()
            self._metrics.verdict_latency.labels(record.state.value).observe(max(latency, 0.0))

    def _is_new(self, name: RevisionKey) -> bool:
        if name in self._counted:
            return False
        self._counted[name] = None
        if len(self._counted) > _VERDICTS_REMEMBERED:
            self._counted.popitem(last=False)
        return True

    def canary_ended(self, pool: str, result: str, seconds: float) -> None:
        """Counts a canary that went through a pool's queue.

        Args:
            pool: Which.
            result: `good`, or the cause.
            seconds: How long it took.
        """
        self._metrics.canaries.labels(pool, result).inc()
        self._metrics.canary_duration.labels(pool).observe(seconds)
        if result == GOOD:
            self._metrics.canary_good_at.labels(pool).set(time.time())


def _word(outcome: Outcome | None) -> str:
    return outcome.kind if outcome is not None else "cancelled"
