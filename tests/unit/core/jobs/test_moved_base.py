"""What follows for a decided head from a base that moved."""

from datetime import UTC, datetime, timedelta

import pytest

from opam_ci.core.jobs.moved_base import (
    BaseChanged,
    BaseLook,
    Difference,
    depends_on_base,
    difference,
    is_tested_again,
)
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
)
from opam_ci.core.submission.inputs import HeadInputs

BASE = "b" * 40
AT = datetime(2026, 5, 4, tzinfo=UTC)
PASSED = Passed(evidence=Evidence(rule="analysed"))
KNOWN = HeadInputs(changes="one", reach="near")


def refused(reason: FailureReason, detail: str = "Cannot merge") -> Failed:
    return Failed(reason=reason, evidence=Evidence(rule="x", detail=detail))


CONFLICT = refused(FailureReason.MERGE_CONFLICT)


@pytest.mark.parametrize(
    ("analysis", "known", "failure", "inputs", "wanted"),
    [
        (PASSED, KNOWN, None, KNOWN, "nothing"),
        (PASSED, KNOWN, "Cannot merge", None, "analysis"),
        (CONFLICT, None, "Cannot merge", None, "nothing"),
        (CONFLICT, None, "Unexpected path", None, "analysis"),
        (CONFLICT, None, None, KNOWN, "analysis"),
        (PASSED, KNOWN, None, HeadInputs(changes="two", reach="near"), "analysis"),
        (PASSED, KNOWN, None, HeadInputs(changes="one", reach="far"), "dependencies"),
        # Jobs without plan keys, and a head that an older version tested.
        (PASSED, HeadInputs(changes="one"), None, KNOWN, "nothing"),
        (PASSED, KNOWN, None, HeadInputs(changes="one"), "nothing"),
        (PASSED, None, None, KNOWN, "nothing"),
        (PASSED, None, "Cannot merge", None, "analysis"),
    ],
)
def test_what_differs(
    analysis: Outcome,
    known: HeadInputs | None,
    failure: str | None,
    inputs: HeadInputs | None,
    wanted: Difference,
) -> None:
    look = BaseLook(base=BASE, failure=failure, inputs=inputs)
    assert difference(analysis, known, look) == wanted


def test_a_failure_is_compared_as_it_was_kept() -> None:
    # Evidence has no control characters.
    failure = "Unexpected path \x1b[31m"
    kept = refused(FailureReason.ANALYSIS, failure)
    assert difference(kept, None, BaseLook(base=BASE, failure=failure)) == "nothing"


@pytest.mark.parametrize(
    ("analysis", "wanted"),
    [
        (PASSED, True),
        (CONFLICT, True),
        (refused(FailureReason.ANALYSIS), True),
        (refused(FailureReason.KILLS_WORKER), False),
        (Cancelled(by="request"), False),
        (Errored(cause=Cause.GIT, evidence=Evidence(rule="x")), False),
        (None, False),
    ],
)
def test_which_analysis_depends_on_the_base(analysis: Outcome | None, wanted: bool) -> None:
    assert depends_on_base(analysis) is wanted


@pytest.mark.parametrize(
    ("found", "hours", "wanted"),
    [
        ("nothing", 48, False),
        ("analysis", 0, True),
        ("dependencies", 0, False),
        ("dependencies", 23, False),
        ("dependencies", 24, True),
    ],
)
def test_dependencies_alone_are_a_reason_once_a_day(
    found: Difference, hours: int, wanted: bool
) -> None:
    moved = BaseChanged(base=BASE, retest_interval=timedelta(days=1))
    assert is_tested_again(found, moved, AT, AT + timedelta(hours=hours)) is wanted
