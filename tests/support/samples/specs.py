"""A job of which nothing runs."""

from opam_ci.core.jobs.build import BuildSpec, RepositoryRef
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.platforms.model import EMBEDDED

REPOSITORY = RepositoryRef(
    base_commit="b" * 40,
    base_archive="base",
    overlay_archive="overlay",
    overlay_packages=1,
    package_count=1,
)
SPEC = BuildSpec(
    job=Job(platform=EMBEDDED.name, package="a.1", kind=JobKind.BUILD),
    platform=EMBEDDED,
    repository=REPOSITORY,
)
