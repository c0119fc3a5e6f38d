"""Every kind of job with real opam, and the verdict that comes of it."""

import shutil

import pytest

from opam_ci.core.classify import judge
from opam_ci.core.jobs.build import BuildReport
from opam_ci.core.jobs.job import JobKind, Phase
from opam_ci.core.jobs.outcome import label
from tests.support.worlds.rootfs import Log, World, last

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

_FAILS = 'build: ["sh" "-c" "exit 7"]\n'

PACKAGES = {
    "lib.1": 'depends: ["ocaml"]\n',
    # What the tests of lib.2 need is nowhere, and no matter of its reverse dependencies.
    "lib.2": 'depends: ["ocaml" "nowhere" {with-test}]\n',
    "lib.3": "",
    "user.1": 'depends: ["lib" {>= "1"}]\nrun-test: ["true"]\n',
    # Fails unless lib is there when it is built.
    "optional.1": 'depopts: ["lib"]\nbuild: ["test" "%{lib:version}%" = "2"]\n',
    "old.1": 'depends: ["lib" {= "1"}]\n',
    "broken.1": 'depends: ["lib"]\n' + _FAILS,
    "untested.1": 'depends: ["lib"]\nrun-test: ["false"]\n',
    "above.1": 'depends: ["lib" "bad"]\n',
    "bad.1": _FAILS,
    "lib-bad.1": _FAILS,
    "user-of-bad.1": 'depends: ["lib-bad"]\n',
    "accepted.1": 'x-ci-accept-failures: ["debian-13"]\n' + _FAILS,
    "ocaml-base-compiler.5.3.0": 'flags: compiler\nconflicts: ["ocaml-system"]\n',
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("kinds"))


def verdict(report: BuildReport) -> str:
    outcome = judge(report.facts, report.logs)
    blame = outcome.blame if outcome.kind == "failed" else None
    return label(outcome) + (f" of {blame}" if blame else "")


def commands_of(log: Log) -> list[str]:
    """The script that the head of a log has run in a root."""
    head = log.text.split("==== opam-ci", 1)[0]
    assert len(head.splitlines()) <= 40
    script = head.split("cat > job.sh <<'END'\n", 1)[1].split("END\n", 1)[0]
    return script.splitlines()


@pytest.mark.parametrize(
    ("package", "revdep", "kind", "came_to"),
    [
        ("lib.2", "user.1", JobKind.REVDEP, "passed"),
        ("lib.2", "user.1", JobKind.REVDEP_TEST, "passed"),
        ("lib.2", "optional.1", JobKind.REVDEP, "passed"),
        ("lib.2", "old.1", JobKind.REVDEP, "skipped(no_solution)"),
        ("lib.2", "broken.1", JobKind.REVDEP, "failed(build)"),
        ("lib.2", "untested.1", JobKind.REVDEP_TEST, "failed(test)"),
        ("lib.2", "above.1", JobKind.REVDEP, "failed(dependency) of bad.1"),
        ("lib-bad.1", "user-of-bad.1", JobKind.REVDEP, "failed(dependency) of lib-bad.1"),
    ],
)
async def test_a_revdep_is_built_against_exactly_the_package(
    world: World, package: str, revdep: str, kind: JobKind, came_to: str
) -> None:
    report, log = await world.build(PACKAGES, package, kind=kind, revdep=revdep)
    assert verdict(report) == came_to, log.text
    if came_to == "passed":
        assert f"{package}, {revdep} is installed" in report.logs[Phase.VERIFY]


async def test_revdeps_are_listed_as_opam_repo_ci_lists_them(world: World) -> None:
    packages = {
        "lib.1": 'depends: ["ocaml"]\n',
        "direct.1": 'depends: ["lib"]\n',
        "indirect.1": 'depends: ["direct"]\n',
        "optional.1": 'depopts: ["lib"]\n',
        "above-optional.1": 'depends: ["optional"]\n',
        "tests.1": 'depends: ["lib" {with-test}]\n',
        "submitted.1": 'depends: ["lib"]\n',
        "other.1": 'depends: ["lib" {> "1"}]\n',
        "conflicting.1": 'depends: ["lib" "enemy"]\n',
        "enemy.1": 'conflicts: ["lib"]\n',
        "unavailable.1": 'depends: ["lib"]\navailable: os = "win32"\n',
        "untestable.1": 'depends: ["lib" "nowhere" {with-test}]\n',
        "afterwards.1": 'depends: ["lib" "enemy" {post}]\n',
        "afterwards-elsewhere.1": 'depends: ["lib" "enemy" {post & os = "win32"}]\n',
        "indirect-tested.1": 'depends: ["direct"]\nrun-test: ["true"]\n',
        "avoided.1": 'depends: ["lib"]\nflags: avoid-version\n',
        "deprecated.1": 'depends: ["direct"]\nflags: deprecated\n',
    }
    spec = world.spec(packages, "lib.1", kind=JobKind.LIST_REVDEPS)
    spec = spec.model_copy(update={"submitted": ("lib.1", "submitted.1")})
    log = Log()
    report = await world.runner.run(spec, log, lambda _: None)
    assert verdict(report) == "passed", log.text
    assert "falling back to" not in log.text
    assert report.listing is not None
    assert [(revdep.package, revdep.has_tests) for revdep in report.listing.revdeps] == [
        # Direct ones, first those that others need.
        ("direct.1", False),
        ("optional.1", False),
        ("afterwards-elsewhere.1", False),
        ("tests.1", True),
        ("untestable.1", True),
        ("indirect-tested.1", True),
        ("indirect.1", False),
    ]
    assert report.listing.flagged == ("avoided.1", "deprecated.1")
    assert "2 not built: flagged avoid-version or deprecated" in log.text
    # And the head of the log asks the same.
    *before, direct, recursive, testing = commands_of(log)
    said = await world.shell(packages, [*before, f"{direct}; {recursive}; {testing}"])
    found = {revdep.package for revdep in report.listing.revdeps} | set(report.listing.flagged)
    assert set(said.split()) - set(spec.submitted) == found


