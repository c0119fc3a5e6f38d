"""What reproduces a job by hand: the beginning of every log, to be pasted into a shell.

For a root file system it makes such a root with mmdebstrap and runs the job in it; for an image it
builds a Dockerfile. Both run the same commands, with opam's own sandbox off, as in the Dockerfiles
of opam-repo-ci: neither a chroot nor a build of an image can make namespaces.
"""

import re
import shlex
from collections.abc import Iterable
from typing import NamedTuple

from opam_ci.clients.runners.images.image import recipe
from opam_ci.clients.runners.listing import revdeps as listing
from opam_ci.clients.runners.phases import kinds
from opam_ci.clients.runners.phases import plan as phases
from opam_ci.clients.runners.phases.steps import OPAM_ENVIRONMENT
from opam_ci.core.jobs.build import BuildSpec, Source
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.platforms import contents
from opam_ci.core.platforms.debian import DebianRoot
from opam_ci.core.platforms.images import parse_image

_IN_EVERY_SWITCH = re.compile(r"(?:ocaml|ocaml-config|ocaml-system|base-[a-z]+)\.")
"""What `opam switch create` installs: it is built only when it is reinstalled."""

HEAD = "To reproduce this job"
"""Beginning of the text; commands are between the next blank line and the one after."""

_HOME = "/home/opam"
_CLONE = "repository"
_SCRIPT = "job.sh"
_OF_RUNNERS = frozenset({"OPAMCOLOR", "OPAMUTF8", "OPAMSTATUSLINE"})
"""Variables of a runner's steps that only make logs readable."""
_ENVIRONMENT = tuple(each for each in OPAM_ENVIRONMENT.items() if each[0] not in _OF_RUNNERS)
_EXPORT = "export "


class _Command(NamedTuple):
    """A command of a job; in the folder of the merged repository.

    Attributes:
        line: For a shell.
        as_root: Whether it installs system packages, for which opam needs root.
    """

    line: str
    as_root: bool = False


def in_root(spec: BuildSpec, *, debian: DebianRoot) -> str:
    """Returns the text for a job in a root file system.

    Args:
        spec: The job.
        debian: The Debian of which the root is made.
    """
    uname = f"{spec.platform.personality} " if spec.platform.personality else ""
    making = [
        *recipe(debian),
        f"--customize-hook=copy-in {_CLONE} {_SCRIPT} {_HOME}",
        f'--customize-hook={uname}chroot "$1" sh {_HOME}/{_SCRIPT}',
    ]
    return _text(
        "on a machine with git and mmdebstrap, as root or as any user with subordinate ids",
        [
            *_clone(spec.source),
            f"cat > {_SCRIPT} <<'END'",
            *_script(spec),
            "END",
            # Of what is made only the exit code is kept.
            "mmdebstrap " + " \\\n  ".join(map(shlex.quote, making)) + f" {debian.suite} /dev/null",
        ],
    )


def in_image(spec: BuildSpec, *, image: str) -> str:
    """Returns the text for a job in a container.

    Args:
        spec: The job.
        image: The image, by digest if it is known.
    """
    opam, personality = contents.opam_binary(spec.platform), spec.platform.personality
    choose = () if opam == contents.OPAM else (f"RUN ln -f {opam} {contents.OPAM}",)
    reference = parse_image(image)
    tag, _, digest = image.partition("@")
    # One that is of no registry: docker knows it by its id alone, BuildKit by its tag alone.
    by_tag = reference.is_local and reference.digest is not None and ":" in tag
    lines = [
        *((f"# {digest}", f"FROM {tag}") if by_tag else (f"FROM {image}",)),
        "USER root",
        *((f'SHELL ["{personality}", "/bin/sh", "-c"]',) if personality else ()),
        *choose,
        # Root has another home.
        f"ENV OPAMROOT={_HOME}/.opam {_variables(_ENVIRONMENT)}",
        f"WORKDIR {_HOME}/{_CLONE}",
        f"COPY --chown=1000:1000 {_CLONE} .",
    ]
    user = "root"
    for line, as_root in _commands(spec):
        if line.startswith(_EXPORT):
            lines.append(f"ENV {line.removeprefix(_EXPORT)}")
            continue
        wanted = "root" if as_root else "1000:1000"
        lines += [f"USER {wanted}"] * (wanted != user)
        user = wanted
        # What root writes to opam's root must stay its user's.
        own = f" && chown -R 1000:1000 {_HOME}/.opam" if as_root else ""
        lines.append(f"RUN {'OPAMROOTISOK=1 ' if as_root else ''}{line}{own}")
    return _text(
        "on a machine with git and docker or podman",
        [
            *_clone(spec.source),
            "cat > Dockerfile <<'END'",
            *lines,
            "END",
            "docker build --no-cache .",
        ],
    )


