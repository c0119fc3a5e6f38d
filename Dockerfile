# One image for every role; docker-compose.yml chooses by command.
# Its opam is the one that orchestration lints with: see OPAM_CI_LINT_OPAM there.
FROM debian:13-slim

RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      bubblewrap ca-certificates git libseccomp2 mmdebstrap nftables opam passt python3 \
      python3-venv util-linux \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/opam-ci
COPY requirements requirements
RUN python3 -m venv .venv && .venv/bin/pip install --no-cache-dir --require-hashes -r requirements/main.txt
COPY opam_ci opam_ci
RUN printf '%s\n' '#!/opt/opam-ci/.venv/bin/python' 'from opam_ci.cli.main import main' 'main()' \
      > .venv/bin/opam-ci \
 && chmod +x .venv/bin/opam-ci \
 && echo /opt/opam-ci > "$(.venv/bin/python -c 'import site; print(site.getsitepackages()[0])')/opam_ci.pth"
ENV PATH=/opt/opam-ci/.venv/bin:$PATH PYTHONUNBUFFERED=1
CMD ["opam-ci", "worker"]
