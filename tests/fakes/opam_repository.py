"""Small opam repositories in git, written by a test for the case it is about."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

_HEADER = """opam-version: "2.0"
synopsis: "A package of a test"
maintainer: "opam-ci tests <tests@example.org>"
authors: "opam-ci tests"
license: "ISC"
homepage: "https://example.org"
bug-reports: "https://example.org/issues"
dev-repo: "git+https://example.org/example.git"
"""

COMPILER = {
    "ocaml-system.5.3.0": """flags: compiler
available: sys-ocaml-version = "5.3.0"
conflict-class: "ocaml-core-compiler"
""",
    "ocaml.5.3.0": 'depends: "ocaml-system" {= "5.3.0"}\n',
}

Files = Mapping[str, str | None]
"""Contents by path; None deletes."""


def opam(body: str) -> str:
    """Returns an opam file that has all that a good one says about itself."""
    return _HEADER + body


def package(name: str, body: str) -> dict[str, str]:
    """Returns a package's file."""
    return {f"packages/{name.split('.', 1)[0]}/{name}/opam": opam(body)}


def write(directory: Path, base: Files, branches: Mapping[str, Files]) -> Path:
    """Writes a bare repository whose master has the compiler and `base`.

    Args:
        directory: Where.
        base: Files of master.
        branches: Changes of each branch, made on master.
    """
    compiler = {
        path: text for name in COMPILER for path, text in package(name, COMPILER[name]).items()
    }
    repo = {"repo": 'opam-version: "2.0"\n'}
    stream = _commit("master", {**repo, **compiler, **base})
    for branch, files in branches.items():
        stream += _commit(branch, files, parent="refs/heads/master")
    git(directory, "init", "--quiet", "--bare", "--initial-branch=master")
    git(directory, "fast-import", "--quiet", stdin=stream)
    return directory


def add_branch(directory: Path, branch: str, files: Files) -> None:
    """Adds a branch, or moves it, to a new commit on master as it is now."""
    parent = git(directory, "rev-parse", "master")
    git(directory, "fast-import", "--quiet", "--force", stdin=_commit(branch, files, parent))


def git(directory: Path, *words: str, stdin: bytes = b"") -> str:
    """Runs git on a bare repository and returns what it prints."""
    done = subprocess.run(
        ["git", f"--git-dir={directory}", *words], input=stdin, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def _commit(branch: str, files: Files, parent: str = "") -> bytes:
    lines = [
        f"commit refs/heads/{branch}",
        "committer tests <tests@example.org> 1700000000 +0000",
        "data 4\ntest",
        *([f"from {parent}"] if parent else []),
    ]
    for path, text in files.items():
        if text is None:
            lines.append(f"D {path}")
        else:
            lines.append(f"M 100644 inline {path}\ndata {len(text.encode())}\n{text}")
    return ("\n".join(lines) + "\n").encode()
