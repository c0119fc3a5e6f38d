"""Texts of the search for lower bounds."""

from collections.abc import Mapping

from opam_ci.core.jobs.bound_search import Step
from opam_ci.core.jobs.outcome import Cancelled, Errored, Failed, Outcome, Passed, Skipped


def step_line(step: Step, outcome: Outcome) -> str:
    """Returns a line on a build: `step 3 of at most 6: cppo ≥ 1.6.1: fails (build)`."""
    if step.at_most is None:
        return f"dependency at fault, build {step.number}: {bounds_line(step.bounds)}: " + ended(
            outcome
        )
    return (
        f"step {step.number} of at most {step.at_most}: {bounds_line(step.bounds)}: "
        f"{ended(outcome)}"
    )


def bounds_line(bounds: Mapping[str, str]) -> str:
    """Returns lower bounds in one line: `cppo ≥ 1.6.1, dune ≥ 2.0`."""
    return ", ".join(f"{name} ≥ {version}" for name, version in bounds.items())


def ended(outcome: Outcome) -> str:
    """Returns what a build came to: `passes`, `fails (build)`."""
    match outcome:
        case Passed():
            return "passes"
        case Failed():
            return f"fails ({outcome.reason})"
        case Skipped():
            return f"is skipped ({outcome.reason})"
        case Errored():
            return f"internal CI error ({outcome.cause})"
        case Cancelled():
            return "cancelled"
