"""The log of one job: all output, phase markers, and the excerpts for the judge."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from opam_ci.clients.runners.base import LogSink
from opam_ci.core.classify.excerpt import HEAD_BYTES, TAIL_BYTES, cut
from opam_ci.core.jobs.build import BuildProgress
from opam_ci.core.jobs.job import Phase

_PROGRESS_EVERY = 1.0


class Excerpt:
    """The first and last bytes of a stream."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Takes the next bytes."""
        self._size += len(data)
        room = HEAD_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        # Trimmed now and then, not at every call: trimming copies.
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]

    @property
    def text(self) -> str:
        """The text, with a line in place of what is left out; see `cut`."""
        return cut(bytes(self._head + self._tail), size=self._size)


class Transcript:
    """Writes the log of one job.

    Args:
        log: Receives the log.
        progress: Receives the progress of the job.

    Attributes:
        texts: Excerpts of the phases that ended.
    """

    def __init__(self, log: LogSink, progress: Callable[[BuildProgress], None]) -> None:
        self._log = log
        self._progress = progress
        self._phase = Phase.CHECKOUT
        self._reported_at = -_PROGRESS_EVERY
        self._excerpt = Excerpt()
        self._at_line_start = True
        self.texts: dict[Phase, str] = {}

    @property
    def phase(self) -> Phase:
        """The phase under way."""
        return self._phase

    @property
    def last_line(self) -> str:
        """The last line of the phase's output so far."""
        return (self._excerpt.text.rstrip().splitlines() or [""])[-1][:400]

    @property
    def size(self) -> int:
        """Bytes of the log so far."""
        return self._log.size

    def begin(self, phase: Phase, title: str) -> None:
        """Marks the beginning of a phase."""
        self._phase = phase
        self._excerpt = Excerpt()
        self._marker(f"phase {phase} begins {_now()}: {title}")
        self._report()

    def output(self, data: bytes) -> None:
        """Adds output of the phase's commands."""
        self._write(data)
        self._excerpt.feed(data)
        if time.monotonic() - self._reported_at >= _PROGRESS_EVERY:
            self._report()

    def note(self, line: str) -> None:
        """Adds a line of ours to the phase's output."""
        start = "" if self._at_line_start else "\n"
        self.output(f"{start}[opam-ci] {line}\n".encode())

    def end(self, how: str) -> None:
        """Marks the end of a phase."""
        self.texts[self._phase] = self._excerpt.text
        self._marker(f"phase {self._phase} ends {_now()}: {how}")

    def plain(self, text: str) -> None:
        """Writes text outside of any phase."""
        self._write(text.encode())

    def finish(self) -> None:
        """Writes the end marker: a log without it was cut off."""
        self._marker(f"job ends {_now()}: all phases ran")

    def _marker(self, text: str) -> None:
        self._write(f"\n==== opam-ci: {text}\n".encode())

    def _write(self, data: bytes) -> None:
        if data:
            self._log.write(data)
            self._at_line_start = data.endswith(b"\n")

    def _report(self) -> None:
        self._reported_at = time.monotonic()
        self._progress(BuildProgress(phase=self._phase, log_bytes=self._log.size))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
