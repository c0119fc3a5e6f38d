"""The base layer: an opam root that knows one commit of the repository, made once.

`opam init` on the whole repository costs 8 to 18 s and the compiler 5 s more. A job starts
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

from opam_ci.clients.runners import mirrors, phases, report, sandbox, steps
from opam_ci.clients.runners.executor import Executor, read_one
from opam_ci.clients.runners.image import HALF_MADE, Image, remove_tree, remove_unlocked
from opam_ci.clients.runners.jobroot import overlay
from opam_ci.clients.runners.locks import lock, locked_directory, try_lock
from opam_ci.clients.runners.rootexec import RootfsExecutor
from opam_ci.core.build import BuildSpec
from opam_ci.core.job import Phase
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause

LAYER_VERSION = 5
"""Raised whenever the way of making a layer changes."""

_STEP_TIMEOUT = 10 * 60.0
_FETCH_FAILED = 40
_READABLE_SHARE = 0.9
"""opam skips files that it cannot read. A few such files are the repository's own affair; a
tenth of it is a fault."""

_BASE = "/home/opam/base"

# One sandbox, because the unpacked base is in memory: 40,000 small files that opam copies to
# its own place and that nobody wants afterwards.
_INITIALISE = steps.Step(
    (
        *(
            "sh",
            "-c",
            'tar --extract --gzip --no-same-owner --directory "$1" && shift && exec "$@"',
        ),
        *("sh", _BASE, "opam", "init", "--bare", "--no-setup", "--kind=local", "default", _BASE),
    ),
    shown="opam init",
    scratch=(_BASE,),
)


# For an image that comes with a switch and its compiler, as ocaml/opam's do. Their sandbox is
# off; their switch is known to us under our own name for it.
_TAKE_OVER_SCRIPT = (
    'tar --extract --gzip --no-same-owner --directory "$1" && '
    'opam repository set-url --kind=local default "$1" && '
    "opam init --reinit --bare --no-setup && "
    'ln -sfn "$(opam switch show)" "$HOME/.opam/$2"'
)
_TAKE_OVER = steps.Step(
    ("sh", "-c", _TAKE_OVER_SCRIPT, "sh", _BASE, phases.SWITCH),
    shown="opam repository set-url default",
    scratch=(_BASE,),
)


_SANDBOX_SCRIPT = f"{phases.OPAM_ROOT}/opam-init/hooks/sandbox.sh"
_UNSHARED = "exec bwrap --unshare-pid "
_UNSHARE = steps.Step(
    ("sed", "-i", f"s/^exec bwrap /{_UNSHARED}/", f"/{_SANDBOX_SCRIPT}"),
    shown="give opam's sandbox a PID namespace of its own",
)
"""opam's script leaves commands of packages in opam's PID namespace, where they could kill it and
write to its output. It ends in this line in opam 2.0 to 2.6."""


class ArtifactSource(Protocol):
    """Where the archives of a repository come from."""

    async def fetch(self, key: str, target: Path) -> None:
        """Writes an artifact to a new file.

        Raises:
            InfrastructureError: Cause `storage`: it is not there or cannot be read.
        """


class LayerManifest(Frozen):
    """What a layer holds; written last, so that a layer with one is complete.

    Attributes:
        base_commit: Which tree.
        packages: Every package of the base, `name.version`.
        installed: What the switch has from the start: the compiler.
        hidden: How many packages were left out for want of sources in the mirrors.
        own_processes: Whether opam's sandbox has a PID namespace of its own.
        hidden_packages: Which, `name.version`.
    """

    base_commit: str
    packages: frozenset[str]
    installed: frozenset[str]
    hidden: int
    own_processes: bool = False
    hidden_packages: frozenset[str] = frozenset()


class Layer(Frozen):
    """A complete layer on this machine."""

    upper: Path
    manifest: LayerManifest


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
            image: What it lies over.
            spec: The job.
            output: Receives what a person watches while it is made.

        Raises:
            InfrastructureError: It cannot be made.
        """
        shown = mirrors.inside(spec.archive_mirrors)
        name = self._name(image, spec, shown)
        self._home.mkdir(parents=True, exist_ok=True)

        def waiting() -> None:
            output(b"[opam-ci] waiting for another job that makes the same base layer\n")

        while True:
            async with lock(self._home / f"{name}.lock", shared=True, waiting=waiting):
                if (layer := self._find(name)) is not None:
                    # Its age decides what is pruned.
                    os.utime(self._home / name)
                    yield layer
                    return
            async with lock(self._home / f"{name}.lock", waiting=waiting):
                if self._find(name) is None:
                    await self._make(image, spec, shown, self._home / name, output)
            await self.prune(sparing=name)

    async def sweep(self) -> None:
        """Removes what workers left that were killed while they made a layer."""
        await remove_unlocked(self._home, HALF_MADE, self._rights)

    async def prune(self, *, sparing: str) -> None:
        """Removes the layers that were used longest ago."""
        await self.sweep()
        complete = [path for path in self._home.iterdir() if (path / "manifest.json").exists()]
        complete.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in complete[self._keep :]:
            if path.name == sparing:
                continue
            mine = try_lock(self._home / f"{path.name}.lock")
            if mine is None:
                continue
            try:
                # The manifest goes first: without it the rest counts for nothing.
                (path / "manifest.json").unlink(missing_ok=True)
                await remove_tree(path, self._rights)
            finally:
                os.close(mine)

    def _name(self, image: Image, spec: BuildSpec, shown: mirrors.Mirrors) -> str:
        words = [
            LAYER_VERSION,
            image.manifest.digest,
            spec.repository.base_commit,
            spec.platform.compiler,
            shown.digest if spec.only_mirrored else None,
        ]
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]

    def _find(self, name: str) -> Layer | None:
        try:
            text = (self._home / name / "manifest.json").read_bytes()
        except FileNotFoundError:
            return None
        return Layer(
            upper=self._home / name / "upper", manifest=LayerManifest.model_validate_json(text)
        )

    async def _make(
        self,
        image: Image,
        spec: BuildSpec,
        shown: mirrors.Mirrors,
        target: Path,
        output: Callable[[bytes], None],
    ) -> None:
        half_made, mine = locked_directory(self._home, HALF_MADE)
        try:
            root = overlay(half_made, (image.root,))
            making = LayerMaking(RootfsExecutor(root, shown, self._rights), shown, output)
            archive = half_made / "base.tar.gz"
            await self._artifacts.fetch(spec.repository.base_archive, archive)
            manifest = await making.run(spec, archive)
            await asyncio.to_thread(archive.unlink)
            # Without a manifest it is what a killed pruning left.
            await remove_tree(target, self._rights)
            await asyncio.to_thread(_complete, half_made, manifest, target)
        except BaseException:
            await remove_tree(half_made, self._rights)
            raise
        finally:
            os.close(mine)


