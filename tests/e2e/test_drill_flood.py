"""Drills: strangers flood the receiver of webhooks, git is stuck, the receiver dies.

Signed deliveries are accepted all the same, by the real `opam-ci serve`.
"""

import http.client
import json
import os
import resource
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from opam_ci.core.github.signature import sign
from tests.support.fakes.github_bodies import Pull, pull_request_whole, repository, user
from tests.support.fakes.serving import silent_server
from tests.support.worlds.github import GitHubWorld, github_world

FULL = os.environ.get("OPAM_CI_TEST_FULL_DRILLS") == "1"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("opam_lint"),
]

SILENT = 10_000 if FULL else 2_000
UNSIGNED_RATE = 50_000_000
"""Bytes a second."""
DELIVERIES = 1_000 if FULL else 200
DELIVERIES_RATE = 20
"""A second."""
FORGED = f"POST /webhook HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: sha256={'0' * 64}\r\n"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GitHubWorld]:
    with github_world(tmp_path) as made:
        yield made


def deliver(world: GitHubWorld, number: int, timeout: float = 30) -> float:
    """Delivers that a pull request was closed, which has no workflow; returns the seconds."""
    name = world.fake.full_name
    pull = Pull(number=number, head=f"{number:040x}", base="b" * 40, state="closed")
    whole = pull_request_whole(name, pull, datetime.now(UTC))
    event = {"action": "closed", "number": number, "pull_request": whole}
    body = json.dumps({**event, "repository": repository(name), "sender": user("a")}).encode()
    headers = {
        "content-type": "application/json",
        "x-github-event": "pull_request",
        "x-github-delivery": f"drill-{number}",
        "x-hub-signature-256": sign(world.fake.secret, body),
    }
    begun = time.monotonic()
    github = http.client.HTTPConnection("127.0.0.1", world.port, timeout=timeout)
    try:
        github.request("POST", "/webhook", body, headers)
        answer = github.getresponse()
        assert answer.status == 202, answer.read()
    finally:
        github.close()
    return time.monotonic() - begun


def receiver_of(world: GitHubWorld) -> psutil.Process:
    """Returns the process that accepts connections."""
    assert world.process is not None
    serve = psutil.Process(world.process.pid)
    own = [each for each in serve.children() if "opam_ci.cli.operator.receiver" in each.cmdline()]
    return own[0] if own else serve


@contextmanager
def strangers(port: int, over: threading.Event) -> Iterator[list[int]]:
    """Attacks from threads; yields what was sent: connections, and bytes."""
    sent = [0, 0]
    attacks = [threading.Thread(target=say_nothing, args=(port, over, sent))]
    rate = UNSIGNED_RATE / 4
    attacks += [
        threading.Thread(target=send_unsigned, args=(port, over, sent, size, rate))
        for size in (25 << 20, 25 << 20, 1 << 20, 200_000)
    ]
    for attack in attacks:
        attack.start()
    try:
        yield sent
    finally:
        over.set()
        for attack in attacks:
            attack.join()


def say_nothing(port: int, over: threading.Event, sent: list[int]) -> None:
    """Opens connections and says nothing; opens again what is closed, 500 a second."""
    silent = selectors.DefaultSelector()
    while not over.is_set():
        begun = time.monotonic()
        for key, _ in silent.select(0):
            silent.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]  # a socket
        wanted = SILENT - len(silent.get_map())
        for _ in range(wanted if sent[0] < SILENT else min(wanted, 50)):
            try:
                silent.register(
                    socket.create_connection(("127.0.0.1", port), 5), selectors.EVENT_READ
                )
            except OSError:
                break
            sent[0] += 1
        over.wait(max(0.0, 0.1 - (time.monotonic() - begun)))
    for key in list(silent.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]  # a socket


