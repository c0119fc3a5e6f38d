"""Logins to registries, from the files in which container engines keep them.

They are read for each request and kept nowhere. Logins that a credential helper keeps are used by
the engine alone.
"""

import base64
import binascii
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

_HUB = "docker.io"
_HUB_NAMES = frozenset({"index.docker.io", "registry-1.docker.io"})


def login(host: str, path: str) -> str | None:
    """Returns the login to a registry as HTTP's basic authentication wants it.

    Args:
        host: The registry.
        path: Name of the repository there: podman keeps logins by prefixes of it, too.

    Returns:
        None if there is none.
    """
    parts = path.split("/")
    names = ["/".join((host, *parts[:count])) for count in range(len(parts), -1, -1)]
    for file in _files():
        logins = _logins(file)
        for name in names:
            if (found := logins.get(name)) is not None:
                return found
    return None


def _files() -> Iterator[Path]:
    """Yields the files in podman's order (containers-auth.json(5)); the last is docker's."""
    environment = os.environ
    if "REGISTRY_AUTH_FILE" in environment:
        yield Path(environment["REGISTRY_AUTH_FILE"])
    run = environment.get("XDG_RUNTIME_DIR")
    yield (Path(run) if run else Path("/run/containers") / str(os.getuid())) / (
        "containers/auth.json" if run else "auth.json"
    )
    home = Path(environment.get("HOME") or Path.home())
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"
    yield Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"


def _logins(file: Path) -> dict[str, str]:
    """Reads the logins of a file, by registry."""
    try:
        found = json.loads(file.read_bytes()).get("auths", {}).items()
    except (FileNotFoundError, PermissionError):
        return {}
    except (ValueError, AttributeError):
        _log.warning("%s holds no logins: it is not JSON of the expected form", file)
        return {}
    return {_name(key): each["auth"] for key, each in found if _is_login(each)}


def _name(key: str) -> str:
    """Returns a key without what docker adds to it, such as `https://index.docker.io/v1/`."""
    name = key.partition("://")[2] or key
    name = name.removesuffix("/").removesuffix("/v1").removesuffix("/v2")
    host, slash, path = name.partition("/")
    return f"{_HUB if host in _HUB_NAMES else host}{slash}{path}"


def _is_login(entry: Any) -> bool:
    auth = entry.get("auth") if isinstance(entry, dict) else None
    if not isinstance(auth, str):
        return False
    try:
        return b":" in base64.b64decode(auth, validate=True)
    except (ValueError, binascii.Error):
        return False
