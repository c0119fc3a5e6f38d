"""How many plan keys a commit changes, and the proof that equal keys have equal solutions.

    .venv/bin/python bench/reuse.py --repository REPOSITORY.git [--commits 300] [--targets 1000]

First without opam: over first-parent commits of the real repository, the part of all packages
whose key a commit changes. Then the proof: pairs of commits, and packages whose keys are equal at
both. opam (of this machine, in a switch with a compiler that it takes for installed) must install
the same for each: `opam install --show-actions`. Half of them are asked for with their tests. It
exits with 1 if one answer differs. The last line is one JSON object:

  reading_s, keys_s            processor time to read all opam files, and to make the keys without
  planned, plan_s, replan_s    jobs on reverse dependencies; wall time to plan them with keys, and
                               again for another head, when all of them have a verdict
  peak_mb                      of all that
  changed_mean, …_median       part of the keys that a commit changes
  tried, wrong                 targets of the proof, and those with another answer
"""

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from temporalio.testing import ActivityEnvironment

from opam_ci.activities.jobs import JobActivities
from opam_ci.clients.git.export import archive_tree
from opam_ci.clients.git.exported import reach_key
from opam_ci.clients.git.reach import read_named
from opam_ci.clients.git.repository import Repository
from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.build import Revdep, RevdepList
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import PlanRevdeps
from opam_ci.core.jobs.outcome import Evidence, Passed
from opam_ci.core.jobs.records import RevisionKey, RowBatch
from opam_ci.core.jobs.requests import Surroundings
from opam_ci.core.jobs.summary import JobState, JobStatus
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.core.reuse.reach import Reachable
from opam_ci.core.submission.admission import is_package

COMPILER = "ocaml-base-compiler.5.3.0"
PAIRS = 10
"""Pairs of commits of the proof: each commit costs an `opam init`."""
REQUEST_TIMEOUT = 300


class History:
    """The repository at any commit, each package's directory read once."""

    def __init__(self, path: Path, cache: Path) -> None:
        self._repository = Repository.open(path)
        self._cache = cache

    def commits(self, number: int) -> list[str]:
        path = self._repository.directory
        words = ("rev-list", "--first-parent", f"-{number}", "HEAD")
        command = ["git", "-C", str(path), *words]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode().split()

    def reach(self, commit: str) -> Reachable:
        tree = self._repository.tree_of(commit)
        return read_named(self._repository, tree, self._cache).reachable(())

    def packages(self, commit: str) -> dict[str, list[str]]:
        """Returns the full names of all packages, by name."""
        found: dict[str, list[str]] = {}
        for entry in self._repository.list_tree(commit, ["packages/"]):
            if is_package(entry.path):
                _, name, package, _ = entry.path.split("/")
                found.setdefault(name, []).append(package)
        return found

    def unpack(self, commit: str, folder: Path) -> None:
        archive = folder / "archive.tar.gz"
        archive_tree(self._repository, commit, archive)
        subprocess.run(["tar", "-xzf", str(archive), "-C", str(folder)], check=True)


def changes(history: History, commits: list[str]) -> list[float]:
    """Returns, for each commit but the oldest, the part of all names whose key it changes."""
    found = []
    after: Reachable | None = None
    for commit in commits:
        now = history.reach(commit)
        if after is not None:
            changed = sum(now.plain.get(name) != digest for name, digest in after.plain.items())
            found.append(changed / len(after.plain))
        after = now
    return found


PLANNED = 10_000
AT_ONCE = 1_000
NOW = datetime.now(UTC)


async def planning(reach: Reachable, packages: list[str], folder: Path) -> tuple[float, float]:
    """Returns how long it takes to plan jobs with keys, and then again for another head."""
    store = ArtifactStore.open("memory:")
    listed = RevdepList(revdeps=tuple(Revdep(package=each, has_tests=False) for each in packages))
    await store.put("listing", listed.model_dump_json().encode())
    index = Index.open(f"sqlite:///{folder}/index.sqlite")

    async def all_served(pools: frozenset[str]) -> frozenset[str]:
        return pools

    activities = JobActivities(index, store, all_served)
    took = []
    for number in (1, 2):
        opened = NOW + timedelta(minutes=number)
        key = RevisionKey(repository="o/r", number=number, head="a" * 40, opened_at=opened)
        await store.put(reach_key(key), reach.model_dump_json().encode())
        task = PlanRevdeps(
            key=key,
            platform=EMBEDDED.name,
            package="dune.3.17.2",
            listing="listing",
            round=1,
            on=EMBEDDED,
            reuse=Surroundings(),
        )
        begin = time.monotonic()
        await ActivityEnvironment().run(activities.plan_revdeps, task)
        took.append(time.monotonic() - begin)
        for start in range(0, len(packages), AT_ONCE):
            rows = tuple(map(passed, packages[start : start + AT_ONCE]))
            pools = {EMBEDDED.name: EMBEDDED.pool}
            batch = RowBatch(key=key, rows=rows, sequence=1, updated_at=opened, pools=pools)
            if number == 1:
                index.record(batch)
    index.close()
    return took[0], took[1]


