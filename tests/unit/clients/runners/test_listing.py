"""Listing reverse dependencies: the questions, and what comes of the answers."""

from opam_ci.clients.runners.listing import revdeps as listing
from opam_ci.clients.runners.listing.revdeps import Query
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.core.jobs.build import BuildSpec, RepositoryRef
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.platforms.model import EMBEDDED

SPEC = BuildSpec(
    job=Job(platform=EMBEDDED.name, package="lib.1", kind=JobKind.LIST_REVDEPS),
    platform=EMBEDDED,
    repository=RepositoryRef(
        base_commit="0" * 40,
        base_archive="base",
        overlay_archive="overlay",
        overlay_packages=1,
        package_count=10,
    ),
    submitted=("lib.1", "new.1"),
)


def test_results_are_merged_without_what_is_tested_anyway() -> None:
    answers = {
        Query.DIRECT: frozenset({"b.1", "new.1"}),
        Query.RECURSIVE: frozenset({"lib.1", "b.1", "c.1"}),
        Query.TESTING: frozenset({"b.1", "a.1"}),
    }
    assert listing.merged(SPEC, answers) == ("a.1", "b.1", "c.1")
    direct = SPEC.platform.model_copy(update={"only_direct_revdeps": True})
    answers.pop(Query.RECURSIVE)
    assert listing.merged(SPEC.model_copy(update={"platform": direct}), answers) == ("a.1", "b.1")


def test_direct_ones_and_those_that_others_need_come_first() -> None:
    answers = {
        Query.DIRECT: frozenset({"needed.1", "needed.1.2", "maybe.1"}),
        Query.RECURSIVE: frozenset({"a.1", "core.1", "needed.1"}),
        Query.TESTING: frozenset({"tested.1"}),
    }
    counts = {"core": 100, "needed": 2}
    order = ("needed.1", "needed.1.2", "maybe.1", "tested.1", "core.1", "a.1")
    assert listing.merged(SPEC, answers, counts) == order


def test_a_revdeps_own_file_decides_about_it() -> None:
    def of(body: str) -> bytes:
        return f'opam-version: "2.0"\n{body}'.encode()

    files = {
        "avoided.1": of('flags: [avoid-version conf]\nrun-test: ["true"]'),
        "conditional.1": of('build: ["dune" "runtest"] {with-test}'),
        "depends.1": of('depends: ["alcotest" {with-test}]'),
        "deprecated.1": of("flags: deprecated"),
        "field.1": of('run-test: ["true"]'),
        "lost.1": None,
        "old.1": of('build-test: ["true"]'),
        "plain.1": of("flags: conf\n# with-test\n"),
        "tagged.1": of('tags: ["flags:avoid-version"]'),
        "unreadable.1": b"opam-version: \xff{",
    }
    found = listing.revdep_list(files.items(), tests=True)
    assert {revdep.package: revdep.has_tests for revdep in found.revdeps} == {
        "conditional.1": True,
        "depends.1": True,
        "field.1": True,
        "lost.1": True,
        "old.1": True,
        "plain.1": False,
        "unreadable.1": True,
    }
    assert found.flagged == ("avoided.1", "deprecated.1", "tagged.1")
    assert found.summary == (
        "7 revdeps, 6 of them with tests; 3 not built: flagged avoid-version or deprecated"
    )
    untested = listing.revdep_list(files.items(), tests=False)
    assert not any(revdep.has_tests for revdep in untested.revdeps)
    assert len(untested.revdeps) == 7


def test_only_packages_are_read() -> None:
    assert listing.packages(b"a.1\n[WARNING] x\n../b.1\nb.2~beta\n") == {"a.1", "b.2~beta"}


async def test_the_expensive_query_needs_reverse_dependencies() -> None:
    commands = []

    async def run(step: Step, output: bytearray) -> ProcessResult:
        commands.append(step.argv)
        if "--recursive" in step.argv:
            output += b"lib.1\n"
        elif "--with-test" in step.argv:
            output += b"a.1\n"
        return ProcessResult()

    _, found = await listing.run(SPEC, run)
    assert found == ("a.1",)
    together = [argv for argv in commands if "--coinstallable-with=lib.1" in argv]
    assert [argv[-2:] for argv in together] == [("--with-test", "--depopts")]
    assert len(commands) == 4


async def test_a_failed_query_leaves_no_result() -> None:
    async def run(step: Step, _output: bytearray) -> ProcessResult:
        return ProcessResult(99 if "--recursive" in step.argv else 0)

    end, found = await listing.run(SPEC, run)
    assert (end.exit_code, found) == (99, None)
