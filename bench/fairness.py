"""Whether small pull requests wait behind a large one.

    .venv/bin/python bench/fairness.py [--behind 10000] [--json]

Twenty pull requests of eight jobs are opened, two seconds apart: first alone, then while one of
10,000 jobs has more work queued than there are slots. The server has the fairness of production
it (`cli/local/services.py`), and what each job does is wait. Each small pull request is compared
with itself, and must take no more than twice as long: else the exit code is 1.

With --json the last line of the output is an object: pull_requests, behind, idle_s and busy_s
(medians), median_ratio, worst_ratio, limit.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time

from temporalio.client import Client

from bench.scale import Builds, Fleet, Work, check, print_line, running, start
from opam_ci.app.connection import connect
from opam_ci.app.settings import Settings
from opam_ci.workflows.pull_request import PullRequestWorkflow

SMALL = 20
SMALL_JOBS = 8
APART = 2
LIMIT = 2.0
BUSY_AFTER = 100
"""Jobs of the large pull request that are decided when the small ones come."""


async def open_all(client: Client, first: int) -> list[float]:
    """Opens the small pull requests, one after the other; returns the seconds that each took."""

    async def one(number: int) -> float:
        await asyncio.sleep(number * APART)
        begun = time.perf_counter()
        await check(client, Work(SMALL_JOBS, "builds"), first + number)
        return time.perf_counter() - begun

    return await asyncio.gather(*(one(number) for number in range(SMALL)))


async def measure(fleet: Fleet, behind: int) -> tuple[list[float], list[float]]:
    client = await connect(Settings(temporal=fleet.address))
    await check(client, Work(SMALL_JOBS, "builds"), 1)
    idle = await open_all(client, 100)
    print_line(f"alone: {statistics.median(idle):.1f} s each, at most {max(idle):.1f} s")
    large = await start(client, Work(behind, "builds"), 1)
    while (await large.query(PullRequestWorkflow.summary)).counts.decided < BUSY_AFTER:  # noqa: ASYNC110  of another process
        await asyncio.sleep(1)
    print_line("the large pull request is running")
    busy = await open_all(client, 200)
    counts = (await large.query(PullRequestWorkflow.summary)).counts
    print_line(
        f"behind it: {statistics.median(busy):.1f} s each, at most {max(busy):.1f} s; {counts}"
    )
    if not counts.undecided:
        raise SystemExit("the large pull request ended too early; make it larger with --behind")
    await large.terminate("measured")
    return idle, busy


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--behind", type=int, default=10_000, help="jobs of the large one (10000)")
    parser.add_argument("--seconds", type=float, default=4, help="what each job takes (4)")
    parser.add_argument("--slots", type=int, default=64, help="jobs at once (64)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    given = parser.parse_args()
    with running(Builds(seconds=given.seconds, slots=given.slots)) as fleet:
        idle, busy = asyncio.run(measure(fleet, given.behind))
    for number, (early, late) in enumerate(zip(idle, busy, strict=True)):
        print_line(f"{number:>2}: {early:5.1f} s alone, {late:5.1f} s behind, {late / early:.2f}")
    ratios = [late / early for early, late in zip(idle, busy, strict=True)]
    found = {
        "pull_requests": SMALL,
        "behind": given.behind,
        "idle_s": round(statistics.median(idle), 2),
        "busy_s": round(statistics.median(busy), 2),
        "median_ratio": round(statistics.median(ratios), 2),
        "worst_ratio": round(max(ratios), 2),
        "limit": LIMIT,
    }
    for name, value in found.items():
        print(f"{name:<20}{value}")
    if given.json:
        print(json.dumps(found))
    return int(max(ratios) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
