"""Selection and order of the jobs to restart once an incident is repaired."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from opam_ci.core.incidents.model import HitJob
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.selector import RESTART_COST, TRIAL_COST, RestartOrigin, RestartSelector
from opam_ci.core.model import Frozen

WINDOW = 100
"""Jobs that are restarted at once: 500 take five windows."""

JOB_BUDGET = 3 * RESTART_COST
"""Budget of a job for automatic restarts: three restarts, or twenty trials. No pull request may
use up the cluster. Trials are fifteen minutes apart at the end, and so a night's outage ends
by itself, however few jobs it hit. Manual restarts are not limited and reset the budget."""

PULL_REQUEST_BUDGET = 10_000 * RESTART_COST
"""Budget of all jobs of one head together, whatever each of them has left: twice the jobs of the
largest pull requests."""

TRIALS = JOB_BUDGET // TRIAL_COST
"""How often one incident restarts one job on trial, even if the job never starts."""


HitKey = tuple[RevisionKey, str]
"""A job of a testing."""


class RestartOrder(Frozen):
    """Jobs of one testing that are restarted together.

    Attributes:
        revision: The testing.
        jobs: Ids of the jobs.
    """

    revision: RevisionKey
    jobs: tuple[str, ...]

    @property
    def workflow_id(self) -> str:
        """Id of the workflow of the pull request, which restarts them."""
        return workflow_of(self.revision)

    def selector(self, origin: RestartOrigin) -> RestartSelector:
        """Returns the selector to send to that workflow."""
        return RestartSelector(jobs=self.jobs, head=self.revision.head, origin=origin)


def workflow_of(revision: RevisionKey) -> str:
    """Returns the id of the workflow of the pull request that a testing belongs to."""
    owner, _, repo = revision.repository.partition("/")
    ref = PullRequestRef(owner=owner, repo=repo, number=revision.number, branch=revision.branch)
    return ref.workflow_id


def has_budget(origin: RestartOrigin, restart_budget_used: int) -> bool:
    """Whether a pull request may restart jobs.

    Args:
        origin: Origin of the restart.
        restart_budget_used: See `TestingState.restart_budget_used`.
    """
    return origin.is_manual or restart_budget_used < PULL_REQUEST_BUDGET


class RestartPlan(NamedTuple):
    """Restarts to make, in this order.

    Attributes:
        trial: One job that tests the repair; None if there is nothing to restart.
        windows: The others, in windows.
        spent: Jobs that have used up their budget and wait for a manual restart.
    """

    trial: RestartOrder | None
    windows: tuple[tuple[RestartOrder, ...], ...]
    spent: tuple[HitJob, ...]

    @property
    def jobs(self) -> int:
        """How many jobs it restarts."""
        orders = [order for window in self.windows for order in window]
        return sum(len(order.jobs) for order in ([self.trial] if self.trial else []) + orders)


def restart_plan(
    hit: Iterable[HitJob], *, window: int = WINDOW, budget: int = JOB_BUDGET
) -> RestartPlan:
    """Plans the restart of exactly these jobs, each once.

    The trial is a build, which needs no other job. Pull requests with few jobs come first:
    they are done soon, and a huge one does not hold them up.

    Args:
        hit: The errored jobs, in any order.
        window: Jobs at once.
        budget: Jobs that have used so much need a manual restart.
    """
    jobs = sorted(set(hit), key=_sort_key)
    spent = tuple(each for each in jobs if each.restart_budget_used >= budget)
    wanted = [each for each in jobs if each.restart_budget_used < budget]
    if not wanted:
        return RestartPlan(None, (), spent)
    trial = min(wanted, key=_trial_sort_key)
    wanted.remove(trial)
    return RestartPlan(_order([trial]), tuple(_windows(wanted, window)), spent)


def trial_of(hit: Iterable[HitJob], sent: Mapping[HitKey, int]) -> HitJob | None:
    """Returns the job that tests whether an incident is over, None if all were used too often.

    Pull requests take turns, and so do the jobs of each: one that caused the fault itself meets
    it again whatever the state of the CI, and must not be the only trial. The one with the
    fewest lost jobs comes first.

    Args:
        hit: The errored jobs, in any order.
        sent: How often this incident has restarted each on trial.
    """
    left = [
        each
        for each in hit
        if each.restart_budget_used < JOB_BUDGET and sent.get(key_of(each), 0) < TRIALS
    ]
    lost = Counter(_pull_request(each.revision) for each in left)
    turns: Counter[tuple[str, str]] = Counter()
    for (revision, _), times in sent.items():
        turns[_pull_request(revision)] += times

    def turn(each: HitJob) -> tuple[Any, ...]:
        pull_request = _pull_request(each.revision)
        of_job = sent.get(key_of(each), 0)
        return turns[pull_request], lost[pull_request], of_job, *_trial_sort_key(each)

    return min(left, key=turn, default=None)


def _pull_request(revision: RevisionKey) -> tuple[str, str]:
    return revision.repository, revision.target


def key_of(hit: HitJob) -> HitKey:
    """Returns the identity of a job, the same in all its rounds."""
    return hit.revision, hit.job.id


def orders_of(jobs: Iterable[HitJob]) -> tuple[RestartOrder, ...]:
    """Groups jobs by testing, without a plan."""
    by_revision = _by_revision(sorted(set(jobs), key=_sort_key))
    return tuple(_order(found) for found in by_revision)


def _windows(jobs: list[HitJob], size: int) -> Iterator[tuple[RestartOrder, ...]]:
    few_first = sorted(_by_revision(jobs), key=lambda found: (len(found), _sort_key(found[0])))
    line = [each for found in few_first for each in found]
    for first in range(0, len(line), size):
        yield tuple(_order(found) for found in _by_revision(line[first : first + size]))


def _by_revision(jobs: Iterable[HitJob]) -> list[list[HitJob]]:
    grouped: dict[RevisionKey, list[HitJob]] = defaultdict(list)
    for each in jobs:
        grouped[each.revision].append(each)
    return list(grouped.values())


def _order(jobs: list[HitJob]) -> RestartOrder:
    return RestartOrder(revision=jobs[0].revision, jobs=tuple(each.job.id for each in jobs))


def _trial_sort_key(hit: HitJob) -> tuple[bool, tuple[str, str, str, str, str]]:
    return hit.job.kind is not JobKind.BUILD, _sort_key(hit)


def _sort_key(hit: HitJob) -> tuple[str, str, str, str, str]:
    key = hit.revision
    return (key.repository, key.target, key.opened_at.isoformat(), key.head, hit.job.id)
