"""When a dependency is known to fail."""

from datetime import timedelta

import pytest

from opam_ci.core.jobs.build_keys import CachedBuild
from opam_ci.core.jobs.known_failure import KnownFailure
from opam_ci.core.jobs.outcome import SeenIn
from opam_ci.core.reuse.known_failures import beside, holds, seen_again
from opam_ci.core.reuse.settled import MAX_AGE
from tests.support.samples.known_failures import NOON, known_failure, seen

LATER = NOON + timedelta(days=1)


def built(package: str, *needs: str) -> CachedBuild:
    return CachedBuild(package=package, key=package, needs=needs, plain=True)


def again(known: KnownFailure, attempt: SeenIn, *names: str, alike: bool = True) -> KnownFailure:
    return seen_again(known, known_failure(attempt, beside=names), alike=alike)


def test_one_job_proves_nothing_and_two_that_failed_alike_do() -> None:
    once = seen_again(None, known_failure(seen()), alike=False)
    assert not holds(once, (), LATER)
    assert holds(again(once, seen("other.1")), (), LATER)
    assert holds(again(once, seen(round_=2)), (), LATER)
    assert not holds(again(once, seen("other.1"), alike=False), (), LATER)


def test_attempts_of_one_round_count_once() -> None:
    once = known_failure(seen())
    assert again(once, seen(at=LATER)).seen == (seen(at=LATER),)


def test_the_newest_attempts_are_remembered_and_come_first() -> None:
    known = known_failure(seen("a.1"))
    for number, name in enumerate(("b.1", "c.1")):
        known = again(known, seen(name, at=NOON + timedelta(hours=number)))
    assert [each.job.package for each in known.seen] == ["c.1", "b.1"]


@pytest.mark.parametrize("age", [MAX_AGE + timedelta(seconds=1), timedelta(seconds=-1)])
def test_what_is_old_or_comes_from_the_future_proves_nothing(age: timedelta) -> None:
    known = known_failure(seen("a.1", at=LATER), seen("b.1", at=LATER - age))
    assert not holds(known, (), LATER)
    assert holds(known_failure(seen("a.1", at=LATER), seen("b.1")), (), LATER)


def test_it_holds_beside_what_was_there_when_it_failed() -> None:
    # Another package may be what it uses without a word of that in its opam file.
    known = again(known_failure(seen("a.1"), beside=("x.1",)), seen("b.1"), "y.1")
    assert holds(known, ("x.1", "y.1"), LATER)
    assert not holds(known, ("x.1", "z.1"), LATER)


def test_what_may_be_there_before_it_is_all_that_neither_needs_the_other() -> None:
    builds = {
        each.package: each
        for each in (
            built("low.1"),
            built("it.1", "low.1"),
            built("other.1"),
            built("above.1", "low.1", "it.1"),
        )
    }
    solution = ("low.1", "it.1", "other.1", "above.1", "not-cached.1", "target.1")
    assert beside("it.1", builds, solution, "target.1") == ("not-cached.1", "other.1")
