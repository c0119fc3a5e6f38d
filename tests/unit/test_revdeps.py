"""How a group of jobs on reverse dependencies is counted, shown, and restarted."""

from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.build import Revdep
from opam_ci.core.github.status import About, Context, part_of
from opam_ci.core.job import Job, JobKind
from opam_ci.core.messages import Listing
from opam_ci.core.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.records import Standing
from opam_ci.core.requests import RestartSelector, RestartWhich
from opam_ci.core.revdeps import (
    Tally,
    concerns,
    given_up,
    is_taken,
    new_group,
    number_taken,
    revdep_jobs,
)
from opam_ci.core.summary import GROUP_ROWS, Counts, JobGroup, JobState, JobStatus, State, Summary
from opam_ci.core.text import group_lines, markdown_matrix, status_description

PLATFORM = "debian-13-ocaml-5.3/amd64"
EVIDENCE = Evidence(rule="test")
OUTCOMES: tuple[Outcome, ...] = (
    Passed(evidence=EVIDENCE),
    Failed(reason=FailureReason.BUILD, evidence=EVIDENCE),
    Errored(cause=Cause.DNS, evidence=EVIDENCE),
    Errored(cause=Cause.DISK_FULL, evidence=EVIDENCE),
    Skipped(reason=SkipReason.NOT_BUILT, evidence=EVIDENCE),
    Cancelled(by="request"),
)


def group_of(revdeps: int, tested: int = 0) -> JobGroup:
    return new_group(PLATFORM, "a.1", Listing(key="k", revdeps=revdeps, tested=tested), round_=1)


def job(number: int, kind: JobKind = JobKind.REVDEP) -> Job:
    return Job(platform=PLATFORM, package="a.1", kind=kind, revdep=f"r{number}.1")


def decided(which: Job, outcome: Outcome) -> JobStatus:
    return JobStatus(job=which, state=JobState.DECIDED, attempt=1, outcome=outcome)


def test_a_reverse_dependency_with_tests_has_two_jobs() -> None:
    group = group_of(2, tested=1)
    assert group.counts == Counts(queued=3)
    kinds = [each.kind for each in revdep_jobs(group, Revdep(package="x.1", has_tests=True))]
    assert kinds == [JobKind.REVDEP, JobKind.REVDEP_TEST]
    assert len(revdep_jobs(group, Revdep(package="x.1", has_tests=False))) == 1


@given(moves=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(OUTCOMES)), max_size=40))
def test_numbers_are_those_of_the_rows(moves: list[tuple[int, Outcome]]) -> None:
    """Whatever moves, and however often a job is restarted, the numbers stay exact."""
    tally, rows = Tally(group_of(10)), dict[int, Outcome]()
    for number, outcome in moves:
        if number not in rows:
            tally.take(job(number), Standing.QUEUED)
        else:
            before = rows[number]
            cause = before.cause if isinstance(before, Errored) else None
            tally.take(job(number), Standing(before.kind), cause)
        tally.move(JobStatus(job=job(number), state=JobState.RUNNING, attempt=1))
        tally.move(decided(job(number), outcome))
        tally.forget(job(number).id)
        rows[number] = outcome
    group = tally.group()
    assert group.counts.total == 10
    assert group.counts.queued == 10 - len(rows)
    for kind in ("passed", "failed", "errored", "skipped", "cancelled"):
        assert getattr(group.counts, kind) == sum(o.kind == kind for o in rows.values())
    causes = [o.cause for o in rows.values() if isinstance(o, Errored)]
    assert group.causes == {cause: causes.count(cause) for cause in sorted(set(causes))}


def test_what_people_look_for_is_shown_first_and_the_rest_bounded() -> None:
    tally = Tally(group_of(500))
    for number in range(500):
        tally.take(job(number), Standing.QUEUED)
        outcome = OUTCOMES[1] if number in {3, 250, 499} else OUTCOMES[0]
        tally.move(decided(job(number), outcome))
    group = tally.group()
    assert len(group.shown) == GROUP_ROWS
    assert {row.job.revdep for row in group.shown[:3]} == {"r3.1", "r250.1", "r499.1"}
    assert len(group.model_dump_json()) < 60_000


