"""Estimates of heads: ranges that hold, and never a guess."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.jobs.job import JobKind
from opam_ci.core.pages.estimate import (
    Estimate,
    EstimatesKept,
    Load,
    NoEstimate,
    Pools,
    Span,
    estimate,
    estimate_text,
)

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
MINUTE = Span(60, 60, 60)
KINDS = (
    JobKind.BUILD, JobKind.TEST, JobKind.LOWER_BOUNDS, JobKind.REVDEP, JobKind.REVDEP_TEST,
    JobKind.BASE_BUILD,
)  # fmt: skip
PLATFORMS = ("debian", "fedora", "alpine")


def load(
    head: int = 1, number: int = 1, kind: JobKind = JobKind.BUILD, platform: str = "debian",
    *, runs: bool = False,
) -> Load:  # fmt: skip
    return Load(head, platform, kind, runs, number)


def pools(
    slots: int = 1,
    spans: Mapping[JobKind, Span] | None = None,
    *,
    of: Mapping[str, str] | None = None,
) -> Pools:
    of = dict.fromkeys(PLATFORMS, "p") if of is None else of
    found = dict.fromkeys(JobKind, MINUTE) if spans is None else spans
    return Pools(
        of=of, slots=dict.fromkeys(of.values(), slots), spans=lambda kind, _: found.get(kind)
    )


def minutes(found: Estimate | NoEstimate | None) -> tuple[float, float]:
    assert isinstance(found, Estimate)
    assert found.at == NOON
    return found.soonest / timedelta(minutes=1), found.latest / timedelta(minutes=1)


def test_work_is_shared_by_the_slots_and_ends_with_a_whole_job() -> None:
    assert minutes(estimate([load(number=8)], [], pools(4), NOON)) == (2, 3)
    # What runs may end at once.
    assert minutes(estimate([load(runs=True)], [], pools(), NOON)) == (0, 2)
    # Steps come one after the other, however many slots are free.
    chain = [load(), load(kind=JobKind.TEST), load(kind=JobKind.REVDEP)]
    assert minutes(estimate(chain, [], pools(1000), NOON)) == (1, 4)


def test_pull_requests_take_turns_within_a_rank_and_ranks_come_first() -> None:
    own = [load(number=3, kind=JobKind.REVDEP)]

    def end(*others: Load) -> float:
        return minutes(estimate(own, others, pools(), NOON))[1]

    assert end() == 4
    # As many of a large one as the head has itself.
    assert end(load(2, 5000, JobKind.REVDEP)) == 7
    assert end(load(2, 2, JobKind.REVDEP)) == 6
    # Of each of them, its tests included.
    assert end(load(2, 2, JobKind.REVDEP), load(2, 9, JobKind.REVDEP_TEST), load(3, 1)) == 8
    # What builds its own packages goes before all of them, and what runs is not stopped.
    assert end(load(2, 5)) == 9
    assert end(load(2, 5, JobKind.REVDEP, runs=True)) == 9
    later = [load(number=3)]
    assert minutes(estimate(later, [load(2, 50, JobKind.REVDEP)], pools(), NOON))[1] == 4
    # What runs has had its turn.
    running = [load(kind=JobKind.REVDEP, runs=True)]
    assert minutes(estimate(running, [load(2, 50)], pools(), NOON))[1] == 2


def test_a_pool_builds_for_several_platforms_and_others_do_not_matter() -> None:
    others = [load(2, 20, platform="fedora")]
    own = [load(number=20)]
    assert minutes(estimate(own, others, pools(), NOON))[1] == 45
    apart = pools(of={"debian": "p", "fedora": "q"})
    assert minutes(estimate(own, others, apart, NOON))[1] == 25
    # The last pool decides.
    both = [*own, load(number=55, platform="fedora")]
    assert minutes(estimate(both, [], apart, NOON)) == (55, 60)


def test_what_is_not_known_is_not_guessed() -> None:
    assert estimate([], [load(2)], pools(), NOON) is None
    assert estimate([load(kind=JobKind.LINT, platform="")], [], pools(), NOON) is None
    assert estimate([load(number=0)], [], pools(), NOON) is None
    assert estimate([load()], [], pools(spans={}), NOON) == "unmeasured"
    assert estimate([load()], [], pools(slots=0), NOON) == "unmeasured"
    assert estimate([load(platform="new")], [], pools(), NOON) == "unmeasured"
    only = pools(spans={JobKind.REVDEP: MINUTE})
    assert estimate([load(kind=JobKind.REVDEP)], [load(2)], only, NOON) == "unmeasured"
    listing = load(kind=JobKind.LIST_REVDEPS)
    assert estimate([load(), listing], [], pools(), NOON) == "unlisted"
    assert isinstance(estimate([load()], [load(2, kind=listing.kind)], pools(), NOON), Estimate)


SPANS = st.builds(
    lambda typical, mean, more: Span(typical, mean, max(typical, mean) + more),
    *(st.floats(0, 90_000) for _ in range(3)),
)
ALL_SPANS = st.fixed_dictionaries(dict.fromkeys(JobKind, SPANS))


def loads(*heads: int) -> st.SearchStrategy[list[Load]]:
    one = st.builds(
        Load, st.sampled_from(heads), st.sampled_from(PLATFORMS), st.sampled_from(KINDS),
        st.booleans(), st.integers(0, 50_000),
    )  # fmt: skip
    return st.lists(one, max_size=8)


@given(loads(1), loads(2, 3), loads(2, 3, 4), ALL_SPANS, st.integers(0, 300))
def test_more_jobs_before_a_head_never_make_it_earlier(
    own: list[Load],
    others: list[Load],
    more: list[Load],
    spans: dict[JobKind, Span],
    slots: int,
) -> None:
    of = {"debian": "p", "fedora": "p"}
    known = pools(slots, spans, of=of)
    before, after = (estimate(own, jobs, known, NOON) for jobs in (others, [*others, *more]))
    if not isinstance(before, Estimate):
        assert after == before
        assert before is None or slots == 0 or any(each.platform == "alpine" for each in own)
        return
    assert isinstance(after, Estimate)
    assert (before.soonest, before.latest) <= (after.soonest, after.latest)
    assert before.soonest <= after.soonest
    assert before.latest <= after.latest
    # Never later than everything one after the other, and every step once more; rounded up.
    every = [*own, *others, *more]
    most = sum(each.number * spans[each.kind].mean for each in every)
    most += sum(spans[kind].long for kind in KINDS)
    assert timedelta(0) <= after.soonest <= after.latest
    assert after.latest <= timedelta(seconds=most + 86_400)
    assert estimate_text(after).startswith("done ")


@given(loads(1), loads(2, 3), ALL_SPANS, st.integers(1, 300), st.integers(0, 300))
def test_more_slots_never_make_a_head_later(
    own: list[Load], others: list[Load], spans: dict[JobKind, Span], slots: int, more: int
) -> None:
    few, many = (estimate(own, others, pools(each, spans), NOON) for each in (slots, slots + more))
    if isinstance(few, Estimate):
        assert isinstance(many, Estimate)
        assert many.soonest <= few.soonest
        assert many.latest <= few.latest


def test_a_span_is_of_durations_in_any_order() -> None:
    tens = [timedelta(seconds=10 * each) for each in (7, 1, 2, 3, 4, 5, 6, 8, 9, 100)]
    assert Span.of(tens) == Span(typical=55, mean=145, long=90)
    # Clocks may differ.
    assert Span.of([timedelta(seconds=-5)]) == Span(0, 0, 0)


@pytest.mark.parametrize(
    ("soonest", "latest", "words"),
    [
        (0, 1, "done within 1 minute, by 12:01 UTC"),
        (0, 25, "done within 25 minutes, by 12:25 UTC"),
        (25, 25, "done in about 25 minutes, by 12:25 UTC"),
        (20, 30, "done in 20 to 30 minutes, by 12:30 UTC"),
        (40, 180, "done in 40 minutes to 3 hours, by 15:00 UTC"),
        (60, 180, "done in 1 to 3 hours, by 15:00 UTC"),
        (120, 180, "done in 2 to 3 hours, by 15:00 UTC"),
        (1200, 4320, "done in 20 hours to 3 days, by 07 May 12:00 UTC"),
    ],
)
def test_an_estimate_in_words(soonest: int, latest: int, words: str) -> None:
    low, high = timedelta(minutes=soonest), timedelta(minutes=latest)
    assert estimate_text(Estimate(at=NOON, soonest=low, latest=high)) == words


def test_why_there_is_no_estimate_in_words() -> None:
    assert estimate_text("unmeasured") == "no estimate yet: no such job has ended here"
    assert estimate_text("unlisted") == "no estimate yet: reverse dependencies are not listed"


def test_how_many_estimates_held() -> None:
    assert EstimatesKept().percent == 0
    kept = EstimatesKept(held=172, missed=40)
    assert (kept.number, kept.percent) == (212, 81)
