"""This file knows how a checkout becomes an environment that works: an interpreter, a torch that fits, the package.

    python3 scripts/bootstrap.py      (what `make setup` runs)

`TWOCLOCKS_PYTHON` names an interpreter to install into, as it is; otherwise `.venv` is made in the checkout.
`TWOCLOCKS_TORCH_INDEX` is the address of the package index that torch is taken from. Otherwise pip's ordinary index
serves a machine with an NVIDIA driver; without one it is a local wheel, where pip's settings offer one, and else
PyTorch's CPU index, so that no CUDA package comes to a machine that cannot use it. A torch that imports is kept.

Progress goes to stderr, the interpreter's path to stdout. A second run does nothing. Standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = (3, 11)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NVIDIA_MODULE = Path("/proc/driver/nvidia/version")
PIP_INSTALL = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
TAIL = 12

# Prints the version, then where torch and twoclocks would be imported from ("None" for nowhere). Imports neither.
GLANCE = """
import sys
from importlib.util import find_spec
print("%d.%d.%d" % sys.version_info[:3])
for name in ("torch", "twoclocks"):
    print(getattr(find_spec(name), "origin", None))
"""

# Prints JSON: whether pip is there, the version of the installed torch, why it does not import, the CUDA packages.
# The sum is for a torch that was cut short: an empty folder of that name imports too.
INVENTORY = """
import importlib.metadata as metadata, json
names = {str(d.metadata["Name"]).lower(): d.version for d in metadata.distributions()}
try:
    import torch
    torch.ones(2).sum()
    refusal = None
except Exception as error:
    refusal = f"{type(error).__name__}: {error}"
print(json.dumps({
    "pip": "pip" in names,
    "torch": names.get("torch"),
    "refusal": refusal,
    "cuda": sorted(n for n in names if n.startswith(("nvidia-", "cuda-"))),
}))
"""


class Attempt(NamedTuple):
    """One way to do a step: what to say of it, its command, and the environment variables it runs under."""

    words: str
    command: list[str]
    settings: Mapping[str, str] = {}


class StepFailed(Exception):
    """A step that did not work. Its message says which, what was printed, and what to do."""


def main() -> int:
    """Set up, print the interpreter on stdout, and return the exit code."""
    try:
        python = set_up()
    except StepFailed as failure:
        say(str(failure))
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next run goes on from here.")
        return 130
    print(python)
    return 0


def set_up() -> str:
    """Return the path of an interpreter that has all the project needs, installing what is missing."""
    python = chosen_python()
    if not is_done(python):
        with one_at_a_time():
            if not is_done(python):  # another run may have done it while this one waited
                install(python)
    return python


def chosen_python() -> str:
    """Return the interpreter to install into: that of `TWOCLOCKS_PYTHON`, else the one of `.venv`, made or not."""
    wanted = os.environ.get("TWOCLOCKS_PYTHON")
    if not wanted:
        return str(ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    found = shutil.which(wanted)
    if found is None:
        raise StepFailed(f"TWOCLOCKS_PYTHON is {wanted}, which is no program: name an interpreter, such as python3.12.")
    return str(Path(found).absolute())  # not resolved: in a virtual environment the link is what matters


def is_done(python: str) -> bool:
    """Return whether an earlier run finished with this interpreter and pyproject.toml, and its work is still there."""
    version, torch, twoclocks = glance(python)
    ours = ROOT / "src" / "twoclocks" / "__init__.py"
    return (
        stamp(python, version).exists()
        and torch != "None"
        and Path(twoclocks).exists()
        and Path(twoclocks).samefile(ours)
    )


def glance(python: str) -> tuple[str, str, str]:
    """Return the interpreter's version and the origins of torch and twoclocks, all "None" where it does not run."""
    seen = run([python, "-c", GLANCE])
    version, torch, twoclocks = seen.stdout.splitlines()[-3:] if seen.returncode == 0 else ["None"] * 3
    return version, torch, twoclocks


