"""Reads which packages of a tree most others depend on."""

from collections import defaultdict
from collections.abc import Mapping

from opam_ci.clients.git.repository import Repository
from opam_ci.core.opam.file import MAX_SIZE
from opam_ci.core.reuse.popular import most_needed, newest_first, unchanged
from opam_ci.core.reuse.reach import References
from opam_ci.core.submission.admission import is_package
from opam_ci.core.submission.result import ChangedPackage


def read_popular(
    repository: Repository, tree: str, number: int, named: Mapping[str, References]
) -> tuple[ChangedPackage, ...]:
    """Returns the packages on which most depend, each in the newest version that is offered.

    Args:
        repository: The clone.
        tree: Id of the tree.
        number: How many, at most.
        named: What the versions of each package name, see `read_named`.

    Raises:
        InfrastructureError: Git fails.
    """
    blobs: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in repository.list_tree(tree, ["packages/"]):
        if is_package(entry.path) and entry.kind == "blob" and entry.size <= MAX_SIZE:
            _, name, package, _ = entry.path.split("/")
            blobs[name][package] = entry.object_id
    found: list[ChangedPackage] = []
    for name in most_needed(named):
        if len(found) == number:
            break
        versions = newest_first(list(blobs[name]))
        # One at a time: most often the newest version is the one.
        read = (
            unchanged(each, next(iter(repository.objects([blobs[name][str(each)]]))))
            for each in versions
        )
        if (offered := next(filter(None, read), None)) is not None:
            found.append(offered)
    return tuple(sorted(found, key=lambda each: each.package))
