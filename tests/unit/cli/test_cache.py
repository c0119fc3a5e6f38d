"""`opam-ci cache`, and the switches of what it shows."""

import asyncio
from pathlib import Path

import pytest

from opam_ci.app.runners import make_runner
from opam_ci.app.settings import Settings
from opam_ci.cli.main import run
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.runners.cache.dependencies import cache_store
from opam_ci.clients.runners.cache.sources import SourceStore
from opam_ci.clients.runners.container import ContainerRunner
from opam_ci.clients.runners.rootfs import RootfsRunner
from opam_ci.clients.runners.settings import BUILD_CACHE_BYTES, SOURCE_STORE_BYTES
from opam_ci.core.platforms.model import Runner
from tests.unit.clients.runners.test_archive_store import DATA, archive
from tests.unit.clients.runners.test_cache_store import KEY, keep


async def fill(home: Path) -> None:
    assert await keep(cache_store(home, BUILD_CACHE_BYTES))
    assert SourceStore(home, SOURCE_STORE_BYTES).archives.keep(archive(), DATA)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPAM_CI_CACHE", str(tmp_path))
    return tmp_path


async def test_the_cache_is_counted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await fill(home)
    assert run(["cache"]) == 0
    output = capsys.readouterr().out
    assert f"{home}/cache: 1 compiled packages" in output
    assert "at most 10240; the cache is on" in output
    assert f"{home}/sources: 1 archives of sources" in output
    assert "at most 10240; the store is on" in output


def test_the_cache_is_cleared(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(fill(home))
    (home / "failures").mkdir()
    (home / "failures" / KEY).write_text("{}")
    assert run(["cache", "--clear"]) == 0
    assert list((home / "failures").iterdir()) == []
    output = capsys.readouterr().out
    removed = "removed 1 compiled packages, 1 known failures and 1 archives of sources"
    assert removed in output
    assert ": 0 compiled packages, 0 MiB" in output
    assert ": 0 archives of sources, 0 MiB" in output
    assert not (home / "cache" / KEY[:20]).exists()


@pytest.mark.parametrize(("value", "on"), [("off", False), ("on", True), (None, True)])
def test_one_variable_turns_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, *, on: bool
) -> None:
    if value is not None:
        monkeypatch.setenv("OPAM_CI_BUILD_CACHE", value)
    monkeypatch.setenv("OPAM_CI_BUILD_CACHE_BYTES", "50GiB")
    settings = Settings()
    assert (settings.build_cache, settings.build_cache_bytes) == (on, 50 << 30)
    runner = make_runner(Runner.ROOTFS, settings, ArtifactStore.open(tmp_path.as_uri()))
    assert isinstance(runner, RootfsRunner)
    assert runner._settings.build_cache is on
    assert runner._settings.build_cache_bytes == 50 << 30


@pytest.mark.parametrize(("value", "size"), [("0", 0), ("2GiB", 2 << 30), (None, 10 << 30)])
def test_one_variable_is_the_room_for_sources(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
    size: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if value is not None:
        monkeypatch.setenv("OPAM_CI_SOURCE_STORE_BYTES", value)
    for kind, expected in ((Runner.ROOTFS, RootfsRunner), (Runner.CONTAINER, ContainerRunner)):
        runner = make_runner(kind, Settings(), ArtifactStore.open(tmp_path.as_uri()))
        assert isinstance(runner, expected)
        assert runner._settings.source_store_bytes == size
    assert run(["cache"]) == 0
    switch = "on" if size else "off (OPAM_CI_SOURCE_STORE_BYTES)"
    assert f"of at most {size >> 20}; the store is {switch}" in capsys.readouterr().out
