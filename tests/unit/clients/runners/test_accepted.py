"""`x-ci-accept-failures`, read as opam-repo-ci reads it."""

import pytest

from opam_ci.clients.runners.job.accept_failures import accepts_failure


@pytest.mark.parametrize(
    ("field", "accepted"),
    [
        ('["debian-11" "debian-13"]', True),
        ('[\n  "debian-13" # its compiler is too old\n]', True),
        ('"debian-13"', True),
        ('["debian-13" {arch = "arm64"}]', True),
        ('["debian-1"]', False),
        ('["debian-13-ocaml-5.3"]', False),
        ('["debian-unstable"] # "debian-13"', False),
        ("[]", False),
        ("debian-13", False),
    ],
)
def test_the_quoted_name_of_the_distribution_counts(field: str, *, accepted: bool) -> None:
    opam = f'opam-version: "2.0"\nx-ci-accept-failures: {field}\n'.encode()
    assert accepts_failure(opam, "debian-13") is accepted


@pytest.mark.parametrize(
    "opam", [None, b"", b'tags: "debian-13"\n', b'x-ci-accept-failures: "debian-13\n']
)
def test_without_the_field_no_failure_is_accepted(opam: bytes | None) -> None:
    assert not accepts_failure(opam, "debian-13")