async def test_a_package_that_opam_does_not_know_has_no_revdeps_to_list(world: World) -> None:
    report, _ = await world.build(PACKAGES, "lib.9", kind=JobKind.LIST_REVDEPS)
    assert report.listing is None
    assert verdict(report) == "errored(repository_state)"


async def test_lower_bounds_are_the_oldest_versions(world: World) -> None:
    report, log = await world.build(PACKAGES, "user.1", kind=JobKind.LOWER_BOUNDS)
    assert verdict(report) == "passed", log.text
    assert "lib.1," in report.logs[Phase.VERIFY]
    report, log = await world.build(PACKAGES, "user.1")
    assert "lib.3," in report.logs[Phase.VERIFY], log.text


@pytest.mark.parametrize("flag", ["avoid-version", "deprecated"])
@pytest.mark.parametrize(
    ("kind", "dependency"), [(JobKind.LOWER_BOUNDS, "lib.2,"), (JobKind.BUILD, "lib.3,")]
)
async def test_versions_to_avoid_are_avoided(
    world: World, kind: JobKind, dependency: str, flag: str
) -> None:
    packages = {
        "lib.1": f"flags: {flag}\n",
        "lib.2": "",
        "lib.3": "",
        "lib.4": f"flags: {flag}\n",
        "user.1": 'depends: ["lib"]\n',
        # Only an avoided version fits: then it is taken.
        "fond.1": 'depends: ["lib" {>= "4"}]\n',
    }
    report, log = await world.build(packages, "user.1", kind=kind)
    assert dependency in report.logs[Phase.VERIFY], log.text
    report, log = await world.build(packages, "fond.1", kind=kind)
    assert "lib.4," in report.logs[Phase.VERIFY], log.text


async def test_a_compiler_takes_the_place_of_the_switchs_own(world: World) -> None:
    report, log = await world.build(PACKAGES, "ocaml-base-compiler.5.3.0")
    assert verdict(report) == "passed", log.text
    assert "ocaml-system" not in report.logs[Phase.VERIFY]


async def test_an_accepted_failure_is_a_skip(world: World) -> None:
    report, _ = await world.build(PACKAGES, "accepted.1")
    assert verdict(report) == "skipped(accepted_failure)"


async def test_a_missing_source_is_accepted_like_any_failure(world: World) -> None:
    accepted = 'x-ci-accept-failures: ["debian-13"]\n'
    gone = f'url {{ src: "file:///nowhere/x.tgz" checksum: "md5={"0" * 32}" }}\n'
    report, log = await world.build({"gone.1": accepted + gone}, "gone.1")
    assert last(report).phase is Phase.FETCH
    assert report.facts.accepts_failure, log.text


@pytest.mark.parametrize(
    ("package", "revdep", "kind"),
    [
        ("user.1", None, JobKind.TEST),
        ("user.1", None, JobKind.LOWER_BOUNDS),
        ("lib.2", "optional.1", JobKind.REVDEP),
        ("lib.2", "user.1", JobKind.REVDEP_TEST),
        ("ocaml-base-compiler.5.3.0", None, JobKind.BUILD),
        ("ocaml.5.3.0", None, JobKind.BUILD),
    ],
)
async def test_the_head_of_a_log_repeats_the_job(
    world: World, package: str, revdep: str | None, kind: JobKind
) -> None:
    report, log = await world.build(PACKAGES, package, kind=kind, revdep=revdep)
    assert verdict(report) == "passed", log.text
    said = await world.shell(PACKAGES, [*commands_of(log), "opam list --short --columns=package"])
    installed = report.logs[Phase.VERIFY].split("installed: ", 1)[1].split("\n", 1)[0]
    assert set(said.split()) == set(installed.split(", ")), said
