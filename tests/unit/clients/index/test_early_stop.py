"""Reverse dependencies that are not run, in the index; on SQLite and PostgreSQL."""

from opam_ci.clients.index import Index
from opam_ci.core.jobs.early_stop import ENOUGH
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import ChangeJobs, EarlyStops, StopEarly
from opam_ci.core.jobs.selector import RestartSelector, RestartWhich
from tests.support.fakes.queue import DNS, FAILED, KEY, NOON, P, build, decided, labels, plan, wrote


def revdep(name: str, package: str = "a.1", kind: JobKind = JobKind.REVDEP) -> Job:
    return Job(platform=P, package=package, kind=kind, revdep=name)


def stop(index: Index) -> EarlyStops:
    return index.stop_early(StopEarly(key=KEY, platform=P), NOON)


MANY = [revdep(f"r{number:02}.1") for number in range(ENOUGH)]


def test_what_is_queued_is_skipped_once_enough_fail_alike(index: Index) -> None:
    other = revdep("s.1", package="b.1")
    lost, queued, test = revdep("lost.1"), revdep("s.1"), revdep("s.1", kind=JobKind.REVDEP_TEST)
    plan(index, build(), *MANY, lost, queued, test, other)
    wrote(index, *(decided(job, FAILED, attempt=1) for job in MANY[1:]), sequence=1)
    wrote(index, decided(lost, DNS, attempt=1), sequence=2)
    assert stop(index) == EarlyStops()
    wrote(index, decided(MANY[0], FAILED, attempt=1), sequence=3)
    found = stop(index)
    assert found.outcomes.keys() == {"a.1"}
    detail = found.outcomes["a.1"].evidence.detail
    assert detail == f"stopped after {ENOUGH} of {ENOUGH + 3}: all fail alike"
    expected = {
        build().id: "queued",
        lost.id: "errored(dns)",
        queued.id: "skipped(stopped_early)",
        test.id: "skipped(stopped_early)",
        other.id: "queued",
    }
    now = labels(index)
    assert {name: now[name] for name in expected} == expected
    # A call that is repeated says the same, for what the workflow has in hand.
    assert stop(index) == found


def test_who_asks_for_the_rest_gets_it(index: Index) -> None:
    queued = revdep("s.1")
    plan(index, *MANY, queued)
    wrote(index, *(decided(job, FAILED, attempt=1) for job in MANY))
    stop(index)
    selector = RestartSelector(which=RestartWhich.STOPPED)
    taken = index.requeue(ChangeJobs(key=KEY, selector=selector, round=2), NOON)
    assert taken.first == (queued.id,)
    assert stop(index).outcomes
    assert labels(index)[queued.id] == "queued"
