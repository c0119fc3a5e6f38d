"""Checks of the files in a package's directory."""

from collections.abc import Iterator
from typing import Final

from opam_ci.core.lint.finding import CheckId, LintFinding
from opam_ci.core.lint.subject import LintSubject

OPAM_FILE: Final = "opam"
# 664 is what a umask of 002 makes of a fresh clone.
_PERMISSIONS: Final = frozenset({0o644, 0o664})


def check_directory(subject: LintSubject) -> Iterator[LintFinding]:
    """Allow a plain file `opam` in the directory and nothing else."""
    for entry in subject.facts.entries or ():
        path = f"{subject.directory}/{entry.name}"
        if entry.name != OPAM_FILE:
            yield subject.finding(CheckId.UNEXPECTED_FILE, f"Unexpected file in {path}", file=path)
        elif entry.permissions not in _PERMISSIONS:
            yield subject.finding(
                CheckId.PERMISSIONS,
                f"Forbidden permission for file {path}. All files should have permissions 644.",
                file=path,
            )
