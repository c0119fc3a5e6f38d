"""`opam-ci lint` as a tool: what it prints and how it ends."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from opam_ci.cli.author.lint import lint
from opam_ci.core.errors import UsageError

GOOD = """opam-version: "2.0"
synopsis: "Say hello"
maintainer: "Jane <jane@example.org>"
authors: "Jane"
license: "ISC"
homepage: "https://example.org"
bug-reports: "https://example.org/issues"
"""
BAD_LICENSE = GOOD.replace("ISC", "BSD")
SPDX = (
    "Opam lint warning 62: License doesn't adhere to the SPDX standard, see"
    ' https://spdx.org/licenses/ : "BSD"'
)

pytestmark = [pytest.mark.usefixtures("opam_lint"), pytest.mark.timeout(300)]

app = typer.Typer()
app.command()(lint)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    for package, text in (("a.1", GOOD), ("a.2", BAD_LICENSE), ("b.1", GOOD)):
        path = tmp_path / "packages" / package[0] / package / "opam"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path


def run(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def usage(*arguments: str | Path, stdin: str | None = None) -> str:
    error = run(*arguments, stdin=stdin).exception
    assert isinstance(error, UsageError)
    return str(error)


def answers(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_clean_package(repo: Path) -> None:
    result = run("--repo", repo, "a.1")
    assert (result.exit_code, result.stdout) == (
        0,
        "1 package checked with opam 2.3.0, nothing found.\n",
    )


@pytest.mark.parametrize("word", ["a", "packages/a", "a.2", "packages/a/a.2/opam", "a.2/"])
def test_findings_have_their_place_and_advice(repo: Path, word: str) -> None:
    result = run("--repo", repo, word)
    assert result.exit_code == 1
    assert "  packages/a/a.2/opam:5:11: error [opam-lint]\n    Opam lint" in result.stdout
    assert "How to fix: Use an expression of SPDX identifiers" in result.stdout


def test_all_packages_as_json(repo: Path) -> None:
    result = run("--repo", repo, "--all", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["checked"] == ["a.1", "a.2", "b.1"]
    assert report["opam"] == "2.3.0"
    (finding,) = report["findings"]
    assert finding["machine_message"] == f"Error in a.2: {SPDX}"
    assert (finding["line"], finding["code"]) == (5, 62)


def test_one_line_a_message_for_scripts(repo: Path) -> None:
    result = run("--repo", repo, "--machine-readable", "a.1", "a.2")
    assert (result.exit_code, result.stdout) == (1, f"Error in a.2: {SPDX}\n")


def test_families_of_checks(repo: Path) -> None:
    assert run("--repo", repo, "--checks", "publication", "a.2").exit_code == 0
    result = run("--repo", repo, "--checks", "archive", "a.2")
    assert result.stdout.count("How to fix") == 2


def test_a_missing_package(repo: Path) -> None:
    result = run("--repo", repo, "a.1", "a.9")
    assert result.exit_code == 2
    assert "a.9: no such package in this repository" in result.stdout


def test_wrong_use(repo: Path, tmp_path: Path) -> None:
    assert "name the packages" in usage("--repo", repo)
    assert "give one of" in usage("--repo", repo, "--all", "a.1")
    assert "no such family 'spelling'; there are: opam" in usage(
        "--repo", repo, "--checks", "spelling", "a.1"
    )
    assert "is not a package" in usage("--repo", repo, "a;b.1")
    assert "not a package repository" in usage("--repo", tmp_path / "nowhere", "a.1")
    assert "is not a git repository" in usage("--repo", repo, "--rev", "master", "a.1")
    assert "cannot be read: No such file" in usage("--repo", repo, "--batch", tmp_path / "none")


def test_batch_of_packages(repo: Path) -> None:
    lines = [
        '{"package": "a.2", "new": false, "errors": ["old"], "colour": 1}',
        "",
        "{",
        '{"package": "a.1", "new": true}',
        '{"package": "a.9"}',
        '{"package": "a.1", "new": "yes"}',
        "[]",
        '{"package": "../../etc.1"}',
    ]
    result = run("--repo", repo, "--batch", "-", "--json", stdin="\n".join(lines))
    assert result.exit_code == 2
    first, broken, clean, missing, wrong_type, no_object, no_name = answers(result)
    assert first == {
        "package": "a.2",
        "new": False,
        "colour": 1,
        "errors": [f"Error in a.2: {SPDX}"],
    }
    assert clean == {"package": "a.1", "new": True, "errors": []}
    for answer, place in (
        (broken, "<stdin>:3: not JSON"),
        (missing, "<stdin>:5: no package a.9 in the repository"),
        (wrong_type, "<stdin>:6: new: "),
        (no_object, "<stdin>:7: not a JSON object"),
        (no_name, "<stdin>:8: package: "),
    ):
        assert answer["error"].startswith(place)
        assert answer["error"] in result.stderr
        assert "errors" not in answer


def text_line(**more: Any) -> dict[str, Any]:
    return {"opam": GOOD, "package": "a.1", "new": False, **more}


def test_batch_of_opam_texts(tmp_path: Path) -> None:
    lines = [
        text_line(mode="755", dir_listing=["opam", "files"], note="kept"),
        text_line(new=True, extra_packages=["A", "b"], original="a_.1"),
        text_line(opam="opam-version: [", parse_error="theirs"),
        text_line(parse_error="theirs"),
        text_line(opam=GOOD.replace("Jane", "J\udce9ne")),
    ]
    file = tmp_path / "lines.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(json.dumps(line) for line in lines).encode()))
    result = run("--opam-batch", file, "--json")
    assert result.exit_code == 0
    first, second, third, fourth, latin = answers(result)
    assert first["note"] == "kept"
    assert [error.split(": ", 1)[1][:19] for error in first["errors"]] == [
        "Forbidden permissio",
        "Unexpected file in ",
    ]
    assert [error[-4:] for error in second["errors"]] == [" 'A'", "'a_'"]
    assert third["errors"] == []
    assert third["parse_error"].startswith("Error in a.1: failed to parse opam file: Parse error")
    assert fourth["errors"] == []
    assert "parse_error" not in fourth
    assert "byte 0xe9 is not UTF-8 text at line 3, column 14" in latin["parse_error"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"\x1f\x8b\x08\x00 no gzip after all", "cannot be read"),
        (gzip.compress(b"{}" * 10_000, mtime=0)[:-20], "cannot be read"),
    ],
    ids=["no-gzip", "cut-off"],
)
def test_a_damaged_archive(tmp_path: Path, content: bytes, error: str) -> None:
    file = tmp_path / "lines.gz"
    file.write_bytes(content)
    assert error in usage("--opam-batch", file)


@pytest.mark.parametrize(
    "line",
    [
        b'{"package": "\xff"}',
        b"[" * 100_000,
        b'{"opam": 1, "package": "a.1"}',
        b'{"opam": "\\ud800", "package": "a.1"}',
    ],
)
def test_a_hostile_line_is_named_and_the_next_is_linted(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "lines"
    file.write_bytes(line + b"\n" + json.dumps(text_line()).encode())
    result = run("--opam-batch", file)
    assert result.exit_code == 2
    bad, good = answers(result)
    assert bad["error"].startswith(f"{file}:1: ")
    assert good["errors"] == []
