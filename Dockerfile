# One image for every role; docker-compose.dev.yml chooses by command.
# Its opam is the one that orchestration lints with: see OPAM_CI_LINT_OPAM there.
# Debian's packages are the newest of its archive, which apt verifies: a snapshot would keep their
# security updates out.
FROM debian:13-slim@sha256:d7e12182ce18b85b93007c1dedf31f2d29e01ccf3182cc4017c709b6259bc132

RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      bubblewrap ca-certificates git libseccomp2 mmdebstrap nftables opam passt python3 \
      python3-venv util-linux \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/opam-ci
COPY requirements requirements
# The lock is complete and hashed: nothing is resolved, and no code of a package runs.
RUN python3 -m venv .venv \
 && .venv/bin/pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
      -r requirements/main.txt
COPY opam_ci opam_ci
RUN printf '%s\n' '#!/opt/opam-ci/.venv/bin/python' 'from opam_ci.cli.main import main' 'main()' \
      > .venv/bin/opam-ci \
 && chmod +x .venv/bin/opam-ci \
 && echo /opt/opam-ci > "$(.venv/bin/python -c 'import site; print(site.getsitepackages()[0])')/opam_ci.pth"
ENV PATH=/opt/opam-ci/.venv/bin:$PATH PYTHONUNBUFFERED=1
CMD ["opam-ci", "worker"]
