"""Heads are analysed and exported in processes; they share a base in the store."""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from opam_ci.clients.git import exported, head_process
from opam_ci.clients.git.exported import Exporter
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.build import RepositoryRef
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.submission.admission import ChangeLimits
from opam_ci.core.submission.result import Analysis
from tests.support.fakes.clone import Clone, at, opam

TESTING = RevisionKey(
    repository="o/r", number=1, head="a" * 40, opened_at=datetime(2026, 5, 4, tzinfo=UTC)
)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path / "clone.git")
    start = clone.commit("master", {"repo": b'opam-version: "2.0"\n', at("a.1"): opam()})
    clone.commit("topic", {at("b.1"): opam()}, parents=(start,))
    return clone


@pytest.fixture
def store() -> ArtifactStore:
    return ArtifactStore.open("memory:")


@pytest.fixture
def exporter(store: ArtifactStore) -> Exporter:
    return Exporter(store)


async def prepared(
    exporter: Exporter, clone: Path, testing: RevisionKey, base: str, head: str, **words: bool
) -> tuple[Analysis, RepositoryRef | None]:
    done = await exporter.prepare(clone, testing, base, head, **words)
    return done.analysis, done.merged


async def test_heads_share_a_base(clone: Clone, exporter: Exporter) -> None:
    master, topic = (clone.git("rev-parse", name) for name in ("master", "topic"))
    analysis, first = await prepared(exporter, clone.path, TESTING, master, topic)
    both = await asyncio.gather(
        *(prepared(exporter, clone.path, TESTING, master, topic) for _ in range(2))
    )
    assert first is not None
    assert [changed.package for changed in analysis.packages] == ["b.1"]
    assert analysis.merge_tree == clone.git("rev-parse", "topic^{tree}")
    assert first.base_commit == master
    assert (first.overlay_packages, first.package_count) == (1, 2)
    assert both == [(analysis, first)] * 2


