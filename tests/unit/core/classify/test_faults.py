"""The fault table: what real opam does under each fault, and the right outcome."""

from dataclasses import dataclass, field

import pytest

from opam_ci.core.classify import judge
from opam_ci.core.jobs.facts import BuildFacts, HostFacts, OpamAction, PhaseRun
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Outcome, label

OWN = "foo.1.0"
DEPENDENCY = "bar.2.0"
FETCH_FAIL = 'OpamSolution.Fetch_fail("https://x.org/a.tgz ({})")'
CURL = 'curl failed: \\"/usr/bin/curl --retry 3\\" exited with code {}'


@dataclass
class Row:
    """One fault, as facts and text."""

    fault: str
    expected: str
    phase: Phase
    exit_code: int | None
    log: str = ""
    failing: str | None = None
    action: str = "build"
    action_exit: int | None = 2
    host: HostFacts = field(default_factory=HostFacts)
    probes: dict[str, bool] = field(default_factory=dict)
    signal: int | None = None
    timed_out: bool = False
    conflicts: tuple[str, ...] = ()
    earlier: dict[Phase, str] = field(default_factory=dict)
    blame: str | None = None
    sandbox_killed: bool = False


def fetch(fault: str, expected: str, message: str, of: str = OWN, **more: object) -> Row:
    log = (
        f"[ERROR] Failed to get sources of {of}: curl failed\n"
        f"#=== ERROR while fetching sources for {of} ====#\n{FETCH_FAIL.format(message)}\n"
    )
    row = Row(fault, expected, Phase.FETCH, 40, log, failing=of, action="fetch", action_exit=None)
    for key, value in more.items():
        setattr(row, key, value)
    return row


FULL = HostFacts(free_bytes=4096, free_inodes=1000)
AMPLE = HostFacts(free_bytes=10 << 30, free_inodes=10**6)
UNREADABLE = (
    "[ERROR] Could not read file /ci/repo/packages/foo/foo.1.0/opam. skipping:\n"
    "        At /ci/repo/packages/foo/foo.1.0/opam:3:0-3:1::\n        Parse error\n"
)
COMMAND = '+ /home/opam/.opam/opam-init/hooks/sandbox.sh "build" "make" (CWD=/b)\n'
COMPILE_ERROR = 'File "a.ml", line 1, characters 0-3:\n# Error: Unbound value foo\n'

