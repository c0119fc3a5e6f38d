"""The example repository with real git and real opam, and its source host."""

import asyncio
import gzip
import hashlib
import io
import re
import subprocess
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from opam_ci.cli.operator import example
from opam_ci.clients.lint.opam import OpamLint
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import (
    Cause,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.summary import Fault, JobState, JobStatus, Summary

EVIDENCE = Evidence(rule="test")


def git(repo: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", f"--git-dir={repo}", *words], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_base_is_always_the_same_and_the_branch_follows_the_host(tmp_path: Path) -> None:
    first = example.create(tmp_path / "home" / "repo", "http://127.0.0.1:1")
    base, head = git(first.repo, "rev-parse", first.base, first.branch).split()
    again = example.create(tmp_path / "home" / "repo", "http://127.0.0.1:2")
    base_again, head_again = git(again.repo, "rev-parse", again.base, again.branch).split()
    assert base_again == base
    assert head_again != head
    assert git(again.repo, "rev-parse", f"{again.branch}^").strip() == base


def test_files_of_a_killed_run_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "repo.new" / "refs").mkdir(parents=True)
    (tmp_path / "repo.new" / "refs" / "rubbish.lock").touch()
    made = example.create(tmp_path / "repo", "http://127.0.0.1:1")
    assert git(made.repo, "fsck", "--strict") == ""
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]


def test_settings_of_the_user_do_not_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody Else")
    made = example.create(tmp_path / "repo", "http://127.0.0.1:1")
    monkeypatch.delenv("GIT_DIR")
    assert "Somebody" not in git(made.repo, "log", "--format=%an%cn", "example")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.timeout(300)
def test_lint_finds_nothing_in_its_files(tmp_path: Path, opam_lint: OpamLint) -> None:
    made = example.create(tmp_path / "repo", "http://127.0.0.1:1")
    paths = git(made.repo, "ls-tree", "-r", "--name-only", made.branch, "packages").splitlines()
    assert len(paths) == 7
    for path in paths:
        _, name, package, _ = path.split("/")
        assert package.partition(".")[0] == name
    texts = [git(made.repo, "show", f"{made.branch}:{path}") for path in paths]
    messages = asyncio.run(opam_lint.lint([text.encode() for text in texts]))
    assert dict(zip(paths, messages, strict=True)) == dict.fromkeys(paths, ())


def test_the_host_serves_the_sources_of_the_opam_files(tmp_path: Path) -> None:
    with example.source_host() as host:
        made = example.create(tmp_path / "repo", host.url)
        host.repair()
        for package in (example.PASSES, example.FAILS, example.SKIPPED, example.RECOVERS):
            path = f"packages/{package.partition('.')[0]}/{package}/opam"
            opam = git(made.repo, "show", f"{made.branch}:{path}")
            (url,) = re.findall(r'src: "(.*)"', opam)
            (checksum,) = re.findall(r'"sha256=(.*)"', opam)
            archive = httpx.get(url, trust_env=False, timeout=60).content
            assert hashlib.sha256(archive).hexdigest() == checksum
            with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as sources:
                assert f"{package}/main.ml" in sources.getnames()


def status_of(url: str) -> int:
    return httpx.get(url, trust_env=False, timeout=60).status_code


def test_the_host_is_broken_until_it_is_repaired() -> None:
    with example.source_host() as host:
        broken = f"{host.url}/{example.RECOVERS}.tar.gz"
        assert [status_of(broken) for _ in range(6)] == [503] * 6
        assert status_of(f"{host.url}/{example.PASSES}.tar.gz") == 200
        assert status_of(f"{host.url}/other.tar.gz") == 404
        host.repair()
        assert status_of(broken) == 200
        url = host.url
    with pytest.raises(httpx.ConnectError):
        status_of(url)


def row(package: str, outcome: Outcome | None, *, faults: int = 0) -> JobStatus:
    now = datetime(2024, 1, 1, tzinfo=UTC)
    fault = Fault(attempt=1, cause=Cause.SOURCE_HOST, evidence=EVIDENCE, worker=None, at=now)
    return JobStatus(
        job=Job(platform="p", package=package, kind=JobKind.BUILD),
        state=JobState.DECIDED if outcome else JobState.RETRYING,
        outcome=outcome,
        faults=(fault,) * faults,
    )


def test_unexpected_outcomes_are_listed() -> None:
    passed = Passed(evidence=EVIDENCE)
    failed = Failed(reason=FailureReason.BUILD, evidence=EVIDENCE)
    skipped = Skipped(reason=SkipReason.UNAVAILABLE, evidence=EVIDENCE)
    good = (
        row(example.PASSES, passed),
        row(example.FAILS, failed),
        row(example.SKIPPED, skipped),
        row(example.RECOVERS, passed, faults=1),
    )
    summary = Summary(pull_request="example", head="h", base="b", planned=True, jobs=good)
    assert example.discrepancies(summary) == ()
    without_fault = (*good[:3], row(example.RECOVERS, passed))
    (line,) = example.discrepancies(summary.model_copy(update={"jobs": without_fault}))
    assert line.startswith(example.RECOVERS)
    assert len(example.discrepancies(summary.model_copy(update={"jobs": good[1:3]}))) == 2


def test_the_host_is_repaired_once_the_fault_is_recorded() -> None:
    with example.source_host() as host:
        watch = example.repair_when_noticed(host)
        broken = f"{host.url}/{example.RECOVERS}.tar.gz"
        summary = Summary(
            pull_request="example", head="h", base="b", jobs=(row(example.RECOVERS, None),)
        )
        watch(summary)
        assert status_of(broken) == 503
        noticed = row(example.RECOVERS, None, faults=1)
        watch(summary.model_copy(update={"jobs": (noticed,)}))
        assert status_of(broken) == 200


def test_a_missing_git_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfrastructureError, match="git cannot be started"):
        example.create(tmp_path / "repo", "http://127.0.0.1:1")
