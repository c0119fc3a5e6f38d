"""The native runner on machines of its own, made from the root file system; with real opam."""

import hashlib
import os
from datetime import timedelta
from typing import Any

import pytest

from opam_ci.clients.runners.settings import JobLimits
from opam_ci.core.jobs.build import Revdep
from opam_ci.core.jobs.job import JobKind, Phase
from tests.support.samples.hostile import BOMB, shell
from tests.support.worlds.native import HOME, WORKERS_OWN, Machine, NativeResult
from tests.support.worlds.rootfs import FAST, archive

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LIMITS = JobLimits(memory_bytes=400 << 20, pids=150, disk_bytes=150 << 20)
SHORT = FAST.model_copy(update={"build": timedelta(seconds=4)})

DAEMON = "setsid sh -c 'sleep 86400 & sleep 86401' > /dev/null 2>&1 < /dev/null &"
FILL = "for i in 1 2 3 4 5 6; do head -c 40000000 /dev/zero > big$i; sleep 0.6; done; sleep 40"
HOG = "perl -e 'my $x = q(x) x (700 << 20); sleep 40'"

Results = dict[str, NativeResult]


def builds(script: str) -> str:
    return f"build: {shell(script)}\n"


SOURCE = archive({"x/inside": "from the mirror"})
SUM = hashlib.sha256(SOURCE).hexdigest()

PACKAGES = {
    "below.1": "",
    "below.2": "",
    "good.1": f'depends: "below"\nbuild: {shell("pwd; env")}\nrun-test: {shell("echo tested")}\n',
    "above.1": f'depends: "good"\n{builds("echo above")}',
    "bad.1": builds("echo broken; exit 3"),
    "untested.1": f"{builds('true')}run-test: {shell('exit 1')}\n",
    "endless.1": builds(f"{DAEMON} sleep 86402"),
    "cancelled.1": builds(f"{DAEMON} echo began; sleep 86402"),
    "daemon.1": builds(DAEMON),
    "disk.1": builds(FILL),
    "fetched.1": (
        f'url {{ src: "https://nowhere.invalid/x.tar.gz" checksum: "sha256={SUM}" }}\n'
        f"{builds('cat inside')}"
    ),
    "needs.1": 'depexts: [["libgmp-dev"] {os-family = "debian"}]\n',
}
"""Ordinary packages, and what became of them."""

PLAIN = {
    "good.1": "passed",
    "bad.1": "failed(build)",
    "untested.1": "failed(test)",
    "above.1": "passed",
    "endless.1": "failed(timeout)",
    "daemon.1": "passed",
    "disk.1": "failed(build)",
    "fetched.1": "passed",
    "revdeps.1": "passed",
    "needs.1": "skipped(depext_not_installed)",
    "cancelled.1": "cancelled",
}


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All packages on a machine whose worker is an ordinary user, with opam's own sandbox."""
    machine = Machine(tmp_path_factory.mktemp("native") / "machine", limits=LIMITS)
    kinds = {
        "good.1": {"kind": JobKind.LOWER_BOUNDS},
        "untested.1": {"kind": JobKind.TEST},
        "above.1": {"kind": JobKind.REVDEP_TEST},
    }
    mirror = machine.directory / "mirror" / "sha256" / SUM[:2]
    mirror.mkdir(parents=True)
    (mirror / SUM).write_bytes(SOURCE)
    jobs = []
    for name in PLAIN:
        words: dict[str, Any] = {"kind": JobKind.BUILD, **kinds.get(name, {})}
        if name == "above.1":
            jobs.append(machine.job(PACKAGES, "good.1", revdep=name, **words))
            continue
        if name == "revdeps.1":
            jobs.append(machine.job(PACKAGES, "good.1", kind=JobKind.LIST_REVDEPS))
            continue
        if name == "fetched.1":
            words["mirrors"] = (f"file://{HOME}/mirror",)
        at = "- began" if name == "cancelled.1" else None
        timeouts = SHORT if name == "endless.1" else FAST
        jobs.append(machine.job(PACKAGES, name, cancel_at=at, timeouts=timeouts, **words))
    return dict(zip(PLAIN, machine.run(*jobs), strict=True))


@pytest.mark.parametrize("name", PLAIN)
def test_a_job_of_an_ordinary_user_has_its_outcome_and_leaves_nothing(
    ordinary: Results, name: str
) -> None:
    result = ordinary[name]
    assert result.outcome == PLAIN[name], result.log
    assert result.left == ()
    assert result.files == ()
    assert WORKERS_OWN not in result.log


