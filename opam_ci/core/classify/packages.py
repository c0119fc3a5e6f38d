"""Phases that run package code: package failures, unless facts of the host or opam disprove it.

The output of a package's command proves nothing about the CI, whatever it is. So if opam reports
that an action failed (exit 31), no text decides whose fault it is: facts of the machine were judged
before (`machine.py`), and the text only provides the evidence. If opam itself failed, its own
messages decide, and no line of a package's output.
"""

from opam_ci.core.classify.attribution import attribute
from opam_ci.core.classify.exits import SIGKILL, OpamExit, signal_name, signal_of
from opam_ci.core.classify.lines import Line
from opam_ci.core.classify.machine import OWN_REASONS, foreign_oom
from opam_ci.core.classify.matching import MOST_LINES, TextVerdict
from opam_ci.core.classify.preparation import judge_no_solution, judge_opam_exit
from opam_ci.core.classify.rulebook import OPAM_COMMAND_FAILED, PACKAGE_REPORT, RULES
from opam_ci.core.classify.salience import WEAK_IDS, last_specific_line
from opam_ci.core.classify.sources import judge_fetch, judge_unfixed_source
from opam_ci.core.classify.verdicts import Case
from opam_ci.core.jobs.facts import OpamAction, PhaseRun
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause, FailureReason, LogLine, Outcome

DEPENDENCY_FAILED = "dependency-failed"
"""Rule of a job of which opam reports that commands of a dependency failed."""

_REPORT_HEAD = (RULES.by_id[OPAM_COMMAND_FAILED],)
_FAILURES = tuple(rule for rule in RULES if rule.verdict == "failed")
_KEPT_REASONS = {FailureReason.CHECKSUM, FailureReason.SOURCE, FailureReason.OPAM_FILE}


def judge_package_phase(case: Case, run: PhaseRun) -> Outcome:
    """Judge a failed dependencies, build or test phase."""
    failed = [action for action in run.actions if action.result == "failed"]
    if run.exit_code == OpamExit.SYNC_ERROR or any(a.action == "fetch" for a in failed):
        return _late_fetch(case, run)
    if run.exit_code != OpamExit.PACKAGE_OPERATION_ERROR:
        fault = RULES.first_match(_outside(case, run), run.phase)
        if fault and fault.outcome == "errored":
            return case.of_text(fault, run)
        return judge_no_solution(case, run) or judge_opam_exit(case, run)
    if culprit := _culprit(case, failed):
        return _judge_action(case, run, culprit)
    return _judge_unreported(case, run)


def _outside(case: Case, run: PhaseRun) -> list[Line]:
    """Return the lines of a phase that are not the output of a package's command."""
    return [line for line in case.lines(run.phase) if not line.of_package]


def _late_fetch(case: Case, run: PhaseRun) -> Outcome:
    """Judge a download in a phase that should have none: the fetch phase missed a source."""
    if unfixed := judge_unfixed_source(case, run):
        return unfixed
    outcome = judge_fetch(case, run)
    if outcome.kind == "errored" and outcome.cause is not Cause.UNKNOWN:
        return outcome
    detail = "opam tried to download in a phase without network"
    return case.errored(Cause.OPAM_INTERNAL, "late-fetch", run, detail=detail)


def _culprit(case: Case, failed: list[OpamAction]) -> OpamAction | None:
    """Return the failed action at fault: that of the job's own package, else the first."""
    own = next((action for action in failed if action.package == case.own), None)
    return own or (failed[0] if failed else None)


def _judge_action(case: Case, run: PhaseRun, action: OpamAction) -> Outcome:
    verdict = case.text_verdict(run.phase, _FAILURES)
    detail = f"{action.action} of {action.package} failed"
    if action.exit_code is not None:
        detail = f"{detail} with exit code {action.exit_code}"
    if action.command:
        detail = f"{detail}: {action.command}"
    number = signal_of(action.exit_code, None)
    if number == SIGKILL and (host_oom := foreign_oom(case, run, detail)):
        return host_oom
    if number is not None:
        detail = f"{detail}; {signal_name(number)} ended it, which the CI did not send"
    lines, rule = (_shown_lines(case, run, verdict), verdict.rule if verdict else "action-failed")
    if action.package != case.own:
        return _judge_dependency(case, run, action, lines, detail)
    reason = OWN_REASONS.get(run.phase, FailureReason.BUILD)
    if verdict and verdict.reason in _KEPT_REASONS:
        reason = FailureReason(verdict.reason)
    return case.failed(reason, rule, run, lines=lines, detail=detail)


def _shown_lines(
    case: Case, run: PhaseRun, verdict: TextVerdict | None
) -> tuple[LogLine, ...] | None:
    """Return a rule's lines, and if these are generic, the last specific line of the package."""
    lines = verdict.lines if verdict else ()
    if verdict is not None and verdict.rule not in WEAK_IDS:
        return lines
    if verdict is not None and verdict.rule == PACKAGE_REPORT:
        # The line that matched is the report's exit code; its head names what failed.
        head = case.text_verdict(run.phase, _REPORT_HEAD)
        lines = head.lines if head is not None else lines
    last = last_specific_line(case.lines(run.phase))
    if last is None or last.as_evidence() in lines:
        return lines or None
    return (*lines[: MOST_LINES - 1], last.as_evidence())


def _judge_dependency(
    case: Case,
    run: PhaseRun,
    action: OpamAction,
    lines: tuple[LogLine, ...] | None,
    detail: str,
) -> Outcome:
    if action.package.startswith("conf-") and case.run_of(Phase.DEPEXTS) is None:
        # A conf- package only checks for a system package, and no phase installed any.
        detail = f"{detail}; no phase installed system packages"
        return case.errored(Cause.IMAGE, "conf-without-depexts", run, lines=lines, detail=detail)
    return case.failed(
        FailureReason.DEPENDENCY,
        DEPENDENCY_FAILED,
        run,
        lines=lines,
        detail=detail,
        blame=action.package,
    )


def _judge_unreported(case: Case, run: PhaseRun) -> Outcome:
    """Judge exit 31 without a report of the failed action, for example because it is too large.

    The exit code means that an action failed, and in a build or test only the package's own is
    run. The text may name the dependency, which is shown.
    """
    verdict = case.text_verdict(run.phase, _FAILURES)
    rule, lines = (
        verdict.rule if verdict else "unreported-failure",
        _shown_lines(case, run, verdict),
    )
    detail = "opam exited 31: an action failed; its report is missing or too large"
    named = attribute(_outside(case, run)).failed
    reason = OWN_REASONS.get(run.phase)
    if reason is not None and (not named or case.own in named):
        return case.failed(reason, rule, run, lines=lines, detail=detail)
    blame = next((name for name in named if name != case.own), None)
    reason = FailureReason.DEPENDENCY
    return case.failed(reason, rule, run, lines=lines, detail=detail, blame=blame)
