"""Text from other people's records: shown and not obeyed, by terminals, browsers, readers of Markdown and shells."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gpt2.base.text import showable
from harness.evidence.store import load_experiment
from harness.launch.terminal import LiveView
from harness.report.report import print_report, render, write_report
from scripts import plots
from tests.gpt2.base.test_text import OBEYED
from tests.harness.report.test_report import report_of
from tests.harness.synthetic_runs import write_run

ORDERS = "\x1b[2J\x1b]0;title\x07\x9b1m\u202e\u2066\u200b\ufeff\u2028\r\n"
"""Clear the screen, rename the window, bold, right to left, nothing visible, other lines."""

MARKUP = "<script>| **x** [y](http://x.example)\n```\n[bold]x[/] $\\frac{{$"
EVIL = f"a{ORDERS}{MARKUP}$(touch pwned)`touch pwned`; touch pwned"

LONG = "x" * 100_000


def spoilt(value: Any) -> Any:
    """Every text in a record replaced, but for those that are of a few."""
    if isinstance(value, dict):
        return {key: item if key in ("tokenizer", "status", "ran") else spoilt(item) for key, item in value.items()}
    return EVIL[:4000] if isinstance(value, str) else value


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment in which every text is hostile."""
    path = tmp_path_factory.mktemp("results") / "\x1b[1m\u202ename; touch pwned"
    step = "ra-v5\x1b[31m\u202e@R=$(touch pwned)"
    for seed in (1, 2, 3):
        for of, status in (("baseline", "done"), (step, "done" if seed < 3 else "failed")):
            run = write_run(path, of, seed, status=status, error=EVIL, events=[EVIL, LONG[: 1 << 16]], gates=("w_rec",))
            title = 'CONFIG_STEP_TITLE="_\u202e\u009b31m $\\\\frac{$ <b>"\nCONFIG_STEP_REFERENCE="baseline"\n'
            (run / "config").write_text(title)
            provenance = spoilt(json.loads((run / "provenance.json").read_text()))
            provenance["code"]["commit"] = "c" * 40 + "; touch pwned"
            provenance["versions"][ORDERS] = EVIL
            provenance["identity"][ORDERS] = f"{EVIL} {seed}"
            (run / "provenance.json").write_text(json.dumps(provenance))
            summary = json.loads((run / "summary.json").read_text())
            summary["compile"] = {"ran": EVIL, "mode": EVIL}
            summary["config_hash"] = provenance["config_hash"]
            (run / "summary.json").write_text(json.dumps(summary))
    return path


def obeyed(text: str, but: str = "\n") -> set[str]:
    return {*text} & {*OBEYED} - {*but}


def test_nothing_in_a_report_is_obeyed(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = write_report(load_experiment(experiment))
    print_report(written.report)
    monkeypatch.setattr("sys.argv", ["plots", str(experiment)])
    monkeypatch.setattr(plots, "draw_figures", lambda *_: [])
    plots.main()
    texts = {path.name: path.read_text() for path in written.paths if path.suffix in (".md", ".html", ".csv", ".svg")}
    texts["printed"] = capsys.readouterr().out
    assert {name: found for name, text in texts.items() if (found := obeyed(text))} == {}
    assert "<script" not in texts["report.html"] + texts["report.md"]
    assert re.findall("^```", texts["report.md"], re.MULTILINE) == ["```", "```"]
    assert not any(len(line) > 30_000 for line in re.sub('src="data[^"]*"', "", texts["report.html"]).splitlines())
    assert "\\x1b[2J" in texts["report.html"] and "\\u202e" in texts["printed"]


def commands_of(path: Path) -> Sequence[str]:
    return report_of(path).commands


def test_what_is_to_be_typed_again_does_nothing_else(experiment: Path, tmp_path: Path) -> None:
    commands = commands_of(experiment)
    assert not any("checkout" in command for command in commands)
    assert shlex.split(commands[0]) == ["cp", "--", f"results/{showable(experiment.name)}/config", ".config"]
    block = render(report_of(experiment), "report.md").split("\n```\n")[1]
    subprocess.run(["sh", "-c", f"git() {{ :; }}; make() {{ :; }}; cp() {{ :; }}\n{block}"], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("commit", ["c" * 40, "abcdef0", "c" * 64])
def test_a_commit_is_checked_out(tmp_path: Path, commit: str) -> None:
    write_run(tmp_path, "baseline", 1, commit=commit)
    assert commands_of(tmp_path)[0] == f"git checkout {commit}"


@pytest.mark.parametrize("commit", ["--orphan", "-b evil", "c" * 40 + "\n", "HEAD", "", "\x1b[2J", "c" * 6, "$(x)"])
def test_what_is_no_commit_is_not(tmp_path: Path, commit: str) -> None:
    write_run(tmp_path, "baseline", 1, commit=commit)
    assert commands_of(tmp_path)[0].startswith("cp ")


def test_nothing_that_a_run_says_moves_the_cursor_while_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for terminal in (False, True):
        view = LiveView([(EVIL, 10)], Console(force_terminal=terminal, color_system=None, width=300))
        view.skipped(EVIL)
        view.started(EVIL)
        view.say(EVIL)
        view.update(EVIL, {"kind": "event", "step": 1, "event": "resume", "message": EVIL + LONG})
        Console(width=300).print(view._render())
        view.ended(EVIL, "failed", EVIL + LONG)
        printed = capsys.readouterr().out
        assert obeyed(printed) == set()
        assert len(printed) < 20_000
