"""Missing packages and ids of a machine: found, and added if permitted."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from opam_ci.cli import debian, main
from opam_ci.cli.local import system
from opam_ci.clients.runners import preflight
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox import network
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError

USER = next(entry for entry in pwd.getpwall() if entry.pw_uid != 0)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty PATH, to which programs can be added."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    packages = tmp_path / "debian-packages.txt"
    packages.write_text(
        "# a comment\nopam opam\nbubblewrap  bwrap\nkeys /bin/sh\nuidmap newuidmap user\n"
    )
    monkeypatch.setattr(debian, "PACKAGES", packages)
    return folder


@pytest.fixture
def ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """An ordinary user's machine, on which she has subordinate ids."""
    files = {option: tmp_path / option for option in debian.SUBORDINATE_IDS}
    for file in files.values():
        file.write_text(
            f"# owner:first:count\nsomebody:100000:65536\n{USER.pw_name}:165536:65536\n"
        )
    monkeypatch.setattr(debian, "SUBORDINATE_IDS", files)
    monkeypatch.setattr(debian, "TUN", tmp_path / "tun")
    monkeypatch.setattr(network, "TUN", tmp_path / "tun")
    (tmp_path / "tun").touch()
    monkeypatch.setattr(os, "geteuid", lambda: USER.pw_uid)
    return files


