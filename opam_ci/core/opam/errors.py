"""Errors in the text of an opam file."""

from opam_ci.core.errors import OpamCiError


class OpamSyntaxError(OpamCiError):
    """The text is not an opam file.

    Attributes:
        message: What is wrong; opam's own message where opam has one.
        filename: The name of the file in messages.
        line: 1-based line, 1 if the text as a whole is refused.
        column: 0-based column in bytes, as opam counts.
    """

    def __init__(self, message: str, *, filename: str, line: int = 1, column: int = 0) -> None:
        super().__init__(f"{filename}:{line}:{column}: {message}")
        self.message = message
        self.filename = filename
        self.line = line
        self.column = column


class OcamlFailure(Exception):  # noqa: N818 -- the name of OCaml's exception
    """OCaml's `Failure`, which opam raises for a text that is not of the kind of its field.

    Its message is opam's, since users see it; the reader of a field adds the rest.
    """


class OcamlException(OcamlFailure):
    """Another exception of opam; its message is how OCaml prints it."""
