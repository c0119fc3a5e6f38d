"""Which verdicts hold for jobs with the same inputs, and how often that was wrong."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime

from sqlalchemy import Column, ColumnElement, Connection, and_, func, literal, select

from opam_ci.clients.index.engine import Connected, portions, reading
from opam_ci.clients.index.rows import AnyRow, job_of, revision_of
from opam_ci.clients.index.schema import ATTEMPTED, ATTEMPTS, JOB_COLUMNS, JOBS, KEY_COLUMNS
from opam_ci.core.classify.positive_proofs import KNOWN_FAILURE
from opam_ci.core.jobs.job import Job
from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.jobs.outcome import (
    Failed,
    FailedWithout,
    FailureReason,
    Passed,
    Reused,
    Skipped,
)
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.pages.causes import cause_group
from opam_ci.core.printable import clip, flat
from opam_ci.core.reuse.settled import MAX_AGE, Attempted, Audits, settled
from opam_ci.core.text.result import reason_line

_PROVING = (Standing.PASSED, Standing.FAILED, Standing.SKIPPED)
_WHY = func.coalesce(ATTEMPTS.c.failure_reason, ATTEMPTS.c.skip_reason, "")
_LABEL = func.trim(ATTEMPTS.c.standing + literal(" ") + _WHY)
"""The same as `KnownVerdict.label` of the verdict."""
_REUSED = ATTEMPTS.c.outcome["evidence", "reused", "head"].as_string()
_BUILT = and_(
    ATTEMPTS.c.outcome["evidence", "rule"].as_string() != KNOWN_FAILURE, _REUSED.is_(None)
)
"""Not so of a job that ended since a dependency is known to fail, or with the verdict of another
one that had the same solution: its verdict is not used for other jobs."""
_HAS_KEY = and_(JOBS.c.plan_key.is_not(None), ATTEMPTS.c.verdict_key.is_not(None))
"""As the partial index by names has it."""
_MOST_KNOWN = 3
"""Verdicts that go with a job, each some hundred bytes: it had as many solutions lately."""

_LINE = 200
"""Characters of the reason of a failure: each job that shows it has a copy."""


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
        with reading(self._engine) as connection:
            holding = _holding(connection, keys, image, now)
            rows = _read(connection, {each.id for each in holding.values()})
            verdicts = {row.id: _verdict(row) for row in rows}
            return {key: verdicts[each.id] for key, each in holding.items()}

    def failing(self, keys: Collection[str], image: str, now: datetime) -> dict[str, FailedWithout]:
        """Returns the failures among the verdicts that hold for jobs with some plan keys.

        Args:
            keys: The keys.
            image: Fingerprint of the image that the jobs would run in.
            now: The time.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        # Most are of jobs that pass, and have many attempts.
        failed = (
            select(JOBS.c.plan_key)
            .select_from(JOBS.join(ATTEMPTS))
            .where(ATTEMPTS.c.standing == Standing.FAILED)
            .distinct()
        )
        with reading(self._engine) as connection:
            suspects = [
                key
                for some in portions(sorted(keys))
                for key in connection.scalars(failed.where(JOBS.c.plan_key.in_(some)))
            ]
            holding = {
                key: each.id
                for key, each in _holding(connection, suspects, image, now).items()
                if each.standing is Standing.FAILED
            }
            failures = {
                row.id: FailedWithout(
                    **dict(_ran(row)),
                    line=clip(flat(reason_line(row.outcome)), _LINE),
                )
                for row in _read(connection, set(holding.values()))
            }
            return {key: failures[attempt] for key, attempt in holding.items()}


def known_verdicts(
    connection: Connection, jobs: Iterable[Job], now: datetime
) -> dict[str, dict[str, KnownVerdict]]:
    """Returns the verdicts that hold for jobs if they come to have the same solution.

    Not by image: a verdict key has that in it, so that a worker with another one finds none.

    Args:
        connection: Where to read.
        jobs: The jobs.
        now: The time.

    Returns:
        For the id of each plain job that has some: the newest, by verdict key, `_MOST_KNOWN` at
        most.
    """
    plain = {same.id: job.plain.id for job in jobs for same in job.alike}
    by_key: dict[tuple[str, str], list[Attempted]] = defaultdict(list)
    for row, each in _attempts(connection, JOBS.c.name, plain, _HAS_KEY, now):
        by_key[plain[row.name], row.verdict_key].append(each)
    found: dict[str, list[tuple[str, Attempted]]] = defaultdict(list)
    for (job, key), some in by_key.items():
        if (holding := settled(some, some[0].image, now)) is not None:
            found[job].append((key, holding))
    newest = {
        job: sorted(some, key=lambda each: (each[1].ended_at, each[1].id))[-_MOST_KNOWN:]
        for job, some in found.items()
    }
    ids = [each.id for some in newest.values() for _, each in some]
    verdicts = {row.id: _verdict(row) for row in _read(connection, ids)}
    return {job: {key: verdicts[each.id] for key, each in some} for job, some in newest.items()}


