"""Which verdicts hold for jobs with the same inputs, and how often that was wrong."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection, func, literal, select

from opam_ci.clients.index.engine import Connected, portions, reading
from opam_ci.clients.index.rows import AnyRow, revision_of
from opam_ci.clients.index.schema import ATTEMPTED, ATTEMPTS, JOBS, KEY_COLUMNS
from opam_ci.core.classify.positive_proofs import KNOWN_FAILURE
from opam_ci.core.jobs.outcome import Failed, FailureReason, Passed, Reused, Skipped
from opam_ci.core.jobs.plan import KnownVerdict
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.pages.causes import cause_group
from opam_ci.core.reuse.settled import MAX_AGE, Attempted, Audits, settled

_PROVING = (Standing.PASSED, Standing.FAILED, Standing.SKIPPED)
_WHY = func.coalesce(ATTEMPTS.c.failure_reason, ATTEMPTS.c.skip_reason, "")
_LABEL = func.trim(ATTEMPTS.c.standing + literal(" ") + _WHY)
"""The same as `KnownVerdict.label` of the verdict."""
_BUILT = ATTEMPTS.c.outcome["evidence", "rule"].as_string() != KNOWN_FAILURE
"""Not so of a job that ended since a dependency is known to fail: it is no evidence of its own."""


class Verdicts(Connected):
    """The part of the index that knows which verdicts hold for other jobs."""

    def image_of(self, platform: str, pool: str) -> str | None:
        """Returns the fingerprint of the image that a platform's last job ran in.

        Args:
            platform: Its name.
            pool: Of the workers: another pool may have another image.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        query = (
            select(ATTEMPTS.c.image)
            .select_from(JOBS.join(ATTEMPTS))
            .where(
                JOBS.c.platform == platform,
                ATTEMPTS.c.pool == pool,
                ATTEMPTS.c.image.is_not(None),
            )
            .order_by(JOBS.c.updated_at.desc(), JOBS.c.id.desc(), ATTEMPTS.c.id.desc())
            .limit(1)
        )
        with reading(self._engine) as connection:
            return connection.scalar(query)

    def settled(self, keys: Collection[str], image: str, now: datetime) -> dict[str, KnownVerdict]:
        """Returns the verdicts that hold for jobs with some plan keys.

        Args:
            keys: The keys.
            image: Fingerprint of the image that the jobs would run in.
            now: The time.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        attempts: dict[str, list[Attempted]] = defaultdict(list)
        columns = (ATTEMPTS.c[name] for name in ("id", "standing", "image", "ended_at"))
        query = (
            select(JOBS.c.plan_key, _WHY.label("why"), *columns)
            .select_from(JOBS.join(ATTEMPTS))
            .where(
                ATTEMPTS.c.standing.in_(_PROVING),
                # In an earlier round the job may have had another key.
                ATTEMPTS.c.round == JOBS.c.round,
                ATTEMPTS.c.ended_at >= now - MAX_AGE,
                _BUILT,
            )
        )
        with reading(self._engine) as connection:
            for some in portions(sorted(keys)):
                rows = connection.execute(query.where(JOBS.c.plan_key.in_(some))).all()
                failed = [row.id for row in rows if row.standing == Standing.FAILED]
                alike = _groups(connection, failed)
                for row in rows:
                    known = Attempted.model_validate(row, from_attributes=True)
                    known = known.model_copy(update={"alike": alike.get(row.id)})
                    attempts[row.plan_key].append(known)
            holding = {
                found.id: key
                for key, each in attempts.items()
                if (found := settled(each, image, now)) is not None
            }
            names = ("id", "round", "outcome", "log_key", "ended_at")
            whole = select(
                *KEY_COLUMNS, ATTEMPTS.c.number.label("attempt"), *(ATTEMPTS.c[n] for n in names)
            ).select_from(ATTEMPTED)
            return {
                holding[row.id]: _verdict(row)
                for some in portions(tuple(holding))
                for row in connection.execute(whole.where(ATTEMPTS.c.id.in_(some)))
            }


def count_audits(connection: Connection, now: datetime) -> Audits:
    """Counts how often a verdict was compared with the job's own, while it could hold.

    What an attempt came to counts, and not what follows for its job from other jobs.
    """
    differs = JOBS.c.audits != _LABEL
    query = (
        select(differs, func.count())
        .select_from(JOBS.join(ATTEMPTS))
        .where(
            JOBS.c.audits.is_not(None),
            JOBS.c.decided_at >= now - MAX_AGE,
            ATTEMPTS.c.round == JOBS.c.round,
            ATTEMPTS.c.number == JOBS.c.attempt,
            ATTEMPTS.c.standing.in_(_PROVING),
            _BUILT,
            # Decided from all platforms, for the attempt as well.
            _WHY.not_in((FailureReason.NOT_INSTALLABLE,)),
        )
        .group_by(differs)
    )
    found = {bool(differed): number for differed, number in connection.execute(query)}
    return Audits(compared=sum(found.values()), differed=found.get(True, 0))


def _groups(connection: Connection, ids: Sequence[int]) -> dict[int, str | None]:
    """Returns how attempts failed, by their ids."""
    query = select(ATTEMPTS.c.id, ATTEMPTS.c.outcome)
    return {
        row.id: cause_group(row.outcome)
        for some in portions(ids)
        for row in connection.execute(query.where(ATTEMPTS.c.id.in_(some)))
    }


def _verdict(row: AnyRow) -> KnownVerdict:
    outcome: Passed | Failed | Skipped = row.outcome
    key = revision_of(row)
    reused = Reused(**key.model_dump(), round=row.round, attempt=row.attempt, ended_at=row.ended_at)
    evidence = outcome.evidence.model_copy(update={"reused": reused})
    return KnownVerdict(outcome=outcome.model_copy(update={"evidence": evidence}), log=row.log_key)