def stamp(python: str, version: str) -> Path:
    """Return the file whose being there says that set-up finished for this interpreter and this pyproject.toml."""
    key = "\0".join([(ROOT / "pyproject.toml").read_text(encoding="utf-8"), python, version])
    return ROOT / "build" / "setup" / hashlib.sha256(key.encode()).hexdigest()[:16]


def install(python: str) -> None:
    """Bring all that the project needs to the interpreter, check it, and leave the stamp."""
    start = time.monotonic()
    version = ensure_python(python)
    before = inventory(python)
    ensure_pip(python, before)
    ensure_torch(python, before)
    install_project(python)
    after = inventory(python)
    check(before, after)
    stamp(python, version).touch()
    say(f"done in {time.monotonic() - start:.0f} s: torch {after['torch']} imports, {cuda_words(after)}.")


def ensure_python(python: str) -> str:
    """Make `.venv` unless it runs or another interpreter was chosen; return the version, which must be new enough."""
    version = glance(python)[0]
    if version == "None" and not os.environ.get("TWOCLOCKS_PYTHON"):
        make_environment()
        version = glance(python)[0]
    if version == "None":
        raise StepFailed(f"{python} does not run as a Python: set TWOCLOCKS_PYTHON to one that does, or remove .venv.")
    require_new_enough(python, version)
    return version


def make_environment() -> None:
    """Make `.venv` afresh with the interpreter that runs this file."""
    own = ".".join(map(str, sys.version_info[:3]))
    require_new_enough(sys.executable, own)
    say(f"making .venv with Python {own}")
    made = run([sys.executable, "-m", "venv", "--clear", str(ROOT / ".venv")])
    remedy = "install this Python's venv module (python3-venv on Debian and Ubuntu), or set TWOCLOCKS_PYTHON."
    require("making .venv", made, remedy)


def require_new_enough(python: str, version: str) -> None:
    """Raise unless the version is the oldest supported or newer."""
    if tuple(map(int, version.split("."))) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise StepFailed(
            f"Python {oldest} or newer is needed, and {python} is {version}: run `make setup PYTHON=python{oldest}`, "
            "or set TWOCLOCKS_PYTHON to a newer one."
        )


def inventory(python: str) -> Mapping[str, Any]:
    """Return what the interpreter has: `pip`, `torch`, `refusal` (None where torch imports) and `cuda`."""
    seen = run([python, "-c", INVENTORY])
    require(f"looking at what {python} has", seen, "repair that environment, or remove it and run this again.")
    return dict(json.loads(seen.stdout.splitlines()[-1]))


def ensure_pip(python: str, before: Mapping[str, Any]) -> None:
    """Bring pip to an environment made without it."""
    if not before["pip"]:
        say("bringing pip")
        remedy = f"install pip into {python}, or remove .venv and run this again."
        require("bringing pip", run([python, "-m", "ensurepip", "--default-pip"]), remedy)


def ensure_torch(python: str, before: Mapping[str, Any]) -> None:
    """Keep a torch that imports; else install one, alone: what it needs itself comes with the project."""
    if before["torch"] and not before["refusal"]:
        say(f"torch {before['torch']} is here and is kept")
        return
    remedy = (
        "check the network and pip's settings, or set TWOCLOCKS_TORCH_INDEX to an index within reach, "
        "or TWOCLOCKS_PYTHON to an interpreter that has torch; then run this again."
    )
    first_that_works("installing torch", torch_attempts(python), remedy)


