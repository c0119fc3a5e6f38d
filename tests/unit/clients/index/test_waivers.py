"""Waivers in the index: added, removed, listed and applied; on SQLite and PostgreSQL."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from opam_ci.clients.index import Index
from opam_ci.clients.index.baseline import Compared
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import CountJobs
from opam_ci.core.jobs.outcome import Failed, FailureReason, OnBase, Skipped
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.summary import JobState, JobStatus, total
from opam_ci.core.jobs.waiver import WAIVERS_LIMIT, Waiver
from tests.support.fakes.queue import (
    DNS,
    FAILED,
    KEY,
    NOON,
    OTHER,
    P,
    build,
    decided,
    key,
    labels,
    plan,
    records,
    wrote,
)

DAY = timedelta(days=1)
TESTED = Failed(reason=FailureReason.TEST, evidence=FAILED.evidence)


def waiver(package: str = "a", **changes: Any) -> Waiver:
    fields: dict[str, Any] = {
        "because": "known", "login": "ann", "created_at": NOON, "expires_at": NOON + 30 * DAY,
        **changes,
    }  # fmt: skip
    return Waiver(package=package, **fields)


def revdep(name: str) -> Job:
    return Job(platform=P, package="a.1", kind=JobKind.REVDEP, revdep=name)


def compared(index: Index, at: datetime = NOON) -> Compared:
    return index.compare(KEY, frozenset({"a.1"}), at)


def test_a_waived_failure_is_a_skip_and_needs_no_job_on_the_base(index: Index) -> None:
    jobs = [build(), revdep("r.1"), revdep("s.1"), build("lost.1")]
    plan(index, *jobs)
    wrote(index, *(decided(job, FAILED, attempt=1, log="l") for job in jobs[:3]))
    wrote(index, decided(jobs[3], DNS, attempt=1), sequence=2)
    index.add_waiver(waiver("r"))
    # Only failures are ever waived.
    index.add_waiver(waiver("lost"))
    found = compared(index)
    assert found.changed
    assert {job.id for job in found.missing} == {f"base-build {P} a.1", f"base-build {P} s.1"}
    assert labels(index) == {
        f"build {P} a.1": "failed(build)",
        f"revdep {P} a.1 r.1": "skipped(waived)",
        f"revdep {P} a.1 s.1": "failed(build)",
        f"build {P} lost.1": "errored(dns)",
    }
    # The attempt did fail.
    (attempt,) = [each for each in index.attempts().items if each.job == revdep("r.1")]
    assert attempt.standing == "failed"
    assert not compared(index).changed
    (standing,) = index.count(CountJobs(key=KEY, platforms=(P,)))
    counts = total(standing.counts)
    assert (counts.failed, counts.skipped, counts.errored) == (2, 1, 1)


def test_what_was_compared_before_is_waived_too(index: Index) -> None:
    plan(index, build())
    on_base = FAILED.evidence.model_copy(update={"on_base": OnBase.PASSES})
    wrote(index, decided(build(), FAILED.model_copy(update={"evidence": on_base}), attempt=1))
    index.add_waiver(waiver())
    assert index.waive(KEY, NOON)
    outcome = records(index)[build().id].status.outcome
    assert isinstance(outcome, Skipped)
    assert outcome.evidence.on_base is OnBase.PASSES


def test_an_expired_waiver_is_named_and_a_removed_one_is_not(index: Index) -> None:
    plan(index, build(), build("b.1"))
    wrote(index, decided(build(), FAILED, attempt=1), decided(build("b.1"), FAILED, attempt=1))
    expired = index.add_waiver(waiver(expires_at=NOON + DAY))
    removed = index.add_waiver(waiver("b"))
    index.remove_waiver(removed.id, login="bob", at=NOON + DAY)
    later = NOON + 2 * DAY
    assert index.waive(KEY, later)
    assert not index.waive(KEY, later)
    found = records(index)
    one, two = (found[build(name).id].status.outcome for name in ("a.1", "b.1"))
    assert isinstance(one, Failed)
    assert isinstance(two, Failed)
    assert (one.evidence.waiver, two.evidence.waiver) == (expired.ref, None)
    # Long after that it is forgotten.
    wrote(index, decided(build(), TESTED, attempt=1, round=2), sequence=9)
    assert not index.waive(KEY, NOON + 40 * DAY)


def test_a_failure_after_the_end_counts_again(index: Index) -> None:
    plan(index, build())
    wrote(index, decided(build(), FAILED, attempt=1))
    added = index.add_waiver(waiver())
    assert index.waive(KEY, NOON)
    index.remove_waiver(added.id, login="ann", at=NOON + DAY)
    # It stays as it was judged, until it is restarted.
    assert not index.waive(KEY, NOON + DAY)
    assert labels(index)[build().id] == "skipped(waived)"
    wrote(index, decided(build(), FAILED, attempt=1, round=2), sequence=9)
    assert not index.waive(KEY, NOON + DAY)
    assert labels(index)[build().id] == "failed(build)"


def test_adding_and_removing_are_in_the_audit_log(index: Index) -> None:
    of_open(index, KEY, JobStatus(job=build(), state=JobState.DECIDED, outcome=FAILED))
    added = index.add_waiver(waiver(platform="p/*", reason=FailureReason.BUILD))
    index.remove_waiver(added.id, login="bob", at=NOON + DAY)
    removal, addition = index.audit().items
    assert (addition.login, addition.action, addition.taken) == ("ann", "waive", 1)
    assert addition.detail == (f"{added.id}: a on p/*, failed(build); known; until 03 June 2026")
    assert (removal.login, removal.action, removal.at) == ("bob", "unwaive", NOON + DAY)


def test_of_two_equal_waivers_only_one_is_in_force(index: Index) -> None:
    first = index.add_waiver(waiver())
    with pytest.raises(UsageError, match=f"waiver {first.id} by ann, of 04 May 2026, takes the sa"):
        index.add_waiver(waiver(login="bob", because="other"))
    assert len(index.audit().items) == 1
    index.add_waiver(waiver(platform="p/*", login="bob"))
    # One that has ended is in nobody's way.
    index.remove_waiver(first.id, login="ann", at=NOON + DAY)
    index.add_waiver(waiver(login="bob", created_at=NOON + DAY))


def test_there_are_only_so_many(index: Index) -> None:
    for number in range(WAIVERS_LIMIT):
        index.add_waiver(waiver(f"a{number}"))
    with pytest.raises(UsageError, match="500 waivers are in force"):
        index.add_waiver(waiver())
    index.add_waiver(waiver(created_at=NOON + 31 * DAY, expires_at=NOON + 32 * DAY))


def test_what_has_ended_cannot_be_removed(index: Index) -> None:
    added = index.add_waiver(waiver())
    with pytest.raises(UsageError, match="no such waiver: 0"):
        index.remove_waiver(0, login="ann", at=NOON)
    with pytest.raises(UsageError, match="expired on 03 June 2026 already"):
        index.remove_waiver(added.id, login="ann", at=NOON + 30 * DAY)
    index.remove_waiver(added.id, login="ann", at=NOON + DAY)
    with pytest.raises(UsageError, match="was removed on 05 May 2026 already"):
        index.remove_waiver(added.id, login="ann", at=NOON + 2 * DAY)


def test_those_in_force_are_listed_first(index: Index) -> None:
    late, soon = index.add_waiver(waiver("late")), waiver("soon", expires_at=NOON + 5 * DAY)
    soon = index.add_waiver(soon)
    over = index.add_waiver(waiver("over", expires_at=NOON + DAY))
    removed = index.remove_waiver(
        index.add_waiver(waiver("removed")).id, login="ann", at=NOON + 2 * DAY
    )
    at = NOON + 3 * DAY
    assert index.waivers(at) == (soon, late, removed, over)
    assert index.waivers(NOON + 33 * DAY) == (late, soon)
    # Those that end soon, or ended a short time ago, are on the page of operators.
    assert set(index.ops_page(at).waivers) == {removed, over, soon}
    assert index.ops_page(NOON + 24 * DAY).waivers == (late,)


def of_open(index: Index, testing: RevisionKey, *rows: JobStatus, is_open: bool = True) -> None:
    revision = RevisionRecord(key=testing, base="b", updated_at=NOON, sequence=1, is_open=is_open)
    index.record(RowBatch(key=testing, revision=revision, rows=rows, sequence=1, updated_at=NOON))


def test_failures_of_current_heads_are_counted(index: Index) -> None:
    failed = [decided(build(name), FAILED) for name in ("a.1", "a.2", "b.1")]
    of_open(index, KEY, *failed)
    of_open(index, OTHER, decided(build(), TESTED))
    of_open(index, key(3), *failed, is_open=False)
    old, new = key(4), key(4, NOON + DAY)
    of_open(index, old, *failed)
    of_open(index, new, decided(build(), DNS))
    assert index.failures_taken(waiver()) == {KEY: 2, OTHER: 1}
    assert index.failures_taken(waiver(reason=FailureReason.TEST)) == {OTHER: 1}
