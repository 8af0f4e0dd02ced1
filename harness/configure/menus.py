"""The interactive ways to edit a `.config`: kconfiglib's interfaces, with our checks at the door.

They load and save through `Editor`, so that what they cannot load is refused before they start, and what would not make
a run is refused in a dialog when they save, with the file as it was and the session alive.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import kconfiglib

from gpt2.assignments import parse_assignments
from gpt2.base.errors import UserError
from gpt2.base.files import write_text
from gpt2.dotconfig import Resolved, config_text, load, parse_tree, plain_environment, resolve
from harness.configure.kconfig import DOTCONFIG, load_dotconfig, load_old_dotconfig
from harness.configure.plan import make_plan, save


class Editor(kconfiglib.Kconfig):
    """A Kconfig tree that loads and saves strictly. Refusals are OSErrors: those the interfaces show in a dialog."""

    def load_config(self, filename: Any = None, replace: bool = True, verbose: object = None) -> str:
        """Load a configuration if there is one, or start from the defaults."""
        path = Path(filename or DOTCONFIG)
        if filename is None and not path.exists():
            return f"No {path} yet: starting from the defaults"
        try:
            load(path)
        except UserError as error:
            raise _shown(error, path) from None
        return super().load_config(str(path), replace)

    def write_config(
        self, filename: Any = None, header: object = None, save_old: bool = True, verbose: object = None
    ) -> str:
        """Save the complete configuration, if it makes a run."""
        path = Path(filename or DOTCONFIG)
        try:
            save(make_plan(self.resolved()), path)
        except UserError as error:
            raise _shown(error, path) from None
        return f"Saved {path}"

    def write_min_config(self, filename: Any, header: object = None) -> str:
        """Save what differs from the defaults."""
        write_text(Path(filename), self.resolved().defconfig())
        return f"Saved {filename}"

    def resolved(self) -> Resolved:
        """The present values."""
        lines = parse_assignments(config_text(self), "")
        return resolve([dataclasses.replace(assignment, origin="this menu") for assignment in lines])


def menuconfig() -> None:
    """Edit .config in a terminal. nconfig is the same: kconfiglib has one interface for terminals."""
    _need_terminal("menuconfig")
    interface = _interface("menuconfig", "curses")
    curses = importlib.import_module("curses")
    try:
        curses.setupterm()
    except curses.error as error:
        raise UserError(f"menuconfig cannot use this terminal (TERM): {error}") from None
    _edit(interface)


def guiconfig() -> None:
    """Edit .config in a window."""
    interface = _interface("guiconfig", "tkinter")
    tkinter = importlib.import_module("tkinter")
    try:
        tkinter.Tk().destroy()
    except tkinter.TclError as error:
        raise UserError(f"guiconfig cannot open a window: {error}; `make menuconfig` needs a terminal only") from None
    _edit(interface)


def oldconfig() -> None:
    """Ask for the settings that .config does not have yet; drop those that there are no more."""
    _need_terminal("oldconfig")
    import oldconfig as interface

    load_old_dotconfig()
    editor = _editor()
    interface.conf_changed = True
    try:
        while interface.conf_changed:  # an answer can bring up new questions
            interface.conf_changed = False
            for node in editor.node_iter():
                interface.oldconfig(node)
    except EOFError:
        raise UserError(f"oldconfig: no answer; {DOTCONFIG} is as it was") from None
    save(make_plan(editor.resolved()))


def new_settings() -> list[str]:
    """Lines for the symbols that `.config` could set and does not, with the values they get."""
    symbols = load_editor().unique_defined_syms
    return [
        symbol.config_string.rstrip("\n")
        for symbol in symbols
        if symbol.visibility and symbol.user_value is None and not (symbol.choice and symbol.choice.user_selection)
    ]


def load_editor() -> Editor:
    """An Editor with the values of `.config`. Raises UserError."""
    load_dotconfig()
    return _editor()


def _editor() -> Editor:
    """An Editor with the values of a `.config` that has been looked at: unknown symbols pass it by."""
    editor: Editor = parse_tree(Editor)
    kconfiglib.Kconfig.load_config(editor, str(DOTCONFIG))
    return editor


def _edit(interface: ModuleType) -> None:
    if DOTCONFIG.exists():
        load(DOTCONFIG)
    with plain_environment():
        interface.menuconfig(parse_tree(Editor))


def _interface(name: str, needs: str) -> ModuleType:
    try:
        importlib.import_module(needs)
    except ImportError as error:
        raise UserError(f"{name} needs Python's module {needs}: {error}") from None
    return importlib.import_module(name)


def _need_terminal(command: str) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(f"{command} needs a terminal; `make defconfig-NAME` and `make olddefconfig` do not")


def _shown(error: UserError, path: Path) -> OSError:
    """As an error that kconfiglib's interfaces show, wrapped for a dialog."""
    return OSError(errno.EINVAL, textwrap.fill(str(error), 70), str(path))
