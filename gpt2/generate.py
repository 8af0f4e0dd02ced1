"""Text from a model, token by token, with a KV cache.

    for tokens in generate(model, idx, 100, temperature=0.8, generator=torch.Generator().manual_seed(1)):
        ...

`scripts/sample.py` is the command.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from gpt2.base.errors import UserError
from gpt2.data.tokenizer import Tokenizer
from gpt2.model import GPT

COLDEST = 1e-6
"""Temperatures below it are as good as 0: logits differ by more where they differ, and dividing them would overflow."""


@torch.no_grad()
def generate(
    model: GPT,
    idx: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    n_vocab: int | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
) -> Iterator[Tensor]:
    """Yield `max_new_tokens` times the next token of each sequence, [B], after those of idx [B, T], T >= 1.

    temperature: 0 takes the likeliest token. top_k: draw from the k likeliest. n_vocab: draw from the first n_vocab
    ids, where the rest are padding. generator: a torch.Generator on the model's device. The model should be in eval
    mode. UserError where its output is not finite.

    Learned positions end at block_size. A sequence that has become longer goes on from its last block_size // 2 tokens,
    as if it began there: moving on by a single token would change the position of every cached one. `use_cache` changes
    the time it takes and nothing else.
    """
    block_size = model.config.block_size
    context = new = idx[:, -block_size:]
    caches = model.new_caches()
    for _ in range(max_new_tokens):
        logits, _ = model(new, caches=caches) if use_cache else model(context)
        new = _draw(logits[:, -1, :n_vocab].float(), temperature, top_k, generator)
        yield new.squeeze(1)
        context = torch.cat([context, new], dim=1)
        if context.size(1) > block_size:
            context = new = context[:, -max(block_size // 2, 1) :]
            caches = model.new_caches()


def _draw(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """A token for each row of logits [B, V]; [B, 1]."""
    if not bool(logits.isfinite().all()):
        raise UserError("the model's output is not finite: its weights are too large to compute with")
    if temperature < COLDEST:
        return logits.argmax(dim=-1, keepdim=True)
    if top_k is not None and top_k < logits.size(-1):
        logits, candidates = logits.topk(top_k)
    else:
        candidates = torch.arange(logits.size(-1), device=logits.device).expand_as(logits)
    drawn = torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator)
    return candidates.gather(1, drawn)


def stream_text(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """The text of `ids` up to the end of the document: a piece for each token, then what is left over.

    A character comes with its last byte. Bytes that are not UTF-8 become U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for i in ids:
        if i == tokenizer.eot:
            break
        yield decoder.decode(tokenizer.decode_bytes([i]))
    yield decoder.decode(b"", final=True)


@torch.no_grad()
def cache_bytes_per_token(model: GPT) -> int:
    """Bytes that the KV cache of a model takes per token of a sequence, over all layers: those of the buffers it fills.

    Measured after a forward pass over one token, in the precision that the pass has here (autocast's too).
    """
    caches = model.new_caches()
    model(torch.zeros(1, 1, dtype=torch.long, device=model.lm_head.weight.device), caches=caches)
    return round(sum(cache.bytes_per_token() for cache in caches))
