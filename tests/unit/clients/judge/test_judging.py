"""Verdicts are found in a process of their own, which a log can neither hold up nor escape."""

import asyncio
import signal
from collections.abc import Callable
from datetime import timedelta

import pytest

from opam_ci.clients.judge import judging
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.core import classify
from opam_ci.core.jobs.facts import BuildFacts, HostFacts, OpamAction, PhaseRun
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Outcome, label

JOB = Job(platform="linux", package="a.1", kind=JobKind.BUILD)
ENDLESS = "a\n" * 600_000
"""Takes more than a second of processor time, whatever the machine."""


def build(*actions: OpamAction, exit_code: int = 31, finished: bool = False) -> BuildFacts:
    run = PhaseRun(
        phase=Phase.BUILD,
        exit_code=exit_code,
        duration=1,
        log_start=0,
        log_end=100,
        actions=actions,
        has_report=bool(actions),
    )
    return BuildFacts(
        job=JOB,
        phases=(run,),
        installed=finished or None,
        finished=finished,
        host=HostFacts(free_bytes=1 << 40, free_inodes=1 << 20),
    )


FAILED = OpamAction(action="build", package="a.1", result="failed", exit_code=2)


async def judge(facts: BuildFacts, log: str, **more: object) -> Outcome:
    return await judging.judge(
        facts,
        {Phase.BUILD: log},
        worker="w",
        attempt=2,
        **more,  # type: ignore[arg-type] # as the function has them
    )


def ends(**how: object) -> Callable[..., object]:
    async def start(*_: object, output: Callable[[bytes], None], **__: object) -> ProcessResult:
        output(b"Traceback (most recent call last):\n")
        return ProcessResult(**{"exit_code": 1, **how})  # type: ignore[arg-type] # as above

    return start


async def test_the_process_judges_as_the_function_does() -> None:
    log = 'File "x.ml", line 1, characters 0-1:\nError: Unbound value y\n'
    facts = build(FAILED)

    outcome = await judge(facts, log)

    assert outcome == classify.judge(facts, {Phase.BUILD: log}, worker="w", attempt=2)
    assert label(outcome) == "failed(build)"
    assert "Unbound value" in str(outcome)


async def test_a_job_that_passed_costs_no_process() -> None:
    async def start(*_: object, **__: object) -> ProcessResult:
        raise AssertionError("a process was started")

    outcome = await judge(build(exit_code=0, finished=True), "all is well", start=start)

    assert label(outcome) == "passed"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [(build(FAILED), "failed(build)"), (build(exit_code=99), "errored(opam_internal)")],
)
async def test_a_log_that_takes_too_long_leaves_it_to_the_facts(
    facts: BuildFacts, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = await judge(facts, ENDLESS, processor_limit=timedelta(seconds=1))

    assert f"failed: signal {signal.SIGXCPU.value}" in caplog.text
    assert label(outcome) == expected
    assert judging.UNREAD in str(outcome)


@pytest.mark.parametrize(
    "how",
    [
        {"exit_code": 1},
        {"exit_code": None, "signal": 9},
        {"exit_code": None, "signal": 9, "timed_out": True},
        {"exit_code": 0},  # it printed something else than an outcome
    ],
)
async def test_a_process_that_dies_leaves_it_to_the_facts(how: dict[str, object]) -> None:
    outcome = await judge(build(exit_code=77), "Error: something", start=ends(**how))

    assert label(outcome) == "errored(unknown)"
    assert judging.UNREAD in str(outcome)


async def test_a_machine_without_room_for_a_process_leaves_it_to_the_facts() -> None:
    async def start(*_: object, **__: object) -> ProcessResult:
        raise BlockingIOError("fork")

    assert judging.UNREAD in str(await judge(build(FAILED), "Error: something", start=start))


async def test_others_go_on_while_a_log_is_read() -> None:
    reading = asyncio.create_task(judge(build(FAILED), "Error: something\n"))

    # What computes in the event loop has ended once anybody else gets a turn.
    await asyncio.sleep(0)
    assert not reading.done()
    assert label(await reading) == "failed(build)"
