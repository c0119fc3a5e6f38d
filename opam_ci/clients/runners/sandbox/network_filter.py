"""What a phase with network may reach: the internet and what an operator allows, nothing else.

Pure: the nftables rules of a network namespace as text. The addresses that
count as internal are those that IANA's special-purpose registries (RFC 6890) call not globally
reachable, multicast, and the machine's own. Rules look at addresses of packets, so neither a
redirect nor a name leads around them.
"""

from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final

Address = IPv4Address | IPv6Address

ADDRESS: Final = "198.18.0.2"
GATEWAY: Final = "198.18.0.1"
RESOLVERS: Final = {4: "198.18.0.53", 6: "fd00:6f63::53"}
"""Addresses within a job's namespace, by version of IP for the name servers: from ranges that no
public host has (RFC 2544, RFC 4193)."""

TABLE: Final = "opam_ci"
REFUSED_SETS: Final = ("refused4", "refused6")
"""Sets of `rules` with the addresses that they refused."""

_MOST_REFUSED: Final = 64
_LAST_PORT: Final = 65535

INTERNAL4: Final = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
)
# Global unicast is 2000::/3; of it, 2001::/23 has Teredo, and 2002::/16 is 6to4: both carry IPv4
# addresses that these rules would not see.
INTERNAL6: Final = (
    *("::/3", "4000::/2", "8000::/1"),
    *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
)
_SPECIAL: Final = {4: INTERNAL4, 6: INTERNAL6}
_LOOPBACK: Final = {4: "127.0.0.1", 6: "::1"}
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an IPv4 address. The only way to it for hosts without IPv4."""


def rules(
    allowed: Iterable[tuple[Address, int | None]],
    own: Iterable[Address],
    name_servers: Sequence[int],
) -> str:
    """Returns the ruleset of a namespace, in the syntax of nft(8).

    Args:
        allowed: Internal addresses that may be reached all the same, each with a port or, as
            None, with all.
        own: The machine's own addresses.
        name_servers: Versions of IP (4, 6) for which there is a name server in `RESOLVERS`.
    """
    allowed, own = list(allowed), list(own)
    lines = [f"table inet {TABLE} {{"]
    for version, special in _SPECIAL.items():
        internal = [*special, *(str(each) for each in own if each.version == version)]
        lines += [
            f"  set internal{version} {{",
            f"    type ipv{version}_addr; flags interval; auto-merge",
            f"    elements = {{ {', '.join(internal)} }}",
            "  }",
            f"  set refused{version} {{",
            f"    type ipv{version}_addr; flags dynamic; size {_MOST_REFUSED}",
            "  }",
        ]
    lines += [
        "  chain output {",
        "    type filter hook output priority filter; policy drop;",
    ]
    # Inside, loopback leads to what pasta forwards, and pasta listens on both addresses.
    for version, loopback in _LOOPBACK.items():
        if not any(each == ip_address(loopback) for each, _ in allowed):
            here = f"    {_to(version)} {loopback} meta l4proto tcp"
            lines += [
                # The answer to who is refused goes to the same address.
                f"{here} tcp flags rst accept",
                f"{here} add @refused{version} {{ {_to(version)} }}",
                f"{here} reject with tcp reset",
            ]
    lines.append('    oifname "lo" accept')
    for version in name_servers:
        server = f"{_to(version)} {RESOLVERS[version]}"
        lines.append(f"    {server} meta l4proto {{ tcp, udp }} th dport 53 accept")
    for address, port in allowed:
        ports = f"1-{_LAST_PORT}" if port is None else str(port)
        lines.append(f"    {_to(address.version)} {address} tcp dport {ports} accept")
    translated = ", ".join(map(str, _translated()))
    lines += [
        # Neighbour discovery; pasta answers it.
        "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
        "    ip daddr 224.0.0.0/4 drop",
        "    ip6 daddr ff00::/8 drop",
        f"    ip6 daddr {_NAT64} ip6 daddr != {{ {translated} }} meta l4proto tcp accept",
    ]
    for version in _SPECIAL:
        # Two rules: a full set must not let a packet pass.
        internal_rule = f"    {_to(version)} @internal{version}"
        lines += [
            f"{internal_rule} add @refused{version} {{ {_to(version)} }}",
            f"{internal_rule} reject with icmpx admin-prohibited",
        ]
    return "\n".join([*lines, "    meta l4proto tcp accept", "  }", "}", ""])


def _translated() -> list[IPv6Network]:
    """Returns the addresses that stand for internal IPv4 addresses behind a NAT64."""
    start = int(_NAT64.network_address)
    return [
        IPv6Network((start + int(each.network_address), _NAT64.prefixlen + each.prefixlen))
        for each in map(IPv4Network, INTERNAL4)
    ]


def _to(version: int) -> str:
    return {4: "ip daddr", 6: "ip6 daddr"}[version]


def addresses(texts: Iterable[str]) -> list[Address]:
    """Parses addresses; leaves out what is none, and the zone of a link-local one."""
    found = []
    for text in texts:
        try:
            found.append(ip_address(text.partition("%")[0]))
        except ValueError:
            continue
    return found
