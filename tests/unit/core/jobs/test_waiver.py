"""Waivers: which failures they take, and which ones are refused."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Evidence, Failed, FailureReason, LogLine, Skipped, SkipReason
from opam_ci.core.jobs.summary import (
    JobCount,
    JobState,
    JobStatus,
    PlatformStanding,
    Standing,
    State,
    Summary,
    total,
)
from opam_ci.core.jobs.waiver import Waiver, duplicate, refusal, waived
from opam_ci.core.text.result import ran_text
from opam_ci.core.text.sentence import job_sentence
from opam_ci.core.text.waiver import added_lines, state_text

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
BUILD = Job(platform="debian-13/amd64", package="lwt.5.7.0", kind=JobKind.BUILD)
REVDEP = Job(platform="p", package="dune.3.17.2", kind=JobKind.REVDEP, revdep="lwt.5.7.0")
LINE = LogLine(offset=7, text="Error: it broke")
FAILED = Failed(
    reason=FailureReason.BUILD, evidence=Evidence(rule="exit", lines=(LINE,), exit_code=2)
)
GROUP = "0123456789abcdef"


def waiver(package: str = "lwt", **changes: Any) -> Waiver:
    fields: dict[str, Any] = {
        "id": 3, "because": "mirage/lwt#1", "login": "ann", "created_at": NOW,
        "expires_at": NOW + timedelta(days=30), **changes,
    }  # fmt: skip
    return Waiver(package=package, **fields)


@pytest.mark.parametrize(
    ("changes", "job", "is_taken"),
    [
        ({}, BUILD, True),
        # Of a reverse dependency, and not of what it is built with.
        ({}, REVDEP, True),
        ({"package": "dune"}, REVDEP, False),
        ({"package": "lwt.4.*"}, BUILD, False),
        ({"platform": "debian-*"}, BUILD, True),
        ({"platform": "debian-*"}, REVDEP, False),
        ({"kind": JobKind.REVDEP}, REVDEP, True),
        ({"kind": JobKind.REVDEP}, BUILD, False),
        ({"reason": FailureReason.BUILD}, BUILD, True),
        ({"reason": FailureReason.TEST}, BUILD, False),
        ({"cause_group": GROUP}, BUILD, True),
        ({"cause_group": "f" * 16}, BUILD, False),
        # Nothing that builds no package of the change is waived.
        ({"package": "*"}, BUILD.model_copy(update={"kind": JobKind.LINT}), False),
        ({"package": "*"}, BUILD.model_copy(update={"kind": JobKind.BASE_BUILD}), False),
    ],
)
def test_a_waiver_takes_the_failures_of_its_scope(
    changes: dict[str, Any], job: Job, is_taken: bool
) -> None:
    given = waiver(**changes)
    verdict = waived(job, FAILED, GROUP, [given], NOW)
    if not is_taken:
        assert verdict is FAILED
        return
    assert isinstance(verdict, Skipped)
    assert verdict.reason is SkipReason.WAIVED
    # What happened is still there.
    assert verdict.evidence == FAILED.evidence.model_copy(update={"waiver": given.ref})


def test_of_several_waivers_the_one_that_ends_last_is_named() -> None:
    long = waiver("l*", id=4, expires_at=NOW + timedelta(days=60))
    verdict = waived(BUILD, FAILED, None, [waiver(), long, waiver(id=5)], NOW)
    assert verdict.evidence.waiver == long.ref


def test_what_an_expired_waiver_would_have_taken_counts_and_says_so() -> None:
    expired = waiver(expires_at=NOW)
    verdict = waived(BUILD, FAILED, None, [expired], NOW)
    assert isinstance(verdict, Failed)
    assert verdict.evidence.waiver == expired.ref
    row = JobStatus(job=BUILD, state=JobState.DECIDED, outcome=verdict)
    assert job_sentence(row) == (
        "Failed (build), the waiver by ann expired on 04 May 2026: Error: it broke"
    )
    # Another one that is in force is what counts.
    again = waived(BUILD, verdict, None, [expired, waiver(id=4)], NOW)
    assert isinstance(again, Skipped)


def test_the_sentence_of_a_job_has_who_until_when_and_why() -> None:
    verdict = waived(BUILD, FAILED, None, [waiver()], NOW)
    row = JobStatus(job=BUILD, state=JobState.DECIDED, outcome=verdict)
    assert job_sentence(row) == (
        "Skipped, the failure is waived by ann until 03 June 2026: mirage/lwt#1"
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, None),
        ({"package": "*", "reason": FailureReason.TEST}, None),
        ({"package": "*", "cause_group": GROUP}, None),
        ({"package": "*", "platform": "freebsd-*"}, None),
        ({"package": "*"}, "would take every failure of every package"),
        ({"package": "*.*", "platform": "*/*"}, "would take every failure of every package"),
        ({"package": "*", "kind": JobKind.TEST}, "would take every failure of every package"),
        ({"package": "[a]"}, "invalid glob '[a]' of a package"),
        ({"package": "a\n" * 500}, "invalid glob"),
        ({"platform": ""}, "invalid glob '' of a platform"),
        ({"kind": JobKind.LINT}, "failures of lint jobs cannot be waived, only those of build"),
        ({"kind": JobKind.BASE_BUILD}, "failures of base-build jobs cannot be waived"),
        ({"cause_group": "x"}, "invalid group"),
        ({"because": " "}, "give in --because"),
        ({"because": "x" * 201}, "give in --because"),
        ({"login": ""}, "give in --by"),
        ({"expires_at": NOW}, "would have expired on 04 May 2026 at 12:00 UTC"),
        ({"expires_at": NOW + timedelta(days=180)}, None),
        ({"expires_at": NOW + timedelta(days=181)}, "180 days are the most"),
    ],
)
def test_a_waiver_that_cannot_be_is_refused_with_a_sentence(
    changes: dict[str, Any], sentence: str | None
) -> None:
    found = refusal(waiver(**changes))
    assert (found is None) == (sentence is None)
    assert (sentence or "") in (found or "")


def test_of_two_equal_waivers_the_later_one_is_refused() -> None:
    first = waiver(id=7, platform="p*", login="bob", because="known")
    later = waiver(id=0, platform="p*", expires_at=NOW + timedelta(days=9))
    assert duplicate(later, [waiver(), first]) == (
        "waiver 7 by bob, of 04 May 2026, takes the same until 03 June 2026 (known): "
        "`opam-ci waivers remove 7` removes it"
    )
    assert duplicate(later, [waiver()]) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"package": "l*"}, True),
        ({"package": "dune"}, False),
        ({"platform": "debian-*"}, True),
        ({"reason": FailureReason.BUILD}, True),
        ({"reason": FailureReason.TEST}, False),
        ({"kind": JobKind.REVDEP}, True),
    ],
)
def test_two_waivers_overlap_if_they_can_take_the_same_failure(
    changes: dict[str, Any], expected: bool
) -> None:
    given = waiver(reason=FailureReason.BUILD)
    assert given.overlaps(waiver(**changes)) == expected
    assert waiver(**changes).overlaps(given) == expected


def test_what_is_shown_of_a_waiver_that_was_added() -> None:
    other = waiver("l*", id=1, login="bob")
    ended = waiver("lwt*", id=2, removed_at=NOW)
    given = waiver(platform="debian-*", reason=FailureReason.TEST)
    assert list(added_lines(given, [other, ended], [2, 1], preview=False)) == [
        "waiver 3 takes failures of lwt on debian-*, failed(test) until 03 June 2026",
        "  waiver 1 by bob takes some of the same until 03 June 2026: l* (mirage/lwt#1)",
        "3 jobs of 2 open pull requests: not counted any more",
    ]
    assert list(added_lines(given, [], [1], preview=True)) == [
        "a waiver would take failures of lwt on debian-*, failed(test) until 03 June 2026",
        "1 job of 1 open pull request: would not count any more",
    ]


@pytest.mark.parametrize(
    ("now", "removed_at", "text"),
    [
        (NOW, None, "until 2026-06-03"),
        (NOW + timedelta(days=23), None, "expires soon: 2026-06-03"),
        (NOW + timedelta(days=30), None, "expired 2026-06-03"),
        (NOW + timedelta(days=2), NOW + timedelta(days=1), "removed 2026-05-05"),
    ],
)
def test_the_end_of_a_waiver_is_announced(
    now: datetime, removed_at: datetime | None, text: str
) -> None:
    assert state_text(waiver(removed_at=removed_at), now) == text


def test_numbers_say_how_many_are_waived() -> None:
    def count(standing: Standing, number: int, why: str = "") -> JobCount:
        return JobCount(
            platform="p", kind=JobKind.REVDEP, standing=standing, number=number, why=why
        )

    skipped = [
        count(Standing.SKIPPED, 2, SkipReason.WAIVED),
        count(Standing.SKIPPED, 1, SkipReason.FAILS_ON_BASE),
        count(Standing.SKIPPED, 3, SkipReason.NO_SOLUTION),
    ]
    of = Summary(pull_request="p", head="h", base="b", planned=True)
    some = of.model_copy(
        update={"tallies": (count(Standing.FAILED, 1), count(Standing.PASSED, 21), *skipped)}
    )
    assert ran_text(some) == (
        "1 failed, 3 skipped, 21 passed, 2 waived, 1 fails without this change, too"
    )
    assert some.state is State.FAILURE
    green = of.model_copy(update={"tallies": (skipped[0], count(Standing.PASSED, 1))})
    assert (green.state, ran_text(green)) == (State.SUCCESS, "1 passed, 2 waived")
    only = of.model_copy(update={"tallies": (skipped[0],)})
    assert ran_text(only) == "2 waived"
    assert total(PlatformStanding(platform="p", counts=only.tallies).counts).skipped == 2
