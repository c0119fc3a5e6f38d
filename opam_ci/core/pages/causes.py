"""Causes: jobs that did not pass, grouped by what looks the same.

For people, of jobs of every kind, and looser than the signatures of incidents
(`core/incidents/fingerprint.py`), which decide: two jobs are in one group if they have the same
standing and reason, and the same line of evidence without numbers, paths and hashes. What a package
breaks in others is its cascade, and counted with its own group.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from opam_ci.core.classify.lines import clean
from opam_ci.core.classify.positive_proofs import PROOFS
from opam_ci.core.classify.rulebook import RULES
from opam_ci.core.incidents.fingerprint import normalised
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Errored, Failed, Outcome, Skipped
from opam_ci.core.jobs.plan import depends_on, follows
from opam_ci.core.jobs.summary import JobState, JobStatus, Standing, why_counted
from opam_ci.core.text.result import reason_line

ROOT_KINDS = (JobKind.BUILD, JobKind.REVDEP)
"""Kinds of jobs whose failure is the root of failures of others that depend on the package."""

STANDINGS = (Standing.ERRORED, Standing.RETRYING, Standing.FAILED, Standing.SKIPPED)
"""Standings that have causes, in the order in which a page shows them."""

_DIGITS = 16


class GroupKey(NamedTuple):
    """A group of a page: errored jobs and those that wait for a retry look the same.

    Attributes:
        key: What it looks like, see `cause_group`.
        standing: Of its jobs.
    """

    key: str
    standing: Standing


class Part(NamedTuple):
    """Jobs of one group on one platform, with the same blame.

    Attributes:
        group: The group that they would be in if nothing was a cascade.
        why: Their reason or cause.
        platform: Name of the platform; empty for analysis and lint.
        blame: The package that failed, None if it is their own.
        number: How many.
    """

    group: GroupKey
    why: str
    platform: str
    blame: str | None
    number: int


Place = tuple[str, str]
"""A platform, and the full name of a package that failed there."""

Branch = tuple[GroupKey, str, str | None]
"""Group, platform and blame of a `Part`."""


class Folded:
    """Groups with their cascades.

    Attributes:
        why: Reason or cause of each group.
        jobs: Number of jobs of each group, without cascades.
        platforms: Platforms of these jobs.
        cascades: Number of jobs in the cascade of a group.
        partly: Groups of which jobs are in the cascade of others: their platforms narrow them.
    """

    def __init__(self) -> None:
        self.why: dict[GroupKey, str] = {}
        self.jobs: Counter[GroupKey] = Counter()
        self.platforms: dict[GroupKey, set[str]] = defaultdict(set)
        self.cascades: Counter[GroupKey] = Counter()
        self.partly: set[GroupKey] = set()

    def ordered(self) -> list[GroupKey]:
        """Returns the groups: errors, failures, skips, and of each those with the most jobs first.

        Keys decide between equals, so that a page does not jump.
        """
        return sorted(
            self.jobs,
            key=lambda each: (
                STANDINGS.index(each.standing),
                -self.jobs[each] - self.cascades[each],
                each.key,
            ),
        )


def cause_group(outcome: Outcome | None) -> str | None:
    """Returns what the jobs of a group have in common; None for a job without a cause of its own.

    None for what passed, was cancelled, is not decided, or only follows from another job.
    """
    if not isinstance(outcome, Failed | Errored | Skipped) or follows(outcome):
        return None
    if isinstance(outcome, Failed) and outcome.blame is not None:
        line = f"needs {outcome.blame}"
    else:
        line = normalised(reason_line(outcome).lower())
    why = outcome.cause if isinstance(outcome, Errored) else outcome.reason
    text = f"{outcome.kind}\n{why}\n{line}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def is_alike(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes of the same package look the same: with all lines of their evidence.

    Stricter than `cause_group`, by which different packages are compared.
    """
    return cause_group(one) == cause_group(other) and _lines(one) == _lines(other)


def is_shown_by(outcome: Outcome, output: str) -> bool:
    """Whether an output has all lines on which an outcome rests, and there are some.

    Args:
        outcome: The outcome.
        output: Of the same commands, run elsewhere.
    """
    shown = {normalised(line.as_evidence().text.lower()) for line in clean(output)}
    lines = _lines(outcome)
    return bool(lines) and shown.issuperset(lines)


def _lines(outcome: Outcome) -> list[str]:
    lines = () if outcome.kind == "cancelled" else outcome.evidence.lines
    return [normalised(line.text.lower()) for line in lines]


