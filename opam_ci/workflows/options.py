"""Timeouts, retry policies, priorities and queue names of the workflows."""

from datetime import timedelta
from typing import TypedDict

from temporalio.common import Priority, RetryPolicy, SearchAttributeKey
from temporalio.workflow import ActivityCancellationType

from opam_ci.activities.boundary import GITHUB_REFUSED, INTERNAL_ERROR, PACKAGE_FAILURE
from opam_ci.core.jobs.build import PhaseTimeouts
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.plan import RANKS
from opam_ci.core.jobs.requests import CheckOptions, PullRequestRef
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.platforms.model import Platform

ORCHESTRATION_QUEUE = "opam-ci"
"""Task queue of workflows and of the activities on repository, index and GitHub."""

CI_REPO = SearchAttributeKey.for_keyword("CiRepo")
CI_PULL_REQUEST = SearchAttributeKey.for_keyword("CiPullRequest")
CI_STATE = SearchAttributeKey.for_keyword("CiState")
CI_CAUSES = SearchAttributeKey.for_keyword_list("CiCauses")
CI_HEAD = SearchAttributeKey.for_keyword("CiHead")
GITHUB_QUEUE = "opam-ci-github"
"""Task queue of the activities that use GitHub's API: only workers with credentials poll it."""

SEARCH_ATTRIBUTES = (CI_REPO, CI_PULL_REQUEST, CI_STATE, CI_CAUSES, CI_HEAD)
"""With these, operators find and restart pull requests with the stock tools."""

REPOSITORY_TIMEOUT = timedelta(minutes=15)
"""For an analysis, lint or export: seconds in practice, but the largest pull request on a cold
clone must not be cut off."""

IMAGE_TIMEOUT = timedelta(minutes=2)
"""For the search for an image's digest: some requests of half a minute each."""

RECORD_TIMEOUT = timedelta(seconds=30)
"""For the write of one batch to the index."""

WRITE_PATIENCE = timedelta(seconds=1)
"""How long the final report of a platform is delayed so that its verdicts are reported once, as
recorded: milliseconds as a rule, hours during an index outage."""

PLAN_TIMEOUT = timedelta(minutes=30)
"""For adding the jobs of a head to the index: those of ten thousand packages on many platforms
take some minutes."""

PLAN_HEARTBEAT_TIMEOUT = timedelta(seconds=30)
"""Heartbeat timeout of that; a batch takes some hundred milliseconds."""

EFFECT_TIMEOUT = timedelta(minutes=20)
"""For one attempt to decide the effect of a head on other packages: some ten seconds, and up to ten
minutes of a process; others may come first."""

EFFECT_PATIENCE = timedelta(hours=1)
"""For all attempts: it is advisory, and a one-off check waits for it."""

EFFECT_RETRY = RetryPolicy(initial_interval=timedelta(seconds=10), maximum_attempts=2)
"""What ran out of time or memory does so again."""

RECORD_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2,
    maximum_interval=timedelta(minutes=2),
)
"""The index may be unavailable for hours: nothing is lost, so there is no last attempt."""

GITHUB_TIMEOUT = timedelta(minutes=10)
"""For one attempt to post to GitHub: some requests of a minute each, and a check run with a
thousand annotations."""

GITHUB_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=5),
    backoff_coefficient=2,
    maximum_interval=timedelta(minutes=5),
    non_retryable_error_types=[GITHUB_REFUSED],
)
"""GitHub may be unavailable for hours: nothing is lost, so there is no last attempt. A
`retry-after` of GitHub's is passed on in the error."""

GITHUB_HEARTBEAT_TIMEOUT = timedelta(seconds=20)
"""Heartbeat timeout of requests to GitHub, all of which may be repeated. For posting statuses it
is longer, see `PostingOptions.heartbeat_timeout`."""

RECONCILE_TIMEOUT = timedelta(minutes=30)
"""For the comparison of all open pull requests with the workflows."""

POSTING_PATIENCE = timedelta(days=1)
"""How long the workflow of a closed pull request waits until its final statuses are posted."""

BASE_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=10),
    backoff_coefficient=2,
    maximum_interval=timedelta(minutes=10),
)
"""For merging a decided head into a base that moved: its statuses stay as they are until that is
possible, or a newer head, a request or the end of the pull request makes it pointless."""

BASE_HEARTBEAT_TIMEOUT = timedelta(seconds=60)
"""As for jobs."""

BASE_PRIORITY = 4
"""Of that: behind all that people wait for."""

JOBS_IN_FLIGHT = 200
"""Activities that one PlatformWorkflow has pending at once; the server allows 2,000 a workflow."""

JOBS_QUEUED = 400
"""Jobs that one PlatformWorkflow has taken and not decided: more than are in flight, so that a
job always waits for a free slot, and few enough for all their rows to fit in memory."""

JOBS_AT_ONCE = 200
"""Queued jobs that one activity reads from the index: some 20 kB, packed a few."""

LINT_PACKAGES = 100
"""Packages of one lint activity: its result has 2 kB each at most, far below 2 MB."""

