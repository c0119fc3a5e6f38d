"""Checks of a package's downloads and extra files."""

from collections.abc import Iterator

from opam_ci.core.lint.finding import CheckId, LintFinding
from opam_ci.core.lint.subject import LintSubject
from opam_ci.core.lint.urls import (
    Source,
    checksum_kind,
    deprecated_extra_sources,
    section_source,
)
from opam_ci.core.lint.values import rows
from opam_ci.core.opam.nodes import List, Node, Section, String

_PAIR = 2


def check_checksums(subject: LintSubject) -> Iterator[LintFinding]:
    """Require a checksum that is hard to forge for every download."""
    url = None if "url" in subject.dropped else subject.file.section("url")
    if url is not None and (source := section_source(url)) is not None:
        yield from _weak(subject, "url", source)
    for name, digest in _extra_files(subject):
        if checksum_kind(digest.value) == "md5":
            yield _finding(subject, "extra-files", "only MD5 as checksum", name.value, digest)
    for source in _extra_sources(subject):
        yield from _weak(subject, "extra-sources", source)


def _weak(subject: LintSubject, context: str, source: Source) -> Iterator[LintFinding]:
    if not source.checksums:
        yield _finding(subject, context, "no checksum", source.filename, source.node)
    elif set(source.checksums) == {"md5"}:
        yield _finding(subject, context, "only MD5 as checksum", source.filename, source.node)


def _finding(
    subject: LintSubject, context: str, fault: str, filename: str, node: Node
) -> LintFinding:
    return subject.finding(
        CheckId.WEAK_CHECKSUM,
        "Weak checksum algorithm(s) provided. Please use SHA-256 or SHA-512. Details: opam"
        f" field {context} contains {fault} for {filename}",
        at=node,
    )


def _extra_sources(subject: LintSubject) -> Iterator[Source]:
    sections = {} if "extra-source" in subject.dropped else _extra_source_sections(subject)
    if sections:
        # opam reads the old field first; the sections replace it.
        yield from (source for section in sections.values() if (source := section_source(section)))
    else:
        yield from deprecated_extra_sources(subject.value("extra-sources"))


def _extra_source_sections(subject: LintSubject) -> dict[str | None, Section]:
    sections: dict[str | None, Section] = {}
    for section in subject.file.sections("extra-source"):
        # Of two sections with one name opam keeps the first.
        sections.setdefault(section.name, section)
    return sections


def _extra_files(subject: LintSubject) -> Iterator[tuple[String, String]]:
    for row in rows(subject.value("extra-files")):
        if isinstance(row, List) and len(row.items) == _PAIR:
            name, digest = row.items
            if isinstance(name, String) and isinstance(digest, String):
                yield name, digest


def check_extra_files(subject: LintSubject) -> Iterator[LintFinding]:
    """Refuse files beside the opam file."""
    if rows(subject.value("extra-files")):
        yield subject.finding(
            CheckId.EXTRA_FILES,
            "extra-files present. This is not allowed in the opam-repository. Please use"
            " extra-source instead.",
            at=subject.file.field("extra-files"),
        )
