import sys
from types import TracebackType

# Here, so that every command says it; in words that older Pythons can read.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit("error: Python 3.10 or newer is needed, and " + sys.executable + " is " + sys.version.split()[0])


def _say_what_is_missing(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Where a package is not installed, one line; everything else has its traceback."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None or error.name.startswith(_OURS):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(
        f"error: {sys.executable}: the package {error.name.split('.')[0]} is not installed; `make` without PYTHON sets "
        "up a .venv that has it, and `pip install '.[offline,download]'` installs what this PYTHON lacks\n"
    )


_OURS = ("gpt2", "harness", "scripts")

sys.excepthook = _say_what_is_missing
