"""The list of jobs in the index: its methods in any order, late, and twice."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from opam_ci.clients.index import Index, JobFilter, Place, RevisionFilter
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import (
    ChangeJobs,
    ConcludeJobs,
    CountJobs,
    JobReport,
    QueuedJob,
    SettleJobs,
    TakeJobs,
)
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.plan import PlannedJob, depends_on, follows, outcome_after
from opam_ci.core.jobs.records import JobRecord, RevisionKey, RowBatch
from opam_ci.core.jobs.selector import JobSelector, RestartSelector, RestartWhich, Taken
from opam_ci.core.jobs.summary import CountKey, JobState, JobStatus, Standing, count_key
from opam_ci.core.jobs.table import JobTable
from opam_ci.core.jobs.tally import counts_of
from tests.support.fakes.queue import untimed
from tests.support.simulation.harness import (
    AT,
    EVIDENCE,
    PLATFORMS,
    UNDECIDED,
    Simulation,
    one,
    pick,
    there_are,
)

KINDS = (JobKind.IMAGE, JobKind.BUILD, JobKind.TEST, JobKind.LIST_REVDEPS, JobKind.REVDEP)
OUTCOMES: tuple[Outcome, ...] = (
    Passed(evidence=EVIDENCE),
    Failed(reason=FailureReason.SOURCE, evidence=EVIDENCE),
    Errored(cause=Cause.DNS, evidence=EVIDENCE),
    Errored(cause=Cause.DISK_FULL, evidence=EVIDENCE),
    Skipped(reason=SkipReason.NO_SOLUTION, evidence=EVIDENCE),
    Skipped(reason=SkipReason.UNAVAILABLE, evidence=EVIDENCE),
    Cancelled(by="request"),
)
LOST = {Standing.ERRORED, Standing.CANCELLED}


def planned() -> Iterator[PlannedJob]:
    for number in range(3):
        yield PlannedJob(job=Job(platform="", package=f"p{number}.1", kind=JobKind.LINT))
    for platform in PLATFORMS[1:]:
        image = Job(platform=platform, package="", kind=JobKind.IMAGE)
        yield PlannedJob(job=image)
        for kind in (JobKind.BUILD, JobKind.TEST, JobKind.LOWER_BOUNDS):
            for number in range(2):
                job = Job(platform=platform, package=f"p{number}.1", kind=kind)
                yield PlannedJob(job=job, needs=depends_on(job) or image)


def planned_revdeps(platform: str) -> Iterator[PlannedJob]:
    for kind in (JobKind.REVDEP, JobKind.REVDEP_TEST):
        for number in range(2):
            job = Job(platform=platform, package="p0.1", kind=kind, revdep=f"r{number}.2")
            yield PlannedJob(job=job, needs=depends_on(job))


ALL = {each.job.id: each for each in planned()}
ALL |= {each.job.id: each for name in PLATFORMS[1:] for each in planned_revdeps(name)}

selectors = st.fixed_dictionaries(
    {},
    optional={
        "platform": st.sampled_from([*PLATFORMS, "other"]),
        "package": st.sampled_from(["p0", "p1.1", "p%", "p_.1"]),
        "kind": st.sampled_from([JobKind.BUILD, JobKind.LINT, JobKind.REVDEP]),
        "revdep": st.sampled_from(["r0", "r1.2"]),
        "jobs": st.lists(st.sampled_from(sorted(ALL)), min_size=1, max_size=4).map(tuple),
    },
)


class ListOfJobs(Simulation):
    """One testing in an index, its changes, and workflows that run its jobs."""

    EXPECTED = frozenset(
        {
            "plan", "plan revdeps", "take", "settled by what it needs", "decide",
            "record", "record late", "restart", "restart refused", "preview", "followed",
            "brought what it needs", "cancel", "settle", "conclude", "installable nowhere",
            "count", "paged",
        }
    )  # fmt: skip
    index: ClassVar[Index]
    testings: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).testings += 1
        self.clock = AT
        self.key = RevisionKey(
            repository="o/r", number=self.testings, head=f"{self.testings:040x}", opened_at=AT
        )
        self.round = 1
        self.known: set[str] = set()
        self.table = JobTable()
        self.sequence = 0
        self.last_step = ""
        self.has_news = False
        self.late: list[RowBatch] = []

    def step(self, what: str) -> None:
        super().step(what)
        self.last_step = what
        self.has_news |= what in {"record", "settle", "cancel"}

    # The state of the index.

    def now(self) -> datetime:
        self.clock += timedelta(seconds=1)
        return self.clock

    def records(self) -> dict[str, JobRecord]:
        """All rows: one for each planned job, and no other."""
        wanted = JobFilter(of=RevisionFilter(revision=self.key))
        found = self.index.jobs(wanted, place=Place(limit=1000)).items
        records = {record.status.job.id: record for record in found}
        assert len(records) == len(found)
        assert records.keys() == self.known
        return records

    def rows(self) -> dict[str, JobStatus]:
        return {name: record.status for name, record in self.records().items()}

    def changed(self, before: dict[str, JobRecord]) -> dict[str, JobRecord]:
        """Rows that have changed; each is newer than before."""
        after = self.records()
        found = {name: record for name, record in after.items() if before.get(name) != record}
        for name, record in found.items():
            if name in before:
                assert _version(record) > _version(before[name])
        return found

    def twice(self, change: Callable[[], Taken | bool | None]) -> Taken | bool | None:
        """Does something twice, like a retried activity; the second call changes nothing."""
        result = change()
        before = self.records()
        again = change()
        assert self.changed(before) == {}
        if isinstance(result, Taken):
            assert again == result
        return result

    # The list.

    @initialize(number=st.integers(0, 12), outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=9))
    def begin_testing(self, number: int, outcomes: list[Outcome]) -> None:
        """Hypothesis leaves some rules out of a history: jobs run also where it is these."""
        self.plan()
        if number and outcomes:
            self.take(9, number, begun=True)
            self.decide(0, outcomes)
            self.record(late=True)

    def plan(self) -> None:
        self.step("plan")
        self.known |= {each.job.id for each in planned()}
        self.plan_twice(list(planned()))

    def plan_twice(self, jobs: list[PlannedJob]) -> None:
        at = self.now()
        self.twice(lambda: self.index.plan(self.key, jobs, round_=self.round, origin=None, at=at))

    @rule(platform=st.sampled_from(PLATFORMS[1:]))
    def plan_revdeps(self, platform: str) -> None:
        """A listing ends; in a later round of it, what was decided before runs again."""
        jobs = list(planned_revdeps(platform))
        if jobs[0].job.id in self.known and self.clock.second % 4:
            return
        self.step("plan revdeps")
        self.round += 1
        before = self.records()
        self.known |= {each.job.id for each in jobs}
        self.plan_twice(jobs)
        for record in self.changed(before).values():
            assert record.standing is Standing.QUEUED
            assert record.status.round == self.round
        assert {each.job.id for each in jobs} >= self.changed(before).keys()

    def queued(self, limit: int) -> list[QueuedJob]:
        """All queued jobs of all platforms, a page at a time."""
        found: list[QueuedJob] = []
        for platform in PLATFORMS:
            after = None
            while True:
                page = self.index.take(
                    TakeJobs(key=self.key, platform=platform, limit=limit, after=after)
                )
                assert len(page.jobs) <= limit
                found += page.jobs
                after = page.following
                if after is None:
                    break
                self.hit("paged")
        return found

    @rule(
        limit=st.integers(1, 9),
        number=st.integers(1, 8),
        begun=st.sampled_from([True, True, False]),
    )
    def take(self, limit: int, number: int, begun: bool) -> None:
        """Workflows read the list, and take some of its jobs."""
        self.step("take")
        rows = self.rows()
        found = self.queued(limit)
        wanted = sorted(name for name, row in rows.items() if row.state is JobState.QUEUED)
        assert sorted(each.job.id for each in found) == wanted
        for each in found:
            needed = ALL[each.job.id].needs
            assert each.needs == (needed.id if needed else None)
            row = rows.get(needed.id) if needed else None
            assert each.waits == (row is not None and row.outcome is None)
            if needed is not None and row is not None:
                assert each.inherited_outcome == outcome_after(row.outcome, needed)
            assert each.round == rows[each.job.id].round
        for each in found[:number]:
            if each.waits or each.job.id in self.table:
                continue
            self.table.take(
                JobStatus(
                    job=each.job, round=each.round, restart_budget_used=each.restart_budget_used
                )
            )
            if each.inherited_outcome is not None:
                self.hit("settled by what it needs")
                self.table.settle(each.job.id, each.inherited_outcome, self.now())
            elif begun:
                self.table.start(each.job.id, self.now())

    # Workflows run what they took.

    def in_hand(self, *states: JobState) -> list[JobStatus]:
        return [row for row in self.table.rows if row.state in states]

    @there_are(lambda self: self.in_hand(JobState.QUEUED))
    @rule(pick=pick)
    def begin(self, pick: int) -> None:
        self.step("begin")
        self.table.start(one(self.in_hand(JobState.QUEUED), pick).job.id, self.now())

    @there_are(lambda self: self.in_hand(JobState.RUNNING))
    @rule(pick=pick, outcomes=st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=4))
    def decide(self, pick: int, outcomes: list[Outcome]) -> None:
        self.step("decide")
        rows = self.in_hand(JobState.RUNNING)
        now = self.now()
        for row, outcome in zip(rows[pick % len(rows) :], outcomes, strict=False):
            report = JobReport(outcome=outcome, attempt=1, worker="w", started_at=now, ended_at=now)
            self.table.decide(row.job.id, report)

    @precondition(lambda self: self.table.is_dirty)
    @rule(late=st.booleans())
    def record(self, late: bool) -> None:
        """Rows are recorded, and dropped if they are decided."""
        self.step("record")
        rows = self.table.take_changed(200)
        self.sequence += 1
        batch = RowBatch(key=self.key, rows=rows, sequence=self.sequence, updated_at=self.now())
        before = self.records()
        self.twice(lambda: self.write(batch))
        changed = self.changed(before)
        assert changed.keys() <= {row.job.id for row in rows}
        for row in rows:
            old = before[row.job.id]
            if (row.round, row.attempt) > (old.status.round, old.status.attempt):
                assert _stored(changed[row.job.id].status) == _stored(row)
            if row.outcome is not None:
                self.table.drop(row.job.id)
        if late:
            self.late.append(batch)

    def write(self, batch: RowBatch) -> None:
        self.index.record(batch)

    @there_are(lambda self: self.late)
    @rule(pick=pick)
    def record_late(self, pick: int) -> None:
        """A batch comes once more, after newer ones and after restarts."""
        self.step("record late")
        batch = self.late.pop(pick % len(self.late))
        before = self.records()
        self.index.record(batch)
        assert self.changed(before) == {}

    # Changes of the list.

    @precondition(lambda self: self.has_news)
    @rule(
        given=selectors,
        which=st.sampled_from(RestartWhich),
        cause=st.sampled_from([None, None, None, Cause.DNS]),
    )
    def restart(self, given: dict[str, object], which: RestartWhich, cause: Cause | None) -> None:
        self.step("restart")
        self.write_everything()
        self.has_news = False
        selector = RestartSelector.model_validate({**given, "which": which, "cause": cause})
        self.round += 1
        before = self.records()
        at = self.now()

        def change(*, preview: bool = False) -> Taken:
            return self.index.requeue(
                ChangeJobs(key=self.key, selector=selector, round=self.round, preview=preview), at
            )

        preview = change(preview=True)
        assert self.changed(before) == {}
        self.hit("preview")
        result = self.twice(change)
        assert result == untimed(preview)
        changed = self.changed(before)
        chosen = {
            name
            for name, record in before.items()
            if record.standing in selector.standings
            and selector.narrows_to(record.status.job)
            and (cause is None or _cause(record) is cause)
        }
        assert chosen <= changed.keys()
        assert preview.jobs == len(changed)
        assert (preview.refusal is not None) == (not changed)
        if not changed:
            self.hit("restart refused")
        for name, record in changed.items():
            assert before[name].status.outcome is not None
            assert record.status == JobStatus(job=record.status.job, round=self.round)
        self.closed(before, changed, chosen)

    def closed(
        self, before: dict[str, JobRecord], taken: dict[str, JobRecord], chosen: set[str]
    ) -> None:
        """Jobs that belong to a taken one are taken with it, and no others."""
        reasons: Counter[str] = Counter(dict.fromkeys(chosen, 1))
        nowhere = {record.status.job.package for name, record in taken.items() if _is_build(record)}
        for name, record in before.items():
            needs = ALL[name].needs
            needed = needs.id if needs else ""
            if record.status.outcome is None:
                continue
            falls = follows(record.status.outcome) or record.standing is Standing.CANCELLED
            if falls and needed in taken:
                self.hit("followed")
                reasons[name] += 1
            if name in taken and needed in before and before[needed].standing in LOST:
                self.hit("brought what it needs")
                reasons[needed] += 1
            if _is_nowhere(record) and record.status.job.package in nowhere:
                reasons[name] += 1
        assert reasons.keys() == taken.keys()

    @rule(given=selectors, often=st.sampled_from([False, False, True]))
    def cancel(self, given: dict[str, object], often: bool) -> None:
        if not often:
            return
        self.step("cancel")
        selector = JobSelector.model_validate(given)
        before = self.records()
        at = self.now()

        def change(*, preview: bool = False) -> Taken:
            return self.index.cancel(
                ChangeJobs(key=self.key, selector=selector, preview=preview), at
            )

        preview = change(preview=True)
        assert self.changed(before) == {}
        assert self.twice(change) == preview
        changed = self.changed(before)
        wanted = {
            name
            for name, record in before.items()
            if record.standing in UNDECIDED and selector.narrows_to(record.status.job)
        }
        assert preview.jobs == len(wanted)
        assert (preview.refusal is not None) == (not wanted)
        assert changed.keys() == {
            name for name in wanted if before[name].standing is Standing.QUEUED
        }
        for name, record in changed.items():
            assert record.status.outcome == Cancelled(by="request")
            # The workflow hears of it too, and lets go of what it had not begun.
            if name in self.table and self.table[name].state is JobState.QUEUED:
                self.table.drop(name)

    @rule(
        platforms=st.none() | st.sets(st.sampled_from(PLATFORMS), min_size=1),
        often=st.sampled_from([False] * 7 + [True]),
    )
    def settle(self, platforms: set[str] | None, often: bool) -> None:
        """Nobody runs the jobs of some platforms any more."""
        if not often:
            return
        self.step("settle")
        before = self.records()
        at = self.now()
        superseded = Cancelled(by="superseded")
        self.twice(
            lambda: self.index.settle(
                SettleJobs(key=self.key, outcome=superseded, platforms=platforms), at
            )
        )
        changed = self.changed(before)
        assert changed.keys() == {
            name
            for name, record in before.items()
            if record.status.outcome is None
            and (platforms is None or record.status.job.platform in platforms)
        }
        assert all(record.status.outcome == superseded for record in changed.values())
        for row in self.table.rows:
            if platforms is None or row.job.platform in platforms:
                self.table.drop(row.job.id)

    @precondition(lambda self: self.last_step != "conclude")
    @rule(unavailable=st.sampled_from(["skip", "fail"]), skips=st.booleans())
    def conclude(self, unavailable: str, skips: bool) -> None:
        self.step("conclude")
        if skips:
            self.skip_everywhere()
        before = self.records()
        at = self.now()
        changed_some = self.index.conclude(ConcludeJobs(key=self.key, unavailable=unavailable), at)
        changed = self.changed(before)
        assert changed_some == bool(changed)
        assert self.index.conclude(ConcludeJobs(key=self.key, unavailable=unavailable), at) is False
        assert self.changed(before) == changed
        builds: dict[str, list[JobRecord]] = {}
        for record in before.values():
            if _is_build(record):
                builds.setdefault(record.status.job.package, []).append(record)
        for name, record in changed.items():
            job = record.status.job
            if _is_nowhere(record):
                self.hit("installable nowhere")
                assert all(
                    isinstance(each.status.outcome, Skipped) or _is_nowhere(each)
                    for each in builds[job.package]
                )
            else:
                assert follows(before[name].status.outcome)

    def skip_everywhere(self) -> None:
        """No platform has a solution for a package of which no job was taken."""
        rows = [
            row
            for row in self.rows().values()
            if row.job.kind is JobKind.BUILD
            and row.job.package == "p0.1"
            and row.state is JobState.QUEUED
            and row.job.id not in self.table
        ]
        for row in rows:
            self.table.take(row)
            self.table.settle(row.job.id, OUTCOMES[4], self.now())
        self.write_everything()

    def write_everything(self) -> None:
        """What workflows do before a restart: all decided jobs are in the index."""
        while self.table.is_dirty:
            self.record(late=False)

    # Counts.

    @precondition(lambda self: self.last_step != "count")
    @rule(names=st.sets(st.sampled_from(sorted(ALL)), max_size=5))
    def count(self, names: set[str]) -> None:
        self.step("count")
        found = self.index.count(
            CountJobs(key=self.key, platforms=PLATFORMS, excluding=tuple(sorted(names)))
        )
        assert [each.platform for each in found] == list(PLATFORMS)
        rows = [row for name, row in self.rows().items() if name not in names]
        for standing in found:
            of_platform = [row for row in rows if row.job.platform == standing.platform]
            numbers: Counter[CountKey] = Counter(map(count_key, of_platform))
            assert standing.counts == counts_of(numbers)
            by_id = {row.job.id: row for row in of_platform}
            assert {row.job.id: row for row in standing.shown} == by_id


def _version(record: JobRecord) -> tuple[int, int, int]:
    return record.status.round, record.status.attempt, record.sequence


def _stored(row: JobStatus) -> tuple[object, ...]:
    """The columns of the row itself; attempts have another table."""
    return row.job, row.round, row.attempt, row.standing, row.outcome, row.decided_at


def _cause(record: JobRecord) -> Cause | None:
    outcome = record.status.outcome
    return outcome.cause if isinstance(outcome, Errored) else None


def _is_build(record: JobRecord) -> bool:
    return record.status.job.kind is JobKind.BUILD


def _is_nowhere(record: JobRecord) -> bool:
    outcome = record.status.outcome
    return isinstance(outcome, Failed) and outcome.reason is FailureReason.NOT_INSTALLABLE


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index.open(f"sqlite:///{tmp_path}/index.sqlite")
    yield opened
    opened.close()


def test_list_of_jobs(index: Index, run: Callable[[type[Simulation], float], None]) -> None:
    ListOfJobs.index = index
    run(ListOfJobs, 0.015)
