"""What is restarted once an incident is repaired, and in which order."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from opam_ci.core.incidents.model import HitJob
from opam_ci.core.job import JobKind
from opam_ci.core.model import Frozen
from opam_ci.core.records import RevisionKey
from opam_ci.core.requests import PullRequestRef, RestartAsker, RestartSelector, RestartWhich

WINDOW = 100
"""Jobs that are restarted at once: 500 take five windows."""

AUTOMATIC_RESTARTS = 3
"""Restarts that a job may have without anybody asking: no pull request may burn the cluster.
A restart by hand knows no such limit, and the count begins anew with it."""

PULL_REQUEST_RESTARTS = 10_000
"""Automatic restarts of all jobs of one head together, whatever each of them has left: twice the
jobs of the largest pull requests. Somebody who asks for a restart begins this count anew too."""

CANARIES = 20
"""How often one incident may send one job as its canary. They are fifteen minutes apart at the
end, and so a night's outage ends by itself, however few jobs it hit."""


HitKey = tuple[RevisionKey, str]
"""A job of a testing."""


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

    def selector(
        self,
        which: RestartWhich = RestartWhich.ERRORED,
        asker: RestartAsker = RestartAsker.PERSON,
    ) -> RestartSelector:
        """Returns what is asked of that workflow."""
        return RestartSelector(which=which, jobs=self.jobs, head=self.revision.head, asker=asker)


def workflow_of(revision: RevisionKey) -> str:
    """Returns the id of the workflow of the pull request that a testing belongs to."""
    owner, _, repo = revision.repository.partition("/")
    ref = PullRequestRef(owner=owner, repo=repo, number=revision.number, branch=revision.branch)
    return ref.workflow_id


def has_budget(asker: RestartAsker, automatic: int) -> bool:
    """Whether a pull request may restart jobs.

    Args:
        asker: On whose word.
        automatic: How many were restarted since somebody last asked.
    """
    return asker is RestartAsker.PERSON or automatic < PULL_REQUEST_RESTARTS


class RestartPlan(NamedTuple):
    """What to do, in this order.

    Attributes:
        canary: One job that shows whether the repair holds; None when there is nothing.
        windows: The others, some at a time.
        spent: Jobs that have had their automatic restarts and wait for somebody to ask.
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
    hit: Iterable[HitJob], *, window: int = WINDOW, restarts: int = AUTOMATIC_RESTARTS
) -> RestartPlan:
    """Plans the restart of exactly these jobs, each once.

    The canary is a build, which needs no other job. Pull requests with few jobs come first:
    they are done soon, and a huge one does not hold them up.

    Args:
        hit: The errored jobs, in any order.
        window: Jobs at once.
        restarts: Jobs that have had so many are left to people.
    """
    jobs = sorted(set(hit), key=_order)
    spent = tuple(each for each in jobs if each.automatic >= restarts)
    wanted = [each for each in jobs if each.automatic < restarts]
    if not wanted:
        return RestartPlan(None, (), spent)
    canary = min(wanted, key=_canary_order)
    wanted.remove(canary)
    return RestartPlan(_ordered([canary]), tuple(_windows(wanted, window)), spent)


def canary_of(hit: Iterable[HitJob], sent: Mapping[HitKey, int]) -> HitJob | None:
    """Returns the job that shows whether an incident is over, None if all were asked too often.

    The jobs take turns.

    Args:
        hit: The errored jobs, in any order.
        sent: How often this incident has sent each as a canary.
    """
    left = [
        each
        for each in hit
        if each.automatic < AUTOMATIC_RESTARTS and sent.get(key_of(each), 0) < CANARIES
    ]
    return min(
        left, key=lambda each: (sent.get(key_of(each), 0), *_canary_order(each)), default=None
    )


def key_of(hit: HitJob) -> HitKey:
    """Returns what stays the same of a job from round to round."""
    return hit.revision, hit.job.id


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


def _canary_order(hit: HitJob) -> tuple[bool, tuple[str, str, str, str, str]]:
    return hit.job.kind is not JobKind.BUILD, _order(hit)


def _order(hit: HitJob) -> tuple[str, str, str, str, str]:
    key = hit.revision
    return (key.repository, key.target, key.opened_at.isoformat(), key.head, hit.job.id)
