"""Git and workers that are killed at random moments: the next analysis works, and nothing stays.

More of them: `OPAM_CI_KILLS=200 ./opam-ci test tests/unit/clients/git/test_kills.py`.
"""

import asyncio
import itertools
import multiprocessing
import os
import random
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from opam_ci.clients.git import upstream as upstreams
from opam_ci.clients.git.exported import Exporter
from opam_ci.clients.git.healing import Recovery
from opam_ci.clients.git.upstream import Upstream
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.runners.sandbox.locks import temporary_files_in
from opam_ci.core.jobs.build import RepositoryRef
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.records import RevisionKey
from tests.support.fakes.clone import Clone, at, opam

KILLS = int(os.environ.get("OPAM_CI_KILLS", "30"))
SECONDS = 0.8
"""Time in which a worker does some heads on an idle machine, or one on a busy one."""

FILES = 300


async def analysed(
    upstream: Upstream, store: ArtifactStore, scratch: Path, number: int, head: str
) -> RepositoryRef:
    """What the activity does with a head, besides the rules."""
    async with temporary_files_in(scratch):
        base = await asyncio.to_thread(upstream.fetch, "master", number, head)
        testing = RevisionKey(
            repository="o/r", number=number, head=head, opened_at=datetime.now(UTC)
        )
        prepared = await Exporter(store).prepare(upstream.directory, testing, base, head)
        assert prepared.merged is not None
        return prepared.merged


def work(directory: Path, url: str, heads: list[str], ready: Event) -> None:
    """A worker: analyses heads until it is killed, whatever happens to its git."""
    maintained = directory / "clone.git" / upstreams._MAINTAINED

    async def for_ever() -> None:
        upstream = Upstream(directory / "clone.git", url)
        store = ArtifactStore.open((directory / "store").as_uri())
        ready.set()
        for number, head in itertools.cycle(enumerate(heads, 1)):
            if number == 1 and maintained.exists():
                os.utime(maintained, (0, 0))  # so that git collects garbage
            with suppress(InfrastructureError):
                await analysed(upstream, store, directory / "scratch", number, head)

    asyncio.run(for_ever())


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    with suppress(OSError):
        started = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(child) for each in started for child in each.read_text().split()]
        return [*children, *(each for child in children for each in descendants(child))]
    return []


def kill_one_git(worker: ForkServerProcess, chance: random.Random) -> bool:
    assert worker.pid is not None
    gits = descendants(worker.pid)
    if not gits:
        return False
    with suppress(ProcessLookupError):
        os.kill(chance.choice(gits), signal.SIGKILL)
    return True


def push(remote: Clone, number: int) -> str:
    base = remote.git("rev-parse", "refs/heads/master")
    files = {at(f"p{number}.{each}"): opam(f"# {number} {each}") for each in range(FILES)}
    return remote.commit(f"refs/pull/{number}/head", files, parents=(base,))


@pytest.mark.timeout(120 + 5 * KILLS)
def test_the_next_analysis_after_a_kill_works(tmp_path: Path) -> None:
    remote = Clone(tmp_path / "remote.git")
    start = remote.commit(
        "master", {"repo": b"", **{at(f"a.{n}"): opam(f"# {n}") for n in range(FILES)}}
    )
    chance = random.Random(13)  # noqa: S311 - repeatable, not secret
    recoveries: list[Recovery] = []
    upstream = Upstream(tmp_path / "clone.git", remote.path.as_uri(), recoveries.append)
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    fork: ForkServerContext = multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload([__name__])
    killed = 0
    for number in range(1, KILLS + 1):
        heads = [push(remote, number * 100 + each) for each in range(3)]
        start = remote.commit("master", {at(f"b.{number}"): opam()}, parents=(start,))
        ready = fork.Event()
        worker = fork.Process(target=work, args=(tmp_path, remote.path.as_uri(), heads, ready))
        worker.start()
        try:
            assert ready.wait(60)
            time.sleep(chance.uniform(0, SECONDS))
            killed += number % 2 and kill_one_git(worker, chance)
        finally:
            worker.kill()
            worker.join()
        head = push(remote, number * 100 + 99)
        ref = asyncio.run(analysed(upstream, store, tmp_path / "scratch", number * 100 + 99, head))
        assert ref.package_count == 2 * FILES + number
    assert killed
    assert Recovery.ANEW not in recoveries
    left = [
        path for path in upstream.directory.rglob("*") if path.name.startswith(("tmp_", ".tmp"))
    ]
    assert left == []
    assert [path.name for path in upstream.directory.rglob("*.lock")] == ["opam-ci.lock"]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert Clone(upstream.directory).git("fsck", "--no-dangling") == ""
