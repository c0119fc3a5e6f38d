"""What reproduces a job by hand, at the head of its log."""
# ruff: noqa: E501 - scripts as they are

from inline_snapshot import snapshot

from opam_ci.clients.runners.job import reproduction
from opam_ci.core.jobs.build import Source
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.platforms.debian import DebianRoot
from opam_ci.core.platforms.model import EMBEDDED
from tests.unit.clients.runners.test_phases import spec

TRIXIE = DebianRoot(suite="trixie", architecture="amd64")
SID = DebianRoot(suite="unstable", architecture="amd64")
SOURCE = Source(url="https://example.org/it's.git", base="b" * 40, head="a" * 40)


def test_the_log_has_a_script_that_makes_the_same_root_and_runs_the_job() -> None:
    job = spec(JobKind.REVDEP_TEST).model_copy(update={"source": SOURCE})
    text = reproduction.in_root(job, debian=TRIXIE)
    assert text == snapshot(
        """\
To reproduce this job on a machine with git and mmdebstrap, as root or as any user with subordinate ids (opam's sandbox is off there):

cd "$(mktemp -d)"
git init --quiet repository
git -C repository fetch --quiet 'https://example.org/it'"'"'s.git' bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
git -C repository checkout --quiet aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
git -C repository -c user.name=ci -c user.email=ci@localhost merge --quiet --no-edit bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
cat > job.sh <<'END'
set -e
export HOME=/home/opam OPAMERRLOGLEN=0 OPAMPRECISETRACKING=1 OPAMDOWNLOADJOBS=1 CI=true OPAM_REPO_CI=true OPAMYES=1 OPAMCONFIRMLEVEL=unsafe-yes
chown -R opam: /home/opam && cd /home/opam/repository
opam() { runuser -u opam -- opam "$@"; }
opam init --bare --no-setup --disable-sandboxing --kind=local default .
opam option --global solver=builtin-0install || true
opam switch create ci ocaml-system
opam pin add --kind=version --no-action cppo.1.8.0 1.8.0
OPAMROOTISOK=1 command opam install --depext-only cppo.1.8.0
chown -R opam: /home/opam/.opam
opam install cppo.1.8.0
OPAMROOTISOK=1 command opam install --depext-only --with-test user.3
chown -R opam: /home/opam/.opam
opam install --deps-only --with-test user.3
opam install --verbose user.3
opam reinstall --with-test --verbose user.3
END
mmdebstrap --variant=apt \\
  --architectures=amd64 \\
  --include=bubblewrap,bzip2,ca-certificates,curl,g++,gcc,git,gzip,libc6-dev,m4,make,ocaml,opam,passwd,patch,pkg-config,procps,rsync,tar,unzip,util-linux,xz-utils \\
  '--customize-hook=chroot "$1" useradd --uid 1000 --user-group --create-home --shell /bin/bash opam' \\
  '--customize-hook=copy-in repository job.sh /home/opam' \\
  '--customize-hook=chroot "$1" sh /home/opam/job.sh' trixie /dev/null

"""
    )
    assert len(text.splitlines()) <= 40
    assert "reinstall" not in reproduction.in_root(spec(), debian=TRIXIE)
    assert "cp -r /path/of/a/clone/of/opam-repository" in reproduction.in_root(spec(), debian=SID)


def test_the_log_has_a_dockerfile_with_the_digest_of_the_image() -> None:
    platform = EMBEDDED.model_copy(
        update={"opam": "2.1", "compiler": "", "arch": "i386", "personality": "linux32"}
    )
    job = spec(JobKind.LOWER_BOUNDS).model_copy(
        update={"source": SOURCE, "platform": platform, "archive_mirrors": ("https://m.org/c",)}
    )
    image = f"docker.io/ocaml/opam@sha256:{'c' * 64}"
    text = reproduction.in_image(job, image=image)
    assert text == snapshot(
        """\
To reproduce this job on a machine with git and docker or podman (opam's sandbox is off there):

cd "$(mktemp -d)"
git init --quiet repository
git -C repository fetch --quiet 'https://example.org/it'"'"'s.git' bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
git -C repository checkout --quiet aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
git -C repository -c user.name=ci -c user.email=ci@localhost merge --quiet --no-edit bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
cat > Dockerfile <<'END'
FROM docker.io/ocaml/opam@sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
USER root
SHELL ["linux32", "/bin/sh", "-c"]
RUN ln -f /usr/bin/opam-2.1 /usr/bin/opam
ENV OPAMROOT=/home/opam/.opam OPAMERRLOGLEN=0 OPAMPRECISETRACKING=1 OPAMDOWNLOADJOBS=1 CI=true OPAM_REPO_CI=true OPAMYES=1 OPAMCONFIRMLEVEL=unsafe-yes
WORKDIR /home/opam/repository
COPY --chown=1000:1000 repository .
USER 1000:1000
RUN opam init --reinit --bare --no-setup --disable-sandboxing
RUN opam repository set-url --kind=local default .
RUN opam option --global solver=builtin-0install || true
RUN opam option --global 'archive-mirrors=["https://m.org/c"]'
ENV OPAMCRITERIA='+removed,+count[version-lag,solution]' OPAMFIXUPCRITERIA='+removed,+count[version-lag,solution]' OPAMUPGRADECRITERIA='+removed,+count[version-lag,solution]'
USER root
RUN OPAMROOTISOK=1 opam install --depext-only cppo.1.8.0 && chown -R 1000:1000 /home/opam/.opam
USER 1000:1000
RUN opam install --deps-only cppo.1.8.0
RUN opam install --verbose cppo.1.8.0
END
docker build --no-cache .

"""
    )
    assert len(text.splitlines()) <= 40


def test_a_root_of_another_architecture_is_reproduced_under_its_personality() -> None:
    platform = EMBEDDED.model_copy(update={"arch": "i386", "personality": "linux32"})
    i386 = DebianRoot(suite="trixie", architecture="i386")
    text = reproduction.in_root(spec().model_copy(update={"platform": platform}), debian=i386)
    assert "--architectures=i386 " in text
    assert "customize-hook=linux32 chroot" in text


def test_a_listing_is_reproduced_with_the_queries_of_the_platforms_policy() -> None:
    listing = spec(JobKind.LIST_REVDEPS)
    assert reproduction.in_root(listing, debian=SID).count("--coinstallable-with") == 3
    direct = EMBEDDED.model_copy(update={"only_direct_revdeps": True})
    text = reproduction.in_root(listing.model_copy(update={"platform": direct}), debian=SID)
    assert text.count("--coinstallable-with") == 2
    assert "--recursive" not in text


def test_an_image_of_no_registry_has_its_tag_in_a_dockerfile() -> None:
    """docker gives it no digest, and its builder takes no id."""
    number = f"sha256:{'c' * 64}"
    text = reproduction.in_image(spec(), image=f"localhost/mine:1@{number}")
    assert f"# {number}\nFROM localhost/mine:1\n" in text
    text = reproduction.in_image(spec(), image=f"localhost/mine@{number}")
    assert f"FROM localhost/mine@{number}\n" in text
