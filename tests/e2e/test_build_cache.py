"""The cache of compiled dependencies with real opam: the same verdicts, built less often."""

import asyncio
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opam_ci.clients.runners.cache.dependencies import cache_store
from opam_ci.clients.runners.cache.failures import failure_store
from opam_ci.clients.runners.cache.store import CacheManifest
from opam_ci.clients.runners.sandbox.locks import HALF_MADE
from opam_ci.clients.runners.settings import BUILD_CACHE_BYTES
from opam_ci.core.classify import judge
from opam_ci.core.jobs.build import BuildReport
from opam_ci.core.jobs.job import JobKind, Phase
from opam_ci.core.jobs.known_failure import FailedAlone
from opam_ci.core.jobs.outcome import Evidence, Failed, FailureReason, LogLine, label
from tests.support.samples.known_failures import seen
from tests.support.worlds.rootfs import FAST, Log, World, last, overwrite, phase_names

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

Packages = Mapping[str, str]

# Each build leaves words that no other build leaves, so that it shows which one is served.
_STAMP = "cat /proc/sys/kernel/random/uuid > stamp"
_PLACE = "%{lib}%/stublibs"


def stamped(name: str, *needs: str, install: str = "", build: str = _STAMP) -> str:
    """A package that installs what it was stamped with when it was built."""
    words = f"mkdir -p {_PLACE} && cp stamp {_PLACE}/{name} {install}"
    return f'{depends(*needs)}build: ["sh" "-c" "{build}"]\ninstall: ["sh" "-c" "{words}"]\n'


def shows(*needs: str, also: str = "true") -> str:
    """A package whose build prints the stamps of others."""
    cat = " && ".join([*(f"cat {_PLACE}/{need}" for need in needs), also])
    return f'{depends(*needs)}build: ["sh" "-c" "{cat}"]\n'


def depends(*needs: str) -> str:
    return f"depends: [{' '.join(f'{chr(34)}{need}{chr(34)}' for need in ('ocaml', *needs))}]\n"


DIAMOND: Packages = {
    "low.1": stamped("low"),
    "left.1": stamped("left", "low"),
    "right.1": stamped("right", "low"),
    "top.1": shows("low", "left", "right") + 'run-test: ["true"]\n',
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("cache"))


def verdict(report: BuildReport) -> str:
    return label(judge(report.facts, report.logs, worker="w", attempt=1))


def installed(report: BuildReport) -> str:
    return report.logs[Phase.VERIFY].strip()


def stamps(report: BuildReport) -> list[str]:
    return re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", report.logs[Phase.BUILD])


async def build(
    world: World, packages: Packages, job: str, *, kind: JobKind = JobKind.BUILD, cache: bool = True
) -> BuildReport:
    log = Log()
    spec = world.spec(packages, job, kind=kind).model_copy(update={"build_cache": cache})
    return await world.runner.run(spec, log, lambda _: None)


def entries(world: World) -> dict[str, Path]:
    return {
        CacheManifest.model_validate_json(path.read_bytes()).package: path.parent
        for path in (world.home / "cache").glob("*/manifest.json")
    }


async def test_off_cold_and_warm_are_the_same_but_for_who_built(world: World) -> None:
    off = await build(world, DIAMOND, "top.1", cache=False)
    assert entries(world) == {}
    cold = await build(world, DIAMOND, "top.1")
    assert entries(world).keys() == {"ocaml.5.3.0", "low.1", "left.1", "right.1", "top.1"}
    warm = await build(world, DIAMOND, "top.1", kind=JobKind.TEST)
    assert [verdict(one) for one in (off, cold, warm)] == ["passed"] * 3
    assert phase_names(off) == phase_names(cold)
    assert installed(off) == installed(cold) == installed(warm)
    assert len(set(stamps(cold))) == 3
    assert set(stamps(cold)) == set(stamps(warm))
    assert not set(stamps(cold)) & set(stamps(off))
    assert "built for the cache: low.1" in cold.logs[Phase.DEPENDENCIES]
    assert "Nothing to do" in warm.logs[Phase.DEPENDENCIES]


async def test_what_a_dependency_is_made_of_decides_whether_it_is_served(world: World) -> None:
    packages = {
        "deep.1": stamped("deep"),
        "mid.1": stamped("mid", "deep"),
        "beside.1": stamped("beside"),
        "sees.1": shows("deep", "mid", "beside"),
    }
    first = stamps(await build(world, packages, "sees.1"))
    changed = packages | {"deep.1": packages["deep.1"] + 'post-messages: "changed"\n'}
    second = stamps(await build(world, changed, "sees.1"))
    assert [a == b for a, b in zip(first, second, strict=True)] == [False, False, True]
    assert stamps(await build(world, packages, "sees.1")) == first


