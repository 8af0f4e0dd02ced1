"""What a run says while it trains: lines of metrics.jsonl, the trackers that mirror them, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2.config import RunConfig
from gpt2.run.record import Metrics
from gpt2.run.records import Event
from gpt2.run.tracking import Trackers


class Journal:
    """Of one process. What was written before it stays."""

    def __init__(self, config: RunConfig, out: Path) -> None:
        self._metrics = Metrics(out / "metrics.jsonl")
        self._trackers = Trackers(config, out)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """A line of metrics.jsonl."""
        self._metrics.write(kind, step, **values)
        self._trackers.write(kind, step, **values)

    def event(self, event: Event, step: int, message: str, *, is_printed: bool = True) -> None:
        """Something that happened."""
        self.write("event", step, event=event, message=message)
        if is_printed:
            print(message, flush=True)

    def train(self, step: int, *, speed: dict[str, float | None], **values: Any) -> None:
        """Training steps up to `step`; `values` and `speed` are those of docs/results.md."""
        loss, norm, ms = values["loss"], values["grad_norm"], values["ms_per_step"]
        self.write("train", step, **values, **speed)
        mfu = "" if speed["mfu"] is None else f" | mfu {speed['mfu']:.1%}"
        print(
            f"step {step:>6} | loss {_number(loss, '.4f')} | lr {values['lr']:.2e} | norm {_number(norm, '.2f')}"
            f" | {ms:.1f} ms/step | {speed['tokens_per_s']:,.0f} tokens/s{mfu}",
            flush=True,
        )

    def evaluation(self, step: int, **values: Any) -> None:
        """An evaluation; `values` are those of docs/results.md."""
        self.write("eval", step, **values)
        bpb = "" if values["val_bpb"] is None else f" | {values['val_bpb']:.4f} bits/byte"
        others = "".join(f" | {name} {loss:.4f}" for name, loss in values.get("val_losses", {}).items())
        print(f"step {step:>6} | val_loss {values['val_loss']:.4f}{bpb}{others}", flush=True)

    def close(self) -> None:
        """No line comes after this."""
        self._metrics.close()
        self._trackers.close()


class Silence(Journal):
    """What those ranks of a run say that do not write."""

    def __init__(self) -> None:
        pass

    def write(self, kind: str, step: int, **values: Any) -> None:
        pass

    def event(self, event: Event, step: int, message: str, *, is_printed: bool = True) -> None:
        pass

    def train(self, step: int, *, speed: dict[str, float | None], **values: Any) -> None:
        pass

    def evaluation(self, step: int, **values: Any) -> None:
        pass

    def close(self) -> None:
        pass


def _number(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)
