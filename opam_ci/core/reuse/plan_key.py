"""The plan key of a job: a digest of all that its solution and its builds depend on.

Jobs with equal keys install the same packages from the same sources in the same way. What is not
in it: the image, which is known only once a job has run (see `settled.py`), and time limits, since
no verdict that rests on them is used again.
"""

import hashlib
import json
from typing import Final

from opam_ci.core.jobs.job import Job, JobKind, package_name
from opam_ci.core.jobs.requests import Surroundings
from opam_ci.core.platforms.model import Platform
from opam_ci.core.reuse.reach import Reachable

KEY_VERSION: Final = 1
"""Raised with each change of how jobs are run, or judged, that can change a verdict."""

_TESTED: Final = {
    JobKind.BUILD: False,
    JobKind.TEST: True,
    JobKind.LOWER_BOUNDS: False,
    JobKind.REVDEP: False,
    JobKind.REVDEP_TEST: True,
    # It asks for the tests of each candidate, too.
    JobKind.LIST_REVDEPS: True,
}
"""The kinds that have a key, and whether the solver is asked for tests."""

_OF_PLATFORM: Final = {
    *("distribution", "ocaml", "variant", "arch", "opam", "runner", "compiler", "personality")
}
"""What of a platform decides what is installed and how it is built."""

_OF_LISTING: Final = {"only_direct_revdeps", "revdep_tests"}

_COMPILERS: Final = ("ocaml", "ocaml-base-compiler", "ocaml-variants", "ocaml-system")


def conditions(platform: Platform, surroundings: Surroundings) -> list[object]:
    """Returns how jobs on a platform are run and judged, for their keys.

    Args:
        platform: The platform, in the pool that was chosen for it.
        surroundings: Of the check.
    """
    return [
        KEY_VERSION,
        platform.model_dump(mode="json", include=_OF_PLATFORM),
        surroundings.model_dump(mode="json", exclude={"audited_percent"}, exclude_none=True),
    ]


class Keys:
    """Makes the plan keys of jobs on one platform.

    Args:
        reachable: Of the merged repository.
        platform: The platform, in the pool that was chosen for it.
        surroundings: Of the check.
        submitted: Packages that the head itself builds: listings leave them out.
    """

    def __init__(
        self,
        reachable: Reachable,
        platform: Platform,
        surroundings: Surroundings,
        submitted: tuple[str, ...],
    ) -> None:
        self._reachable = reachable
        self._submitted = submitted
        self._listing = platform.model_dump(mode="json", include=_OF_LISTING)
        compilers = {*_COMPILERS, package_name(platform.compiler)} - {""}
        self._common = [
            *conditions(platform, surroundings),
            [reachable.of(name, tests=False) for name in sorted(compilers)],
        ]

    def of(self, job: Job) -> str | None:
        """Returns the key of a job, 64 hex digits; None for a job whose inputs are not known.

        That is one of another kind, and one of a package whose sources no checksum fixes. A job on
        the base has that of the ordinary one, with what is within reach there.
        """
        job = job.plain
        asked = [package for package in (job.package, job.revdep) if package]
        if job.kind not in _TESTED or not self._reachable.changing.isdisjoint(asked):
            return None
        tests = _TESTED[job.kind]
        digests = [self._reachable.of(package_name(package), tests=tests) for package in asked]
        if not all(digests):
            return None
        parts: list[object] = [self._common, job.kind, asked, digests]
        if job.kind is JobKind.LIST_REVDEPS:
            dependents = self._reachable.dependents.get(package_name(job.package))
            if dependents is None:
                return None
            parts += [dependents, sorted(self._submitted), self._listing]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
