"""The connection to a real Temporal server: whose frontend wants a certificate, and embedded."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.app import connection, schedules
from opam_ci.app.settings import Settings
from opam_ci.cli.local import services, session
from opam_ci.core.errors import UsageError
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.workflows import options
from tests.support.fakes.tls import Authority, frontend
from tests.support.ports import free_port


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Embedded]:
    home = tmp_path_factory.mktemp("connection") / "home"
    yield services.start_temporal(home, port=free_port(), ui_port=free_port())
    services.stop(home)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the authority's and a client's certificate, and with a stranger's."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def address(embedded: services.Embedded, keys: Path) -> Iterator[str]:
    """Of a frontend that wants certificates."""
    authority = Authority(keys, "authority")
    authority.issue("client")
    Authority(keys, "others").issue("stranger")
    with frontend(embedded.address, authority) as found:
        yield found


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No profile of the machine's own."""
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "temporal.toml"))
    return monkeypatch


def trust(variables: pytest.MonkeyPatch, address: str, keys: Path, name: str | None) -> None:
    """Sets Temporal's variables for a frontend, with the certificate of that name."""
    variables.setenv("TEMPORAL_ADDRESS", address)
    variables.setenv("TEMPORAL_TLS_SERVER_CA_CERT_PATH", str(keys / "authority.pem"))
    if name is not None:
        variables.setenv("TEMPORAL_TLS_CLIENT_CERT_PATH", str(keys / f"{name}.pem"))
        variables.setenv("TEMPORAL_TLS_CLIENT_KEY_PATH", str(keys / f"{name}.key"))


def connected() -> Client:
    return asyncio.run(connection.connect(Settings()))


def refusal() -> str:
    with pytest.raises(UsageError) as caught:
        connected()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert len(text) < 300
    return text


async def uses(settings: Settings) -> None:
    client = await connection.connect(settings)
    await connection.ensure_search_attributes(client)
    assert not await connection.has_pollers(client, "nobodys")


async def test_a_role_without_the_right_needs_nothing_that_is_there(
    embedded: services.Embedded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connection.connect(Settings(temporal=embedded.address))
    refusal = RPCError("Request unauthorized.", RPCStatusCode.PERMISSION_DENIED, b"")

    async def refuse(*_: object, **__: object) -> None:
        raise refusal

    monkeypatch.setattr(client.operator_service, "add_search_attributes", refuse)
    await connection.ensure_search_attributes(client)
    monkeypatch.setattr(options, "SEARCH_ATTRIBUTES", [SearchAttributeKey.for_keyword("New")])
    with pytest.raises(UsageError, match="an operator must add them"):
        await connection.ensure_search_attributes(client)
    monkeypatch.setattr(client, "create_schedule", refuse)
    with caplog.at_level(logging.INFO):
        await schedules.ensure_canary(client, EMBEDDED)
    assert "may not make the schedule canary/linux-amd64" in caplog.text
    refusal = RPCError("no room", RPCStatusCode.RESOURCE_EXHAUSTED, b"")
    with pytest.raises(UsageError, match="OPAM_CI_CANARY=false"):
        await schedules.ensure_canary(client, EMBEDDED)


def test_a_client_with_a_certificate_is_served(
    variables: pytest.MonkeyPatch, address: str, keys: Path
) -> None:
    trust(variables, address, keys, "client")
    assert Settings().explicit_temporal == address
    asyncio.run(uses(Settings()))


def test_a_profile_does_the_same(
    variables: pytest.MonkeyPatch, tmp_path: Path, address: str, keys: Path
) -> None:
    (tmp_path / "temporal.toml").write_text(
        f'[profile.ci]\naddress = "{address}"\nnamespace = "default"\n'
        f'[profile.ci.tls]\nclient_cert_path = "{keys}/client.pem"\n'
        f'client_key_path = "{keys}/client.key"\nserver_ca_cert_path = "{keys}/authority.pem"\n'
    )
    assert Settings().explicit_temporal is None  # the profile `default` has no address
    variables.setenv("TEMPORAL_PROFILE", "ci")
    asyncio.run(uses(Settings()))


@pytest.mark.parametrize("name", [None, "stranger"])
def test_a_client_without_one_is_refused(
    variables: pytest.MonkeyPatch, address: str, keys: Path, name: str | None
) -> None:
    trust(variables, address, keys, name)
    assert f"cannot connect to the Temporal server at {address} (" in refusal()
    assert "TLS and key in the variables TEMPORAL_…" in refusal()


def test_a_server_that_nobody_vouches_for_is_refused(
    variables: pytest.MonkeyPatch, address: str, keys: Path
) -> None:
    trust(variables, address, keys, "client")
    variables.setenv("TEMPORAL_TLS_SERVER_CA_CERT_PATH", str(keys / "others.pem"))
    assert "InvalidCertificate" in refusal()


def test_a_key_wants_tls(variables: pytest.MonkeyPatch, embedded: services.Embedded) -> None:
    variables.setenv("TEMPORAL_ADDRESS", embedded.address)
    variables.setenv("TEMPORAL_API_KEY", "key-of-a-test")
    assert "key-of-a-test" not in refusal()  # not sent: the server has no TLS
    variables.setenv("TEMPORAL_TLS", "false")
    assert connected().api_key == "key-of-a-test"


def test_what_is_misspelt_is_named(
    variables: pytest.MonkeyPatch, tmp_path: Path, address: str, keys: Path
) -> None:
    trust(variables, address, keys, "client")
    variables.setenv("TEMPORAL_TLS_CLIENT_KEY_PATH", "/nowhere/key")
    assert "cannot read /nowhere/key for the connection to Temporal" in refusal()
    (tmp_path / "temporal.toml").write_text("[profile.default]\napi_key = key-of-a-test\n")
    assert "key-of-a-test" not in refusal()
    assert "line 2" in refusal()


def test_the_settings_of_this_ci_win(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("TEMPORAL_ADDRESS", "temporals:1")
    variables.setenv("TEMPORAL_NAMESPACE", "temporals")
    assert (Settings().temporal, Settings().namespace) == ("temporals:1", "temporals")
    variables.setenv("OPAM_CI_TEMPORAL", "ours:1")
    variables.setenv("OPAM_CI_NAMESPACE", "ours")
    assert (Settings().temporal, Settings().namespace) == ("ours:1", "ours")


def test_the_embedded_server_gets_no_credentials(
    variables: pytest.MonkeyPatch, embedded: services.Embedded, keys: Path
) -> None:
    trust(variables, "remote:7233", keys, None)
    variables.setenv("TEMPORAL_API_KEY", "key-of-a-test")
    variables.setenv("TEMPORAL_NAMESPACE", "remote")
    asyncio.run(uses(session.at_embedded(Settings(), embedded)))
