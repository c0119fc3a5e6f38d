"""Stories of what authors may cost: new ones, budgets of a day, restarts of an hour."""

from datetime import datetime, timedelta

from opam_ci.core.jobs.build import Revdep
from opam_ci.core.jobs.hold import Author, day_of
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.requests import Origin, PullRequestRef
from opam_ci.core.jobs.summary import JobState, JobStatus
from opam_ci.core.platforms.model import EMBEDDED
from tests.support.fakes.github_stage import Stage
from tests.support.fakes.world import PASSED, Script, World, is_decided
from tests.workflow.conftest import CHECKS
from tests.workflow.test_github import carried_out

HEADS = [f"{number}" * 40 for number in range(10)]
PLATFORMS = tuple(
    EMBEDDED.model_copy(update={"ocaml": ocaml, "revdeps": True, "lower_bounds": True})
    for ocaml in ("5.3", "5.4")
)
FIRST, SECOND = (platform.name for platform in PLATFORMS)
REVDEP = f"revdep {FIRST} a.1 r.1"
SMALL = {"analysis", "lint", f"build {FIRST} a.1", f"test {FIRST} a.1"}
NEW = "2/6 done; new author: the rest waits for /opam-ci ok by somebody with triage or write access"
DONE = "success: 8 passed; analysis and lint passed"


def prepare(stage: Stage, **policy: object) -> None:
    stage.fake.roles = {"maintainer": "triage"}
    stage.script.revdeps = (Revdep(package="r.1", has_tests=False),)
    stage.reconfigure(checks=CHECKS.model_copy(update={"platforms": PLATFORMS}), **policy)


def three_hours(script: Script, repository: str, now: datetime) -> None:
    """Records what another pull request of alice's ran today."""
    key = RevisionKey(repository=repository, number=99, head="a" * 40, opened_at=now)
    row = JobStatus(
        job=Job(platform=FIRST, package="z.1", kind=JobKind.BUILD),
        state=JobState.DECIDED,
        outcome=PASSED,
        attempt=1,
        worker="w",
        attempt_started_at=now,
        decided_at=now + timedelta(hours=3),
    )
    revision = RevisionRecord(key=key, base="b", author="alice", updated_at=now, sequence=1)
    script.index.real.record(
        RowBatch(key=key, revision=revision, rows=(row,), sequence=1, updated_at=now)
    )


def started(stage: Stage) -> set[str]:
    return {job for job, _, _ in stage.script.started}


async def test_a_new_author_waits_for_a_maintainer_and_goes_on_at_ok(stage: Stage) -> None:
    fake = stage.fake
    prepare(stage, new_authors="small")
    await fake.open(1, HEADS[1], author="newbie", association="FIRST_TIME_CONTRIBUTOR")
    await stage.until_said(HEADS[1], f"pending: {NEW}")
    assert started(stage) == SMALL
    assert stage.last(HEADS[1], "opam-ci / lint") == "success: Analysis and lint passed"
    assert "waits for /opam-ci ok" in stage.last(HEADS[1], "opam-ci / revdeps")
    fake.advance(seconds=2)
    for text in ("/opam-ci ok", "/opam-ci ok always"):
        await fake.write(1, text, by="newbie")
        assert await carried_out(stage) == "newbie may not command"
    assert started(stage) == SMALL
    await fake.write(1, "/opam-ci ok", by="maintainer")
    await stage.until_said(HEADS[1], DONE)
    assert REVDEP in started(stage)

    # The next head is another matter, unless somebody trusts the whole pull request.
    fake.advance(seconds=2)
    await fake.push(1, HEADS[2])
    await stage.until_said(HEADS[2], f"pending: {NEW}")
    fake.advance(seconds=2)
    await fake.write(1, "/opam-ci ok always", by="maintainer")
    await stage.until_said(HEADS[2], DONE)
    fake.advance(seconds=2)
    await fake.push(1, HEADS[3])
    await stage.until_said(HEADS[3], DONE)
    assert not any("waits" in words for words in stage.words(HEADS[3]))


async def test_a_known_author_and_a_usual_configuration_wait_for_nobody(stage: Stage) -> None:
    fake = stage.fake
    prepare(stage)
    await fake.open(1, HEADS[1], author="newbie", association="NONE")
    await stage.until_said(HEADS[1], DONE)
    prepare(stage, new_authors="small")
    await fake.open(2, HEADS[2], author="known", association="CONTRIBUTOR")
    await stage.until_said(HEADS[2], DONE)
    assert not any("waits" in words for head in HEADS for words in stage.words(head))


