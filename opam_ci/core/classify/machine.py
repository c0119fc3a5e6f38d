"""Facts of the machine, which beat every word of a log."""

from opam_ci.core.classify.exits import (
    SENT_FROM_OUTSIDE,
    OpamExit,
    signal_name,
    signal_of,
)
from opam_ci.core.classify.rules import BY_ID
from opam_ci.core.classify.text import first_match
from opam_ci.core.classify.verdicts import Case
from opam_ci.core.facts import HostFacts, PhaseRun
from opam_ci.core.job import Phase
from opam_ci.core.outcome import Cause, FailureReason, Outcome

DISK_FLOOR_BYTES = 64 * 1024 * 1024
"""With less than this free after a failure, the disk was full during it.

opam and compilers remove their temporary files when they fail, so that a full disk shows
some free space a moment later; a healthy worker takes no work below gigabytes.
"""

FLOOD_BYTES = 256 * 1024 * 1024
"""Output of one package above which opam itself may run out of memory.

opam keeps the whole output of a failed command in memory: it took more than 10 GiB for 1 GiB
of short lines (measured, opam 2.3.0). A retry would end the same way.
"""

_LOCKED = (BY_ID["opam-locked"],)
"""opam waits for ever for a lock on its root: that is no endless build."""

_TIMEOUT_CAUSES = {
    Phase.CHECKOUT: Cause.GIT,
    Phase.SETUP: Cause.OPAM_INTERNAL,
    Phase.SOLVE: Cause.SOLVER_TIMEOUT,
    Phase.DEPEXTS: Cause.PACKAGE_MIRROR,
    Phase.FETCH: Cause.SOURCE_HOST,
    # One limit covers all dependencies: too short a limit or a slow worker, and a retry with
    # a warmer cache gets further. It proves nothing against any package.
    Phase.DEPENDENCIES: Cause.UNKNOWN,
    Phase.VERIFY: Cause.OPAM_INTERNAL,
}


_OWN_REASONS = {Phase.BUILD: FailureReason.BUILD, Phase.TEST: FailureReason.TEST}
"""Phases in which only the package's own commands run, with the reason of a failure there."""


def judge_machine(case: Case, run: PhaseRun) -> Outcome | None:
    """Returns the outcome if the machine's own facts explain why a phase failed."""
    return (
        _judge_disk_budget(case, run)
        or _judge_disk(case, run)
        or _judge_limits(case, run)
        or _judge_time(case, run)
        or _judge_signal(case, run)
    )


def space_is_ample(host: HostFacts) -> bool:
    """Returns whether it is known that the disk was not full."""
    return (
        host.free_bytes is not None
        and host.free_bytes >= DISK_FLOOR_BYTES
        and host.free_inodes != 0
    )


def _judge_disk_budget(case: Case, run: PhaseRun) -> Outcome | None:
    """Judges a job that was ended because it wrote too much.

    It is the package's own doing only where its own commands wrote most of it: a budget that
    many dependencies use up together is too small.
    """
    over = case.facts.host.disk_overuse
    if over is None:
        return None
    detail = (
        f"the job wrote {over.written_bytes >> 20} MiB in {over.written_inodes} files, "
        f"{over.phase_bytes >> 20} MiB in {over.phase_inodes} of them in phase {run.phase}; "
        f"it may write {over.limit_bytes >> 20} MiB in {over.limit_inodes}"
    )
    if run.phase in _OWN_REASONS and over.by_last_phase:
        return case.failed(_OWN_REASONS[run.phase], "disk-budget", run, detail=detail)
    return case.errored(Cause.DISK_FULL, "disk-budget", run, detail=detail)


def _judge_disk(case: Case, run: PhaseRun) -> Outcome | None:
    host = case.facts.host
    if host.free_inodes == 0:
        detail = "no inode free in the build root"
        return case.errored(Cause.DISK_FULL, "host-inodes", run, detail=detail)
    if host.free_bytes is not None and host.free_bytes < DISK_FLOOR_BYTES:
        detail = f"{host.free_bytes} bytes free in the build root"
        return case.errored(Cause.DISK_FULL, "host-disk", run, detail=detail)
    return None


def _judge_limits(case: Case, run: PhaseRun) -> Outcome | None:
    host = case.facts.host
    printed = run.log_end - run.log_start
    if (
        host.oom_kills
        and run.phase in _OWN_REASONS
        and printed > FLOOD_BYTES
        and not run.has_report
    ):
        detail = f"opam ran out of memory over the {printed >> 20} MiB that the package printed"
        return case.failed(_OWN_REASONS[run.phase], "output-flood", run, detail=detail)
    if host.oom_kills:
        detail = f"the kernel killed {host.oom_kills} process(es) for the job's memory limit"
        return case.errored(Cause.OUT_OF_MEMORY, "host-oom", run, detail=detail)
    if host.pids_limit_hits:
        detail = f"the job's process limit refused {host.pids_limit_hits} fork(s)"
        return case.errored(Cause.SANDBOX, "host-pids", run, detail=detail)
    return None


def _judge_time(case: Case, run: PhaseRun) -> Outcome | None:
    if not run.timed_out:
        return None
    detail = f"ended by the supervisor after {run.duration:.0f} s in phase {run.phase}"
    if lock := first_match(case.lines(run.phase), run.phase, _LOCKED):
        return case.errored(Cause.OPAM_INTERNAL, lock.rule, run, lines=lock.lines, detail=detail)
    if run.phase in {Phase.BUILD, Phase.TEST}:
        return case.failed(FailureReason.TIMEOUT, "timeout", run, detail=detail)
    cause = _TIMEOUT_CAUSES[run.phase]
    unreachable = [name for name, up in sorted(case.facts.probes.items()) if not up]
    if run.phase is Phase.FETCH and unreachable:
        cause = Cause.DNS if "dns" in unreachable else Cause.NETWORK
        detail = f"{detail}; not reachable: {', '.join(unreachable)}"
    return case.errored(cause, f"timeout-{run.phase}", run, detail=detail)


def _judge_signal(case: Case, run: PhaseRun) -> Outcome | None:
    """Judges a phase whose own command (opam, a shell, apt) was killed.

    Package code runs below opam, which survives it and exits 31: a signal that reached the
    phase's command was sent by nobody of the package.
    """
    number = signal_of(run.exit_code, run.signal)
    if number is None or run.has_report:
        return None
    name = signal_name(number)
    detail = f"the phase's command was ended by {name} and left no report"
    if number in SENT_FROM_OUTSIDE or run.exit_code == OpamExit.USER_INTERRUPT:
        return case.errored(Cause.WORKER_LOST, "opam-killed", run, detail=detail)
    return case.errored(Cause.OPAM_INTERNAL, "opam-crashed", run, detail=detail)
