import sys

# Here, so that every command says it; in words that older Pythons can read.
if sys.version_info < (3, 10):
    sys.exit("error: Python 3.10 or newer is needed, and %s is %d.%d" % (sys.executable, *sys.version_info[:2]))
