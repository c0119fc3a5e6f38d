"""Accepted deliveries of webhooks, in memory."""


class InMemoryDeliveries:
    """In place of `StoredDeliveries`."""

    def __init__(self) -> None:
        self._accepted: set[str] = set()

    async def is_accepted(self, delivery: str) -> bool:
        return delivery in self._accepted

    async def accept(self, delivery: str) -> None:
        self._accepted.add(delivery)