def _complete(half_made: Path, manifest: LayerManifest, target: Path) -> None:
    (half_made / "manifest.json").write_text(manifest.model_dump_json())
    os.sync()
    half_made.rename(target)


class LayerMaking:
    """One layer in the making, in whatever place.

    Args:
        executor: A build root over the image alone.
        shown: Archive mirrors.
        output: Receives what a person watches.
    """

    def __init__(
        self, executor: Executor, shown: mirrors.Mirrors, output: Callable[[bytes], None]
    ) -> None:
        self._executor = executor
        self._mirrors = shown
        self._output = output

    async def run(self, spec: BuildSpec, archive: Path) -> LayerManifest:
        """Makes it from the archive of the base, which may be changed on the way.

        Raises:
            InfrastructureError: It cannot be made.
        """
        compiler = spec.platform.compiler
        existing = not compiler
        hidden = await self._hide(archive) if spec.only_mirrored else frozenset[str]()
        with archive.open("rb") as stream:
            await self._do(_TAKE_OVER if existing else _INITIALISE, stdin=stream)
        base = await self._executor.packages(f"{phases.OPAM_ROOT}/repo/default")
        await require_sandbox(self._executor)
        own_processes = await self._give_own_processes()
        option = ("opam", "option", "--global")
        await self._do(steps.Step((*option, "solver=builtin-0install")))
        if self._mirrors.urls:
            await self._do(steps.Step((*option, self._mirrors.option)))
        if not existing:
            create = ("opam", "switch", "create", phases.SWITCH, compiler)
            await self._do(steps.Step(create, network=True))
        if self._mirrors.urls:
            # Each job sets its own.
            await self._do(steps.Step((*option, "archive-mirrors=[]")))
        listing = await self._do(
            steps.Step(("opam", "list", "--all", "--all-versions", "--short"), shown=" "),
            quiet=True,
        )
        known = sum(1 for line in listing.splitlines() if line.strip())
        if known < _READABLE_SHARE * len(base) or not base:
            raise InfrastructureError(
                f"opam reads {known} of the {len(base)} packages of the base repository",
                cause=Cause.REPOSITORY_STATE,
                phase=Phase.CHECKOUT,
            )
        opam = f"/{phases.OPAM_ROOT}"
        rubbish = (f"{opam}/log", f"{opam}/download-cache")
        await self._do(steps.Step(("rm", "-rf", *rubbish)))
        installed = await read_installed(self._executor)
        if not installed:
            raise InfrastructureError(
                f"the switch with {compiler} is empty", cause=Cause.OPAM_INTERNAL
            )
        return LayerManifest(
            base_commit=spec.repository.base_commit,
            packages=base,
            installed=installed,
            hidden=len(hidden),
            hidden_packages=hidden,
            own_processes=own_processes,
        )

    async def _give_own_processes(self) -> bool:
        """Gives opam's sandbox a PID namespace of its own; says whether it can have one here.

        Raises:
            InfrastructureError: Cause `sandbox`: opam's script is not as this CI knows it.
        """
        probe = steps.opam_sandbox_probe(own_processes=True)
        tried = await self._executor.run(
            probe, output=self._output, phase=Phase.CHECKOUT, time_limit=_STEP_TIMEOUT
        )
        if not tried.ok:
            # The engine masks /proc, and this worker may not mount an empty one (`emptyproc.py`).
            self._output(b"[opam-ci] base layer: opam's sandbox shares opam's PID namespace\n")
            return False
        await self._do(_UNSHARE)
        await require_pid_namespace(self._executor)
        return True

    async def _hide(self, archive: Path) -> frozenset[str]:
        local = tuple(path for path, _ in self._mirrors.directories)
        reduced = archive.with_name("reduced.tar.gz")
        hidden = await asyncio.to_thread(mirrors.reduce, archive, reduced, local)
        words = f"[opam-ci] base layer: {len(hidden)} packages have no mirrored source\n"
        self._output(words.encode())
        await asyncio.to_thread(reduced.replace, archive)
        return hidden

    async def _do(
        self, step: steps.Step, *, stdin: IO[bytes] | None = None, quiet: bool = False
    ) -> str:
        if not quiet:
            self._output(f"[opam-ci] base layer: {step.title}\n".encode())
        said = bytearray()

        def output(data: bytes) -> None:
            said.extend(data)
            if not quiet:
                self._output(data)

        ended = await self._executor.run(
            step, output=output, phase=Phase.CHECKOUT, time_limit=_STEP_TIMEOUT, stdin=stdin
        )
        if not ended.ok:
            raise InfrastructureError(
                f"the base layer could not be made: {step.title} ended with "
                f"{ended.exit_code if ended.signal is None else f'signal {ended.signal}'}: "
                + " | ".join(said.decode(errors="replace").splitlines()[-4:]),
                cause=_cause(ended.exit_code, started=ended.started),
                phase=Phase.CHECKOUT,
            )
        return said.decode(errors="replace")


