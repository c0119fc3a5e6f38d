"""./opam-ci on a small clone with a lock of its own: real virtual environments and real pip."""

import ast
import errno
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from typing import NoReturn, TextIO

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import bootstrap, environment

ROOT = Path(__file__).resolve().parents[2]

MAIN = """
import json, sys
import tiny
print(json.dumps({"arguments": sys.argv[1:], "tiny": tiny.VERSION, "main": __file__}))
"""


def make_wheel(folder: Path, version: str) -> str:
    """Writes a package of one module and returns its line in a lock file."""
    wheel = folder / f"tiny-{version}-py3-none-any.whl"
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", f"VERSION = {version!r}\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"tiny=={version} --hash=sha256:{digest}\n"


class Clone:
    """A checkout with the real bootstrap and a product of a few lines."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        self.wheels = folder / "wheels"
        self.wheels.mkdir(parents=True)
        for name in ("opam-ci", "tools/environment.py", "tools/bootstrap.py"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        product = self.root / "opam_ci" / "cli"
        product.mkdir(parents=True)
        # What the bootstrap needs of the product: it must stay free of dependencies.
        for part in ("__init__.py", "cli/__init__.py", "cli/debian.py"):
            shutil.copy(ROOT / "opam_ci" / part, self.root / "opam_ci" / part)
        (product / "main.py").write_text(MAIN)
        (self.root / "requirements").mkdir()
        self.lock("1.0")

    def lock(self, version: str) -> None:
        (self.root / "requirements" / "main.txt").write_text(make_wheel(self.wheels, version))

    def start(self, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.root / "opam-ci", *arguments],
            cwd=cwd or self.root,
            env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, cwd: Path | None = None) -> tuple[dict[str, object], str]:
        return finished(self.start(*arguments, cwd=cwd))


def finished(process: subprocess.Popen[str]) -> tuple[dict[str, object], str]:
    """Returns what the product printed, and what the bootstrap errors about itself."""
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return json.loads(out), err


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone whose first two runs came at the same time."""
    made = Clone(tmp_path_factory.mktemp("bootstrap"))
    both = [made.start("hello"), made.start("hello")]
    answers = [finished(process) for process in both]
    assert [answer["tiny"] for answer, _ in answers] == ["1.0", "1.0"]
    errors = "".join(err for _, err in answers)
    assert errors.count("making a virtual environment") == 1, errors
    return made


def test_a_later_run_executes_the_command_at_once(clone: Clone) -> None:
    answer, err = clone.run("check", "--repo", "a b", "*")
    assert answer["arguments"] == ["check", "--repo", "a b", "*"]
    assert answer["main"] == str(clone.root / "opam_ci" / "cli" / "main.py")
    assert err == ""


def test_a_file_of_the_current_folder_shadows_no_module(clone: Clone, tmp_path: Path) -> None:
    for module in ("tiny.py", "json.py", "tools.py"):
        (tmp_path / module).write_text("raise SystemExit('taken over')\n")
    answer, _ = clone.run("hello", cwd=tmp_path)
    assert answer["tiny"] == "1.0"


def test_a_changed_lock_is_installed(clone: Clone) -> None:
    clone.lock("2.0")
    answer, err = clone.run("hello")
    assert answer["tiny"] == "2.0"
    assert "making a virtual environment" not in err
    clone.lock("1.0")
    assert clone.run("hello")[0]["tiny"] == "1.0"


def test_after_a_kill_it_starts_from_nothing(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    process = clone.start("hello")
    venv = clone.root / ".venv"
    deadline = time.monotonic() + 60
    # Python is in place and pip is not yet: the environment looks usable and is not.
    while not (venv / "bin" / "python3").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (venv / ".opam-ci.stamp").exists()
    answer, err = clone.run("hello")
    assert answer["tiny"] == "1.0"
    assert "making a virtual environment" in err


def test_a_moved_clone_needs_a_new_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environment, "STAMP", tmp_path / "stamp")
    (tmp_path / "stamp").write_text("\n".join(environment.facts("check")))
    assert environment.is_ready("check")
    assert bootstrap._is_usable()
    monkeypatch.setattr(environment, "ROOT", environment.ROOT / "moved")
    assert not bootstrap._is_usable()


