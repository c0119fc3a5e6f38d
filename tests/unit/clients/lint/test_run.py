"""Lint with the real opam, of work trees and of trees in git."""

import subprocess
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

import pytest

from opam_ci.clients.git.repository import Repository
from opam_ci.clients.git.tree import GitTree
from opam_ci.clients.git.work_tree import WorkTree
from opam_ci.clients.lint import run
from opam_ci.clients.lint.opam import OpamLint
from opam_ci.clients.lint.program import HostProgram
from opam_ci.clients.lint.run import PackageFiles, lint_packages
from opam_ci.core.errors import UsageError
from opam_ci.core.lint.finding import CheckId, CheckKind, LintFinding, LintReport, LintRequest
from opam_ci.core.lint.subject import PackageFacts

pytestmark = pytest.mark.timeout(300)

GOOD = """opam-version: "2.0"
synopsis: "Say hello"
maintainer: "Jane <jane@example.org>"
authors: "Jane"
license: "ISC"
homepage: "https://example.org"
bug-reports: "https://example.org/issues"
dev-repo: "git+https://example.org/hello.git"
build: [make]
url {
  src: "https://example.org/hello-1.0.tar.gz"
  checksum: "sha256=0000000000000000000000000000000000000000000000000000000000000000"
}
"""


def git(path: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=path, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    files = {
        "hello/hello.1.0/opam": GOOD,
        "hello/hello.2.0/opam": GOOD.replace('license: "ISC"', 'license: "BSD"'),
        "hello/hello.3.0/opam": "opam-version: [",
        "He_llo/He_llo.1/opam": GOOD.replace('"ISC"', '"MIT"'),
        "He_llo/He_llo.1/files/a.patch": "--- a\n",
    }
    for name, text in files.items():
        path = tmp_path / "packages" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (tmp_path / "packages/hello/hello.1.0/opam").chmod(0o600)
    (tmp_path / "packages/hello/hello.2.0/opam").chmod(0o755)
    git(tmp_path, "init", "-q", "-b", "master")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    return tmp_path


def requests(*packages: str, new: bool | None = None) -> list[LintRequest]:
    return [LintRequest(package=package, new=new) for package in packages]


LintBoth = Callable[[list[LintRequest]], Awaitable[LintReport]]


@pytest.fixture
def lint_both(clone: Path, opam_lint: OpamLint) -> LintBoth:
    """Returns the report of the work tree, which is also that of the commit."""

    async def lint(wanted: list[LintRequest]) -> LintReport:
        from_disk = await lint_packages(WorkTree(clone), wanted, opam=opam_lint)
        with Repository.open(clone) as repository:
            tree = GitTree(repository, repository.resolve("master"))
            from_git = await lint_packages(tree, wanted, opam=opam_lint)
        assert from_disk == from_git
        return from_disk

    return lint


async def test_work_tree_and_commit_give_one_report(lint_both: LintBoth) -> None:
    report = await lint_both(requests("hello.1.0", "hello.2.0", "hello.3.0", "He_llo.1", "hello.9"))
    assert report.checked == ("hello.1.0", "hello.2.0", "hello.3.0", "He_llo.1")
    assert report.missing == ("hello.9",)
    assert [(each.package, each.check, each.line) for each in report.findings] == [
        ("hello.2.0", CheckId.OPAM_LINT, 5),
        ("hello.2.0", CheckId.PERMISSIONS, None),
        ("hello.3.0", CheckId.PARSE, 1),
        ("He_llo.1", CheckId.UNEXPECTED_FILE, None),
        ("He_llo.1", CheckId.NAME_COLLISION, None),
    ]


async def test_whether_a_package_is_new_can_be_given(lint_both: LintBoth) -> None:
    old = await lint_both(requests("He_llo.1", new=False))
    assert [each.check for each in old.findings] == [CheckId.UNEXPECTED_FILE]
    new = await lint_both(requests("hello.1.0", new=True))
    assert [each.machine_message for each in new.findings] == [
        "Warning in hello.1.0: Possible name collision with package 'He_llo'"
    ]


async def test_large_files_are_parsed_a_few_at_a_time(
    clone: Path, opam_lint: OpamLint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsed, a hostile file takes 66 times its bytes."""
    judged = list[int]()
    real = run.judge_all

    async def judge_all(
        opam: OpamLint,
        packages: Sequence[tuple[PackageFacts, PackageFiles]],
        kinds: Collection[CheckKind],
    ) -> list[tuple[LintFinding, ...]]:
        judged.append(len(packages))
        return await real(opam, packages, kinds)

    wanted = requests("hello.1.0", "hello.2.0", "hello.9", "hello.3.0", "He_llo.1")
    whole = await lint_packages(WorkTree(clone), wanted, opam=opam_lint)
    monkeypatch.setattr(run, "judge_all", judge_all)
    monkeypatch.setattr(run, "_CHUNK_BYTES", 2 * len(GOOD) - 10)
    assert await lint_packages(WorkTree(clone), wanted, opam=opam_lint) == whole
    assert judged == [1, 2, 1]


async def test_no_request_is_no_work(clone: Path) -> None:
    nowhere = OpamLint(HostProgram(Path("/nowhere/opam")))
    assert await lint_packages(WorkTree(clone), [], opam=nowhere) == LintReport()


async def test_a_symbolic_link_is_not_an_opam_file(clone: Path, lint_both: LintBoth) -> None:
    link = clone / "packages/hello/hello.1.0/opam"
    link.unlink()
    link.symlink_to("/nowhere")
    git(clone, "commit", "-qam", "link")
    report = await lint_both(requests("hello.1.0"))
    assert report.missing == ("hello.1.0",)


async def test_a_file_above_the_limit_is_refused(clone: Path, lint_both: LintBoth) -> None:
    (clone / "packages/hello/hello.1.0/opam").write_text(GOOD + "# " + "x" * 110_000)
    git(clone, "commit", "-qam", "big")
    report = await lint_both(requests("hello.1.0"))
    (finding,) = report.findings
    assert finding.check is CheckId.PARSE
    assert "too big" in finding.message


def test_a_directory_without_packages_is_not_a_repository(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a package repository"):
        WorkTree(tmp_path)


async def test_opam_messages_come_in_the_order_of_the_files(opam_lint: OpamLint) -> None:
    texts = [GOOD.replace('"ISC"', f'"BAD{index}"') for index in range(30)]
    messages = await opam_lint.lint([text.encode() for text in texts])
    assert [reported[0].text.rpartition(" ")[2] for reported in messages] == [
        f'"BAD{index}"' for index in range(30)
    ]


async def test_bytes_that_are_not_text_do_not_break_opams_output(opam_lint: OpamLint) -> None:
    (reported,) = await opam_lint.lint([GOOD.encode().replace(b'"ISC"', b'"IS\xe9"')])
    assert [message.code for message in reported] == [62]


async def test_archive_checks_alone_still_know_what_opam_refuses(
    clone: Path, opam_lint: OpamLint
) -> None:
    text = GOOD + 'depends: ["a" {= 1}]\nx-reason-for-archiving: ["uninstallable"]\n'
    (clone / "packages/hello/hello.1.0/opam").write_text(text)
    report = await lint_packages(
        WorkTree(clone), requests("hello.1.0"), kinds={CheckKind.ARCHIVE}, opam=opam_lint
    )
    assert [each.check for each in report.findings] == [CheckId.ARCHIVE_COMMIT]
