"""Verdicts that others throw another light on: the pure rules."""

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opam_ci.core.incidents.fingerprint import SAME_FAILURE, signature
from opam_ci.core.incidents.rejudge import doubt_detail, is_rejudged, rejudged
from opam_ci.core.incidents.verdicts import (
    BURST,
    MEMORY,
    Doubt,
    FailedVerdict,
    doubts,
)
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    Outcome,
    Passed,
    label,
)
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.summary import JobState, JobStatus
from opam_ci.core.text.status import why
from tests.support.samples.known_failures import seen
from tests.support.samples.known_verdicts import RAN

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
DEBIAN = "debian-13-ocaml-5.3/amd64"
ALPINE = "alpine-3.22-ocaml-5.3/amd64"
BROKEN = "cp: cannot create regular file: Structure needs cleaning"


def revision(number: int) -> RevisionKey:
    return RevisionKey(repository="o/r", number=number, head=f"{number:040x}", opened_at=NOON)


def job(package: str = "cppo.1.8.0", kind: JobKind = JobKind.BUILD, platform: str = DEBIAN) -> Job:
    return Job(platform=platform, package=package, kind=kind)


def failed(
    line: str = BROKEN,
    reason: FailureReason = FailureReason.BUILD,
    *,
    rule: str = "ocaml-error",
    blame: str | None = None,
) -> Failed:
    lines = (LogLine(offset=0, text=line),)
    evidence = Evidence(rule=rule, phase=Phase.BUILD, lines=lines, detail="exit code 2")
    return Failed(reason=reason, evidence=evidence, blame=blame)


def verdict(
    number: int, *, minutes: float = 0, package: str | None = None, **changes: object
) -> FailedVerdict:
    given = FailedVerdict(
        revision=revision(number),
        job=job(package or f"p{number}.1"),
        at=NOON + timedelta(minutes=minutes),
    )
    return given.model_copy(update=changes)


def numbers(found: tuple[Doubt, ...]) -> list[list[int | None]]:
    return [[each.revision.number for each in doubt.verdicts] for doubt in found]


def test_the_same_failure_of_unrelated_pull_requests_is_in_doubt() -> None:
    alike = [verdict(n, minutes=2 * n) for n in range(3)]
    for order in permutations(alike):
        [doubt] = doubts([*order, order[0]])
        assert doubt.verdicts == tuple(alike)
        assert (doubt.pull_requests, doubt.span) == (3, timedelta(minutes=4))


@pytest.mark.parametrize(
    "alike",
    [
        [verdict(n) for n in range(2)],
        [verdict(1, package=f"p{n}.1") for n in range(5)],
        [verdict(n, package=f"p.{n}") for n in range(5)],
        [verdict(n, minutes=11 * n) for n in range(5)],
        [verdict(n, blame="base.1") for n in range(5)],
        [*(verdict(n, blame="base.1") for n in range(2)), verdict(7, package="base.2")],
        [verdict(n, is_over=True) for n in range(5)],
        [verdict(n, again=True) for n in range(5)],
        [verdict(50, minutes=-600), *(verdict(n) for n in range(5))],
    ],
    ids=[
        "two", "one pull request", "one package", "slow", "one dependency is to blame",
        "the package itself and those that need it", "over", "again", "usual",
    ],
)  # fmt: skip
def test_failures_without_enough_evidence_are_not_in_doubt(alike: list[FailedVerdict]) -> None:
    assert doubts(alike) == ()


def test_what_is_usual_is_forgotten_after_a_day() -> None:
    burst = [verdict(n) for n in range(3)]
    assert doubts(burst, before=NOON - MEMORY) == ()
    assert doubts(burst, before=NOON - MEMORY - timedelta(seconds=1)) != ()
    assert numbers(doubts([*burst, *(verdict(6 + n, minutes=24 * 60 + 1) for n in range(3))])) == [
        [0, 1, 2],
        [6, 7, 8],
    ]


def test_a_verdict_taken_back_is_evidence_for_others_and_makes_nothing_usual() -> None:
    taken_back = [verdict(n, minutes=n, doubted=True) for n in range(3)]
    late = verdict(8, minutes=5)
    assert numbers(doubts([*taken_back, late])) == [[8]]
    # The trouble goes on: those at the end of the first burst and two new ones.
    going_on = [verdict(n, minutes=11) for n in (8, 9)]
    assert numbers(doubts([*taken_back, *going_on])) == [[8, 9]]
    # One that stands, having failed the same way again, makes it usual.
    stands = verdict(0, minutes=4, again=True)
    assert doubts([*taken_back, stands, *(verdict(n, minutes=14) for n in (8, 9, 10))]) == ()


