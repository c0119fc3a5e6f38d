"""The judge beyond the fault table: what is green, whose failure it is, whose words count."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opam_ci.core.classify import judge
from opam_ci.core.facts import BuildFacts, DiskOveruse, HostFacts, OpamAction, PhaseRun
from opam_ci.core.job import REVDEP_KINDS, Job, JobKind, Phase
from opam_ci.core.outcome import label

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


@pytest.mark.parametrize(
    ("phase", "printed", "expected"),
    [
        (Phase.BUILD, 300 << 20, "failed(build)"),
        (Phase.TEST, 300 << 20, "failed(test)"),
        (Phase.BUILD, 100 << 20, "errored(out_of_memory)"),
        (Phase.DEPENDENCIES, 300 << 20, "errored(out_of_memory)"),
    ],
)
def test_opam_that_chokes_on_a_packages_output_is_the_packages_doing(
    phase: Phase, printed: int, expected: str
) -> None:
    killed = PhaseRun(
        phase=phase, exit_code=None, signal=9, duration=1.0, log_start=0, log_end=printed
    )
    facts = BuildFacts(job=job(), phases=(killed,), host=HostFacts(oom_kills=1))
    assert label(judge(facts, {phase: ""})) == expected


def test_a_test_that_speaks_of_a_full_disk_on_an_empty_one_is_a_test() -> None:
    words = "# cp: error writing 'x': No space left on device"
    test = run(Phase.TEST, 31, failed("foo.1"))
    assert verdict(test, kind=JobKind.TEST, log=words) == "failed(test)"
    assert verdict(test, kind=JobKind.TEST, log=words, host=HostFacts()) == "errored(disk_full)"


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
def test_words_of_programs_outside_the_build_root_are_the_packages_own(words: str) -> None:
    assert verdict(run(Phase.BUILD, 31, failed("foo.1")), log=words) == "failed(build)"


def test_without_a_report_words_decide_and_silence_does_not() -> None:
    block = "#=== ERROR while compiling {} ===#\n# make: *** [all] Error 2\n"
    assert verdict(run(Phase.BUILD, 31)) == "errored(unknown)"
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


@settings(max_examples=150, deadline=None)
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
