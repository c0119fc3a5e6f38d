"""What no worker can take is refused by the analysis, with its path."""

import random
import string
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ByteSize

from opam_ci.clients.git.analysis import analyse, analyse_merge
from opam_ci.clients.git.inspect import inspect
from opam_ci.clients.git.repository import Repository
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.submission import admission
from opam_ci.core.submission.admission import (
    ChangeLimits,
    is_package,
    refusal,
    too_large,
    too_many_packages,
)
from opam_ci.core.submission.change import FileChange
from opam_ci.core.submission.result import Analysis, ChangedPackage, ChangeKind
from tests.support.fakes.clone import (
    EXECUTABLE,
    REGULAR,
    SUBMODULE,
    SYMLINK,
    Clone,
    Content,
    at,
    opam,
)

COMMIT = b"1" * 40
IN_PACKAGES = "in packages directory"
PLAIN = f"{IN_PACKAGES} (expecting printable ASCII characters without quotes and backslashes)"
FILES = f"{IN_PACKAGES} (expecting regular files of mode 100644 or 100755)"
DEEP = at("b.1", "files/" + "d/" * 2_100 + "x")
SHOWN = "packages/b/b.1/files/"
ODD: Mapping[str, tuple[str, Content, str]] = {
    "name that is not ASCII": (
        "packages/ü/ü.1/opam",
        opam(),
        f'Unexpected path "packages/\\195\\188/\\195\\188.1/opam" {PLAIN}',
    ),
    "file that is not ASCII": (
        at("a.1", "files/ü.patch"),
        b"",
        f'Unexpected path "packages/a/a.1/files/\\195\\188.patch" {PLAIN}',
    ),
    "no text at all": (
        at("b.1", "files/\udcff\x1b[2J"),
        b"",
        f'Unexpected path "packages/b/b.1/files/\\255\\027[2J" {PLAIN}',
    ),
    "quote": ('packages/"/x', b"", f'Unexpected path "packages/\\"/x" {PLAIN}'),
    "backslash": ("packages/a\\b", b"", f'Unexpected path "packages/a\\\\b" {PLAIN}'),
    "line end": ("packages/a\nb", b"", f'Unexpected path "packages/a\\nb" {PLAIN}'),
    "long name": (
        at("b.1", "files/" + "n" * 256),
        b"",
        f'Path "{SHOWN}{"n" * 79}..." has too long a name (256 bytes, at most 255)',
    ),
    "long path": (
        at("b.1", "files/" + ("n" * 98 + "/") * 10),
        b"",
        f'Path "{SHOWN}{"n" * 79}..." is too long (1010 bytes, at most 1000)',
    ),
    "deep path": (DEEP, b"", f'Path "{DEEP[:100]}..." is too deep (at most 100 names)'),
    "deep path elsewhere": (
        "d/" * 2_100 + "x",
        b"",
        f'Path "{"d/" * 50}..." is too deep (at most 100 names)',
    ),
    "submodule": (
        at("b.1", "files/module"),
        (SUBMODULE, COMMIT),
        f'Unexpected submodule "packages/b/b.1/files/module" {FILES}',
    ),
    "submodule for all": (
        "packages",
        (SUBMODULE, COMMIT),
        f'Unexpected submodule "packages" {FILES}',
    ),
    "symbolic link": (
        at("a.1"),
        (SYMLINK, b"../../b/b.1/opam"),
        f'Unexpected symbolic link "packages/a/a.1/opam" {FILES}',
    ),
}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path / "clone.git")
    clone.commit("master", {"repo": b"", at("a.1"): opam(), at("a.1", "files/x"): b"x"})
    return clone


def analysed(clone: Clone, head: str, base: str = "master") -> Analysis:
    with Repository.open(clone.path) as repository:
        return analyse(repository, clone.git("rev-parse", base), head)


