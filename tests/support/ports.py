"""Ports for servers of tests: no two tests get the same one while either may still use it."""

import contextlib
import os
import random
import socket

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

_OWN = range(10_000 + _WORKER, 30_000, _WORKERS)
"""Below those that systems hand out to whoever connects: a server that is stopped and started again
finds its port still free. Each process of a test run has its own: a port that was free when one
asked may be a server's of another process before the first one listens."""

_unused = random.sample(_OWN, len(_OWN))


def free_port() -> int:
    """Returns a port that is free now, and that no test of this run was given before."""
    while True:
        port = _unused.pop()
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
