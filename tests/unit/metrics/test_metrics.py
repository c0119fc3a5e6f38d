"""Metrics: what is counted, what is shown, and that documents and rules speak of nothing else."""

import contextlib
import json
import math
import re
import shutil
import socket
import sqlite3
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client import generate_latest
from temporalio.client import Client

from opam_ci.activities.observe import AttemptBegan, AttemptEnded
from opam_ci.clients.index import Index
from opam_ci.clients.index.gauges import IndexGauges, IndexState
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.build import SourceCounts
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.summary import JobState, JobStatus, State
from opam_ci.core.pages.estimate import EstimatesKept
from opam_ci.core.workers.health import Finding, Health, WorkerState, after_check
from opam_ci.metrics.attempts import OUTCOMES, AttemptMetrics
from opam_ci.metrics.catalog import Metrics
from opam_ci.metrics.collect import Collector
from opam_ci.metrics.github import MeteredTransport
from opam_ci.metrics.health import HealthMetrics
from opam_ci.metrics.server import WorkerStatus, application, parse_address, serving

ROOT = Path(__file__).resolve().parents[3]
OPS = ROOT / "ops"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVIDENCE = Evidence(rule="x")
PASSED = Passed(evidence=EVIDENCE)
FAILED = Failed(reason=FailureReason.TEST, evidence=EVIDENCE)
SUFFIXES = ("_bucket", "_count", "_sum")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def began(*, is_canary: bool = False, lost_before: bool = False) -> AttemptBegan:
    return AttemptBegan(
        pool="p",
        kind=JobKind.BUILD,
        is_canary=is_canary,
        pull_request="pr/o/r/1",
        due_at=NOW,
        began_at=NOW + timedelta(seconds=3),
        seen_at=NOW + timedelta(seconds=5),
        lost_before=lost_before,
    )


def ended(
    outcome: Outcome | None, *, is_last: bool = True, is_canary: bool = False
) -> AttemptEnded:
    return AttemptEnded(
        pool="p",
        kind=JobKind.BUILD,
        is_canary=is_canary,
        pull_request="pr/o/r/1",
        outcome=outcome,
        is_last=is_last,
        began_at=NOW,
        ended_at=NOW + timedelta(seconds=7),
    )


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (PASSED, "passed"),
        (FAILED, "failed"),
        (Skipped(reason=SkipReason.UNAVAILABLE, evidence=EVIDENCE), "skipped"),
        (Errored(cause=Cause.DNS, evidence=EVIDENCE), "errored"),
        (Cancelled(by="closed"), "cancelled"),
        (None, "cancelled"),
    ],
)
def test_each_outcome_is_counted_under_its_own_name(outcome: Outcome | None, word: str) -> None:
    metrics = Metrics()
    attempts = AttemptMetrics(metrics)
    attempts.declare("p", [JobKind.BUILD])
    attempts.attempt_began(began())
    assert value(metrics, "opam_ci_jobs_running", pool="p", kind="build") == 1
    attempts.attempt_ended(ended(outcome))
    for each in OUTCOMES:
        for name in ("opam_ci_attempts_total", "opam_ci_jobs_total"):
            counted = value(metrics, name, pool="p", kind="build", outcome=each)
            assert counted == (1 if each == word else 0), (name, each)
    faults = value(metrics, "opam_ci_infrastructure_faults_total", pool="p", cause="dns")
    assert faults == (1 if word == "errored" else 0)
    failures = value(
        metrics, "opam_ci_package_failures_total", pool="p", kind="build", reason="test"
    )
    assert failures == (1 if word == "failed" else 0)
    assert value(metrics, "opam_ci_jobs_running", pool="p", kind="build") == 0
    assert value(metrics, "opam_ci_job_wait_seconds_sum", pool="p", kind="build") == 3
    assert (
        value(metrics, "opam_ci_attempt_duration_seconds_sum", pool="p", kind="build", outcome=word)
        == 7
    )
    assert value(metrics, "opam_ci_worker_clock_offset_seconds") == 2


