"""What the solver can read for a package, and what it cannot."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.reuse.reach import (
    Reachable,
    References,
    reach_digest,
    reachable,
    references,
)

HEADER = 'opam-version: "2.0"\n'


def named(text: str, package: str = "a.1") -> References:
    return references(package, (HEADER + text).encode())


@pytest.mark.parametrize(
    ("text", "always", "tested"),
    [
        ("", set(), set()),
        ('depends: ["b" {>= "1"} "c" {build}]', {"b", "c"}, set()),
        ('depends: ["b" | "c" {os = "linux"}]\ndepopts: ["d"]', {"b", "c", "d"}, set()),
        ('depends: ["b" {with-test} "c" {with-doc & >= "2"}]', set(), {"b", "c"}),
        ('depends: ["b" {with-test} "b"]', {"b"}, set()),
        ('depends: ["b" {with-test | build}]', {"b"}, set()),
        # Needed later is needed all the same.
        ('depends: ["b" {post}]', {"b"}, set()),
        # What cannot be in a solution with it rules nothing out.
        ('conflicts: ["b"]', set(), set()),
    ],
)
def test_names_are_those_that_a_solution_can_need(
    text: str, always: set[str], tested: set[str]
) -> None:
    assert named(text) == References(always=frozenset(always), tested=frozenset(tested))


def test_an_unreadable_file_names_nothing() -> None:
    assert references("a.1", b"depends: [") == References()


def test_a_version_whose_sources_can_change_is_known() -> None:
    fixed = 'url { src: "https://x.org/a.tgz" checksum: "md5=68b329da9893e34099c7d8ad5cb9c940" }'
    assert named(fixed).changing == frozenset()
    assert named('url { src: "git+https://x.org/a.git" }').changing == {"a.1"}
    assert named('url { src: "https://x.org/a.tgz" }').changing == {"a.1"}


NAMED = {
    "a": References(always=frozenset({"b", "gone"}), tested=frozenset({"t", "below-d"})),
    "b": References(always=frozenset({"c"})),
    # They need each other.
    "c": References(always=frozenset({"d", "below-c"})),
    "d": References(always=frozenset({"c", "below-d"}), changing=frozenset({"d.2"})),
    "below-c": References(),
    "below-d": References(),
    "t": References(),
    "other": References(always=frozenset({"t"})),
}
TREES = {name: f"1-{name}" for name in NAMED}


def reach(named: Mapping[str, References] = NAMED, **trees: str) -> Reachable:
    return reachable({**TREES, **trees}, named, {"c", "d", "t", "unknown"})


def changed(now: Reachable) -> set[str]:
    return {name for name, digest in reach().plain.items() if now.plain.get(name) != digest}


def changed_with_tests(now: Reachable) -> set[str]:
    before = reach()
    return {name for name in NAMED if now.of(name, tests=True) != before.of(name, tests=True)}


def test_a_digest_changes_with_each_directory_within_reach_and_with_no_other() -> None:
    assert changed(reach(d="2")) == {"a", "b", "c", "d"}
    assert changed(reach(b="2")) == {"a", "b"}
    assert changed(reach(other="2")) == {"other"}
    for below in ("below-c", "below-d"):
        assert changed(reachable(TREES | {below: "2"}, NAMED, ())) == {"a", "b", "c", "d", below}


def test_what_its_tests_need_counts_if_they_are_asked_for() -> None:
    assert changed(reach(t="2")) == {"t", "other"}
    assert changed_with_tests(reach(t="2")) == {"t", "other", "a"}
    # Not for a package that only needs it.
    named = {**NAMED, "other": References(always=frozenset({"a"}))}
    assert reach(named).of("other", tests=True) == reach(named, t="2").of("other", tests=True)


def test_a_name_that_appears_or_vanishes_counts() -> None:
    appeared = reach({**NAMED, "gone": References()}, gone="1")
    assert changed(appeared) == {"a"}
    less = {name: each for name, each in NAMED.items() if name != "c"}
    trees = {name: tree for name, tree in TREES.items() if name != "c"}
    assert changed(reachable(trees, less, ())) == {"a", "b", "c", "d"}


def test_names_that_need_a_package_are_one_digest() -> None:
    before = reach().dependents
    assert before.keys() == {"c", "d", "t"}
    # `a` needs it for its tests.
    assert reach(a="2").dependents["t"] != before["t"]
    assert reach(other="2").dependents == {**before, "t": reach(other="2").dependents["t"]}
    # A new dependent.
    new = {**NAMED, "other": References(always=frozenset({"c"}))}
    assert all(reach(new).dependents[name] != before[name] for name in ("c", "d"))


def test_digests_are_the_same_in_every_process() -> None:
    here = reach().model_dump_json(exclude={"changing"})
    code = f"from {__name__} import reach; print(reach().model_dump_json(exclude={{'changing'}}))"
    for seed in "123":
        # It decides the order of a set of names.
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=True
        )
        assert done.stdout.decode().strip() == here


def test_only_tests_that_need_more_have_a_digest() -> None:
    assert reach().tested.keys() == {"a"}


def test_what_can_change_is_listed_for_the_whole_repository() -> None:
    assert reach().changing == {"d.2"}


def test_a_name_that_is_not_there_has_no_digest() -> None:
    assert reach().of("unknown", tests=True) == ""


NAMES = "abcdef"
some_names = st.frozensets(st.sampled_from([*NAMES, "gone"]))
directories = st.dictionaries(
    st.sampled_from(NAMES),
    st.builds(References, always=some_names, tested=some_names),
)
"""What each name of a repository names: the id of its directory follows from that."""


@given(before=directories, changes=directories, removed=some_names, asked=some_names)
def test_the_digest_of_some_names_differs_exactly_if_one_of_theirs_does(
    before: dict[str, References],
    changes: dict[str, References],
    removed: frozenset[str],
    asked: frozenset[str],
) -> None:
    after = {name: what for name, what in (before | changes).items() if name not in removed}
    found = []
    for named in (before, after):
        trees = {name: what.model_dump_json() for name, what in sorted(named.items())}
        whole = reachable(trees, named, ())
        found.append(
            (
                [whole.of(name, tests=True) for name in sorted(asked)],
                reach_digest(trees, named, asked),
            )
        )
    (each_before, before_digest), (each_after, after_digest) = found
    assert (each_before == each_after) == (before_digest == after_digest)
