"""Fault drills: what goes wrong while packages are solved for, built and tested."""

import shutil
from collections.abc import Iterator

import pytest

from opam_ci.core.jobs.job import JobKind, Phase
from tests.support.samples.drills import Drill, Faulty, Result, check, run_all, source, within
from tests.support.worlds.rootfs import World

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

ENDLESS = '["sleep" "86400.7"]\n'
KILLS_ALL = "pkill -9 opam; pidof opam && exit 9; kill -9 -1; exit 3"
FAILS = 'build: ["sh" "-c" "echo no luck; exit 7"]\n'


def solver_drills() -> Iterator[Drill]:
    """Yields what the solver, opam's lists of packages and apt's lists decide."""
    table = [
        (
            "no solution",
            {"asked.1": 'depends: ["ocaml" {< "5.3"}]\n'},
            ("skipped(no_solution)", "solver-conflict", "ocaml"),
        ),
        (
            "missing dependency",
            {"asked.1": 'depends: ["nowhere"]\n'},
            ("skipped(no_solution)", "solver-conflict", "nowhere"),
        ),
        (
            "unavailable",
            {"asked.1": 'available: os = "win32"\n'},
            ("skipped(unavailable)", "solver-unavailable", "unmet availability conditions"),
        ),
        (
            "unavailable dependency",
            {"asked.1": 'depends: ["dep"]\n', "dep.1": 'available: os = "win32"\n'},
            ("skipped(no_solution)", "solver-conflict", "dep"),
        ),
        (
            "unknown package",
            {"other.1": ""},
            ("errored(repository_state)", "opam-unknown-package", "No package named asked"),
        ),
        (
            "unknown version",
            {"asked.2": ""},
            ("errored(repository_state)", "opam-unknown-package", "has no version 1"),
        ),
        (
            "missing depext",
            {"asked.1": 'depexts: ["no-such-thing-dev"]\n'},
            ("skipped(depext_unavailable)", "depext-unavailable", "no-such-thing-dev"),
        ),
    ]
    for name, packages, (outcome, rule, shown) in table:
        yield Drill(name, packages, outcome, rule, Phase.SOLVE, shown)


def build_drills(url: str) -> Iterator[Drill]:
    """Yields what package code does, and what is done to it."""
    broken = 'depends: ["ocaml"]\nbuild: ["ocamlc" "broken.ml"]\n' + source(f"{url}/ok/x.tgz")
    yield Drill(
        "compile error", {"asked.1": broken}, "failed(build)", "ocaml-error", Phase.BUILD, "Error:"
    )
    yield Drill(
        "failing dependency",
        {"asked.1": 'depends: ["dep"]\n', "dep.1": broken},
        "failed(dependency)",
        "dependency-failed",
        Phase.DEPENDENCIES,
        "build of dep.1 failed with exit code 2: ocamlc broken.ml",
        blame="dep.1",
    )
    yield Drill(
        "failing test",
        {"asked.1": 'run-test: ["sh" "-c" "echo not ok 1 - works; exit 1"]\n'},
        "failed(test)",
        "test-generic",
        Phase.TEST,
        "not ok 1 - works",
        kind=JobKind.TEST,
    )
    yield Drill(
        "missing build command",
        {"asked.1": 'build: ["no-such-tool" "all"]\n'},
        "failed(build)",
        "command-missing",
        Phase.BUILD,
        "no-such-tool",
    )
    yield Drill(
        "silent failure",
        {"asked.1": 'build: ["false"]\n'},
        "failed(build)",
        "package-report",
        Phase.BUILD,
        "build of asked.1 failed with exit code 1: false",
    )
    yield Drill(
        "words about the network in a build",
        {"asked.1": 'build: ["sh" "-c" "echo Could not resolve host: x.example; exit 1"]\n'},
        "failed(build)",
        "network-in-build",
        Phase.BUILD,
        "Could not resolve host",
    )
    yield Drill(
        "system library of a conf package",
        {"asked.1": 'depends: ["conf-thing"]\n', "conf-thing.1": FAILS},
        "errored(image)",
        "conf-without-depexts",
        Phase.DEPENDENCIES,
        "no phase installed system packages",
    )
    yield Drill(
        "build killed",
        {"asked.1": 'build: ["sh" "-c" "kill -9 $$"]\n'},
        "failed(build)",
        "opam-command-failed",
        Phase.BUILD,
        "SIGKILL ended it, which the CI did not send",
    )
    # With a PID namespace of its own, it sees nobody whom it could kill.
    yield Drill(
        "everything killed that a build sees",
        {"asked.1": f'build: ["sh" "-c" "{KILLS_ALL}"]\n'},
        "failed(build)",
        "package-report",
        Phase.BUILD,
        "build of asked.1 failed with exit code 3",
    )
    # opam gives a package's own environment to the shell that starts its sandbox.
    yield Drill(
        "opam killed from outside of its sandbox",
        {
            "asked.1": 'build-env: [BASH_ENV = "%{build}%/env"]\n'
            'build: [["sh" "-c" "echo \'pkill -9 opam\' > env"] ["true"]]\n'
        },
        "failed(build)",
        "opam-killed",
        Phase.BUILD,
        "ended by SIGKILL and left no report; neither the CI nor the kernel sent it",
    )


def time_drills() -> Iterator[Drill]:
    """Yields what never ends by itself."""
    yield Drill(
        "endless build",
        {"asked.1": f"build: {ENDLESS}"},
        "failed(timeout)",
        "timeout",
        Phase.BUILD,
        "ended by the supervisor after",
        timeouts=within(build=8),
    )
    yield Drill(
        "endless test",
        {"asked.1": f"run-test: {ENDLESS}"},
        "failed(timeout)",
        "timeout",
        Phase.TEST,
        "ended by the supervisor after",
        kind=JobKind.TEST,
        timeouts=within(test=8),
    )
    yield Drill(
        "endless dependency",
        {"asked.1": 'depends: ["dep"]\n', "dep.1": f"build: {ENDLESS}"},
        "errored(unknown)",
        "timeout-dependencies",
        Phase.DEPENDENCIES,
        "ended by the supervisor after",
        timeouts=within(dependencies=8),
    )


def drills(url: str) -> list[Drill]:
    return [*solver_drills(), *build_drills(url), *time_drills()]


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, tuple[Drill, Result]]]:
    with Faulty().running() as server:
        todo = drills(server.url)
        found = run_all(World(tmp_path_factory.mktemp("drills")), todo)
        yield {drill.name: (drill, found[drill.name]) for drill in todo}


@pytest.mark.parametrize("name", [drill.name for drill in drills("http://x.example")])
def test_drill(results: dict[str, tuple[Drill, Result]], name: str) -> None:
    check(*results[name])
