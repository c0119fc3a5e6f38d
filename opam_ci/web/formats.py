"""How pages write times, numbers and reasons."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from markupsafe import Markup, escape

from opam_ci.core.incidents.model import Incident, Scope
from opam_ci.core.jobs.outcome import Cause, Evidence, Outcome
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.pages.estimate import estimate_text
from opam_ci.core.pages.model import CauseGroup, HitIncident
from opam_ci.core.text.durations import seconds
from opam_ci.core.text.effect import cycle_text, effect_title, lost_text
from opam_ci.core.text.result import ON_BASE_TEXTS, SKIP_TEXTS, reason_line
from opam_ci.core.text.status import CAUSE_TEXTS, why
from opam_ci.web.addresses import path

_SEVERAL = 3
"""Names that a list shows before it counts the others."""


def moment(at: datetime) -> str:
    """Returns a time, to the minute: all of a page are UTC."""
    return f"{at:%Y-%m-%d %H:%M} UTC"


def thousands(number: int) -> Markup:
    """Returns a number with a thin space between thousands, at which no line ends."""
    return Markup("\u202f").join(f"{number:,}".split(","))


def duration(span: timedelta) -> str:
    """Returns a duration, see `seconds`."""
    return seconds(max(span.total_seconds(), 0.0))


def byte_count(number: int) -> str:
    """Returns a number of bytes with a unit."""
    size = float(number)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004 - of these units
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def several(names: Sequence[str]) -> str:
    """Returns the first names of a list, and how many there are more."""
    shown = ", ".join(names[:_SEVERAL])
    more = len(names) - _SEVERAL
    return f"{shown} and {more} more" if more > 0 else shown


def target_name(key: RevisionKey) -> str:
    """Returns what identifies a pull request or branch on all pages."""
    return (
        f"{key.repository}#{key.number}" if key.branch is None else f"{key.repository}:{key.branch}"
    )


def code_spans(text: str) -> Markup:
    """Returns a text of our own with what is between backticks as code."""
    plain, *others = text.split("`")
    found = escape(plain)
    for place, part in enumerate(others):
        found += part if place % 2 else Markup("<code>{}</code>").format(part)
    return found


def why_text(group: CauseGroup) -> str:
    """Returns the reason or cause of a group in words."""
    if group.standing in {Standing.ERRORED, Standing.RETRYING}:
        return f"{CAUSE_TEXTS[Cause(group.why)]}, the CI's fault"
    for reason, text in SKIP_TEXTS.items():
        if group.standing is Standing.SKIPPED and group.why == reason:
            return text
    return group.why.replace("_", " ")


def incident_place(incident: Incident | HitIncident) -> str:
    """Returns the cause and the place of an incident."""
    if isinstance(incident, HitIncident):
        incident = incident.incident
    place = incident.place
    where = "several pools"
    if place.scope is not Scope.ALL:
        where = f"worker {place.worker}" if place.worker else f"pool {place.pool}"
    text = CAUSE_TEXTS[incident.cause]
    return f"{text[0].upper()}{text[1:]} on {where}"


def evidence_line(evidence: Evidence) -> str:
    """Returns what shows a fault best: a line of the log, or a fact."""
    return evidence.lines[0].text if evidence.lines else evidence.detail or ""


def reason(outcome: Outcome) -> str:
    """Returns why an attempt ended as it did; empty for one that passed."""
    return "" if outcome.kind == "passed" else reason_line(outcome)


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "bytes": byte_count,
    "code_spans": code_spans,
    "duration": duration,
    "cycle_text": cycle_text,
    "effect_title": effect_title,
    "estimate_text": estimate_text,
    "evidence_line": evidence_line,
    "incident_place": incident_place,
    "moment": moment,
    "pathquote": path,
    "reason": reason,
    "seconds": seconds,
    "several": several,
    "on_base_text": ON_BASE_TEXTS.__getitem__,
    "target_name": target_name,
    "thousands": thousands,
    "why": why,
    "lost_text": lost_text,
    "why_text": why_text,
}
