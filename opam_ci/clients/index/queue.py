"""The list of jobs: planned, taken, counted, restarted and cancelled."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import and_, func, literal_column, or_, select, true

from opam_ci.clients.index.baseline import Compared, PassedJob, compare, fixes, passed
from opam_ci.clients.index.changing import (
    conclude,
    decide,
    decide_each,
    queue_again,
    reuse,
    skipped_everywhere,
)
from opam_ci.clients.index.engine import portions, reading, writing
from opam_ci.clients.index.estimates import drop_estimate
from opam_ci.clients.index.page_testing import find_testing
from opam_ci.clients.index.paging import parse_cursor, parse_number
from opam_ci.clients.index.rows import AnyRow, job_of, queued_row
from opam_ci.clients.index.schema import JOBS
from opam_ci.clients.index.selecting import cancelled, candidates, restarted
from opam_ci.clients.index.standings import standings
from opam_ci.clients.index.verdicts import known_verdicts
from opam_ci.clients.index.waivers import Waivers
from opam_ci.clients.index.write import QUEUED, find_revision, insert_queued, locked_revision
from opam_ci.core.batched import batched
from opam_ci.core.jobs.early_stop import Seen, early_stop
from opam_ci.core.jobs.hold import Hold
from opam_ci.core.jobs.job import REVDEP_KINDS, Job, JobKind
from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.jobs.messages import (
    ChangeJobs,
    ConcludeJobs,
    CountJobs,
    EarlyStops,
    JobPage,
    QueuedJob,
    SettleJobs,
    StopEarly,
    TakeJobs,
)
from opam_ci.core.jobs.outcome import Cancelled, FailedWithout, Outcome, SkipReason
from opam_ci.core.jobs.plan import PlannedJob, outcome_after
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.selector import RestartOrigin, RestartSelector, Taken
from opam_ci.core.jobs.summary import UNDECIDED, PlatformStanding, Standing

_WRITTEN_AT_ONCE = 1_000
"""Jobs in one transaction: other writers wait for less than a tenth of a second."""

_CONCLUDED_AT_ONCE = 20
"""Packages in one transaction, each with a build on some ten platforms."""

_FIRST_AT_MOST = 1_000
"""Failures of the previous head that run first: where more fail, their order hardly matters."""

_JOB = ("platform", "package", "kind", "revdep")
_QUEUED = ("id", "rank", *_JOB, "round", "restart_budget_used", "needs", "audits")
_NEEDED = (*_JOB, "standing", "outcome")


class JobQueue(Waivers):
    """The part of the index that workflows use. Every method is idempotent.

    The row of an analysis belongs to the workflow of its pull request: nothing here counts or
    changes it.
    """

    def plan(
        self,
        key: RevisionKey,
        jobs: Iterable[PlannedJob],
        *,
        round_: int,
        origin: RestartOrigin | None,
        at: datetime,
    ) -> None:
        """Adds queued jobs; one that was decided in an earlier round is queued again.

        Those with a verdict already have it at once: nobody sees them queued.

        Args:
            key: The testing.
            jobs: Which, each once.
            round_: In which round they run.
            origin: Who requested the restart, None for a first plan.
            at: When.

        Raises:
            InfrastructureError: The index cannot be written; some jobs may be there already.
        """
        same = {name: value for name, value in QUEUED.items() if value is not None}
        common = {**same, "round": round_, "restart_budget_used": 0, "updated_at": at}
        charge = 0 if origin is None else origin.charged(0)
        for some in batched(jobs, _WRITTEN_AT_ONCE):
            with writing(self._engine) as connection:
                revision_id = locked_revision(connection, key, at)
                if origin is not None and origin.is_manual:
                    drop_estimate(connection, revision_id, at)
                rows = [queued_row(revision_id, each, **common) for each in some]
                insert_queued(connection, rows, charge=charge)
                known = {each.job.id: each.verdict for each in some if each.verdict is not None}
                reuse(connection, revision_id, known, round_=round_, at=at)

    def failed_before(self, key: RevisionKey, platform: str) -> frozenset[str]:
        """Reads which reverse dependencies failed at the previous head of the pull request.

        Not those that fail on the base, too. Of very many, some.

        Args:
            key: The testing.
            platform: Where.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            testing = find_testing(connection, key)
            if testing is None or testing.previous_id is None:
                return frozenset()
            query = select(JOBS.c.revdep).where(
                JOBS.c.revision_id == testing.previous_id,
                JOBS.c.platform == platform,
                JOBS.c.standing == Standing.FAILED,
                JOBS.c.kind.in_(sorted(REVDEP_KINDS)),
            )
            return frozenset(connection.scalars(query.order_by(JOBS.c.id).limit(_FIRST_AT_MOST)))

    def take(
        self, given: TakeJobs, hold: Hold | None = None, now: datetime | None = None
    ) -> JobPage:
        """Returns a platform's queued jobs in the order in which they run.

        Args:
            given: Which.
            hold: Why some kinds of them are left out; None if none are.
            now: The time, if verdicts that they may turn out to have are wanted.

        Raises:
            UsageError: `after` is not a cursor that a page returned.
            InfrastructureError: The index cannot be read.
        """
        rank, last = (-1, 0) if given.after is None else parse_cursor(given.after, parse_number)
        needed = JOBS.alias("needed")
        needs = and_(needed.c.revision_id == JOBS.c.revision_id, needed.c.name == JOBS.c.needs)
        own = (JOBS.c[name] for name in _QUEUED)
        held = hold.keeps(is_first_platform=given.is_first_platform) if hold else frozenset()
        query = (
            select(*own, *(needed.c[name].label(f"needed_{name}") for name in _NEEDED))
            .select_from(JOBS.outerjoin(needed, needs))
            .where(
                JOBS.c.platform == given.platform,
                # A literal: for a parameter no partial index is chosen.
                JOBS.c.standing == literal_column("'queued'"),
                JOBS.c.kind.not_in({JobKind.ANALYSIS} | held),
                # The first of them is a range of the index; `(rank, id) > (…)` is none on SQLite.
                JOBS.c.rank >= rank,
                or_(JOBS.c.rank > rank, JOBS.c.id > last),
            )
            .order_by(JOBS.c.rank, JOBS.c.id)
            .limit(given.limit + 1)
        )
        with reading(self._engine) as connection:
            of = JOBS.c.revision_id == find_revision(connection, given.key)
            found = connection.execute(query.where(of)).all()
            jobs = found[: given.limit]
            # A restart runs its jobs, and so does what is to be compared.
            free = [row for row in jobs if row.round == 1 and row.audits is None]
            plain = {row.id: job_of(row).plain for row in free} if given.reuse and now else {}
            known = known_verdicts(connection, plain.values(), now) if now else {}
        following = f"{jobs[-1].rank}/{jobs[-1].id}" if len(found) > given.limit else None
        page = tuple(
            _queued_job(row, known.get(plain[row.id].id, {}) if row.id in plain else {})
            for row in jobs
        )
        return JobPage(jobs=page, following=following, hold=hold)

    def count(self, given: CountJobs) -> tuple[PlatformStanding, ...]:
        """Counts the jobs of platforms, and reads the rows that explain their standing.

        Each of the platforms has a standing, also one without jobs.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            revision_id = find_revision(connection, given.key)
            return standings(connection, revision_id, given.platforms, given.excluding)

    def requeue(self, given: ChangeJobs, at: datetime) -> Taken:
        """Queues decided jobs again: those selected, and what belongs to them.

        Jobs whose outcome only followed from a job that is taken run again, and so does a job
        that the CI lost and that a taken one needs. Jobs of that round were taken by an earlier
        call for the same restart. Jobs that wait for their retry are counted, and left to the
        workflow that runs them.

        Args:
            given: Which; the head is not compared. The round is higher than that of any job of
                the testing, and the same for a repeated call.
            at: When.

        Raises:
            InfrastructureError: The index cannot be written; call again for the rest.
        """
        selector = given.selector
        if not isinstance(selector, RestartSelector):
            raise TypeError("a restart needs a RestartSelector")
        with reading(self._engine) as connection:
            ids, taken = restarted(candidates(connection, given.key), given, selector)
        charge = selector.origin.charged(0)
        for some in portions(() if given.preview else ids):
            with writing(self._engine) as connection:
                revision_id = locked_revision(connection, given.key, at)
                if selector.origin.is_manual:
                    drop_estimate(connection, revision_id, at)
                queue_again(connection, some, round_=given.round, charge=charge, at=at)
        return taken

    def cancel(self, given: ChangeJobs, at: datetime) -> Taken:
        """Cancels queued jobs; running ones are counted, and left to the workflow that runs them.

        Args:
            given: Which; the head is not compared.
            at: When; the same for a repeated call, which then takes the same jobs.

        Raises:
            InfrastructureError: The index cannot be written; call again for the rest.
        """
        with reading(self._engine) as connection:
            ids, taken = cancelled(candidates(connection, given.key), given, at)
        if not given.preview:
            queued = frozenset({Standing.QUEUED})
            self._decide(given.key, ids, Cancelled(by=given.by), at, queued)
        return taken

    def settle(self, given: SettleJobs, at: datetime) -> None:
        """Gives all undecided jobs an outcome.

        Raises:
            InfrastructureError: The index cannot be written; call again for the rest.
        """
        query = select(JOBS.c.id).where(
            JOBS.c.kind != JobKind.ANALYSIS,
            JOBS.c.standing.in_(UNDECIDED),
            true() if given.platforms is None else JOBS.c.platform.in_(given.platforms),
        )
        with reading(self._engine) as connection:
            of = JOBS.c.revision_id == find_revision(connection, given.key)
            ids = connection.scalars(query.where(of).order_by(JOBS.c.id)).all()
        self._decide(given.key, ids, given.outcome, at, UNDECIDED)

    def stop_early(self, given: StopEarly, at: datetime) -> EarlyStops:
        """Skips queued reverse dependencies of packages for which enough others fail alike.

        Restarted jobs are not skipped.

        Raises:
            InfrastructureError: The index cannot be written; call again for the rest.
        """
        of_revdeps = and_(JOBS.c.platform == given.platform, JOBS.c.kind.in_(sorted(REVDEP_KINDS)))
        alike = (JOBS.c.package, JOBS.c.standing, JOBS.c.skip_reason, JOBS.c.cause_group)
        with reading(self._engine) as connection:
            mine = and_(JOBS.c.revision_id == find_revision(connection, given.key), of_revdeps)
            seen: dict[str, list[Seen]] = defaultdict(list)
            for package, standing, why, group, number in connection.execute(
                select(*alike, func.count()).where(mine).group_by(*alike)
            ):
                reason = None if why is None else SkipReason(why)
                seen[package].append(Seen(Standing(standing), reason, group, number))
            outcomes = {
                package: outcome
                for package, some in seen.items()
                if (outcome := early_stop(some)) is not None
            }
            queued = select(JOBS.c.package, JOBS.c.id).where(
                mine,
                JOBS.c.package.in_(sorted(outcomes)),
                JOBS.c.standing == Standing.QUEUED,
                JOBS.c.round == 1,
            )
            ids: dict[str, list[int]] = defaultdict(list)
            for package, job in connection.execute(queued.order_by(JOBS.c.id)):
                ids[package].append(job)
        for package, some_ids in ids.items():
            self._decide(given.key, some_ids, outcomes[package], at, frozenset({Standing.QUEUED}))
        return EarlyStops(outcomes=outcomes)

    def serve(self, key: RevisionKey, outcomes: Mapping[str, Outcome], at: datetime) -> None:
        """Decides the jobs that say whether a worker serves a platform, where there are any.

        Args:
            key: The testing.
            outcomes: By name of the platform.
            at: When.

        Raises:
            InfrastructureError: The index cannot be written; call again for the rest.
        """
        query = select(JOBS.c.platform, JOBS.c.id).where(JOBS.c.kind == JobKind.PLATFORM)
        with reading(self._engine) as connection:
            of = JOBS.c.revision_id == find_revision(connection, key)
            ids = dict(connection.execute(query.where(of)).all())
        for platform in sorted(ids.keys() & outcomes.keys()):
            self._decide(key, [ids[platform]], outcomes[platform], at, frozenset(Standing))

    def conclude(self, given: ConcludeJobs, at: datetime) -> bool:
        """Decides which packages can be installed nowhere; see `core/jobs/installable.py`.

        While a platform is not served, that is unknown of all.

        Returns:
            Whether that changed jobs.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        with reading(self._engine) as connection:
            packages = skipped_everywhere(connection, find_revision(connection, given.key))
        changed = False
        for some in batched(packages, _CONCLUDED_AT_ONCE):
            with writing(self._engine) as connection:
                revision_id = locked_revision(connection, given.key, at)
                changed |= conclude(connection, revision_id, some, given.unavailable, at)
        return changed

    def compare(self, key: RevisionKey, there: frozenset[str], at: datetime) -> Compared:
        """Compares failures with the same jobs on the base; see `core/jobs/baseline.py`.

        Those that are waived are skipped before, and need no job on the base.

        Args:
            key: The testing.
            there: Packages of the change that the base has, too.
            at: When.

        Raises:
            InfrastructureError: The index cannot be written; call again for the rest.
        """
        has_waived = self.waive(key, at)
        with reading(self._engine) as connection:
            revision_id = find_revision(connection, key)
            verdicts, missing = compare(connection, revision_id, there)
        self.decide_failed(key, verdicts, at)
        return Compared(changed=has_waived or bool(verdicts), missing=missing)

    def passed(self, key: RevisionKey, there: frozenset[str]) -> tuple[PassedJob, ...]:
        """Returns the jobs of a testing that passed, and may be known to fail without the change.

        Args:
            key: The testing.
            there: Packages of the change that the base has, too.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            return passed(connection, find_revision(connection, key), there)

    def mark_fixed(
        self, key: RevisionKey, failing: Mapping[str, FailedWithout], at: datetime
    ) -> bool:
        """Writes down which jobs of a testing pass that fail without the change.

        Args:
            key: The testing.
            failing: How they fail, by the id of the job.
            at: When.

        Returns:
            Whether that changed jobs.

        Raises:
            InfrastructureError: The index cannot be written; call again for the rest.
        """
        has_changed = False
        for some in portions(failing):
            with writing(self._engine) as connection:
                revision_id = locked_revision(connection, key, at)
                verdicts = fixes(connection, revision_id, {each: failing[each] for each in some})
                decide_each(connection, JOBS.c.id, verdicts, at)
                has_changed |= bool(verdicts)
        return has_changed

    def _decide(
        self,
        key: RevisionKey,
        ids: Sequence[int],
        outcome: Outcome,
        at: datetime,
        standings: frozenset[Standing],
    ) -> None:
        for some in portions(ids):
            with writing(self._engine) as connection:
                locked_revision(connection, key, at)
                decide(connection, dict.fromkeys(some, outcome), at, standings)


def _queued_job(row: AnyRow, known: dict[str, KnownVerdict]) -> QueuedJob:
    inherited_outcome = None
    if row.needed_outcome is not None:
        needed = Job(**{name: getattr(row, f"needed_{name}") for name in _JOB})
        inherited_outcome = outcome_after(row.needed_outcome, needed)
    return QueuedJob(
        job=job_of(row),
        # 0 in rows of an older version, of which only an attempt was known.
        round=max(row.round, 1),
        restart_budget_used=row.restart_budget_used,
        needs=row.needs,
        waits=row.needed_standing in UNDECIDED,
        inherited_outcome=inherited_outcome,
        known_verdicts=known,
    )
