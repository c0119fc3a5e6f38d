"""CPU time of one pull request's builds: opam-repo-ci's script, and ours without and with cache.

usage: python bench/build_cache.py --repository REPOSITORY.git --mirror DIR [--touch PACKAGE]

Makes a branch of the real opam-repository that edits PACKAGE, and runs the build of it and of
each of the packages that need it

- by the commands of opam-repo-ci (its `opam_build.ml`), each job from the start,
- by our runner with no cache, with an empty one, and with the one that this left.

All run in the same clean root file system over the same packages: those whose sources are in
the mirror. CPU time is user and system time of all processes, solver and sandboxes included;
for ours, of the worker too. The making of image and base layer is not counted; neither do
opam-repo-ci's `apt-get update` and the setting of the mirror. opam-repo-ci's builders keep
snapshots of equal first steps: `prefix shared` counts those once.
"""

import argparse
import asyncio
import contextlib
import ctypes
import os
import resource
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from opam_ci.clients.git.exported import Exporter
from opam_ci.clients.git.repository import Repository
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.runners.images import layer
from opam_ci.clients.runners.images.image import Image
from opam_ci.clients.runners.images.scratch import JobRoots
from opam_ci.clients.runners.phases import mirrors, steps
from opam_ci.clients.runners.phases import plan as phases
from opam_ci.clients.runners.rootfs import RootfsRunner, RootfsSettings
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox.process import run_process
from opam_ci.clients.runners.settings import default_home
from opam_ci.core.jobs.build import BuildSpec, RepositoryRef
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.platforms.model import EMBEDDED
from tests.support.fakes import opam_repository
from tests.support.fakes.clone import at
from tests.support.fakes.real_branches import borrow

COLD, WARM = 2.0, 4.0
"""Required ratio of opam-repo-ci's CPU time to ours."""


REVDEPS = (
    "dune-configurator.3.17.2",
    "base.v0.17.3",
    "bigstringaf.0.10.0",
    "fieldslib.v0.17.0",
    "mm.0.8.1",
    "mm.0.8.6",
    "parmap.1.2.5",
    "stdio.v0.17.0",
)
"""What `opam list --recursive --depends-on csexp.1.5.2 --coinstallable-with csexp.1.5.2` has of
packages that need no system package beyond the image."""


class Options(argparse.Namespace):
    """The command line."""

    repository: Path
    mirror: Path
    touch: str
    revdep: list[str]
    each: bool
    scratch: Path | None
    logs: Path | None
    runs: list[str]


PR_SET_CHILD_SUBREAPER = 36


