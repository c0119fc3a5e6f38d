"""Facts of the machine, which outweigh all text of a log."""

from opam_ci.core.classify.exits import (
    SENT_FROM_OUTSIDE,
    SIGILL,
    SIGKILL,
    signal_name,
    signal_of,
)
from opam_ci.core.classify.rulebook import RULES
from opam_ci.core.classify.verdicts import Case
from opam_ci.core.jobs.facts import PhaseRun
from opam_ci.core.jobs.job import PACKAGE_PHASES, Phase
from opam_ci.core.jobs.outcome import (
    OWN_MEMORY_LIMIT,
    OWN_PROCESS_LIMIT,
    Cause,
    FailureReason,
    Outcome,
)

DISK_FLOOR_BYTES = 64 * 1024 * 1024
"""With less than this free during a failure or after it, the disk was full.

opam and compilers remove their temporary files when they fail, so that a full disk has some
free space a moment later; a healthy worker takes no jobs with less than gigabytes.
"""

FLOOD_BYTES = 256 * 1024 * 1024
"""Bytes of output of one package above which opam itself may run out of memory.

opam keeps the whole output of a failed command in memory: it took more than 10 GiB for 1 GiB
of short lines (measured, opam 2.3.0).
"""

OPAM_SANDBOX = "opam_sandbox"
"""Name of the probe that runs a command in a sandbox like opam's after a failed phase of package
code: False if it does not work."""

_LOCKED = (RULES.by_id["opam-locked"],)
"""opam waits forever for a lock on its root, which is not an endless build."""

_TIMEOUT_CAUSES = {
    Phase.CHECKOUT: Cause.GIT,
    Phase.SETUP: Cause.OPAM_INTERNAL,
    Phase.SOLVE: Cause.SOLVER_TIMEOUT,
    Phase.DEPEXTS: Cause.PACKAGE_MIRROR,
    Phase.FETCH: Cause.SOURCE_HOST,
    # One limit covers all dependencies: too short a limit or a slow worker, and a retry with
    # a warmer cache may finish. It proves nothing against any package.
    Phase.DEPENDENCIES: Cause.UNKNOWN,
    Phase.BUILD: Cause.UNKNOWN,
    Phase.TEST: Cause.UNKNOWN,
    Phase.VERIFY: Cause.OPAM_INTERNAL,
}


OWN_REASONS = {Phase.BUILD: FailureReason.BUILD, Phase.TEST: FailureReason.TEST}
"""Phases in which only the package's own commands run, with the reason of a failure there."""


def judge_machine(case: Case, run: PhaseRun) -> Outcome | None:
    """Return the outcome if the machine's own facts explain why a phase failed."""
    return (
        _judge_disk_budget(case, run)
        or _judge_disk(case, run)
        or _judge_limits(case, run)
        or _judge_time(case, run)
        or _judge_signal(case, run)
        or _judge_sandbox(case, run)
    )


