"""The search for lower bounds: few builds, and the oldest versions that will do."""

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.jobs.bound_search import (
    MOST_BUILDS,
    Answer,
    Candidate,
    Step,
    candidates,
    likely_first,
    search,
)
from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.text.bound_search import ended, step_line

Passes = Callable[[Mapping[str, str]], Answer]


def run(found: list[Candidate], passes: Passes) -> tuple[dict[str, str] | None, list[Step]]:
    """Runs a search to its end; returns its result and the builds that it took."""
    steps = search(found)
    taken = []
    try:
        step = next(steps)
        while True:
            taken.append(step)
            step = steps.send(passes(step.bounds))
    except StopIteration as end:
        return end.value, taken


def dependency(name: str, count: int) -> Candidate:
    return Candidate(name=name, versions=tuple(map(str, range(1, count + 1))))


def at_least(**needed: int) -> Passes:
    """Passes with dependencies that are new enough; the solver takes the oldest that it may."""

    def answer(bounds: Mapping[str, str]) -> Answer:
        passes = all(int(bounds.get(name, "1")) >= least for name, least in needed.items())
        return Answer(passes=passes, installed=dict(bounds))

    return answer


NAMES = ("p", "q", "r", "s", "t", "u", "v")


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(2, 20), min_size=1, max_size=3))
def test_exactly_what_is_needed_is_found(needed: dict[str, int]) -> None:
    found = [dependency(name, 20) for name in NAMES]
    result, steps = run(found, at_least(**needed))
    assert result == {name: str(least) for name, least in needed.items()}
    # Raised in the order of the opam file, with the last one that is at fault first.
    assert len(steps) <= 6 + len(needed) * (4 + 5) <= MOST_BUILDS
    assert all(step.at_most is None or step.number <= step.at_most for step in steps)
    # Nothing is built twice in a row, or without a bound.
    assert all(step.bounds for step in steps)


def test_the_first_candidate_is_tried_alone() -> None:
    result, steps = run([dependency("p", 4), dependency("q", 9)], at_least(p=3))
    assert result == {"p": "3"}
    assert [step.bounds for step in steps] == [{"p": "4"}, {"p": "2"}, {"p": "3"}]
    assert [(step.number, step.at_most) for step in steps] == [(1, None), (1, 2), (2, 2)]


def test_what_needs_no_search_needs_no_build() -> None:
    assert run([], at_least(p=2)) == (None, [])
    # Two versions: the newer one it is.
    result, steps = run([dependency("p", 2)], at_least(p=2))
    assert (result, len(steps)) == ({"p": "2"}, 1)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_no_direct_dependency_is_at_fault(count: int) -> None:
    found = [dependency(name, 5) for name in "abcdefgh"[:count]]
    result, steps = run(found, at_least(indirect=2))
    assert result is None
    assert len(steps) == {1: 1, 2: 2, 3: 3, 5: 4, 8: 4}[count]


def test_versions_that_cannot_be_installed_are_no_bounds() -> None:
    def answer(bounds: Mapping[str, str]) -> Answer:
        # There is 1, 4, 8 and 9 here.
        installed = next(each for each in (1, 4, 8, 9) if each >= int(bounds["p"]))
        return Answer(passes=installed >= 8, installed={"p": str(installed)})

    result, steps = run([dependency("p", 9)], answer)
    assert result == {"p": "8"}
    # 5 was 8, 3 was 4, and so nothing is between them.
    assert [step.bounds["p"] for step in steps] == ["9", "5", "3"]


def test_a_build_without_a_solution_does_not_pass() -> None:
    def answer(bounds: Mapping[str, str]) -> Answer:
        return Answer(passes=int(bounds["p"]) > 3)

    assert run([dependency("p", 9)], answer)[0] == {"p": "4"}


def test_candidates_are_older_where_it_fails() -> None:
    oldest = {"old": "1.0", "same": "2", "newer": "3", "alone": "1"}
    newest = {"old": "1.10", "same": "2", "newer": "2", "gone": "1"}
    known = {"old": ["1.10", "1.2", "0.9", "1.9", "2.0", "1.0", "1.10.0"]}
    found = candidates(["same", "old", "newer", "alone", "gone", "old"], oldest, newest, known)
    assert found == (Candidate(name="old", versions=("1.0", "1.2", "1.9", "1.10")),)


@pytest.mark.parametrize(
    ("evidence", "blame", "order"),
    [
        ("", None, "fmt dune lwt base"),
        ('Error: Library "lwt.unix" not found.', None, "lwt fmt dune base"),
        ("/lib/base/x.cmi", None, "base fmt dune lwt"),
        ("Unbound module Lwt; base: no", None, "base fmt dune lwt"),
        # Neither is another package's name.
        ("lwt_ppx dune-configurator", None, "fmt dune lwt base"),
        ("Error: lwt", "dune", "dune lwt fmt base"),
    ],
)
def test_who_is_mentioned_comes_first(evidence: str, blame: str | None, order: str) -> None:
    found = [dependency(name, 2) for name in ("fmt", "dune", "lwt", "base")]
    assert " ".join(each.name for each in likely_first(found, evidence, blame)) == order


def test_the_line_of_a_build() -> None:
    failed = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="r"))
    step = Step(bounds={"cppo": "1.6.1"}, number=3, at_most=6)
    assert step_line(step, failed) == "step 3 of at most 6: cppo ≥ 1.6.1: fails (build)"
    step = Step(bounds={"cppo": "1.6.1", "dune": "2.0"}, number=2)
    line = "dependency at fault, build 2: cppo ≥ 1.6.1, dune ≥ 2.0: passes"
    assert step_line(step, Passed(evidence=Evidence(rule="r"))) == line
    skipped = Skipped(reason=SkipReason.NO_SOLUTION, evidence=Evidence(rule="r"))
    assert ended(skipped) == "is skipped (no_solution)"
    assert ended(Errored(cause=Cause.DNS, evidence=Evidence(rule="r"))) == "internal CI error (dns)"
