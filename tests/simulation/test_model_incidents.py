"""Incidents: faults in any order, repairs, trials, restarts and their budget."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from opam_ci.core.incidents.grouping import GAP, Span, group, joined
from opam_ci.core.incidents.model import FaultSeen, HitJob
from opam_ci.core.incidents.restarts import (
    JOB_BUDGET,
    TRIALS,
    HitKey,
    RestartOrder,
    has_budget,
    key_of,
    orders_of,
    restart_plan,
    trial_of,
)
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import OWN_MEMORY_LIMIT, Cause, Evidence
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.selector import RESTART_COST, TRIAL_COST, RestartOrigin
from tests.support.simulation.harness import AT, Simulation, one, pick, there_are

MINUTE = timedelta(minutes=1)
CAUSES = (Cause.DISK_FULL, Cause.DNS)
REVISIONS = tuple(
    RevisionKey(repository="o/r", number=number, head=f"{number:040x}", opened_at=AT)
    for number in range(1, 4)
)
HITS = tuple(
    (revision, Job(platform="debian/amd64", package=f"p{number}.1", kind=kind))
    for revision in REVISIONS
    for number, kind in enumerate((JobKind.BUILD, JobKind.TEST))
)


@dataclass
class KnownIncident:
    """An incident of the index."""

    faults: set[FaultSeen]
    resolved: datetime | None = None
    sent: Counter[HitKey] = field(default_factory=Counter)

    def span(self, number: int) -> Span:
        times = [fault.at for fault in self.faults]
        return Span(number, min(times), max(times), self.resolved)


class Incidents(Simulation):
    """Faults that are recorded in any order, and an operator who repairs."""

    EXPECTED = frozenset(
        {
            "fault", "late fault", "fault twice", "own limit", "new incident", "united",
            "after repair", "before repair", "resolve", "trial", "no trial is left",
            "restart", "budget spent", "manual restart",
        }
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.clock = AT
        self.incidents: dict[int, KnownIncident] = {}
        self.seen: list[FaultSeen] = []
        self.errored: dict[HitKey, int] = {}
        """The last incident that hit each errored job."""
        self.restart_budget_used: Counter[HitKey] = Counter()
        self.head: Counter[RevisionKey] = Counter()
        """Cost of the restarts of a head, as its workflow counts it."""
        self.runs: Counter[HitKey] = Counter()
        """Automatic restarts since the last manual one."""

    # Faults are recorded.

    @rule(
        pick=pick,
        cause=st.sampled_from(CAUSES),
        minutes=st.integers(0, 50),
        late=st.sampled_from([0, 0, 0, 30, 90]),
        worker=st.sampled_from(["w1", "w2", None]),
    )
    def fault(self, pick: int, cause: Cause, minutes: int, late: int, worker: str | None) -> None:
        self.step("fault")
        self.clock += minutes * MINUTE
        if late:
            self.hit("late fault")
        revision, job = one(HITS, pick)
        fault = FaultSeen(
            revision=revision,
            job=job,
            round=1 + len(self.seen),
            cause=cause,
            at=self.clock - late * MINUTE,
            worker=worker,
            pool="linux-amd64",
            evidence=Evidence(rule="enospc"),
        )
        self.take(fault)

    @there_are(lambda self: self.seen)
    @rule(pick=pick)
    def fault_again(self, pick: int) -> None:
        """A batch is recorded twice: the index has the attempt already."""
        self.step("fault twice")
        fault = one(self.seen, pick)
        [home] = [known for known in self.incidents.values() if fault in known.faults]
        before = len(home.faults)
        home.faults.add(fault)
        assert len(home.faults) == before

    @rule(pick=pick)
    def own_limit(self, pick: int) -> None:
        """A limit of a job's own control group is not an incident."""
        self.step("own limit")
        revision, job = one(HITS, pick)
        own = FaultSeen(
            revision=revision,
            job=job,
            cause=Cause.OUT_OF_MEMORY,
            at=self.clock,
            evidence=Evidence(rule=OWN_MEMORY_LIMIT),
        )
        assert group([*self.seen, own]) == group(self.seen)

    def take(self, fault: FaultSeen) -> None:
        """Adds a fault as `clients/index/incidents.py` does."""
        self.seen.append(fault)
        spans = [
            known.span(number)
            for number, known in self.incidents.items()
            if next(iter(known.faults)).cause is fault.cause
        ]
        found = joined(fault.at, spans)
        if not found:
            home = 1 + max(self.incidents, default=0)
            self.incidents[home] = KnownIncident({fault})
            self.hit("new incident")
            if any(span.resolved is not None and span.resolved < fault.at for span in spans):
                self.hit("after repair")
        else:
            home = found[0]
            for other in found[1:]:
                self.hit("united")
                self.incidents[home].faults |= self.incidents.pop(other).faults
            known = self.incidents[home]
            known.faults.add(fault)
            if known.resolved is not None:
                self.hit("before repair")
        self.errored[fault.revision, fault.job.id] = home
        self.errored = {
            key: number if number in self.incidents else home
            for key, number in self.errored.items()
        }

    # Somebody repairs.

    def unresolved(self) -> list[int]:
        return [number for number, known in self.incidents.items() if known.resolved is None]

    @there_are(unresolved)
    @rule(pick=pick)
    def resolve(self, pick: int) -> None:
        self.step("resolve")
        number = one(self.unresolved(), pick)
        known = self.incidents[number]
        known.resolved = max(self.clock, known.span(number).last)

    def hits_of(self, number: int) -> list[HitJob]:
        jobs = {(revision, job.id): job for revision, job in HITS}
        return [
            HitJob(
                revision=key[0], job=jobs[key], restart_budget_used=self.restart_budget_used[key]
            )
            for key, home in self.errored.items()
            if home == number
        ]

    def with_hits(self) -> list[int]:
        return [number for number in self.incidents if self.hits_of(number)]

    @there_are(with_hits)
    @rule(pick=pick, passes=st.booleans())
    def trial(self, pick: int, passes: bool) -> None:
        self.step("trial")
        number = one(self.with_hits(), pick)
        known = self.incidents[number]
        hits = self.hits_of(number)
        trial = trial_of(hits, known.sent)
        left = [
            hit
            for hit in hits
            if hit.restart_budget_used < JOB_BUDGET and known.sent[key_of(hit)] < TRIALS
        ]
        if trial is None:
            self.hit("no trial is left")
            assert not left
            return
        assert trial in left
        known.sent[key_of(trial)] += 1
        for order in orders_of((trial,)):
            self.send(order, RestartOrigin.TRIAL, passes=passes)

    @there_are(with_hits)
    @rule(pick=pick, passes=st.booleans(), window=st.integers(1, 4))
    def restart(self, pick: int, passes: bool, window: int) -> None:
        self.step("restart")
        hits = self.hits_of(one(self.with_hits(), pick))
        plan = restart_plan(hits, window=window)
        orders = [*((plan.trial,) if plan.trial else ()), *(o for w in plan.windows for o in w)]
        if plan.spent:
            self.hit("budget spent")
        sent = sorted((order.revision.head, job) for order in orders for job in order.jobs)
        may = [hit for hit in hits if hit.restart_budget_used < JOB_BUDGET]
        assert sent == sorted((hit.revision.head, hit.job.id) for hit in may)
        for order in orders:
            self.send(order, RestartOrigin.INCIDENT, passes=passes)

    def send(self, order: RestartOrder, origin: RestartOrigin, *, passes: bool) -> None:
        """The workflow of a pull request restarts jobs within its budget."""
        spent = self.head[order.revision]
        assert has_budget(origin, spent)
        self.head[order.revision] = origin.charged(spent, len(order.jobs))
        for job in order.jobs:
            key = order.revision, job
            self.restart_budget_used[key] = origin.charged(self.restart_budget_used[key])
            self.runs[key] += 1
            if passes:
                del self.errored[key]

    @rule(pick=pick)
    @precondition(lambda self: self.restart_budget_used)
    def person(self, pick: int) -> None:
        """A manual restart of one head's jobs: it resets their budget."""
        if pick % 10:
            return
        self.step("manual restart")
        revision = one(REVISIONS, pick)
        self.head[revision] = RestartOrigin.PERSON.charged(self.head[revision])
        for key in [key for key in self.restart_budget_used if key[0] == revision]:
            self.restart_budget_used[key] = RestartOrigin.PERSON.charged(
                self.restart_budget_used[key]
            )
            self.runs[key] = 0

    # Invariants.

    @invariant()
    def restarts_stay_within_the_budget(self) -> None:
        for key, cost in self.restart_budget_used.items():
            assert cost < JOB_BUDGET + RESTART_COST
            assert self.runs[key] <= JOB_BUDGET // TRIAL_COST

    @invariant()
    def each_fault_is_of_one_incident(self) -> None:
        counted = Counter(fault for known in self.incidents.values() for fault in known.faults)
        assert counted == Counter(dict.fromkeys(self.seen, 1))

    @invariant()
    def open_incidents_of_a_cause_are_far_apart(self) -> None:
        for cause in CAUSES:
            spans = [
                known.span(number)
                for number, known in self.incidents.items()
                if known.resolved is None and next(iter(known.faults)).cause is cause
            ]
            spans.sort(key=lambda span: span.first)
            for before, after in pairwise(spans):
                assert after.first - before.last > GAP

    @invariant()
    def without_a_repair_the_order_of_arrival_is_nothing(self) -> None:
        if any(known.resolved is not None for known in self.incidents.values()):
            return
        known = {frozenset(each.faults) for each in self.incidents.values()}
        assert known == {frozenset(each.faults) for each in group(self.seen)}


def test_incidents(run: Callable[[type[Simulation], float], None]) -> None:
    run(Incidents, 0.17)
