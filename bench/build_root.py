"""What the throwaway build root costs a job: set it up, run a command in it, remove it.

usage: python bench/build_root.py [--home DIR] [--jobs N] [--container IMAGE]

Measures the whole life of a job root without opam: the directories and their lock, control
groups, the user namespace, the overlay, the sandbox with all its namespaces, one `true` as the
unprivileged user, the end of the namespace, the removal; one after the other, and eight at once.
With `--container` also the same in containers of an image that podman has, two at once. Says
besides how long it took until the first command had run. Exits 1 if the slowest start takes
longer than it may: 0.5 s in a root file system, 2 s in a container.
"""

import argparse
import asyncio
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from opam_ci.clients.runners.containers.box import open_container
from opam_ci.clients.runners.containers.engine import Engine
from opam_ci.clients.runners.containers.exec import ContainerExecutor
from opam_ci.clients.runners.images import apt_sources as aptsources
from opam_ci.clients.runners.images.image import Image, ImageStore
from opam_ci.clients.runners.images.rootfs_exec import RootfsExecutor
from opam_ci.clients.runners.images.scratch import JobRoots, job_directory
from opam_ci.clients.runners.phases.executor import Executor
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox.cgroups import Cgroups
from opam_ci.clients.runners.sandbox.network import ContainerNetwork
from opam_ci.clients.runners.sandbox.user_namespace import job_namespace
from opam_ci.clients.runners.settings import ContainerSettings, JobLimits, default_home
from opam_ci.core.jobs.job import Phase
from opam_ci.core.platforms.debian import embedded_root

LIMITS = {"root file system": 0.5, "container": 2.0}
LIMITED = JobLimits().on_this_machine(2)

Life = Callable[[], Awaitable[tuple[float, float]]]


async def first_command(executor: Executor) -> None:
    output = bytearray()
    ended = await executor.run(
        Step(("true",)), output=output.extend, phase=Phase.SETUP, time_limit=30
    )
    assert ended.ok, output.decode(errors="replace")


def in_root(roots: JobRoots, image: Image, cgroups: Cgroups) -> Life:
    async def life() -> tuple[float, float]:
        begin = time.perf_counter()
        async with (
            roots.open((image.root,)) as root,
            cgroups.open(root.upper.parent) as groups,
            job_namespace(sandbox.rights()) as rights,
        ):
            await first_command(RootfsExecutor(root, Mirrors(), rights, groups=groups))
            started = time.perf_counter() - begin
        return started, time.perf_counter() - begin

    return life


def in_container(home: Path, image: str) -> Life:
    settings = ContainerSettings()
    engine = Engine(settings.command, settings.runtime)

    async def life() -> tuple[float, float]:
        begin = time.perf_counter()
        async with (
            job_directory(home / "containers", "job-") as directory,
            open_container(
                engine,
                image,
                f"opam-ci-{directory.name}",
                network=ContainerNetwork(),
                mirrors=Mirrors(),
                limits=LIMITED,
            ) as container,
        ):
            await first_command(ContainerExecutor(container, Mirrors()))
            started = time.perf_counter() - begin
        return started, time.perf_counter() - begin

    return life


def show(title: str, times: list[float]) -> None:
    times = sorted(times)
    print(
        f"{title}: n={len(times)}  median {statistics.median(times) * 1000:.1f} ms  "
        f"p95 {times[int(len(times) * 0.95)] * 1000:.1f} ms  max {times[-1] * 1000:.1f} ms"
    )


async def measure(kind: str, life: Life, jobs: int, at_once: int) -> bool:
    await life()
    alone = [await life() for _ in range(jobs)]
    slots = asyncio.Semaphore(at_once)

    async def one() -> tuple[float, float]:
        async with slots:
            return await life()

    together = list(await asyncio.gather(*(one() for _ in range(jobs))))
    for title, found in (("one after the other", alone), (f"{at_once} at once", together)):
        show(f"{kind}, {title}, start to first command", [each[0] for each in found])
        show(f"{kind}, {title}, whole life", [each[1] for each in found])
    return max(each[0] for each in alone) < LIMITS[kind]


async def main(home: Path, jobs: int, container: str | None) -> int:
    rights = sandbox.rights()
    image = await ImageStore(home / "images", rights).ensure(
        embedded_root(platform.machine()), aptsources.read_host(), print
    )
    cgroups = Cgroups.here(LIMITED)
    print(f"control groups not granted here: {', '.join(cgroups.missing) or 'none'}")
    life = in_root(JobRoots(home / "jobs", rights), image, cgroups)
    good = await measure("root file system", life, jobs, 8)
    if container is not None:
        good &= await measure("container", in_container(home, container), max(1, jobs // 5), 2)
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=default_home())
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--container", metavar="IMAGE")
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.home, arguments.jobs, arguments.container)))
