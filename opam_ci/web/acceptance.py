"""Accepting what a delivery asks for: one request to Temporal makes it durable."""

from collections.abc import Callable
from datetime import UTC, datetime

from opam_ci.core.github.action import Action, HeadChanged
from opam_ci.core.github.late import is_late
from opam_ci.core.github.messages import Delivered
from opam_ci.core.github.revision import Policy
from opam_ci.gateway import PullRequests


class Acceptance:
    """Hands actions over to Temporal; asks nobody else, so that GitHub gets its answer.

    A fresh head goes to its workflow at once. All else needs GitHub's word (whether a late
    delivery is still true, whether a commenter may command) or is looked at again later:
    that does a DeliveryWorkflow, which can wait for as long as GitHub is down.
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
            action: What is asked for.
            delivery: By which delivery.

        Raises:
            InfrastructureError: Temporal does not take it.
        """
        if isinstance(action, HeadChanged) and not is_late(action, self._clock()):
            ref = action.pull_request
            revision, posting = self._policy.revision(action), self._policy.posting_for(ref)
            await self._pull_requests.head_changed(ref, revision, posting)
        else:
            await self._pull_requests.deliver(Delivered(action=action), delivery)
