"""Temporary files of a worker have an owner: those of a killed one go, those of a live one stay."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from opam_ci.clients.runners.sandbox.locks import temporary_files_in

WORKER = """
import asyncio, sys, tempfile
from pathlib import Path
from opam_ci.clients.runners.sandbox.locks import temporary_files_in

async def main():
    async with temporary_files_in(Path(sys.argv[1])):
        print(tempfile.mkdtemp(), flush=True)
        sys.stdin.read()

asyncio.run(main())
"""


def worker(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """Starts a process; returns it, and a temporary directory of its own."""
    command = [sys.executable, "-c", WORKER, str(parent)]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    return started, Path(started.stdout.readline().strip())


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def mount(directory: Path) -> bool:
    """Mounts something, where that is permitted."""
    command = ["mount", "-t", "tmpfs", "tmpfs", str(directory)]
    return os.geteuid() == 0 and subprocess.call(command) == 0


async def test_files_of_a_killed_worker_go_and_those_of_a_live_one_stay(tmp_path: Path) -> None:
    parent = tmp_path / "with space"
    killed, left = worker(parent)
    living, used = worker(parent)
    try:
        assert left.parent.parent == used.parent.parent == parent
        mounted = mount(left)
        end(killed)
        before = tempfile.gettempdir()
        async with temporary_files_in(parent):
            assert not left.parent.exists(), mounted
            assert used.exists()
            with tempfile.NamedTemporaryFile() as file:
                assert parent in Path(file.name).parents
        assert tempfile.gettempdir() == before
        living.communicate("")
        assert list(parent.iterdir()) == []
    finally:
        end(living)
        end(killed)


async def test_it_is_made_if_need_be(tmp_path: Path) -> None:
    async with temporary_files_in(tmp_path / "a/b"):
        [directory] = (tmp_path / "a/b").iterdir()
        assert directory.name.startswith("tmp-")


async def test_what_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        async with temporary_files_in(tmp_path / "file"):
            raise AssertionError("made")
