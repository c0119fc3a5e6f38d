"""`opam-ci build` and `opam-ci revdeps`: what they take from a work tree, print and end with."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opam_ci.cli.author import build as module
from opam_ci.clients.runners.base import LogSink
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.build import BuildProgress, BuildReport, BuildSpec, Revdep, RevdepList
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import BuildFacts, PhaseRun
from opam_ci.core.jobs.job import JobKind, Phase
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.platforms.model import EMBEDDED
from tests.support.fakes import opam_repository
from tests.support.fakes.command_line import output_of
from tests.support.fakes.opam_repository import package
from tests.support.fakes.runners import facts

PACKAGES = {
    **package("lib.1.9", ""),
    **package("lib.1.10", ""),
    **package("user.1", 'depends: ["lib"]\n'),
}


class ScriptedRunner:
    """A runner that builds nothing, and keeps what it was to build."""

    def __init__(self) -> None:
        self.specs: list[BuildSpec] = []
        self.fails = False
        self.lost: Cause | None = None

    async def require(self) -> None:
        """Needs nothing."""

    async def prepare(self, show: Callable[[str], None]) -> None:
        show("making a root")

    async def reproduction(self, spec: BuildSpec) -> str:
        self.specs.append(spec)
        return f"To reproduce {spec.job.id}\n\n"

    async def run(
        self, spec: BuildSpec, log: LogSink, progress: Callable[[BuildProgress], None]
    ) -> BuildReport:
        self.specs.append(spec)
        log.write(b"the log\n")
        progress(BuildProgress(phase=Phase.BUILD, log_bytes=log.size))
        if self.lost is not None:
            raise InfrastructureError("no root", cause=self.lost)
        if spec.job.kind is not JobKind.LIST_REVDEPS:
            return BuildReport(facts=facts(spec, fails=self.fails), logs={})
        solve = PhaseRun(phase=Phase.SOLVE, exit_code=0, duration=0.1, log_start=0, log_end=0)
        return BuildReport(
            facts=BuildFacts(job=spec.job, phases=(solve,), finished=True),
            logs={},
            listing=RevdepList(
                revdeps=(
                    Revdep(package="plain.1", has_tests=False),
                    Revdep(package="user.1", has_tests=True),
                ),
                flagged=("avoided.1",),
            ),
        )


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedRunner:
    found = ScriptedRunner()
    monkeypatch.setattr(module, "make_runner", lambda *_: found)
    monkeypatch.setenv("OPAM_CI_HOME", str(tmp_path / "home"))
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A clone with a branch that is a commit ahead of master, and files that are in no commit."""
    bare = opam_repository.write(
        tmp_path / "upstream.git", PACKAGES, {"topic": package("committed.1", "")}
    )
    found = tmp_path / "opam-repository"
    subprocess.run(["git", "clone", "--quiet", "--branch=topic", bare, found], check=True)
    for path, text in package("lib.1.11", "").items():
        (found / path).parent.mkdir(parents=True)
        (found / path).write_text(text)
    return found


