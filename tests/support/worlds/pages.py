"""A pull request with all that pages show, in a real index and a real store.

Two heads; jobs with every standing, retried and restarted ones; reverse dependencies with a common
root; lint findings; an incident; logs.
"""

import asyncio
from datetime import UTC, datetime, timedelta

from opam_ci.clients.index import Index
from opam_ci.clients.judge import judged
from opam_ci.clients.lint.findings import store_findings
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.core.classify.replay import Judged
from opam_ci.core.jobs.facts import BuildEnvironment, BuildFacts, PhaseRun
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch, log_key
from opam_ci.core.jobs.summary import Fault, JobState, JobStatus, State
from opam_ci.core.lint.finding import CheckId, LintFinding, Severity

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
REPOSITORY = "ocaml/opam-repository"
NUMBER = 30203
OLD, NEW = "77" * 20, "a3f9c1d2" * 5
BASE = "0b77e120" * 5
PLATFORMS = (
    "debian-13-ocaml-5.3/amd64",
    "debian-13-ocaml-4.14/arm64",
    "fedora-42-ocaml-5.4/amd64",
)
POOLS = dict.fromkeys(PLATFORMS, "linux-amd64")
PACKAGE, OTHER = "cppo.1.8.0", "cppo_ocamlbuild.1.8.0"
ERROR = 'File "src/cppo_main.ml", line 17, characters 2-30: Unbound value Stdlib.set_buffered'
FULL = "write error: No space left on device"


def key_of(head: str, *, branch: str | None = None) -> RevisionKey:
    opened = NOON if head == OLD else NOON + timedelta(hours=3)
    if branch is not None:
        return RevisionKey(repository="local/clone", branch=branch, head=head, opened_at=opened)
    return RevisionKey(repository=REPOSITORY, number=NUMBER, head=head, opened_at=opened)


class Told:
    """Texts of others, which a test may replace by hostile ones.

    Attributes:
        line: Evidence from a log.
        detail: A fact.
        title: Of the pull request.
        author: Of the pull request.
        worker: Identity of a worker.
        package: Full name of a package.
        message: Of a lint finding.
    """

    def __init__(self, **texts: str) -> None:
        self.line = texts.get("line", ERROR)
        self.detail = texts.get("detail", "exit code 2 of the package's own commands")
        self.title = texts.get("title", "[new release] cppo and cppo_ocamlbuild (1.8.0)")
        self.author = texts.get("author", "pmetzger")
        self.worker = texts.get("worker", "builder-3")
        self.package = texts.get("package", PACKAGE)
        self.message = texts.get("message", "The sources have no strong checksum")


def _decided(job: Job, outcome: Outcome, key: RevisionKey, **more: object) -> JobStatus:
    at = key.opened_at + timedelta(minutes=20)
    log = log_key(key, job, run="0123456789abcdef", round_=1, attempt=1)
    fields: dict[str, object] = {
        "attempt": 1,
        "started_at": key.opened_at + timedelta(minutes=3),
        "attempt_started_at": key.opened_at + timedelta(minutes=3),
        "decided_at": at,
        "worker": "builder-1",
        "log": log,
    }
    return JobStatus.model_validate(
        {"job": job, "state": JobState.DECIDED, "outcome": outcome, **fields, **more}
    )


def rows_of(key: RevisionKey, told: Told) -> tuple[JobStatus, ...]:
    """Returns the jobs of a head: the old one has fewer faults."""
    line = LogLine(offset=len(LOG_HEAD), text=told.line)
    passed = Passed(evidence=Evidence(rule="installed", worker="builder-1"))
    failed = Failed(
        reason=FailureReason.BUILD,
        evidence=Evidence(
            rule="compile-error", phase=Phase.BUILD, lines=(line,), exit_code=2,
            worker=told.worker, detail=told.detail,
        ),
    )  # fmt: skip
    full = Evidence(
        rule="enospc", lines=(LogLine(offset=3, text=FULL),), worker=told.worker, detail=told.detail
    )
    errored = Errored(cause=Cause.DISK_FULL, evidence=full)
    skipped = Skipped(
        reason=SkipReason.UNAVAILABLE, evidence=Evidence(rule="available", detail=told.detail)
    )
    blamed = failed.model_copy(update={"reason": FailureReason.DEPENDENCY, "blame": told.package})
    is_new = key.head == NEW
    first, second, third = PLATFORMS
    analysis = Job(platform="", package="", kind=JobKind.ANALYSIS)
    rows = [_decided(analysis, passed, key)]

    def add(kind: JobKind, platform: str, package: str, outcome: Outcome, **more: object) -> None:
        job = Job(platform=platform, package=package, kind=kind)
        rows.append(_decided(job, outcome, key, **more))

    lint = Failed(
        reason=FailureReason.LINT,
        evidence=Evidence(rule="lint-findings", lines=(LogLine(offset=0, text=told.message),)),
    )
    add(JobKind.LINT, "", told.package, lint if is_new else passed)
    add(JobKind.LINT, "", OTHER, passed)
    for platform in PLATFORMS:
        add(JobKind.BUILD, platform, OTHER, passed)
        add(JobKind.TEST, platform, OTHER, passed)
    add(JobKind.BUILD, first, told.package, failed if is_new else passed)
    add(JobKind.BUILD, second, told.package, failed)
    add(JobKind.BUILD, third, told.package, skipped)
    fault = Fault(
        attempt=1,
        cause=Cause.DISK_FULL,
        evidence=full,
        worker=told.worker,
        at=key.opened_at + timedelta(minutes=6),
        started_at=key.opened_at + timedelta(minutes=3),
        log=log_key(key, rows[-1].job, run="0123456789abcdef", round_=1, attempt=1),
    )
    add(JobKind.TEST, first, told.package, errored, worker=told.worker)
    add(JobKind.TEST, third, told.package, passed, attempt=2, faults=(fault,))
    for number in range(12):
        name = f"user-{number}.2.{number}"
        job = Job(platform=first, package=told.package, kind=JobKind.REVDEP, revdep=name)
        rows.append(_decided(job, blamed if is_new and number < 7 else passed, key))
    if is_new:
        waits = Job(platform=second, package=told.package, kind=JobKind.LOWER_BOUNDS)
        rows.append(
            JobStatus(
                job=waits, state=JobState.RETRYING, attempt=1, faults=(fault,),
                started_at=key.opened_at, next_attempt_at=key.opened_at + timedelta(minutes=40),
            )
        )  # fmt: skip
        queued = Job(platform=third, package=told.package, kind=JobKind.LOWER_BOUNDS)
        rows.append(JobStatus(job=queued))
        runs = Job(platform=first, package=told.package, kind=JobKind.LOWER_BOUNDS)
        rows.append(
            JobStatus(
                job=runs, state=JobState.RUNNING, attempt=1, phase=Phase.BUILD, worker="builder-2",
                started_at=key.opened_at, attempt_started_at=key.opened_at,
                log=log_key(key, runs, run="0123456789abcdef", round_=1, attempt=1),
            )
        )  # fmt: skip
    return tuple(rows)


