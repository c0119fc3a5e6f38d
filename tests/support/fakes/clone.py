"""Small clones of an opam repository, made with real git for one test each."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

SYMLINK = "120000"
SUBMODULE = "160000"
EXECUTABLE = "100755"
REGULAR = "100644"


class Stored(str):
    """Id of a blob that is in the clone already, so that it can have many names."""

    __slots__ = ()


Content = bytes | tuple[str, bytes] | Stored | None


class Clone:
    """A bare git repository, made if it does not exist; commits need no work tree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "HEAD").exists():
            path.mkdir(parents=True, exist_ok=True)
            self.git("init", "-q", "--bare", "-b", "master")

    def git(self, *arguments: str, data: bytes = b"") -> str:
        # The user who runs the tests need not have configured an author.
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", *author, *arguments], cwd=self.path, input=data, capture_output=True, check=True
        )
        return done.stdout.decode().strip()

    def store(self, data: bytes) -> Stored:
        """Write a blob."""
        return Stored(self.git("hash-object", "-w", "--stdin", data=data))

    def commit(
        self,
        branch: str,
        files: Mapping[str, Content],
        *,
        parents: tuple[str, ...] = (),
        message: str = "change",
    ) -> str:
        """Put a commit on a branch: files are set, or deleted by None.

        Args:
            branch: Its name, or a full ref.
            files: Content by path; with a mode if it is not a regular file.
            parents: The first one's files are the start; none for the first commit.
            message: The commit's message.
        """
        ref = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
        lines = [f"commit {ref}".encode(), b"committer a <a@b> 1700000000 +0000"]
        lines += [f"data {len(message.encode())}".encode(), message.encode()]
        lines += [
            f"{'merge' if number else 'from'} {parent}".encode()
            for number, parent in enumerate(parents)
        ]
        for path, content in files.items():
            quoted = '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
            where = quoted.encode("utf-8", "surrogateescape")
            if content is None:
                lines.append(b"D " + where)
                continue
            if isinstance(content, Stored):
                lines.append(f"M {REGULAR} {content} ".encode() + where)
                continue
            mode, body = content if isinstance(content, tuple) else (REGULAR, content)
            if mode == SUBMODULE:
                lines.append(f"M {mode} {body.decode()} ".encode() + where)
            else:
                lines += [f"M {mode} inline ".encode() + where, f"data {len(body)}".encode(), body]
        reset = b"" if parents else f"reset {ref}\n".encode()
        self.git("fast-import", "--quiet", "--force", data=reset + b"\n".join(lines) + b"\n")
        return self.git("rev-parse", ref)


def opam(text: str = "") -> bytes:
    """An opam file with a few fields more."""
    return f'opam-version: "2.0"\nsynopsis: "Test"\n{text}\n'.encode()


def at(package: str, below: str = "opam") -> str:
    """The path of a file of a package."""
    return f"packages/{package.partition('.')[0]}/{package}/{below}"
