"""make audit: what pip-audit says, and that no answer is not a good one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.base.files import ROOT

GOOD = {"name": "good", "version": "1.0", "vulns": []}
BAD = {"name": "bad", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found on PyPI and could not be audited: unknown (3.0)"}

SAYS_BAD = "bad==2.0: PYSEC-1, fixed in 2.1\n"
SAYS_UNKNOWN = f"error: nothing is known about 1 of 3 packages: unknown: {UNKNOWN['skip_reason']}\n"


@pytest.mark.parametrize(
    ("program", "status", "output", "error"),
    [
        (f"print({json.dumps({'dependencies': [GOOD]})!r})", 0, "1 packages, 0 known vulnerabilities\n", ""),
        (f"print({json.dumps({'dependencies': [BAD]})!r})", 1, SAYS_BAD + "1 packages, 1 known vulnerabilities\n", ""),
        (f"print({json.dumps({'dependencies': [GOOD, BAD, UNKNOWN]})!r})", 2, SAYS_BAD, SAYS_UNKNOWN),
        ("import sys; sys.exit('ERROR: no route')", 2, "", "error: pip-audit could not ask: ERROR: no route\n"),
        ("print('<html>')", 2, "", "error: pip-audit could not ask: exit status 0\n"),
    ],
)
def test_what_is_not_known_is_no_pass(tmp_path: Path, program: str, status: int, output: str, error: str) -> None:
    (tmp_path / "pip_audit.py").write_text(program)
    command = [sys.executable, "-m", "scripts.audit"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, output, error)
