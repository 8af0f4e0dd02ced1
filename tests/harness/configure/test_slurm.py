"""What is asked of Slurm is taken, or refused in a line that names the symbol."""

from __future__ import annotations

import pytest

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.dotconfig import resolve
from harness.configure.plan import make_plan
from harness.configure.slurm import SlurmConfig, slurm_config


def asked(**symbols: str) -> SlurmConfig | None:
    settings = {"LAUNCHER_SLURM": "y"} | symbols
    return slurm_config(resolve([Assignment(name, value, "test") for name, value in settings.items()]).symbols)


def several(processes: int) -> dict[str, str]:
    return {"PROCESSES_PER_RUN": str(processes), "GRADIENT_ACCUMULATION_STEPS": str(processes)}


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90:30", 91),
        ("2:00:01", 121),
        ("1-0", 1440),
        ("1-12:30", 2190),
        ("0-00:05:00", 5),
        ("7-00:00:00", 10080),
    ],
)
def test_times_are_those_of_sbatch(text: str, minutes: int) -> None:
    config = asked(SLURM_TIME=text)
    assert config is not None and config.minutes == minutes


@pytest.mark.parametrize(
    ("symbols", "said"),
    [
        ({"SLURM_TIME": "1h"}, r'SLURM_TIME="1h": write minutes, or D-HH:MM:SS'),
        ({"SLURM_TIME": ""}, r'SLURM_TIME="": write minutes'),
        ({"SLURM_TIME": "3"}, r'SLURM_TIME="3": must be at least 4 minutes'),
        ({"SLURM_MEM": "64 G"}, r'SLURM_MEM="64 G": write it as 64G'),
        ({"SLURM_PARTITION": "gpu --wrap"}, r'SLURM_PARTITION="gpu --wrap": is no name'),
        ({"SLURM_ACCOUNT": "-x"}, r'SLURM_ACCOUNT="-x": is no name'),
        ({**several(3), "SLURM_NODES": "2"}, r"SLURM_GPUS=3: 3 processes of a run and 3 GPUs cannot be spread"),
        ({"SLURM_EXTRA": "--qos=long"}, r'"--qos" is no long option of sbatch'),
        ({"SLURM_EXTRA": "qos=long time=5"}, r"time: SLURM_TIME says this"),
        ({"SLURM_EXTRA": "array=0-5"}, r"array: is set by the launcher"),
        ({"SLURM_EXTRA": "qos=a qos=b"}, r"qos: is given twice"),
        ({"SLURM_EXTRA": 'comment="a'}, r"No closing quotation"),
    ],
)
def test_what_sbatch_could_not_take_is_refused_by_name(symbols: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        asked(**symbols)
    assert "\n" not in str(refused.value)


def test_further_options_are_handed_on() -> None:
    config = asked(SLURM_EXTRA='constraint=a100 exclusive comment="two words"')
    assert config is not None
    assert config.extra == {"constraint": "a100", "exclusive": True, "comment": "two words"}


def test_no_gpu_is_asked_for_where_runs_are_on_the_cpu() -> None:
    for symbols, gpus in (({}, 1), ({"DEVICE_CPU": "y"}, 0), ({**several(8), "SLURM_NODES": "2"}, 8)):
        config = asked(**symbols)
        assert config is not None and config.gpus == gpus
        assert config.processes_per_node == max(1, gpus // config.nodes)


def test_how_runs_are_launched_is_of_no_run() -> None:
    here = make_plan(resolve([]))
    there = make_plan(resolve([Assignment("LAUNCHER_SLURM", "y", "test"), Assignment("SLURM_TIME", "60", "test")]))
    assert [run.config for run in here.runs] == [run.config for run in there.runs]


def test_a_mistake_is_told_before_anything_is_saved() -> None:
    settings = [Assignment("LAUNCHER_SLURM", "y", "test"), Assignment("SLURM_TIME", "soon", "test")]
    with pytest.raises(UserError, match="SLURM_TIME"):
        make_plan(resolve(settings))
