"""Facts of a run: when two environments are the same."""

import pytest

from opam_ci.core.jobs.facts import BuildEnvironment

KNOWN = BuildEnvironment(image="4f" * 32, opam="2.3.0", compiler=("ocaml.5.3.0",), is_fixed=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "5f" * 32},
        {"image": f"docker.io/ocaml/opam@sha256:{'4f' * 32}"},
        {"opam": "2.4.0"},
        {"compiler": ("ocaml.5.4.0",)},
    ],
)
def test_a_fingerprint_is_of_what_is_there_before_a_job(changes: dict[str, object]) -> None:
    other = KNOWN.model_copy(update=changes)
    assert KNOWN.fingerprint is not None
    assert other.fingerprint not in {None, KNOWN.fingerprint}
    # What the job chose is not of it.
    same = KNOWN.model_copy(update={"solution": ("a.1",), "changed": ("a.1",)})
    assert same.fingerprint == KNOWN.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"image": ""},
        {"image": "docker.io/ocaml/opam:debian-13"},
        {"image": "4f" * 31},
        {"is_fixed": False},
    ],
)
def test_what_can_change_has_no_fingerprint(changes: dict[str, object]) -> None:
    assert KNOWN.model_copy(update=changes).fingerprint is None
