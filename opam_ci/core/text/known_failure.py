"""What the log of a job explains that was ended since a dependency is known to fail."""

import shlex
from collections.abc import Iterator

from opam_ci.core.jobs.known_failure import KnownFailure
from opam_ci.core.jobs.outcome import Reused
from opam_ci.core.printable import flat

RESTART = (
    "A restart of this job builds it all the same: "
    "opam-ci restart OWNER/REPO/NUMBER --all --job JOB"
)


def known_failure_lines(known: KnownFailure) -> Iterator[str]:
    """Yields the lines.

    Args:
        known: What is known of the dependency.
    """
    yield (
        f"{known.package} is not built, nor anything that needs it: built on this machine from "
        f"the same sources, with the same dependencies, it failed alike in {len(known.seen)} jobs:"
    )
    for line in known.outcome.evidence.lines:
        yield f"  {flat(line.text)}"
    yield "Their logs:"
    for seen in known.seen:
        yield f"  {seen.ended_at:%Y-%m-%d %H:%M} UTC: {log_command(seen)}"
    yield RESTART


def log_command(seen: Reused) -> str:
    """Returns the command that prints the log of an attempt."""
    target = seen.repository + (f"/{seen.number}" if seen.branch is None else f":{seen.branch}")
    attempt = ("--round", str(seen.round), "--attempt", str(seen.attempt))
    job = () if seen.job is None else ("--job", seen.job.id)
    words = ("opam-ci", "log", target, "--head", seen.head[:12], *job, *attempt)
    return flat(shlex.join(words))
