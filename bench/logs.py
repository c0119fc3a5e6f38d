"""Logs at their limits: any line, search, latency of following, and many followers.

    .venv/bin/python bench/logs.py [--seconds 20] [--json]

1. A log at its cap: 64 MiB, a million lines, one of 5 MiB. How long closing (and merging) it takes,
   any line and the last 300 over HTTP, and a search of all of it for what is not there.
2. Writers in a process of their own, a server in this one, clients in a third: 500 followers of 50
   logs. From the time that a line was written to the time at which a client has it; requests to
   the store a log and second; and by how much the server's memory grows.

The last line is one JSON object.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import psutil
from obstore.store import ObjectStore
from starlette.applications import Starlette
from starlette.requests import Request

from opam_ci.clients.logs.store import ArtifactStore, StoredObject
from opam_ci.clients.logs.tail import LogTails
from opam_ci.clients.logs.view import LogViews
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.web.log_routes import LogPlace, log_routes
from tests.support.fakes.serving import serving

LOGS, FOLLOWERS = 50, 500
CAP = 64 * 1024 * 1024


class Counting(ArtifactStore):
    """Counts its requests."""

    def __init__(self, backend: ObjectStore, url: str) -> None:
        super().__init__(backend, url)
        self.requests = Counter[str]()

    async def get(self, key: str) -> bytes:
        self.requests["get"] += 1
        return await super().get(key)

    async def put(self, key: str, data: bytes | Path) -> None:
        self.requests["put"] += 1
        await super().put(key, data)

    async def list(self, prefix: str, *, after: str | None = None) -> list[StoredObject]:
        self.requests["list"] += 1
        return await super().list(prefix, after=after)

    async def modified_at(self, key: str) -> datetime | None:
        self.requests["head"] += 1
        return await super().modified_at(key)


async def resolve(request: Request) -> LogPlace:
    return LogPlace(f"logs/{request.path_params['job']}", is_over=False, is_fixed=True)


def capped() -> bytes:
    """A log at its cap."""
    huge = b"y" * (5 * 1024 * 1024) + b"\n"
    room = CAP - len(huge)
    line = b"\x1b[32m[%07d]\x1b[0m " + b"x" * (room // 1_000_000 - 20) + b"\n"
    lines = [line % number for number in range(1_000_000)]
    lines.insert(500_000, huge)
    return b"".join(lines)[:CAP]


async def of_one_log(url: str) -> dict[str, Any]:
    store = ArtifactStore.open(url)
    data = capped()
    async with LogWriter(store, "logs/capped") as log:
        for start in range(0, len(data), 1 << 20):
            log.write(data[start : start + (1 << 20)])
            await asyncio.sleep(0)
        written = time.monotonic()
    closing = time.monotonic() - written
    tails = LogTails(store)
    app = Starlette(routes=log_routes(LogViews(store, tails), resolve, "/{job}/log"))
    times: dict[str, list[float]] = {"any_line": [], "last_lines": [], "search": []}
    async with serving(app) as at, httpx.AsyncClient(base_url=f"{at}/capped/log/") as client:

        async def timed(what: str, path: str) -> Any:
            started = time.monotonic()
            response = await client.get(path, timeout=60)
            times[what].append(time.monotonic() - started)
            return response.raise_for_status().json()

        first = await timed("last_lines", "lines?from=999700&count=300")
        total = first["total"]
        pick = random.Random(1)  # noqa: S311
        for number in [500_000, 500_001, 500_002, *(pick.randrange(1, total) for _ in range(60))]:
            page = await timed("any_line", f"lines?from={number}&count=500")
            assert page["lines"][0]["number"] == number
        for _ in range(3):
            found = await timed("search", "search?q=not%20there")
            assert not found["more"], "the search did not end in time"
            assert not found["hits"]
    await tails.close()
    return {
        "log_bytes": len(data),
        "log_lines": total,
        "log_objects": len(await store.list("logs/capped")),
        "close_s": round(closing, 2),
        "any_line_worst_ms": round(1000 * max(times["any_line"])),
        "any_line_median_ms": round(1000 * statistics.median(times["any_line"])),
        "first_view_ms": round(1000 * times["last_lines"][0]),
        "search_worst_s": round(max(times["search"]), 2),
    }


def write_logs(url: str, seconds: float, ready: Connection) -> None:
    """Writes 50 logs at the pace of builds; each line has the time at which it was written."""

    async def one(store: ArtifactStore, number: int) -> None:
        pick = random.Random(number)  # noqa: S311
        async with LogWriter(store, f"logs/{number}") as log:
            log.write(b"begin\n")
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                log.write(b"%.6f %s\n" % (time.time(), b"x" * pick.randrange(20, 120)))
                await asyncio.sleep(pick.uniform(0.02, 0.6))

    async def run() -> None:
        store = ArtifactStore.open(url)
        tasks = [asyncio.create_task(one(store, number)) for number in range(LOGS)]
        await asyncio.sleep(4)
        ready.send("written")
        await asyncio.gather(*tasks)

    asyncio.run(run())


def follow_logs(port: int, seconds: float, results: Connection) -> None:
    """Follows with 500 connections; counts from three seconds on, when writers know of it."""
    delays: list[float] = []

    async def one(number: int, counts_from: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        path = f"/{number % LOGS}/log/events"
        writer.write(f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
        while line := await reader.readline():
            if line.startswith(b'data: {"lines"') and (now := time.time()) > counts_from:
                for each in json.loads(line[6:])["lines"]:
                    text = each["spans"][0][0].split()[0]
                    if text[:1].isdigit() and float(text) > counts_from:
                        delays.append(now - float(text))
        writer.close()

    async def run() -> None:
        counts_from = time.time() + 3
        tasks = [asyncio.create_task(one(number, counts_from)) for number in range(FOLLOWERS)]
        await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()

    asyncio.run(run())
    results.send(sorted(delays))


async def of_many_followers(url: str, seconds: float) -> dict[str, Any]:
    store = Counting.open(url)
    tails = LogTails(store)
    app = Starlette(routes=log_routes(LogViews(store, tails), resolve, "/{job}/log"))
    context = multiprocessing.get_context("spawn")
    ready, written = context.Pipe(duplex=False)
    results, found = context.Pipe(duplex=False)
    async with serving(app) as at:
        port = int(at.rpartition(":")[2])
        writers = context.Process(target=write_logs, args=(url, seconds + 12, written))
        writers.start()
        await asyncio.to_thread(ready.recv)
        this = psutil.Process(os.getpid())
        before = this.memory_info().rss
        clients = context.Process(target=follow_logs, args=(port, seconds, found))
        clients.start()
        await asyncio.sleep(seconds / 2)
        store.requests.clear()
        started = time.monotonic()
        most = before
        while time.monotonic() - started < seconds / 3:
            await asyncio.sleep(0.5)
            most = max(most, this.memory_info().rss)
        elapsed = time.monotonic() - started
        requests = store.requests.total()
        delays: list[float] = await asyncio.to_thread(results.recv)
        clients.join()
        writers.terminate()
        writers.join()
        await tails.close()
    return {
        "followers": FOLLOWERS,
        "logs": LOGS,
        "lines_received": len(delays),
        "tail_p50_s": round(delays[len(delays) // 2], 3),
        "tail_p99_s": round(delays[len(delays) * 99 // 100], 3),
        "tail_worst_s": round(delays[-1], 3),
        "added_mb": round((most - before) / 1e6, 1),
        "store_requests_per_log_and_second": round(requests / LOGS / elapsed, 2),
    }


BARS = {
    "any_line_worst_ms": 300,
    "search_worst_s": 2,
    "tail_p99_s": 1,
    "added_mb": 40,
    "store_requests_per_log_and_second": 4,
}


async def measured(seconds: float) -> dict[str, Any]:
    """Returns all numbers."""
    with tempfile.TemporaryDirectory() as home:
        return {
            **await of_one_log((Path(home) / "one").as_uri()),
            **await of_many_followers((Path(home) / "many").as_uri(), seconds),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", action="store_true", help="print the last line alone")
    options = parser.parse_args()
    numbers = asyncio.run(measured(options.seconds))
    ok = {name: numbers[name] < bar for name, bar in BARS.items()}
    if not options.json:
        for name, value in numbers.items():
            bar = f"  (below {BARS[name]}: {'ok' if ok[name] else 'NO'})" if name in BARS else ""
            print(f"{name:36} {value}{bar}")
    print(json.dumps({**numbers, "ok": ok}))


if __name__ == "__main__":
    main()