def _cause(exit_code: int | None, *, started: bool) -> Cause:
    if not started:
        return Cause.SANDBOX
    if exit_code == _FETCH_FAILED:
        return Cause.SOURCE_HOST
    return Cause.REPOSITORY_STATE if exit_code in (5, 20) else Cause.OPAM_INTERNAL


async def require_sandbox(executor: Executor) -> None:
    """Checks that opam will run commands in its own sandbox.

    `opam init` turns it off without a word when its own check of bubblewrap fails.

    Raises:
        InfrastructureError: Cause `sandbox`.
    """
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
    """Checks that commands of packages will see no process but their own.

    Raises:
        InfrastructureError: Cause `sandbox`.
    """
    script = await read_one(executor, _SANDBOX_SCRIPT, limit=report.STATE_LIMIT) or b""
    if _UNSHARED.encode() not in script:
        raise InfrastructureError(
            "opam's sandbox in the build root has no PID namespace of its own: its script, "
            "hooks/sandbox.sh, is not as this CI knows it",
            cause=Cause.SANDBOX,
        )


async def read_installed(executor: Executor) -> frozenset[str] | None:
    """Reads which packages are installed; None if there is no readable switch state."""
    path = f"{phases.OPAM_ROOT}/{phases.SWITCH}/.opam-switch/switch-state"
    state = await read_one(executor, path, limit=report.STATE_LIMIT)
    return report.installed(state) if state is not None else None
