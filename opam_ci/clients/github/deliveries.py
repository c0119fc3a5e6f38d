"""Accepted deliveries of webhooks in the index's database, for receivers that restart."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Self

from sqlalchemy import Column, Engine, MetaData, Table, Text, delete, select
from sqlalchemy.schema import CreateTable

from opam_ci.clients.index.engine import Connected, create, insertion, reading, writing
from opam_ci.clients.index.schema import Instant
from opam_ci.clients.threads import INDEX

KEPT = timedelta(days=14)
"""How long a delivery is remembered; GitHub redelivers for three days."""

_PRUNED_EVERY = 1000

_TABLE = Table(
    "webhook_deliveries",
    MetaData(),
    Column("delivery", Text, primary_key=True),
    Column("accepted_at", Instant, nullable=False),
)


class StoredDeliveries(Connected):
    """Stores the ids of accepted deliveries in a table of its own, made when it is opened.

    A failure of the database is an InfrastructureError: the delivery then counts as not
    accepted and is redelivered.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        super().__init__(engine)
        self._clock = clock
        self._accepted = 0

    @classmethod
    def open(cls, url: str, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Self:
        """Opens a database, and makes the table if it does not exist. Blocks.

        Args:
            url: As for the index. It may be the index's own database, once the index has been
                opened: an index refuses to create its tables in a database that is not empty.
            clock: For tests.

        Raises:
            UsageError: It is not the URL of a database.
            InfrastructureError: The database is not reachable.
        """
        engine = create(url)
        with writing(engine) as connection:
            connection.execute(CreateTable(_TABLE, if_not_exists=True))
        return cls(engine, clock)

    async def is_accepted(self, delivery: str) -> bool:
        """Whether it was accepted before."""
        return await INDEX.run(self._is_known, delivery)

    async def accept(self, delivery: str) -> None:
        """Records that the effect of a delivery is durable."""
        await INDEX.run(self._insert, delivery)

    def _is_known(self, delivery: str) -> bool:
        with reading(self._engine) as connection:
            found = select(_TABLE.c.delivery).where(_TABLE.c.delivery == delivery)
            return connection.execute(found).first() is not None

    def _insert(self, delivery: str) -> None:
        row = {"delivery": delivery, "accepted_at": self._clock()}
        with writing(self._engine) as connection:
            # Another receiver may have accepted the same delivery meanwhile.
            insert = insertion(connection, _TABLE).values(row)
            connection.execute(insert.on_conflict_do_nothing())
            if self._accepted % _PRUNED_EVERY == 0:
                old = _TABLE.c.accepted_at < self._clock() - KEPT
                connection.execute(delete(_TABLE).where(old))
            self._accepted += 1