def program(path: Path, name: str, script: str = "exit 0") -> None:
    (path / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    (path / name).chmod(0o755)


def test_the_real_list_exists_and_is_installed_here() -> None:
    assert debian.missing() == []
    text = debian.PACKAGES.read_text()
    for package in ("git", "bubblewrap", "libseccomp2", "mmdebstrap", "util-linux", "uidmap"):
        assert f"\n{package} " in text


def test_missing_packages_are_one_line_with_the_one_command(
    path: Path, ids: dict[str, Path]
) -> None:
    program(path, "apt-get")
    program(path, "opam")
    packages = "sudo apt-get update && sudo apt-get install --no-install-recommends"
    assert refusal().endswith(f"run this first: {packages} bubblewrap uidmap")
    ids["--add-subgids"].write_text("somebody:100000:65536\n")
    assert refusal().endswith(
        f"{packages} bubblewrap uidmap && "
        # After everybody's range in both files.
        f"sudo usermod --add-subgids 231072-296607 {USER.pw_name}"
    )
    program(path, "bwrap")
    program(path, "newuidmap")
    assert refusal().startswith("this machine lacks subordinate ids for this user")
    ids["--add-subuids"].unlink()
    ids["--add-subgids"].write_text("")
    assert refusal().endswith(
        "run this first: sudo usermod --add-subuids 100000-165535 "
        f"--add-subgids 100000-165535 {USER.pw_name}"
    )


def refusal() -> str:
    with pytest.raises(UsageError) as caught:
        system.require()
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_ids_may_be_listed_by_number_and_root_needs_none(
    path: Path, ids: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for program_ in ("opam", "bwrap", "newuidmap"):
        program(path, program_)
    for file in ids.values():
        file.write_text(f"{USER.pw_uid}:100000:65536\n")
    assert debian.id_commands() == []
    for file in ids.values():
        file.write_text("")
    (path / "newuidmap").unlink()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    system.require()


def test_sudo_adds_ids_after_a_line_about_it(path: Path, ids: dict[str, Path]) -> None:
    for name in ("opam", "bwrap", "newuidmap", "unshare"):
        program(path, name)
    for file in ids.values():
        file.write_text("")
    granted = " ".join(f"echo {USER.pw_name}:100000:65536 > {file};" for file in ids.values())
    program(
        path, "sudo", f'printf "%s\\n" "$*" >> {path}/calls; [ "$2" = true ] || {{ {granted} }}'
    )
    lines: list[str] = []
    system.install(lines.append)
    assert lines == ["installing subordinate ids for this user (/etc/subuid, /etc/subgid)"]
    assert (path / "calls").read_text().splitlines() == [
        "-n true",
        f"-n usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {USER.pw_name}",
    ]
    system.install(lines.append)
    assert len(lines) == 1


def test_a_closed_device_is_opened(
    path: Path, ids: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ids
    for name in ("opam", "bwrap", "newuidmap"):
        program(path, name)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != debian.TUN and access(path, mode))
    assert refusal() == (
        f"this machine lacks access of this user to {debian.TUN}; run this first: "
        f"sudo chmod 666 {debian.TUN}"
    )
    debian.TUN.unlink()
    program(path, "unshare")
    assert refusal().startswith(f"this machine has no {debian.TUN}, which the network of builds")


def test_disabled_user_namespaces_are_a_usage_error(
    path: Path, ids: dict[str, Path], tmp_path: Path
) -> None:
    assert ids
    for name in ("opam", "bwrap", "newuidmap", "sudo"):
        program(path, name)
    program(path, "unshare", "echo unshare: Operation not permitted >&2; exit 1")
    with pytest.raises(UsageError, match=r"namespaces \(unshare: Operation not permitted\): "):
        system.install(lambda _: None)
    kernel = tmp_path / "kernel"
    kernel.mkdir()
    switch = kernel / "apparmor_restrict_unprivileged_userns"
    for value, advice in (("1", "sudo sysctl -w kernel.apparmor_restrict"), ("0", "as root")):
        switch.write_text(f"{value}\n")
        trouble = preflight.namespace_problem(sandbox.ROOTLESS, switches=tmp_path)
        assert trouble is not None
        assert advice in trouble
    program(path, "unshare")
    assert preflight.namespace_problem(sandbox.ROOTLESS, switches=tmp_path) is None
    program(path, "unshare", "exit 1")
    assert preflight.namespace_problem(sandbox.ROOT, switches=tmp_path) is None


def test_root_of_a_namespace_with_few_ids_is_a_usage_error() -> None:
    program = """
from opam_ci.clients.runners.preflight import namespace_problem
from opam_ci.clients.runners.sandbox.bubblewrap import IN_NAMESPACE, rights
assert rights() is IN_NAMESPACE
print(namespace_problem(rights()))
"""
    inside = ["unshare", "--user", "--map-root-user", sys.executable, "-c", program]
    done = subprocess.run(inside, capture_output=True, text=True, check=True)
    assert "up to 65,535 users and groups, and this user namespace has 1: run this" in done.stdout


def test_root_installs_after_a_line_about_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (path / "env").symlink_to("/usr/bin/env")
    program(
        path,
        "apt-get",
        f'echo "$@" >> {path}/calls; for p in opam bwrap; do cp "$0" {path}/$p; done',
    )
    lines: list[str] = []
    system.install(lines.append)
    assert lines == ["installing the Debian packages opam bubblewrap"]
    assert (path / "calls").read_text().splitlines() == [
        "-qq update",
        "-qq install --yes --no-install-recommends --no-upgrade --no-remove opam bubblewrap",
    ]
    system.install(lines.append)
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("script", "message"), [("exit 100", "ended with 100"), ("", "are missing")]
)
def test_a_failing_apt_is_an_internal_error(
    path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (path / "env").symlink_to("/usr/bin/env")
    program(path, "apt-get", script)
    with pytest.raises(InfrastructureError, match=message):
        system.install(lambda _: None)


def test_sudo_counts_only_without_a_password(path: Path, ids: dict[str, Path]) -> None:
    assert ids
    program(path, "apt-get")
    assert not debian.may_install()
    program(path, "sudo", "exit 0")
    assert debian.may_install()
    program(path, "sudo", "exit 1")
    assert not debian.may_install()
    with pytest.raises(UsageError, match="run this first"):
        system.install(lambda _: None)


def test_without_apt_the_error_names_debian_and_ubuntu(path: Path) -> None:
    assert not debian.may_install()
    with pytest.raises(UsageError, match="needs Debian or Ubuntu"):
        system.require()
    assert path.exists()


@pytest.mark.parametrize(
    ("words", "lacks"),
    [
        ("analyse --branch topic", "git"),
        ("check --branch topic", "git"),
        ("check --branch topic --lint-only", "git"),
        ("lint cppo", "bubblewrap, mmdebstrap, mount, util-linux"),
        ("lint cppo --rev topic", "git"),
    ],
)
def test_a_command_without_its_programs_is_a_usage_error(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    lacks: str,
) -> None:
    # Others need uidmap besides.
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main.run([*words.split(), "--repo", str(path)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"opam-ci: this machine lacks {lacks}: ")
    assert output.err.count("\n") == 1
