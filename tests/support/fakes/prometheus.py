"""A real Prometheus with our rules, which scrapes the workers of a test."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

RULES = Path(__file__).resolve().parents[3] / "ops" / "prometheus" / "rules.yml"


def require() -> None:
    """Skips the test on a machine without Prometheus."""
    if shutil.which("prometheus") is None:
        pytest.skip("Prometheus is not installed (Debian package prometheus)")


class Prometheus:
    """Queries a Prometheus.

    Attributes:
        url: Of its API.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as response:  # noqa: S310 - our own
            body = json.load(response)
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluates an expression now; HTTPError for an invalid one."""
        found: list[dict[str, Any]] = self._get(
            f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        )["result"]
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that fire."""
        found = self._get("/api/v1/alerts")["alerts"]
        return [each for each in found if each["state"] == "firing"]

    def rules(self) -> list[dict[str, Any]]:
        """Rules, and how their last evaluation went."""
        return [rule for group in self._get("/api/v1/rules")["groups"] for rule in group["rules"]]


@contextmanager
def prometheus(
    directory: Path, port: int, targets: Sequence[str], *, interval: str = "1s"
) -> Iterator[Prometheus]:
    """Runs Prometheus for the time of a block.

    Args:
        directory: For its data.
        port: Of its API.
        targets: `HOST:PORT` of workers.
        interval: Between scrapes, and between evaluations of the rules.
    """
    directory.mkdir()
    config = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "opam-ci", "static_configs": [{"targets": [*targets]}]}],
    }
    # JSON is YAML.
    (directory / "prometheus.yml").write_text(json.dumps(config))
    command = [
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 30
        while not _ready(url):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail((directory / "log").read_text())
            time.sleep(0.1)
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(30)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5):  # noqa: S310 - our own
            return True
    except (urllib.error.URLError, OSError):
        return False
