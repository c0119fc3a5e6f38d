"""`opam-ci bounds` on a work tree, with real builds and no services."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import System
from tests.support.fakes import opam_repository
from tests.support.fakes.opam_repository import package

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NUMBERED = (
    'build: ["true"]\n'
    'install: ["sh" "-c" "mkdir -p %{lib}%/_:name; echo %{version}% > %{lib}%/_:name/n"]\n'
)
NEEDS_THREE = "test $(cat %{lib}%/b/n) -ge 3 || { echo Error: it needs what b 3 has; exit 1; }"
PACKAGES = {
    **{
        path: text
        for name in ("b", "c")
        for number in range(1, 8)
        for path, text in package(f"{name}.{number}", NUMBERED.replace("_:name", name)).items()
    },
    **package(
        "a.1",
        f'depends: [\n  "c" {{>= "2"}}\n  "b"  # any\n]\nbuild: ["sh" "-c" "{NEEDS_THREE}"]\n',
    ),
    **package("never.1", 'depends: ["b"]\nbuild: ["sh" "-c" "exit 7"]\n'),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    bare = opam_repository.write(tmp_path / "upstream.git", PACKAGES, {})
    found = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", bare, found], check=True)
    return found


def test_the_lower_bound_is_found_and_written(system: System, tree: Path) -> None:
    # Nothing polls the server, and none is named.
    del system.environment["OPAM_CI_TEMPORAL"]
    words = ("a", "--repo", str(tree))
    found = system.run("bounds", *words, "--write", check=0)
    assert [
        line.partition("; log: ")[0] for line in found.stderr.splitlines() if "a.1:" in line
    ] == [
        "a.1: oldest dependencies: fails (build)",
        "a.1: newest dependencies: passes",
        "a.1: dependency at fault, build 1: b ≥ 7: passes",
        "a.1: step 1 of at most 3: b ≥ 4: passes",
        "a.1: step 2 of at most 3: b ≥ 2: fails (build)",
        "a.1: step 3 of at most 3: b ≥ 3: passes",
        "a.1: lacks b ≥ 3",
    ]
    assert '\n-  "b"  # any\n+  "b" {>= "3"}  # any\n' in found.stdout
    git = ["git", "-C", str(tree), "apply"]
    subprocess.run([*git, "--reverse", "--check", "-"], input=found.stdout.encode(), check=True)
    assert '"b" {>= "3"}  # any' in (tree / "packages/a/a.1/opam").read_text()
    system.run("build", *words, "--kind", "lower-bounds", check=0)

    # The same bound as a suggestion, of the file as it was.
    subprocess.run(["git", "-C", str(tree), "checkout", "--quiet", "."], check=True)
    before = (tree / "packages/a/a.1/opam").read_text().splitlines()
    number = before.index('  "b"  # any') + 1
    done = system.run("bounds", *words, "--dependency", "b", "--suggestion", check=0)
    assert done.stdout == (
        f'packages/a/a.1/opam, line {number}:\n```suggestion\n  "b" {{>= "3"}}  # any\n```\n'
    )
    subprocess.run([*git, "-"], input=found.stdout.encode(), check=True)

    # Nothing is missing any more.
    again = system.run("bounds", *words, "--json", check=0)
    *_, last = map(json.loads, again.stdout.splitlines())
    assert (last["event"], last["bounds"], last["patch"]) == ("result", {}, "")


def test_what_no_bound_helps_is_a_failure(system: System, tree: Path) -> None:
    del system.environment["OPAM_CI_TEMPORAL"]
    before = (tree / "packages/never/never.1/opam").read_text()
    done = system.run("bounds", "never", "--repo", str(tree), "--write", check=1)
    assert "never.1 fails (build) with its newest dependencies, too" in done.stderr
    assert (done.stdout, (tree / "packages/never/never.1/opam").read_text()) == ("", before)
