"""Fetches of internal addresses by every way that an author has, in a small internet of its own.

Run as `unshare --net --mount -- python -m tests.support.samples.hostile_fetches HOME` by root:
the worker's network namespace has private and link-local addresses of its own, and a cable to a
second namespace, in which a public host, its name server, and further internal hosts live. HOME
has the image of the root-file-system runner. Prints one JSON object.
"""

import asyncio
import http.server
import ipaddress
import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from opam_ci.clients.runners.images.apt_sources import Archives
from opam_ci.clients.runners.images.image import ImageStore
from opam_ci.clients.runners.images.rootfs_exec import RootfsExecutor
from opam_ci.clients.runners.images.scratch import JobRoots
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.sandbox.bubblewrap import ROOT
from opam_ci.clients.runners.sandbox.network import JobNetwork
from opam_ci.clients.runners.sandbox.user_namespace import job_namespace
from opam_ci.clients.runners.settings import Endpoint
from opam_ci.core.jobs.job import Phase
from opam_ci.core.platforms.debian import embedded_root
from tests.support.fakes.dns import NameServer

PUBLIC = "11.0.0.2"
"""The host on the internet; 11/8 is public."""
WORKER = "11.0.0.1"
OWN = ("10.99.0.1", "169.254.7.7", "100.64.9.9")
"""Internal addresses of the worker itself."""
OTHERS = ("10.77.0.1", "169.254.169.254", "172.16.3.4", "192.168.7.7", "198.51.100.7")
"""Internal hosts beyond the cable."""
OWN6, OTHER6 = "fd99::1", "fd77::1"
INSIDE = ("127.0.0.1", WORKER, *OWN, *OTHERS)
PORTS = (80, 8233)
ALLOWED_PORT = 9001
ALLOWED = Endpoint("127.0.0.1", ALLOWED_PORT)
"""The one internal endpoint that the operator allows; nobody may reach it on another port."""


