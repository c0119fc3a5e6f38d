"""Queries for the page of operators."""

from datetime import datetime, timedelta

from sqlalchemy import Connection, case, distinct, func, select

from opam_ci.clients.index.audit import Audit
from opam_ci.clients.index.engine import reading
from opam_ci.clients.index.gauges import GREEN_UNBUILT
from opam_ci.clients.index.incidents import (
    HIT_BY_INCIDENTS,
    IncidentFilter,
    Incidents,
    is_still_errored,
)
from opam_ci.clients.index.ops_attempts import judged_again, recent, unknown_faults, with_attempts
from opam_ci.clients.index.ops_queue import flow, queue
from opam_ci.clients.index.overview import Overview
from opam_ci.clients.index.paging import Place
from opam_ci.clients.index.rows import revision_of
from opam_ci.clients.index.schema import (
    ATTEMPTS,
    HEADS,
    INCIDENTS,
    JOBS,
    KEY_COLUMNS,
    PULL_REQUESTS,
    REVISIONS,
)
from opam_ci.clients.index.verdicts import count_audits
from opam_ci.clients.index.waivers import announced
from opam_ci.core.incidents.model import Incident
from opam_ci.core.incidents.restarts import JOB_BUDGET
from opam_ci.core.jobs.hold import day_of
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.pages.ops import (
    LEAST_FAULTS,
    ROWS_SHOWN,
    GreenUnbuilt,
    OpsIncident,
    OpsPage,
    Quality,
    Share,
)
from opam_ci.core.text.health import CiState, ci_sentence

_OPEN = IncidentFilter(is_open=True, least_faults=LEAST_FAULTS)
_SORTED = 200
"""Open incidents of which those with most jobs are shown."""

_HOUR = timedelta(hours=1)
_FIRST = Place(limit=ROWS_SHOWN)


class Ops(Incidents, Overview, Audit):
    """The part of the index with the page of operators."""

    def ops_page(self, now: datetime) -> OpsPage:
        """Returns the page of operators.

        Its parts are read one after another: their numbers may differ by what happens meanwhile.

        Args:
            now: The time.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        listed = self.incidents(_OPEN, place=Place(limit=_SORTED)).items
        incidents = sorted(listed, key=lambda each: (-each.jobs, -each.faults, each.id))
        with reading(self._engine) as connection:
            shown = _incidents(connection, incidents[:ROWS_SHOWN], now)
            attempts = recent(connection, now)
            waiting = queue(connection)
            quality = _quality(connection, now)
            unknown = unknown_faults(connection, now)
            workers = with_attempts(connection, attempts.workers)
            timed = flow(connection, now)
            waivers = announced(connection, now)[:ROWS_SHOWN]
        hour = sum((pool.hour for pool in attempts.pools), Share())
        day = sum((pool.day for pool in attempts.pools), Share())
        oldest = (row.oldest_at for row in waiting.platforms if row.oldest_at is not None)
        is_well, sentence = ci_sentence(
            CiState(
                incidents=tuple(incidents),
                incidents_number=len(incidents),
                workers=len(attempts.workers),
                attempts_hour=hour.attempts,
                faults_hour=hour.faults,
                attempts_day=day.attempts,
                faults_day=day.faults,
                queued=sum(row.queued for row in waiting.platforms),
                running=sum(row.running for row in waiting.platforms),
                queued_since=min(oldest, default=None),
                begun_at=attempts.begun_at,
            ),
            now,
        )
        return OpsPage(
            as_of=now,
            is_well=is_well,
            sentence=sentence,
            incidents=shown,
            more_incidents=len(incidents) - len(shown),
            pools=attempts.pools,
            queue=waiting.platforms,
            workers=tuple(workers),
            more_workers=len(attempts.workers) - len(workers),
            unknown=unknown,
            quality=quality.model_copy(update={"wrong": self.wrong_verdicts(_FIRST).items}),
            parked=self.errors(),
            authors=self.authors(day_of(now))[:ROWS_SHOWN],
            flow=timed,
            waiting=waiting.waiting,
            more_waiting=waiting.more_waiting,
            waivers=waivers,
            audit=self.audit(_FIRST).items,
        )


def _incidents(
    connection: Connection, incidents: list[Incident], now: datetime
) -> tuple[OpsIncident, ...]:
    ids = [each.id for each in incidents]
    of = ATTEMPTS.c.incident_id.in_(ids)
    faults = select(ATTEMPTS.c.incident_id, func.count().label("faults")).where(of)
    faults = faults.where(ATTEMPTS.c.ended_at >= now - _HOUR).group_by(ATTEMPTS.c.incident_id)
    in_hour = {row.incident_id: row.faults for row in connection.execute(faults)}
    # Of an errored job and, where it has automatic restarts left, of its pull request.
    left = JOBS.c.restart_budget_used < JOB_BUDGET
    restarts = (
        select(
            INCIDENTS.c.id,
            func.count(distinct(case((left, JOBS.c.id)))).label("jobs"),
            func.count(distinct(case((left, REVISIONS.c.pull_request_id)))).label("pull_requests"),
            func.count(distinct(case((~left, JOBS.c.id)))).label("spent"),
        )
        .select_from(HIT_BY_INCIDENTS)
        .where(INCIDENTS.c.id.in_(ids), is_still_errored())
        .group_by(INCIDENTS.c.id)
    )
    restarted = {row.id: row for row in connection.execute(restarts)}
    retries = (
        select(
            ATTEMPTS.c.incident_id,
            func.count(distinct(JOBS.c.id)).label("jobs"),
            func.min(JOBS.c.next_attempt_at).label("next_at"),
        )
        .select_from(ATTEMPTS.join(JOBS))
        .where(of, JOBS.c.standing == Standing.RETRYING)
        .group_by(ATTEMPTS.c.incident_id)
    )
    retried = {row.incident_id: row for row in connection.execute(retries)}
    found = []
    for incident in incidents:
        again, retry = restarted.get(incident.id), retried.get(incident.id)
        found.append(
            OpsIncident(
                incident=incident,
                faults_hour=in_hour.get(incident.id, 0),
                restarts=again.jobs if again else 0,
                restart_pull_requests=again.pull_requests if again else 0,
                spent=again.spent if again else 0,
                retrying=retry.jobs if retry else 0,
                next_retry_at=retry.next_at if retry else None,
            )
        )
    return tuple(found)


def _quality(connection: Connection, now: datetime) -> Quality:
    number, marks = judged_again(connection, now)
    green = select(*KEY_COLUMNS, PULL_REQUESTS.c.title).select_from(HEADS).where(GREEN_UNBUILT)
    newest = green.order_by(REVISIONS.c.updated_at.desc(), REVISIONS.c.id.desc()).limit(ROWS_SHOWN)
    counted = select(func.count()).select_from(HEADS).where(GREEN_UNBUILT)
    return Quality(
        judged_again=marks,
        judged_again_number=number,
        green_unbuilt=tuple(
            GreenUnbuilt(revision=revision_of(row), title=row.title)
            for row in connection.execute(newest)
        ),
        green_unbuilt_number=connection.scalar(counted) or 0,
        audits=count_audits(connection, now),
    )
