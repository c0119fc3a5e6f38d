"""The record of a job's phases: when each began, its time limit, how it ended."""

import math
import time

from opam_ci.clients.runners.phases import report
from opam_ci.clients.runners.phases.transcript import Transcript
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.core.jobs.build import BuildSpec, PhaseTimeouts
from opam_ci.core.jobs.facts import PhaseRun
from opam_ci.core.jobs.job import Phase


class PhaseLog:
    """The record of one job's phases, of which one runs at a time.

    Args:
        transcript: The job's log.
        timeouts: Time limits by phase.

    Attributes:
        runs: The phases that ended.
    """

    def __init__(self, transcript: Transcript, timeouts: PhaseTimeouts) -> None:
        self.transcript = transcript
        self.runs: list[PhaseRun] = []
        self._timeouts = timeouts
        self._deadline = math.inf
        self._began_at = 0.0
        self._log_start = 0

    @property
    def time_left(self) -> float:
        """Seconds until the time limit of the running phase."""
        return max(0.0, self._deadline - time.monotonic())

    def begin(self, phase: Phase, title: str) -> None:
        """Begins a phase: marker, clock, time limit."""
        self.transcript.begin(phase, title)
        self.restart_limit(phase)
        self._began_at = time.monotonic()
        self._log_start = self.transcript.size

    def begin_checkout(self, spec: BuildSpec) -> None:
        """Begins the first phase."""
        self.begin(Phase.CHECKOUT, f"base {spec.repository.base_commit} and submission")

    def restart_limit(self, phase: Phase) -> None:
        """Sets the time limit to the whole one of a phase, counted from now."""
        self._deadline = time.monotonic() + self._timeouts.of(phase).total_seconds()

    def end(self, ended: ProcessResult, found: report.OpamReport | None = None) -> bool:
        """Ends the running phase and records how.

        Args:
            ended: How its last command ended.
            found: What opam reported, None if it reported nothing.

        Returns:
            Whether it succeeded.
        """
        duration = time.monotonic() - self._began_at
        self.runs.append(
            PhaseRun(
                phase=self.transcript.phase,
                exit_code=ended.exit_code,
                signal=ended.signal,
                timed_out=ended.timed_out,
                duration=round(duration, 3),
                log_start=self._log_start,
                log_end=self.transcript.size,
                actions=found.actions if found is not None else (),
                has_report=found is not None,
                conflicts=found.conflicts if found is not None else (),
                sandbox_killed=ended.sandbox_killed,
                refused=ended.refused,
            )
        )
        self.transcript.end(f"{ended.how} in {duration:.1f} s")
        return ended.ok
