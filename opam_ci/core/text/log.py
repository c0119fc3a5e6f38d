"""What is written where a log, or a part of it, cannot be shown."""

from typing import Final

NOT_STORED: Final = "nothing of this log is stored yet: come back in some seconds"
GONE: Final = (
    "this log is not stored any more, or its attempt ended before it wrote one: restart the job "
    "to get another one"
)
STORE_AWAY: Final = "the store of logs does not answer: come back in a minute"
DAMAGED: Final = (
    "the store has a damaged part of this log: see the log of another attempt, or restart the job"
)
BUSY: Final = "other searches are under way: try again in some seconds"


def no_such_line(first: int, lines: int) -> str:
    """Returns why a line cannot be shown."""
    return f"no line {first}: the log has {lines}"


def no_such_offset(offset: int, size: int) -> str:
    """Returns why a byte cannot be shown."""
    return f"no byte {offset}: the log has {size}"


def not_a_number(name: str, text: str, least: int, most: int) -> str:
    """Returns why a parameter is refused."""
    return f"invalid {name} {text[:40]!r}: give a whole number from {least} to {most}"


def not_searchable(most: int) -> str:
    """Returns why a text cannot be searched."""
    return f"invalid q: give a text of one line, from 1 to {most} characters"


def not_a_range(text: str, size: int) -> str:
    """Returns why bytes of a log cannot be given."""
    return f"invalid range {text[:60]!r}: the log has {size} bytes; what was cut is in none"
