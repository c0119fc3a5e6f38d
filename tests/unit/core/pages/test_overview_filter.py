"""The filter of pull requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.summary import State
from opam_ci.core.pages.overview_filter import LENGTH, OverviewFilter


def test_by_default_all_that_are_open() -> None:
    assert OverviewFilter.parse("") == OverviewFilter(is_open=True)


def test_keys_and_words() -> None:
    found = OverviewFilter.parse(" is:failure  author:me is:any new release ")
    assert found == OverviewFilter(
        state=State.FAILURE, is_open=None, author="me", words=("new", "release")
    )
    assert OverviewFilter.parse("is:closed").is_open is False


@pytest.mark.parametrize(
    "text", ["is:", "is:green", "author:", "owner:x", ":", "a " * 11, "a" * 301]
)
def test_what_it_does_not_know_it_names(text: str) -> None:
    with pytest.raises(UsageError, match=r"is:|words at most"):
        OverviewFilter.parse(text)


@given(st.text(max_size=LENGTH + 10))
def test_any_text_is_a_filter_or_refused_by_a_text_that_can_be_shown(text: str) -> None:
    refusal = ""
    try:
        OverviewFilter.parse(text)
    except UsageError as error:
        refusal = str(error)
    assert refusal.isprintable()
