"""Can torch.compile make code for this CPU, where it would put it? The smallest thing that it compiles tells.

The compiler that it calls may be missing, and it cannot link below a path that has blanks in it. A run would then go on
in eager mode, and say so; here it is known before.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from gpt2.base.files import existing_parent

TIMEOUT_S = 300

# In a process of its own: torch remembers, for as long as a process lives, what it has put into its cache.
_PROBE = """
import torch
try:
    torch.compile(lambda x: x.sin() + 1, fullgraph=True)(torch.ones(64))
except Exception as error:
    lines = [line.strip() for line in str(error).partition("Output:")[2].splitlines() or str(error).splitlines()]
    print(next(filter(None, lines), type(error).__name__))
"""


def cpu_compile_error(cache: Path) -> str | None:
    """Why nothing can be compiled for the CPU with `cache` for torch's cache, one line; None if it can.

    `cache` itself is not touched: a directory of the same name is tried in a temporary one beside it.
    """
    beside = existing_parent(cache)
    with TemporaryDirectory(dir=beside, prefix=".check-") as folder:
        place = Path(folder, cache.absolute().relative_to(beside))
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(place)}
        try:
            probe = subprocess.run(
                [sys.executable, "-c", _PROBE],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return f"compiling a line took more than {TIMEOUT_S} s"
    said = probe.stdout.strip().splitlines()
    if said or probe.returncode:
        return said[-1] if said else f"the compiler ended with status {probe.returncode}"
    return None
