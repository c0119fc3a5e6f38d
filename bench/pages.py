"""What pages cost: in the server, in the browser, and while logs are followed.

    .venv/bin/python bench/pages.py [--part pages] [--json]

Every number has a bar: those over it are marked, and make the exit code 1. Pages are served by a
process of their own, over HTTP, as `opam-ci pages` does, from an index on SQLite and, where a
server is installed, on PostgreSQL. The browser is Debian's Chromium.

Parts:
  pages      heads of 10,000 and of 50,000 jobs: time of the server, bytes, and when Chromium with a
             processor four times slower can use the page
  log        a log at its cap in the browser: 64 MiB, 1,000,000 lines, one of 5 MiB
  tail       from the write of a line to the browser that follows the log
  followers  what bench/logs.py measures: a log at its cap over HTTP, and 500 followers of 50 logs
  sizes      scripts and styles, compressed

With --json the last line of the output is an object: for each number value, limit, unit and ok.
"""

import argparse
import asyncio
import gzip
import json
import math
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest

import opam_ci.web
from bench.index_pages import fill, vacuum
from bench.logs import BARS, measured
from bench.pages_browser import chromium, tab
from bench.pages_logs import at_cap, growing
from bench.pages_server import serving
from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from tests.support.fakes.postgres import server as postgresql

STATIC = Path(opam_ci.web.__file__).parent / "static"
SIZES = (10_000, 50_000)
ROUNDS = 40
WARM_UPS = 2
"""Requests that fill caches and are not timed."""

LOADS = 5
LINES = 50
TAIL_SECONDS = 30
PAUSE_SECONDS = 0.1
SETTLE_SECONDS = 5
"""Lines are timed from then on: the writer knows that somebody follows."""

FOLLOW_SECONDS = 20


@dataclass
class Number:
    """A measured number and its bar.

    Attributes:
        value: What was measured; None if that did not work at all.
        limit: It must be below this.
        unit: Of both.
        ok: Whether it is.
    """

    value: float | None
    limit: float
    unit: str
    ok: bool


class Report:
    """The numbers, printed as they come."""

    def __init__(self) -> None:
        self.numbers: dict[str, Number] = {}

    def add(self, name: str, value: float, limit: float, unit: str) -> None:
        """Adds a number."""
        shown = round(value, 2) if math.isfinite(value) else None
        self.numbers[name] = Number(shown, limit, unit, ok=value < limit)
        mark = "" if value < limit else "  OVER"
        print(f"{name:44} {value:>12,.1f} of {limit:,g} {unit}{mark}", flush=True)

    @property
    def is_good(self) -> bool:
        """Whether all are below their bars."""
        return all(each.ok for each in self.numbers.values())


def p50(values: list[float]) -> float:
    return percentile(values, 50)


def p95(values: list[float]) -> float:
    return percentile(values, 95)


def p99(values: list[float]) -> float:
    return percentile(values, 99)


