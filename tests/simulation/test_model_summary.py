"""A head's summary and its statuses, while platforms change and report late."""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from opam_ci.core.github.debounce import Debounce, Posted, due
from opam_ci.core.github.debounce import after as after_posting
from opam_ci.core.github.status import About, Context, Status, statuses
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.plan import ANALYSIS
from opam_ci.core.jobs.states import TRANSITIONS, JobEvent, after
from opam_ci.core.jobs.summary import (
    SHOWN_ROWS,
    CountKey,
    Fault,
    JobState,
    JobStatus,
    PlatformStanding,
    Standing,
    State,
    Summary,
    count_key,
)
from opam_ci.core.jobs.tally import Tally, counts_of, explaining
from tests.support.simulation.harness import (
    AT,
    EVIDENCE,
    PLATFORMS,
    UNDECIDED,
    Simulation,
    one,
    pick,
    there_are,
)

PASSED = Passed(evidence=EVIDENCE)
FAILED = Failed(reason=FailureReason.BUILD, evidence=EVIDENCE)
ERRORED = Errored(cause=Cause.DNS, evidence=EVIDENCE)
NO_SOLUTION = Skipped(reason=SkipReason.NO_SOLUTION, evidence=EVIDENCE)
OUTCOMES: tuple[Outcome, ...] = (
    PASSED, PASSED, FAILED, ERRORED, NO_SOLUTION, Cancelled(by="request"),
)  # fmt: skip
FAULT = Fault(attempt=1, cause=Cause.DISK_FULL, evidence=EVIDENCE, worker="w", at=AT)
CONTEXTS = tuple(Context(name=f"opam-ci {about}", about=about) for about in About)
PACE = Debounce()