def cpu() -> float:
    """CPU seconds of all children that have ended, and of theirs.

    bubblewrap does not wait for the first process of its PID namespace: as its subreaper this
    process does, or the kernel would not count the whole build.
    """
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Log:
    """A log in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data


class World:
    """A branch of the real repository, exported for builds."""

    def __init__(self, home: Path, store: ArtifactStore, ref: RepositoryRef, mirror: Path) -> None:
        self.home = home
        self.store = store
        self.ref = ref
        self.mirror = mirror.as_uri()

    def runner(self) -> RootfsRunner:
        return RootfsRunner(RootfsSettings(home=self.home), self.store)

    def spec(self, package: str, *, cache: bool = True) -> BuildSpec:
        return BuildSpec(
            job=Job(platform=EMBEDDED.name, package=package, kind=JobKind.BUILD),
            platform=EMBEDDED,
            repository=self.ref,
            archive_mirrors=(self.mirror,),
            only_mirrored=True,
            build_cache=cache,
        )


async def world(directory: Path, repository: Path, mirror: Path, touched: str) -> World:
    """Makes the branch and exports it."""
    clone = directory / "clone.git"
    clone.mkdir()
    borrow(repository, clone)
    text = opam_repository.git(clone, "cat-file", "blob", f"master:{at(touched)}") + "\n"
    # A comment would be no reason to build anything.
    edited = text.replace("build: [", 'build: [\n  ["true"]', 1)
    opam_repository.add_branch(clone, "touched", {at(touched): edited})
    store = ArtifactStore.open((directory / "store").as_uri())
    with Repository.open(clone) as opened:
        base, head = opened.resolve("master"), opened.resolve("touched")
        testing = RevisionKey(
            repository="local/clone", branch="touched", head=head, opened_at=datetime.now(UTC)
        )
        ref = (await Exporter(store).prepare(clone, testing, base, head)).merged
        assert ref is not None
    home = directory / "home"
    home.mkdir()
    (home / "images").symlink_to(default_home() / "images")
    return World(home, store, ref, mirror)


class Peer:
    """opam-repo-ci's script, command by command."""

    def __init__(self, made: World, image: Image, base: layer.Layer, touched: str) -> None:
        self._world = made
        self._lowers = (base.upper, image.root)
        self._touched = touched
        self._rights = sandbox.rights()
        self._mirrors = mirrors.inside((made.mirror,))

    @asynccontextmanager
    async def root(self, prefix: "Root | None" = None) -> AsyncIterator["Root"]:
        """A root with the merged repository in `opam-repository/`, as the peer copies it.

        Args:
            prefix: A root whose steps are done already; only its files are used.
        """
        lowers = self._lowers if prefix is None else (prefix.root.upper, *self._lowers)
        async with JobRoots(self._world.home / "jobs", self._rights).open(lowers) as overlay:
            root = Root(overlay, self._mirrors, self._rights)
            if prefix is None:
                await self._copy_repository(root)
                assert await root.do(*phases.set_mirrors(self._mirrors).argv) == 0
            yield root

    async def _copy_repository(self, root: "Root") -> None:
        with tempfile.TemporaryDirectory() as directory:
            base, reduced, overlay = (Path(directory) / name for name in ("base", "less", "over"))
            await self._world.store.fetch(self._world.ref.base_archive, base)
            await self._world.store.fetch(self._world.ref.overlay_archive, overlay)
            mirrors.reduce(base, reduced, tuple(host for host, _ in self._mirrors.directories))
            for archive in (reduced, overlay):
                argv = steps.unpack("/home/opam/opam-repository").argv
                with archive.open("rb") as stream:
                    assert await root.do(*argv, stdin=stream) == 0

    async def set_up(self, root: "Root") -> float:
        """The steps before anything is installed."""
        before = cpu()
        for argv in (
            ("opam", "init", "--reinit", "-ni"),
            ("opam", "option", "solver=builtin-0install"),
            ("opam", "config", "report"),
            ("opam", "repository", "set-url", "--strict", "default", "opam-repository/"),
        ):
            await root.must(*argv)
        return cpu() - before

    async def package(self, root: "Root") -> float:
        """Installs the package under test."""
        before = cpu()
        version = self._touched.split(".", 1)[1]
        await root.must("opam", "pin", "add", "-k", "version", "-yn", self._touched, version)
        await root.must("opam", "reinstall", self._touched)
        return cpu() - before

    async def revdep(self, root: "Root", revdep: str) -> float:
        """Installs a package that needs it."""
        before = cpu()
        await root.must("opam", "reinstall", revdep)
        return cpu() - before


class Root:
    """A build root in which opam-repo-ci's commands run."""

    def __init__(
        self, root: sandbox.Overlay, shown: mirrors.Mirrors, rights: sandbox.Rights
    ) -> None:
        self.root = root
        self.output = ""
        self._mirrors = shown
        self._rights = rights

    async def do(self, *argv: str, stdin: IO[bytes] | None = None) -> int | None:
        """Runs a command and returns its exit code."""
        output = bytearray()
        confined = steps.confined(
            steps.Step(argv, network=True, environment=(("OPAMDOWNLOADJOBS", "1"),)), self._mirrors
        )
        ended = await run_process(
            sandbox.confine(self.root, confined, self._rights), output=output.extend, stdin=stdin
        )
        self.output = output.decode(errors="replace")
        return ended.exit_code

    async def must(self, *argv: str) -> None:
        """Runs a command that has to succeed."""
        code = await self.do(*argv)
        if code != 0:
            raise SystemExit(f"opam-repo-ci: {' '.join(argv)}: exit {code}\n{self.output[-2000:]}")


