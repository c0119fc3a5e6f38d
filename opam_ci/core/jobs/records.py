"""Rows of the job index, and the keys of stored objects."""

import re
from datetime import UTC
from hashlib import sha256
from typing import Self

from pydantic import AwareDatetime, Field, model_validator

from opam_ci.core.jobs.hold import Hold
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Outcome, Reused
from opam_ci.core.jobs.summary import JobStatus, Rows, Standing, State
from opam_ci.core.model import Frozen
from opam_ci.core.submission.effect import Effect
from opam_ci.core.submission.result import ChangeKind

OBJECT_KEY = re.compile(
    r"(?=.{1,900}\Z)[A-Za-z0-9][A-Za-z0-9._+~=@,-]{0,199}(?:/[A-Za-z0-9][A-Za-z0-9._+~=@,-]{0,199})*"
)
"""Pattern of the key of a stored object.

No part begins with a dot, so there is no `..` and no hidden file. 900 characters are
below S3's limit of 1,024 bytes with room for a prefix; 200 in a part are below the 255
of file systems with room for the suffix that a local store adds to an unfinished file.
"""

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,79}")
_JOB_SLUG_LENGTH = 160


class RevisionKey(Frozen):
    """Identifies one testing of one head.

    The same head can be tested more than once (pushed back to, or checked again from the
    command line). `opened_at` distinguishes these, so that numbers of rounds and attempts
    that begin anew overwrite nothing of an earlier testing.

    Attributes:
        repository: `owner/name` on GitHub; `local/DIRECTORY` for a local clone.
        number: The pull request, or None for a local branch.
        branch: The local branch, or None for a pull request.
        head: Commit under test.
        opened_at: When the testing of this head began.
    """

    repository: str = Field(min_length=1)
    number: int | None = None
    branch: str | None = None
    head: str = Field(min_length=1)
    opened_at: AwareDatetime

    @model_validator(mode="after")
    def _pull_request_or_branch(self) -> Self:
        if (self.number is None) == (self.branch is None):
            raise ValueError("a revision belongs to either a pull request or a branch")
        return self

    @classmethod
    def of(cls, reused: Reused) -> Self:
        """Returns the testing in which an attempt ran."""
        return cls.model_validate(reused.model_dump(include=set(cls.model_fields)))

    @property
    def target(self) -> str:
        """`pull/30203` or `heads/some-branch`: its name in git, below `refs/`."""
        return f"pull/{self.number}" if self.branch is None else f"heads/{self.branch}"


class RevisionRecord(Frozen):
    """The state of the testing of one head.

    Attributes:
        key: The testing.
        base: Commit that the head is merged into.
        merge_tree: The merged tree, None if there is none (yet).
        state: The status state on GitHub.
        planned: Whether the list of its jobs is complete.
        concluded: Whether nothing is left that only all platforms together can decide.
        changes: How packages are changed: each kind once, in the order of the packages.
        hold: Why queued jobs are not run yet, None if none wait for an approval.
        effect: What the head does to other packages, None if that is not decided (yet).
        title: The pull request's title, empty if not known.
        is_open: Whether the pull request is open.
        author: Account that opened it, None if not known.
        updated_at: Time of this state.
        sequence: Grows with each record of the same testing; the highest one wins.
    """

    key: RevisionKey
    base: str
    merge_tree: str | None = None
    state: State = State.PENDING
    planned: bool = False
    concluded: bool = True
    changes: tuple[ChangeKind, ...] = ()
    hold: Hold | None = None
    effect: Effect | None = None
    title: str = ""
    is_open: bool = True
    author: str | None = None
    updated_at: AwareDatetime
    sequence: int = Field(default=0, ge=0)


class Recorded(Frozen):
    """What followed from recording rows.

    Attributes:
        revised: Kinds of the jobs whose verdicts were revised.
        estimated_until: By when the head is decided, as was estimated first; None for no estimate.
    """

    revised: tuple[JobKind, ...] = ()
    estimated_until: AwareDatetime | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_older_workers(cls, value: object) -> object:
        # In histories of theirs the kinds are all of it.
        return {"revised": value} if isinstance(value, list) else value


class JobRecord(Frozen):
    """The state of one job of a testing.

    The record with the highest (round and attempt of the status, sequence) wins,
    in whatever order records arrive; of two with the same numbers the first one does.

    Attributes:
        revision: The testing.
        status: The row of the job matrix.
        sequence: Grows with each record of the same attempt.
        updated_at: Time of this state.
    """

    revision: RevisionKey
    status: JobStatus
    sequence: int = Field(default=0, ge=0)
    updated_at: AwareDatetime

    @property
    def standing(self) -> Standing:
        """The outcome's kind once it is decided, before that the state."""
        return self.status.standing


