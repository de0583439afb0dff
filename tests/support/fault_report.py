"""The fault matrix: what the tests of faults saw, as one table at the end of the test run (``make faults``).

A test marked ``fault`` calls the fixture ``fault_row`` once, with what it did, what happened and whether the
result equals the undisturbed one; a test that fails before shows as such.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

_ROW = "fault_row"


@pytest.fixture
def fault_row(record_property) -> Callable[..., None]:
    """``fault_row("SIGKILL of a training worker", "restarted from step 20 of 200", equal=True)``."""

    def row(fault: str, happened: str, *, equal: bool) -> None:
        record_property(_ROW, [fault, happened, equal])
        assert equal, f"{fault}: the result differs from the undisturbed run's ({happened})"

    return row


def print_matrix(terminal) -> None:
    """Print the table of all reports of a pytest run; nothing if no test of a fault was among them."""
    rows = []
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminal.stats.get(outcome, []):
            if "fault" not in getattr(report, "keywords", {}) or (outcome == "passed" and report.when != "call"):
                continue
            told = [value for name, value in report.user_properties if name == _ROW]
            name = report.nodeid.split("::")[-1].removeprefix("test_").replace("_", " ")
            if outcome == "skipped":
                why = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
                rows.append((name, why, "not run"))
            elif not told:
                rows.append((name, "the test did not get that far", "FAILED"))
            rows += [(what, happened, "equal" if equal else "DIFFERENT") for what, happened, equal in told]
    if not rows:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("fault", "what happened", "result", title="Fault matrix", show_lines=True)
    for row in sorted(set(rows)):
        table.add_row(*row)
    terminal.write_line("")
    Console(width=120).print(table)
