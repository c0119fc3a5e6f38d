"""The judge beyond the fault table: what passes, which package failed, whose output counts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opam_ci.core.classify import classify_text, judge
from opam_ci.core.jobs.facts import BuildFacts, DiskOveruse, HostFacts, OpamAction, PhaseRun
from opam_ci.core.jobs.job import REVDEP_KINDS, Job, JobKind, Phase
from opam_ci.core.jobs.outcome import OWN_LIMIT_RULES, Errored, Failed, label
from opam_ci.core.pages.causes import is_alike
from tests.support.samples.known_failures import known_failure
from tests.support.samples.known_verdicts import known_verdict

AMPLE = HostFacts(free_bytes=50 << 30, free_inodes=10**6)
INSTALLED = OpamAction(action="install", package="foo.1", result="ok")


def job(kind: JobKind = JobKind.BUILD) -> Job:
    revdep = "user.3" if kind in REVDEP_KINDS else None
    return Job(platform="debian-13-ocaml-5.3/amd64", package="foo.1", kind=kind, revdep=revdep)


def run(phase: Phase, exit_code: int | None = 0, *actions: OpamAction, size: int = 10) -> PhaseRun:
    return PhaseRun(
        phase=phase,
        exit_code=exit_code,
        duration=1,
        log_start=0,
        log_end=size,
        actions=actions,
        has_report=bool(actions),
    )


def failed(package: str, exit_code: int = 2) -> OpamAction:
    return OpamAction(action="build", package=package, result="failed", exit_code=exit_code)


def verdict(
    *phases: PhaseRun,
    kind: JobKind = JobKind.BUILD,
    installed: bool | None = None,
    finished: bool = False,
    host: HostFacts = AMPLE,
    log: str = "",
) -> str:
    facts = BuildFacts(
        job=job(kind), phases=phases, installed=installed, finished=finished, host=host
    )
    return label(judge(facts, {phases[-1].phase: log} if phases else {}))


ALL = (run(Phase.SETUP), run(Phase.BUILD, 0, INSTALLED), run(Phase.VERIFY))


@pytest.mark.parametrize("phase", [Phase.SOLVE, Phase.DEPEXTS])
def test_a_dependency_that_is_known_to_fail_is_to_blame(phase: Phase) -> None:
    phases = (run(Phase.SETUP), run(phase))
    known = known_failure()
    outcome = judge(BuildFacts(job=job(), phases=phases, host=AMPLE, known_failure=known), {})
    assert isinstance(outcome, Failed)
    assert label(outcome) == "failed(dependency)"
    assert outcome.blame == "bar.2"
    assert outcome.evidence.seen_in == known.seen[0]
    # A job on the base looks the same, whether or not it built the dependency.
    assert is_alike(outcome, known.outcome)
    accepted = judge(
        BuildFacts(job=job(), phases=phases, host=AMPLE, known_failure=known, accepts_failure=True),
        {},
    )
    assert label(accepted) == "skipped(accepted_failure)"


def test_a_job_with_a_known_solution_has_the_verdict_of_that() -> None:
    known = known_verdict()
    facts = BuildFacts(
        job=job(), phases=(run(Phase.SETUP), run(Phase.SOLVE)), host=AMPLE, known_verdict=known
    )
    assert judge(facts, {}, worker="w", attempt=2) == known.outcome
    # Not if a command failed.
    failing = facts.model_copy(update={"phases": (run(Phase.SETUP), run(Phase.SOLVE, 1))})
    assert judge(failing, {}) != known.outcome


def test_green_takes_every_piece_of_evidence() -> None:
    assert verdict(*ALL, installed=True, finished=True) == "passed"
    assert verdict(*ALL, installed=True, finished=False) == "errored(unknown)"
    assert verdict(*ALL, installed=None, finished=True) == "errored(unknown)"
    assert verdict() == "errored(unknown)"


def test_missing_at_the_end_is_the_packages_only_if_opam_did_install_it() -> None:
    assert verdict(*ALL, installed=False, finished=True) == "failed(not_installed)"
    idle = (run(Phase.BUILD), run(Phase.VERIFY))
    assert verdict(*idle, installed=False, finished=True) == "errored(opam_internal)"


def test_a_listing_of_revdeps_installs_nothing() -> None:
    listing = (run(Phase.SOLVE),)
    assert verdict(*listing, kind=JobKind.LIST_REVDEPS, finished=True) == "passed"
    assert verdict(*listing, kind=JobKind.LIST_REVDEPS) == "errored(unknown)"


def test_a_kill_that_the_kernel_counted_does_not_spoil_a_success() -> None:
    host = HostFacts(oom_kills=1, free_bytes=5)
    assert verdict(*ALL, installed=True, finished=True, host=host) == "passed"


@pytest.mark.parametrize(
    ("kind", "phase"),
    [
        (JobKind.REVDEP, Phase.BUILD),
        (JobKind.REVDEP_TEST, Phase.BUILD),
        (JobKind.REVDEP_TEST, Phase.TEST),
    ],
)
def test_a_revdep_fails_by_itself_and_the_package_is_its_dependency(
    kind: JobKind, phase: Phase
) -> None:
    assert verdict(*ALL, kind=kind, installed=False, finished=True) == "errored(opam_internal)"
    reason = "test" if phase is Phase.TEST else "build"
    assert verdict(run(phase, 31, failed("user.3")), kind=kind) == f"failed({reason})"
    assert verdict(run(phase, 31, failed("foo.1")), kind=kind) == "failed(dependency)"


def test_own_failure_wins_over_that_of_others() -> None:
    both = run(Phase.BUILD, 31, failed("bar.2"), failed("foo.1"))
    assert verdict(both) == "failed(build)"


def test_a_conf_package_that_fails_after_its_system_packages_came_is_a_dependency() -> None:
    conf = run(Phase.DEPENDENCIES, 31, failed("conf-x.1"))
    assert verdict(run(Phase.DEPEXTS), conf) == "failed(dependency)"
    assert verdict(conf) == "errored(image)"


@pytest.mark.parametrize(
    ("phase", "by_phase", "expected"),
    [
        (Phase.BUILD, 80, "failed(build)"),
        (Phase.TEST, 80, "failed(test)"),
        # Most of it was there before, or many packages wrote it together.
        (Phase.TEST, 20, "errored(disk_full)"),
        (Phase.DEPENDENCIES, 100, "errored(disk_full)"),
    ],
)
def test_a_used_up_disk_budget_is_whose_commands_wrote_most(
    phase: Phase, by_phase: int, expected: str
) -> None:
    over = DiskOveruse(
        limit_bytes=100,
        limit_inodes=100,
        written_bytes=110,
        written_inodes=3,
        phase_bytes=by_phase,
        phase_inodes=1,
    )
    killed = PhaseRun(phase=phase, exit_code=None, signal=9, duration=1.0, log_start=0, log_end=10)
    facts = BuildFacts(job=job(), phases=(killed,), host=HostFacts(disk_overuse=over))
    assert label(judge(facts, {phase: ""})) == expected


LIMITS = [
    (HostFacts(oom_kills=1, memory_limit_reached=True), "errored(out_of_memory)"),
    (HostFacts(pids_limit_hits=1), "errored(sandbox)"),
]


@pytest.mark.parametrize(("host", "first"), LIMITS)
@pytest.mark.parametrize("phase", [Phase.BUILD, Phase.TEST])
def test_the_jobs_own_limit_is_tried_once_more_and_then_its_failure(
    host: HostFacts, first: str, phase: Phase
) -> None:
    facts = BuildFacts(job=job(), phases=(run(phase, 31, failed("foo.1")),), host=host)

    met = judge(facts, {phase: ""}, worker="w1", attempt=1)
    later = facts.model_copy(update={"limit_reached_on": "w1"})
    again = judge(later, {phase: ""}, worker="w2", attempt=2)

    assert label(met) == first
    assert isinstance(met, Errored)
    assert met.evidence.rule in OWN_LIMIT_RULES
    assert label(again) == "failed(own_fault)"
    assert isinstance(again, Failed)
    assert again.evidence.detail is not None
    assert "an earlier attempt on w1 reached a limit too" in again.evidence.detail


@pytest.mark.parametrize(
    "host",
    [
        HostFacts(free_bytes=5),
        HostFacts(oom_kills=1),
        HostFacts(foreign_oom_kills=1),
        HostFacts(kernel_kills_counted=False),
    ],
)
def test_what_the_jobs_own_group_did_not_measure_is_never_its_failure(host: HostFacts) -> None:
    killed = PhaseRun(
        phase=Phase.BUILD, exit_code=None, signal=9, duration=1.0, log_start=0, log_end=9
    )
    facts = BuildFacts(job=job(), phases=(killed,), host=host, limit_reached_on="w1")
    assert judge(facts, {Phase.BUILD: ""}).kind == "errored"


@pytest.mark.parametrize("phase", [Phase.SETUP, Phase.SOLVE, Phase.DEPEXTS, Phase.DEPENDENCIES])
@pytest.mark.parametrize(("host", "first"), LIMITS)
def test_a_limit_reached_outside_of_build_and_test_is_never_the_packages(
    host: HostFacts, first: str, phase: Phase
) -> None:
    facts = BuildFacts(job=job(), phases=(run(phase, 99),), host=host, limit_reached_on="w1")
    assert label(judge(facts, {})) == first


HOSTILE = [
    "No space left on device",
    "bwrap: Creating new namespace failed: Resource temporarily unavailable",
    "bwrap: No permissions to create a new namespace",
    "Out of memory during evaluation.",
    "Killed",
    "Illegal instruction (core dumped)",
    "Could not resolve host: github.com",
    "fatal: the remote end hung up unexpectedly",
    "worker 3 disconnected",
    "[ERROR] No switch is currently set",
    "[ERROR] User interruption",
    "[ERROR] Another process has locked /home/opam/.opam/lock",
    "#=== ERROR while compiling other.1 ===#\n# exit-code 137",
    "<><> Error report <><>",
    '+ /home/opam/.opam/opam-init/hooks/sandbox.sh "build" "true" (CWD=/b)',
    'Fatal error:\nSys_error("No space left on device")',
    "E: Failed to fetch http://deb.example/x.deb  Temporary failure resolving 'deb.example'",
    "[opam-ci] the worker was lost",
]


@pytest.mark.parametrize("before", ["", "progress 10%\r", "\r", "\x1b[2K\r", "x\x00\r"])
@pytest.mark.parametrize("words", HOSTILE)
def test_the_output_of_a_packages_command_is_never_a_fault_of_the_ci(
    words: str, before: str
) -> None:
    shown = "".join(f"{before}{line}\n" for line in words.split("\n"))
    report = "".join(f"# {before}{line}\n" for line in words.split("\n"))
    verbose = "".join(f"- {before}{line}\n" for line in words.split("\n"))
    command = '+ /home/opam/.opam/opam-init/hooks/sandbox.sh "build" "sh" (CWD=/b)\n'
    log = (
        f'{command}{verbose}[ERROR] The compilation of foo.1 failed at "sh".\n'
        "#=== ERROR while compiling foo.1 ===#\n# command     ~/sandbox.sh build sh\n"
        f"# exit-code   1\n### output ###\n{report}"
    )
    for phase, expected in ((Phase.BUILD, "failed(build)"), (Phase.TEST, "failed(test)")):
        for text in (log, shown):
            assert verdict(run(phase, 31, failed("foo.1")), log=text) == expected
            # Without a report: one that is too large.
            assert verdict(run(phase, 31), log=text) in {expected, "failed(dependency)"}
    # If opam itself fails, lines of the package's output are not its messages.
    assert verdict(run(Phase.BUILD, 77), log=command + verbose) == "errored(unknown)"


@pytest.mark.parametrize(
    "words",
    [
        "# [ERROR] No switch is currently set",
        "# Error response from daemon: x",
        "# zfs: cannot open 'tank': dataset does not exist",
        "# [ERROR] Sorry, resolution of the request timed out.",
        "# worker 3 disconnected",
        "# fatal: the remote end hung up unexpectedly",
        "# 503 Service Unavailable",
    ],
)
def test_messages_of_programs_outside_the_build_root_are_the_packages(words: str) -> None:
    assert verdict(run(Phase.BUILD, 31, failed("foo.1")), log=words) == "failed(build)"


@pytest.mark.parametrize(
    "message",
    [
        "Cancelling: Auto-cancelling job because it is no longer needed\nJob cancelled",
        "INFO: task ocluster-worker:602217 blocked for more than 120 seconds.",
        "ERROR nodepool.NodeLauncher-1: Launch attempt 3/3 failed for node 0001616109:",
        '        exit 1" failed with exit status 60',
    ],
)
def test_messages_of_other_cis_decide_none_of_our_jobs(message: str) -> None:
    assert classify_text(message, exit_code=None, phase=Phase.SETUP).outcome == "errored"
    assert verdict(run(Phase.SETUP, 1), log=message) == "errored(unknown)"


def test_without_a_report_opams_exit_code_means_that_an_action_failed() -> None:
    block = "#=== ERROR while compiling {} ===#\n# make: *** [all] Error 2\n"
    assert verdict(run(Phase.BUILD, 31)) == "failed(build)"
    assert verdict(run(Phase.BUILD, 31), log=block.format("foo.1")) == "failed(build)"
    assert verdict(run(Phase.TEST, 31), log=block.format("foo.1")) == "failed(test)"
    assert verdict(run(Phase.BUILD, 31), log=block.format("bar.2")) == "failed(dependency)"
    assert verdict(run(Phase.DEPENDENCIES, 31), log=block.format("bar.2")) == "failed(dependency)"


def test_an_unreadable_opam_file_is_found_in_an_earlier_phase() -> None:
    facts = BuildFacts(
        job=job(),
        phases=(run(Phase.SETUP), run(Phase.SOLVE, 5)),
        probes={"package_known": False},
    )
    unreadable = "[ERROR] Could not read file /s/packages/foo/foo.1/opam. skipping:\nParse error"

    assert label(judge(facts, {Phase.SETUP: unreadable})) == "failed(opam_file)"
    assert label(judge(facts, {})) == "errored(repository_state)"


_PHASES = st.sampled_from(list(Phase))
_CODES = st.one_of(st.none(), st.sampled_from([0, 1, 5, 10, 20, 31, 40, 60, 99, 137, 143, 255]))


@settings(max_examples=150)
@given(
    st.lists(st.tuples(_PHASES, _CODES, st.booleans()), max_size=5),
    st.text(max_size=80),
    st.booleans(),
    st.one_of(st.none(), st.booleans()),
)
def test_any_facts_come_to_an_outcome_and_green_needs_proof(
    phases: list[tuple[Phase, int | None, bool]],
    log: str,
    finished: bool,
    installed: bool | None,
) -> None:
    facts = BuildFacts(
        job=job(),
        phases=tuple(
            run(phase, code).model_copy(update={"timed_out": late}) for phase, code, late in phases
        ),
        finished=finished,
        installed=installed,
    )

    outcome = judge(facts, dict.fromkeys(Phase, log))

    clean = phases and all(code == 0 and not late for _, code, late in phases)
    assert (outcome.kind == "passed") == bool(clean and finished and installed)
    assert outcome.kind != "cancelled"


@settings(max_examples=150)
@given(
    st.sampled_from([Phase.BUILD, Phase.TEST]),
    st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60)), max_size=8),
    st.booleans(),
)
def test_no_text_turns_a_failed_command_into_a_fault(
    phase: Phase, words: list[str], reported: bool
) -> None:
    ended = run(phase, 31, failed("foo.1")) if reported else run(phase, 31)
    assert verdict(ended, log="\n".join(words)).startswith("failed(")
