"""Phases before package code, and the check after it: infrastructure faults unless disproved."""

from opam_ci.core.classify.exits import OpamExit
from opam_ci.core.classify.matching import TextVerdict
from opam_ci.core.classify.rulebook import RULES
from opam_ci.core.classify.verdicts import Case
from opam_ci.core.jobs.facts import PhaseRun
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import IMAGE_UNFIT, Cause, FailureReason, Outcome, SkipReason
from opam_ci.core.opam.explanation import explain, explain_refusal, lacks_system_package

_EXIT_CAUSES = {
    OpamExit.LOCKED: (Cause.OPAM_INTERNAL, "opam-locked"),
    OpamExit.FILE_ERROR: (Cause.OPAM_INTERNAL, "opam-file-error"),
    OpamExit.CONFIGURATION_ERROR: (Cause.OPAM_INTERNAL, "opam-configuration"),
    OpamExit.SOLVER_FAILURE: (Cause.SOLVER_TIMEOUT, "solver-failure"),
    OpamExit.INTERNAL_ERROR: (Cause.OPAM_INTERNAL, "opam-internal-error"),
    OpamExit.BAD_ARGUMENTS: (Cause.OPAM_INTERNAL, "opam-arguments"),
}
"""Exit codes of opam that are infrastructure faults in every phase, if no rule matches."""

_NOT_EXECUTABLE = {126, 127}
"""Exit codes of a shell for a command that cannot be executed, or does not exist."""

PACKAGE_KNOWN = "package_known"
"""Name of the probe, after opam's exit 5, whether opam knows the package at all."""

DEPEXTS_INSTALLED = "depexts_installed"
"""Name of the probe, after opam's exit 10 where it may install none, whether all system packages of
the solution are installed."""
SYSTEM_LISTS = "system_lists"
"""Name of the probe whether the package manager could fetch its lists: after False, no package
that it does not know is missing."""

SYSTEM_PACKAGE_NAMES = "system_package_names"
"""Name of the probe whether all system packages of the solution have names of packages."""

SYSTEM_PACKAGES_KNOWN = "system_packages_known"
"""Name of the probe whether the package manager knows the packages, where its exit code says."""

_PROOFS = {
    Phase.CHECKOUT: {FailureReason.MERGE_CONFLICT},
    Phase.SETUP: {FailureReason.OPAM_FILE},
    Phase.SOLVE: {FailureReason.OPAM_FILE},
}
"""Failures that a text may prove before the submission's own content runs."""

_HEADLINE = "Package conflict!"
"""opam's first line about every conflict, which has no details."""

_UNREADABLE = (RULES.by_id["opam-file-unreadable"],)

_LISTS_CAUSES = {Cause.PACKAGE_MIRROR, Cause.DNS, Cause.NETWORK, Cause.DISK_FULL}


def judge_preparation(case: Case, run: PhaseRun) -> Outcome:
    """Judge a failed checkout, setup, solve, depexts or verify phase."""
    if run.phase is Phase.DEPEXTS and (skip := _judge_system_packages(case, run)):
        return skip
    verdict = case.text_verdict(run.phase)
    if run.phase is Phase.SOLVE and run.exit_code == OpamExit.NO_SOLUTION and run.conflicts:
        # opam's own report: it quotes opam files, whose text could match any rule.
        return _judge_conflict(case, run, verdict)
    if verdict and verdict.outcome == "errored":
        return _unless_unreadable(case, run, verdict)
    if verdict and verdict.reason in _PROOFS.get(run.phase, ()):
        return case.of_text(verdict, run)
    if run.phase in {Phase.SOLVE, Phase.DEPEXTS} and (skip := _judge_skip(case, run, verdict)):
        return skip
    return judge_opam_exit(case, run)


def _judge_system_packages(case: Case, run: PhaseRun) -> Outcome | None:
    """Return a skip if a probe tells what is wrong with the solution's system packages."""
    if case.facts.probes.get(DEPEXTS_INSTALLED) is False:
        detail = (
            "this machine has not all system packages that the solution needs, and jobs may "
            "install none on it: the log lists them; install them, and restart the job"
        )
        return case.skipped(
            SkipReason.DEPEXT_NOT_INSTALLED, "depext-not-installed", run, detail=detail
        )
    if case.facts.probes.get(SYSTEM_PACKAGE_NAMES) is False:
        return case.skipped(
            SkipReason.DEPEXT_UNAVAILABLE,
            "depext-unavailable",
            run,
            detail=f"{case.own} needs what cannot be the name of a system package",
        )
    return None


def judge_opam_exit(case: Case, run: PhaseRun) -> Outcome:
    """Judge by opam's exit code alone; the cause of any other is unknown."""
    if run.exit_code in _EXIT_CAUSES:
        cause, rule = _EXIT_CAUSES[OpamExit(run.exit_code)]
        return case.errored(cause, rule, run, detail=f"opam exited {run.exit_code}")
    if run.phase is Phase.SETUP and run.exit_code == OpamExit.SYNC_ERROR:
        detail = "opam could not update its repositories"
        return case.errored(Cause.REPOSITORY_STATE, "opam-update-failed", run, detail=detail)
    detail = f"phase {run.phase} ended with exit code {run.exit_code}, and no rule matches its log"
    return case.errored(Cause.UNKNOWN, "unknown-exit", run, detail=detail)


def judge_no_solution(case: Case, run: PhaseRun) -> Outcome | None:
    """Return a skip if opam's report or messages prove that there is no solution."""
    verdict = case.text_verdict(run.phase)
    return _judge_skip(case, run, verdict)


