"""`opam-ci classify` as people and scripts call it."""

import gzip
import io
import json
from pathlib import Path

import pytest
import typer

from opam_ci.cli.developer.classify import classify
from opam_ci.core.classify import every_rule
from opam_ci.core.errors import UsageError

FULL = "E: Write error - write (28: No space left on device)\n"


def classify_file(log: str | None = None, **options: object) -> None:
    defaults: dict[str, object] = {
        "exit_code": None,
        "phase": None,
        "as_json": False,
        "batch": None,
        "rules": False,
    }
    classify(log, **{**defaults, **options})  # type: ignore[arg-type] # as typer calls it


def test_it_explains_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_text(f"hello\n{FULL}")

    classify_file(str(tmp_path / "log"))

    shown = capsys.readouterr().out
    assert shown.startswith("errored(disk_full): the CI is at fault\nrule: disk-full-tool\n")
    assert f"line 2: {FULL}" in shown


def test_json_has_offsets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_text(f"hello\n{FULL}")

    classify_file(str(tmp_path / "log"), as_json=True)

    answer = json.loads(capsys.readouterr().out)
    assert (answer["outcome"], answer["cause"]) == ("errored", "disk_full")
    assert answer["lines"] == [{"number": 2, "offset": 6, "text": FULL.strip()}]


def test_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(FULL.encode())))

    classify_file("-")

    assert "disk_full" in capsys.readouterr().out


def test_a_huge_log_is_read_at_its_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "log").open("wb") as log:
        log.write(b"begin\n" + b"\n" * (12 << 20))
        log.write(FULL.encode())

    classify_file(str(tmp_path / "log"))

    shown = capsys.readouterr().out
    assert shown.startswith("errored(disk_full)")
    assert "Only the first 1 and last 3 MiB" in shown


def test_batch_passes_unknown_keys_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": 1, "label": "x", "text": FULL, "more": {"a": [1]}},
        {"id": 2, "text": "No solution found, exiting", "exit_code": 20, "phase": "solve"},
        {"id": 3, "text": "hm \ud800"},
    ]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))

    classify_file(batch=str(tmp_path / "rows.jsonl.gz"), as_json=True)

    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert answers[0] == {
        **rows[0],
        "outcome": "errored",
        "cause": "disk_full",
        "rule": "disk-full-tool",
        "evidence": [FULL.strip()],
    }
    assert (answers[1]["outcome"], answers[1]["reason"]) == ("skipped", "no_solution")
    assert answers[2] == {**rows[2], "outcome": "unknown", "rule": "no-rule", "evidence": []}


def test_batch_reads_a_huge_text_at_its_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filler = f"{'x' * 1023}\n" * (5 << 10)
    texts = {"start": FULL + filler, "middle": filler + FULL + filler, "end": filler + FULL}
    lines = [json.dumps({"id": name, "text": text}) for name, text in texts.items()]
    (tmp_path / "batch").write_text("\n".join(lines))

    classify_file(batch=str(tmp_path / "batch"))

    shown = capsys.readouterr().out.split("\n")
    assert [line.split(" ")[1] for line in shown[:3]] == [
        "errored(disk_full)",
        "unknown",
        "errored(disk_full)",
    ]


def test_invalid_lines_are_named_and_the_others_classified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows"
    lines = ["{", "[]", "", '{"id": 4}', '{"id": 5, "text": "x", "phase": "dream"}']
    file.write_text("\n".join([*lines, json.dumps({"id": 6, "text": FULL}), "[" * 100_000]))

    with pytest.raises(typer.Exit) as ended:
        classify_file(batch=str(file), as_json=True)

    assert ended.value.exit_code == 2
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    places = [answer.get("error", "").split(": ")[0] for answer in answers]
    assert places == [*(f"{file}:{n}" for n in (1, 2, 4, 5)), "", f"{file}:7"]
    assert (answers[2]["id"], answers[3]["id"]) == (4, 5)
    assert answers[4]["cause"] == "disk_full"


def test_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    classify_file(rules=True, as_json=True)
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = [(rule.id, rule.kind) for rule in every_rule()]
    assert [(rule["id"], rule["class"]) for rule in listed] == expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rules": True, "batch": "x"},
        {"rules": True, "exit_code": 3},
        {"batch": "/nonexistent/rows"},
    ],
)
def test_a_usage_error_is_reported_in_one_line(options: dict[str, object]) -> None:
    with pytest.raises(UsageError) as refused:
        classify_file(None, **options)

    assert "\n" not in str(refused.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 99)[:-9])

    for use in (
        {"log": "/nonexistent"},
        {"log": str(tmp_path)},
        {"batch": str(tmp_path / "cut.gz")},
    ):
        with pytest.raises(UsageError, match="cannot be read"):
            classify_file(**use)
