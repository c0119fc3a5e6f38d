"""The outcome of a job, and its reasons.

A discriminated union of frozen values: no booleans, no string prefixes. Each verdict
carries the evidence on which it rests, so that any page can show *why*.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, TypeAdapter

from opam_ci.core.jobs.job import Job, Phase
from opam_ci.core.model import Frozen
from opam_ci.core.printable import readable


class Cause(StrEnum):
    """Why an infrastructure fault happened, by what is to be repaired."""

    NETWORK = "network"
    DNS = "dns"
    GIT = "git"
    SOURCE_HOST = "source_host"
    PACKAGE_MIRROR = "package_mirror"
    DISK_FULL = "disk_full"
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_LOST = "worker_lost"
    SANDBOX = "sandbox"
    IMAGE = "image"
    OPAM_INTERNAL = "opam_internal"
    SOLVER_TIMEOUT = "solver_timeout"
    REPOSITORY_STATE = "repository_state"
    GITHUB = "github"
    STORAGE = "storage"
    UNKNOWN = "unknown"


class FailureReason(StrEnum):
    """Why the submission, or a dependency of it, is at fault."""

    BUILD = "build"
    """The package's own build or install commands failed."""
    TEST = "test"
    """The package was built and its tests failed."""
    DEPENDENCY = "dependency"
    """A dependency failed to build or to be fetched; the package itself never started."""
    SOURCE = "source"
    """The package's own source is not at its opam file's URL (404, no such branch)."""
    CHECKSUM = "checksum"
    """The package's own source does not match the opam file's checksum."""
    OPAM_FILE = "opam_file"
    """The opam file cannot be read, or opam refuses it."""
    MERGE_CONFLICT = "merge_conflict"
    """The head does not merge into its base."""
    ANALYSIS = "analysis"
    """The change as a whole is rejected, for example for an unexpected file."""
    LINT = "lint"
    """A lint check found an error."""
    TIMEOUT = "timeout"
    """The package's own commands ran longer than its platform allows."""
    KILLS_WORKER = "kills_worker"
    """The job took down two different workers, running alone on the last one."""
    OWN_FAULT = "own_fault"
    """In two attempts the package's own commands reached the job's limit of memory or processes."""
    NOT_INSTALLABLE = "not_installable"
    """It cannot be installed on any platform on which it was to be built."""
    NOT_INSTALLED = "not_installed"
    """Every command succeeded and yet the package is not installed."""


OWN_MEMORY_LIMIT = "own-memory-limit"
"""Rule of a build or test that used more memory than its own control group has."""

OWN_PROCESS_LIMIT = "own-process-limit"
"""Rule of a build or test that needed more processes than its own control group allows."""

OWN_LIMIT_RULES = frozenset({OWN_MEMORY_LIMIT, OWN_PROCESS_LIMIT})
"""Rules of faults that the job's own control group measured in the package's own commands: they
are no evidence against the worker."""

IMAGE_UNFIT = "image-unfit"
"""Rule of an image fault that any worker meets: the image lacks what its platform needs, or its
registry refuses it. It is no evidence against the worker."""


class SkipReason(StrEnum):
    """Why a job decides nothing on its platform. A skip is neither a failure nor an error."""

    UNAVAILABLE = "unavailable"
    """The opam file's `available:` excludes this platform."""
    NO_SOLUTION = "no_solution"
    """The solver proves that the package cannot be installed with this compiler."""
    DEPEXT_UNAVAILABLE = "depext_unavailable"
    """A system package that it needs does not exist on this distribution."""
    DEPEXT_NOT_INSTALLED = "depext_not_installed"
    """A system package that it needs is not installed on a machine where jobs install none."""
    NOT_MIRRORED = "not_mirrored"
    """It needs a package missing from an offline mirror; whether it is installable is unknown."""
    ACCEPTED_FAILURE = "accepted_failure"
    """It failed, and its `x-ci-accept-failures` names this platform."""
    NOT_BUILT = "not_built"
    """The job it depends on (the plain build) did not pass."""
    NOT_SERVED = "not_served"
    """No worker builds for the platform."""
    FAILS_ON_BASE = "fails_on_base"
    """It fails without the change, too."""
    STOPPED_EARLY = "stopped_early"
    """It was not run: so many others on reverse dependencies of the same package fail alike."""
    WAIVED = "waived"
    """It failed, and a maintainer decided that this does not count."""


Readable = Annotated[str, AfterValidator(readable)]
"""What others wrote, fit to be printed."""


class LogLine(Frozen):
    """One line of a job's log, as evidence.

    Attributes:
        offset: Byte offset of the line's start in the attempt's whole log.
        text: The line, without its newline, escape codes removed, at most 400 characters.
    """

    offset: int
    text: Readable


class Reused(Frozen):
    """An attempt whose verdict holds for another job, since both have the same inputs.

    Attributes:
        repository: Where it ran, as in `RevisionKey`.
        number: Its pull request, None for a branch.
        branch: Its branch, None for a pull request.
        head: Commit under test.
        opened_at: When the testing of that head began.
        round: The round of its job.
        attempt: Its number in that round.
        ended_at: When it ended.
        job: Its job; None in what was written before that was known.
    """

    repository: str
    number: int | None
    branch: str | None
    head: str
    opened_at: AwareDatetime
    round: int
    attempt: int
    ended_at: AwareDatetime
    job: Job | None = None


