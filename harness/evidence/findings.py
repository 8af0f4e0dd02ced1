"""What a check found: wrong, right, or to be known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpt2.base.errors import UserError, one_line

OK, FAIL, NOTE = "ok", "FAIL", "note"
"""What a check comes to. A note: nothing wrong was found, and there is something to be known."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check of one run came to."""

    run: str
    """`<step>/seed-<seed>`, or the name of a file of the experiment."""

    check: str
    """"records", "config", "data", "checkpoints", "metrics", "summary", "again" or, of the experiment, "registered",
    "tuned", "once", "rows"."""

    outcome: str
    """OK, FAIL or NOTE."""

    text: str = ""
    """What is wrong, beginning with the file; or what there is to be known, such as what was not looked at."""


class Wrong(str):
    """What is wrong, in one line that begins with the file."""


class Note(str):
    """What is not wrong, and should be known all the same."""


class Fine(str):
    """What is as it should be, and worth a word."""


Said = Iterator[Wrong | Note | Fine]


def findings(run: str, name: str, path: Path, check: Said) -> Iterator[Finding]:
    """One for each thing that is wrong, or one that says that nothing is. `path`: where what is checked lies."""
    said: list[Wrong | Note | Fine] = []
    try:
        for text in check:
            said.append(text)
    except (UserError, OSError) as error:
        said.append(Wrong(error))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        said.append(Wrong(f"{path}: a record is not as docs/results.md has it: {what}"))
    wrong = [text for text in said if isinstance(text, Wrong)]
    yield from (Finding(run=run, check=name, outcome=FAIL, text=str(text)) for text in wrong)
    if not wrong:
        outcome = NOTE if any(isinstance(text, Note) for text in said) else OK
        yield Finding(run=run, check=name, outcome=outcome, text="; ".join(said))
