"""Time and memory of deciding what pull requests do to other packages, and the proof by opam.

    .venv/bin/python bench/effect.py --repository REPOSITORY.git --prs PRS.jsonl [--ocaml 5.4]

For each merged pull request that does more than add packages: processor time, and what is lost.
Then the proof: opam lists all packages that can be installed with the newest compiler of the
release (`opam list --coinstallable-with`, three minutes), without and with the pull requests that
lose the most. It exits with 1 if it lists others than we find. Packages that ask for opam's own
version, and those that opam lists although they are not available, are left out. The last line is
one JSON object.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from opam_ci.clients.git.effect import read_described, read_effect
from opam_ci.clients.git.export import archive_tree
from opam_ci.clients.git.repository import Repository
from opam_ci.core.coinstall.described import Assembled
from opam_ci.core.coinstall.worlds import Problem, coinstallable

ADDS = {"new_package", "new_release", "insignificantly_changed"}


def opam(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["opam", *words],
        env={**os.environ, "OPAMROOT": str(root), "OPAMYES": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def listed(repository: Repository, tree: str, compiler: str) -> set[str]:
    """What opam finds in a tree."""
    with tempfile.TemporaryDirectory(prefix="opam-ci-bench-") as name:
        home = Path(name)
        archive_tree(repository, tree, home / "tree.tar.gz")
        (home / "tree").mkdir()
        subprocess.run(["tar", "-xzf", "tree.tar.gz", "-C", "tree"], cwd=home, check=True)
        root = home / "root"
        bare = ("--bare", "--no-setup", "--disable-sandboxing", "--bypass-checks")
        opam(root, "init", *bare, "default", str(home / "tree"))
        # Whether this machine has system packages is not asked.
        opam(root, "option", "depext=false")
        opam(root, "switch", "create", "empty", "--empty")
        together = f"--coinstallable-with={compiler}"
        return set(opam(root, "list", "--all-versions", "-a", "--short", together).split())


def found(assembled: Assembled, compiler: str) -> set[str]:
    """What we find, asked for the same compiler."""
    universe = assembled.universe
    problem = Problem(
        universe=universe,
        depends=universe.depends,
        uncertain=frozenset(),
        package=universe.index[compiler],
        invariant=(),
        questions=[universe.available],
    )
    return {universe.name(place) for place in coinstallable(problem)[0]}


def proof(repository: Repository, tree: str, release: str, cache: Path) -> list[str]:
    """Compares a tree; returns the packages about which the two differ."""
    assembled = read_described(repository, tree, cache)
    universe = assembled.universe
    versions = [universe.packages[place][1] for place in universe.versions["ocaml-base-compiler"]]
    compiler = [one for one in versions if one.startswith(f"{release}.") and "~" not in one][-1]
    package = f"ocaml-base-compiler.{compiler}"
    theirs, ours = listed(repository, tree, package), found(assembled, package)
    differ = []
    for name in sorted(theirs ^ ours):
        text = repository.read(tree, f"packages/{name.partition('.')[0]}/{name}/opam") or b""
        is_available = universe.index[name] in universe.available
        if is_available and b"opam-version" not in text.partition(b"opam-version")[2]:
            differ.append(name)
    print(f"{len(theirs)} by opam, {len(ours)} by us, {len(theirs ^ ours)} differ: {differ}")
    return differ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--prs", type=Path, required=True)
    parser.add_argument("--ocaml", default="5.4")
    parser.add_argument("--limit", type=int, default=1000, help="pull requests")
    parser.add_argument(
        "--proofs", type=int, default=2, help="pull requests that opam decides, too"
    )
    given = parser.parse_args()
    records = [json.loads(line) for line in given.prs.read_text().splitlines()]
    wanted = [one for one in records if {each["kind"] for each in one["packages"] or ()} - ADDS][
        : given.limit
    ]
    seconds, lost = [], list[tuple[int, int, str, str]]()
    wrong: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="opam-ci-bench-") as name,
        Repository.open(given.repository) as repository,
    ):
        cache = Path(name) / "descriptions"
        began = time.process_time()
        read_described(repository, repository.tree_of(repository.resolve("master")), cache)
        cold = time.process_time() - began
        for one in wanted:
            merged = repository.tree_of(one["merge"])
            began = time.process_time()
            effect, _ = read_effect(
                repository, repository.tree_of(one["base"]), merged, (given.ocaml,), cache
            )
            seconds.append(time.process_time() - began)
            print(
                f"{one['pr']}: {seconds[-1]:.1f} s, {len(effect.lost)} lost, "
                f"{sum(bool(each.last_on) for each in effect.lost)} of them as the last version, "
                f"{len(effect.cycles)} cycles: {[each.package for each in effect.lost[:4]]}",
                flush=True,
            )
            if effect.lost:
                lost.append((len(effect.lost), one["pr"], one["base"], one["merge"]))
        for number, pull_request, base, merge in sorted(lost, reverse=True)[: given.proofs]:
            print(f"{pull_request}, {number} lost", flush=True)
            for commit in (base, merge):
                wrong += proof(repository, repository.tree_of(commit), given.ocaml, cache)
    summary = {
        "cold_s": round(cold, 1),
        "pull_requests": len(seconds),
        "median_s": round(statistics.median(seconds), 1),
        "max_s": round(max(seconds), 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "with_effect": len(lost),
        "wrong": len(wrong),
    }
    print(json.dumps(summary))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
