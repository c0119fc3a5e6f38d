"""`opam-ci check` on a real Temporal server with real opam builds."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from opam_ci.cli.local import services
from opam_ci.cli.operator import example
from tests.e2e.conftest import System, result, rows, wait_for
from tests.support.fakes import opam_repository
from tests.support.ports import free_port

pytestmark = pytest.mark.e2e

SLOW = 'build: ["sh" "-c" "echo working; sleep 987654"]\n'
QUICK = 'build: ["sh" "-c" "echo done"]\n'
FAST_RETRY = ("--retry-after", "1", "--attempts", "3")


def outcome(row: dict[str, Any]) -> str:
    found = row["outcome"]
    detail = found.get("reason") or found.get("cause") or found.get("by")
    return f"{found['kind']}({detail})" if detail else str(found["kind"])


def sleepers() -> list[int]:
    """Returns the processes of builds of the slow package."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"sleep\x00987654" in path.read_bytes():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_example_comes_to_all_four_outcomes(system: System) -> None:
    system.start_worker()
    with example.source_host() as host:
        made = example.create(system.home / "example", host.url)
        words = ("--repo", str(made.repo), "--branch", made.branch, *FAST_RETRY)
        check = system.start_check(*words)
        assert check.stdout is not None
        lines = []
        for line in check.stdout:
            said = json.loads(line)
            lines.append(said)
            if said.get("faults") and example.RECOVERS in said["id"]:
                host.repair()
        assert check.wait(60) == 1, check.stderr and check.stderr.read()
    summary = lines[-1]
    found = rows(summary)
    assert summary["state"] == "failure"
    assert outcome(found[f"build {example.PASSES}"]) == "passed"
    assert outcome(found[f"test {example.PASSES}"]) == "passed"
    failed = found[f"build {example.FAILS}"]
    assert outcome(failed) == "failed(build)"
    assert 'constant "42" has type "int"' in failed["outcome"]["evidence"]["lines"][0]["text"]
    assert failed["attempt"] == 1
    assert outcome(found[f"build {example.SKIPPED}"]) == "skipped(unavailable)"
    recovered = found[f"build {example.RECOVERS}"]
    assert outcome(recovered) == "passed"
    assert [fault["cause"] for fault in recovered["faults"]] == ["source_host"]
    log = system.run("log", "local/example/branch-example", f"build {example.FAILS}", check=0)
    assert "Error: " in log.stdout
    assert "verdict: failed(build)" in log.stdout
    # Each attempt kept what it was judged by, and today's rules still say the same.
    replayed = system.run("classify", "--replay", "--json", "--fail-on-flip", check=0)
    counts = json.loads(replayed.stdout)
    assert counts["judged"] >= 6  # two passed, failed, skipped, faulted and recovered
    assert (counts["flips"], counts["without_log"]) == (0, 0)


def test_a_package_that_can_be_installed_nowhere_is_red(system: System) -> None:
    system.start_worker()
    packages = opam_repository.package("zzz.1", 'depends: ["this-package-does-not-exist"]\n')
    windows = opam_repository.package("win.1", 'available: os = "win32"\n')
    repo = opam_repository.write(
        system.home / "nowhere", {}, {"missing": packages, "windows": windows}
    )
    words = ("check", "--repo", str(repo), "--branch")
    done = system.run(*words, "missing", check=1)
    assert "failed(not_installable)" in done.stdout
    why = "zzz.1 needs this-package-does-not-exist: no such package"
    assert f"zzz.1 build: {why}" in done.stdout.splitlines()
    assert done.stdout.splitlines()[-1].endswith(": 1 failed; analysis and lint passed")

    summary = result(system.run(*words, "windows", "--json", check=0))
    assert outcome(rows(summary)["build win.1"]) == "skipped(unavailable)"
    assert summary["result"] == (
        "nothing was built: 1 build skipped (not available here); analysis and lint passed"
    )
    assert summary["counts"]["passed"] == 0


def test_new_head_stops_the_builds_of_the_old_one(system: System) -> None:
    system.start_worker()
    repo = opam_repository.write(
        system.home / "superseded", {}, {"topic": opam_repository.package("slow.1", SLOW)}
    )
    words = ("--repo", str(repo), "--branch", "topic", *FAST_RETRY)
    system.start_check(*words)
    wait_for(sleepers, 120)
    opam_repository.add_branch(repo, "topic", opam_repository.package("slow.1", QUICK))
    second = system.run("check", "--json", *words, check=0)
    assert outcome(rows(result(second))["build slow.1"]) == "passed"
    assert not sleepers()


