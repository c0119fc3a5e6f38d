"""Debian packages: found missing, installed where that is allowed, else asked for."""

import os
from pathlib import Path

import pytest

from opam_ci.cli import debian, system
from opam_ci.core.errors import InfrastructureError, UsageError


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty PATH, to which programs can be added."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    packages = tmp_path / "debian-packages.txt"
    packages.write_text("# a comment\nopam opam\nbubblewrap  bwrap\nkeys /bin/sh\n")
    monkeypatch.setattr(debian, "PACKAGES", packages)
    return folder


def program(path: Path, name: str, script: str = "exit 0") -> None:
    (path / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    (path / name).chmod(0o755)


def test_the_real_list_is_there_and_complete_here() -> None:
    assert debian.missing() == []
    text = debian.PACKAGES.read_text()
    for package in ("git", "opam", "bubblewrap", "mmdebstrap", "util-linux"):
        assert f"\n{package} " in text


def test_missing_packages_are_one_line_with_the_command(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(path, "apt-get")
    program(path, "opam")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError) as caught:
        system.require()
    line = str(caught.value)
    assert "\n" not in line
    assert line.endswith(
        "sudo apt-get update && sudo apt-get install --no-install-recommends bubblewrap"
    )


def test_root_installs_after_saying_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (path / "env").symlink_to("/usr/bin/env")
    program(
        path,
        "apt-get",
        f'echo "$@" >> {path}/calls; for p in opam bwrap; do cp "$0" {path}/$p; done',
    )
    said: list[str] = []
    system.install(said.append)
    assert said == ["installing the Debian packages opam bubblewrap"]
    assert (path / "calls").read_text().splitlines() == [
        "-qq update",
        "-qq install --yes --no-install-recommends --no-upgrade --no-remove opam bubblewrap",
    ]
    system.install(said.append)
    assert len(said) == 1


@pytest.mark.parametrize(("script", "says"), [("exit 100", "ended with 100"), ("", "and yet")])
def test_a_failing_apt_is_our_fault_not_the_users(
    path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (path / "env").symlink_to("/usr/bin/env")
    program(path, "apt-get", script)
    with pytest.raises(InfrastructureError, match=says):
        system.install(lambda _: None)


def test_sudo_counts_only_without_a_password(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    program(path, "apt-get")
    assert not debian.may_install()
    program(path, "sudo", "exit 0")
    assert debian.may_install()
    program(path, "sudo", "exit 1")
    assert not debian.may_install()
    with pytest.raises(UsageError, match="run this first"):
        system.install(lambda _: None)


def test_a_machine_without_apt_is_told_where_it_runs(path: Path) -> None:
    assert not debian.may_install()
    with pytest.raises(UsageError, match="runs on Debian and Ubuntu"):
        system.require()
    assert path.exists()