PROGRESS_ROWS = 200
"""Job rows in one signal or one index write, each fault of a row counting as four more: some
10 kB packed (`core/packed.py`), and 1.3 MB if every line of evidence has the maximum length and
none is like another. A payload has 2 MB."""

ORPHAN_CHECK_INTERVAL = timedelta(minutes=10)
"""How often a continued PullRequestWorkflow checks the children it did not start itself."""

CHILD_START_PAUSE = timedelta(seconds=1)
"""Before a signal is sent again to a PlatformWorkflow that is about to start."""

TRIAL_PATIENCE = timedelta(seconds=10)
"""How long the trial runs before the others follow: an operator has reported the repair, so a
trial that does not fail at once is enough."""

TRIAL_LOOK_INTERVAL = timedelta(seconds=2)
"""How often the trial is checked."""

RESTART_WINDOW_PAUSE = timedelta(seconds=1)
"""Between two windows of restarted jobs: 500 jobs in five windows are queued in 4 s."""

STRAGGLER_PAUSE = timedelta(seconds=75)
"""Wait before jobs are restarted whose loss was recorded late: pull requests record their rows
at least once a minute."""

PARKED_TIMEOUT = timedelta(days=7)
"""How long a one-off check waits for a restart of its errored jobs before it ends."""

CANARY_INTERVAL = timedelta(minutes=15)
"""How often each pool builds its canary: a broken pool is known before an hour's work is lost."""

CANARY_TIMEOUT = timedelta(minutes=10)
"""For a canary's verdict: it takes seconds, and goes before all other jobs."""

CANARY_HEARTBEAT_TIMEOUT = timedelta(seconds=60)
"""As for other jobs."""

CANARY_RETRY = RetrySettings(maximum_attempts=1)
"""No retry: a canary that needs one has found a fault."""

CANARY_EXPORT_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3)
"""A store outage of seconds is not a finding; a longer one is."""

CANARY_PRIORITY = Priority(priority_key=1)
"""With analysis and lint: a canary tests the pool, not the length of its queue."""

PRUNE_INTERVAL = timedelta(days=1)
"""How often what nothing needs any more is deleted: at midnight, UTC."""

PRUNE_TIMEOUT = timedelta(hours=6)
"""For one attempt; it goes on where the previous one was."""

PRUNE_HEARTBEAT_TIMEOUT = timedelta(seconds=60)
"""As for jobs: it heartbeats every second."""

PRUNE_PRIORITY = Priority(priority_key=5)
"""Behind everything else."""


_WAIT = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED


HEALTH_INTERVAL = timedelta(days=1)
"""How often the base itself is checked, where it is: at midnight, UTC."""


class PlainActivity(TypedDict):
    """Options of activities on the index."""

    task_queue: str
    start_to_close_timeout: timedelta
    retry_policy: RetryPolicy
    summary: str
    cancellation_type: ActivityCancellationType


def index_activity(summary: str, *, changes: bool = False) -> PlainActivity:
    """Returns the options of an activity that reads or writes the index.

    Args:
        summary: For the Temporal Web UI.
        changes: Whether it may change jobs. Such an activity is waited for when it is abandoned:
            its changes would otherwise come after those of the next one.
    """
    return PlainActivity(
        task_queue=ORCHESTRATION_QUEUE,
        start_to_close_timeout=RECORD_TIMEOUT,
        retry_policy=RECORD_RETRY,
        summary=summary,
        cancellation_type=_WAIT if changes else ActivityCancellationType.TRY_CANCEL,
    )


class PlanActivity(PlainActivity):
    """Options of activities that add jobs to the index."""

    heartbeat_timeout: timedelta


def plan_activity() -> PlanActivity:
    """Returns the options of adding jobs to the index: in batches, with a heartbeat after each."""
    return PlanActivity(
        task_queue=ORCHESTRATION_QUEUE,
        start_to_close_timeout=PLAN_TIMEOUT,
        heartbeat_timeout=PLAN_HEARTBEAT_TIMEOUT,
        retry_policy=RECORD_RETRY,
        summary="jobs into the index",
        cancellation_type=_WAIT,
    )


class BaseActivity(PlanActivity):
    """Options of merging a decided head into a base that moved."""

    priority: Priority


def base_activity(pull_request: PullRequestRef) -> BaseActivity:
    """Returns the options of merging a decided head into a base that moved."""
    return BaseActivity(
        task_queue=ORCHESTRATION_QUEUE,
        start_to_close_timeout=REPOSITORY_TIMEOUT,
        heartbeat_timeout=BASE_HEARTBEAT_TIMEOUT,
        retry_policy=BASE_RETRY,
        summary="merge into the moved base",
        cancellation_type=ActivityCancellationType.TRY_CANCEL,
        priority=Priority(priority_key=BASE_PRIORITY, fairness_key=_fairness_key(pull_request)),
    )


def build_queue(pool: str) -> str:
    """Returns the task queue of a pool's build workers."""
    return f"build-{pool}"


