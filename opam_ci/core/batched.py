"""`itertools.batched` of Python 3.12, for older ones."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(values: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Yields values in tuples of that size; the last one may be shorter."""
    rest = iter(values)
    while batch := tuple(islice(rest, size)):
        yield batch
