"""Try out every run that `make` would train: build it, take one step on dummy tokens, see what it needs.

    python -m scripts.check

Nothing is trained or downloaded. One line per run; exit status 1 if any of them fails.
"""

from __future__ import annotations

from gpt2.errors import run_command
from harness.check import check_plan
from harness.kconfig import configuration
from harness.plan import make_plan


def main() -> int:
    plan = make_plan(configuration())
    width = max(len(run.name) for run in plan.runs)
    failed = 0
    disk = flops = memory = 0.0
    data = ""
    for check in check_plan(plan):
        if check.result is None:
            failed += 1
            print(f"FAIL  {check.run.name:{width}}  {check.error}", flush=True)
            continue
        print(f"ok    {check.run.name:{width}}  {check.result.describe()}", flush=True)
        disk += check.result.checkpoint_gib
        flops += check.result.flops
        memory = max(memory, check.result.memory_gib)
        data = check.data
    if data:
        print(f"data: {data}")
    print(
        f"{len(plan.runs)} runs, {failed} failed; in all {flops:.3g} FLOP, {disk:.1f} GiB of checkpoints, "
        f"at most about {memory:.1f} GiB of GPU memory"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
