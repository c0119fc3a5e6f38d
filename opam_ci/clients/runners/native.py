"""The native runner: jobs run as they are on this machine, for systems without namespaces.

docs/native.md says what it protects, and what it cannot.
"""

import os
import pwd
import shlex
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from opam_ci.clients.host import HostNeeds
from opam_ci.clients.runners.base import LogSink
from opam_ci.clients.runners.images.image import ImageManifest
from opam_ci.clients.runners.images.layer import ArtifactSource, check_sandbox
from opam_ci.clients.runners.job.driver import JobRun
from opam_ci.clients.runners.job.reproduction import on_machine
from opam_ci.clients.runners.phases import mirrors, steps
from opam_ci.clients.runners.phases import plan as phases
from opam_ci.clients.runners.phases.executor import Output
from opam_ci.clients.runners.phases.kinds import BUILDS
from opam_ci.clients.runners.phases.phase_log import PhaseLog
from opam_ci.clients.runners.phases.transcript import Transcript
from opam_ci.clients.runners.preflight import check_room, limits_line
from opam_ci.clients.runners.sandbox.process import LastOutput
from opam_ci.clients.runners.settings import NativeSettings
from opam_ci.clients.runners.slots.exec import LINUX, NativeExecutor
from opam_ci.clients.runners.slots.layers import NativeLayers
from opam_ci.clients.runners.slots.machine import Machine, missing_programs, read_machine
from opam_ci.clients.runners.slots.slot import Slots, User
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.build import BuildProgress, BuildReport, BuildSpec
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause

_USERS = "OPAM_CI_NATIVE_USERS"
_SAME_USER = "OPAM_CI_NATIVE_SAME_USER"


class NativeRunner:
    """Runs build jobs on this machine itself; implements `base.MachineRunner`.

    As many jobs run at once as there are users for them, in one process or several, over one
    `home`; others wait for their turn.

    Args:
        settings: How this machine builds.
        artifacts: Where the repositories of jobs come from.
    """

    def __init__(self, settings: NativeSettings, artifacts: ArtifactSource) -> None:
        self._settings = settings
        self._artifacts = artifacts
        self._limits = settings.limits.on_this_machine(settings.slots)
        users = tuple(filter(None, map(User.named, settings.users)))
        self._slots = Slots(settings.home / "native", users or (None,))
        self._layers = NativeLayers(
            settings.home / "native-layers", artifacts, settings.keep_layers * max(1, len(users))
        )

    @property
    def needs(self) -> HostNeeds:
        """What this machine must have left before it takes jobs."""
        return self._settings.needs

    async def require(self) -> None:
        """Checks for the programs and the users of jobs; see `base.MachineRunner.require`."""
        if problem := missing_programs() or _user_problem(self._settings):
            raise UsageError(problem)

    async def prepare(self, show: Callable[[str], None]) -> Machine:
        """Finds out what this machine is.

        Args:
            show: Receives lines about progress, for people.

        Raises:
            InfrastructureError: Cause `image` or `sandbox`, and what to do.
        """
        machine = await self._read_machine()
        show(f"jobs of the native runner run on {machine.name}")
        if (users := len(self._slots.all)) < self._settings.slots:
            show(
                f"of {self._settings.slots} jobs at once, {users} run with the native runner, one "
                f"for each user of {_USERS}: the others wait for these"
            )
        return machine

    async def _read_machine(self) -> Machine:
        # Its opam and its OCaml may be upgraded at any time.
        user = self._slots.all[0].user
        return await read_machine(() if user is None else user.prefix)

    async def sweep(self) -> int:
        """Removes leftovers of killed workers, processes too; returns how many jobs they had."""
        await self._layers.sweep()
        swept = 0
        async for slot in self._slots.left_by_the_dead():
            await slot.renew()
            # At its end, a command's keeper kills everything of the slot's user.
            nothing = steps.Step(("true",))
            await _run(NativeExecutor(slot, mirrors.Mirrors()), nothing, lambda _: None)
            await slot.clear()
            swept += 1
        return swept

    async def preflight(self) -> None:
        """Checks that this machine can build.

        Raises:
            InfrastructureError: With the cause and what to do about it.
        """
        machine = await self._read_machine()
        self._settings.home.mkdir(parents=True, exist_ok=True)
        check_room(self.needs)
        with suppress(_BusyError):
            await self._check_slot(machine)

    async def _check_slot(self, machine: Machine) -> None:
        async with self._slots.take(_busy) as slot:
            executor = NativeExecutor(slot, mirrors.Mirrors(), self._limits)
            last = LastOutput()
            if not await _run(executor, steps.Step(("sh", "-c", ": > probe")), last):
                raise InfrastructureError(
                    f"the user of a job cannot write to {slot.home} ({last.text}): choose another "
                    "directory with OPAM_CI_CACHE, one that all users may enter, such as "
                    "/var/cache/opam-ci",
                    cause=Cause.SANDBOX,
                )
            if machine.sandbox is steps.OpamSandbox.BUBBLEWRAP:
                await check_sandbox(executor, "here", lambda _: "see docs/native.md")

    async def run(
        self, spec: BuildSpec, log: LogSink, progress: Callable[[BuildProgress], None]
    ) -> BuildReport:
        """Runs all phases of a job; see `base.Runner.run`."""
        if spec.job.kind not in BUILDS:
            raise InfrastructureError(
                f"this worker does not run {spec.job.kind} jobs", cause=Cause.IMAGE
            )
        transcript = Transcript(log, progress)
        machine = await self._read_machine()
        transcript.plain(await self.reproduction(spec))
        phase_log = PhaseLog(transcript, spec.timeouts)
        phase_log.begin_checkout(spec)
        waiting = b"[opam-ci] waiting for another job to end: all users of jobs have one\n"
        async with (
            self._slots.take(lambda: transcript.output(waiting)) as slot,
            self._layers.use(machine, slot, spec, transcript.output) as base,
        ):
            for line in self._notes(machine, slot.user):
                transcript.note(line)
            executor = NativeExecutor(slot, mirrors.inside(spec.archive_mirrors), self._limits)
            job = JobRun(
                spec,
                executor,
                base,
                ImageManifest(digest="", suite="", packages={}, made_at=datetime.now(UTC)),
                phase_log,
                archives=None,
                environment=self._settings.environment,
                depexts_check=_checked_depexts(spec) if LINUX else None,
            )
            return await job.run(self._artifacts)

    async def reproduction(self, spec: BuildSpec) -> str:
        """Returns what reproduces a job by hand; see `base.MachineRunner.reproduction`."""
        machine = await self._read_machine()
        compiler = shlex.join(machine.switch(spec.platform))
        platform = spec.platform.model_copy(update={"compiler": compiler})
        return on_machine(spec.model_copy(update={"platform": platform}), machine=machine.name)

    def _notes(self, machine: Machine, user: User | None) -> list[str]:
        notes = [limits_line(self._limits, ("cpu",)), "the network is not filtered"]
        if machine.sandbox is steps.OpamSandbox.NONE:
            notes.append("packages' commands are not sandboxed on this system")
        if user is None:
            notes.append("jobs run as the worker's own user")
        return notes


