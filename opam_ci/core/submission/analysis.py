"""Which packages a change touches, and how: the result and the messages of opam-repo-ci.

The rules are those of opam-repo-ci's analysis (lib/analyse.ml), with opam 2.5's comparison
of two opam files. `docs/analysis.md` lists them. Pure: the files come from
a `Trees`, which reads git objects.
"""

from collections.abc import Iterable
from typing import Final

from opam_ci.core.opam import version as versions
from opam_ci.core.opam.errors import OcamlFailure, OpamSyntaxError
from opam_ci.core.opam.file import MAX_SIZE, parse
from opam_ci.core.opam.formula import FBool
from opam_ci.core.opam.metadata import Opam, read
from opam_ci.core.opam.package import Package, check_name, quote
from opam_ci.core.opam.url import Url
from opam_ci.core.submission.admission import refusal, shown, unfetched
from opam_ci.core.submission.change import FileChange, Oversized, Trees
from opam_ci.core.submission.result import BUILT_KINDS, Analysis, ChangedPackage, ChangeKind

CONFLICT: Final = "Cannot merge to master - please rebase!"
#: Of two kinds for one package the one that is later in this list counts.
_STRENGTH: Final = {
    kind: strength
    for strength, kind in enumerate(
        (
            ChangeKind.INSIGNIFICANTLY_CHANGED,
            ChangeKind.SIGNIFICANTLY_CHANGED,
            ChangeKind.UNAVAILABLE,
            ChangeKind.DELETED,
            ChangeKind.NEW_RELEASE,
            ChangeKind.NEW_PACKAGE,
        )
    )
}


class _RefusedError(Exception):
    """The change is refused as a whole; the message is the reason."""


def conflict() -> Analysis:
    """The analysis of a head that does not merge into its base."""
    return Analysis(failure=CONFLICT)


def analyse(
    changes: Iterable[FileChange], trees: Trees, *, merge_tree: str | None = None
) -> Analysis:
    """Analyse a change.

    Args:
        changes: The files that differ between base and merged tree, in git's order.
        trees: Their contents.
        merge_tree: The merged tree's id, for the result.
    """
    analyser = _Analyser(trees)
    try:
        for change in changes:
            analyser.add(change)
        return Analysis(packages=analyser.packages(), merge_tree=merge_tree)
    except _RefusedError as refusal:
        return Analysis(failure=str(refusal), merge_tree=merge_tree)


