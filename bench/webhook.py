"""Webhook to accepted workflow: latency at a fixed rate, through uvicorn and Temporal.

    .venv/bin/python bench/webhook.py [--rate 50] [--seconds 20] [--hostile 10000]

Starts a Temporal development server with a database file and, in a process of its own, the
receiver as `opam-ci serve` builds it: uvicorn, signature, decision, StoredDeliveries (SQLite),
one request to Temporal. Every delivery is another pull request's head, so each starts a
workflow. Then counts the workflows on the server: none may be missing.

With --hostile, as many mutated and as many forged deliveries follow, over HTTP as fast as they
are answered, then all of GitHub's own examples where they are at hand. No answer may be a 5xx,
and not one more workflow may be there before the examples come.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import httpx

from opam_ci.app.connection import connect
from opam_ci.app.pull_requests import PullRequests
from opam_ci.app.settings import Settings
from opam_ci.cli.local import services
from opam_ci.clients.github.deliveries import StoredDeliveries
from opam_ci.core.github.action import Tracked
from opam_ci.core.github.revision import Policy
from opam_ci.core.github.signature import sign
from opam_ci.web.acceptance import Acceptance
from opam_ci.web.server import receiving
from opam_ci.web.webhook import Webhook
from tests.support.fakes.github_bodies import Pull, pull_request_whole, repository, user
from tests.support.fakes.github_examples import APP, NAME, examples
from tests.support.ports import free_port
from tests.unit.core.github.test_fuzz import mutated

SECRET = b"a secret"


def receive(temporal: str, home: Path, port: int) -> None:
    """The receiver, alone in its process."""

    async def run() -> None:
        client = await connect(Settings(temporal=temporal))
        policy = Policy(clone_url="https://example.org/r.git", branch="master")
        webhook = Webhook(
            secret=SECRET,
            tracked=Tracked(repository=NAME, app_id=APP),
            accept=Acceptance(PullRequests(client), policy).accept,
            deliveries=StoredDeliveries.open(f"sqlite:///{home / 'deliveries.sqlite'}"),
        )
        async with receiving(webhook, socket.create_server(("127.0.0.1", port))):
            await asyncio.Event().wait()

    asyncio.run(run())


def payload(number: int) -> bytes:
    pull = Pull(number=number, head=f"{number:040x}", base="b" * 40)
    body = pull_request_whole(NAME, pull, datetime.now(UTC))
    whole = {"action": "opened", "number": number, "pull_request": body}
    return json.dumps({**whole, "repository": repository(NAME), "sender": user("alice")}).encode()


async def deliver(port: int, rate: float, seconds: float) -> tuple[list[float], int]:
    times: list[float] = []
    refused = 0
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=15) as http:

        async def one(number: int) -> None:
            nonlocal refused
            body = payload(number)
            headers = {
                "content-type": "application/json",
                "x-github-event": "pull_request",
                "x-github-delivery": f"guid-{number}",
                "x-hub-signature-256": sign(SECRET, body),
            }
            begun = time.perf_counter()
            answer = await http.post("/webhook", content=body, headers=headers)
            times.append(time.perf_counter() - begun)
            refused += answer.status_code != 202

        tasks = []
        begun = time.perf_counter()
        for number in range(1, int(rate * seconds) + 1):
            await asyncio.sleep(max(0, begun + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(one(number)))
        await asyncio.gather(*tasks)
    return times, refused


async def count(temporal: str, query: str = "WorkflowType='PullRequestWorkflow'") -> int:
    client = await connect(Settings(temporal=temporal))
    found = await client.count_workflows(query)
    return found.count


EXAMPLES = Path(__file__).resolve().parents[2] / "shared" / "github" / "webhook-examples.json"


async def attack(port: int, number: int) -> Counter[str]:
    """Sends mutated and forged deliveries; returns how often each kind got which answer."""
    chance = random.Random(1)  # noqa: S311 - repeatable, not secret
    payloads = examples(EXAMPLES)
    codes: Counter[str] = Counter()
    slots = asyncio.Semaphore(20)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=15) as http:

        async def one(kind: str, event: str, body: bytes, signature: str | None) -> None:
            headers = {"content-type": "application/json", "x-github-event": event}
            headers["x-github-delivery"] = f"hostile-{codes.total()}"
            if signature is not None:
                headers["x-hub-signature-256"] = signature
            async with slots:
                answer = await http.post("/webhook", content=body, headers=headers)
            codes[f"{kind} {answer.status_code}"] += 1

        tasks = []
        for _ in range(number):
            event, body = chance.choice(payloads)
            changed = mutated(body, chance)
            while changed == body:
                changed = mutated(body, chance)
            tasks.append(one("mutated", event, changed, sign(SECRET, body)))
            forged = chance.choice([None, "", sign(b"guess", body), sign(b"", body)])
            tasks.append(one("forged", event, body, forged))
        await asyncio.gather(*tasks)
    return codes


async def real(port: int) -> Counter[str]:
    """Sends each payload once, signed; returns how often each event got which answer."""
    codes: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=15) as http:
        for number, (event, body) in enumerate(examples(EXAMPLES)):
            headers = {
                "content-type": "application/json",
                "x-github-event": event,
                "x-github-delivery": f"example-{number}",
                "x-hub-signature-256": sign(SECRET, body),
            }
            answer = await http.post("/webhook", content=body, headers=headers)
            result = answer.json()
            if not result["reason"]:
                raise SystemExit(f"no reason is given for example {number} of {event}")
            codes[f"{event} {answer.status_code}"] += 1
    return codes


def withstand(temporal: str, port: int, number: int) -> None:
    before = asyncio.run(count(temporal, ""))
    begun = time.monotonic()
    codes = asyncio.run(attack(port, number))
    seconds = time.monotonic() - begun
    time.sleep(2)
    more = asyncio.run(count(temporal, "")) - before
    print(f"{codes.total()} hostile deliveries in {seconds:.0f} s: {dict(codes)}; {more} workflows")
    if set(codes) - {"mutated 401", "forged 401"} or more:
        raise SystemExit("something got in")
    examples_codes = asyncio.run(real(port))
    print(f"GitHub's examples: {dict(sorted(examples_codes.items()))}")
    if any(not code.endswith(("200", "202")) for code in examples_codes):
        raise SystemExit("a real payload was refused")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--hostile", type=int, default=0)
    parser.add_argument("--receive", nargs=3, metavar=("TEMPORAL", "HOME", "PORT"))
    given = parser.parse_args()
    if given.receive:
        receive(given.receive[0], Path(given.receive[1]), int(given.receive[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        server = services.start_temporal(home, port=free_port(), ui_port=free_port())
        port = free_port()
        command = [sys.executable, __file__, "--receive", server.address, str(home), str(port)]
        receiver = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
        try:
            measure(server.address, port, given.rate, given.seconds)
            if given.hostile:
                withstand(server.address, port, given.hostile)
        finally:
            receiver.terminate()
            receiver.wait()
            services.stop(home)


def measure(temporal: str, port: int, rate: float, seconds: float) -> None:
    for _ in range(200):
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz")
            break
        except httpx.TransportError:
            time.sleep(0.1)
    times, refused = asyncio.run(deliver(port, rate, seconds))
    end = time.monotonic() + 30
    while (started := asyncio.run(count(temporal))) < len(times) and time.monotonic() < end:
        time.sleep(0.5)
    cuts = statistics.quantiles(times, n=1000)
    print(
        f"{len(times)} deliveries at {rate:g}/s: p50 {statistics.median(times) * 1000:.0f} ms, "
        f"p99 {cuts[989] * 1000:.0f} ms, max {max(times) * 1000:.0f} ms; "
        f"{refused} not accepted, {started} workflows; load {os.getloadavg()[0]:.1f}"
    )
    if refused or started != len(times):
        raise SystemExit("deliveries were lost")


if __name__ == "__main__":
    main()
