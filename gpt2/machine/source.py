"""Which code it is that runs: what was imported, which an edit from then on does not change."""

from __future__ import annotations

import hashlib
from pathlib import Path


def source_hash() -> str:
    """SHA-256 of this package's modules as they lie on the disk now."""
    # An editor's lock on a file it has not saved looks like a module, and is no file.
    files = sorted(file for file in Path(__file__).parent.parent.rglob("*.py") if file.is_file())
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


IMPORTED = source_hash()
"""That of the modules as this process has them."""