@pytest.mark.parametrize("case", ODD)
def test_a_file_that_no_worker_can_handle_is_refused_with_its_path(clone: Clone, case: str) -> None:
    path, content, failure = ODD[case]
    path = path.rstrip("/")
    # A good package beside it changes nothing.
    files = {at("c.1"): opam(), path: content} if path != "packages" else {path: content}
    head = clone.commit("topic", files, parents=("master",))
    assert analysed(clone, head).failure == failure
    assert len(failure) < 300
    assert failure.isascii()
    assert failure.isprintable()
    # A merge of it is refused alike.
    with Repository.open(clone.path) as repository:
        assert analyse_merge(repository, head).failure == failure


@pytest.mark.parametrize("case", [case for case in ODD if case != "submodule for all"])
def test_files_of_the_base_are_not_refused_and_may_be_deleted(clone: Clone, case: str) -> None:
    path, content, _ = ODD[case]
    # Git itself compares no trees of the depth that it has above.
    path = path.replace("d/" * 2_100, "d/" * 150).rstrip("/")
    base = clone.commit("odd", {path: content, at("b.1"): opam()}, parents=("master",))
    beside = clone.commit("topic", {at("c.1"): opam()}, parents=(base,))
    assert [found.package for found in analysed(clone, beside, "odd").packages] == ["c.1"]
    deleted = clone.commit("less", {path: None, at("c.1"): opam()}, parents=(base,))
    result = analysed(clone, deleted, "odd")
    assert result.failure is None
    assert "c.1" in {found.package for found in result.packages}
    # A head from before the path existed is not checked for it either.
    old = clone.commit("old", {at("c.1"): opam()}, parents=("master",))
    assert analysed(clone, old, "odd").failure is None


def test_executable_files_and_what_is_elsewhere_are_taken(clone: Clone) -> None:
    files: dict[str, Content] = {
        at("b.1"): (EXECUTABLE, opam()),
        at("b.1", "files/" + "n" * 255): b"",
        "docs/ü": b"",
        "link": (SYMLINK, b"docs"),
        "module": (SUBMODULE, COMMIT),
        "n" * 300: b"",
    }
    head = clone.commit("topic", files, parents=("master",))
    result = analysed(clone, head)
    assert (result.failure, [found.package for found in result.packages]) == (None, ["b.1"])


def tree(clone: Clone, *entries: tuple[str, str, str]) -> str:
    """Writes a tree as it is: of modes that git's own commands do not write."""
    raw = b"".join(
        f"{mode} {name}".encode() + b"\0" + bytes.fromhex(object_id)
        for mode, name, object_id in entries
    )
    return clone.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", data=raw)


@pytest.mark.parametrize("mode", ["100664", "100600", "10644", "0"])
def test_an_odd_mode(clone: Clone, mode: str) -> None:
    blob = clone.git("hash-object", "-w", "--stdin", data=opam())
    made = tree(clone, (mode, "opam", blob))
    for name in ("b.1", "b", "packages"):
        made = tree(clone, ("40000", name, made))
    head = clone.git("commit-tree", made, "-p", "master", "-m", "odd")
    assert analysed(clone, head).failure == (
        f'Unexpected mode {mode.zfill(6)} of "packages/b/b.1/opam" {FILES}'
    )


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_is_none(clone: Clone, name: str) -> None:
    made = tree(clone, ("100644", name, clone.git("hash-object", "-w", "--stdin", data=b"")))
    made = tree(clone, ("40000", "packages", made))
    head = clone.git("commit-tree", made, "-p", "master", "-m", "odd")
    assert analysed(clone, head).failure == f'Unexpected path "packages/{name}" {IN_PACKAGES}'


@pytest.mark.parametrize("raw", [b"100644 no end", b"100644 short\0id", b"1x0644 a\0" + b"1" * 20])
def test_a_damaged_tree_is_a_fault(clone: Clone, raw: bytes) -> None:
    made = clone.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", data=raw)
    made = tree(clone, ("40000", "packages", made))
    head = clone.git("commit-tree", made, "-p", "master", "-m", "damaged")
    with pytest.raises(InfrastructureError, match="is damaged") as caught:
        analysed(clone, head)
    assert caught.value.cause is Cause.GIT