def _judge_skip(case: Case, run: PhaseRun, verdict: TextVerdict | None) -> Outcome | None:
    if verdict and verdict.reason is SkipReason.DEPEXT_UNAVAILABLE:
        return _stale_lists(case, run) or _refused(case, run, verdict)
    if run.phase is Phase.DEPEXTS:
        return _judge_manager_exit(case, run)
    if run.exit_code == OpamExit.NO_SOLUTION:
        if run.conflicts:
            return _judge_conflict(case, run, verdict)
        if verdict and verdict.outcome == "skipped":
            lines = verdict.lines
            detail = next((line.text for line in lines if _HEADLINE not in line.text), None)
            return case.skipped(
                SkipReason.NO_SOLUTION, verdict.rule, run, lines=lines, detail=detail
            )
    if run.exit_code == OpamExit.NOT_FOUND:
        return _judge_not_found(case, run, verdict)
    return None


def _judge_manager_exit(case: Case, run: PhaseRun) -> Outcome | None:
    """Judge by the exit code of the package manager, or of opam, which lists the packages."""
    if run.exit_code in _NOT_EXECUTABLE:
        detail = "the image lacks the package manager of its distribution"
        return case.errored(Cause.IMAGE, IMAGE_UNFIT, run, detail=detail)
    if stale := _stale_lists(case, run):
        return stale
    if case.facts.probes.get(SYSTEM_PACKAGES_KNOWN) is False:
        return case.skipped(
            SkipReason.DEPEXT_UNAVAILABLE,
            "depext-unavailable",
            run,
            detail=f"{case.own} needs a system package that does not exist here",
        )
    if run.exit_code is None or run.exit_code in _EXIT_CAUSES:
        return None
    detail = "the system package manager failed"
    return case.errored(Cause.PACKAGE_MIRROR, "depexts-failed", run, detail=detail)


def _judge_conflict(case: Case, run: PhaseRun, verdict: TextVerdict | None) -> Outcome:
    """Judge the solver's report, which is a proof if no package was hidden from the solver."""
    rule, reason = "solver-conflict", SkipReason.NO_SOLUTION
    detail = explain(case.own, run.conflicts, hidden=case.facts.hidden)
    if case.facts.hidden:
        rule, reason = "solver-not-mirrored", SkipReason.NOT_MIRRORED
        detail += f"; the offline mirror hides: {', '.join(case.facts.hidden)}"
    elif any(map(lacks_system_package, run.conflicts)):
        if stale := _stale_lists(case, run):
            return stale
        rule, reason = "depext-unavailable", SkipReason.DEPEXT_UNAVAILABLE
    return case.skipped(
        reason, rule, run, lines=verdict.lines if verdict else None, detail=detail[:400]
    )


def _refused(case: Case, run: PhaseRun, verdict: TextVerdict) -> Outcome:
    """Make the skip of a rule, with its line explained in the detail."""
    explained = (explain_refusal(case.own, line.text) for line in verdict.lines)
    outcome = case.of_text(verdict, run)
    detail = next(filter(None, explained), None)
    if outcome.kind != "skipped" or detail is None:
        return outcome
    evidence = outcome.evidence.model_copy(update={"detail": detail})
    return outcome.model_copy(update={"evidence": evidence})


def _judge_not_found(case: Case, run: PhaseRun, verdict: TextVerdict | None) -> Outcome | None:
    """Judge opam's exit 5, which has two meanings: not available here, and not known at all."""
    lines = verdict.lines if verdict else None
    known = case.facts.probes.get(PACKAGE_KNOWN)
    if known is False:
        if unreadable := _unreadable(case, run):
            return unreadable
        detail = f"opam does not know {case.own}, which is in the submission"
        return case.errored(
            Cause.REPOSITORY_STATE, "package-unknown", run, lines=lines, detail=detail
        )
    if verdict and verdict.outcome == "skipped":
        return _refused(case, run, verdict)
    if known:
        detail = f"opam knows {case.own} and reports that it is not available here"
        return case.skipped(
            SkipReason.UNAVAILABLE, "package-unavailable", run, lines=lines, detail=detail
        )
    return None


def _stale_lists(case: Case, run: PhaseRun) -> Outcome | None:
    """Return a fault if the package lists were not refreshed: then no package is available.

    `opam update --depexts` exits 0 if the mirror is down, and then opam reports every system
    package as unavailable, with the same message as for one that does not exist.
    """
    cause, rule, lines = None, "system-lists", None
    for phase in (Phase.SETUP, Phase.DEPEXTS, Phase.SOLVE):
        verdict = case.text_verdict(phase)
        if verdict and verdict.cause in _LISTS_CAUSES:
            cause, rule, lines = verdict.cause, verdict.rule, verdict.lines
            break
    if cause is None and case.facts.probes.get(SYSTEM_LISTS) is not False:
        return None
    return case.errored(
        cause or Cause.PACKAGE_MIRROR,
        rule,
        run,
        lines=lines,
        detail="the system package lists could not be refreshed",
    )


def _unless_unreadable(case: Case, run: PhaseRun, verdict: TextVerdict) -> Outcome:
    """Keep a fault, unless the package is missing because its own opam file is unreadable."""
    unreadable = _unreadable(case, run) if verdict.cause is Cause.REPOSITORY_STATE else None
    return unreadable or case.of_text(verdict, run)


def _unreadable(case: Case, run: PhaseRun) -> Outcome | None:
    """Return a failure if opam could not read an opam file of the submission."""
    for phase in (Phase.SETUP, Phase.SOLVE):
        found = case.text_verdict(phase, _UNREADABLE)
        if found:
            return case.of_text(found, run)
    return None
