"""Make, edit and list configurations.

    python -m scripts.kconfig defconfig gpt2-ra-v5-ablation
    python -m scripts.kconfig menuconfig

The Makefile has a target for each command. Those that write `.config` without asking take settings from make's command
line too: `make defconfig-gpt2-baseline MAX_ITERS=50`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from gpt2.base.errors import run_command
from gpt2.base.files import write_text
from gpt2.base.text import shown
from gpt2.dotconfig import Resolved, load, resolve
from harness.configure import menus
from harness.configure.kconfig import (
    DOTCONFIG,
    command_line_assignments,
    find_defconfig,
    list_defconfigs,
    load_dotconfig,
    load_old_dotconfig,
    refuse_assignments,
)
from harness.configure.plan import plan_with, save
from harness.configure.randconfig import random_configuration, random_seed


def main() -> None:
    parser = argparse.ArgumentParser(description="Make, edit and list configurations.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.__doc__, description=command.__doc__)
    commands.choices["defconfig"].add_argument("name", help="of a file in defconfigs/")
    arguments = vars(parser.parse_args())
    name = arguments.pop("command")
    if name not in ("defconfig", "alldefconfig", "olddefconfig", "randconfig"):
        refuse_assignments(name)
    COMMANDS[name](**arguments)


def defconfig(name: str) -> None:
    """Make a .config of one in defconfigs/."""
    save_with_settings(load(find_defconfig(name)), f"defconfigs/{name}")


def alldefconfig() -> None:
    """Make a .config of the defaults."""
    save_with_settings(resolve(), "the defaults")


def olddefconfig() -> None:
    """Give the settings that .config does not have yet their defaults; drop those that there are no more."""
    save_with_settings(load_old_dotconfig(), str(DOTCONFIG))


def randconfig() -> None:
    """Make a random .config that can be trained; KCONFIG_SEED=n repeats one."""
    seed = random_seed()
    save_with_settings(random_configuration(seed), f"KCONFIG_SEED={seed}")


def savedefconfig() -> None:
    """Write what differs from the defaults to ./defconfig."""
    write_text(Path("defconfig"), load_dotconfig().defconfig())
    print("Wrote defconfig")


def listnewconfig() -> None:
    """List the settings that .config does not have yet."""
    print(*menus.new_settings(), sep="\n", end="")


def list_shipped() -> None:
    """List defconfigs/."""
    for path in list_defconfigs():
        title = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].removeprefix("# ")
        print(f"{path.name:28} {shown(title)}")


def save_with_settings(base: Resolved, source: str) -> None:
    """Write `.config` from `base` and the settings of make's command line."""
    settings = command_line_assignments()
    save(plan_with(base, settings))
    given = ", ".join(f"{setting.symbol}={shown(setting.value)}" for setting in settings)
    print(f"Wrote {DOTCONFIG} from {source}" + (f", with {given}" if given else ""))


COMMANDS: dict[str, Callable[..., None]] = {
    "defconfig": defconfig,
    "menuconfig": menus.menuconfig,
    "nconfig": menus.menuconfig,
    "guiconfig": menus.guiconfig,
    "oldconfig": menus.oldconfig,
    "olddefconfig": olddefconfig,
    "savedefconfig": savedefconfig,
    "listnewconfig": listnewconfig,
    "alldefconfig": alldefconfig,
    "randconfig": randconfig,
    "list-defconfigs": list_shipped,
}


if __name__ == "__main__":
    run_command(main)
