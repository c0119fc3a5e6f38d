"""Differences between trees, with renames paired as git pairs them."""

import secrets
from typing import IO, Final

from opam_ci.clients.git.process import Git, git_fault, split_nul
from opam_ci.core.submission.change import FileChange

_RENAME_STATUS: Final = ("R", "C")


class TreeDiffer:
    """Compares trees through one `git diff-tree --stdin`."""

    def __init__(self, git: Git) -> None:
        """The process starts at the first query."""
        # -l1000 is the limit of `git diff`, which opam-repo-ci runs; see process.py.
        self._process = git.stream(
            "diff-tree", "--stdin", "-r", "-M50%", "-l1000", "--raw", "-z", "--no-abbrev"
        )
        # git echoes a line that names no object, and flushes: this marks the end of a result.
        # It is random because a file's name may hold any text and line ends.
        self._end = f"end-of-result-{secrets.token_hex(16)}\n".encode()

    def changes(self, old_tree: str, new_tree: str) -> list[FileChange]:
        """What differs, in git's order.

        Raises:
            InfrastructureError: Git fails.
        """
        with self._process.lock:
            output = self._process.query(f"{old_tree} {new_tree}\n".encode() + self._end)
            return self._parse(output, f"{old_tree} {new_tree}")

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _parse(self, output: IO[bytes], expected: str) -> list[FileChange]:
        heading = output.readline()
        if heading.decode().strip("\n\0") != expected:
            if not heading:
                raise self._process.lost()
            raise git_fault(f"unexpected output of git diff-tree: {heading!r}")
        body = bytearray()
        while not body.endswith(self._end):
            line = output.readline()
            if not line:
                raise self._process.lost()
            body += line
        return _changes(bytes(body[: -len(self._end)]))


def _changes(raw: bytes) -> list[FileChange]:
    parts = iter(split_nul(raw))
    found: list[FileChange] = []
    for part in parts:
        if not part.startswith(":"):
            continue
        old_mode, new_mode, old_id, new_id, status = part[1:].split(" ")
        path = old_path = next(parts)
        if status[0] in _RENAME_STATUS:
            path = next(parts)
        found.append(FileChange(path, old_path, status[0], old_mode, new_mode, old_id, new_id))
    return found
