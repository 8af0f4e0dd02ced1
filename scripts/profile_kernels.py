"""One scaled_dot_product_attention call per layer, which backend ran it, kernels, allocations and peak memory.

python -m scripts.profile_kernels [--compile] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

from rich.table import Table

from gpt2.base.errors import run_command
from gpt2.base.files import write_json
from gpt2.base.progress import reported
from gpt2.base.terminal import console, progress_bar
from gpt2.checks.kernel_profile import ARMS, LENGTHS, PASSES, Profile, Shape, profile_arms, shape
from gpt2.machine.device import device_name, select_device
from harness.configure.kconfig import refuse_assignments
from harness.measure.timing import measured_on

DETAILED_T = 1024
"""The length at which kernels and allocations are listed; --json has all."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Profile a forward pass and a training step of every arm.")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--compile", action="store_true", help="with the attention modules compiled")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    refuse_assignments("profile", instead="; python -m scripts.profile_kernels has options (--help)")
    device = select_device(args.device)
    head = measured_on(device)
    model = shape(device.type)
    with progress_bar("profile", stderr=True) as report:
        done = profile_arms(device, model, compiled=args.compile)
        total = len(ARMS) * len(LENGTHS) * len(PASSES)
        profiles = list(reported(done, total, report, lambda p: f"{p.arm}, {p.what}, T={p.T}"))

    console().print(_summary(profiles, title=f"{device_name(device)}, {_describe(model)}"))
    for p in profiles:
        if p.T == DETAILED_T and p.what == "train":
            console().print(_details(p))
    wrong = [p for p in profiles if p.sdpa_calls != p.expected_sdpa_calls]
    for p in wrong:
        print(f"{p.arm}, {p.what}, T={p.T}: {p.sdpa_calls} SDPA calls in {p.expected_sdpa_calls} layers")
    if not wrong:
        print("Exactly one SDPA call per layer in every pass.")
    if args.json:
        write_json(
            args.json,
            head
            | {"shape": dataclasses.asdict(model), "compiled": args.compile}
            | {"profiles": [dataclasses.asdict(p) for p in profiles]},
        )
    return 1 if wrong else 0


def _describe(model: Shape) -> str:
    size = f"{model.n_layer} layers, {model.n_head} heads, width {model.n_embd}"
    return f"{size}, batch {model.batch_size}, {model.dtype}"


def _summary(profiles: list[Profile], title: str) -> Table:
    table = Table("arm", "pass", "SDPA", "backend", title=title, box=None, padding=(0, 1, 0, 0))
    for T in LENGTHS:
        table.add_column(f"MiB, T={T}", justify="right")
    for arm, what in dict.fromkeys((p.arm, p.what) for p in profiles):
        of_arm = [p for p in profiles if (p.arm, p.what) == (arm, what)]
        calls = ", ".join(dict.fromkeys(f"{p.sdpa_calls}/{p.expected_sdpa_calls}" for p in of_arm))
        backends = ", ".join(dict.fromkeys(backend for p in of_arm for backend in p.backends))
        table.add_row(arm, what, calls, backends, *(f"{p.peak_mib:,.1f}" for p in of_arm))
    table.caption = "SDPA: calls / layers. MiB: most memory in use, beyond weights and optimizer state."
    return table


def _details(p: Profile) -> Table:
    table = Table(
        *("kernel", "ms", "n", "allocated by", "MiB", "n"),
        title=f"\n{p.arm}: {p.what}, T={p.T}",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for kernel, allocation in zip(p.kernels, p.allocations, strict=False):
        table.add_row(
            *(_short(kernel.name), f"{kernel.ms:.2f}", str(kernel.count)),
            *(_short(allocation.op), f"{allocation.mib:.2f}", str(allocation.count)),
        )
    return table


def _short(name: str, width: int = 32) -> str:
    """Kernels of templates have names of hundreds of characters."""
    name = re.sub(r"^aten::|^void |at::native::|\(anonymous namespace\)::", "", name)
    return name if len(name) <= width else f"{name[: width - 1]}…"


if __name__ == "__main__":
    run_command(main)
