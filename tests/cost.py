"""What tests cost: CPU seconds of the whole machine and seconds of waiting, for docs/development.md.

    TEST_COST=1 python -m pytest tests/faults tests/docs tests/e2e tests/ray

prints the twenty tests that take longest, set-up and tear-down with them. One test at a time, on a machine that does
nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from benchmarks.startup import busy

COSTS: list[tuple[float, float, str]] = []  # seconds, CPU seconds, test


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    start, used = time.monotonic(), busy()
    try:
        return (yield)
    finally:
        COSTS.append((time.monotonic() - start, busy() - used, item.nodeid))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("what the slowest tests cost")
    for seconds, used, test in sorted(COSTS, reverse=True)[:20]:
        terminalreporter.line(f"{seconds:6.0f} s {used:6.0f} s of CPU  {test}")
    total, used = sum(cost[0] for cost in COSTS), sum(cost[1] for cost in COSTS)
    terminalreporter.line(f"{total:6.0f} s {used:6.0f} s of CPU  all {len(COSTS)}")
