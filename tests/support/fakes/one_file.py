"""The analysis of one opam file alone, without a repository around it."""

from opam_ci.core.submission.analysis import analyse
from opam_ci.core.submission.change import Content, FileChange
from opam_ci.core.submission.result import Analysis


def significance(old: bytes, new: bytes, *, path: str) -> Analysis:
    """Analyse the change of one opam file alone, without a repository around it."""
    change = FileChange(path, path, "M", "100644", "100644", "", "")
    return analyse([change], _OneFile(old, new))


class _OneFile:
    """Two trees that differ in one file, whatever its path."""

    def __init__(self, old: bytes, new: bytes) -> None:
        self._old = old
        self._new = new

    def old(self, _change: FileChange) -> Content:
        return self._old

    def new(self, _path: str) -> Content:
        return self._new

    def had(self, _path: str) -> bool:
        return True
