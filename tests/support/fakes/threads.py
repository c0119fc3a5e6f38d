"""Calls on several threads at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")


def in_threads(work: Callable[[A], R], arguments: Sequence[A]) -> list[R]:
    """Calls a function for each argument on a thread of its own; the first error is raised."""
    with ThreadPoolExecutor(len(arguments)) as threads:
        return list(threads.map(work, arguments))
