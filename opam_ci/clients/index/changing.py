"""Changes of decided and undecided jobs by the index itself.

Each makes a row's sequence one higher: what a workflow wrote before does not come back, and what it
writes of a later attempt or round stands.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, func, select, update

from opam_ci.clients.index.engine import portions
from opam_ci.clients.index.rows import AnyRow, job_of, outcome_row
from opam_ci.clients.index.schema import ATTEMPTS, JOB_COLUMNS, JOBS
from opam_ci.clients.index.write import DECIDED, QUEUED
from opam_ci.core.outcome import Outcome
from opam_ci.core.plan import follows, outcome_after
from opam_ci.core.summary import Standing

_CHANGED = (*JOB_COLUMNS, JOBS.c.id, JOBS.c.round, JOBS.c.attempt, JOBS.c.standing)


def queue_again(
    connection: Connection, ids: Sequence[int], *, round_: int, charge: int, at: datetime
) -> None:
    """Queues decided jobs of earlier rounds.

    Args:
        connection: In a transaction.
        ids: Which, as many as a statement takes.
        round_: In which round they run.
        charge: What a restart takes of a job's budget; 0 makes the budget whole again.
        at: When.
    """
    automatic = JOBS.c.automatic + charge if charge else 0
    connection.execute(
        update(JOBS)
        .where(JOBS.c.id.in_(ids), JOBS.c.round < round_, JOBS.c.standing.in_(DECIDED))
        .values(**QUEUED, round=round_, automatic=automatic, updated_at=at)
    )


def decide(
    connection: Connection,
    outcomes: Mapping[int, Outcome],
    at: datetime,
    standings: frozenset[Standing],
) -> list[AnyRow]:
    """Gives jobs outcomes, and the attempts that they are of: what is under way ends.

    Args:
        connection: In a transaction that has locked their testings.
        outcomes: By the id of the job.
        at: When.
        standings: Jobs that stand otherwise are left alone.

    Returns:
        The jobs that have changed, as they were.
    """
    rows: list[AnyRow] = []
    for some in portions(tuple(outcomes)):
        query = select(*_CHANGED).where(JOBS.c.id.in_(some), JOBS.c.standing.in_(standings))
        rows += connection.execute(query)
    columns = [
        {
            "b_id": row.id,
            "b_round": row.round,
            "b_attempt": row.attempt,
            "b_standing": row.standing,
            "b_at": at,
            **outcome_row(outcomes[row.id]),
            "standing": outcomes[row.id].kind,
            "follows": follows(outcomes[row.id]),
        }
        for row in rows
    ]
    if columns:
        connection.execute(_OF_JOB, columns)
    # Who ran an attempt, and how far it came, is known whatever is said of its job.
    unknown = {"worker", "phase", "follows"}
    tried = [
        {name: value for name, value in each.items() if name not in unknown}
        for each in columns
        if each["b_attempt"]
    ]
    if tried:
        connection.execute(_OF_ATTEMPT, tried)
    return rows


def give(connection: Connection, verdicts: Mapping[int, Outcome], at: datetime) -> None:
    """Gives decided jobs other outcomes, and what followed from them what follows now.

    Args:
        connection: In a transaction that has locked their testings.
        verdicts: By the id of the job; none of them passed.
        at: When.
    """
    needed = JOBS.alias("needed")
    needs = (needed.c.revision_id == JOBS.c.revision_id) & (needed.c.name == JOBS.c.needs)
    query = select(JOBS.c.id, needed.c.id).select_from(JOBS.join(needed, needs))
    while verdicts:
        changed = {row.id: job_of(row) for row in decide(connection, verdicts, at, DECIDED)}
        following: dict[int, Outcome] = {}
        for some in portions(tuple(changed)):
            for job, on in connection.execute(query.where(JOBS.c.follows, needed.c.id.in_(some))):
                if (outcome := outcome_after(verdicts[on], changed[on])) is not None:
                    following[job] = outcome
        verdicts = following


# Made once: to make them takes longer than to run them.
_OF_JOB = (
    update(JOBS)
    .where(JOBS.c.id == bindparam("b_id"))
    .values(
        sequence=JOBS.c.sequence + 1,
        decided_at=func.coalesce(
            JOBS.c.decided_at, bindparam("b_at", type_=JOBS.c.decided_at.type)
        ),
        next_attempt_at=None,
        updated_at=bindparam("b_at", type_=JOBS.c.updated_at.type),
    )
)
_OF_ATTEMPT = (
    update(ATTEMPTS)
    .where(
        ATTEMPTS.c.job_id == bindparam("b_id"),
        ATTEMPTS.c.round == bindparam("b_round"),
        ATTEMPTS.c.number == bindparam("b_attempt"),
        # One that was lost stays lost, whatever becomes of a job that waits for another one.
        ATTEMPTS.c.standing == bindparam("b_standing"),
    )
    .values(
        sequence=ATTEMPTS.c.sequence + 1,
        ended_at=func.coalesce(
            ATTEMPTS.c.ended_at, bindparam("b_at", type_=ATTEMPTS.c.ended_at.type)
        ),
    )
)
