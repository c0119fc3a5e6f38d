"""Verdicts that hold for jobs with the same inputs; on SQLite and PostgreSQL."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import pytest

from opam_ci.clients.index import Index
from opam_ci.core.classify.positive_proofs import KNOWN_FAILURE
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.jobs.messages import ChangeJobs, TakeJobs
from opam_ci.core.jobs.outcome import (
    Failed,
    FailedWithout,
    FailureReason,
    Outcome,
    Passed,
    Reused,
    SkipReason,
)
from opam_ci.core.jobs.plan import PlannedJob, depends_on
from opam_ci.core.jobs.records import RevisionKey, RowBatch
from opam_ci.core.jobs.selector import RestartSelector, RestartWhich
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.reuse.settled import MAX_AGE, Audits
from tests.support.fakes.queue import (
    DNS,
    FAILED,
    KEY,
    NO_SOLUTION,
    NOON,
    OTHER,
    PASSED,
    WHY,
    P,
    Q,
    after,
    build,
    decided,
    its_test,
    labels,
    records,
    taken,
)
from tests.support.samples.known_failures import failed, seen

IMAGE, POOL = "0123456789abcdef", "pool"
BUILD = build()
THIRD = KEY.model_copy(update={"number": 3})


def plan(
    index: Index,
    jobs: Iterable[PlannedJob],
    *,
    key: RevisionKey = KEY,
    round_: int = 1,
    at: datetime = NOON,
) -> None:
    index.plan(key, jobs, round_=round_, origin=None, at=at)


def keyed(job: Job = BUILD, plan_key: str = "k", **words: object) -> PlannedJob:
    planned = PlannedJob(job=job, needs=depends_on(job), plan_key=plan_key)
    return planned.model_copy(update=words)


def ran(  # noqa: PLR0913 - what an attempt has
    index: Index,
    outcome: Outcome = PASSED,
    *,
    job: Job = BUILD,
    key: RevisionKey = OTHER,
    round_: int = 1,
    image: str | None = IMAGE,
    ended_at: datetime = NOON,
    log: str | None = "logs/l",
    pool: str = POOL,
    **report: object,
) -> None:
    """Records an attempt of a job that was planned."""
    row = decided(
        job, outcome, attempt=1, round=round_, image=image, decided_at=ended_at, log=log, **report
    ).model_copy(update={"attempt_started_at": ended_at})
    batch = RowBatch(
        key=key, rows=(row,), sequence=1, updated_at=ended_at, pools={job.platform: pool}
    )
    index.record(batch)


def holds(index: Index, plan_key: str = "k", now: datetime = NOON) -> KnownVerdict | None:
    return index.settled([plan_key, "unknown"], IMAGE, now).get(plan_key)


def audits(index: Index, now: datetime = NOON) -> Audits:
    return index.ops_page(now).quality.audits


def test_a_verdict_holds_for_jobs_with_its_key(index: Index) -> None:
    plan(index, [keyed()], key=OTHER)
    assert holds(index) is None
    ran(index, ended_at=after(3))
    found = holds(index, now=after(4))
    assert found is not None
    assert found.log == "logs/l"
    assert found.label == "passed"
    assert isinstance(found.outcome, Passed)
    assert found.outcome.evidence.reused == Reused(
        **OTHER.model_dump(), round=1, attempt=1, ended_at=after(3), job=BUILD
    )
    assert found.outcome.evidence.rule == WHY.rule
    assert holds(index, "other") is None
    assert holds(index, now=after(4) + MAX_AGE) is None


def test_a_job_with_a_verdict_is_never_queued(index: Index) -> None:
    plan(index, [keyed()], key=OTHER)
    ran(index)
    verdict = holds(index)
    jobs = [keyed(verdict=verdict), keyed(its_test(BUILD), "t"), PlannedJob(job=build("b.1"))]
    for _ in range(2):
        plan(index, jobs, at=after(5))
        assert labels(index) == {
            BUILD.id: "passed",
            its_test(BUILD).id: "queued",
            build("b.1").id: "queued",
        }
        row = records(index)[BUILD.id].status
        # The log of the other one goes with its testing, and not with this one.
        assert (row.log, row.attempt, row.decided_at) == (None, 0, after(5))
        assert row.outcome == (verdict and verdict.outcome)
    # What needs it runs.
    assert [each.job.id for each in taken(index)] == [its_test(BUILD).id, build("b.1").id][::-1]
    assert all(each.inherited_outcome is None for each in taken(index))
    # It is no verdict of its own: what holds for others is the attempt that ran.
    assert holds(index) == verdict
    ran(index, FAILED, key=OTHER, round_=2)
    assert holds(index) is None


def test_a_reused_failure_has_its_reason_and_its_group(index: Index) -> None:
    for number, key in enumerate((OTHER, THIRD)):
        plan(index, [keyed()], key=key)
        ran(index, FAILED, key=key, ended_at=after(number))
        assert (holds(index, now=after(2)) is not None) == (key == THIRD)
    verdict = holds(index, now=after(2))
    assert verdict is not None
    assert isinstance(verdict.outcome, Failed)
    assert verdict.label == "failed build"
    plan(index, [keyed(verdict=verdict)], at=after(3))
    assert labels(index) == {BUILD.id: "failed(build)"}


def test_a_failure_that_holds_says_where_and_how_the_job_failed(index: Index) -> None:
    def failing() -> dict[str, FailedWithout]:
        return index.failing(["k", "passed", "unknown"], IMAGE, after(2))

    on_base = Job(platform=P, package="r.1", kind=JobKind.BASE_BUILD)
    how = failed("# Error: it is\nbroken")
    for number, key in enumerate((OTHER, THIRD)):
        # The second one is no job on the base, with the same inputs.
        job = (on_base, build("r.1"))[number]
        plan(index, [keyed(job), keyed(build("p.1"), "passed")], key=key)
        ran(index, job=build("p.1"), key=key)
        assert failing() == {}
        ran(index, how, job=job, key=key, ended_at=after(number))
    of = {**THIRD.model_dump(), "round": 1, "attempt": 1, "ended_at": after(1)}
    line = "bar.2: Error: it is broken"
    assert failing() == {"k": FailedWithout(**of, job=build("r.1"), line=line)}
    assert index.failing(["k"], "another image", after(2)) == {}
    assert index.failing(["k"], IMAGE, after(2) + MAX_AGE) == {}
    assert index.failing([], IMAGE, after(2)) == {}
    # One that passes with the same inputs: it was by chance.
    ran(index, job=build("r.1"), key=THIRD, round_=2)
    assert failing() == {}


def test_a_job_that_did_not_build_what_failed_is_no_evidence(index: Index) -> None:
    evidence = failed().evidence.model_copy(update={"rule": KNOWN_FAILURE, "seen_in": seen()})
    not_built = failed().model_copy(update={"evidence": evidence})
    for number, key in enumerate((OTHER, THIRD)):
        plan(index, [keyed(audits="passed")], key=key)
        ran(index, not_built, key=key, ended_at=after(number))
    assert holds(index, now=after(2)) is None
    assert audits(index, after(2)) == Audits()
    # Nor does it stand against what was built.
    ran(index, key=KEY, ended_at=after(1))
    plan(index, [keyed()])
    ran(index, ended_at=after(2), round_=2)
    assert holds(index, now=after(3)) is not None


def test_a_restart_runs_it(index: Index) -> None:
    plan(index, [keyed()], key=OTHER)
    ran(index)
    plan(index, [keyed(verdict=holds(index))])
    everything = RestartSelector(which=RestartWhich.ALL)
    index.requeue(ChangeJobs(key=KEY, selector=everything, round=2), after(1))
    assert labels(index) == {BUILD.id: "queued"}
    ran(index, FAILED, key=KEY, round_=2)
    # Both verdicts with the same inputs.
    assert holds(index) is None


@pytest.mark.parametrize("outcome", [DNS, FAILED.model_copy(update={"reason": "timeout"})])
def test_other_outcomes_hold_for_nobody(index: Index, outcome: Outcome) -> None:
    for key in (OTHER, THIRD):
        plan(index, [keyed()], key=key)
        ran(index, outcome, key=key)
    assert holds(index) is None


def test_a_round_with_another_key_says_nothing(index: Index) -> None:
    plan(index, [keyed()], key=OTHER)
    ran(index)
    plan(index, [keyed(plan_key="k2")], key=OTHER, round_=2)
    assert (holds(index), holds(index, "k2")) == (None, None)
    ran(index, NO_SOLUTION, round_=2)
    found = holds(index, "k2")
    assert found is not None
    assert found.label == f"skipped {SkipReason.NO_SOLUTION}"
    assert holds(index) is None


def test_the_image_is_that_of_the_platforms_last_job(index: Index) -> None:
    assert index.image_of(P, POOL) is None
    other = build("b.1")
    elsewhere = build(platform=Q)
    plan(index, [keyed(), keyed(other, "b"), keyed(elsewhere, "q")], key=OTHER)
    ran(index, image=None)
    assert index.image_of(P, POOL) is None
    assert holds(index) is None
    ran(index, job=other, ended_at=after(1))
    ran(index, job=elsewhere, ended_at=after(2), image="f" * 16)
    assert index.image_of(P, POOL) == IMAGE
    assert index.image_of(Q, POOL) == "f" * 16
    assert index.image_of(P, "another pool") is None
    assert holds(index, "b", after(2)) is not None
    assert holds(index, "q", after(2)) is None


def test_audits_are_counted_and_drop_both_verdicts(index: Index) -> None:
    plan(index, [keyed()], key=OTHER)
    ran(index)
    verdict = holds(index)
    assert verdict is not None
    revdep = Job(platform=P, package="a.1", kind=JobKind.REVDEP, revdep="r.1")
    on_base = Job(platform=P, package="r.1", kind=JobKind.BASE_BUILD)
    audited = [
        keyed(audits=verdict.label),
        keyed(build("b.1"), "b", audits="failed build"),
        keyed(build("c.1"), "c", audits="passed"),
    ]
    plan(index, audited)
    assert audits(index) == Audits()
    ran(index, FAILED, key=KEY)
    ran(index, FAILED, key=KEY, job=build("b.1"))
    ran(index, DNS, key=KEY, job=build("c.1"))  # says nothing of the package
    assert audits(index) == Audits(compared=2, differed=1)
    assert audits(index, NOON + MAX_AGE + timedelta(seconds=1)) == Audits()
    # What follows from others is no difference: it fails on the base, too.
    plan(index, [keyed(revdep, "r", audits="failed build")])
    ran(index, FAILED, key=KEY, job=revdep)
    ran(index, FAILED, key=KEY, job=on_base)
    assert index.compare(KEY, frozenset(), after(1)).changed
    assert labels(index)[revdep.id] == "skipped(fails_on_base)"
    assert audits(index) == Audits(compared=3, differed=1)
    # The false one is out of use, and so is the other.
    assert holds(index) is None
    # A failure for another reason differs, too.
    wrong = Failed(reason=FailureReason.TEST, evidence=WHY)
    ran(index, wrong, key=KEY, job=build("b.1"), round_=2)
    assert audits(index) == Audits(compared=3, differed=2)


def test_thousands_of_keys_are_looked_up_at_once(index: Index) -> None:
    jobs = [keyed(build(f"p{number}.1"), f"k{number}") for number in range(2_500)]
    plan(index, jobs, key=OTHER)
    for some in (jobs[:1_000], jobs[1_000:]):
        rows = tuple(decided(each.job, PASSED, attempt=1, image=IMAGE) for each in some)
        batch = RowBatch(key=OTHER, rows=rows, sequence=1, updated_at=NOON, pools={P: POOL})
        index.record(batch)
    found = index.settled([f"k{number}" for number in range(3_000)], IMAGE, NOON)
    assert len(found) == len(jobs)
    assert {each.outcome.kind for each in found.values()} == {Standing.PASSED}
    again = [
        keyed(each.job, each.plan_key or "", verdict=found[each.plan_key or ""]) for each in jobs
    ]
    plan(index, again)
    assert index.image_of(P, POOL) == IMAGE
    assert set(labels(index).values()) == {"passed"}


def known(
    index: Index, job: Job = BUILD, now: datetime = NOON, *, reuse: bool = True
) -> dict[str, KnownVerdict]:
    """Takes queued jobs; returns the verdicts that one of them may turn out to have."""
    page = index.take(TakeJobs(key=KEY, platform=P, limit=9, reuse=reuse), now=now)
    return next(each.known_verdicts for each in page.jobs if each.job == job)


def test_a_queued_job_has_the_verdicts_of_its_solutions(index: Index) -> None:
    plan(index, [keyed()], key=OTHER)
    ran(index, verdict_key="v", ended_at=after(3))
    plan(index, [keyed(plan_key="k2"), keyed(build("b.1"), "b")])
    assert holds(index, "k2", after(4)) is None
    verdict = known(index, now=after(4))["v"]
    assert verdict == holds(index, "k", after(4))
    assert verdict.label == "passed"
    assert known(index, build("b.1"), after(4)) == {}
    assert known(index, now=after(3) + MAX_AGE + timedelta(seconds=1)) == {}
    assert known(index, now=after(4), reuse=False) == {}
    # It may have had another solution in another round, and each counts.
    plan(index, [keyed(plan_key="k3")], key=OTHER, round_=2)
    ran(index, verdict_key="v2", round_=2, ended_at=after(5))
    assert known(index, now=after(6)).keys() == {"v", "v2"}


def test_verdicts_are_as_settled_as_those_by_plan_key(index: Index) -> None:
    plan(index, [keyed(plan_key="k2")])
    for number, key in enumerate((OTHER, THIRD)):
        plan(index, [keyed(plan_key=f"k{key.number}")], key=key)
        ran(index, FAILED, key=key, verdict_key="v", ended_at=after(number))
        assert known(index, now=after(2)).keys() == (set() if key == OTHER else {"v"})
    plan(index, [keyed(plan_key="k4")], key=OTHER, round_=2)
    ran(index, verdict_key="v", round_=2, ended_at=after(3))
    assert known(index, now=after(4)) == {}


def test_three_verdicts_at_most_go_with_a_job(index: Index) -> None:
    for round_ in range(1, 6):
        plan(index, [keyed(plan_key=f"k{round_}")], key=OTHER, round_=round_)
        ran(index, verdict_key=f"v{round_}", round_=round_, ended_at=after(round_))
    plan(index, [keyed(plan_key="other")])
    assert known(index, now=after(9)).keys() == {"v3", "v4", "v5"}


def test_jobs_on_the_base_and_ordinary_ones_have_the_same(index: Index) -> None:
    on_base = Job(platform=P, package="a.1", kind=JobKind.BASE_BUILD)
    plan(index, [keyed(on_base)], key=OTHER)
    ran(index, job=on_base, verdict_key="v")
    plan(index, [keyed(plan_key="k2"), keyed(its_test(BUILD), "t")])
    assert known(index)["v"].outcome.evidence.reused == Reused(
        **OTHER.model_dump(), round=1, attempt=1, ended_at=NOON, job=on_base
    )
    assert known(index, its_test(BUILD)) == {}


def test_a_job_that_took_a_verdict_is_no_evidence_and_passes_it_on(index: Index) -> None:
    for number, key in enumerate((OTHER, THIRD)):
        plan(index, [keyed()], key=key)
        ran(index, FAILED, key=key, verdict_key="v", ended_at=after(number))
    plan(index, [keyed(plan_key="k2")])
    verdict = known(index, now=after(2))["v"]
    ran(index, verdict.outcome, key=KEY, verdict_key="v", ended_at=after(3))
    # By its plan key it holds without a solver, too, as the verdict of those that ran.
    assert holds(index, "k2", after(5)) == verdict
    assert index.failing(["k2"], IMAGE, after(5)).keys() == {"k2"}
    # Two plan keys may lead to one attempt.
    both = index.settled(["k", "k2"], IMAGE, after(5))
    assert both == {"k": verdict, "k2": verdict}
    assert index.failing(["k", "k2"], IMAGE, after(5)).keys() == {"k", "k2"}
    assert holds(index, "k2", after(1) + MAX_AGE + timedelta(seconds=1)) is None
    later = KEY.model_copy(update={"number": 5})
    plan(index, [keyed(plan_key="k3")], key=later)
    page = index.take(TakeJobs(key=later, platform=P, limit=9, reuse=True), now=after(5))
    assert page.jobs[0].known_verdicts["v"].outcome.evidence.reused == Reused(
        **THIRD.model_dump(), round=1, attempt=1, ended_at=after(1), job=BUILD
    )


def test_a_restart_and_an_audit_have_none(index: Index) -> None:
    plan(index, [keyed()], key=OTHER)
    ran(index, verdict_key="v")
    plan(index, [keyed(plan_key="k2", audits="passed")])
    assert known(index) == {}
    plan(index, [keyed(build("b.1"), "b")], key=OTHER)
    ran(index, job=build("b.1"), verdict_key="w")
    plan(index, [keyed(build("b.1"), "b2")], round_=2)
    assert known(index, build("b.1")) == {}


def test_an_audit_of_a_verdict_key_is_counted_and_drops_both(index: Index) -> None:
    plan(index, [keyed()], key=OTHER)
    # A false one.
    ran(index, verdict_key="v")
    plan(index, [keyed(plan_key="k2"), keyed(build("b.1"), "b", audits="failed build")])
    assert known(index)["v"].label == "passed"
    ran(index, FAILED, key=KEY, verdict_key="v", audits="passed", ended_at=after(1))
    assert audits(index, after(2)) == Audits(compared=1, differed=1)
    # What the plan says of an audit stays.
    ran(index, FAILED, key=KEY, job=build("b.1"), ended_at=after(1))
    assert audits(index, after(2)) == Audits(compared=2, differed=1)
    assert holds(index, "k", after(2)) is not None
    plan(index, [keyed(plan_key="k3")], key=THIRD)
    page = index.take(TakeJobs(key=THIRD, platform=P, limit=9, reuse=True), now=after(2))
    assert page.jobs[0].known_verdicts == {}
    # Another round is another matter.
    plan(index, [keyed(plan_key="k2")], round_=2)
    assert audits(index, after(2)) == Audits(compared=1)


def test_one_failure_counts_once_by_both_keys(index: Index) -> None:
    plan(index, [keyed()], key=OTHER)
    ran(index, FAILED, key=OTHER, verdict_key="v")
    # As if there had been another one, which is gone.
    reused = Reused(**THIRD.model_dump(), round=1, attempt=1, ended_at=NOON, job=BUILD)
    evidence = FAILED.evidence.model_copy(update={"reused": reused})
    took = FAILED.model_copy(update={"evidence": evidence})
    plan(index, [keyed()])
    ran(index, took, key=KEY, verdict_key="v", ended_at=after(1))
    assert holds(index, "k", after(2)) is None


def test_a_solution_is_that_of_the_job_with_the_plan_key(index: Index) -> None:
    plan(index, [keyed(), keyed(build("b.1"), "b")], key=OTHER)
    ran(index, verdict_key="v")
    ran(index, FAILED, job=build("b.1"), verdict_key="w")
    plan(index, [keyed(plan_key="k2"), keyed(build("b.1"), "b2")])
    ran(index, known(index)["v"].outcome, key=KEY, verdict_key="v", ended_at=after(1))
    found = index.settled(["k2", "b2"], IMAGE, after(2))
    assert {key: each.label for key, each in found.items()} == {"k2": "passed"}
    # Another solution of the same job says nothing of this one.
    plan(index, [keyed(plan_key="k3")], key=THIRD)
    ran(index, FAILED, key=THIRD, verdict_key="w", ended_at=after(1))
    assert holds(index, "k2", after(2)) is not None
    assert index.settled(["k2"], "another image", after(2)) == {}
    # In another round the job may have another key.
    plan(index, [keyed(plan_key="k4")], round_=2)
    assert holds(index, "k4", after(2)) is None


def test_a_job_on_the_base_passes_on_the_verdict_of_the_ordinary_one(index: Index) -> None:
    plan(index, [keyed()], key=OTHER)
    ran(index, verdict_key="v")
    on_base = Job(platform=P, package="a.1", kind=JobKind.BASE_BUILD)
    plan(index, [keyed(on_base, "k2")])
    verdict = known(index, on_base)["v"]
    ran(index, verdict.outcome, key=KEY, job=on_base, verdict_key="v", ended_at=after(1))
    assert holds(index, "k2", after(2)) == verdict
