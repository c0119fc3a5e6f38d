"""The verdict key of a job: a digest of its solution, and of all else that its builds depend on.

It is behind the plan key: something within reach may have changed that opam did not choose. Only a
worker can make it, since opam must solve first; no package code has run by then. As in the plan
key, there are no time limits, and no system packages but those of the image.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Final

from opam_ci.core.jobs.facts import BuildEnvironment
from opam_ci.core.jobs.job import Job
from opam_ci.core.jobs.requests import Surroundings
from opam_ci.core.platforms.model import Platform
from opam_ci.core.reuse.plan_key import conditions

_DIGITS: Final = 32
"""Every row of a job carries it: 128 bits are enough."""


def verdict_key(
    job: Job,
    platform: Platform,
    surroundings: Surroundings,
    environment: BuildEnvironment,
    files: Iterable[str],
) -> str | None:
    """Returns the key of a job that has a solution, None for one whose inputs are not all known.

    A job on the base has that of the ordinary one.

    Args:
        job: The job.
        platform: The platform.
        surroundings: Of the check.
        environment: The image, and the packages that the solver chose.
        files: A line for each file of all packages in the switch: its digest and its path.
    """
    if environment.fingerprint is None:
        return None
    parts = [
        conditions(platform, surroundings),
        job.plain.kind,
        job.package,
        job.revdep,
        environment.fingerprint,
        sorted(environment.solution),
        sorted(files),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_DIGITS]
