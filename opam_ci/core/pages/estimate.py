"""How long the jobs of a head will still take."""

from collections.abc import Sequence
from datetime import timedelta

JOBS_CONSIDERED = 200
"""Jobs decided last whose durations are considered."""

_FEWEST = 3
"""Fewer say nothing."""


def time_left(durations: Sequence[timedelta], *, running: int, undecided: int) -> timedelta | None:
    """Estimates how long jobs will take that are not decided.

    Assumes that they take as long as those before them, and that as many run at once as now.

    Args:
        durations: Of the jobs decided last, from the start of their last attempt.
        running: Jobs that run now.
        undecided: Jobs that are to be decided, those that run included.

    Returns:
        The time; None if nothing runs, or too few jobs are decided to tell.
    """
    if not running or len(durations) < _FEWEST:
        return None
    mean = sum(durations, timedelta(0)) / len(durations)
    # Clocks may differ.
    return max(mean, timedelta(0)) * undecided / running
