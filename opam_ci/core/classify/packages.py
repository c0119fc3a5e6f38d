"""Phases that run package code: theirs, unless facts or words prove that it is ours."""

from opam_ci.core.classify.attribution import attribute
from opam_ci.core.classify.exits import SENT_FROM_OUTSIDE, OpamExit, signal_name, signal_of
from opam_ci.core.classify.machine import space_is_ample
from opam_ci.core.classify.preparation import judge_no_solution, judge_opam_exit
from opam_ci.core.classify.rule import Rule
from opam_ci.core.classify.rules import BY_ID, RULES
from opam_ci.core.classify.rules.generic import OPAM_COMMAND_FAILED, PACKAGE_REPORT
from opam_ci.core.classify.sources import judge_fetch
from opam_ci.core.classify.telling import WEAK_IDS, last_words
from opam_ci.core.classify.text import MOST_LINES, TextVerdict, first_match
from opam_ci.core.classify.verdicts import Case
from opam_ci.core.facts import OpamAction, PhaseRun
from opam_ci.core.job import Phase
from opam_ci.core.outcome import Cause, FailureReason, LogLine, Outcome

SIGILL = 4
_PHYSICAL = {
    Cause.DISK_FULL,
    Cause.OUT_OF_MEMORY,
    Cause.SANDBOX,
    Cause.STORAGE,
    Cause.WORKER_LOST,
    Cause.IMAGE,
}
"""What can go wrong below opam while opam itself works and reports a failed action."""

_MEMORY_UNCLEAR = "out-of-memory-unclear"
_KILLED = "process-killed"
_OURS = tuple(rule for rule in RULES if rule.verdict == "errored" or rule.id == _MEMORY_UNCLEAR)
_REPORT_HEAD = (BY_ID[OPAM_COMMAND_FAILED],)
_THEIRS = tuple(rule for rule in RULES if rule.verdict == "failed")
_KEPT_REASONS = {FailureReason.CHECKSUM, FailureReason.SOURCE, FailureReason.OPAM_FILE}


def judge_package_phase(case: Case, run: PhaseRun) -> Outcome:
    """Judges a failed dependencies, build or test phase."""
    if ours := _infrastructure(case, run):
        return case.of_text(ours, run)
    failed = [action for action in run.actions if action.result == "failed"]
    if run.exit_code == OpamExit.SYNC_ERROR or any(a.action == "fetch" for a in failed):
        return _late_fetch(case, run)
    if run.exit_code != OpamExit.PACKAGE_OPERATION_ERROR:
        return judge_no_solution(case, run) or judge_opam_exit(case, run)
    if culprit := _culprit(case, failed):
        return _judge_action(case, run, culprit)
    return _judge_words(case, run)


def _infrastructure(case: Case, run: PhaseRun) -> TextVerdict | None:
    """Returns what words of the log prove against us, as far as facts do not disprove it."""
    verdict = first_match(case.lines(run.phase), run.phase, _ours(run))
    if verdict is None:
        return None
    if verdict.rule == _MEMORY_UNCLEAR:
        # Whose limit it was is unclear, so it is no proof against the package.
        return verdict.model_copy(update={"outcome": "errored", "cause": Cause.OUT_OF_MEMORY})
    if verdict.rule == _KILLED:
        # The kernel counted no kill for memory (`judge_machine` came before): who did it?
        return verdict.model_copy(update={"cause": Cause.UNKNOWN})
    if (
        verdict.cause is Cause.DISK_FULL
        and run.phase is Phase.TEST
        and run.exit_code == OpamExit.PACKAGE_OPERATION_ERROR
        and space_is_ample(case.facts.host)
    ):
        return None  # a test that speaks of full disks, on a disk that is not full
    return verdict


def _ours(run: PhaseRun) -> tuple[Rule, ...]:
    """Returns the rules that can prove a fault of ours in a phase."""
    if run.exit_code != OpamExit.PACKAGE_OPERATION_ERROR or not run.has_report:
        return _OURS
    # opam worked: words about opam, git or servers are the package's own, its tests' for one.
    return tuple(rule for rule in _OURS if rule.verdict == "unknown" or rule.cause in _PHYSICAL)


