"""How fast the analysis and the parser are.

    python bench/analysis.py REPOSITORY SHARED [--rounds N]

REPOSITORY is the real opam-repository as a bare clone, SHARED the folder of real data. One
run measures, in this order: the analysis of every real pull request from its head, merge
included, in a warm process, beside the peer's published figures; one made change of 1,195
packages, as large as the largest real one; parsing of every opam file at head; texts of one
megabyte that invite quadratic work. Times are wall time of this machine, as it is loaded.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from opam_ci.clients.git.analysis import analyse
from opam_ci.clients.git.repository import Repository
from opam_ci.core.opam.errors import OpamSyntaxError
from opam_ci.core.opam.file import parse
from opam_ci.core.opam.lexer import tokens
from opam_ci.core.opam.metadata import read

# Milliseconds, from the issue: opam-repo-ci's analysis with `git merge`.
PEER_MEDIAN, PEER_P90 = 291, 461
LARGE = 1_195
MEGABYTE = 1_000_000
HOSTILE = {
    "fields": "x: a\n" * (MEGABYTE // 5),
    "one list": "x: [" + "a " * (MEGABYTE // 2) + "]",
    "one chain": "x: " + " | ".join(["a"] * (MEGABYTE // 4)),
    "open brackets": "x: " + "[" * MEGABYTE,
    "prefixes": "x: " + "!" * MEGABYTE,
    "backslashes": 'x: "' + "\\" * MEGABYTE,
    "comments": "x: " + "(*" * (MEGABYTE // 2),
    "quotes": '"' * MEGABYTE,
    "underscores": "x: " + "_" * MEGABYTE,
    "plus signs": "x: " + "a+" * (MEGABYTE // 2),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("repository", type=Path)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--rounds", type=int, default=1)
    given = arguments.parse_args()
    with Repository.open(given.repository) as repository:
        for _ in range(given.rounds):
            pull_requests(repository, given.shared)
        parsing(repository)
    with tempfile.TemporaryDirectory() as folder:
        large_change(given.repository, Path(folder) / "large.git")
    hostile_texts()


def pull_requests(repository: Repository, shared: Path) -> None:
    records = [json.loads(line) for line in (shared / "real" / "prs.jsonl").open()]
    seconds, equal = [], 0
    for record in records:
        begin = time.perf_counter()
        base, head = (repository.resolve(record[name]) for name in ("base", "head"))
        result = analyse(repository, base, head)
        seconds.append(time.perf_counter() - begin)
        found = result.model_dump(mode="json", include={"packages", "failure"})
        equal += found == {"packages": record["packages"], "failure": record["failure"]}
    ours = sorted(1000 * second for second in seconds)
    print(f"pull requests: {equal}/{len(records)} equal to the peer")
    print(f"  median {statistics.median(ours):.0f} ms (peer {PEER_MEDIAN} ms)")
    print(f"  p90 {ours[int(len(ours) * 0.9)]:.0f} ms (peer {PEER_P90} ms)")
    print(f"  max {ours[-1]:.0f} ms")


def parsing(repository: Repository) -> None:
    entries = repository.list_tree(repository.resolve("master"), ["packages/"])
    ids = [entry.object_id for entry in entries if entry.path.endswith("/opam")]
    texts = list(repository.objects(ids))
    size = sum(map(len, texts))
    begin = time.process_time()
    count = sum(1 for text in texts for _ in tokens(text.decode("latin-1")))
    lexed = time.process_time()
    for text in texts:
        parse(text)
    parsed = time.process_time()
    for text in texts[::10]:
        read(parse(text))
    both = time.process_time()
    print(f"parsing {len(texts)} opam files, {size / 1e6:.1f} MB, {count} tokens:")
    print(f"  lexer alone {lexed - begin:.1f} s CPU")
    print(f"  parser {parsed - lexed:.1f} s CPU, {size / 1e6 / (parsed - lexed):.1f} MB/s")
    print(f"  parser and fields, from a tenth: {10 * (both - parsed):.1f} s CPU")


def large_change(real: Path, clone: Path) -> None:
    subprocess.run(["git", "clone", "-q", "--bare", "--shared", real, clone], check=True)
    with Repository.open(clone) as repository:
        base = repository.resolve("master")
        entries = repository.list_tree(base, ["packages/"])
        opam_files = [entry for entry in entries if entry.path.endswith("/opam")][::15][:LARGE]
        contents = list(repository.objects([entry.object_id for entry in opam_files]))
    message = b"commit refs/heads/large\ncommitter a <a@b> 1700000000 +0000\ndata 1\nx\n"
    stream = [message + f"from {base}".encode()]
    for entry, content in zip(opam_files, contents, strict=True):
        changed = content + b'\nx-ci-accept-failures: ["debian-11"]\n'
        stream.append(f"M 100644 inline {entry.path}\ndata {len(changed)}\n".encode() + changed)
    subprocess.run(
        ["git", "fast-import", "--quiet"], cwd=clone, input=b"\n".join(stream), check=True
    )
    with Repository.open(clone) as repository:
        head = repository.resolve("large")
        analyse(repository, repository.parents(base)[0], base)  # warms the processes
        begin = time.perf_counter()
        result = analyse(repository, base, head)
        seconds = time.perf_counter() - begin
    assert len(result.packages) == LARGE, result.failure
    print(f"a change of {LARGE} packages: {seconds:.2f} s")


def hostile_texts() -> None:
    print("texts of a megabyte:")
    for name, text in HOSTILE.items():
        begin = time.process_time()
        try:
            parse(text.encode(), max_size=2 * MEGABYTE)
            verdict = "parsed"
        except OpamSyntaxError as error:
            verdict = error.message[:40]
        print(f"  {name}: {time.process_time() - begin:.1f} s CPU, {verdict}")


if __name__ == "__main__":
    main()