def test_archives_count_by_where_they_came_from() -> None:
    metrics = Metrics()
    attempts = AttemptMetrics(metrics)
    attempts.declare("p", [])
    name = "opam_ci_source_archives_total"
    assert [value(metrics, name, pool="p", origin=one) for one in ("taken", "fetched")] == [0, 0]
    for sources in (None, SourceCounts(taken=3, fetched=1), SourceCounts(taken=4)):
        attempts.attempt_ended(replace(ended(PASSED), sources=sources))
    assert [value(metrics, name, pool="p", origin=one) for one in ("taken", "fetched")] == [7, 1]


def test_each_verdict_of_a_lint_of_several_packages_counts() -> None:
    metrics = Metrics()
    attempts = AttemptMetrics(metrics)
    lint = {"pool": "p", "kind": "lint"}
    unfit = Failed(reason=FailureReason.LINT, evidence=EVIDENCE)
    done = replace(
        ended(PASSED), kind=JobKind.LINT, verdicts=(PASSED, unfit, unfit, PASSED, PASSED)
    )
    attempts.attempt_began(replace(began(), kind=JobKind.LINT, jobs=5))
    attempts.attempt_ended(done)
    for name in ("opam_ci_attempts_total", "opam_ci_jobs_total"):
        assert value(metrics, name, outcome="passed", **lint) == 3
        assert value(metrics, name, outcome="failed", **lint) == 2
    assert value(metrics, "opam_ci_package_failures_total", reason="lint", **lint) == 2
    assert value(metrics, "opam_ci_jobs_running", **lint) == 0
    # A worker that is lost in the middle of it costs an attempt of each.
    lost = replace(began(lost_before=True), kind=JobKind.LINT, jobs=5)
    attempts.attempt_began(lost)
    faults = value(metrics, "opam_ci_infrastructure_faults_total", pool="p", cause="worker_lost")
    assert faults == 5


def test_every_faulted_attempt_counts_and_only_the_last_one_as_a_job() -> None:
    metrics = Metrics()
    attempts = AttemptMetrics(metrics)
    errored = Errored(cause=Cause.DNS, evidence=EVIDENCE)
    for last in (False, False, True):
        attempts.attempt_began(began())
        attempts.attempt_ended(ended(errored, is_last=last))
    assert value(metrics, "opam_ci_infrastructure_faults_total", pool="p", cause="dns") == 3
    counted = {"pool": "p", "kind": "build", "outcome": "errored"}
    assert value(metrics, "opam_ci_attempts_total", **counted) == 3
    assert value(metrics, "opam_ci_jobs_total", **counted) == 1


def test_lost_attempt_is_counted_by_the_one_that_follows_it() -> None:
    metrics = Metrics()
    AttemptMetrics(metrics).attempt_began(began(lost_before=True))
    assert value(metrics, "opam_ci_infrastructure_faults_total", pool="p", cause="worker_lost") == 1


def test_canaries_are_not_counted_as_jobs() -> None:
    metrics = Metrics()
    attempts = AttemptMetrics(metrics)
    attempts.attempt_began(began(is_canary=True))
    attempts.attempt_ended(ended(FAILED, is_canary=True))
    attempts.canary_ended("p", "good", 4.0)
    shown = generate_latest(metrics.registry).decode()
    assert not re.search(r"^opam_ci_(attempts|jobs|package_failures)_total\{", shown, re.MULTILINE)
    assert value(metrics, "opam_ci_canary_runs_total", pool="p", result="good") == 1
    assert value(metrics, "opam_ci_canary_last_success_timestamp_seconds", pool="p")


def revision(number: int = 1) -> RevisionKey:
    return RevisionKey(repository="o/r", number=number, head="1" * 40, opened_at=NOW)


def batch(number: int, state: State, *jobs: tuple[str, JobKind, Outcome | None]) -> RowBatch:
    later = NOW + timedelta(minutes=3)
    return RowBatch(
        key=revision(number),
        revision=RevisionRecord(
            key=revision(number),
            base="b" * 40,
            state=state,
            planned=True,
            updated_at=later,
            sequence=1,
        ),
        rows=tuple(
            JobStatus(
                job=Job(platform="x", package=package, kind=kind),
                state=JobState.QUEUED if outcome is None else JobState.DECIDED,
                outcome=outcome,
            )
            for package, kind, outcome in jobs
        ),
        sequence=0,
        updated_at=later,
    )


