"""The base layer: an opam root with one commit of the repository, made once a commit.

`opam init` on the whole repository takes 8 to 18 s and the compiler 5 s more. A job starts
from a copy-on-write view of their result.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Protocol

from opam_ci.clients.runners.images.image import Image, read_manifest
from opam_ci.clients.runners.images.rootfs_exec import RootfsExecutor
from opam_ci.clients.runners.images.scratch import overlay
from opam_ci.clients.runners.phases import mirrors, report, steps
from opam_ci.clients.runners.phases import plan as phases
from opam_ci.clients.runners.phases.executor import Executor, read_one
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox.locks import (
    HALF_MADE,
    made_on_demand,
    own_directory,
    prune_unused,
    remove_tree,
    remove_unlocked,
    remove_unused,
)
from opam_ci.clients.runners.sandbox.process import LastOutput
from opam_ci.clients.runners.sandbox.user_namespace import job_namespace
from opam_ci.core.classify.exits import OpamExit
from opam_ci.core.jobs.build import BuildSpec
from opam_ci.core.jobs.errors import InfrastructureError, UnfitImageError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen

_LAYER_VERSION = 7
"""Incremented when the way of making a layer changes."""

_STEP_TIMEOUT = 10 * 60.0
_SELF_TEST_TIMEOUT = 60.0
_READABLE_SHARE = 0.9
"""opam skips files that it cannot read. The repository may contain a few; if it is a tenth, the
CI is at fault."""

_BASE = "/home/opam/base"

# One sandbox, because the unpacked base is in memory: 40,000 small files that opam copies to
# its root and that are not needed afterwards.
_INITIALISE_SCRIPT = 'tar --extract --gzip --no-same-owner --directory "$1" && shift && exec "$@"'
_INIT = ("opam", "init", "--bare", "--no-setup", "--kind=local")

_VERSION = steps.Step(("opam", "--version"))

# For an image with a switch and its compiler, such as ocaml/opam's.
_SWITCH = steps.Step(("opam", "switch", "show"))
_RENEW = steps.Step(
    # Its ~/.opamrc turns the sandbox off. Of the commands that meet the root of an older opam, this
    # one alone upgrades it and then does what it should (opam 2.6). It updates the image's own
    # repositories, of which those with OCaml's betas are elsewhere.
    ("opam", "init", "--reinit", "--bare", "--no-setup", "--no-opamrc"),
    network=True,
)
# The image's switch gets a link with our name.
_TAKE_OVER_SCRIPT = (
    'tar --extract --gzip --no-same-owner --directory "$1" && '
    'opam repository set-url --kind=local default "$1" && '
    'ln -sfn "$(opam switch show)" "$HOME/.opam/$2"'
)
_TAKE_OVER = steps.Step(
    ("sh", "-c", _TAKE_OVER_SCRIPT, "sh", _BASE, phases.SWITCH),
    shown="opam repository set-url default",
    scratch=(_BASE,),
)


_SOLVER = "builtin-0install"
_TRY_SOLVER = steps.Step(
    ("opam", "list", "--no-switch", "--resolve="), environment=(("OPAMEXTERNALSOLVER", _SOLVER),)
)
"""Solves nothing: it ends with exit code 50 if opam has no such solver."""

# Without its own time limits a fetch from a host that hangs never ends. It is in opam's
# configuration, since opam 2.1.2 ignores `OPAMFETCH`.
_DOWNLOAD = (
    '"curl" "--connect-timeout" "10" "--max-time" "600" "--speed-time" "30" "--speed-limit" "1000" '
    '"--retry" "2" "--retry-delay" "2" "--user-agent" "opam-ci" '
    r'"--write-out" "%%{http_code}\\n" "-L" "-o" "%{out}%" "--" "%{url}%"'
)
_SET_DOWNLOAD = steps.Step(
    ("opam", "option", "--global", f"download-command=[{_DOWNLOAD}]"),
    shown="opam option download-command",
)
_VERSION_LIMIT = 100

_SANDBOX_SCRIPT = f"{phases.OPAM_ROOT}/opam-init/hooks/sandbox.sh"
_UNSHARED = "exec bwrap --unshare-pid "
_UNSHARE = steps.Step(
    ("sed", "-i", f"s/^exec bwrap /{_UNSHARED}/", f"/{_SANDBOX_SCRIPT}"),
    shown="give opam's sandbox a PID namespace of its own",
)
"""opam's script leaves commands of packages in opam's PID namespace, where they could kill it and
write to its output. It ends in this line in opam 2.0 to 2.6."""


class ArtifactSource(Protocol):
    """A store of the archives of repositories."""

    async def fetch(self, key: str, target: Path) -> None:
        """Writes an artifact to a new file.

        Raises:
            InfrastructureError: Cause `storage`: it is missing or cannot be read.
        """


class LayerManifest(Frozen):
    """Content of a layer; written last, so that a layer with a manifest is complete.

    Attributes:
        base_commit: Commit of the repository.
        packages: Every package of the base, `name.version`.
        installed: Packages of the compiler, which the switch has from the start.
        hidden: Number of packages that were left out since the mirrors lack their sources.
        own_processes: Whether opam's sandbox has a PID namespace of its own.
        opam_version: What `opam --version` prints.
        hidden_packages: Those packages, `name.version`.
        sandbox: The sandbox in which opam runs commands of packages.
    """

    base_commit: str
    packages: frozenset[str]
    installed: frozenset[str]
    hidden: int
    own_processes: bool = False
    opam_version: str = ""
    hidden_packages: frozenset[str] = frozenset()
    sandbox: steps.OpamSandbox = steps.OpamSandbox.BUBBLEWRAP


class Layer(Frozen):
    """A complete layer on this machine."""

    upper: Path
    manifest: LayerManifest


def layer_key(image: str, spec: BuildSpec, shown: mirrors.Mirrors) -> str:
    """Returns the key of a job's base layer.

    Args:
        image: Digest of the image below.
        spec: The job.
        shown: Its archive mirrors.
    """
    parts = [
        _LAYER_VERSION,
        image,
        spec.repository.base_commit,
        spec.platform.compiler,
        spec.platform.opam,
        shown.contents if spec.only_mirrored else None,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def waiting_line(output: Callable[[bytes], None]) -> Callable[[], None]:
    """Returns a function that writes that a job waits for its base layer."""
    return lambda: output(b"[opam-ci] waiting for another job that makes the same base layer\n")


class LayerStore:
    """The layers below one directory.

    Args:
        home: The directory.
        artifacts: Where base archives come from.
        keep: How many stay when a new one is made; those in use always stay.
        rights: How to get the rights that mounts need.
    """

    def __init__(
        self, home: Path, artifacts: ArtifactSource, keep: int, rights: sandbox.Rights
    ) -> None:
        self._home = home
        self._artifacts = artifacts
        self._keep = keep
        self._rights = rights

    @asynccontextmanager
    async def use(
        self, image: Image, spec: BuildSpec, output: Callable[[bytes], None]
    ) -> AsyncIterator[Layer]:
        """Holds the layer of a job, making it first if need be.

        Args:
            image: The image below.
            spec: The job.
            output: Receives output of its making, for people.

        Raises:
            InfrastructureError: It cannot be made.
        """
        shown = mirrors.inside(spec.archive_mirrors)
        key = await asyncio.to_thread(layer_key, image.manifest.digest, spec, shown)
        directory = self._home / key

        async def find() -> Layer | None:
            manifest = read_manifest(directory / "manifest.json", LayerManifest)
            if manifest is None:
                return None
            return Layer(upper=directory / "upper", manifest=manifest)

        async def make() -> None:
            await self._make(image, spec, shown, directory, output)
            await self._prune()

        async with made_on_demand(
            self._lock_file(directory), find, make, waiting_line(output)
        ) as layer:
            yield layer

    async def sweep(self) -> None:
        """Removes layers that were being made, or removed, when their worker was killed."""
        await remove_unlocked(self._home, HALF_MADE, self._rights)
        await remove_unused(self._home, self._rights)

    async def _prune(self) -> None:
        await self.sweep()
        complete = self._home.glob("*/manifest.json")
        await prune_unused(
            (mark for mark in complete if not mark.parent.name.startswith(HALF_MADE)),
            self._keep,
            lambda manifest: self._lock_file(manifest.parent),
            lambda manifest: remove_tree(manifest.parent, self._rights),
        )

    def _lock_file(self, directory: Path) -> Path:
        return self._home / f"{directory.name}.lock"

    async def _make(
        self,
        image: Image,
        spec: BuildSpec,
        shown: mirrors.Mirrors,
        target: Path,
        output: Callable[[bytes], None],
    ) -> None:
        async with (
            own_directory(self._home, HALF_MADE, self._rights) as half_made,
            job_namespace(self._rights) as rights,
        ):
            root = overlay(half_made, (image.root,))
            executor = RootfsExecutor(root, shown, rights, personality=spec.platform.personality)
            making = LayerMaking(executor, shown, output)
            archive = half_made / "base.tar.gz"
            await self._artifacts.fetch(spec.repository.base_archive, archive)
            manifest = await making.run(spec, archive)
            await asyncio.to_thread(archive.unlink)
            # Without a manifest it is the rest of a killed removal.
            await remove_tree(target, self._rights)
            await asyncio.to_thread(_complete, half_made, manifest, target)


def _complete(half_made: Path, manifest: LayerManifest, target: Path) -> None:
    (half_made / "manifest.json").write_text(manifest.model_dump_json())
    os.sync()
    half_made.rename(target)


class LayerMaking:
    """Makes one layer in a build root of any runner.

    Args:
        executor: A build root over the image alone.
        shown: Archive mirrors.
        output: Receives the output, for people.
        sandbox: opam's sandbox there.
    """

    def __init__(
        self,
        executor: Executor,
        shown: mirrors.Mirrors,
        output: Callable[[bytes], None],
        *,
        sandbox: steps.OpamSandbox = steps.OpamSandbox.BUBBLEWRAP,
    ) -> None:
        self._executor = executor
        self._mirrors = shown
        self._output = output
        self._sandbox = sandbox

    async def run(
        self, spec: BuildSpec, archive: Path, *, switch: tuple[str, ...] = ()
    ) -> LayerManifest:
        """Makes it.

        Args:
            spec: A job on it.
            archive: Archive of the base repository; it may be replaced by a reduced one.
            switch: What the switch has, in words of `opam switch create`; by default the
                platform's compiler, or the switch that is there.

        Raises:
            InfrastructureError: It cannot be made.
        """
        compiler = switch or ((spec.platform.compiler,) if spec.platform.compiler else ())
        existing = not compiler
        opam_version = (await self._do(_VERSION, of_image=existing)).strip()[:_VERSION_LIMIT]
        hidden = await self._hide(archive) if spec.only_mirrored else frozenset[str]()
        if existing:
            await self._do(_SWITCH, of_image=True)
            await self._do(_RENEW, of_image=True)
        with archive.open("rb") as stream:
            await self._do(_TAKE_OVER if existing else _initialise(self._sandbox), stdin=stream)
        await self._do(phases.unpack_repository("default"))
        base = await self._executor.packages(f"{phases.OPAM_ROOT}/repo/default")
        await require_sandbox(self._executor, self._sandbox)
        own_processes = (
            self._sandbox is steps.OpamSandbox.BUBBLEWRAP and await self._give_own_processes()
        )
        await self._set_solver()
        await self._do(_SET_DOWNLOAD)
        if self._mirrors.urls:
            await self._do(phases.set_mirrors(self._mirrors))
        if not existing:
            create = ("opam", "switch", "create", phases.SWITCH, *compiler)
            await self._do(steps.Step(create, network=True))
        if self._mirrors.urls:
            # Each job sets its own.
            await self._do(phases.set_mirrors(mirrors.Mirrors()))
        listing = await self._do(
            steps.Step(("opam", "list", "--all", "--all-versions", "--short"), shown=" "),
            quiet=True,
        )
        known = sum(1 for line in listing.splitlines() if line.strip())
        if known < _READABLE_SHARE * len(base) or not base:
            raise InfrastructureError(
                f"opam can read {known} of the {len(base)} packages of the base repository",
                cause=Cause.REPOSITORY_STATE,
                phase=Phase.CHECKOUT,
            )
        opam = f"/{phases.OPAM_ROOT}"
        rubbish = (f"{opam}/log", f"{opam}/download-cache")
        await self._do(steps.Step(("rm", "-rf", *rubbish)))
        installed = await read_installed(self._executor)
        if not installed:
            raise InfrastructureError(
                f"the switch with {' '.join(compiler)} is empty", cause=Cause.OPAM_INTERNAL
            )
        return LayerManifest(
            base_commit=spec.repository.base_commit,
            packages=base,
            installed=installed,
            hidden=len(hidden),
            hidden_packages=hidden,
            own_processes=own_processes,
            opam_version=opam_version,
            sandbox=self._sandbox,
        )

    async def _set_solver(self) -> None:
        """Chooses builtin-0install, unless this opam is built without it, as Debian's 2.1 is."""
        tried = await self._executor.run(
            _TRY_SOLVER, output=lambda _: None, phase=Phase.CHECKOUT, time_limit=_STEP_TIMEOUT
        )
        if tried.exit_code == OpamExit.CONFIGURATION_ERROR:
            self._output(f"[opam-ci] base layer: this opam has no {_SOLVER}\n".encode())
            return
        await self._do(steps.Step(("opam", "option", "--global", f"solver={_SOLVER}")))

    async def _give_own_processes(self) -> bool:
        """Gives opam's sandbox a PID namespace of its own; returns whether that is possible here.

        Raises:
            InfrastructureError: Cause `sandbox`: opam's script has an unknown form.
        """
        probe = steps.opam_sandbox_probe(own_processes=True)
        tried = await self._executor.run(
            probe, output=self._output, phase=Phase.CHECKOUT, time_limit=_STEP_TIMEOUT
        )
        if not tried.ok:
            # The engine masks /proc, and this worker may not mount an empty one (`empty_proc.py`).
            self._output(b"[opam-ci] base layer: opam's sandbox shares opam's PID namespace\n")
            return False
        await self._do(_UNSHARE)
        await require_pid_namespace(self._executor)
        return True

    async def _hide(self, archive: Path) -> frozenset[str]:
        local = tuple(path for path, _ in self._mirrors.directories)
        reduced = archive.with_name("reduced.tar.gz")
        hidden = await asyncio.to_thread(mirrors.reduce, archive, reduced, local)
        line = f"[opam-ci] base layer: {len(hidden)} packages have no mirrored source\n"
        self._output(line.encode())
        await asyncio.to_thread(reduced.replace, archive)
        return hidden

    async def _do(
        self,
        step: steps.Step,
        *,
        stdin: IO[bytes] | None = None,
        quiet: bool = False,
        of_image: bool = False,
    ) -> str:
        if not quiet:
            self._output(f"[opam-ci] base layer: {step.title}\n".encode())
        kept = bytearray()

        def output(data: bytes) -> None:
            kept.extend(data)
            if not quiet:
                self._output(data)

        ended = await self._executor.run(
            step, output=output, phase=Phase.CHECKOUT, time_limit=_STEP_TIMEOUT, stdin=stdin
        )
        text = kept.decode(errors="replace")
        if not ended.ok:
            last = " | ".join(text.splitlines()[-4:])
            message = f"the base layer could not be made: {step.title} failed ({ended.how}): {last}"
            cause = _cause(ended.exit_code, started=ended.started)
            if of_image and ended.exit_code is not None and cause is Cause.OPAM_INTERNAL:
                raise UnfitImageError(message, phase=Phase.CHECKOUT)
            raise InfrastructureError(message, cause=cause, phase=Phase.CHECKOUT)
        return text


