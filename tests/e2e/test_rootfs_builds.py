"""The root-file-system runner with real opam: what comes of a build."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from opam_ci.core.classify import judge
from opam_ci.core.jobs.build import PhaseTimeouts
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import OpamAction
from opam_ci.core.jobs.job import JobKind, Phase
from opam_ci.core.jobs.outcome import Cause, label
from tests.support.worlds.rootfs import (
    FAST,
    Log,
    Progress,
    Server,
    World,
    archive,
    last,
    phase_names,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

SOURCE = archive(
    {
        "good.ml": 'let () = print_endline "built and run"\n',
        "broken.ml": "let x : int = true\n",
    }
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("rootfs"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server({"/source.tar.gz": SOURCE}).running() as running:
        yield running


def compiles(server: Server, name: str, rest: str = "") -> str:
    return (
        f'depends: ["ocaml"]\nbuild: ["ocamlc" "-o" "program" "{name}.ml"]\n'
        'install: ["cp" "program" bin]\n' + rest + server.source("/source.tar.gz")
    )


async def test_a_good_package_is_built_tested_and_installed(world: World, server: Server) -> None:
    packages = {"good.1": compiles(server, "good", 'run-test: ["./program"]\n')}
    log, progress = Log(), Progress()
    spec = world.spec(packages, "good.1", kind=JobKind.TEST)
    report = await world.runner.run(spec, log, progress)
    assert report.facts.finished
    assert report.facts.installed is True
    assert phase_names(report) == [
        Phase.CHECKOUT,
        Phase.SETUP,
        Phase.SOLVE,
        Phase.FETCH,
        Phase.DEPENDENCIES,
        Phase.BUILD,
        Phase.TEST,
        Phase.VERIFY,
    ]
    assert all(run.exit_code == 0 for run in report.facts.phases)
    built = report.facts.phases[5]
    assert [(a.action, a.package, a.result) for a in built.actions] == [
        ("build", "good.1", "ok"),
        ("install", "good.1", "ok"),
    ]
    assert "built and run" in report.logs[Phase.TEST]
    environment = report.facts.environment
    assert environment is not None
    assert re.fullmatch("[0-9a-f]{64}", environment.image)
    assert re.fullmatch(r"2\.\d+\.\d+\S*", environment.opam)
    assert environment.solution[-1] == environment.changed[-1] == "good.1"
    assert any(each.startswith("ocaml-") for each in environment.compiler)
    # Offsets are those of the log, and the log has it all.
    for run in report.facts.phases:
        assert log.data[run.log_start : run.log_end].decode() == report.logs[run.phase]
    assert log.text.startswith("To reproduce this job")
    assert log.text.splitlines()[-1].startswith("==== opam-ci: job ends")
    assert {p.phase for p in progress.seen} == set(phase_names(report))
    assert report.facts.host.free_bytes
    assert world.job_roots() == []


async def test_a_compile_error_is_exit_31_with_the_failed_action(
    world: World, server: Server
) -> None:
    report, log = await world.build({"broken.1": compiles(server, "broken")}, "broken.1")
    assert (last(report).phase, last(report).exit_code) == (Phase.BUILD, 31)
    assert last(report).actions[0] == OpamAction(
        action="build",
        package="broken.1",
        result="failed",
        exit_code=2,
        command="ocamlc -o program broken.ml",
    )
    assert """Error: The constructor "true" has type "bool\"""" in report.logs[Phase.BUILD]
    assert not report.facts.finished
    assert report.facts.installed is None
    assert "job ends" not in log.text


async def test_a_failing_test_fails_in_its_own_phase(world: World, server: Server) -> None:
    packages = {"good.1": compiles(server, "good", 'run-test: ["sh" "-c" "exit 3"]\n')}
    report, _ = await world.build(packages, "good.1", kind=JobKind.TEST)
    assert (last(report).phase, last(report).exit_code) == (Phase.TEST, 31)
    # And says nothing about the plain build.
    report, _ = await world.build(packages, "good.1")
    assert report.facts.installed is True


async def test_a_failing_dependency_fails_before_the_build(world: World, server: Server) -> None:
    packages = {
        "broken.1": compiles(server, "broken"),
        "above.1": 'depends: ["broken"]\n',
    }
    report, _ = await world.build(packages, "above.1")
    assert (last(report).phase, last(report).exit_code) == (Phase.DEPENDENCIES, 31)
    assert [a.package for a in last(report).actions if a.result == "failed"] == ["broken.1"]


@pytest.mark.parametrize(
    ("body", "exit_code", "known", "said"),
    [
        ('available: os = "win32"\n', 5, True, "unmet availability conditions"),
        ('depends: ["elsewhere"]\n', 20, None, "elsewhere"),
        ('depends: ["ocaml" {< "5.3"}]\n', 20, None, "ocaml"),
    ],
)
async def test_the_solver_stops_what_cannot_be_installed(
    world: World, body: str, exit_code: int, *, known: bool | None, said: str
) -> None:
    packages = {"elsewhere.1": 'available: os = "win32"\n', "asked.1": body}
    report, _ = await world.build(packages, "asked.1")
    assert (last(report).phase, last(report).exit_code) == (Phase.SOLVE, exit_code)
    assert report.facts.probes.get("package_known") is known
    assert said in " ".join([report.logs[Phase.SOLVE], *last(report).conflicts])


