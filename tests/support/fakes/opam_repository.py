"""Small opam repositories in git, written by a test for its own case."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.fakes.clone import Clone, at

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
    """Returns an opam file with all fields that lint requires."""
    return _HEADER + body


def package(name: str, body: str) -> dict[str, str]:
    """Returns a package's file."""
    return {at(name): opam(body)}


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
    Clone(directory).commit("master", _encoded({**repo, **compiler, **base}))
    for branch, files in branches.items():
        add_branch(directory, branch, files)
    return directory


def add_branch(directory: Path, branch: str, files: Files) -> None:
    """Adds a branch, or moves it, to a new commit on master as it is now."""
    clone = Clone(directory)
    clone.commit(branch, _encoded(files), parents=(clone.git("rev-parse", "master"),))


def git(directory: Path, *arguments: str) -> str:
    """Runs git on a bare repository, which may not exist yet, and returns its output."""
    command = ["git", f"--git-dir={directory}", *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode().strip()


def _encoded(files: Files) -> dict[str, bytes | None]:
    return {path: None if text is None else text.encode() for path, text in files.items()}
