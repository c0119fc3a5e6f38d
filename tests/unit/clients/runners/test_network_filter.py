"""The rules of a network namespace, and the endpoints that an operator allows."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis.strategies import integers
from pydantic import ValidationError

from opam_ci.app.settings import Settings
from opam_ci.clients.runners.sandbox.network_filter import INTERNAL4, INTERNAL6, addresses, rules
from opam_ci.clients.runners.settings import Endpoint

NAT64 = ip_network("64:ff9b::/96")


@given(integers(0, 2**32 - 1))
def test_no_ipv4_address_that_python_calls_private_is_on_the_internet(number: int) -> None:
    address = IPv4Address(number)
    if not address.is_global or address.is_multicast:
        assert any(address in ip_network(each) for each in INTERNAL4)


@given(integers(0, 2**128 - 1))
def test_no_ipv6_address_that_python_calls_private_is_on_the_internet(number: int) -> None:
    address = IPv6Address(number)
    if not address.is_global or address.is_multicast:
        assert any(address in ip_network(each) for each in INTERNAL6)


@pytest.mark.parametrize(
    "text",
    ["fd00::1", "fe80::1", "::1", "ff02::1", "2002:a00:1::1", "2001:0:a00:1::", "fec0::1", "::"],
)
def test_the_internal_addresses_of_ipv6_are_internal(text: str) -> None:
    assert any(ip_address(text) in ip_network(each) for each in INTERNAL6)


@pytest.mark.parametrize("text", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450::1"])
def test_hosts_of_the_internet_are_not_internal(text: str) -> None:
    address = ip_address(text)
    internal = INTERNAL4 if address.version == 4 else INTERNAL6
    assert not any(address in ip_network(each) for each in internal)


def test_translated_addresses_are_checked_as_what_they_stand_for() -> None:
    (line,) = [each for each in rules([], [], ()).splitlines() if str(NAT64) in each]
    but = [ip_network(each) for each in re.findall(r"64:[0-9a-f:]+/\d+", line)[1:]]
    assert len(but) == len(INTERNAL4)
    assert any(IPv6Address("64:ff9b::10.0.0.1") in each for each in but)
    assert any(IPv6Address("64:ff9b::169.254.169.254") in each for each in but)
    assert not any(IPv6Address("64:ff9b::1.1.1.1") in each for each in but)


def test_what_is_allowed_comes_before_what_is_refused() -> None:
    own = addresses(["1.2.3.4", "fe80::1%eth0", "not an address"])
    text = rules([(IPv4Address("10.1.2.3"), 3142), (IPv6Address("fd00::7"), None)], own, (4,))
    assert "1.2.3.4 }" in text
    order = [
        "policy drop",
        "ip daddr 127.0.0.1 meta l4proto tcp tcp flags rst accept",
        "ip daddr 127.0.0.1 meta l4proto tcp add @refused4",
        "ip daddr 127.0.0.1 meta l4proto tcp reject",
        'oifname "lo" accept',
        "ip daddr 198.18.0.53 meta l4proto { tcp, udp } th dport 53 accept",
        "ip daddr 10.1.2.3 tcp dport 3142 accept",
        "ip6 daddr fd00::7 tcp dport 1-65535 accept",
        "ip daddr @internal4 reject",
        "\n    meta l4proto tcp accept",
    ]
    places = [text.index(each) for each in order]
    assert places == sorted(places)
    assert "fd00:6f63::53" not in text


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1", Endpoint("127.0.0.1")),
        ("mirror.example:8080", Endpoint("mirror.example", 8080)),
        ("[fd00::1]:80", Endpoint("fd00::1", 80)),
    ],
)
def test_endpoints_are_parsed(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint


@pytest.mark.parametrize(
    "text", ["", ":80", "a:b", "a:0", "a:65536", "http://a", "u@a:1", "a/b", "fd00::1", "a:1:2"]
)
def test_invalid_endpoints_are_errors(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid endpoint .*: HOST, HOST:PORT, or"):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://proxy.example:3128", Endpoint("proxy.example", 3128)),
        ("proxy.example:3128", Endpoint("proxy.example", 3128)),
        ("http://user:password@proxy.example", Endpoint("proxy.example", 80)),
        ("https://[fd00::1]/debian", Endpoint("fd00::1", 443)),
        ("file:///mirror", None),
        ("DIRECT", Endpoint("direct", 80)),
        ("http://a:99999/", None),
    ],
)
def test_endpoints_of_mirrors_and_proxies(url: str, endpoint: Endpoint | None) -> None:
    assert Endpoint.of_url(url) == endpoint


def test_the_setting_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPAM_CI_NETWORK_ALLOW", "127.0.0.1:8000, mirror.example")
    assert Settings().network_allow == (
        Endpoint("127.0.0.1", 8000),
        Endpoint("mirror.example"),
    )
    monkeypatch.setenv("OPAM_CI_NETWORK_ALLOW", "http://mirror.example")
    with pytest.raises(ValidationError, match="invalid endpoint"):
        Settings()
