"""The receiver's process, seen from its parent; a script stands for it."""

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from opam_ci.cli.operator import child
from opam_ci.cli.operator.receiver import ReceiverOptions, receiver_running
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.requests import CheckOptions

OPTIONS = ReceiverOptions(listener=0, temporal="127.0.0.1:1", checks=CheckOptions())


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "program"))
    monkeypatch.setattr(child, "_RESTART_DELAY", 0.01)
    return tmp_path / "program"


def write(program: Path, script: str) -> None:
    new = program.with_suffix(".new")
    new.write_text(f"#!/bin/sh\nread options\n{script}\n")
    new.chmod(0o755)
    new.replace(program)


async def test_an_error_beside_it_comes_out_as_it_is(program: Path, tmp_path: Path) -> None:
    write(program, f"trap 'echo $options > {tmp_path}/stopped; exit' TERM; echo ready; read end")
    with pytest.raises(UsageError, match="no workflows"):
        async with receiver_running(OPTIONS):
            raise UsageError("no workflows")
    # It was stopped, not killed, and had got its options.
    got = (tmp_path / "stopped").read_text()
    assert ReceiverOptions.model_validate_json(got) == OPTIONS


async def test_one_that_ends_is_started_again(
    program: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(program, "echo ready; exit 3")
    words = "the receiver of webhooks ended with code 3; it is started again"
    warning = (child.__name__, logging.WARNING, words)
    # asyncio warns, too, if the process ends in the moment in which the block does.
    while_running: list[tuple[str, int, str]] = []
    async with receiver_running(OPTIONS):
        while len(while_running) < 3:
            await asyncio.sleep(0.01)
            while_running = list(caplog.record_tuples)
    assert set(while_running) == {warning}


async def test_one_that_cannot_be_started_is_tried_again(
    program: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def mend() -> None:
        while not caplog.records:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        write(program, "echo ready; read end")

    mending = asyncio.create_task(mend())
    async with asyncio.timeout(20), receiver_running(OPTIONS):
        await mending
    assert "cannot be started" in caplog.text
