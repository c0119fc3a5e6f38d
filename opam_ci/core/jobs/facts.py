"""What a run of a build job observed: facts of the machine, not text of a log."""

import hashlib
import re
from typing import Literal

from pydantic import Field

from opam_ci.core.jobs.job import Job, Phase
from opam_ci.core.jobs.known_failure import KnownFailure
from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.model import Frozen


class OpamAction(Frozen):
    """One action of an opam run, as OPAMJSON reports it.

    Attributes:
        action: What opam did.
        package: Full name of the package it did it to.
        result: `ok`, `failed`, or `aborted` (not started because another one failed).
        exit_code: Exit code of the failed command, if the report has one.
        command: The failed command line, at most 400 characters.
    """

    action: Literal["fetch", "build", "install", "remove", "other"]
    package: str
    result: Literal["ok", "failed", "aborted"]
    exit_code: int | None = None
    command: str | None = None


class PhaseRun(Frozen):
    """One phase's command and how it ended.

    Attributes:
        phase: The phase.
        exit_code: Its exit code, None if a signal ended it.
        signal: The signal that ended it, if one did.
        timed_out: The supervisor ended it at its time limit.
        duration: Seconds of wall time.
        log_start: Byte offset of the phase's first output in the attempt's log.
        log_end: Byte offset just after its last output.
        actions: What OPAMJSON reported, empty if opam wrote no report.
        has_report: Whether opam wrote its JSON report: a killed opam writes none.
        conflicts: `conflicts.causes` of the report: why there is no solution.
        sandbox_killed: The process that holds the sandbox was itself ended by a signal that
            the runner did not send. It is outside of the sandbox's PID namespace, so nothing
            inside can have sent it.
        refused: Internal addresses to which the network of the phase refused connections.
    """

    phase: Phase
    exit_code: int | None
    signal: int | None = None
    timed_out: bool = False
    duration: float
    log_start: int
    log_end: int
    actions: tuple[OpamAction, ...] = ()
    has_report: bool = False
    conflicts: tuple[str, ...] = ()
    sandbox_killed: bool = False
    refused: tuple[str, ...] = ()


class DiskOveruse(Frozen):
    """Disk usage of a job that was ended for exceeding its disk limits.

    Attributes:
        limit_bytes: Its limit of bytes.
        limit_inodes: Its limit of files.
        written_bytes: Bytes written in all phases.
        written_inodes: Files made in all phases.
        phase_bytes: Bytes written in the phase at which it was ended.
        phase_inodes: The same for files.
    """

    limit_bytes: int
    limit_inodes: int
    written_bytes: int
    written_inodes: int
    phase_bytes: int
    phase_inodes: int

    @property
    def by_last_phase(self) -> bool:
        """Whether the last phase alone wrote more than half of a limit that is exceeded."""
        return (
            self.written_bytes > self.limit_bytes and 2 * self.phase_bytes > self.limit_bytes
        ) or (self.written_inodes > self.limit_inodes and 2 * self.phase_inodes > self.limit_inodes)


class HostFacts(Frozen):
    """The build root's host, read right after the last phase.

    Attributes:
        free_bytes: Bytes free where the build writes, None if it could not be read.
        lowest_free_bytes: The minimum in the last phase, as far as it was watched: a command
            that fails on a full disk often removes its files at once.
        free_inodes: Inodes free there.
        oom_kills: Processes of the job that the kernel's OOM killer ended.
        memory_limit_reached: Whether the job reached its own memory limit. If not, the kills were
            due to the host or to a neighbour.
        foreign_oom_kills: Where no control group counts the job's own: processes that the OOM
            killer ended meanwhile in the worker's group or, where no group counts, on the host.
        pids_limit_hits: How often a fork failed at the process limit.
        disk_overuse: Set if the runner ended the job for exceeding its disk limits.
        cpu_seconds: Processor time that the job used, None where no control group counts it.
        kernel_kills_counted: Whether the counters above have every process that the kernel ended
            for want of memory; if not, any signal 9 may be the kernel's.
    """

    free_bytes: int | None = None
    lowest_free_bytes: int | None = None
    free_inodes: int | None = None
    oom_kills: int = 0
    memory_limit_reached: bool = False
    foreign_oom_kills: int = 0
    pids_limit_hits: int = 0
    disk_overuse: DiskOveruse | None = None
    cpu_seconds: float | None = None
    kernel_kills_counted: bool = True


_CONTENT = re.compile(r"[0-9a-f]{64}\Z")
"""The end of what names an image by its content."""


class BuildEnvironment(Frozen):
    """With what a job was built: shown beside its verdict, which does not rest on it.

    Attributes:
        image: Digest of the root file system, or reference of the image, by digest if it was
            looked up; empty on a machine itself.
        opam: What `opam --version` prints, empty if unknown.
        compiler: Packages that the switch has from the start.
        solution: Packages that the solver chose to install, in opam's order; empty before it did.
        changed: Those of the solution that the submission adds or changes.
        is_fixed: Whether checksums fix all sources of the solution: a branch of somebody's
            repository is another one tomorrow.
        opam_file: Text of the opam file of the reverse dependency that was built, so that a bound
            can be added to it; empty for other kinds of jobs, and if it is not valid text.
    """

    image: str
    opam: str
    compiler: tuple[str, ...]
    solution: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    is_fixed: bool = False
    opam_file: str = ""

    @property
    def fingerprint(self) -> str | None:
        """A digest that is the same for equal images; None if not everything in it is known.

        That is so for an image that is not named by its content, and for sources without checksums.
        """
        if not self.is_fixed or _CONTENT.search(self.image) is None:
            return None
        parts = " ".join((self.image, self.opam, *self.compiler))
        return hashlib.sha256(parts.encode()).hexdigest()[:16]


class BuildFacts(Frozen):
    """Everything the judge may use besides the log's text.

    Attributes:
        job: The job that ran.
        phases: In the order in which they ran; the last one is where the run stopped.
        installed: Whether opam's switch state lists the job's package (for revdep jobs the
            revdep as well) at exactly its version at the end; None if it was not checked.
        finished: Whether all phases of the job ran to their end.
        host: Facts of the host after the run.
        probes: Results of probes, by name (`mirror`, `dns`, `opam_sandbox`); True is a success.
        accepts_failure: Whether the package's `x-ci-accept-failures` names this platform.
        hidden: Names of packages on which the solver's result may depend, and of which some
            versions were hidden, since an offline mirror lacks their sources; at most 20.
        limit_reached_on: Worker on which an earlier attempt of the same round reached the job's
            own limit in the package's own commands (`OWN_LIMIT_RULES`), None if none did.
        environment: With what it was built, None in facts of before it was recorded.
        known_failure: Of a run that ended before it fetched anything: the dependency that is known
            to fail.
        verdict_key: What the verdict depends on once there is a solution, None if that is not
            known; see `core/reuse/verdict_key.py`.
        known_verdict: Of a run that ended there: the verdict of a job with that key.
    """

    job: Job
    phases: tuple[PhaseRun, ...]
    installed: bool | None = None
    finished: bool = False
    host: HostFacts = HostFacts()
    probes: dict[str, bool] = Field(default_factory=dict)
    accepts_failure: bool = False
    hidden: tuple[str, ...] = ()
    limit_reached_on: str | None = None
    environment: BuildEnvironment | None = None
    known_failure: KnownFailure | None = None
    verdict_key: str | None = None
    known_verdict: KnownVerdict | None = None

    @property
    def last(self) -> PhaseRun | None:
        """The phase at which the run stopped, None if none began."""
        return self.phases[-1] if self.phases else None
