"""How something that takes long tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, str], None]
"""Called with the share done, from 0 to 1, and a line that says what is being done."""
