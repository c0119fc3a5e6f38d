"""Fingerprints of failures: how a job failed, without what differs from run to run."""

import hashlib
import re
from typing import NamedTuple, TypeGuard

from opam_ci.core.classify.rulebook import TEST_IDS
from opam_ci.core.classify.salience import is_generic
from opam_ci.core.jobs.job import Job, JobKind, Phase, package_name
from opam_ci.core.jobs.outcome import Errored, Failed, FailureReason, Outcome, reused_of

SAME_FAILURE = "same-failure-elsewhere"
"""Rule of a verdict that was a failure, until unrelated pull requests failed the same way."""

KINDS = frozenset({JobKind.BUILD, JobKind.TEST, JobKind.LOWER_BOUNDS, JobKind.LIST_REVDEPS})
"""Kinds of jobs that have a signature. Lint and analysis depend on the change alone; reverse
dependencies fail in thousands and without the pull request too (ADR 0014)."""

_REASONS = frozenset(
    {
        FailureReason.BUILD,
        FailureReason.TEST,
        FailureReason.DEPENDENCY,
        FailureReason.SOURCE,
        FailureReason.CHECKSUM,
        FailureReason.TIMEOUT,
        FailureReason.NOT_INSTALLED,
    }
)
"""Reasons that a broken machine can cause. The other reasons depend on the files of the change,
or on several workers already."""

_LETTERS = 12
"""A line with fewer letters (`Error 2`, `exit-code 1`) is not specific enough."""

_CITATION = re.compile(r"^[#>|\s-]+")
_VARIABLE = (
    (re.compile(r"\b(?:0x)?[0-9a-f]{8,}\b"), "#"),
    (re.compile(r"(?:/[\w.+~@%-]+){2,}/?"), "/…"),
    (re.compile(r"\d+"), "#"),
    (re.compile(r"\s+"), " "),
)


class Signature(NamedTuple):
    """The common part of failures that look the same.

    Attributes:
        phase: The phase in which the job failed.
        line: The first specific line of its evidence, without numbers, paths and hashes.
    """

    phase: Phase | None
    line: str

    @property
    def digest(self) -> str:
        """The key in the index: 128 bits, so that no two signatures collide."""
        text = f"{self.phase or ''}\n{self.line}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def signature(outcome: Outcome | None, job: Job) -> Signature | None:
    """Returns how a job failed; None if that is about the package or not specific enough.

    A verdict that was revised keeps the signature of the original failure: it is still evidence
    for later ones. A job that was ended since a dependency is known to fail has the signature of
    those that built it: where these are in doubt, so is it. One that took another job's verdict
    saw nothing itself.
    """
    if job.kind not in KINDS or outcome is None or not _is_failure(outcome) or reused_of(outcome):
        return None
    evidence = outcome.evidence
    lines = (_CITATION.sub("", line.text).strip() for line in evidence.lines)
    line = next((line for line in lines if not is_generic(line)), "").lower()
    # Which test failed depends on the package; the rest of the line is its test framework's.
    if evidence.rule in TEST_IDS:
        return None
    blame = outcome.blame if isinstance(outcome, Failed) else None
    if any(_names(line, package) for package in (job.package, blame) if package):
        return None
    line = normalised(line)
    if sum(char.isalpha() for char in line) < _LETTERS:
        return None
    is_known = evidence.seen_in is not None
    return Signature(Phase.DEPENDENCIES if is_known else evidence.phase, line)


def normalised(line: str) -> str:
    """Returns a line without what differs from run to run: numbers, paths and hashes."""
    for pattern, mark in _VARIABLE:
        line = pattern.sub(mark, line)
    return line


def _is_failure(outcome: Outcome) -> TypeGuard[Failed | Errored]:
    if isinstance(outcome, Failed):
        return outcome.reason in _REASONS
    return isinstance(outcome, Errored) and outcome.evidence.rule == SAME_FAILURE


def _names(line: str, package: str) -> bool:
    name = package_name(package).lower()
    # `foo-bar` is `foo_bar` in OCaml's modules and dune's messages.
    return any(
        re.search(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", line)
        for word in {name, name.replace("-", "_")}
    )
