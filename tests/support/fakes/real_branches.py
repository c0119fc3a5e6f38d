"""Pull requests on a clone of the real opam-repository, one for each kind of result.

Only git objects are written, no work tree. The packages are small and need no more than the
compiler, so that a check takes seconds: `num` compiles in 5 s and has tests, `obuild` needs
`ocamlfind`.

    python -m tests.support.fakes.real_branches REPOSITORY MIRROR

adds them all to a clone, and is the source host of some until it is interrupted.
"""

import contextlib
import hashlib
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from opam_ci.cli.local.source_host import SourceHost
from tests.support.fakes import opam_repository
from tests.support.fakes.clone import at
from tests.support.fakes.opam_repository import Files

_SOURCE_OF_NUM = "https://github.com/ocaml/num/archive/refs/tags/v1.6.tar.gz"
_SHA256_OF_NUM = "b5cce325449aac746d5ca963d84688a627cca5b38d41e636cf71c68b60495b3e"

_BREAKS_A_TEST = """--- a/src/big_int.ml
+++ b/src/big_int.ml
@@ -56,3 +56,3 @@
 let minus_big_int bi =
- { sign = - bi.sign;
+ { sign = bi.sign;
    abs_value = copy_nat (bi.abs_value) 0 (num_digits_big_int bi)}
"""
_BREAKS_THE_BUILD = """--- a/src/int_misc.ml
+++ b/src/int_misc.ml
@@ -17,3 +17,3 @@
 let rec gcd_int i1 i2 =
-  if i2 = 0 then abs i1 else gcd_int i2 (i1 mod i2)
+  if i2 = 0 then "" else gcd_int i2 (i1 mod i2)
 ;;
"""
_DOES_NOT_APPLY = """--- a/src/int_misc.ml
+++ b/src/int_misc.ml
@@ -17,3 +17,3 @@
 let rec greatest_common_divisor i1 i2 =
-  if i2 = 0 then i1 else greatest_common_divisor i2 (i1 mod i2)
+  if i2 = 0 then abs i1 else greatest_common_divisor i2 (i1 mod i2)
 ;;
"""
_IS_CUT_OFF = """--- a/src/int_misc.ml
+++ b/src/int_misc.ml
@@ -17,9 +17,9 @@
 let rec gcd_int i1 i2 =
-  if i2 = 0 then abs i1 else gcd_int i2
"""


class Originals:
    """The opam files of master, and where the sources of a branch are served."""

    def __init__(self, repository: Path, host: str) -> None:
        self._repository = repository
        self.host = host

    def text(self, package: str) -> str:
        """Returns a package's opam file."""
        words = ("cat-file", "blob", f"master:{at(package)}")
        return opam_repository.git(self._repository, *words) + "\n"

    def edited(self, package: str, *edits: tuple[str, str]) -> str:
        """Returns a package's opam file with texts replaced, each of which is in it once."""
        text = self.text(package)
        for old, new in edits:
            assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {package}"
            text = text.replace(old, new)
        return text


@dataclass(frozen=True)
class Branch:
    """A pull request.

    Attributes:
        title: What it does, as in docs/checks.md.
        files: Its changes.
    """

    title: str
    files: Callable[[Originals], Files]


def archive_of_num(mirror: Path) -> bytes:
    """Returns the source archive of num.1.6 from an archive mirror."""
    return (mirror / "sha256" / _SHA256_OF_NUM[:2] / _SHA256_OF_NUM).read_bytes()


def borrow(repository: Path, directory: Path) -> Path:
    """Makes a bare repository that reads the objects of another one, which stays as it is."""
    opam_repository.git(directory, "init", "--quiet", "--bare", "--initial-branch=master")
    (directory / "objects" / "info" / "alternates").write_text(f"{repository / 'objects'}\n")
    shallow = repository / "shallow"
    if shallow.is_file():
        (directory / "shallow").write_bytes(shallow.read_bytes())
    head = opam_repository.git(repository, "rev-parse", "master")
    opam_repository.git(directory, "update-ref", "refs/heads/master", head)
    return directory


def make(repository: Path, names: Iterable[str], *, host: str = "http://127.0.0.1:9") -> None:
    """Adds branches of these names to a clone.

    Args:
        repository: The clone, bare or not.
        names: Of `BRANCHES`.
        host: URL without a slash at the end, of a host that the branches may name as source.
    """
    originals = Originals(repository, host)
    for name in names:
        opam_repository.add_branch(repository, name, BRANCHES[name].files(originals))


def _patched(patch: str) -> Callable[[Originals], Files]:
    digest = hashlib.sha256(patch.encode()).hexdigest()
    fields = (
        'conflicts: [ "base-num" ]\n'
        'patches: ["change.patch"]\n'
        f'extra-files: ["change.patch" "sha256={digest}"]\n'
    )

    def files(originals: Originals) -> Files:
        return {
            at("num.1.6"): originals.edited("num.1.6", ('conflicts: [ "base-num" ]\n', fields)),
            at("num.1.6", "files/change.patch"): patch,
        }

    return files


def _edit(package: str, *edits: tuple[str, str]) -> Callable[[Originals], Files]:
    return lambda originals: {at(package): originals.edited(package, *edits)}


