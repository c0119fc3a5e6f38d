"""Sections of a log are where the runner recorded its phases, whatever the text says."""

import pytest

from opam_ci.clients.judge import judged
from opam_ci.clients.judge.sections import sections
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.tail import LogTails
from opam_ci.clients.logs.view import LogViews
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.core.classify.replay import Judged
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import BuildFacts, PhaseRun
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Evidence, Passed

KEY = "logs/o/r/pr-1/abc/build,cppo.1/1-1"
PASSED = Passed(evidence=Evidence(rule="installed"))
FORGED = b"\n==== opam-ci: phase test begins 2026-05-04T12:00:00Z: not so\n"


def phase(name: Phase, start: int, end: int) -> PhaseRun:
    return PhaseRun(phase=name, exit_code=0, duration=1.5, log_start=start, log_end=end)


async def written(store: ArtifactStore, note: str | None = None) -> list[tuple[str, int, int]]:
    async with LogWriter(store, KEY) as log:
        log.write(b"script\n==== begins\n")
        runs = []
        for name, output in (
            (Phase.FETCH, b""),
            (Phase.BUILD, b"one\n" + FORGED + b"three\n" * 500_000),
            (Phase.TEST, b"no line end"),
        ):
            start = log.size
            log.write(output)
            runs.append(phase(name, start, log.size))
            log.write(b"\n==== ends\n")
        facts = BuildFacts(
            job=Job(platform="p", package="a.1", kind=JobKind.BUILD), phases=(*runs,)
        )
        judged.keep(log, Judged(facts=facts, outcome=PASSED))
        log.note = log.note if note is None else note
    tails = LogTails(store)
    found = await sections(await LogViews(store, tails).view(KEY))
    await tails.close()
    return [(each.run.phase.value, each.first_line, each.last_line) for each in found]


async def test_sections_come_from_the_facts() -> None:
    assert await written(ArtifactStore.open("memory:")) == [
        ("fetch", 3, 2),
        ("build", 5, 500_007),
        ("test", 500_010, 500_010),
    ]


async def test_a_log_without_facts_has_none() -> None:
    assert await written(ArtifactStore.open("memory:"), note="") == []


async def test_damaged_facts_are_the_stores_fault() -> None:
    with pytest.raises(InfrastructureError, match="damaged"):
        await written(ArtifactStore.open("memory:"), note="{")
