"""Pages of heads, pull requests and packages, each read as of one moment."""

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cmp_to_key

from sqlalchemy import ColumnElement, Connection, Engine, distinct, func, or_, select

from opam_ci.clients.index.engine import reading
from opam_ci.clients.index.filters import RevisionFilter, revision_condition
from opam_ci.clients.index.incidents import read_incident
from opam_ci.clients.index.page_causes import read_causes
from opam_ci.clients.index.page_estimate import Estimating
from opam_ci.clients.index.page_filters import (
    failed_before,
    missing_in,
    named,
    page_condition,
)
from opam_ci.clients.index.page_jobs import JobPages
from opam_ci.clients.index.page_matrix import read_matrix, read_revdeps, revdep_rows
from opam_ci.clients.index.page_testing import (
    RECORD_COLUMNS,
    Changed,
    Testing,
    find_testing,
    read_heads,
    read_summary,
    read_tallies,
    version_of,
)
from opam_ci.clients.index.paging import Page, Place, page
from opam_ci.clients.index.rows import job_record, revision_of, revision_record
from opam_ci.clients.index.schema import (
    ATTEMPTS,
    HEADS,
    JOBS,
    KEY_COLUMNS,
    PULL_REQUESTS,
    REVISIONS,
    TESTED,
)
from opam_ci.core.errors import UsageError
from opam_ci.core.github.status import DEFAULT_CONTEXTS, Context, statuses
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.records import JobRecord, RevisionKey
from opam_ci.core.jobs.summary import DECIDED, FIXED, Counts, JobCount, Standing, total
from opam_ci.core.opam.version import compare
from opam_ci.core.pages.estimate import Estimate
from opam_ci.core.pages.filter import PageFilter
from opam_ci.core.pages.model import (
    ChangeClass,
    Changes,
    ContextState,
    HeadPage,
    HeadRef,
    HeadTop,
    HitIncident,
    Linked,
    PackageHistory,
    PackageVersion,
    PullRequestRow,
    RevdepRow,
)
from opam_ci.core.text.sentence import SENTENCE_LIMIT, sentence

_START = Place()
_OPEN = RevisionFilter(is_open=True)
_SHORTEST = 7
"""Characters that a head may be shortened to."""

_COMMIT = re.compile(r"[0-9a-f]{1,64}")
_BUILDS = 2000
"""Builds in the history of a package at most, the newest."""

_PLANS = 1000
"""Comparisons of plans that are remembered."""

_LOST = (Standing.ERRORED, Standing.RETRYING)


