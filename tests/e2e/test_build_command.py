"""`opam-ci build` and `opam-ci revdeps` on a work tree, with real builds and no services."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import System
from tests.support.fakes import opam_repository
from tests.support.fakes.opam_repository import opam, package

pytestmark = pytest.mark.e2e

PACKAGES = {
    **package("lib.1", 'build: ["true"]\n'),
    **package("user.1", 'depends: ["lib"]\nrun-test: ["true"]\n'),
    **package("above.1", 'depends: ["user"]\nrun-test: ["true"]\n'),
    **package("plain.1", 'depends: ["lib"]\n'),
    **package("avoided.1", 'depends: ["lib"]\nflags: avoid-version\n'),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A clone with changes in no commit: a new version, with which a package's tests fail."""
    bare = opam_repository.write(tmp_path / "upstream.git", PACKAGES, {})
    found = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", bare, found], check=True)
    path = found / "packages/lib/lib.2/opam"
    path.parent.mkdir()
    path.write_text(opam('build: ["sh" "-c" "echo here is lib.2"]\n'))
    user = found / "packages/user/user.1/opam"
    user.write_text(user.read_text().replace('"true"', '"test" "%{lib:version}%" "=" "1"'))
    return found


def test_a_work_tree_is_built_as_it_is(system: System, tree: Path) -> None:
    # Nothing polls the server, and none is named.
    del system.environment["OPAM_CI_TEMPORAL"]
    words = ("build", "lib", "--repo", str(tree))
    done = system.run(*words, check=0)
    assert ": 1 passed" in done.stdout
    log = Path(done.stdout.rpartition("note: log: ")[2].strip())
    assert "here is lib.2" in log.read_text()

    revdep = system.run(*words, "--kind", "test", "--revdep", "user", "--json", check=1)
    (row,) = json.loads(revdep.stdout.splitlines()[-1])["jobs"]
    assert (row["job"]["kind"], row["outcome"]["reason"]) == ("revdep-test", "test")

    printed = system.run(*words, "--print", check=0).stdout
    assert f"cp -r {tree}/packages {tree}/repo repository" in printed

    listed = system.run("revdeps", "lib", "--repo", str(tree), check=0)
    # user.1 is changed here, and so has jobs of its own.
    assert listed.stdout.splitlines() == [
        "above.1\tyes\tyes",
        "avoided.1\t\tno: flagged avoid-version or deprecated",
        "plain.1\t\tyes",
    ]
    assert "2 revdeps, 1 of them with tests; 1 not built" in listed.stderr