def explained(row: JobStatus) -> Outcome | None:
    """Returns the outcome of a job, or that of its last attempt where it waits for a retry."""
    if row.state is JobState.RETRYING and row.faults:
        fault = row.faults[-1]
        return Errored(cause=fault.cause, evidence=fault.evidence)
    return row.outcome


def subject(job: Job) -> str:
    """Returns the package that a job builds: the reverse dependency, if it has one."""
    return job.revdep or job.package


def rationale(rule: str) -> str:
    """Returns why a rule proves its verdict; empty if the rule has no text."""
    if rule in RULES.by_id:
        return RULES.by_id[rule].why
    return next((proof.why for proof in PROOFS if rule in proof.rules), "")


def fold(
    parts: Iterable[Part], roots: Mapping[Place, str], following: Mapping[Branch, int]
) -> Folded:
    """Counts the jobs of each group, and folds cascades under their roots.

    Args:
        parts: All jobs with a group.
        roots: Keys of the groups of failed builds, by platform and package; the least of several.
        following: Number of jobs whose outcome only follows, by the part of the job that they need.
    """
    found = Folded()
    for part in parts:
        root = _root_of((part.group, part.platform, part.blame), roots)
        if root == part.group:
            found.why[part.group] = part.why
            found.jobs[part.group] += part.number
            found.platforms[part.group] |= {part.platform} - {""}
        else:
            found.cascades[root] += part.number
            found.partly.add(part.group)
    for branch, number in following.items():
        found.cascades[_root_of(branch, roots)] += number
    return found


def _root_of(branch: Branch, roots: Mapping[Place, str]) -> GroupKey:
    """Returns the group with which jobs are counted: of what they blame, if that failed too."""
    group, platform, blame = branch
    if blame is None or (key := roots.get((platform, blame))) is None:
        return group
    return GroupKey(key, Standing.FAILED)


class RowGroup(NamedTuple):
    """A group of rows.

    Attributes:
        group: The group.
        why: The reason or cause.
        members: Its rows, in their order.
        cascade: The rows of its cascade.
    """

    group: GroupKey
    why: str
    members: tuple[JobStatus, ...]
    cascade: tuple[JobStatus, ...]

    @property
    def first(self) -> JobStatus:
        """Its first row."""
        return self.members[0]

    @property
    def others(self) -> str:
        """How many further jobs it stands for, behind the title of its first; empty for none."""
        more, need = len(self.members) - 1, len(self.cascade)
        text = f" and {more} more" if more else ""
        return text + (f"; {need} job{'s need' if need > 1 else ' needs'} it" if need else "")


def group_rows(rows: Iterable[JobStatus]) -> tuple[RowGroup, ...]:
    """Groups rows of a head as its page groups its jobs.

    Args:
        rows: In the order in which jobs run. Of a large head these are not all: then the groups
            are of these rows.
    """
    branches: dict[str, Branch] = {}
    members: dict[Branch, list[JobStatus]] = defaultdict(list)
    roots: dict[Place, str] = {}
    followers: list[JobStatus] = []
    for row in rows:
        outcome = explained(row)
        if follows(row.outcome):
            followers.append(row)
        if (key := cause_group(outcome)) is None:
            continue
        blame = outcome.blame if isinstance(outcome, Failed) else None
        branch = (GroupKey(key, row.standing), row.job.platform, blame)
        branches[row.job.id] = branch
        members[branch].append(row)
        if isinstance(outcome, Failed) and blame is None and row.job.kind in ROOT_KINDS:
            place = (row.job.platform, subject(row.job))
            roots[place] = min(key, roots.get(place, key))
    own: dict[GroupKey, list[JobStatus]] = defaultdict(list)
    cascades: dict[GroupKey, list[JobStatus]] = defaultdict(list)
    for branch, some in members.items():
        root = _root_of(branch, roots)
        (own if root == branch[0] else cascades)[root] += some
    following: Counter[Branch] = Counter()
    for row in followers:
        needed = depends_on(row.job)
        if needed is not None and needed.id in branches:
            branch = branches[needed.id]
            following[branch] += 1
            cascades[_root_of(branch, roots)].append(row)
    parts = [
        Part(branch[0], why_counted(some[0]), branch[1], branch[2], len(some))
        for branch, some in members.items()
    ]
    folded = fold(parts, roots, following)
    return tuple(
        RowGroup(group, folded.why[group], tuple(own[group]), tuple(cascades[group]))
        for group in folded.ordered()
    )
