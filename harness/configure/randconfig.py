"""A random configuration that makes a run: bools and choices anywhere, numbers near their defaults."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping

import kconfiglib

from gpt2.assignments import parse_assignments
from gpt2.base.errors import UserError
from gpt2.dotconfig import Resolved, config_text, parse_tree, resolve, symbol_values
from gpt2.symbols import run_config
from harness.configure.kconfig import command_line_variables, list_steps
from harness.configure.plan import make_plan
from harness.configure.slurm import slurm_config


def random_seed(environ: Mapping[str, str] = os.environ) -> int:
    """KCONFIG_SEED, of make's command line or the environment; any seed if there is none. Raises UserError."""
    given = command_line_variables(environ).get("KCONFIG_SEED", environ.get("KCONFIG_SEED"))
    if given is None:
        return random.SystemRandom().randrange(2**32)
    if not given.isdecimal():
        raise UserError(f"KCONFIG_SEED={given!r}: must be a whole number")
    return int(given)


def random_configuration(seed: int) -> Resolved:
    """The configuration that belongs to a seed. One random value after the other is tried, and kept if it can be."""
    dice = random.Random(seed)
    tree = parse_tree()
    for symbol in dice.sample(tree.unique_defined_syms, len(tree.unique_defined_syms)):
        value = _random_value(dice, symbol)
        if value is None:
            continue
        chosen_before = symbol.choice and symbol.choice.user_selection
        symbol.set_value(value)
        try:
            run_config(symbol_values(tree))
            slurm_config(symbol_values(tree))
        except UserError:
            (symbol.choice or symbol).unset_value()
            if chosen_before:
                chosen_before.set_value("y")
    of_steps = [setting for step in list_steps() for setting in step.assignments() if setting.symbol in tree.syms]
    for setting in of_steps if tree.syms["SEVERAL_ARMS"].tri_value else ():
        symbol = tree.syms[setting.symbol]
        (symbol.choice or symbol).unset_value()  # it is the steps that set it
    try:
        return _made(tree, seed)
    except UserError:
        tree.syms["RA_MLA_ABLATION_MODE"].set_value("n")
        return _made(tree, seed)


def _made(tree: kconfiglib.Kconfig, seed: int) -> Resolved:
    """The present values, if they make a plan. Raises UserError."""
    return make_plan(resolve(parse_assignments(config_text(tree), f"randconfig {seed}"))).base


def _random_value(dice: random.Random, symbol: kconfiglib.Symbol) -> str | None:
    """A value for a visible symbol; None leaves it alone, as all text is that is no number."""
    if not symbol.visibility or symbol.name == "SEED":  # which is ABLATION_SEEDS' to say
        return None
    if symbol.type == kconfiglib.BOOL:
        return "y" if symbol.choice else dice.choice("ny")
    try:
        number = float(symbol.str_value)
    except ValueError:
        return None
    number *= 2 ** dice.uniform(-1, 1)
    return str(round(number)) if symbol.type == kconfiglib.INT else f"{number:.3g}"
