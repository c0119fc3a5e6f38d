"""What is restarted once an incident is repaired, and in which order."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from opam_ci.core.incidents.model import HitJob
from opam_ci.core.job import JobKind
from opam_ci.core.model import Frozen
from opam_ci.core.records import RevisionKey
from opam_ci.core.requests import PullRequestRef
from opam_ci.core.selector import CANARY_COST, RESTART_COST, RestartAsker, RestartSelector

WINDOW = 100
"""Jobs that are restarted at once: 500 take five windows."""

JOB_BUDGET = 3 * RESTART_COST
"""What a job may have of restarts without anybody asking, or of twenty canaries: no pull request
may burn the cluster. Canaries are fifteen minutes apart at the end, and so a night's outage ends
by itself, however few jobs it hit. A restart by hand knows no limit and fills the budget again."""

PULL_REQUEST_BUDGET = 10_000 * RESTART_COST
"""The same of all jobs of one head together, whatever each of them has left: twice the jobs of
the largest pull requests."""

CANARIES = JOB_BUDGET // CANARY_COST
"""How often one incident sends one job as its canary, should the job not even start for it."""


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

    def selector(self, asker: RestartAsker) -> RestartSelector:
        """Returns what is asked of that workflow."""
        return RestartSelector(jobs=self.jobs, head=self.revision.head, asker=asker)


def workflow_of(revision: RevisionKey) -> str:
    """Returns the id of the workflow of the pull request that a testing belongs to."""
    owner, _, repo = revision.repository.partition("/")
    ref = PullRequestRef(owner=owner, repo=repo, number=revision.number, branch=revision.branch)
    return ref.workflow_id


def has_budget(asker: RestartAsker, automatic: int) -> bool:
    """Whether a pull request may restart jobs.

    Args:
        asker: On whose word.
        automatic: What restarts of the head have cost since somebody last asked for one.
    """
    return asker is RestartAsker.PERSON or automatic < PULL_REQUEST_BUDGET


class RestartPlan(NamedTuple):
    """What to do, in this order.

    Attributes:
        canary: One job that shows whether the repair holds; None when there is nothing.
        windows: The others, some at a time.
        spent: Jobs that have used up their budget and wait for somebody to ask.
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
    hit: Iterable[HitJob], *, window: int = WINDOW, budget: int = JOB_BUDGET
) -> RestartPlan:
    """Plans the restart of exactly these jobs, each once.

    The canary is a build, which needs no other job. Pull requests with few jobs come first:
    they are done soon, and a huge one does not hold them up.

    Args:
        hit: The errored jobs, in any order.
        window: Jobs at once.
        budget: Jobs that have used so much are left to people.
    """
    jobs = sorted(set(hit), key=_order)
    spent = tuple(each for each in jobs if each.automatic >= budget)
    wanted = [each for each in jobs if each.automatic < budget]
    if not wanted:
        return RestartPlan(None, (), spent)
    canary = min(wanted, key=_canary_order)
    wanted.remove(canary)
    return RestartPlan(_ordered([canary]), tuple(_windows(wanted, window)), spent)


def canary_of(hit: Iterable[HitJob], sent: Mapping[HitKey, int]) -> HitJob | None:
    """Returns the job that shows whether an incident is over, None if all were asked too often.

    Pull requests take turns, and so do the jobs of each: one that brought the fault about itself
    meets it again whatever the CI is like, and must not be asked alone. The one with the fewest
    lost jobs comes first.

    Args:
        hit: The errored jobs, in any order.
        sent: How often this incident has sent each as a canary.
    """
    left = [
        each for each in hit if each.automatic < JOB_BUDGET and sent.get(key_of(each), 0) < CANARIES
    ]
    lost = Counter(_pull_request(each.revision) for each in left)
    turns: Counter[tuple[str, str]] = Counter()
    for (revision, _), times in sent.items():
        turns[_pull_request(revision)] += times

    def turn(each: HitJob) -> tuple[Any, ...]:
        pull_request = _pull_request(each.revision)
        of_job = sent.get(key_of(each), 0)
        return turns[pull_request], lost[pull_request], of_job, *_canary_order(each)

    return min(left, key=turn, default=None)


def _pull_request(revision: RevisionKey) -> tuple[str, str]:
    return revision.repository, revision.target


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
