"""The artifact store: whole objects or none, and errors with causes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opam_ci.clients.logs.store import ArtifactStore, MissingKeyError, _write
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    local = request.param == "file"
    return ArtifactStore.open((tmp_path / "a store").as_uri() if local else "memory:")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    place = tmp_path / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a file system of limited size needs the right to mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*"))


async def test_what_was_put_comes_back(store: ArtifactStore, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.write_bytes(b"old")
    await store.put("repo/base.tar.gz", b"first")
    await store.put("repo/base.tar.gz", b"second")
    with target.open("rb") as old:
        await store.fetch("repo/base.tar.gz", target)
        assert old.read() == b"old"  # it was replaced, not written over
    assert target.read_bytes() == b"second"
    assert await store.get("repo/base.tar.gz") == b"second"
    assert await store.exists("repo/base.tar.gz")
    assert set(names(tmp_path)) <= {"copy", "a store"}


async def test_a_large_file_is_stored_in_parts_and_comes_back_whole(
    store: ArtifactStore, tmp_path: Path
) -> None:
    source, target = tmp_path / "large", tmp_path / "copy"
    source.write_bytes(os.urandom(1024) * 20_001)
    await store.put("large", source)
    await store.fetch("large", target)
    assert target.read_bytes() == source.read_bytes()


async def test_a_missing_object_has_its_own_error(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(MissingKeyError, match="no some/thing") as caught:
        await store.fetch("some/thing", tmp_path / "copy")
    assert caught.value.cause is Cause.STORAGE
    assert not await store.exists("some/thing")
    assert set(names(tmp_path)) <= {"a store"}


async def test_delete_is_final_and_may_be_repeated(store: ArtifactStore) -> None:
    await store.put("a", b"1")
    await store.delete("a")
    await store.delete("a")
    assert not await store.exists("a")


async def test_listing_is_sorted_and_confined_to_the_directory(store: ArtifactStore) -> None:
    for key in ("d/2", "d/1", "d/3/x", "d2/1"):
        await store.put(key, b"12")
    listed = await store.list("d")
    assert [(each.key, each.size) for each in listed] == [("d/1", 2), ("d/2", 2), ("d/3/x", 2)]
    assert all(abs(datetime.now(UTC) - each.modified_at) < timedelta(hours=1) for each in listed)
    assert [each.key for each in await store.list("d", after="d/1")] == ["d/2", "d/3/x"]
    assert await store.list("nothing") == []


@pytest.mark.parametrize(
    "key",
    [
        *("", "/a", "a/", "a//b", "../a", "a/../b", "a/.b", "-a"),
        *("a b", "a\n", "é", "a\x00", "a#1", "a" * 201, "a/" * 450 + "a"),
    ],
)
async def test_a_bad_key_is_refused_by_every_method(
    key: str, store: ArtifactStore, tmp_path: Path
) -> None:
    for attempt in (
        store.put(key, b""),
        store.get(key),
        store.fetch(key, tmp_path / "x"),
        store.exists(key),
        store.delete(key),
        store.list(key),
    ):
        with pytest.raises(UsageError, match="invalid key"):
            await attempt


@pytest.mark.parametrize(
    "url",
    ["", "/var/x", "http://x/y", "file://host/x", "file:///", "s3://", "s3://key:secret@bucket"],
)
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not the URL of a store") as caught:
        ArtifactStore.open(url)
    assert "secret" not in str(caught.value)


def test_a_directory_that_cannot_be_made_is_our_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InfrastructureError, match="cannot open the store") as caught:
        ArtifactStore.open((tmp_path / "file" / "store").as_uri())
    assert caught.value.cause is Cause.STORAGE


async def test_an_unreadable_source_is_our_fault_and_names_it(
    store: ArtifactStore, tmp_path: Path
) -> None:
    with pytest.raises(InfrastructureError, match="absent as key") as caught:
        await store.put("key", tmp_path / "absent")
    assert not isinstance(caught.value, MissingKeyError)
    assert not await store.exists("key")


async def test_a_full_disk_has_its_own_cause_and_leaves_nothing(
    full_disk: Path, tmp_path: Path
) -> None:
    store = ArtifactStore.open(full_disk.as_uri())
    source = tmp_path / "source"
    source.write_bytes(os.urandom(24_000_000))
    for data in (os.urandom(1_000_000), source):
        with pytest.raises(InfrastructureError, match="No space left") as caught:
            await store.put("big", data)
        assert caught.value.cause is Cause.DISK_FULL
    assert names(full_disk) == []


async def test_a_full_target_has_the_same_cause_and_keeps_the_old_file(full_disk: Path) -> None:
    store = ArtifactStore.open("memory:")
    await store.put("big", os.urandom(1_000_000))
    target = full_disk / "target"
    target.write_bytes(b"old")
    with pytest.raises(InfrastructureError) as caught:
        await store.fetch("big", target)
    assert caught.value.cause is Cause.DISK_FULL
    assert target.read_bytes() == b"old"
    assert names(full_disk) == ["target"]


def test_a_stream_that_ends_early_is_noticed(tmp_path: Path) -> None:
    class Short:
        meta = {"size": 3}  # noqa: RUF012  stands in for the library's result

        def stream(self, _size: int) -> list[bytes]:
            return [b"ab"]

    with pytest.raises(OSError, match="2 of 3 bytes"):
        _write(tmp_path / "part", Short())  # type: ignore[arg-type]


_KILLED = """
import asyncio, sys
from opam_ci.clients.logs.store import ArtifactStore
async def main():
    store = ArtifactStore.open(sys.argv[1])
    data = b"x" * 40_000_000
    for number in range(1000):
        await store.put(f"big/{number}", data)
asyncio.run(main())
"""


@pytest.fixture
def killed_writer(tmp_path: Path) -> str:
    """URL of a store whose writer was killed in the middle of an object."""
    url = (tmp_path / "store").as_uri()
    with subprocess.Popen([sys.executable, "-c", _KILLED, url]) as writer:
        while not any("#" in name for name in names(tmp_path / "store" / "big")):
            assert writer.poll() is None
            time.sleep(0.002)
        writer.kill()
    return url


async def test_a_killed_writer_leaves_whole_objects_only(
    killed_writer: str, tmp_path: Path
) -> None:
    left = names(tmp_path / "store" / "big")
    store = ArtifactStore.open(killed_writer)
    listed = await store.list("big")
    if any("#" in name for name in left):  # else the kill came just after the last byte
        assert len(listed) == len(left) - 1
    assert {each.size for each in listed} <= {40_000_000}
    next_key = f"big/{len(listed)}"
    assert not await store.exists(next_key)
    await store.put(next_key, b"again")
    assert await store.get(next_key) == b"again"


async def test_what_was_put_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    (tmp_path / "file").write_bytes(b"2")
    await store.put("a/b", b"1")
    await store.put("a/c", tmp_path / "file")
    assert synced == [str(tmp_path / "store/a/b"), str(tmp_path / "store/a/c")]
