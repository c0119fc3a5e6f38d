"""Runners that build nothing: good ones, and ones on a broken machine."""

import asyncio
from collections.abc import Callable

from opam_ci.clients.runners.base import LogSink
from opam_ci.core.jobs.build import BuildProgress, BuildReport, BuildSpec
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import BuildFacts, HostFacts, OpamAction, PhaseRun
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.workers import canary

AMPLE = HostFacts(free_bytes=50 << 30, free_inodes=10**6)


def facts(spec: BuildSpec, *, fails: bool = False) -> BuildFacts:
    """Facts of a build that passed, or whose build command failed."""
    package = spec.job.package
    build = OpamAction(
        action="build" if fails else "install",
        package=package,
        result="failed" if fails else "ok",
        exit_code=2 if fails else None,
    )

    def run(phase: Phase, exit_code: int = 0, *actions: OpamAction) -> PhaseRun:
        return PhaseRun(
            phase=phase,
            exit_code=exit_code,
            duration=0.1,
            log_start=0,
            log_end=0,
            actions=actions,
            has_report=bool(actions),
        )

    phases: tuple[PhaseRun, ...] = (run(Phase.SETUP), run(Phase.BUILD, 31 if fails else 0, build))
    if not fails:
        phases = (*phases, run(Phase.VERIFY))
    return BuildFacts(
        job=spec.job,
        phases=phases,
        installed=None if fails else True,
        finished=not fails,
        host=AMPLE,
    )


class FakeRunner:
    """Builds every package at once, except the canary's bad one.

    Attributes:
        broken: While set, every job fails at once with this cause.
        ran: The jobs that it ran, without the canary's.
    """

    def __init__(self, *, duration: float = 0.2) -> None:
        self.broken: Cause | None = None
        self.ran: list[str] = []
        self.canaries = 0
        self.duration = duration

    async def run(
        self, spec: BuildSpec, log: LogSink, progress: Callable[[BuildProgress], None]
    ) -> BuildReport:
        if spec.job.package in {canary.GOOD, canary.BAD}:
            self.canaries += 1
        else:
            self.ran.append(spec.job.id)
        progress(BuildProgress(phase=Phase.SETUP, log_bytes=log.size))
        if self.broken is not None:
            raise InfrastructureError("the machine is broken", cause=self.broken)
        await asyncio.sleep(self.duration)
        return BuildReport(facts=facts(spec, fails=spec.job.package == canary.BAD), logs={})

    async def preflight(self) -> None:
        """Finds nothing, as on a machine whose fault shows only under load."""
