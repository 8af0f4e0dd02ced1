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


def count_of(flag: str, least: int) -> Callable[[str], int]:
    """An argparse `type`: a whole number, `least` or more. UserError for anything else."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and least <= int(text) < 2**31):
            raise UserError(f"{flag} {text}: must be a whole number, {least} or more")
        return int(text)

    return parse


def counts_of(flag: str) -> Callable[[str], list[int]]:
    """An argparse `type`: whole numbers above 0, separated by commas. UserError for anything else."""

    def parse(text: str) -> list[int]:
        parts = text.split(",")
        if not all(part.isascii() and part.isdecimal() and int(part) > 0 for part in parts):
            raise UserError(f"{flag} {text}: must be whole numbers above 0, separated by commas")
        return [int(part) for part in parts]

    return parse