def on_machine(spec: BuildSpec, *, machine: str) -> str:
    """Returns the text for a job on a machine itself.

    Args:
        spec: The job.
        machine: What describes the machine.
    """
    return _text(
        f"on such a machine, {machine}",
        [
            *_clone(spec.source),
            f"cd {_CLONE}",
            f"{_EXPORT}OPAMROOT=$(mktemp -d) {_variables(_ENVIRONMENT)}",
            *(line for line, _ in _commands(spec)),
        ],
    )


def _text(where: str, lines: Iterable[str]) -> str:
    # Not indented: a here-document would not end.
    return "\n".join((f"{HEAD} {where} (opam's sandbox is off there):", "", *lines, "", ""))


def _clone(source: Source | None) -> list[str]:
    """Returns the commands that make a folder with the merged repository."""
    lines = ['cd "$(mktemp -d)"']
    if source is None:
        return [*lines, f"cp -r /path/of/a/clone/of/opam-repository {_CLONE}"]
    url = shlex.quote(source.url)
    if not source.head:
        return [*lines, f"mkdir {_CLONE} && cp -r {url}/packages {url}/repo {_CLONE}"]
    git = f"git -C {_CLONE}"
    return [
        *lines,
        f"git init --quiet {_CLONE}",
        f"{git} fetch --quiet {url} {source.base} {source.head}",
        f"{git} checkout --quiet {source.head}",
        f"{git} -c user.name=ci -c user.email=ci@localhost merge --quiet --no-edit {source.base}",
    ]


def _script(spec: BuildSpec) -> list[str]:
    """Returns the script that root runs in a root file system; opam runs as its user."""
    lines = [
        "set -e",
        f"{_EXPORT}HOME={_HOME} {_variables(_ENVIRONMENT)}",
        f"chown -R opam: {_HOME} && cd {_HOME}/{_CLONE}",
        'opam() { runuser -u opam -- opam "$@"; }',
    ]
    for line, as_root in _commands(spec):
        lines.append(f"OPAMROOTISOK=1 command {line}" if as_root else line)
        if as_root:
            lines.append(f"chown -R opam: {_HOME}/.opam")
    return lines


def _variables(values: Iterable[tuple[str, str]]) -> str:
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in values)


def _commands(spec: BuildSpec) -> list[_Command]:
    """Returns the commands, one a line, for a shell in the merged repository."""
    lines = [f"opam {line}" for line in _initialisation(spec)]
    if criteria := kinds.criteria(spec):
        # Only now: the compiler is not the oldest one.
        lines.append(f"{_EXPORT}{_variables(criteria)}")
    lines += [f"opam {line}" for line in _job(spec)]
    return [_Command(line, as_root=line.startswith("opam install --depext-only")) for line in lines]


def _initialisation(spec: BuildSpec) -> list[str]:
    init = "--bare --no-setup --disable-sandboxing"
    mirrors = [url for url in spec.archive_mirrors if not url.startswith("file:")]
    listed = " ".join(f'"{url}"' for url in mirrors)
    shared = [
        # Debian's opam 2.1 is built without it.
        "option --global solver=builtin-0install || true",
        *([f"option --global {shlex.quote(f'archive-mirrors=[{listed}]')}"] if mirrors else []),
    ]
    if not spec.platform.compiler:
        # The image's own switch, with its compiler.
        return [f"init --reinit {init}", "repository set-url --kind=local default .", *shared]
    return [
        f"init {init} --kind=local default .",
        *shared,
        f"switch create {phases.SWITCH} {spec.platform.compiler}",
    ]


def _job(spec: BuildSpec) -> list[str]:
    package = shlex.quote(spec.job.package)
    if spec.job.kind is JobKind.LIST_REVDEPS:
        steps = [listing.command(spec, each, coinstallable=True) for each in listing.queries(spec)]
        return [shlex.join(step.argv[1:]) for step in steps]
    lines = []
    if kinds.is_revdep(spec):
        version = shlex.quote(spec.job.package.split(".", 1)[1])
        lines += [
            # The solver must not change this version for the reverse dependency.
            f"pin add --kind=version --no-action {package} {version}",
            f"install --depext-only {package}",
            f"install {package}",
        ]
    options = "".join(f" {word}" for word in kinds.invariant(spec))
    tests = "".join(f" {word}" for word in kinds.tests(spec))
    target = shlex.quote(kinds.target(spec))
    lines += [
        f"install --depext-only{tests}{options} {target}",
        f"install --deps-only{tests}{options} {target}",
        f"{_verb(spec)} --verbose{options} {target}",
    ]
    if kinds.runs_tests(spec):
        lines.append(f"reinstall --with-test --verbose{options} {target}")
    return lines


def _verb(spec: BuildSpec) -> str:
    return "reinstall" if _IN_EVERY_SWITCH.match(kinds.target(spec)) else "install"
