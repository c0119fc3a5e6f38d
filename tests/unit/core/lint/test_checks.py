"""The checks of our own, without opam: a small file, one fault, its message and place."""

from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opam_ci.core.lint.finding import CheckId, CheckKind, LintFinding
from opam_ci.core.lint.judge import judge, read_opam_file
from opam_ci.core.lint.opam_messages import Unreadable
from opam_ci.core.lint.subject import DirectoryEntry, OpamMessage, PackageFacts, PackageNames

GOOD = """opam-version: "2.0"
synopsis: "Say hello"
maintainer: "Jane <jane@example.org>"
url {
  src: "https://example.org/hello-1.0.tar.gz"
  checksum: "sha256=0000000000000000000000000000000000000000000000000000000000000000"
}
"""
PUBLICATION = frozenset({CheckKind.PUBLICATION})
ARCHIVE = frozenset({CheckKind.ARCHIVE})


def findings(  # noqa: PLR0913  every argument but the text has a default
    text: str,
    *,
    package: str = "hello.1.0",
    new: bool = False,
    kinds: Collection[CheckKind] = PUBLICATION,
    messages: tuple[OpamMessage, ...] = (),
    entries: tuple[DirectoryEntry, ...] = (DirectoryEntry(name="opam", permissions=0o644),),
    names: Collection[str] = (),
) -> tuple[LintFinding, ...]:
    facts = PackageFacts(package=package, new=new, entries=entries, names=PackageNames(names))
    return judge(facts, read_opam_file(package, text.encode()), messages, kinds)


def only(found: tuple[LintFinding, ...]) -> LintFinding:
    (finding,) = found
    return finding


def test_a_good_package_has_no_findings() -> None:
    assert findings(GOOD) == ()
    assert findings(GOOD, new=True, names=["hello", "world"]) == ()


@pytest.mark.parametrize(
    ("line", "check", "start"),
    [
        ('name: "hello"', CheckId.NAME_FIELD, "Unnecessary field 'name'"),
        ('name: "Hello"', CheckId.NAME_FIELD, "The field 'name' that doesn't match"),
        ('version: "1.0"', CheckId.VERSION_FIELD, "Unnecessary field 'version'"),
        ('version: " 1.00 "', CheckId.VERSION_FIELD, "Unnecessary field 'version'"),
        ('version: "1.1"', CheckId.VERSION_FIELD, "The field 'version' that doesn't match"),
        ('build: [["dune" "subst"]]', CheckId.DUNE_SUBST, "Dubious use of 'dune subst'"),
        ('build: ["dune" "subst"] {pinned}', CheckId.DUNE_SUBST, "Dubious use"),
        ('depends: ["a" & ("dune" {build} | "b")]', CheckId.DUNE_BUILD, "The package tagged dune"),
        ('tags: ["x" "topics"]', CheckId.DEFAULT_TAGS, "The package has not replaced"),
        ('pin-depends: ["a.1" "https://x"]', CheckId.PIN_DEPENDS, "pin-depends present"),
        ('conflict-class: "ocaml-arch"', CheckId.CONFLICT_CLASS, "package with conflict class"),
        ("flags: conf", CheckId.CONF, "conf packages should"),
        ('depexts: ["x"]', CheckId.CONF, "conf packages should"),
    ],
)
def test_a_fault_in_one_line(line: str, check: CheckId, start: str) -> None:
    finding = only(findings(f"{GOOD}{line}\n"))
    assert (finding.check, finding.message[: len(start)]) == (check, start)
    assert finding.line == GOOD.count("\n") + 1
    assert finding.file == "packages/hello/hello.1.0/opam"
    assert finding.explanation


@pytest.mark.parametrize(
    "line",
    [
        'build: [["dune" "subst"] {dev}]',
        'build: [["dune" "subst"] {(dev)}]',
        'build: [["dune" "subst" "-p"]]',
        'build: [["dune" {x} "subst"]]',
        'depends: ["dune" {!build}]',
        'depends: ["dunes" {build}]',
        'x-y: "dune subst"',
    ],
)
def test_no_fault_in_this_line(line: str) -> None:
    assert findings(f"{GOOD}{line}\n") == ()


