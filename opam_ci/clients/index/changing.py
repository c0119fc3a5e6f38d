"""Changes of decided and undecided jobs by the index itself, which has the rows of all platforms.

Each increments a row's sequence: an older record of a workflow does not overwrite it, and one of a
later attempt or round does.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    and_,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    update,
)

from opam_ci.clients.index.engine import portions
from opam_ci.clients.index.rows import Values, job_of, job_outcome_row, job_status, outcome_row
from opam_ci.clients.index.schema import ATTEMPTS, JOB_COLUMNS, JOBS, Instant
from opam_ci.clients.index.write import QUEUED
from opam_ci.core.jobs.installable import NOT_INSTALLABLE_TEXT, Unavailable, installable_nowhere
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.jobs.outcome import FailureReason, Outcome, SkipReason
from opam_ci.core.jobs.plan import outcome_after
from opam_ci.core.jobs.summary import DECIDED, Standing

_AT = bindparam("at", type_=Instant)
_IDS = bindparam("ids", type_=Integer, expanding=True)
_CHOSEN = and_(JOBS.c.id.in_(_IDS), JOBS.c.standing.in_(bindparam("standings", expanding=True)))

# Made once: making them takes longer than running them.
_OF_JOB = (
    update(JOBS)
    .where(_CHOSEN)
    .values(
        decided_at=func.coalesce(JOBS.c.decided_at, _AT),
        next_attempt_at=None,
        updated_at=_AT,
        sequence=JOBS.c.sequence + 1,
    )
    .returning(JOBS.c.id, *JOB_COLUMNS)
)
_OF_ATTEMPT = (
    update(ATTEMPTS)
    .where(
        ATTEMPTS.c.job_id.in_(_IDS),
        exists().where(
            _CHOSEN,
            ATTEMPTS.c.job_id == JOBS.c.id,
            ATTEMPTS.c.round == JOBS.c.round,
            ATTEMPTS.c.number == JOBS.c.attempt,
            # An attempt that was lost stays lost, also where its job waits for another one.
            ATTEMPTS.c.standing == JOBS.c.standing,
        ),
    )
    .values(
        ended_at=func.coalesce(ATTEMPTS.c.ended_at, _AT),
        sequence=ATTEMPTS.c.sequence + 1,
    )
)


def queue_again(
    connection: Connection, ids: Sequence[int], *, round_: int, charge: int, at: datetime
) -> None:
    """Queues decided jobs of earlier rounds.

    Args:
        connection: In a transaction.
        ids: Which, as many as fit into a statement.
        round_: In which round they run.
        charge: Cost of the restart in a job's budget; 0 resets the budget.
        at: When.
    """
    restart_budget_used = JOBS.c.restart_budget_used + charge if charge else 0
    connection.execute(
        update(JOBS)
        .where(JOBS.c.id.in_(ids), JOBS.c.round < round_, JOBS.c.standing.in_(DECIDED))
        .values(**QUEUED, round=round_, restart_budget_used=restart_budget_used, updated_at=at)
    )


def reuse(
    connection: Connection,
    revision_id: int,
    verdicts: Mapping[str, KnownVerdict],
    *,
    round_: int,
    at: datetime,
) -> None:
    """Gives queued jobs the verdicts of jobs with the same inputs.

    Args:
        connection: In a transaction that has locked the testing.
        revision_id: The testing.
        verdicts: By the name of the job.
        round_: The round in which they were queued.
        at: When.
    """
    decide_each(
        connection,
        JOBS.c.name,
        # Not with the other's log, which goes with its own testing.
        {name: each.outcome for name, each in verdicts.items()},
        at,
        JOBS.c.revision_id == revision_id,
        JOBS.c.standing == Standing.QUEUED,
        JOBS.c.round == round_,
        decided_at=at,
    )


def decide_each(
    connection: Connection,
    by: ColumnElement[Any],
    outcomes: Mapping[Any, Outcome],
    at: datetime,
    *of: ColumnElement[bool],
    **values: object,
) -> None:
    """Gives each of some jobs an outcome of its own, and leaves their attempts.

    Args:
        connection: In a transaction that has locked their testing.
        by: The column that identifies a job.
        outcomes: By its value.
        at: When.
        of: Only jobs that meet these conditions are changed.
        values: Other columns that all of them get.
    """
    rows = {
        key: {"standing": outcome.kind, **job_outcome_row(outcome)}
        for key, outcome in outcomes.items()
    }
    if not rows:
        return
    # Parameters cannot have the names of columns that the statement sets.
    names = next(iter(rows.values()))
    changed: Values = {name: bindparam(f"new_{name}") for name in names}
    statement = update(JOBS).where(by == bindparam("job"), *of)
    connection.execute(
        statement.values(**changed, **values, updated_at=at, sequence=JOBS.c.sequence + 1),
        [
            {"job": key, **{f"new_{name}": value for name, value in row.items()}}
            for key, row in rows.items()
        ],
    )


def decide(
    connection: Connection,
    outcomes: Mapping[int, Outcome],
    at: datetime,
    standings: frozenset[Standing],
) -> dict[int, Job]:
    """Gives jobs outcomes, and ends their current attempts with them.

    Args:
        connection: In a transaction that has locked their testings.
        outcomes: By the id of the job. Jobs that share one are written together.
        at: When.
        standings: Only jobs with one of these are changed.

    Returns:
        The changed jobs.
    """
    sharing: dict[int, list[int]] = defaultdict(list)
    for job, outcome in outcomes.items():
        sharing[id(outcome)].append(job)
    changed: dict[int, Job] = {}
    for some in chain.from_iterable(map(portions, sharing.values())):
        outcome = outcomes[some[0]]
        given = {"standing": outcome.kind, "ids": some, "at": at, "standings": sorted(standings)}
        of_attempt = outcome_row(outcome)
        # An attempt keeps its own worker and phase.
        del of_attempt["worker"], of_attempt["phase"]
        connection.execute(_OF_ATTEMPT, given | of_attempt)
        for row in connection.execute(_OF_JOB, given | job_outcome_row(outcome)):
            changed[row.id] = job_of(row)
    return changed


def rejudge(connection: Connection, verdicts: Mapping[int, Outcome], at: datetime) -> None:
    """Gives decided jobs other outcomes, and updates those that followed from them.

    Args:
        connection: In a transaction that has locked their testings.
        verdicts: By the id of the job; none of them passed.
        at: When.
    """
    needed = JOBS.alias("needed")
    needs = and_(needed.c.revision_id == JOBS.c.revision_id, needed.c.name == JOBS.c.needs)
    query = select(JOBS.c.id, needed.c.id).select_from(JOBS.join(needed, needs))
    while verdicts:
        changed = decide(connection, verdicts, at, DECIDED)
        then = {job: outcome_after(verdicts[job], changed[job]) for job in changed}
        verdicts = {
            job: outcome
            for some in portions(tuple(changed))
            for job, on in connection.execute(query.where(JOBS.c.follows, needed.c.id.in_(some)))
            if (outcome := then[on]) is not None
        }


def skipped_everywhere(connection: Connection, revision_id: int | None) -> Sequence[str]:
    """Finds packages of which no build has an outcome that proves them installable.

    None if there is a platform that no worker served: they may be installable there.
    """
    unserved = select(JOBS.c.id).where(
        JOBS.c.revision_id == revision_id, JOBS.c.skip_reason == SkipReason.NOT_SERVED
    )
    proven = or_(
        JOBS.c.skip_reason.in_(NOT_INSTALLABLE_TEXT),
        JOBS.c.failure_reason == FailureReason.NOT_INSTALLABLE,
    )
    skipped = JOBS.c.standing == Standing.SKIPPED
    query = (
        select(JOBS.c.package)
        .where(
            JOBS.c.revision_id == revision_id,
            JOBS.c.kind == JobKind.BUILD,
            ~unserved.exists(),
        )
        .group_by(JOBS.c.package)
        .having(
            func.min(case((proven, 1), else_=0)) == 1, func.max(case((skipped, 1), else_=0)) == 1
        )
        .order_by(func.min(JOBS.c.id))
    )
    return connection.scalars(query).all()


def conclude(
    connection: Connection,
    revision_id: int,
    packages: Sequence[str],
    unavailable: Unavailable,
    at: datetime,
) -> bool:
    """Gives their verdict to the builds of packages that no platform can install.

    Args:
        connection: In a transaction that has locked the testing.
        revision_id: The testing.
        packages: Some packages.
        unavailable: The outcome of packages that are available on no platform.
        at: When.

    Returns:
        Whether that changed jobs.
    """
    builds = and_(JOBS.c.revision_id == revision_id, JOBS.c.kind == JobKind.BUILD)
    query = select(JOBS).where(builds, JOBS.c.package.in_(packages))
    rows = {row.name: row for row in connection.execute(query)}
    verdicts = {
        rows[job.id].id: outcome
        for job, outcome in installable_nowhere(map(job_status, rows.values()), unavailable)
    }
    rejudge(connection, verdicts, at)
    return bool(verdicts)
