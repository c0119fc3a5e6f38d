"""From opam's messages to findings with a place."""

import pytest

from opam_ci.core.lint.finding import CheckId, CheckKind, LintFinding, LintReport, Severity
from opam_ci.core.lint.judge import judge, read_opam_file
from opam_ci.core.lint.opam_messages import Unreadable, dropped_fields, unreadable_by_opam
from opam_ci.core.lint.render import human_lines, machine_lines, summary_line
from opam_ci.core.lint.subject import OpamMessage, PackageFacts

TEXT = """opam-version: "2.0"
license: [
  "ISC"
  "BSD3"
]
build: ["make" "%{foo:lib}%"]
"""


def located(code: int, text: str) -> LintFinding:
    message = OpamMessage(code=code, level="warning", text=text)
    file = read_opam_file("a.1", TEXT.encode())
    (finding,) = judge(PackageFacts(package="a.1", new=False), file, [message], {CheckKind.OPAM})
    return finding


@pytest.mark.parametrize(
    ("code", "text", "place"),
    [
        (62, 'License is no SPDX: "BSD3"', (4, 4)),
        (62, "License is no SPDX", (2, 1)),
        (41, 'Some packages are mentioned: "foo"', (6, 19)),
        (39, "Command 'make' called directly", (6, 1)),
        (36, "Missing field 'bug-reports'", (None, None)),
        (3, "File format error in 'build' at line 6, column 9: expected x", (6, 10)),
        (3, "File format error in 'foo': Invalid section foo", (None, None)),
        (999, "A code that we never heard of", (None, None)),
    ],
)
def test_a_message_gets_the_place_that_it_is_about(
    code: int, text: str, place: tuple[int | None, int | None]
) -> None:
    finding = located(code, text)
    assert (finding.line, finding.column) == place
    assert finding.message == f"Opam lint warning {code:2d}: {text}"
    assert finding.code == code
    assert finding.explanation


def test_opams_trailing_blank_is_trimmed_as_in_opam_repo_ci() -> None:
    assert located(3, "File format error in 'setenv': expected ").message.endswith("expected")


def test_further_lines_are_indented_as_opam_prints_them() -> None:
    finding = located(62, 'License is no SPDX: "MIT\nBSD\n\nX"')
    assert finding.message.endswith(f': "MIT\n{" " * 14}BSD\n\n{" " * 14}X"')


def test_fields_that_opam_drops() -> None:
    texts = [
        "File format error in 'url.checksum' at line 3, column 1: while expecting checksum: x",
        "File format error in 'depends': Duplicate field depends",
        "File format error in 'foo': Invalid section foo",
        "File format error in 'flags' at line 2, column 0: expected package-flag",
    ]
    messages = [OpamMessage(code=3, level="error", text=text) for text in texts]
    other = OpamMessage(code=62, level="warning", text="File format error in 'x': y")
    assert dropped_fields([*messages, other]) == {"url.checksum", "flags"}


@pytest.mark.parametrize(
    ("code", "text", "fault"),
    [
        (2, "File format error at line 3, column 4: Parse error", Unreadable("Parse error", 3, 4)),
        (2, "File format error: unsupported: 3.0", Unreadable("unsupported: 3.0")),
        (1, "File does not parse", Unreadable("File does not parse")),
        (23, "Missing field 'maintainer'", None),
    ],
)
def test_files_that_opam_cannot_read(code: int, text: str, fault: Unreadable | None) -> None:
    assert unreadable_by_opam([OpamMessage(code=code, level="error", text=text)]) == fault


def a_finding(package: str, severity: Severity = Severity.ERROR) -> LintFinding:
    return LintFinding(
        package=package,
        check=CheckId.CONF,
        severity=severity,
        message="It is wrong.",
        explanation="Put it right.",
        file=f"packages/a/{package}/opam",
        line=3,
        column=1,
    )


def test_a_report_as_text() -> None:
    report = LintReport(
        findings=(a_finding("a.1"), a_finding("a.1", Severity.WARNING), a_finding("a.2")),
        checked=("a.1", "a.2", "a.3"),
        missing=("b.1",),
    )
    assert list(machine_lines(report)) == [
        "Error in a.1: It is wrong.",
        "Warning in a.1: It is wrong.",
        "Error in a.2: It is wrong.",
    ]
    lines = list(human_lines(report, width=96))
    assert lines[:4] == [
        "a.1:",
        "  packages/a/a.1/opam:3:1: error [conf]",
        "    It is wrong.",
        "    How to fix: Put it right.",
    ]
    assert lines.count("a.1:") == 1
    assert lines[-2:] == [
        "b.1: no such package in this repository",
        "3 packages checked with opam 2.3.0, 3 findings in 2.",
    ]
    assert not report.clean
    assert (
        summary_line(LintReport(checked=("a.1",)))
        == "1 package checked with opam 2.3.0, nothing found."
    )