async def test_an_unknown_package_is_told_from_an_unavailable_one(world: World) -> None:
    report, _ = await world.build({"asked.1": ""}, "asked.2")
    assert (last(report).phase, last(report).exit_code) == (Phase.SOLVE, 5)
    assert report.facts.probes["package_known"] is False


async def test_a_repository_with_too_few_packages_is_a_fault(world: World) -> None:
    spec = world.spec({"asked.1": ""}, "asked.1")
    repository = spec.repository.model_copy(update={"package_count": 18_793})
    spec = spec.model_copy(update={"repository": repository})
    with pytest.raises(InfrastructureError) as caught:
        await world.runner.run(spec, Log(), lambda _: None)
    assert caught.value.cause is Cause.REPOSITORY_STATE
    assert world.job_roots() == []


async def test_there_is_network_for_fetches_and_none_for_builds(
    world: World, server: Server
) -> None:
    packages = {
        "reaches.1": f'build: ["curl" "--fail" "--max-time" "5" "{server.url}/from-build"]\n'
        + server.source("/source.tar.gz")
    }
    report, _ = await world.build(packages, "reaches.1")
    assert (last(report).phase, last(report).exit_code) == (Phase.BUILD, 31)
    assert "/source.tar.gz" in server.asked
    assert "/from-build" not in server.asked


async def test_a_wrong_checksum_fails_the_fetch(world: World, server: Server) -> None:
    source = f'url {{ src: "{server.url}/source.tar.gz" checksum: "sha256={"0" * 64}" }}\n'
    report, _ = await world.build({"wrong.1": source}, "wrong.1")
    assert (last(report).phase, last(report).exit_code) == (Phase.FETCH, 40)
    assert last(report).actions[0].package == "wrong.1"
    assert last(report).actions[0].result == "failed"
    assert "Bad checksum" in report.logs[Phase.FETCH]
    assert report.facts.probes["checksum_repeats"] is True
    assert label(judge(report.facts, report.logs)) == "failed(checksum)"


async def test_a_wrong_checksum_that_does_not_come_again_is_the_hosts(world: World) -> None:
    with Server({"/flaky.tar.gz": SOURCE}).running() as flaky:
        flaky.once["/flaky.tar.gz"] = b"<html>come back later</html>"
        report, _ = await world.build({"flaky.1": flaky.source("/flaky.tar.gz")}, "flaky.1")
    assert report.facts.probes["checksum_repeats"] is False
    assert label(judge(report.facts, report.logs)) == "errored(source_host)"


async def test_a_missing_source_fails_the_fetch(world: World, server: Server) -> None:
    source = f'url {{ src: "{server.url}/gone.tar.gz" checksum: "sha256={"0" * 64}" }}\n'
    report, _ = await world.build({"gone.1": source}, "gone.1")
    assert (last(report).phase, last(report).exit_code) == (Phase.FETCH, 40)
    assert "404" in (last(report).actions[0].command or "")


async def test_sources_come_from_a_local_mirror(
    world: World, server: Server, tmp_path: Path
) -> None:
    digest = hashlib.sha256(SOURCE).hexdigest()
    mirror = tmp_path / "mirror"
    place = mirror / "sha256" / digest[:2] / digest
    place.parent.mkdir(parents=True)
    place.write_bytes(SOURCE)
    source = f'url {{ src: "{server.url}/moved.tar.gz" checksum: "sha256={digest}" }}\n'
    report, log = await world.build(
        {"mirrored.1": source}, "mirrored.1", mirrors=(f"file://{mirror}",)
    )
    assert report.facts.installed is True
    assert str(tmp_path) not in log.text


async def test_an_endless_build_is_cut_at_its_time_limit(world: World) -> None:
    timeouts = FAST.model_copy(update={"build": timedelta(seconds=2)})
    report, log = await world.build(
        {"endless.1": 'build: ["sleep" "86400.1"]\n'}, "endless.1", timeouts=timeouts
    )
    run = last(report)
    assert (run.phase, run.timed_out, run.signal, run.exit_code) == (Phase.BUILD, True, 9, None)
    assert not run.has_report
    assert 2 <= run.duration < 5
    assert "ends" in log.text
    assert "time limit" in log.text


async def test_a_build_that_kills_itself_is_not_a_killed_opam(world: World) -> None:
    packages = {"suicidal.1": 'build: ["sh" "-c" "kill -9 $$"]\n'}
    report, _ = await world.build(packages, "suicidal.1")
    assert (last(report).exit_code, last(report).signal) == (31, None)
    assert last(report).actions[0].exit_code == 137


async def test_a_compiler_package_is_built_and_not_taken_as_installed(world: World) -> None:
    changed = 'depends: ["ocaml-system" {= version}]\nbuild: ["sh" "-c" "exit 7"]\n'
    spec = world.spec({"ocaml.5.3.0": changed}, "ocaml.5.3.0")
    report = await world.runner.run(spec, Log(), lambda _: None)
    assert (last(report).phase, last(report).exit_code) == (Phase.BUILD, 31)


async def test_a_strict_umask_of_the_worker_changes_nothing(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        report, _ = await World(tmp_path).build({"nothing.1": ""}, "nothing.1")
    finally:
        os.umask(before)
    assert report.facts.installed is True


def test_limits_have_defaults_for_every_phase() -> None:
    assert all(PhaseTimeouts().of(phase) > timedelta() for phase in Phase)
