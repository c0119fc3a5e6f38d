"""The judge of one attempt of a build job: facts before text, and unknown is not a failure.

Its order is part of the design:

1. A job passes only with positive evidence, and it never fails by default.
2. Facts of the machine (full disk, the kernel's kills, time limits, signals).
3. The phase: a failure before the submission's own content runs is an infrastructure fault
   unless messages prove otherwise; one while package code runs is a package failure unless
   facts, or messages that no package writes, prove otherwise.
4. The text of the log, by the ordered rules.
"""

from collections.abc import Mapping

from opam_ci.core.classify.machine import judge_machine
from opam_ci.core.classify.packages import judge_package_phase
from opam_ci.core.classify.positive_proofs import KNOWN_FAILURE, is_proven
from opam_ci.core.classify.preparation import judge_preparation
from opam_ci.core.classify.sources import judge_fetch
from opam_ci.core.classify.verdicts import Case
from opam_ci.core.jobs.facts import BuildFacts, PhaseRun
from opam_ci.core.jobs.job import PACKAGE_PHASES, REVDEP_KINDS, JobKind, Phase
from opam_ci.core.jobs.outcome import (
    OWN_LIMIT_RULES,
    Cause,
    Errored,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)

INSTALLING_KINDS = REVDEP_KINDS | {JobKind.BUILD, JobKind.TEST, JobKind.LOWER_BOUNDS}
"""Kinds of jobs whose success means that a package is installed."""


def judge(
    facts: BuildFacts,
    logs: Mapping[Phase, str],
    *,
    worker: str | None = None,
    attempt: int | None = None,
) -> Outcome:
    """Decide the outcome of one attempt, with its evidence.

    Args:
        facts: What the runner observed.
        logs: Text of each phase that ran, possibly without its middle (see `excerpt.py`).
        worker: Identity of the worker that ran it, for the evidence.
        attempt: Number of the attempt, for the evidence.

    Returns:
        The outcome; never `cancelled`, which results from a request only.
    """
    case = Case(facts=facts, logs=logs, worker=worker, attempt=attempt)
    outcome = _proven(_failed_if_repeated(_decide(case), facts.limit_reached_on))
    if facts.accepts_failure and isinstance(outcome, Failed):
        return _accepted(outcome)
    return outcome


def _decide(case: Case) -> Outcome:
    if case.facts.last is None:
        return case.errored(Cause.UNKNOWN, "nothing-ran", None, detail="no phase was started")
    stopped = next((run for run in case.facts.phases if not _succeeded(run)), None)
    if stopped is None:
        known = case.facts.known_verdict
        return known.outcome if known else _judge_known_failure(case) or _judge_end(case)
    if machine := judge_machine(case, stopped):
        return machine
    if stopped.phase is Phase.FETCH:
        return judge_fetch(case, stopped)
    if stopped.phase in PACKAGE_PHASES:
        return judge_package_phase(case, stopped)
    return judge_preparation(case, stopped)


def _failed_if_repeated(outcome: Outcome, limit_reached_on: str | None) -> Outcome:
    """Turn the second time that the job's own commands reach its limit into a failure."""
    if (
        limit_reached_on is None
        or not isinstance(outcome, Errored)
        or outcome.evidence.rule not in OWN_LIMIT_RULES
    ):
        return outcome
    detail = (
        f"{outcome.evidence.detail}; an earlier attempt on {limit_reached_on} reached a limit too"
    )
    return Failed(
        reason=FailureReason.OWN_FAULT,
        evidence=outcome.evidence.model_copy(update={"detail": detail}),
    )


def _proven(outcome: Outcome) -> Outcome:
    """Keep a failure only if package code ran, or a positive proof supports it."""
    if not isinstance(outcome, Failed) or is_proven(outcome):
        return outcome
    evidence = outcome.evidence
    detail = f"no package code ran, and {evidence.rule} does not prove failed({outcome.reason})"
    known = f"{detail}; {evidence.detail}" if evidence.detail else detail
    return Errored(cause=Cause.UNKNOWN, evidence=evidence.model_copy(update={"detail": known}))


def _succeeded(run: PhaseRun) -> bool:
    return run.exit_code == 0 and run.signal is None and not run.timed_out


def _judge_known_failure(case: Case) -> Outcome | None:
    """Judge a run that ended since a dependency is known to fail."""
    known = case.facts.known_failure
    if known is None:
        return None
    seen = known.seen[0]
    where = f"#{seen.number}" if seen.branch is None else seen.branch
    detail = (
        f"{known.package} was not built: it failed alike in {len(known.seen)} jobs that built it "
        f"from the same, the last time for {where} on {seen.ended_at:%d %B %Y}"
    )
    failed = case.failed(
        FailureReason.DEPENDENCY,
        KNOWN_FAILURE,
        case.facts.last,
        lines=known.outcome.evidence.lines,
        detail=detail,
        blame=known.package,
    )
    evidence = failed.evidence.model_copy(update={"seen_in": seen})
    return failed.model_copy(update={"evidence": evidence})


def _judge_end(case: Case) -> Outcome:
    """Judge a run in which no command failed: look for evidence that it did its work."""
    facts, last = case.facts, case.facts.last
    if not facts.finished:
        return case.errored(
            Cause.UNKNOWN,
            "no-end-marker",
            last,
            detail="every reported command succeeded, but the run did not reach its end",
        )
    if facts.job.kind not in INSTALLING_KINDS:
        return Passed(evidence=case.evidence("all-phases-succeeded", last, lines=()))
    if facts.installed:
        detail = f"{case.own} is installed"
        return Passed(evidence=case.evidence("installed", last, lines=(), detail=detail))
    if facts.installed is None:
        return case.errored(
            Cause.UNKNOWN,
            "not-verified",
            last,
            detail="every command succeeded, but nothing checked whether the package is installed",
        )
    return _judge_missing(case)


def _judge_missing(case: Case) -> Outcome:
    """Judge a run that succeeded although the package is not installed at its end.

    opam exits 0 on an empty switch state, a stale repository cache or a deleted switch: it
    then did nothing at all. Only if its report has the installation of the package did the
    package remove itself.
    """
    last = case.facts.last
    did_install = any(
        action.package == case.own and action.action == "install" and action.result == "ok"
        for run in case.facts.phases
        for action in run.actions
    )
    if did_install:
        detail = f"opam installed {case.own}, but at the end it is not installed"
        return case.failed(FailureReason.NOT_INSTALLED, "not-installed", last, detail=detail)
    detail = f"opam exited 0, reports no installation of {case.own}, and it is not installed"
    return case.errored(Cause.OPAM_INTERNAL, "opam-did-nothing", last, detail=detail)


def _accepted(outcome: Failed) -> Skipped:
    """Turn a package failure into the skip that `x-ci-accept-failures` requests."""
    was = f"failed({outcome.reason})" + (f" of {outcome.blame}" if outcome.blame else "")
    detail = f"{was}, accepted by x-ci-accept-failures"
    if outcome.evidence.detail:
        detail = f"{detail}; {outcome.evidence.detail}"
    evidence = outcome.evidence.model_copy(update={"detail": detail})
    return Skipped(reason=SkipReason.ACCEPTED_FAILURE, evidence=evidence)
