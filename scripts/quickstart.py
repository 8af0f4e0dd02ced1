"""From nothing to a report: a small ablation on real text, in minutes on two cores.

    python -m scripts.quickstart

Takes defconfigs/gpt2-ra-v5-quickstart for `.config` (the one that was there is kept as .config.old), tries every run
out, trains them, draws the figures and writes the report. Stopped and started again, it goes on.
"""

from __future__ import annotations

import time
from pathlib import Path

from gpt2.base.errors import run_command
from gpt2.base.terminal import heading
from gpt2.dotconfig import load
from harness.configure.kconfig import command_line_assignments, find_defconfig
from harness.configure.plan import plan_with, save
from harness.evidence.store import load_experiment
from harness.launch.check import print_checks
from harness.launch.launch import run_plan
from harness.report.report import print_report, write_report


def main() -> int:
    start = time.monotonic()
    overrides = command_line_assignments()
    plan = plan_with(load(find_defconfig("gpt2-ra-v5-quickstart")), overrides)
    save(plan)

    heading("Dry run", "make check")
    if print_checks(plan):
        return 1
    heading("Training", "make")
    status = run_plan(plan, overrides)
    if status == 130:
        return status
    heading("Results", "make report")
    written = write_report(load_experiment(plan.directory))
    print_report(written.report)
    report = Path(plan.directory, "report.html").resolve()
    print(f"\n{time.monotonic() - start:.0f} s. Now open {report}\nFigures: {report.parent / 'figures'}")
    return status


if __name__ == "__main__":
    run_command(main)
