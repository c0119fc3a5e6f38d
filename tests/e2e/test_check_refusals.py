"""`opam-ci check` on changes that no worker could take: red in a sentence, nothing exported."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.e2e.conftest import System, result, rows, wait_for
from tests.support.fakes.clone import SUBMODULE, SYMLINK, Clone, Content, at, opam

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ODD: Mapping[str, Mapping[str, Content]] = {
    "name": {"packages/ü/ü.1/opam": opam()},
    "long": {at("b.1", "files/" + "n" * 256): b""},
    "deep": {at("b.1", "files/" + "d/" * 2_100 + "x"): b""},
    "module": {at("b.1", "files/m"): (SUBMODULE, b"1" * 40)},
    "link": {at("b.1", "files/l"): (SYMLINK, b"/etc/passwd")},
    "many": {at(f"p{number:05}{'x' * 190}.1"): opam() for number in range(20_000)},
}
SAID = {
    "name": 'Unexpected path "packages/\\195\\188/',
    "long": "has too long a name (256 bytes, at most 255)",
    "deep": "is too deep (at most 100 names)",
    "module": 'Unexpected submodule "packages/b/b.1/files/m"',
    "many": "Too many changed packages (20001, at most 10000)",
    "link": 'Unexpected symbolic link "packages/b/b.1/files/l"',
}


def exported(system: System) -> list[Path]:
    """Returns the exported repositories, but for the canary's: that one runs at any time."""
    found = (system.home / "store").glob("repositories/**/*.tar.gz")
    return [path for path in found if "canary" not in path.parts]


def test_what_no_worker_can_take_is_refused_before_anything_is_exported(system: System) -> None:
    clone = Clone(system.home / "odd.git")
    base = clone.commit("master", {"repo": b'opam-version: "2.0"\n', at("a.1"): opam()})
    system.start_worker()
    for case, files in ODD.items():
        # A good package comes with it.
        clone.commit(case, {at("b.1"): opam(), **files}, parents=(base,))
        done = system.run("check", "--json", "--repo", str(clone.path), "--branch", case, check=1)
        [analysis] = rows(result(done)).values()
        assert (analysis["outcome"]["kind"], analysis["outcome"]["reason"]) == (
            "failed",
            "analysis",
        ), case
        assert SAID[case] in analysis["outcome"]["evidence"]["detail"]
        assert (analysis["attempt"], analysis["faults"]) == (1, [])
    assert not exported(system)
    # A good head leaves what was looked for.
    clone.commit("good", {at("b.1"): opam()}, parents=(base,))
    system.start_check("--repo", str(clone.path), "--branch", "good")
    wait_for(lambda: exported(system), 60)
