"""Our lint agrees with opam-repo-ci: on every real pull request and every mutated opam file."""

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from opam_ci.cli.author.lint import lint
from opam_ci.clients.git.repository import Repository
from opam_ci.clients.git.tree import GitTree
from opam_ci.clients.lint.opam import OpamLint
from opam_ci.clients.lint.run import lint_each, lint_packages
from opam_ci.core.lint.finding import CheckId, LintRequest

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Difference = tuple[object, set[str], set[str]]


@pytest.fixture(scope="module")
def repository(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    folder = tmp_path_factory.mktemp("opam-repository")
    archive = shared / "real/opam-repository.git.tar.zst"
    subprocess.run(["tar", "--zstd", "-xf", archive, "-C", folder], check=True)
    (path,) = folder.iterdir()
    with Repository.open(path) as opened:
        yield opened


async def test_every_package_of_every_pull_request(
    shared: Path, repository: Repository, opam_lint: OpamLint
) -> None:
    compared = 0
    different: list[Difference] = []
    for line in (shared / "real/prs.jsonl").read_text().splitlines():
        pull_request = json.loads(line)
        linted = pull_request["lint"]
        requests = [LintRequest(package=entry["package"], new=entry["new"]) for entry in linted]
        ours = await lint_each(GitTree(repository, pull_request["merge"]), requests, opam=opam_lint)
        for entry, findings in zip(linted, ours, strict=True):
            assert findings is not None, entry
            reported = {finding.machine_message for finding in findings}
            theirs = set(entry["errors"])
            compared += 1
            if reported != theirs:
                different.append((entry["package"], reported - theirs, theirs - reported))
    assert different == []
    assert compared > 1000


@pytest.mark.usefixtures("opam_lint")
def test_every_mutated_opam_file(shared: Path) -> None:
    file = shared / "real/lint-mutations.jsonl.gz"
    app = typer.Typer()
    app.command()(lint)
    result = CliRunner().invoke(app, ["--opam-batch", str(file), "--json"])
    assert result.exit_code == 0
    with gzip.open(file, "rt") as lines:
        theirs: list[dict[str, Any]] = [json.loads(line) for line in lines]
    ours: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
    different: list[Difference] = [
        (peer["mutation"], set(our["errors"]), set(peer["errors"]))
        for our, peer in zip(ours, theirs, strict=True)
        if set(our["errors"]) != set(peer["errors"])
        or ("parse_error" in our) != ("parse_error" in peer)
    ]
    assert different == []
    assert len(ours) > 1000


async def test_every_package_at_head_can_be_read(
    repository: Repository, opam_lint: OpamLint
) -> None:
    tree = GitTree(repository, repository.resolve("master"))
    versions = await tree.versions(await tree.names())
    packages = sorted(package for some in versions.values() for package in some)
    # Each fifth package: the whole repository is what bench/lint.py is for.
    requests = [LintRequest(package=each) for each in packages[::5]]
    report = await lint_packages(tree, requests, opam=opam_lint)
    assert report.missing == ()
    assert not [each for each in report.findings if each.check is CheckId.PARSE]
    assert len(report.checked) > 3000
