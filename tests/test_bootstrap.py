"""What set-up decides, without a network: the commands it runs in each situation, and what it says when one fails."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "bootstrap.py"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PIP = "pip install --quiet --disable-pip-version-check --no-input"
TORCH = f"{PIP} --force-reinstall --no-deps torch>=2.6"
LOCAL = f"{TORCH} --no-index"
FROM_CPU_INDEX = f"{TORCH} --index-url {CPU_INDEX}"
PROJECT = f"{PIP} --constraint CONSTRAINTS --editable .[test]"
BY_UV = "uv pip install --quiet --compile-bytecode --python PY --constraint CONSTRAINTS --editable .[test]"


@dataclass
class Machine:
    """A machine that runs nothing: it records the commands, and answers as its state says.

    `torch` is the build that each source would bring, `cuda` what comes with the project, `failing` the commands that
    do not work.
    """

    root: Path
    torch: str | None = None
    refusal: str | None = None
    version: str = "3.12.1"
    pip: bool = True
    environment: bool = True
    driver: bool = False
    offers: Mapping[str, str] = field(default_factory=lambda: {LOCAL: "2.13.0+cpu", FROM_CPU_INDEX: "2.14.0+cpu"})
    brings: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    cuda: list[str] = field(default_factory=list)
    project: bool = False
    origin: Path | None = None
    commands: list[str] = field(default_factory=list)
    settings: list[Mapping[str, str]] = field(default_factory=list)
    constraints: str | None = None

    def run(
        self, command: Sequence[str], settings: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Answer the two questions set-up asks, and otherwise record the command and do what it would do."""
        if command[0].endswith("nvidia-smi"):
            return self.answer(0 if self.driver else 9, "NVIDIA-SMI has failed")
        if command[1] == "-c":
            return self.glance() if "find_spec(name)" in command[2] else self.inventory()
        line = self.shortened(command)
        self.commands.append(line)
        self.settings.append(settings or {})
        return self.act(line)

    def shortened(self, command: Sequence[str]) -> str:
        """Return the command as one line, without the interpreter and with paths that vary named."""
        words = list(command[2:] if command[1] == "-m" else ["uv", *command[1:]])
        constraints = str(self.root / "build" / "setup" / "constraints.txt")
        names = {constraints: "CONSTRAINTS", str(self.root / ".venv"): "ENV", str(self.python): "PY"}
        return " ".join(names.get(word, word) for word in words)

    @property
    def python(self) -> Path:
        return self.root / ".venv" / "bin" / "python"

    def act(self, line: str) -> subprocess.CompletedProcess[str]:
        if line in self.failing or ("torch>=" in line and line not in self.offers):
            return self.answer(1, "\n".join(["noise"] * 40 + ["ERROR: No matching distribution found for torch>=2.6"]))
        if line.startswith("venv"):
            self.environment = True
        elif line.startswith("ensurepip"):
            self.pip = True
        elif line in self.offers:
            self.torch, self.refusal = self.offers[line], None
        else:
            assert line in (PROJECT, BY_UV), f"a command nobody expected: {line}"
            self.constraints = (self.root / "build" / "setup" / "constraints.txt").read_text()
            self.project, self.cuda = True, [*self.cuda, *self.brings]
        return self.answer(0, "")

    def glance(self) -> subprocess.CompletedProcess[str]:
        if not self.environment:
            return self.answer(127, "no such file")
        ours = self.root / "src" / "twoclocks" / "__init__.py" if self.project else None
        return self.answer(0, f"a warning of some site\n{self.version}\n{self.torch}\n{self.origin or ours}\n")

    def inventory(self) -> subprocess.CompletedProcess[str]:
        refusal = self.refusal if self.torch else "ModuleNotFoundError: No module named 'torch'"
        found = {"pip": self.pip, "torch": self.torch, "refusal": refusal, "cuda": self.cuda}
        return self.answer(0, f"a warning of some import\n{json.dumps(found)}\n")

    def answer(self, code: int, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], code, text)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of its own, in a folder with a space in its name, with nothing but what set-up reads."""
    root = tmp_path / "my checkout"
    (root / "src" / "twoclocks").mkdir(parents=True)
    (root / "src" / "twoclocks" / "__init__.py").touch()
    (root / "scripts").mkdir()
    shutil.copy(SCRIPT, root / "scripts")
    (root / "pyproject.toml").write_text('dependencies = [\n  "torch>=2.6",\n  "numpy",\n]\n')
    return root


@pytest.fixture
def bootstrap(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script of that checkout, on Linux without a driver, without uv, with no setting made."""
    spec = importlib.util.spec_from_file_location("bootstrap", checkout / "scripts" / "bootstrap.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("TWOCLOCKS_PYTHON", raising=False)
    monkeypatch.delenv("TWOCLOCKS_TORCH_INDEX", raising=False)
    monkeypatch.setattr(module, "NVIDIA_MODULE", checkout / "no-driver")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(checkout / "bin"))
    return module


