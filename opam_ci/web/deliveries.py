"""Which deliveries of webhooks are durably accepted."""

from typing import Protocol


class Deliveries(Protocol):
    """Remembers deliveries by their `X-GitHub-Delivery`, which a redelivery keeps."""

    async def is_accepted(self, delivery: str) -> bool:
        """Whether it was accepted before."""

    async def accept(self, delivery: str) -> None:
        """Notes that what it asked for is durable; called after that, never before."""
