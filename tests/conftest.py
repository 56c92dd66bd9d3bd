"""What holds for every test: one thread, and under CI a skip is a failure unless its reason names a missing device."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import Any

import pytest
import torch

torch.set_num_threads(1)  # small products are many times slower on two threads that share their cores with other work
MISSING_DEVICE = re.compile(r"no (CUDA device|chromium) on this machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests with the real lightning and transformers to those who ask for them by name: they take the extras."""
    if "frameworks" in config.option.markexpr:
        return
    asked = [item for item in items if item.get_closest_marker("frameworks")]
    if asked:
        config.hook.pytest_deselected(items=asked)
        items[:] = [item for item in items if item not in asked]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    outcome = yield
    fail_hidden_skip(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, None]:
    outcome = yield
    fail_hidden_skip(outcome.get_result())


def fail_hidden_skip(report: Any) -> None:
    """Turn a skip without a named missing device into a failure, where CI=true."""
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not MISSING_DEVICE.search(reason):
            report.outcome = "failed"
            report.longrepr = f"a skip hides a test: {reason}"
