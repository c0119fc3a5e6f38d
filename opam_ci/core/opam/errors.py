"""What can be wrong with the text of an opam file."""

from opam_ci.core.errors import OpamCiError


class OpamSyntaxError(OpamCiError):
    """The text is no opam file.

    Attributes:
        message: What is wrong, in opam's words where opam has words for it.
        filename: The name under which the text was given.
        line: 1-based line, 1 when the text as a whole is refused.
        column: 0-based column in bytes, as opam counts.
    """

    def __init__(self, message: str, *, filename: str, line: int = 1, column: int = 0) -> None:
        super().__init__(f"{filename}:{line}:{column}: {message}")
        self.message = message
        self.filename = filename
        self.line = line
        self.column = column


class OcamlFailure(Exception):  # noqa: N818 -- the name of the exception whose words it carries
    """What opam raises as `Failure` when a text is none of the kind that a field wants.

    Its text is opam's, since that is what people see; the reader of a field adds the rest.
    """


class OcamlException(OcamlFailure):
    """Another exception of opam; its text is how OCaml prints it."""
