"""`opam-ci effect` as people and programs call it."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from opam_ci.cli.developer.effect import effect
from opam_ci.core.errors import UsageError
from tests.support.fakes.clone import Clone, at, opam

app = typer.Typer()
app.command()(effect)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path / "clone.git")
    files = {
        at("ocaml-base-compiler.5.4.0"): opam(),
        at("ocaml-base-compiler.4.14.2"): opam(),
        at("lib.1"): opam(),
        at("lib.2"): opam('depends: "ocaml-base-compiler" {< "5"}'),
        at("user.1"): opam('depends: "lib"'),
    }
    start = clone.commit("master", files)
    clone.commit("refs/pull/7/head", {at("lib.1"): None}, parents=(start,))
    clone.commit("same", {at("lib.1"): opam('homepage: "x"')}, parents=(start,))
    clone.commit(
        "cycle", {at("lib.1"): opam('depends: "user"'), at("lib.2"): None}, parents=(start,)
    )
    return clone


def run(clone: Clone, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["--repo", str(clone.path), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_table_and_json(clone: Clone) -> None:
    wanted = ("--pr", "7", "--ocaml", "5.4", "--ocaml", "4.14", "--ocaml", "5.2")
    code, out, err = run(clone, *wanted)
    assert (code, out) == (1, "user.1\t5.4\t5.4\n")
    assert "makes 1 package uninstallable on OCaml 5.4" in err
    assert "no ocaml-base-compiler of OCaml 5.2" in err
    code, out, _ = run(clone, *wanted, "--json")
    assert code == 1
    found = json.loads(out)
    assert found["ocaml"] == ["5.4", "4.14"]
    assert found["lost"] == [{"package": "user.1", "ocaml": ["5.4"], "last_on": ["5.4"]}]


def test_nothing_and_cycles(clone: Clone) -> None:
    # Without --ocaml it is decided for the releases of the platforms.
    code, out, err = run(clone, "--branch", "same")
    assert (code, out) == (0, "")
    assert "no other package becomes uninstallable" in err
    code, _, err = run(clone, "--branch", "cycle", "--ocaml", "4.14")
    assert code == 1
    assert "dependency cycle: lib.1 → user.1 → lib.1" in err


@pytest.mark.parametrize("arguments", [(), ("--pr", "7", "--branch", "same")])
def test_one_head_is_to_be_given(clone: Clone, arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="give either --pr NUMBER or --branch NAME"):
        run(clone, *arguments)
