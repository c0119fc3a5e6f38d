"""`opam-ci analyse` as people and programs call it."""

import gzip
import json
from pathlib import Path

import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from opam_ci.cli.developer.analyse import analyse
from opam_ci.core.errors import UsageError
from tests.support.fakes.clone import Clone, at, opam

app = typer.Typer()
app.command()(analyse)
CHANGED = {"package": "a.2", "kind": "new_release", "has_tests": True}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path / "clone.git")
    start = clone.commit("master", {at("a.1"): opam()})
    head = clone.commit("refs/pull/7/head", {at("a.2"): opam("run-test: [make]")}, parents=(start,))
    clone.commit("topic", {}, parents=(head,))
    return clone


def run(clone: Clone, *arguments: str, text: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["--repo", str(clone.path), *arguments], input=text)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.mark.parametrize("head", [("--pr", "7"), ("--branch", "topic")])
def test_a_table_and_json(clone: Clone, head: tuple[str, str]) -> None:
    assert run(clone, *head) == (0, "a.2\tnew release\tyes\n")
    code, text = run(clone, *head, "--json")
    assert code == 0
    assert json.loads(text) == {
        "packages": [CHANGED],
        "failure": None,
        "merge_tree": clone.git("rev-parse", "topic^{tree}"),
    }


def test_a_long_list_is_shown_and_not_packed(clone: Clone) -> None:
    names = [f"b.{number}" for number in range(400)]
    head = clone.commit("many", {at(name): opam() for name in names}, parents=("master",))
    base = clone.git("rev-parse", "master")
    answers = [
        run(clone, "--branch", "many", "--json")[1],
        run(clone, "--batch", "-", text=json.dumps({"base": base, "head": head}))[1],
    ]
    for answer in answers:
        assert [each["package"] for each in json.loads(answer)["packages"]] == names


def test_a_refused_change_and_none(clone: Clone) -> None:
    clone.commit("bad", {"packages/x": b""}, parents=("master",))
    words = ["--repo", str(clone.path), "--branch"]
    refused = CliRunner().invoke(app, [*words, "bad"])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith('refused: Unexpected path "packages/x"')
    none = CliRunner().invoke(app, [*words, "master"])
    assert (none.exit_code, none.stdout, none.stderr) == (0, "", "no package changes\n")


def test_limits_are_settings(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPAM_CI_CHANGE_LIMITS__HEAD_FILES", "3")
    assert run(clone, "--pr", "7")[0] == 1
    monkeypatch.setenv("OPAM_CI_CHANGE_LIMITS__HEAD_FILES", "4")
    monkeypatch.setenv("OPAM_CI_CHANGE_LIMITS__FILE_BYTES", "1KiB")
    assert run(clone, "--pr", "7")[0] == 0
    monkeypatch.setenv("OPAM_CI_CHANGE_LIMITS__FILE_SIZE", "1KiB")
    with pytest.raises(ValidationError, match="file_size"):
        run(clone, "--pr", "7")


@pytest.mark.parametrize(
    "arguments", [[], ["--pr", "7", "--branch", "topic"], ["--pr", "8"], ["--batch", "absent"]]
)
def test_wrong_use(clone: Clone, arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        run(clone, *arguments)


def test_a_batch_has_a_result_for_each_line(clone: Clone) -> None:
    lines = [
        {"base": "master", "head": "topic", "pr": 7, "packages": "of old", "failure": "of old"},
        {"merge": "topic", "kept": [1]},
        {"base": "master", "head": "--help"},
        {"base": "master"},
        {"base": 1, "head": "topic"},
        [],
    ]
    text = "\n".join([*map(json.dumps, lines), "garbage", "", '{"merge": "master", "x": 1}'])
    code, out = run(clone, "--batch", "-", "--json", text=text)
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 2
    assert answers[0] == {
        "base": "master", "head": "topic", "pr": 7, "packages": [CHANGED], "failure": None
    }  # fmt: skip
    assert answers[1] == {"merge": "topic", "kept": [1], "packages": [], "failure": None}
    assert [answer["error"].split(" ")[0] for answer in answers[2:]] == [
        f"<stdin>:{number}:" for number in (3, 4, 5, 6, 7, 9)
    ]
    assert answers[-1] == {
        "merge": "master", "x": 1, "error": "<stdin>:9: " + answers[-1]["error"][11:]
    }  # fmt: skip
    assert "merge" in answers[-1]["error"]


def test_a_batch_from_a_compressed_file(clone: Clone, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"base": "master", "head": "topic"}\n'))
    code, out = run(clone, "--batch", str(file))
    assert code == 0
    assert json.loads(out)["packages"] == [CHANGED]
    file.write_bytes(b"no gzip")
    with pytest.raises(UsageError, match="cannot be read"):
        run(clone, "--batch", str(file))


def test_a_damaged_clone_is_an_internal_error_of_its_line(clone: Clone) -> None:
    blob = clone.git("rev-parse", f"topic:{at('a.2')}")
    (clone.path / "objects" / blob[:2] / blob[2:]).unlink()
    code, out = run(clone, "--batch", "-", text='{"base": "master", "head": "topic"}\n' * 2)
    assert code == 3
    assert ["error" in json.loads(line) for line in out.splitlines()] == [True, True]
