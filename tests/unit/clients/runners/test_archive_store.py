"""Archives of sources on disk: what lies, is torn, is full or is away is not served."""

import asyncio
import errno
import hashlib
import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opam_ci.clients.runners.cache import archives as module
from opam_ci.clients.runners.cache.archives import ArchiveStore
from opam_ci.clients.runners.sandbox.locks import HALF_MADE
from opam_ci.core.jobs.archives import Archive

DATA = b"an archive"
SMALLEST = 64 << 10
KINDS = ("sha512", "sha256", "md5")


def archive(data: bytes = DATA, *kinds: str) -> Archive:
    kinds = kinds or KINDS
    return Archive(checksums=tuple((kind, hashlib.new(kind, data).hexdigest()) for kind in kinds))


@pytest.fixture
def store(tmp_path: Path) -> ArchiveStore:
    return ArchiveStore(tmp_path / "sources", 1 << 30)


@pytest.fixture
def view(tmp_path: Path) -> Path:
    (tmp_path / "view").mkdir()
    return tmp_path / "view"


def shown(view: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(view)): path.read_bytes() for path in view.rglob("*") if path.is_file()
    }


def only(store: ArchiveStore) -> Path:
    (path,) = (path for kind in KINDS for path in (store.home / kind).rglob("*") if path.is_file())
    return path


def test_a_job_sees_an_archive_under_each_of_its_checksums(store: ArchiveStore, view: Path) -> None:
    assert not store.show(archive(), view)
    assert store.keep(archive(), DATA)
    assert not store.keep(archive(), DATA)
    old = os.umask(0o077)
    try:
        assert store.show(archive(), view)
    finally:
        os.umask(old)
    assert shown(view) == dict.fromkeys(archive().paths, DATA)
    # opam asks for the first checksum of the file alone, and ignores what it cannot read.
    for path in view.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o444)


@pytest.mark.parametrize("wrong", KINDS)
def test_content_without_all_checksums_is_not_put_in(store: ArchiveStore, wrong: str) -> None:
    other = archive(b"another")
    mixed = Archive(
        checksums=tuple(
            (b if b[0] == wrong else a)
            for a, b in zip(archive().checksums, other.checksums, strict=True)
        )
    )
    assert not store.keep(mixed, DATA)
    assert store.use().entries == 0


@pytest.mark.parametrize("content", [b"", DATA[:4], b"a lie    !"])
def test_a_file_that_is_torn_or_lies_is_removed_and_replaced(
    store: ArchiveStore, view: Path, content: bytes
) -> None:
    store.keep(archive(), DATA)
    only(store).chmod(0o644)
    only(store).write_bytes(content)
    assert not store.show(archive(), view)
    assert shown(view) == {}
    assert store.keep(archive(), DATA)
    assert store.show(archive(), view)
    assert set(shown(view).values()) == {DATA}


def test_an_opam_file_with_a_wrong_checksum_takes_nothing_and_removes_nothing(
    store: ArchiveStore, view: Path
) -> None:
    store.keep(archive(), DATA)
    wrong = Archive(checksums=(archive().checksums[0], ("md5", "0" * 32)))
    assert not store.show(wrong, view)
    assert shown(view) == {}
    assert store.show(archive(), view)