def test_verdict_latency_is_that_of_the_first_verdict() -> None:
    metrics = Metrics()
    attempts = AttemptMetrics(metrics)
    for state in (State.PENDING, State.ERROR, State.PENDING, State.SUCCESS):
        attempts.recorded(batch(1, state), ())
    assert value(metrics, "opam_ci_verdict_latency_seconds_sum", state="error") == 180
    assert value(metrics, "opam_ci_verdict_latency_seconds_count", state="success") is None


def test_verdicts_that_are_judged_again_are_counted() -> None:
    metrics = Metrics()
    attempts = AttemptMetrics(metrics)
    attempts.declare_rejudged([JobKind.BUILD, JobKind.TEST])
    attempts.recorded(batch(1, State.PENDING), (JobKind.BUILD, JobKind.BUILD))
    name = "opam_ci_verdicts_rejudged_total"
    assert value(metrics, name, kind="build", outcome="errored") == 2
    assert value(metrics, name, kind="test", outcome="errored") == 0


def test_gauges_of_a_real_index(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'index.sqlite'}"
    index = Index.open(url)
    errored = Errored(cause=Cause.DISK_FULL, evidence=EVIDENCE)
    skipped = Skipped(reason=SkipReason.UNAVAILABLE, evidence=EVIDENCE)
    lint = ("a.1", JobKind.LINT, PASSED)
    index.record(batch(1, State.SUCCESS, lint, ("a.1", JobKind.BUILD, PASSED)))
    index.record(batch(2, State.SUCCESS, lint, ("a.1", JobKind.BUILD, skipped)))
    index.record(batch(3, State.SUCCESS, lint))
    index.record(batch(4, State.ERROR, lint, ("a.1", JobKind.BUILD, errored)))
    index.record(batch(5, State.PENDING, ("a.1", JobKind.BUILD, None)))
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as database, database:
        # Decided just now, the second of three a day after the end of its estimate.
        database.execute(
            "UPDATE revisions SET estimate_ended_at = datetime('now'),"
            " estimated_until = datetime('now', iif(id % 2, '+1 day', '-1 day')) WHERE id < 4"
        )
    gauges = IndexGauges(url)
    assert gauges.read() == IndexState(
        pull_requests={"success": 3, "error": 1, "pending": 1},
        undecided={"queued": 1},
        retrying={},
        errored={"disk_full": 1},
        incidents={},
        green_unbuilt=1,
        estimates=EstimatesKept(held=2, missed=1),
    )
    gauges.close()
    index.close()


def test_open_incidents_of_a_real_index(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'index.sqlite'}"
    Index.open(url).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as database, database:
        database.executemany(
            "INSERT INTO incidents (cause, scope, pool, first_seen_at, last_seen_at, resolved_at,"
            " faults, jobs, pull_requests, evidence)"
            " VALUES (?, 'pool', ?, '2026-01-01', '2026-01-01', ?, 1, 1, 1, '[]')",
            [("dns", None, None), ("disk_full", "p", None), ("disk_full", "p", "2026-01-01")],
        )
    gauges = IndexGauges(url)
    assert gauges.read().incidents == {"dns": {"any": 1}, "disk_full": {"p": 1}}
    gauges.close()


