"""The process that analyses and exports a head: `python -m …`, a task on standard input.

A process of its own, since it computes on what an author submitted, and compresses for seconds: it
has a bound on its processor time, dies with the activity for which it works, and its memory is
not the worker's. The result goes to `RESULT` in the task's directory.
"""

import hashlib
import resource
import sys
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from opam_ci.clients.git.analysis import analyse
from opam_ci.clients.git.effect import read_effect
from opam_ci.clients.git.export import Overlay, archive_tree, overlay
from opam_ci.clients.git.popular import read_popular
from opam_ci.clients.git.reach import NamedInTree, read_named
from opam_ci.clients.git.repository import Repository
from opam_ci.core.coinstall.universe import DumpError
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import package_name
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen
from opam_ci.core.submission.admission import ChangeLimits
from opam_ci.core.submission.effect import Effect
from opam_ci.core.submission.inputs import HeadInputs, changes_digest
from opam_ci.core.submission.result import BUILT_KINDS, Analysis

RESULT: Final = "result.json"
OVERLAY: Final = "overlay.tar.gz"
OVERLAY_OF_BASE: Final = "base-overlay.tar.gz"
BASE: Final = "base.tar.gz"
REACH: Final = "reach.json"
REACH_ON_BASE: Final = "base-reach.json"
REFERENCES: Final = "references.json"
DESCRIPTIONS: Final = "descriptions.json"
_OBJECTS: Final = "objects"

PROCESSOR_LIMIT: Final = 600
"""Seconds of processor time, and as many for each command of git. The export of all of
opam-repository takes two; to parse the worst opam files of a head of `ChangeLimits.head_bytes`
takes a hundred."""

_MEMORY_LIMIT: Final = 4 << 30
"""Bytes of address space for the decision of an effect: opam-repository takes 300 MB."""

_EFFECT_PROCESSOR_LIMIT: Final = 300
"""Seconds of processor time for it: with eight releases of OCaml what all packages need takes a
minute."""

MAXIMUM_OVERLAY: Final = 300
"""Files in an overlay, beside those of the pull request itself, before a new base is made.
opam reads an overlay anew for each job, at 2 ms a package; opam-repository changes by some 40
packages a day, most of them one file, so a base serves for a week."""


class Export(Frozen):
    """The overlay that was written for a head.

    Attributes:
        base: Commit of the base to which it is added.
        overlay: What is in it.
        digest: SHA-256 of the archive.
    """

    base: str
    overlay: Overlay
    digest: str


class AnalysedHead(Frozen):
    """Result of `AnalyseHead`.

    Attributes:
        analysis: The analysis.
        inputs: What the head's jobs work on; None if it is refused.
        export: None if nothing is to be built.
        export_of_base: The same of the commit into which the head is merged, without the head.
        references_changed: Whether `REFERENCES` was written anew.
    """

    kind: Literal["analysed"] = "analysed"
    analysis: Analysis
    inputs: HeadInputs | None = None
    export: Export | None = None
    export_of_base: Export | None = None
    references_changed: bool = False


class ArchivedBase(Frozen):
    """Result of `ArchiveBase`."""

    kind: Literal["archived"] = "archived"


class FoundEffect(Frozen):
    """Result of `FindEffect`.

    Attributes:
        effect: The effect.
        descriptions_changed: Whether `DESCRIPTIONS` was written anew.
    """

    kind: Literal["effect"] = "effect"
    effect: Effect
    descriptions_changed: bool


class Failed(Frozen):
    """What went wrong.

    Attributes:
        cause: Of an infrastructure fault; None for wrong use.
    """

    kind: Literal["failed"] = "failed"
    message: str
    cause: Cause | None


class AnalyseHead(Frozen):
    """Analyse a head; write the overlay of its merge to `OVERLAY` if something is to be built.

    If that is wanted, that of its base alone goes to `OVERLAY_OF_BASE`, and what is within reach of
    each package to `REACH` and `REACH_ON_BASE`; `REFERENCES` makes the latter faster.

    Attributes:
        clone: The clone.
        directory: For the results; of this task alone.
        base: Commit into which the head is merged.
        head: The head.
        limits: How much the head may add and modify.
        bases: Commits whose archives there are, the one used last first; None to export nothing.
        unchanged: Whether to export it also if the head changes nothing that is built.
        base_alone: Whether to write the base alone, too.
        reach: Whether to find out what is within reach.
        popular: How many packages that the head does not change are to be built in place of those
            that it does; 0 for the latter.
    """

    kind: Literal["analyse"] = "analyse"
    clone: Path
    directory: Path
    base: str
    head: str
    limits: ChangeLimits
    bases: tuple[str, ...] | None
    unchanged: bool = False
    base_alone: bool = False
    reach: bool = False
    popular: int = 0

    def run(self, repository: Repository) -> AnalysedHead:
        """Performs the task."""
        analysis, is_changed = self._analyse(repository)
        merged = analysis.merge_tree
        if merged is None:
            return AnalysedHead(analysis=analysis)
        built = [each.package for each in analysis.packages if each.kind in BUILT_KINDS]
        named = None
        cache = self.directory / REFERENCES
        if self.reach and (built or self.unchanged):
            named = read_named(repository, merged, cache)
        inputs = None
        if analysis.failure is None:
            inputs = _inputs(repository, analysis, merged, named, built)
        if self.bases is None or not (built or self.unchanged):
            return AnalysedHead(analysis=analysis, inputs=inputs)
        base = _nearest(repository, self.bases, self.base, merged)
        known, own = repository.tree_of(base), repository.tree_of(self.base)
        path = self.directory / OVERLAY
        made = overlay(repository, known, merged, path, own_base=own)
        done = AnalysedHead(
            analysis=analysis,
            inputs=inputs,
            export=Export(base=base, overlay=made, digest=_digest(path)),
        )
        if self.base_alone:
            path = self.directory / OVERLAY_OF_BASE
            made = overlay(repository, known, own, path)
            alone = Export(base=base, overlay=made, digest=_digest(path))
            done = done.model_copy(update={"export_of_base": alone})
        if named is None:
            return done
        names = {package_name(changed.package) for changed in analysis.packages}
        of_base = read_named(repository, own, cache)
        for each, name in ((named, REACH), (of_base, REACH_ON_BASE)):
            (self.directory / name).write_text(each.reachable(names).model_dump_json())
        is_changed |= named.is_new or of_base.is_new
        return done.model_copy(update={"references_changed": is_changed})

    def _analyse(self, repository: Repository) -> tuple[Analysis, bool]:
        """Returns what is to be built, and whether `REFERENCES` was written anew for that."""
        if not self.popular:
            return analyse(repository, self.base, self.head, self.limits), False
        tree = repository.tree_of(self.head)
        named = read_named(repository, tree, self.directory / REFERENCES)
        packages = read_popular(repository, tree, self.popular, named.named)
        return Analysis(packages=packages, merge_tree=tree), named.is_new