def torch_requirement() -> str:
    """Return what pyproject.toml asks of torch, such as "torch>=2.6"."""
    asked = re.findall(r'"(torch\b[^"]*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(asked[0])


def torch_attempts(python: str) -> list[Attempt]:
    """Return the ways to install torch by itself, in the order to try them."""
    # Forced, because pip takes a torch that is there and does not import for a torch that is there.
    install = [python, *PIP_INSTALL, "--force-reinstall", "--no-deps", torch_requirement()]
    ordinary = Attempt("torch: from pip's ordinary index", install)
    chosen = os.environ.get("TWOCLOCKS_TORCH_INDEX")
    if chosen:
        return [from_index(install, chosen)]
    if has_nvidia_driver():
        return [ordinary]
    local = Attempt("torch: is a local wheel on offer?", [*install, "--no-index"])
    # For every system but Linux, the builds in the ordinary index are CPU builds.
    return [local, from_index(install, CPU_INDEX) if sys.platform == "linux" else ordinary]


def from_index(install: list[str], index: str) -> Attempt:
    """Return the attempt that asks this index alone: another one in pip's settings might offer a CUDA build."""
    return Attempt(f"torch: from {index}", [*install, "--index-url", index], {"PIP_EXTRA_INDEX_URL": index})


def has_nvidia_driver() -> bool:
    """Return whether an NVIDIA driver is here: its kernel module is loaded, or its own tool answers."""
    tool = shutil.which("nvidia-smi")
    return NVIDIA_MODULE.exists() or (tool is not None and run([tool, "-L"]).returncode == 0)


def install_project(python: str) -> None:
    """Install the project, editable, with its tests' needs, around the torch that is there: by uv, else by pip."""
    constraints = ROOT / "build" / "setup" / "constraints.txt"
    constraints.write_text(f"torch=={inventory(python)['torch']}\n", encoding="utf-8")
    what = ["--constraint", str(constraints), "--editable", ".[test]"]
    remedy = "check the network and pip's settings, then run this again: what is done is kept."
    first_that_works("installing twoclocks and what it needs", project_attempts(python, what), remedy)


def project_attempts(python: str, what: list[str]) -> list[Attempt]:
    """Return the ways to install the project: by uv, where it is, and by pip, which has settings that uv ignores."""
    by_pip = Attempt("twoclocks and what it needs, by pip", [python, *PIP_INSTALL, *what])
    uv = shutil.which("uv")
    if uv is None:
        return [by_pip]
    command = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *what]
    return [Attempt("twoclocks and what it needs, by uv", command), by_pip]


def check(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raise unless torch imports, and no CUDA package came unasked to a machine without an NVIDIA driver."""
    if after["refusal"]:
        raise StepFailed(f"torch {after['torch']} is installed and does not import ({after['refusal']}): remove .venv.")
    new = sorted(set(after["cuda"]) - set(before["cuda"]))
    if new and not os.environ.get("TWOCLOCKS_TORCH_INDEX") and not has_nvidia_driver():
        raise StepFailed(
            f"CUDA packages were installed though there is no NVIDIA driver ({', '.join(new)}): remove .venv and set "
            "TWOCLOCKS_TORCH_INDEX to an index with CPU builds."
        )


def cuda_words(after: Mapping[str, Any]) -> str:
    """Return what the last line says of CUDA packages."""
    return f"{len(after['cuda'])} CUDA packages" if after["cuda"] else "no CUDA packages"


def first_that_works(step: str, attempts: Sequence[Attempt], remedy: str) -> None:
    """Run the attempts in turn until one works; raise if none does."""
    for attempt in attempts:
        say(attempt.words)
        done = run(attempt.command, attempt.settings)
        if done.returncode == 0:
            return
    require(step, done, remedy)


def require(step: str, done: subprocess.CompletedProcess[str], remedy: str) -> None:
    """Raise unless the command worked, with the last lines that it printed."""
    if done.returncode != 0:
        last = "".join(f"    {line}\n" for line in done.stdout.strip().splitlines()[-TAIL:])
        raise StepFailed(
            f"{step} failed (exit code {done.returncode}). Its last lines:\n{last}setup: What to do: {remedy}"
        )


def run(command: Sequence[str], settings: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout and keep all that it prints; a program that cannot be run is exit code 127."""
    try:
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(settings or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, str(error))


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the checkout's set-up alone, waiting for another run to finish; without such locks on Windows."""
    folder = ROOT / "build" / "setup"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        if os.name == "posix":
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(words: str) -> None:
    """Print a line of progress."""
    print(f"setup: {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
