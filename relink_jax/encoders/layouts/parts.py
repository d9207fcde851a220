"""Rows that several layouts share: the modules of torch, torchvision and transformers under a prefix."""

from relink_jax.encoders.rules import CONV, IDENTITY, LINEAR, Ignored, Rule

POSITIONS = "the constant 0, 1, 2, ... that old writers stored; positions are implied"
WINDOW_INDEX = "where each pair of a window's cells finds its bias; follows from the window's size"
COUNTER = "how many batches training has seen; batch norm is frozen here"
POOLER = "BERT's tanh pooler, of no use to this model: its text feature is taken from the hidden states"
MASKED_WORDS = "the head of masked-word training; no embedding passes through it"


def norm(source: str, target: str) -> tuple[Rule, ...]:
    """LayerNorm."""
    return Rule(f"{source}.weight", f"{target}/scale", IDENTITY), Rule(f"{source}.bias", f"{target}/bias", IDENTITY)


def linear(source: str, target: str) -> tuple[Rule, ...]:
    """A linear layer with bias, stored [out, in]."""
    return Rule(f"{source}.weight", f"{target}/kernel", LINEAR), Rule(f"{source}.bias", f"{target}/bias", IDENTITY)


def packed(weight: str, bias: str, target: str) -> tuple[Rule, ...]:
    """Query, key and value stored as one [3 out, in] matrix and one bias."""
    return Rule(weight, f"{target}/{{qkv}}_proj/kernel", LINEAR), Rule(bias, f"{target}/{{qkv}}_proj/bias", IDENTITY)


def batch_norm(source: str, target: str) -> tuple[Rule, ...]:
    """Frozen batch norm: scale, bias and the running statistics."""
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return tuple(Rule(f"{source}.{name}", f"{target}/{goal}", IDENTITY) for name, goal in names.items())


def resnet(prefix: str) -> tuple[Rule, ...]:
    """torchvision's ResNet without its classifier; stages count from 1 as there."""
    block, target = f"{prefix}layer{{stage}}.{{block}}", "image/stage_{stage}/block_{block}"
    return (
        Rule(f"{prefix}conv1.weight", "image/stem/conv/kernel", CONV),
        *batch_norm(f"{prefix}bn1", "image/stem/bn"),
        Rule(f"{block}.conv{{index}}.weight", f"{target}/conv{{index}}/kernel", CONV),
        *batch_norm(f"{block}.bn{{index}}", f"{target}/bn{{index}}"),
        Rule(f"{block}.downsample.0.weight", f"{target}/downsample/conv/kernel", CONV),
        *batch_norm(f"{block}.downsample.1", f"{target}/downsample/bn"),
    )


def resnet_ignored(prefix: str) -> tuple[Ignored, ...]:
    """The batch counters of torchvision's ResNet."""
    block = f"{prefix}layer{{stage}}.{{block}}"
    return tuple(Ignored(f"{norm}.num_batches_tracked", COUNTER) for norm in (f"{prefix}bn1", f"{block}.bn{{index}}", f"{block}.downsample.1"))


def swin(prefix: str) -> tuple[Rule, ...]:
    """transformers' Swin as published files spell it (`attention.self.query`, not version 5's in-memory `attention.q_proj`)."""
    stage, target = f"{prefix}encoder.layers.{{stage}}", "image/stage_{stage}"
    block, goal = f"{stage}.blocks.{{block}}", f"{target}/block_{{block}}"
    return (
        Rule(f"{prefix}embeddings.patch_embeddings.projection.weight", "image/patch_embedding/kernel", CONV),
        Rule(f"{prefix}embeddings.patch_embeddings.projection.bias", "image/patch_embedding/bias", IDENTITY),
        *norm(f"{prefix}embeddings.norm", "image/patch_norm"),
        *norm(f"{block}.layernorm_before", f"{goal}/norm1"),
        *norm(f"{block}.layernorm_after", f"{goal}/norm2"),
        *_bert_attention(block, f"{goal}/attn"),
        Rule(f"{block}.attention.self.relative_position_bias_table", f"{goal}/attn/relative_position_bias", IDENTITY),
        *linear(f"{block}.intermediate.dense", f"{goal}/fc1"),
        *linear(f"{block}.output.dense", f"{goal}/fc2"),
        *norm(f"{stage}.downsample.norm", f"{target}/downsample/norm"),
        Rule(f"{stage}.downsample.reduction.weight", f"{target}/downsample/reduction/kernel", LINEAR),
        *norm(f"{prefix}layernorm", "image/final_norm"),
    )


def swin_ignored(prefix: str) -> tuple[Ignored, ...]:
    """The index buffers of transformers' Swin up to version 4."""
    return (Ignored(f"{prefix}encoder.layers.{{stage}}.blocks.{{block}}.attention.self.relative_position_index", WINDOW_INDEX),)


def bert(prefix: str) -> tuple[Rule, ...]:
    """transformers' BERT encoder."""
    layer, target = f"{prefix}encoder.layer.{{layer}}", "text/block_{layer}"
    tables = {"word_embeddings": "word_embedding", "position_embeddings": "position_embedding", "token_type_embeddings": "type_embedding"}
    return (
        *(Rule(f"{prefix}embeddings.{name}.weight", f"text/{goal}", IDENTITY) for name, goal in tables.items()),
        *norm(f"{prefix}embeddings.LayerNorm", "text/embedding_norm"),
        *_bert_attention(layer, f"{target}/self_attn"),
        *norm(f"{layer}.attention.output.LayerNorm", f"{target}/attention_norm"),
        *linear(f"{layer}.intermediate.dense", f"{target}/fc1"),
        *linear(f"{layer}.output.dense", f"{target}/fc2"),
        *norm(f"{layer}.output.LayerNorm", f"{target}/output_norm"),
    )


def bert_ignored(prefix: str) -> tuple[Ignored, ...]:
    """What transformers' BERT stores beside its encoder."""
    return (
        Ignored(f"{prefix}embeddings.position_ids", POSITIONS),
        Ignored(f"{prefix}pooler.dense.weight", POOLER),
        Ignored(f"{prefix}pooler.dense.bias", POOLER),
    )


def hf_stack(source: str, target: str) -> tuple[Rule, ...]:
    """The pre-LN stack of transformers' CLIP and SigLIP."""
    layer, block = f"{source}.encoder.layers.{{layer}}", f"{target}/encoder/block_{{layer}}"
    return (
        *norm(f"{layer}.layer_norm1", f"{block}/layer_norm1"),
        *norm(f"{layer}.layer_norm2", f"{block}/layer_norm2"),
        *linear(f"{layer}.self_attn.{{part}}_proj", f"{block}/self_attn/{{part}}_proj"),
        *linear(f"{layer}.mlp.fc1", f"{block}/fc1"),
        *linear(f"{layer}.mlp.fc2", f"{block}/fc2"),
    )


def _bert_attention(source: str, target: str) -> tuple[Rule, ...]:
    """Self-attention as BERT names it."""
    return (
        *linear(f"{source}.attention.self.query", f"{target}/q_proj"),
        *linear(f"{source}.attention.self.key", f"{target}/k_proj"),
        *linear(f"{source}.attention.self.value", f"{target}/v_proj"),
        *linear(f"{source}.attention.output.dense", f"{target}/out_proj"),
    )
