"""What the tokens of a data set stand for: how many bytes of text each, where that is known.

Of a prepared set it is what its tokenizer says. Ready token files name no tokenizer: `TOKENIZER_` claims one, which is
believed where their text, written anew by it, gives the same tokens. Ids of another vocabulary do not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from gpt2.base.errors import UserError
from gpt2.data.meta_pkl import Meta
from gpt2.data.token_files import Tokens
from gpt2.data.tokenizer import Tokenizer, load_tokenizer

_PIECES = 8
_PIECE_TOKENS = 1024

_BELIEVED = 0.9
"""Share of tokens that have to come out the same. GPT-2's text gives 0.99: the ends of a piece are cut off anywhere."""

_CONTROL = [*range(0x01, 0x09), *range(0x0E, 0x1B), *range(0x1C, 0x20), 0x7F]
_CONTROL_SHARE = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """What is known of a data set's tokens."""

    tokenizer: str | None = None
    """Whose tokens they are, "byte" or "gpt2"; None where they are not known to be of either."""

    token_bytes: np.ndarray | None = None
    """How many bytes of UTF-8 text each stands for, int64 [vocab_size]; 0 for a document boundary."""

    unknown: str | None = None
    """Why `token_bytes` is None, in one line."""


def vocabulary_of(tokenizer: str, vocab_size: int) -> Vocabulary:
    """The vocabulary of `vocab_size` tokens that `tokenizer` made."""
    try:
        loaded = load_tokenizer(tokenizer)
    except UserError as error:
        return Vocabulary(tokenizer=tokenizer, unknown=str(error))
    if loaded.n_vocab != vocab_size:
        return Vocabulary(unknown=f"VOCAB_SIZE={vocab_size}, but the tokenizer {tokenizer} has {loaded.n_vocab} tokens")
    return Vocabulary(tokenizer=tokenizer, token_bytes=loaded.token_bytes())


def vocabulary_of_files(tokenizer: str, vocab_size: int, tokens: Tokens, meta: Meta | None) -> Vocabulary:
    """The vocabulary of ready `tokens`, of which the configuration claims that they are `tokenizer`'s."""
    if meta is not None and meta.texts is not None:
        lengths = [len(meta.texts[i].encode(errors="surrogatepass")) for i in range(vocab_size)]
        return Vocabulary(token_bytes=np.array(lengths))
    claimed = vocabulary_of(tokenizer, vocab_size)
    if claimed.token_bytes is None:
        return claimed
    if meta is not None and meta.unread is not None:
        return Vocabulary(unknown=f"{meta.path} says what they are, but it {meta.unread}; pickles are never loaded")
    share = _share_confirmed(tokens, load_tokenizer(tokenizer))
    if share < _BELIEVED:
        return Vocabulary(
            unknown=f"TOKENIZER_{tokenizer.upper()}: the validation tokens are not its: of their text it makes "
            f"{share:.0%} the same"
        )
    return claimed


def _share_confirmed(tokens: Tokens, tokenizer: Tokenizer) -> float:
    """The share of sampled tokens that `tokenizer` makes of their text again; of bytes, those that belong in text."""
    length = min(_PIECE_TOKENS, len(tokens))
    starts = dict.fromkeys((np.arange(_PIECES) * (len(tokens) - length) // max(1, _PIECES - 1)).tolist())
    pieces = [tokens.read(start, length) for start in starts]
    if tokenizer.name == "byte":
        control = np.isin(np.concatenate(pieces), _CONTROL).mean()
        return 1.0 if control <= _CONTROL_SHARE else 1.0 - float(control)
    same = 0
    for piece in pieces:
        for document in np.split(piece, np.flatnonzero(piece == tokenizer.eot)):
            ids = document[document != tokenizer.eot]
            same += len(document) - len(ids)
            again = tokenizer.encode(tokenizer.decode(ids.tolist()))
            same += (Counter(ids.tolist()) & Counter(again.tolist())).total()
    return same / sum(map(len, pieces))
