"""`opam-ci bounds`: what it builds, prints and ends with."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from opam_ci.cli.author import build as module
from opam_ci.clients.runners.base import LogSink
from opam_ci.core.jobs.build import BuildProgress, BuildReport, BuildSpec
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import BuildEnvironment, BuildFacts
from opam_ci.core.jobs.job import JobKind
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
from tests.support.fakes import opam_repository
from tests.support.fakes.command_line import output_of
from tests.support.fakes.opam_repository import package
from tests.support.fakes.runners import facts

OPAM = "packages/user/user.1/opam"
PACKAGES = {
    path: text
    for number in range(1, 6)
    for path, text in package(f"lib.{number}", "").items()
} | package("user.1", 'depends: ["lib" "other"]\n')  # fmt: skip


class ScriptedRunner:
    """A runner whose builds end as a test says, and that builds nothing.

    Attributes:
        ends: Of each build in turn: whether it passes and with which version of `lib`; or the cause
            of a fault.
        specs: What it was to build.
        before: Is called before each build.
    """

    def __init__(self) -> None:
        self.ends: list[tuple[bool, int] | Cause] = []
        self.specs: list[BuildSpec] = []
        self.before: Callable[[], object] = lambda: None

    async def require(self) -> None:
        """Needs nothing."""

    async def prepare(self, show: Callable[[str], None]) -> None:
        show("making a root")

    async def run(
        self, spec: BuildSpec, log: LogSink, _: Callable[[BuildProgress], None]
    ) -> BuildReport:
        self.before()
        self.specs.append(spec)
        log.write(b"the log\n")
        end = self.ends.pop(0)
        if isinstance(end, Cause):
            raise InfrastructureError("no root", cause=end)
        passes, version = end
        environment = BuildEnvironment(
            image="i", opam="2.3", compiler=(), solution=(f"lib.{version}", "other.1", "user.1")
        )
        found = facts(spec, fails=not passes).model_copy(update={"environment": environment})
        return BuildReport(facts=found, logs={})


async def judged(found: BuildFacts, _: object, **__: object) -> Outcome:
    """What the judge finds out, without a process of its own."""
    evidence = Evidence(rule="r")
    if found.finished:
        return Passed(evidence=evidence)
    return Failed(reason=FailureReason.BUILD, evidence=evidence)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedRunner:
    found = ScriptedRunner()
    monkeypatch.setattr(module, "make_runner", lambda *_: found)
    monkeypatch.setattr(module, "judge", judged)
    monkeypatch.setenv("OPAM_CI_HOME", str(tmp_path / "home"))
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    bare = opam_repository.write(tmp_path / "upstream.git", PACKAGES, {})
    found = tmp_path / "opam-repository"
    subprocess.run(["git", "clone", "--quiet", bare, found], check=True)
    return found


FOUND = [(False, 1), (True, 5), (True, 5), (False, 3), (True, 4)]
"""Ends of a search that finds 4."""


def test_the_bound_is_printed_as_a_patch(
    runner: ScriptedRunner, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.ends = [*FOUND]
    before = {*(tree / ".git").rglob("*")}
    out = output_of(capsys, "bounds", "user", "--repo", str(tree))
    assert '-depends: ["lib" "other"]\n+depends: ["lib" {>= "4"} "other"]\n' in out
    # It is not applied, and the clone is not written.
    subprocess.run(["git", "-C", tree, "apply", "--check"], input=out.encode(), check=True)
    assert {*(tree / ".git").rglob("*")} == before
    lower, build = JobKind.LOWER_BOUNDS, JobKind.BUILD
    assert [spec.job.kind for spec in runner.specs] == [lower, build, lower, lower, lower]
    # What is built is not what the work tree has, so no script reproduces it from there.
    assert [spec.source is None for spec in runner.specs] == [False, False, True, True, True]
    # Each of them has another opam file, by the digests of what is exported.
    first, second, *others = [
        spec.repository.overlay_archive.rpartition("/")[2] for spec in runner.specs
    ]
    assert (first, len({first, *others})) == (second, 4)
    logs = {path.name.partition("user.1")[2] for path in (tmp_path / "home/builds").iterdir()}
    assert logs == {".log", "-lib-5.log", "-lib-3.log", "-lib-4.log"}


def test_the_bound_is_printed_as_a_suggestion(
    runner: ScriptedRunner, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.ends = [*FOUND]
    words = ("bounds", "user", "--repo", str(tree), "--suggestion")
    text = (tree / OPAM).read_text()
    number = text.splitlines().index('depends: ["lib" "other"]') + 1
    block = '```suggestion\ndepends: ["lib" {>= "4"} "other"]\n```\n'
    out = output_of(capsys, *words)
    assert f"{OPAM}, line {number}:\n{block}" in out
    assert "+++" not in out
    assert (tree / OPAM).read_text() == text
    # They are for different texts.
    assert "give either --write or --suggestion" in output_of(capsys, *words, "--write", code=2)
    assert not runner.ends
    runner.ends = [(True, 1)]
    assert output_of(capsys, *words) == ""


def test_each_build_is_a_line_of_json(
    runner: ScriptedRunner, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.ends = [*FOUND]
    out = output_of(capsys, "bounds", "user.1", "--repo", str(tree), "--write", "--json")
    *builds, last = map(json.loads, out.splitlines())
    assert [(each["event"], each["outcome"]["kind"]) for each in builds] == [
        ("build", "passed" if passes else "failed") for passes, _ in FOUND
    ]
    assert [each.get("bounds") for each in builds[1:]] == [
        None,
        {"lib": "5"},
        {"lib": "3"},
        {"lib": "4"},
    ]
    assert (last["event"], last["bounds"]) == ("result", {"lib": "4"})
    assert '+depends: ["lib" {>= "4"} "other"]\n' in last["patch"]
    assert '\ndepends: ["lib" {>= "4"} "other"]\n```\n' in last["suggestion"]
    assert '"lib" {>= "4"} "other"' in (tree / OPAM).read_text()


def test_a_fault_of_the_ci_is_no_failure(
    runner: ScriptedRunner, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("bounds", "user", "--repo", str(tree))
    # It is tried again, twice.
    runner.ends = [Cause.DNS, *FOUND[:3], Cause.NETWORK, Cause.DISK_FULL, *FOUND[3:]]
    assert '"lib" {>= "4"}' in output_of(capsys, *words)
    runner.ends = [*FOUND[:3], Cause.NETWORK, Cause.NETWORK, Cause.NETWORK]
    said = output_of(capsys, *words, "--write", code=3)
    assert said.count("lib ≥ 3: internal CI error (network)") == 3
    assert said.splitlines()[-1] == "opam-ci: internal CI error (network): no root"
    assert not runner.ends
    assert (tree / OPAM).read_text() == PACKAGES[OPAM]


@pytest.mark.parametrize(
    ("ends", "line"),
    [
        ([(False, 1), (False, 5)], "user.1 fails (build) with its newest dependencies, too"),
        ([(False, 1), (True, 1)], "no direct dependency is older with lower bounds"),
        ([(False, 1), (True, 5), (False, 5)], "it fails with the newest versions of lib, too"),
    ],
)
def test_what_has_no_bounds_has_no_patch(
    runner: ScriptedRunner,
    tree: Path,
    ends: list[tuple[bool, int] | Cause],
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runner.ends = ends
    assert line in output_of(capsys, "bounds", "user", "--repo", str(tree), "--write", code=1)
    assert not runner.ends
    assert (tree / OPAM).read_text() == PACKAGES[OPAM]


def test_a_package_that_passes_lacks_nothing(
    runner: ScriptedRunner, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.ends = [(True, 1)]
    assert output_of(capsys, "bounds", "user", "--repo", str(tree), "--write") == ""
    assert (tree / OPAM).read_text() == PACKAGES[OPAM]


def test_of_a_package_that_was_not_built_nothing_is_known(
    runner: ScriptedRunner,
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def skipped(*_: object, **__: object) -> Outcome:
        return Skipped(reason=SkipReason.NO_SOLUTION, evidence=Evidence(rule="r"))

    monkeypatch.setattr(module, "judge", skipped)
    runner.ends = [(True, 1)]
    error = output_of(capsys, "bounds", "user", "--repo", str(tree), code=1)
    assert (
        "user.1 is skipped (no_solution) with its oldest dependencies: nothing was built" in error
    )


def test_what_is_edited_meanwhile_is_not_overwritten(
    runner: ScriptedRunner, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.ends = [*FOUND]
    runner.before = lambda: (tree / OPAM).write_text("edited")
    said = output_of(capsys, "bounds", "user", "--repo", str(tree), "--write", code=2)
    assert f"{OPAM} was changed meanwhile: it is not written" in said
    assert (tree / OPAM).read_text() == "edited"


def test_only_a_dependency_can_be_named(
    runner: ScriptedRunner, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("bounds", "user", "--repo", str(tree), "--dependency")
    said = output_of(capsys, *words, "lob", code=2)
    assert "user.1 does not depend on 'lob'; its dependencies: lib, other" in said
    assert not runner.specs
    runner.ends = [*FOUND]
    assert '"lib" {>= "4"}' in output_of(capsys, *words, "lib")

    runner.ends = [*FOUND]
    bare = str(tmp_path / "upstream.git")
    said = output_of(capsys, "bounds", "user", "--repo", bare, code=2)
    assert f"{bare} is a bare clone: give one with a work tree" in said
