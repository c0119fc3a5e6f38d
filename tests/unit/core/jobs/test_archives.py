"""The archives that opam files name."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.jobs.archives import Archive, archives, host_of

MD5, SHA256, SHA512 = "a" * 32, "b" * 64, "c" * 128


def opam(rest: str) -> bytes:
    return f'opam-version: "2.0"\n{rest}'.encode()


def test_an_archive_has_its_checksums_the_strongest_first_and_all_its_hosts() -> None:
    text = opam(
        f'url {{ src: "https://Example.org/a.tgz" mirrors: ["http://m.example:8080/a.tgz"] '
        f'checksum: ["{MD5}" "sha512={SHA512.upper()}" "sha256={SHA256}" "md5={MD5}"] }}\n'
        f'extra-source "p" {{ src: "ftp://[2001:db8::1]/p" checksum: "sha256={SHA256}" }}\n'
    )
    extra = Archive(checksums=(("sha256", SHA256),), hosts=("[2001:db8::1]:21",))
    main = Archive(
        checksums=(("sha512", SHA512), ("sha256", SHA256), ("md5", MD5)),
        hosts=("example.org:443", "m.example:8080"),
    )
    assert archives(text) == (extra, main)
    assert main.paths == (f"sha512/cc/{SHA512}", f"sha256/bb/{SHA256}", f"md5/aa/{MD5}")


@pytest.mark.parametrize(
    "text",
    [
        'url { src: "https://example.org/a.tgz" }',
        f'url {{ src: "git+https://example.org/a.git" checksum: "sha256={SHA256}" }}',
        f'url {{ src: "file:///etc/passwd" checksum: "sha256={SHA256}" }}',
        'url { src: "https://example.org/a.tgz" checksum: "sha256=../../etc/passwd" }',
        "url {",
    ],
)
def test_what_no_checksum_fixes_and_what_is_no_download_is_not_known(text: str) -> None:
    archive = f'extra-source "p" {{ src: "https://x.org/p" checksum: "sha256={SHA256}" }}\n'
    assert archives(opam(text)) is None
    assert archives(opam(archive + text)) is None
    assert archives(opam(archive))
    assert archives(opam("")) == ()


@pytest.mark.parametrize(
    "url", ["", "ssh://h/x", "https:///x", "https://h:0x/", "http://[::1/", "https://a b/x"]
)
def test_no_host_is_made_of_what_has_none(url: str) -> None:
    assert host_of(url) is None


@given(st.text() | st.text().map("http://{}/x".format))
def test_no_host_has_what_a_log_or_a_terminal_takes_for_more(url: str) -> None:
    host = host_of(url)
    assert host is None or re.fullmatch(r"[a-z0-9._:\[\]-]+:[0-9]{1,5}", host)
