"""What we read of opam files is what opam's solver has, and a real pull request's effect."""

import json
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from opam_ci.clients.git.effect import read_described, read_effect
from opam_ci.clients.git.export import archive_tree
from opam_ci.clients.git.repository import Repository
from opam_ci.core.coinstall import universe
from opam_ci.core.coinstall.post import as_sets
from opam_ci.core.coinstall.universe import Clauses, Universe

pytestmark = pytest.mark.real
OPAM_DUMP = "OPAM_CI_TEST_OPAM_DUMP"
PACKAGES = 18_792
LEFT_OUT = {"hol_light.3.0.0", "hol_light.3.1.0"}
"""Their dependencies have 17,280 clauses in normal form."""

BOUND_ADDED = 30516
LOST = {"gettext-camomile.0.5.0": ("5.4",), "gettext-stub.0.5.0": ("5.4",)}
BY_OPAM_VERSION = {
    "opam-build.0.2.5", "opam-build.0.3.0", "opam-check-npm-deps.3.0.1",
    "opam-check-npm-deps.4.1.0", "opam-test.0.2.5", "opam-test.0.3.0", "oui.0.1.0",
}  # fmt: skip
"""They ask for the version of opam, which is older on this machine."""


@pytest.fixture(scope="module")
def repository(real_repository: Path) -> Iterator[Repository]:
    with Repository.open(real_repository) as repository:
        yield repository


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("effect") / "descriptions"


@pytest.fixture(scope="module")
def dump(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Universe:
    """What opam has in an empty switch: minutes for all of opam-repository."""
    if os.environ.get(OPAM_DUMP) is None:
        pytest.skip(f"{OPAM_DUMP}=1 compares with opam itself")
    if shutil.which("opam") is None:
        pytest.skip("opam is missing")
    home = tmp_path_factory.mktemp("opam")
    archive_tree(repository, repository.resolve("master"), home / "tree.tar.gz")
    (home / "tree").mkdir()
    subprocess.run(["tar", "-xzf", "tree.tar.gz", "-C", "tree"], cwd=home, check=True)

    def opam(*words: str) -> None:
        environment = {**os.environ, "OPAMROOT": str(home / "root"), "OPAMYES": "1"}
        subprocess.run(["opam", *words], env=environment, check=True, capture_output=True)

    bare = ("--bare", "--no-setup", "--disable-sandboxing", "--bypass-checks")
    opam("init", *bare, "default", str(home / "tree"))
    # Else packages count as not available whose system packages this machine has not heard of.
    opam("option", "depext=false")
    opam("switch", "create", "empty", "--empty")
    opam("config", "pef-universe", str(home / "dump"))
    return universe.parse((home / "dump").read_text())[0]


def named(of: Universe, clauses: Clauses) -> set[frozenset[tuple[str, frozenset[str]]]]:
    """Clauses by versions, without alternatives that do not exist."""
    return {
        frozenset(
            (name, frozenset(of.packages[place][1] for place in places))
            for name, places in clause
            if places
        )
        for clause in as_sets(clauses)
    }


def conflicts(of: Universe, package: str) -> dict[str, set[str]]:
    place = of.index[package]
    found: defaultdict[str, set[str]] = defaultdict(set)
    for clause in of.conflicts[place]:
        for name, places in clause:
            if name != of.packages[place][0] and places:
                found[name] |= {of.packages[each][1] for each in places}
    return dict(found)


@pytest.mark.timeout(900)  # half a minute of opam, and as much of reading
def test_descriptions_are_what_opams_solver_has(
    repository: Repository, cache: Path, dump: Universe
) -> None:
    tree = repository.tree_of(repository.resolve("master"))
    ours = read_described(repository, tree, cache)
    found = ours.universe
    assert found.index.keys() == dump.index.keys()
    assert len(found.index) == PACKAGES
    assert {one.package for one in ours.described if not one.certain} == LEFT_OUT
    different = {
        package
        for package, place in found.index.items()
        if named(found, ours.built_with[place]) != named(dump, dump.depends[dump.index[package]])
        or (place in found.available) != (dump.index[package] in dump.available)
        or conflicts(found, package) != conflicts(dump, package)
    }
    assert different == LEFT_OUT | BY_OPAM_VERSION


@pytest.mark.timeout(900)  # half a minute of reading under coverage
def test_a_pull_request_that_takes_packages_away(
    shared: Path, repository: Repository, cache: Path
) -> None:
    lines = (shared / "real" / "prs.jsonl").read_text().splitlines()
    record = next(each for each in map(json.loads, lines) if each["pr"] == BOUND_ADDED)
    before, after = (repository.tree_of(record[name]) for name in ("base", "merge"))
    effect, _ = read_effect(repository, before, after, ("5.4",), cache)
    assert {one.package: one.last_on for one in effect.lost} == LOST
    assert effect.cycles == ()
    # The other way round it takes nothing away.
    assert read_effect(repository, after, before, ("5.4",), cache)[0].lost == ()
