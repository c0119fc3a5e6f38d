"""Verdicts that other verdicts throw doubt on: each rule is about several jobs at once."""

import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple

from pydantic import AwareDatetime

from opam_ci.core.incidents.model import FaultSeen
from opam_ci.core.job import Job, Phase
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause, Evidence
from opam_ci.core.records import RevisionKey

BURST = timedelta(minutes=10)
"""Within which unrelated pull requests must fail the same way to throw doubt on it."""

UNRELATED = 3
"""So many pull requests, each with other packages, do not break the same way by chance."""

WORKERS_FOR_ONE_JOB = 3
"""So many workers are not broken for one job alone."""

_LETTERS = 12
"""Of a line with fewer letters (`Error 2`, `exit-code 1`) nothing follows."""

_VARIABLE = (
    (re.compile(r"\b(?:0x)?[0-9a-f]{8,}\b"), "#"),
    (re.compile(r"(?:/[\w.+~@%-]+){2,}/?"), "/…"),
    (re.compile(r"\d+"), "#"),
    (re.compile(r"\s+"), " "),
)


class FailedVerdict(Frozen):
    """A job that was given as the package's failure.

    Attributes:
        revision: Of which testing.
        job: Which.
        at: When it was decided.
        evidence: On what the verdict rests.
    """

    revision: RevisionKey
    job: Job
    at: AwareDatetime
    evidence: Evidence


class Signature(NamedTuple):
    """How something failed, without what differs from one failure to the next."""

    phase: Phase | None
    line: str


class Doubt(NamedTuple):
    """Verdicts to be judged again, since unrelated pull requests failed the same way."""

    signature: Signature
    verdicts: tuple[FailedVerdict, ...]


class OwnFault(NamedTuple):
    """A fault that follows one job from worker to worker, and no other job: it is the job's."""

    revision: RevisionKey
    job: Job
    cause: Cause
    workers: tuple[str, ...]


def signature(evidence: Evidence, job: Job) -> Signature | None:
    """Returns how a job failed; None where that speaks of the package or says too little."""
    if not evidence.lines:
        return None
    line = evidence.lines[0].text.strip().lower()
    for full in filter(None, (job.package, job.revdep)):
        name = full.split(".", 1)[0].lower()
        # `foo-bar` is `foo_bar` in OCaml's modules and dune's messages.
        for word in {name, name.replace("-", "_")}:
            if re.search(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", line):
                return None
    for pattern, mark in _VARIABLE:
        line = pattern.sub(mark, line)
    if sum(char.isalpha() for char in line) < _LETTERS:
        return None
    return Signature(evidence.phase, line)


def doubts(
    verdicts: Iterable[FailedVerdict], *, burst: timedelta = BURST, unrelated: int = UNRELATED
) -> tuple[Doubt, ...]:
    """Finds verdicts that unrelated pull requests share within minutes.

    What packages fail with all the time, such as a compiler's usual words, is none: the
    first verdict of a burst must have none of the same signature before it, in what is
    given. So give the verdicts of a day or more.

    Args:
        verdicts: In any order.
        burst: How close in time.
        unrelated: How many pull requests, without a package in common.
    """
    found: dict[Signature, list[FailedVerdict]] = defaultdict(list)
    for verdict in verdicts:
        if (sign := signature(verdict.evidence, verdict.job)) is not None:
            found[sign].append(verdict)
    result = []
    for sign, alike in found.items():
        alike.sort(key=lambda each: (each.at, each.revision.target, each.job.id))
        first = alike[0].at
        together = tuple(each for each in alike if each.at - first <= burst)
        if _unrelated(together) >= unrelated:
            result.append(Doubt(sign, together))
    return tuple(sorted(result, key=lambda each: (each.verdicts[0].at, each.signature.line)))


def _unrelated(verdicts: Iterable[FailedVerdict]) -> int:
    """Counts pull requests that share no package with one counted before."""
    packages: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in verdicts:
        key = (each.revision.repository, each.revision.target)
        packages[key].add(each.job.package.split(".", 1)[0])
    seen: set[str] = set()
    count = 0
    for _, names in sorted(packages.items()):
        if not names & seen:
            count += 1
            seen |= names
    return count


def own_faults(
    faults: Iterable[FaultSeen], *, workers: int = WORKERS_FOR_ONE_JOB
) -> tuple[OwnFault, ...]:
    """Finds jobs that met the same fault on several workers while no other job met it there.

    Args:
        faults: Of one incident or more, in any order.
        workers: How many different ones it takes.
    """
    by_job: dict[tuple[RevisionKey, Job, Cause], set[str]] = defaultdict(set)
    jobs_on: dict[tuple[str, Cause], set[tuple[RevisionKey, Job]]] = defaultdict(set)
    for fault in faults:
        if fault.worker is not None:
            by_job[fault.revision, fault.job, fault.cause].add(fault.worker)
            jobs_on[fault.worker, fault.cause].add((fault.revision, fault.job))
    found = [
        OwnFault(revision, job, cause, tuple(sorted(alone)))
        for (revision, job, cause), met in by_job.items()
        if len(alone := {name for name in met if len(jobs_on[name, cause]) == 1}) >= workers
    ]
    return tuple(sorted(found, key=lambda each: (each.revision.target, each.job.id, each.cause)))
