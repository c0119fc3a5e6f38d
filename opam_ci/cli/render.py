"""The job matrix on a terminal, in plain lines, and as JSON lines."""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import IO, Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from opam_ci.core.packed import FOR_PEOPLE
from opam_ci.core.result_text import standing
from opam_ci.core.summary import BUILDS_NOTHING, JobState, JobStatus, Summary
from opam_ci.core.text import group_lines, headline, verdict, why

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


def elapsed(status: JobStatus, now: datetime) -> str:
    """Returns how long a job has run, or ran, such as `1:05`; empty before it starts."""
    if status.started_at is None or status.state is JobState.QUEUED:
        return ""
    end = status.decided_at or now
    seconds = max(0, int((end - status.started_at).total_seconds()))
    return f"{seconds // 60}:{seconds % 60:02d}"


def table(summary: Summary, now: datetime, *, rows: int | None = None) -> Table:
    """Returns the matrix as a table that fits 80 columns; reasons stand below their jobs.

    Args:
        summary: What to show.
        now: For the elapsed time of running jobs.
        rows: How many rows fit; undecided and red ones come first when not all do.
    """
    result = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("job", "phase", "outcome"):
        result.add_column(name, no_wrap=True)
    for name in ("try", "time"):
        result.add_column(name, no_wrap=True, justify="right")
    platforms = {status.job.platform for status in summary.shown if status.job.platform}
    if len(platforms) > 1:
        result.add_column("platform", no_wrap=True)
    shown: Iterable[JobStatus] = summary.shown
    if rows is not None and len(summary.shown) > rows:
        shown = sorted(summary.shown, key=_interest)[:rows]
    for status in shown:
        style = _STYLES[status.standing]
        result.add_row(
            escape(status.job.title),
            status.phase.value if status.phase and status.outcome is None else "",
            f"[{style}]{escape(verdict(status))}[/]",
            str(status.attempt or ""),
            elapsed(status, now),
            *([escape(status.job.platform)] if len(platforms) > 1 else []),
        )
    return result


def reasons(summary: Summary) -> list[str]:
    """Returns a line for each job of which there is more to say than its outcome."""
    return [
        f"{escape(status.job.title)}: {escape(_printable(why(status)))}"
        for status in summary.shown
        if why(status)
    ]


def _interest(status: JobStatus) -> int:
    order = ["failed", "errored", "retrying", "running", "queued"]
    key = status.standing
    return order.index(key) if key in order else len(order)


def _printable(text: str) -> str:
    """Returns text without control characters: log lines are hostile to terminals."""
    return "".join(char if char.isprintable() else " " for char in text)


class View(Protocol):
    """Shows one state after another."""

    def show(self, summary: Summary) -> None:
        """Shows the state as it is now."""

    def stop(self) -> None:
        """Gives the terminal back; may be called at any time and again."""

    def close(self, summary: Summary) -> None:
        """Shows the last state for good."""


class LiveView:
    """A table that is redrawn in place, for a person at a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def show(self, summary: Summary) -> None:
        """Redraws the table."""
        if not self._live.is_started:
            self._live.start()
        rows = max(5, self._console.height - 6)
        now = datetime.now(UTC)
        self._live.update(Group(table(summary, now, rows=rows), "", escape(headline(summary))))

    def stop(self) -> None:
        """Shows the cursor again."""
        if self._live.is_started:
            self._live.stop()

    def close(self, summary: Summary) -> None:
        """Leaves the whole table on the screen."""
        self.stop()
        print_summary(self._console, summary)


class LineView:
    """One line for each change, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, str] = {}

    def show(self, summary: Summary) -> None:
        """Prints a line for every job that changed since the last time."""
        for status in summary.shown:
            phase = f" ({status.phase})" if status.phase and status.outcome is None else ""
            line = f"{status.job.id}: {verdict(status)}{phase}"
            if status.outcome is not None or status.state is JobState.RETRYING:
                line += f": {_printable(why(status))}" if why(status) else ""
            if self._said.get(status.job.id) != line:
                self._said[status.job.id] = line
                self._console.out(f"{datetime.now(UTC):%H:%M:%S} {line}", highlight=False)

    def stop(self) -> None:
        """Has nothing to give back."""

    def close(self, summary: Summary) -> None:
        """Prints the table."""
        self.show(summary)
        self._console.out("")
        print_summary(self._console, summary)


class JsonView:
    """JSON lines: `{"event": "job", …}` for each change, `{"event": "summary", …}` at the end."""

    def __init__(self, stream: IO[str] = sys.stdout) -> None:
        self._stream = stream
        self._said: dict[str, str] = {}

    def show(self, summary: Summary) -> None:
        """Prints a line for every job that changed since the last time."""
        for status in summary.shown:
            text = status.model_dump_json()
            if self._said.get(status.job.id) != text:
                self._said[status.job.id] = text
                self._print({"event": "job", "id": status.job.id} | json.loads(text))

    def stop(self) -> None:
        """Has nothing to give back."""

    def close(self, summary: Summary) -> None:
        """Prints the whole state."""
        self.show(summary)
        self._print({"event": "summary"} | whole_state(summary))

    def _print(self, value: object) -> None:
        print(json.dumps(value, ensure_ascii=False), file=self._stream, flush=True)


def whole_state(summary: Summary) -> dict[str, Any]:
    """Returns the whole state as JSON: `counts` of builds and tests, the rest in `apart`."""
    apart = {
        kind.value: dict(Counter(row.standing for row in summary.jobs if row.job.kind is kind))
        for kind in BUILDS_NOTHING
    }
    return {
        "state": summary.state.value,
        "result": standing(summary),
        "counts": summary.ran.model_dump(),
        "apart": {kind: counts for kind, counts in apart.items() if counts},
        **json.loads(summary.model_dump_json(context=FOR_PEOPLE)),
    }


def print_summary(console: Console, summary: Summary) -> None:
    """Prints the whole matrix and its one-line result."""
    console.print(table(summary, datetime.now(UTC)))
    for line in [*map(escape, group_lines(summary)), "", *reasons(summary)]:
        console.print(line, soft_wrap=True)
    console.print(escape(headline(summary)))
    for notice in summary.notices:
        console.print(f"note: {escape(_printable(notice))}")


def make_view(*, as_json: bool) -> View:
    """Returns the view that fits where the output goes."""
    if as_json:
        return JsonView()
    console = Console()
    if console.is_terminal:
        return LiveView(console)
    # A pipe has no width; rich would cut at 80 columns what nobody has to fit.
    return LineView(Console(width=160, no_color=True))