class AttemptRecord(Frozen):
    """One run of a job.

    An attempt that ended never goes back to running; apart from that the highest
    sequence wins, and of two with the same numbers the first one.

    Attributes:
        revision: The testing.
        job: The job.
        round: The job's round, from 1.
        number: Number of the attempt within its round, from 1.
        sequence: Grows with each record of the same attempt.
        worker: Identity of the worker that ran it, if known.
        pool: Pool of that worker; None for repository jobs.
        started_at: When it began.
        ended_at: When it ended, None while it runs.
        outcome: An infrastructure fault is `errored`, also if the job is retried. None while
            it runs.
        phase: The phase under way, or the one at which it stopped.
        log_key: Key of its log in the store.
        cpu_seconds: Processor time that it used, None if unknown.
    """

    revision: RevisionKey
    job: Job
    round: int = Field(default=1, ge=1)
    number: int = Field(ge=1)
    sequence: int = Field(default=0, ge=0)
    worker: str | None = None
    pool: str | None = None
    started_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    outcome: Outcome | None = None
    phase: Phase | None = None
    log_key: str | None = None
    cpu_seconds: float | None = None

    @property
    def standing(self) -> Standing:
        """`running`, or the outcome's kind."""
        return Standing.RUNNING if self.outcome is None else Standing(self.outcome.kind)

    @model_validator(mode="after")
    def _ended_with_an_outcome(self) -> Self:
        if (self.ended_at is None) != (self.outcome is None):
            raise ValueError("an attempt has an outcome exactly if it has ended")
        return self


def log_key(revision: RevisionKey, job: Job, *, run: str, round_: int, attempt: int) -> str:
    """Returns the key of an attempt's log; different attempts have different keys.

    Names are hostile: a name that is not plain is replaced and marked with a hash of the
    original, behind a `=` that no plain name has.

    Args:
        revision: The testing.
        job: The job.
        run: Run id of the workflow that scheduled it: an operator's `temporal workflow
            reset` repeats rounds and attempts in a new run, and must not mix their logs.
            Only its end is used; its beginning is a time.
        round_: The job's round, from 1.
        attempt: Number of the attempt within the round, from 1.
    """
    return "/".join(
        (
            logs_folder(revision),
            _job_slug(job),
            f"{round_}-{attempt}-{_slug(run[-12:])}",
        )
    )


def logs_folder(revision: RevisionKey) -> str:
    """Returns the folder of all logs of a testing."""
    return f"logs/{revision_folder(revision)}"


def revision_folder(revision: RevisionKey) -> str:
    """Returns the part of keys that identifies a testing: what is stored of it is below that."""
    owner, _, name = revision.repository.partition("/")
    target = f"pr-{revision.number}" if revision.branch is None else f"branch-{revision.branch}"
    opened_at = f"{revision.opened_at.astimezone(UTC):%Y%m%dT%H%M%S.%f}"
    head = f"{_slug(revision.head[:12])}@{opened_at}"
    return "/".join((_slug(owner), _slug(name), _slug(target), head))


def _slug(text: str) -> str:
    """Returns a text as one part of a key; different texts yield different parts."""
    if _SLUG.fullmatch(text):
        return text
    safe = re.sub(r"[^A-Za-z0-9._+~-]+", "-", text)[:60]
    return f"{safe if safe[:1].isalnum() else f'x{safe}'}={_digest(text)}"


def _job_slug(job: Job) -> str:
    platform = "@".join(_slug(part) for part in job.platform.split("/")) if job.platform else ""
    names = (job.package, job.revdep or "")
    slug = ",".join(filter(None, (job.kind.value, platform, *(_slug(n) for n in names if n))))
    if len(slug) <= _JOB_SLUG_LENGTH:
        return slug
    return f"{slug[:_JOB_SLUG_LENGTH]}={_digest(job.id)}"


def _digest(text: str) -> str:
    """Returns 64 bits of a hash: two names with the same key cannot be found by trying."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class RowBatch(Frozen):
    """Changed rows of one testing, to be written to the index.

    For each row the index has one row of the job, and one of each attempt of the row's round.

    Attributes:
        key: The testing.
        revision: The state of the testing, None if only rows are written.
        rows: The rows.
        sequence: Number of this batch, higher than any before with the same rows.
        updated_at: Time of this state.
        pools: The pool of each platform.
    """

    key: RevisionKey
    revision: RevisionRecord | None = None
    rows: Rows
    sequence: int = Field(ge=0)
    updated_at: AwareDatetime
    pools: dict[str, str] = Field(default_factory=dict)
