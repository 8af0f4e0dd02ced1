"""Errors that are the user's to mend, and how a command ends on one."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

_OF_THE_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""What the system refuses because of where something is to be written, or read."""


class UserError(Exception):
    """Something the user asked for cannot be done.

    The message is one line that names the file, the symbol, the value and what would be right. Commands print it
    without a traceback (`run_command`); everything else that escapes a command is a bug and keeps its traceback.
    """


def one_line(error: Exception) -> str:
    """The first line of an exception's message, or its name where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit with its status: 0 done, 1 something failed, 2 not as asked, 130 interrupted."""
    try:
        status = main() or 0
        if sys.stdout is not None:  # as it is where it was closed from the start
            sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # `make help | head` closes the pipe early; that is no failure. Python would complain again at exit.
        sys.stdout = None
        status = 0
    except OSError as error:
        if error.errno not in _OF_THE_PLACE:
            raise
        print(f"error: {error.filename or 'an output'}: {error.strerror}", file=sys.stderr)
        status = 2
    sys.exit(status)
