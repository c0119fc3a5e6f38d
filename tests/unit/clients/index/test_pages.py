"""Pages from the index: each number is that of its list, and all say the same as the rows."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text

from opam_ci.clients.index import Index, Place, RevisionFilter
from opam_ci.clients.index.engine import reading
from opam_ci.clients.index.page_filters import failed_before, missing_in
from opam_ci.clients.index.schema import JOBS
from opam_ci.core.classify.rulebook import RULES
from opam_ci.core.errors import UsageError
from opam_ci.core.github.status import DEFAULT_CONTEXTS, statuses
from opam_ci.core.jobs.hold import Hold
from opam_ci.core.jobs.job import REVDEP_KINDS, Job, JobKind
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
    fixes_of,
)
from opam_ci.core.jobs.plan import depends_on, outcome_after
from opam_ci.core.jobs.records import (
    AttemptRecord,
    JobRecord,
    RevisionKey,
    RevisionRecord,
    RowBatch,
)
from opam_ci.core.jobs.summary import Counts, Fault, JobState, JobStatus, Standing, State
from opam_ci.core.model import Frozen
from opam_ci.core.pages.causes import group_rows
from opam_ci.core.pages.filter import parse_filter
from opam_ci.core.pages.model import (
    CAUSES_SHOWN,
    MATRIX_ROWS,
    AuditEntry,
    HeadPage,
    HeadTop,
    Linked,
    WrongVerdict,
)
from opam_ci.core.submission.effect import Effect, LostPackage
from opam_ci.core.submission.result import ChangeKind
from opam_ci.core.text.sentence import sentence
from tests.support.fakes.summaries import summary_of
from tests.support.fakes.written import write
from tests.support.samples.fixed import fixed

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
DEBIAN, FEDORA = "debian-13-ocaml-5.3/amd64", "fedora-42-ocaml-5.3/amd64"
RULE = next(rule for rule in RULES if rule.verdict == "failed")
PASSED = Passed(evidence=Evidence(rule="installed"))


def key(head: str = "a", number: int = 1, minutes: int = 0) -> RevisionKey:
    opened = NOON + timedelta(minutes=minutes)
    return RevisionKey(repository="o/r", number=number, head=head * 40, opened_at=opened)


def failed(
    line: str, *, blame: str | None = None, reason: FailureReason = FailureReason.BUILD
) -> Failed:
    lines = (LogLine(offset=9, text=line),)
    return Failed(
        reason=FailureReason.DEPENDENCY if blame else reason,
        blame=blame,
        evidence=Evidence(rule=RULE.id, lines=lines, worker="w1"),
    )


def errored(cause: Cause = Cause.DISK_FULL) -> Errored:
    return Errored(cause=cause, evidence=Evidence(rule="enospc", detail="0 bytes free"))


def skipped(reason: SkipReason = SkipReason.UNAVAILABLE) -> Skipped:
    return Skipped(reason=reason, evidence=Evidence(rule="available", detail="os = win32"))


def job(
    package: str = "a.1", platform: str = DEBIAN, kind: JobKind = JobKind.BUILD,
    revdep: str | None = None,
) -> Job:  # fmt: skip
    return Job(platform=platform, package=package, kind=kind, revdep=revdep)


def row(of: Job, outcome: Outcome | None = PASSED, *, attempt: int = 1) -> JobStatus:
    return JobStatus(
        job=of,
        state=JobState.QUEUED if outcome is None else JobState.DECIDED,
        attempt=0 if outcome is None else attempt,
        outcome=outcome,
        worker=None if outcome is None else "w1",
        started_at=None if outcome is None else NOON,
        decided_at=None if outcome is None else NOON + timedelta(minutes=1),
        log=None if outcome is None else f"logs/{of.id.replace(' ', '-')}",
    )


def retrying(of: Job) -> JobStatus:
    fault = Fault(
        attempt=1, cause=Cause.DNS, evidence=Evidence(rule="dns", detail="no DNS"), worker="w1",
        at=NOON,
    )  # fmt: skip
    return JobStatus(
        job=of, state=JobState.RETRYING, attempt=1, faults=(fault,), started_at=NOON,
        next_attempt_at=NOON + timedelta(minutes=7),
    )  # fmt: skip


ANALYSIS = row(Job(platform="", package="", kind=JobKind.ANALYSIS))


def put(
    index: Index,
    rows: list[JobStatus],
    of: RevisionKey | None = None,
    *,
    is_open: bool = True,
    state: State = State.FAILURE,
) -> HeadPage:
    """Writes a planned testing, and returns its page."""
    of = of or key()
    record = RevisionRecord(
        key=of, base="b" * 40, planned=True, updated_at=NOON, sequence=1, is_open=is_open,
        state=state, changes=(ChangeKind.NEW_RELEASE,), author="alice",
    )  # fmt: skip
    batch = RowBatch(key=of, revision=record, rows=(ANALYSIS, *rows), sequence=1, updated_at=NOON)
    write(index, batch)
    found = index.head_page(of, maximum_attempts=5)
    assert found is not None
    # Lists of its jobs begin with the same.
    top = index.head_top(of, maximum_attempts=5)
    assert top == HeadTop(**{name: getattr(found, name) for name in HeadTop.model_fields})
    return found


def links(value: object) -> Iterator[Linked]:
    if isinstance(value, Linked):
        yield value
    elif isinstance(value, Frozen):
        for name in type(value).model_fields:
            yield from links(getattr(value, name))
    elif isinstance(value, tuple):
        for each in value:
            yield from links(each)


def listed(index: Index, of: RevisionKey, filter_text: str) -> list[JobRecord]:
    found: list[JobRecord] = []
    place = Place(limit=1000)
    while True:
        page = index.head_jobs(of, parse_filter(filter_text), place=place)
        found += page.items
        if page.following is None:
            return found
        place = Place(limit=1000, after=page.following)


def assert_links(index: Index, page: HeadPage) -> int:
    """Checks that each number is the length of the list that it links to."""
    of = page.revision.key
    checked = 0
    for each in links(page):
        assert len(listed(index, of, each.filter)) == each.number, each
        checked += 1
    for line in page.matrix.rows:
        for cell in (cell for cell in line.cells if cell is not None):
            cells = listed(index, of, cell.filter)
            assert len(cells) == cell.total
            assert sum(record.standing is cell.standing for record in cells) == cell.number
            if cell.job is not None:
                assert [record.status.job.id for record in cells] == [cell.job]
    return checked


LINES = (
    'File "src/foo.ml", line 3, characters 1-2: Error: Unbound value x',
    "Error: Unbound module Foo",
    "cc1: fatal error: foo.h: No such file or directory",
)
PACKAGES = ("a.1", "b.2", "c.3")
REVDEPS = tuple(f"r{number}.1" for number in range(6))


def random_rows(chance: random.Random, *, undecided: bool = True) -> list[JobStatus]:
    """A head in any state: roots, cascades, faults, skips, and what follows from them."""
    jobs = [
        job(package, platform, kind)
        for platform in (DEBIAN, FEDORA)
        for package in PACKAGES
        for kind in (JobKind.BUILD, JobKind.TEST, JobKind.LOWER_BOUNDS)
    ]
    jobs += [
        job("a.1", platform, kind, revdep)
        for platform in (DEBIAN, FEDORA)
        for revdep in REVDEPS
        for kind in (JobKind.REVDEP, JobKind.REVDEP_TEST)
    ]
    jobs += [Job(platform="", package=package, kind=JobKind.LINT) for package in PACKAGES]
    jobs = [each for each in jobs if chance.random() < 0.9]
    outcomes: list[Outcome | None] = [
        *[PASSED] * 3,
        fixed(),
        *(failed(line) for line in LINES),
        *(failed(line, blame=each) for line in LINES[:1] for each in (*PACKAGES, *REVDEPS)),
        failed(LINES[0], reason=FailureReason.TEST),
        errored(), errored(Cause.DNS), skipped(), skipped(SkipReason.NO_SOLUTION),
        Cancelled(by="request"),
    ]  # fmt: skip
    decided: dict[str, JobStatus] = {}
    for each in sorted(jobs, key=lambda one: one.kind in {JobKind.TEST, JobKind.REVDEP_TEST}):
        needed = depends_on(each)
        after = None
        if needed is not None and needed.id in decided:
            after = outcome_after(decided[needed.id].outcome, needed)
        if undecided and chance.random() < 0.1:
            decided[each.id] = retrying(each) if chance.random() < 0.5 else row(each, None)
        else:
            decided[each.id] = row(each, after or chance.choice(outcomes))
    return list(decided.values())


@pytest.mark.parametrize("seed", range(6))
def test_a_page_says_what_the_rows_say_and_each_number_is_that_of_its_list(
    index: Index, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same rows in each run, no secret
    put(index, random_rows(chance), key("e"))
    rows = random_rows(chance, undecided=seed % 2 == 0)
    page = put(index, rows, key("f", minutes=10))
    stored = [record.status for record in listed(index, page.revision.key, "")]
    assert len(stored) == len(rows) + 1
    summary = summary_of(
        sorted([ANALYSIS, *rows], key=lambda each: each.next_attempt_at or NOON),
        pull_request="o/r#1", head="f" * 40,
    )  # fmt: skip
    assert page.sentence == sentence(summary, limit=200, maximum_attempts=5)
    posted = statuses(summary, maximum_attempts=5)
    assert [each.name for each in page.contexts] == [each.name for each in DEFAULT_CONTEXTS]
    assert [(each.state, each.description) for each in page.contexts] == [
        (each.state, each.description) for each in posted
    ]
    assert (page.counts, page.total.number) == (summary.ran, summary.counts.total)
    assert page.fixed.number == sum(fixes_of(each.outcome) is not None for each in rows)
    groups = group_rows(sorted([ANALYSIS, *rows], key=lambda each: each.job.id))
    assert {
        (each.key, each.standing, each.why, each.jobs.number,
         each.cascade.number if each.cascade else 0)
        for each in page.causes.groups
    } == {
        (each.group.key, each.group.standing, each.why, len(each.members), len(each.cascade))
        for each in groups[:CAUSES_SHOWN]
    }  # fmt: skip
    assert page.causes.more == len(groups[CAUSES_SHOWN:])
    assert page.causes.more_jobs == sum(
        len(each.members) + len(each.cascade) for each in groups[CAUSES_SHOWN:]
    )
    assert assert_links(index, page) > 15


def test_a_cascade_is_folded_under_its_root_and_counted(index: Index) -> None:
    root = failed("Error: Unbound value x")
    needs = failed("Error: Unbound value x", blame="a.1")
    build = job("a.1")
    rows = [
        row(build, root),
        row(job("a.1", kind=JobKind.TEST), outcome_after(root, build)),
        *(row(job("a.1", kind=JobKind.REVDEP, revdep=f"r{n}.1"), needs) for n in range(118)),
        # On the other platform it passed: there the dependency failed for another reason.
        row(job("a.1", FEDORA)),
        row(job("b.1", FEDORA), needs),
    ]
    [group, other] = put(index, rows).causes.groups
    assert (group.why, group.jobs.number, group.packages) == ("build", 1, 1)
    assert group.cascade is not None
    assert group.cascade.number == 119
    assert (group.line, group.rule, group.first.id) == (
        "Error: Unbound value x", RULE.id, build.id,
    )  # fmt: skip
    assert group.rationale == RULE.why
    assert group.platforms == (DEBIAN,)
    assert (other.why, other.jobs.number, other.cascade) == ("dependency", 1, None)
    assert other.platforms == (FEDORA,)
    assert other.line == "a.1: Error: Unbound value x"


def test_a_hostile_blame_is_stored_and_folded_as_any_other(index: Index) -> None:
    name = "x\0" + "\N{SNOWMAN}" * 9000
    page = put(index, [row(job("b.1"), failed("E: x", blame=name)), row(job("c.1"))])
    [group] = page.causes.groups
    assert (group.why, group.jobs.number) == ("dependency", 1)
    assert "\0" not in group.line


def test_changes_since_the_previous_head(index: Index) -> None:
    bad = failed("Error: x y z")
    before = [
        row(job("fixed.1"), bad), row(job("still.1"), bad), row(job("broken.1")),
        row(job("gone.1")), row(job("lost.1")),
    ]  # fmt: skip
    first = put(index, before, key("a"))
    assert first.since is None
    assert {each.new for each in first.causes.groups} == {None}
    # Tested again, and superseded: neither is the previous head.
    put(index, before, key("c", minutes=1))
    put(index, [], key("b", minutes=2), state=State.PENDING)
    after = [
        row(job("fixed.1")), row(job("still.1"), bad), row(job("broken.1"), failed("Error: other")),
        row(job("new.1")), row(job("lost.1"), errored()),
    ]  # fmt: skip
    page = put(index, after, key("c", minutes=3))
    assert page.since is not None
    assert page.since.head.head == "a" * 40
    for change, package in {
        "fixed": "fixed.1", "newly_failing": "broken.1", "still_failing": "still.1",
        "errored": "lost.1", "new": "new.1", "gone": "gone.1",
    }.items():  # fmt: skip
        link = getattr(page.since, change)
        found = listed(index, page.revision.key, link.filter)
        assert [each.status.job.package for each in found] == [package], change
        assert link.number == 1
    assert listed(index, page.revision.key, "new:") == listed(
        index, page.revision.key, page.since.newly_failing.filter
    )
    # A plan grows by reverse dependencies.
    late = RowBatch(key=page.revision.key, rows=(row(job("late.1")),), sequence=2, updated_at=NOON)
    write(index, late)
    grown = index.head_page(page.revision.key)
    assert grown is not None
    assert grown.since is not None
    assert (grown.since.new.number, grown.since.gone.number) == (2, 1)
    news = {each.line: each.new for each in page.causes.groups}
    assert news["Error: x y z"] is False
    assert news["Error: other"] is True
    assert [each.head[0] for each in page.heads] == ["c", "b", "c", "a"]


def test_a_cause_shows_in_how_many_other_open_pull_requests_it_is(index: Index) -> None:
    bad = failed("Error: Unbound module Stdlib__foo")
    for number, is_open in ((2, True), (3, True), (4, False)):
        put(index, [row(job(f"p{number}.1"), bad)], key(number=number), is_open=is_open)
    # The newest head of this one passed.
    put(index, [row(job("p5.1"), bad)], key(number=5))
    put(index, [row(job("p5.1"))], key("b", number=5, minutes=1))
    page = put(index, [row(job("mine.1"), bad)])
    [group] = page.causes.groups
    assert group.also_in == 2


def test_incidents_that_hit_a_head_are_on_its_page(index: Index) -> None:
    rows = [retrying(job("a.1")), retrying(job("b.1")), row(job("c.1"))]
    page = put(index, rows)
    [hit] = page.incidents
    assert (hit.incident.cause, hit.jobs.number) == (Cause.DNS, 2)
    assert assert_links(index, page) == 4


def test_green_packages_have_no_row_where_there_are_many(index: Index) -> None:
    rows = [row(job(f"p{number}.1")) for number in range(MATRIX_ROWS + 1)]
    rows[50] = row(job("p50.1"), errored())
    page = put(index, rows)
    assert [(each.package, each.worst) for each in page.matrix.rows] == [
        ("p50.1", Standing.ERRORED)
    ]
    assert (page.matrix.green, page.matrix.more) == (MATRIX_ROWS, 0)
    few = put(index, rows[40:60], key("b", number=2)).matrix
    assert (len(few.rows), few.green, few.rows[0].package) == (20, 0, "p50.1")


def test_reverse_dependencies_are_counted_by_root_and_paged_by_name(index: Index) -> None:
    def of(number: int, kind: JobKind = JobKind.REVDEP) -> Job:
        return job("a.1", kind=kind, revdep=f"r{number:02}.1")

    needs = failed("Error: in dune", blame="dune.3")
    rows = [row(of(n), needs if n < 3 else PASSED) for n in range(30)]
    rows[7] = row(of(7), failed("Error: in r7"))
    rows += [row(of(n, JobKind.REVDEP_TEST)) for n in range(10, 20)]
    page = put(index, [row(job("a.1")), *rows])
    assert page.revdeps is not None
    assert (page.revdeps.total.number, page.revdeps.failed.number) == (40, 4)
    assert [(each.root, each.jobs.number) for each in page.revdeps.roots] == [
        ("dune.3", 3), (None, 1),
    ]  # fmt: skip
    assert assert_links(index, page) > 8
    of_page = page.revision.key
    first = index.head_revdeps(of_page, parse_filter(""), place=Place(limit=20))
    rest = index.head_revdeps(
        of_page, parse_filter(""), place=Place(limit=20, after=first.following)
    )
    names = [each.revdep for each in (*first.items, *rest.items)]
    assert names == [f"r{n:02}.1" for n in range(30)]
    assert rest.following is None
    by_name = {each.revdep: each for each in (*first.items, *rest.items)}
    assert (by_name["r07.1"].worst, by_name["r07.1"].total) == (Standing.FAILED, 1)
    assert (by_name["r12.1"].worst, by_name["r12.1"].number) == (Standing.PASSED, 2)
    [bad] = index.head_revdeps(of_page, parse_filter("is:failed revdep:r07")).items
    assert len(listed(index, of_page, bad.filter)) == bad.total == 1


@pytest.mark.parametrize(
    ("text", "packages"),
    [
        ("is:failed", {"b.1"}),
        ("is:failed,errored", {"b.1", "c.1"}),
        ("is:decided platform:FEDORA*", {"f_1.1"}),
        ("package:b", {"b.1"}),
        ("package:b.1", {"b.1"}),
        ("package:b.2", set()),
        ("package:f_*", {"f_1.1"}),
        ("package:?", None),
        ("package:_", set()),
        ("cause:disk_full", {"c.1"}),
        ("cause:build,disk_full", {"b.1", "c.1"}),
        ("kind:build package:a package:b", {"a.1", "b.1"}),
        ("kind:test", set()),
        ("FEDORA f_1", {"f_1.1"}),
        ("worker:w* is:failed", {"b.1"}),
        ("group:0123456789abcdef", set()),
        ("cascade:0123456789abcdef", set()),
        ("incident:999999999", set()),
        ("change:gone,new", {"a.1", "b.1", "c.1", "f_1.1", ""}),
    ],
)
def test_filters(index: Index, text: str, packages: set[str] | None) -> None:
    page = put(
        index,
        [row(job("a.1")), row(job("b.1"), failed("E: x")), row(job("c.1"), errored()),
         row(job("f_1.1", FEDORA))],
    )  # fmt: skip
    if packages is None:
        with pytest.raises(UsageError):
            parse_filter(text)
        return
    found = {each.status.job.package for each in listed(index, page.revision.key, text)}
    assert found == packages


def test_a_head_is_found_by_target_and_by_the_beginning_of_its_commit(index: Index) -> None:
    put(index, [], key("a"))
    put(index, [], key("b", minutes=1))
    twin = RevisionKey(repository="o/r", number=2, head="b" * 39 + "c", opened_at=NOON)
    put(index, [], twin)
    assert index.find_head("o/r", target="pull/1") == key("b", minutes=1)
    assert index.find_head("o/r", head="a" * 7) == key("a")
    assert index.find_head("o/r", head="b" * 40) == key("b", minutes=1)
    assert index.find_head("o/r", target="pull/3") is None
    assert index.find_head("other/r", head="a" * 7) is None
    for head, words in {"a" * 6: "not a commit", "b" * 8: "several", "%" * 9: "not a"}.items():
        with pytest.raises(UsageError, match=words):
            index.find_head("o/r", head=head)


def test_the_version_of_a_page_changes_with_its_jobs_and_with_newer_heads(index: Index) -> None:
    put(index, [row(job("a.1"), None)])
    versions = [index.head_version(key()), index.head_version(key())]
    assert versions[0] == versions[1] is not None
    later = NOON + timedelta(seconds=1)
    write(index, RowBatch(key=key(), rows=(row(job("a.1")),), sequence=2, updated_at=later))
    versions.append(index.head_version(key()))
    put(index, [], key("b", minutes=1))
    versions.append(index.head_version(key()))
    assert len(set(versions)) == 3
    page = index.head_page(key())
    assert page is not None
    assert page.as_of == later
    top = index.head_top(key())
    assert top is not None
    assert page.version == top.version == versions[-1]
    assert index.head_version(key("f")) is None
    assert index.head_page(key("f")) is None
    assert index.head_jobs(key("f"), parse_filter("")).items == ()
    assert index.head_revdeps(key("f"), parse_filter("")).items == ()


def test_what_only_the_workflow_knows_is_in_the_record(index: Index) -> None:
    hold = Hold(reason="new-author")
    lost = LostPackage(package="b.1", ocaml=("5.4",))
    record = RevisionRecord(
        key=key(), base="b" * 40, planned=True, concluded=False, hold=hold,
        effect=Effect(ocaml=("5.4", "5.3"), lost=(lost,)),
        changes=(ChangeKind.DELETED, ChangeKind.NEW_RELEASE), updated_at=NOON, sequence=1,
    )  # fmt: skip
    write(index, record)
    assert index.revisions().items == (record,)
    write(index, RowBatch(key=key(), rows=(row(job(), None),), sequence=1, updated_at=NOON))
    page = index.head_page(key())
    assert page is not None
    assert "new author: the rest waits for /opam-ci ok" in page.sentence
    write(index, RowBatch(key=key(), rows=(row(job()),), sequence=2, updated_at=NOON))
    page = index.head_page(key())
    assert page is not None
    assert page.sentence == "1/1 done; comparing results across platforms"


def test_the_page_of_a_job_has_its_witnesses(index: Index) -> None:
    # Not a failure that a broken machine can cause: then it would be judged again.
    bad = failed("Error: Unbound module Stdlib__foo", reason=FailureReason.OPAM_FILE)
    for number in range(2, 6):
        put(index, [row(job(f"p{number}.1"), bad)], key(number=number))
    put(index, [row(job("mine.1"))], key("a"))
    of = key("b", minutes=1)
    put(index, [row(job("mine.1"), bad)], of)
    lost = AttemptRecord(
        revision=of, job=job("mine.1"), number=1, round=2, worker="w2",
        started_at=NOON + timedelta(minutes=3), ended_at=NOON + timedelta(minutes=4),
        outcome=errored(Cause.WORKER_LOST), log_key="logs/2-1",
    )  # fmt: skip
    again = lost.model_copy(
        update={"number": 2, "outcome": bad, "log_key": "logs/2-2", "worker": "w1",
                "started_at": NOON + timedelta(minutes=5),
                "ended_at": NOON + timedelta(minutes=6)}
    )  # fmt: skip
    write(index, lost, again)
    page = index.job_page(of, job("mine.1").id)
    assert page is not None
    assert page.title == f"mine.1 build on {DEBIAN}"
    assert page.sentence == "Failed (opam_file): Error: Unbound module Stdlib__foo"
    assert [(each.round, each.number) for each in page.attempts] == [(2, 2), (2, 1), (1, 1)]
    assert [each.log_key for each in page.attempts[:2]] == ["logs/2-2", "logs/2-1"]
    assert page.previous is not None
    assert page.previous.job.standing is Standing.PASSED
    assert page.elsewhere is not None
    assert page.elsewhere.pull_requests == 4
    assert page.elsewhere.first_seen_at == NOON + timedelta(minutes=1)
    assert page.worker is not None
    assert (page.worker.worker, page.worker.attempts, page.worker.faults) == ("w1", 13, 0)
    assert page.incident is not None
    assert page.incident.cause is Cause.WORKER_LOST
    assert page.next_step.startswith("4 other open pull requests fail the same way, first seen")
    assert index.job_page(of, "build nowhere") is None
    assert index.job_page(key("f"), job("mine.1").id) is None
    old = index.job_page(key("a"), job("mine.1").id)
    assert old is not None
    assert (old.sentence, old.next_step) == ("Passed.", "A newer head is tested: bbbbbbbbbbbb.")


def test_where_a_job_passed_is_found_in_any_pull_request(index: Index) -> None:
    bad = failed("Error: Unbound module Stdlib__foo", reason=FailureReason.OPAM_FILE)
    user, other = job("dune.3", kind=JobKind.REVDEP, revdep="u.1"), job("dune.3", FEDORA)
    before = job("dune.2", kind=JobKind.REVDEP, revdep="u.1")
    put(index, [row(job("dune.3")), row(other, bad), row(before)], key("a"))
    put(index, [row(job("dune.3"), bad), row(user, bad)], key("b", minutes=1))
    put(index, [row(job("dune.3")), row(job("dune.3", kind=JobKind.TEST))], key("c", number=2))

    def heads(of: Job, number: int = 5) -> set[str]:
        return {each.revision.head[0] for each in index.passed_jobs(of, number=number)}

    assert heads(job("dune.3")) == {"a", "c"}
    assert len(heads(job("dune.3"), 1)) == 1
    # Whichever package a reverse dependency was built for.
    assert heads(user) == {"a"}
    assert heads(other) == set()
    assert heads(job("dune.3", kind=JobKind.TEST)) == {"c"}


def test_pull_requests_are_listed_by_their_newest_testing(index: Index) -> None:
    put(index, [row(job(), failed("E: x"))], key("a", number=1))
    put(index, [row(job()), row(job("b.1"))], key("b", number=1, minutes=1))
    put(index, [row(job(), errored())], key(number=22), is_open=False)
    [mine] = index.pull_request_rows().items
    assert (mine.revision.key.head[0], mine.counts) == ("b", Counts(passed=3))
    assert len(index.pull_request_rows(RevisionFilter()).items) == 2
    assert len(index.pull_request_rows(RevisionFilter(), author="bob").items) == 0
    [other] = index.pull_request_rows(RevisionFilter(), author="alice", words=("PULL/22",)).items
    assert other.counts == Counts(passed=1, errored=1)


def test_the_history_of_a_package_has_the_last_build_of_each_version(index: Index) -> None:
    put(index, [row(job("re.1.10.0")), row(job("re.1.9.0", FEDORA), failed("E: x"))], key("a"))
    put(
        index,
        [row(job("re.1.9.0", FEDORA)), row(job("re2.1")), row(job("re.1.10.0", kind=JobKind.TEST)),
         row(job("re.1.10.0"), Cancelled(by="superseded"))],
        key("b", number=2),
    )  # fmt: skip
    found = index.package_history("re")
    assert found.versions == ("re.1.10.0", "re.1.9.0")
    assert found.platforms == (DEBIAN, FEDORA)
    assert [
        (each.package, each.platform, each.job.standing, each.job.revision.number)
        for each in found.builds
    ] == [
        ("re.1.10.0", DEBIAN, Standing.PASSED, 1),
        ("re.1.9.0", FEDORA, Standing.PASSED, 2),
    ]
    assert index.package_history("nothing").builds == ()


def test_actions_and_reports_are_kept_newest_first(index: Index) -> None:
    entries = [
        AuditEntry(
            at=NOON + timedelta(minutes=n), login="alice", role="triage", action="restart",
            repository="o/r", target="pull/1", detail="is:errored", taken=n,
        )
        for n in range(3)
    ]  # fmt: skip
    for entry in entries:
        index.add_audit(entry)
    first = index.audit(Place(limit=2))
    assert [each.taken for each in first.items] == [2, 1]
    [last] = index.audit(Place(limit=2, after=first.following)).items
    assert last.model_copy(update={"id": 0}) == entries[0]
    attempt = AttemptRecord(
        revision=key(), job=job(), number=1, started_at=NOON, ended_at=NOON, outcome=errored()
    )
    report = WrongVerdict(
        at=NOON, login="alice", attempt=attempt, expected="failed(build)", comment="it is mine",
        log_key="reports/1",
    )  # fmt: skip
    index.add_wrong_verdict(report)
    [stored] = index.wrong_verdicts().items
    assert stored.model_copy(update={"id": 0}) == report
    with index._engine.begin() as connection:
        connection.execute(text("DELETE FROM audit"))
        connection.execute(text("DELETE FROM wrong_verdicts"))


def test_a_restart_takes_a_job_out_of_its_group(index: Index) -> None:
    put(index, [row(job(), failed("E: x"), attempt=2)])
    again = row(job(), None).model_copy(update={"round": 2})
    write(index, RowBatch(key=key(), rows=(again,), sequence=2, updated_at=NOON))
    page = index.head_page(key())
    assert page is not None
    assert page.causes.groups == ()


def test_revdep_kinds_are_those_with_a_reverse_dependency() -> None:
    assert {JobKind.REVDEP, JobKind.REVDEP_TEST} == REVDEP_KINDS


def test_a_server_hashes_names_however_few_jobs_it_believes_in(postgres: str) -> None:
    # A head that is not in its statistics has one job for it: a join compared each with each,
    # which took minutes for 50,000 jobs.
    index = Index.open(postgres)
    with reading(index._engine) as connection:
        for condition in (failed_before(1), missing_in(1)):
            query = select(JOBS.c.id).where(JOBS.c.revision_id == 2, condition)
            words = query.compile(connection, compile_kwargs={"literal_binds": True})
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {words}").scalars())
            assert "hashed SubPlan" in plan
            assert "Join" not in plan
            assert "Loop" not in plan
    index.close()