def test_a_wrong_hash_is_refused(clone: Clone) -> None:
    make_wheel(clone.wheels, "3.0")
    (clone.root / "requirements" / "main.txt").write_text("tiny==3.0 --hash=sha256:" + "0" * 64)
    process = clone.start("hello")
    out, err = process.communicate(timeout=100)
    clone.lock("1.0")
    assert (process.returncode, out) == (bootstrap.EXIT_INTERNAL, "")
    assert "could not install the Python packages" in err
    assert "Traceback" not in err
    assert not (clone.root / ".venv" / ".opam-ci.stamp").exists()


def test_a_clone_of_somebody_else_gets_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse(lock: TextIO) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", lock.name)

    # Root may write everywhere: the refusal is made.
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(bootstrap, "_take", refuse)
    with pytest.raises(SystemExit) as caught:
        bootstrap.set_up("up")
    assert caught.value.code == bootstrap.EXIT_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"opam-ci: no permission to write {tmp_path}/lock: run this as the owner"
    )


def test_an_old_python_gets_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loader = importlib.machinery.SourceFileLoader("opam_ci_script", str(ROOT / "opam-ci"))
    spec = importlib.util.spec_from_loader("opam_ci_script", loader)
    assert spec is not None
    script = importlib.util.module_from_spec(spec)
    loader.exec_module(script)
    monkeypatch.setattr(sys, "version_info", (3, 9))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or later, and python3 is 3\.9"):
        script.main()


def test_a_missing_venv_module_gives_the_one_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "apt-get").symlink_to("/bin/false")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit) as caught:
        bootstrap._require_venv_module("/bin/false", "up")
    assert caught.value.code == bootstrap.EXIT_USAGE
    (last,) = capfd.readouterr().err.splitlines()
    assert "run this first: sudo apt-get update && sudo apt-get install" in last
    # All that is missing, at once: with an empty PATH, every program is.
    for package in (f"python3.{sys.version_info.minor}-venv", "bubblewrap", "mmdebstrap"):
        assert f" {package}" in last


@pytest.mark.parametrize("name", ["main.txt", "dev.txt", "lock.txt"])
def test_every_locked_package_is_pinned_and_hashed_and_names_no_index(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text
    for entry in text.replace("\\\n", " ").splitlines():
        if entry and not entry.lstrip().startswith("#"):
            requirement = Requirement(entry.split("--hash", 1)[0].strip())
            assert str(requirement.specifier).startswith("=="), entry
            assert "--hash=sha256:" in entry


def test_the_lock_satisfies_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {
        "main.txt": project["project"]["dependencies"],
        "dev.txt": project["project"]["dependencies"] + project["dependency-groups"]["dev"],
    }
    for name, requirements in wanted.items():
        text = (ROOT / "requirements" / name).read_text()
        locked = dict(re.findall(r"^([\w.-]+)==([^ ;]+)", text, re.MULTILINE))
        for line in requirements:
            requirement = Requirement(line)
            version = locked.get(canonicalize_name(requirement.name))
            assert version is not None, f"{line} is not in {name}: run ./opam-ci lock"
            assert requirement.specifier.contains(version), f"{line}: {name} has {version}"


def test_the_product_imports_nothing_that_only_developers_have() -> None:
    locked = set(
        re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / "main.txt").read_text(), re.MULTILINE)
    )
    providers = importlib.metadata.packages_distributions()
    for file in (ROOT / "opam_ci").rglob("*.py"):
        for module in imported(ast.parse(file.read_text())):
            if module in sys.stdlib_module_names or module == "opam_ci":
                continue
            names = {canonicalize_name(name) for name in providers.get(module, [])}
            assert names & locked, f"{file.relative_to(ROOT)} imports {module}: not in main.txt"


def imported(tree: ast.AST) -> set[str]:
    """Returns the top-level modules that a file imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found
