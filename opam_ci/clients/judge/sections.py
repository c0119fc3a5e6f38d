"""The sections of a log: the phases that its runner recorded.

Not those of the text, in which a package can print the same words.
"""

from typing import NamedTuple

from opam_ci.clients.judge.judged import judged_of
from opam_ci.clients.logs.view import LogView
from opam_ci.core.jobs.facts import PhaseRun


class LogSection(NamedTuple):
    """The output of one phase.

    Attributes:
        run: The phase and how it ended; `log_start` and `log_end` are its place in bytes.
        first_line: Number of its first line.
        last_line: Number of its last one; before the first one if it printed nothing.
    """

    run: PhaseRun
    first_line: int
    last_line: int


async def sections(view: LogView) -> tuple[LogSection, ...]:
    """Returns the sections of a log, none if no facts are stored with it: it runs, or was lost.

    Raises:
        InfrastructureError: The store cannot be read, or what it has is damaged.
    """
    judged = judged_of(view.closed, view.key)
    runs = judged.facts.phases if judged is not None else ()
    places = {place for run in runs for place in (run.log_start, max(run.log_end - 1, 0))}
    lines = await view.lines_at(places)
    return tuple(
        LogSection(run, lines[run.log_start], lines[run.log_end - 1])
        if run.log_end > run.log_start
        else LogSection(run, lines[run.log_start], lines[run.log_start] - 1)
        for run in runs
    )
