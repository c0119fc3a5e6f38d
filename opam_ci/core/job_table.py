"""The job matrix of a workflow: every change of a row, and nothing else."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from opam_ci.core.incidents.messages import RejudgedJob
from opam_ci.core.incidents.rejudge import is_rejudged, rejudged
from opam_ci.core.installable import Unavailable, installable_nowhere, is_not_installable
from opam_ci.core.job import PACKAGE_PHASES, Job
from opam_ci.core.lost_attempt import LOST, lost
from opam_ci.core.messages import AttemptFaulted, AttemptStarted, JobReport
from opam_ci.core.outcome import Cancelled, Evidence, Failed, FailureReason, Outcome
from opam_ci.core.plan import FOLLOWED, depends_on, outcome_after
from opam_ci.core.requests import RestartAsker
from opam_ci.core.summary import Fault, JobState, JobStatus

KILLS_WORKER_AFTER = 2
"""Distinct workers lost under one job before the job itself is blamed, if it was alone on the last
one (design, §2.5)."""

FAULT_WEIGHT = 4
"""How many rows one fault of a row counts as when rows are taken in portions of bounded size."""


class JobTable:
    """Rows by job id, in the order in which they were added, with a set of changed ones."""

    def __init__(self, rows: Iterable[JobStatus] = ()) -> None:
        self._rows = {row.job.id: row for row in rows}
        self._changed: dict[str, None] = {}

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
        """Returns changed rows, oldest change first, and forgets the change.

        Args:
            limit: How many at most, each fault of a row counting as `FAULT_WEIGHT` more, since
                each carries evidence of its own. One row is always taken.
        """
        taken = list[JobStatus]()
        weight = 0
        for job_id in self._changed:
            row = self._rows[job_id]
            weight += 1 + FAULT_WEIGHT * len(row.faults)
            if taken and weight > limit:
                break
            taken.append(row)
        for row in taken:
            del self._changed[row.job.id]
        return tuple(taken)

    def put(self, row: JobStatus) -> None:
        """Adds or replaces a row."""
        if self._rows.get(row.job.id) != row:
            self._rows[row.job.id] = row
            self._changed[row.job.id] = None

    def queue(self, job: Job, asker: RestartAsker | None = None) -> None:
        """Puts a job at the start of its next round, or of its first.

        What an earlier round met stays in the index; the row starts clean.

        Args:
            job: Which.
            asker: Who asked for a restart, if that is what it is.
        """
        before = self._rows.get(job.id)
        if before is None:
            self.put(JobStatus(job=job))
            return
        automatic = before.automatic if asker is None else asker.charged(before.automatic)
        self.put(JobStatus(job=job, round=before.round + 1, automatic=automatic))

    def drop(self, job_id: str) -> None:
        """Forgets a job."""
        self._rows.pop(job_id, None)
        self._changed.pop(job_id, None)

    def merge(self, row: JobStatus) -> None:
        """Takes over a row as another workflow reports it, unless it is of an older round.

        A verdict that was given on the word of other jobs stands for its round: who ran the
        job may still tell of the one before.
        """
        known = self._rows.get(row.job.id)
        if known is None or known.round > row.round:
            return
        is_ours = is_rejudged(known.outcome) or is_not_installable(known.outcome)
        if not (is_ours and known.round == row.round):
            self.put(row)

    def touch_all(self) -> None:
        """Marks every row as changed, so that it is told again."""
        self._changed = dict.fromkeys(self._rows)

    def start(self, job_id: str, at: datetime) -> None:
        """Marks a job as running its first attempt."""
        row = self._rows[job_id]
        self._update(row, state=JobState.RUNNING, attempt=1, started_at=row.started_at or at)

    def fault(self, job_id: str, said: AttemptFaulted) -> None:
        """Notes a faulted attempt, once, however often it is said."""
        row = self._rows.get(job_id)
        if row is None or row.outcome is not None or row.round != said.round:
            return
        known = {fault.attempt for fault in row.faults}
        if said.fault.attempt in known:
            return
        retrying = said.next_attempt_at is not None
        self._update(
            row,
            faults=_sorted([*row.faults, said.fault]),
            state=JobState.RETRYING if retrying else row.state,
            attempt=max(row.attempt, said.fault.attempt),
            next_attempt_at=said.next_attempt_at,
            log=said.fault.log or row.log,
        )

    def started(self, job_id: str, said: AttemptStarted) -> None:
        """Notes that an attempt began, and the loss of the one before if nobody told of it."""
        row = self._rows.get(job_id)
        if row is None or row.outcome is not None or row.round != said.round:
            return
        known = {fault.attempt for fault in row.faults}
        missing = [n for n in range(1, said.attempt) if n not in known]
        told = said.previous.fault if said.previous is not None else None
        found = [
            told if told is not None and told.attempt == n else lost(said.previous, n, said.at)
            for n in missing
        ]
        self._update(
            row,
            faults=_sorted([*row.faults, *found]),
            state=JobState.RUNNING,
            attempt_started_at=said.at,
            worker=said.worker,
            attempt=max(row.attempt, said.attempt),
            next_attempt_at=None,
        )

    def decide(self, job_id: str, report: JobReport) -> None:
        """Gives a job its outcome."""
        row = self._rows[job_id]
        self._update(
            row,
            state=JobState.DECIDED,
            outcome=report.outcome,
            attempt=max(row.attempt, report.attempt),
            started_at=row.started_at or report.started_at,
            attempt_started_at=report.started_at,
            worker=report.worker or row.worker,
            decided_at=report.ended_at,
            next_attempt_at=None,
            phase=None,
            log=report.log or row.log,
        )

    def settle(self, job_id: str, outcome: Outcome, at: datetime) -> None:
        """Gives a job an outcome that no attempt of its own reported."""
        row = self._rows[job_id]
        self._update(
            row, state=JobState.DECIDED, outcome=outcome, decided_at=at, next_attempt_at=None
        )

    def rejudge(self, said: RejudgedJob, at: datetime) -> bool:
        """Gives a decided job another verdict, and what followed from it; once a round.

        Returns:
            Whether it did: the job may have gone on since.
        """
        row = self._rows.get(said.job.id)
        if row is None or row.outcome is None or (verdict := rejudged(row, said)) is None:
            return False
        self._settle_again({row.job.id: verdict}, at)
        return True

    def conclude(self, packages: Collection[str], unavailable: Unavailable, at: datetime) -> None:
        """Fails the builds of packages that can be installed on none of all platforms.

        Args:
            packages: Which to decide.
            unavailable: What those are that are available on no platform.
            at: When that is so.
        """
        found = installable_nowhere(self.rows, packages, unavailable)
        self._settle_again({job.id: verdict for job, verdict in found}, at)

    def _settle_again(self, verdicts: Mapping[str, Outcome], at: datetime) -> None:
        """Gives jobs, by id, other verdicts, and what followed from them."""
        for job_id, verdict in verdicts.items():
            self.settle(job_id, verdict, at)
        for other in self.rows if verdicts else ():
            needed = depends_on(other.job)
            if needed is None or needed.id not in verdicts or other.outcome is None:
                continue
            follows = outcome_after(verdicts[needed.id], needed)
            if (
                follows is not None
                and other.outcome.kind != "cancelled"
                and other.outcome.evidence.rule in FOLLOWED
            ):
                self.settle(other.job.id, follows, at)

    def cancel_undecided(self, outcome: Cancelled, at: datetime) -> None:
        """Settles every job that has no outcome yet."""
        for row in self.rows:
            if row.outcome is None:
                self.settle(row.job.id, outcome, at)

    def killer(self, job_id: str, *, last_alone: bool = True) -> Failed | None:
        """Returns the verdict on a job that took two different workers down, else None.

        A job that was lost in company may be somebody else's victim. So it must have been alone on
        the worker that it was lost with last. And only losses while package code ran count.

        Args:
            job_id: Which.
            last_alone: False judges as it was done before all that was asked for.
        """
        # A worker that was shut down in good order was not killed by its job.
        losses = [f for f in self._rows[job_id].faults if f.evidence.rule == LOST]
        if last_alone:
            losses = [loss for loss in losses if loss.evidence.phase in PACKAGE_PHASES]
        workers = sorted({fault.worker for fault in losses if fault.worker})
        if len(workers) < KILLS_WORKER_AFTER:
            return None
        last = losses[-1]
        if last_alone and not last.alone:
            return None
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

    def _update(self, row: JobStatus, **changes: object) -> None:
        self.put(row.model_copy(update=changes))


def _sorted(faults: list[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults, key=lambda fault: fault.attempt))
