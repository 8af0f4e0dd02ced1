"""Do the versions in constraints.txt have known vulnerabilities? Asks PyPI, by pip-audit.

    make audit

Exit status 1 if one has, 2 if it could not be asked about all of them: no answer is not a good one.
"""

from __future__ import annotations

import json
import subprocess
import sys

from gpt2.base.errors import UserError, run_command
from scripts.venv import CONSTRAINTS


def main() -> int:
    options = ["--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *options, "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        missing = reason.endswith("No module named pip_audit")
        install = f"; `{sys.executable} -m pip install pip-audit` installs it" if missing else ""
        raise UserError(f"pip-audit could not ask: {reason}{install}") from None
    vulnerable = [(package, found) for package in packages for found in package.get("vulns", [])]
    for package, found in vulnerable:
        fixed = ", ".join(found["fix_versions"]) or "no version"
        print(f"{package['name']}=={package['version']}: {found['id']}, fixed in {fixed}")
    skipped = [package for package in packages if "skip_reason" in package]
    if skipped:
        first = f"{skipped[0]['name']}: {skipped[0]['skip_reason']}"
        raise UserError(f"nothing is known about {len(skipped)} of {len(packages)} packages: {first}")
    print(f"{len(packages)} packages, {len(vulnerable)} known vulnerabilities")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    run_command(main)
