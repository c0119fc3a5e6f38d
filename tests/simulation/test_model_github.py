"""What GitHub says of a pull request: any order, twice, late, never; the last of it stands."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from opam_ci.core.github.action import Closed, HeadChanged, Tracked
from opam_ci.core.github.late import LATE_AFTER, current, is_late
from opam_ci.core.github.origin import Known, order
from opam_ci.core.github.payload import PullRequest
from opam_ci.core.github.reconcile import Delivery, compare, to_redeliver
from tests.simulation.harness import (
    AT,
    Simulation,
    pick,
    there_are,
)

SECOND = timedelta(seconds=1)
TRACKED = Tracked(repository="o/r")
REF = TRACKED.ref(1)
BASE = "b" * 40
MOST_DELIVERIES = 5

Said = HeadChanged | Closed


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
    """What the workflow of the pull request knows, while it runs.

    Attributes:
        known: The newest that counted.
        head: The head that it tests.
        whole: Whether that is tested as a whole, and not as a draft.
        doubtful: Whether it asks GitHub.
        newest: The latest time that it was told of.
    """

    known: Known | None = None
    head: str = ""
    whole: bool = False
    doubtful: bool = False
    newest: datetime = AT


class GitHubEvents(Simulation):
    """A pull request, deliveries of what happens to it, and the workflow that hears of it."""

    EXPECTED = frozenset(
        {
            "push", "close", "reopen", "retarget", "draft", "comment", "same second", "deliver",
            "duplicate", "out of order", "late", "lost", "redelivered", "given up", "older",
            "unclear", "ended", "began again", "ask", "stale answer", "reconcile", "missed",
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
        self.network: list[tuple[str, Said]] = []
        self.attempts: list[tuple[Delivery, Said]] = []
        self.looked_at = 0
        self.answers: list[Said] = []
        """GitHub's answers on their way to the workflow."""
        self.again: list[Said] = []
        """Closes that are looked at again once they are late."""
        self.happen("opened")

    # What happens on GitHub.

    def happen(self, why: str) -> None:
        """Its clock has seconds; it says what happened, in a delivery."""
        if self.pull.updated_at == self.clock:
            self.hit("same second")
        self.pull.updated_at = self.clock
        said: Said
        if self.pull.is_ours:
            said = HeadChanged.model_validate(
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
            said = Closed(pull_request=REF, why="closed", as_of=self.clock)
        self.network.append((f"event {len(self.network)} {self.hits['steps']}", said))

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
                # None of ours, but it moves the time of the pull request.
                pull.updated_at = self.clock

    # Deliveries.

    @there_are(lambda self: self.network)
    @rule(pick=pick, twice=st.sampled_from([False, False, True]))
    def deliver(self, pick: int, twice: bool) -> None:
        self.step("deliver")
        place = pick % len(self.network)
        guid, said = self.network[place]
        if place:
            self.hit("out of order")
        if twice:
            self.hit("duplicate")
        else:
            del self.network[place]
        self.attempted(guid, said, 202)
        self.carry_out(said)

    @there_are(lambda self: self.network)
    @rule(pick=pick, code=st.sampled_from([0, 503]), times=st.sampled_from([1, 1, 1, 5]))
    def lose(self, pick: int, code: int, times: int) -> None:
        self.step("lost")
        guid, said = self.network.pop(pick % len(self.network))
        for _ in range(times):
            self.attempted(guid, said, code)

    def attempted(self, guid: str, said: Said, code: int) -> None:
        delivery = Delivery.model_validate(
            {
                "id": len(self.attempts) + 1,
                "guid": guid,
                "delivered_at": self.clock,
                "status_code": code,
                "event": "pull_request",
            }
        )
        self.attempts.append((delivery, said))

    @precondition(lambda self: len(self.attempts) > self.looked_at)
    @rule(order_=st.randoms(use_true_random=False))
    def redeliver(self, order_: object) -> None:
        """GitHub lists deliveries, in any order; those that nobody took are asked for again."""
        self.step("redeliver")
        self.looked_at = len(self.attempts)
        listed = [delivery for delivery, _ in self.attempts]
        order_.shuffle(listed)  # type: ignore[attr-defined]  # hypothesis's own Random
        said = {delivery.id: (delivery.guid, what) for delivery, what in self.attempts}
        chosen = to_redeliver(listed, self.clock)
        for number in chosen:
            guid, what = said[number]
            codes = [each.status_code for each in listed if each.guid == guid]
            assert 202 not in codes
            assert len(codes) < MOST_DELIVERIES
            if all(guid != waiting for waiting, _ in self.network):
                self.hit("redelivered")
                self.network.append((guid, what))
        for guid in {each.guid for each in listed} - {said[number][0] for number in chosen}:
            codes = [each.status_code for each in listed if each.guid == guid]
            assert 202 in codes or len(codes) >= MOST_DELIVERIES
            if 202 not in codes:
                self.hit("given up")

    def carry_out(self, said: Said) -> None:
        """As `activities/github.py` does it: what is late is not believed."""
        if is_late(said, self.clock):
            self.hit("late")
            answer = current(said, self.pull.body(), TRACKED)
            assert isinstance(answer, HeadChanged | Closed)
            self.tell(answer, sure=True)
            return
        self.tell(said, sure=False)
        if isinstance(said, Closed):
            # A head that comes after it would begin anew: looked at again once that is over.
            self.again.append(said)

    # The workflow.

    def tell(self, said: Said, *, sure: bool) -> None:
        """As `workflows/pull_request.py` does it."""
        head = said.head if isinstance(said, HeadChanged) else None
        if self.run is None:
            if head is None:
                return
            if any(delivery.status_code == 202 for delivery, _ in self.attempts[:-1]):
                self.hit("began again")
            self.run = Run()
        run = self.run
        run.newest = max(run.newest, said.as_of)
        match order(run.known, said.as_of, head, sure=sure):
            case "older":
                self.hit("older")
            case "unclear":
                self.hit("unclear")
                run.doubtful = True
            case "newer":
                run.known = Known(as_of=said.as_of, head=head)
                if isinstance(said, Closed):
                    self.hit("ended")
                    self.run = None
                    return
                whole = not said.draft
                run.whole = whole or (run.whole and run.head == said.head)
                run.head = said.head

    def answer(self) -> Said:
        """What GitHub says now, to somebody who asks."""
        said = current(
            Closed(pull_request=REF, why="closed", as_of=self.clock), self.pull.body(), TRACKED
        )
        assert isinstance(said, HeadChanged | Closed)
        return said

    @precondition(lambda self: self.run is not None and len(self.answers) < 2)
    @rule(doubts=st.booleans())
    def ask(self, doubts: bool) -> None:
        """In doubt, or because a job found that its commit is gone."""
        if self.run is None or not (doubts or self.run.doubtful):
            return
        self.step("ask")
        self.run.doubtful = False
        self.answers.append(self.answer())

    @there_are(lambda self: self.answers)
    @rule(pick=pick)
    def hear(self, pick: int) -> None:
        self.step("hear")
        said = self.answers.pop(pick % len(self.answers))
        if said != self.answer():
            self.hit("stale answer")
        self.tell(said, sure=True)

    # Difference up.

    def reconcile(self) -> None:
        running = {} if self.run is None else {1: self.run.head}
        listed = [self.pull.body()] if self.pull.is_open else []
        found = compare(listed, running, TRACKED, lately=AT - SECOND)
        for head in (*found.missed, *found.renewed):
            if head in found.missed:
                self.hit("missed")
            self.tell(head, sure=False)
        for number in found.suspects:
            assert number == 1
            self.hit("suspect")
            self.tell(self.answer(), sure=True)

    @rule(order_=st.lists(pick, max_size=4), often=st.sampled_from([False, False, True]))
    def calm(self, order_: list[int], often: bool) -> None:
        """Nothing happens any more: what is under way arrives in any order, or never at all."""
        if not often:
            return
        self.step("reconcile")
        for number in order_:
            if self.network:
                _, said = self.network.pop(number % len(self.network))
                self.carry_out(said)
        self.network.clear()
        while self.answers:
            self.tell(self.answers.pop(), sure=True)
        self.clock += LATE_AFTER + SECOND
        for said in self.again:
            self.carry_out(said)
        self.again.clear()
        self.reconcile()
        if self.run is not None and self.run.doubtful:
            self.run.doubtful = False
            self.tell(self.answer(), sure=True)
        assert (self.run is not None) == self.pull.is_ours
        if self.run is not None:
            assert self.run.head == self.pull.head
            assert self.run.whole or self.pull.draft

    # What holds at every moment.

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
