"""`itertools.batched` of Python 3.12, for older ones, and by weight."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batched(
    values: Iterable[T], size: int, *, weight: Callable[[T], int] = lambda _: 0, most: int = 0
) -> Iterator[tuple[T, ...]]:
    """Yields values in tuples of that size, or shorter ones.

    Args:
        values: The values.
        size: Values in a tuple at most.
        weight: What a value weighs.
        most: What the values of a tuple weigh together at most; a heavier one is alone.
    """
    batch: list[T] = []
    total = 0
    for value in values:
        weighs = weight(value)
        if batch and total + weighs > most:
            yield tuple(batch)
            batch, total = [], 0
        batch.append(value)
        total += weighs
        if len(batch) == size:
            yield tuple(batch)
            batch, total = [], 0
    if batch:
        yield tuple(batch)
