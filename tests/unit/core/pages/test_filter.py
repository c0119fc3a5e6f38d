"""The filter of jobs in a URL."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause, FailureReason, SkipReason
from opam_ci.core.jobs.summary import UNDECIDED, Standing
from opam_ci.core.pages.filter import LENGTH, TERMS, FilterError, PageFilter, parse_filter
from opam_ci.core.pages.model import ChangeClass

NAMES = st.text("abcXYZ019._+~/*@-", min_size=1, max_size=8)
KEYS = st.text("0123456789abcdef_", min_size=1, max_size=16)


def some(values: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(values, max_size=2, unique=True).map(tuple)


FILTERS = st.builds(
    PageFilter,
    standings=some(st.sampled_from(Standing)),
    platforms=some(NAMES),
    kinds=some(st.sampled_from(JobKind)),
    packages=some(NAMES),
    revdeps=some(NAMES),
    causes=some(st.sampled_from([*Cause, *FailureReason, *SkipReason])),
    workers=some(NAMES),
    groups=some(KEYS),
    cascades=some(KEYS),
    blames=some(NAMES),
    changes=some(st.sampled_from(get_args(ChangeClass))),
    incidents=some(st.integers(0, 999_999_999).map(str)),
    words=some(st.text("abc019.@-,", min_size=1, max_size=8)),
)


@given(FILTERS)
def test_the_text_of_a_filter_parses_to_the_same(of: PageFilter) -> None:
    assert parse_filter(of.text) == of


@given(
    st.one_of(
        st.text(max_size=60),
        st.text("isplatformkind:,*\0\u202e ", max_size=40),
        st.tuples(st.sampled_from(["is", "cause", "group", "worker", "new", "x"]), st.text()).map(
            ":".join
        ),
    )
)
def test_any_text_is_a_filter_or_an_error_with_its_place(text: str) -> None:
    error = None
    try:
        found = parse_filter(text)
    except FilterError as caught:
        error = caught
    if error is None:
        # What reaches the database is ASCII without control characters, and bounded.
        assert found.text.isascii()
        assert found.text.isprintable()
        assert parse_filter(found.text) == found
    else:
        assert 0 <= error.position <= len(text)
        assert f"character {error.position + 1} of" in str(error)
        assert str(error).isprintable()
        assert len(str(error)) < 1000


def test_the_filter_of_the_specification() -> None:
    text = "is:failed platform:debian* package:re kind:revdep cause:dns new:"
    assert parse_filter(text) == PageFilter(
        standings=(Standing.FAILED,),
        platforms=("debian*",),
        packages=("re",),
        kinds=(JobKind.REVDEP,),
        causes=(Cause.DNS,),
        changes=("newly-failing",),
    )


def test_values_of_a_key_are_alternatives_and_words_have_no_key() -> None:
    found = parse_filter("  is:failed,errored is:failed cppo build ")
    assert found.standings == (Standing.FAILED, Standing.ERRORED)
    assert found.words == ("cppo", "build")
    assert set(parse_filter("is:undecided").standings) == UNDECIDED


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("is:red", 3, "invalid value 'red' of is: it is one of queued, running"),
        ("is:failed,", 10, "invalid value '' of is"),
        ("kind:build colour:red", 11, "unknown key 'colour': the keys are is:, platform:"),
        ("platform:", 9, "invalid value '' of platform: it is a name"),
        ("platform:a:b", 9, "invalid value 'a:b' of platform"),
        ("group:ABC", 6, "the key of a group of causes"),
        ("incident:12x", 9, "the number of an incident"),
        ('a"b', 0, "invalid word"),
        ("x" * (LENGTH + 1), LENGTH, "longer than 1000 characters"),
        (" ".join(f"w{n:02}" for n in range(TERMS + 1)), 4 * TERMS, "more than 30 values"),
    ],
)
def test_an_error_has_the_place_and_what_there_is(text: str, position: int, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    assert words in str(caught.value)
    assert caught.value.position == position