async def test_a_source_that_is_away_takes_its_series_along() -> None:
    metrics = Metrics()
    answers: list[IndexState | InfrastructureError] = [
        IndexState(
            pull_requests={"error": 2},
            undecided={"queued": 5},
            retrying={"dns": 1},
            errored={"disk_full": 7},
            incidents={"disk_full": {"p": 1}},
            green_unbuilt=0,
            estimates=EstimatesKept(held=9, missed=3),
        ),
        InfrastructureError("gone", cause=Cause.STORAGE),
    ]

    def read() -> IndexState:
        answer = answers.pop(0)
        if isinstance(answer, InfrastructureError):
            raise answer
        return answer

    async def no_pools() -> frozenset[str]:
        raise InfrastructureError("not asked here", cause=Cause.UNKNOWN)

    client = await Client.connect("127.0.0.1:1", lazy=True)
    collector = Collector(metrics, read, client, no_pools)
    await collector.collect()
    assert value(metrics, "opam_ci_jobs_errored", cause="disk_full") == 7
    assert value(metrics, "opam_ci_jobs_errored", cause="dns") == 0
    assert value(metrics, "opam_ci_estimates", result="held") == 9
    assert value(metrics, "opam_ci_estimates", result="missed") == 3
    assert value(metrics, "opam_ci_pull_requests", state="error") == 2
    assert value(metrics, "opam_ci_incidents_open", cause="disk_full", pool="p") == 1
    assert value(metrics, "opam_ci_incidents_open", cause="dns", pool="any") == 0
    await collector.collect()
    assert value(metrics, "opam_ci_jobs_errored", cause="disk_full") is None
    assert value(metrics, "opam_ci_estimates", result="held") is None
    green_unbuilt = value(metrics, "opam_ci_pull_requests_green_unbuilt")
    assert green_unbuilt is not None
    assert math.isnan(green_unbuilt)
    counted = {"source": "index"}
    assert value(metrics, "opam_ci_collections_total", result="ok", **counted) == 1
    assert value(metrics, "opam_ci_collections_total", result="failed", **counted) == 1


def test_health_shows_state_cause_and_each_quarantine_once() -> None:
    metrics = Metrics()
    show = HealthMetrics(metrics, ("p",)).show
    full = Finding(cause=Cause.DISK_FULL, detail="x")
    for health in (Health(), after_check(Health(), full), after_check(Health(), full), Health()):
        show(health)
    assert value(metrics, "opam_ci_worker_quarantines_total", pool="p", cause="disk_full") == 1
    assert value(metrics, "opam_ci_worker_trouble", pool="p", cause="disk_full") == 0
    assert value(metrics, "opam_ci_worker_state", pool="p", state="healthy") == 1
    show(after_check(Health(), full))
    assert value(metrics, "opam_ci_worker_trouble", pool="p", cause="disk_full") == 1
    assert value(metrics, "opam_ci_worker_state", pool="p", state="quarantined") == 1


def test_a_probe_is_a_state_without_a_cause() -> None:
    metrics = Metrics()
    show = HealthMetrics(metrics, ("p",)).show
    full = Finding(cause=Cause.DISK_FULL, detail="x")
    for health in (Health(), Health(probing=True, reason=full)):
        show(health)
    assert value(metrics, "opam_ci_worker_state", pool="p", state="probing") == 1
    assert value(metrics, "opam_ci_worker_state", pool="p", state="quarantined") == 0
    assert value(metrics, "opam_ci_worker_trouble", pool="p", cause="disk_full") == 0
    assert value(metrics, "opam_ci_worker_quarantines_total", pool="p", cause="disk_full") == 0


@pytest.mark.parametrize(
    ("status", "headers", "result"),
    [
        (201, {}, "ok"),
        (422, {}, "refused"),
        (403, {}, "refused"),
        (403, {"retry-after": "60"}, "limited"),
        (429, {}, "limited"),
        (502, {}, "error"),
    ],
)
async def test_github_writes_by_result(status: int, headers: dict[str, str], result: str) -> None:
    metrics = Metrics()
    limits = {
        "x-ratelimit-resource": "core",
        "x-ratelimit-remaining": "41",
        "x-ratelimit-limit": "5000",
        "x-ratelimit-reset": "1767225600",
    }
    inner = httpx.MockTransport(lambda _: httpx.Response(status, headers=headers | limits))
    async with httpx.AsyncClient(transport=MeteredTransport(metrics, inner)) as client:
        await client.post("https://api.example.org/x", json={})
    name = "opam_ci_github_requests_total"
    assert value(metrics, name, operation="write", result=result) == 1
    assert value(metrics, name, operation="read", result="ok") == 0
    assert value(metrics, "opam_ci_github_rate_limit_remaining", resource="core") == 41
    assert value(metrics, "opam_ci_github_rate_limit", resource="core") == 5000
    written_at = value(metrics, "opam_ci_github_last_write_timestamp_seconds")
    assert written_at is not None
    assert math.isnan(written_at) == (result != "ok")


