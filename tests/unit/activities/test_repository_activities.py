"""What a head costs the orchestration worker, measured in a process of its own."""

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from opam_ci.activities.repository import RepositoryActivities
from opam_ci.clients.lint.opam import OpamLint
from opam_ci.clients.lint.program import HostProgram
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.messages import JobContext, RepositoryTask
from opam_ci.core.jobs.requests import PullRequestRef, Revision
from opam_ci.core.jobs.retry import RetrySettings
from tests.support.fakes.clone import Clone, Content, at, opam

ROOT: Final = Path(__file__).resolve().parents[3]
MODULE: Final = "tests.unit.activities.test_repository_activities"
MIB: Final = 1 << 20
MEMORY: Final = 100
"""MB by which a worker may grow, and that git and a process of ours may take."""


def peak() -> int:
    """The most memory that this process had, in KiB.

    Not `ru_maxrss`, which is at least that of whoever started the process.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def run(clone: Path, store: Path, base: str, head: str) -> None:
    """Runs the activity, and prints what it returned or raised, and what it took."""
    repository = RepositoryActivities(
        ArtifactStore.open(store.as_uri()), OpamLint(HostProgram(Path("/nowhere/opam")))
    )
    task = RepositoryTask(
        context=JobContext(
            pull_request=PullRequestRef(owner="o", repo="r", number=1),
            head=head,
            opened_at=datetime.now(UTC),
            round=1,
            retry=RetrySettings(),
        ),
        revision=Revision(head=head, base=base, repository=str(clone)),
    )
    worker = SimpleNamespace(config=SimpleNamespace(identity="worker"))
    environment = ActivityEnvironment(client=cast("Client", SimpleNamespace(service_client=worker)))
    before = peak()
    began_at = time.monotonic()
    try:
        report = asyncio.run(environment.run(repository.analyse, task))
        result = {"type": "Passed", "packages": len(report.analysis.packages)}
    except ApplicationError as error:
        [details] = error.details
        result = {"type": error.type, **details.outcome.model_dump(mode="json")}
    seconds = time.monotonic() - began_at
    # A child's peak is at least that of the process that forked it.
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss - before
    taken = {
        "seconds": seconds,
        "worker": (peak() - before) / 1024,
        "children": children / 1024,
    }
    print(json.dumps({**result, **taken}))  # noqa: T201 - for the test


def measure(clone: Clone, tmp_path: Path, files: Mapping[str, Content]) -> dict[str, Any]:
    base = clone.commit("master", {"repo": b'opam-version: "2.0"\n', at("a.1"): opam()})
    head = clone.commit("topic", files, parents=(base,))
    store = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-m", MODULE, str(clone.path), str(store), base, head],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "clone.git")


TOO_BIG: Final = (
    'File "packages/b/b.1/files/f00000" is too big (52428800 bytes, at most 1048576): '
    "move it to the sources of the package"
)
# Blobs of zeros: 50 MiB are 50 KB in a pull request.
HOSTILE: Final[Mapping[str, tuple[int, int, str]]] = {
    "one file": (1, 50 * MIB, TOO_BIG),
    "ten thousand large files": (10_000, 50 * MIB, TOO_BIG),
    "ten thousand small files": (
        10_000,
        1,
        'Too many changed files in "packages/b/b.1" (10001, at most 2000)',
    ),
    "a large package": (
        11,
        MIB,
        'Changed files in "packages/b/b.1" are too big (11534374 bytes together, at most 10485760)',
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_head_that_is_too_large_is_refused_before_it_is_read(
    clone: Clone, tmp_path: Path, case: str
) -> None:
    number, size, message = HOSTILE[case]
    blob = clone.store(b"\0" * size)
    files = {at("b.1", f"files/f{count:05}"): blob for count in range(number)}
    measured = measure(clone, tmp_path, {at("b.1"): opam(), **files})
    print(case, measured)  # noqa: T201 - shown with -s, and when it fails
    assert measured["type"] == "PackageFailure"
    assert (measured["kind"], measured["reason"]) == ("failed", "analysis")
    assert measured["evidence"]["detail"] == message
    assert measured["seconds"] < 10
    assert measured["worker"] < MEMORY
    assert measured["children"] < MEMORY
    assert not list(tmp_path.glob("store/repositories/**/*.tar.gz"))


def test_the_largest_head_is_exported_without_being_held_in_memory(
    clone: Clone, tmp_path: Path
) -> None:
    blob = clone.store(b"\0" * MIB)
    packages = [f"p.{count}" for count in range(5)]
    files: dict[str, Content] = {at(each): opam() for each in packages}
    files |= {at(each, f"files/{count}"): blob for each in packages for count in range(9)}
    measured = measure(clone, tmp_path, files)
    print(measured)  # noqa: T201 - shown with -s, and when it fails
    assert (measured["type"], measured["packages"]) == ("Passed", 5)
    assert measured["worker"] < 20
    assert measured["children"] < MEMORY
    # Of the merge, and of the base alone.
    overlays = list(tmp_path.glob("store/repositories/heads/**/*.tar.gz"))
    assert all(each.stat().st_size > 0 for each in overlays)
    assert len(overlays) == 2


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