def test_no_link_and_no_pipe_is_followed(store: ArchiveStore, view: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(DATA)
    path = store.home / archive().paths[0]
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    assert not store.show(archive(), view)
    os.mkfifo(path)
    assert not store.show(archive(), view)
    assert shown(view) == {}
    assert (tmp_path / "elsewhere").exists()
    assert store.keep(archive(), DATA)


@given(st.lists(st.sampled_from(KINDS), unique=True, min_size=1), st.binary(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_shown_has_the_checksums_that_were_asked_for(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], stored: bytes
) -> None:
    directory = tmp_path_factory.mktemp("x")
    store, view = ArchiveStore(directory / "sources", 1 << 30), directory / "view"
    view.mkdir()
    wanted = archive(DATA, *sorted(kinds, key=KINDS.index))
    path = store.home / wanted.paths[0]
    path.parent.mkdir(parents=True)
    path.write_bytes(stored)
    assert store.show(wanted, view) is (stored == DATA)
    assert shown(view) == (dict.fromkeys(wanted.paths, DATA) if stored == DATA else {})


async def test_what_was_used_longest_ago_goes_and_what_a_job_sees_stays_with_it(
    tmp_path: Path, view: Path
) -> None:
    store = ArchiveStore(tmp_path / "sources", 2 * SMALLEST)
    each = [archive(bytes([number])) for number in range(4)]
    for number, one in enumerate(each[:3]):
        store.keep(one, bytes([number]))
        os.utime(store.home / one.paths[0], (number + 1, number + 1))
    assert store.show(each[0], view)  # now it is the one that was used last
    assert await store.prune() == 1
    assert not store.show(each[1], view)
    assert store.show(each[2], view)
    before = shown(view)
    assert await store.prune(-1) == 2
    assert (store.use().entries, store.use().bytes) == (0, 0)
    assert shown(view) == before


def test_tiny_archives_count_for_more_than_their_bytes(store: ArchiveStore) -> None:
    for number in range(3):
        store.keep(archive(bytes([number])), bytes([number]))
    assert store.use().bytes == 3 * SMALLEST


def test_a_full_disk_leaves_nothing(store: ArchiveStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(OSError, match="No space"):
        store.keep(archive(), DATA)
    assert not any(path.is_file() for path in store.home.rglob("*"))


async def test_what_a_killed_worker_left_takes_room_until_it_goes_as_unused(
    store: ArchiveStore,
) -> None:
    store.keep(archive(), DATA)
    kept = store.home / archive().paths[0]
    left = kept.with_name(f"{HALF_MADE}x")
    left.touch()
    os.utime(left, (0, 0))
    assert store.use().entries == 2
    assert await store.prune(store.use().bytes - 1) == 1
    assert (left.exists(), kept.exists()) == (False, True)


async def test_a_store_that_is_away_is_empty(tmp_path: Path, view: Path) -> None:
    store = ArchiveStore(tmp_path / "nowhere", 1)
    assert not store.show(archive(), view)
    assert store.use().entries == 0
    await store.sweep()


_OTHER = """
import asyncio, sys
from pathlib import Path
from opam_ci.clients.runners.cache.archives import ArchiveStore
from tests.unit.clients.runners.test_archive_store import archive

async def main():
    async with ArchiveStore(Path(sys.argv[1]), 1 << 30).fetching([archive()], lambda: None):
        print("holds", flush=True)
        sys.stdin.readline()
asyncio.run(main())
"""


async def test_another_process_that_fetches_the_same_is_waited_for(store: ArchiveStore) -> None:
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _OTHER, str(store.home)), stdin=pipe, stdout=pipe
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert await other.stdout.readline() == b"holds\n"
    waited = []

    def waiting() -> None:
        waited.append(other.returncode)
        assert other.stdin is not None
        other.stdin.close()  # only now does the other one end

    async with store.fetching([archive()], waiting):
        assert await other.wait() == 0
    assert waited[0] is None


async def test_nobody_is_waited_for_without_end(
    store: ArchiveStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    async with store.fetching([archive()], lambda: None):  # noqa: SIM117 - one after the other
        async with store.fetching([archive()], lambda: None):
            pass


async def test_two_jobs_that_fetch_the_same_in_other_orders_both_come_to_their_turn(
    store: ArchiveStore,
) -> None:
    each = [archive(bytes([number])) for number in range(40)]
    waiting, inside = asyncio.Semaphore(0), 0

    async def job(wanted: list[Archive]) -> None:
        nonlocal inside
        async with store.fetching(wanted, waiting.release):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.01)
            inside -= 1

    async with asyncio.TaskGroup() as jobs, store.fetching([each[20]], lambda: None):
        # Each of them gets some locks, and waits for others.
        for wanted in (each, each[::-1]):
            jobs.create_task(job(wanted))
            await waiting.acquire()