class HeadSummary(Simulation):
    """The workflow of a pull request, which has the last report of each platform."""

    EXPECTED = frozenset(
        {
            "plan", "analysis failed", "move", "decide", "restart", "judge again", "conclude",
            "report", "reported late", "post", "nothing to post", "many jobs",
            *(f"status {state}" for state in State),
        }
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, JobStatus] = {ANALYSIS.id: JobStatus(job=ANALYSIS)}
        self.tallies: dict[str, Tally] = {}
        self.reported: dict[str, PlatformStanding] = {}
        self.planned = self.concluded = False
        self.clock = AT
        self.posted: dict[str, Posted] = {}
        self.sent: dict[str, list[Status]] = {}
        self.posts_in_a_row = 0

    def step(self, what: str) -> None:
        super().step(what)
        self.posts_in_a_row = self.posts_in_a_row + 1 if what == "post" else 0

    @initialize(many=st.sampled_from([2, 2, 5, 70]), fails=st.sampled_from([False] * 9 + [True]))
    def plan(self, many: int, fails: bool) -> None:
        """The analysis ends, and its jobs are in the index."""
        self.step("plan")
        row = self.rows[ANALYSIS.id]
        self.rows[ANALYSIS.id] = _decided(row, FAILED if fails else PASSED)
        self.planned = True
        if fails:
            self.hit("analysis failed")
            self.concluded = True
            return
        if many > SHOWN_ROWS:
            self.hit("many jobs")
        for platform in PLATFORMS:
            kinds = (JobKind.BUILD, JobKind.TEST) if platform else (JobKind.LINT,)
            for number in range(many):
                job = Job(platform=platform, package=f"p{number}.1", kind=one(kinds, number))
                self.rows[job.id] = JobStatus(job=job)
            self.recount(platform)

    def of(self, platform: str) -> list[JobStatus]:
        rows = self.rows.values()
        return [row for row in rows if row.job.platform == platform and row.job != ANALYSIS]

    def recount(self, platform: str) -> None:
        """The index is queried, and the result reaches the parent before anything else happens."""
        held: list[JobStatus] = []
        rest: list[JobStatus] = []
        for row in self.of(platform):
            in_hand = row.state in {JobState.RUNNING, JobState.RETRYING}
            (held if in_hand else rest).append(row)
        numbers: Counter[CountKey] = Counter(map(count_key, rest))
        standing = PlatformStanding(
            platform=platform, counts=counts_of(numbers), shown=explaining(rest)
        )
        self.tallies[platform] = Tally(standing)
        self.tallies[platform].replace(standing, held)
        self.report_to_parent(platform)

    def report_to_parent(self, platform: str) -> None:
        report = self.tallies[platform].standing().model_dump_json()
        self.reported[platform] = PlatformStanding.model_validate_json(report)

    def can(self, event: JobEvent) -> list[JobStatus]:
        rows = (row for row in self.rows.values() if row.job != ANALYSIS)
        return [row for row in rows if (row.state, event) in TRANSITIONS]

    def change(self, row: JobStatus, moved: JobStatus) -> None:
        tally = self.tallies[row.job.platform]
        if row.state is JobState.QUEUED:
            tally.take(row)
        self.rows[row.job.id] = moved
        tally.move(moved)
        if moved.outcome is not None:
            tally.forget(row.job.id)

    @there_are(lambda self: self.can(JobEvent.DECIDE))
    @rule(
        pick=pick,
        event=st.sampled_from([JobEvent.START, JobEvent.RETRY, JobEvent.FAULT, JobEvent.ATTEMPT]),
    )
    def move(self, pick: int, event: JobEvent) -> None:
        able = self.can(event)
        if not able:
            return
        self.step("move")
        row = one(able, pick)
        faults = (FAULT,) if event in {JobEvent.RETRY, JobEvent.FAULT} else row.faults
        state = after(row.state, event)
        self.change(row, row.model_copy(update={"state": state, "faults": faults}))

    @there_are(lambda self: self.can(JobEvent.DECIDE))
    @rule(
        pick=pick,
        outcome=st.sampled_from(OUTCOMES),
        of=st.sampled_from(["job", "job", "platform", "head"]),
    )
    def decide(self, pick: int, outcome: Outcome, of: str) -> None:
        self.step("decide")
        able = self.can(JobEvent.DECIDE)
        row = one(able, pick)
        for each in able:
            same = each.job.platform == row.job.platform if of == "platform" else each == row
            if same or of == "head":
                self.change(each, _decided(each, outcome))

    @there_are(lambda self: self.can(JobEvent.JUDGE_AGAIN))
    @rule(pick=pick, number=st.integers(1, 60))
    def restart(self, pick: int, number: int) -> None:
        self.step("restart")
        rows = self.can(JobEvent.JUDGE_AGAIN)
        for row in rows[pick % len(rows) :][:number]:
            state = after(row.state, JobEvent.RESTART)
            self.rows[row.job.id] = JobStatus(job=row.job, state=state, round=row.round + 1)
            self.concluded = False
        for platform in PLATFORMS:
            self.recount(platform)

    def failed(self) -> list[JobStatus]:
        return [row for row in self.rows.values() if row.standing is Standing.FAILED][:1]

    @there_are(failed)
    @precondition(lambda self: self.tallies)
    @rule()
    def judge_again(self) -> None:
        [row] = self.failed()
        if row.job == ANALYSIS:
            return
        self.step("judge again")
        self.rows[row.job.id] = _decided(row, ERRORED)
        self.recount(row.job.platform)

    @precondition(lambda self: not self.concluded and not _undecided(self.rows.values()))
    @rule()
    def conclude(self) -> None:
        """A package that no platform can install is a failure."""
        self.step("conclude")
        builds: dict[str, list[JobStatus]] = {}
        for row in self.rows.values():
            if row.job.kind is JobKind.BUILD:
                builds.setdefault(row.job.package, []).append(row)
        for rows in builds.values():
            if all(row.outcome == NO_SOLUTION for row in rows):
                for row in rows:
                    self.rows[row.job.id] = _decided(row, FAILED)
        for platform in self.tallies:
            self.recount(platform)
        self.concluded = True

    def behind(self) -> list[str]:
        return [
            platform
            for platform, tally in self.tallies.items()
            if tally.standing() != self.reported[platform]
        ]

    @there_are(behind)
    @rule(pick=pick)
    def report(self, pick: int) -> None:
        self.step("report")
        if len(self.behind()) > 1:
            self.hit("reported late")
        self.report_to_parent(one(self.behind(), pick))

    def summary(self) -> Summary:
        analysis = self.rows[ANALYSIS.id]
        counts = [each for standing in self.reported.values() for each in standing.counts]
        return Summary(
            pull_request="o/r#1",
            head="1" * 40,
            base="b" * 40,
            planned=self.planned,
            concluded=self.concluded,
            tallies=(*counts_of(Counter([count_key(analysis)])), *counts),
            jobs=(analysis, *(row for each in self.reported.values() for row in each.shown)),
            updated_at=self.clock,
        )

    @precondition(lambda self: self.posts_in_a_row < 2 or len(self.rows) == 1)
    @rule(seconds=st.sampled_from([1, 40, 4000]))
    def post(self, seconds: int) -> None:
        """Due statuses are posted, as the posting activity does it."""
        self.step("post")
        self.clock += timedelta(seconds=seconds)
        wanted = statuses(self.summary(), contexts=CONTEXTS, maximum_attempts=5)
        assert {status.context for status in wanted} == {context.name for context in CONTEXTS}
        found = due(wanted, self.posted, self.clock, PACE)
        if not found.post:
            self.hit("nothing to post")
        for status in found.post:
            self.hit(f"status {status.state}")
            before = self.sent.setdefault(status.context, [])
            assert not before or before[-1] != status
            before.append(status)
            self.posted = after_posting(self.posted, status, self.clock)
        for status in wanted:
            last = self.sent[status.context][-1]
            # A new description may wait; a new state never does.
            assert last.state is status.state
            assert last == status or found.next_at is not None

    @invariant()
    def a_verdict_is_never_early(self) -> None:
        summary = self.summary()
        standings = {row.standing for row in self.rows.values()}
        if summary.state is not State.PENDING:
            assert summary.planned
            assert summary.concluded
            assert not standings & (UNDECIDED | {Standing.CANCELLED})
        match summary.state:
            case State.SUCCESS:
                assert standings <= {Standing.PASSED, Standing.SKIPPED}
            case State.FAILURE:
                assert Standing.FAILED in standings
            case State.ERROR:
                assert Standing.ERRORED in standings
                assert Standing.FAILED not in standings
            case State.PENDING:
                pass

    @invariant()
    def a_verdict_is_never_missing(self) -> None:
        if self.behind() or not self.planned:
            return
        summary = self.summary()
        standings = Counter(row.standing.value for row in self.rows.values())
        assert summary.counts.model_dump() == {
            standing.value: standings[standing.value] for standing in Standing
        }
        causes = Counter(
            row.outcome.cause if isinstance(row.outcome, Errored) else FAULT.cause
            for row in self.rows.values()
            if isinstance(row.outcome, Errored) or row.state is JobState.RETRYING
        )
        assert summary.cause_counts == causes
        if self.concluded and not standings.keys() & {*UNDECIDED, Standing.CANCELLED}:
            assert summary.state is not State.PENDING

    @invariant()
    def what_is_wrong_is_shown(self) -> None:
        for standing in self.reported.values():
            assert len(standing.shown) <= SHOWN_ROWS
            shown = {row.standing for row in standing.shown}
            for each in standing.counts:
                if each.standing in {Standing.FAILED, Standing.ERRORED}:
                    assert each.standing in shown


def _decided(row: JobStatus, outcome: Outcome) -> JobStatus:
    return row.model_copy(update={"state": JobState.DECIDED, "outcome": outcome})


def _undecided(rows: Iterable[JobStatus]) -> bool:
    return any(row.outcome is None for row in rows)


def test_summary_of_a_head(run: Callable[[type[Simulation], float], None]) -> None:
    run(HeadSummary, 0.135)
