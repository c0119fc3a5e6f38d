"""Actions of those who are signed in, and their reports of wrong verdicts."""

from typing import TypeVar

from sqlalchemy import Connection, Table, insert, select

from opam_ci.clients.index.engine import Connected, reading, writing
from opam_ci.clients.index.paging import Page, Place, page
from opam_ci.clients.index.schema import AUDIT, WRONG_VERDICTS
from opam_ci.core.pages.model import AuditEntry, WrongVerdict

Entry = TypeVar("Entry", AuditEntry, WrongVerdict)

_START = Place()


def insert_entry(connection: Connection, table: Table, entry: AuditEntry | WrongVerdict) -> None:
    """Adds an entry within a transaction; its id is ignored."""
    values = {name: getattr(entry, name) for name in type(entry).model_fields if name != "id"}
    connection.execute(insert(table).values(values))


class Audit(Connected):
    """The part of the index with what people did on pages."""

    def add_audit(self, entry: AuditEntry) -> None:
        """Records an action; its id is ignored.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        self._add(AUDIT, entry)

    def audit(self, place: Place = _START) -> Page[AuditEntry]:
        """Lists actions, the newest first.

        Raises:
            UsageError: The cursor is not one that a page returned.
            InfrastructureError: The index cannot be read.
        """
        return self._newest_first(AUDIT, AuditEntry, place)

    def add_wrong_verdict(self, report: WrongVerdict) -> None:
        """Records that a verdict is wrong by somebody's word; its id is ignored.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        self._add(WRONG_VERDICTS, report)

    def wrong_verdicts(self, place: Place = _START) -> Page[WrongVerdict]:
        """Lists such reports, the newest first.

        Raises:
            UsageError: The cursor is not one that a page returned.
            InfrastructureError: The index cannot be read.
        """
        return self._newest_first(WRONG_VERDICTS, WrongVerdict, place)

    def _add(self, table: Table, entry: AuditEntry | WrongVerdict) -> None:
        with writing(self._engine) as connection:
            insert_entry(connection, table, entry)

    def _newest_first(self, table: Table, of: type[Entry], place: Place) -> Page[Entry]:
        with reading(self._engine) as connection:
            return page(
                connection,
                select(table),
                (table.c.at, table.c.id),
                place,
                lambda row: of.model_validate(row, from_attributes=True),
            )
