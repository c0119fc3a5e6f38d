"""What the jobs of a head work on, as digests: equal ones mean that a test would find the same."""

import hashlib
from collections.abc import Mapping

from opam_ci.core.model import Frozen
from opam_ci.core.submission.result import Packages


class HeadInputs(Frozen):
    """What the jobs of a head work on, merged into one commit of the base.

    Attributes:
        changes: Digest of the changed packages: how each was changed, and what is in its directory.
        reach: Digest of what opam's solver can read for those that are built; None if the jobs have
            no plan keys.
    """

    changes: str
    reach: str | None = None


def changes_digest(packages: Packages, directories: Mapping[str, str]) -> str:
    """Returns the digest of the changed packages.

    Args:
        packages: What the analysis found.
        directories: By package, the id of its directory in the merge; none for a deleted one.
    """
    whole = hashlib.sha256()
    for each in packages:
        where = directories.get(each.package, "")
        whole.update(f"{each.package} {each.kind} {each.has_tests} {where}\n".encode())
    return whole.hexdigest()
