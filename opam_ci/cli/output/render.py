"""The jobs of a head on a terminal, in plain lines, and as JSON lines."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO, Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from opam_ci.cli.output.tables import Column, Listing, output
from opam_ci.core.jobs.summary import (
    BUILDS_NOTHING,
    UNDECIDED,
    JobState,
    JobStatus,
    Standing,
    Summary,
    total,
)
from opam_ci.core.packed import UNPACKED
from opam_ci.core.pages.causes import group_rows
from opam_ci.core.printable import printable
from opam_ci.core.text.effect import effect_notices
from opam_ci.core.text.result import standing
from opam_ci.core.text.sentence import sentence_line
from opam_ci.core.text.status import hidden_lines, verdict, why, worst_first

_STYLES = {
    "passed": "green",
    "failed": "bold red",
    "errored": "bold magenta",
    "skipped": "dim",
    "cancelled": "dim",
    "retrying": "yellow",
    "running": "cyan",
    "queued": "dim",
}


_MOST_ROWS = 300
"""Rows that are printed of a head: more than a person reads, and few enough to scroll back."""

_UNLISTED_INTERVAL = timedelta(seconds=10)
"""How often numbers of jobs without a row are printed."""


def elapsed(status: JobStatus, now: datetime) -> str:
    """Returns how long a job has run, or ran, such as `1:05`; empty before it starts."""
    if status.started_at is None or status.state is JobState.QUEUED:
        return ""
    end = status.decided_at or now
    seconds = max(0, int((end - status.started_at).total_seconds()))
    return f"{seconds // 60}:{seconds % 60:02d}"


def matrix(rows: Sequence[JobStatus], now: datetime) -> Listing:
    """Returns the jobs of a head as a list, without reasons.

    Args:
        rows: The jobs.
        now: For the elapsed time of running jobs.
    """
    platforms = {status.job.platform for status in rows if status.job.platform}
    result = Listing(
        Column("job", is_key=True),
        Column("phase", drop=3),
        Column("outcome"),
        Column("try", drop=1, is_number=True),
        Column("time", drop=2, is_number=True),
        *([Column("platform", is_key=True)] if len(platforms) > 1 else []),
    )
    for status in rows:
        result.add(
            status.job.title,
            _progress(status),
            Text(verdict(status), _STYLES[status.standing]),
            str(status.attempt or ""),
            elapsed(status, now),
            *([status.job.platform] if len(platforms) > 1 else []),
        )
    return result


def chosen_rows(summary: Summary, most: int) -> Sequence[JobStatus]:
    """Returns all rows of a head, or the first `most`, failures before anything else."""
    return summary.jobs if len(summary.jobs) <= most else worst_first(summary.jobs)[:most]


def reasons(rows: Sequence[JobStatus]) -> list[str]:
    """Returns a line for each job whose outcome has a reason; what looks the same has one."""
    groups = group_rows(rows)
    first = {group.first.job.id: group for group in groups}
    grouped = {row.job.id for group in groups for row in (*group.members[1:], *group.cascade)}
    return [
        f"{row.job.title}{first[row.job.id].others if row.job.id in first else ''}: {reason}"
        for row in rows
        if row.job.id not in grouped and (reason := printable(why(row)))
    ]


class View(Protocol):
    """Shows one state after another."""

    def show(self, summary: Summary) -> None:
        """Shows the state as it is now."""

    def stop(self) -> None:
        """Restores the terminal; may be called at any time and repeatedly."""

    def close(self, summary: Summary) -> None:
        """Shows the last state."""


class LiveView:
    """A table that is redrawn in place, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def show(self, summary: Summary) -> None:
        """Redraws the table."""
        if not self._live.is_started:
            self._live.start()
        now, height = datetime.now(UTC), max(5, self._console.height - 6)
        rows = chosen_rows(summary, height)
        # A narrow terminal shows a row in several lines.
        lines = len(self._console.render_lines(matrix(rows, now)))
        if lines > height + 1:
            rows = chosen_rows(summary, max(1, height * len(rows) // lines))
        self._live.update(Group(matrix(rows, now), "", Text(sentence_line(summary))))

    def stop(self) -> None:
        """Shows the cursor again."""
        if self._live.is_started:
            self._live.stop()

    def close(self, summary: Summary) -> None:
        """Leaves the whole table on the screen."""
        self.stop()
        print_summary(self._console, summary)


class _Printed:
    """What was printed: the last line of each job that had a row, and how many had none.

    Rows appear and disappear between two states: a large head has rows of some jobs only.

    Args:
        line: Returns the line of a row.
    """

    def __init__(self, line: Callable[[JobStatus], str]) -> None:
        self._line = line
        self._lines: dict[str, str] = {}
        self._standings: dict[str, Standing] = {}
        self._numbers: Counter[Standing] = Counter()
        self._unlisted: dict[str, int] = {}
        self._unlisted_at: datetime | None = None

    def changes(self, summary: Summary) -> Iterator[tuple[JobStatus, str]]:
        """Yields the rows whose line has changed, with the line."""
        for row in summary.jobs:
            line = self._line(row)
            if self._lines.get(row.job.id) == line:
                continue
            self._lines[row.job.id] = line
            if (before := self._standings.get(row.job.id)) is not None:
                self._numbers[before] -= 1
            self._standings[row.job.id] = row.standing
            self._numbers[row.standing] += 1
            yield row, line

    def unlisted(self, summary: Summary, now: datetime, *, at_once: bool) -> dict[str, int]:
        """Returns how many jobs were decided without a line; empty between two intervals.

        Args:
            summary: The state, with the numbers of all jobs.
            now: The time.
            at_once: Whether to ignore the interval.
        """
        counts = total(summary.tallies)
        numbers = {
            standing.value: number
            for standing in Standing
            if standing not in UNDECIDED
            and (number := getattr(counts, standing) - self._numbers[standing]) > 0
        }
        is_early = self._unlisted_at is not None and now - self._unlisted_at < _UNLISTED_INTERVAL
        if numbers == self._unlisted or (is_early and not at_once):
            return {}
        self._unlisted, self._unlisted_at = numbers, now
        return numbers


class LineView:
    """One line for each change, and a table at the end, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed = _Printed(_line)

    def show(self, summary: Summary) -> None:
        """Prints a line for every row that changed since the last time."""
        self._show(summary, at_once=False)

    def _show(self, summary: Summary, *, at_once: bool) -> None:
        now = datetime.now(UTC)
        for _, line in self._printed.changes(summary):
            self._console.out(f"{now:%H:%M:%S} {line}", highlight=False)
        if unlisted := self._printed.unlisted(summary, now, at_once=at_once):
            listed = ", ".join(f"{number} {standing}" for standing, number in unlisted.items())
            self._console.out(f"{now:%H:%M:%S} other jobs: {listed}", highlight=False)

    def stop(self) -> None:
        """Does nothing: the terminal was not changed."""

    def close(self, summary: Summary) -> None:
        """Prints the table."""
        self._show(summary, at_once=True)
        self._console.out("")
        print_summary(self._console, summary)


class JsonView:
    """JSON lines: `{"event": "job", …}` for each change, `{"event": "summary", …}` at the end.

    `{"event": "unlisted", …}` has the numbers of jobs that were decided without such a line.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._printed = _Printed(JobStatus.model_dump_json)

    def show(self, summary: Summary) -> None:
        """Prints a line for every row that changed since the last time."""
        self._show(summary, at_once=False)

    def _show(self, summary: Summary, *, at_once: bool) -> None:
        for row, text in self._printed.changes(summary):
            self._print({"event": "job", "id": row.job.id} | json.loads(text))
        if unlisted := self._printed.unlisted(summary, datetime.now(UTC), at_once=at_once):
            self._print({"event": "unlisted", "counts": unlisted})

    def stop(self) -> None:
        """Does nothing: the terminal was not changed."""

    def close(self, summary: Summary) -> None:
        """Prints the whole state."""
        self._show(summary, at_once=True)
        self._print({"event": "summary"} | whole_state(summary))

    def _print(self, value: object) -> None:
        print(json.dumps(value), file=self._stream, flush=True)


def whole_state(summary: Summary) -> dict[str, Any]:
    """Returns the whole state as JSON: `counts` of builds and tests, the rest in `apart`.

    `total` is the number of jobs; of many, `jobs` has only those that explain the state.
    """
    apart: dict[str, Counter[str]] = {}
    for each in summary.tallies:
        if each.kind in BUILDS_NOTHING:
            apart.setdefault(each.kind.value, Counter())[each.standing.value] += each.number
    return {
        "state": summary.state.value,
        "result": standing(summary),
        "counts": summary.ran.model_dump(),
        "apart": apart,
        "total": summary.counts.total,
        **json.loads(summary.model_dump_json(context=UNPACKED)),
    }


def _progress(status: JobStatus) -> str:
    """Returns what a running job is at: its phase, or what is being made for it."""
    if status.phase is None or status.outcome is not None:
        return ""
    return printable(status.note) or status.phase.value


def _line(status: JobStatus) -> str:
    """Returns the line that is printed when a job has changed."""
    progress = f" ({now})" if (now := _progress(status)) else ""
    line = f"{status.job.id}: {verdict(status)}{progress}"
    if (status.outcome is not None or status.state is JobState.RETRYING) and why(status):
        line += f": {printable(why(status))}"
    return line


def print_summary(console: Console, summary: Summary) -> None:
    """Prints the jobs as a table, the numbers of omitted ones, and the one-line result."""
    rows = chosen_rows(summary, _MOST_ROWS)
    console.print(matrix(rows, datetime.now(UTC)), soft_wrap=True)
    for line in [
        *hidden_lines(summary, rows),
        "",
        *reasons(rows),
        sentence_line(summary),
        *(
            f"note: {printable(notice)}"
            for notice in (*summary.notices, *effect_notices(summary.effect))
        ),
    ]:
        console.print(Text(line), soft_wrap=True)


def make_view(*, as_json: bool) -> View:
    """Returns the view for this kind of output: JSON, a terminal, or a pipe."""
    if as_json:
        return JsonView()
    return LiveView(output()) if sys.stdout.isatty() else LineView(output())
