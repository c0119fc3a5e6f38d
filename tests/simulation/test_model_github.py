"""Events of a pull request in any order, twice, late or lost: the last by GitHub's clock wins."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from opam_ci.core.github.action import Closed, HeadChanged, Tracked
from opam_ci.core.github.ordering import LatestEvent, compare_events
from opam_ci.core.github.payload import PullRequest
from opam_ci.core.github.reconcile import Delivery, compare, to_redeliver
from opam_ci.core.github.redelivery import LATE_AFTER, current, is_late
from tests.support.simulation.harness import AT, Simulation, pick, there_are

SECOND = timedelta(seconds=1)
TRACKED = Tracked(repository="o/r")
REF = TRACKED.ref(1)
BASE = "b" * 40
MOST_DELIVERIES = 5

Event = HeadChanged | Closed


@dataclass
class Pull:
    """The pull request as GitHub has it."""

    head: str = f"{0:040x}"
    is_open: bool = True
    base: str = "master"
    draft: bool = False
    updated_at: datetime = AT

    @property
    def is_ours(self) -> bool:
        return self.is_open and self.base == TRACKED.branch

    def body(self) -> PullRequest:
        return PullRequest.model_validate(
            {
                "number": 1,
                "state": "open" if self.is_open else "closed",
                "updated_at": self.updated_at,
                "head": {"sha": self.head},
                "base": {"ref": self.base, "sha": BASE},
                "draft": self.draft,
            }
        )


@dataclass
class Run:
    """The state of the pull request's workflow while it runs.

    Attributes:
        known: The newest event that it accepted.
        head: The head that it tests.
        whole: Whether that is tested as a whole, and not as a draft.
        doubtful: Whether it queries GitHub.
        newest: The latest time of an event that it received.
    """

    known: LatestEvent | None = None
    head: str = ""
    whole: bool = False
    doubtful: bool = False
    newest: datetime = AT


class GitHubEvents(Simulation):
    """A pull request, deliveries of its events, and the workflow that receives them."""

    EXPECTED = frozenset(
        {
            "push", "close", "reopen", "retarget", "draft", "comment", "same second", "deliver",
            "duplicate", "out of order", "late", "lost", "redelivered", "given up", "older",
            "unclear", "ended", "started again", "query", "stale response", "reconcile", "missed",
            "suspect",
        }
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.clock = AT
        self.pull = Pull()
        self.pushes = 0
        self.heads = {self.pull.head}
        self.run: Run | None = None
        self.network: list[tuple[str, Event]] = []
        self.attempts: list[tuple[Delivery, Event]] = []
        self.listed_count = 0
        self.responses: list[Event] = []
        """GitHub's responses on their way to the workflow."""
        self.again: list[Event] = []
        """Closing events that are checked again once they are late."""
        self.happen("opened")

    # What happens on GitHub.

    def happen(self, why: str) -> None:
        """Sends an event in a delivery; GitHub's clock has whole seconds."""
        if self.pull.updated_at == self.clock:
            self.hit("same second")
        self.pull.updated_at = self.clock
        event: Event
        if self.pull.is_ours:
            event = HeadChanged.model_validate(
                {
                    "pull_request": REF,
                    "head": self.pull.head,
                    "base": BASE,
                    "draft": self.pull.draft,
                    "why": why,
                    "as_of": self.clock,
                }
            )
        else:
            event = Closed(pull_request=REF, why="closed", as_of=self.clock)
        self.network.append((f"event {len(self.network)} {self.hits['steps']}", event))

    @rule(
        what=st.sampled_from(["push", "push", "close", "close", "retarget", "draft", "comment"]),
        seconds=st.sampled_from([0, 0, 1, 2, 90]),
    )
    def change(self, what: str, seconds: int) -> None:
        pull = self.pull
        if (what == "retarget" and not pull.is_open) or (what == "draft" and not pull.is_ours):
            return
        self.step("reopen" if what == "close" and not pull.is_open else what)
        self.clock += seconds * SECOND
        match what:
            case "push":
                self.pushes += 1
                pull.head = f"{self.pushes:040x}"
                self.heads.add(pull.head)
                if pull.is_open:
                    self.happen("pushed")
            case "close":
                pull.is_open = not pull.is_open
                self.happen("reopened")
            case "retarget":
                pull.base = "2.0" if pull.base == TRACKED.branch else TRACKED.branch
                self.happen("rebased")
            case "draft":
                pull.draft = not pull.draft
                self.happen("drafted" if pull.draft else "ready")
            case _:
                # No event, but it changes the time of the pull request.
                pull.updated_at = self.clock

    # Deliveries.

    @there_are(lambda self: self.network)
    @rule(pick=pick, twice=st.sampled_from([False, False, True]))
    def deliver(self, pick: int, twice: bool) -> None:
        self.step("deliver")
        place = pick % len(self.network)
        guid, event = self.network[place]
        if place:
            self.hit("out of order")
        if twice:
            self.hit("duplicate")
        else:
            del self.network[place]
        self.attempted(guid, event, 202)
        self.carry_out(event)

    @there_are(lambda self: self.network)
    @rule(pick=pick, code=st.sampled_from([0, 503]), times=st.sampled_from([1, 1, 1, 5]))
    def lose(self, pick: int, code: int, times: int) -> None:
        self.step("lost")
        guid, event = self.network.pop(pick % len(self.network))
        for _ in range(times):
            self.attempted(guid, event, code)

    def attempted(self, guid: str, event: Event, code: int) -> None:
        delivery = Delivery.model_validate(
            {
                "id": len(self.attempts) + 1,
                "guid": guid,
                "delivered_at": self.clock,
                "status_code": code,
                "event": "pull_request",
            }
        )
        self.attempts.append((delivery, event))

    @precondition(lambda self: len(self.attempts) > self.listed_count)
    @rule(order_=st.randoms(use_true_random=False))
    def redeliver(self, order_: object) -> None:
        """GitHub lists deliveries, in any order; those that nobody accepted are requested again."""
        self.step("redeliver")
        self.listed_count = len(self.attempts)
        listed = [delivery for delivery, _ in self.attempts]
        order_.shuffle(listed)  # type: ignore[attr-defined]  # hypothesis's own Random
        events = {delivery.id: (delivery.guid, what) for delivery, what in self.attempts}
        chosen = to_redeliver(listed, self.clock)
        for number in chosen:
            guid, what = events[number]
            codes = [each.status_code for each in listed if each.guid == guid]
            assert 202 not in codes
            assert len(codes) < MOST_DELIVERIES
            if all(guid != waiting for waiting, _ in self.network):
                self.hit("redelivered")
                self.network.append((guid, what))
        for guid in {each.guid for each in listed} - {events[number][0] for number in chosen}:
            codes = [each.status_code for each in listed if each.guid == guid]
            assert 202 in codes or len(codes) >= MOST_DELIVERIES
            if 202 not in codes:
                self.hit("given up")

    def carry_out(self, event: Event) -> None:
        """As `activities/github.py` does it: a late event is confirmed with GitHub."""
        if is_late(event, self.clock):
            self.hit("late")
            confirmed = current(event, self.pull.body(), TRACKED)
            assert isinstance(confirmed, HeadChanged | Closed)
            self.signal(confirmed, sure=True)
            return
        self.signal(event, sure=False)
        if isinstance(event, Closed):
            # A head that comes after it would start anew: checked again once that has happened.
            self.again.append(event)

    # The workflow.

    def signal(self, event: Event, *, sure: bool) -> None:
        """As `workflows/pull_request.py` does it."""
        head = event.head if isinstance(event, HeadChanged) else None
        if self.run is None:
            if head is None:
                return
            if any(delivery.status_code == 202 for delivery, _ in self.attempts[:-1]):
                self.hit("started again")
            self.run = Run()
        run = self.run
        run.newest = max(run.newest, event.as_of)
        match compare_events(run.known, event.as_of, head, authoritative=sure):
            case "older":
                self.hit("older")
            case "unclear":
                self.hit("unclear")
                run.doubtful = True
            case "newer":
                run.known = LatestEvent(as_of=event.as_of, head=head)
                if isinstance(event, Closed):
                    self.hit("ended")
                    self.run = None
                    return
                whole = not event.draft
                run.whole = whole or (run.whole and run.head == event.head)
                run.head = event.head

    def response(self) -> Event:
        """The pull request as GitHub's API has it now."""
        event = current(
            Closed(pull_request=REF, why="closed", as_of=self.clock), self.pull.body(), TRACKED
        )
        assert isinstance(event, HeadChanged | Closed)
        return event

    @precondition(lambda self: self.run is not None and len(self.responses) < 2)
    @rule(doubts=st.booleans())
    def query(self, doubts: bool) -> None:
        """In doubt, or because a job found that its commit no longer exists."""
        if self.run is None or not (doubts or self.run.doubtful):
            return
        self.step("query")
        self.run.doubtful = False
        self.responses.append(self.response())

    @there_are(lambda self: self.responses)
    @rule(pick=pick)
    def receive(self, pick: int) -> None:
        self.step("receive")
        event = self.responses.pop(pick % len(self.responses))
        if event != self.response():
            self.hit("stale response")
        self.signal(event, sure=True)

    # Difference up.

    def reconcile(self) -> None:
        running = {} if self.run is None else {1: self.run.head}
        listed = [self.pull.body()] if self.pull.is_open else []
        found = compare(listed, running, TRACKED, lately=AT - SECOND)
        for head in (*found.missed, *found.renewed):
            if head in found.missed:
                self.hit("missed")
            self.signal(head, sure=False)
        for number in found.suspects:
            assert number == 1
            self.hit("suspect")
            self.signal(self.response(), sure=True)

    @rule(order_=st.lists(pick, max_size=4), often=st.sampled_from([False, False, True]))
    def calm(self, order_: list[int], often: bool) -> None:
        """Nothing happens any more: pending events arrive in any order, or never."""
        if not often:
            return
        self.step("reconcile")
        for number in order_:
            if self.network:
                _, event = self.network.pop(number % len(self.network))
                self.carry_out(event)
        self.network.clear()
        while self.responses:
            self.signal(self.responses.pop(), sure=True)
        self.clock += LATE_AFTER + SECOND
        for event in self.again:
            self.carry_out(event)
        self.again.clear()
        self.reconcile()
        if self.run is not None and self.run.doubtful:
            self.run.doubtful = False
            self.signal(self.response(), sure=True)
        assert (self.run is not None) == self.pull.is_ours
        if self.run is not None:
            assert self.run.head == self.pull.head
            assert self.run.whole or self.pull.draft

    # Invariants.

    @invariant()
    def the_last_by_githubs_clock_stands(self) -> None:
        if self.run is None:
            return
        assert self.run.known is not None
        assert self.run.known.as_of == self.run.newest
        assert self.run.head == self.run.known.head
        assert self.run.head in self.heads


def test_order_of_github_events(run: Callable[[type[Simulation], float], None]) -> None:
    run(GitHubEvents, 0.23)