class Pages(JobPages, Estimating):
    """The part of the index with pages. Each method reads all of a page as of one moment.

    Args:
        engine: To the database.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        # How many jobs are not planned in the previous testing: by both, and their numbers of jobs.
        # A plan only grows, and to compare two of fifty thousand jobs takes most of a page's time.
        self._new: dict[tuple[RevisionKey, HeadRef, int, int], int] = {}

    def find_head(
        self, repository: str, *, target: str | None = None, head: str | None = None
    ) -> RevisionKey | None:
        """Finds the newest testing of a pull request, a branch, or a head; None if there is none.

        Args:
            repository: `owner/name`.
            target: `pull/30203` or `heads/some-branch`; None for any.
            head: A commit, or at least 7 characters of its beginning; None for the newest.

        Raises:
            UsageError: It is not a commit, or its beginning is too short or that of several ones.
            InfrastructureError: The index cannot be read.
        """
        conditions: list[ColumnElement[bool]] = [PULL_REQUESTS.c.repository == repository]
        if target is not None:
            conditions.append(PULL_REQUESTS.c.target == target)
        if head is not None:
            if _COMMIT.fullmatch(head) is None or len(head) < _SHORTEST:
                raise UsageError(
                    f"not a commit: {head[:80]!r}: use {_SHORTEST} or more of its hexadecimal "
                    "digits"
                )
            # "g" follows every digit.
            conditions += [REVISIONS.c.head >= head, REVISIONS.c.head < f"{head}g"]
        newest = select(*KEY_COLUMNS).select_from(HEADS).where(*conditions)
        newest = newest.order_by(REVISIONS.c.opened_at.desc(), REVISIONS.c.id.desc()).limit(1)
        commits = select(REVISIONS.c.head).distinct().select_from(HEADS).where(*conditions)
        with reading(self._engine) as connection:
            if head is not None and len(connection.scalars(commits.limit(2)).all()) > 1:
                raise UsageError(f"several commits begin with {head}: use more of its digits")
            row = connection.execute(newest).one_or_none()
            return None if row is None else revision_of(row)

    def head_page(
        self,
        key: RevisionKey,
        *,
        contexts: tuple[Context, ...] = DEFAULT_CONTEXTS,
        maximum_attempts: int | None = None,
        now: datetime | None = None,
    ) -> HeadPage | None:
        """Returns the page of a testing; None if it is not in the index.

        Args:
            key: The testing.
            contexts: The contexts that are posted to GitHub.
            maximum_attempts: Attempts of a job, for "attempt k of n"; None if they are not known.
            now: The time, if it is not that of the clock.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            testing = find_testing(connection, key)
            if testing is None:
                return None
            top, tallies = self._top(connection, testing, contexts, maximum_attempts, now)
            return HeadPage(
                **dict(top),
                since=self._changes(connection, testing, tallies),
                incidents=_incidents(connection, testing.id, tallies),
                causes=read_causes(connection, testing),
                matrix=read_matrix(connection, testing.id, tallies),
                revdeps=read_revdeps(connection, testing.id, tallies),
            )

    def head_top(
        self,
        key: RevisionKey,
        *,
        contexts: tuple[Context, ...] = DEFAULT_CONTEXTS,
        maximum_attempts: int | None = None,
        now: datetime | None = None,
    ) -> HeadTop | None:
        """Returns what the page of a testing begins with, and reads no more; else as `head_page`.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            testing = find_testing(connection, key)
            if testing is None:
                return None
            return self._top(connection, testing, contexts, maximum_attempts, now)[0]

    def _top(
        self,
        connection: Connection,
        testing: Testing,
        contexts: tuple[Context, ...],
        maximum_attempts: int | None,
        now: datetime | None,
    ) -> tuple[HeadTop, Sequence[JobCount]]:
        """Reads what the pages of a testing begin with, and the numbers of its jobs."""
        tallies, changed = read_tallies(connection, testing)
        summary = read_summary(connection, testing, tallies)
        posted = statuses(summary, contexts=contexts, maximum_attempts=maximum_attempts)
        heads = read_heads(connection, testing.pull_request_id)
        found = self._estimate(connection, testing, tallies, now or datetime.now(UTC))
        top = HeadTop(
            version=version_of(testing, heads[0], changed),
            revision=testing.record,
            sentence=sentence(summary, limit=SENTENCE_LIMIT, maximum_attempts=maximum_attempts),
            state=summary.state,
            contexts=tuple(
                ContextState(
                    name=each.name,
                    advisory=each.advisory,
                    state=status.state,
                    description=status.description,
                )
                for each, status in zip(contexts, posted, strict=True)
            ),
            counts=summary.ran,
            total=Linked(number=summary.counts.total, filter=""),
            fixed=Linked(number=summary.fixed, filter=PageFilter(causes=(FIXED,)).text),
            heads=heads,
            as_of=max([testing.record.updated_at, *(each.at for each in changed)]),
            estimate=found if isinstance(found, Estimate) else None,
            no_estimate=None if isinstance(found, Estimate) else found,
        )
        return top, tallies

    def _changes(
        self, connection: Connection, testing: Testing, tallies: Sequence[JobCount]
    ) -> Changes | None:
        """Compares a testing with that of the previous head."""
        if testing.previous is None or testing.previous_id is None or not testing.record.planned:
            return None
        here = JOBS.c.revision_id == testing.id

        counts = total(tallies)
        query = select(JOBS.c.standing, func.count()).where(
            here, failed_before(testing.previous_id)
        )
        before: dict[str, int] = dict(connection.execute(query.group_by(JOBS.c.standing)).all())
        still = before.get(Standing.FAILED, 0)
        number = select(func.count()).select_from(JOBS)
        planned = connection.scalar(number.where(JOBS.c.revision_id == testing.previous_id)) or 0
        plans = (testing.record.key, testing.previous, counts.total, planned)
        if (new := self._new.get(plans)) is None:
            missing = number.where(here, missing_in(testing.previous_id))
            new = connection.scalar(missing) or 0
            if len(self._new) >= _PLANS:
                self._new.clear()
            self._new[plans] = new
        numbers: dict[ChangeClass, int] = {
            "fixed": before.get(Standing.PASSED, 0),
            "newly-failing": counts.failed - still,
            "still-failing": still,
            "errored": counts.errored,
            "new": new,
            # Those of the previous head that are not the same as one of this head.
            "gone": planned - (counts.total - new),
        }

        def linked(change: ChangeClass) -> Linked:
            return Linked(number=numbers[change], filter=PageFilter(changes=(change,)).text)

        return Changes(
            head=testing.previous,
            fixed=linked("fixed"),
            newly_failing=linked("newly-failing"),
            still_failing=linked("still-failing"),
            errored=linked("errored"),
            new=linked("new"),
            gone=linked("gone"),
        )

    def head_version(self, key: RevisionKey) -> str | None:
        """Returns the version that the page of a testing has; None if it is not in the index.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            testing = find_testing(connection, key)
            if testing is None:
                return None
            numbers = (JOBS.c.standing, func.count(), func.max(JOBS.c.updated_at))
            query = select(*numbers).where(JOBS.c.revision_id == testing.id)
            jobs = connection.execute(query.group_by(JOBS.c.standing)).all()
            newest = read_heads(connection, testing.pull_request_id)[0]
            return version_of(testing, newest, itertools.starmap(Changed, jobs))

    def head_jobs(
        self, key: RevisionKey, wanted: PageFilter, *, place: Place = _START
    ) -> Page[JobRecord]:
        """Lists jobs of a testing, last changed first.

        Those that are gone are jobs of the previous head.

        Raises:
            UsageError: The cursor is not one that a page returned.
            InfrastructureError: The index cannot be read.
        """
        query = select(*KEY_COLUMNS, *JOBS.c).select_from(TESTED)
        order = (JOBS.c.updated_at, JOBS.c.id)
        with reading(self._engine) as connection:
            testing = find_testing(connection, key)
            if testing is None:
                return Page((), None)
            chosen = page_condition(wanted, testing.id, testing.previous_id)
            return page(connection, query, order, place, job_record, chosen=chosen)

    def head_revdeps(
        self, key: RevisionKey, wanted: PageFilter, *, place: Place = _START
    ) -> Page[RevdepRow]:
        """Lists reverse dependencies of a testing by name.

        Args:
            key: The testing.
            wanted: Which of its jobs are counted; reverse dependencies without any are left out.
            place: Which page of them; its cursor is a name.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            testing = find_testing(connection, key)
            if testing is None:
                return Page((), None)
            return revdep_rows(connection, wanted, place, testing.id, testing.previous_id)

    def pull_request_rows(
        self,
        wanted: RevisionFilter = _OPEN,
        *,
        author: str | None = None,
        words: Sequence[str] = (),
        place: Place = _START,
    ) -> Page[PullRequestRow]:
        """Lists pull requests and branches by their newest testing, last changed first.

        Args:
            wanted: Which; always the newest testing.
            author: Only those that this account opened.
            words: Each is contained in its target or title, in any case.
            place: Which page.

        Raises:
            UsageError: The cursor is not one that a page returned.
            InfrastructureError: The index cannot be read.
        """
        newest = wanted.model_copy(update={"newest": True})
        conditions = [revision_condition(newest)]
        if author is not None:
            conditions.append(PULL_REQUESTS.c.author == author)
        conditions += [
            or_(
                PULL_REQUESTS.c.target.icontains(word, autoescape=True),
                PULL_REQUESTS.c.title.icontains(word, autoescape=True),
            )
            for word in words
        ]
        query = select(*RECORD_COLUMNS).select_from(HEADS).where(*conditions)
        order = (REVISIONS.c.updated_at, REVISIONS.c.id)
        with reading(self._engine) as connection:
            found = page(
                connection, query, order, place, lambda row: (row.id, revision_record(row))
            )
            counts = _counts(connection, [number for number, _ in found.items])
            rows = tuple(
                PullRequestRow(revision=record, counts=Counts(**counts[number]))
                for number, record in found.items
            )
            return Page(rows, found.following)

    def package_history(self, name: str) -> PackageHistory:
        """Returns the last builds of a package's versions on all platforms.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        last = (
            select(func.max(JOBS.c.id).label("id"))
            .where(
                named(JOBS.c.package, name.replace("\0", "")),
                JOBS.c.kind == JobKind.BUILD,
                JOBS.c.standing.in_(DECIDED - {Standing.CANCELLED}),
            )
            .group_by(JOBS.c.package, JOBS.c.platform)
            .order_by(func.max(JOBS.c.id).desc())
            .limit(_BUILDS)
        )
        query = select(*KEY_COLUMNS, *JOBS.c).select_from(TESTED)
        with reading(self._engine) as connection:
            ids = connection.scalars(last).all()
            rows = connection.execute(query.where(JOBS.c.id.in_(ids))).all()
        records = [job_record(row) for row in rows]
        by_version = cmp_to_key(compare)
        versions = sorted(
            {each.status.job.package for each in records},
            key=lambda package: by_version(package.partition(".")[2]),
            reverse=True,
        )
        return PackageHistory(
            name=name,
            platforms=tuple(sorted({each.status.job.platform for each in records})),
            versions=tuple(versions),
            builds=tuple(
                PackageVersion(
                    package=each.status.job.package, platform=each.status.job.platform, job=each
                )
                for each in sorted(
                    records,
                    key=lambda each: (
                        versions.index(each.status.job.package), each.status.job.platform
                    ),
                )
            ),
        )  # fmt: skip


