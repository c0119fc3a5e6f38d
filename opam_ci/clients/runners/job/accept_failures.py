"""The field `x-ci-accept-failures` of opam files."""

from collections.abc import Iterator
from typing import Final

from opam_ci.core.opam.errors import OpamSyntaxError
from opam_ci.core.opam.file import parse
from opam_ci.core.opam.nodes import Group, List, Option, String, Value

_FIELD: Final = "x-ci-accept-failures"


def accepts_failure(opam: bytes | None, distribution: str) -> bool:
    """Returns whether an opam file lists a distribution as one on which its package may fail.

    opam-repo-ci accepts the quoted name anywhere in the field, and so does this: other forms
    than a plain list of strings are not errors.

    Args:
        opam: The file, None if there is none.
        distribution: opam-repo-ci's name of it, such as `debian-13`.
    """
    if opam is None:
        return False
    try:
        value = parse(opam).value(_FIELD)
    except OpamSyntaxError:
        # opam refuses such a file before any build, and that is judged.
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
