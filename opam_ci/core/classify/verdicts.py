"""Making outcomes with their evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

from opam_ci.core.classify.lines import Line, clean
from opam_ci.core.classify.matching import TextVerdict
from opam_ci.core.classify.package_output import is_command
from opam_ci.core.classify.rule import Rule
from opam_ci.core.classify.rulebook import RULES
from opam_ci.core.jobs.facts import BuildFacts, PhaseRun
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    Outcome,
    Skipped,
    SkipReason,
)


class _Shown(TypedDict, total=False):
    """Parts of evidence besides the facts of its phase."""

    lines: tuple[LogLine, ...] | None
    detail: str | None


@dataclass
class Case:
    """One attempt to judge: its facts and logs, and the source of its evidence."""

    facts: BuildFacts
    logs: Mapping[Phase, str]
    worker: str | None = None
    attempt: int | None = None
    _lines: dict[Phase, list[Line]] = field(default_factory=dict)

    @property
    def own(self) -> str:
        """The package that the job is about: the reverse dependency, if it has one."""
        return self.facts.job.revdep or self.facts.job.package

    def run_of(self, phase: Phase) -> PhaseRun | None:
        """Return the run of a phase, None if the job did not reach it."""
        return next((run for run in self.facts.phases if run.phase is phase), None)

    def lines(self, phase: Phase) -> list[Line]:
        """Return a phase's cleaned lines, with offsets in the attempt's whole log."""
        if phase not in self._lines:
            run = self.run_of(phase)
            self._lines[phase] = clean(
                self.logs.get(phase, ""),
                log_start=run.log_start if run else 0,
                log_end=run.log_end if run else None,
            )
        return self._lines[phase]

    def ran_package_code(self, run: PhaseRun) -> bool:
        """Whether a command of a package began in a phase; assumed if its log is missing."""
        return run.phase not in self.logs or any(
            is_command(line.shown) for line in self.lines(run.phase)
        )

    def text_verdict(self, phase: Phase, among: Sequence[Rule] | None = None) -> TextVerdict | None:
        """Return the verdict of some rules, or of all, on a phase's text; None if none matches."""
        return RULES.first_match(self.lines(phase), phase, among)

    def last_lines(self, phase: Phase, count: int = 3) -> tuple[LogLine, ...]:
        """Return the end of a phase's log: the evidence if no rule found a line."""
        return tuple(line.as_evidence() for line in self.lines(phase)[-count:])

    def unreachable(self) -> tuple[Cause, str] | None:
        """Return the cause if a probe of the network failed, and which of them did."""
        failed = [name for name in ("dns", "mirror") if self.facts.probes.get(name) is False]
        if not failed:
            return None
        return (
            Cause.DNS if "dns" in failed else Cause.NETWORK,
            f"not reachable: {', '.join(failed)}",
        )

    def evidence(self, rule: str, run: PhaseRun | None, **shown: Unpack[_Shown]) -> Evidence:
        """Make evidence; without lines of its own it shows the end of the phase's log."""
        lines = shown.get("lines")
        if lines is None:
            lines = self.last_lines(run.phase) if run else ()
        return Evidence(
            rule=rule,
            phase=run.phase if run else None,
            lines=lines,
            exit_code=run.exit_code if run else None,
            signal=run.signal if run else None,
            worker=self.worker,
            attempt=self.attempt,
            detail=shown.get("detail"),
        )

    def errored(
        self, cause: Cause, rule: str, run: PhaseRun | None, **shown: Unpack[_Shown]
    ) -> Errored:
        """Make an infrastructure fault."""
        return Errored(cause=cause, evidence=self.evidence(rule, run, **shown))

    def failed(
        self,
        reason: FailureReason,
        rule: str,
        run: PhaseRun | None,
        *,
        blame: str | None = None,
        **shown: Unpack[_Shown],
    ) -> Failed:
        """Make a package failure; `blame` is the package at fault, if it is a dependency."""
        evidence = self.evidence(rule, run, **shown)
        return Failed(reason=reason, evidence=evidence, blame=None if blame == self.own else blame)

    def skipped(
        self, reason: SkipReason, rule: str, run: PhaseRun | None, **shown: Unpack[_Shown]
    ) -> Skipped:
        """Make a skip."""
        return Skipped(reason=reason, evidence=self.evidence(rule, run, **shown))

    def of_text(self, verdict: TextVerdict, run: PhaseRun) -> Outcome:
        """Turn a rule's verdict into an outcome; an undecided one becomes `unknown`."""
        if verdict.outcome == "errored" and verdict.cause:
            return self.errored(verdict.cause, verdict.rule, run, lines=verdict.lines)
        if verdict.outcome == "skipped" and isinstance(verdict.reason, SkipReason):
            return self.skipped(verdict.reason, verdict.rule, run, lines=verdict.lines)
        if verdict.outcome == "failed" and isinstance(verdict.reason, FailureReason):
            return self.failed(
                verdict.reason,
                verdict.rule,
                run,
                lines=verdict.lines,
                blame=verdict.package if verdict.reason is FailureReason.DEPENDENCY else None,
            )
        return self.errored(
            Cause.UNKNOWN, verdict.rule, run, lines=verdict.lines, detail=verdict.rationale
        )
