"""The batch form of `opam-ci classify`: JSON lines in, each with its verdict out."""

import json
import sys
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from opam_ci.cli.json_lines import JsonLine, read_lines
from opam_ci.core.classify import TextVerdict, classify_text
from opam_ci.core.classify.cut import cut
from opam_ci.core.job import Phase
from opam_ci.core.text import problems

LOG_HEAD = 1 << 20
LOG_TAIL = 3 << 20
"""Bytes of a log that are read, from its start and its end; what lies between is skipped."""

_ANSWERS = ("outcome", "reason", "cause", "rule", "evidence", "error")


class _Question(BaseModel):
    """What a line must have for us to judge it; all its other keys are passed through."""

    model_config = ConfigDict(extra="ignore")

    text: str
    exit_code: int | None = None
    phase: Phase | None = None


def classify_lines(file: str, *, as_json: bool) -> bool:
    """Judges each line of a file and prints it with its verdict.

    Args:
        file: JSON lines, possibly compressed with gzip; `-` for standard input.
        as_json: Print JSON lines; else one line of words for each.

    Returns:
        Whether every line could be judged.

    Raises:
        UsageError: The file cannot be read.
    """
    complete = True
    for line in read_lines(file):
        answer = _answer(line)
        complete = complete and "error" not in answer
        sys.stdout.write(f"{json.dumps(answer) if as_json else _in_words(line.place, answer)}\n")
    return complete


def _answer(line: JsonLine) -> dict[str, Any]:
    """Returns the line's keys and the verdict, or an `error` that names the line."""
    passed = {key: value for key, value in line.record.items() if key not in _ANSWERS}
    if line.fault is not None:
        return {"error": line.fault}
    try:
        question = _Question.model_validate(line.record, strict=False)
    except ValidationError as error:
        return {**passed, "error": f"{line.place}: {problems(error)}"}
    text = question.text
    if len(text) > LOG_HEAD + LOG_TAIL:
        text = cut(text.encode("utf-8", "surrogatepass"), head=LOG_HEAD, tail=LOG_TAIL)
    verdict = classify_text(text, exit_code=question.exit_code, phase=question.phase)
    return {**passed, **_verdict(verdict)}


def _verdict(verdict: TextVerdict) -> dict[str, Any]:
    answer: dict[str, Any] = {"outcome": verdict.outcome}
    if verdict.reason:
        answer["reason"] = verdict.reason.value
    if verdict.cause:
        answer["cause"] = verdict.cause.value
    return {
        **answer,
        "rule": verdict.rule,
        "evidence": [line.text for line in verdict.lines],
    }


def _in_words(place: str, answer: dict[str, Any]) -> str:
    if "error" in answer:
        return str(answer["error"])
    detail = answer.get("reason") or answer.get("cause")
    outcome = f"{answer['outcome']}({detail})" if detail else answer["outcome"]
    return f"{answer.get('id', place)}: {outcome} by {answer['rule']}"
