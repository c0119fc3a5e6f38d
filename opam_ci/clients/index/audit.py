"""Actions of those who are signed in, and their reports of wrong verdicts."""

from sqlalchemy import insert, select

from opam_ci.clients.index.engine import Connected, reading, writing
from opam_ci.clients.index.paging import Page, Place, page
from opam_ci.clients.index.schema import AUDIT, WRONG_VERDICTS
from opam_ci.core.pages.model import AuditEntry, WrongVerdict

_START = Place()


class Audit(Connected):
    """The part of the index with what people did on pages."""

    def add_audit(self, entry: AuditEntry) -> None:
        """Records an action; its id is ignored.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        with writing(self._engine) as connection:
            connection.execute(insert(AUDIT).values(entry.model_dump(exclude={"id"})))

    def audit(self, place: Place = _START) -> Page[AuditEntry]:
        """Lists actions, the newest first.

        Raises:
            UsageError: The cursor is not one that a page returned.
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            order = (AUDIT.c.at, AUDIT.c.id)
            return page(
                connection,
                select(AUDIT),
                order,
                place,
                lambda row: AuditEntry.model_validate(row, from_attributes=True),
            )

    def add_wrong_verdict(self, report: WrongVerdict) -> None:
        """Records that a verdict is wrong by somebody's word; its id is ignored.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        own = {name: getattr(report, name) for name in WrongVerdict.model_fields if name != "id"}
        with writing(self._engine) as connection:
            connection.execute(insert(WRONG_VERDICTS).values(own))

    def wrong_verdicts(self, place: Place = _START) -> Page[WrongVerdict]:
        """Lists such reports, the newest first.

        Raises:
            UsageError: The cursor is not one that a page returned.
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            order = (WRONG_VERDICTS.c.at, WRONG_VERDICTS.c.id)
            return page(
                connection,
                select(WRONG_VERDICTS),
                order,
                place,
                lambda row: WrongVerdict.model_validate(row, from_attributes=True),
            )
