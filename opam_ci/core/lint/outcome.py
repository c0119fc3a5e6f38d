"""The outcome of a package's lint job, made from its findings."""

from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    Outcome,
    Passed,
)
from opam_ci.core.lint.finding import LintReport, Severity
from opam_ci.core.lint.opam_codes import OPAM_VERSION

_LINES = 8
"""Findings in the evidence; the command line shows all of them."""


def outcome_of(package: str, report: LintReport) -> Outcome:
    """Return the outcome of a package's lint job: one line of evidence for each finding.

    A warning fails the lint like an error, as in opam-repo-ci. The evidence has the version of
    opam that linted.
    """
    if package not in report.checked:
        return Errored(
            cause=Cause.REPOSITORY_STATE,
            evidence=Evidence(
                rule="lint-missing", detail=f"{package} has no opam file in the merged tree"
            ),
        )
    findings = [finding for finding in report.findings if finding.package == package]
    lines = tuple(
        LogLine(offset=0, text=f"{finding.location}: {finding.message}"[:240])
        for finding in findings[:_LINES]
    )
    if not findings:
        return Passed(evidence=Evidence(rule="lint-clean", detail=f"opam {OPAM_VERSION}"))
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    detail = f"{errors} errors, {len(findings) - errors} warnings, opam {OPAM_VERSION}"
    return Failed(
        reason=FailureReason.LINT,
        evidence=Evidence(rule="lint-findings", lines=lines, detail=detail),
    )
