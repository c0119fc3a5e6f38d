"""The order of versions."""

import subprocess
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opam_ci.core.opam.version import canonical, compare, key

VERSIONS = st.from_regex(r"\A[0-9a-zA-Z.+~_-]{1,8}\Z")
NEAR = st.lists(st.sampled_from(["0", "1", "00", "~", "-", ".", "a", "Z", "+"]), max_size=6).map(
    "".join
)


@pytest.mark.parametrize(
    "ascending",
    [
        ["1.0~beta", "1.0", "1.0+fix", "1.0.1", "1.1", "1.10", "2"],
        ["~~", "~~a", "~", "0.9", "a", "v0.9", "v0.10"],
        ["1.0-~", "1.0", "1.0-1", "1.0-2", "1.0-10"],
        ["4.14.0", "4.14.0+flambda", "4.14.1", "5.0.0~alpha0", "5.0.0"],
        ["1" * 5000, "2" * 5000, "1" * 5001],
    ],
)
def test_order(ascending: list[str]) -> None:
    descending = ascending[::-1]
    descending.sort(key=key)
    assert descending == ascending
    for older, newer in pairwise(ascending):
        assert (compare(older, newer), compare(newer, older)) == (-1, 1)


@pytest.mark.parametrize(
    ("left", "right"),
    [("1.0", "1.00"), ("1.", "1.0"), ("1.0", "1.0-0"), ("1.0-", "1.0"), ("01", "1")],
)
def test_different_texts_of_one_version(left: str, right: str) -> None:
    assert compare(left, right) == 0
    assert canonical(left) == canonical(right)


@given(VERSIONS | NEAR, VERSIONS | NEAR, VERSIONS | NEAR)
def test_it_is_a_total_order(one: str, two: str, three: str) -> None:
    assert compare(one, one) == 0
    assert compare(one, two) == -compare(two, one)
    assert (compare(one, two) == 0) == (canonical(one) == canonical(two))
    lowest, middle, highest = sorted([one, two, three], key=key)
    assert compare(lowest, middle) <= 0
    assert compare(middle, highest) <= 0
    assert compare(lowest, highest) <= 0


# dpkg has opam's order, but wants a digit first and knows epochs, which opam does not.
DEBIAN = st.from_regex(r"\A[0-9][0-9a-zA-Z.+~]{0,6}(-[0-9a-zA-Z.+~]{1,4})?\Z")


@settings(max_examples=60)
@given(DEBIAN, DEBIAN)
def test_it_is_the_order_of_dpkg(left: str, right: str) -> None:
    relation = {-1: "lt", 0: "eq", 1: "gt"}[compare(left, right)]
    asked = subprocess.run(["dpkg", "--compare-versions", left, relation, right], check=False)
    assert asked.returncode == 0
