"""Bounds in the text of opam files: exactly that bound, and not a byte else."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.opam.bounds import Bound, NoBoundError, bounded
from opam_ci.core.opam.file import parse
from opam_ci.core.opam.formula import (
    And,
    Atom,
    Block,
    Constraint,
    Dependency,
    Empty,
    FIdent,
    Filter,
    Formula,
    FString,
    Or,
    atoms,
    truth,
)
from opam_ci.core.opam.metadata import read
from opam_ci.core.opam.package import Package
from opam_ci.core.opam.patch import patch
from opam_ci.core.opam.version import satisfies

USER = Package("user", "2")


def edited(text: str, op: Literal["<", ">="] = "<", version: str = "3") -> str:
    return bounded(text.encode(), USER, Bound("lib", op, version)).decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"lib"', '"lib" {< "3"}'),
        ('"lib" {}', '"lib" {< "3"}'),
        ('"lib" {>= "1"}', '"lib" {>= "1" & < "3"}'),
        ('"lib" {with-test}', '"lib" {with-test & < "3"}'),
        ('"lib" {>= "1" & with-test}', '"lib" {>= "1" & with-test & < "3"}'),
        ('"lib"   {>= "1" # why\n}', '"lib"   {>= "1" & < "3" # why\n}'),
        # A higher upper bound is replaced, a lower one stays.
        ('"lib" {>= "1" & < "4~"}', '"lib" {>= "1" & < "3"}'),
        ('"lib" {<= "3" & build}', '"lib" {< "3" & build}'),
        ('"lib" {(< "5") & build}', '"lib" {(< "3") & build}'),
        ('"lib" {< "3"}', '"lib" {< "3"}'),
        ('"lib" {<= "2.9"}', '"lib" {<= "2.9"}'),
        ('"lib" {= "1"}', '"lib" {= "1"}'),
        ('"lib" {= version}', '"lib" {= version}'),
        # Alternatives.
        ('"lib" {< "1" | > "2"}', '"lib" {(< "1" | > "2") & < "3"}'),
        ('"lib" {< "1" | < "9"}', '"lib" {(< "1" | < "9") & < "3"}'),
        ('"lib" {build != "x" < "1" | > "2"}', '"lib" {build != "x" (< "1" | > "2") & < "3"}'),
        ('("lib" {>= "3"} | "lib" {< "2"})', '("lib" {>= "3" & < "3"} | "lib" {< "2"})'),
        ('"other" ("lib" | "b" & "lib")', '"other" ("lib" {< "3"} | "b" & "lib" {< "3"})'),
        ('"lib" {!= "2"}', '"lib" {!= "2" & < "3"}'),
        ('"lib" {!(>= "9")}', '"lib" {!(>= "9") & < "3"}'),
        # What the version of another package is nobody knows.
        ('"lib" {>= dune:version}', '"lib" {>= dune:version & < "3"}'),
        ('"lib" {< "%{version}%"}', '"lib" {< "%{version}%" & < "3"}'),
    ],
)
def test_upper_bounds(before: str, after: str) -> None:
    file = '# A comment\nopam-version: "2.0"\ndepends: [\n  "dune"\n  %s # sic\n]\nbuild: [] '
    assert edited(file % before) == file % after
    assert edited(file % after) == file % after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"lib"', '"lib" {>= "3"}'),
        ('"lib" {>= "1" & < "9"}', '"lib" {>= "3" & < "9"}'),
        ('"lib" {> "1"}', '"lib" {>= "3"}'),
        ('"lib" {> "3"}', '"lib" {> "3"}'),
        ('"lib" {= "3"}', '"lib" {= "3"}'),
        ('"lib" {>= "3.1" & build}', '"lib" {>= "3.1" & build}'),
        ('"lib" {< "1" | > "2"}', '"lib" {(< "1" | > "2") & >= "3"}'),
        ('"lib" {with-test}', '"lib" {with-test & >= "3"}'),
        ('"lib" {<= "3"}', '"lib" {<= "3" & >= "3"}'),
    ],
)
def test_lower_bounds(before: str, after: str) -> None:
    assert edited(f"depends: {before}", ">=") == f"depends: {after}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('depopts: ["lib"]\nbuild: []', 'depopts: ["lib"]\nconflicts: [X]\nbuild: []'),
        ('depopts: "lib" # why\n', 'depopts: "lib" # why\nconflicts: [X]\n'),
        ('depopts: ["lib"]', 'depopts: ["lib"]\nconflicts: [X]'),
        ('depopts: "lib" conflicts: "a"', 'depopts: "lib" conflicts: ["a" X]'),
        ('depopts: "lib" conflicts: []', 'depopts: "lib" conflicts: [X]'),
        ('conflicts: ["a" X] depopts: "lib"', 'conflicts: ["a" X] depopts: "lib"'),
        (
            'conflicts: [\n  "a"\n  "b"  # c\n]\ndepopts: ["c" | "lib"]\n',
            'conflicts: [\n  "a"\n  "b"\n  X  # c\n]\ndepopts: ["c" | "lib"]\n',
        ),
        # Its tests need it, and others may have it.
        (
            'depends: "lib" {with-test}\ndepopts: "lib"\n',
            'depends: "lib" {with-test & < "3"}\ndepopts: "lib"\nconflicts: [X]\n',
        ),
    ],
)
def test_an_optional_dependency_gets_a_conflict(before: str, after: str) -> None:
    conflict = '"lib" {>= "3"}'
    assert edited(before.replace("X", conflict)) == after.replace("X", conflict)


def test_an_optional_dependency_with_a_lower_bound() -> None:
    after = 'depopts: ["lib"]\nconflicts: ["lib" {< "3"}]'
    assert edited('depopts: ["lib"]', ">=") == after


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ('depends: ["lib2" "li"]', "user.2 does not depend on lib itself"),
        ("", "user.2 does not depend on lib itself"),
        ("depends: [", "the opam file of user.2 cannot be read: Parse error"),
        ('depends: "lib" {= "3"}', "user.2 allows no version of lib < 3 even now"),
        ('depends: "lib" {>= "3" & build}', "user.2 allows no version of lib < 3 even now"),
        ('depends: "lib" {(> "3.0" & < "5")}', "user.2 allows no version of lib < 3 even now"),
    ],
)
def test_what_cannot_be_bounded(file: str, why: str) -> None:
    with pytest.raises(NoBoundError) as refused:
        edited(file)
    assert str(refused.value).startswith(why)


def test_what_is_pinned_to_its_own_version_cannot_be_bounded() -> None:
    with pytest.raises(NoBoundError, match="allows no version of lib < 2"):
        edited('depends: "lib" {= version}', version="2")


@pytest.mark.parametrize(("name", "version"), [("lib", '3" | "'), ("lib", ""), ('l"ib', "3")])
def test_names_and_versions_are_checked(name: str, version: str) -> None:
    with pytest.raises(NoBoundError):
        Bound(name, "<", version)


def test_a_file_that_is_not_ascii_keeps_its_bytes() -> None:
    text = 'synopsis: "Für „alle“"\r\ndepends: "lib"\r\nauthors: "Ø"'
    assert edited(text) == text.replace('"lib"', '"lib" {< "3"}')


# Properties

VERSIONS = ("0.9", "1", "2~beta", "2", "2.1", "3~", "3", "3.0.1", "4", "5-1", "10")
OPS = ("=", "!=", ">=", ">", "<=", "<")
LEAVES = (
    st.builds('{} "{}"'.format, st.sampled_from(OPS), st.sampled_from(VERSIONS))
    | st.sampled_from(["with-test", "build", "= version", "<= _:version", ">= dune:version"])
    | st.just('os != "linux"')
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds("{} & {}".format, inner, inner)
        | st.builds("{} | {}".format, inner, inner)
        | st.builds("({})".format, inner)
        | st.builds("!({})".format, inner)
        | st.builds("{} # }} & (\n (* {{ *) {}".format, inner, inner)
    ),
    max_leaves=8,
)
PACKAGES = st.sampled_from(['"lib"', '"other"', '"lib" {}']) | st.builds(
    '"lib" {{{}}}'.format, CONDITIONS
)
FORMULAS = st.recursive(
    PACKAGES,
    lambda inner: (
        st.builds("{} | {}".format, inner, inner)
        | st.builds("{} & {}".format, inner, inner)
        | st.builds("({}\n {})".format, inner, inner)
    ),
    max_leaves=5,
)


@given(FORMULAS, st.sampled_from(VERSIONS), st.sampled_from(["<", ">="]), st.integers(0, 7))
def test_exactly_the_excluded_versions_are_excluded(
    formula: str,
    version: str,
    op: Literal["<", ">="],
    bit: int,
) -> None:
    data = f'opam-version: "2.0" # {{\ndepends: [ {formula} ]\n'.encode()
    bound = Bound("lib", op, version)
    before = conditions(data)

    def value(condition: Filter) -> bool:
        return bool(crc32(repr(condition).encode()) >> bit & 1)

    try:
        result = bounded(data, USER, bound)
    except NoBoundError:
        # Nothing of it would be left.
        assert not any(
            satisfies(each, op, version) and holds(condition, each, value)
            for name, condition in before
            for each in VERSIONS
            if name == "lib"
        )
        return
    after = conditions(result)
    assert [name for name, _ in after] == [name for name, _ in before]
    for (name, old), (_, new) in zip(before, after, strict=True):
        for each in VERSIONS:
            was = holds(old, each, value)
            allowed = name != "lib" or satisfies(each, op, version)
            assert holds(new, each, value) == (was and allowed)
    assert bounded(result, USER, bound) == result


def conditions(data: bytes) -> list[tuple[str, Formula]]:
    opam = read(parse(data), USER)
    assert not opam.errors
    found: list[Dependency] = list(atoms(opam.values["depends"]))
    return [(each.name, each.condition) for each in found]


def holds(condition: Formula, version: str, of_filter: Callable[[Filter], bool]) -> bool:
    match condition:
        case Empty():
            return True
        case Atom(value=value):
            return leaf_holds(value, version, of_filter)
        case Block(formula=inner):
            return holds(inner, version, of_filter)
        case And(operands=operands):
            return all(holds(each, version, of_filter) for each in operands)
        case Or(operands=operands):
            return any(holds(each, version, of_filter) for each in operands)


def leaf_holds(value: Any, version: str, of_filter: Callable[[Filter], bool]) -> bool:
    match value:
        case Constraint(op=op, version=FString(value=text)):
            return satisfies(version, op, text)
        case Constraint(op=op, version=FIdent(packages=() | (None,))):
            return satisfies(version, op, USER.version)
        case Constraint(op=op):
            return satisfies(version, op, "2.5")
    return bool(truth(value, of_filter))


# Patches


@pytest.mark.parametrize(
    "text",
    [
        'opam-version: "2.0"\ndepends: [\n  "lib"\n]\n' + "# more\n" * 20,
        'depends: "lib"',
        'synopsis: """\na\rb\x0cc\n"""\r\ndepends: "lib"\r\n',
        'synopsis: "Ø"\ndepends: "lib"\n\n\ndepopts: "lib"',
    ],
)
def test_git_applies_a_patch(tmp_path: Path, text: str) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    paths = [f"packages/{name}/{name}.2/opam" for name in ("user", "c++")]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(text.encode())
    wanted = bounded(text.encode(), USER, Bound("lib", "<", "3"))
    patches = b"".join(patch(path, text.encode(), wanted) for path in paths)
    subprocess.run(["git", "-C", tmp_path, "apply", "-"], input=patches, check=True)
    for path in paths:
        assert (tmp_path / path).read_bytes() == wanted


def test_no_change_is_no_patch() -> None:
    assert patch("a", b"x\n", b"x\n") == b""