def _inputs(
    repository: Repository,
    analysis: Analysis,
    merged: str,
    named: NamedInTree | None,
    built: list[str],
) -> HeadInputs:
    directories = {}
    for each in analysis.packages:
        folder = repository.folder(merged, f"packages/{package_name(each.package)}/{each.package}")
        if folder is not None:
            directories[each.package] = folder
    return HeadInputs(
        changes=changes_digest(analysis.packages, directories),
        reach=named.digest({package_name(one) for one in built}) if named is not None else None,
    )


class ArchiveBase(Frozen):
    """Write the packages of a commit to `BASE`.

    Attributes:
        clone: The clone.
        directory: For the results; of this task alone.
        commit: The commit.
    """

    kind: Literal["archive"] = "archive"
    clone: Path
    directory: Path
    commit: str

    def run(self, repository: Repository) -> ArchivedBase:
        """Performs the task."""
        archive_tree(repository, self.commit, self.directory / BASE)
        return ArchivedBase()


class FindEffect(Frozen):
    """Decide the effect of a head on packages that it does not touch.

    Attributes:
        clone: The clone.
        directory: For the results; of this task alone. `DESCRIPTIONS` there makes it faster.
        base: Commit into which the head is merged.
        head: The head.
        ocaml: Releases of OCaml.
    """

    kind: Literal["effect"] = "effect"
    clone: Path
    directory: Path
    base: str
    head: str
    ocaml: tuple[str, ...]

    def run(self, repository: Repository) -> FoundEffect:
        """Performs the task."""
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
        resource.setrlimit(resource.RLIMIT_CPU, (_EFFECT_PROCESSOR_LIMIT, PROCESSOR_LIMIT + 1))
        merged = repository.merge(self.base, self.head).tree
        if merged is None:
            raise UsageError("the head does not merge into the base")
        try:
            effect, is_new = read_effect(
                repository,
                repository.tree_of(self.base),
                merged,
                self.ocaml,
                self.directory / DESCRIPTIONS,
            )
        except MemoryError as error:
            raise InfrastructureError(
                f"over {_MEMORY_LIMIT >> 30} GiB of memory were needed", cause=Cause.OUT_OF_MEMORY
            ) from error
        except DumpError as error:
            raise UsageError(str(error)) from error
        return FoundEffect(effect=effect, descriptions_changed=is_new)


Task = AnalyseHead | ArchiveBase | FindEffect
TASK: Final[TypeAdapter[Task]] = TypeAdapter(Annotated[Task, Field(discriminator="kind")])
Result = AnalysedHead | ArchivedBase | FoundEffect | Failed
RESULTS: Final[TypeAdapter[Result]] = TypeAdapter(Annotated[Result, Field(discriminator="kind")])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _nearest(repository: Repository, bases: tuple[str, ...], base: str, merged_tree: str) -> str:
    """Returns the known base that is nearest to the merged tree, or the head's own."""
    known = {
        candidate: distance
        for candidate in bases
        if (distance := _distance(repository, candidate, merged_tree)) is not None
    }
    if not known:
        return base
    own = _distance(repository, base, merged_tree)
    # Of two with the same distance, the one that was used last.
    best = min(known, key=known.__getitem__)
    return base if own is None or known[best] - own > MAXIMUM_OVERLAY else best


def _distance(repository: Repository, base: str, merged_tree: str) -> int | None:
    """Counts the files in which a base differs, None for a commit that the clone lacks."""
    try:
        tree = repository.tree_of(repository.resolve(base))
    except UsageError:
        return None
    return len(repository.changes(tree, merged_tree))


def perform(task: Task) -> Result:
    """Performs a task."""
    objects = task.directory / _OBJECTS
    objects.mkdir(exist_ok=True)
    try:
        repository = Repository.open(task.clone, scratch=objects)
    except UsageError as error:
        # The path was checked when the check was requested: it is missing on this worker.
        return Failed(message=str(error), cause=Cause.REPOSITORY_STATE)
    try:
        with repository:
            return task.run(repository)
    except InfrastructureError as error:
        return Failed(message=str(error), cause=error.cause)
    except UsageError as error:
        return Failed(message=str(error), cause=None)


def main() -> None:
    """Performs the task on standard input."""
    task = TASK.validate_json(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_LIMIT, PROCESSOR_LIMIT + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    (task.directory / RESULT).write_bytes(RESULTS.dump_json(perform(task)))


if __name__ == "__main__":
    main()
