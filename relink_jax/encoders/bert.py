"""The post-LN BERT encoder: token ids in, pooled features before the projection head out.

Word, position and type embeddings are added and normalised; each block is `x = norm(x + attention(x))`, then
`x = norm(x + mlp(x))` (Devlin et al. 2019, arXiv 1810.04805; transformers, models/bert/modeling_bert.py). The tanh pooler of that
library is no part of it. One segment per text, so every token has type 0.

Padding is masked as a key, so 'cls' and 'sep' do not depend on it. 'three_layers' averages over padding too and 'last_four' divides by
the padded length: their features belong to one length of padding.
"""

import jax
from flax import linen as nn

from relink_jax import errors
from relink_jax.encoders import blocks, specs, text

_LEAST_LAYERS = {"cls": 1, "sep": 1, "three_layers": 2, "last_four": 3}


class Block(nn.Module):
    """One post-LN layer."""

    stack: specs.StackSpec

    @nn.compact
    def __call__(self, x: jax.Array, batch: int, mask: jax.Array) -> jax.Array:
        """Returns the tokens [B * L, W] after attention and MLP; `mask` [B, 1, L] is True at the keys that may be seen."""
        stack = self.stack
        x = blocks.layer_norm(stack.epsilon, "attention_norm")(x + blocks.Attention(stack.heads, name="self_attn")(x, batch, mask))
        return blocks.layer_norm(stack.epsilon, "output_norm")(x + blocks.mlp(stack, x))


class BertTower(nn.Module):
    """`[B, L] int32 -> [B, F]` in the dtype of the parameters; L is at most the tower's positions."""

    spec: specs.BertSpec

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Returns the features [B, F] of token ids [B, L].

        Raises: DataError: an unknown pool, or one that reads more layers than there are.
        """
        spec, stack, (batch, length) = self.spec, self.spec.stack, ids.shape
        if stack.layers < _LEAST_LAYERS.get(spec.pool, stack.layers + 1):
            expected = f"one of {', '.join(f'{pool!r} from {least} layers' for pool, least in _LEAST_LAYERS.items())}"
            raise errors.DataError(errors.describe("pool", "BERT encoder", expected, f"{spec.pool!r} with {stack.layers} layers"))
        word, position, kind = (
            self.param(f"{name}_embedding", nn.initializers.normal(0.02), (rows, stack.width))
            for name, rows in (("word", spec.vocab_size), ("position", spec.positions), ("type", spec.types))
        )
        seen = ids != spec.pad_id
        x = blocks.layer_norm(stack.epsilon, "embedding_norm")(word[ids] + position[:length] + kind[0])
        states = [x]
        for index in range(stack.layers):
            x = Block(stack, name=f"block_{index}")(x.reshape(-1, stack.width), batch, seen[:, None]).reshape(x.shape)
            states.append(x)
        return pooled(spec.pool, states, seen)


def pooled(pool: str, states: list[jax.Array], seen: jax.Array) -> jax.Array:
    """Returns the features [B, W] of the hidden states [B, L, W] after the embeddings and after each block; see `specs.BertSpec`.

    `seen` [B, L] is False at padding. Sources: 'cls' open_clip hf_model.py and hi-ml's CXRBertModel; 'sep' CXR-CLIP, model/clip.py;
    'three_layers' MedCLIP, modeling_medclip.py; 'last_four' GLoRIA, models/text_model.py, whose sums over the pieces of each word and
    then over words, zeros after the last, are one sum over the pieces.
    """
    if pool == "cls":
        return states[-1][:, 0]
    if pool == "sep":
        return text.at(states[-1], seen.sum(axis=1) - 1)
    if pool == "three_layers":
        return (states[1].mean(axis=1) + states[2].mean(axis=1) + states[-1].mean(axis=1)) / 3
    return (sum(states[-4:]) * seen[..., None]).mean(axis=1)
