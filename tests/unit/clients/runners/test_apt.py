"""Which Debian archive a machine uses."""

from pathlib import Path

import pytest

from opam_ci.clients.runners.images.apt_sources import (
    DEFAULT_ARCHIVE,
    Archives,
    choose,
    copied_options,
    deb822_sources,
    one_line_sources,
    read_host,
)
from opam_ci.core.platforms.debian import DebianRoot

DEB822 = """# a comment
Types: deb deb-src
URIs: http://mirror.example.org/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example.org/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: file:/srv/local
Suites: ./
Trusted: yes

Types: deb
Enabled: no
URIs: http://disabled.example.org/debian
Suites: bookworm
Components: main
"""


def test_deb822_stanzas_are_read() -> None:
    archives = choose(deb822_sources(DEB822))
    assert archives.main == "http://mirror.example.org/debian"
    assert archives.security == "http://mirror.example.org/debian-security"
    assert archives.sources(DebianRoot(suite="trixie", architecture="amd64")) == (
        "deb http://mirror.example.org/debian trixie main",
        "deb http://mirror.example.org/debian trixie-updates main",
        "deb http://mirror.example.org/debian-security trixie-security main",
    )


def test_unstable_has_no_suites_of_updates() -> None:
    unstable = DebianRoot(suite="unstable", architecture="i386")
    assert Archives().sources(unstable) == (f"deb {DEFAULT_ARCHIVE} unstable main",)


def test_deb822_continuation_lines_are_read() -> None:
    text = "Types: deb\nURIs:\n http://one.example.org/debian\nSuites: sid\nComponents: main\n"
    assert choose(deb822_sources(text)).main == "http://one.example.org/debian"


def test_one_line_sources_are_read() -> None:
    text = (
        "deb-src http://source.example.org/debian bookworm main\n"
        "# deb http://off.example.org/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] https://mirror.example.org/debian bookworm main # x\n"
        "deb cdrom:[Debian]/ bookworm main\n"
    )
    archives = choose(one_line_sources(text))
    assert archives.main == "https://mirror.example.org/debian"
    assert archives.security is None


@pytest.mark.parametrize(
    "line",
    [
        "deb file:/srv/debian bookworm main",
        "deb http://user:password@mirror.example.org/debian bookworm main",
        "deb http://archive.ubuntu.com/ubuntu noble main",
        "deb https://apt.example.org/tool tool main",
        "",
    ],
)
def test_what_is_not_an_open_debian_archive_is_ignored(line: str) -> None:
    assert choose(one_line_sources(line)) == Archives(main=DEFAULT_ARCHIVE)


def test_proxies_and_date_checks_are_copied_and_nothing_else() -> None:
    dump = (
        'APT "";\nAcquire "";\nAcquire::http::Proxy "http://proxy.example.org:3128";\n'
        'Acquire::http::Proxy::mirror.example.org "DIRECT";\nAcquire::https::Proxy "";\n'
        'Acquire::Check-Valid-Until "false";\nAPT::Update::Pre-Invoke:: "touch /tmp/x";\n'
        'Acquire::http::Proxy-Auto-Detect "/usr/bin/program";\n'
    )
    assert copied_options(dump) == (
        ("Acquire::http::Proxy", "http://proxy.example.org:3128"),
        ("Acquire::http::Proxy::mirror.example.org", "DIRECT"),
        ("Acquire::Check-Valid-Until", "false"),
    )


def test_a_machines_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb file:/srv/x bookworm main\n")
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "notes.txt").write_text("deb http://no.example.org/d sid main")
    assert read_host(tmp_path).main == "http://mirror.example.org/debian"


def test_a_machine_without_apt_has_debians_own_archive(tmp_path: Path) -> None:
    assert read_host(tmp_path).main == DEFAULT_ARCHIVE
