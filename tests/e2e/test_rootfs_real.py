"""The root-file-system runner on the real repository: packages that people submitted."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from opam_ci.clients.runners.rootfs import RootfsRunner, RootfsSettings, default_home
from opam_ci.core.jobs.build import BuildReport, BuildSpec, RepositoryRef
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.platforms.model import EMBEDDED
from tests.support.worlds.rootfs import PLATFORMS, ROOTS, Artifacts, Log, last, phase_names

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.real,
    pytest.mark.timeout(900),
    # On one worker: they share a repository and its base layer.
    pytest.mark.xdist_group("real-checks"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

MIRROR = "OPAM_CI_TEST_MIRROR"

# The mirror has no source of ocaml-config.2, which OCaml 4 needs.
OCAML_5 = [platform for platform in PLATFORMS if platform.ocaml.startswith("5.")]

Build = Callable[[int, str, JobKind], BuildSpec]


@pytest.fixture(scope="module")
def mirror() -> str:
    path = os.environ.get(MIRROR)
    if not path:
        pytest.skip(f"{MIRROR} names no archive mirror; shared/real/make-mirror makes one")
    return f"file://{path}"


@pytest.fixture(scope="module")
def repository(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("real")
    archive = shared / "real/opam-repository.git.tar.zst"
    subprocess.run(["tar", "--zstd", "-xf", archive, "-C", directory], check=True)
    return next(directory.glob("*.git"))


@pytest.fixture(
    scope="module",
    params=OCAML_5 if os.environ.get(ROOTS) == "all" else [EMBEDDED],
    ids=lambda platform: platform.name,
)
def spec_of(
    request: pytest.FixtureRequest,
    shared: Path,
    repository: Path,
    mirror: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[RootfsRunner, Build]:
    platform = request.param
    directory = tmp_path_factory.mktemp("artifacts")
    artifacts = Artifacts(directory)
    pulls = {
        pull["pr"]: pull
        for pull in map(json.loads, (shared / "real/prs.jsonl").read_text().splitlines())
    }

    def archive(commit: str, paths: list[str]) -> str:
        command = [
            "git",
            "-C",
            str(repository),
            "archive",
            "--format=tar.gz",
            commit,
            "repo",
            *paths,
        ]
        return artifacts.put(subprocess.run(command, check=True, capture_output=True).stdout)

    # One base for all: each would cost a layer of its own.
    base = pulls[30203]["base"]
    of_base = packages_at(repository, base)
    base_archive = archive(base, ["packages"])

    def spec(number: int, package: str, kind: JobKind) -> BuildSpec:
        pull = pulls[number]
        changed = [entry["package"] for entry in pull["packages"]]
        paths = [f"packages/{name.split('.', 1)[0]}/{name}" for name in changed]
        return BuildSpec(
            job=Job(platform=platform.name, package=package, kind=kind),
            platform=platform,
            repository=RepositoryRef(
                base_commit=base,
                base_archive=base_archive,
                overlay_archive=archive(pull["merge"], paths),
                overlay_packages=len(changed),
                package_count=len(of_base | set(changed)),
            ),
            archive_mirrors=(mirror,),
            only_mirrored=True,
        )

    settings = RootfsSettings(home=default_home())
    return RootfsRunner(settings, artifacts), spec


def packages_at(repository: Path, commit: str) -> set[str]:
    command = ["git", "-C", str(repository), "ls-tree", "-r", "--name-only", commit, "packages"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name.split("/")[2] for name in names.splitlines()}


async def build(
    world: tuple[RootfsRunner, Build], number: int, package: str, kind: JobKind
) -> tuple[BuildReport, Log]:
    runner, spec = world
    log = Log()
    return await runner.run(spec(number, package, kind), log, lambda _: None), log


async def test_a_conf_package_gets_its_system_package(spec_of: tuple[RootfsRunner, Build]) -> None:
    report, log = await build(spec_of, 30504, "conf-libusb.1", JobKind.BUILD)
    assert report.facts.installed is True, log.text
    assert Phase.DEPEXTS in phase_names(report)
    assert "Setting up libusb" in report.logs[Phase.DEPEXTS]


async def test_patch_of_pull_request_30203_builds(spec_of: tuple[RootfsRunner, Build]) -> None:
    report, log = await build(spec_of, 30203, "patch.3.1.2", JobKind.BUILD)
    assert report.facts.installed is True, log.text
    # Compiled here, or by an earlier job of this machine.
    assert re.search(r"(from|built for) the cache: .*\bdune\.3\.17\.2", log.text), log.text


async def test_cppo_of_pull_request_30143_passes_its_tests(
    spec_of: tuple[RootfsRunner, Build],
) -> None:
    report, log = await build(spec_of, 30143, "cppo.1.8.0", JobKind.TEST)
    assert report.facts.installed is True, log.text
    assert (last(report).phase, report.facts.phases[-2].phase) == (Phase.VERIFY, Phase.TEST)


def test_revdeps_are_opams_in_under_a_third_of_its_time(repository: Path, mirror: str) -> None:
    bench = Path(__file__).parents[2] / "bench" / "list_revdeps.py"
    command = [sys.executable, str(bench), "--repository", str(repository)]
    command += ["--mirror", mirror.removeprefix("file://"), "re.1.10.4"]
    environment = {**os.environ, "PYTHONPATH": str(bench.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "re.1.10.4" in done.stdout