def _cause(exit_code: int | None, *, started: bool) -> Cause:
    if not started:
        return Cause.SANDBOX
    if exit_code == OpamExit.SYNC_ERROR:
        return Cause.SOURCE_HOST
    if exit_code in {OpamExit.NOT_FOUND, OpamExit.NO_SOLUTION}:
        return Cause.REPOSITORY_STATE
    return Cause.OPAM_INTERNAL


async def check_sandbox(executor: Executor, place: str, advice: Callable[[str], str]) -> None:
    """Checks that the sandbox of builds works in a build root, opam's own inside it too.

    Args:
        executor: The build root.
        place: Where that is, for the message.
        advice: Returns what to do, from the output of the test.

    Raises:
        InfrastructureError: Cause `sandbox`, with what to do.
    """
    kept = LastOutput()
    ended = await executor.run(
        steps.SELF_TEST, output=kept, phase=Phase.SETUP, time_limit=_SELF_TEST_TIMEOUT
    )
    if not ended.ok:
        output = kept.text
        last = (output.splitlines() or [ended.how])[-1]
        raise InfrastructureError(
            f"the sandbox of builds does not work {place} ({last}): {advice(output)}",
            cause=Cause.SANDBOX,
        )
    await require_sandbox(executor)


def _initialise(sandbox: steps.OpamSandbox) -> steps.Step:
    off = ("--disable-sandboxing",) if sandbox is steps.OpamSandbox.NONE else ()
    return steps.Step(
        ("sh", "-c", _INITIALISE_SCRIPT, "sh", _BASE, *_INIT, *off, "default", _BASE),
        shown="opam init",
        scratch=(_BASE,),
    )


