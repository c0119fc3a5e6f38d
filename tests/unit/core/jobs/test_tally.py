"""Numbers and explaining rows while jobs move."""

from collections import Counter
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import (
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
from opam_ci.core.jobs.summary import (
    SHOWN_ROWS,
    Fault,
    JobState,
    JobStatus,
    PlatformStanding,
    Standing,
    count_key,
    total,
)
from opam_ci.core.jobs.tally import Tally, counts_of, counts_of_rows, explaining

AT = datetime(2026, 1, 2, tzinfo=UTC)
EVIDENCE = Evidence(rule="r")
FAULT = Fault(attempt=1, cause=Cause.DNS, evidence=EVIDENCE, worker="w", at=AT)
OUTCOMES: tuple[Outcome, ...] = (
    Passed(evidence=EVIDENCE),
    Failed(reason=FailureReason.BUILD, evidence=EVIDENCE),
    Failed(reason=FailureReason.TEST, evidence=EVIDENCE),
    Errored(cause=Cause.GIT, evidence=EVIDENCE),
    Skipped(reason=SkipReason.NO_SOLUTION, evidence=EVIDENCE),
    Cancelled(by="closed"),
)
CHANGES: list[dict[str, object]] = [
    {"state": JobState.QUEUED},
    {"state": JobState.RUNNING},
    {"state": JobState.RETRYING, "faults": (FAULT,)},
]
CHANGES += [{"state": JobState.DECIDED, "outcome": outcome} for outcome in OUTCOMES]


def row(number: int, change: int = 0) -> JobStatus:
    job = Job(platform="p", package=f"a.{number}", kind=JobKind.BUILD)
    return JobStatus(job=job).model_copy(update=CHANGES[change])


def tally(rows: list[JobStatus]) -> Tally:
    """A tally of a platform whose rows the index has counted."""
    return Tally(
        PlatformStanding(platform="p", counts=counts_of_rows(rows), shown=explaining(rows))
    )


moves = st.lists(st.tuples(st.integers(0, 99), st.sampled_from(range(len(CHANGES)))))


@given(moves)
def test_numbers_are_those_of_the_rows_however_they_moved(changes: list[tuple[int, int]]) -> None:
    rows = {number: row(number) for number in range(100)}
    counting = tally([*rows.values()])
    for number in {number for number, _ in changes}:
        counting.take(rows[number])
    for number, change in changes:
        rows[number] = row(number, change)
        counting.move(rows[number])
    standing = counting.standing()
    assert standing.counts == counts_of_rows(rows.values())
    # Rows that explain it are true, and no more than promised.
    assert len(standing.shown) == SHOWN_ROWS
    assert all(shown in rows.values() for shown in standing.shown)


def test_a_tally_goes_on_where_another_one_stood() -> None:
    first = tally([row(n) for n in range(100)])
    for number in range(60):
        first.take(row(number))
        first.move(row(number, 1))
    again = Tally(first.standing())
    # The rows that are in hand are taken anew, as they are counted.
    again.take(row(3, 1))
    again.move(row(3, 4))
    assert total(again.standing().counts).model_dump(exclude_defaults=True) == {
        "queued": 40,
        "running": 59,
        "failed": 1,
    }


def test_what_is_counted_anew_leaves_out_what_is_in_hand() -> None:
    """The index is behind on rows in hand: whoever has them counts them."""
    counting = tally([row(n) for n in range(10)])
    mine = row(3, 4)
    others = [row(n, 3) for n in range(10) if n != 3]
    counting.replace(
        PlatformStanding(platform="p", counts=counts_of_rows(others), shown=tuple(others)), [mine]
    )
    assert counting.standing().counts == counts_of_rows([*others, mine])
    assert mine in counting.standing().shown
    counting.move(row(3))
    assert counting.standing().counts == counts_of_rows([*others, row(3)])


def test_a_job_that_is_forgotten_stays_counted() -> None:
    counting = tally([row(1)])
    counting.take(row(1))
    counting.move(row(1, 3))
    counting.forget(row(1).job.id)
    assert counting.standing().counts == counts_of_rows([row(1, 3)])


def test_counts_distinguish_reasons_and_causes() -> None:
    rows = [row(number, change) for number, change in enumerate(range(len(CHANGES)))]
    assert {(each.standing.value, each.why) for each in counts_of_rows(rows)} == {
        ("queued", ""),
        ("running", ""),
        ("retrying", "dns"),
        ("passed", ""),
        ("failed", "build"),
        ("failed", "test"),
        ("errored", "git"),
        ("skipped", "no_solution"),
        ("cancelled", "closed"),
    }
    assert counts_of(Counter({count_key(row(1)): 0})) == ()


def test_rows_that_explain_are_of_every_standing_and_failures_above_all() -> None:
    rows = [row(n, 3) for n in range(5000)]
    rows += [row(n, 4) for n in range(5000, 5200)]
    rows += [row(n, 6) for n in range(5200, 5300)]
    rows += [row(5300, 2), row(5301, 1), row(5302)]
    shown = Counter(each.standing for each in explaining(rows))
    assert shown.total() == SHOWN_ROWS
    assert shown == {
        Standing.FAILED: 35,
        Standing.ERRORED: 10,
        Standing.RETRYING: 1,
        Standing.RUNNING: 1,
        Standing.PASSED: 2,
        Standing.QUEUED: 1,
    }


def test_few_rows_are_all_shown_as_they_come() -> None:
    rows = tuple(row(n, n % len(CHANGES)) for n in range(SHOWN_ROWS))
    assert explaining(rows) == rows