def show(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def sh(*words: str) -> None:
    subprocess.run(words, check=True)


class Handler(http.server.BaseHTTPRequestHandler):
    """`/to?u=URL` redirects, anything else is a file."""

    def do_GET(self) -> None:
        target = parse_qs(urlsplit(self.path).query).get("u")
        self.send_response(302 if target else 200)
        if target:
            self.send_header("Location", target[0])
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


class Listener(http.server.ThreadingHTTPServer):
    """Counts connections and answers them."""

    def __init__(self, address: str, port: int) -> None:
        self.address_family = 10 if ":" in address else 2
        self.seen: list[str] = []
        super().__init__((address, port), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def verify_request(self, _request: object, client: object) -> bool:
        self.seen.append(str(client))
        return True


def beyond() -> None:
    """The second namespace: servers until standard input ends."""
    for address in (f"{PUBLIC}/24", *(f"{each}/32" for each in OTHERS)):
        sh("ip", "address", "add", address, "dev", "i0")
    sh("ip", "address", "add", f"{OTHER6}/64", "dev", "i0", "nodad")
    for name in ("lo", "i0"):
        sh("ip", "link", "set", name, "up")
    # Names of the form 10-99-0-1.test have their address in them.
    names = NameServer(
        PUBLIC,
        lambda name: name.removesuffix(".test").replace("-", ".") if "-" in name else PUBLIC,
    )
    names.start()
    public = Listener(PUBLIC, 80)
    inside = [Listener(each, port) for each in (*OTHERS, OTHER6) for port in PORTS]
    show("ready")
    sys.stdin.read()
    show(json.dumps({"public": len(public.seen), "inside": sum(len(e.seen) for e in inside)}))


def urls() -> Iterator[str]:
    """Yields what an author could write into an opam file."""
    for address, port in product(INSIDE, PORTS):
        number = int(ipaddress.IPv4Address(address))
        octets = address.split(".")
        mapped = ipaddress.IPv6Address(f"::ffff:{address}")
        hosts = [
            address,
            str(number),
            hex(number),
            ".".join(f"0{int(each):o}" for each in octets),
            f"[{mapped}]",
            f"[64:ff9b::{address}]",
            f"[2002:{number >> 16:x}:{number & 0xFFFF:x}::1]",
            f"{address.replace('.', '-')}.test",
        ]
        direct = [f"http://{host}:{port}/x" for host in hosts]
        yield from direct
        for url in (direct[0], direct[-1]):
            yield f"http://{PUBLIC}/to?u={quote(url, safe='')}"
        yield f"ftp://{address}:{port}/x"
    for address, port in product((OWN6, OTHER6, "::1", "::"), PORTS):
        yield f"http://[{address}]:{port}/x"
    yield from ("http://localhost:80/x", "http://0:80/x", "http://0.0.0.0:8233/x")
    yield f"http://127.0.0.1:{ALLOWED_PORT + 1}/x"


def fetch(url: str) -> str:
    return f"curl --silent --location --max-time 2 --output /dev/null '{url}' && echo GOT '{url}'"


def connect(home: Path) -> "subprocess.Popen[str]":
    """Makes the small internet; returns the process in its second namespace."""
    for address in OWN:
        sh("ip", "address", "add", f"{address}/32", "dev", "lo")
    sh("ip", "address", "add", f"{OWN6}/128", "dev", "lo", "nodad")
    sh("ip", "link", "set", "lo", "up")
    resolver = home / "worker-resolv.conf"
    resolver.write_text(f"nameserver {PUBLIC}\n")
    sh("mount", "--bind", str(resolver), "/etc/resolv.conf")
    other = subprocess.Popen(
        ["unshare", "--net", "--", sys.executable, "-m", __spec__.name, "beyond"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdin is not None
    assert other.stdout is not None
    ours, its = Path("/proc/self/ns/net"), Path(f"/proc/{other.pid}/ns/net")
    while ours.readlink() == its.readlink():
        time.sleep(0.01)
    sh("ip", "link", "add", "w0", "type", "veth", "peer", "name", "i0", "netns", str(other.pid))
    sh("ip", "address", "add", f"{WORKER}/24", "dev", "w0")
    sh("ip", "address", "add", "fd77::2/64", "dev", "w0", "nodad")
    sh("ip", "link", "set", "w0", "up")
    sh("ip", "route", "add", "default", "via", PUBLIC)
    assert other.stdout.readline() == "ready\n"
    return other


async def main(home: Path) -> None:
    other = connect(home)
    assert other.stdin is not None
    assert other.stdout is not None
    own = ("127.0.0.1", WORKER, *OWN, OWN6, "::1")
    listeners = [Listener(address, port) for address in own for port in PORTS]
    listeners.append(Listener(ALLOWED.host, ALLOWED_PORT + 1))
    allowed = Listener(ALLOWED.host, ALLOWED_PORT)
    debian = embedded_root(platform.machine())
    image = await ImageStore(home / "images", ROOT).ensure(debian, Archives(), lambda _: None)
    wanted = list(urls())
    git = [f"git clone --quiet '{scheme}://{each}/x.git' /tmp/x && echo GOT git {each}"
           for each in INSIDE for scheme in ("git", "http")]  # fmt: skip
    good = [f"http://{PUBLIC}/x", f"http://{PUBLIC.replace('.', '-')}.test/x",
            f"http://127.0.0.1:{ALLOWED_PORT}/x"]  # fmt: skip
    output = bytearray()
    async with (
        JobRoots(home / "jobs", ROOT).open((image.root,)) as root,
        job_namespace(ROOT) as rights,
        JobNetwork(root.upper.parent, (ALLOWED,), rights) as network,
    ):
        executor = RootfsExecutor(root, Mirrors(), rights, network=network)

        async def run(script: str, *, as_root: bool = False, **variables: str) -> tuple[str, ...]:
            step = Step(
                ("sh", "-c", script),
                network=True,
                as_root=as_root,
                environment=tuple(variables.items()),
            )
            ended = await executor.run(step, output=output.extend, phase=Phase.FETCH)
            return ended.refused

        refused = set(await run("\n".join([*map(fetch, good), *map(fetch, wanted), *git, "false"])))
        refused |= set(
            await run("apt-get -qq update; false", as_root=True, http_proxy="http://10.99.0.1:8233")
        )
    text = output.decode(errors="replace")
    other.stdin.close()
    report = json.loads(other.stdout.read())
    other.wait()
    show(
        json.dumps(
            {
                **report,
                "tried": len(wanted) + len(git) + 1,
                "reached": [line for line in text.splitlines() if line.startswith("GOT")],
                "expected": [f"GOT {url}" for url in good],
                "own": sum(len(each.seen) for each in listeners),
                "allowed": len(allowed.seen),
                "refused": sorted(refused),
                "log": text[-2000:],
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1] == "beyond":
        beyond()
    else:
        asyncio.run(main(Path(sys.argv[1])))
