"""From the bytes of an opam file and opam's own lint to the findings about a package."""

from collections.abc import Collection, Sequence
from typing import Final

from opam_ci.core.lint.checks import DEFAULT_KINDS, run_checks, unreadable
from opam_ci.core.lint.finding import CheckKind, LintFinding
from opam_ci.core.lint.opam_messages import Unreadable, dropped_fields, unreadable_by_opam
from opam_ci.core.lint.subject import (
    LintSubject,
    OpamMessage,
    PackageFacts,
    package_directory,
)
from opam_ci.core.opam.errors import OpamSyntaxError
from opam_ci.core.opam.file import OpamFile, parse

_UPSTREAM_CHECK_FAILED: Final = 60


def read_opam_file(package: str, content: bytes) -> OpamFile | Unreadable:
    """Parse a package's opam file, or return why it cannot be read."""
    try:
        return parse(content, filename=f"{package_directory(package)}/opam")
    except OpamSyntaxError as error:
        return Unreadable(error.message, error.line, error.column)


def sources_fetched(file: OpamFile, messages: Sequence[OpamMessage]) -> bool | None:
    """Whether a lint with `--check-upstream` found a package's source.

    Returns:
        False if there is none, or opam could not download one that matches the checksums;
        otherwise None, which proves nothing: opam does not try sources in version control.
    """
    refused = "url" in dropped_fields(messages) or file.section("url") is None
    unfetched = any(message.code == _UPSTREAM_CHECK_FAILED for message in messages)
    return False if refused or unfetched else None


def judge(
    facts: PackageFacts,
    file: OpamFile | Unreadable,
    messages: Sequence[OpamMessage],
    kinds: Collection[CheckKind] = DEFAULT_KINDS,
) -> tuple[LintFinding, ...]:
    """The findings about one package.

    Args:
        facts: What is known of it.
        file: Its opam file, as returned by `read_opam_file`.
        messages: The messages of `opam lint` about the same bytes. They are needed even if
            opam's own checks are not to run, since they name the fields that opam refuses,
            and the other checks judge what opam reads.
        kinds: The families of checks to run.
    """
    fault = file if isinstance(file, Unreadable) else unreadable_by_opam(messages)
    opam_file = OpamFile("opam", ()) if isinstance(file, Unreadable) else file
    subject = LintSubject(
        facts=facts,
        file=opam_file,
        dropped=dropped_fields(messages),
        opam_messages=messages,
        sources=sources_fetched(opam_file, messages) if facts.with_upstream else None,
    )
    return unreadable(subject, fault) if fault else run_checks(subject, kinds)
