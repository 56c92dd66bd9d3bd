"""This file knows how a function out of a user's own file is found and called, and where that file fails if it does."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from twoclocks.errors import InputError, nearest
from twoclocks.sources.evaluation import one_line

OURS = Path(__file__).parents[1]


def function_of(option: str, text: str) -> Callable[[], Any]:
    """Return the function that FILE.py:function names; its folder is importable, as if the file were run.

    Raises:
        InputError: there is no such file or function, or the file fails; the sentence says in which line.
    """
    file, _, name = text.rpartition(":")
    if not file or not name:
        raise InputError(f"{option} takes FILE.py:function, got {text!r}; write for example {option} train.py:build")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{option}: there is no file {file}; expected FILE.py:function")
    found = getattr(module_of(path.resolve(), option), name, None)
    if found is None:
        functions = sorted(known for known, value in vars(sys.modules[name_of(path)]).items() if is_own(value, path))
        raise InputError(f"{option}: {file} has no function {name!r}.{nearest(name, functions)}")
    if not callable(found):
        raise InputError(
            f"{option}: {name} in {file} is a {type(found).__name__}; expected a function without arguments"
        )
    return found  # type: ignore[no-any-return]


def module_of(path: Path, option: str) -> ModuleType:
    """Import a file by its path, once."""
    name = name_of(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{option}: {path} is no Python file; expected FILE.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        with blamed(f"{path.name} cannot be imported"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def name_of(path: Path) -> str:
    """Return the name under which a file is imported; the path is in it, since two files may have one name."""
    return f"given:{path.resolve()}"


def is_own(value: Any, path: Path) -> bool:
    """Return whether a function or class was defined in this file."""
    return callable(value) and getattr(value, "__module__", None) == name_of(path)


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Turn an error of a user's code into one sentence with the file and the line of that code."""
    try:
        yield
    except InputError as refused:
        if refused.__cause__ is None or (where := where_of(refused.__cause__)) is None:
            raise
        raise InputError(f"{refused} ({where})") from refused.__cause__
    except (Exception, SystemExit) as error:
        where = where_of(error)
        raise InputError(f"{what}: {one_line(error)}" + (f" ({where})" if where else "")) from error


def where_of(error: BaseException) -> str | None:
    """Return the file and line in a user's code where an error arose, None where only installed packages took part."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}, line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_of_user(frame.filename)]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else None


def is_of_user(file: str) -> bool:
    """Return whether a file is neither ours, nor Python's, nor an installed package's."""
    installed = [*(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")), str(OURS)]
    return not file.startswith("<") and not any(file.startswith(place + os.sep) for place in installed)
