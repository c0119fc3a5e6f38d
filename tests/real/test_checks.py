"""Pull requests on the real opam-repository have the right outcome, with real opam builds.

docs/checks.md has the whole table; these are the ones that take seconds. They need an archive
mirror (docs/checks.md says how to make one): its directory is in OPAM_CI_TEST_MIRROR.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import System, result, rows, server, system  # noqa: F401 - fixtures
from tests.support.fakes import real_branches

pytestmark = [pytest.mark.real, pytest.mark.e2e, pytest.mark.xdist_group("real-checks")]


@pytest.fixture(scope="module")
def mirror() -> Path:
    """The archive mirror; without one the test is skipped."""
    given = os.environ.get("OPAM_CI_TEST_MIRROR")
    if not given:
        pytest.skip("OPAM_CI_TEST_MIRROR does not name an archive mirror; see docs/checks.md")
    path = Path(given).resolve()
    real_branches.archive_of_num(path)
    return path


@pytest.fixture
def repository(real_repository: Path, tmp_path: Path) -> Path:
    """A clone of the real repository to which a test may add branches."""
    return real_branches.borrow(real_repository, tmp_path / "opam-repository.git")


def outcome(row: dict[str, Any]) -> str:
    found = row["outcome"]
    detail = found.get("reason") or found.get("cause")
    return f"{found['kind']}({detail})" if detail else str(found["kind"])


def reported(row: dict[str, Any]) -> str:
    return json.dumps(row["outcome"]["evidence"])


class Checks:
    """Checks branches of the real repository one after another."""

    def __init__(self, system: System, repository: Path, mirror: Path) -> None:  # noqa: F811 - a fixture's value
        self._system = system
        self._repository = repository
        self._mirror = mirror

    def check(self, branch: str, *, code: int) -> dict[str, dict[str, Any]]:
        """Makes a branch, checks it, and returns its rows by job kind and package."""
        real_branches.make(self._repository, [branch])
        words = ("--repo", str(self._repository), "--branch", branch, "--json", "--attempts", "1")
        mirrors = ("--mirror", self._mirror.as_uri(), "--only-mirrored")
        return rows(result(self._system.run("check", *words, *mirrors, check=code)))


@pytest.mark.timeout(300)
def test_branches_come_to_the_right_outcome(
    system: System,  # noqa: F811 - the fixture
    repository: Path,
    mirror: Path,
) -> None:
    system.start_worker()
    checks = Checks(system, repository, mirror)

    found = checks.check("new-release", code=0)
    assert outcome(found["build num.1.7"]) == "passed"
    assert outcome(found["test num.1.7"]) == "passed"

    found = checks.check("failing-test", code=1)
    assert outcome(found["build num.1.6"]) == "passed"
    assert outcome(found["test num.1.6"]) == "failed(test)"
    assert "make test" in reported(found["test num.1.6"])

    found = checks.check("broken-patch", code=1)
    assert outcome(found["build num.1.6"]) == "failed(build)"
    assert "change.patch" in reported(found["build num.1.6"])
    assert outcome(found["test num.1.6"]) == "skipped(not_built)"

    found = checks.check("accepted-failure", code=0)
    assert outcome(found["build num.1.6"]) == "skipped(accepted_failure)"

    found = checks.check("no-such-dependency", code=1)
    assert outcome(found["build obuild.0.1.11"]) == "failed(not_installable)"
    assert "obuild.0.1.11 needs no-such-package: no such package" in reported(
        found["build obuild.0.1.11"]
    )
