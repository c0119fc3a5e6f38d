"""What must be so at the end of every drill on a fleet."""

from collections import Counter
from collections.abc import Iterable

from opam_ci.core.jobs.outcome import Cause, Errored
from opam_ci.core.jobs.records import AttemptRecord
from opam_ci.core.jobs.summary import BUILDS_NOTHING, Standing
from tests.support.worlds.fleet import FleetWorld


def causes(faults: Iterable[AttemptRecord]) -> set[Cause]:
    """Returns why attempts were lost."""
    return {each.outcome.cause for each in faults if isinstance(each.outcome, Errored)}


def check_end(world: FleetWorld) -> None:
    """Everything is decided, told, counted right, and no package was touched.

    Checks the statuses sent so far one by one, that no job was lost or doubled, that the
    broken packages were judged once, and that Prometheus counts what happened.
    """
    world.wait_ends()
    _check_jobs(world)
    world.truth().check(world.recorder.samples)
    _check_counts(world)


def _check_jobs(world: FleetWorld) -> None:
    """The index is written after GitHub is told, so what it must have is waited for."""
    good, broken = set(world.heads.values()) - world.broken, world.broken
    world.wait(lambda: world.decided() == good | broken, 150)
    world.wait(lambda: all(each.ended_at is not None for each in world.attempts()))
    jobs = world.jobs()
    names = Counter((each.revision.head, each.status.job.id) for each in jobs)
    assert set(names.values()) == {1}
    wanted = {
        head: world.end(number).partition(" passed")[0] for number, head in world.heads.items()
    }
    for head in good | broken:
        mine = [each.status for each in jobs if each.revision.head == head]
        failed = [each for each in mine if each.standing == "failed"]
        builds = [each for each in mine if each.job.kind not in BUILDS_NOTHING]
        passed = sum(each.standing == "passed" for each in builds)
        assert len(failed) == (head in broken)
        assert wanted[head].endswith(f"{passed}")
        # Judged once: no restart, and no second attempt.
        assert all((each.round, each.attempt) == (1, 1) for each in failed)
    attempts = world.attempts()
    got_through = Counter(
        (each.revision.head, each.job.id)
        for each in attempts
        if each.standing in {Standing.PASSED, Standing.FAILED}
    )
    # Every job got through exactly once: none is lost, and none was run again.
    assert got_through == names
    numbers = Counter(
        (each.revision.head, each.job.id, each.round, each.number) for each in attempts
    )
    assert set(numbers.values()) == {1}


def _check_counts(world: FleetWorld) -> None:
    attempts = world.attempts()
    faults = Counter(
        (each.pool or "orchestration", each.outcome.cause.value)
        for each in attempts
        if isinstance(each.outcome, Errored)
    )
    for (pool, cause), number in faults.items():
        metric = "opam_ci_infrastructure_faults_total"
        world.counted(f'sum({metric}{{pool="{pool}",cause="{cause}"}})', number)
    world.counted("sum(opam_ci_infrastructure_faults_total)", sum(faults.values()))
    world.counted("sum(opam_ci_package_failures_total)", len(world.broken))
    outcomes = Counter(each.standing.value for each in attempts)
    for outcome in ("passed", "failed", "errored", "skipped", "cancelled"):
        metric = f'sum(opam_ci_attempts_total{{outcome="{outcome}"}})'
        world.counted(metric, outcomes[outcome])
    good = len(world.heads) - len(world.broken)
    for state, number in (
        ("success", good), ("failure", len(world.broken)), ("pending", 0), ("error", 0)
    ):  # fmt: skip
        world.counted(f'max(opam_ci_pull_requests{{state="{state}"}})', number)
    world.counted("sum(opam_ci_jobs_errored)", 0)
    world.counted("sum(opam_ci_retries_pending)", 0)
    world.counted("sum(opam_ci_jobs_undecided)", 0)
