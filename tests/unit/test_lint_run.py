"""Lint with the real opam, of work trees and of trees in git."""

import asyncio
import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from opam_ci.clients.git import Repository
from opam_ci.clients.git_tree import GitTree
from opam_ci.clients.lint_run import lint_packages
from opam_ci.clients.opam_lint import OpamLint
from opam_ci.clients.work_tree import WorkTree
from opam_ci.core.errors import InfrastructureError, UsageError
from opam_ci.core.lint.finding import CheckId, CheckKind, LintReport, LintRequest

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


async def lint_both(clone: Path, wanted: list[LintRequest]) -> LintReport:
    """The report of the work tree, which is also that of the commit."""
    from_disk = await lint_packages(WorkTree(clone), wanted)
    with Repository.open(clone) as repository:
        from_git = await lint_packages(GitTree(repository, repository.resolve("master")), wanted)
    assert from_disk == from_git
    return from_disk


async def test_work_tree_and_commit_give_one_report(clone: Path) -> None:
    report = await lint_both(
        clone, requests("hello.1.0", "hello.2.0", "hello.3.0", "He_llo.1", "hello.9")
    )
    assert report.checked == ("hello.1.0", "hello.2.0", "hello.3.0", "He_llo.1")
    assert report.missing == ("hello.9",)
    assert [(each.package, each.check, each.line) for each in report.findings] == [
        ("hello.2.0", CheckId.OPAM_LINT, 5),
        ("hello.2.0", CheckId.PERMISSIONS, None),
        ("hello.3.0", CheckId.PARSE, 1),
        ("He_llo.1", CheckId.UNEXPECTED_FILE, None),
        ("He_llo.1", CheckId.NAME_COLLISION, None),
    ]


async def test_whether_a_package_is_new_can_be_said(clone: Path) -> None:
    old = await lint_both(clone, requests("He_llo.1", new=False))
    assert [each.check for each in old.findings] == [CheckId.UNEXPECTED_FILE]
    new = await lint_both(clone, requests("hello.1.0", new=True))
    assert [each.machine_message for each in new.findings] == [
        "Warning in hello.1.0: Possible name collision with package 'He_llo'"
    ]


async def test_no_request_is_no_work(clone: Path) -> None:
    assert await lint_packages(WorkTree(clone), []) == LintReport()


async def test_a_symbolic_link_is_no_opam_file(clone: Path) -> None:
    link = clone / "packages/hello/hello.1.0/opam"
    link.unlink()
    link.symlink_to("/nowhere")
    git(clone, "commit", "-qam", "link")
    report = await lint_both(clone, requests("hello.1.0"))
    assert report.missing == ("hello.1.0",)


async def test_a_file_above_the_limit_is_refused(clone: Path) -> None:
    (clone / "packages/hello/hello.1.0/opam").write_text(GOOD + "# " + "x" * 110_000)
    git(clone, "commit", "-qam", "big")
    report = await lint_both(clone, requests("hello.1.0"))
    (finding,) = report.findings
    assert finding.check is CheckId.PARSE
    assert "too big" in finding.message


def test_a_directory_without_packages_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no package repository"):
        WorkTree(tmp_path)


async def test_opam_messages_come_in_the_order_of_the_files() -> None:
    texts = [GOOD.replace('"ISC"', f'"BAD{index}"') for index in range(30)]
    messages = await OpamLint().lint([text.encode() for text in texts])
    assert [said[0].text.rpartition(" ")[2] for said in messages] == [
        f'"BAD{index}"' for index in range(30)
    ]


async def test_bytes_that_are_no_text_do_not_break_opams_answer() -> None:
    (said,) = await OpamLint().lint([GOOD.encode().replace(b'"ISC"', b'"IS\xe9"')])
    assert [message.code for message in said] == [62]


async def test_missing_opam_is_a_fault_of_ours() -> None:
    with pytest.raises(InfrastructureError, match="was not found: install opam"):
        await OpamLint("/nowhere/opam").lint([b""])


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 99", "exit code 99"),
        ("exit 0", "no usable answer"),
        ("echo '{\"lint\": []}' > ../lint.json", "no answer for 1 of 1"),
        ("sleep 30", "took longer"),
    ],
)
async def test_an_opam_that_misbehaves_is_a_fault_of_ours(
    tmp_path: Path, script: str, said: str
) -> None:
    program = tmp_path / "opam"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    opam = OpamLint(str(program), timeout=timedelta(seconds=1))
    with pytest.raises(InfrastructureError, match=said):
        await opam.lint([b"x"])


async def test_cancelling_ends_opam(tmp_path: Path) -> None:
    program = tmp_path / "opam"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 60\n")
    program.chmod(0o755)
    task = asyncio.create_task(OpamLint(str(program)).lint([b"x"]))
    pid_file = tmp_path / "pid"
    while not (pid_file.exists() and pid_file.read_text().strip()):  # noqa: ASYNC110  a file gives no event
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


async def test_archive_checks_alone_still_know_what_opam_refuses(clone: Path) -> None:
    text = GOOD + 'depends: ["a" {= 1}]\nx-reason-for-archiving: ["uninstallable"]\n'
    (clone / "packages/hello/hello.1.0/opam").write_text(text)
    report = await lint_packages(WorkTree(clone), requests("hello.1.0"), kinds={CheckKind.ARCHIVE})
    assert [each.check for each in report.findings] == [CheckId.ARCHIVE_COMMIT]
