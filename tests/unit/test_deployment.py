"""What the development set-up in containers shares with builds, and what its image is made of."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # comes with openapi-core

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.dev.yml"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def volumes(service: dict[str, Any]) -> set[str]:
    """Names of the volumes, and paths of the machine, that a service sees."""
    return {re.split(r":(?=/)", each)[0] for each in service.get("volumes", [])}


def test_builds_reach_temporal_and_the_store_alone(services: dict[str, dict[str, Any]]) -> None:
    build = services.pop("build")
    others = services.values()
    assert [each for each in others if volumes(each) & volumes(build) - {"store"}] == []
    networks = set(build["networks"])
    reached = {name for name, each in services.items() if networks & set(each["networks"])}
    assert reached == {"temporal"}
    assert build.get("network_mode") is None
    assert "index" not in str(build["environment"]).lower()
    privileged = [name for name, each in services.items() if each.get("privileged")]
    assert privileged == []


def test_it_is_called_a_development_set_up() -> None:
    assert COMPOSE.read_text().startswith("# A development set-up on one machine, not a deployment")
    assert yaml.safe_load(COMPOSE.read_text())["name"] == "opam-ci-dev"


def test_the_image_is_made_of_what_is_known() -> None:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert bases
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", each) for each in bases)
    installs = re.findall(r"pip install ([^&\n]*)", text)
    assert installs
    for options in installs:
        for option in ("--require-hashes", "--no-deps", "--only-binary :all:"):
            assert option in options


def test_the_file_is_one_that_docker_compose_understands() -> None:
    if shutil.which("docker") is None or not _succeeds("docker", "compose", "version"):
        pytest.skip("docker with its plugin compose is not installed")
    words = ["docker", "compose", "--file", str(COMPOSE), "config", "--quiet"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _succeeds(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
