"""The jobs that a workflow has taken and not recorded yet, and every change of a row."""

from collections.abc import Iterable
from datetime import datetime

from opam_ci.core.jobs.job import PACKAGE_PHASES
from opam_ci.core.jobs.lost_attempt import LOST, lost
from opam_ci.core.jobs.messages import JobReport
from opam_ci.core.jobs.outcome import Cancelled, Evidence, Failed, FailureReason, Outcome
from opam_ci.core.jobs.signals import AttemptFaulted, AttemptStarted
from opam_ci.core.jobs.states import JobEvent, after
from opam_ci.core.jobs.summary import Fault, JobStatus

KILLS_WORKER_AFTER = 2
"""Distinct workers lost while running one job before the job itself is blamed, if it was alone on
the last one (design, §2.5)."""

FAULT_WEIGHT = 4
"""Weight of one fault of a row, in rows, when rows are taken in batches of bounded size."""


class JobTable:
    """Rows by job id, in the order in which they were added, and which of them changed."""

    def __init__(self, rows: Iterable[JobStatus] = ()) -> None:
        self._rows = {row.job.id: row for row in rows}
        self._changed: dict[tuple[str, int], JobStatus] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._rows

    def __getitem__(self, job_id: str) -> JobStatus:
        return self._rows[job_id]

    @property
    def rows(self) -> tuple[JobStatus, ...]:
        """All rows."""
        return tuple(self._rows.values())

    @property
    def is_dirty(self) -> bool:
        """Whether rows changed since they were last taken."""
        return bool(self._changed)

    def take_changed(self, limit: int) -> tuple[JobStatus, ...]:
        """Returns changed rows, oldest change first, and marks them as unchanged.

        A job that was restarted since comes twice: as its last round ended, and as it is now.

        Args:
            limit: Maximum number of rows, each fault of a row counting as `FAULT_WEIGHT` more,
                since each carries evidence of its own. One row is always taken.
        """
        taken = list[JobStatus]()
        weight = 0
        for row in self._changed.values():
            weight += 1 + FAULT_WEIGHT * len(row.faults)
            if taken and weight > limit:
                break
            taken.append(row)
        for row in taken:
            del self._changed[row.job.id, row.round]
        return tuple(taken)

    def take(self, row: JobStatus) -> None:
        """Adds a row as it is in the index, without marking it as changed."""
        self._rows[row.job.id] = row

    def put(self, row: JobStatus) -> None:
        """Adds or replaces a row."""
        if self._rows.get(row.job.id) != row:
            self._rows[row.job.id] = row
            self._changed[row.job.id, row.round] = row

    def restart(self, job_id: str, *, round_: int, restart_budget_used: int) -> None:
        """Starts another round of a job; the index keeps the faults of the last one."""
        row = self._rows[job_id]
        state = after(row.state, JobEvent.RESTART)
        self.put(
            JobStatus(
                job=row.job, state=state, round=round_, restart_budget_used=restart_budget_used
            )
        )

    def drop(self, job_id: str) -> None:
        """Removes a job."""
        row = self._rows.pop(job_id, None)
        if row is not None:
            self._changed.pop((job_id, row.round), None)

    def start(self, job_id: str, at: datetime) -> None:
        """Marks a job as running its first attempt."""
        row = self._rows[job_id]
        self._update(row, JobEvent.START, attempt=1, started_at=row.started_at or at)

    def fault(self, job_id: str, event: AttemptFaulted) -> None:
        """Records a faulted attempt, once, however often it is reported."""
        row = self._rows.get(job_id)
        if row is None or row.outcome is not None or row.round != event.round:
            return
        known = {fault.attempt for fault in row.faults}
        if event.fault.attempt in known:
            return
        faults = _sorted([*row.faults, event.fault])
        if event.fault.attempt < row.attempt:
            self.put(row.model_copy(update={"faults": faults}))
            return
        self._update(
            row,
            JobEvent.FAULT if event.next_attempt_at is None else JobEvent.RETRY,
            faults=faults,
            attempt=event.fault.attempt,
            next_attempt_at=event.next_attempt_at,
            log=event.fault.log or row.log,
        )

    def started(self, job_id: str, event: AttemptStarted) -> None:
        """Records that an attempt began, and the loss of the one before if it was not reported."""
        row = self._rows.get(job_id)
        if row is None or row.outcome is not None or row.round != event.round:
            return
        known = {fault.attempt for fault in row.faults}
        missing = [n for n in range(1, event.attempt) if n not in known]
        last = event.previous.fault if event.previous is not None else None
        found = [
            last if last is not None and last.attempt == n else lost(event.previous, n, event.at)
            for n in missing
        ]
        faults = _sorted([*row.faults, *found])
        if event.attempt < row.attempt or event.attempt in known:
            # Reported out of order: a later attempt is known already.
            self.put(row.model_copy(update={"faults": faults}))
            return
        self._update(
            row,
            JobEvent.ATTEMPT,
            faults=faults,
            attempt_started_at=event.at,
            worker=event.worker,
            attempt=event.attempt,
            next_attempt_at=None,
        )

    def decide(self, job_id: str, report: JobReport) -> None:
        """Sets the outcome of a job from the report of its last attempt."""
        row = self._rows[job_id]
        self._update(
            row,
            JobEvent.DECIDE,
            outcome=report.outcome,
            attempt=max(row.attempt, report.attempt),
            started_at=row.started_at or report.started_at,
            attempt_started_at=report.started_at,
            worker=report.worker or row.worker,
            decided_at=report.ended_at,
            next_attempt_at=None,
            phase=None,
            log=report.log or row.log,
            cpu_seconds=report.cpu_seconds,
            image=report.image,
            verdict_key=report.verdict_key,
            audits=report.audits,
        )

    def settle(self, job_id: str, outcome: Outcome, at: datetime) -> None:
        """Sets an outcome that no attempt of the job reported."""
        row = self._rows[job_id]
        self._update(
            row,
            JobEvent.DECIDE,
            outcome=outcome,
            decided_at=at,
            next_attempt_at=None,
            cpu_seconds=None,
            image=None,
            verdict_key=None,
            audits=None,
        )

    def cancel_undecided(self, outcome: Cancelled, at: datetime) -> None:
        """Settles every job that has no outcome yet."""
        for row in self.rows:
            if row.outcome is None:
                self.settle(row.job.id, outcome, at)

    def killer(self, job_id: str) -> Failed | None:
        """Returns the verdict on a job that took two different workers down, else None.

        A job that was lost together with others may be the victim of one of them. So it must have
        been alone on the last worker lost. And only losses while package code ran count.
        """
        # A worker that was shut down in an orderly way was not killed by its job.
        losses = [
            fault
            for fault in self._rows[job_id].faults
            if fault.evidence.rule == LOST and fault.evidence.phase in PACKAGE_PHASES
        ]
        workers = sorted({fault.worker for fault in losses if fault.worker})
        if len(workers) < KILLS_WORKER_AFTER or not losses[-1].alone:
            return None
        last = losses[-1]
        return Failed(
            reason=FailureReason.KILLS_WORKER,
            evidence=Evidence(
                rule="kills-worker",
                phase=last.evidence.phase,
                attempt=last.attempt,
                worker=last.worker,
                detail=f"the job took down {len(workers)} workers: {', '.join(workers)}",
            ),
        )

    def _update(self, row: JobStatus, event: JobEvent, **changes: object) -> None:
        self.put(row.model_copy(update={"state": after(row.state, event), **changes}))


def _sorted(faults: list[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults, key=lambda fault: fault.attempt))
