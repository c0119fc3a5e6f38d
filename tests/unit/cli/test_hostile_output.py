"""What a build, a log or an error message contains gives no orders to a terminal."""

import io
import logging
import sys
from collections.abc import Callable

import pytest

from opam_ci.cli import main
from opam_ci.cli.author.log import _Output
from opam_ci.cli.operator import work
from opam_ci.cli.output import tables
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.outcome import Evidence, LogLine
from tests.support.fakes.terminal import in_terminal

CONTROLS = [*range(9), *range(11, 32), *range(0x7F, 0xA0)]
DIRECTIONS = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
HOSTILE = "".join(f"[{chr(code)}]" for code in (*CONTROLS, *DIRECTIONS, 0x2028, 0x2029, 0xFEFF))
SPACED = "[ ]" * (HOSTILE.count("["))
TEXT = f"é\t{HOSTILE}\nß\n"
EXPECTED = f"é\t{SPACED}\nß\n"


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_a_log_at_a_terminal(size: int) -> None:
    data = TEXT.encode()

    def write() -> None:
        output = _Output(as_json=False)
        for start in range(0, len(data), size):
            output.write(data[start : start + size], final=start + size >= len(data))

    assert in_terminal(80, write) == EXPECTED


def test_a_pipe_gets_a_log_unchanged(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    output = _Output(as_json=False)
    output.write(b"\x9b\xc3")
    output.write(b"\xa9\x1b[31m", final=True)
    assert capfdbinary.readouterr().out == b"\x9b\xc3\xa9\x1b[31m"


def test_a_character_in_two_parts_is_one_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    output = _Output(as_json=True)
    output.write(b"\xc3")
    output.write(b"\xa9", final=True)
    assert capsys.readouterr().out == '{"text": ""}\n{"text": "\\u00e9"}\n'


def test_results_at_a_terminal() -> None:
    assert in_terminal(80, lambda: tables.print_text(TEXT.rstrip())) == EXPECTED


def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UsageError(TEXT.rstrip())

    monkeypatch.setattr(main, "app", fail)
    assert main.run(["check"]) == 2


def logging_it(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    work.log_to_stderr()
    logging.getLogger("opam_ci").error("%s", TEXT.rstrip())


@pytest.mark.parametrize("report", [failing, logging_it])
def test_errors_of_commands_and_workers(
    report: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    report(monkeypatch)
    assert errors.getvalue().endswith(EXPECTED)


def test_evidence_is_cleaned_where_it_is_made() -> None:
    made = Evidence(rule="r", detail=TEXT, lines=(LogLine(offset=0, text=HOSTILE),))
    assert (made.detail, made.lines[0].text) == (EXPECTED, SPACED)
    sent = made.model_dump_json().replace("[ ]", "[\\u009b]")
    assert Evidence.model_validate_json(sent) == made
