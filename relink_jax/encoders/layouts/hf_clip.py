"""CLIP as transformers writes it: OpenAI's conversions, PubMedCLIP, XrayCLIP; and the same in Flax, kernels already [in, out].

Source: transformers, models/clip/modeling_clip.py; version 4's modeling_flax_clip.py (`flax_model.msgpack`).
"""

from relink_jax.encoders.layouts import parts
from relink_jax.encoders.rules import CONV, IDENTITY, KERNEL, LINEAR, Ignored, Layout, Operation, Rule

HF_CLIP = Layout(
    name="hf-clip",
    model_type="clip",
    fingerprint=frozenset({"vision_model.pre_layrnorm.weight", "visual_projection.weight", "text_projection.weight"}),
    rules=(
        Rule("vision_model.embeddings.class_embedding", "image/class_embedding", IDENTITY),
        Rule("vision_model.embeddings.patch_embedding.weight", "image/patch_embedding/kernel", CONV),
        Rule("vision_model.embeddings.position_embedding.weight", "image/position_embedding", IDENTITY),
        *parts.norm("vision_model.pre_layrnorm", "image/pre_layernorm"),
        *parts.hf_stack("vision_model", "image"),
        *parts.norm("vision_model.post_layernorm", "image/post_layernorm"),
        Rule("text_model.embeddings.token_embedding.weight", "text/token_embedding", IDENTITY),
        Rule("text_model.embeddings.position_embedding.weight", "text/position_embedding", IDENTITY),
        *parts.hf_stack("text_model", "text"),
        *parts.norm("text_model.final_layer_norm", "text/final_layer_norm"),
        Rule("visual_projection.weight", "heads/image/kernel", LINEAR),
        Rule("text_projection.weight", "heads/text/kernel", LINEAR),
        Rule("logit_scale", "logit_scale", IDENTITY),
    ),
    ignored=(Ignored("vision_model.embeddings.position_ids", parts.POSITIONS), Ignored("text_model.embeddings.position_ids", parts.POSITIONS)),
)

_KEPT = {LINEAR.name: KERNEL, CONV.name: Operation("convolution HWIO as it is", IDENTITY.forward, IDENTITY.backward, 4)}


def _flax(rule: Rule) -> Rule:
    """Returns the row for Flax's name of the same parameter: the module path with slashes, the leaf as Flax calls it."""
    module, _, leaf = rule.source.rpartition(".")
    named = {"kernel": "kernel", "scale": "scale", "bias": "bias", "token_embedding": "embedding", "position_embedding": "embedding"}
    name = named.get(rule.target.rpartition("/")[2], leaf)
    return Rule("/".join([*module.split("."), name] if module else [name]), rule.target, _KEPT.get(rule.operation.name, rule.operation))


FLAX_CLIP = Layout(
    name="hf-flax-clip",
    model_type="clip",
    fingerprint=frozenset({"vision_model/pre_layrnorm/scale", "visual_projection/kernel", "text_projection/kernel"}),
    rules=tuple(map(_flax, HF_CLIP.rules)),
    exported_as=HF_CLIP.name,
)
