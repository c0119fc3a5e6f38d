"""Failures of a testing, compared with the same jobs on the base."""

from sqlalchemy import Connection, or_, select

from opam_ci.clients.index.engine import portions
from opam_ci.clients.index.rows import job_of
from opam_ci.clients.index.schema import JOBS
from opam_ci.core.jobs.baseline import FINAL, compared
from opam_ci.core.jobs.job import COMPARED_KINDS, REVDEP_KINDS, Job
from opam_ci.core.jobs.outcome import Outcome
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.model import Frozen
from opam_ci.core.pages.causes import is_alike


class Compared(Frozen):
    """What a comparison came to.

    Attributes:
        changed: Whether it changed jobs.
        missing: Jobs on the base that are needed, and that the testing does not have.
    """

    changed: bool
    missing: tuple[Job, ...] = ()


def compare(
    connection: Connection, revision_id: int | None, there: frozenset[str]
) -> tuple[dict[int, Outcome], tuple[Job, ...]]:
    """Finds verdicts on failures of a testing, by the job's id, and jobs on the base to be run.

    Args:
        connection: Where to read.
        revision_id: The testing.
        there: Packages of the change that the base has, too.
    """
    query = select(JOBS).where(
        JOBS.c.revision_id == revision_id,
        JOBS.c.standing == Standing.FAILED,
        or_(
            JOBS.c.kind.in_(sorted(REVDEP_KINDS)),
            JOBS.c.kind.in_(sorted(COMPARED_KINDS)) & JOBS.c.package.in_(sorted(there)),
        ),
    )
    failed = {
        row: on_base
        for row in connection.execute(query)
        if row.outcome.evidence.on_base not in FINAL
        and (on_base := job_of(row).on_base) is not None
    }
    wanted = {on_base.id: on_base for on_base in failed.values()}
    found: dict[str, Outcome | None] = {}
    for some in portions(tuple(wanted)):
        known = select(JOBS.c.name, JOBS.c.outcome)
        known = known.where(JOBS.c.revision_id == revision_id, JOBS.c.name.in_(some))
        found |= dict(connection.execute(known).all())
    verdicts: dict[int, Outcome] = {}
    for row, on_base in failed.items():
        base = found.get(on_base.id)
        if base is None:
            continue
        verdict = compared(row.outcome, base, alike=is_alike(row.outcome, base))
        if verdict != row.outcome:
            verdicts[row.id] = verdict
    return verdicts, tuple(job for name, job in wanted.items() if name not in found)
