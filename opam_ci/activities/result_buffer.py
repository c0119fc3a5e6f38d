"""Holds the result of an activity until the Temporal server is available."""

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

_HEALTH_CHECK_TIMEOUT = timedelta(seconds=5)
_PAUSE = timedelta(seconds=1)
_FRESH = timedelta(seconds=0.1)
"""How long a successful health check is valid: a tenth of the shortest noticeable outage."""
_UNAVAILABLE = frozenset({RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED})


class ResultBuffer(Interceptor):
    """Holds back the result of an activity while the Temporal server is unavailable.

    The SDK tries for some ten seconds to report a result, whatever it is configured to, and
    then drops it: a build that ends while Temporal is restarted would count as lost with
    its worker, and run again. A health check before costs a millisecond, and activities that
    end together share one. A result reported within `_FRESH` of the moment in which the server
    becomes unavailable is still lost.
    """

    def __init__(self) -> None:
        self._last_response_at = -math.inf
        self._check: asyncio.Task[None] | None = None

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002  the base's name
        """Adds the wait after an activity."""
        return _Buffering(next, self)

    async def wait(self, client: Client) -> None:
        """Waits until the server responds, with any response, unless it just did.

        It has no limit: an abandoned result is lost, and an activity whose result is not needed
        any more costs only its slot. Cancellation ends the wait.
        """
        if time.monotonic() - self._last_response_at <= _FRESH.total_seconds():
            return
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._wait(client))
        # Others may wait for the same check.
        await asyncio.shield(self._check)

    async def _wait(self, client: Client) -> None:
        warned = False
        while True:
            checked_at = time.monotonic()
            try:
                await client.service_client.check_health(timeout=_HEALTH_CHECK_TIMEOUT)
            except RPCError as error:
                if error.status not in _UNAVAILABLE:
                    return
                if not warned:
                    _log.warning("Temporal is unavailable (%s): results wait", error.message)
                    warned = True
                await asyncio.sleep(_PAUSE.total_seconds())
            else:
                if warned:
                    _log.info("Temporal is available again")
                self._last_response_at = checked_at
                return


class _Buffering(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, buffer: ResultBuffer) -> None:
        super().__init__(following)
        self._buffer = buffer

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002  the base's name
        try:
            result = await super().execute_activity(input)
        except Exception:
            await self._buffer.wait(activity.client())
            raise
        await self._buffer.wait(activity.client())
        return result