def _counts(connection: Connection, ids: Sequence[int]) -> dict[int, dict[str, int]]:
    keys = (JOBS.c.revision_id, JOBS.c.standing)
    query = select(*keys, func.count()).where(JOBS.c.revision_id.in_(ids)).group_by(*keys)
    found: dict[int, dict[str, int]] = defaultdict(dict)
    for number, standing, count in connection.execute(query):
        found[number][standing] = count
    return found


def _incidents(
    connection: Connection, revision_id: int, tallies: Sequence[JobCount]
) -> tuple[HitIncident, ...]:
    """Reads the incidents that hit jobs which are errored or retrying, most jobs first."""
    if not any(each.standing in _LOST for each in tallies):
        return ()
    number = func.count(distinct(JOBS.c.id)).label("number")
    query = (
        select(ATTEMPTS.c.incident_id, number)
        .select_from(JOBS.join(ATTEMPTS))
        .where(
            JOBS.c.revision_id == revision_id,
            JOBS.c.standing.in_(_LOST),
            ATTEMPTS.c.incident_id.is_not(None),
        )
        .group_by(ATTEMPTS.c.incident_id)
        .order_by(number.desc(), ATTEMPTS.c.incident_id)
    )
    found = []
    for incident_id, jobs in connection.execute(query).all():
        incident = read_incident(connection, incident_id)
        wanted = PageFilter(standings=_LOST, incidents=(str(incident_id),))
        if incident is not None:
            found.append(
                HitIncident(incident=incident, jobs=Linked(number=jobs, filter=wanted.text))
            )
    return tuple(found)