def test_three_conf_properties_together_are_fine() -> None:
    text = 'opam-version: "2.0"\nbug-reports: "x"\nflags: conf\ndepexts: ["a"] {os = "linux"}\n'
    assert findings(text, package="conf-x.1") == ()
    tagged = text.replace("flags: conf", 'tags: "flags:conf"')
    assert findings(tagged, package="conf-x.1") == ()
    assert "the 'conf' flag and a non-empty" in only(findings(text, package="x.1")).message


def test_a_field_that_opam_refuses_does_not_count() -> None:
    refused = OpamMessage(
        code=3, level="error", text="File format error in 'flags' at line 8, column 0: expected x"
    )
    assert findings(GOOD + "flags: [conf]\n", messages=(refused,)) == ()
    duplicate = OpamMessage(
        code=3,
        level="error",
        text="File format error in 'flags' at line 8, column 0: Duplicate field flags",
    )
    assert len(findings(GOOD + "flags: [conf]\n", messages=(duplicate,))) == 1


def test_maintainers_without_an_address() -> None:
    text = GOOD.replace("Jane <jane@example.org>", "Jane\\njane@example.org")
    assert "maintainer(s) 'Jane\njane@example.org'" in only(findings(text)).message
    assert findings(text + 'bug-reports: "https://example.org"\n') == ()


@pytest.mark.parametrize(
    ("checksum", "fault"),
    [
        ("", "opam field url contains no checksum for hello-1.0.tar.gz"),
        ("checksum: []", "opam field url contains no checksum for hello-1.0.tar.gz"),
        (f'checksum: "{"0" * 32}"', "opam field url contains only MD5 as checksum for"),
        (f'checksum: ["md5={"0" * 32}" "sha256=1"]', "opam field url contains no checksum"),
    ],
)
def test_weak_checksums_of_the_url(checksum: str, fault: str) -> None:
    head, _, _ = GOOD.partition("  checksum")
    finding = only(findings(f"{head}{checksum}\n}}\n"))
    assert fault in finding.message
    assert finding.line is not None
    assert finding.line >= 4


def test_weak_checksums_elsewhere() -> None:
    extra = (
        'extra-source "a.patch" { src: "https://x/a.patch" }\n'
        'extra-source "a.patch" { src: "https://x/second-is-ignored" }\n'
        f'extra-files: ["b.patch" "md5={"0" * 32}"]\n'
    )
    messages = [finding.message for finding in findings(GOOD + extra)]
    assert [message.rpartition("opam field ")[2] for message in messages[:2]] == [
        "extra-files contains only MD5 as checksum for b.patch",
        "extra-sources contains no checksum for a.patch",
    ]
    assert messages[2].startswith("extra-files present.")


def test_the_directory() -> None:
    found = findings(
        GOOD,
        entries=(
            DirectoryEntry(name="opam", permissions=0o755),
            DirectoryEntry(name="files", permissions=None),
        ),
    )
    assert [(each.check, each.file) for each in found] == [
        (CheckId.PERMISSIONS, "packages/hello/hello.1.0/opam"),
        (CheckId.UNEXPECTED_FILE, "packages/hello/hello.1.0/files"),
    ]


def test_names_are_compared_for_new_packages_only() -> None:
    names = ["Foo", "f-o_o", "foo", "bar"]
    text = GOOD
    assert findings(text, package="foo.1", names=names) == ()
    found = findings(text, package="foo.1", new=True, names=names)
    assert [each.machine_message for each in found] == [
        "Warning in foo.1: Possible name collision with package 'Foo'",
        "Warning in foo.1: Possible name collision with package 'f-o_o'",
    ]


