"""Calls of a container engine whose client, or the image's programs behind it, misbehave."""

import subprocess
import tracemalloc
from pathlib import Path

import pytest

from opam_ci.clients.runners.containers import box
from opam_ci.clients.runners.containers.engine import Engine
from opam_ci.core.jobs.errors import InfrastructureError


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """An engine whose client runs its arguments as a script."""
    client = tmp_path / "podman"
    client.write_text('#!/bin/sh\nwhile [ "$1" != script ]; do shift; done\neval "$2"\n')
    client.chmod(0o755)
    return Engine(str(client))


async def test_output_without_end_is_cut_off(engine: Engine) -> None:
    tracemalloc.start()
    try:
        found = await engine.try_call("script", "yes", time_limit=60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == (None, b"", "over 64 MiB of output")
    assert peak < 200 << 20
    with pytest.raises(InfrastructureError, match="failed: over 64 MiB of output"):
        await engine.call("script", "yes")


async def test_of_errors_only_the_end_is_kept(engine: Engine) -> None:
    code, output, errors = await engine.try_call(
        "script", "yes | head -c 200000000 >&2; echo told; echo last >&2; exit 7"
    )
    assert (code, output) == (7, b"told\n")
    assert errors.endswith("\nlast")
    assert len(errors) <= 400


async def test_a_client_that_hangs_is_ended(engine: Engine) -> None:
    found = await engine.try_call("script", "echo begun; sleep 60", time_limit=0.5)
    assert found == (None, b"", "no answer within 0.5 s")


async def test_a_container_that_its_engine_is_removing_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tmp_path / "docker"
    client.write_text(
        '#!/bin/sh\ncd "${0%/*}"\n'
        'if [ "$1" = rm ]; then echo x >> rm; echo removal is in progress >&2; exit 1; fi\n'
        'test "$(wc -l < rm)" -lt 3 && echo "[{}]"\n'
    )
    client.chmod(0o755)
    await box.remove(Engine(str(client)), "gone")
    assert len((tmp_path / "rm").read_text().split()) == 3
    (tmp_path / "rm").unlink()
    monkeypatch.setattr(box, "_REMOVALS", 2)
    with pytest.raises(InfrastructureError, match="cannot be removed: removal is in progress"):
        await box.remove(Engine(str(client)), "stays")


async def test_a_client_with_a_relative_path_runs_in_other_directories(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    process = await Engine(f"./{Path(engine.client).name}").start(
        "script", "pwd", stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT,
        directory=tmp_path / "elsewhere",
    )  # fmt: skip
    output, _ = await process.communicate()
    assert output.decode().strip() == str(tmp_path / "elsewhere")
