"""The example: a small opam repository and a pull request with all four outcomes.

The repository has the layout of opam-repository and is in the state directory. Its base never
changes, so that the opam root that was prepared for it is reused; the pull request's branch is
rewritten for each run, since its sources are served on a loopback port that is free at that
moment.
"""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent

from opam_ci.cli.local.source_host import SourceHost
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.summary import JobStatus, Summary
from opam_ci.core.model import Frozen

PASSES = "example-passes.1.0.0"
FAILS = "example-type-error.1.0.0"
SKIPPED = "example-alpine-only.1.0.0"
RECOVERS = "example-flaky-source.1.0.0"

BASE = "master"
BRANCH = "example"

_WRITTEN_AT = 1_700_000_000
"""Time of all commits and archives, in seconds since 1970: any constant."""


class Example(Frozen):
    """The example's repository.

    Attributes:
        repo: Path of the (bare) repository.
        branch: The pull request's branch.
        base: The branch into which it is merged.
    """

    repo: Path
    branch: str
    base: str


def source_host() -> SourceHost:
    """Returns the host of the example's sources; one of them is unavailable until `repair`."""
    return SourceHost(_archives(), broken={f"{RECOVERS}.tar.gz"})


def create(directory: Path, source_url: str) -> Example:
    """Writes the repository with both branches, and replaces the last one.

    Args:
        directory: Its path; the parent is made if it does not exist.
        source_url: URL of the pull request's sources, without a slash at the end.

    Raises:
        InfrastructureError: git is missing or fails.
    """
    archives = _archives()
    added = {
        f"packages/{name.partition('.')[0]}/{name}/opam": _with_source(
            opam, f"{source_url}/{name}.tar.gz", archives[f"{name}.tar.gz"]
        )
        for name, opam in _PULL_REQUEST.items()
    }
    new = directory.with_name(directory.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.parent.mkdir(parents=True, exist_ok=True)
    _git(f"--git-dir={new}", "init", "--quiet", "--bare", f"--initial-branch={BASE}")
    history = _commit(BASE, "The base of the example", _BASE_FILES)
    history += _commit(BRANCH, "Four packages, four outcomes", added, parent=BASE)
    _git(f"--git-dir={new}", "fast-import", "--quiet", stdin=history)
    shutil.rmtree(directory, ignore_errors=True)
    new.rename(directory)
    return Example(repo=directory, branch=BRANCH, base=BASE)


def repair_when_noticed(host: SourceHost) -> Callable[[Summary], None]:
    """Returns a watcher of the check that repairs the host once a job has recorded its fault.

    The number of requests in one attempt depends on the downloader (opam's default makes four),
    so no number of refusals would make exactly the first attempt fail.
    """

    def watch(summary: Summary) -> None:
        if any(row.faults for row in summary.jobs if row.job.package == RECOVERS):
            host.repair()

    return watch


def discrepancies(summary: Summary) -> tuple[str, ...]:
    """Returns the jobs whose outcome is not the expected one, a line each."""
    builds = {row.job.package: row for row in summary.jobs if row.job.kind is JobKind.BUILD}
    found = []
    for package, expected in _EXPECTED.items():
        row = builds.get(package)
        actual = "no build job" if row is None else _verdict(row)
        if actual != expected:
            found.append(f"{package}: expected {expected}, got {actual}")
    return tuple(found)


_EXPECTED = {
    PASSES: "passed",
    FAILS: "failed",
    SKIPPED: "skipped",
    RECOVERS: "passed after a fault",
}


def _verdict(row: JobStatus) -> str:
    return f"{row.standing} after a fault" if row.faults else row.standing


def _archives() -> dict[str, bytes]:
    return {f"{name}.tar.gz": _archive(name, files) for name, files in _SOURCES.items()}


def _archive(name: str, files: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=_WRITTEN_AT) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for path, text in sorted(files.items()):
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size = len(text.encode())
            entry.mtime = _WRITTEN_AT
            archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def _with_source(opam: str, url: str, archive: bytes) -> str:
    checksum = hashlib.sha256(archive).hexdigest()
    return f'{opam}url {{\n  src: "{url}"\n  checksum: "sha256={checksum}"\n}}\n'


def _commit(branch: str, message: str, files: Mapping[str, str], parent: str = "") -> bytes:
    """Returns a commit in the format of git-fast-import(1)."""
    lines = [
        f"commit refs/heads/{branch}",
        f"committer opam-ci example <example@example.org> {_WRITTEN_AT} +0000",
        f"data {len(message.encode())}\n{message}",
        *([f"from refs/heads/{parent}"] if parent else []),
        *(
            f"M 100644 inline {path}\ndata {len(text.encode())}\n{text}"
            for path, text in sorted(files.items())
        ),
    ]
    return ("\n".join(lines) + "\n").encode()


def _git(*arguments: str, stdin: bytes = b"") -> None:
    # The example does not depend on settings of the user or the machine.
    ours = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments and a path of ours, no shell
            ["git", *arguments],  # noqa: S607 - the user's git
            env=kept | ours,
            input=stdin,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise InfrastructureError(f"git cannot be started: {error}", cause=Cause.GIT) from error
    if done.returncode != 0:
        raise InfrastructureError(
            f"could not write the example: {done.stderr.decode(errors='replace').strip()}",
            cause=Cause.GIT,
        )


def _opam(synopsis: str, body: str) -> str:
    """Returns an opam file with all the fields that lint requires."""
    head = f"""\
        opam-version: "2.0"
        synopsis: "{synopsis}"
        maintainer: "opam-ci example <example@example.org>"
        authors: "opam-ci example"
        license: "ISC"
        homepage: "https://example.org"
        bug-reports: "https://example.org/issues"
        dev-repo: "git+https://example.org/example.git"
        """
    return dedent(head) + dedent(body)


_GREETING_BUILD = """\
    depends: [
      "ocaml" {>= "4.14"}
      "greeting"
    ]
    build: ["ocamlc" "-I" "%{greeting:lib}%" "greeting.cma" "main.ml" "-o" "main"]
    """

_BASE_FILES = {
    "repo": 'opam-version: "2.0"\n',
    "packages/ocaml-system/ocaml-system.5.3.0/opam": _opam(
        "The OCaml compiler (system version, from outside of opam)",
        """\
        depends: "ocaml" {= "5.3.0" & post}
        conflict-class: "ocaml-core-compiler"
        available: sys-ocaml-version = "5.3.0"
        flags: compiler
        """,
    ),
    "packages/ocaml/ocaml.5.3.0/opam": _opam(
        "The OCaml compiler (virtual package)",
        """\
        depends: "ocaml-system" {= "5.3.0"}
        """,
    ),
    "packages/greeting/greeting.1.0.0/opam": _opam(
        "A library of one function: a dependency that has to be built first",
        """\
        depends: "ocaml" {>= "4.14"}
        build: [
          ["sh" "-c" "echo 'let greet name = \\"Hello, \\" ^ name ^ \\"!\\"' > greeting.ml"]
          ["ocamlc" "-a" "greeting.ml" "-o" "greeting.cma"]
        ]
        install: [
          ["mkdir" "-p" "%{lib}%/greeting"]
          ["cp" "greeting.cma" "greeting.cmi" "%{lib}%/greeting"]
        ]
        """,
    ),
}

_PULL_REQUEST = {
    PASSES: _opam(
        "Compiles, installs a program and has a test that passes",
        dedent(_GREETING_BUILD)
        + dedent("""\
        run-test: [
          ["ocamlc" "-I" "%{greeting:lib}%" "greeting.cma" "test.ml" "-o" "test"]
          ["./test"]
        ]
        """),
    ),
    FAILS: _opam("Does not compile: its source has a type error", _GREETING_BUILD),
    SKIPPED: _opam(
        "Is available on Alpine only",
        dedent(_GREETING_BUILD) + 'available: os-distribution = "alpine"\n',
    ),
    RECOVERS: _opam("Is fine, but its source host is unavailable at first", _GREETING_BUILD),
}

_MAIN = 'let () = print_endline (Greeting.greet "opam")\n'
_INSTALL = 'bin: ["main" {"%s"}]\n'

_SOURCES = {
    PASSES: {
        "main.ml": _MAIN,
        "test.ml": 'let () = assert (Greeting.greet "test" = "Hello, test!")\n',
        "example-passes.install": _INSTALL % "example-passes",
    },
    FAILS: {
        "main.ml": "let () = print_endline (Greeting.greet 42)\n",
        "example-type-error.install": _INSTALL % "example-type-error",
    },
    SKIPPED: {
        "main.ml": _MAIN,
        "example-alpine-only.install": _INSTALL % "example-alpine-only",
    },
    RECOVERS: {
        "main.ml": _MAIN,
        "example-flaky-source.install": _INSTALL % "example-flaky-source",
    },
}