ROWS = [
    fetch("unknown host", "errored(dns)", CURL.format(6)),
    fetch("dead host", "errored(source_host)", CURL.format(6), probes={"dns": True}),
    fetch("unknown host, dependency", "errored(dns)", CURL.format(6), DEPENDENCY),
    fetch("refused", "errored(network)", CURL.format(7)),
    fetch("refused by one host", "errored(source_host)", CURL.format(7), probes={"mirror": True}),
    fetch("refused by all", "errored(network)", CURL.format(7), probes={"mirror": False}),
    fetch("reset", "errored(network)", CURL.format(56)),
    fetch("TLS", "errored(network)", CURL.format(35)),
    fetch("redirect loop", "errored(source_host)", CURL.format(47)),
    fetch("hang with limits", "errored(network)", CURL.format(28)),
    Row("hang", "errored(source_host)", Phase.FETCH, None, timed_out=True, signal=9),
    Row(
        "hang, network gone",
        "errored(network)",
        Phase.FETCH,
        None,
        timed_out=True,
        probes={"mirror": False},
    ),
    *(
        fetch(f"HTTP {code}", "failed(source)", f"curl: code {code} while downloading x")
        for code in (404, 410, 403)
    ),
    *(
        fetch(
            f"HTTP {code} of a dependency",
            "failed(dependency)",
            f"curl: code {code} while downloading x",
            DEPENDENCY,
            blame=DEPENDENCY,
        )
        for code in (404, 410, 403)
    ),
    fetch(
        "404 from a gateway",
        "errored(network)",
        "curl: code 404 while downloading x",
        probes={"mirror": False},
    ),
    *(
        fetch(f"HTTP {code}", "errored(source_host)", f"curl: code {code} while downloading x", of)
        for code in (429, 500, 502, 503)
        for of in (OWN, DEPENDENCY)
    ),
    fetch("truncated with length", "errored(source_host)", CURL.format(18)),
    fetch(
        "truncated without length",
        "errored(source_host)",
        "Bad checksum, expected sha256=00",
        probes={"checksum_repeats": False},
    ),
    fetch(
        "first checksum wrong",
        "failed(checksum)",
        "Bad checksum, expected sha256=00",
        probes={"checksum_repeats": True},
    ),
    fetch(
        "first checksum wrong, fetched once",
        "errored(source_host)",
        "Bad checksum, expected md5=0",
    ),
    fetch(
        "second checksum wrong",
        "failed(checksum)",
        "Checksum mismatch for https://x.org/a.tgz:\\n expected sha512=0 got sha512=1",
        probes={"checksum_repeats": True},
    ),
    fetch(
        "a dependency's checksum",
        "failed(dependency)",
        "Bad checksum, expected sha256=00",
        DEPENDENCY,
        blame=DEPENDENCY,
        probes={"checksum_repeats": True},
    ),
    fetch(
        "not an archive",
        "failed(source)",
        "Could not extract archive:\\nUnknown archive type: /tmp/a.tgz",
    ),
    fetch(
        "git: unknown host",
        "errored(dns)",
        "git fetch -q\\\" exited with code 128 \\\"fatal: unable to access 'https://x/': "
        'Could not resolve host: x\\"',
    ),
    fetch(
        "git: refused",
        "errored(network)",
        "git fetch -q\\\" exited with code 128 \\\"fatal: unable to access 'https://x/': "
        'Failed to connect to x port 443: Connection refused\\"',
    ),
    fetch(
        "git: repository gone",
        "failed(source)",
        'git fetch -q\\" exited with code 128 \\"fatal: repository \'https://x/\' not found\\"',
    ),
    fetch("git: no branch", "failed(source)", "Branch v9 not found"),
    fetch("curl missing", "errored(image)", "download failed"),
    fetch("disk full: fetch, code 23", "errored(disk_full)", CURL.format(23)),
    fetch(
        "disk full: fetch, copy",
        "errored(disk_full)",
        "Cannot copy a to b: No space left on device",
    ),
    fetch("disk full: empty response", "errored(disk_full)", "curl: empty response", host=FULL),
    Row(
        "a dependency's fetch and another build fail",
        "errored(source_host)",
        Phase.DEPENDENCIES,
        31,
        "#=== ERROR while fetching sources for bar.2.0 ===#\n"
        + FETCH_FAIL.format("curl: code 503 while downloading x")
        + "\n#=== ERROR while compiling baz.1 ===#\n"
        + "make: *** [all] Error 2",
        failing=DEPENDENCY,
        action="fetch",
    ),
    Row(
        "disk full at start",
        "errored(disk_full)",
        Phase.SETUP,
        99,
        'Fatal error:\nSys_error("No space left on device")',
    ),
    Row(
        "disk full in a build",
        "errored(disk_full)",
        Phase.BUILD,
        31,
        "# exit-code 1",
        OWN,
        host=FULL,
    ),
    Row(
        "inodes gone",
        "errored(disk_full)",
        Phase.BUILD,
        31,
        failing=OWN,
        host=HostFacts(free_bytes=10 << 30, free_inodes=0),
    ),
    Row(
        "disk full in a build, words only",
        "failed(build)",
        Phase.BUILD,
        31,
        '# Fatal error: exception Sys_error("No space left on device")',
        OWN,
    ),
    Row(
        "out of memory: direct",
        "errored(out_of_memory)",
        Phase.BUILD,
        31,
        failing=OWN,
        action_exit=137,
        host=HostFacts(oom_kills=1),
    ),
    Row(
        "out of memory under make",
        "errored(out_of_memory)",
        Phase.TEST,
        31,
        "make: *** [all] Killed",
        OWN,
        host=HostFacts(oom_kills=2),
    ),
    Row(
        "own memory limit",
        "errored(out_of_memory)",
        Phase.BUILD,
        31,
        failing=OWN,
        action_exit=137,
        host=HostFacts(oom_kills=1, memory_limit_reached=True),
    ),
    Row(
        "killed for memory where nothing counts the job's own",
        "errored(out_of_memory)",
        Phase.BUILD,
        31,
        failing=OWN,
        action_exit=137,
        host=HostFacts(foreign_oom_kills=1),
    ),
    Row(
        "a command killed on a system that does not count the kernel's kills",
        "errored(unknown)",
        Phase.BUILD,
        31,
        failing=OWN,
        action_exit=137,
        host=HostFacts(kernel_kills_counted=False),
    ),
    Row(
        "a command that crashed there",
        "failed(build)",
        Phase.BUILD,
        31,
        failing=OWN,
        action_exit=139,
        host=HostFacts(kernel_kills_counted=False),
    ),
    Row(
        "system packages that are not installed, where jobs install none",
        "skipped(depext_not_installed)",
        Phase.DEPEXTS,
        10,
        "\nThe following system packages will first need to be installed:\n    libgmp-dev\n",
        probes={"depexts_installed": False},
    ),
    Row(
        "a full disk that was emptied at once",
        "errored(disk_full)",
        Phase.BUILD,
        31,
        failing=OWN,
        host=HostFacts(free_bytes=1 << 40, lowest_free_bytes=4096),
    ),
    Row(
        "memory limit by ulimit",
        "failed(build)",
        Phase.BUILD,
        31,
        "# Out of memory during evaluation.",
        OWN,
    ),
    Row(
        "pids limit",
        "errored(sandbox)",
        Phase.BUILD,
        31,
        failing=OWN,
        host=HostFacts(pids_limit_hits=3),
    ),
    Row("pids limit, words", "failed(build)", Phase.BUILD, 31, "# sh: 0: Cannot fork", OWN),
    Row(
        "build SIGKILL",
        "failed(build)",
        Phase.BUILD,
        31,
        "# exit-code 137",
        OWN,
        action_exit=137,
    ),
    Row("build SIGTERM", "failed(build)", Phase.BUILD, 31, failing=OWN, action_exit=143),
    Row("build SIGILL", "failed(build)", Phase.BUILD, 31, failing=OWN, action_exit=132),
    Row("build SIGSEGV", "failed(build)", Phase.BUILD, 31, "# exit-code 139", OWN, action_exit=139),
    Row("opam SIGTERM", "failed(build)", Phase.BUILD, 143),
    Row("opam SIGKILL", "failed(build)", Phase.BUILD, None, signal=9),
    Row("opam SIGHUP", "failed(test)", Phase.TEST, 129),
    Row("opam SIGTERM before package code", "errored(worker_lost)", Phase.SOLVE, 143),
    Row("opam SIGTERM in dependencies", "failed(dependency)", Phase.DEPENDENCIES, 143),
    Row("opam SIGSEGV", "errored(opam_internal)", Phase.BUILD, 139),
    Row(
        "the sandbox killed from outside",
        "errored(worker_lost)",
        Phase.BUILD,
        None,
        signal=9,
        sandbox_killed=True,
    ),
    Row(
        "opam SIGINT",
        "failed(build)",
        Phase.BUILD,
        31,
        "[ERROR] User interruption\n[ERROR] The compilation of foo.1.0 failed",
        OWN,
    ),
    Row(
        "time limit of a build",
        "failed(timeout)",
        Phase.BUILD,
        None,
        COMMAND,
        timed_out=True,
        signal=15,
    ),
    Row("time limit of a test", "failed(timeout)", Phase.TEST, 124, COMMAND, timed_out=True),
    Row("time limit before any command", "errored(unknown)", Phase.BUILD, None, timed_out=True),
    Row("time limit of depexts", "errored(package_mirror)", Phase.DEPEXTS, None, timed_out=True),
    Row("time limit of the solver", "errored(solver_timeout)", Phase.SOLVE, None, timed_out=True),
    Row("time limit of the set-up", "errored(opam_internal)", Phase.SETUP, None, timed_out=True),
    Row("time limit of dependencies", "errored(unknown)", Phase.DEPENDENCIES, None, timed_out=True),
    Row(
        "root locked, waits",
        "errored(opam_internal)",
        Phase.DEPENDENCIES,
        None,
        "Another process has locked /home/opam/.opam/lock",
        timed_out=True,
    ),
    Row(
        "root locked, --safe",
        "errored(opam_internal)",
        Phase.SOLVE,
        15,
        "[ERROR] Another process has locked x",
    ),
    Row(
        "conflict",
        "skipped(no_solution)",
        Phase.SOLVE,
        20,
        "[ERROR] Package conflict!",
        conflicts=("no",),
    ),
    Row("conflict, words", "skipped(no_solution)", Phase.SOLVE, 20, "No solution found, exiting"),
    Row("exit 20 without a proof", "errored(unknown)", Phase.SOLVE, 20, "hm"),
    Row(
        "missing dependency",
        "skipped(no_solution)",
        Phase.SOLVE,
        20,
        "[ERROR] Package conflict!\n  * Missing dependency:\n    - bar\n    unknown package",
    ),
    Row(
        "unavailable",
        "skipped(unavailable)",
        Phase.SOLVE,
        5,
        "[ERROR] foo: unmet availability conditions: 'arch = \"s390x\"'",
    ),
    Row(
        "unavailable dependency",
        "skipped(no_solution)",
        Phase.SOLVE,
        20,
        "  * Missing dependency:\n    - bar\n    unmet availability conditions: 'false'",
    ),
    Row(
        "unavailable, probed",
        "skipped(unavailable)",
        Phase.SOLVE,
        5,
        probes={"package_known": True},
    ),
    Row(
        "unknown package",
        "errored(repository_state)",
        Phase.SOLVE,
        5,
        "[ERROR] No package named foo found.",
    ),
    Row(
        "unknown version",
        "errored(repository_state)",
        Phase.SOLVE,
        5,
        "[ERROR] Package foo has no version 1.0.",
    ),
    Row(
        "unknown package, probed",
        "errored(repository_state)",
        Phase.SOLVE,
        5,
        probes={"package_known": False},
    ),
    Row(
        "solver time-out",
        "errored(solver_timeout)",
        Phase.SOLVE,
        60,
        "[ERROR] Sorry, resolution of the request timed out.",
    ),
    Row("solver time-out, no words", "errored(solver_timeout)", Phase.SOLVE, 60),
    Row(
        "no solver", "errored(opam_internal)", Phase.SOLVE, 50, "[ERROR] No installed solver found"
    ),
    Row(
        "no root", "errored(opam_internal)", Phase.SETUP, 50, "[ERROR] /x is not a valid opam root"
    ),
    Row(
        "depext unknown to apt",
        "skipped(depext_unavailable)",
        Phase.SOLVE,
        5,
        "[ERROR] Package foo depends on the unavailable system package 'libx-dev'.",
    ),
    Row(
        "depext unknown because the lists are empty",
        "errored(package_mirror)",
        Phase.SOLVE,
        5,
        "[ERROR] Package foo depends on the unavailable system package 'libx-dev'.",
        earlier={Phase.SETUP: "W: Failed to fetch http://deb.example/InRelease  403  Forbidden"},
    ),
    Row(
        "depext install fails",
        "errored(package_mirror)",
        Phase.DEPEXTS,
        10,
        "[ERROR] System package install failed with exit code 100 at command:\n"
        "[ERROR] These packages are still missing: libx-dev",
    ),
    Row(
        "apt fails",
        "errored(package_mirror)",
        Phase.DEPEXTS,
        100,
        "E: Sub-process x returned an error",
    ),
    Row("apt fails without words", "errored(package_mirror)", Phase.DEPEXTS, 100),
    Row(
        "depext install without DNS",
        "errored(dns)",
        Phase.DEPEXTS,
        10,
        "E: Failed to fetch http://deb.example/x.deb  Temporary failure resolving 'deb.example'\n"
        "[ERROR] These packages are still missing: libx-dev",
    ),
    Row(
        "depext wants confirmation",
        "errored(opam_internal)",
        Phase.DEPEXTS,
        10,
        "Running apt-get non-interactively requires '--confirm-level=unsafe-yes'.",
    ),
    Row(
        "missing depext, --no-depexts",
        "errored(image)",
        Phase.DEPENDENCIES,
        31,
        '[ERROR] The compilation of conf-x.1 failed at "pkg-config x".',
        "conf-x.1",
        blame="conf-x.1",
    ),
    Row(
        "update --depexts, mirror down",
        "errored(package_mirror)",
        Phase.DEPEXTS,
        100,
        "W: Failed to fetch http://deb.example/InRelease",
    ),
    Row(
        "command not found",
        "failed(build)",
        Phase.BUILD,
        31,
        "# [ERROR] Command not found: gsl-config",
        OWN,
        action_exit=10,
    ),
    Row(
        "command not found in sh",
        "failed(build)",
        Phase.BUILD,
        31,
        "# sh: 1: frobnicate: not found",
        OWN,
        action_exit=127,
    ),
    Row("compile error", "failed(build)", Phase.BUILD, 31, COMPILE_ERROR, OWN),
    Row("failing test", "failed(test)", Phase.TEST, 31, "[FAIL]  x  1  adds.", OWN),
    Row("patch", "failed(build)", Phase.BUILD, 31, "These patches didn't apply at /b:", OWN),
    Row(
        ".install",
        "failed(build)",
        Phase.BUILD,
        31,
        "Some files in foo.install couldn't be installed:",
        OWN,
        action="install",
    ),
    Row(
        "extra-file hash", "failed(build)", Phase.BUILD, 31, "foo.1.0: Bad hash for extra-file", OWN
    ),
    Row(
        "dependency fails",
        "failed(dependency)",
        Phase.DEPENDENCIES,
        31,
        COMPILE_ERROR,
        DEPENDENCY,
        blame=DEPENDENCY,
    ),
    Row(
        "network inside the sandbox",
        "failed(build)",
        Phase.BUILD,
        31,
        "# curl: (6) Could not resolve host: example.com",
        OWN,
    ),
    Row(
        "write inside the sandbox",
        "failed(build)",
        Phase.BUILD,
        31,
        "# cp: cannot create regular file '/usr/bin/x': Read-only file system",
        OWN,
    ),
    Row(
        "sandbox not permitted",
        "errored(sandbox)",
        Phase.BUILD,
        31,
        "# bwrap: No permissions to create a new namespace, likely because the kernel",
        OWN,
        probes={"opam_sandbox": False},
    ),
    Row(
        "words about a sandbox that works",
        "failed(build)",
        Phase.BUILD,
        31,
        "# bwrap: No permissions to create a new namespace, likely because the kernel",
        OWN,
        probes={"opam_sandbox": True},
    ),
    Row(
        "bwrap absent",
        "errored(sandbox)",
        Phase.DEPENDENCIES,
        31,
        "[ERROR] 'bwrap' command was not found",
        DEPENDENCY,
        probes={"opam_sandbox": False},
    ),
    Row(
        "read-only root",
        "errored(opam_internal)",
        Phase.SETUP,
        99,
        'Fatal error:\nSys_error("/x: Read-only file system")',
    ),
    Row("garbage state", "errored(opam_internal)", Phase.BUILD, 99, "Fatal error:\nOpamFormat"),
    Row(
        "repository gone or emptied",
        "errored(repository_state)",
        Phase.SOLVE,
        5,
        "[ERROR] No package named foo found.",
    ),
    Row(
        "syntax error in an opam file",
        "failed(opam_file)",
        Phase.SOLVE,
        5,
        "[ERROR] No package named foo found.",
        earlier={Phase.SETUP: UNREADABLE},
    ),
    Row(
        "the same, strict",
        "failed(opam_file)",
        Phase.SETUP,
        40,
        f"{UNREADABLE}[ERROR] Strict mode: aborting",
    ),
    Row(
        "update fails",
        "errored(repository_state)",
        Phase.SETUP,
        40,
        '[ERROR] Could not update repository "default"',
    ),
    Row("unknown exit code", "errored(unknown)", Phase.BUILD, 77, "never seen"),
    Row(
        "merge conflict",
        "failed(merge_conflict)",
        Phase.CHECKOUT,
        1,
        "CONFLICT (content): Merge conflict in a",
    ),
    Row("checkout fails otherwise", "errored(unknown)", Phase.CHECKOUT, 1, "tar: x"),
]


