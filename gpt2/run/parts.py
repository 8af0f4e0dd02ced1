"""What a run is made of: data, device, model, optimizer. Nothing here knows of steps done, or of a directory."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from gpt2.config import RunConfig
from gpt2.data.batches import Batch, EvalSet, batches, check_eval_windows, eval_set
from gpt2.data.dataset import Dataset, open_dataset
from gpt2.data.evaluation import EvalDataset, open_eval_datasets
from gpt2.machine import products, sdpa
from gpt2.machine.compilation import uncompile
from gpt2.machine.device import keep_freed_memory, peak_flops, select_device, set_precision
from gpt2.machine.ranks import ALONE, Ranks
from gpt2.model import GPT, GateRecords
from gpt2.run.ema import WeightAverage
from gpt2.run.load import load_initial_weights
from gpt2.run.parallel import share

_SEEDS_APART = 0x9E3779B1
"""Of the dropout of two micro-batches. The CPU takes the low 32 bits of a seed, over which multiples of this spread."""


class Parts:
    """Everything that a training step computes with. UserError where something asked for cannot be had.

    Of several `ranks` each makes its own, all at the same time.
    """

    def __init__(self, config: RunConfig, dataset: Dataset | None = None, ranks: Ranks = ALONE) -> None:
        t = config.train
        self.config = config
        self.ranks = ranks
        self.dataset = dataset or open_dataset(config.data)
        self.device = select_device(t.device)
        set_precision(t.tf32)
        sdpa.request(t.sdpa_kernel, self.device, t.dtype)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.model = GPT(config.model, seed=t.seed)
        if t.init_from:
            load_initial_weights(self.model, t.init_from)
        self.model.to(self.device)
        self.sdpa_ran = sdpa.kernels_of(self.model, self.device, t.dtype, kernel=t.sdpa_kernel)
        """Which kernels compute its attention; None where the device does not tell."""
        # After that: its calls are of one sequence, whose shapes nobody need tune products for.
        tokens, n_embd = t.batch_size * config.model.block_size, config.model.n_embd
        self.products_ran = products.request(t.products, self.device, t.dtype, tokens=tokens, n_embd=n_embd)
        """Who makes its matrix products."""
        self.model.recomputes_blocks = t.activation_checkpointing
        self.shared = share(self.model, config.optimizer, self.device, t.parallel, ranks)
        self.optimizer = self.shared.optimizer
        self.parameters = list(self.model.parameters())
        self.average = WeightAverage(self.model, t.ema_decay) if t.ema_decay else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=t.dtype == "float16")
        self.eval_set = self._eval_set(self.dataset)
        self.eval_batches = self.eval_set.dealt(ranks.rank, ranks.world_size)
        """This rank's."""
        sets = open_eval_datasets(config.data)
        check_eval_windows(sets, block_size=config.model.block_size)
        self.eval_datasets = sets
        """EVAL_DATASETS by name."""
        self.eval_sets = {name: self._eval_set(of) for name, of in sets.items()}
        """What is evaluated of each."""
        self.flops_per_token = self.model.flops_per_token()
        peak = peak_flops(self.device)
        self.peak_flops = None if peak is None else peak * ranks.world_size
        """Of all ranks."""
        self.compiled, self.compile_mode = "none", "default"
        """What is compiled, and how."""

    def _eval_set(self, dataset: Dataset | EvalDataset) -> EvalSet:
        t = self.config.train
        made = eval_set(
            dataset, batch_size=t.batch_size, block_size=self.config.model.block_size, eval_tokens=t.eval_tokens
        )
        return made.to(self.device)

    def about_eval_datasets(self) -> dict[str, dict[str, Any]]:
        """Of each of EVAL_DATASETS its hash and sizes, for provenance.json."""
        return {
            name: {"hash": of.hash, "val_tokens": len(of.val), "eval_targets": self.eval_sets[name].n_targets}
            for name, of in self.eval_datasets.items()
        }

    def compile(self, scope: str, mode: str) -> None:
        """Compile what `scope` says when it is first called, instead of what was to be compiled before."""
        uncompile(self.model)
        self.compiled, self.compile_mode = scope, mode
        self.shared.compile(scope, mode=mode)

    def batches(self, step: int) -> Generator[list[Batch], None, None]:
        """This rank's micro-batches of optimizer step `step`, of the one after it, and so on."""
        return batches(
            self.dataset,
            seed=self.config.train.seed,
            start_step=step,
            batch_size=self.config.train.batch_size,
            block_size=self.config.model.block_size,
            accumulation=self.config.train.gradient_accumulation_steps // self.ranks.world_size,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            device=self.device,
        )

    def micro_batch(self, step: int, i: int, *, is_last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of this rank's micro-batch `i` of a step."""
        if self.config.model.dropout > 0:
            # A function of step and micro-batch, so that a resumed run, and one of other ranks, draws the same.
            place = i * self.ranks.world_size + self.ranks.rank
            torch.manual_seed(self.config.train.seed * 1_000_003 + step + place * _SEEDS_APART)
        self.mark_pass()
        return self.shared.micro_batch(is_last=is_last)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of a batch. No logits outlive it: at half precision they are 100 KB per token."""
        loss: Tensor = self.shared.forward(x, y, keep_logits=not self.config.train.fused_loss)[1]
        return loss

    def gates(self) -> GateRecords:
        """Per-head gates by name, a list per layer (`GPT.gate_records`). To be called by all ranks."""
        return self.model.gate_records(self.shared.whole)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        # A CUDA graph writes its gradients to the same place each time. To be added up over micro-batches they need
        # memory of their own; elsewhere the first backward pass may as well bring it.
        keep = self.uses_cuda_graphs
        for p in self.parameters:
            if keep and p.requires_grad:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad.zero_()
            else:
                p.grad = None

    def mark_pass(self) -> None:
        """Tell CUDA graphs that what earlier passes returned may be overwritten. Costs an import of a second."""
        if self.uses_cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()

    @property
    def uses_cuda_graphs(self) -> bool:
        """Whether what is compiled is replayed as CUDA graphs."""
        graphs = self.compiled != "none" and self.compile_mode in ("reduce_overhead", "max_autotune")
        return graphs and self.device.type == "cuda"