@pytest.mark.parametrize("bad", ["dependency", "package"])
async def test_a_failure_is_the_same_failure_and_is_never_kept(world: World, bad: str) -> None:
    packages = {
        f"{bad}-good.1": stamped("good"),
        f"{bad}-bad.1": stamped("bad", f"{bad}-good", build="echo broken; exit 7"),
        f"{bad}-above.1": depends(f"{bad}-bad"),
    }
    job = f"{bad}-above.1" if bad == "dependency" else f"{bad}-bad.1"
    off = await build(world, packages, job, cache=False)
    cold = await build(world, packages, job)
    warm = await build(world, packages, job)
    expected = "failed(dependency)" if bad == "dependency" else "failed(build)"
    assert [verdict(one) for one in (off, cold, warm)] == [expected] * 3
    for one in (cold, warm):
        failed = [action for action in last(one).actions if action.result == "failed"]
        assert failed == [action for action in last(off).actions if action.result == "failed"]
    assert f"{bad}-good.1" in entries(world)
    assert f"{bad}-bad.1" not in entries(world)


async def fail(world: World, packages: Packages, job: str) -> BuildReport:
    """Builds a package whose dependency fails, and remembers that as a worker does."""
    report = await build(world, packages, job)
    outcome = judge(report.facts, report.logs, worker="w", attempt=1)
    assert label(outcome) == "failed(dependency)"
    attempt = seen(job, at=datetime.now(UTC))
    await failure_store(world.home).learn(report.failed_alone, outcome, attempt)
    return report


async def test_what_is_known_to_fail_is_built_where_it_may_pass(world: World) -> None:
    # It uses another package, and its opam file does not name that.
    uses = f"ls {_PLACE}/secret && {_STAMP}"
    packages = {
        "secret.1": stamped("secret"),
        "uses.1": stamped("uses", build=uses),
        "other-dep.1": stamped("other-dep"),
        **{f"needs{number}.1": depends("uses") for number in range(3)},
        "beside.1": depends("uses", "other-dep"),
        "passes.1": depends("uses", "secret"),
    }
    for job in ("needs0.1", "needs1.1"):
        report = await fail(world, packages, job)
        assert [each.package for each in report.failed_alone] == ["uses.1"]
    known = await build(world, packages, "needs2.1")
    assert verdict(known) == "failed(dependency)"
    assert Phase.DEPENDENCIES not in phase_names(known)
    spec = world.spec(packages, "needs2.1").model_copy(update={"builds_known_failures": True})
    again = await world.runner.run(spec, Log(), lambda _: None)
    assert last(again).phase is Phase.DEPENDENCIES
    # What it lacks may be any package that was not there.
    assert verdict(await build(world, packages, "passes.1")) == "passed"
    await fail(world, packages, "beside.1")
    assert Phase.DEPENDENCIES not in phase_names(await build(world, packages, "beside.1"))
    assert verdict(await build(world, packages, "passes.1")) == "passed"


async def test_a_success_ends_that_a_dependency_is_known_to_fail(world: World) -> None:
    packages = {"luck.1": stamped("luck"), "lucky.1": depends("luck")}
    await build(world, packages, "lucky.1")
    manifest = entries(world)["luck.1"] / "manifest.json"
    key = CacheManifest.model_validate_json(manifest.read_bytes()).key
    evidence = Evidence(rule="dependency-failed", lines=(LogLine(offset=0, text="Error: no"),))
    outcome = Failed(reason=FailureReason.DEPENDENCY, evidence=evidence, blame="luck.1")
    alone = FailedAlone(package="luck.1", key=key, beside=(), output="Error: no")
    store = failure_store(world.home)
    for job in ("a.1", "b.1"):
        await store.learn([alone], outcome, seen(job, at=datetime.now(UTC)))
    # What is in the cache does not fail.
    assert verdict(await build(world, packages, "lucky.1")) == "passed"
    await cache_store(world.home, BUILD_CACHE_BYTES).prune(-1)
    assert verdict(await build(world, packages, "lucky.1")) == "failed(dependency)"
    # The package under test is always built, and so is known to pass.
    assert verdict(await build(world, packages, "luck.1")) == "passed"
    assert store.find(key) is None
    for job in ("a.1", "b.1"):
        await store.learn([alone], outcome, seen(job, at=datetime.now(UTC)))
    await cache_store(world.home, BUILD_CACHE_BYTES).prune(-1)
    spec = world.spec(packages, "lucky.1").model_copy(update={"builds_known_failures": True})
    assert verdict(await world.runner.run(spec, Log(), lambda _: None)) == "passed"
    assert store.find(key) is None


async def test_jobs_at_once_build_a_dependency_once(world: World) -> None:
    packages = {
        "slow.1": stamped("slow", build=f"sleep 2; {_STAMP}"),
        **{f"user{number}.1": shows("slow") for number in range(3)},
    }
    reports = await asyncio.gather(
        *(build(world, packages, f"user{number}.1") for number in range(3))
    )
    assert [verdict(one) for one in reports] == ["passed"] * 3
    assert len({stamps(one)[0] for one in reports}) == 1
    assert any("waiting for another job" in one.logs[Phase.DEPENDENCIES] for one in reports)


