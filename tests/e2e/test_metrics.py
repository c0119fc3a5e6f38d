"""A real Prometheus scrapes real workers: dashboard, rules, and a full disk."""

import json
import re
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import System, result, wait_for
from tests.support.fakes import opam_repository
from tests.support.fakes.prometheus import prometheus, require
from tests.support.ports import free_port
from tests.support.worlds.machines import health, metrics, start_worker
from tests.support.worlds.rootfs import CAN_LIMIT

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
        # Nothing here writes to GitHub, an index need not know incidents, and who has no control
        # groups counts no processor time.
        absent = "github|incidents" if CAN_LIMIT else "github|incidents|cpu_seconds"
        nothing = [
            title
            for title, expression in expressions().items()
            if not server.query(expression) and not re.search(absent, expression)
        ]
        assert not nothing
        assert all(rule["health"] == "ok" for rule in server.rules())
        assert not server.alerts()

        def number(expression: str) -> float:
            (found,) = server.query(expression)
            return float(found["value"][1])

        def soon(expression: str, value: float) -> None:
            """A scrape of a busy machine takes long, and shows what was so at its begin."""
            wait_for(lambda: number(expression) == value, 60)

        # Failure and error are apart; the canary's bad package counts with nobody's.
        soon(f'sum(opam_ci_package_failures_total{{pool="{pool}"}})', 1)
        assert not server.query("sum by (pool, cause) (opam_ci_infrastructure_faults_total) > 0")
        decided = f'opam_ci_jobs_total{{pool="{pool}",kind="build",outcome="%s"}}'
        soon(decided % "passed", 1)
        soon(decided % "failed", 1)
        assert number(decided % "errored") == 0
        # One for each package.
        soon('opam_ci_jobs_total{pool="orchestration",kind="lint",outcome="passed"}', 2)
        soon('opam_ci_verdict_latency_seconds_count{state="failure"}', 1)
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