def passed(revdep: str) -> JobStatus:
    return JobStatus(
        job=Job(platform=EMBEDDED.name, package="dune.3.17.2", kind=JobKind.REVDEP, revdep=revdep),
        state=JobState.DECIDED,
        outcome=Passed(evidence=Evidence(rule="installed")),
        attempt=1,
        image="0" * 16,
        attempt_started_at=NOW,
        decided_at=NOW,
    )


class Switch:
    """opam over one commit, with a compiler that it takes for installed."""

    def __init__(self, history: History, commit: str, folder: Path) -> None:
        self._environment = {
            **os.environ,
            "OPAMROOT": str(folder / "root"),
            "OPAMYES": "1",
            "OPAMCOLOR": "never",
            "OPAMROOTISOK": "1",
            "OPAMNODEPEXTS": "1",
        }
        tree = folder / "repository"
        tree.mkdir(parents=True)
        history.unpack(commit, tree)
        for words in (
            (
                "init",
                "--bare",
                "--no-setup",
                "--disable-sandboxing",
                "--kind=local",
                "default",
                str(tree),
            ),
            ("switch", "create", "ci", "--empty"),
            ("install", "--fake", COMPILER),
        ):
            self.opam(*words)
        self.installed = tuple(
            line.partition(".")[0]
            for line in self.opam("list", "--short", "--columns=package").split()
        )

    def opam(self, *words: str) -> str:
        done = subprocess.run(
            ["opam", *words],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=REQUEST_TIMEOUT,
        )
        if done.returncode and words[0] != "install":
            raise SystemExit(f"opam {' '.join(words)}: {done.stderr[-2000:]}")
        return done.stdout

    def answer(self, package: str, *, tests: bool) -> str:
        options = ["--with-test"] if tests else []
        return self.opam("install", "--show-actions", *options, package)


def are_same(names: set[str], one: Reachable, other: Reachable) -> bool:
    return all(one.plain.get(each) == other.plain.get(each) for each in names)


def prove(history: History, commits: list[str], number: int, seed: int) -> tuple[int, list[str]]:
    """Returns how many targets were tried, and those whose answers differ."""
    chance = random.Random(seed)  # noqa: S311 - the same targets in each run, no secret
    tried, wrong = 0, []
    installed = set[str]()
    while tried < number:
        pair = chance.sample(commits, 2)
        one, other = (history.reach(commit) for commit in pair)
        if not are_same(installed, one, other):
            continue  # the compiler itself has changed: no key is the same
        with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
            folders = [Path(name, commit) for commit in pair]
            ends = list(pool.map(Switch, [history] * 2, pair, folders))
            installed.update(*(each.installed for each in ends))
            if not are_same(installed, one, other):
                continue
            known = history.packages(pair[0])
            for _ in range(-(-number // PAIRS)):
                # Half of them with their tests: then more has to be the same.
                tests = chance.random() < 0.5
                equal = [n for n in known if one.of(n, tests=tests) == other.of(n, tests=tests)]
                package = chance.choice(known[chance.choice(equal)])
                asked = [pool.submit(each.answer, package, tests=tests) for each in ends]
                answers = [each.result() for each in asked]
                tried += 1
                if answers[0] != answers[1]:
                    wrong.append(package)
                    print(f"{package} at {' and '.join(pair)}:", *answers, sep="\n")
                if not tried % 10:
                    print(f"{tried} targets tried, {len(wrong)} differ", file=sys.stderr)
    return tried, wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--commits", type=int, default=300)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        history = History(given.repository, Path(folder, "references.json"))
        commits = history.commits(given.commits + 1)
        begin = time.process_time()
        history.reach(commits[0])
        reading = time.process_time() - begin
        begin = time.process_time()
        history.reach(commits[0])
        keys = time.process_time() - begin
        known = history.packages(commits[0])
        packages = sorted(each for some in known.values() for each in some)[:PLANNED]
        plan, replan = asyncio.run(planning(history.reach(commits[0]), packages, Path(folder)))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        parts = changes(history, commits)
        targets = given.targets
        tried, wrong = prove(history, commits, targets, given.seed) if targets else (0, [])
    result = {
        "reading_s": round(reading, 2),
        "keys_s": round(keys, 2),
        "planned": len(packages),
        "plan_s": round(plan, 2),
        "replan_s": round(replan, 2),
        "peak_mb": round(peak, 1),
        "commits": len(parts),
        "changed_mean": round(statistics.mean(parts), 4),
        "changed_median": round(statistics.median(parts), 4),
        "changed_all": sum(part > 0.95 for part in parts),
        "tried": tried,
        "wrong": len(wrong),
    }
    print(json.dumps(result))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
