"""All metrics: names, help texts and labels.

Names and units follow https://prometheus.io/docs/practices/naming/. Labels have few values:
kinds, outcomes, causes, pools, states; never packages, pull requests or commits. Package failures
and infrastructure faults are never one series: they are metrics of different names, and `errored`
is never counted with `failed`.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from opam_ci import __version__
from opam_ci.clients.git.healing import Recovery

JOB_BUCKETS = (1, 2, 5, 10, 20, 40, *(60 * n for n in (1.5, 3, 5, 10, 20, 40, 90, 180)))
"""From a lint of a second to the longest build that the time limits allow."""

WAIT_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, *(60 * n for n in (5, 15, 30, 60, 180, 720)))
"""From an idle pool to a queue that needs an operator."""

VERDICT_BUCKETS = (10, 30, *(60 * n for n in (1, 2, 5, 10, 20, 40, 60, 120, 240, 480, 1440)))
"""From a one-line change to a compiler release with all its reverse dependencies."""

CANARY_BUCKETS = (1, 2, 4, 8, 15, 30, 60, 120, 300, 600)

UNKNOWN = float("nan")
"""Value of a gauge that is not measured: no comparison with it is true."""


class Metrics:
    """The metrics of one process, in a registry of its own.

    Metrics that a process does not measure (a build worker has no index) are absent, or NaN.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._of_attempts()
        self._of_workers()
        self._of_pull_requests()
        self._of_queues()
        self._of_github()

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        gauge = Gauge(name, meaning, labels, registry=self.registry)
        if not labels:
            # Without labels it is present from the start: unknown is not 0.
            gauge.set(UNKNOWN)
        return gauge

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, meaning, labels, buckets=buckets, registry=self.registry)

    def _of_attempts(self) -> None:
        self.attempts = self._counter(
            "opam_ci_attempts_total",
            "Attempts of jobs that ended, by outcome; a fault that is retried is errored.",
            *("pool", "kind", "outcome"),
        )
        self.jobs = self._counter(
            "opam_ci_jobs_total",
            "Jobs that an attempt decided, by outcome: errored only after the last attempt.",
            *("pool", "kind", "outcome"),
        )
        self.failures = self._counter(
            "opam_ci_package_failures_total",
            "Jobs that ended with a package failure, by reason.",
            *("pool", "kind", "reason"),
        )
        self.faults = self._counter(
            "opam_ci_infrastructure_faults_total",
            "Attempts that ended with an infrastructure fault, by cause, retried ones included.",
            *("pool", "cause"),
        )
        self.attempt_duration = self._histogram(
            "opam_ci_attempt_duration_seconds",
            "Duration of attempts.",
            JOB_BUCKETS,
            *("pool", "kind", "outcome"),
        )
        self.cpu = self._counter(
            "opam_ci_cpu_seconds_total",
            "Processor time of attempts, where a control group counts it.",
            *("pool", "kind"),
        )
        self.archives = self._counter(
            "opam_ci_source_archives_total",
            "Archives of sources that jobs needed: taken from the machine's store, or fetched.",
            *("pool", "origin"),
        )
        self.wait = self._histogram(
            "opam_ci_job_wait_seconds",
            "Time that attempts waited in the queue for a worker.",
            WAIT_BUCKETS,
            *("pool", "kind"),
        )
        self.running = self._gauge(
            "opam_ci_jobs_running", "Attempts under way on this worker.", *("pool", "kind")
        )

    def _of_workers(self) -> None:
        self.worker_info = self._gauge(
            "opam_ci_worker_info",
            "1, with the identity of this process in evidence and logs.",
            *("worker", "version"),
        )
        self.worker_state = self._gauge(
            "opam_ci_worker_state",
            "1 for the state of this build worker: healthy, probing, probation, quarantined.",
            *("pool", "state"),
        )
        self.worker_trouble = self._gauge(
            "opam_ci_worker_trouble",
            "1 while this build worker takes no jobs because of the cause.",
            *("pool", "cause"),
        )
        self.quarantines = self._counter(
            "opam_ci_worker_quarantines_total",
            "Quarantines of this build worker, by cause.",
            *("pool", "cause"),
        )
        self.disk_free = self._gauge(
            "opam_ci_worker_disk_free_bytes", "Bytes free where builds write."
        )
        self.disk_needed = self._gauge(
            "opam_ci_worker_disk_needed_bytes", "Bytes that must be free before jobs are taken."
        )
        self.inodes_free = self._gauge(
            "opam_ci_worker_disk_free_inodes", "Inodes free where builds write."
        )
        self.inodes_needed = self._gauge(
            "opam_ci_worker_disk_needed_inodes", "Inodes that must be free before jobs are taken."
        )
        self.memory_available = self._gauge(
            "opam_ci_worker_memory_available_bytes", "Memory that the kernel could give to builds."
        )
        self.clock_offset = self._gauge(
            "opam_ci_worker_clock_offset_seconds",
            "Offset of this machine's clock from the Temporal server's; positive if it is ahead.",
        )
        self.clone_recoveries = self._counter(
            "opam_ci_clone_recoveries_total",
            "Repairs of clones after a kill or power cut: leftovers or refs removed, or made anew.",
            "how",
        )
        self.canaries = self._counter(
            "opam_ci_canary_runs_total",
            "Canaries of a pool, by result: good, or the cause of the fault.",
            *("pool", "result"),
        )
        self.canary_good_at = self._gauge(
            "opam_ci_canary_last_success_timestamp_seconds",
            "Time of the pool's last canary with the expected verdicts.",
            "pool",
        )
        self.canary_duration = self._histogram(
            "opam_ci_canary_duration_seconds",
            "Time from a canary's start to both its verdicts.",
            CANARY_BUCKETS,
            "pool",
        )

    def _of_pull_requests(self) -> None:
        self.verdict_latency = self._histogram(
            "opam_ci_verdict_latency_seconds",
            "Time from the start of a head's testing to its first verdict "
            "(success, failure, error).",
            VERDICT_BUCKETS,
            "state",
        )
        self.rejudged = self._counter(
            "opam_ci_verdicts_rejudged_total",
            "Verdicts revised in the light of other jobs' verdicts, by new outcome.",
            *("kind", "outcome"),
        )
        self.pull_requests = self._gauge(
            "opam_ci_pull_requests",
            "Open pull requests by the state of their newest head.",
            "state",
        )
        self.green_unbuilt = self._gauge(
            "opam_ci_pull_requests_green_unbuilt",
            "Open pull requests that are green although no build or test of theirs passed.",
        )
        self.audits = self._gauge(
            "opam_ci_reused_verdicts_compared",
            "Jobs of 30 days run although one with the same inputs had a verdict: same or other.",
            "result",
        )
        self.estimates = self._gauge(
            "opam_ci_estimates",
            "First estimates of heads decided within 30 days, by whether they held: held, missed.",
            "result",
        )
        self.undecided = self._gauge(
            "opam_ci_jobs_undecided", "Jobs without an outcome, by standing.", "standing"
        )
        self.retries_pending = self._gauge(
            "opam_ci_retries_pending",
            "Jobs that wait for an automatic retry, by the cause of their last fault.",
            "cause",
        )
        self.errored = self._gauge(
            "opam_ci_jobs_errored",
            "Jobs of open pull requests that wait for a restart, by cause.",
            "cause",
        )

        self.incidents = self._gauge(
            "opam_ci_incidents_open",
            "Incidents that are not resolved, by cause and pool.",
            *("cause", "pool"),
        )

    def _of_queues(self) -> None:
        self.queue_age = self._gauge(
            "opam_ci_queue_age_seconds", "Age of the oldest job that waits in a queue.", "pool"
        )
        self.queue_jobs = self._gauge(
            "opam_ci_queue_jobs", "Jobs that wait in a queue (Temporal's estimate).", "pool"
        )
        self.queue_workers = self._gauge(
            "opam_ci_queue_workers", "Workers that polled a queue in the last minutes.", "pool"
        )
        self.collections = self._counter(
            "opam_ci_collections_total",
            "Reads of the index and of Temporal for these metrics, by result: ok or failed.",
            *("source", "result"),
        )
        self.collected_at = self._gauge(
            "opam_ci_collection_last_success_timestamp_seconds",
            "When a source was last read; its metrics are absent while it cannot be read.",
            "source",
        )

    def _of_github(self) -> None:
        self.github_requests = self._counter(
            "opam_ci_github_requests_total",
            "Requests to GitHub: read or write; ok, refused, limited, or error.",
            *("operation", "result"),
        )
        self.github_remaining = self._gauge(
            "opam_ci_github_rate_limit_remaining",
            "Requests left in GitHub's present rate limit window.",
            "resource",
        )
        self.github_limit = self._gauge(
            "opam_ci_github_rate_limit", "Requests allowed in a rate limit window.", "resource"
        )
        self.github_reset_at = self._gauge(
            "opam_ci_github_rate_limit_reset_timestamp_seconds",
            "When GitHub's rate limit window ends.",
            "resource",
        )
        self.github_written_at = self._gauge(
            "opam_ci_github_last_write_timestamp_seconds", "When GitHub last accepted a write."
        )

    def name_worker(self, identity: str) -> None:
        """Sets the identity of this process."""
        self.worker_info.labels(worker=identity, version=__version__).set(1)

    def clone_recovered(self, how: Recovery) -> None:
        """Counts a repair of a clone."""
        self.clone_recoveries.labels(how.value).inc()
