"""The glossary defines each term once, and lists what there is of causes and reasons."""

import re
from enum import StrEnum
from pathlib import Path

import pytest

from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause, FailureReason, SkipReason

TEXT = (Path(__file__).parents[2] / "docs/glossary.md").read_text()
ROWS = dict(re.findall(r"^\| ([^|]+?) \| (.+) \|$", TEXT, re.MULTILINE))
NEEDED = (
    "pull_request head base platform pool job attempt round phase outcome cause reason evidence "
    "incident canary baseline waiver opam-repo-ci"
)


def test_each_term_is_defined_once() -> None:
    terms = re.findall(r"^\| ([^|]+?) \| .+ \|$", TEXT, re.MULTILINE)
    assert sorted(set(terms) - {"term"}) == sorted(each for each in terms if each != "term")


@pytest.mark.parametrize("term", [*NEEDED.split(), "package failure", "infrastructure fault"])
def test_it_has_the_terms_that_everything_else_rests_on(term: str) -> None:
    assert len(ROWS[term.replace("_", " ")]) > len(term)


@pytest.mark.parametrize(
    ("term", "values", "quoted"),
    [
        ("cause", [Cause], True),
        ("reason", [FailureReason, SkipReason], True),
        ("phase", [Phase], False),
    ],
)
def test_it_lists_what_there_is(term: str, values: list[type[StrEnum]], *, quoted: bool) -> None:
    there_is = {member.value for each in values for member in each}
    if quoted:
        assert set(re.findall(r"`([a-z_]+)`", ROWS[term])) == there_is
    else:
        assert there_is <= set(re.findall(r"[a-z]+", ROWS[term]))