async def test_github_out_of_reach_is_an_error_and_stays_one() -> None:
    metrics = Metrics()

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    transport = MeteredTransport(metrics, httpx.MockTransport(refuse))
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("https://api.example.org/x")
    assert value(metrics, "opam_ci_github_requests_total", operation="read", result="error") == 1


async def test_endpoint_shows_metrics_and_health() -> None:
    metrics = Metrics()
    status = WorkerStatus(worker="1@here", pools=("p",))
    metrics.name_worker("1@here")
    states = (WorkerState.HEALTHY, WorkerState.PROBING, WorkerState.QUARANTINED)
    shown = [status.model_copy(update={"state": state}) for state in states]
    app = application(metrics, lambda: shown.pop(0), "http://127.0.0.1:1/metrics")
    async with (
        serving(app, ("127.0.0.1", 0)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert 'opam_ci_worker_info{version="' in answer.text
        healthy, probing, ill = [await client.get("/healthz") for _ in states]
    assert [each.status_code for each in (healthy, probing, ill)] == [200, 200, 503]
    assert probing.json()["state"] == "probing"
    assert ill.json()["state"] == "quarantined"
    assert ill.json()["worker"] == "1@here"


async def test_a_port_in_use_and_an_invalid_address_are_errors_of_one_line() -> None:
    for text in ("", "9464", "localhost:1", "127.0.0.1:99999", "127.0.0.1:x"):
        with pytest.raises(UsageError, match=r"OPAM_CI_METRICS='.*' is not an address"):
            parse_address(text)
    assert parse_address("[::1]:9464") == ("::1", 9464)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        app = application(Metrics(), lambda: WorkerStatus(worker="x", pools=()))
        with pytest.raises(UsageError, match="choose another address"):
            async with serving(app, ("127.0.0.1", taken.getsockname()[1])):
                pass


def known_names() -> set[str]:
    names = set()
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        names |= {name}
        names |= {f"{name}{suffix}" for suffix in SUFFIXES if family.type == "histogram"}
    return names


def test_names_follow_the_conventions() -> None:
    for family in Metrics().registry.collect():
        if not family.name.startswith("opam_ci_"):
            continue
        assert family.documentation.endswith("."), family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds"), family.name
        assert not re.search(r"_(ms|millis|minutes|mb|kb)$", family.name)


@pytest.mark.parametrize("name", ["rules.yml", "rules_test.yml", "rules_fast_test.yml"])
def test_rules_use_metrics_that_there_are(name: str) -> None:
    used = set(re.findall(r"\bopam_ci_[a-z_]+", (OPS / "prometheus" / name).read_text()))
    assert used
    assert not used - known_names()


def test_dashboard_uses_metrics_that_there_are_and_leaves_none_out() -> None:
    dashboard = json.loads((OPS / "grafana" / "opam-ci.json").read_text())
    text = " ".join(
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    )
    used = set(re.findall(r"\bopam_ci_[a-z_]+", text))
    assert not used - known_names()
    base = {re.sub(f"({'|'.join(SUFFIXES)})$", "", name) for name in used}
    ours = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in Metrics().registry.collect()
        if family.name.startswith("opam_ci_")
    }
    assert ours - base == set()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    alerts = set(re.findall(r"alert: (\w+)", (OPS / "prometheus" / "rules.yml").read_text()))
    tests = "".join(path.read_text() for path in (OPS / "prometheus").glob("*_test.yml"))
    firing = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", tests))
    assert len(alerts) > 15
    assert firing == alerts


def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    for words in (
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml", "rules_fast_test.yml"),
    ):
        done = subprocess.run(
            [promtool, *words],
            cwd=OPS / "prometheus",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_document_lists_every_metric_with_its_labels_and_meaning() -> None:
    lines = (ROOT / "docs" / "metrics.md").read_text().splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `opam_ci_")}
    for family in Metrics().registry.collect():
        if not family.name.startswith("opam_ci_"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name in rows, name
        assert family.documentation in rows.pop(name)
    assert not rows
