"""How values of opam files are read for lint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.lint import values
from opam_ci.core.lint.urls import checksum_kind, section_source, url_filename
from opam_ci.core.opam.file import parse
from opam_ci.core.opam.nodes import Field, List, Section, String, Value
from opam_ci.core.opam.url import Url


def value(text: str) -> Value:
    found = parse(f"x: {text}".encode()).value("x")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"a"', ["a"]),
        ('["a" "b"]', ["a", "b"]),
        ("[]", []),
        ('["a" 1]', None),
        ('["a" {x}]', None),
        ("true", None),
    ],
)
def test_strings_are_taken_whole_or_not_at_all(text: str, expected: list[str] | None) -> None:
    assert values.strings(value(text)) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('"a"', 1),
        ('["a" "b"]', 1),
        ('["a" "b"] {dev}', 1),
        ('[["a"]]', 1),
        ('[["a"] ["b"] {x}]', 2),
        ('[["a"] "b"]', 2),
        ("[]", 1),
        ("[[]]", 1),
    ],
)
def test_rows_may_lack_their_outer_brackets(text: str, count: int) -> None:
    assert len(values.rows(value(text))) == count


def test_a_single_string_is_a_row_of_one() -> None:
    (row,) = values.rows(value('"a"'))
    assert isinstance(row, List)
    assert row.items == (String("a"),)


@pytest.mark.parametrize(
    ("text", "operators"),
    [
        ('"a" {>= "1" & < "2"}', {">=", "<"}),
        ('"a" {!(>= "1")}', {"<"}),
        ('"a" {!(!(>= "1"))}', {">="}),
        ('"a" {!(= "1" | with-test)}', {"!="}),
        ('"a" {os = "linux"}', set()),
        ('"a"', set()),
    ],
)
def test_a_negated_constraint_turns_round(text: str, operators: set[str]) -> None:
    ((_, conditions),) = values.package_atoms(value(text))
    assert set(values.constraint_operators(conditions)) == operators


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("build", {"build"}),
        ('build & >= "1"', {"build"}),
        ("(build | dev)", {"build", "dev"}),
        ("foo:build", {"build"}),
        ("build?a:b", {"build"}),
        ("!build", set()),
        ('"%{build}%"', set()),
        ('build >= "1"', set()),
    ],
)
def test_plain_variables_stand_alone(text: str, variables: set[str]) -> None:
    if "?" in text:
        assert values.variable_name(text) in variables
        return
    ((_, conditions),) = values.package_atoms(value(f'"a" {{{text}}}'))
    assert set(values.plain_variables(conditions)) == variables


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0" * 32, "md5"),
        ("md5=" + "aF" * 16, "md5"),
        ("SHA256=" + "0" * 64, "sha256"),
        ("sha512=" + "0" * 128, "sha512"),
        ("sha1=" + "0" * 40, None),
        ("sha256=" + "0" * 63, None),
        ("sha256=" + "g" * 64, None),
        ("", None),
        ("md5=md5=" + "0" * 28, None),
    ],
)
def test_checksums(text: str, kind: str | None) -> None:
    assert checksum_kind(text) == kind


@pytest.mark.parametrize(
    ("url", "filename"),
    [
        ("https://example.org/a/b-1.tar.gz", "b-1.tar.gz"),
        ("https://example.org/a/b-1.tar.gz?x=1", "b-1.tar.gz?x=1"),
        ("git+https://example.org/foo/bar.git#v1", "bar.git#v1"),
        ("git+https://example.org/foo/bar.git#", "bar.git"),
        ("https://example.org/dir/", "dir"),
        ("git@example.org:bar.git", "bar.git"),
        ("git@example.org:foo/bar.git#v1", "bar.git#v1"),
        ("/abs/path.tgz", "path.tgz"),
    ],
)
def test_the_name_by_which_messages_call_a_url(url: str, filename: str) -> None:
    assert url_filename(Url.parse(url)) == filename


@given(st.text(max_size=60))
def test_any_text_may_stand_for_a_url_or_a_checksum(text: str) -> None:
    assert checksum_kind(text) in {None, "md5", "sha256", "sha512"}
    section = Section("url", None, (Field("src", String(text)), Field("checksum", String(text))))
    source = section_source(section)
    assert source is None or "/" not in source.filename


@pytest.mark.parametrize("url", ["svn+https://example.org/x", "gopher://example.org/x"])
def test_a_url_that_opam_refuses_is_not_a_source(url: str) -> None:
    assert section_source(Section("url", None, (Field("src", String(url)),))) is None
