"""The record of a job's phases: when each began, its time limit, how it ended."""

import math
import time
from dataclasses import dataclass

from opam_ci.clients.runners import report
from opam_ci.clients.runners.supervise import Ended
from opam_ci.clients.runners.transcript import Transcript
from opam_ci.core.build import PhaseTimeouts
from opam_ci.core.facts import PhaseRun
from opam_ci.core.job import Phase


@dataclass(frozen=True)
class Begun:
    """A phase under way."""

    phase: Phase
    at: float
    offset: int


class PhaseBook:
    """Keeps the record of one job.

    Args:
        transcript: The job's log.
        timeouts: Limits by phase.

    Attributes:
        runs: The phases that ended.
    """

    def __init__(self, transcript: Transcript, timeouts: PhaseTimeouts) -> None:
        self.transcript = transcript
        self.runs: list[PhaseRun] = []
        self._timeouts = timeouts
        self._deadline = math.inf

    @property
    def time_left(self) -> float:
        """Seconds until the limit of the phase under way."""
        return max(0.0, self._deadline - time.monotonic())

    def begin(self, phase: Phase, title: str) -> "Begun":
        """Begins a phase: marker, clock, time limit."""
        self.transcript.begin(phase, title)
        self.restart_limit(phase)
        return Begun(phase, time.monotonic(), self.transcript.size)

    def restart_limit(self, phase: Phase) -> None:
        """Gives the phase under way its whole time limit, counted from now."""
        self._deadline = time.monotonic() + self._timeouts.of(phase).total_seconds()

    def end(self, begun: "Begun", ended: Ended, found: report.OpamReport | None = None) -> bool:
        """Ends a phase and records how.

        Returns:
            Whether it succeeded.
        """
        duration = time.monotonic() - begun.at
        self.runs.append(
            PhaseRun(
                phase=begun.phase,
                exit_code=ended.exit_code,
                signal=ended.signal,
                timed_out=ended.timed_out,
                duration=round(duration, 3),
                log_start=begun.offset,
                log_end=self.transcript.size,
                actions=found.actions if found is not None else (),
                has_report=found is not None,
                conflicts=found.conflicts if found is not None else (),
                sandbox_killed=ended.sandbox_killed,
            )
        )
        how = (
            "time limit"
            if ended.timed_out
            else "disk budget"
            if ended.stopped
            else f"exit {ended.exit_code}"
            if ended.signal is None
            else f"signal {ended.signal}"
        )
        self.transcript.end(f"{how} in {duration:.1f} s")
        return ended.ok
