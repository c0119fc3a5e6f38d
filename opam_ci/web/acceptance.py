"""Accepting the action of a delivery: one request to Temporal makes it durable."""

from collections.abc import Callable
from datetime import UTC, datetime

from opam_ci.app.pull_requests import PullRequests
from opam_ci.core.github.action import Action, HeadChanged
from opam_ci.core.github.messages import DeliveryTask
from opam_ci.core.github.redelivery import is_late
from opam_ci.core.github.revision import Policy


class Acceptance:
    """Passes actions to Temporal, without other requests, so that GitHub gets its response in time.

    A new head is signalled to its workflow at once. All else needs requests to GitHub (whether a
    late delivery is still true, whether a commenter may command) or is repeated later: that is
    done by a DeliveryWorkflow, which can wait for as long as GitHub is unavailable.
    """

    def __init__(
        self,
        pull_requests: PullRequests,
        policy: Policy,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._pull_requests = pull_requests
        self._policy = policy
        self._clock = clock

    async def accept(self, action: Action, delivery: str) -> None:
        """Makes an action durable.

        Args:
            action: The action.
            delivery: Id of its delivery.

        Raises:
            InfrastructureError: The request to Temporal failed.
        """
        if isinstance(action, HeadChanged) and not is_late(action, self._clock()):
            ref = action.pull_request
            revision, posting = self._policy.revision(action), self._policy.posting_for(ref)
            await self._pull_requests.head_changed(ref, revision, posting)
        else:
            await self._pull_requests.deliver(DeliveryTask(action=action), delivery)
