"""Errors that are the user's to mend, and how a command ends on one."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Callable

from gpt2.base.text import shown

MESSAGE = 1000
"""Characters of an error's line: what is longer loses its middle."""

_MISTAKES = (errno.ENOENT, errno.EBADF, errno.ECHILD, errno.ESRCH)
"""What the system answers to a mistake in the code: a file that nobody looked for, a process that is not there. These
keep their traceback. Everything else it refuses because of the place, or of what the machine has."""


class UserError(Exception):
    """Something the user asked for cannot be done.

    The message is one line that names the file, the symbol, the value and what would be right. Commands print it
    without a traceback (`run_command`); everything else that escapes a command is a bug and keeps its traceback.
    """


def one_line(error: BaseException) -> str:
    """The first line of an exception's message, or its name where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit with its status: 0 done, 1 something failed, 2 not as asked, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        # Where the locale has no such character: "\u2013" is better than no line at all.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    try:
        status = main() or 0
        if sys.stdout is not None:  # as it is where it was closed from the start
            sys.stdout.flush()
    except KeyboardInterrupt:
        _say("interrupted")
        status = 130
    except BrokenPipeError:
        # `make help | head` closes the pipe early; that is no failure. Python would complain again at exit.
        sys.stdout = None
        status = 0
    except Exception as error:
        message = _of_the_user(error)
        if message is None:
            raise
        _say(f"error: {shown(message, MESSAGE)}")
        status = 2
        _drop_what_cannot_be_written()
    sys.exit(status)


def _of_the_user(error: Exception) -> str | None:
    """What to say of an error that is no mistake in the code, in one line; None for one that is."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno not in _MISTAKES:
        return f"{error.filename or 'an output'}: {error.strerror or one_line(error)}"
    # torch has its own: of a GPU's memory a class, of the processor's a RuntimeError like any other.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory: {one_line(error)}"
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return f"out of memory: {one_line(error)}"
    return None


def _say(line: str) -> None:
    """Print a line to stderr, if there is one that takes it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _drop_what_cannot_be_written() -> None:
    """Have Python not complain, as it exits, that an output is full that the command's error has named already."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        sys.stdout = None
