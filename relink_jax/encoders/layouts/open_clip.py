"""The two layouts of open_clip: OpenAI's own (CLIP's original files, CheXzero), and a timm image tower beside a BERT (BiomedCLIP).

Sources: openai/CLIP clip/model.py; open_clip src/open_clip/{model,transformer,timm_model,hf_model}.py; timm vision_transformer.py.
"""

from relink_jax.encoders.layouts import parts
from relink_jax.encoders.rules import BATCH, CONV, IDENTITY, KERNEL, LINEAR, TOKEN, Ignored, Layout, Rule


def _stack(source: str, target: str) -> tuple[Rule, ...]:
    """OpenAI's residual attention blocks."""
    layer, block = f"{source}transformer.resblocks.{{layer}}", f"{target}/encoder/block_{{layer}}"
    return (
        *parts.norm(f"{layer}.ln_1", f"{block}/layer_norm1"),
        *parts.norm(f"{layer}.ln_2", f"{block}/layer_norm2"),
        *parts.packed(f"{layer}.attn.in_proj_weight", f"{layer}.attn.in_proj_bias", f"{block}/self_attn"),
        *parts.linear(f"{layer}.attn.out_proj", f"{block}/self_attn/out_proj"),
        *parts.linear(f"{layer}.mlp.c_fc", f"{block}/fc1"),
        *parts.linear(f"{layer}.mlp.c_proj", f"{block}/fc2"),
    )


_SIZES = "a size that the TorchScript archives carry as a tensor; shapes say the same"

OPENAI_CLIP = Layout(
    name="openai-clip",
    model_type="",
    fingerprint=frozenset({"visual.proj", "visual.class_embedding", "visual.conv1.weight", "text_projection", "ln_final.weight"}),
    rules=(
        Rule("visual.class_embedding", "image/class_embedding", IDENTITY),
        Rule("visual.conv1.weight", "image/patch_embedding/kernel", CONV),
        Rule("visual.positional_embedding", "image/position_embedding", IDENTITY),
        *parts.norm("visual.ln_pre", "image/pre_layernorm"),
        *_stack("visual.", "image"),
        *parts.norm("visual.ln_post", "image/post_layernorm"),
        Rule("token_embedding.weight", "text/token_embedding", IDENTITY),
        Rule("positional_embedding", "text/position_embedding", IDENTITY),
        *_stack("", "text"),
        *parts.norm("ln_final", "text/final_layer_norm"),
        Rule("visual.proj", "heads/image/kernel", KERNEL),
        Rule("text_projection", "heads/text/kernel", KERNEL),
        Rule("logit_scale", "logit_scale", IDENTITY),
    ),
    ignored=tuple(Ignored(name, _SIZES) for name in ("input_resolution", "context_length", "vocab_size")),
)

_TIMM, _BLOCK = "visual.trunk.blocks.{layer}", "image/encoder/block_{layer}"

OPEN_CLIP_BERT = Layout(
    name="open-clip-timm-bert",
    model_type="",
    fingerprint=frozenset({"visual.trunk.cls_token", "visual.head.proj.weight", "text.transformer.embeddings.word_embeddings.weight", "text.proj.0.weight"}),
    rules=(
        Rule("visual.trunk.cls_token", "image/class_embedding", TOKEN),
        Rule("visual.trunk.pos_embed", "image/position_embedding", BATCH),
        Rule("visual.trunk.patch_embed.proj.weight", "image/patch_embedding/kernel", CONV),
        Rule("visual.trunk.patch_embed.proj.bias", "image/patch_embedding/bias", IDENTITY),
        *parts.norm(f"{_TIMM}.norm1", f"{_BLOCK}/layer_norm1"),
        *parts.norm(f"{_TIMM}.norm2", f"{_BLOCK}/layer_norm2"),
        *parts.packed(f"{_TIMM}.attn.qkv.weight", f"{_TIMM}.attn.qkv.bias", f"{_BLOCK}/self_attn"),
        *parts.linear(f"{_TIMM}.attn.proj", f"{_BLOCK}/self_attn/out_proj"),
        *parts.linear(f"{_TIMM}.mlp.fc1", f"{_BLOCK}/fc1"),
        *parts.linear(f"{_TIMM}.mlp.fc2", f"{_BLOCK}/fc2"),
        *parts.norm("visual.trunk.norm", "image/post_layernorm"),
        *parts.bert("text.transformer."),
        Rule("visual.head.proj.weight", "heads/image/kernel", LINEAR),
        Rule("text.proj.0.weight", "heads/text/fc1/kernel", LINEAR),
        Rule("text.proj.2.weight", "heads/text/fc2/kernel", LINEAR),
        Rule("logit_scale", "logit_scale", IDENTITY),
    ),
    ignored=parts.bert_ignored("text.transformer."),
)