def test_interrupted_check_leaves_no_build(system: System) -> None:
    system.start_worker()
    repo = opam_repository.write(
        system.home / "interrupted", {}, {"topic": opam_repository.package("slow.1", SLOW)}
    )
    check = system.start_check("--repo", str(repo), "--branch", "topic")
    wait_for(sleepers, 120)
    check.send_signal(signal.SIGINT)
    wait_for(lambda: not sleepers(), 5)
    assert check.wait(60) == 130


def test_stock_command_line_restarts_what_the_ci_lost(system: System) -> None:
    system.start_worker()
    with example.source_host() as host:
        made = example.create(system.home / "restarted", host.url)
        words = ("--repo", str(made.repo), "--branch", made.branch, "--attempts", "1")
        summary = result(system.run("check", "--json", *words, check=1))
        errored = rows(summary)[f"build {example.RECOVERS}"]
        assert outcome(errored) == "errored(source_host)", errored
        host.repair()
        workflow = "pr/local/restarted/branch-example"
        query = f"WorkflowId='{workflow}' AND CiState='failure' AND CiCauses='source_host'"
        wait_for(lambda: workflow in system.temporal("workflow", "list", "--query", query), 30)
        system.temporal(
            *("workflow", "signal", "--query", query, "--name", "restart"),
            *("--reason", "the host is back", "--yes"),
        )

        def recovered() -> bool:
            said = system.run("status", workflow.removeprefix("pr/"), "--json", check=0)
            row = rows(json.loads(said.stdout))[f"build {example.RECOVERS}"]
            return row["outcome"] is not None and outcome(row) == "passed" and row["round"] == 2

        wait_for(recovered, 120)


def test_lint_only_builds_nothing_and_needs_no_worker(tmp_path: Path) -> None:
    server = services.start_temporal(tmp_path, port=free_port(), ui_port=free_port())
    system = System(tmp_path, server.address)
    try:
        lint_only(system)
    finally:
        services.stop(tmp_path)


def lint_only(system: System) -> None:
    repo = opam_repository.write(
        system.home / "linted",
        {},
        {"topic": opam_repository.package("bad.1", 'depends: "ocaml"\nversion: "2"\n')},
    )
    words = ("check", "--json", "--repo", str(repo), "--branch", "topic", "--lint-only")
    # No worker polls: the command runs one itself for as long as it needs it.
    done = system.run(*words, "--temporal", system.address, check=1)
    found = rows(result(done))
    assert set(found) == {"analysis", "lint bad.1"}
    assert outcome(found["lint bad.1"]) == "failed(lint)"
    assert found["lint bad.1"]["outcome"]["evidence"]["detail"].endswith(", opam 2.3.0")
    assert "this process runs one" in done.stderr


def test_a_root_that_cannot_be_made_errs_the_lint_and_not_the_analysis(
    system: System, tmp_path: Path
) -> None:
    repo = opam_repository.write(
        system.home / "linted", {}, {"topic": opam_repository.package("a.1", QUICK)}
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "mmdebstrap").write_text("#!/bin/sh\necho 'E: no such host'\nexit 1\n")
    (programs / "mmdebstrap").chmod(0o755)
    system.environment |= {
        "PATH": f"{programs}:{system.environment['PATH']}",
        "OPAM_CI_CACHE": str(tmp_path / "cache"),
    }
    system.start_worker("--no-build")
    words = ("check", "--json", "--repo", str(repo), "--branch", "topic", "--lint-only")
    retry = ("--retry-after", "0.1", "--attempts", "2")
    done = system.run(*words, *retry, "--temporal", system.address, check=3)
    found = rows(result(done))
    assert outcome(found["analysis"]) == "passed"
    lint = found["lint a.1"]
    assert (outcome(lint), lint["attempt"]) == ("errored(image)", 2)
    assert "E: no such host" in lint["outcome"]["evidence"]["detail"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--repo", "REPO", "--branch", "no-such-branch"], 2, "no-such-branch"),
        (["--repo", "REPO", "--branch", "--upload-pack=touch /tmp/x"], 2, "touch"),
        (["--repo", "REPO", "--pr", "999"], 2, "999"),
        (["--repo", "REPO", "--branch", "topic", "--base", "nowhere"], 2, "nowhere"),
        (["--repo", "/", "--branch", "topic"], 2, "git"),
        (["--repo", "REPO"], 2, "--pr NUMBER or --branch NAME"),
        (["--repo", "REPO", "--branch", "topic", "--platform", "x"], 2, "no such platform: 'x'"),
        (
            ["--repo", "REPO", "--branch", "topic", "--temporal", "127.0.0.1:1"],
            2,
            "no Temporal server responds at 127.0.0.1:1",
        ),
    ],
)
def test_bad_request_is_one_clear_line(
    system: System, words: list[str], code: int, said: str
) -> None:
    repo = opam_repository.write(
        system.home / "r", {}, {"topic": opam_repository.package("a.1", QUICK)}
    )
    done = system.run("check", *[str(repo) if word == "REPO" else word for word in words])
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


