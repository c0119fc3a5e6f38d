"""Texts about the state of the whole CI, for operators."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from opam_ci.core.incidents.model import Incident
from opam_ci.core.model import Frozen
from opam_ci.core.printable import clip, flat
from opam_ci.core.text.status import CAUSE_TEXTS

LONGEST = 200
"""Characters of the sentence."""

STALLED_AFTER = timedelta(minutes=15)
"""Jobs that wait so long while no attempt begins are a fault: workers take jobs within seconds."""

MANY_FAULTS = 5.0
"""Percent of the attempts of an hour that meet a fault on a bad day. On a usual one it is about 1:
hosts of sources fail for a moment, and a retry succeeds."""

_ENOUGH = 20
"""Attempts of an hour from which a share means something."""


class CiState(Frozen):
    """What the sentence is made of.

    Attributes:
        incidents: Open ones, the most important first.
        incidents_number: All open ones.
        workers: Workers that began an attempt within a day.
        attempts_hour: Attempts that ended, of those that began within the last hour.
        faults_hour: Those of them that met an infrastructure fault.
        attempts_day: The same of a day.
        faults_day: The same of a day.
        queued: Jobs that wait.
        running: Jobs under way.
        queued_since: Since when the first of the queued ones waits; None without any.
        begun_at: When the last attempt began; None if none did within a day.
    """

    incidents: tuple[Incident, ...] = ()
    incidents_number: int = 0
    workers: int = 0
    attempts_hour: int = 0
    faults_hour: int = 0
    attempts_day: int = 0
    faults_day: int = 0
    queued: int = 0
    running: int = 0
    queued_since: datetime | None = None
    begun_at: datetime | None = None


def ci_sentence(state: CiState, now: datetime) -> tuple[bool, str]:
    """Returns whether the CI is well, and a sentence of at most `LONGEST` characters.

    Args:
        state: Of the CI.
        now: The time.
    """
    problem = _incident(state.incidents, state.incidents_number) or _stall(state, now)
    problem = problem or _share(state)
    if problem:
        return False, clip(f"No: {problem}", LONGEST)
    if not state.attempts_day and not state.running:
        return True, "Nothing to do: no attempt began within 24 hours, and no job waits."
    waits = "no job waits"
    if state.queued_since is not None:
        waits = f"{_jobs(state.queued)} waiting, the first for {span(now - state.queued_since)}"
    ran = f"{state.attempts_day} attempts of {_counted(state.workers, 'worker')} in 24 hours"
    return True, f"Yes: {ran}, {state.faults_day} met a fault; {waits}."


def resolve_preview(restarts: int, pull_requests: int, spent: int) -> str:
    """Returns what the resolution of an incident would do, as a sentence.

    Args:
        restarts: Jobs that it would restart.
        pull_requests: Of how many pull requests.
        spent: Jobs that it would not restart, since their automatic restarts are used up.
    """
    if not restarts:
        text = "Resolving it would restart no job"
    else:
        of = _counted(pull_requests, "pull request")
        text = f"Resolving it would restart {_jobs(restarts)} in {of}"
        text += ": one, and then the others" if restarts > 1 else ""
    if spent:
        waits = "waits" if spent == 1 else "wait"
        text += f"; {_jobs(spent)} without automatic restarts left {waits} for a manual one"
    return f"{text}."


def drain_text(queued: int, attempts_hour: int) -> str:
    """Returns how long the queue takes at the pace of the last hour; empty for an empty one.

    Args:
        queued: Jobs that wait.
        attempts_hour: Attempts of the last hour that ended.
    """
    if not queued:
        return ""
    if not attempts_hour:
        return f"{_jobs(queued)} waiting; no attempt of the last hour has ended."
    length = span(timedelta(hours=queued / attempts_hour))
    return f"{_jobs(queued)} waiting: about {length} at the pace of the last hour."


def span(length: timedelta) -> str:
    """Returns a length of time in its largest unit, such as `3 h`."""
    minutes = max(0, int(length.total_seconds() // 60))
    for unit, size in (("d", 1440), ("h", 60)):
        if minutes >= 2 * size:
            return f"{minutes // size} {unit}"
    return f"{minutes} min"


def place_text(incident: Incident) -> str:
    """Returns where an incident is."""
    place = incident.place
    if place.worker is not None:
        return f"worker {flat(place.worker)}"
    return "several pools" if place.pool is None else f"pool {flat(place.pool)}"


def _incident(incidents: Sequence[Incident], number: int) -> str:
    if not incidents:
        return ""
    worst = max(incidents, key=lambda each: (each.jobs, each.faults, -each.id))
    hit = f"{_jobs(worst.jobs)} of {_counted(worst.pull_requests, 'pull request')}"
    since = f"since {worst.first_seen_at:%Y-%m-%d %H:%M} UTC"
    more = f"; {_counted(number - 1, 'more open incident')}" if number > 1 else ""
    where = clip(place_text(worst), 60)
    return f"{CAUSE_TEXTS[worst.cause]} on {where} hit {hit} {since}{more}."


def _stall(state: CiState, now: datetime) -> str:
    since = state.queued_since
    if since is None or now - since < STALLED_AFTER or state.running:
        return ""
    if state.begun_at is not None and now - state.begun_at < STALLED_AFTER:
        return ""
    begun = "within 24 hours"
    if state.begun_at is not None:
        begun = f"for {span(now - state.begun_at)}"
    return f"{_jobs(state.queued)} waiting, and no attempt began {begun}: are there workers?"


def has_many_faults(attempts: int, faults: int) -> bool:
    """Whether more attempts of an hour met a fault than on a usual day."""
    return attempts >= _ENOUGH and 100 * faults >= MANY_FAULTS * attempts


def _share(state: CiState) -> str:
    if not has_many_faults(state.attempts_hour, state.faults_hour):
        return ""
    hour = 100 * state.faults_hour / state.attempts_hour
    day = 100 * state.faults_day / max(state.attempts_day, 1)
    return (
        f"{hour:.0f} % of the attempts of the last hour met an infrastructure fault,"
        f" and {day:.1f} % of those of 24 hours."
    )


def _jobs(number: int) -> str:
    return _counted(number, "job")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