def _judge_disk_budget(case: Case, run: PhaseRun) -> Outcome | None:
    """Judge a job that was ended because it wrote too much.

    It is a package failure only if the package's own commands wrote most of it: a budget that
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
    if run.phase in OWN_REASONS and over.by_last_phase:
        return case.failed(OWN_REASONS[run.phase], "disk-budget", run, detail=detail)
    return case.errored(Cause.DISK_FULL, "disk-budget", run, detail=detail)


def _judge_disk(case: Case, run: PhaseRun) -> Outcome | None:
    host = case.facts.host
    if host.free_inodes == 0:
        detail = "no inode free in the build root"
        return case.errored(Cause.DISK_FULL, "host-inodes", run, detail=detail)
    known = [left for left in (host.free_bytes, host.lowest_free_bytes) if left is not None]
    if known and min(known) < DISK_FLOOR_BYTES:
        detail = f"{min(known)} bytes free in the build root"
        return case.errored(Cause.DISK_FULL, "host-disk", run, detail=detail)
    return None


def _judge_limits(case: Case, run: PhaseRun) -> Outcome | None:
    """Judge the kernel's counters.

    In a phase of the package's own commands, reaching the job's limit is due to the package: such a
    verdict has a rule of `OWN_LIMIT_RULES`, and `judge` turns the second one into a failure.
    """
    host = case.facts.host
    own = run.phase in OWN_REASONS
    if host.oom_kills:
        detail = f"the kernel killed {host.oom_kills} process(es) for the job's memory limit"
        if not host.memory_limit_reached:
            detail = (
                f"the kernel killed {host.oom_kills} process(es) of the job, which was below its "
                "own memory limit: the host or a neighbour used up the memory"
            )
            return case.errored(Cause.OUT_OF_MEMORY, "host-oom", run, detail=detail)
        if own and (printed := run.log_end - run.log_start) > FLOOD_BYTES:
            detail = f"{detail}; opam keeps the {printed >> 20} MiB that the package printed in it"
        rule = OWN_MEMORY_LIMIT if own else "memory-limit"
        return case.errored(Cause.OUT_OF_MEMORY, rule, run, detail=detail)
    if host.pids_limit_hits:
        detail = f"the job's process limit refused {host.pids_limit_hits} fork(s)"
        rule = OWN_PROCESS_LIMIT if own else "process-limit"
        return case.errored(Cause.SANDBOX, rule, run, detail=detail)
    return None


def _judge_time(case: Case, run: PhaseRun) -> Outcome | None:
    if not run.timed_out:
        return None
    detail = f"ended by the supervisor after {run.duration:.0f} s in phase {run.phase}"
    if run.phase in OWN_REASONS:
        if case.ran_package_code(run):
            return case.failed(FailureReason.TIMEOUT, "timeout", run, detail=detail)
        detail = f"{detail}, before any command of the package began"
    elif lock := case.text_verdict(run.phase, _LOCKED):
        return case.errored(Cause.OPAM_INTERNAL, lock.rule, run, lines=lock.lines, detail=detail)
    cause = _TIMEOUT_CAUSES[run.phase]
    if run.phase is Phase.FETCH and (fault := case.unreachable()):
        cause, detail = fault[0], f"{detail}; {fault[1]}"
    return case.errored(cause, f"timeout-{run.phase}", run, detail=detail)


def _judge_signal(case: Case, run: PhaseRun) -> Outcome | None:
    """Judge a phase whose own command (opam, a shell, apt) was killed."""
    if run.sandbox_killed:
        detail = f"the sandbox was ended from outside by {signal_name(run.signal or 0)}"
        return case.errored(Cause.WORKER_LOST, "sandbox-killed", run, detail=detail)
    number = signal_of(run.exit_code, run.signal)
    if number is None or run.has_report:
        return None
    detail = f"the phase's command was ended by {signal_name(number)} and left no report"
    if number == SIGKILL and (host_oom := foreign_oom(case, run, detail)):
        return host_oom
    if run.phase in PACKAGE_PHASES and number in {*SENT_FROM_OUTSIDE, SIGILL}:
        # Only the package can have sent it: not the runner (above), not the kernel.
        detail = f"{detail}; neither the CI nor the kernel sent it"
        reason = OWN_REASONS.get(run.phase, FailureReason.DEPENDENCY)
        return case.failed(reason, "opam-killed", run, detail=detail)
    if number in SENT_FROM_OUTSIDE:
        return case.errored(Cause.WORKER_LOST, "opam-killed", run, detail=detail)
    return case.errored(Cause.OPAM_INTERNAL, "opam-crashed", run, detail=detail)


def foreign_oom(case: Case, run: PhaseRun, detail: str) -> Outcome | None:
    """Return a fault for a SIGKILL that may be the kernel's, if no cgroup counts its kills."""
    kills = case.facts.host.foreign_oom_kills
    if not case.facts.host.kernel_kills_counted:
        detail = f"{detail}; this system does not say whether the kernel sent it for memory"
        return case.errored(Cause.UNKNOWN, "kill-unexplained", run, detail=detail)
    if not kills:
        return None
    detail = f"{detail}; the kernel killed {kills} process(es) meanwhile for memory"
    return case.errored(Cause.OUT_OF_MEMORY, "host-oom", run, detail=detail)


def _judge_sandbox(case: Case, run: PhaseRun) -> Outcome | None:
    """Judge a phase of package code on a machine on which opam's sandbox has stopped working."""
    if run.phase not in PACKAGE_PHASES or case.facts.probes.get(OPAM_SANDBOX) is not False:
        return None
    detail = "a sandbox like opam's could not be started in the build root afterwards"
    return case.errored(Cause.SANDBOX, "sandbox-bwrap", run, detail=detail)
