"""Each row of the table of positive proofs has a test, and nothing else proves a failure."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opam_ci.activities.boundary import outcome_of
from opam_ci.activities.repository import refusal
from opam_ci.core.classify import RULES, judge
from opam_ci.core.classify.positive_proofs import KNOWN_FAILURE, PROOFS, Proof, is_proven
from opam_ci.core.classify.sources import CHECKSUM_REPEATS
from opam_ci.core.jobs.facts import BuildFacts, OpamAction, PhaseRun
from opam_ci.core.jobs.installable import installable_nowhere
from opam_ci.core.jobs.job import PACKAGE_PHASES, Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Evidence, Failed, FailureReason, Skipped, SkipReason, label
from opam_ci.core.jobs.summary import JobState, JobStatus
from opam_ci.core.lint.finding import CheckId, LintFinding, LintReport, Severity
from opam_ci.core.lint.outcome import outcome_of as lint_outcome
from opam_ci.core.submission.analysis import CONFLICT
from tests.support.samples.known_failures import known_failure

JOB = Job(platform="debian-13-ocaml-5.3/amd64", package="foo.1", kind=JobKind.BUILD)
INSTALLED = OpamAction(action="install", package="foo.1", result="ok")
FETCHED = "#=== ERROR while fetching sources for {} ===#\n{}\n"
SOURCES = {
    "source-not-found": "curl: code 404 while downloading x",
    "repository-gone": "fatal: repository 'https://x/' not found",
    "ref-missing": "Branch v9 not found",
    "submodule-missing": "Fetched in submodule path 'lib', but it did not contain 1fa8a3f7fb20.",
    "source-archive": "Could not extract archive:\\nUnknown archive type: /tmp/a.tgz",
    "source-checksum": "Bad checksum, expected sha256=00",
}
"""What the log says where each rule decides."""


OUTSIDE = {FailureReason.ANALYSIS, FailureReason.LINT, FailureReason.NOT_INSTALLABLE}
"""Reasons that no build job finds by itself."""

RAN = {
    FailureReason.BUILD,
    FailureReason.TEST,
    FailureReason.TIMEOUT,
    FailureReason.OWN_FAULT,
    FailureReason.KILLS_WORKER,
}
"""Reasons that are found only while package code runs."""


def judged(proof: Proof, rule: str) -> str:
    """Judge a run with a proof."""
    assert proof.phase is not None
    phase, log, code = proof.phase, "", 1
    probes: dict[str, bool] = {}
    actions: tuple[OpamAction, ...] = ()
    finished, installed, known = False, None, None
    if proof.reason is FailureReason.MERGE_CONFLICT:
        log = "CONFLICT (content): Merge conflict in packages/foo/foo.1/opam"
    elif proof.reason is FailureReason.OPAM_FILE:
        log = "[ERROR] Could not read file /s/packages/foo/foo.1/opam. skipping:\nParse error"
    elif proof.reason is FailureReason.NOT_INSTALLED:
        code, finished, installed, actions = 0, True, False, (INSTALLED,)
    elif rule == KNOWN_FAILURE:
        code, known = 0, known_failure()
    else:
        of = "bar.2" if proof.reason is FailureReason.DEPENDENCY else "foo.1"
        log, code = FETCHED.format(of, SOURCES[rule]), 40
        probes = {CHECKSUM_REPEATS: True}
        actions = (OpamAction(action="fetch", package=of, result="failed"),)
    ended = PhaseRun(
        phase=phase,
        exit_code=code,
        duration=1,
        log_start=0,
        log_end=len(log),
        actions=actions,
        has_report=bool(actions),
    )
    facts = BuildFacts(
        job=JOB,
        phases=(ended,),
        finished=finished,
        installed=installed,
        probes=probes,
        known_failure=known,
    )
    outcome = judge(facts, {phase: log})
    assert not isinstance(outcome, Failed) or outcome.evidence.rule == rule
    return label(outcome)


@pytest.mark.parametrize(
    ("proof", "rule"),
    [
        (proof, rule)
        for proof in PROOFS
        for rule in sorted(proof.rules)
        if proof.reason not in OUTSIDE
    ],
)
def test_a_positive_proof_is_a_failure_without_package_code(proof: Proof, rule: str) -> None:
    assert judged(proof, rule) == f"failed({proof.reason})"


def test_every_reason_is_found_while_package_code_runs_or_has_a_row() -> None:
    assert {proof.reason for proof in PROOFS} | RAN == set(FailureReason)
    assert {proof.reason for proof in PROOFS}.isdisjoint(RAN)


@pytest.mark.parametrize("words", ["Unexpected path packages/x", CONFLICT])
def test_what_the_analysis_refuses_is_proven(words: str) -> None:
    refused = outcome_of(refusal(words))
    assert isinstance(refused, Failed)
    assert is_proven(refused)


def test_what_lint_finds_is_proven() -> None:
    finding = LintFinding(
        package="foo.1",
        check=CheckId.NAME_COLLISION,
        severity=Severity.WARNING,
        message="no",
        explanation="why",
        file="packages/foo/foo.1/opam",
    )
    verdict = lint_outcome("foo.1", LintReport(findings=(finding,), checked=("foo.1",)))
    assert isinstance(verdict, Failed)
    assert is_proven(verdict)


@pytest.mark.parametrize(
    ("phase", "rule"),
    [
        (proof.phase, rule)
        for proof in PROOFS
        for rule in sorted(proof.rules)
        if proof.reason is FailureReason.NOT_INSTALLABLE
    ],
)
def test_what_can_be_installed_nowhere_is_proven(phase: Phase, rule: str) -> None:
    evidence = Evidence(rule=rule, phase=phase)
    skipped = Skipped(reason=SkipReason.NO_SOLUTION, evidence=evidence)
    row = JobStatus(job=JOB, state=JobState.DECIDED, outcome=skipped)
    [(_, verdict)] = installable_nowhere([row], "skip")
    assert is_proven(verdict)
    # By the verdicts of all platforms, and not of a single one.
    assert label(skipped) == "skipped(no_solution)"


@settings(max_examples=300)
@given(
    st.sampled_from([phase for phase in Phase if phase not in PACKAGE_PHASES]),
    st.sampled_from([0, 1, 2, 5, 10, 20, 31, 40, 50, 60, 99, 100, 137, 143, 255]),
    st.sampled_from([text for rule in RULES for text in rule.examples]),
    st.booleans(),
)
def test_before_package_code_nothing_else_is_a_failure(
    phase: Phase, code: int, words: str, reported: bool
) -> None:
    action = OpamAction(action="build", package="foo.1", result="failed", exit_code=2)
    ended = PhaseRun(
        phase=phase,
        exit_code=code,
        duration=1,
        log_start=0,
        log_end=len(words),
        actions=(action,) if reported else (),
        has_report=reported,
    )
    outcome = judge(BuildFacts(job=JOB, phases=(ended,)), {phase: words})
    if isinstance(outcome, Failed):
        assert is_proven(outcome), outcome
        assert outcome.evidence.phase is phase


def test_an_unproven_failure_is_not_a_failure() -> None:
    def said(reason: FailureReason, rule: str, phase: Phase | None) -> bool:
        return is_proven(Failed(reason=reason, evidence=Evidence(rule=rule, phase=phase)))

    assert not said(FailureReason.BUILD, "ocaml-error", Phase.SETUP)
    assert not said(FailureReason.OWN_FAULT, "own-memory-limit", Phase.SOLVE)
    assert not said(FailureReason.SOURCE, "source-not-found", Phase.SETUP)
    assert not said(FailureReason.BUILD, "action-failed", None)
    assert said(FailureReason.BUILD, "action-failed", Phase.BUILD)