class _Analyser:
    """Collects the kind of each package that the change touches."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._kinds: dict[object, tuple[Package, ChangeKind]] = {}
        # By path, of the files that were read already; the files themselves are not kept,
        # since a change may touch thousands.
        self._tests: dict[str, bool | OcamlFailure] = {}
        self._unfetched: dict[str, Url] = {}

    def add(self, change: FileChange) -> None:
        mode = change.old_mode if change.is_deletion else change.new_mode
        if (wrong := refusal(change.path, mode)) is not None:
            if change.is_deletion:
                return
            raise _RefusedError(wrong)
        match change.path.split("/"):
            case ["packages", name, package, "files", *_]:
                self._add(change.path, name, package, ChangeKind.SIGNIFICANTLY_CHANGED)
            case ["packages", name, package, "opam"]:
                self._add(change.path, name, package, self._kind_of_opam(change, name))
            case ["packages", *_]:
                raise _RefusedError(
                    f"Unexpected path {quote(change.path)} in packages directory "
                    "(expecting 'packages/name/name.l.m.n/{opam,files/*}')"
                )

    def packages(self) -> tuple[ChangedPackage, ...]:
        in_order = sorted(self._kinds.values(), key=lambda pair: pair[0].sort_key)
        # opam-repo-ci goes from the last package to the first, so the last failure is reported.
        found = [
            ChangedPackage(
                package=str(package), kind=kind, has_tests=self._has_tests(package, kind)
            )
            for package, kind in reversed(in_order)
        ]
        # Last: what opam-repo-ci refuses has its message. What is not built is not fetched.
        for package, kind in in_order:
            path = f"packages/{package.name}/{package}/opam"
            if kind in BUILT_KINDS and path in self._unfetched:
                raise _RefusedError(
                    f"Builds do not fetch {shown(str(self._unfetched[path]))}, a source in "
                    f"{shown(path)} (expecting http, https, ftp or git+https)"
                )
        return tuple(reversed(found))

    def _kind_of_opam(self, change: FileChange, name: str) -> ChangeKind:
        old = self._trees.old(change)
        if old is None:
            is_known = self._trees.had(f"packages/{name}")
            return ChangeKind.NEW_RELEASE if is_known else ChangeKind.NEW_PACKAGE
        new = self._trees.new(change.path)
        if new is None:
            return ChangeKind.DELETED
        now = self._parse(change.path, new)
        if not _is_available(now):
            return ChangeKind.UNAVAILABLE
        before = _read_old(change.path, old)
        if before is not None and _is_same(before, now):
            return ChangeKind.INSIGNIFICANTLY_CHANGED
        return ChangeKind.SIGNIFICANTLY_CHANGED

    def _has_tests(self, package: Package, kind: ChangeKind) -> bool:
        if kind is ChangeKind.DELETED:
            return False
        path = f"packages/{package.name}/{package}/opam"
        if path not in self._tests:
            data = self._trees.new(path)
            if data is None:
                raise _RefusedError("impossible")  # opam-repo-ci's message for files/ without opam
            self._parse(path, data)
        tests = self._tests[path]
        if isinstance(tests, OcamlFailure):
            raise _RefusedError(str(tests))
        return tests

    def _parse(self, path: str, data: bytes | Oversized) -> Opam:
        size = data.size if isinstance(data, Oversized) else len(data)
        if isinstance(data, Oversized) or size > MAX_SIZE:
            raise _RefusedError(f"File {quote(path)} too big ({size} bytes)")
        try:
            opam = _read(path, data)
        except OpamSyntaxError as error:
            raise _RefusedError(_failure_text(path, error)) from None
        if (url := next(filter(unfetched, opam.sources), None)) is not None:
            self._unfetched[path] = url
        try:
            self._tests[path] = opam.has_tests
        except OcamlFailure as failure:
            self._tests[path] = failure  # raised only after all files were read
        return opam

    def _add(self, path: str, name: str, package_dir: str, kind: ChangeKind) -> None:
        package = _package(path, name, package_dir)
        known = self._kinds.get(package.identity)
        # Versions such as 1.0 and 1.00 are one version to opam, and so one package here; it
        # has the name of the file that determined its kind.
        if known is None or _STRENGTH[kind] > _STRENGTH[known[1]]:
            self._kinds[package.identity] = (package, kind)


def _package(path: str, name: str, package_dir: str) -> Package:
    try:
        check_name(name)
    except OcamlFailure as failure:
        raise _RefusedError(
            f"{quote(name)} is not a valid package name (in {quote(path)}): {failure}"
        ) from None
    try:
        package = Package.parse(package_dir)
    except OcamlFailure as failure:
        raise _RefusedError(
            f"{quote(package_dir)} is not a valid package name.version "
            f"(in {quote(path)}): {failure}"
        ) from None
    if package.name != name:
        raise _RefusedError(
            f"Mismatch between package dir name {quote(package_dir)} "
            f"and parent directory name {quote(name)}"
        )
    return package


def _read(path: str, data: bytes) -> Opam:
    return read(parse(data, filename=path), Package.find(path.split("/")[-2]))


def _read_old(path: str, data: bytes | Oversized) -> Opam | None:
    """The file in the base, None if it cannot be read: that is not the change's fault."""
    try:
        return None if isinstance(data, Oversized) else _read(path, data)
    except OpamSyntaxError:
        return None


def _failure_text(path: str, error: OpamSyntaxError) -> str:
    if error.message == "int_of_string":
        return error.message  # opam does not wrap this one
    return f"{quote(path)} failed to be parsed: {error.message}"


def _is_available(opam: Opam) -> bool:
    """Whether the package may be available on some platform.

    Raises:
        _RefusedError: The file is of an old format, or some of its fields are wrong.
    """
    if opam.package is None:
        return True  # the folder's name is refused when the package is added
    if versions.compare(opam.opam_version, "2") < 0:
        raise _RefusedError(
            f"Package {quote(str(opam.package))} uses unsupported opam version "
            f"{opam.opam_version} (need >= 2)"
        )
    if opam.errors:
        errors = "\n".join(f"  - {opam.describe(error)}" for error in opam.errors)
        raise _RefusedError(f"Format errors detected in {opam.package}:\n{errors}")
    return opam.available != FBool(value=False)


def _is_same(old: Opam, new: Opam) -> bool:
    return (
        old.effective == new.effective
        and old.ci_extensions == new.ci_extensions
        and old.depexts == new.depexts
    )
