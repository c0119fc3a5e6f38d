"""Names of commits as users write them, checked before git gets them."""

import re
from typing import Final

from opam_ci.clients.git.process import Git, ObjectReader
from opam_ci.core.errors import UsageError
from opam_ci.core.printable import escaped

_OBJECT_ID: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_ABBREVIATED_ID: Final = re.compile(r"[0-9a-f]{7,64}")
# Namespaces of a short name, in this order: what the user made, what was fetched.
_NAMESPACES: Final = (
    "refs/heads/{}",
    "refs/remotes/{}",
    "refs/remotes/origin/{}",
    "refs/tags/{}",
    "refs/{}",
)
_MAX_SHOWN: Final = 80


def is_object_id(name: str) -> bool:
    """Whether the name is a full object id."""
    return _OBJECT_ID.fullmatch(name) is not None


def resolve(git: Git, objects: ObjectReader, name: str) -> str:
    """The id of the commit that a branch, tag, full ref or commit id names.

    Raises:
        UsageError: The name is not valid in git, or there is no such commit.
    """
    if is_object_id(name):
        found = objects.info(f"{name}^{{commit}}")
        if found is None:
            raise UsageError(f"the repository has no commit {name}: fetch it first")
        return found[0]
    _check_ref_format(git, name)
    if name.startswith("refs/") or name == "HEAD":
        candidates = [name]
    else:
        candidates = [namespace.format(name) for namespace in _NAMESPACES]
    if _ABBREVIATED_ID.fullmatch(name):
        candidates.append(name)
    for candidate in candidates:
        found = objects.info(f"{candidate}^{{commit}}")
        if found is not None:
            return found[0]
    raise UsageError(f"the repository has no branch or commit {_shown(name)}: fetch it first")


def _check_ref_format(git: Git, name: str) -> None:
    invalid = UsageError(f"{_shown(name)} is not the name of a branch or commit")
    if not name or name.startswith("-") or "\0" in name or not name.isprintable():
        raise invalid
    # One-level names such as `master` are fine here; `a..b`, `a~1`, `@{u}` and the like not.
    done = git.run("check-ref-format", "--allow-onelevel", name, accept=(0, 1))
    if done.returncode:
        raise invalid


def _shown(name: str) -> str:
    text = name.encode("utf-8", "backslashreplace").decode()
    text = escaped(text)
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")
