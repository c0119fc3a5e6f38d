"""Pinning images: against Debian's own registry, and against one that misbehaves on purpose."""

import asyncio
import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from opam_ci.clients.runners.containers import credentials
from opam_ci.clients.runners.containers import registry as images
from opam_ci.clients.runners.containers.registry import ImageResolver, UnknownImageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import IMAGE_UNFIT, Cause
from opam_ci.core.platforms.images import ImageReference, parse_image
from tests.support.fakes.registry import LOGIN, docker_registry, running

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Registry:
    """A registry, and the little of its interface that pushing takes."""

    def __init__(self, host: str, login: tuple[str, str] | None = None) -> None:
        self.host = host
        self.http = httpx.Client(base_url=f"http://{host}/v2/ocaml/opam/", auth=login)

    def push(self, tag: str, comment: str) -> str:
        """Pushes an image without content; returns its manifest's digest."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "comment": comment}).encode()
        upload = self.http.post("blobs/uploads/").raise_for_status().headers["Location"]
        self.http.put(
            upload, params={**httpx.URL(upload).params, "digest": digest_of(config)}, content=config
        ).raise_for_status()
        blob = {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)}
        return self._put(tag, MANIFEST, {"config": blob, "layers": []})

    def push_list(self, tag: str, manifests: dict[str, str]) -> str:
        """Pushes a list of images by architecture; returns its own digest."""
        entries = [
            {
                "mediaType": MANIFEST,
                "digest": digest,
                "size": int(
                    self.http.head(f"manifests/{digest}", headers={"Accept": MANIFEST}).headers[
                        "Content-Length"
                    ]
                ),
                "platform": {"architecture": arch, "os": "linux"},
            }
            for arch, digest in manifests.items()
        ]
        return self._put(tag, INDEX, {"manifests": entries})

    def _put(self, tag: str, media_type: str, content: dict[str, Any]) -> str:
        body = json.dumps({"schemaVersion": 2, "mediaType": media_type, **content}).encode()
        self.http.put(
            f"manifests/{tag}", content=body, headers={"Content-Type": media_type}
        ).raise_for_status()
        return digest_of(body)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        served = Registry(host)
        yield served
        served.http.close()


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that serves nobody without a login."""
    with docker_registry(tmp_path_factory.mktemp("private"), login=True) as host:
        served = Registry(host, LOGIN)
        yield served
        served.http.close()


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    """Writes the engine's file of logins."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".docker").mkdir()

    def write(content: Any) -> Path:
        file = tmp_path / ".docker/config.json"
        file.write_text(json.dumps(content))
        return file

    return write


def encoded(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


async def test_a_single_image(registry: Registry) -> None:
    digest = registry.push("single", "one")
    found = await ImageResolver().resolve(f"{registry.host}/ocaml/opam:single")
    assert found == f"{registry.host}/ocaml/opam@{digest}"


async def test_a_list_of_images_is_pinned_as_a_whole(registry: Registry) -> None:
    digest = registry.push_list("multi", {"amd64": registry.push("a", "a")})
    found = await ImageResolver().resolve(f"{registry.host}/ocaml/opam:multi")
    assert found == f"{registry.host}/ocaml/opam@{digest}"


async def test_a_tag_that_moves_does_not_move_what_is_pinned(registry: Registry) -> None:
    image = f"{registry.host}/ocaml/opam:moves"
    first = registry.push("moves", "first")
    resolver = ImageResolver(known_for=timedelta(0))
    pinned = await resolver.resolve(image)
    second = registry.push("moves", "second")
    assert first != second
    assert await resolver.resolve(pinned) == pinned == f"{image[:-6]}@{first}"
    assert await resolver.resolve(image) == f"{image[:-6]}@{second}"


async def test_a_digest_is_remembered_for_a_while(registry: Registry) -> None:
    image = f"{registry.host}/ocaml/opam:known"
    first = registry.push("known", "first")
    resolver = ImageResolver()
    await resolver.resolve(image)
    registry.push("known", "second")
    assert (await resolver.resolve(image)).endswith(first)


async def test_an_image_that_the_registry_does_not_have(registry: Registry) -> None:
    with pytest.raises(UnknownImageError, match="HTTP 404") as caught:
        await ImageResolver().resolve(f"{registry.host}/ocaml/opam:gone")
    assert caught.value.cause is Cause.IMAGE


async def test_a_registry_with_a_login(
    private: Registry, login: Callable[[Any], Path], caplog: pytest.LogCaptureFixture
) -> None:
    digest = private.push("secret", "one")
    image = f"{private.host}/ocaml/opam:secret"
    with pytest.raises(UnknownImageError, match="or denies access: HTTP 401"):
        await ImageResolver().resolve(image)
    file = login({"auths": {f"http://{private.host}/v1/": encoded(*LOGIN)}})
    assert await ImageResolver().resolve(image) == f"{private.host}/ocaml/opam@{digest}"
    # The image that is pinned is still there.
    assert await ImageResolver().digest(f"{private.host}/ocaml/opam@{digest}") == digest
    login({"auths": {private.host: encoded(LOGIN[0], "forgotten")}})
    with pytest.raises(UnknownImageError) as caught:
        await ImageResolver().resolve(image)
    assert str(caught.value) == (
        f"image {image}: registry {private.host} refuses this machine's login: HTTP 401; log in "
        f"again: podman login {private.host}"
    )
    assert caught.value.evidence.rule == IMAGE_UNFIT
    file.write_text("torn")
    with pytest.raises(UnknownImageError, match="or denies access: HTTP 401"):
        await ImageResolver().resolve(image)
    assert f"{file} holds no logins" in caplog.text
    assert "forgotten" not in caplog.text


def test_where_logins_are(
    login: Callable[[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {
        "https://index.docker.io/v1/": encoded("hub", "1"),
        "ghcr.io": encoded("all", "2"),
        "ghcr.io/ocaml": encoded("ocaml", "3"),
        "odd.example": {"auth": "no base64!"},
        "helped.example": {},
    }
    login({"auths": entries})
    found = {
        place: credentials.login(*place)
        for place in (
            ("docker.io", "ocaml/opam"),
            ("ghcr.io", "ocaml/opam"),
            ("ghcr.io", "other/opam"),
            ("odd.example", "x"),
            ("helped.example", "x"),
            ("127.0.0.1:5000", "x"),
        )
    }
    assert list(found.values()) == [
        entries["https://index.docker.io/v1/"]["auth"],
        entries["ghcr.io/ocaml"]["auth"],
        entries["ghcr.io"]["auth"],
        *(None, None, None),
    ]
    # podman's own file comes before docker's.
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {"ghcr.io": encoded("p", "4")}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    assert credentials.login("ghcr.io", "ocaml/opam") == encoded("p", "4")["auth"]


class Odd(BaseHTTPRequestHandler):
    """Respond by the requested tag; a token is needed for `private`."""

    digest = "sha256:" + "5" * 64
    logins: ClassVar[list[str | None]] = []

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's name
        """Says nothing."""

    def do_GET(self) -> None:
        type(self).logins.append(self.headers["Authorization"])
        body = b'{"token": "let-me-in"}'
        if self.path.startswith("/token?") and "scope=repository%3Ax%3Apull" in self.path:
            self.send_response(200)
        else:
            self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        tag = self.path.rpartition("/")[2]
        match tag:
            case "private" | "elsewhere" if self.headers["Authorization"] != "Bearer let-me-in":
                port = self.headers["Host"].partition(":")[2]
                realm = self.headers["Host"] if tag == "private" else f"localhost:{port}"
                self.send_response(401)
                self.send_header(
                    "WWW-Authenticate",
                    f'Bearer realm="http://{realm}/token",service="s",scope="repository:x:pull"',
                )
            case "basic":
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="x"')
            case "busy":
                self.send_response(429)
                self.send_header("Retry-After", "77")
            case "broken":
                self.send_response(503)
            case "no-digest":
                self.send_response(200)
            case "forged":
                self.send_response(200)
                self.send_header("Docker-Content-Digest", "sha256:../../x")
            case "slow":
                threading.Event().wait(1)
                self.send_response(200)
            case _:
                self.send_response(200)
                self.send_header("Docker-Content-Digest", self.digest)
        self.end_headers()


@pytest.fixture
def odd() -> Iterator[str]:
    with running(ThreadingHTTPServer(("127.0.0.1", 0), Odd)) as server:
        yield f"127.0.0.1:{server.server_port}"


async def test_a_token_for_anonymous_reading_is_fetched(odd: str) -> None:
    assert await ImageResolver().resolve(f"{odd}/x:private") == f"{odd}/x@{Odd.digest}"


async def test_a_login_gets_a_token_of_its_registry_alone(
    odd: str, login: Callable[[Any], Path]
) -> None:
    mine = encoded(*LOGIN)
    login({"auths": {odd: mine}})
    Odd.logins.clear()
    for tag in ("private", "elsewhere"):
        assert await ImageResolver().resolve(f"{odd}/x:{tag}") == f"{odd}/x@{Odd.digest}"
    assert Odd.logins == [f"Basic {mine['auth']}", None]


async def test_credentials_that_we_do_not_have(odd: str) -> None:
    with pytest.raises(UnknownImageError, match="HTTP 401") as caught:
        await ImageResolver().resolve(f"{odd}/x:basic")
    assert caught.value.cause is Cause.IMAGE


@pytest.mark.parametrize(
    ("tag", "reported"),
    [
        ("busy", "HTTP 429"),
        ("broken", "HTTP 503"),
        ("no-digest", "sent no digest"),
        ("forged", "sent no digest"),
        ("slow", "does not answer"),
    ],
)
async def test_a_registry_that_is_not_well_is_a_fault_of_ours(
    odd: str, tag: str, reported: str
) -> None:
    resolver = ImageResolver(timeout=httpx.Timeout(0.3))
    with pytest.raises(InfrastructureError, match=reported) as caught:
        await resolver.resolve(f"{odd}/x:{tag}")
    assert caught.value.cause is Cause.IMAGE
    assert not isinstance(caught.value, UnknownImageError)
    assert caught.value.retry_after == (timedelta(seconds=77) if tag == "busy" else None)


async def test_a_registry_that_hangs_is_not_queried_for_a_while(
    odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = ImageResolver(timeout=httpx.Timeout(0.3))
    # One with a bad response is queried again.
    with pytest.raises(InfrastructureError, match="HTTP 503"):
        await resolver.resolve(f"{odd}/x:broken")
    with pytest.raises(InfrastructureError, match="does not answer"):
        await resolver.resolve(f"{odd}/x:slow")
    with pytest.raises(InfrastructureError, match="x:fine: registry"):
        await resolver.resolve(f"{odd}/x:fine")
    monkeypatch.setattr(images, "_UNAVAILABLE_FOR", timedelta(0))
    assert await resolver.resolve(f"{odd}/x:fine") == f"{odd}/x@{Odd.digest}"


async def test_an_answer_that_drips_ends_in_time(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_TOTAL_TIMEOUT", timedelta(seconds=0.2))
    with pytest.raises(InfrastructureError, match="does not answer: TimeoutError"):
        await ImageResolver().resolve(f"{odd}/x:slow")


async def test_an_image_by_digest_is_not_resolved() -> None:
    image = "127.0.0.1:1/x@sha256:" + "0" * 64
    assert await ImageResolver().resolve(image) == image


@pytest.mark.parametrize("host", ["127.0.0.1:1", "registry.invalid"])
async def test_a_registry_that_is_away_is_an_infrastructure_fault(host: str) -> None:
    with pytest.raises(InfrastructureError, match="does not answer") as caught:
        await ImageResolver().resolve(f"{host}/x:1")
    assert caught.value.cause is Cause.IMAGE


def test_an_image_that_only_this_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    # A storage of its own: a test must not use the machine's images.
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n'
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("hello"))
    (tmp_path / "root.tar").write_bytes(content.getvalue())
    image = "localhost/opam-ci-test:1"
    done = subprocess.run(
        ["podman", "import", tmp_path / "root.tar", image], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"podman does not work here: {done.stderr.decode()[-200:]}")
    found = asyncio.run(ImageResolver().resolve(image))
    assert found.startswith("localhost/opam-ci-test@sha256:")
    # The engine itself knows the image by what was found.
    subprocess.run(["podman", "image", "exists", found], check=True)
    with pytest.raises(UnknownImageError, match="image not known"):
        asyncio.run(ImageResolver().resolve("localhost/opam-ci-test:2"))


async def test_an_engine_that_is_not_installed() -> None:
    with pytest.raises(InfrastructureError, match="x:1: this machine has no no-such-engine: ") as e:
        await ImageResolver(engine="no-such-engine").resolve("localhost/x:1")
    assert not isinstance(e.value, UnknownImageError)


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("debian", ("docker.io", "library/debian", "latest", None)),
        ("ocaml/opam:debian-13", ("docker.io", "ocaml/opam", "debian-13", None)),
        ("docker.io/ocaml/opam:x", ("docker.io", "ocaml/opam", "x", None)),
        ("h:5000/a/b", ("h:5000", "a/b", "latest", None)),
        ("ghcr.io/a/b@sha256:" + "0" * 64, ("ghcr.io", "a/b", "latest", "sha256:" + "0" * 64)),
        ("localhost/a:1", ("localhost", "a", "1", None)),
    ],
)
def test_parts_of_a_reference(image: str, parts: tuple[str, str, str, str | None]) -> None:
    assert parse_image(image) == ImageReference(*parts)


def test_where_registries_answer() -> None:
    assert parse_image("ocaml/opam:x").manifest_url == (
        "https://registry-1.docker.io/v2/ocaml/opam/manifests/x"
    )
    assert parse_image("localhost:5000/a").manifest_url == (
        "http://localhost:5000/v2/a/manifests/latest"
    )
