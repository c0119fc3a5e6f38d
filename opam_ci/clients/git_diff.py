"""Differences between trees, with renames paired as git pairs them."""

import secrets
from typing import IO, Final

from opam_ci.clients.git_process import Git, git_fault
from opam_ci.core.change import FileChange

_RENAME_STATUS: Final = ("R", "C")


class TreeDiffer:
    """Compares trees through one `git diff-tree --stdin`."""

    def __init__(self, git: Git) -> None:
        """The process starts at the first question."""
        # -l1000 is the limit of `git diff`, which the peer runs; see git_process.py.
        self._process = git.stream(
            "diff-tree", "--stdin", "-r", "-M50%", "-l1000", "--raw", "-z", "--no-abbrev"
        )
        # git echoes a line that names no object, and flushes: the end of an answer. It is
        # random because a file's name may hold any words and line ends.
        self._end = f"end-of-answer-{secrets.token_hex(16)}\n".encode()

    def changes(self, old_tree: str, new_tree: str) -> list[FileChange]:
        """What differs, in git's order.

        Raises:
            InfrastructureError: Git fails.
        """
        with self._process.lock:
            answer = self._process.ask(f"{old_tree} {new_tree}\n".encode() + self._end)
            return self._parse(answer, f"{old_tree} {new_tree}")

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _parse(self, answer: IO[bytes], expected: str) -> list[FileChange]:
        heading = answer.readline()
        if heading.decode().strip("\n\0") != expected:
            if not heading:
                raise self._process.lost()
            raise git_fault(f"git diff-tree says: {heading!r}")
        body = bytearray()
        while not body.endswith(self._end):
            line = answer.readline()
            if not line:
                raise self._process.lost()
            body += line
        return _changes(bytes(body[: -len(self._end)]))


def _changes(raw: bytes) -> list[FileChange]:
    words = iter(raw.decode("utf-8", "surrogateescape").split("\0"))
    found: list[FileChange] = []
    for word in words:
        if not word.startswith(":"):
            continue
        old_mode, new_mode, old_id, new_id, status = word[1:].split(" ")
        path = next(words)
        old_path = path
        if status[0] in _RENAME_STATUS:
            path = next(words)
        found.append(
            FileChange(
                path=path,
                old_path=old_path,
                status=status[0],
                old_mode=old_mode,
                new_mode=new_mode,
                old_id=old_id,
                new_id=new_id,
            )
        )
    return found