ELSEWHERE = """
[pools.linux-s390x]
arch = "s390x"
[[platforms]]
distribution = "debian-13"
ocaml = "5.4"
arch = "s390x"
"""


def test_platform_that_nobody_builds_for_is_refused_and_not_waited_for(system: System) -> None:
    (system.home / "platforms.toml").write_text(ELSEWHERE)
    system.environment["OPAM_CI_PLATFORMS"] = str(system.home / "platforms.toml")
    repo = opam_repository.write(
        system.home / "r", {}, {"topic": opam_repository.package("a.1", QUICK)}
    )
    words = ("check", "--repo", str(repo), "--branch", "topic")
    done = system.run(*words, "--platform", "debian-13-ocaml-5.4/s390x")
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert "no worker builds for the pool linux-s390x, and this machine cannot (it is for" in last
    # As soon as a worker polls for the pool, the check goes ahead.
    worker = system.start_worker("--pool", "linux-s390x")
    check = system.start_check(*words[1:], "--platform", "*/s390x", "--attempts", "1")
    assert check.wait(90) == 3, check.stderr and check.stderr.read()
    assert worker.poll() is None


@pytest.mark.parametrize(
    ("files", "reason", "said"),
    [
        ({"packages/a/a.1/opam": 'opam-version: "2.0"\ndepends: [\n'}, "analysis", "a.1"),
        ({"packages/a/b.1/opam": opam_repository.opam(QUICK)}, "analysis", "b.1"),
        ({"packages/README": "hello"}, "analysis", "README"),
    ],
)
def test_bad_submission_is_the_submissions_failure(
    system: System, files: dict[str, str], reason: str, said: str
) -> None:
    repo = opam_repository.write(system.home / "bad", {}, {"topic": files})
    system.start_worker("--no-build")
    words = ("check", "--json", "--repo", str(repo), "--branch", "topic", "--lint-only")
    done = system.run(*words, "--temporal", system.address, check=1)
    row = rows(result(done))["analysis"]
    assert outcome(row) == f"failed({reason})"
    assert said in row["outcome"]["evidence"]["detail"]


def test_conflict_is_the_submissions_failure(system: System) -> None:
    path = "packages/a/a.1/opam"
    repo = opam_repository.write(
        system.home / "conflict",
        {path: opam_repository.opam(QUICK)},
        {"topic": {path: opam_repository.opam('build: ["one"]\n')}},
    )
    opam_repository.add_branch(repo, "master", {path: opam_repository.opam('build: ["two"]\n')})
    system.start_worker("--no-build")
    words = ("check", "--json", "--repo", str(repo), "--branch", "topic", "--lint-only")
    done = system.run(*words, "--temporal", system.address, check=1)
    row = rows(result(done))["analysis"]
    assert outcome(row) == "failed(merge_conflict)"
    assert row["outcome"]["evidence"]["detail"] == "Cannot merge to master - please rebase!"


def test_missing_programs_are_named_with_the_command_that_installs_them(
    system: System, tmp_path: Path
) -> None:
    repo = opam_repository.write(
        system.home / "r", {}, {"topic": opam_repository.package("a.1", QUICK)}
    )
    del system.environment["OPAM_CI_TEMPORAL"]
    only_git = tmp_path / "bin"
    only_git.mkdir()
    for program in ("git", "apt-get"):
        target = subprocess.run(["which", program], capture_output=True, text=True, check=True)
        (only_git / program).symlink_to(target.stdout.strip())
    system.environment |= {"PATH": str(only_git)}
    done = system.run("check", "--repo", str(repo), "--branch", "topic")
    assert done.returncode == 2, done.stderr
    assert "apt-get install" in done.stderr
    assert "bubblewrap" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in system.home.iterdir()} == {"r"}, "nothing is half-written"
