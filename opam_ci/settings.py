"""Configuration: environment variables `OPAM_CI_…`, all with sane defaults."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import ByteSize, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from opam_ci.clients.runners.settings import BUILD_CACHE_BYTES
from opam_ci.clients.runners.settings import default_home as default_cache
from opam_ci.core.incidents.messages import IncidentPace
from opam_ci.core.installable import Unavailable


def default_home() -> Path:
    """Returns the default directory of an embedded installation.

    `$OPAM_CI_HOME`, else `$XDG_STATE_HOME/opam-ci`, else `~/.local/state/opam-ci`.
    """
    if home := os.environ.get("OPAM_CI_HOME"):
        return Path(home).absolute()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "opam-ci"


class Settings(BaseSettings):
    """Settings of all processes.

    Attributes:
        home: Directory of an embedded installation.
        cache: Directory of root file systems and warmed opam roots.
        lint_opam: An opam of this machine to lint with, of the version that authors are judged
            by; by default the one of a root file system that the CI made.
        temporal: Address of the Temporal server.
        namespace: Temporal namespace.
        store: URL of the object store for logs and artifacts.
        index: SQLAlchemy URL of the job index.
        pools: Pools whose jobs this worker builds; empty for none.
        orchestrate: Whether this worker runs workflows and repository activities.
        builds: Number of jobs that this worker builds at once.
        platforms: File of platforms and pools; None for the one of the package.
        runner: How this worker isolates jobs: in a root file system that it makes, or in
            containers.
        container_command: `podman` or `docker`, or the path of either.
        container_runtime: The engine's low-level runtime; by default one that works here.
        container_image: Image of platforms without one.
        container_network: The engine's name of the network for phases with network.
        job_memory: Memory limit of a job in bytes; by default a share of the machine's.
        job_pids: Maximum number of processes and threads of a job.
        job_cpus: Maximum CPU time of a job in CPUs; by default no limit.
        job_disk: Maximum number of bytes that a job may write.
        job_files: Maximum number of files that a job may make.
        require_limits: Whether a machine that cannot limit jobs must not build.
        unavailable: Whether a package that is available on none of the platforms is a failure
            (`fail`) or a skip (`skip`); by default the former for pull requests of GitHub, as in
            opam-repo-ci, and the latter for `check`, whose platforms are this machine's.
        build_cache: Whether builds reuse compiled dependencies of earlier ones.
        build_cache_bytes: Size limit of these, in bytes, or with a unit such as `20GiB`.
        metrics: Address of a worker's metrics and health; empty for none.
        canary: Whether a build worker builds a canary before it takes jobs and after faults,
            and has a schedule of canaries for each of its pools.
        incident_probe: Wait after an incident's fault before it is first checked.
        incident_quiet: How long an incident without lost jobs must be quiet to be over.
    """

    @field_validator("home", "cache", "lint_opam", "platforms")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    model_config = SettingsConfigDict(env_prefix="OPAM_CI_", extra="forbid", frozen=True)

    home: Path = Field(default_factory=default_home)
    cache: Path = Field(default_factory=default_cache)
    lint_opam: Path | None = None
    temporal: str = "127.0.0.1:7233"
    namespace: str = "default"
    store: str = ""
    index: str = ""
    pools: tuple[str, ...] = ("linux-amd64",)
    orchestrate: bool = True
    builds: int = Field(default_factory=lambda: max(1, os.cpu_count() or 1), ge=1)
    platforms: Path | None = None
    runner: Literal["rootfs", "container"] = "rootfs"
    container_command: str = "podman"
    container_runtime: str | None = None
    container_image: str | None = None
    container_network: str = "host"
    job_memory: int | None = Field(default=None, ge=32 << 20)
    job_pids: int = Field(default=4096, ge=16)
    job_cpus: float | None = Field(default=None, ge=0.01)
    job_disk: int = Field(default=16 << 30, ge=1 << 20)
    job_files: int = Field(default=1_000_000, ge=1000)
    require_limits: bool = False
    unavailable: Unavailable | None = None
    build_cache: bool = True
    build_cache_bytes: ByteSize = BUILD_CACHE_BYTES
    metrics: str = ""
    canary: bool = True
    incident_probe: timedelta = Field(
        default=IncidentPace().probe_first, ge=timedelta(seconds=1), le=IncidentPace().probe_maximum
    )
    incident_quiet: timedelta = Field(default=IncidentPace().quiet, ge=timedelta(seconds=1))

    @property
    def given_temporal(self) -> str | None:
        """The server's address if it is set in the environment, else None."""
        return self.temporal if "temporal" in self.model_fields_set else None

    @property
    def store_url(self) -> str:
        """The object store's URL; by default a directory below `home`."""
        return self.store or (self.home / "store").as_uri()

    @property
    def index_url(self) -> str:
        """The index's URL; by default an SQLite file below `home`."""
        return self.index or f"sqlite:///{self.home / 'index.sqlite'}"

    @property
    def incident_pace(self) -> IncidentPace:
        """How often incidents are checked."""
        return IncidentPace(probe_first=self.incident_probe, quiet=self.incident_quiet)

    @property
    def clones(self) -> Path:
        """Directory of this machine's clones of repositories on GitHub."""
        return self.home / "clones"