def _attempts(
    connection: Connection,
    column: Column[str],
    values: Collection[str],
    condition: ColumnElement[bool],
    now: datetime,
) -> list[tuple[AnyRow, Attempted]]:
    """Reads the attempts that prove something, with the keys and the name of their jobs.

    Args:
        connection: Where to read.
        column: Of their jobs.
        values: What that is.
        condition: What holds as well.
        now: The time.
    """
    keys = (JOBS.c.plan_key, JOBS.c.name, ATTEMPTS.c.verdict_key)
    columns = (ATTEMPTS.c[name] for name in ("id", "standing", "image", "ended_at"))
    query = (
        select(*keys, _WHY.label("why"), *columns)
        .select_from(JOBS.join(ATTEMPTS))
        .where(
            ATTEMPTS.c.standing.in_(_PROVING),
            ATTEMPTS.c.ended_at >= now - MAX_AGE,
            condition,
            _BUILT,
        )
    )
    found: list[tuple[AnyRow, Attempted]] = []
    for some in portions(sorted(values)):
        rows = connection.execute(query.where(column.in_(some))).all()
        failed = [row.id for row in rows if row.standing == Standing.FAILED]
        alike = _groups(connection, failed)
        for row in rows:
            known = Attempted.model_validate(row, from_attributes=True)
            found.append((row, known.model_copy(update={"alike": alike.get(row.id)})))
    return found


def _holding(
    connection: Connection, keys: Collection[str], image: str, now: datetime
) -> dict[str, Attempted]:
    """Finds the attempts whose verdicts hold for jobs with some plan keys, by the key."""
    # In an earlier round the job may have had another key.
    same = ATTEMPTS.c.round == JOBS.c.round
    by_key: dict[str, dict[int, Attempted]] = defaultdict(dict)
    for row, each in _attempts(connection, JOBS.c.plan_key, keys, same, now):
        by_key[row.plan_key][each.id] = each
    for key, each in _of_solutions(connection, keys, now):
        by_key[key][each.id] = each
    found = {key: settled(some.values(), image, now) for key, some in by_key.items()}
    return {key: each for key, each in found.items() if each is not None}


def _of_solutions(
    connection: Connection, keys: Collection[str], now: datetime
) -> Iterator[tuple[str, Attempted]]:
    """Finds attempts with solutions for which jobs took a verdict, by the plan keys of these jobs.

    Jobs with the same plan key have the same solution, so its verdict is theirs without solving.
    """
    took = (
        select(JOBS.c.plan_key, ATTEMPTS.c.verdict_key, *JOB_COLUMNS)
        .select_from(JOBS.join(ATTEMPTS))
        .where(ATTEMPTS.c.round == JOBS.c.round, _HAS_KEY, _REUSED.is_not(None))
    )
    plan_keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    for some in portions(sorted(keys)):
        for row in connection.execute(took.where(JOBS.c.plan_key.in_(some))):
            for same in job_of(row).alike:
                plan_keys[same.id, row.verdict_key].add(row.plan_key)
    names = {name for name, _ in plan_keys}
    for row, each in _attempts(connection, JOBS.c.name, names, _HAS_KEY, now):
        for key in plan_keys.get((row.name, row.verdict_key), ()):
            yield key, each


def _read(connection: Connection, ids: Iterable[int]) -> Iterator[AnyRow]:
    """Reads attempts, each with its job and testing."""
    names = ("id", "round", "outcome", "log_key", "ended_at")
    columns = (*KEY_COLUMNS, *JOB_COLUMNS, ATTEMPTS.c.number.label("attempt"))
    query = select(*columns, *(ATTEMPTS.c[name] for name in names)).select_from(ATTEMPTED)
    for some in portions(ids):
        yield from connection.execute(query.where(ATTEMPTS.c.id.in_(some)))


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
    evidence = outcome.evidence.model_copy(update={"reused": _ran(row)})
    return KnownVerdict(outcome=outcome.model_copy(update={"evidence": evidence}), log=row.log_key)


def _ran(row: AnyRow) -> Reused:
    ran = {name: getattr(row, name) for name in ("round", "attempt", "ended_at")}
    return Reused(**revision_of(row).model_dump(), **ran, job=job_of(row))
