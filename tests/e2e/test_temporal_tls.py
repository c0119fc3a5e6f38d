"""A fleet on a Temporal frontend that wants certificates, and what build workers call there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import System, result, wait_for
from tests.support.fakes import opam_repository
from tests.support.fakes.tls import Authority, frontend
from tests.support.ports import free_port
from tests.support.worlds.machines import metrics

pytestmark = pytest.mark.e2e

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
QUICK = 'build: ["sh" "-c" "echo done"]\n'
BROKEN = 'build: ["sh" "-c" "exit 1"]\n'
REFUSED = re.compile(r"opam-ci: cannot connect to the Temporal server at .*TEMPORAL_….*\n")


@pytest.fixture
def secured(system: System, tmp_path: Path) -> Iterator[System]:
    """The system, whose processes know Temporal by its own variables alone."""
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.issue("ci")
    with frontend(system.address, authority) as address:
        del system.environment["OPAM_CI_TEMPORAL"]
        system.environment |= {
            "TEMPORAL_ADDRESS": address,
            "TEMPORAL_TLS_SERVER_CA_CERT_PATH": str(authority.certificate),
            "TEMPORAL_TLS_CLIENT_CERT_PATH": str(certificate),
            "TEMPORAL_TLS_CLIENT_KEY_PATH": str(key),
        }
        yield system
        system.stop()


def called(port: int) -> set[str]:
    """Temporal's methods that a worker has called, by its metrics."""
    pattern = r'^temporal_(?:long_)?request\w*\{.*?operation="(\w+)"'
    found = re.findall(pattern, metrics(port), re.MULTILINE)
    assert found
    return set(found)


def permitted_methods() -> set[str]:
    """Those that the document gives to build workers."""
    (row,) = re.findall(r"^\| build worker \|([^|]*)\|", OPERATIONS.read_text(), re.MULTILINE)
    return set(re.findall(r"`(\w+)`", row))


@pytest.mark.timeout(300)
def test_with_certificates_all_is_as_usual_and_without_them_nothing(secured: System) -> None:
    port = free_port()
    secured.start_worker("--no-build")
    secured.environment["OPAM_CI_METRICS"] = f"127.0.0.1:{port}"
    secured.start_worker("--no-orchestrate")
    del secured.environment["OPAM_CI_METRICS"]
    packages = {
        **opam_repository.package("good.1", QUICK),
        **opam_repository.package("bad.1", BROKEN),
    }
    repo = opam_repository.write(secured.home / "secured", {}, {"topic": packages})
    check = secured.start_check("--repo", str(repo), "--branch", "topic")
    assert result(check)["state"] == "failure"
    assert "local/secured" in secured.run("status", check=0).stdout
    assert "yes" in secured.run("workers", check=0).stdout
    wait_for(lambda: "RespondActivityTaskFailed" in called(port), 60)
    # It asks for the schedule of its canary, and goes on where it may not make it.
    assert called(port) - {"CreateSchedule"} <= permitted_methods()
    assert {"PollActivityTaskQueue", "RespondActivityTaskCompleted"} <= called(port)
    del secured.environment["TEMPORAL_TLS_CLIENT_CERT_PATH"]
    del secured.environment["TEMPORAL_TLS_CLIENT_KEY_PATH"]
    for words in (("status",), ("worker",), ("check", "--repo", str(repo), "--branch", "topic")):
        done = secured.run(*words)
        assert done.returncode == 2, words
        assert REFUSED.fullmatch(done.stderr), done.stderr
