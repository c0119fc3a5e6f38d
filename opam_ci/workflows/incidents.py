"""IncidentWorkflow: looks after one incident until what it hit has been restarted."""

import asyncio
from collections import Counter
from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.incidents import IncidentActivities
    from opam_ci.core.incidents.messages import (
        IncidentLook,
        IncidentState,
        ResolveIncident,
        SentCanary,
    )
    from opam_ci.core.incidents.model import Incident
    from opam_ci.core.incidents.restarts import (
        HitKey,
        RestartOrder,
        canary_of,
        key_of,
        orders_of,
        restart_plan,
    )
    from opam_ci.core.selector import RestartAsker
    from opam_ci.core.text import incident_details
    from opam_ci.workflows import options
    from opam_ci.workflows.pause import came_true

_STRAGGLER_ROUNDS = 3


@workflow.defn
class IncidentWorkflow:
    """Probes an incident, resolves it, and restarts exactly the jobs that it hit.

    What probes is a job that it hit: while some wait for their automatic retry these do,
    and after that one is restarted from time to time as a canary. Signal: `repaired`.
    """

    @workflow.init
    def __init__(self, state: IncidentState) -> None:
        self._state = state
        self._said_by: str | None = None
        self._sent: Counter[HitKey] = Counter(
            {(each.revision, each.job): each.times for each in state.sent}
        )
        self._pause = state.pause or state.pace.probe_first

    @workflow.signal
    def repaired(self, by: str | None = None) -> None:
        """Somebody says that it is repaired: one canary, then all the others.

        Args:
            by: Who says so.
        """
        self._said_by = by or "an operator"

    @workflow.run
    async def run(self, state: IncidentState) -> int:
        """Runs until the incident is resolved and its jobs are restarted.

        Args:
            state: Which incident, and what a run before this one knew.

        Returns:
            How many jobs it restarted, canaries among them.
        """
        while True:
            sent = self._sent.total()
            look = await self._look()
            if look.incident is None:
                return state.restarted
            resolved = not look.incident.is_open
            if not resolved:
                resolved = await self._is_repaired(look)
            if resolved:
                await self._restart_all()
                return state.restarted
            if self._is_told():
                continue
            if self._sent.total() > sent:
                # What the canary comes to is the others' answer too: it is asked for soon.
                self._pause = state.pace.probe_first
            if not await came_true(self._is_told, limit=self._pause):
                self._pause = min(2 * self._pause, state.pace.probe_maximum)
            if not self._is_told() and workflow.info().is_continue_as_new_suggested():
                state.pause = self._pause
                state.sent = tuple(
                    SentCanary(revision=revision, job=job, times=times)
                    for (revision, job), times in self._sent.items()
                )
                workflow.continue_as_new(state)

    def _is_told(self) -> bool:
        return self._said_by is not None

    async def _is_repaired(self, look: IncidentLook) -> bool:
        """Resolves the incident if there is evidence; else sends a canary if none runs."""
        incident = look.incident
        if incident is None:
            return False
        if look.recovered:
            return await self._resolve("a job that got through")
        if self._said_by is not None:
            said_by, self._said_by = self._said_by, None
            if await self._canary_lives(look, incident.last_seen_at):
                return await self._resolve(said_by)
            self._note(f"{said_by} said that it is repaired, and the canary met the fault again")
            return False
        if look.hit:
            if not look.undecided and self._may_probe(incident):
                await self._send_canary(look)
                state = self._state
                pause = state.canary_pause or state.pace.probe_first
                state.next_canary_at = workflow.now() + pause
                state.canary_pause = min(2 * pause, state.pace.probe_maximum)
            return False
        quiet = workflow.now() - incident.last_seen_at >= self._state.pace.quiet
        return quiet and not look.undecided and await self._resolve("all jobs recovered")

    def _may_probe(self, incident: Incident) -> bool:
        """Whether the last canary is long enough ago, or for the first one the last fault."""
        first_at = incident.last_seen_at + self._state.pace.probe_first
        return workflow.now() >= (self._state.next_canary_at or first_at)

    async def _send_canary(self, look: IncidentLook) -> bool:
        canary = canary_of(look.hit, self._sent)
        if canary is None:
            return False
        self._sent[key_of(canary)] += 1
        for order in orders_of((canary,)):
            await self._send(order, RestartAsker.CANARY)
        return True

    async def _canary_lives(self, look: IncidentLook, last_seen_at: datetime) -> bool:
        """Restarts one job and watches whether it meets the fault again at once."""
        if not await self._send_canary(look):
            return True
        rounds = int(options.CANARY_PATIENCE / options.CANARY_LOOK_INTERVAL)
        for _ in range(rounds):
            await workflow.sleep(options.CANARY_LOOK_INTERVAL)
            now = await self._look()
            if now.incident is None or now.incident.last_seen_at > last_seen_at:
                return False
            if now.recovered:
                return True
        return True

    async def _restart_all(self) -> None:
        """Restarts what is left, some at a time; looks again for what was told late."""
        for _ in range(_STRAGGLER_ROUNDS):
            look = await self._look()
            plan = restart_plan(look.hit)
            windows = plan.windows
            if plan.canary is not None:
                windows = ((plan.canary,), *windows)
            for window in windows:
                await asyncio.gather(
                    *(self._send(order, RestartAsker.INCIDENT) for order in window)
                )
                await workflow.sleep(options.RESTART_WINDOW_PAUSE)
            if plan.spent:
                self._note(f"{len(plan.spent)} jobs have had their automatic restarts")
            await workflow.sleep(options.STRAGGLER_PAUSE)
            if not restart_plan((await self._look()).hit).jobs:
                return

    async def _send(self, order: RestartOrder, asker: RestartAsker) -> None:
        handle = workflow.get_external_workflow_handle(order.workflow_id)
        try:
            await handle.signal("restart", order.selector(asker=asker))
        except FailureError:
            self._note(f"{order.workflow_id} is gone; it needs no restart")
            return
        self._state.restarted += len(order.jobs)

    async def _look(self) -> IncidentLook:
        look = await workflow.execute_activity_method(
            IncidentActivities.look_at_incident,
            self._state.incident,
            **options.index_activity("look at the incident"),
        )
        if look.incident is not None:
            workflow.set_current_details(
                incident_details(look.incident, len(look.hit), look.undecided, self._state.notes)
            )
        return look

    async def _resolve(self, by: str) -> bool:
        return await workflow.execute_activity_method(
            IncidentActivities.resolve_incident,
            ResolveIncident(incident=self._state.incident, by=by),
            **options.index_activity(f"resolve: {by}"),
        )

    def _note(self, text: str) -> None:
        self._state.notes.append(text)
        del self._state.notes[:-20]
