"""The kinds of changes of a package, and messages, as in opam-repo-ci."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.clients.git.analysis import analyse, analyse_merge
from opam_ci.clients.git.repository import Repository
from opam_ci.core.errors import UsageError
from opam_ci.core.submission.result import Analysis
from tests.support.fakes.clone import EXECUTABLE, Clone, Content, at, opam
from tests.support.fakes.one_file import significance

SHA = "sha256=" + "0" * 64
MD5 = "md5=" + "0" * 32
SHA_IN_CAPITALS = f"sha256={SHA[7:].upper()}"
URL = f'url {{ src: "https://x.org/a.tgz" checksum: ["{SHA}" "{MD5}"] }}'


def kind(old: str, new: str) -> str:
    result = significance(opam(old), opam(new), path=at("a.1"))
    assert result.failure is None
    return result.packages[0].kind.value


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('depends: ["a" "b"]', 'depends: ["b" "a"]'),
        ('depends: ["a" "b"]', 'depends: [("a" "b")]'),
        ('depends: ["a" {>= "1"}]', 'depends: ["a" {>= "2"}]'),
        ('depexts: [["a"] {x} ["b"] {y}]', 'depexts: [["b"] {y} ["a"] {x}]'),
        (URL, f'url {{ src: "https://x.org/a.tgz" checksum: ["{MD5}" "{SHA}"] }}'),
        ('url { src: "https://x.org/a" }', 'url { src: "https://x.org/b" }'),
        ("", 'x-ci-accept-failures: ["debian"]'),
        ("", 'conflict-class: "a"'),
        ("", "flags: plugin"),
        ("", 'tags: "flags:plugin"'),
        ("flags: plugin", 'flags: plugin\ntags: "flags:plugin"'),
        ("", "build: [make]"),
        ("", 'run-test: ["make"]'),
        ("", 'patches: "a.diff"'),
        ("", 'available: os = "linux"'),
        ("", 'os: "linux"'),
        ("", f'extra-files: ["a" "{MD5}"]'),
        ("", f'extra-source "a" {{ src: "http://b" checksum: "{MD5}" }}'),
        ("", 'x-env-path-rewrite: [[A true]]\nsetenv: A = "b"'),
        ("", 'setenv: A += "b"'),
        ("build: [make]", "build: [make {dev}]"),
        ("depends: []", 'depends: ["a"]'),
    ],
)
def test_significant(old: str, new: str) -> None:
    assert kind(old, new) == "significantly_changed"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (URL, f'url {{ src: "https://y.org/b" checksum: "{SHA}" }}'),
        (
            URL,
            f'url {{ src: "ftp://c" mirrors: "https://y.org/b" checksum: "{SHA_IN_CAPITALS}" }}',
        ),
        ("", 'name: "a"\nversion: "1"'),
        ("", "flags: [avoid-version deprecated conf compiler verbose light-uninstall foo]"),
        ("", 'messages: "hello"\npost-messages: "bye"'),
        ("", 'homepage: "x"\nlicense: "y"\ntags: "z"\ndoc: "w"\ndev-repo: "git+https://a.b"'),
        ("", 'x-maintenance-intent: "(latest)"\nx-foo: 1'),
        ("build: [make]\ninstall: [dune]", "install: [dune]\nbuild: [make]"),
        ("build: [make]", 'build: [ "make" ]'.replace('"make"', "make # now\n")),
        ("", "depends: []"),
        ("", "install: []"),
        ('depexts: [["a" "b"] {x}]', 'depexts: [["b" "a"] {x}]'),
        ('depexts: [["a"]]', 'depexts: ["a"]'),
        ("available: true", ""),
        ('depends: "a"', 'depends: ["a"]'),
        ('depopts: ["a" "b"]', 'depopts: ["a" | "b"]'),
        ("build: make", "build: [[make]]"),
        ('x-ci-a: ["b"]', 'x-ci-a: [ "b" ] # same'),
        ("available: (a & b) & c", "available: a & b & c"),
        ("build: [make]", "build: [make]\r\n"),
    ],
)
def test_insignificant(old: str, new: str) -> None:
    assert kind(old, new) == "insignificantly_changed"


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ("available: false", "unavailable"),
        ("available: [false]", "unavailable"),
        ("available: (false)", "unavailable"),
        ("available: !true", "significantly_changed"),
        ("available: false & x", "significantly_changed"),
        ('available: false\nos: "linux"', "significantly_changed"),
    ],
)
def test_only_a_literal_false_is_unavailable(new: str, expected: str) -> None:
    assert kind("", new) == expected


@pytest.mark.parametrize(
    ("section", "source"),
    [
        ('url { src: "rsync://a.b/c" }', "rsync://a.b/c"),
        ('url { src: "/etc" }', "file:///etc"),
        ('url { src: "git+http://a.b/c" }', "git+http://a.b/c"),
        ('url { src: "git://a.b/c" }', "git://a.b/c"),
        ('url { src: "hg+https://a.b/c" }', "hg+https://a.b/c"),
        ('url { src: "ssh://a.b/c" }', "ssh://a.b/c"),
        (f'url {{ src: "https://a/b" mirrors: ["http://c" "sftp://d"] checksum: "{MD5}" }}', "sftp://d"),
        (f'extra-source "a" {{ src: "file:///b" checksum: "{MD5}" }}', "file:///b"),
    ],
)  # fmt: skip
def test_a_source_that_builds_do_not_fetch_is_refused(section: str, source: str) -> None:
    result = significance(opam(), opam(section), path=at("a.1"))
    assert result.failure == (
        f'Builds do not fetch "{source}", a source in "packages/a/a.1/opam" '
        "(expecting http, https, ftp or git+https)"
    )


def test_what_was_wrong_before_is_not_the_changes_fault() -> None:
    result = significance(b"garbage [", opam(), path=at("a.1"))
    assert result.packages[0].kind.value == "significantly_changed"


UNPARSABLE = '"packages/a/a.1/opam" failed to be parsed: '
OLD_FORMAT = "unsupported or missing file format version; should be 2.0 or older"
UNEXPECTED = "in packages directory (expecting 'packages/name/name.l.m.n/{opam,files/*}')"


@pytest.mark.parametrize(
    ("new", "failure"),
    [
        (b"depends: [ ocaml {>= 4.15} ]", UNPARSABLE + "'.' is not a valid token"),
        (b"x: 1", UNPARSABLE + OLD_FORMAT),
        (b'opam-version: "1.2"', 'Package "a.1" uses unsupported opam version 1.2 (need >= 2)'),
        (
            opam("foo: 1\nbar: 2"),
            (
                "Format errors detected in a.1:\n"
                "  - At packages/a/a.1/opam:3:0-3:6::\nInvalid field foo\n"
                "  - At packages/a/a.1/opam:4:0-4:6::\nInvalid field bar"
            ),
        ),
        (b"#" * 102_401, 'File "packages/a/a.1/opam" too big (102401 bytes)'),
        (opam("x: 9999999999999999999"), "int_of_string"),
        (b'opam-version: "2.0"\nx: "\xff"', UNPARSABLE + "byte 0xff is not UTF-8 text"),
    ],
)
def test_refusals_of_changed_files(new: bytes, failure: str) -> None:
    result = significance(opam(), new, path=at("a.1"))
    assert (result.packages, result.failure) == ((), failure)


# Through git


LONG = opam("\n".join(f'x-line-{number}: "{number}"' for number in range(30)))
START: Mapping[str, Content] = {
    "repo": b'opam-version: "2.0"\n',
    at("a.1"): LONG,
    at("a.1", "files/x"): b"x",
    at("b.1"): opam("available: false" + "\n# unlike all others" * 20),
    at("v.1.0"): opam(),
}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path / "clone.git")
    clone.commit("master", START)
    return clone


def result_of(clone: Clone, files: Mapping[str, Content]) -> Analysis:
    start = clone.git("rev-parse", "master")
    head = clone.commit("topic", files, parents=(start,))
    with Repository.open(clone.path) as repository:
        return analyse(repository, start, head)


def kinds(clone: Clone, files: Mapping[str, Content]) -> dict[str, tuple[str, bool]]:
    result = result_of(clone, files)
    assert result.failure is None
    assert result.merge_tree == clone.git("rev-parse", "topic^{tree}")
    return {found.package: (found.kind.value, found.has_tests) for found in result.packages}


def test_kinds(clone: Clone) -> None:
    assert kinds(
        clone,
        {
            at("a.1"): LONG + b"build: [make]\n",
            at("a.2"): opam("run-test: [make]"),
            at("b.1"): None,
            at("c.1"): opam("available: false"),
            at("B.1"): opam(),
            at("c.10"): opam(),
            at("c.9"): opam(),
            "README": b"not looked at",
        },
    ) == {
        "a.1": ("significantly_changed", False),
        "a.2": ("new_release", True),
        "B.1": ("new_package", False),
        "b.1": ("deleted", False),
        "c.1": ("new_package", False),  # a new file is new even if it is unavailable
        "c.9": ("new_package", False),
        "c.10": ("new_package", False),
    }


def test_packages_are_in_opams_order(clone: Clone) -> None:
    names = ["c.10", "c.9", "B.1", "b.2", "z.1", "Z.1"]
    assert list(kinds(clone, {at(name): opam() for name in names})) == [
        "B.1",
        "b.2",
        "c.9",
        "c.10",
        "Z.1",
        "z.1",
    ]


def test_files_below_files_count_as_a_significant_change(clone: Clone) -> None:
    assert kinds(clone, {at("a.1", "files/deep/y"): b"y"}) == {
        "a.1": ("significantly_changed", False)
    }
    assert kinds(clone, {at("a.1", "files/x"): None, at("a.1"): LONG + b'homepage: "x"'}) == {
        "a.1": ("significantly_changed", False)
    }


def test_a_change_of_mode_is_insignificant(clone: Clone) -> None:
    assert kinds(clone, {at("a.1"): (EXECUTABLE, LONG)}) == {
        "a.1": ("insignificantly_changed", False)
    }


def test_a_rename_hides_the_deletion(clone: Clone) -> None:
    moved = {at("a.1"): None, at("a.1", "files/x"): None, at("a.2"): LONG + b"build: [make]\n"}
    assert kinds(clone, {**moved, at("a.2", "files/x"): b"x"}) == {"a.2": ("new_release", False)}
    # The file below files/ has no pair here, and its package has no opam file any more.
    assert result_of(clone, moved).failure == "impossible"


def test_versions_that_are_equal_to_opam_are_one_package(clone: Clone) -> None:
    assert kinds(clone, {at("v.1.0"): opam("build: [make]"), at("v.1.00"): opam()}) == {
        "v.1.00": ("new_release", False)
    }


@pytest.mark.parametrize(
    ("path", "failure"),
    [
        ("packages/a/a.1/opam.orig", f'Unexpected path "packages/a/a.1/opam.orig" {UNEXPECTED}'),
        ("packages/x", f'Unexpected path "packages/x" {UNEXPECTED}'),
        (
            "packages/a/b.1/opam",
            'Mismatch between package dir name "b.1" and parent directory name "a"',
        ),
        (
            "packages/a/a/opam",
            (
                '"a" is not a valid package name.version (in "packages/a/a/opam"): '
                "OpamPackage.of_string"
            ),
        ),
        (
            "packages/a b/a b.1/opam",
            (
                '"a b" is not a valid package name (in "packages/a b/a b.1/opam"): '
                "Invalid character ' ' in package name \"a b\""
            ),
        ),
        (
            "packages/1/1.1/opam",
            (
                '"1" is not a valid package name (in "packages/1/1.1/opam"): '
                'Package name "1" should contain at least one letter'
            ),
        ),
    ],
)
def test_refusals_of_paths(clone: Clone, path: str, failure: str) -> None:
    assert result_of(clone, {path: opam()}).failure == failure


def test_a_folder_that_was_misnamed_before(clone: Clone) -> None:
    clone.commit("master", {"packages/a/wrong/opam": opam()}, parents=("master",))
    assert result_of(clone, {"packages/a/wrong/opam": opam("build: [make]")}).failure == (
        '"wrong" is not a valid package name.version (in "packages/a/wrong/opam"): '
        "OpamPackage.of_string"
    )


def test_a_new_file_must_parse_and_needs_no_more(clone: Clone) -> None:
    assert kinds(clone, {at("c.1"): opam("foo: 1")}) == {"c.1": ("new_package", False)}
    assert result_of(clone, {at("c.1"): b"["}).failure == (
        '"packages/c/c.1/opam" failed to be parsed: Parse error'
    )
    big = opam("#" * 103_000)
    assert result_of(clone, {at("c.1"): big}).failure == (
        f'File "packages/c/c.1/opam" too big ({len(big)} bytes)'
    )


def test_of_several_new_files_that_do_not_parse_the_last_is_reported(clone: Clone) -> None:
    failure = result_of(clone, {at("c.1"): b"[", at("c.2"): b"]", at("d.1"): opam()}).failure
    assert failure is not None
    assert '"packages/c/c.2/opam"' in failure


def test_a_conflict(clone: Clone) -> None:
    start = clone.git("rev-parse", "master")
    head = clone.commit("topic", {at("b.1"): opam("build: [a]")}, parents=(start,))
    base = clone.commit("master", {at("b.1"): opam("build: [b]")}, parents=(start,))
    with Repository.open(clone.path) as repository:
        result = analyse(repository, base, head)
    assert result == Analysis(failure="Cannot merge to master - please rebase!")


def test_the_merge_counts_and_not_the_head(clone: Clone) -> None:
    start = clone.git("rev-parse", "master")
    head = clone.commit("topic", {at("c.1"): opam()}, parents=(start,))
    base = clone.commit("master", {at("d.1"): opam()}, parents=(start,))
    merge = clone.commit("merged", {at("c.1"): opam()}, parents=(base, head))
    with Repository.open(clone.path) as repository:
        result = analyse(repository, base, head)
        assert [found.package for found in result.packages] == ["c.1"]
        assert analyse_merge(repository, merge) == result
        with pytest.raises(UsageError, match="has no parents"):
            analyse_merge(repository, start)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_are_analysed(old: bytes, new: bytes) -> None:
    result = significance(opam() + old, opam() + new, path=at("a.1"))
    assert (result.failure is None) == (len(result.packages) == 1)


DEEP = 95


@pytest.mark.parametrize(
    "text",
    [
        "depends: " + "(" * DEEP + '"a" & "b"' + ")" * DEEP,
        'depends: ["a" {' + "(" * DEEP + '>= "1" | x' + ")" * DEEP + "}]",
        'depends: ["a" {' + "!(" * (DEEP // 2) + '>= "1"' + ")" * (DEEP // 2) + "}]",
        "conflicts: " + "(" * DEEP + '"a" & "b"' + ")" * DEEP,
        "available: " + "!(" * (DEEP // 2) + "a" + ")" * (DEEP // 2),
        "available: " + "(a | b & " * (DEEP // 3) + "a" + ")" * (DEEP // 3),
        'build: ["a" {' + "!" * DEEP + "a}]",
        "x-ci-a: " + "[a {" * (DEEP // 2) + "b" + "}]" * (DEEP // 2),
        "s {" * DEEP + "}" * DEEP,
    ],
)
def test_what_may_nest_is_analysed_even_from_a_deep_stack(text: str) -> None:
    def below(frames: int) -> Analysis:
        if frames:
            return below(frames - 1)
        return significance(opam(text), opam(f"{text}\nx-ci-b: 1"), path=at("a.1"))

    result = below(300)
    assert result.packages or (result.failure or "").startswith("Format errors")