async def require_sandbox(
    executor: Executor, sandbox: steps.OpamSandbox = steps.OpamSandbox.BUBBLEWRAP
) -> None:
    """Checks that opam will run commands in its own sandbox, if the system has one.

    `opam init` turns it off silently when its own check of bubblewrap fails.

    Raises:
        InfrastructureError: Cause `sandbox`.
    """
    if sandbox is steps.OpamSandbox.NONE:
        return
    path = f"{phases.OPAM_ROOT}/config"
    config = await read_one(executor, path, limit=report.STATE_LIMIT) or b""
    if b"wrap-build-commands:" in config and b"/sandbox.sh" in config:
        return
    raise InfrastructureError(
        "opam's own sandbox is off in the build root: bubblewrap does not work nested on this "
        "machine (user namespaces must be allowed: sysctl user.max_user_namespaces)",
        cause=Cause.SANDBOX,
    )


async def require_pid_namespace(executor: Executor) -> None:
    """Checks that opam's sandbox gives commands of packages a PID namespace of their own.

    Raises:
        InfrastructureError: Cause `sandbox`.
    """
    script = await read_one(executor, _SANDBOX_SCRIPT, limit=report.STATE_LIMIT) or b""
    if _UNSHARED.encode() not in script:
        raise InfrastructureError(
            "opam's sandbox in the build root has no PID namespace of its own: its script, "
            "hooks/sandbox.sh, has a form that this CI does not know",
            cause=Cause.SANDBOX,
        )


async def read_installed(executor: Executor) -> frozenset[str] | None:
    """Reads which packages are installed; None if the switch state is missing or invalid."""
    state = await read_one(executor, phases.SWITCH_STATE, limit=report.STATE_LIMIT)
    return report.installed(state) if state is not None else None
