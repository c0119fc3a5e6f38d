"""Listings in parts: each part says where the following one begins."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import Field
from sqlalchemy import Column, ColumnElement, Connection, Select, and_, or_, select

from opam_ci.clients.index.rows import AnyRow
from opam_ci.core.errors import UsageError
from opam_ci.core.model import Frozen

T = TypeVar("T")


class Place(Frozen):
    """Which part of a listing.

    Attributes:
        limit: Entries at most.
        after: The `following` of the part before; None for the beginning.
    """

    limit: int = Field(default=100, ge=1, le=10_000)
    after: str | None = None


class Page(NamedTuple, Generic[T]):
    """A part of a listing.

    Attributes:
        items: The entries, newest first.
        following: Where the next part begins, None if this is the last one.
    """

    items: tuple[T, ...]
    following: str | None


def page(  # noqa: PLR0913  what to read, and which part of it
    connection: Connection,
    query: Select[Any],
    order: tuple[Column[Any], Column[Any]],
    place: Place,
    read: Callable[[AnyRow], T],
    *,
    chosen: ColumnElement[bool] | None = None,
) -> Page[T]:
    """Reads one part of a query's rows.

    Places are kept by value, not by number: a listing that grows at its top meanwhile
    shows nothing twice.

    Args:
        connection: Where to read.
        query: What, without an order.
        order: A time and an id, both selected by the query: the newest come first.
        place: Which part.
        read: Makes an entry from a row.
        chosen: Which rows, of the order's own table alone: then these are found and
            sorted first, in an index at best, and the query reads only those of the page.
    """
    moment, identity = order
    keys = query if chosen is None else select(identity).where(chosen)
    if place.after is not None:
        last_moment, last_id = _parsed(place.after)
        keys = keys.where(
            moment <= last_moment,
            or_(moment < last_moment, and_(moment == last_moment, identity < last_id)),
        )
    keys = keys.order_by(moment.desc(), identity.desc()).limit(place.limit + 1)
    if chosen is None:
        query = keys
    else:
        wanted = connection.scalars(keys).all()
        query = query.where(identity.in_(wanted)).order_by(moment.desc(), identity.desc())
    found = connection.execute(query).all()
    items = tuple(read(row) for row in found[: place.limit])
    following = None
    if len(found) > place.limit:
        last = found[place.limit - 1]
        following = f"{getattr(last, moment.name).isoformat()}/{getattr(last, identity.name)}"
    return Page(items, following)


def _parsed(after: str) -> tuple[datetime, int]:
    moment, _, identity = after.rpartition("/")
    try:
        parsed = datetime.fromisoformat(moment), int(identity)
    except ValueError as error:
        raise UsageError(f"{after[:100]!r} is no place in a listing") from error
    if parsed[0].tzinfo is None:
        raise UsageError(f"{after[:100]!r} is no place in a listing")
    return parsed