def test_the_phases_and_facts_are_those_of_the_other_runners(ordinary: Results) -> None:
    report, log = ordinary["good.1"].report, ordinary["good.1"].log
    assert report is not None
    assert [run.phase for run in report.facts.phases] == [
        *(Phase.CHECKOUT, Phase.SETUP, Phase.SOLVE, Phase.FETCH),
        *(Phase.DEPENDENCIES, Phase.BUILD, Phase.VERIFY),
    ]
    assert report.facts.installed is True
    assert report.facts.host.free_bytes
    assert report.facts.host.kernel_kills_counted
    environment = report.facts.environment
    assert environment is not None
    assert environment.image == ""
    assert "good.1" in environment.solution
    # Lower bounds: the oldest dependency, and it is the solver's choice.
    assert "install below 1" in log
    assert "To reproduce this job on such a machine, debian-13 on amd64 with opam " in log
    assert "[opam-ci] jobs run as the worker's own user" in log
    assert "[opam-ci] the network is not filtered" in log
    assert "sandbox.sh" in log
    assert "not sandboxed" not in log


def test_revdeps_are_listed_and_sources_come_from_a_local_mirror(ordinary: Results) -> None:
    report = ordinary["revdeps.1"].report
    assert report is not None
    assert report.listing is not None
    assert report.listing.revdeps == (Revdep(package="above.1", has_tests=False),)
    assert "- from the mirror" in ordinary["fetched.1"].log


def test_a_cancelled_job_is_gone_within_5_seconds(ordinary: Results) -> None:
    assert ordinary["cancelled.1"].seconds < 5


def test_a_job_over_its_disk_budget_is_ended(ordinary: Results) -> None:
    report = ordinary["disk.1"].report
    assert report is not None
    assert report.facts.host.disk_overuse is not None
    assert "ends" in ordinary["disk.1"].log
    assert "disk budget in" in ordinary["disk.1"].log


def tries(*commands: str) -> str:
    """Returns a build that tries what must not succeed, and fails."""
    lines = "; ".join(f"{{ if {each}; then echo 'DID: {each}'; fi; }} 2>&1" for each in commands)
    return builds(f"{lines}; exit 1")


_OTHER = "for each in games backup; do test $each = $(id -un) || echo $each; done"

HOSTILE = {
    "writes.1": tries(
        *("touch /usr/x", "touch /etc/x", "touch ../../../../../../x", "touch /srv/ci/x"),
        *("touch /srv/ci/cache/x", "echo x > $(dirname $HOME)/order.json", "rm -r /srv/ci/cache"),
    ),
    "layer.1": tries(
        *("echo x > $OPAMROOT/repo/default/repo", "touch $OPAMROOT/repo/default/packages/x"),
        "rm -r /srv/ci/cache/native-layers/*",
    ),
    "reads.1": tries(
        *(f"ls /srv/ci/cache/native/$({_OTHER})/home", "cat $(dirname $HOME)/order.json"),
        "grep -l secret-of-the-work[e]r /proc/[0-9]*/environ",
    ),
    "kills-all.1": builds("kill -9 -1; exit 1"),
    "kills-keeper.1": tries("kill -9 $(cat $(dirname $HOME)/pid)", "kill -9 1"),
    "forks.1": builds(BOMB.replace("die qq(fork: $!)", "do { sleep 3; exit 1 }")),
    "memory.1": builds(HOG),
    "leaves.1": builds(f"{DAEMON} touch /tmp/left /var/tmp/left /dev/shm/left; mkdir -p a/b/c"),
    "shuts.1": builds("mkdir -p a/b/c; touch a/b/c/d; chmod 000 a/b a; chmod 000 $HOME; exit 1"),
    "links.1": builds("ln -sf /etc/passwd $OPAMJSON; rm -rf $OPAMROOT/ci; exit 1"),
    "setuid.1": tries("su -c true", "mount -t tmpfs none /tmp", "crontab -l", "chsh -s /bin/sh"),
}
"""What a package does on a system without any sandbox."""

HOSTILE_OUTCOMES = {
    **dict.fromkeys(HOSTILE, "failed(build)"),
    "forks.1": "errored(sandbox)",
    "memory.1": "errored(out_of_memory)",
    "leaves.1": "passed",
}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs jobs as other users")


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Hostile packages on a machine without opam's sandbox, as FreeBSD is; two users at once."""
    machine = Machine(
        tmp_path_factory.mktemp("native") / "machine",
        # The kernel counts processes by number: nobody else has these.
        users=("games", "backup"),
        limits=LIMITS,
        bubblewrap=False,
    )
    packages = {**HOSTILE, "good.1": builds("echo good; sleep 1")}
    # A good package after the others: they did no harm.
    names = [*HOSTILE, "good.1"]
    jobs = [machine.job(packages, name) for name in names]
    return dict(zip(names, machine.run(*jobs, at_once=True), strict=True))


@needs_root
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_package_gets_its_verdict_and_does_no_harm(users: Results, name: str) -> None:
    result = users[name]
    assert result.outcome == HOSTILE_OUTCOMES[name], result.log
    assert "DID: " not in result.log.partition("### output ###")[2], result.log
    assert WORKERS_OWN not in result.log
    assert "packages' commands are not sandboxed on this system" in result.log


@needs_root
def test_the_machine_is_as_before_when_the_last_job_has_ended(users: Results) -> None:
    last = max(users.values(), key=lambda result: result.ended_at)
    assert last.left == ()
    assert last.files == ()
    assert users["good.1"].outcome == "passed", users["good.1"].log
