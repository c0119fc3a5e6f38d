"""The meaning of the fields of opam files, and opam's messages for wrong ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.opam.errors import OcamlFailure, OpamSyntaxError
from opam_ci.core.opam.file import parse
from opam_ci.core.opam.formula import (
    EMPTY,
    And,
    Atom,
    Block,
    Constraint,
    Dependency,
    FAnd,
    FBool,
    FIdent,
    FNot,
    FOp,
    FOr,
    Formula,
    FString,
    Or,
)
from opam_ci.core.opam.metadata import Opam, read
from opam_ci.core.opam.package import Package, quote
from opam_ci.core.opam.url import Url

HEADER = 'opam-version: "2.0"\n'
WITH_TEST = FIdent((), "with-test")


def opam(text: str) -> Opam:
    return read(parse((HEADER + text).encode(), filename="p/opam"))


def errors(text: str) -> list[str]:
    found = opam(text)
    return [found.describe(error) for error in found.errors]


def package(name: str, *conditions: Formula) -> Atom:
    return Atom(Dependency(name, conditions[0] if conditions else EMPTY))


def at_least(version: str) -> Atom:
    return Atom(Constraint(">=", FString(version)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", EMPTY),
        ('"a"', package("a")),
        ('["a" "b"]', And((package("a"), package("b")))),
        ('["a" "b" & "c"]', And((package("a"), And((package("b"), package("c")))))),
        ('["a" & "b" "c"]', And((package("a"), package("b"), package("c")))),
        ('["a" | "b"]', Or((package("a"), package("b")))),
        ('[("a" | "b") "c"]', And((Block(Or((package("a"), package("b")))), package("c")))),
        ('["a" {>= "1"}]', package("a", at_least("1"))),
        (
            '["a" {>= "1" & with-test}]',
            package("a", And((at_least("1"), Atom(WITH_TEST)))),
        ),
        (
            '["a" {!(>= "1" & with-test)}]',
            package("a", Block(Or((Atom(Constraint("<", FString("1"))), Atom(FNot(WITH_TEST)))))),
        ),
        ('["a" {= version}]', package("a", Atom(Constraint("=", FIdent((), "version"))))),
    ],
)
def test_dependencies(text: str, expected: Formula) -> None:
    assert opam(f"depends: {text}").values["depends"] == expected


def test_conflicts_and_optional_dependencies_are_alternatives() -> None:
    found = opam('conflicts: ["a" & "b"]\ndepopts: ["a" ("b" & "c")]')
    assert found.values["conflicts"] == Or((package("a"), package("b")))
    assert found.values["depopts"] == Or((package("a"), package("c"), package("b")))


OS_IS_LINUX = FOp(FIdent((), "os"), "=", FString("linux"))
ARCH = FOp(FIdent((), "arch"), "!=", FString("arm32"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", FBool(value=True)),
        ("available: false", FBool(value=False)),
        ("available: [(false)]", FBool(value=False)),
        ("available: []", FBool(value=True)),
        ('available: os = "linux" & arch != "arm32"', FAnd((OS_IS_LINUX, ARCH))),
        (
            'available: (os = "linux" | arch != "arm32") | true',
            FOr((OS_IS_LINUX, ARCH, FBool(value=True))),
        ),
        ('os: "linux"\navailable: arch != "arm32"', FAnd((OS_IS_LINUX, ARCH))),
        ('os: "linux"', OS_IS_LINUX),
        ("os: []\navailable: false", FBool(value=False)),
        ('ocaml-version: [>= "4"]', FOp(FIdent((), "ocaml-version"), ">=", FString("4"))),
    ],
)
def test_availability(text: str, expected: object) -> None:
    assert opam(text).available == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ('run-test: ["make" "test"]', True),
        ("run-test: []", True),  # one command without arguments, to opam
        ('build-test: ["make"]', True),
        ('depends: ["a" {with-test}]', True),
        ('depends: ["a" {pkg:with-test}]', False),
        ('depends: ["a" {>= with-test}]', True),
        ('build: ["make" {with-test}]', True),
        ('build: ["make"] {!with-test | dev}', True),
        ('build: ["make" with-test]', True),
        ('build: ["make" "a=%{with-test}%"]', True),
        ('build: ["make" "a=%{with-test?yes:no}%"]', True),
        ('build: ["make" "a=%%{with-test}"]', False),
        ('build: ["make" "with-test"]', False),
        ('depexts: [["a"] {with-test}]', True),
        ('patches: ["a" {with-test}]', True),
        ("available: with-test", True),
        ('x-ci-foo: ["a" {with-test}]', False),
    ],
)
def test_has_tests(text: str, *, expected: bool) -> None:
    assert opam(text).has_tests is expected


def test_an_impossible_package_in_a_variable_is_opams_failure() -> None:
    with pytest.raises(OcamlFailure, match=r"Invalid character '\.' in package name .a\.b."):
        _ = opam('build: ["%{a.b:c}%"]').has_tests


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("foo: 1", ["At p/opam:2:0-2:6::\nInvalid field foo"]),
        ("foo { }", ["In p/opam:\nInvalid section foo"]),
        ('name: "a"\nname: "a"', ["At p/opam:3:0-3:9::\nDuplicate field name"]),
        ('author: "a"\nauthors: "b"', ['At p/opam:2:0-2:11::\nmultiple "authors:" fields']),
        ("synopsis: a", ["At p/opam:2:0-2:11::\nexpected string"]),
        (
            'depends: "a.b"',
            [
                (
                    "At p/opam:2:0-2:14::\nwhile expecting pkg-name: "
                    "Invalid character '.' in package name \"a.b\""
                )
            ],
        ),
        (
            'depends: ["a" {>= "1 2"}]',
            [
                (
                    'At p/opam:2:18-2:23::\nInvalid version string "1 2": '
                    "Invalid character ' ' in package version \"1 2\""
                )
            ],
        ),
        (
            "build: [make [a]]",
            ["At p/opam:2:13-2:16::\nexpected ident-or-string"],
        ),
        ("available: [a b]", ["At p/opam:2:0-2:16::\nexpected a single filter expression"]),
        ('flags: ["conf"]', ["At p/opam:2:8-2:14::\nexpected package-flag"]),
        ("url { }", ["In p/opam:\nmissing URL"]),
        ('url "a" { src: "b" }', ["In p/opam:\nUnexpected section title"]),
        ('extra-source { src: "a" }', ["In p/opam:\nmissing extra-source name"]),
        (
            'url { src: "a" checksum: "md5=0" }',
            [
                (
                    "At p/opam:2:15-2:32::\nwhile expecting checksum: "
                    'Invalid_argument("OpamHash.of_string")'
                )
            ],
        ),
        ('url { src: "a" git: "b" }', ["At p/opam:2:15-2:23::\nToo many URLS"]),
        (
            'dev-repo: "foo://bar"',
            [
                (
                    "At p/opam:2:0-2:21::\nwhile expecting vc-url: "
                    'OpamUrl.Parse_error("unsupported protocol foo")'
                )
            ],
        ),
        # Of two wrong parts opam reports the right one; of two fields the one it reads first.
        ("extra-files: [[1 2]]", ["At p/opam:2:17-2:18::\nexpected checksum"]),
        (
            "depends: 1\nsynopsis: 2",
            ["At p/opam:3:0-3:11::\nexpected string", "At p/opam:2:0-2:10::\nexpected pkg-formula"],
        ),
    ],
)
def test_wrong_fields_have_opams_message_and_place(text: str, expected: list[str]) -> None:
    assert errors(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unsupported or missing file format version; should be 2.0 or older"),
        (
            'opam-version: "2.1"',
            "unsupported or missing file format version; should be 2.0 or older",
        ),
        ("opam-version: 2", "expected opam-version"),
        ('opam-version: "2.0"\nopam-version: "2.0"', "Duplicate 'opam-version:' field"),
        (
            'opam-version: "2.0"\nurl { src: "a" subpath: "b" }',
            "The url.subpath field is not allowed in files with `opam-version` <= 2.0",
        ),
        ('opam-version: "2.0"\nx-subpath: 1', "Field x-subpath must be a string"),
    ],
)
def test_what_is_wrong_with_the_whole_file(text: str, message: str) -> None:
    with pytest.raises(OpamSyntaxError) as caught:
        read(parse(text.encode()))
    assert caught.value.message == message


def test_patch_versions_of_the_format_are_read() -> None:
    assert read(parse(b'opam-version: "2.0.1"')).opam_version == "2.0.1"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://a.org/b.tgz", Url("http", "https", "a.org/b.tgz", None)),
        ("git+https://a.org/b.git#main", Url("git", "https", "a.org/b.git", "main")),
        ("git://a.org/b", Url("git", "git", "a.org/b", None)),
        ("git@a.org:b/c.git", Url("rsync", "ssh", "git@a.org/b/c.git", None)),
        ("dir/file.tgz", Url("rsync", "file", "dir/file.tgz", None)),
        ("file:///a#b", Url("rsync", "file", "/a", "b")),
    ],
)
def test_urls(text: str, url: Url) -> None:
    assert Url.parse(text) == url


def test_flags_come_from_tags_too() -> None:
    assert opam('tags: ["a" "flags:plugin"]\nflags: [conf unknown]').flags == ("plugin", "conf")


def test_packages() -> None:
    assert Package.find("a.1.0") == Package("a", "1.0")
    assert [Package.find(text) for text in ("a", "a.", ".1", "1.1", "a b.1", "é.1")] == [None] * 6
    order = sorted([Package("b", "1"), Package("B", "1"), Package("a", "10"), Package("a", "9")],
                   key=lambda one: one.sort_key)  # fmt: skip
    assert [str(one) for one in order] == ["a.9", "a.10", "B.1", "b.1"]
    assert quote('é"\n') == '"\\195\\169\\"\\n"'


FIELDS = st.sampled_from(
    (
        *("depends", "available", "build", "flags", "depexts", "setenv", "url", "features", "os"),
        *("pin-depends", "x-env-path-rewrite", "extra-files", "conflicts", "tags", "version"),
    )
)
VALUES = st.recursive(
    st.sampled_from(['"a"', "a", "1", "true", '"%{a:b}%"', '"flags:x"', "a:b", "_:a"]),
    lambda inner: (
        st.builds("[{} {}]".format, inner, inner)
        | st.builds("({})".format, inner)
        | st.builds("{} {{{}}}".format, st.sampled_from(['"a"', "a", "[a]"]), inner)
        | st.builds("{} {} {}".format, inner, st.sampled_from("&|"), inner)
        | st.builds("!{}".format, inner)
        | st.just('a = "b"')
        | st.just('>= "1"')
        | st.just('a += "b"')
    ),
    max_leaves=6,
)


@given(st.lists(st.tuples(FIELDS, VALUES), max_size=4))
def test_any_fields_are_read_or_refused(fields: list[tuple[str, str]]) -> None:
    text = HEADER + "".join(f"{name}: {value}\n" for name, value in fields)
    try:
        found = read(parse(text.encode()))
    except OpamSyntaxError:
        return
    assert all(found.describe(error) for error in found.errors)
    assert found.effective == read(parse(text.encode())).effective
    assert isinstance(found.has_tests, bool)
