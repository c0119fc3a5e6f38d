"""Which verdicts hold for jobs with the same inputs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from opam_ci.core.jobs.outcome import FailureReason, SkipReason
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.reuse.settled import (
    MAX_AGE,
    Attempted,
    Audits,
    is_audited,
    settled,
)

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def attempt(standing: Standing = Standing.PASSED, why: str = "", **words: Any) -> Attempted:
    given = {"id": 1, "image": "i", "ended_at": NOON, **words}
    return Attempted(standing=standing, why=why, **given)


def failed(alike: str | None = "s", **words: Any) -> Attempted:
    return attempt(Standing.FAILED, words.pop("why", "build"), alike=alike, **words)


def holds(*attempts: Attempted, image: str | None = "i") -> int | None:
    found = settled(attempts, image, NOON + timedelta(days=1))
    return None if found is None else found.id


def test_the_newest_of_equal_verdicts_holds() -> None:
    assert holds(attempt(id=1), attempt(id=2, ended_at=NOON + timedelta(hours=1))) == 2
    assert holds() is None


def test_a_failure_holds_once_two_attempts_failed_alike() -> None:
    assert holds(failed()) is None
    assert holds(failed(), failed(id=2)) == 2
    assert holds(failed(), failed("t", id=2)) is None
    assert holds(failed(None), failed(None, id=2)) is None


@pytest.mark.parametrize("why", FailureReason)
def test_failures_hold_that_package_code_explains(why: FailureReason) -> None:
    expected = 2 if why in {"build", "test", "dependency"} else None
    assert holds(failed(why=why), failed(why=why, id=2)) == expected


@pytest.mark.parametrize("why", SkipReason)
def test_skips_hold_that_the_solver_explains(why: SkipReason) -> None:
    expected = 1 if why in {"no_solution", "unavailable", "not_mirrored"} else None
    assert holds(attempt(Standing.SKIPPED, why)) == expected


@pytest.mark.parametrize("standing", [Standing.ERRORED, Standing.CANCELLED, Standing.RUNNING])
def test_nothing_else_holds(standing: Standing) -> None:
    assert holds(attempt(standing)) is None


def test_of_a_job_with_both_verdicts_none_holds() -> None:
    assert holds(attempt(id=3), failed(), failed(id=2)) is None


def test_a_verdict_of_another_image_says_nothing() -> None:
    assert holds(attempt(image="j")) is None
    assert holds(attempt(), image=None) is None
    assert holds(attempt(image=None), image=None) is None
    # Nor does it contradict.
    assert holds(attempt(), failed(image="j", id=2)) == 1


def test_an_old_verdict_does_not_hold() -> None:
    now = NOON + MAX_AGE
    assert settled([attempt()], "i", now) is not None
    assert settled([attempt()], "i", now + timedelta(seconds=1)) is None


def test_some_jobs_run_all_the_same_and_not_always_the_same_ones() -> None:
    keys = [str(number) for number in range(20_000)]
    chosen = {key for key in keys if is_audited(key, "one", 2)}
    assert chosen == {key for key in keys if is_audited(key, "one", 2)}
    assert 0.8 < len(chosen) / len(keys) / 0.02 < 1.2
    assert len(chosen & {key for key in keys if is_audited(key, "other", 2)}) < len(chosen) / 10
    assert not any(is_audited(key, "one", 0) for key in keys)
    assert all(is_audited(key, "one", 100) for key in keys)


def test_a_bound_says_how_often_reuse_may_be_wrong() -> None:
    assert Audits().wrong_at_most == 1
    # The rule of three: none in a thousand is at most three in a thousand.
    assert 0.002 < Audits(compared=1000).wrong_at_most < 0.003
    assert 0.1 < Audits(compared=1000, differed=100).wrong_at_most < 0.12
    assert Audits(compared=5, differed=5).wrong_at_most == pytest.approx(1)
