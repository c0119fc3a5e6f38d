"""Reading values of opam files into typed ones, with opam's own error messages.

opam builds its field parsers from small parser-printers (`OpamPp`); which message a wrong
value gets, and at which position, follows from how they are combined. These readers are
combined in the same way, so that they produce the same messages. Each has a name (what was
expected); a message gets the position of the innermost value that has one.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from opam_ci.core.opam.errors import OcamlException, OcamlFailure


class Span(NamedTuple):
    """A range of bytes, `end` exclusive."""

    start: int
    end: int


#: The position of values that are not in the file, such as the list around a single value.
NOWHERE: Final = Span(-1, -1)
#: The position of a file as a whole.
WHOLE_FILE: Final = Span(-2, -2)


class BadFormat(Exception):  # noqa: N818 -- opam's name for it
    """A value does not have the form that its field requires.

    Attributes:
        span: Where; `NOWHERE` or None until a reader further out sets it.
        message: opam's message.
    """

    def __init__(self, span: Span | None, message: str) -> None:
        super().__init__(message)
        self.span = span
        self.message = message


class Unexpected(Exception):  # noqa: N818 -- opam's name for it
    """A value is of the wrong kind; the reader's name is the one that was expected."""

    def __init__(self, span: Span | None = None) -> None:
        super().__init__()
        self.span = span


def _same(name: str) -> str:
    return name


class Reader:
    """Reads one kind of value.

    Attributes:
        run: Reads a value at a position; raises `Unexpected`, `BadFormat` or `OcamlFailure`.
        name: What is expected, as in messages.
        wrap: Wraps the name of the reader that follows, such as in `[…]` after a list.
    """

    __slots__ = ("name", "run", "wrap")

    def __init__(
        self,
        run: Callable[[Any, Span], Any],
        name: str = "",
        wrap: Callable[[str], str] = _same,
    ) -> None:
        """See the attributes."""
        self.run = run
        self.name = name
        self.wrap = wrap

    def read(self, value: Any, span: Span) -> Any:
        """Run, and turn every error into a `BadFormat` with a position.

        Raises:
            BadFormat: The value is invalid.
        """
        try:
            return self.run(value, span)
        except BadFormat as error:
            if error.span is None or error.span == NOWHERE:
                error.span = span
            raise
        except Unexpected as error:
            raise BadFormat(error.span or span, f"expected {self.name}") from None
        except OcamlFailure as failure:
            expecting = f"while expecting {self.name}: " if self.name else ""
            raise BadFormat(span, f"{expecting}{failure}") from None

    def then(self, following: "Reader") -> "Reader":
        """Feed the result into another reader."""
        first, second = self.run, following.read
        outer, inner = self.wrap, following.wrap
        return Reader(
            lambda value, span: second(first(value, span), span),
            self.wrap(following.name) if following.name else self.name,
            lambda name: outer(inner(name)),
        )


def of_text(name: str, make: Callable[[str], Any]) -> Reader:
    """Read a text by a function that raises `OcamlFailure`."""
    return Reader(lambda text, _span: make(text), name)


def invalid_argument(message: str) -> OcamlException:
    """OCaml's `Invalid_argument` as it prints."""
    return OcamlException(f'Invalid_argument("{message}")')


def either(first: Reader, second: Reader) -> Reader:
    """Try another reader if the first one fails; if both do, the first error is raised."""

    def run(value: Any, span: Span) -> Any:
        try:
            return first.run(value, span)
        except (BadFormat, Unexpected, OcamlFailure):
            try:
                return second.run(value, span)
            except (BadFormat, Unexpected, OcamlFailure):
                pass
            raise

    return Reader(run, f"{first.name} | {second.name}", first.wrap)


def optional(reader: Reader) -> Reader:
    """None for an empty list."""
    return Reader(
        lambda values, span: reader.run(values, span) if values else None, f"?{reader.name}"
    )


def _only(values: Sequence[Any], _span: Span) -> Any:
    if len(values) != 1:
        raise Unexpected
    return values[0]


#: The one element of a list.
ONLY: Final = Reader(_only)
