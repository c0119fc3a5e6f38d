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
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.messages import HeadTask, JobContext, RepositoryTask
from opam_ci.core.jobs.moved_base import BaseLook
from opam_ci.core.jobs.requests import Origin, PullRequestRef, Revision
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.submission.analysis import CONFLICT
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


class Remote:
    """A repository on GitHub with a head, and the activity that looks at it on a moved base."""

    def __init__(self, tmp_path: Path) -> None:
        self.clone = Clone(tmp_path / "remote.git")
        self.base = self.clone.commit("master", {at("a.1"): opam()})
        self.head = self.clone.commit(
            "refs/pull/7/head", {at("a.1"): opam('depends: "b"')}, parents=(self.base,)
        )
        self.store = ArtifactStore.open("memory:")
        self._repository = RepositoryActivities(
            self.store, OpamLint(HostProgram(Path("/nowhere/opam"))), tmp_path / "clones"
        )

    def move(self, files: Mapping[str, Content]) -> str:
        before = self.clone.git("rev-parse", "refs/heads/master")
        return self.clone.commit("master", files, parents=(before,))

    async def look(self, base: str) -> BaseLook:
        origin = Origin(
            clone_url=self.clone.path.as_uri(), branch="master", as_of=datetime.now(UTC)
        )
        task = RepositoryTask(
            context=JobContext(
                pull_request=PullRequestRef(owner="o", repo="r", number=7),
                head=self.head,
                opened_at=datetime.now(UTC),
                round=1,
                retry=RetrySettings(),
            ),
            revision=Revision(head=self.head, base=base, repository="", origin=origin),
        )
        look = HeadTask(on=task)
        found: BaseLook = await ActivityEnvironment().run(self._repository.look_at_base, look)
        return found


async def test_a_look_at_a_moved_base_finds_what_differs_and_keeps_nothing(tmp_path: Path) -> None:
    remote = Remote(tmp_path)
    first = await remote.look(remote.base)
    assert (first.base, first.failure) == (remote.base, None)
    assert first.inputs is not None
    unrelated = remote.move({at("z.1"): opam()})
    look = await remote.look(unrelated)
    assert look == first.model_copy(update={"base": unrelated})
    below = await remote.look(remote.move({at("b.1"): opam()}))
    assert below.inputs is not None
    assert below.inputs.changes == first.inputs.changes
    assert below.inputs.reach != first.inputs.reach
    moved = remote.move({at("a.1"): opam('depends: "c"')})
    look = await remote.look(moved)
    assert look == BaseLook(base=moved, failure=CONFLICT)
    assert await remote.store.list("repositories") == []


async def test_a_clone_that_has_the_commits_is_not_fetched_for_a_look(tmp_path: Path) -> None:
    remote = Remote(tmp_path)
    first = await remote.look(remote.base)
    remote.clone.path.rename(tmp_path / "away")
    assert await remote.look(remote.base) == first
    with pytest.raises(InfrastructureError):
        await remote.look("f" * 40)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
