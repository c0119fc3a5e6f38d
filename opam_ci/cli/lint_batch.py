"""The batch forms of `opam-ci lint`: JSON lines in, JSON lines with `errors` out.

`errors` holds exactly what the peer would say. About a file that it cannot read the peer
says nothing package by package, so such a line has empty `errors` and a `parse_error`.
"""

import json
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from opam_ci.cli.json_lines import read_lines
from opam_ci.clients.lint_run import PackageFiles, PackageTree, judge_all, lint_each
from opam_ci.clients.opam_lint import OpamLint
from opam_ci.core.lint.finding import CheckId, CheckKind, LintFinding, LintRequest
from opam_ci.core.lint.subject import DirectoryEntry, PackageFacts, PackageNames, package_name
from opam_ci.core.opam.package import Package
from opam_ci.core.text import problems

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
    for line in read_lines(file):
        if line.fault is not None:
            yield BatchLine(line.place, {}, None, line.fault)
            continue
        try:
            yield BatchLine(line.place, line.record, model.model_validate(line.record))
        except ValidationError as error:
            yield BatchLine(line.place, line.record, None, f"{line.place}: {problems(error)}")


def _chunks(lines: Iterator[BatchLine[Question]]) -> Iterator[list[BatchLine[Question]]]:
    while chunk := list(islice(lines, _CHUNK)):
        yield chunk
