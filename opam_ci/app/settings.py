"""Configuration: environment variables `OPAM_CI_…`, all with sane defaults.

How to connect to Temporal is also read as its own tools read it: variables `TEMPORAL_…` and a
profile in a file. Keys and certificates are there only, never in `Settings`, which are written to
files and logs.
"""

import os
import shutil
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from platformdirs import user_state_path
from pydantic import ByteSize, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from temporalio.envconfig import ClientConfigProfile

from opam_ci.clients.runners.settings import BUILD_CACHE_BYTES, SOURCE_STORE_BYTES, Endpoint
from opam_ci.clients.runners.settings import default_home as default_cache
from opam_ci.core.errors import UsageError
from opam_ci.core.incidents.messages import IncidentIntervals
from opam_ci.core.jobs.installable import Unavailable
from opam_ci.core.submission.admission import DEFAULT_LIMITS, ChangeLimits


def temporal_profile() -> ClientConfigProfile:
    """Returns how Temporal's own variables and its profile file say to connect.

    Raises:
        UsageError: They contradict each other, or the file or the profile in it is invalid.
    """
    try:
        return ClientConfigProfile.load()
    except RuntimeError as error:
        # The first line alone: the next ones cite the file, which may have a key in it.
        raise UsageError(
            f"the variables TEMPORAL_… or the file that they name are invalid: "
            f"{str(error).partition(chr(10))[0]}"
        ) from error


def _engine() -> str:
    return "docker" if not shutil.which("podman") and shutil.which("docker") else "podman"


def _listed(text: str) -> tuple[str, ...]:
    """Returns the words of a text, which commas separate."""
    return tuple(each.strip() for each in text.split(",") if each.strip())


