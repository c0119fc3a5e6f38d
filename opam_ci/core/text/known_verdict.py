"""What the log of a job explains that was ended since the verdict of its solution is known."""

from collections.abc import Iterator

from opam_ci.core.jobs.outcome import Reused
from opam_ci.core.text.known_failure import RESTART, log_command
from opam_ci.core.text.sentence import when


def known_verdict_lines(ran: Reused) -> Iterator[str]:
    """Yields the lines.

    Args:
        ran: The attempt with the same solution.
    """
    yield f"The packages and their sources are the same as {when(ran)}: its verdict is used again."
    yield f"Its log: {log_command(ran)}"
    yield RESTART