def _late_fetch(case: Case, run: PhaseRun) -> Outcome:
    """Judges a download where there should be none: the fetch phase forgot something."""
    outcome = judge_fetch(case, run)
    if outcome.kind == "errored" and outcome.cause is not Cause.UNKNOWN:
        return outcome
    detail = "opam wanted to download in a phase without network"
    return case.errored(Cause.OPAM_INTERNAL, "late-fetch", run, detail=detail)


def _culprit(case: Case, failed: list[OpamAction]) -> OpamAction | None:
    """Returns the failed action to blame: the job's own package's, else the first."""
    own = next((action for action in failed if action.package == case.own), None)
    return own or (failed[0] if failed else None)


def _judge_action(case: Case, run: PhaseRun, action: OpamAction) -> Outcome:
    words = first_match(case.lines(run.phase), run.phase, _THEIRS)
    detail = f"{action.action} of {action.package} failed"
    if action.exit_code is not None:
        detail = f"{detail} with exit code {action.exit_code}"
    if action.command:
        detail = f"{detail}: {action.command}"
    number = signal_of(action.exit_code, None)
    if number in SENT_FROM_OUTSIDE:
        detail = f"{detail}; {signal_name(number)} came from neither the kernel nor the supervisor"
        return case.errored(Cause.UNKNOWN, "killed-unexplained", run, detail=detail)
    if number == SIGILL:
        detail = f"{detail}; it met an instruction that this worker's processor lacks"
        return case.errored(Cause.IMAGE, "illegal-instruction", run, detail=detail)
    lines, rule = (_telling(case, run, words), words.rule if words else "action-failed")
    if action.package != case.own:
        return _judge_dependency(case, run, action, detail)
    reason = FailureReason.TEST if run.phase is Phase.TEST else FailureReason.BUILD
    if words and words.reason in _KEPT_REASONS:
        reason = FailureReason(words.reason)
    return case.failed(reason, rule, run, lines=lines, detail=detail)


def _telling(case: Case, run: PhaseRun, words: TextVerdict | None) -> tuple[LogLine, ...] | None:
    """Returns a rule's lines, and where these say little, the last words of the package."""
    lines = words.lines if words else ()
    if words is not None and words.rule not in WEAK_IDS:
        return lines
    if words is not None and words.rule == PACKAGE_REPORT:
        # What matched is the report's exit code; its head says what failed.
        head = first_match(case.lines(run.phase), run.phase, _REPORT_HEAD)
        lines = head.lines if head is not None else lines
    last = last_words(case.lines(run.phase))
    if last is None or last.as_evidence() in lines:
        return lines or None
    return (*lines[: MOST_LINES - 1], last.as_evidence())


def _judge_dependency(case: Case, run: PhaseRun, action: OpamAction, detail: str) -> Outcome:
    words = first_match(case.lines(run.phase), run.phase, _THEIRS)
    lines = _telling(case, run, words)
    if action.package.startswith("conf-") and case.run_of(Phase.DEPEXTS) is None:
        # A conf- package only looks for a system package; nobody here installed any.
        detail = f"{detail}; no phase installed system packages"
        return case.errored(Cause.IMAGE, "conf-without-depexts", run, lines=lines, detail=detail)
    return case.failed(
        FailureReason.DEPENDENCY,
        "dependency-failed",
        run,
        lines=lines,
        detail=detail,
        blame=action.package,
    )


def _judge_words(case: Case, run: PhaseRun) -> Outcome:
    """Judges exit 31 without opam's report of which action failed."""
    verdict = first_match(case.lines(run.phase), run.phase)
    if verdict is None or verdict.outcome != "failed" or verdict.reason is None:
        detail = "opam exited 31 without a report, and its words do not say which package failed"
        return case.errored(Cause.UNKNOWN, "unreported-failure", run, detail=detail)
    named = attribute(case.lines(run.phase)).failed
    if run.phase is Phase.DEPENDENCIES or (named and case.own not in named):
        blame = next((name for name in named if name != case.own), None)
        update = {"reason": FailureReason.DEPENDENCY, "package": blame}
        return case.of_text(verdict.model_copy(update=update), run)
    if run.phase is Phase.TEST and verdict.reason is FailureReason.BUILD:
        verdict = verdict.model_copy(update={"reason": FailureReason.TEST})
    elif run.phase is Phase.BUILD and verdict.reason is FailureReason.TEST:
        verdict = verdict.model_copy(update={"reason": FailureReason.BUILD})
    return case.of_text(verdict, run)
