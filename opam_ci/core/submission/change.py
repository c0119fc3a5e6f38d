"""The files of a change, as git reports them, and the two trees that it is the difference of."""

from dataclasses import dataclass
from typing import Final, Protocol

_ABSENT: Final = "000000"


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file that differs between two trees.

    Attributes:
        path: Its path now, or before, if it is deleted.
        old_path: Its path before; differs from `path` for a rename only.
        status: Git's letter: `A`dded, `D`eleted, `M`odified, `R`enamed, `T`ype changed.
        old_mode: Git's octal mode before, 000000 if it is new.
        new_mode: Git's octal mode now, 000000 if it is deleted.
        old_id: Object id before, zeros if it is new.
        new_id: Object id now, zeros if it is deleted.
    """

    path: str
    old_path: str
    status: str
    old_mode: str
    new_mode: str
    old_id: str
    new_id: str

    @property
    def is_deletion(self) -> bool:
        """Whether the file is only in the old tree."""
        return self.new_mode == _ABSENT

    @property
    def was_at_path(self) -> bool:
        """Whether the old tree has a file at `path`: not so for new and for renamed ones."""
        return self.status not in ("A", "R", "C")


@dataclass(frozen=True, slots=True)
class Oversized:
    """A file that is too large to be read.

    Attributes:
        size: Its bytes.
    """

    size: int


Content = bytes | Oversized | None


class Trees(Protocol):
    """The files of the two trees that a change is the difference of."""

    def old(self, change: FileChange) -> Content:
        """The file at the change's `path` in the base; None if it was not there."""

    def new(self, path: str) -> Content:
        """The file at a path in the merged tree; None if it is not there."""

    def had(self, path: str) -> bool:
        """Whether the base has a file or folder at a path."""
