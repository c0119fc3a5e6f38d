"""Hostile packages through a real check: the right verdict on each, and no harm to the CI."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from opam_ci.cli.local import services
from tests.e2e.conftest import System, result, rows
from tests.support.fakes import opam_repository
from tests.support.fakes.clone import Clone
from tests.support.ports import free_port
from tests.support.samples import hostile
from tests.support.samples.hostile import FILE_NAMES, LIMITED, PACKAGES, PLAIN, Hostile
from tests.support.worlds.machines import health, start_worker
from tests.support.worlds.rootfs import CAN_LIMIT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

BUILDS_AT_ONCE = 4

PLATFORMS = f"""
[defaults]
opam = "system"
runner = "rootfs"
timeouts = {{ build = "{hostile.TIMEOUT} s", test = "{hostile.TIMEOUT} s" }}
[pools.linux-amd64]
arch = "amd64"
[[platforms]]
distribution = "debian-13"
ocaml = "5.3"
"""

TESTED = PACKAGES | (LIMITED if CAN_LIMIT else {})


@dataclass(frozen=True)
class Attack:
    """What came of all hostile submissions.

    Attributes:
        rows: The jobs of the packages, by kind and package.
        refused: The summary of each branch with a hostile file name.
        health: What the worker says of itself at the end.
        incidents: What is listed of them.
        log: The worker's.
    """

    rows: dict[str, dict[str, Any]]
    refused: dict[str, dict[str, Any]]
    health: dict[str, Any]
    incidents: list[dict[str, Any]]
    log: str


@pytest.fixture(scope="module")
def attack(server: services.Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    """One worker, one pull request with all packages, and one for each hostile file name."""
    directory = tmp_path_factory.mktemp("hostile")
    system = System(directory, server.address)
    port = free_port()
    try:
        start_worker(
            system,
            port,
            *("--builds", str(BUILDS_AT_ONCE)),
            OPAM_CI_JOB_MEMORY=str(hostile.MEMORY),
            OPAM_CI_JOB_PIDS=str(hostile.PROCESSES),
            OPAM_CI_JOB_DISK=str(hostile.DISK),
        )
        repo = write_repository(directory / "repo")
        platforms = directory / "platforms.toml"
        platforms.write_text(PLATFORMS)
        words = ("--repo", str(repo), "--platforms", str(platforms), "--retry-after", "1")
        packages = system.start_check(*words, "--branch", "packages")
        # Meanwhile, one after the other: each has its own workflow.
        refused = {
            branch: result(system.run("check", "--json", *words, "--branch", branch))
            for branch in FILE_NAMES
        }
        found = rows(result(packages))
        end = time.monotonic() + 60
        while (now := health(port)[1])["state"] != "healthy" and time.monotonic() < end:
            time.sleep(0.2)
        listed = system.run("incidents", "--json", check=0).stdout
        yield Attack(
            rows=found,
            refused=refused,
            health=now,
            incidents=[json.loads(line) for line in listed.splitlines()],
            log=(directory / "worker-0.log").read_text(),
        )
    finally:
        system.stop()


def write_repository(path: Path) -> Path:
    """Writes a clone with a branch of all packages, and one for each hostile file name."""
    clone = Clone(path)
    base = {
        file: text.encode()
        for name, body in opam_repository.COMPILER.items()
        for file, text in opam_repository.package(name, body).items()
    }
    start = clone.commit("master", {"repo": b'opam-version: "2.0"\n', **base})
    packages = {
        file: text.encode()
        for name, package in TESTED.items()
        for file, text in opam_repository.package(name, package.body).items()
    }
    clone.commit("packages", packages, parents=(start,))
    for branch, (file, content) in FILE_NAMES.items():
        clone.commit(branch, dict((PLAIN, (file, content))), parents=(start,))
    return path


def verdict(row: dict[str, Any]) -> str:
    found = row["outcome"]
    detail = found.get("reason") or found.get("cause") or found.get("by")
    return f"{found['kind']}({detail})" if detail else str(found["kind"])


def explained(row: dict[str, Any]) -> str:
    evidence = row["outcome"]["evidence"]
    return f"{row['job']}: {verdict(row)} by {evidence['rule']}: {evidence}\n{row['faults']}"


@pytest.mark.parametrize(("name", "package"), TESTED.items(), ids=TESTED)
def test_a_hostile_package_gets_its_own_verdict(
    attack: Attack, name: str, package: Hostile
) -> None:
    expected = {"build": package.build} | ({"test": package.test} if package.test else {})
    found = {
        kind: row
        for kind in ("build", "test")
        if (row := attack.rows.get(f"{kind} {name}")) is not None
    }
    told = "\n".join(map(explained, found.values()))
    assert {kind: verdict(row) for kind, row in found.items()} == expected, told
    faults = [fault["evidence"]["rule"] for row in found.values() for fault in row["faults"]]
    # A limit that the job hit alone is tried once more; nothing else of a package is.
    assert faults == ([package.limit] if package.limit else []), told


@pytest.mark.parametrize("branch", FILE_NAMES)
def test_a_hostile_file_name_is_refused_with_its_path(attack: Attack, branch: str) -> None:
    found = rows(attack.refused[branch])
    told = "\n".join(map(explained, found.values()))
    assert {row: verdict(each) for row, each in found.items()} == {
        "analysis": "failed(analysis)"
    }, told
    path = FILE_NAMES[branch][0]
    evidence = found["analysis"]["outcome"]["evidence"]
    # However it is quoted or cut, so much of the path is there.
    assert path.partition("/files/")[0].isascii() is False or (
        path.partition("/files/")[0] in (evidence["detail"] or "")
    ), told
    assert "\n" not in (evidence["detail"] or "")


def test_the_worker_takes_no_harm(attack: Attack) -> None:
    assert attack.health["state"] == "healthy", attack.health
    assert attack.health["strikes"] == 0
    assert attack.incidents == []
    assert "quarantined" not in attack.log
    assert "Traceback" not in attack.log
