"""Sources that jobs of a machine share, with real opam: each is fetched once, and none hides a
source that is gone."""

import asyncio
import shutil
from pathlib import Path

import pytest

from opam_ci.core.classify import judge
from opam_ci.core.jobs.build import BuildReport, SourceCounts
from opam_ci.core.jobs.job import JobKind, Phase
from opam_ci.core.jobs.outcome import label
from tests.support.worlds.rootfs import Log, Server, World, archive

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

FILES = {f"/{name}.tgz": archive({name: "x"}) for name in ("dep", "one", "two")}


def needs(name: str) -> str:
    return f'depends: ["{name}"]\n'


async def build(
    world: World,
    packages: dict[str, str],
    job: str,
    kind: JobKind = JobKind.BUILD,
    *,
    cache: bool = False,
) -> BuildReport:
    spec = world.spec(packages, job, kind=kind)
    # A compiled dependency would need no sources.
    spec = spec.model_copy(update={"build_cache": cache})
    return await world.runner.run(spec, Log(), lambda _: None)


def verdict(report: BuildReport) -> str:
    return label(judge(report.facts, report.logs, worker="w", attempt=1))


async def test_jobs_of_a_machine_fetch_once_what_they_share_and_each_author_is_asked(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    host = Server(FILES)
    packages = {
        "dep.1": host.source("/dep.tgz"),
        "one.1": needs("dep") + host.source("/one.tgz"),
        "two.1": needs("dep") + host.source("/two.tgz"),
        "above.1": needs("one"),
    }
    with host.running():
        reports = await asyncio.gather(
            *(build(world, packages, f"{name}.1") for name in ("one", "two"))
        )
        assert [verdict(report) for report in reports] == ["passed"] * 2
        assert sorted(host.asked) == ["/dep.tgz", "/one.tgz", "/two.tgz"]
        counts = sorted((report.sources or SourceCounts()).taken for report in reports)
        assert counts == [0, 1]
        # The next job of the package asks its author's host again, for that alone.
        host.asked.clear()
        assert verdict(await build(world, packages, "one.1", JobKind.TEST)) == "passed"
        assert host.asked == ["/one.tgz"]
        # What is gone is gone, whatever this machine has.
        del host.files["/one.tgz"]
        gone = await build(world, packages, "one.1")
        assert verdict(gone) == "failed(source)"
        assert gone.sources == SourceCounts(taken=1)
        moved = {**packages, "one.2": packages["one.1"].replace("/one.tgz", "/moved.tgz")}
        assert verdict(await build(world, moved, "one.2")) == "failed(source)"
    # Now the host is away. opam unpacks nothing before it builds, nor where it builds one alone.
    for cache in (False, True):
        above = await build(world, packages, "above.1", cache=cache)
        assert verdict(above) == "passed"
        assert above.sources == SourceCounts(taken=2)
        assert "nothing to fetch" in above.logs[Phase.FETCH]
        assert "retrieved" not in above.logs[Phase.FETCH]
        assert ("built for the cache: one.1" in above.logs[Phase.DEPENDENCIES]) is cache
    assert verdict(await build(world, packages, "one.1")) == "errored(source_host)"
    assert not world.job_roots()