def _served(name: str, digest: str) -> Callable[[Originals], Files]:
    def files(originals: Originals) -> Files:
        whole = originals.text("num.1.6")
        head, found, _ = whole.partition("url {")
        assert found
        source = f'url {{\n  src: "{originals.host}/{name}"\n  checksum: "sha256={digest}"\n}}\n'
        return {at("num.1.7"): head + source}

    return files


def _broken_dependency(originals: Originals) -> Files:
    broken = originals.edited("num.1.6", ('make "PROFILE=release"', 'make "PROFILE=none"'))
    broken = broken.replace('"opam-modern"', '"opam-moderm"')
    user = originals.edited("obuild.0.1.11", ('"ocamlfind" {build}', '"ocamlfind" {build} "num"'))
    return {at("num.1.6"): broken, at("obuild.0.1.11"): user}


def _deletion_of_what_is_needed(originals: Originals) -> Files:
    user = originals.edited(
        "obuild.0.1.11", ('"ocamlfind" {build}', '"ocamlfind" {build & = "1.9.6"}')
    )
    return {at("ocamlfind.1.9.6"): None, at("obuild.0.1.11"): user}


_OTHER = "0" * 64

BRANCHES: Mapping[str, Branch] = {
    "broken-patch": Branch("num.1.6 gets a patch that does not apply", _patched(_DOES_NOT_APPLY)),
    "damaged-patch": Branch("num.1.6 gets a patch that is cut off", _patched(_IS_CUT_OFF)),
    "compile-error": Branch("num.1.6 gets a patch with a type error", _patched(_BREAKS_THE_BUILD)),
    "failing-test": Branch(
        "num.1.6 gets a patch that compiles and computes wrong", _patched(_BREAKS_A_TEST)
    ),
    "build-command": Branch(
        "num.1.6 builds a make target that does not exist",
        _edit("num.1.6", ('"opam-modern"', '"opam-moderm"')),
    ),
    "accepted-failure": Branch(
        "the same, and num.1.6 accepts failures on debian-13",
        _edit(
            "num.1.6",
            ('"opam-modern"', '"opam-moderm"'),
            ("conflicts: [", 'x-ci-accept-failures: ["debian-13"]\nconflicts: ['),
        ),
    ),
    "bound-too-high": Branch(
        "obuild.0.1.11 asks for an ocamlfind that does not exist",
        _edit("obuild.0.1.11", ('"ocamlfind" {build}', '"ocamlfind" {build & >= "99"}')),
    ),
    "bound-too-low": Branch(
        "xml-light.2.4 loses its upper bound on ocaml",
        _edit("xml-light.2.4", ('"ocaml" { < "5.0"}', '"ocaml"')),
    ),
    "no-such-dependency": Branch(
        "obuild.0.1.11 depends on a package that nobody has",
        _edit("obuild.0.1.11", ('"ocamlfind" {build}', '"no-such-package"')),
    ),
    "new-release": Branch(
        "num.1.7, with the sources of num.1.6",
        lambda originals: {at("num.1.7"): originals.text("num.1.6")},
    ),
    "deletion": Branch("num.1.6 is deleted", lambda _: {at("num.1.6"): None}),
    "needed-deletion": Branch(
        "ocamlfind.1.9.6 is deleted, and obuild.0.1.11 asks for it", _deletion_of_what_is_needed
    ),
    "unavailable": Branch(
        "num.1.6 becomes unavailable everywhere",
        _edit("num.1.6", ('conflicts: [ "base-num" ]', 'available: false\nconflicts: "base-num"')),
    ),
    "broken-dependency": Branch(
        "num.1.6 no longer builds, and obuild.0.1.11 depends on it", _broken_dependency
    ),
    "wrong-checksum": Branch(
        "num.1.7 with a checksum that is not its archive's", _served("num-1.7.tar.gz", _OTHER)
    ),
    "source-gone": Branch(
        "num.1.7 with a source that its host does not have (404)", _served("gone.tar.gz", _OTHER)
    ),
    "source-host-down": Branch(
        "num.1.7 whose source host answers 503", _served("broken.tar.gz", _OTHER)
    ),
    "source-unknown-host": Branch(
        "num.1.7 whose source host has no address",
        lambda originals: {
            at("num.1.7"): originals.edited(
                "num.1.6", (_SOURCE_OF_NUM, "https://sources.invalid/num-1.7.tar.gz")
            ).replace(_SHA256_OF_NUM, _OTHER)
        },
    ),
    "unparsable": Branch(
        "the opam file of num.1.6 loses a quotation mark",
        _edit("num.1.6", ('"base-num"', '"base-num')),
    ),
}
"""By branch name."""


def main(repository: Path, mirror: Path) -> None:
    """Adds all branches to a clone, and serves their sources until interrupted."""
    archives = {"num-1.7.tar.gz": archive_of_num(mirror), "broken.tar.gz": b""}
    with SourceHost(archives, broken=["broken.tar.gz"]) as host:
        make(repository, BRANCHES, host=host.url)
        sys.stdout.write("".join(f"{name}: {made.title}\n" for name, made in BRANCHES.items()))
        sys.stdout.write(f"their source host serves at {host.url}; interrupt it when done\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
