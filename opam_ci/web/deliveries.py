"""Which deliveries of webhooks are durably accepted."""

from collections import OrderedDict
from typing import Protocol


class Deliveries(Protocol):
    """Remembers deliveries by their `X-GitHub-Delivery`, which a redelivery keeps."""

    async def is_accepted(self, delivery: str) -> bool:
        """Whether it was accepted before."""

    async def accept(self, delivery: str) -> None:
        """Notes that what it asked for is durable; called after that, never before."""


class RememberedDeliveries:
    """In memory, the oldest forgotten first: what an embedded installation needs.

    A restart forgets all; what is asked for twice is then done twice, which workflows
    bear: a head that is under test is not tested again.
    """

    def __init__(self, limit: int = 50_000) -> None:
        """Makes an empty memory.

        Args:
            limit: How many are remembered, about 150 bytes each.
        """
        self._limit = limit
        self._accepted: OrderedDict[str, None] = OrderedDict()

    async def is_accepted(self, delivery: str) -> bool:
        """Whether it was accepted before."""
        return delivery in self._accepted

    async def accept(self, delivery: str) -> None:
        """Notes that what it asked for is durable."""
        self._accepted[delivery] = None
        self._accepted.move_to_end(delivery)
        if len(self._accepted) > self._limit:
            self._accepted.popitem(last=False)