def test_reserved_prefixes() -> None:
    messages = [each.message for each in findings(GOOD, package="arch-x.1", new=True)]
    assert messages == [
        "package with prefix 'arch-' requires conflict class 'ocaml-arch'",
        "package name has restricted prefix 'arch-'",
    ]
    with_class = GOOD + 'conflict-class: ["ocaml-arch" "harmless"]\n'
    assert findings(with_class, package="arch-x.1") == ()


ARCHIVED = """x-reason-for-archiving: ["source-unavailable" "uninstallable"]
x-opam-repository-commit-hash-at-time-of-archiving: "de786e28"
"""


def test_the_archives_checks() -> None:
    assert findings(GOOD + ARCHIVED, kinds=ARCHIVE) == ()
    bounded = 'depends: ["ocaml" "a" {with-test & <= "1"} "b" {>= "1" & = "2"} "c" {!(> "1")}]\n'
    assert findings(GOOD + ARCHIVED + bounded, kinds=ARCHIVE) == ()
    unbounded = 'depends: ["a" {with-test} "b" {>= "1"} "c"]\n'
    found = findings(GOOD + ARCHIVED + unbounded, kinds=ARCHIVE)
    assert [each.message[-3:] for each in found] == ["'a'", "'b'", "'c'"]


@pytest.mark.parametrize("reason", ["", '"uninstallable"', "[]", '["no reason"]', "[1]"])
def test_a_bad_reason_for_archiving(reason: str) -> None:
    field = f"x-reason-for-archiving: {reason}\n" if reason else ""
    text = f"{GOOD}{field}{ARCHIVED.splitlines()[1]}\n"
    assert only(findings(text, kinds=ARCHIVE)).check is CheckId.ARCHIVE_REASON


def test_a_file_that_cannot_be_read_is_a_finding() -> None:
    found = findings("opam-version: [", new=True, names=["Hello"])
    assert [(each.check, each.line, each.column) for each in found] == [
        (CheckId.PARSE, 1, 16),
        (CheckId.NAME_COLLISION, None, None),
    ]
    assert found[0].message == "failed to parse opam file: Parse error at line 1, column 15"


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        (b"x" * 200_000, 1, "too big"),
        (b'opam-version: "2.0"\nsynopsis: "\xff"\n', 2, "UTF-8"),
        (b'opam-version: "2.0"\n\n\0', 3, "NUL"),
        (b"available: " + b"(" * 5000 + b"true" + b")" * 5000, 1, "deep"),
    ],
)
def test_hostile_content_is_refused_with_its_line(content: bytes, line: int, word: str) -> None:
    fault = read_opam_file("hello.1.0", content)
    assert isinstance(fault, Unreadable)
    assert fault.line == line
    assert word in fault.reason


ATOMS = st.sampled_from(
    ['"a"', '"dune"', '"dev"', '"conf"', "conf", "dev", "build", "true", "1", '""', "a:b"]
)


def _nested(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(values, max_size=4).map(" ".join)
    return st.one_of(
        several.map(lambda text: f"[{text}]"),
        several.map(lambda text: f"({text})"),
        st.tuples(ATOMS, several).map(lambda pair: f"{pair[0]} {{{pair[1]}}}"),
        st.tuples(values, values).map(lambda pair: f"[{pair[0]}] & ({pair[1]})"),
        ATOMS.map(lambda text: f"!{text}"),
        ATOMS.map(lambda text: f">= {text}"),
    )


FIELDS = st.sampled_from(
    [
        *("name", "version", "build", "depends", "tags", "flags", "depexts", "maintainer"),
        *("bug-reports", "pin-depends", "extra-files", "extra-sources", "conflict-class"),
        *("x-reason-for-archiving", "url"),
    ]
)


@given(st.lists(st.tuples(FIELDS, st.recursive(ATOMS, _nested, max_leaves=12)), max_size=8))
@settings(max_examples=150)
def test_no_shape_of_a_value_makes_a_check_fail(fields: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{name}: {value}" for name, value in fields)
    for finding in findings(text, new=True, kinds=frozenset(CheckKind), names=["Hello"]):
        assert finding.message
