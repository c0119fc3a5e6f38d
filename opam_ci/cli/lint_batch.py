"""The batch forms of `opam-ci lint`: JSON lines in, JSON lines with `errors` out.

`errors` holds exactly what the peer would say. About a file that it cannot read the peer
says nothing package by package, so such a line has empty `errors` and a `parse_error`.
"""

import gzip
import json
import sys
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any, Final, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from opam_ci.clients.lint_run import PackageFiles, PackageTree, judge_all, lint_each
from opam_ci.clients.opam_lint import OpamLint
from opam_ci.core.errors import UsageError
from opam_ci.core.lint.finding import CheckId, CheckKind, LintFinding, LintRequest
from opam_ci.core.lint.judge import PackageFacts
from opam_ci.core.lint.subject import DirectoryEntry, PackageNames, package_name
from opam_ci.core.opam.package import Package

_CHUNK: Final = 500


def _check_full_name(text: str) -> str:
    if Package.find(text) is None:
        raise ValueError(f"{text!r} is no package: write NAME.VERSION, such as cppo.1.8.0")
    return text


def _check_encodable(text: str) -> str:
    _encode(text)
    return text


def _encode(text: str) -> bytes:
    # Python writes a byte that is no UTF-8 as a lone surrogate, and so may whoever asks us.
    return text.encode("utf-8", "surrogateescape")


OpamText = Annotated[str, AfterValidator(_check_encodable)]
FullName = Annotated[str, AfterValidator(_check_full_name)]
Mode = Annotated[str, Field(pattern=r"^[0-7]{3,6}$")]
_PERMISSION_BITS: Final = 0o777
_PLAIN: Final = 0o644
# The keys that are ours in an answer, whatever the line had there.
_ANSWER_KEYS: Final = frozenset({"errors", "parse_error", "error"})


class PackageLine(BaseModel):
    """A line of `--batch`.

    Attributes:
        package: Full name.
        new: Whether it is the first version; without it, the repository is asked.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    package: FullName
    new: bool | None = None


class OpamTextLine(BaseModel):
    """A line of `--opam-batch`.

    Attributes:
        opam: The whole opam file.
        package: Full name.
        new: Whether it is the first version.
        mode: Permissions of the opam file, octal.
        dir_listing: What lies in the package directory.
        extra_packages: Names of other packages in the repository.
        original: A package that was there before, whose name counts among them.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    opam: OpamText
    package: FullName
    new: bool = False
    mode: Mode = "644"
    dir_listing: list[str] = Field(default_factory=lambda: ["opam"])
    extra_packages: list[str] = Field(default_factory=list)
    original: str | None = None


Question = TypeVar("Question", PackageLine, OpamTextLine)


@dataclass(frozen=True, slots=True)
class BatchLine(Generic[Question]):
    """A line of input.

    Attributes:
        place: `FILE:LINE`.
        record: All that it says.
        question: What we understood of it.
        fault: Why we understood nothing.
    """

    place: str
    record: dict[str, Any]
    question: Question | None
    fault: str | None = None


async def lint_packages_of(
    file: str,
    tree: PackageTree,
    *,
    kinds: Collection[CheckKind],
    opam: OpamLint,
    new: bool | None,
) -> bool:
    """Answer each line of `--batch` on standard output; whether every one got an answer.

    Raises:
        UsageError: The file cannot be read.
        InfrastructureError: opam or git does not work.
    """
    complete = True
    for lines in _chunks(_read(file, PackageLine)):
        questions = [line.question for line in lines if line.question]
        requests = [
            LintRequest(package=asked.package, new=asked.new if new is None else new)
            for asked in questions
        ]
        found = iter(await lint_each(tree, requests, kinds=kinds, opam=opam))
        for line in lines:
            findings, fault = None, line.fault
            if line.question is not None:
                findings = next(found)
                if findings is None:
                    fault = f"{line.place}: the repository has no package {line.question.package}"
            complete = _answer(line, findings, fault) and complete
    return complete


async def lint_opam_texts(file: str, *, kinds: Collection[CheckKind], opam: OpamLint) -> bool:
    """Answer each line of `--opam-batch` on standard output; whether every one got an answer.

    Raises:
        UsageError: The file cannot be read.
        InfrastructureError: opam does not work.
    """
    complete = True
    for lines in _chunks(_read(file, OpamTextLine)):
        packages = [from_text(line.question) for line in lines if line.question]
        found = iter(await judge_all(opam, packages, kinds))
        for line in lines:
            findings = next(found) if line.question else None
            complete = _answer(line, findings, line.fault) and complete
    return complete


def from_text(line: OpamTextLine) -> tuple[PackageFacts, PackageFiles]:
    """The package that a line describes."""
    mode = int(line.mode, 8) & _PERMISSION_BITS
    entries = tuple(
        DirectoryEntry(name=name, permissions=mode if name == "opam" else _PLAIN)
        for name in line.dir_listing
    )
    others = [package_name(line.original)] if line.original else []
    names = PackageNames([package_name(line.package), *others, *line.extra_packages])
    return (
        PackageFacts(package=line.package, new=line.new, names=names),
        PackageFiles(_encode(line.opam), entries),
    )


def _answer(
    line: BatchLine[Any], findings: Sequence[LintFinding] | None, fault: str | None
) -> bool:
    """Print the answer to one line; whether it is one."""
    answer = {key: value for key, value in line.record.items() if key not in _ANSWER_KEYS}
    if fault is not None or findings is None:
        answer["error"] = fault
        sys.stderr.write(f"{fault}\n")
    else:
        unreadable = [finding for finding in findings if finding.check is CheckId.PARSE]
        answer["errors"] = [] if unreadable else [each.machine_message for each in findings]
        if unreadable:
            answer["parse_error"] = unreadable[0].machine_message
    sys.stdout.write(f"{json.dumps(answer)}\n")
    return "error" not in answer


def _read(file: str, model: type[Question]) -> Iterator[BatchLine[Question]]:
    shown = "<stdin>" if file == "-" else file
    try:
        with _open(file) as stream:
            for number, raw in enumerate(stream, start=1):
                if raw.strip():
                    yield _understand(raw, f"{shown}:{number}", model)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"{shown} cannot be read: {reason}") from error


def _open(file: str) -> BufferedIOBase | IO[bytes]:
    if file == "-":
        return sys.stdin.buffer
    path = Path(file)
    with path.open("rb") as start:
        zipped = start.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else path.open("rb")


def _understand(raw: bytes, place: str, model: type[Question]) -> BatchLine[Question]:
    try:
        record = json.loads(raw)
    except ValueError as error:
        return BatchLine(place, {}, None, f"{place}: no JSON: {error}")
    except RecursionError:
        return BatchLine(place, {}, None, f"{place}: JSON nested too deep")
    if not isinstance(record, dict):
        return BatchLine(place, {}, None, f"{place}: no JSON object")
    try:
        return BatchLine(place, record, model.model_validate(record))
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        return BatchLine(place, record, None, f"{place}: {faults}")


def _chunks(lines: Iterator[BatchLine[Question]]) -> Iterator[list[BatchLine[Question]]]:
    while chunk := list(islice(lines, _CHUNK)):
        yield chunk
