"""Globs of packages and platforms: what they match, and whether two match the same."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.jobs.glob import (
    is_glob,
    matches,
    matches_everything,
    matches_package,
    overlap,
    packages_overlap,
)

FEW = st.text("ab*?", max_size=6)
NAMES = st.text("ab", max_size=6)


@pytest.mark.parametrize("text", ["lwt", "coq-*", "dune.3.1?.*", "debian-13-*/amd64", "a" * 100])
def test_a_glob_has_characters_of_names(text: str) -> None:
    assert is_glob(text)


@pytest.mark.parametrize(
    "text", ["", "a" * 101, "[a-z]", "a b", "a\n", "(a|b)", "\\d", "é", "$(id)", "a,b"]
)
def test_nothing_else_is_a_glob(text: str) -> None:
    assert not is_glob(text)


@pytest.mark.parametrize(
    ("glob", "package", "expected"),
    [
        ("lwt", "lwt.5.7.0", True),
        ("lwt", "lwt_ppx.5.7.0", False),
        ("lwt*", "lwt_ppx.5.7.0", True),
        ("lwt.5.*", "lwt.5.7.0", True),
        ("lwt.5.*", "lwt.4.5.0", False),
        ("lwt.5", "lwt.5.7.0", False),
        # A star of the name ends with the name.
        ("*7", "lwt.5.7", False),
        ("*.5.7.?", "lwt.5.7.0", True),
        ("LWT", "lwt.5.7.0", False),
        ("lwt.", "lwt.5", True),
    ],
)
def test_a_glob_matches_a_package(glob: str, package: str, expected: bool) -> None:
    assert matches_package(glob, package) == expected


@pytest.mark.parametrize(
    ("glob", "expected"), [("*", True), ("?*.*", True), ("*-*", True), ("a*", False), ("*1", False)]
)
def test_what_has_no_character_of_a_name_matches_everything(glob: str, expected: bool) -> None:
    assert matches_everything(glob) == expected


@given(FEW, FEW, NAMES)
def test_two_globs_overlap_if_one_name_matches_both(one: str, other: str, name: str) -> None:
    if fnmatchcase(name, one) and fnmatchcase(name, other):
        assert overlap(one, other)
    assert overlap(one, other) == overlap(other, one)


@given(FEW)
def test_a_glob_without_stars_overlaps_with_what_matches_it(glob: str) -> None:
    plain = glob.replace("*", "").replace("?", "a")
    assert overlap(glob, plain) == matches(glob, plain)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("coq*", "*-lib", True),
        ("a*b", "b*a", False),
        ("lwt", "lwt.5.*", True),
        ("lwt.4.*", "lwt.5.*", False),
        ("l?t", "lwt", True),
    ],
)
def test_two_globs_of_packages_overlap(one: str, other: str, expected: bool) -> None:
    assert packages_overlap(one, other) == expected


def test_the_worst_glob_ends() -> None:
    # With a search that goes back it would not.
    assert not matches("*a" * 50, "a" * 1000 + "b" * 1000)
    assert overlap("*a" * 50, "a*" * 50)