@settings(max_examples=60)
@given(
    st.lists(
        st.builds(
            verdict,
            st.integers(1, 6),
            minutes=st.integers(0, 40).map(lambda n: n / 2),
            doubted=st.booleans(),
            again=st.booleans(),
            is_over=st.booleans(),
        ),
        max_size=14,
    ),
    st.randoms(),
)
def test_doubts_know_no_order_and_no_repetition(alike: list[FailedVerdict], chance: object) -> None:
    shuffled = [*alike, *alike]
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis's own Random
    found = doubts(shuffled)
    assert found == doubts(alike)
    told = [each for doubt in found for each in doubt.verdicts]
    assert len(told) == len(set(told))
    assert all(each.is_open for each in told)
    assert all(doubt.span <= BURST and doubt.pull_requests >= 3 for doubt in found)


def of(line: str, **how: object) -> object:
    return signature(failed(line, **how), job("foo-bar.1"))  # type: ignore[arg-type]  # as given


def test_a_job_that_did_not_build_what_failed_is_doubted_with_those_that_did() -> None:
    verdict = failed("ld: cannot map a file for reading", FailureReason.DEPENDENCY, blame="bar.2")
    built = verdict.evidence.model_copy(update={"phase": Phase.DEPENDENCIES})
    known = verdict.evidence.model_copy(update={"phase": Phase.SOLVE, "seen_in": seen()})
    one, other = (
        signature(verdict.model_copy(update={"evidence": each}), job("foo-bar.1"))
        for each in (built, known)
    )
    assert one == other is not None


def test_a_signature_leaves_out_what_differs() -> None:
    one = "Cannot map 0xdeadbeef01 for /tmp/a/b.ml at line 17"
    assert of(one) == of("# cannot map  deadbeef02 for /tmp/c/d.ml at line 4")
    assert of(one) != of("Cannot map it")
    assert of("module Foo_bar cannot be found anywhere") is None
    assert of("module Foo_barn cannot be found anywhere") is not None
    assert of("module Base cannot be found anywhere", blame="base.2") is None


@pytest.mark.parametrize(
    "line",
    [
        "make: *** [Makefile:53: all] Error 2",
        "Command exited with code 2.",
        '[ERROR] The compilation of other.1 failed at "make".',
        "* No changes have been performed",
        "'opam reinstall -y other' failed.",
        "Test suite failed",
        "[FAIL]        lookup          0   resolves a name.",
        "exit-code 2",
    ],
)
def test_unspecific_lines_are_not_a_signature(line: str) -> None:
    assert of(line) is None


@pytest.mark.parametrize(
    ("outcome", "what"),
    [
        (failed(reason=FailureReason.OPAM_FILE), job()),
        (failed(reason=FailureReason.OWN_FAULT), job()),
        (failed(reason=FailureReason.KILLS_WORKER), job()),
        (failed(rule="test-generic"), job()),
        (failed(), job(kind=JobKind.LINT)),
        (failed(), Job(platform=DEBIAN, package="a.1", kind=JobKind.REVDEP, revdep="b.1")),
        (Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="x")), job()),
        (Errored(cause=Cause.UNKNOWN, evidence=failed().evidence), job()),
        (Passed(evidence=failed().evidence), job()),
        (None, job()),
    ],
)
def test_what_has_no_signature(outcome: Outcome | None, what: Job) -> None:
    assert signature(outcome, what) is None


# What becomes of a verdict.


def test_a_doubted_failure_becomes_an_error_with_its_evidence() -> None:
    outcome = rejudged(failed(blame="base.1"), "3 unrelated")
    assert is_rejudged(outcome)
    assert not is_rejudged(failed())
    assert label(outcome) == "errored(unknown)"
    assert outcome.evidence.rule == SAME_FAILURE
    assert outcome.evidence.lines == failed().evidence.lines
    assert outcome.evidence.detail == "3 unrelated; base.1: exit code 2"
    told = why(JobStatus(job=job(), state=JobState.DECIDED, outcome=outcome))
    assert told.startswith("3 unrelated")
    assert BROKEN in told
    # Its signature is that of the failure: it stays evidence for later ones.
    assert signature(outcome, job()) == signature(failed(), job())


def test_a_job_that_took_a_verdict_is_no_evidence_of_a_fault() -> None:
    evidence = failed().evidence.model_copy(update={"reused": RAN})
    assert signature(failed(), job()) is not None
    assert signature(failed().model_copy(update={"evidence": evidence}), job()) is None


def test_the_evidence_of_a_revised_verdict_is_a_sentence() -> None:
    [doubt] = doubts([verdict(n, minutes=n) for n in (1, 2, 4)])
    words = doubt_detail(doubt)
    assert words == "3 unrelated pull requests failed the same way within 3 minutes"
    [at_once] = doubts([verdict(n) for n in (1, 2, 4)])
    assert doubt_detail(at_once).endswith("within a minute")
