import sys

# Here, so that every command says it; in words that older Pythons can read.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit("error: Python 3.10 or newer is needed, and " + sys.executable + " is " + sys.version.split()[0])
