"""The network of builds: the internet and what the operator allows, nothing else."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from opam_ci.clients.runners.settings import default_home
from tests.support.worlds.rootfs import Server, World, last

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

_CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("network"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a small internet")
async def test_no_internal_address_sees_a_packet_of_250_hostile_fetches(
    tmp_path: Path, world: World
) -> None:
    await world.runner.prepare(lambda _: None)
    (tmp_path / "images").symlink_to(default_home() / "images")
    done = await asyncio.to_thread(
        subprocess.run,
        ["unshare", "--net", "--mount", "--", sys.executable, "-m",
         "tests.support.samples.hostile_fetches", str(tmp_path)],
        cwd=_CHECKOUT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["tried"] >= 250
    assert (result["own"], result["inside"]) == (0, 0), result
    # What may be reached is, so the others were refused and not just lost.
    assert result["reached"] == result["expected"]
    assert result["allowed"] == 1
    assert {"10.99.0.1", "169.254.169.254", "11.0.0.1"} <= set(result["refused"])


async def test_a_source_on_the_loopback_interface_is_read_only_if_allowed(tmp_path: Path) -> None:
    closed = World(tmp_path / "closed", network_allow=())
    with Server({"/x.tgz": b"secret of the worker"}).running() as server:
        package = {"reads.1": server.source("/x.tgz")}
        report, log = await closed.build(package, "reads.1")
    assert server.asked == []
    fetch = last(report)
    assert fetch.phase == "fetch"
    assert fetch.exit_code == 40
    # At once: nobody waits for a time limit, which would pass for a network that is down.
    assert fetch.refused == ("127.0.0.1",)
    assert "exited with code 7" in log.text


async def test_the_log_of_a_wrong_checksum_does_not_tell_the_right_one(world: World) -> None:
    with Server({"/x.tgz": b"secret of the worker"}).running() as server:
        right = server.source("/x.tgz")
        wrong = right.replace(right[-66:-50], "0" * 16)
        report, log = await world.build({"reads.1": wrong}, "reads.1")
    digest = right.rpartition("sha256=")[2][:64]
    assert len(server.asked) >= 3
    assert report.facts.probes["checksum_repeats"] is True
    assert digest not in log.text