async def test_a_base_is_made_once(
    clone: Clone, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    master, topic = (clone.git("rev-parse", name) for name in ("master", "topic"))
    run, made = exported.run_task, list[str]()

    async def counted(task: head_process.Task) -> head_process.Result:
        made.append(task.kind)
        return await run(task)

    monkeypatch.setattr(exported, "run_task", counted)
    await asyncio.gather(
        *(prepared(exporter, clone.path, TESTING, master, topic) for _ in range(3))
    )
    assert sorted(made) == ["analyse"] * 3 + ["archive"]


async def test_a_newer_base_that_has_the_change_too_does_not_empty_the_overlay(
    clone: Clone, store: ArtifactStore, exporter: Exporter
) -> None:
    master, topic = (clone.git("rev-parse", name) for name in ("master", "topic"))
    await store.put("repositories/bases.json", f'["{topic}"]'.encode())
    _, made = await prepared(exporter, clone.path, TESTING, master, topic)
    assert made is not None
    assert made.base_commit == topic
    assert made.overlay_packages == 1
    assert await store.exists(made.base_archive)


async def test_what_is_not_built_is_not_exported(
    clone: Clone, store: ArtifactStore, exporter: Exporter
) -> None:
    master, topic = (clone.git("rev-parse", name) for name in ("master", "topic"))
    elsewhere = clone.commit("docs", {"README": b"x"}, parents=(master,))
    analysis, made = await prepared(exporter, clone.path, TESTING, master, topic, export=False)
    assert (len(analysis.packages), made) == (1, None)
    analysis, made = await prepared(exporter, clone.path, TESTING, master, elsewhere)
    assert (analysis.packages, analysis.failure, made) == ((), None, None)
    assert await store.list("repositories") == []


async def test_faults_of_the_process(clone: Clone, exporter: Exporter) -> None:
    master, topic = (clone.git("rev-parse", name) for name in ("master", "topic"))
    with pytest.raises(InfrastructureError, match="is not a git repository") as caught:
        await prepared(exporter, clone.path / "absent", TESTING, master, topic)
    assert caught.value.cause is Cause.REPOSITORY_STATE
    bare = clone.commit("bare", {"README": b""})
    with pytest.raises(UsageError, match="has no packages folder"):
        await prepared(exporter, clone.path, TESTING, bare, topic)
    with pytest.raises(InfrastructureError, match="exited with code 128") as caught:
        await prepared(exporter, clone.path, TESTING, master, "1" * 40)
    assert caught.value.cause is Cause.GIT


async def test_a_bug_in_the_process_is_not_taken_for_a_fault(
    clone: Clone, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="ended early"):
        await prepared(exporter, clone.path, TESTING, "1" * 40, "2" * 40)


# What dies with the activity

MIB = 1 << 20
LARGE = ChangeLimits(
    file_bytes=64 * MIB, package_bytes=1 << 40, package_files=10_000, head_bytes=1 << 40
)
"""Limits within which a head takes a minute."""


@pytest.fixture
def slow(clone: Clone) -> tuple[str, str]:
    """The base, and a head whose export is 32 GiB of zeros."""
    master = clone.git("rev-parse", "master")
    blob = clone.store(b"\0" * (32 * MIB))
    files = {at("s.1", f"files/{count}"): blob for count in range(1000)}
    return master, clone.commit("slow", {at("s.1"): opam(), **files}, parents=(master,))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def helpers(scratch: Path, clone: Clone) -> list[psutil.Process]:
    """The processes that work on a head, git's included, whoever their parent is."""
    return [
        each
        for each in psutil.process_iter(["cmdline", "cwd"])
        if head_process.__name__ in (words := each.info["cmdline"] or [])
        or f"--git-dir={clone.path}" in words
        or (each.info["cwd"] or "").startswith(str(scratch))
    ]


def left_in(scratch: Path) -> list[Path]:
    return list(scratch.iterdir())


async def until(condition: Callable[[], object], seconds: float = 60) -> float:
    """Waits for something, and returns how long it took."""
    began_at = time.monotonic()
    while not condition():
        assert time.monotonic() - began_at < seconds
        await asyncio.sleep(0.02)
    return time.monotonic() - began_at


def compressing(scratch: Path) -> bool:
    return any(path.stat().st_size for path in scratch.glob("*/overlay.tar.gz.part"))


async def test_a_cancel_ends_the_compression_and_its_git(
    clone: Clone, store: ArtifactStore, slow: tuple[str, str], scratch: Path
) -> None:
    work = asyncio.create_task(Exporter(store, LARGE).prepare(clone.path, TESTING, *slow))
    await until(lambda: compressing(scratch) or work.done())
    assert len(helpers(scratch, clone)) >= 2
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    # Not within some time: when the activity has ended, all of it has.
    assert await until(lambda: not helpers(scratch, clone)) < 20
    assert left_in(scratch) == []
    assert await store.list("repositories") == []


async def test_a_time_limit_ends_it_too(
    clone: Clone,
    store: ArtifactStore,
    slow: tuple[str, str],
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exported, "_TIME_LIMIT", 3.0)
    with pytest.raises(InfrastructureError, match="ended early \\(time limit\\)") as caught:
        await Exporter(store, LARGE).prepare(clone.path, TESTING, *slow)
    assert caught.value.cause is Cause.GIT
    assert await until(lambda: not helpers(scratch, clone)) < 20
    assert left_in(scratch) == []


async def test_a_slow_head_holds_up_no_other(
    clone: Clone, store: ArtifactStore, slow: tuple[str, str], scratch: Path
) -> None:
    exporter = Exporter(store, LARGE)
    work = asyncio.create_task(prepared(exporter, clone.path, TESTING, *slow))
    await until(lambda: compressing(scratch) or work.done())
    _, made = await prepared(
        exporter, clone.path, TESTING, slow[0], clone.git("rev-parse", "topic")
    )
    assert made is not None
    assert not work.done()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


ROOT = Path(__file__).resolve().parents[4]
WORKER = """
import asyncio, sys
from pathlib import Path
from tests.unit.clients.git.test_exported import LARGE, TESTING
from opam_ci.clients.git.exported import Exporter
from opam_ci.clients.logs.store import ArtifactStore
clone, base, head = sys.argv[1:]
exporter = Exporter(ArtifactStore.open("memory:"), LARGE)
asyncio.run(exporter.prepare(Path(clone), TESTING, base, head))
"""


async def test_a_killed_worker_leaves_no_process(
    clone: Clone, slow: tuple[str, str], scratch: Path
) -> None:
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, str(clone.path), *slow),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    await until(lambda: compressing(scratch) or worker.returncode is not None)
    assert len(helpers(scratch, clone)) >= 2
    worker.kill()
    assert await worker.wait() == -signal.SIGKILL
    assert await until(lambda: not helpers(scratch, clone)) < 20