class Settings(BaseSettings):
    """Settings of every process of ours.

    Attributes:
        home: Where an embedded installation keeps everything; by default
            `$XDG_STATE_HOME/opam-ci` or `~/.local/state/opam-ci`.
        cache: Where root file systems and warmed opam roots are kept.
        lint_opam: An opam of this machine to lint with, of the version that authors are judged
            by; by default the one of a root file system of ours.
        temporal: Address of the Temporal server; by default that of Temporal's own profile.
        namespace: Temporal namespace; by default that of Temporal's own profile.
        embedded: Whether that server is the embedded one, which has no TLS and takes no key.
        store: URL of the object store for logs and artifacts.
        index: SQLAlchemy URL of the job index.
        pools: Pools whose jobs this worker builds, empty for none; by default all pools of the
            file of platforms that this machine can serve.
        orchestrate: Whether this worker runs workflows and repository activities.
        builds: How many jobs this worker builds at once.
        platforms: File of platforms and pools; None for the one of the package.
        container_command: `podman` or `docker`, or the path of either; by default the former,
            unless only the latter is installed.
        container_runtime: The engine's low-level runtime; by default what works here.
        container_image: Image of platforms that name none.
        container_network: The engine's name of a network for the phases that have one, where the
            one of our own cannot be made; nothing filters it.
        native_users: Users of this machine that jobs of the native runner run as, separated by
            commas.
        native_same_user: Whether such jobs may run as this worker's own user.
        network_allow: Internal hosts that builds may download from, as `HOST:PORT`, separated by
            commas; mirrors and proxies of this machine's configuration need no entry.
        job_memory: Bytes of memory that a job may use; by default a share of the machine's.
        job_pids: Processes and threads that a job may have.
        job_cpus: CPUs' worth of time that a job may use; by default no limit.
        job_disk: Bytes that a job may write.
        job_files: Files that a job may make.
        change_limits: How much a head may add and modify, each a variable of its own, such as
            `OPAM_CI_CHANGE_LIMITS__FILE_BYTES=2MiB`.
        require_limits: Whether a machine that cannot limit jobs must not build.
        unavailable: Whether a package that is available on none of the platforms is a failure
            (`fail`) or a skip (`skip`); by default the former for pull requests of GitHub, as in
            opam-repo-ci, and the latter for `check`, whose platforms are this machine's.
        reuse_verdicts: Whether a job with the same inputs as one that ran takes its verdict.
        build_cache: Whether builds use compiled dependencies of earlier ones again.
        build_cache_bytes: Room for these, in bytes, or with a unit such as `20GiB`.
        source_store_bytes: Room for archives of sources that jobs share, like that; 0 for none.
        metrics: Address on which a worker shows metrics and its health; empty for nowhere.
        canary: Whether a build worker builds a canary before it takes jobs and after faults,
            and has one go through its pools' queues now and then.
        pages_url: Address of the pages for others, such as `https://ci.example.org`; statuses link
            to it.
        retention_days: How long closed pull requests and branches are kept that do not change.
        incident_probe: How long after its fault an incident is looked at first.
        incident_quiet: How long an incident without lost jobs must be quiet to be over.
    """

    @model_validator(mode="before")
    @classmethod
    def _temporals_own(cls, values: dict[str, Any]) -> dict[str, Any]:
        if "OPAM_CI_RUNNER" in os.environ:
            raise UsageError(
                "OPAM_CI_RUNNER is not a setting any more, since each pool has one runner: unset "
                "it, and name pools with OPAM_CI_POOLS, such as '[\"linux-amd64-containers\"]', or "
                "none for all that this machine can serve"
            )
        profile = temporal_profile()
        own = {"temporal": profile.address, "namespace": profile.namespace}
        return {name: value for name, value in own.items() if value} | values

    @field_validator("home", "cache", "lint_opam", "platforms")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @field_validator("network_allow", mode="before")
    @classmethod
    def _endpoints(cls, value: str | tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        return tuple(map(Endpoint.parse, _listed(value))) if isinstance(value, str) else value

    @field_validator("native_users", mode="before")
    @classmethod
    def _names(cls, value: str | tuple[str, ...]) -> tuple[str, ...]:
        return _listed(value) if isinstance(value, str) else value

    model_config = SettingsConfigDict(
        env_prefix="OPAM_CI_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path = Field(default_factory=partial(user_state_path, "opam-ci"))
    cache: Path = Field(default_factory=default_cache)
    lint_opam: Path | None = None
    temporal: str = "127.0.0.1:7233"
    namespace: str = "default"
    embedded: bool = False
    store: str = ""
    index: str = ""
    pools: tuple[str, ...] | None = None
    orchestrate: bool = True
    builds: int = Field(default_factory=lambda: max(1, os.cpu_count() or 1), ge=1)
    platforms: Path | None = None
    container_command: str = Field(default_factory=_engine)
    container_runtime: str | None = None
    container_image: str | None = None
    container_network: str | None = None
    native_users: Annotated[tuple[str, ...], NoDecode] = ()
    native_same_user: bool = False
    network_allow: Annotated[tuple[Endpoint, ...], NoDecode] = ()
    job_memory: int | None = Field(default=None, ge=32 << 20)
    job_pids: int = Field(default=4096, ge=16)
    job_cpus: float | None = Field(default=None, ge=0.01)
    job_disk: int = Field(default=16 << 30, ge=1 << 20)
    job_files: int = Field(default=1_000_000, ge=1000)
    change_limits: ChangeLimits = DEFAULT_LIMITS
    require_limits: bool = False
    unavailable: Unavailable | None = None
    reuse_verdicts: bool = True
    build_cache: bool = True
    build_cache_bytes: ByteSize = BUILD_CACHE_BYTES
    source_store_bytes: ByteSize = SOURCE_STORE_BYTES
    metrics: str = ""
    canary: bool = True
    pages_url: str = Field(default="", pattern=r"^(https?://[^@\s{}]{1,1000})?$")
    retention_days: int = Field(default=90, ge=1)
    incident_probe: timedelta = Field(
        default=IncidentIntervals().probe_first,
        ge=timedelta(seconds=1),
        le=IncidentIntervals().probe_maximum,
    )
    incident_quiet: timedelta = Field(default=IncidentIntervals().quiet, ge=timedelta(seconds=1))

    @property
    def explicit_temporal(self) -> str | None:
        """The server's address if the environment or Temporal's profile names one, else None."""
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
    def incident_intervals(self) -> IncidentIntervals:
        """How often incidents are looked at."""
        return IncidentIntervals(probe_first=self.incident_probe, quiet=self.incident_quiet)

    @property
    def clones(self) -> Path:
        """Where this machine keeps its clones of repositories on GitHub."""
        return self.home / "clones"