async def peers(
    made: World, image: Image, base: layer.Layer, options: Options
) -> tuple[float, float]:
    """CPU seconds of opam-repo-ci's jobs: each from the start, and with equal first steps shared.

    The first steps of all jobs are the same commands on the same files. Unless `--each` is
    given they run once, count for every job, and each job goes on from what they left.
    """
    peer = Peer(made, image, base, options.touch)
    alone, shared = 0.0, 0.0
    async with peer.root() as prefix:
        first = await peer.set_up(prefix) + await peer.package(prefix)
        alone, shared = first, first
        print_row("opam-repo-ci", options.touch, first)
        for revdep in options.revdep:
            if options.each:
                async with peer.root() as root:
                    first = await peer.set_up(root) + await peer.package(root)
                    last = await peer.revdep(root, revdep)
            else:
                async with peer.root(prefix) as root:
                    last = await peer.revdep(root, revdep)
            alone += first + last
            shared += last
            print_row(
                "opam-repo-ci", revdep, first + last, f"{last:.1f} of them after the first steps"
            )
    return alone, shared


async def ours(made: World, options: Options, run: str) -> float:
    """CPU seconds of our jobs: `off`, `cold` or `warm`."""
    runner = made.runner()
    total = 0.0
    for package in [options.touch, *options.revdep]:
        log = Log()
        before, own = cpu(), own_cpu()
        report = await runner.run(made.spec(package, cache=run != "off"), log, lambda _: None)
        used = cpu() - before + own_cpu() - own
        total += used
        print_row(
            run, package, used, " ".join(f"{r.phase} {r.duration:.1f}" for r in report.facts.phases)
        )
        if not report.facts.installed:
            raise SystemExit(bytes(log.data[-3000:]).decode(errors="replace"))
        if options.logs is not None:
            (options.logs / f"{run}-{package}").write_bytes(bytes(log.data))
    return total


def print_row(run: str, package: str, seconds: float, more: str = "") -> None:
    print(f"{run:14} {package:26} {seconds:7.1f} s CPU  {more}", flush=True)


async def main(options: Options) -> int:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    totals: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        made = await world(Path(scratch), options.repository, options.mirror, options.touch)
        image = await made.runner().prepare(print)
        layers = layer.LayerStore(made.home / "layers", made.store, 4, sandbox.rights())
        async with layers.use(image, made.spec(options.touch), lambda _: None) as base:
            for run in options.runs:
                if run == "peer":
                    totals["job by job"], totals["prefix shared"] = await peers(
                        made, image, base, options
                    )
                else:
                    totals[run] = await ours(made, options, run)
    for name, seconds in totals.items():
        print(f"{name:14} {seconds:8.1f} s CPU")
    good = True
    for run, least in (("cold", COLD), ("warm", WARM)):
        for peer in ("job by job", "prefix shared"):
            if run in totals and peer in totals:
                ratio = totals[peer] / totals[run]
                print(f"{peer} / {run}: {ratio:.1f}")
                good = good and (peer == "prefix shared" or ratio >= least)
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--touch", default="csexp.1.5.2")
    parser.add_argument("--revdep", nargs="+", default=list(REVDEPS))
    parser.add_argument("--each", action="store_true", help="repeat opam-repo-ci's first steps")
    parser.add_argument("--scratch", type=Path, help="where to work")
    parser.add_argument("--logs", type=Path)
    parser.add_argument("--runs", nargs="+", default=["peer", "off", "cold", "warm"])
    sys.exit(asyncio.run(main(parser.parse_args(namespace=Options()))))
