"""Arguments of scripts that more than one of them takes."""

from __future__ import annotations

from collections.abc import Callable, Collection

from gpt2.base.errors import UserError


def names_of(flag: str, known: Collection[str]) -> Callable[[str], list[str]]:
    """An argparse `type`: names separated by commas, each of those that are known. UserError for any other."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise UserError(f"{flag}: there is no {name!r}; there are {', '.join(known)}")
        return names

    return parse
