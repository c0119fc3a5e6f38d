"""The state machine of a worker's health."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.jobs.outcome import (
    IMAGE_UNFIT,
    OWN_LIMIT_RULES,
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
)
from opam_ci.core.workers.health import (
    NETWORK_CAUSES,
    OWN_CAUSES,
    UNPROVEN,
    Attempt,
    Finding,
    Health,
    HealthPolicy,
    WorkerState,
    after_attempt,
    after_check,
    after_probe,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = HealthPolicy()
PASSED = Passed(evidence=Evidence(rule="x"))
FAILED = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="x"))
PROBE = timedelta(seconds=20)
"""Length of a probe on a busy machine; an idle one needs some three seconds."""
ATTEMPT = timedelta(seconds=1)
FULL = Finding(cause=Cause.DISK_FULL, detail="0 bytes free")


def errored(cause: Cause) -> Errored:
    return Errored(cause=cause, evidence=Evidence(rule="x", detail=f"it was {cause}"))


def after(  # noqa: PLR0913  each is what some test is about
    health: Health,
    outcome: Outcome,
    now: datetime = NOW,
    *,
    began_at: datetime | None = None,
    of: str = "1",
    package: str = "a.1",
) -> Health:
    attempt = Attempt(f"pr/o/r/{of}", (package,), began_at or now, now)
    return after_attempt(health, outcome, attempt, POLICY)


def probed(health: Health, finding: Finding | None = None, now: datetime = NOW) -> Health:
    assert health.needs_probe(now)
    return after_probe(health, finding, now=now, policy=POLICY)


def struck(cause: Cause = Cause.SANDBOX, now: datetime = NOW) -> Health:
    """A worker that unrelated pull requests have just quarantined."""
    health = probed(after(Health(), errored(cause), now, of="1", package="a.1"), now=now)
    return after(health, errored(cause), now, of="2", package="b.1")


@pytest.mark.parametrize("cause", sorted(OWN_CAUSES))
def test_one_fault_of_its_own_makes_it_probe(cause: Cause) -> None:
    health = after(Health(), errored(cause))
    assert health.state is WorkerState.PROBING
    assert health.slots(8) == 0
    assert health.needs_probe(NOW)
    assert health.trouble is None
    assert health.reason == Finding(cause=cause, detail=f"it was {cause}")
    good = probed(health)
    assert good.state is WorkerState.HEALTHY
    assert good.slots(8) == 8
    # What the probe cannot show costs one job at a time.
    assert good.fresh_jobs(POLICY) == 1
    bad = probed(health, FULL)
    assert bad.state is WorkerState.QUARANTINED
    assert bad.until == NOW + timedelta(seconds=10)
    assert bad.trouble == FULL


@pytest.mark.parametrize("cause", sorted(set(Cause) - OWN_CAUSES - NETWORK_CAUSES))
def test_what_others_do_never_counts(cause: Cause) -> None:
    health = Health()
    for number in range(50):
        health = after(health, errored(cause), of=str(number), package=f"p{number}.1")
    assert health == Health()
    assert Cause.SOURCE_HOST not in OWN_CAUSES | NETWORK_CAUSES


@pytest.mark.parametrize(
    ("cause", "rule"),
    [
        *((Cause.OUT_OF_MEMORY, rule) for rule in sorted(OWN_LIMIT_RULES)),
        (Cause.IMAGE, IMAGE_UNFIT),
    ],
)
def test_a_limit_that_a_job_hit_alone_and_an_unfit_image_never_count(
    cause: Cause, rule: str
) -> None:
    fault = Errored(cause=cause, evidence=Evidence(rule=rule))
    health = Health()
    for number in range(50):
        health = after(health, fault, of=str(number), package=f"p{number}.1")
    assert health == Health()


@pytest.mark.parametrize("cause", sorted(NETWORK_CAUSES))
def test_network_needs_several_in_a_row(cause: Cause) -> None:
    health = after(after(Health(), errored(cause)), errored(cause))
    assert health.state is WorkerState.HEALTHY
    # One pull request alone makes it probe, unrelated ones quarantine it.
    assert after(health, errored(cause)).state is WorkerState.PROBING
    unrelated = after(health, errored(Cause.NETWORK), of="2", package="b.1")
    assert unrelated.state is WorkerState.QUARANTINED
    # A job that passed in between shows that the network is there.
    again = after(after(health, PASSED, NOW + timedelta(seconds=1)), errored(cause))
    assert again.state is WorkerState.HEALTHY


def test_on_probation_one_fault_of_the_network_is_enough() -> None:
    network = errored(Cause.NETWORK)
    health = after(after(Health(), network), network)
    health = after(health, network, of="2", package="b.1")
    assert health.until is not None
    health = probed(health, now=health.until)
    assert health.state is WorkerState.PROBATION
    assert after(health, network).state is WorkerState.QUARANTINED


def test_unrelated_pull_requests_with_the_same_cause_quarantine_despite_the_probe() -> None:
    health = struck(Cause.IMAGE)
    assert health.state is WorkerState.QUARANTINED
    assert health.until == NOW + timedelta(seconds=10)
    assert health.trouble == Finding(cause=Cause.IMAGE, detail="it was image")


@pytest.mark.parametrize(
    ("of", "package", "cause", "seconds"),
    [
        pytest.param("1", "b.1", Cause.IMAGE, 1, id="the same pull request"),
        pytest.param("2", "a.2", Cause.IMAGE, 1, id="a package in common"),
        pytest.param("2", "b.1", Cause.STORAGE, 1, id="another cause"),
        pytest.param("2", "b.1", Cause.IMAGE, 3601, id="long ago"),
    ],
)
def test_others_than_unrelated_ones_do_not(
    of: str, package: str, cause: Cause, seconds: int
) -> None:
    health = probed(after(Health(), errored(Cause.IMAGE)))
    later = NOW + timedelta(seconds=seconds)
    health = after(health, errored(cause), later, of=of, package=package)
    assert health.state is WorkerState.PROBING


def test_a_passed_job_between_unrelated_faults_clears_the_worker() -> None:
    health = probed(after(Health(), errored(Cause.IMAGE)))
    later = NOW + timedelta(seconds=1)
    health = after(health, PASSED, later, of="3", package="c.1")
    assert after(health, errored(Cause.IMAGE), later, of="2").state is WorkerState.PROBING


def test_a_fault_while_it_probes_for_another_one() -> None:
    probing = after(Health(), errored(Cause.IMAGE))
    same = after(probing, errored(Cause.IMAGE))
    assert probed(same).state is WorkerState.HEALTHY
    # The good end of the probe does not lift a quarantine that began meanwhile.
    unrelated = after(probing, errored(Cause.IMAGE), of="2", package="b.1")
    assert unrelated.state is WorkerState.QUARANTINED
    later = NOW + timedelta(seconds=3)
    ended = after_probe(unrelated, None, now=later, policy=POLICY)
    assert ended.until == NOW + timedelta(seconds=10)
    worse = after_probe(unrelated, FULL, now=later, policy=POLICY)
    assert worse.until == later + timedelta(seconds=20)


def test_quarantines_double_with_each_bad_probe_up_to_an_hour_and_a_passed_job_resets() -> None:
    health, now, lengths = after(Health(), errored(Cause.SANDBOX)), NOW, []
    for _ in range(11):
        health = probed(health, FULL, now)
        assert health.until is not None
        lengths.append((health.until - now).total_seconds())
        now = health.until
        assert not health.needs_probe(now - timedelta(seconds=1))
    assert lengths == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
    health = probed(health, None, now)
    assert health.state is WorkerState.PROBATION
    assert health.slots(8) == 1
    # The bad probe explained the first fault: this one is new, and alone.
    assert after(health, errored(Cause.SANDBOX), now, of="2", package="b.1").until is None
    health = after(health, PASSED, now)
    assert health == Health()
    assert health.slots(8) == 8


def test_quarantines_double_with_distinct_suspects_and_not_with_attempts() -> None:
    health, now, lengths = struck(), NOW, []
    for number in (1, 2, 1, 2, 3, 3, 4, 1):
        assert health.until is not None
        now = health.until
        health = probed(health, None, now)
        health = after(health, errored(Cause.SANDBOX), now, of=f"{number}", package=f"p{number}.1")
        assert health.until is not None
        lengths.append((health.until - now).total_seconds())
    assert lengths == [10, 10, 10, 10, 20, 20, 40, 40]


def test_faults_during_a_quarantine_do_not_prolong_it() -> None:
    health = struck()
    later = after(health, errored(Cause.SANDBOX), NOW + timedelta(seconds=3), of="3", package="c.1")
    assert later.until == health.until
    assert later.strikes == 1


def test_a_job_that_began_before_the_fault_proves_nothing_after_it() -> None:
    health = struck()
    before, later = NOW - timedelta(seconds=9), NOW + timedelta(seconds=1)
    assert after(health, PASSED, later, began_at=before) == health
    # But it clears the worker of faults before its begin.
    second = NOW + timedelta(seconds=20)
    health = probed(after(Health(), errored(Cause.IMAGE)))
    health = after(health, errored(Cause.SANDBOX), second, of="2", package="b.1")
    health = after(health, PASSED, second, began_at=NOW + timedelta(seconds=10))
    assert [each.pull_request for each in health.suspects] == ["pr/o/r/2"]


def test_package_failures_and_cancellations_prove_nothing() -> None:
    health = probed(struck(), now=NOW + timedelta(minutes=1))
    later = NOW + timedelta(minutes=2)
    assert after(health, FAILED, later) == health
    assert after(health, Cancelled(by="request"), later) == health


def test_host_check_closes_and_opens_at_once() -> None:
    health = after_check(Health(), FULL)
    assert health.state is WorkerState.QUARANTINED
    assert health.trouble == FULL
    assert not health.needs_probe(NOW)
    assert after_check(health, None) == Health()


def test_a_new_worker_is_probed_before_any_work() -> None:
    assert UNPROVEN.slots(4) == 0
    assert UNPROVEN.trouble is None
    assert UNPROVEN.state is WorkerState.PROBING
    assert probed(UNPROVEN).slots(4) == 4
    assert probed(UNPROVEN, FULL).slots(4) == 0


def test_what_is_remembered_is_bounded() -> None:
    health = Health()
    for number in range(200):
        health = after(health, errored(Cause.IMAGE), of="1", package=f"p{number}.1")
        health = health.model_copy(update={"probing": False})
    for number in range(200):
        health = after(health, errored(Cause.IMAGE), of=f"{number}", package="p0.1")
    assert len(health.suspects) == 16
    assert max(len(each.packages) for each in health.suspects) <= 64


OWN = sorted(OWN_CAUSES)
KINDS = sorted(OWN_CAUSES | NETWORK_CAUSES)


@pytest.mark.parametrize("causes", [OWN[:1], OWN, KINDS], ids=["one kind", "own", "all kinds"])
@pytest.mark.parametrize("packages", [1, 2, 15])
def test_fifteen_hostile_attempts_cost_less_than_two_minutes(
    causes: list[Cause], packages: int
) -> None:
    """In a row, of one pull request, on a worker with one slot; nothing ever passes."""
    health, now, idle = Health(), NOW, timedelta(0)
    for number in range(15):
        now += ATTEMPT
        health = after(
            health,
            errored(causes[number % len(causes)]),
            now,
            began_at=now - ATTEMPT,
            package=f"p{number % packages}.1",
        )
        while health.slots(1) == 0:
            begin = now
            now = max(health.until or now, now) + PROBE
            health = probed(health, now=now)
            idle += now - begin
    assert timedelta(0) < idle < timedelta(minutes=2)


FAULTS = st.tuples(st.sampled_from(KINDS), st.integers(1, 30), st.integers(0, 4000))


@given(st.lists(st.one_of(FAULTS, st.sampled_from([PASSED, FAILED])), max_size=60))
def test_one_pull_request_alone_never_quarantines_a_worker_whose_probes_are_good(
    events: Sequence[tuple[Cause, int, int] | Passed | Failed],
) -> None:
    health, now = Health(), NOW
    for event in events:
        if isinstance(event, tuple):
            cause, package, seconds = event
            now += timedelta(seconds=seconds)
            health = after(health, errored(cause), now, package=f"p{package}.1")
        else:
            health = after(health, event, now)
        assert health.state is not WorkerState.QUARANTINED
        if health.needs_probe(now):
            now += PROBE
            health = probed(health, now=now)
        assert health.slots(4) == 4


CAUSES = st.sampled_from(sorted(Cause))
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("fault"), CAUSES, st.integers(1, 4)),
        st.tuples(st.just("pass"), st.none(), st.integers(1, 4)),
        st.tuples(st.just("probe"), st.one_of(st.none(), CAUSES), st.just(0)),
        st.tuples(st.just("check"), st.one_of(st.none(), CAUSES), st.just(0)),
    ),
    max_size=80,
)


@given(EVENTS)
def test_whatever_happens_it_recovers_by_a_check_a_probe_and_a_passed_job(
    events: list[tuple[str, Cause | None, int]],
) -> None:
    health, now = UNPROVEN, NOW
    for what, cause, number in events:
        now += timedelta(seconds=1)
        finding = Finding(cause=cause, detail="x") if cause else None
        match what:
            case "fault" if cause is not None:
                health = after(health, errored(cause), now, of=f"{number}", package=f"{number}.1")
            case "pass":
                health = after(health, PASSED, now)
            case "probe" if health.needs_probe(now):
                health = after_probe(health, finding, now=now, policy=POLICY)
            case "check":
                health = after_check(health, finding)
        no_slots = health.trouble is not None or health.state is WorkerState.PROBING
        assert (health.slots(4) == 0) == no_slots
        assert health.until is None or health.until - now <= POLICY.longest_quarantine
    health = after_check(health, None)
    if health.slots(4) == 0:
        now = max(now, health.until or now)
        health = probed(health, now=now)
    assert health.slots(4) >= 1
    assert after(health, PASSED, now) == Health()