def send_unsigned(
    port: int, over: threading.Event, sent: list[int], size: int, rate: float
) -> None:
    piece = b" " * 65_536
    begun, mine = time.monotonic(), 0
    while not over.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as stranger:
                stranger.sendall(f"{FORGED}Content-Length: {size}\r\n\r\n".encode())
                for start in range(0, size, len(piece)):
                    stranger.sendall(piece[: size - start])
                    mine += len(piece)
                    sent[1] += len(piece)
                    if over.wait(max(0.0, begun + mine / rate - time.monotonic())):
                        return
                stranger.recv(1000)
        except OSError:
            mine += len(piece)  # refused meanwhile: the next one


def test_a_flood_holds_up_no_signed_delivery(
    world: GitHubWorld, record_property: Callable[[str, object], None]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, SILENT + 1000)), hard))
    world.start()
    receiver = receiver_of(world)
    calm = [deliver(world, number) for number in range(1, 41)]
    before = receiver.memory_info().rss
    most, times = before, []
    over = threading.Event()
    with strangers(world.port, over) as sent:
        world.wait(lambda: sent[0] >= SILENT, 60)
        begun, bytes_before = time.monotonic(), sent[1]
        for number in range(DELIVERIES):
            over.wait(max(0.0, begun + number / DELIVERIES_RATE - time.monotonic()))
            times.append(deliver(world, 1000 + number))
            most = max(most, receiver.memory_info().rss)
        took = time.monotonic() - begun
        rate = (sent[1] - bytes_before) / took
    p99 = statistics.quantiles(times, n=100)[98]
    record_property(
        "flood",
        f"{sent[0]} silent connections, {rate / 1e6:.0f} MB/s of unsigned bodies for {took:.0f} s: "
        f"{len(times)} deliveries accepted, p50 {statistics.median(times) * 1000:.0f} ms "
        f"(calm: {statistics.median(calm) * 1000:.0f}), p99 {p99 * 1000:.0f} ms, "
        f"max {max(times) * 1000:.0f} ms; memory +{(most - before) / 1e6:.0f} MB "
        f"of {before / 1e6:.0f}",
    )
    assert rate > UNSIGNED_RATE / 10  # the flood was one
    # A second is the limit for p99 on a machine of its own; beside two other suites it was 1.9 s.
    # GitHub gives up after ten.
    assert statistics.median(times) < 1
    assert (p99 if FULL else max(times) / 10) < 1
    assert most - before < 100_000_000
    # It was the receiver's business alone, and it has let go of all of it.
    assert receiver.is_running()
    world.wait(lambda: receiver.num_fds() < 200, 30)
    assert deliver(world, 5000) < (1 if FULL else 10)


def test_git_that_is_stuck_holds_up_no_webhook(world: GitHubWorld) -> None:
    with silent_server() as port:
        world.environment["OPAM_CI_GITHUB_CLONE_URL"] = f"git://127.0.0.1:{port}/r.git"
        world.start()
        heads = [world.commit(number, {f"packages/a/a.{number}/opam": b""}) for number in range(8)]
        for number, head in enumerate(heads, 1):
            world.do(world.fake.open(number, head))
        world.wait(lambda: all("pending" in world.said(head) for head in heads), 60)
        for number in range(20):
            assert deliver(world, 100 + number) < 1
            time.sleep(0.5)
        # And it stops as it should: git goes with those who wait for it.
        begun = time.monotonic()
        world.stop()
        assert time.monotonic() - begun < 60


def test_a_receiver_that_dies_is_replaced(world: GitHubWorld) -> None:
    world.start()
    deliver(world, 1)
    died = receiver_of(world)
    assert world.process is not None
    assert died.pid != world.process.pid
    died.kill()
    # The connection waits with the socket, which is its parent's.
    deliver(world, 2)
    assert receiver_of(world) != died
    log = (world.home / "serve.log").read_text()
    assert "the receiver of webhooks ended with code -9; it is started again" in log
    # One that is alone ends, and leaves the port to the next.
    left = receiver_of(world)
    world.kill()
    left.wait(10)
    world.start()
    deliver(world, 3)