def facts_of(row: Row, kind: JobKind = JobKind.TEST) -> tuple[BuildFacts, dict[Phase, str]]:
    actions: tuple[OpamAction, ...] = ()
    if row.failing:
        actions = (
            OpamAction.model_validate(
                {
                    "action": row.action,
                    "package": row.failing,
                    "result": "failed",
                    "exit_code": row.action_exit,
                }
            ),
        )
    logs = {**row.earlier, row.phase: row.log}
    phases, offset = [], 1000
    for phase, text in logs.items():
        last = phase is row.phase
        phases.append(
            PhaseRun(
                phase=phase,
                exit_code=row.exit_code if last else 0,
                signal=row.signal if last else None,
                timed_out=row.timed_out and last,
                duration=1.5,
                log_start=offset,
                log_end=offset + len(text),
                actions=actions if last else (),
                has_report=bool(actions) and last,
                conflicts=row.conflicts if last else (),
                sandbox_killed=row.sandbox_killed and last,
            )
        )
        offset += len(text) + 100
    facts = BuildFacts(
        job=Job(platform="debian-13-ocaml-5.3/amd64", package=OWN, kind=kind),
        phases=tuple(phases),
        host=row.host,
        probes=row.probes,
    )
    return facts, logs


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.fault} {row.phase}")
def test_each_fault_gets_its_outcome(row: Row) -> None:
    facts, logs = facts_of(row)

    outcome = judge(facts, logs, worker="w1", attempt=2)

    assert label(outcome) == row.expected
    assert outcome.kind != "cancelled"
    assert outcome.evidence.rule
    assert (outcome.evidence.worker, outcome.evidence.attempt) == ("w1", 2)
    assert outcome.evidence.phase is row.phase
    assert outcome.evidence.exit_code == row.exit_code
    if outcome.kind == "failed":
        assert outcome.blame == row.blame


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.fault} {row.phase}")
def test_accepted_failures_hide_failures_and_nothing_else(row: Row) -> None:
    facts, logs = facts_of(row)
    plain: Outcome = judge(facts, logs)

    accepted = judge(facts.model_copy(update={"accepts_failure": True}), logs)

    if plain.kind == "failed":
        assert label(accepted) == "skipped(accepted_failure)"
        assert accepted.kind == "skipped"
        assert accepted.evidence.rule == plain.evidence.rule
        assert accepted.evidence.detail
        assert f"failed({plain.reason})" in accepted.evidence.detail
    else:
        assert accepted == plain


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.fault} {row.phase}")
def test_evidence_lines_stand_in_the_log_at_their_offsets(row: Row) -> None:
    facts, logs = facts_of(row)
    outcome = judge(facts, logs)
    assert outcome.kind != "cancelled"
    whole = b" " * 1000
    for run in facts.phases:
        whole = whole.ljust(run.log_start) + logs[run.phase].encode()

    for line in outcome.evidence.lines:
        assert whole[line.offset :].startswith(line.text.encode())
