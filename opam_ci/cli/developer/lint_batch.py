"""The batch forms of `opam-ci lint`: JSON lines in, JSON lines with `errors` out.

`errors` are exactly the messages of opam-repo-ci. It has no messages by package about a file
that it cannot parse, so such a line has empty `errors` and a `parse_error`.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from opam_ci.cli.output.json_lines import BatchLine, Request, print_line, read_lines
from opam_ci.cli.output.tables import note
from opam_ci.clients.lint.opam import OpamLint
from opam_ci.clients.lint.run import PackageFiles, PackageTree, judge_all, lint_each
from opam_ci.core.lint.finding import CheckId, CheckKind, LintFinding, LintRequest
from opam_ci.core.lint.subject import DirectoryEntry, PackageFacts, PackageNames, package_name
from opam_ci.core.opam.package import Package

_CHUNK: Final = 500


def _check_full_name(text: str) -> str:
    if Package.find(text) is None:
        raise ValueError(f"{text!r} is not a package: write NAME.VERSION, such as cppo.1.8.0")
    return text


def _check_encodable(text: str) -> str:
    _encode(text)
    return text


def _encode(text: str) -> bytes:
    # Python writes a byte that is not UTF-8 as a lone surrogate, and so may the input.
    return text.encode("utf-8", "surrogateescape")


OpamText = Annotated[str, AfterValidator(_check_encodable)]
FullName = Annotated[str, AfterValidator(_check_full_name)]
Mode = Annotated[str, Field(pattern=r"^[0-7]{3,6}$")]
_PERMISSION_BITS: Final = 0o777
_PLAIN: Final = 0o644
_RESULT_KEYS: Final = frozenset({"errors", "parse_error", "error"})


class PackageLine(BaseModel):
    """A line of `--batch`.

    Attributes:
        package: Full name.
        new: Whether it is the first version; by default, as the repository shows.
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
        dir_listing: Names of the files in the package directory.
        extra_packages: Names of other packages in the repository.
        original: A package that was in the repository before: one more name.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    opam: OpamText
    package: FullName
    new: bool = False
    mode: Mode = "644"
    dir_listing: list[str] = Field(default_factory=lambda: ["opam"])
    extra_packages: list[str] = Field(default_factory=list)
    original: str | None = None


async def lint_packages_of(
    file: str,
    tree: PackageTree,
    *,
    kinds: Collection[CheckKind],
    opam: OpamLint,
    new: bool | None,
) -> bool:
    """Prints each line of `--batch` with its result; returns whether all were linted.

    Raises:
        UsageError: The file cannot be read.
        InfrastructureError: opam or git failed.
    """
    complete = True
    for lines in _chunks(read_lines(file, PackageLine)):
        requests = [
            LintRequest(package=line.request.package, new=line.request.new if new is None else new)
            for line in lines
            if line.request
        ]
        results = iter(await lint_each(tree, requests, kinds=kinds, opam=opam))
        for line in lines:
            findings, error = None, line.error
            if line.request is not None:
                findings = next(results)
                if findings is None:
                    error = f"{line.place}: no package {line.request.package} in the repository"
            complete = _print_result(line, findings, error) and complete
    return complete


async def lint_opam_texts(file: str, *, kinds: Collection[CheckKind], opam: OpamLint) -> bool:
    """Prints each line of `--opam-batch` with its result; returns whether all were linted.

    Raises:
        UsageError: The file cannot be read.
        InfrastructureError: opam failed.
    """
    complete = True
    for lines in _chunks(read_lines(file, OpamTextLine)):
        packages = [from_text(line.request) for line in lines if line.request]
        results = iter(await judge_all(opam, packages, kinds))
        for line in lines:
            findings = next(results) if line.request else None
            complete = _print_result(line, findings, line.error) and complete
    return complete


def from_text(line: OpamTextLine) -> tuple[PackageFacts, PackageFiles]:
    """Returns the package that a line describes."""
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


def _print_result(
    line: BatchLine[Request], findings: Sequence[LintFinding] | None, error: str | None
) -> bool:
    """Prints a line with its result, an error to stderr too; returns whether it was linted."""
    values: dict[str, object] = {"error": error}
    if findings is None:
        note(str(error))
    else:
        unreadable = [each.machine_message for each in findings if each.check is CheckId.PARSE]
        values = {"errors": [] if unreadable else [each.machine_message for each in findings]}
        if unreadable:
            values["parse_error"] = unreadable[0]
    print_line(line.result(_RESULT_KEYS, **values))
    return findings is not None


def _chunks(lines: Iterator[BatchLine[Request]]) -> Iterator[list[BatchLine[Request]]]:
    while chunk := list(islice(lines, _CHUNK)):
        yield chunk
