"""Answers of the JSON API that are not values of ours already."""

from typing import Generic, Self, TypeVar

from pydantic import Field

from opam_ci.clients.index import Page
from opam_ci.core.jobs.selector import Taken
from opam_ci.core.model import Frozen

T = TypeVar("T")


class Listing(Frozen, Generic[T]):
    """A page of a listing.

    Attributes:
        items: The entries, newest first.
        following: Cursor of the next page (`after`), null if this is the last one.
    """

    items: tuple[T, ...]
    following: str | None = None

    @classmethod
    def of(cls, page: Page[T]) -> Self:
        """Returns a page of the index."""
        return cls(items=page.items, following=page.following)

    @property
    def page(self) -> Page[T]:
        """The same as a page of the index."""
        return Page(self.items, self.following)


class Done(Frozen):
    """The result of a restart or a cancel.

    Attributes:
        taken: What it took, or would take; null if it is accepted and not executed yet.
        preview: Whether nothing was changed.
        lines: The same in words, as the command line prints them.
    """

    taken: Taken | None
    preview: bool
    lines: tuple[str, ...] = Field(default=())
