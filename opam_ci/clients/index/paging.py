"""Listings page by page: each page has the cursor of the following one."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import Field
from sqlalchemy import Column, ColumnElement, Connection, Select, and_, or_, select

from opam_ci.clients.index.rows import AnyRow
from opam_ci.core.errors import UsageError
from opam_ci.core.model import Frozen

T = TypeVar("T")

_AT_ONCE = 1000
"""The most that a server gives."""

_NUMBER = re.compile(r"[0-9]{1,10}")


class Place(Frozen):
    """Which page of a listing.

    Attributes:
        limit: Entries at most.
        after: Cursor: the `following` of the page before; None for the first page.
    """

    limit: int = Field(default=100, ge=1, le=10_000)
    after: str | None = None


class Page(NamedTuple, Generic[T]):
    """A page of a listing.

    Attributes:
        items: The entries, newest first.
        following: Cursor of the next page, None if this is the last one.
    """

    items: tuple[T, ...]
    following: str | None


def all_items(read: Callable[[Place], Page[T]]) -> Iterator[T]:
    """Yields the entries of all pages of a listing, a thousand at a time.

    Args:
        read: Reads a page.
    """
    place: Place | None = Place(limit=_AT_ONCE)
    while place is not None:
        part = read(place)
        yield from part.items
        place = Place(limit=_AT_ONCE, after=part.following) if part.following else None


def page(  # noqa: PLR0913  what to read, and which page of it
    connection: Connection,
    query: Select[Any],
    order: tuple[Column[Any], Column[Any]],
    place: Place,
    read: Callable[[AnyRow], T],
    *,
    chosen: ColumnElement[bool] | None = None,
) -> Page[T]:
    """Reads one page of a query's rows.

    Cursors hold values, not row numbers: a listing that grows at its top meanwhile repeats
    nothing.

    Args:
        connection: Where to read.
        query: What, without an order.
        order: A time and an id, both selected by the query: the newest come first.
        place: Which page.
        read: Makes an entry from a row.
        chosen: Condition on rows of the order's own table alone: then these are found and
            sorted first, in an index at best, and the query reads only those of the page.
    """
    moment, identity = order
    keys = query if chosen is None else select(identity).where(chosen)
    if place.after is not None:
        last_moment, last_id = parse_cursor(place.after, _moment)
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


def parse_cursor(cursor: str, parse: Callable[[str], T]) -> tuple[T, int]:
    """Reads a cursor: the value by which rows are ordered first, a slash, and an id.

    Args:
        cursor: As a page returned it.
        parse: Reads the value; ValueError for an invalid one.

    Raises:
        UsageError: No page returned such a cursor.
    """
    value, _, identity = cursor.rpartition("/")
    try:
        return parse(value), parse_number(identity)
    except ValueError as error:
        raise UsageError(
            f"invalid page cursor {cursor[:100]!r}: use what the page before returned"
        ) from error


def parse_number(text: str) -> int:
    """Reads a number that databases can compare; ValueError for another one."""
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(text)
    return int(text)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return moment
