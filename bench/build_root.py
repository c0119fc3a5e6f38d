"""What the throwaway build root costs a job: set it up, run a command in it, remove it.

usage: python bench/build_root.py [--home DIR] [--jobs N]

Measures the whole life of a job root without opam: the directories and their lock, the
overlay, the sandbox with all its namespaces, one `true` as the unprivileged user, the end of
the namespace, the removal; one after the other, and eight at once. Exits 1 if the slowest of
either takes a second or more.
"""

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

from opam_ci.clients.runners import aptsources, sandbox
from opam_ci.clients.runners.image import Image, ImageStore
from opam_ci.clients.runners.jobroot import JobRoots
from opam_ci.clients.runners.settings import default_home
from opam_ci.clients.runners.supervise import supervise

LIMIT = 1.0
AT_ONCE = 8


async def life(roots: JobRoots, image: Image) -> float:
    begin = time.perf_counter()
    async with roots.open((image.root,)) as root:
        what = sandbox.Confined(("true",), environment=sandbox.environment())
        said = bytearray()
        ended = await supervise(
            sandbox.confine(root, what, sandbox.rights()), output=said.extend, time_limit=30
        )
        assert ended.ok, said.decode(errors="replace")
    return time.perf_counter() - begin


def show(title: str, times: list[float]) -> None:
    times.sort()
    print(
        f"{title}: n={len(times)}  median {statistics.median(times) * 1000:.1f} ms  "
        f"p90 {times[int(len(times) * 0.9)] * 1000:.1f} ms  max {times[-1] * 1000:.1f} ms"
    )


async def main(home: Path, jobs: int) -> int:
    rights = sandbox.rights()
    image = await ImageStore(home / "images", rights).ensure(
        "trixie", aptsources.read_host(), print
    )
    roots = JobRoots(home / "jobs", rights)
    await life(roots, image)
    alone = [await life(roots, image) for _ in range(jobs)]
    slots = asyncio.Semaphore(AT_ONCE)

    async def one() -> float:
        async with slots:
            return await life(roots, image)

    together = list(await asyncio.gather(*(one() for _ in range(jobs))))
    show("one after the other", alone)
    show(f"{AT_ONCE} at once", together)
    return 0 if max(*alone, *together) < LIMIT else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=default_home())
    parser.add_argument("--jobs", type=int, default=50)
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.home, arguments.jobs)))