async def test_no_package_writes_into_what_another_job_is_served(world: World) -> None:
    overwrite = f"&& echo evil > {_PLACE}/victim"
    # The kept build of the package under test is served to those that need it, and only them.
    packages = {
        "victim.1": stamped("victim"),
        # One is under test, the other itself a dependency that is kept.
        "evil.1": stamped("evil", "victim", install=overwrite),
        "above-evil.1": shows("victim", "evil"),
        "honest.1": shows("victim"),
    }
    before = stamps(await build(world, packages, "honest.1"))
    assert verdict(await build(world, packages, "evil.1")) == "passed"
    for _ in range(2):
        # As without a cache: who needs the evil one gets what it did.
        above = await build(world, packages, "above-evil.1")
        assert "evil" in re.findall(r"^-? ?(\w+)$", above.logs[Phase.BUILD], re.MULTILINE)
        assert stamps(await build(world, packages, "honest.1")) == before


async def test_packages_that_write_the_same_file_are_not_both_served(world: World) -> None:
    packages = {
        "one.1": stamped("same"),
        "two.1": stamped("same", "other-one"),
        "other-one.1": stamped("other-one"),
        "both.1": depends("one", "two"),
    }
    off = await build(world, packages, "both.1", cache=False)
    for _ in range(2):
        report = await build(world, packages, "both.1")
        assert "left to opam" in report.logs[Phase.DEPENDENCIES]
        assert (verdict(report), installed(report)) == (verdict(off), installed(off))


async def test_a_damaged_entry_is_not_served_but_replaced(world: World) -> None:
    packages = {"frail.1": stamped("frail"), "leans.1": shows("frail")}
    first = stamps(await build(world, packages, "leans.1"))
    directory = entries(world)["frail.1"]
    (stamp,) = directory.glob("upper/**/stublibs/frail")
    overwrite(stamp, "cut off")
    second = stamps(await build(world, packages, "leans.1"))
    assert second
    assert second != first
    assert stamps(await build(world, packages, "leans.1")) == second


async def test_what_killed_workers_left_is_swept_and_the_rest_served(world: World) -> None:
    packages = {"kept.1": stamped("kept"), "wants.1": shows("kept")}
    first = stamps(await build(world, packages, "wants.1"))
    home = world.home / "cache"
    half_made, headless = home / f"{HALF_MADE}x", home / "0123"
    for directory in (half_made, headless):
        directory.mkdir()
        (directory / "lock").touch()
    await world.runner.sweep()
    assert not half_made.exists()
    assert not headless.exists()
    assert stamps(await build(world, packages, "wants.1")) == first


async def test_the_cache_is_bounded_and_what_is_in_use_stays(world: World) -> None:
    packages = {"held.1": stamped("held"), "free.1": stamped("free"), "last.1": shows("held")}
    await build(world, packages, "last.1")
    await build(world, packages | {"last.1": shows("free")}, "last.1")
    key = CacheManifest.model_validate_json(
        (entries(world)["held.1"] / "manifest.json").read_bytes()
    ).key
    store = cache_store(world.home, BUILD_CACHE_BYTES)
    entry = store.find(key)
    assert entry is not None
    await store.prune(0)
    assert entries(world).keys() == {"held.1"}
    entry.close()
    await store.prune(0)
    assert entries(world) == {}
    assert store.use().bytes == 0
    assert [one.name for one in (world.home / "cache").iterdir()] == ["making"]


async def test_a_dependency_without_end_is_over_its_time_and_leaves_nothing(world: World) -> None:
    packages = {"endless.1": stamped("endless", build="sleep 600"), "waits.1": shows("endless")}
    limits = FAST.model_copy(update={"dependencies": timedelta(seconds=15)})
    spec = world.spec(packages, "waits.1", timeouts=limits)
    report = await world.runner.run(spec, Log(), lambda _: None)
    assert (last(report).phase, last(report).timed_out) == (Phase.DEPENDENCIES, True)
    assert "endless.1" not in entries(world)
    assert not list((world.home / "cache").glob(f"{HALF_MADE}*"))


async def test_many_layers_fit_into_one_overlay(world: World) -> None:
    # mount(8) by itself takes no more than 255 bytes, which is six of them.
    names = [f"many{number:02}" for number in range(10)]
    packages = {f"{name}.1": stamped(name) for name in names} | {"all.1": shows(*names)}
    cold = await build(world, packages, "all.1")
    warm = await build(world, packages, "all.1")
    assert (verdict(cold), verdict(warm)) == ("passed", "passed")
    assert len(set(stamps(cold))) == len(names)
    assert stamps(cold) == stamps(warm)
