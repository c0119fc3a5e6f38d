"""The state machine of a worker's health."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.health import (
    NETWORK_CAUSES,
    OWN_CAUSES,
    Finding,
    Health,
    HealthPolicy,
    WorkerState,
    after_attempt,
    after_check,
    after_probe,
    unproven,
)
from opam_ci.core.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = HealthPolicy()
PASSED = Passed(evidence=Evidence(rule="x"))
FAILED = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="x"))
FULL = Finding(cause=Cause.DISK_FULL, detail="0 bytes free")


def errored(cause: Cause) -> Errored:
    return Errored(cause=cause, evidence=Evidence(rule="x", detail=f"it was {cause}"))


def after(
    health: Health, outcome: Outcome, now: datetime = NOW, *, began_at: datetime | None = None
) -> Health:
    return after_attempt(health, outcome, began_at=began_at or now, now=now, policy=POLICY)


@pytest.mark.parametrize("cause", sorted(OWN_CAUSES))
def test_one_fault_of_its_own_quarantines(cause: Cause) -> None:
    health = after(Health(), errored(cause))
    assert health.state is WorkerState.QUARANTINED
    assert health.until == NOW + timedelta(seconds=10)
    assert health.slots(8) == 0
    assert health.trouble == Finding(cause=cause, detail=f"it was {cause}")


@pytest.mark.parametrize("cause", sorted(set(Cause) - OWN_CAUSES - NETWORK_CAUSES))
def test_what_others_do_never_counts(cause: Cause) -> None:
    health = Health()
    for _ in range(50):
        health = after(health, errored(cause))
    assert health == Health()
    assert Cause.SOURCE_HOST not in OWN_CAUSES | NETWORK_CAUSES


@pytest.mark.parametrize("cause", sorted(NETWORK_CAUSES))
def test_network_needs_several_in_a_row(cause: Cause) -> None:
    health = after(after(Health(), errored(cause)), errored(cause))
    assert health.state is WorkerState.HEALTHY
    assert after(health, errored(cause)).state is WorkerState.QUARANTINED
    # A job that passed in between shows that the network is there.
    again = after(after(health, PASSED, NOW + timedelta(seconds=1)), errored(cause))
    assert again.state is WorkerState.HEALTHY


def test_quarantines_double_up_to_an_hour_and_a_passed_job_resets() -> None:
    health, now, lengths = Health(), NOW, []
    for _ in range(11):
        health = after(health, errored(Cause.SANDBOX), now)
        assert health.until is not None
        lengths.append((health.until - now).total_seconds())
        now = health.until
        assert health.needs_probe(now)
        assert not health.needs_probe(now - timedelta(seconds=1))
        health = after_probe(health, None, now=now, policy=POLICY)
        assert health.state is WorkerState.PROBATION
        assert health.slots(8) == 1
    assert lengths == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
    health = after(health, PASSED, now)
    assert health == Health()
    assert health.slots(8) == 8


def test_a_bad_probe_prolongs() -> None:
    health = after(Health(), errored(Cause.DISK_FULL))
    end = NOW + timedelta(seconds=10)
    health = after_probe(health, FULL, now=end, policy=POLICY)
    assert health.until == end + timedelta(seconds=20)
    assert health.trouble == FULL


def test_faults_during_a_quarantine_do_not_prolong_it() -> None:
    health = after(Health(), errored(Cause.DISK_FULL))
    later = after(health, errored(Cause.DISK_FULL), NOW + timedelta(seconds=3))
    assert later.until == health.until
    assert later.strikes == 1


def test_a_job_that_began_before_the_fault_proves_nothing() -> None:
    health = after(Health(), errored(Cause.DISK_FULL))
    before, later = NOW - timedelta(seconds=9), NOW + timedelta(seconds=1)
    assert after(health, PASSED, later, began_at=before) == health


def test_package_failures_and_cancellations_prove_nothing() -> None:
    health = after_probe(
        after(Health(), errored(Cause.UNKNOWN)), None, now=NOW + timedelta(minutes=1), policy=POLICY
    )
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
    health = unproven(NOW)
    assert health.slots(4) == 0
    assert health.trouble is None
    assert health.needs_probe(NOW)
    assert after_probe(health, None, now=NOW, policy=POLICY).slots(4) == 4
    assert after_probe(health, FULL, now=NOW, policy=POLICY).slots(4) == 0


CAUSES = st.sampled_from(sorted(Cause))
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("fault"), CAUSES),
        st.tuples(st.just("pass"), st.none()),
        st.tuples(st.just("probe"), st.one_of(st.none(), CAUSES)),
        st.tuples(st.just("check"), st.one_of(st.none(), CAUSES)),
    ),
    max_size=80,
)


@given(EVENTS)
def test_whatever_happens_it_recovers_by_a_check_a_probe_and_a_passed_job(
    events: list[tuple[str, Cause | None]],
) -> None:
    health, now = Health(), NOW
    for what, cause in events:
        now += timedelta(seconds=1)
        finding = Finding(cause=cause, detail="x") if cause else None
        match what:
            case "fault" if cause is not None:
                health = after(health, errored(cause), now)
            case "pass":
                health = after(health, PASSED, now)
            case "probe" if health.needs_probe(now):
                health = after_probe(health, finding, now=now, policy=POLICY)
            case "check":
                health = after_check(health, finding)
        assert (health.slots(4) == 0) == (health.trouble is not None or health.is_unproven)
        assert health.until is None or health.until - now <= POLICY.longest_quarantine
    health = after_check(health, None)
    if health.until is not None:
        now = health.until
        assert health.needs_probe(now)
        health = after_probe(health, None, now=now, policy=POLICY)
    assert health.slots(4) >= 1
    assert after(health, PASSED, now) == Health()
