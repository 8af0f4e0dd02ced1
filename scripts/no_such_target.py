"""What `make` says of a target that there is not: the one that was meant, perhaps.

    python -m scripts.no_such_target menuconfg

Needs no package: a mistyped target may be the first thing that is typed in a fresh checkout.
"""

from __future__ import annotations

import difflib
import re
import sys

from gpt2.base.errors import UserError, run_command
from gpt2.base.files import ROOT

_DOCUMENTED = re.compile(r"^([a-z][a-z %-]*):.*## ", re.MULTILINE)


def main() -> None:
    name = sys.argv[1]
    hint = f"; did you mean {meant}?" if (meant := closest(name, targets())) else ""
    raise UserError(f"No rule to make target {name!r}{hint} (`make help`)")


def targets() -> list[str]:
    """The targets that `make help` lists, and one for each of defconfigs/."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = [name for names in _DOCUMENTED.findall(makefile) for name in names.split()]
    shipped = [f"defconfig-{path.name}" for path in sorted((ROOT / "defconfigs").iterdir()) if path.is_file()]
    return [name.replace("%", "NAME") for name in listed] + shipped


def closest(name: str, known: list[str]) -> str | None:
    """The target that was meant: one whose first word this is, or else one that is spelt like it."""
    longer = [target for target in known if target.startswith(f"{name}-")]
    return next(iter(longer or difflib.get_close_matches(name.lower(), known, n=1)), None)


if __name__ == "__main__":
    run_command(main)