def job_retry(settings: RetrySettings) -> RetryPolicy:
    """Returns the policy for infrastructure faults.

    An activity that fails in an orderly way sets the next retry's delay itself (with jitter);
    this policy is for the attempts that could not, such as a lost worker's.
    """
    return RetryPolicy(
        initial_interval=settings.initial_interval,
        backoff_coefficient=settings.backoff_coefficient,
        maximum_interval=settings.maximum_interval,
        maximum_attempts=settings.maximum_attempts,
        non_retryable_error_types=[PACKAGE_FAILURE, INTERNAL_ERROR],
    )


class WatchedActivity(TypedDict):
    """Options of activities that send heartbeats: jobs, and those that use GitHub's API."""

    task_queue: str
    start_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    retry_policy: RetryPolicy
    priority: Priority


def repository_activity(
    kind: JobKind, pull_request: PullRequestRef, checks: CheckOptions
) -> WatchedActivity:
    """Returns the options of a job on the orchestration queue: analysis, lint, or image.

    Analysis and lint go before all builds, the search for a platform's image behind them.
    """
    is_image = kind is JobKind.IMAGE
    timeout = IMAGE_TIMEOUT if is_image else REPOSITORY_TIMEOUT
    priority = job_priority(JobKind.BUILD if is_image else kind, pull_request)
    return _job_activity(ORCHESTRATION_QUEUE, timeout, priority, checks)


class EffectActivity(PlanActivity):
    """Options of the decision of a head's effect on other packages."""

    schedule_to_close_timeout: timedelta
    priority: Priority


def effect_activity(pull_request: PullRequestRef) -> EffectActivity:
    """Returns the options of that decision: behind everything that a verdict waits for."""
    return EffectActivity(
        task_queue=ORCHESTRATION_QUEUE,
        start_to_close_timeout=EFFECT_TIMEOUT,
        schedule_to_close_timeout=EFFECT_PATIENCE,
        heartbeat_timeout=PLAN_HEARTBEAT_TIMEOUT,
        retry_policy=EFFECT_RETRY,
        priority=Priority(priority_key=4, fairness_key=pull_request.workflow_id[-64:]),
        summary="effect on other packages",
        cancellation_type=ActivityCancellationType.TRY_CANCEL,
    )


def build_activity(
    kind: JobKind,
    platform: Platform,
    pull_request: PullRequestRef,
    checks: CheckOptions,
    timeouts: PhaseTimeouts,
) -> WatchedActivity:
    """Returns the options of a job for a pool's build workers.

    Nobody waits for a check of the base: it is behind what pull requests themselves bring.
    """
    priority = job_priority(JobKind.REVDEP if checks.popular else kind, pull_request)
    return _job_activity(build_queue(platform.pool), job_timeout(timeouts), priority, checks)


def _job_activity(
    task_queue: str, timeout: timedelta, priority: Priority, checks: CheckOptions
) -> WatchedActivity:
    return WatchedActivity(
        task_queue=task_queue,
        start_to_close_timeout=timeout,
        heartbeat_timeout=checks.heartbeat_timeout,
        retry_policy=job_retry(checks.retry),
        priority=priority,
    )


def github_activity(
    heartbeat_timeout: timedelta = GITHUB_HEARTBEAT_TIMEOUT,
    *,
    timeout: timedelta = GITHUB_TIMEOUT,
    priority: int = 1,
) -> WatchedActivity:
    """Returns the options of an activity that uses GitHub's API, by default for one pull request.

    Args:
        heartbeat_timeout: Time without heartbeats after which the worker counts as lost.
        timeout: For one attempt.
        priority: From 1, the highest.
    """
    return WatchedActivity(
        task_queue=GITHUB_QUEUE,
        start_to_close_timeout=timeout,
        heartbeat_timeout=heartbeat_timeout,
        retry_policy=GITHUB_RETRY,
        priority=Priority(priority_key=priority),
    )


def reconcile_activity() -> WatchedActivity:
    """Returns the options of what is about all pull requests: behind everything about one."""
    return github_activity(timeout=RECONCILE_TIMEOUT, priority=3)


def health_activity() -> WatchedActivity:
    """Returns the options of what begins a check of the base: a clone may have to be made first."""
    return github_activity(timeout=RECONCILE_TIMEOUT, priority=3)


def job_timeout(timeouts: PhaseTimeouts) -> timedelta:
    """Returns the timeout of one attempt: all phases, plus making a base layer once."""
    return sum((limit for _, limit in timeouts), timedelta(minutes=30))


def report_interval(history_length: int) -> timedelta:
    """Returns how long changes are collected before they are reported.

    A second while a pull request is small, so that people see progress, and yet a job that is
    decided within it is reported once and not twice; slower as the history grows, so that it
    stays far from the server's limit of 51,200 events.
    """
    return timedelta(seconds=min(60.0, 1 + history_length / 200))


def job_priority(kind: JobKind, pull_request: PullRequestRef) -> Priority:
    """Returns a job's place in its queue: by kind, and fair between pull requests.

    The fairness key is cut to the server's limit of 64 bytes; two keys that collide by
    that share one turn, which is harmless.
    """
    return Priority(priority_key=max(1, RANKS[kind]), fairness_key=_fairness_key(pull_request))


def _fairness_key(pull_request: PullRequestRef) -> str:
    return pull_request.workflow_id[-64:]
