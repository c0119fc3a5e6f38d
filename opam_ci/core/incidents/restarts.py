"""What is restarted once an incident is repaired, and in which order."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from opam_ci.core.incidents.model import HitJob
from opam_ci.core.job import JobKind
from opam_ci.core.model import Frozen
from opam_ci.core.records import RevisionKey
from opam_ci.core.requests import PullRequestRef, RestartSelector, RestartWhich

WINDOW = 100
"""Jobs that are restarted at once: 500 take five windows."""

AUTOMATIC_ROUNDS = 4
"""Rounds that a job may have without anybody asking: no pull request may burn the cluster.
A restart by hand knows no such limit."""


class RestartOrder(Frozen):
    """Jobs of one testing that are restarted together.

    Attributes:
        revision: Which testing.
        jobs: Their ids.
    """

    revision: RevisionKey
    jobs: tuple[str, ...]

    @property
    def workflow_id(self) -> str:
        """The workflow of the pull request, which restarts them."""
        return workflow_of(self.revision)

    def selector(self, which: RestartWhich = RestartWhich.ERRORED) -> RestartSelector:
        """Returns what is asked of that workflow."""
        return RestartSelector(which=which, jobs=self.jobs, head=self.revision.head)


def workflow_of(revision: RevisionKey) -> str:
    """Returns the id of the workflow of the pull request that a testing belongs to."""
    owner, _, repo = revision.repository.partition("/")
    ref = PullRequestRef(owner=owner, repo=repo, number=revision.number, branch=revision.branch)
    return ref.workflow_id


class RestartPlan(NamedTuple):
    """What to do, in this order.

    Attributes:
        canary: One job that shows whether the repair holds; None when there is nothing.
        windows: The others, some at a time.
        spent: Jobs that have had their automatic rounds and wait for somebody to ask.
    """

    canary: RestartOrder | None
    windows: tuple[tuple[RestartOrder, ...], ...]
    spent: tuple[HitJob, ...]

    @property
    def jobs(self) -> int:
        """How many jobs it restarts."""
        orders = [order for window in self.windows for order in window]
        return sum(len(order.jobs) for order in ([self.canary] if self.canary else []) + orders)


def restart_plan(
    hit: Iterable[HitJob], *, window: int = WINDOW, rounds: int = AUTOMATIC_ROUNDS
) -> RestartPlan:
    """Plans the restart of exactly these jobs, each once.

    The canary is a build, which needs no other job. Pull requests with few jobs come first:
    they are done soon, and a huge one does not hold them up.

    Args:
        hit: The errored jobs, in any order.
        window: Jobs at once.
        rounds: Jobs of this round and later ones are left to people.
    """
    jobs = sorted(set(hit), key=_order)
    spent = tuple(each for each in jobs if each.round >= rounds)
    wanted = [each for each in jobs if each.round < rounds]
    if not wanted:
        return RestartPlan(None, (), spent)
    canary = min(wanted, key=lambda each: (each.job.kind is not JobKind.BUILD, _order(each)))
    wanted.remove(canary)
    return RestartPlan(_ordered([canary]), tuple(_windows(wanted, window)), spent)


def orders_of(jobs: Iterable[HitJob]) -> tuple[RestartOrder, ...]:
    """Groups jobs by the testing that they belong to, without a plan."""
    by_revision: dict[RevisionKey, list[HitJob]] = defaultdict(list)
    for each in sorted(set(jobs), key=_order):
        by_revision[each.revision].append(each)
    return tuple(_ordered(found) for found in by_revision.values())


def _windows(jobs: list[HitJob], size: int) -> Iterator[tuple[RestartOrder, ...]]:
    by_revision: dict[RevisionKey, list[HitJob]] = defaultdict(list)
    for each in jobs:
        by_revision[each.revision].append(each)
    few_first = sorted(by_revision.values(), key=lambda found: (len(found), _order(found[0])))
    line = [each for found in few_first for each in found]
    for first in range(0, len(line), size):
        part: dict[RevisionKey, list[HitJob]] = defaultdict(list)
        for each in line[first : first + size]:
            part[each.revision].append(each)
        yield tuple(_ordered(found) for found in part.values())


def _ordered(jobs: list[HitJob]) -> RestartOrder:
    return RestartOrder(revision=jobs[0].revision, jobs=tuple(each.job.id for each in jobs))


def _order(hit: HitJob) -> tuple[str, str, str, str, str]:
    key = hit.revision
    return (key.repository, key.target, key.opened_at.isoformat(), key.head, hit.job.id)
