"""IncidentWorkflow: follows one incident until the jobs that it hit have been restarted."""

import asyncio
from collections import Counter
from datetime import datetime

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.incidents import IncidentActivities
    from opam_ci.core.incidents.messages import (
        IncidentState,
        IncidentStatus,
        ResolveIncident,
        SentTrial,
    )
    from opam_ci.core.incidents.model import Incident
    from opam_ci.core.incidents.restarts import (
        HitKey,
        RestartOrder,
        key_of,
        orders_of,
        restart_plan,
        trial_of,
    )
    from opam_ci.core.jobs.selector import RestartOrigin
    from opam_ci.core.text.status import incident_details
    from opam_ci.workflows import options
    from opam_ci.workflows.base import signal_if_running
    from opam_ci.workflows.pause import wait_for

_STRAGGLER_ROUNDS = 3


@workflow.defn
class IncidentWorkflow:
    """Probes an incident, resolves it, and restarts exactly the jobs that it hit.

    The probes are jobs that it hit: their automatic retries, and after these one job that is
    restarted from time to time on trial. Signal: `repaired`.
    """

    @workflow.init
    def __init__(self, state: IncidentState) -> None:
        self._state = state
        self._repaired_by: str | None = None
        self._sent: Counter[HitKey] = Counter(
            {(each.revision, each.job): each.times for each in state.sent}
        )
        self._pause = state.pause or state.intervals.probe_first

    @workflow.signal
    def repaired(self, by: str | None = None) -> None:
        """An operator reports that it is repaired: one trial, then all the others.

        Args:
            by: The operator.
        """
        self._repaired_by = by or "an operator"

    @workflow.run
    async def run(self, state: IncidentState) -> int:
        """Runs until the incident is resolved and its jobs are restarted.

        Args:
            state: The incident, with the state of the previous run.

        Returns:
            Number of restarted jobs, trials included.
        """
        while True:
            sent = self._sent.total()
            status = await self._read_status()
            if status.incident is None:
                return state.restarted
            resolved = not status.incident.is_open
            if not resolved:
                resolved = await self._is_repaired(status)
            if resolved:
                await self._restart_all()
                return state.restarted
            if self._is_reported_repaired():
                continue
            if self._sent.total() > sent:
                # The outcome of the trial counts for the others too: it is checked soon.
                self._pause = state.intervals.probe_first
            if not await wait_for(self._is_reported_repaired, limit=self._pause):
                self._pause = min(2 * self._pause, state.intervals.probe_maximum)
            if not self._is_reported_repaired() and workflow.info().is_continue_as_new_suggested():
                state.pause = self._pause
                state.sent = tuple(
                    SentTrial(revision=revision, job=job, times=times)
                    for (revision, job), times in self._sent.items()
                )
                workflow.continue_as_new(state)

    def _is_reported_repaired(self) -> bool:
        return self._repaired_by is not None

    async def _is_repaired(self, status: IncidentStatus) -> bool:
        """Resolves the incident if there is evidence; else sends a trial if none runs."""
        incident = status.incident
        if incident is None:
            return False
        if status.recovered:
            return await self._resolve("a job that succeeded")
        if self._repaired_by is not None:
            repaired_by, self._repaired_by = self._repaired_by, None
            if await self._trial_survives(status, incident.last_seen_at):
                return await self._resolve(repaired_by)
            self._note(f"reported as repaired by {repaired_by}, but the trial met the fault again")
            return False
        if status.hit:
            if not status.undecided and self._may_probe(incident):
                await self._send_trial(status)
                state = self._state
                pause = state.canary_pause or state.intervals.probe_first
                state.next_canary_at = workflow.now() + pause
                state.canary_pause = min(2 * pause, state.intervals.probe_maximum)
            return False
        quiet = workflow.now() - incident.last_seen_at >= self._state.intervals.quiet
        return quiet and not status.undecided and await self._resolve("all jobs recovered")

    def _may_probe(self, incident: Incident) -> bool:
        """Whether the last trial, or for the first one the last fault, is long enough ago."""
        first_at = incident.last_seen_at + self._state.intervals.probe_first
        return workflow.now() >= (self._state.next_canary_at or first_at)

    async def _send_trial(self, status: IncidentStatus) -> bool:
        trial = trial_of(status.hit, self._sent)
        if trial is None:
            return False
        self._sent[key_of(trial)] += 1
        for order in orders_of((trial,)):
            await self._send(order, RestartOrigin.TRIAL)
        return True

    async def _trial_survives(self, status: IncidentStatus, last_seen_at: datetime) -> bool:
        """Restarts one job and returns whether it does not meet the fault again at once."""
        if not await self._send_trial(status):
            return True
        rounds = int(options.TRIAL_PATIENCE / options.TRIAL_LOOK_INTERVAL)
        for _ in range(rounds):
            await workflow.sleep(options.TRIAL_LOOK_INTERVAL)
            now = await self._read_status()
            if now.incident is None or now.incident.last_seen_at > last_seen_at:
                return False
            if now.recovered:
                return True
        return True

    async def _restart_all(self) -> None:
        """Restarts the jobs in windows; then those whose loss was recorded late."""
        for _ in range(_STRAGGLER_ROUNDS):
            status = await self._read_status()
            plan = restart_plan(status.hit)
            windows = plan.windows
            if plan.trial is not None:
                windows = ((plan.trial,), *windows)
            for window in windows:
                await asyncio.gather(
                    *(self._send(order, RestartOrigin.INCIDENT) for order in window)
                )
                await workflow.sleep(options.RESTART_WINDOW_PAUSE)
            if plan.spent:
                self._note(
                    f"{len(plan.spent)} jobs have reached their limit of automatic restarts: "
                    "restart them with `opam-ci restart`"
                )
            await workflow.sleep(options.STRAGGLER_PAUSE)
            if not restart_plan((await self._read_status()).hit).jobs:
                return

    async def _send(self, order: RestartOrder, origin: RestartOrigin) -> None:
        if await signal_if_running(order.workflow_id, "restart", order.selector(origin=origin)):
            self._state.restarted += len(order.jobs)
        else:
            self._note(f"{order.workflow_id} has ended: no restart needed")

    async def _read_status(self) -> IncidentStatus:
        status = await workflow.execute_activity_method(
            IncidentActivities.look_at_incident,
            self._state.incident,
            **options.index_activity("look at the incident"),
        )
        if status.incident is not None:
            workflow.set_current_details(
                incident_details(
                    status.incident, len(status.hit), status.undecided, self._state.notes
                )
            )
        return status

    async def _resolve(self, by: str) -> bool:
        return await workflow.execute_activity_method(
            IncidentActivities.resolve_incident,
            ResolveIncident(incident=self._state.incident, by=by),
            **options.index_activity(f"resolve: {by}"),
        )

    def _note(self, text: str) -> None:
        self._state.notes.append(text)
        del self._state.notes[:-20]