class _BusyError(Exception):
    """Every slot has a job: they were checked before."""


def _busy() -> None:
    raise _BusyError


async def _run(executor: NativeExecutor, step: steps.Step, output: Output) -> bool:
    ended = await executor.run(step, output=output, phase=Phase.SETUP, time_limit=60)
    return ended.ok


def _checked_depexts(spec: BuildSpec) -> steps.Step:
    """Returns the command that checks for system packages by opam, and installs none.

    On Linux only what is installed counts: the runners for machines where more is possible are
    others.
    """
    command = phases.depexts_by_opam(spec)
    script = 'opam option --global depext-run-installs=false && exec "$@"'
    return steps.Step(("sh", "-c", script, "sh", *command), shown=" ".join(command))


def _user_problem(settings: NativeSettings) -> str | None:
    """Returns why jobs have no users to run as, and what to do; None if they have."""
    root = os.geteuid() == 0
    if settings.users:
        return _problem_of_users(settings.users, root=root)
    if root:
        return f"jobs must not run as root: make users for them, and name them in {_USERS}"
    if not LINUX:
        return (
            f"jobs need users of their own on this system: make some, name them in {_USERS}, and "
            "run this worker as root"
        )
    if settings.same_user:
        return None
    me = pwd.getpwuid(os.getuid()).pw_name
    return (
        f"jobs would run as {me} and could change {me}'s files, this worker's too: run it as root "
        f"with users of their own in {_USERS}, or accept that with {_SAME_USER}=true"
    )


def _problem_of_users(names: tuple[str, ...], *, root: bool) -> str | None:
    known = {name: User.named(name) for name in names}
    if unknown := [name for name, user in known.items() if user is None]:
        return f"{_USERS} names {', '.join(unknown)}: make these users, or correct it"
    if any(user is not None and user.uid == 0 for user in known.values()):
        return f"{_USERS} names root: jobs need users of their own"
    return None if root else f"run this worker as root: it runs jobs as the users of {_USERS}"