async def test_what_is_pushed_after_an_ok_is_not_approved_by_it(stage: Stage) -> None:
    fake = stage.fake
    prepare(stage, new_authors="small")
    await fake.open(1, HEADS[1], author="newbie", association="FIRST_TIMER")
    await stage.until_said(HEADS[1], f"pending: {NEW}")
    fake.advance(seconds=2)
    with stage.unheard():
        await fake.write(1, "/opam-ci ok", by="maintainer")
    approved = fake.deliveries[-1]
    fake.advance(seconds=2)
    await fake.push(1, HEADS[2])
    await stage.until_said(HEADS[2], f"pending: {NEW}")
    await fake.redeliver(approved["id"])
    assert await carried_out(stage) == "approved"
    summary = await stage.summary(1)
    assert summary.hold is not None
    assert not summary.counts.running
    assert summary.notices == ("the head was pushed after the approval: comment /opam-ci ok again",)
    assert REVDEP not in started(stage)
    fake.advance(seconds=2)
    await fake.write(1, "/opam-ci ok", by="maintainer")
    await stage.until_said(HEADS[2], DONE)


async def test_beyond_the_budget_reverse_dependencies_wait_for_an_ok(stage: Stage) -> None:
    fake = stage.fake
    prepare(stage, author_hours=2)
    three_hours(stage.script, fake.full_name, fake.now)
    await fake.open(2, HEADS[2], author="alice")
    await stage.until_said(
        HEADS[2],
        "pending: 6/6 done; revdeps wait until 00:00 UTC or /opam-ci ok by a maintainer: the "
        "author's jobs used 3.0 of 2 CPU hours today",
    )
    assert REVDEP not in started(stage)
    await fake.open(3, HEADS[3], author="bob")
    await stage.until_said(HEADS[3], DONE)
    fake.advance(seconds=2)
    await fake.write(2, "/opam-ci ok", by="maintainer")
    await stage.until_said(HEADS[2], DONE)
    # A newer head waits as well, and what waits is stopped like all else.
    fake.advance(seconds=1)
    await fake.push(2, HEADS[4])
    await stage.until_said(HEADS[4], "revdeps wait until 00:00 UTC")
    fake.advance(seconds=1)
    await fake.close(2)
    await stage.ended(2)


async def test_the_next_day_has_a_budget_of_its_own(world: World, ref: PullRequestRef) -> None:
    now = await world.env.get_current_time()
    author = Author(login="alice", hours_a_day=2)
    origin = Origin(clone_url="file:///nowhere", branch="master", as_of=now, author=author)
    world.script.revdeps = (Revdep(package="r.1", has_tests=False),)
    revision = world.revision(platforms=PLATFORMS[:1]).model_copy(update={"origin": origin})
    three_hours(world.script, f"{ref.owner}/{ref.repo}", now)
    handle = await world.open(ref, revision)
    summary = await world.until(handle, lambda now: now.hold is not None and now.ran.decided == 3)
    assert summary.hold is not None
    assert summary.hold.until is not None
    midnight = day_of(summary.hold.until)
    assert summary.hold.until == midnight
    assert (REVDEP, 1, 1) not in world.script.started
    await world.env.sleep(midnight - await world.env.get_current_time() + timedelta(seconds=1))
    await world.until(handle, is_decided)
    assert (REVDEP, 1, 1) in world.script.started


async def test_restarts_by_an_author_are_limited_and_those_of_maintainers_not(
    stage: Stage,
) -> None:
    fake = stage.fake
    stage.fake.roles = {"maintainer": "write"}
    stage.reconfigure(author_restarts=2)
    await fake.open(1, HEADS[1], author="alice")
    await stage.until_said(HEADS[1], "success")
    build = f"build {EMBEDDED.name} a.1"

    async def restarts(by: str, round_: int) -> None:
        await fake.write(1, "/opam-ci restart all", by=by)
        await stage.until(lambda: (build, round_, 1) in stage.script.started)
        await stage.decided(1)

    await restarts("alice", 2)
    await restarts("alice", 3)
    assert fake.comments == []
    await fake.write(1, "/opam-ci restart all", by="alice")
    refusal = await carried_out(stage)
    assert refusal.startswith("an author may restart jobs 2 times an hour: repeat it after ")
    assert [each["body"] for each in fake.comments] == [f"Nothing was restarted: {refusal}."]
    assert (build, 4, 1) not in stage.script.started
    await restarts("maintainer", 4)
    # An author with rights is one of those who may do it at any time.
    fake.roles["alice"] = "triage"
    await restarts("alice", 5)
