"""The runners of this machine, and the pools of the file of platforms that it can serve."""

import platform
from collections.abc import Iterable
from typing import Final

from opam_ci.app.settings import Settings
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.platform_files import load_platforms
from opam_ci.clients.runners.base import MachineRunner
from opam_ci.clients.runners.container import ContainerRunner
from opam_ci.clients.runners.native import NativeRunner
from opam_ci.clients.runners.rootfs import RootfsRunner
from opam_ci.clients.runners.settings import (
    ContainerSettings,
    JobLimits,
    NativeSettings,
    RootfsSettings,
)
from opam_ci.core.errors import UsageError
from opam_ci.core.platforms.model import PlatformTable, Pool, Runner, architectures

_SYSTEMS: Final = {"Darwin": "macos"}


def make_runner(runner: Runner, settings: Settings, store: ArtifactStore) -> MachineRunner:
    """Returns a runner of this machine."""
    limits = JobLimits(
        memory_bytes=settings.job_memory,
        pids=settings.job_pids,
        cpus=settings.job_cpus,
        disk_bytes=settings.job_disk,
        disk_inodes=settings.job_files,
        required=settings.require_limits,
    )
    match runner:
        case Runner.ROOTFS:
            return RootfsRunner(
                RootfsSettings(
                    home=settings.cache,
                    limits=limits,
                    slots=settings.builds,
                    network_allow=settings.network_allow,
                    build_cache=settings.build_cache,
                    build_cache_bytes=settings.build_cache_bytes,
                    source_store_bytes=settings.source_store_bytes,
                ),
                store,
            )
        case Runner.CONTAINER:
            return ContainerRunner(
                ContainerSettings(
                    home=settings.cache,
                    command=settings.container_command,
                    runtime=settings.container_runtime,
                    image=settings.container_image,
                    network=settings.container_network,
                    limits=limits,
                    slots=settings.builds,
                    network_allow=settings.network_allow,
                    source_store_bytes=settings.source_store_bytes,
                ),
                store,
            )
        case Runner.NATIVE:
            return NativeRunner(
                NativeSettings(
                    home=settings.cache,
                    users=settings.native_users,
                    same_user=settings.native_same_user,
                    limits=limits,
                    slots=settings.builds,
                ),
                store,
            )


async def unserved(settings: Settings, pools: Iterable[Pool]) -> dict[str, str]:
    """Returns why this machine cannot serve pools, by name; those that it can are left out.

    It asks the runners what they lack, and starts neither of them: a few milliseconds.
    """
    system = _SYSTEMS.get(platform.system(), platform.system().lower())
    machine = platform.machine().lower()
    arches = architectures(machine) or (machine,)
    lacks: dict[Runner, str | None] = {}
    reasons: dict[str, str] = {}
    for pool in pools:
        reason: str | None
        if pool.os != system:
            reason = f"it is for {pool.os}; this machine is {system}"
        elif others := [arch for arch in pool.arch if arch not in arches]:
            reason = f"it is for {others[0]}; this machine is {arches[0]}"
        else:
            if pool.runner not in lacks:
                lacks[pool.runner] = await _lacks(pool.runner, settings)
            reason = lacks[pool.runner]
        if reason is not None:
            reasons[pool.name] = reason
    return reasons


async def _lacks(runner: Runner, settings: Settings) -> str | None:
    """Returns what a runner needs and this machine lacks, and what to do about it."""
    try:
        await make_runner(runner, settings, ArtifactStore.open("memory:")).require()
    except UsageError as error:
        return str(error)
    return None


def pools_with_platforms(table: PlatformTable) -> tuple[Pool, ...]:
    """Returns the pools in which some platform can be built."""
    used = {each.pool for one in table.platforms for each in one.choices}
    return tuple(pool for pool in table.pools if pool.name in used)


async def with_pools(settings: Settings) -> Settings:
    """Returns settings that name the pools of a worker: by default all that it can serve.

    Raises:
        UsageError: It can serve none, or the file of platforms is invalid.
    """
    if settings.pools is not None:
        return settings
    pools = pools_with_platforms(load_platforms(settings.platforms))
    reasons = await unserved(settings, pools)
    served = tuple(pool.name for pool in pools if pool.name not in reasons)
    if not served:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UsageError(f"this machine can serve no pool of the file of platforms ({listed})")
    return settings.model_copy(update={"pools": served})
