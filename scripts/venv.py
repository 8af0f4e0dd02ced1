"""Set up .venv with exactly the versions in constraints.txt. The Makefile runs this when they change.

    python3 -m scripts.venv

torch comes with CUDA where PyPI has it so. Without an NVIDIA GPU, PyTorch's own index has a build a tenth of the size:

    PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make venv
"""

from __future__ import annotations

import importlib.util
import subprocess
import venv
from pathlib import Path

from gpt2.base.errors import UserError, run_command

CONSTRAINTS = Path("constraints.txt")
VENV = Path(".venv")
INSTALLED = VENV / "installed.txt"
"""What was installed: a copy of constraints.txt, written when everything is in place."""


def main() -> None:
    wanted = CONSTRAINTS.read_text()
    if INSTALLED.exists() and INSTALLED.read_text() == wanted:
        INSTALLED.touch()  # git writes a file anew when branches change, though it holds the same
        return
    if importlib.util.find_spec("ensurepip") is None:
        raise UserError(
            "this Python cannot make virtual environments: install the package python3-venv, "
            "or name a Python that has all packages with PYTHON=/path/to/python"
        )
    print(f"Setting up {VENV} from {CONSTRAINTS}: minutes, this once", flush=True)
    # Always from scratch: an install that was interrupted can look complete to pip.
    venv.create(VENV, clear=True, with_pip=True)
    install = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--requirement", str(CONSTRAINTS)]
    if subprocess.run(install).returncode != 0:
        raise UserError(f"pip could not install what {CONSTRAINTS} names; the next try starts from scratch")
    INSTALLED.write_text(wanted)


if __name__ == "__main__":
    run_command(main)
