"""A lint report as text: a line for each message, or grouped by package for people."""

import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from opam_ci.core.lint.finding import LintReport
from opam_ci.core.lint.opam_codes import OPAM_VERSION

_INDENT: Final = "    "


def machine_lines(report: LintReport) -> Iterator[str]:
    """The lines that opam-repo-ci's `--machine-readable` prints."""
    return (finding.machine_message for finding in report.findings)


def human_lines(report: LintReport, *, width: int) -> Iterator[str]:
    """The report for authors: each package, each finding with its place and how to fix it.

    Args:
        report: The report.
        width: In characters; sentences are wrapped at blanks to fit it.
    """
    for package, findings in groupby(report.findings, key=lambda finding: finding.package):
        yield f"{package}:"
        for finding in findings:
            yield f"  {finding.location}: {finding.severity.value} [{finding.check.value}]"
            yield from _wrapped(finding.message, width)
            yield from _wrapped(f"How to fix: {finding.explanation}", width)
        yield ""
    for package in report.missing:
        yield f"{package}: no such package in this repository"
    yield summary_line(report)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def summary_line(report: LintReport) -> str:
    """The number of packages checked, the opam that checked them, and the number of findings."""
    checked = len(report.checked)
    faulty = len({finding.package for finding in report.findings})
    packages = f"{checked} package{'' if checked == 1 else 's'} checked with opam {OPAM_VERSION}"
    if not report.findings:
        return f"{packages}, nothing found."
    count = len(report.findings)
    return f"{packages}, {count} finding{'' if count == 1 else 's'} in {faulty}."