class SeenIn(Reused):
    """An attempt of a job that built a dependency, which failed; of others that need the same one.

    Attributes:
        job: The job, which may be another one.
    """

    job: Job


class FailedWithout(Reused):
    """An attempt of the same job without the change, which failed.

    Attributes:
        job: The job: one on the base, or an ordinary one with the same inputs.
        line: Why it failed, in one line.
    """

    job: Job
    line: Readable


class OnBase(StrEnum):
    """What a job that failed comes to without the change."""

    PASSES = "passes"
    FAILS = "fails"
    """In the same way."""
    FAILS_OTHERWISE = "fails otherwise"
    NOT_BUILT = "not built"
    """It cannot be installed there, or is not there."""
    UNKNOWN = "unknown"
    """The job on the base has no verdict, and acquits nobody."""


class WaiverRef(Frozen):
    """A waiver, as far as the jobs that it takes show it.

    Attributes:
        id: Its number in the index.
        login: Who added it.
        because: Why the failure does not count.
        expires_at: From when on it counts again.
    """

    id: int
    login: Readable
    because: Readable
    expires_at: AwareDatetime


class Evidence(Frozen):
    """On what a verdict rests.

    Attributes:
        rule: Id of the rule that decided, such as `fetch-dns`.
        phase: The phase in which it happened, if any.
        lines: The log lines that show it.
        exit_code: Exit code of the phase's command, if it ended by itself.
        signal: Signal that ended it, if one did.
        worker: Identity of the worker that ran the attempt.
        attempt: Number of the attempt, from 1.
        detail: Facts as text, such as `0 bytes free in the build root`.
        on_base: Of a job that failed: what it comes to without the change, once that is known.
        reused: Of a job that was not run, or ended once it had a solution: the attempt with the
            same inputs whose verdict it has.
        waiver: Of a job that failed: the waiver that takes it, or did until it expired.
        seen_in: Of a job that was ended since a dependency is known to fail: the newest attempt
            that built it. Such a job proves nothing for others.
        fixes: Of a job that passed: an attempt that failed without the change, if one is known.
    """

    rule: str
    phase: Phase | None = None
    lines: tuple[LogLine, ...] = ()
    exit_code: int | None = None
    signal: int | None = None
    worker: str | None = None
    attempt: int | None = None
    detail: Readable | None = None
    on_base: OnBase | None = None
    reused: Reused | None = None
    waiver: WaiverRef | None = None
    seen_in: SeenIn | None = None
    fixes: FailedWithout | None = None


class Passed(Frozen):
    """The job succeeded, with positive evidence."""

    kind: Literal["passed"] = "passed"
    evidence: Evidence


class Failed(Frozen):
    """A package failure: never retried, GitHub `failure`."""

    kind: Literal["failed"] = "failed"
    reason: FailureReason
    evidence: Evidence
    blame: str | None = None
    """The package that failed, if it is not the job's own."""


class Skipped(Frozen):
    """There was nothing to decide; see `SkipReason`."""

    kind: Literal["skipped"] = "skipped"
    reason: SkipReason
    evidence: Evidence


class Errored(Frozen):
    """An infrastructure fault: retried with backoff, GitHub `error`."""

    kind: Literal["errored"] = "errored"
    cause: Cause
    evidence: Evidence


CancelledBy = Literal["superseded", "closed", "request"]
"""Why jobs are stopped: a newer head, a closed pull request, or a request to cancel."""


class Cancelled(Frozen):
    """Stopped before a verdict; proves nothing about the package.

    Attributes:
        by: Why it was stopped.
    """

    kind: Literal["cancelled"] = "cancelled"
    by: CancelledBy


Outcome = Annotated[Passed | Failed | Skipped | Errored | Cancelled, Field(discriminator="kind")]
"""Of one attempt, or of one job after its last attempt."""

OUTCOME: TypeAdapter[Passed | Failed | Skipped | Errored | Cancelled] = TypeAdapter(Outcome)
"""Parses and prints any outcome."""


def reused_of(outcome: Passed | Failed | Skipped | Errored | Cancelled | None) -> Reused | None:
    """Returns the attempt whose verdict a job has that was not run; None for any other job."""
    if outcome is None or isinstance(outcome, Cancelled):
        return None
    return outcome.evidence.reused


def fixes_of(
    outcome: Passed | Failed | Skipped | Errored | Cancelled | None,
) -> FailedWithout | None:
    """Returns how a job fails without the change that passes with it; None for any other job."""
    return outcome.evidence.fixes if isinstance(outcome, Passed) else None


def label(outcome: Passed | Failed | Skipped | Errored | Cancelled) -> str:
    """Returns the short name of an outcome, such as `failed(test)` or `passed`."""
    match outcome:
        case Failed() | Skipped():
            return f"{outcome.kind}({outcome.reason})"
        case Errored():
            return f"errored({outcome.cause})"
        case Cancelled():
            return f"cancelled({outcome.by})"
        case Passed():
            return "passed"
