"""An attempt in detail: with what it ran, and what differs from where the same job passed."""

from collections.abc import Iterable

from opam_ci.core.classify.lines import clean
from opam_ci.core.classify.salience import is_generic
from opam_ci.core.incidents.fingerprint import normalised
from opam_ci.core.jobs.facts import BuildEnvironment, PhaseRun
from opam_ci.core.jobs.outcome import LogLine
from opam_ci.core.jobs.records import AttemptRecord, JobRecord
from opam_ci.core.model import Frozen

NEW_LINES = 20
"""Lines that a page shows of those that no log of a passed job has."""

_LINES_EXAMINED = 2000
"""Such lines that are examined: to tell whether one is generic takes up to a tenth of a
millisecond."""


class DependencyChange(Frozen):
    """A package whose version differs from that of another solution.

    Attributes:
        name: Its name.
        before: Its version there, empty if it was not installed.
        now: Its version here, empty if it is not installed.
    """

    name: str
    before: str
    now: str


class AttemptDetails(Frozen):
    """What an attempt ran with, and what differs from where the same job passed.

    Attributes:
        attempt: The attempt.
        phases: In the order in which they ran; none if nothing is stored of them.
        environment: With what it was built; None if that is not stored.
        passed: The same target on the same platform where it passed last, if it is known.
        changes: Packages of which other versions were installed then, by name.
        new_lines: The first lines of the last phase that no log of a passed job has, messages
            that any failure has apart; numbers, paths and hashes may differ. None of an attempt
            that passed.
    """

    attempt: AttemptRecord
    phases: tuple[PhaseRun, ...] = ()
    environment: BuildEnvironment | None = None
    passed: JobRecord | None = None
    changes: tuple[DependencyChange, ...] = ()
    new_lines: tuple[LogLine, ...] = ()


def dependency_changes(
    now: BuildEnvironment, before: BuildEnvironment
) -> tuple[DependencyChange, ...]:
    """Returns what differs between two solutions, by name; nothing where one was not found."""
    if not now.solution or not before.solution:
        return ()
    new, old = _versions(now), _versions(before)
    return tuple(
        DependencyChange(name=name, before=old.get(name, ""), now=new.get(name, ""))
        for name in sorted(new.keys() | old.keys())
        if new.get(name) != old.get(name)
    )


def new_lines(run: PhaseRun, text: str, passed: Iterable[str]) -> tuple[LogLine, ...]:
    """Returns the first lines of a phase that are in no other log, each once.

    Args:
        run: The phase.
        text: What is kept of its output.
        passed: What is kept of that phase where the job passed.
    """
    known = {normalised(line.lower) for other in passed for line in clean(other)}
    found: list[LogLine] = []
    examined = 0
    for line in clean(text, log_start=run.log_start, log_end=run.log_end):
        key = normalised(line.lower)
        if key in known:
            continue
        known.add(key)
        examined += 1
        if not is_generic(line.text):
            found.append(line.as_evidence())
        if len(found) == NEW_LINES or examined == _LINES_EXAMINED:
            break
    return tuple(found)


def _versions(environment: BuildEnvironment) -> dict[str, str]:
    parts = (each.partition(".") for each in (*environment.compiler, *environment.solution))
    return {name: version for name, _, version in parts}
