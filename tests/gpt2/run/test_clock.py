"""How long a process has been there."""

from __future__ import annotations

import subprocess
import sys
import time

from gpt2.run.clock import process_age_s

AGE = "import time; time.sleep(0.5); from gpt2.run.clock import process_age_s; print(process_age_s())"


def test_a_process_is_as_old_as_the_time_since_it_was_started() -> None:
    before = time.monotonic()
    printed = subprocess.run([sys.executable, "-c", AGE], capture_output=True, text=True, check=True).stdout
    # Less than this is what it took to come back; more than the sleep it has been there in any case.
    assert 0.5 < float(printed) < time.monotonic() - before + 0.02


def test_it_grows_with_time() -> None:
    age = process_age_s()
    time.sleep(0.1)
    assert process_age_s() - age >= 0.1
