"""Lint packages of a repository: read them, run opam and our checks on them."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from opam_ci.clients.lint.opam import OpamLint
from opam_ci.clients.threads import LINT
from opam_ci.core.batched import batched
from opam_ci.core.lint.checks import DEFAULT_KINDS
from opam_ci.core.lint.finding import CheckKind, LintFinding, LintReport, LintRequest
from opam_ci.core.lint.judge import judge, read_opam_file
from opam_ci.core.lint.opam_messages import Unreadable
from opam_ci.core.lint.subject import (
    DirectoryEntry,
    OpamMessage,
    PackageFacts,
    PackageNames,
    package_name,
)
from opam_ci.core.opam.file import MAX_SIZE, OpamFile

# Packages in memory at a time, and bytes of their files: more would cost memory and gain no speed.
# Parsed, a hostile file takes 66 times its bytes; 1,000 real ones have 1.4 MB.
_CHUNK: Final = 1000
_CHUNK_BYTES: Final = 2 << 20


@dataclass(frozen=True, slots=True)
class PackageFiles:
    """A package directory.

    Attributes:
        opam: The content of its opam file.
        entries: All that the directory contains.
    """

    opam: bytes
    entries: tuple[DirectoryEntry, ...] | None


class PackageTree(Protocol):
    """A state of a package repository: a work tree, or a tree in git."""

    async def names(self) -> Collection[str]:
        """The names of all packages."""
        ...

    async def versions(self, names: Collection[str]) -> Mapping[str, Collection[str]]:
        """The full names of all versions of each of some packages."""
        ...

    async def read(self, packages: Sequence[str]) -> Sequence[PackageFiles | None]:
        """The directory of each package, None for one without an opam file."""
        ...


async def lint_packages(
    tree: PackageTree,
    packages: Sequence[LintRequest],
    *,
    opam: OpamLint,
    kinds: Collection[CheckKind] = DEFAULT_KINDS,
) -> LintReport:
    """Lint packages of one state of a repository.

    A file that cannot be read is a finding about its package and hides no other.

    Args:
        tree: The state.
        packages: What to lint; deleted packages are not for here.
        opam: The `opam lint` to run.
        kinds: The families of checks.

    Raises:
        InfrastructureError: opam or git does not work.
    """
    findings: list[LintFinding] = []
    checked: list[str] = []
    missing: list[str] = []
    results = await lint_each(tree, packages, kinds=kinds, opam=opam)
    for request, found in zip(packages, results, strict=True):
        if found is None:
            missing.append(request.package)
        else:
            checked.append(request.package)
            findings += found
    return LintReport(findings=tuple(findings), checked=tuple(checked), missing=tuple(missing))


async def lint_each(
    tree: PackageTree,
    packages: Sequence[LintRequest],
    *,
    opam: OpamLint,
    kinds: Collection[CheckKind] = DEFAULT_KINDS,
) -> list[tuple[LintFinding, ...] | None]:
    """The findings about each package, None for one that does not exist; see `lint_packages`."""
    facts = await _facts(tree, packages)
    results: list[tuple[LintFinding, ...] | None] = []
    for chunk in batched(facts, _CHUNK):
        read = await tree.read([fact.package for fact in chunk])
        present = [
            (fact, files) for fact, files in zip(chunk, read, strict=True) if files is not None
        ]
        found: list[tuple[LintFinding, ...]] = []
        for part in batched(
            present, _CHUNK, weight=lambda each: len(each[1].opam), most=_CHUNK_BYTES
        ):
            found += await judge_all(opam, part, kinds)
        judged = iter(found)
        results += [None if files is None else next(judged) for files in read]
    return results


async def judge_all(
    opam: OpamLint,
    packages: Sequence[tuple[PackageFacts, PackageFiles]],
    kinds: Collection[CheckKind] = DEFAULT_KINDS,
) -> list[tuple[LintFinding, ...]]:
    """The findings about each of some packages, in order."""
    # opam lints in its own process while this one parses.
    messages, parsed = await asyncio.gather(
        opam.lint([_for_opam(files) for _, files in packages]),
        LINT.run(_parse, packages, with_upstream=opam.check_upstream),
    )
    return await LINT.run(_judge, parsed, messages, kinds)


def _for_opam(files: PackageFiles) -> bytes:
    """The file as opam gets it; one that is refused for its size is not worth opam's time."""
    return files.opam if len(files.opam) <= MAX_SIZE else b""


def _parse(
    packages: Sequence[tuple[PackageFacts, PackageFiles]],
    *,
    with_upstream: bool,
) -> list[tuple[PackageFacts, OpamFile | Unreadable]]:
    return [
        (
            replace(facts, entries=files.entries, with_upstream=with_upstream),
            read_opam_file(facts.package, files.opam),
        )
        for facts, files in packages
    ]


def _judge(
    packages: Sequence[tuple[PackageFacts, OpamFile | Unreadable]],
    messages: Sequence[Sequence[OpamMessage]],
    kinds: Collection[CheckKind],
) -> list[tuple[LintFinding, ...]]:
    return [
        judge(facts, file, of_file, kinds)
        for (facts, file), of_file in zip(packages, messages, strict=True)
    ]


async def _facts(tree: PackageTree, packages: Sequence[LintRequest]) -> list[PackageFacts]:
    unknown = [request.package for request in packages if request.new is None]
    versions = await tree.versions({package_name(package) for package in unknown})
    new = [
        request.new
        if request.new is not None
        # As opam-repo-ci guesses: a package is new when the repository has no other version of it.
        else not set(versions.get(package_name(request.package), ())) - {request.package}
        for request in packages
    ]
    names = PackageNames(await tree.names() if any(new) else ())
    return [
        PackageFacts(package=request.package, new=is_new, names=names if is_new else None)
        for request, is_new in zip(packages, new, strict=True)
    ]
