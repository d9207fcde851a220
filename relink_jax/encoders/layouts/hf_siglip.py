"""SigLIP as transformers writes it: MedSigLIP, XraySigLIP. Source: transformers, models/siglip/modeling_siglip.py."""

from relink_jax.encoders.layouts import parts
from relink_jax.encoders.rules import CONV, IDENTITY, SCALAR, TOKEN, Ignored, Layout, Rule

HF_SIGLIP = Layout(
    name="hf-siglip",
    model_type="siglip",
    fingerprint=frozenset({"vision_model.head.probe", "text_model.head.weight", "logit_bias"}),
    rules=(
        Rule("vision_model.embeddings.patch_embedding.weight", "image/patch_embedding/kernel", CONV),
        Rule("vision_model.embeddings.patch_embedding.bias", "image/patch_embedding/bias", IDENTITY),
        Rule("vision_model.embeddings.position_embedding.weight", "image/position_embedding", IDENTITY),
        *parts.hf_stack("vision_model", "image"),
        *parts.norm("vision_model.post_layernorm", "image/post_layernorm"),
        Rule("vision_model.head.probe", "image/probe", TOKEN),
        *parts.packed("vision_model.head.attention.in_proj_weight", "vision_model.head.attention.in_proj_bias", "image/probe_attn"),
        *parts.linear("vision_model.head.attention.out_proj", "image/probe_attn/out_proj"),
        *parts.norm("vision_model.head.layernorm", "heads/image/norm"),
        *parts.linear("vision_model.head.mlp.fc1", "heads/image/fc1"),
        *parts.linear("vision_model.head.mlp.fc2", "heads/image/fc2"),
        Rule("text_model.embeddings.token_embedding.weight", "text/token_embedding", IDENTITY),
        Rule("text_model.embeddings.position_embedding.weight", "text/position_embedding", IDENTITY),
        *parts.hf_stack("text_model", "text"),
        *parts.norm("text_model.final_layer_norm", "text/final_layer_norm"),
        *parts.linear("text_model.head", "heads/text"),
        Rule("logit_scale", "logit_scale", SCALAR),
        Rule("logit_bias", "logit_bias", SCALAR),
    ),
    ignored=(Ignored("vision_model.embeddings.position_ids", parts.POSITIONS), Ignored("text_model.embeddings.position_ids", parts.POSITIONS)),
)
