"""The analysis agrees with opam-repo-ci, on the real repository's real history."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opam_ci.clients.git.analysis import analyse, analyse_merge
from opam_ci.clients.git.repository import Repository
from opam_ci.core.opam.file import parse
from opam_ci.core.opam.metadata import read
from opam_ci.core.opam.package import Package
from opam_ci.core.packed import UNPACKED
from opam_ci.core.submission.result import Analysis
from tests.support.fakes.one_file import significance
from tests.support.fakes.opam_text import print_file

pytestmark = pytest.mark.real
PULL_REQUESTS = 437
MUTATIONS = 1_785
OPAM_FILES = 18_793


@pytest.fixture(scope="module")
def repository(real_repository: Path) -> Iterator[Repository]:
    with Repository.open(real_repository) as repository:
        yield repository


def answer(result: Analysis) -> dict[str, Any]:
    return result.model_dump(mode="json", include={"packages", "failure"}, context=UNPACKED)


@pytest.mark.timeout(300)  # 874 analyses, under the coverage of a whole run
def test_every_pull_request(shared: Path, repository: Repository) -> None:
    lines = (shared / "real" / "prs.jsonl").read_text().splitlines()
    assert len(lines) == PULL_REQUESTS
    different = []
    for record in map(json.loads, lines):
        expected = {"packages": record["packages"], "failure": record["failure"]}
        found = answer(analyse(repository, record["base"], record["head"]))
        if found != expected or answer(analyse_merge(repository, record["merge"])) != expected:
            different.append((record["pr"], found))
    assert different == []


def test_every_mutated_file(shared: Path, repository: Repository) -> None:
    with gzip.open(shared / "real" / "lint-mutations.jsonl.gz", "rt") as lines:
        records = [json.loads(line) for line in lines]
    assert len(records) == MUTATIONS
    head = repository.resolve("master")
    different = []
    for record in records:
        name = record["original"].partition(".")[0]
        old = repository.read(head, f"packages/{name}/{record['original']}/opam")
        assert old is not None
        package = record["package"]
        path = f"packages/{package.partition('.')[0]}/{package}/opam"
        result = significance(old, record["opam"].encode(), path=path)
        expected = record["analysis"]
        if result.failure is not None:
            found: dict[str, Any] = {"kind": None, "failure": result.failure}
        else:
            (changed,) = result.packages
            found = {
                "kind": changed.kind.value,
                "has_tests": changed.has_tests,
                "failure": None,
            }
        if found != expected:
            different.append((record["mutation"], package, found, expected))
    assert different == []


@pytest.mark.timeout(300)
def test_every_opam_file_parses_and_is_read(repository: Repository) -> None:
    entries = repository.list_tree(repository.resolve("master"), ["packages/"])
    files = [entry for entry in entries if entry.path.endswith("/opam")]
    assert len(files) == OPAM_FILES
    contents = repository.objects([entry.object_id for entry in files])
    for number, (entry, data) in enumerate(zip(files, contents, strict=True)):
        file = parse(data, filename=entry.path)
        assert file.items
        if number % 10 == 0:
            found = read(file, Package.find(entry.path.split("/")[2]))
            assert found.errors == ()
            assert parse(print_file(file.items).encode()).items == file.items