def test_trees_that_make_millions_of_paths_are_not_walked(clone: Clone) -> None:
    made = tree(clone, ("100644", "x", clone.git("hash-object", "-w", "--stdin", data=b"")))
    for _ in range(12):
        made = tree(clone, *(("40000", f"{number:02}", made) for number in range(20)))
    made = tree(clone, ("40000", "packages", made))
    head = clone.git("commit-tree", made, "-p", "master", "-m", "bomb")
    assert analysed(clone, head).failure == "Too many changed files and folders (over 100000)"


LIMITS = ChangeLimits(
    file_bytes=ByteSize(100), package_bytes=ByteSize(150), package_files=3, head_bytes=ByteSize(200)
)
FILE = "(101 bytes, at most 100): move it to the sources of the package"
SIZES: Mapping[str, tuple[Mapping[str, int], str | None]] = {
    "all that is allowed": ({at("a.1"): 100, at("a.1", "files/x"): 50, at("b.1"): 50}, None),
    "a file": ({at("a.1", "files/x"): 101}, f'File "packages/a/a.1/files/x" is too big {FILE}'),
    "an opam file": ({at("a.1"): 101}, f'File "packages/a/a.1/opam" is too big {FILE}'),
    "a file beside packages": (
        {"packages/README": 101},
        f'File "packages/README" is too big {FILE}',
    ),
    "a package": (
        {at("a.1", "files/x"): 100, at("a.1"): 51},
        'Changed files in "packages/a/a.1" are too big (151 bytes together, at most 150)',
    ),
    "many files of a package": (
        {at("a.1", f"files/{name}"): 0 for name in "wxyz"},
        'Too many changed files in "packages/a/a.1" (4, at most 3)',
    ),
    "a head": (
        {at("a.1"): 67, at("b.1"): 67, at("c.1"): 67},
        "Changed files are too big (201 bytes together, at most 200)",
    ),
    "files elsewhere": (
        {"README": 201},
        "Changed files are too big (201 bytes together, at most 200)",
    ),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_and_numbers_of_files(clone: Clone, case: str) -> None:
    sizes, failure = SIZES[case]
    assert too_large(sizes, LIMITS) == failure
    head = clone.commit("topic", {path: b"#" * size for path, size in sizes.items()})
    with Repository.open(clone.path) as repository:
        trees = (repository.tree_of(clone.git("rev-parse", "master")), repository.tree_of(head))
        assert inspect(repository, *trees, LIMITS) == failure


def test_the_same_file_under_many_names_counts_each_time(clone: Clone) -> None:
    blob = clone.store(b"#" * 100)
    head = clone.commit("topic", {at(f"{name}.1"): blob for name in "bcd"}, parents=("master",))
    with Repository.open(clone.path) as repository:
        failure = analyse(repository, clone.git("rev-parse", "master"), head, LIMITS).failure
        assert failure == "Changed files are too big (300 bytes together, at most 200)"
        assert analyse_merge(repository, head, LIMITS).failure == failure


def test_two_files_of_one_name_are_a_damaged_tree(clone: Clone) -> None:
    blobs = [clone.store(data) for data in (b"#" * 200, b"")]
    made = tree(clone, *(("100644", "opam", blob) for blob in blobs))
    for name in ("b.1", "b", "packages"):
        made = tree(clone, ("40000", name, made))
    head = clone.git("commit-tree", made, "-p", "master", "-m", "twice")
    with pytest.raises(InfrastructureError, match="is damaged"):
        analysed(clone, head)


def names(number: int, length: int) -> list[str]:
    return [f"p{count:05}{'x' * (length - 8)}.1" for count in range(number)]


def changes(packages: list[str]) -> list[FileChange]:
    return [
        FileChange(at(each), at(each), "A", "000000", REGULAR, "0" * 40, "1" * 40)
        for each in packages
    ]


@pytest.mark.parametrize(
    ("number", "length", "failure"),
    [
        (10_000, 40, None),
        (10_001, 40, "Too many changed packages (10001, at most 10000)"),
        (20_000, 200, "Too many changed packages (20000, at most 10000)"),
        (
            3_000,
            200,
            (
                "Names of the 3000 changed packages are too long "
                "(600000 bytes together, at most 524288)"
            ),
        ),
    ],
)
def test_number_of_packages(number: int, length: int, failure: str | None) -> None:
    assert too_many_packages(changes(names(number, length))) == failure


def test_too_many_packages_are_refused_through_git(clone: Clone) -> None:
    files = {at(each): opam() for each in names(10_001, 20)}
    head = clone.commit("topic", files, parents=("master",))
    result = analysed(clone, head)
    assert (result.failure, result.packages) == (
        "Too many changed packages (10001, at most 10000)",
        (),
    )
    # Deletions are reported like the rest.
    back = clone.commit("back", dict.fromkeys(files), parents=(head,))
    assert analysed(clone, back, "topic").failure == result.failure


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=300)
PLAIN_TEXTS = st.text("abc.+~ -_", min_size=1, max_size=300)
BYTES = st.binary(min_size=1, max_size=50).map(
    lambda data: data.translate(None, b"/\0").decode("utf-8", "surrogateescape")
)


