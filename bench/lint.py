"""What lint costs: the whole repository, real pull requests in a warm process, mutated files.

    python bench/lint.py REPOSITORY REAL

REPOSITORY is a clone of opam-repository, REAL the folder with prs.jsonl and
lint-mutations.jsonl.gz. Wall time depends on who else uses the machine; the CPU times are
the user and system time of this process and of the opam and git that it starts.
"""

import argparse
import asyncio
import gzip
import json
import os
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opam_ci.app.settings import Settings
from opam_ci.cli.developer.lint_batch import OpamTextLine, from_text
from opam_ci.clients.git.repository import Repository
from opam_ci.clients.git.tree import GitTree
from opam_ci.clients.lint.run import judge_all, lint_each, lint_packages
from opam_ci.core.lint.finding import CheckId, LintRequest
from opam_ci.worker import make_lint


def cpu() -> tuple[float, float]:
    """CPU seconds of this process, and of those that it started and that have ended."""
    return tuple(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )  # type: ignore[return-value]  # two of them


def memory() -> str:
    """The most memory that this process, and any single one it started, ever used."""
    mine, theirs = (
        resource.getrusage(who).ru_maxrss // 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return f"{mine} MB here, {theirs} MB in the largest child"


@dataclass
class Clock:
    """Wall and CPU seconds since it was made."""

    wall: float = field(default_factory=time.perf_counter)
    cpu: tuple[float, float] = field(default_factory=cpu)

    def __str__(self) -> str:
        mine, theirs = (now - then for now, then in zip(cpu(), self.cpu, strict=True))
        wall = time.perf_counter() - self.wall
        return f"{wall:.1f} s wall, {mine:.1f} s CPU here + {theirs:.1f} s in children"


async def whole_repository(repository: Repository, commit: str) -> None:
    clock = Clock()
    tree = GitTree(repository, commit)
    versions = await tree.versions(await tree.names())
    packages = sorted(package for some in versions.values() for package in some)
    requests = [LintRequest(package=package) for package in packages]
    report = await lint_packages(tree, requests, opam=make_lint(Settings(), print))
    print(f"all packages: {len(report.checked)}, {len(report.findings)} findings: {clock}")
    print(f"  memory: {memory()}")


async def pull_requests(repository: Repository, lines: Sequence[str]) -> None:
    clock = Clock()
    opam = make_lint(Settings(), print)
    times: list[tuple[float, int]] = []
    equal = compared = 0
    for line in lines:
        entry = json.loads(line)
        linted = entry["lint"]
        if not linted:
            continue
        started = time.perf_counter()
        requests = [LintRequest(package=each["package"], new=each["new"]) for each in linted]
        answers = await lint_each(GitTree(repository, entry["merge"]), requests, opam=opam)
        times.append((time.perf_counter() - started, len(linted)))
        for each, findings in zip(linted, answers, strict=True):
            compared += 1
            equal += {found.machine_message for found in findings or ()} == set(each["errors"])
    walls = sorted(wall for wall, _ in times)
    largest = max(times, key=lambda pair: pair[1])
    print(f"pull requests: {len(times)}, {equal}/{compared} message sets equal: {clock}")
    print(
        f"  median {statistics.median(walls) * 1000:.0f} ms,"
        f" p90 {walls[int(len(walls) * 0.9)] * 1000:.0f} ms, max {walls[-1] * 1000:.0f} ms;"
        f" the largest ({largest[1]} packages) {largest[0] * 1000:.0f} ms"
    )


async def mutations(lines: Sequence[str]) -> None:
    clock = Clock()
    expected = [json.loads(line) for line in lines]
    packages = [from_text(OpamTextLine.model_validate(entry)) for entry in expected]
    judged = await judge_all(make_lint(Settings(), print), packages)
    equal = 0
    for entry, findings in zip(expected, judged, strict=True):
        unreadable = any(found.check is CheckId.PARSE for found in findings)
        messages = set() if unreadable else {found.machine_message for found in findings}
        equal += messages == set(entry["errors"]) and unreadable == ("parse_error" in entry)
    print(f"mutations: {equal}/{len(expected)} message sets equal: {clock}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("repository", type=Path)
    parser.add_argument("real", type=Path)
    parser.add_argument("--rev", default="HEAD")
    arguments = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with Repository.open(arguments.repository) as repository:
        await pull_requests(repository, (arguments.real / "prs.jsonl").read_text().splitlines())
        with gzip.open(arguments.real / "lint-mutations.jsonl.gz", "rt") as lines:
            await mutations(lines.readlines())
        await whole_repository(repository, repository.resolve(arguments.rev))


if __name__ == "__main__":
    asyncio.run(main())
