"""Runs state machines for a number of steps, and counts what really happened."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Sized
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    run_state_machine_as_test,
)

from opam_ci.core.jobs.outcome import Evidence
from opam_ci.core.jobs.summary import Standing

_Rule = TypeVar("_Rule", bound=Callable[..., Any])
_Item = TypeVar("_Item")

pick = st.integers(0, 999)
"""Chooses one of whatever there is."""

AT = datetime(2026, 1, 2, tzinfo=UTC)
EVIDENCE = Evidence(rule="simulated")
PLATFORMS = ("", "debian/amd64", "alpine/amd64")
"""The first one is that of lint."""

UNDECIDED = {Standing.QUEUED, Standing.RUNNING, Standing.RETRYING}
"""Repeated here: what the models require must not come from the code that they test."""

STEPS_A_HISTORY = 60
"""Long enough for a job to be lost, restarted and lost again, and short enough to be shrunk."""


class Simulation(RuleBasedStateMachine):
    """A state machine that counts its steps and what happened in them.

    Attributes:
        hits: How often each kind of event really happened, over all histories of a run.
        EXPECTED: Kinds of events without which a run proves nothing.
    """

    hits: ClassVar[Counter[str]]
    EXPECTED: ClassVar[frozenset[str]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.hits = Counter()

    def step(self, what: str) -> None:
        """Counts a step."""
        self.hits["steps"] += 1
        self.hits[what] += 1

    def hit(self, what: str) -> None:
        """Counts something that happened within a step."""
        self.hits[what] += 1


def there_are(some: Callable[[Any], Sized]) -> Callable[[_Rule], _Rule]:
    """Lets a rule run only if the machine has something that it applies to."""
    return precondition(lambda machine: len(some(machine)) > 0)


def one(some: Sequence[_Item], pick: int) -> _Item:
    """Returns one of some, chosen by any number."""
    return some[pick % len(some)]


def simulate(
    machine: type[Simulation], steps: int, report: Callable[[str], None], *, complete: bool
) -> None:
    """Runs histories of a machine until they have had so many steps.

    A history that breaks an invariant is shrunk; pytest shows the shortest one found as Python
    calls on the machine, which repeat it.

    Args:
        machine: What to run.
        steps: How many at least.
        report: Takes a line about the run, for its end.
        complete: Whether every kind of event should happen in so many steps.

    Raises:
        AssertionError: A kind of event never happened: then the run proves nothing about it.
    """
    machine.hits.clear()
    begun = time.monotonic()
    while (left := steps - machine.hits["steps"]) > 0 or (
        complete and _is_to_go_on(machine, steps)
    ):
        run_state_machine_as_test(
            machine,
            settings=settings(
                # Hypothesis starts with the simplest history of all.
                max_examples=10 + max(0, left) // STEPS_A_HISTORY,
                stateful_step_count=STEPS_A_HISTORY,
                deadline=None,
                # The calls that pytest prints repeat a failure.
                database=None,
                derandomize=False,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            ),
        )
    hits = {name: number for name, number in machine.hits.items() if name != "steps"}
    seconds = time.monotonic() - begun
    done = f"{machine.hits['steps']} steps in {seconds:.0f} s"
    report(f"{machine.__name__}: {done}; {_listed(hits.items())}")
    missing = sorted(machine.EXPECTED - hits.keys())
    assert not (complete and missing), f"never happened in {done}: {', '.join(missing)}"


def _is_to_go_on(machine: type[Simulation], steps: int) -> bool:
    """Whether a rare event has not happened yet, maybe by chance."""
    return bool(machine.EXPECTED - machine.hits.keys()) and machine.hits["steps"] < 2 * steps


def _listed(hits: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(hits))