def percentile(values: list[float], percent: int) -> float:
    """Returns the smallest value that so many percent of all do not exceed."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def timed(http: httpx.Client, path: str, rounds: int) -> tuple[list[float], bytes]:
    """Returns the milliseconds of each request but the first ones, and the last body."""
    found = []
    for _round in range(rounds + WARM_UPS):
        begun = time.perf_counter()
        response = http.get(path)
        found.append((time.perf_counter() - begun) * 1000)
        response.raise_for_status()
    return found[WARM_UPS:], response.content


@contextmanager
def databases(home: Path) -> Iterator[dict[str, str]]:
    """Yields the URL of an empty index on each database that there is."""
    found = {"sqlite": f"sqlite:///{home}/index.sqlite"}
    with suppress(pytest.skip.Exception), postgresql() as server:
        yield found | {"postgresql": server.url}
        return
    print("no PostgreSQL server is installed: only SQLite is measured")
    yield found


def pages(report: Report, home: Path) -> None:
    limits = {"postgresql": 200.0, "sqlite": 300.0}
    with databases(home) as urls:
        for kind, url in urls.items():
            index = Index.open(url)
            keys = {jobs: fill(index, jobs, jobs) for jobs in SIZES}
            vacuum(index)
            index.close()
            with serving(url, f"file://{home}/store") as address:
                for jobs, key in keys.items():
                    path = f"/{key.repository}/{key.target}"
                    _page(report, address, path, f"{jobs} {kind}", limits[kind])
                    if kind == "sqlite":
                        _usable(report, address + path, f"{jobs}")


def _page(report: Report, address: str, path: str, name: str, limit: float) -> None:
    with httpx.Client(base_url=address, timeout=60) as http:
        begun = http.get("/bench").json()["cpu_s"]
        times, body = timed(http, path, ROUNDS)
        # On a busy machine the times are those of other work, too.
        spent = (http.get("/bench").json()["cpu_s"] - begun) / (ROUNDS + WARM_UPS)
        print(f"  processor time of the server for it: {1000 * spent:.0f} ms")
        report.add(f"page {name} p50", p50(times), limit, "ms")
        report.add(f"page {name} p95", p95(times), limit, "ms")
        report.add(f"page {name} HTML", len(body), 150_000, "bytes")
        times, _body = timed(http, f"{path}?q=is:failed", ROUNDS)
        report.add(f"list of failures {name} p95", p95(times), limit, "ms")
        tag = http.get(path).headers["etag"]
        again = http.get(path, headers={"if-none-match": tag})
        size = sum(len(key) + len(value) + 4 for key, value in again.headers.items())
        changed = 0 if again.status_code == 304 else 10_000
        report.add(f"not modified {name}", size + changed, 300, "bytes")


def _usable(report: Report, url: str, name: str) -> None:
    found = []
    with chromium() as browser:
        for _load in range(LOADS):
            with tab(browser) as one:
                one.throttle()
                found.append(one.usable_ms(url))
    report.add(f"page {name} usable at 4x throttle", p50(found), 1000, "ms")
    print(f"  the slowest of {LOADS}: {max(found):.0f} ms")


def log(report: Report, home: Path) -> None:
    url, store = f"sqlite:///{home}/logs.sqlite", f"file://{home}/store"
    index = Index.open(url)
    path = asyncio.run(at_cap(index, ArtifactStore.open(store)))
    index.close()
    chance = random.Random(1)  # noqa: S311 - the same lines in each run, no secret
    with serving(url, store) as address, chromium() as browser, tab(browser) as one:
        found = [one.first_paint_ms(address + path) for _load in range(LOADS)]
        report.add("log at its cap, first paint", p50(found), 500, "ms")
        times = [one.line_ms(chance.randrange(1, 1_000_000)) for _line in range(LINES)]
        report.add("log at its cap, any line in the browser p95", p95(times), 300, "ms")
        report.add("log at its cap, heap of the tab", one.heap_mb(), 80, "MB")


def tail(report: Report, home: Path) -> None:
    url, store = f"sqlite:///{home}/tail.sqlite", f"file://{home}/store"
    index = Index.open(url)
    with (
        written(index, store) as path,
        serving(url, store) as address,
        chromium() as browser,
        tab(browser) as one,
    ):
        one.usable_ms(address + path)
        since = 1000 * (time.time() + SETTLE_SECONDS)
        one.follow(f"{path}/log/events", since)
        one.page.wait_for_timeout(TAIL_SECONDS * 1000)
        latencies = one.latencies()
    index.close()
    latencies = latencies or [float("inf")]
    report.add("tail, write to browser p50", p50(latencies), 1000, "ms")
    report.add("tail, write to browser p99", p99(latencies), 1000, "ms")


@contextmanager
def written(index: Index, store: str) -> Iterator[str]:
    """Writes a log on a thread, as Playwright has the loop of this one; yields its job's path."""
    started: Future[tuple[str, Callable[[], object]]] = Future()

    async def write() -> None:
        over, loop = asyncio.Event(), asyncio.get_running_loop()
        async with growing(index, ArtifactStore.open(store), PAUSE_SECONDS) as path:
            # What a reader asks for first is in the store.
            await asyncio.sleep(3)
            started.set_result((path, partial(loop.call_soon_threadsafe, over.set)))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(write(),), daemon=True)
    thread.start()
    path, end = started.result(60)
    try:
        yield path
    finally:
        end()
        thread.join()


def followers(report: Report, _home: Path) -> None:
    numbers = asyncio.run(measured(FOLLOW_SECONDS))
    for name, limit in BARS.items():
        report.add(f"logs {name}", numbers[name], limit, "")


def sizes(report: Report, _home: Path) -> None:
    found = {".js": 0, ".css": 0}
    for path in STATIC.iterdir():
        if path.suffix in found:
            found[path.suffix] += len(gzip.compress(path.read_bytes()))
    report.add("scripts, compressed", found[".js"], 25_000, "bytes")
    report.add("styles, compressed", found[".css"], 12_000, "bytes")


PARTS: dict[str, Callable[[Report, Path], None]] = {
    "sizes": sizes,
    "pages": pages,
    "log": log,
    "tail": tail,
    "followers": followers,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    given = parser.parse_args()
    report = Report()
    for name in given.part or PARTS:
        with tempfile.TemporaryDirectory(prefix="opam-ci-pages-") as home:
            PARTS[name](report, Path(home))
    if given.json:
        print(json.dumps({name: asdict(each) for name, each in report.numbers.items()}))
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
