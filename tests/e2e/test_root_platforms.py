"""Every platform with a root file system: four suites, four opams, three OCamls, two architectures.

In a usual run one root beside that of all other tests is made, and the others are tried where
they exist. `OPAM_CI_TEST_ROOTS=all ./opam-ci test tests/e2e/test_root_platforms.py` makes all.
"""

import asyncio
import hashlib
import os
import platform as machine
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from opam_ci.clients.runners.images import apt_sources
from opam_ci.clients.runners.images.image import Image, ImageStore
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.settings import default_home
from opam_ci.core.classify import judge
from opam_ci.core.jobs.build import BuildReport
from opam_ci.core.jobs.job import JobKind, Phase
from opam_ci.core.jobs.outcome import label
from opam_ci.core.platforms.debian import debian_root
from opam_ci.core.platforms.model import EMBEDDED, Platform, architectures
from tests.e2e.conftest import System, result
from tests.support.fakes import opam_repository
from tests.support.worlds.rootfs import (
    PLATFORMS,
    ROOTS,
    Server,
    World,
    archive,
    compiler,
    last,
    run,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

MADE = ("debian-12-ocaml-4.13/amd64", EMBEDDED.name)
"""The oldest opam: each root takes some 100 s."""

UNAME = {"amd64": "x86_64", "i386": "i686"}

SOURCE = archive(
    {"good.ml": 'let () = print_endline "built and run"\n', "bad.ml": "let x : int = true\n"}
)
_FAILS = 'build: ["sh" "-c" "exit 7"]\n'


def lack(platform: Platform) -> str | None:
    """Returns why a platform is not tried here."""
    debian = debian_root(platform)
    assert debian is not None
    if platform.arch not in architectures(machine.machine()):
        return f"this machine does not run {platform.arch}"
    images = ImageStore(default_home() / "images", sandbox.rights())
    is_wanted = platform.name in MADE or os.environ.get(ROOTS) == "all"
    if is_wanted or images.find(debian, apt_sources.read_host()) is not None:
        return None
    return f"there is no root file system of {platform.name} here; {ROOTS}=all makes it"


def world_of(platform: Platform, directory: Path) -> World:
    """Returns a world whose repository has the OCaml of a platform's root, made if need be."""
    world = World(directory, platform=platform)
    image = asyncio.run(world.runner.prepare(print))
    assert isinstance(image, Image)
    world.base = compiler(image.manifest.packages["ocaml"].split("-")[0])
    return world


@pytest.fixture(
    scope="module",
    # The tests of the runner build on that one.
    params=[platform for platform in PLATFORMS if platform.name != EMBEDDED.name],
    ids=lambda platform: platform.name,
)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    if (why := lack(request.param)) is not None:
        pytest.skip(why)
    return world_of(request.param, tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def sources() -> Iterator[Server]:
    with Server({"/source.tar.gz": SOURCE}).running() as running:
        yield running


def packages(sources: Server) -> dict[str, str]:
    def compiles(name: str) -> str:
        return (
            f'depends: ["ocaml"]\nbuild: ["ocamlc" "-o" "program" "{name}.ml"]\n'
            f'install: ["cp" "program" bin]\nrun-test: ["./program"]\n'
            + sources.source("/source.tar.gz")
        )

    return {
        "good.1": compiles("good"),
        "bad.1": compiles("bad"),
        "arch.1": 'build: ["sh" "-c" "echo is $(uname -m) %{arch}%"]\n',
        "lib.1": 'depends: ["ocaml"]\n',
        # What the tests of lib.2 need is nowhere, and no matter of its reverse dependencies.
        "lib.2": 'depends: ["ocaml" "nowhere" {with-test}]\n',
        "lib.3": "",
        "user.1": 'depends: ["lib" {>= "1"} "plain"]\nrun-test: ["true"]\n',
        "plain.1": "",
        # Fails unless lib is there when it is built.
        "optional.1": 'depopts: ["lib"]\nbuild: ["test" "%{lib:version}%" = "2"]\n',
        "old.1": 'depends: ["lib" {= "1"}]\n',
        "broken.1": 'depends: ["lib"]\n' + _FAILS,
        "above.1": 'depends: ["lib" "failing"]\n',
        "failing.1": _FAILS,
        "lost.1": 'depends: ["this-package-does-not-exist"]\n',
        "gone.1": f'url {{ src: "{sources.url}/gone.tar.gz" checksum: "sha256={"0" * 64}" }}\n',
    }


def verdict(report: BuildReport) -> str:
    outcome = judge(report.facts, report.logs)
    blame = outcome.blame if outcome.kind == "failed" else None
    return label(outcome) + (f" of {blame}" if blame else "")


@pytest.mark.parametrize(
    ("kind", "names", "came_to"),
    [
        (JobKind.TEST, "good.1", "passed"),
        (JobKind.BUILD, "bad.1", "failed(build)"),
        (JobKind.BUILD, "lost.1", "skipped(no_solution)"),
        (JobKind.LOWER_BOUNDS, "user.1", "passed"),
        (JobKind.REVDEP_TEST, "lib.2 user.1", "passed"),
        (JobKind.REVDEP, "lib.2 optional.1", "passed"),
        (JobKind.REVDEP, "lib.2 old.1", "skipped(no_solution)"),
        (JobKind.REVDEP, "lib.2 broken.1", "failed(build)"),
        (JobKind.REVDEP, "lib.2 above.1", "failed(dependency) of failing.1"),
    ],
)
async def test_jobs_end_alike_on_every_platform(
    world: World, sources: Server, kind: JobKind, names: str, came_to: str
) -> None:
    package, _, name = names.partition(" ")
    revdep = name or None
    report, log = await world.build(packages(sources), package, kind=kind, revdep=revdep)
    assert verdict(report) == came_to, log.text
    if came_to == "passed" and revdep is not None:
        assert f"{package}, {revdep} is installed" in report.logs[Phase.VERIFY]
        if revdep == "user.1":
            # Each was built with what it needs alone, whatever the solver was told.
            assert re.search(r"(from|built for) the cache: .*plain\.1", log.text), log.text
            assert "left to opam" not in log.text
    if kind is JobKind.LOWER_BOUNDS:
        assert "lib.1," in report.logs[Phase.VERIFY]


async def test_a_missing_source_is_looked_for_with_time_limits(
    world: World, sources: Server
) -> None:
    sources.agents.clear()
    report, log = await world.build(packages(sources), "gone.1")
    assert (last(report).phase, last(report).exit_code) == (Phase.FETCH, 40), log.text
    assert sources.agents == {"opam-ci"}


async def test_sources_come_from_a_mirror(world: World, sources: Server, tmp_path: Path) -> None:
    digest = hashlib.sha256(SOURCE).hexdigest()
    place = tmp_path / "mirror/sha256" / digest[:2] / digest
    place.parent.mkdir(parents=True)
    place.write_bytes(SOURCE)
    moved = packages(sources)["good.1"].replace("/source.tar.gz", "/moved.tar.gz")
    mirror = f"file://{tmp_path}/mirror"
    report, log = await world.build({"moved.1": moved}, "moved.1", mirrors=(mirror,))
    assert report.facts.installed is True, log.text


async def test_reverse_dependencies_are_listed(world: World, sources: Server) -> None:
    report, log = await world.build(packages(sources), "lib.2", kind=JobKind.LIST_REVDEPS)
    assert report.listing is not None, log.text
    found = {revdep.package for revdep in report.listing.revdeps}
    assert found == {"user.1", "optional.1", "broken.1", "above.1"}, log.text
    assert "falling back to" not in log.text


async def test_a_build_sees_its_architecture(world: World, sources: Server) -> None:
    uname = UNAME[world.platform.arch]
    report, log = await world.build(packages(sources), "arch.1")
    arch = {"i686": "x86_32"}.get(uname, uname)
    assert f"is {uname} {arch}" in log.text
    assert report.facts.installed is True
    async with world.executor() as executor:
        for as_root in (False, True):
            ended, output = await run(
                executor, "uname -m; dpkg --print-architecture", as_root=as_root
            )
            assert ended.ok, output
            assert output.split() == [uname, world.platform.arch]


def test_one_machine_checks_all_of_them_side_by_side(system: System, tmp_path: Path) -> None:
    chosen = [platform for platform in PLATFORMS if lack(platform) is None]
    assert len(chosen) >= 2, [lack(platform) for platform in PLATFORMS]
    (tmp_path / "platforms.toml").write_text(
        '[pools.linux-amd64]\narch = ["amd64", "i386"]\nrunner = "rootfs"\n'
        + "".join(
            f'[[platforms]]\ndistribution = "{one.distribution}"\nocaml = "{one.ocaml}"\n'
            f'arch = "{one.arch}"\nrevdeps = true\n'
            for one in chosen
        )
    )
    base: dict[str, str | None] = {**opam_repository.package("user.1", 'depends: ["lib"]\n')}
    for version in ("4.13.1", "5.3.0", "5.4.0", "5.4.1", "5.4.2"):
        for name, body in compiler(version).items():
            base |= opam_repository.package(name, body)
    change = {
        **opam_repository.package("lib.1", 'depends: ["ocaml"]\n'),
        **opam_repository.package("bad.1", 'depends: ["ocaml"]\n' + _FAILS),
        **opam_repository.package("new.1", 'depends: ["ocaml" {>= "5.3"}]\n'),
    }
    repo = opam_repository.write(tmp_path / "repo", base, {"topic": change})
    system.start_worker("--builds", "2")
    check = system.run(
        *("check", "--json", "--repo", str(repo), "--branch", "topic"),
        *("--platforms", str(tmp_path / "platforms.toml"), "--platform", "debian-*"),
        check=1,
    )
    found: dict[str, dict[str, str]] = {platform.name: {} for platform in chosen}
    for row in result(check)["jobs"]:
        if platform := row["job"].get("platform"):
            job = row["job"]
            if job["kind"] not in {"build", "revdep"}:
                continue
            name = f"{job['kind']} {job['package']} {job.get('revdep') or ''}".strip()
            found[platform][name] = row["outcome"]["kind"]
    for platform in chosen:
        is_new = platform.ocaml != "4.13"
        assert found[platform.name] == {
            "build lib.1": "passed",
            "build bad.1": "failed",
            "build new.1": "passed" if is_new else "skipped",
            "revdep lib.1 user.1": "passed",
        }, platform.name