LOG_HEAD = "==== opam-ci: phase build\n"


def log_text(told: Told, *, passed: bool = False) -> bytes:
    """Returns a log: colours, a progress bar, and the evidence of a failure."""
    lines = [LOG_HEAD]
    if not passed:
        lines.append(f"{told.line}\n")
    lines += [f"\x1b[32mok\x1b[0m step {number} of the build\n" for number in range(1500)]
    lines.append("downloading 10%\rdownloading 100%\n")
    if not passed:
        lines.append(f"\x1b[1;31mError\x1b[0m {told.line}\n")
    return "".join(lines).encode("utf-8", "replace")


def fill(index: Index, told: Told | None = None, *, branch: str | None = None) -> RevisionKey:
    """Writes both heads to an index; returns the key of the newest."""
    told = told or Told()
    for sequence, head in enumerate((OLD, NEW), 1):
        key = key_of(head, branch=branch)
        at = key.opened_at + timedelta(minutes=25)
        record = RevisionRecord(
            key=key, base=BASE, state=State.FAILURE, planned=True, title=told.title,
            author=told.author, updated_at=at, sequence=sequence,
        )  # fmt: skip
        batch = RowBatch(
            key=key, revision=record, rows=rows_of(key, told), sequence=sequence, updated_at=at,
            pools=POOLS,
        )  # fmt: skip
        index.record(batch)
    return key_of(NEW, branch=branch)


async def store_logs(store: ArtifactStore, key: RevisionKey, told: Told | None = None) -> None:
    """Stores logs and facts of a head's jobs, its findings, and what passed on the old head."""
    told = told or Told()
    await store_findings(
        store,
        key,
        (told.package,),
        [
            LintFinding(
                package=told.package, check=CheckId.WEAK_CHECKSUM, severity=Severity.ERROR,
                message=told.message, explanation=f"Add sha256: {told.detail}",
                file="packages/cppo/cppo.1.8.0/opam", line=12,
            )
        ],
    )  # fmt: skip
    rows = [row for row in rows_of(key, told) if row.log and row.outcome and row.job.platform]
    old = rows_of(key_of(OLD, branch=key.branch), told)
    wanted = Job(platform=PLATFORMS[0], package=told.package, kind=JobKind.BUILD)
    rows += [row for row in old if row.job == wanted and key.head == NEW]
    await asyncio.gather(*(_store_log(store, row, told) for row in rows))


async def _store_log(store: ArtifactStore, row: JobStatus, told: Told) -> None:
    assert row.log is not None
    assert row.outcome is not None
    passed = row.outcome.kind == "passed"
    text = log_text(told, passed=passed)
    environment = BuildEnvironment(
        image="4f" * 32,
        opam="2.3.0",
        compiler=("base-threads.base", "ocaml-base-compiler.5.3.0"),
        solution=("dune.3.17.2" if passed else "dune.3.19.0", told.package),
        changed=(told.package,),
    )
    run = PhaseRun(
        phase=Phase.BUILD,
        exit_code=0 if passed else 2,
        duration=83.4,
        log_start=len(LOG_HEAD),
        log_end=len(text),
    )
    async with LogWriter(store, row.log) as log:
        log.write(text)
        facts = BuildFacts(job=row.job, phases=(run,), environment=environment)
        judged.keep(log, Judged(facts=facts, outcome=row.outcome))
