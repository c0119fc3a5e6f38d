"""A real Prometheus scrapes real workers: dashboard, rules, and a full disk."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from opam_ci.clients.runners.settings import default_home as default_cache
from opam_ci.core.health import WorkerState
from tests.e2e.conftest import System, free_port, result, wait_for
from tests.fakes import opam_repository
from tests.fakes.prometheus import prometheus, require

pytestmark = pytest.mark.e2e

DASHBOARD = Path(__file__).resolve().parents[2] / "ops" / "grafana" / "opam-ci.json"
GOOD = 'build: ["sh" "-c" "echo done"]\n'
BAD = 'build: ["sh" "-c" "echo Error: no; exit 2"]\n'


def expressions() -> dict[str, str]:
    """The dashboard's queries by panel, with its variables filled in as Grafana does."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "1m").replace("$pool", ".*")
            assert "$" not in text, text
            found[panel["title"]] = text
    return found


def health(port: int) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def start_worker(system: System, port: int, *words: str, **environment: str) -> int:
    """Starts a worker with metrics and a canary; returns its process id."""
    system.environment |= {
        "OPAM_CI_METRICS": f"127.0.0.1:{port}",
        "OPAM_CI_CANARY": "true",
        **environment,
    }
    return system.start_worker(*words).pid


@pytest.mark.timeout(300)
def test_every_query_and_rule_works_on_a_real_run(system: System, tmp_path: Path) -> None:
    require()
    port, pool = free_port(), "linux-amd64"
    pid = start_worker(system, port)
    with prometheus(tmp_path / "prometheus", free_port(), [f"127.0.0.1:{port}"]) as server:
        repo = opam_repository.write(
            system.home / "measured",
            {},
            {
                "topic": {
                    **opam_repository.package("good.1", GOOD),
                    **opam_repository.package("bad.1", BAD),
                }
            },
        )
        check = system.start_check("--repo", str(repo), "--branch", "topic")
        assert result(check)["state"] == "failure"
        good_canary = f'opam_ci_canary_last_success_timestamp_seconds{{pool="{pool}"}}'
        wait_for(lambda: server.query(good_canary), 90)
        # One more read of the index after the last record, and two scrapes for a rate.
        wait_for(lambda: server.query('opam_ci_pull_requests{state="failure"} == 1'), 30)
        time.sleep(3)
        nothing = [
            title
            for title, expression in expressions().items()
            # Nothing here writes to GitHub, and an index need not know incidents.
            if not server.query(expression) and not re.search("github|incidents", expression)
        ]
        assert not nothing
        assert all(rule["health"] == "ok" for rule in server.rules())
        assert not server.alerts()

        def number(expression: str) -> float:
            (found,) = server.query(expression)
            return float(found["value"][1])

        # Failure and error are apart; the canary's bad package counts with nobody's.
        assert number(f'sum(opam_ci_package_failures_total{{pool="{pool}"}})') == 1
        assert number(f'sum(opam_ci_infrastructure_faults_total{{pool="{pool}"}})') == 0
        decided = f'opam_ci_jobs_total{{pool="{pool}",kind="build",outcome="%s"}}'
        assert number(decided % "passed") == 1
        assert number(decided % "failed") == 1
        assert number(decided % "errored") == 0
        assert number('opam_ci_jobs_total{pool="orchestration",kind="lint",outcome="passed"}') == 1
        assert number('opam_ci_verdict_latency_seconds_count{state="failure"}') == 1
        assert number(f'opam_ci_canary_runs_total{{pool="{pool}",result="good"}}') >= 1
        assert number(f'opam_ci_queue_workers{{pool="{pool}"}}') >= 1
    code, said = health(port)
    assert code == 200
    assert said["worker"].startswith(f"{pid}@")
    assert said["state"] == "healthy"
    text = metrics(port)
    # No series names a package, a pull request or a commit.
    for word in ("good.1", "bad.1", "topic", "measured"):
        assert not re.search(rf'="[^"]*{re.escape(word)}', text), word


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A cache on a file system of its own, with the machine's ready images."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=5g", "opam-ci-test", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        images = default_cache() / "images"
        images.mkdir(parents=True, exist_ok=True)
        (directory / "images").symlink_to(images)
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def resize(directory: Path, *, spare: int | None) -> None:
    """Leaves that many bytes free, by taking the others away; None gives them back."""
    usage = shutil.disk_usage(directory)
    size = 5 << 30 if spare is None else usage.used + spare
    subprocess.run(["mount", "-o", f"remount,size={size}", directory], check=True)


@pytest.mark.timeout(300)
def test_full_disk_is_named_within_two_scrapes_and_its_repair_is_noticed(
    system: System, tmp_path: Path
) -> None:
    require()
    interval = 15
    with small_disk(tmp_path / "disk") as disk:
        broken, well = free_port(), free_port()
        pid = start_worker(
            system, broken, "--no-orchestrate", "--builds", "1", OPAM_CI_CACHE=str(disk)
        )
        start_worker(system, well, "--builds", "1", OPAM_CI_CACHE=str(default_cache()))
        wait_for(lambda: health(broken)[1]["state"] == WorkerState.HEALTHY, 60)
        targets = [f"127.0.0.1:{port}" for port in (broken, well)]
        with prometheus(
            tmp_path / "prometheus", free_port(), targets, interval=f"{interval}s"
        ) as server:
            wait_for(lambda: len(server.query("up == 1")) == 2, 2 * interval)
            resize(disk, spare=1 << 20)
            wait_for(server.alerts, 2 * interval)
            (alert,) = server.alerts()
            assert alert["labels"]["alertname"] == "OpamCiWorkerDiskFull"
            summary = alert["annotations"]["summary"]
            assert re.fullmatch(
                rf"pool linux-amd64: worker {pid}@\S+ takes no jobs \(disk_full\)", summary
            )
            code, said = health(broken)
            assert (code, said["state"], said["cause"]) == (503, "quarantined", "disk_full")
            assert re.fullmatch(r".*/disk has [01] MiB free and needs 4096", said["detail"])
            # Meanwhile the other worker builds, and nobody's package is blamed.
            packages = {
                path: text
                for n in range(2)
                for path, text in opam_repository.package(f"p{n}.1", GOOD).items()
            }
            repo = opam_repository.write(system.home / "meanwhile", {}, {"topic": packages})
            check = system.start_check(
                *("--repo", str(repo), "--branch", "topic", "--retry-after", "1")
            )
            assert result(check)["state"] == "success"
            resize(disk, spare=None)
            wait_for(lambda: health(broken)[0] == 200, 30)
            trouble = r'opam_ci_worker_trouble\{cause="disk_full",pool="linux-amd64"\} 0'
            assert re.search(trouble, metrics(broken))
