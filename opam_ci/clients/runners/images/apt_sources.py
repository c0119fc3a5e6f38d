"""The Debian archive of this machine, read from its own apt configuration.

A worker behind a mirror or a proxy must make its root file system through the same mirror
and proxy as everything else on that machine. Both formats of apt's sources are read: the
one-line format of sources.list(5) and deb822.
"""

import re
import shutil
import subprocess
from email import message_from_string
from pathlib import Path
from urllib.parse import urlsplit

from opam_ci.core.model import Frozen
from opam_ci.core.platforms.debian import DebianRoot

DEFAULT_ARCHIVE = "http://deb.debian.org/debian"
DEFAULT_SECURITY = "http://deb.debian.org/debian-security"

_DEBIAN_SUITE = re.compile(
    r"(?:buster|bullseye|bookworm|trixie|forky|sid|stable|oldstable|testing|unstable)"
    r"(?:-updates|-backports)?"
)
_SECURITY_SUITE = re.compile(r"[a-z]+(?:-security|/updates)")
_COPIED = re.compile(
    r"Acquire::(?:(?:https?|ftp)::Proxy(?:::.*)?|Check-Valid-Until|Check-Date|Retries)",
    re.IGNORECASE,
)


class Source(Frozen):
    """An archive of binary packages in the machine's configuration."""

    uri: str
    suite: str


class Archives(Frozen):
    """Where a Debian root file system comes from.

    Attributes:
        main: URI of the archive.
        security: URI of the archive of security updates, None if the machine has none.
        options: apt options of the machine (proxies, date checks) as (key, value).
    """

    main: str = DEFAULT_ARCHIVE
    security: str | None = DEFAULT_SECURITY
    options: tuple[tuple[str, str], ...] = ()

    @property
    def urls(self) -> tuple[str, ...]:
        """URLs of the archives and of apt's proxies."""
        archives = (self.main, self.security) if self.security is not None else (self.main,)
        return (*archives, *(value for key, value in self.options if "proxy" in key.lower()))

    @property
    def direct(self) -> tuple[str, ...]:
        """The main archive, if it is reached without a proxy that apt alone knows."""
        proxies = any("proxy" in key.lower() for key, _ in self.options)
        return () if proxies else (self.main,)

    def sources(self, debian: DebianRoot) -> tuple[str, ...]:
        """Returns sources.list lines for a root file system."""
        suite = debian.suite
        lines = [f"deb {self.main} {suite} main"]
        if debian.has_updates:
            lines.append(f"deb {self.main} {suite}-updates main")
        if debian.has_updates and self.security is not None:
            lines.append(f"deb {self.security} {suite}-security main")
        return tuple(lines)


def one_line_sources(text: str) -> list[Source]:
    """Parses the one-line format: `deb [options] URI SUITE COMPONENT…`."""
    found = []
    for line in text.splitlines():
        words = re.sub(r"\[[^\]]*\]", " ", line.split("#", 1)[0]).split()
        if len(words) >= 4 and words[0] == "deb" and "main" in words[3:]:  # noqa: PLR2004 - type, URI, suite, component
            found.append(Source(uri=words[1], suite=words[2]))
    return found


def deb822_sources(text: str) -> list[Source]:
    """Parses stanzas of deb822, which look like headers of mail: every URI with every suite."""
    found = []
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", uncommented.strip()):
        header = message_from_string(stanza)
        fields = {name.lower(): str(value).split() for name, value in header.items()}
        if fields.get("enabled", ["yes"])[0].lower() in ("no", "false", "0"):
            continue
        if "deb" in fields.get("types", []) and "main" in fields.get("components", []):
            found += [
                Source(uri=uri, suite=suite)
                for uri in fields.get("uris", [])
                for suite in fields.get("suites", [])
            ]
    return found


def usable(uri: str) -> bool:
    """Returns whether an archive's URI may be written into a build root.

    Only HTTP: a `file:` archive is not visible there. No URI with a password: everything in
    the root file system is readable by the packages under test.
    """
    parts = urlsplit(uri)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


def choose(sources: list[Source], options: tuple[tuple[str, str], ...] = ()) -> Archives:
    """Chooses the archives of a Debian machine; Debian's own for any other machine."""
    good = [source for source in sources if usable(source.uri)]
    main = [source.uri for source in good if _DEBIAN_SUITE.fullmatch(source.suite)]
    security = [source.uri for source in good if _SECURITY_SUITE.fullmatch(source.suite)]
    # Of Ubuntu's suites only the "-security" ones match, and these are not Debian's: an archive
    # of security updates counts only beside a Debian archive.
    if not main:
        return Archives(options=options)
    return Archives(
        main=main[0].rstrip("/"),
        security=security[0].rstrip("/") if security else None,
        options=options,
    )


def copied_options(dump: str) -> tuple[tuple[str, str], ...]:
    """Returns the proxies and date checks in the output of `apt-config dump`."""
    found = re.findall(r'^(\S+) "([^"\n]*)";$', dump, re.MULTILINE)
    return tuple((key, value) for key, value in found if value and _COPIED.fullmatch(key))


def read_host(etc_apt: Path = Path("/etc/apt")) -> Archives:
    """Reads this machine's apt configuration; blocks for a few milliseconds."""
    sources: list[Source] = []
    listed = etc_apt / "sources.list"
    for path in [listed, *sorted((etc_apt / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".list":
            sources += one_line_sources(text)
        elif path.suffix == ".sources":
            sources += deb822_sources(text)
    apt_config = shutil.which("apt-config")
    dump = ""
    if apt_config is not None:
        dump = subprocess.run(  # noqa: S603 - a fixed command
            [apt_config, "dump"], capture_output=True, text=True, check=False
        ).stdout
    return choose(sources, copied_options(dump))