def run(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> str:
    return output_of(capsys, *map(str, words), code=code)


def test_the_newest_version_of_the_work_tree_is_built(
    runner: ScriptedRunner, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {*(tree / ".git").rglob("*")}
    out = run(capsys, "build", "lib", "--repo", tree)
    assert {*(tree / ".git").rglob("*")} == before
    assert not [*(tmp_path / "home/store").rglob("repositories/heads/**/*.tar.gz")]
    (spec,) = runner.specs
    assert spec.job.id == f"build {EMBEDDED.name} lib.1.11"
    assert spec.submitted == ("committed.1", "lib.1.11")
    # What master has is in the base, which other branches share.
    master = opam_repository.git(tmp_path / "upstream.git", "rev-parse", "master")
    assert (spec.repository.base_commit, spec.repository.overlay_packages) == (master, 2)
    head = opam_repository.git(tmp_path / "upstream.git", "rev-parse", "topic")
    assert f"local/opam-repository at {head[:12]}: 1 passed" in out
    log = tmp_path / "home/builds" / f"build-{EMBEDDED.name.replace('/', '-')}-lib.1.11.log"
    assert f"note: log: {log}" in out.splitlines()
    assert log.read_text().startswith("the log\n")
    assert "verdict: passed" in log.read_text()


def test_exit_codes_are_those_of_a_check(
    runner: ScriptedRunner, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.fails = True
    run(capsys, "build", "user", "--repo", tree, code=1)
    runner.lost = Cause.IMAGE
    run(capsys, "build", "user", "--repo", tree, code=3)


def test_json_has_each_change_and_the_result(
    runner: ScriptedRunner, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not runner.specs
    out = run(capsys, "build", "user.1", "--kind", "test", "--repo", tree, "--json")
    first, *_, last = map(json.loads, out.splitlines())
    assert (first["event"], first["phase"]) == ("job", "build")
    assert (last["event"], last["state"], last["counts"]["passed"]) == ("summary", "success", 1)
    assert last["jobs"][0]["job"]["kind"] == "test"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["--revdep", "user"], JobKind.REVDEP),
        (["--revdep", "user", "--kind", "test"], JobKind.REVDEP_TEST),
        (["--revdep", "user.1", "--kind", "revdep-test"], JobKind.REVDEP_TEST),
        (["--kind", "lower-bounds"], JobKind.LOWER_BOUNDS),
    ],
)
def test_printing_builds_nothing(
    runner: ScriptedRunner,
    tree: Path,
    words: list[str],
    kind: JobKind,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = run(capsys, "build", "lib", *words, "--repo", tree, "--print")
    (spec,) = runner.specs
    assert out == f"To reproduce {spec.job.id}\n"
    assert (spec.job.kind, spec.job.package) == (kind, "lib.1.11")
    assert spec.job.revdep == ("user.1" if "--revdep" in words else None)
    assert spec.source is not None
    assert (spec.source.url, spec.source.head) == (str(tree), "")


def test_a_bare_clone_is_built_at_its_head(
    runner: ScriptedRunner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = opam_repository.write(tmp_path / "bare.git", PACKAGES, {})
    run(capsys, "build", "lib", "--repo", bare)
    run(capsys, "build", "lib", "--repo", bare, "--print")
    built, printed = runner.specs
    head = opam_repository.git(bare, "rev-parse", "HEAD")
    # Nothing has changed, and it is built all the same.
    assert (built.job.package, built.repository.base_commit) == ("lib.1.10", head)
    assert printed.source is not None
    assert (printed.source.base, printed.source.head) == (head, head)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["lob"], "no such package in this repository: 'lob'; did you mean lib?"),
        (["zzz"], "no such package in this repository: 'zzz'; see its folder `packages`"),
        (["lib.2"], "no such version in this repository: 'lib.2'; the newest: lib.1.11, lib.1.10"),
        (["lib", "--revdep", "usr"], "'usr'; did you mean user?"),
        (["lib", "--kind", "revdep"], "--kind revdep needs --revdep PACKAGE"),
        (["lib", "--kind", "lower-bounds", "--revdep", "user"], "leave out --revdep"),
        (["lib", "--base", "main"], "the repository has no branch or commit 'main'"),
        (["lib", "--kind", "lint"], "--kind lint: a build is one of build, test, lower-bounds"),
        (["lib", "--platform", "debian-13-ocaml-5.3"], "no such platform"),
        (["lib", "--platform", "debian-13-*"], "platforms match 'debian-13-*'"),
        (["lib", "--platform", "macos-homebrew-ocaml-5.4/arm64"], "a worker of its pool"),
    ],
)
def test_what_is_wrong_is_said(
    runner: ScriptedRunner,
    tree: Path,
    words: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert problem in run(capsys, "build", *words, "--repo", tree, code=2)
    assert not runner.specs


def test_a_clone_without_master_is_based_on_its_head(
    runner: ScriptedRunner, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "-C", tree, "remote", "remove", "origin"], check=True)
    run(capsys, "build", "lib", "--repo", tree)
    head = opam_repository.git(tree / ".git", "rev-parse", "HEAD")
    assert runner.specs[0].repository.base_commit == head


def test_what_is_not_a_clone_of_opam_repository_is_refused(
    runner: ScriptedRunner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not runner.specs
    said = run(capsys, "build", "lib", "--repo", tmp_path, code=2)
    assert f"{tmp_path} is not a git repository: give a local clone of opam-repository" in said
    other = tmp_path / "other"
    subprocess.run(["git", "init", "--quiet", other], check=True)
    assert "no branch or commit 'HEAD'" in run(capsys, "build", "lib", "--repo", other, code=2)
    (other / "file").touch()
    git: list[Any] = ["git", "-C", other, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)
    said = run(capsys, "build", "lib", "--repo", other, code=2)
    assert "has no packages folder: give a clone of opam-repository" in said


def test_a_change_that_the_analysis_refuses_is_a_failure(
    runner: ScriptedRunner, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "packages/lib/README").write_text("no such file may be here")
    said = run(capsys, "build", "lib", "--repo", tree, code=1)
    assert "Unexpected path" in said
    assert not runner.specs


def test_reverse_dependencies_are_listed(
    runner: ScriptedRunner, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(capsys, "revdeps", "lib", "--repo", tree)
    (spec,) = runner.specs
    assert spec.job.id == f"list-revdeps {EMBEDDED.name} lib.1.11"
    assert spec.submitted == ("committed.1", "lib.1.11")
    assert out.splitlines() == [
        "avoided.1\t\tno: flagged avoid-version or deprecated",
        "plain.1\t\tyes",
        "user.1\tyes\tyes",
    ]
    out = run(capsys, "revdeps", "lib", "--repo", tree, "--json")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"package": "avoided.1", "has_tests": False, "built": False},
        {"package": "plain.1", "has_tests": False, "built": True},
        {"package": "user.1", "has_tests": True, "built": True},
    ]
    runner.lost = Cause.IMAGE
    said = run(capsys, "revdeps", "lib", "--repo", tree, code=3)
    assert "lib.1.11 list-revdeps: no root" in said


def test_a_platform_is_named_exactly(tmp_path: Path) -> None:
    file = tmp_path / "platforms.toml"
    file.write_text(
        '[pools.p]\narch = "amd64"\n[[platforms]]\n'
        'distribution = "debian-13"\nocaml = ["5.3", "5.4"]\n'
    )
    assert module.one_platform(file, None).ocaml == "5.3"
    assert module.one_platform(file, "*5.4*").ocaml == "5.4"
    with pytest.raises(UsageError, match="2 platforms match"):
        module.one_platform(file, "*")
