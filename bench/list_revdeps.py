"""Time of listing reverse dependencies: opam's three queries, and our one description.

usage: python bench/list_revdeps.py --repository REPOSITORY.git --mirror DIR [PACKAGE …]

Both run in one build root over the whole real repository, one after the other, for each
package: opam-repo-ci's three `opam list` calls, and what a LIST_REVDEPS job runs. CPU time is
user and system time of all processes. The answers are compared, query by query.
"""

import argparse
import asyncio
import ctypes
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.build_cache import PR_SET_CHILD_SUBREAPER, Log, cpu
from opam_ci.clients.runners.images.rootfs_exec import RootfsExecutor
from opam_ci.clients.runners.listing import coinstall
from opam_ci.clients.runners.listing import revdeps as listing
from opam_ci.clients.runners.phases import steps
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.clients.runners.phases.phase_log import PhaseLog
from opam_ci.clients.runners.phases.transcript import Transcript
from opam_ci.clients.runners.rootfs import RootfsRunner, RootfsSettings
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox.locks import remove_tree
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.clients.runners.settings import default_home
from opam_ci.core.jobs.build import BuildSpec, PhaseTimeouts, RepositoryRef
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.platforms.model import EMBEDDED
from tests.support.worlds.rootfs import Artifacts, repository

MOST = 1 / 3
"""The part of opam's time that ours may take."""

PACKAGES = (
    "dune.3.17.2",
    "csexp.1.5.2",
    "re.1.10.4",
    "lwt.5.9.1",
    "ppxlib.0.35.0",
    "cmdliner.1.3.0",
)


async def git(repository: Path, *words: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        "git", "-C", str(repository), *words, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, words
    return output


async def reference(bare: Path, artifacts: Artifacts) -> RepositoryRef:
    commit = (await git(bare, "rev-parse", "HEAD")).decode().strip()
    files = (await git(bare, "ls-tree", "-r", "--name-only", commit, "packages")).decode()
    return RepositoryRef(
        base_commit=commit,
        base_archive=artifacts.put(
            await git(bare, "archive", "--format=tar.gz", commit, "repo", "packages")
        ),
        overlay_archive=artifacts.put(repository({})),
        overlay_packages=0,
        package_count=sum(line.endswith("/opam") for line in files.splitlines()),
    )


class Bench:
    def __init__(self, executor: RootfsExecutor) -> None:
        self._executor = executor
        self.log = Log()

    async def run_step(self, step: steps.Step, said: bytearray) -> ProcessResult:
        def output(data: bytes) -> None:
            said.extend(data)

        return await self._executor.run(step, output=output, phase=Phase.SOLVE)

    async def theirs(self, spec: BuildSpec) -> tuple[str, ...]:
        answers = {}
        for query in listing.Query:
            said = bytearray()
            ended = await self.run_step(listing.command(spec, query, coinstallable=True), said)
            assert ended.ok, said
            answers[query] = listing.packages(said)
        return tuple(sorted(listing.merged(spec, answers)))

    async def ours(self, spec: BuildSpec) -> tuple[str, ...]:
        phase_log = PhaseLog(Transcript(self.log, lambda _: None), PhaseTimeouts())
        phase_log.begin(Phase.SOLVE, "a listing")
        _, found = await coinstall.run(spec, self.run_step, self._executor.read, phase_log)
        assert b"falling back" not in self.log.data
        assert found is not None
        # opam's own queries do not have the numbers of dependents by which ours are ordered.
        return tuple(sorted(found))


async def measured(
    listing_of: Callable[[BuildSpec], Awaitable[tuple[str, ...]]], spec: BuildSpec
) -> tuple[tuple[str, ...], float, float]:
    wall, used = time.monotonic(), cpu()
    found = await listing_of(spec)
    return found, time.monotonic() - wall, cpu() - used


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--mirror", type=Path, required=True, help="has the base packages' sources")
    parser.add_argument("--home", type=Path, help="keeps the base layer for the next run")
    parser.add_argument("packages", nargs="*", default=PACKAGES)
    options = parser.parse_args()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    good = True
    with tempfile.TemporaryDirectory() as name:
        home = options.home or Path(name) / "home"
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "images").exists():
            (home / "images").symlink_to(default_home() / "images")
        artifacts = Artifacts(Path(name))
        ref = await reference(options.repository, artifacts)
        runner = RootfsRunner(RootfsSettings(home=home), artifacts)
        image = await runner.prepare(print)
        specs = [
            BuildSpec(
                job=Job(platform=EMBEDDED.name, package=package, kind=JobKind.LIST_REVDEPS),
                platform=EMBEDDED,
                repository=ref,
                archive_mirrors=(options.mirror.as_uri(),),
            )
            for package in options.packages
        ]
        async with (
            runner._layers.use(image, specs[0], lambda _data: None) as base,  # noqa: SLF001 - below the runner's interface
            runner._jobs.open((base.upper, image.root)) as root,  # noqa: SLF001 - the same
        ):
            bench = Bench(RootfsExecutor(root, Mirrors(), sandbox.rights()))
            print(
                "package         revdeps  same   opam CPU  wall   ours CPU  wall  ratio CPU  wall"
            )
            for spec in specs:
                theirs, wall, used = await measured(bench.theirs, spec)
                ours, our_wall, our_used = await measured(bench.ours, spec)
                good = good and theirs == ours and our_used < used * MOST
                print(
                    f"{spec.job.package:16}{len(theirs):7}"
                    f"  {'yes' if theirs == ours else 'NO ':5}{used:9.1f}{wall:6.1f}"
                    f"{our_used:11.1f}{our_wall:6.1f}{our_used / used:11.2f}{our_wall / wall:6.2f}",
                    flush=True,
                )
        if options.home is None:
            # An ordinary user's builds leave files of subordinate ids.
            await remove_tree(home, sandbox.rights())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