@pytest.fixture
def machine(checkout: Path, bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    """Makes the machine that the script's commands run on."""

    def make(**state: Any) -> Machine:
        made = Machine(checkout, **state)
        monkeypatch.setattr(bootstrap, "run", made.run)
        return made

    return make


def offer_program(checkout: Path, name: str, text: str = "exit 0") -> Path:
    """Put an executable shell script on the path that the tests run with."""
    path = checkout / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_torch_that_imports_is_kept_and_constrains_the_rest(bootstrap, machine, capsys):
    here = machine(torch="2.9.1+cu130", cuda=["nvidia-cublas"])
    assert bootstrap.main() == 0
    assert here.commands == [PROJECT]
    assert here.constraints == "torch==2.9.1+cu130\n"
    assert capsys.readouterr().out == f"{here.python}\n"


def test_a_local_wheel_is_taken_first(bootstrap, machine, capsys):
    here = machine()
    assert bootstrap.main() == 0
    assert here.commands == [LOCAL, PROJECT]
    assert here.constraints == "torch==2.13.0+cpu\n"
    assert "torch 2.13.0+cpu imports, no CUDA packages" in capsys.readouterr().err


def test_without_a_wheel_or_a_driver_torch_comes_from_the_cpu_index_alone(bootstrap, machine):
    here = machine(offers={FROM_CPU_INDEX: "2.14.0+cpu"})
    assert bootstrap.main() == 0
    assert here.commands == [LOCAL, FROM_CPU_INDEX, PROJECT]
    assert here.settings == [{}, {"PIP_EXTRA_INDEX_URL": CPU_INDEX}, {}]
    assert here.constraints == "torch==2.14.0+cpu\n"


def test_without_a_driver_the_ordinary_index_is_never_asked_for_torch(bootstrap, machine, capsys):
    here = machine(offers={TORCH: "2.14.0"})
    assert bootstrap.main() == 1
    assert here.commands == [LOCAL, FROM_CPU_INDEX]
    assert "What to do: check the network" in capsys.readouterr().err


def test_elsewhere_than_linux_the_ordinary_index_has_the_cpu_build(bootstrap, machine, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    here = machine(offers={TORCH: "2.14.0"})
    assert bootstrap.main() == 0
    assert here.commands == [LOCAL, TORCH, PROJECT]


@pytest.mark.parametrize("sign", ["module", "tool"])
def test_with_a_driver_the_install_is_the_plain_one(sign, bootstrap, machine, checkout):
    if sign == "module":
        (checkout / "no-driver").touch()
    else:
        offer_program(checkout, "nvidia-smi")
    here = machine(offers={TORCH: "2.14.0"}, driver=True, brings=("nvidia-cublas",))
    assert bootstrap.main() == 0
    assert here.commands == [TORCH, PROJECT]
    assert here.constraints == "torch==2.14.0\n"


def test_a_tool_without_its_driver_is_no_driver(bootstrap, machine, checkout):
    offer_program(checkout, "nvidia-smi")
    here = machine(driver=False)
    assert bootstrap.main() == 0
    assert here.commands == [LOCAL, PROJECT]


def test_a_chosen_index_is_asked_alone(bootstrap, machine, monkeypatch):
    monkeypatch.setenv("TWOCLOCKS_TORCH_INDEX", "https://wheels.example/cuda")
    chosen = f"{TORCH} --index-url https://wheels.example/cuda"
    here = machine(offers={chosen: "2.14.0+cu130"}, brings=("nvidia-cublas",))
    assert bootstrap.main() == 0, "CUDA packages that were asked for are no error"
    assert here.commands == [chosen, PROJECT]
    assert here.settings[0] == {"PIP_EXTRA_INDEX_URL": "https://wheels.example/cuda"}


def test_uv_installs_the_project_where_it_is_present(bootstrap, machine, checkout):
    offer_program(checkout, "uv")
    here = machine()
    assert bootstrap.main() == 0
    assert here.commands == [LOCAL, BY_UV]


def test_pip_follows_where_uv_does_not_work(bootstrap, machine, checkout):
    offer_program(checkout, "uv")
    here = machine(failing=(BY_UV,))
    assert bootstrap.main() == 0
    assert here.commands == [LOCAL, BY_UV, PROJECT]


def test_the_environment_is_made_where_there_is_none(bootstrap, machine):
    here = machine(environment=False)
    assert bootstrap.main() == 0
    assert here.commands == ["venv --clear ENV", LOCAL, PROJECT]


def test_an_environment_without_pip_gets_it(bootstrap, machine):
    here = machine(pip=False)
    assert bootstrap.main() == 0
    assert here.commands == ["ensurepip --default-pip", LOCAL, PROJECT]


def test_a_torch_that_does_not_import_is_replaced(bootstrap, machine):
    here = machine(torch="2.13.0", refusal="ImportError: libcudart.so.13")
    assert bootstrap.main() == 0
    assert here.commands == [LOCAL, PROJECT]


def test_the_second_run_does_nothing(bootstrap, machine, capsys):
    here = machine()
    assert bootstrap.main() == 0
    here.commands.clear()
    capsys.readouterr()
    assert bootstrap.main() == 0
    assert here.commands == []
    assert capsys.readouterr() == (f"{here.python}\n", "")


def change_pyproject(here: Machine) -> None:
    (here.root / "pyproject.toml").write_text('dependencies = ["torch>=2.6", "scipy"]')


def change_version(here: Machine) -> None:
    here.version = "3.13.0"


def lose_project(here: Machine) -> None:
    here.project = False


def install_another_checkout(here: Machine) -> None:
    other = here.root / "elsewhere.py"
    other.touch()
    here.origin = other


@pytest.mark.parametrize("change", [change_pyproject, change_version, lose_project, install_another_checkout])
def test_a_change_installs_again_and_keeps_torch(change, bootstrap, machine):
    here = machine()
    assert bootstrap.main() == 0
    change(here)
    here.commands.clear()
    assert bootstrap.main() == 0
    assert here.commands == [PROJECT]


def test_a_run_cut_short_is_taken_up_where_it_stopped(bootstrap, machine, monkeypatch, capsys):
    here = machine(environment=False)

    def cut(command, settings=None):
        if "--editable" in command:
            raise KeyboardInterrupt
        return here.run(command, settings)

    monkeypatch.setattr(bootstrap, "run", cut)
    assert bootstrap.main() == 130
    assert here.commands == ["venv --clear ENV", LOCAL]
    assert capsys.readouterr().err.endswith("setup: interrupted; the next run goes on from here.\n")
    monkeypatch.setattr(bootstrap, "run", here.run)
    here.commands.clear()
    assert bootstrap.main() == 0
    assert here.commands == [PROJECT]


def test_a_failing_step_is_named_with_the_last_lines_and_a_remedy(bootstrap, machine, capsys):
    machine(failing=(PROJECT,))
    assert bootstrap.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    told = printed.err.splitlines()[-14:]
    assert told[0] == "setup: installing twoclocks and what it needs failed (exit code 1). Its last lines:"
    assert told[1:13] == ["    noise"] * 11 + ["    ERROR: No matching distribution found for torch>=2.6"]
    assert told[13].startswith("setup: What to do: check the network and pip's settings")


def test_a_failed_step_leaves_no_stamp(bootstrap, machine):
    here = machine(failing=(PROJECT,))
    assert [bootstrap.main(), bootstrap.main()] == [1, 1]
    assert here.commands == [LOCAL, PROJECT, PROJECT]


def test_cuda_packages_without_a_driver_are_refused(bootstrap, machine, capsys):
    machine(cuda=["cuda-python"], brings=("nvidia-cublas", "nvidia-cudnn-cu13"))
    assert bootstrap.main() == 1
    assert "no NVIDIA driver (nvidia-cublas, nvidia-cudnn-cu13)" in capsys.readouterr().err


def test_an_old_python_is_refused_with_what_to_do(bootstrap, machine, capsys):
    here = machine(version="3.9.18")
    assert bootstrap.main() == 1
    assert here.commands == []
    assert "Python 3.11 or newer is needed" in capsys.readouterr().err


def test_an_old_python_makes_no_environment(bootstrap, machine, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "OLDEST_PYTHON", (99, 0))
    here = machine(environment=False)
    assert bootstrap.main() == 1
    assert here.commands == []
    assert f"and {sys.executable} is 3." in capsys.readouterr().err


def test_a_chosen_python_that_is_none_is_refused(bootstrap, monkeypatch, capsys):
    monkeypatch.setenv("TWOCLOCKS_PYTHON", "no-such-python")
    assert bootstrap.main() == 1
    assert "TWOCLOCKS_PYTHON is no-such-python, which is no program" in capsys.readouterr().err


def in_a_process(checkout: Path, python: Path) -> subprocess.CompletedProcess[str]:
    """Run the script as `make` does, installing into `python`."""
    command = [sys.executable, "scripts/bootstrap.py"]
    env = {**os.environ, "TWOCLOCKS_PYTHON": str(python)}
    return subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False, timeout=60)


def test_a_real_process_with_a_failing_pip(bootstrap, checkout):
    found = json.dumps({"pip": True, "torch": "2.13.0+cpu", "refusal": None, "cuda": []})
    pip = "echo 'ERROR: the disk is full' >&2; exit 3"
    text = f"""case "$1 $2" in
        *json*) echo '{found}';;
        "-c "*) echo 3.12.1; echo None; echo None;;
        *) {pip};;
    esac"""
    done = in_a_process(checkout, offer_program(checkout, "python", text))
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs failed (exit code 3). Its last lines:\n    ERROR: the disk is full\nsetup: What to do:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_real_process_with_nothing_to_do_is_quick_and_silent(bootstrap, checkout):
    origin = checkout / "src" / "twoclocks" / "__init__.py"
    python = offer_program(checkout, "python", f"echo 3.12.1; echo /torch.py; echo '{origin}'")
    (checkout / "build" / "setup").mkdir(parents=True)
    bootstrap.stamp(str(python), "3.12.1").touch()
    start = time.monotonic()
    done = in_a_process(checkout, python)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{python}\n", "")
    assert time.monotonic() - start < 2, "0.2 s on an idle machine; the rest is room for a busy one"


def test_the_questions_are_answered_by_a_real_interpreter(bootstrap):
    version, torch, _ = bootstrap.glance(sys.executable)
    assert version == "{}.{}.{}".format(*sys.version_info[:3])
    assert Path(torch).name == "__init__.py"
    assert bootstrap.glance("/no/such/python") == ("None", "None", "None")


def test_a_torch_cut_short_does_not_pass_for_one_that_imports(bootstrap, checkout):
    (checkout / "site" / "torch").mkdir(parents=True)
    python = offer_program(checkout, "python", f"PYTHONPATH='{checkout}/site' exec '{sys.executable}' -S \"$@\"")
    found = bootstrap.inventory(str(python))
    assert found["refusal"].startswith("AttributeError")
    assert (found["pip"], found["torch"], found["cuda"]) == (False, None, [])


def test_what_torch_must_be_is_read_from_our_own_pyproject(bootstrap, checkout):
    shutil.copy(SCRIPT.parents[1] / "pyproject.toml", checkout)
    assert bootstrap.torch_requirement().startswith("torch>=2")