def test_the_longest_list_fits_into_a_payload() -> None:
    """Of names that nothing can compress much: Temporal refuses 2 MB."""
    chance = random.Random(1)  # noqa: S311  no secret
    letters = string.ascii_letters + string.digits
    packages = tuple(
        ChangedPackage(
            package="a" + "".join(chance.choices(letters, k=49)) + ".1",
            kind=ChangeKind.NEW_PACKAGE,
            has_tests=True,
        )
        for _ in range(admission.MAX_PACKAGES)
    )
    assert sum(len(each.package) for each in packages) <= admission.MAX_PACKAGE_BYTES
    result = Analysis(packages=packages, merge_tree="1" * 40)
    sent = result.model_dump_json()
    assert len(sent) < 1_000_000
    assert Analysis.model_validate_json(sent) == result


PATHS = st.lists(TEXTS | PLAIN_TEXTS | BYTES, max_size=8).map("/".join)
MODES = st.sampled_from([REGULAR, EXECUTABLE, SYMLINK, SUBMODULE, "100600"])


@given(PATHS, MODES, st.booleans())
def test_the_rule(path: str, mode: str, below: bool) -> None:
    """What passes below packages/ can be written by every worker; a refusal is one line."""
    path = f"packages/{path}" if below else path
    reported = refusal(path, mode)
    if reported is not None:
        assert reported.isascii()
        assert reported.isprintable()
        # A character is at most four bytes, and git shows a byte by four characters.
        assert len(reported) < 16 * admission._SHOWN + 200
        return
    assert len(path.encode("utf-8", "surrogateescape")) <= admission.MAX_PATH
    assert path.count("/") < admission.MAX_DEPTH
    if below:
        assert mode in (REGULAR, EXECUTABLE)
        assert max(len(name.encode()) for name in path.split("/")) <= admission.MAX_NAME
        # What git prints as it is.
        assert all(" " <= char <= "~" and char not in '"\\' for char in path)


@given(st.sampled_from(["a", "a.1", "wrong", "opam", "files", "é.1", ""]), st.integers(0, 4))
def test_a_package_is_where_opam_looks_for_it(folder: str, depth: int) -> None:
    path = "/".join(["packages", *["x"] * depth, folder, "opam"])
    assert is_package(path) == (folder == "a.1" and depth == 1)
