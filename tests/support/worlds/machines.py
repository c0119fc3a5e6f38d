"""Build machines of a test: workers with metrics, and a disk that can be filled."""

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from opam_ci.clients.runners.settings import default_home as default_cache
from tests.e2e.conftest import System


def health(port: int) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def start_worker(system: System, port: int, *words: str, **environment: str) -> int:
    """Starts a worker with metrics and a canary; returns its process id."""
    system.environment |= {
        "OPAM_CI_METRICS": f"127.0.0.1:{port}",
        "OPAM_CI_CANARY": "true",
        **environment,
    }
    return system.start_worker(*words).pid


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A cache on a file system of its own, with the machine's ready images."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=5g", "opam-ci-test", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        images = default_cache() / "images"
        images.mkdir(parents=True, exist_ok=True)
        (directory / "images").symlink_to(images)
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def resize(directory: Path, *, spare: int | None) -> None:
    """Leaves that many bytes free, by taking the others away; None gives them back."""
    for _ in range(100):
        size = 5 << 30 if spare is None else shutil.disk_usage(directory).used + spare
        done = subprocess.run(
            ["mount", "-o", f"remount,size={size}", directory],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return
        # A build has written more than that since it was looked at.
    pytest.fail(f"{directory} does not shrink: {done.stderr}")
