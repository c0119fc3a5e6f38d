"""Incidents: pure rules, and the index that applies them as faults come in."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opam_ci.core.incidents.grouping import GAP, Span, group, joined, place_of
from opam_ci.core.incidents.model import FaultSeen, HitJob, Place, Scope
from opam_ci.core.incidents.restarts import (
    JOB_BUDGET,
    PULL_REQUEST_BUDGET,
    TRIALS,
    HitKey,
    has_budget,
    key_of,
    restart_plan,
    trial_of,
)
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Cause, Evidence
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.selector import RestartOrigin

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
DEBIAN = "debian-13-ocaml-5.3/amd64"


def revision(number: int) -> RevisionKey:
    return RevisionKey(repository="o/r", number=number, head=f"{number:040x}", opened_at=NOON)


def job(package: str = "cppo.1.8.0", kind: JobKind = JobKind.BUILD) -> Job:
    return Job(platform=DEBIAN, package=package, kind=kind)


def fault(  # noqa: PLR0913  each is a fact of its own
    number: int = 1,
    *,
    minutes: float = 0,
    cause: Cause = Cause.DISK_FULL,
    worker: str | None = "w1",
    pool: str | None = "linux-amd64",
    package: str = "cppo.1.8.0",
    attempt: int = 1,
) -> FaultSeen:
    return FaultSeen(
        revision=revision(number), job=job(package), attempt=attempt, cause=cause,
        at=NOON + timedelta(minutes=minutes), worker=worker, pool=pool,
        evidence=Evidence(rule="enospc", worker=worker),
    )  # fmt: skip


faults = st.builds(
    fault,
    st.integers(1, 3),
    minutes=st.integers(0, 300),
    cause=st.sampled_from([Cause.DISK_FULL, Cause.DNS]),
    worker=st.sampled_from(["w1", "w2", None]),
    pool=st.sampled_from(["linux-amd64", "linux-arm64", None]),
    attempt=st.integers(1, 4),
)


@pytest.mark.parametrize(
    ("seen", "place"),
    [
        ([("p", "w")], Place(scope=Scope.WORKER, pool="p", worker="w")),
        ([("p", "w"), ("p", None)], Place(scope=Scope.WORKER, pool="p", worker="w")),
        ([("p", "w"), ("p", "x")], Place(scope=Scope.POOL, pool="p")),
        ([("p", "w"), ("q", "x")], Place(scope=Scope.ALL)),
        ([("p", "w"), (None, "x")], Place(scope=Scope.ALL)),
        ([("p", None)], Place(scope=Scope.POOL, pool="p")),
        ([(None, None)], Place(scope=Scope.ALL)),
        ([(None, "w")], Place(scope=Scope.WORKER, worker="w")),
    ],
)
def test_the_place_is_as_narrow_as_all_faults_allow(
    seen: list[tuple[str | None, str | None]], place: Place
) -> None:
    assert place_of(seen) == place


def test_one_cause_close_in_time_is_one_incident() -> None:
    apart = GAP.total_seconds() / 60
    [first, other_cause, later] = group(
        [
            fault(1),
            fault(2, minutes=apart, worker="w2"),
            fault(1, minutes=2, cause=Cause.DNS),
            fault(3, minutes=2 * apart + 0.01),
        ]
    )
    assert [each.revision.number for each in first.faults] == [1, 2]
    assert first.place == Place(scope=Scope.POOL, pool="linux-amd64")
    assert other_cause.cause is Cause.DNS
    assert [each.revision.number for each in later.faults] == [3]


@settings(max_examples=40)
@given(st.lists(faults, max_size=12), st.randoms())
def test_grouping_knows_no_order_and_no_repetition(found: list[FaultSeen], chance: object) -> None:
    shuffled = [*found, *found]
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis's own Random
    groups = group(shuffled)
    assert groups == group(found)
    assert {each for one in groups for each in one.faults} == set(found)


def test_repair_draws_a_line_between_incidents() -> None:
    hour = timedelta(hours=1)
    repaired = Span(1, NOON, NOON + hour, resolved=NOON + 2 * hour)
    after = Span(2, NOON + 2.1 * hour, NOON + 2.2 * hour, resolved=None)
    assert joined(NOON + 1.5 * hour, [repaired, after]) == (1,)
    assert joined(NOON + 2.05 * hour, [repaired, after]) == (2,)
    assert joined(NOON + 1.9 * hour, [Span(1, NOON, NOON + 1.8 * hour, NOON + 1.85 * hour)]) == ()


def test_two_incidents_become_one_when_a_fault_lies_between() -> None:
    spans = [Span(4, NOON, NOON, None), Span(2, NOON + 2 * GAP, NOON + 2 * GAP, None)]
    assert joined(NOON + GAP, spans) == (2, 4)


def hit(
    number: int, package: str, kind: JobKind = JobKind.BUILD, restart_budget_used: int = 0
) -> HitJob:
    return HitJob(
        revision=revision(number), job=job(package, kind), restart_budget_used=restart_budget_used
    )


@settings(max_examples=40)
@given(
    st.lists(
        st.builds(
            hit,
            st.integers(1, 4),
            st.sampled_from([f"p{n}.1" for n in range(30)]),
            st.sampled_from([JobKind.BUILD, JobKind.TEST]),
            st.integers(0, 80),
        ),
        max_size=80,
        unique_by=lambda each: (each.revision, each.job),
    ),
    st.integers(1, 20),
    st.randoms(),
)
def test_a_plan_restarts_exactly_what_was_hit_each_once(
    jobs: list[HitJob], window: int, chance: object
) -> None:
    plan = restart_plan(jobs, window=window)
    orders = [plan.trial] if plan.trial else []
    orders += [order for part in plan.windows for order in part]
    planned = [(order.revision, name) for order in orders for name in order.jobs]
    wanted = {
        (each.revision, each.job.id) for each in jobs if each.restart_budget_used < JOB_BUDGET
    }
    assert len(planned) == len(set(planned)) == plan.jobs
    assert set(planned) == wanted
    assert {each.restart_budget_used >= JOB_BUDGET for each in plan.spent} <= {True}
    assert all(sum(len(order.jobs) for order in part) <= window for part in plan.windows)
    chance.shuffle(jobs)  # type: ignore[attr-defined]  # hypothesis's own Random
    assert restart_plan(jobs, window=window) == plan


def test_the_trial_is_a_build_and_small_pull_requests_come_first() -> None:
    many = [hit(1, f"p{n}.1", JobKind.TEST) for n in range(5)]
    plan = restart_plan([*many, hit(2, "q.1"), hit(3, "r.1", JobKind.TEST)], window=4)
    assert plan.trial is not None
    assert plan.trial.revision.number == 2
    numbers = [[order.revision.number for order in part] for part in plan.windows]
    assert numbers == [[3, 1], [1]]


def test_canaries_take_turns_until_each_was_used_often_enough() -> None:
    jobs = [
        hit(1, "a.1", JobKind.TEST),
        hit(1, "b.1"),
        hit(2, "c.1"),
        hit(3, "d.1", restart_budget_used=JOB_BUDGET),
    ]
    sent = Counter[HitKey]()
    asked = []
    while (trial := trial_of(jobs, sent)) is not None:
        sent[key_of(trial)] += 1
        asked.append(trial.job.package)
    # Pull requests by turns, whatever each has lost: one may have brought the fault about itself.
    assert asked[:6] == ["c.1", "b.1", "c.1", "a.1", "c.1", "b.1"]
    # The one that has used up its budget is left to people.
    assert sorted(sent.values()) == [TRIALS] * 3


def test_only_automatic_restarts_have_a_budget() -> None:
    assert has_budget(RestartOrigin.INCIDENT, PULL_REQUEST_BUDGET - 1)
    assert not has_budget(RestartOrigin.INCIDENT, PULL_REQUEST_BUDGET)
    assert not has_budget(RestartOrigin.TRIAL, PULL_REQUEST_BUDGET)
    assert has_budget(RestartOrigin.PERSON, PULL_REQUEST_BUDGET)
    assert has_budget(RestartOrigin.AUTHOR, PULL_REQUEST_BUDGET)
    charged = [origin.charged(7, 2) for origin in RestartOrigin]
    assert charged == [0, 0, 47, 13]
    # Three restarts, or a night of trials.
    assert RestartOrigin.INCIDENT.charged(0, 3) == RestartOrigin.TRIAL.charged(0, 20) == JOB_BUDGET
