"""Entries of the cache of compiled dependencies on disk."""

import asyncio
import os
from pathlib import Path

import pytest

from opam_ci.clients.runners.cache import store as cache_store
from opam_ci.clients.runners.cache.store import CacheStore, CacheUse
from opam_ci.clients.runners.sandbox import locks
from opam_ci.clients.runners.sandbox.bubblewrap import ROOT
from opam_ci.clients.runners.sandbox.locks import HALF_MADE

INSIDE = "home/opam/.opam/ci"
KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def store(tmp_path: Path) -> CacheStore:
    return CacheStore(tmp_path / "cache", INSIDE, 1 << 30, ROOT)


async def keep(store: CacheStore, key: str = KEY, content: str = "x", package: str = "p.1") -> bool:
    """Keeps what a build of a package may leave, with much that is not to be kept."""
    async with store.directory() as directory:
        switch = directory / "upper" / INSIDE
        name = package.partition(".")[0]
        for path in (
            f"lib/{name}/file",
            f".opam-switch/packages/{package}/opam",
            f".opam-switch/install/{name}.changes",
            ".opam-switch/install/other.changes",
            ".opam-switch/packages/cache",
            ".opam-switch/switch-state",
            ".opam-switch/sources/x/y",
            "../log/log",
            "../../.profile",
            "../../../../etc/passwd",
        ):
            (switch / path).parent.mkdir(parents=True, exist_ok=True)
            (switch / path).write_text(content)
        return await store.keep(directory, key, package, 1.0, ())


def kept(store: CacheStore, key: str = KEY) -> set[str] | None:
    entry = store.find(key)
    if entry is None:
        return None
    entry.close()
    return {str(path.relative_to(entry.upper)) for path in entry.upper.rglob("*") if path.is_file()}


async def test_an_entry_has_the_files_of_its_package_and_no_others(store: CacheStore) -> None:
    assert kept(store) is None
    assert await keep(store)
    assert kept(store) == {
        f"{INSIDE}/lib/p/file",
        f"{INSIDE}/.opam-switch/packages/p.1/opam",
        f"{INSIDE}/.opam-switch/install/p.changes",
    }
    assert not list(store.home.glob(f"{HALF_MADE}*"))


async def test_an_entry_is_found_under_its_whole_key_alone(store: CacheStore) -> None:
    assert await keep(store)
    assert kept(store, KEY[:-1] + "0") is None


@pytest.mark.parametrize("damage", ["cut", "gone", "added", "same-size", "manifest", "no-manifest"])
async def test_an_entry_that_is_not_what_was_kept_is_not_served(
    store: CacheStore, damage: str
) -> None:
    assert await keep(store)
    directory = store.home / KEY[:20]
    file = directory / "upper" / INSIDE / "lib/p/file"
    match damage:
        case "cut":
            os.truncate(file, 0)
        case "gone":
            file.unlink()
        case "added":
            file.with_name("more").touch()
        case "same-size":
            file.write_text("y")
        case "manifest":
            (directory / "manifest.json").write_text("{")
        case _:
            (directory / "manifest.json").unlink()
    assert kept(store) is None
    assert await keep(store, content="new")
    assert kept(store) is not None


@pytest.mark.parametrize(
    ("limit", "value"),
    [("_MAX_FILES", 5), ("_MAX_PATHS", 50), ("_MAX_RUBBISH", 3)],
)
async def test_a_build_that_leaves_too_much_is_not_kept(
    store: CacheStore, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    assert await keep(store)
    monkeypatch.setattr(cache_store, limit, value)
    with pytest.raises(OSError, match=r"it (has|left) over"):
        await keep(store, OTHER)
    assert kept(store, OTHER) is None
    assert not list(store.home.glob(f"{HALF_MADE}*"))


async def test_a_manifest_larger_than_any_is_missing(
    store: CacheStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await keep(store)
    monkeypatch.setattr(cache_store, "_MAX_MANIFEST", 10)
    assert kept(store) is None
    assert store.use() == CacheUse(entries=1, bytes=0)
    await store.sweep()
    assert store.use().entries == 0


async def test_a_link_instead_of_the_switch_is_not_followed(
    store: CacheStore, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (outside / ".opam-switch" / "packages").mkdir(parents=True)
    (outside / "precious").touch()
    async with store.directory() as directory:
        place = directory / "upper" / INSIDE
        place.parent.mkdir(parents=True)
        place.symlink_to(outside)
        assert not await store.keep(directory, KEY, "p.1", 1.0, ())
    assert (outside / "precious").exists()
    assert kept(store) is None


async def test_what_was_used_longest_ago_goes_first_and_what_is_in_use_stays(
    store: CacheStore,
) -> None:
    for number, key in enumerate((KEY, OTHER, "c" * 64)):
        assert await keep(store, key)
        os.utime(store.home / key[:20] / "manifest.json", (number, number))
    entry = store.find(KEY)  # used now
    assert entry is not None
    one = store.use().bytes // 3
    assert await store.prune(2 * one) == 1
    assert kept(store, OTHER) is None
    os.utime(store.home / KEY[:20] / "manifest.json", (0, 0))
    assert await store.prune(0) == 1
    assert kept(store) is not None
    entry.close()
    assert await store.prune(0) == 1
    assert (store.use().entries, store.use().bytes) == (0, 0)


async def test_the_limit_holds_as_entries_come(tmp_path: Path) -> None:
    store = CacheStore(tmp_path / "cache", INSIDE, 200_000, ROOT)
    for number in range(12):
        assert await keep(store, f"{number:064x}"[::-1])
        assert store.use().bytes <= 200_000
    assert store.use().entries > 1
    assert kept(store, f"{11:064x}"[::-1]) is not None


async def test_a_sweep_takes_what_the_dead_left_and_nothing_of_the_living(
    store: CacheStore,
) -> None:
    assert await keep(store)
    dead = store.home / f"{HALF_MADE}dead"
    dead.mkdir()
    (dead / "lock").touch()
    headless = store.home / OTHER[:20]
    headless.mkdir()
    (headless / "lock").touch()
    async with store.directory() as living:
        await store.sweep()
        assert living.exists()
    assert not dead.exists()
    assert not headless.exists()
    assert kept(store) is not None


async def test_one_makes_and_the_others_wait(store: CacheStore) -> None:
    waited = asyncio.Event()
    order = []

    async def second() -> None:
        async with store.making(KEY, waited.set):
            order.append("second")

    async with store.making(KEY, lambda: None):
        task = asyncio.create_task(second())
        await waited.wait()
        async with store.making(OTHER, lambda: None):
            order.append("first")
    await task
    assert order == ["first", "second"]


async def test_what_is_being_removed_is_not_served(store: CacheStore) -> None:
    assert await keep(store)
    mine = locks.try_lock(store.home / KEY[:20] / "lock")
    assert mine is not None
    assert kept(store) is None
    os.close(mine)
    assert kept(store) is not None
