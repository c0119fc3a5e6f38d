"""A listing: opam describes, a process computes, and where that fails opam's queries run."""

from collections.abc import Callable

import pytest

from opam_ci.clients.runners.listing import coinstall
from opam_ci.clients.runners.listing.coinstall_process import ExitCode
from opam_ci.clients.runners.phases.phase_log import PhaseLog
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.phases.transcript import Transcript
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.core.jobs.build import BuildSpec, PhaseTimeouts, RepositoryRef
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.platforms.model import EMBEDDED

SPEC = BuildSpec(
    job=Job(platform=EMBEDDED.name, package="lib.1", kind=JobKind.LIST_REVDEPS),
    platform=EMBEDDED,
    repository=RepositoryRef(
        base_commit="0" * 40,
        base_archive="base",
        overlay_archive="overlay",
        overlay_packages=1,
        package_count=10,
    ),
    submitted=("lib.1", "new.1"),
)
UNIVERSE = b"""package: lib
version: 1
available: true

package: new
version: 1
available: true
depends: lib

package: user
version: 1
available: true
depends: lib (>= 1)
"""
FILES = {
    "universe": UNIVERSE,
    "universe_with_tests": UNIVERSE,
    "post": b"# Package|||# Depends\n",
    "invariant": b"[]\n",
    "variables": b"arch x86_64 # Inferred from system\n",
}


class Job_:  # noqa: N801 - not the job of a plan
    def __init__(self, files: dict[str, bytes], described: ProcessResult | None = None) -> None:
        self.files = files
        self.described = described or ProcessResult()
        self.queries: list[str] = []
        self.log = b""
        self.phase_log = PhaseLog(Transcript(self, lambda _progress: None), PhaseTimeouts())
        self.phase_log.begin(Phase.SOLVE, "a listing")

    @property
    def size(self) -> int:
        return len(self.log)

    def write(self, data: bytes) -> None:
        self.log += data

    async def list(self) -> tuple[ProcessResult, tuple[str, ...] | None]:
        return await coinstall.run(SPEC, self.run_step, self.read, self.phase_log)

    async def run_step(self, step: Step, output: bytearray) -> ProcessResult:
        if step is coinstall.DESCRIBE:
            return self.described
        self.queries.append(step.title)
        output += b"listed.1\n"
        return ProcessResult()

    async def read(self, *paths: str, limit: int) -> dict[str, bytes]:
        assert limit > 50 << 20
        there = {f"{coinstall.DESCRIPTION}/{name}": data for name, data in self.files.items()}
        return {path: there[path] for path in paths if path in there}


async def test_one_description_is_enough() -> None:
    job = Job_(FILES)
    _, found = await job.list()
    assert found == ("user.1",)
    assert (job.queries, b"falling back" in job.log) == ([], False)
    assert b"[opam-ci] 1 worlds: 2 proved, 0 refuted" in job.log


@pytest.mark.parametrize(
    ("files", "described"),
    [
        ({**FILES, "universe": b"[ERROR] no\n"}, ProcessResult()),
        ({**FILES, "post": b"user.1 |||nonsense [\n"}, ProcessResult()),
        ({name: data for name, data in FILES.items() if name != "invariant"}, ProcessResult()),
        (FILES, ProcessResult(2)),
    ],
    ids=["invalid", "unproven", "missing", "failed"],
)
async def test_opam_lists_where_nothing_is_proved(
    files: dict[str, bytes], described: ProcessResult
) -> None:
    job = Job_(files, described)
    _, found = await job.list()
    assert found == ("listed.1",)
    assert b"\n[opam-ci] falling back to `opam list`\n" in job.log
    assert sum("--coinstallable-with" in title for title in job.queries) == 3


async def test_no_time_is_left_for_queries() -> None:
    job = Job_(FILES, ProcessResult(timed_out=True))
    end, found = await job.list()
    assert (end.timed_out, found, job.queries) == (True, None, [])


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (ProcessResult(timed_out=True), Cause.SOLVER_TIMEOUT),
        (ProcessResult(ExitCode.OUT_OF_MEMORY), Cause.OUT_OF_MEMORY),
        (ProcessResult(1), Cause.OPAM_INTERNAL),
    ],
)
async def test_a_computation_that_does_not_end_well_is_a_fault(
    end: ProcessResult, cause: Cause
) -> None:
    async def start(
        argv: list[str], *, output: Callable[[bytes], None], time_limit: float
    ) -> ProcessResult:
        output(b"so far")
        assert (argv[-2], time_limit) == ("lib.1", 5.0)
        return end

    with pytest.raises(InfrastructureError) as caught:
        await coinstall.decide(
            "lib.1", FILES, output=lambda _data: None, time_limit=5.0, start=start
        )
    assert caught.value.cause is cause


async def test_a_computation_is_killed_when_its_time_is_over() -> None:
    with pytest.raises(InfrastructureError, match="within 0 s"):
        await coinstall.decide("lib.1", FILES, output=lambda _data: None, time_limit=0.01)
