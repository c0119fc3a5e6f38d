"""An activity's result is kept until Temporal can take it."""

import asyncio
import logging
import math
import time
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

_log = logging.getLogger(__name__)

_ANSWER_TIMEOUT = timedelta(seconds=5)
_PAUSE = timedelta(seconds=1)
_FRESH = timedelta(seconds=0.1)
"""How long an answer counts. A tenth of what an outage lasts at least that anybody notices."""
_AWAY = frozenset({RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED})


class OutlastInterceptor(Interceptor):
    """Holds back how an activity ended while Temporal is away.

    The SDK tries for some ten seconds to hand a result over, whatever it is configured to, and
    then throws it away: a build that ends while Temporal is restarted would count as lost with
    its worker, and run again. Asking first whether anybody listens costs a millisecond, and many
    activities that end together ask once. What is handed over within `_FRESH` of the moment in
    which Temporal goes away is still lost.
    """

    def __init__(self) -> None:
        self._answered_at = -math.inf
        self._asking: asyncio.Task[None] | None = None

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002  the base's name
        """Puts the wait behind an activity."""
        return _Outlasting(next, self)

    async def answered(self, client: Client) -> None:
        """Waits until Temporal answers, whatever it says, unless it just did.

        There is no last attempt: what would be given up is lost, and an activity that Temporal
        no longer waits for costs nothing but its slot. Cancellation ends it.
        """
        if time.monotonic() - self._answered_at <= _FRESH.total_seconds():
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(client))
        # Others may wait for the same answer.
        await asyncio.shield(self._asking)

    async def _ask(self, client: Client) -> None:
        told = False
        while True:
            asked_at = time.monotonic()
            try:
                await client.service_client.check_health(timeout=_ANSWER_TIMEOUT)
            except RPCError as error:
                if error.status not in _AWAY:
                    return
                if not told:
                    _log.warning("Temporal is away (%s): results wait for it", error.message)
                    told = True
                await asyncio.sleep(_PAUSE.total_seconds())
            else:
                if told:
                    _log.info("Temporal is back")
                self._answered_at = asked_at
                return


class _Outlasting(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, outlast: OutlastInterceptor) -> None:
        super().__init__(following)
        self._outlast = outlast

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002  the base's name
        try:
            answer = await super().execute_activity(input)
        except Exception:
            await self._outlast.answered(activity.client())
            raise
        await self._outlast.answered(activity.client())
        return answer
