"""The command lines of a job, and their supervision."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opam_ci.clients.runners.images.image import installed_packages, recipe_digest
from opam_ci.clients.runners.phases import plan as phases
from opam_ci.clients.runners.phases import steps, system_packages
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox import process
from opam_ci.clients.runners.sandbox.process import Inherited, run_process
from opam_ci.core.jobs.build import BuildSpec, RepositoryRef
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import REVDEP_KINDS, Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.platforms.debian import DebianRoot
from opam_ci.core.platforms.model import EMBEDDED

TRIXIE = DebianRoot(suite="trixie", architecture="amd64")


def spec(kind: JobKind = JobKind.BUILD) -> BuildSpec:
    return BuildSpec(
        job=Job(
            platform=EMBEDDED.name,
            package="cppo.1.8.0",
            kind=kind,
            revdep="user.3" if kind in REVDEP_KINDS else None,
        ),
        platform=EMBEDDED,
        repository=RepositoryRef(
            base_commit="0" * 40,
            base_archive="base",
            overlay_archive="overlay",
            overlay_packages=1,
            package_count=10,
        ),
    )


ROOT = sandbox.Overlay(
    home=Path("/home"),
    lowers=(Path("/home/layers/a"), Path("/home/images/b")),
    upper=Path("/home/jobs/c/upper"),
    work=Path("/home/jobs/c/work"),
    merged=Path("/home/jobs/c/merged"),
    proc=Path("/home/jobs/c/proc"),
)


def command_line(step: steps.Step) -> list[str]:
    """Returns the command line, after the options that bubblewrap reads from a descriptor."""
    inherited = Inherited(os.memfd_create("status"))
    try:
        line = sandbox.confine(ROOT, steps.confined(step, Mirrors()), sandbox.ROOT)(inherited)
        given = int(line[line.index("--args") + 1])
        options = os.pread(given, os.fstat(given).st_size, 0).decode().split("\0")
    finally:
        inherited.close()
    return [*options, *line]


def test_only_apt_and_downloads_have_network() -> None:
    test = spec(JobKind.TEST)
    apart = [
        phases.solve(test, reinstall=False),
        phases.is_known(test),
        *phases.freeze(("a.1",), ("b.1",)),
        *(
            step
            for phase in (Phase.DEPENDENCIES, Phase.BUILD, Phase.TEST)
            for step in phases.install(phase, test, reinstall=False)
        ),
        *phases.submission_repository(Mirrors()),
        system_packages.list_depexts(("a.1",)),
    ]
    assert all("--unshare-net" in command_line(step) for step in apart)
    assert not any(step.as_root for step in apart)
    for kind in (JobKind.TEST, JobKind.REVDEP_TEST):
        assert not any("--unshare-net" in command_line(s) for s in phases.fetch(spec(kind)))


@pytest.mark.parametrize("as_root", [False, True])
def test_every_command_downloads_one_source_at_a_time(as_root: bool) -> None:
    step = steps.confined(steps.Step(("opam", "update"), as_root=as_root), Mirrors())
    assert dict(step.environment)["OPAMDOWNLOADJOBS"] == "1"


def test_a_name_is_one_word_of_a_command_line() -> None:
    # Nothing that comes from a pull request is put together with anything else.
    argv = command_line(*phases.install(Phase.BUILD, spec(), reinstall=False))
    assert argv[-4:] == ["opam", "install", "--verbose", "cppo.1.8.0"]
    script = argv[argv.index("-c") + 1]
    assert "cppo" not in script
    assert "$@" in script


def test_a_build_has_no_capability_but_to_become_unprivileged() -> None:
    argv = command_line(*phases.install(Phase.BUILD, spec(), reinstall=False))
    granted = [argv[index + 1] for index, word in enumerate(argv) if word == "--cap-add"]
    assert granted == ["CAP_SETUID", "CAP_SETGID"]
    assert argv[argv.index("--cap-drop") + 1] == "ALL"
    assert "--reuid=1000" in argv
    assert {"--clearenv", "--die-with-parent", "--unshare-pid", "--new-session"} <= set(argv)


def test_tests_are_solved_for_and_fetched_with_the_package() -> None:
    test = spec(JobKind.TEST)
    for step in (
        phases.solve(test, reinstall=False),
        *phases.fetch(test),
        *phases.install(Phase.DEPENDENCIES, test, reinstall=False),
    ):
        assert "--with-test" in step.argv
    (build,) = phases.install(Phase.BUILD, test, reinstall=False)
    assert "--with-test" not in build.argv
    assert "--with-test" not in phases.solve(spec(), reinstall=False).argv


def test_a_revdep_is_tested_without_the_tests_of_the_package() -> None:
    # `--with-test` counts for every name of a command line.
    test = spec(JobKind.REVDEP_TEST)
    solve = phases.solve(test, reinstall=False)
    assert solve.argv[3:] == ("--with-test", "user.3", '--formula="cppo" {= "1.8.0"}')
    for step in (*phases.fetch(test), *phases.install(Phase.DEPENDENCIES, test, reinstall=False)):
        assert ("user.3" in step.argv) == ("--with-test" in step.argv)
        assert ("cppo.1.8.0" in step.argv) != ("user.3" in step.argv)


def test_before_opam_2_2_a_revdep_is_solved_for_under_an_invariant(tmp_path: Path) -> None:
    test = spec(JobKind.REVDEP_TEST)
    for version in ("2.2.0", "2.6.1", "3.0~alpha", "10.0", ""):
        argv = phases.solve(test, reinstall=False, opam=version).argv
        assert argv[-1] == '--formula="cppo" {= "1.8.0"}'
    step = phases.solve(test, reinstall=False, opam="2.1.2")
    assert step.argv[-5:] == ("opam", "install", "--show-actions", "--with-test", "user.3")
    assert step.title == (
        'opam install --show-actions --with-test user.3 (with "cppo" {= "1.8.0"} in the switch\'s '
        "invariant)"
    )
    file = tmp_path / "switch-config"
    forms = ('invariant: ["ocaml-system"]\nx: []\n', 'a: 1\ninvariant: [\n  "b" | "c"\n]\n')
    for text in forms:
        file.write_text(text)
        script = list(step.argv[:6])
        script[4] = str(file)
        seen = subprocess.run(
            [*script, "sh", "-c", f"cat {file}; exit 20"], check=False, capture_output=True
        )
        assert seen.returncode == 20
        assert b'invariant: [\n"cppo" {= "1.8.0"}\n' in seen.stdout
        assert b"".join(seen.stdout.split(b'\n"cppo" {= "1.8.0"}\n')).split() == (
            text.encode().split()
        )
        assert file.read_text() == text
    file.write_text("x: []\n")
    assert subprocess.run([*script, "true"], check=False).returncode != 0


@pytest.mark.parametrize(
    "before",
    [
        "",
        'archive-mirrors: ["file:///mirrors/0"]\n',
        # As opam writes a list of one.
        'archive-mirrors: "file:///mirrors/0"\n',
        'archive-mirrors: [\n  "file:///mirrors/0"\n  "https://old.example"\n]\n',
        "archive-mirrors: []\n",
    ],
)
def test_archive_mirrors_are_set_in_opams_configuration(tmp_path: Path, before: str) -> None:
    file, rest = tmp_path / "config", 'jobs: 2\nrepositories: [\n  "default"\n]\n'
    for wanted in (Mirrors(), Mirrors(urls=("https://a.example/x?y&z", "file:///mirrors/0"))):
        argv = list(phases.set_mirrors(wanted).argv)
        argv[argv.index("/home/opam/.opam/config")] = str(file)
        for text in (before + rest, rest + before):
            file.write_text(text)
            subprocess.run(argv, check=True)
            line = f"{wanted.setting}\n" if wanted.urls else ""
            assert file.read_text() == rest + line


def test_a_personality_comes_before_every_command() -> None:
    for step in (phases.fetch(spec())[0], phases.is_known(spec())):
        assert steps.confined(step, Mirrors()).argv == step.argv
        started = steps.confined(step, Mirrors(), (), "linux32")
        assert started.argv == ("linux32", *step.argv)


def test_only_the_solver_chooses_the_oldest_versions() -> None:
    lowest = dict(phases.solve(spec(JobKind.LOWER_BOUNDS), reinstall=False).environment)
    oldest = "+removed,+count[version-lag,solution]"
    assert lowest["OPAMCRITERIA"] == f"{oldest},-count[avoid-version,solution]"
    # Before opam 2.3 it is known as a whole or not at all.
    for changes in ({"opam": "2.1"}, {"opam": "2.2"}, {"distribution": "debian-12"}):
        bounds = spec(JobKind.LOWER_BOUNDS)
        early = bounds.model_copy(update={"platform": EMBEDDED.model_copy(update=changes)})
        assert dict(phases.solve(early, reinstall=False).environment)["OPAMCRITERIA"] == oldest
    assert phases.solve(spec(), reinstall=False).environment == ()


@pytest.mark.parametrize(
    ("package", "replaces"),
    [("ocaml-base-compiler.5.4.0", True), ("ocaml.5.3.0", False), ("cppo.1.8.0", False)],
)
def test_a_compiler_may_replace_that_of_the_switch(package: str, *, replaces: bool) -> None:
    job = Job(platform=EMBEDDED.name, package=package, kind=JobKind.BUILD)
    compiler = spec().model_copy(update={"job": job})
    everywhere = (
        phases.solve(compiler, reinstall=False),
        *phases.fetch(compiler),
        *phases.install(Phase.DEPENDENCIES, compiler, reinstall=False),
        *phases.install(Phase.BUILD, compiler, reinstall=False),
    )
    assert {"--update-invariant" in step.argv for step in everywhere} == {replaces}


def test_an_image_is_made_anew_for_another_archive() -> None:
    one = recipe_digest(TRIXIE, ("deb http://a trixie main",))
    assert one == recipe_digest(TRIXIE, ("deb http://a trixie main",))
    assert one != recipe_digest(TRIXIE, ("deb http://b trixie main",))
    i386 = TRIXIE.model_copy(update={"architecture": "i386"})
    assert one != recipe_digest(i386, ("deb http://a trixie main",))


def test_installed_debian_packages_are_read() -> None:
    status = (
        "Package: opam\nStatus: install ok installed\nVersion: 2.3.0-1\nDescription: x\n y\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
    )
    assert installed_packages(status) == {"opam": "2.3.0-1"}


async def test_a_command_ends_with_its_exit_code_and_output() -> None:
    kept = bytearray()
    ended = await run_process(
        [sys.executable, "-c", "import sys; print('out', flush=True); sys.exit('err')"],
        output=kept.extend,
    )
    assert (ended.exit_code, ended.signal, ended.ok) == (1, None, False)
    assert kept == b"out\nerr\n"


async def test_a_command_is_killed_at_its_time_limit() -> None:
    begin = time.monotonic()
    ended = await run_process(["sleep", "60"], output=lambda _: None, time_limit=0.2)
    assert time.monotonic() - begin < 5
    assert (ended.timed_out, ended.signal, ended.exit_code) == (True, 9, None)


async def test_a_cancelled_command_is_dead_before_the_caller_goes_on() -> None:
    kept, printed = bytearray(), asyncio.Event()

    def output(data: bytes) -> None:
        kept.extend(data)
        printed.set()

    task = asyncio.create_task(run_process(["sh", "-c", "echo $$; exec sleep 60"], output=output))
    await printed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(kept), 0)


async def test_a_command_has_nothing_of_the_workers_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    kept = bytearray()
    await run_process(["env"], output=kept.extend)
    assert b"GITHUB_TOKEN" not in kept


async def test_processes_that_do_not_end_are_a_fault_that_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_DEATH_TIMEOUT", 0.2)
    # As a sandbox whose first process hangs in the kernel.
    script = (
        'sleep 600 > /dev/null 2>&1 & echo $! > "$2"; echo "{\\"child-pid\\": $!}" > "/dev/fd/$1"'
    )
    pid = tmp_path / "pid"
    try:
        with pytest.raises(InfrastructureError, match="do not end within") as caught:
            await run_process(
                lambda inherited: ["sh", "-c", script, "sh", str(inherited.status), str(pid)],
                output=lambda _: None,
            )
        assert caught.value.cause is Cause.SANDBOX
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)
