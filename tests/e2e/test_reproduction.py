"""The head of a real log, pasted into a shell, comes to the same end as the job."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from opam_ci.clients.runners.images import apt_sources
from opam_ci.clients.runners.images.image import Image
from opam_ci.clients.runners.job import reproduction
from opam_ci.core.classify import judge
from opam_ci.core.jobs.build import Source
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import label
from tests.support.fakes import opam_repository
from tests.support.worlds.container import IMAGE, ContainerWorld, Storage
from tests.support.worlds.rootfs import ROOTS, Log, World

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the root that is used again belongs to others"),
]

PACKAGES = {
    "good.1": 'depends: ["ocaml"]\nbuild: ["sh" "-c" "echo good"]\nrun-test: ["true"]\n',
    "bad.1": 'depends: ["good"]\nbuild: ["sh" "-c" "echo this is wrong; exit 7"]\n',
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A repository on which a branch adds one of the packages."""
    bare = tmp_path_factory.mktemp("clone") / "opam-repository.git"
    base, head = (opam_repository.package(name, PACKAGES[name]) for name in PACKAGES)
    opam_repository.write(bare, base, {"topic": head})
    commits = [opam_repository.git(bare, "rev-parse", name) for name in ("master", "topic")]
    return Source(url=str(bare), base=commits[0], head=commits[1])


async def job(world: World, source: Source, package: str, kind: JobKind) -> tuple[str, str]:
    """Runs a job; returns its outcome and the script at the head of its log."""
    spec = world.spec(PACKAGES, package, kind=kind).model_copy(update={"source": source})
    log = Log()
    report = await world.runner.run(spec, log, lambda _: None)
    head = log.text.split("==== opam-ci", 1)[0]
    script = head[head.index(reproduction.HEAD) :].split("\n\n", 1)[1].split("\n\n", 1)[0]
    return label(judge(report.facts, report.logs)), script


def pasted(script: str, programs: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script in a shell, with some programs in place of the machine's."""
    return subprocess.run(
        ["bash", "-e"],
        input=script,
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(directory)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def program(directory: Path, name: str, script: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("reproduction"))


@pytest.mark.skipif(
    os.environ.get(ROOTS) != "all", reason=f"it makes a root, two minutes: {ROOTS}=all"
)
async def test_a_root_is_made_and_a_failing_job_fails_in_it(
    world: World, source: Source, tmp_path: Path
) -> None:
    outcome, script = await job(world, source, "bad.1", JobKind.BUILD)
    # Only the mirror, and how to reach it, are this machine's.
    archives = apt_sources.read_host()
    options = [f'--aptopt={key} "{value}"' for key, value in archives.options]
    real = shlex.join(["/usr/bin/mmdebstrap", *options])
    program(tmp_path / "bin", "mmdebstrap", f'exec {real} "$@" {shlex.quote(archives.main)}')
    done = pasted(script, tmp_path / "bin", tmp_path)
    assert outcome == "failed(build)"
    assert done.returncode != 0
    assert "this is wrong" in done.stdout + done.stderr, done.stdout + done.stderr


_WITH_THE_SAME_ROOT = """
for word; do
  shift
  case "$word" in
    --variant=apt | --architectures=* | --include=* | *useradd*) ;;
    --customize-hook=* | trixie | /dev/null) set -- "$@" "$word" ;;
    *) echo "unknown: $word"; exit 1 ;;
  esac
done
exec /usr/bin/mmdebstrap --mode=root --variant=custom --skip=setup,update,cleanup \
  "--setup-hook=cp -a ROOT/. \\"\\$1\\"" "$@"
"""


async def test_a_good_job_passes_in_a_root(world: World, source: Source, tmp_path: Path) -> None:
    outcome, script = await job(world, source, "good.1", JobKind.TEST)
    image = await world.runner.prepare(lambda _: None)
    assert isinstance(image, Image)
    # To make a root again takes a minute: this one was made by the same recipe.
    script_of_mmdebstrap = _WITH_THE_SAME_ROOT.replace("ROOT", shlex.quote(str(image.root)))
    program(tmp_path / "bin", "mmdebstrap", script_of_mmdebstrap)
    done = pasted(script, tmp_path / "bin", tmp_path)
    assert outcome == "passed"
    assert done.returncode == 0, done.stdout + done.stderr
    assert "installed good.1" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    # Short: podman puts sockets below it.
    found = Storage(tmp_path_factory.mktemp("podman"))
    try:
        found.import_image()
        yield found
    finally:
        found.remove()


@pytest.mark.parametrize("package", ["good.1", "bad.1"])
async def test_a_dockerfile_comes_to_the_same_end(
    storage: Storage, source: Source, tmp_path: Path, package: str
) -> None:
    passes = package == "good.1"
    world = ContainerWorld(storage.directory / package)
    kind = JobKind.TEST if passes else JobKind.BUILD
    outcome, script = await job(world, source, package, kind)
    assert outcome == ("passed" if passes else "failed(build)")
    assert f"FROM {IMAGE}" in script
    # The limits that podman sets by default may be more than this machine's root may have, and the
    # job needs no network.
    limits = "--ulimit=nofile=1024:1024 --ulimit=nproc=1024:1024 --network=none"
    podman = f'shift; exec podman --runtime=runc build {limits} "$@"'
    program(tmp_path / "bin", "docker", podman)
    done = pasted(script, tmp_path / "bin", tmp_path)
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == passes, said
    assert ("installed good.1" if passes else "this is wrong") in said, said