def test_what_nobody_runs_any_more_is_settled_once() -> None:
    tally = Tally(group_of(4))
    tally.take(job(0), Standing.QUEUED)
    tally.move(JobStatus(job=job(0), state=JobState.RUNNING, attempt=1))
    lost = Errored(cause=Cause.UNKNOWN, evidence=EVIDENCE)
    group = given_up(tally.group(taken=1, untaken=3), lost)
    assert group.counts == Counts(errored=4)
    assert group.causes == {Cause.UNKNOWN: 4}
    assert group.shown[0].outcome == lost
    assert given_up(group, Cancelled(by="closed")) == group
    # A restart goes on with the list where it stopped.
    again = Tally(group)
    again.resume()
    assert again.group().counts == Counts(errored=1, queued=3)
    assert again.group().causes == {Cause.UNKNOWN: 1}


def test_a_restart_takes_groups_by_number() -> None:
    group = group_of(20).model_copy(
        update={
            "counts": Counts(passed=10, failed=3, errored=5, cancelled=2),
            "causes": {Cause.DNS: 4, Cause.DISK_FULL: 1},
        }
    )
    taken = {
        "errored": number_taken(RestartSelector(), group),
        "failed": number_taken(RestartSelector(which=RestartWhich.FAILED), group),
        "all": number_taken(RestartSelector(which=RestartWhich.ALL), group),
        "dns": number_taken(RestartSelector(cause=Cause.DNS), group),
        "elsewhere": number_taken(RestartSelector(platform="x"), group),
        "package": number_taken(RestartSelector(package="a"), group),
        "named": number_taken(RestartSelector(jobs=(job(7).id, "build x y", job(8).id)), group),
        "named twice": number_taken(RestartSelector(jobs=(job(7).id,), job=job(8).id), group),
    }
    assert taken == {
        "errored": 7, "failed": 3, "all": 20, "dns": 4, "elsewhere": 0, "package": 7,
        "named": 2, "named twice": 0,
    }  # fmt: skip
    assert concerns(RestartSelector(job=job(7).id), group)
    assert not concerns(RestartSelector(job="build x y"), group)
    assert concerns(RestartSelector(jobs=("build x y", job(7).id)), group)
    assert not concerns(RestartSelector(jobs=("build x y",)), group)


def test_which_jobs_of_the_index_a_restart_takes() -> None:
    skipped = Skipped(reason=SkipReason.NOT_BUILT, evidence=Evidence(rule="build-not-passed"))
    unsolvable = Skipped(reason=SkipReason.NO_SOLUTION, evidence=EVIDENCE)
    tests = job(1, JobKind.REVDEP_TEST)
    failed = RestartSelector(which=RestartWhich.FAILED)
    assert is_taken(failed, tests, skipped)
    assert not is_taken(RestartSelector(), tests, skipped)
    assert not is_taken(failed, tests, unsolvable)
    # Nobody decided it, and nobody runs it: the CI lost it.
    assert is_taken(RestartSelector(), tests, None)
    assert not is_taken(failed, tests, None)
    assert not is_taken(RestartSelector(cause=Cause.DNS), tests, None)


def summary_with(counts: Counts, causes: dict[Cause, int] | None = None) -> Summary:
    group = group_of(30).model_copy(update={"counts": counts, "causes": causes or {}})
    analysis = Job(platform="", package="", kind=JobKind.ANALYSIS)
    return Summary(
        pull_request="o/r#1",
        head="a" * 40,
        base="b" * 40,
        planned=True,
        jobs=(decided(analysis, OUTCOMES[0]),),
        groups=(group,),
    )


def test_a_status_counts_groups() -> None:
    assert summary_with(Counts(passed=29, queued=1)).state is State.PENDING
    assert summary_with(Counts(passed=29, errored=1), {Cause.DNS: 1}).state is State.ERROR
    assert summary_with(Counts(errored=1, failed=29), {Cause.DNS: 1}).state is State.FAILURE
    said = status_description(
        summary_with(Counts(passed=29, errored=1), {Cause.DNS: 1}), maximum_attempts=5
    )
    assert "names do not resolve" in said
    assert "29 passed" in said


def test_contexts_share_groups_out() -> None:
    contexts = tuple(
        Context(name=about.value, about=about, advisory=about is About.REVDEPS) for about in About
    )
    summary = summary_with(Counts(failed=30))
    states = {context.about: part_of(summary, context, contexts).state for context in contexts}
    assert states == {
        About.OVERALL: State.SUCCESS,
        About.LINTER: State.SUCCESS,
        About.REVDEPS: State.FAILURE,
    }


def test_tables_say_how_many_are_not_shown() -> None:
    summary = summary_with(Counts(passed=28, failed=2))
    assert group_lines(summary) == [
        f"a.1 on {PLATFORM}: 30 reverse dependencies, 2 failed, 28 passed; 0 of 30 jobs are shown"
    ]
    assert "… and 30 more" in markdown_matrix(summary)
