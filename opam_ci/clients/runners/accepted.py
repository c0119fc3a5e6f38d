"""What a package says about its own failures: `x-ci-accept-failures`."""

from collections.abc import Iterator
from typing import Final

from opam_ci.core.opam.errors import OpamSyntaxError
from opam_ci.core.opam.file import parse
from opam_ci.core.opam.nodes import Group, List, Option, String, Value

_FIELD: Final = "x-ci-accept-failures"


def accepts_failure(opam: bytes | None, distribution: str) -> bool:
    """Says whether an opam file names a distribution as one on which its package may fail.

    opam-repo-ci looks for the quoted name anywhere in the field, and so does this: other
    shapes than a plain list of strings are no error.

    Args:
        opam: The file, None if there is none.
        distribution: As opam-repo-ci names it, such as `debian-13`.
    """
    if opam is None:
        return False
    try:
        value = parse(opam).value(_FIELD)
    except OpamSyntaxError:
        # Such a file never gets to a build; opam's own refusal is what is judged.
        return False
    return value is not None and distribution in _strings(value)


def _strings(value: Value) -> Iterator[str]:
    match value:
        case String(value=text):
            yield text
        case List(items=items) | Group(items=items):
            for item in items:
                yield from _strings(item)
        case Option(value=inner):
            yield from _strings(inner)
        case _:
            return
