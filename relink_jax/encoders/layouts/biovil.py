"""BioViL and BioViL-T: an image file with its own projector, and CXR-BERT in a file of its own.

Source: microsoft/hi-ml, hi-ml-multimodal (image/model/{model,encoder,modules,transformer}.py, text/model/modelling_cxrbert.py).
"""

from relink_jax.encoders.layouts import parts
from relink_jax.encoders.rules import CHANNELS, CONV, IDENTITY, LINEAR, MIDDLE, POINT, Ignored, Layout, Rule

_CLASSIFIER = "ImageNet's classifier, which the model never calls"
_POOLER, _BLOCK = "encoder.vit_pooler.blocks.{block}", "image/pooler/block_{block}"

_IMAGE = (
    *parts.resnet("encoder.encoder."),
    Rule("projector.model.0.weight", "heads/image/conv1/kernel", POINT),
    *parts.batch_norm("projector.model.1", "heads/image/bn"),
    Rule("projector.model.3.weight", "heads/image/conv2/kernel", POINT),
    Rule("projector.model.3.bias", "heads/image/conv2/bias", IDENTITY),
)
_IMAGE_IGNORED = (
    *parts.resnet_ignored("encoder.encoder."),
    Ignored("projector.model.1.num_batches_tracked", parts.COUNTER),
    Ignored("encoder.encoder.fc.weight", _CLASSIFIER),
    Ignored("encoder.encoder.fc.bias", _CLASSIFIER),
)
_IMAGE_KEYS = frozenset({"encoder.encoder.conv1.weight", "projector.model.0.weight", "projector.model.3.weight"})

BIOVIL_IMAGE = Layout(name="biovil-image", model_type="", fingerprint=_IMAGE_KEYS, rules=_IMAGE, ignored=_IMAGE_IGNORED)

BIOVIL_T_IMAGE = Layout(
    name="biovil-t-image",
    model_type="",
    fingerprint=_IMAGE_KEYS | {"encoder.backbone_to_vit.weight", "encoder.missing_previous_emb"},
    rules=(
        *_IMAGE,
        Rule("encoder.missing_previous_emb", "heads/image/missing", CHANNELS),
        Rule("encoder.backbone_to_vit.weight", "image/backbone_to_vit/kernel", CONV),
        Rule("encoder.vit_pooler.type_embed", "image/pooler/type_embedding", MIDDLE),
        *parts.norm(f"{_POOLER}.norm1", f"{_BLOCK}/norm1"),
        *parts.norm(f"{_POOLER}.norm2", f"{_BLOCK}/norm2"),
        *(Rule(f"{_POOLER}.attn.proj_{part}.weight", f"{_BLOCK}/attn/{part}_proj/kernel", LINEAR) for part in "qkv"),
        *parts.linear(f"{_POOLER}.attn.proj", f"{_BLOCK}/attn/out_proj"),
        *parts.linear(f"{_POOLER}.mlp.fc1", f"{_BLOCK}/fc1"),
        *parts.linear(f"{_POOLER}.mlp.fc2", f"{_BLOCK}/fc2"),
        *parts.norm("encoder.vit_pooler.norm_post", "image/pooler/norm_post"),
    ),
    ignored=_IMAGE_IGNORED,
)

_PREDICTIONS = ("bias", "transform.dense.weight", "transform.dense.bias", "transform.LayerNorm.weight", "transform.LayerNorm.bias")

CXR_BERT = Layout(
    name="cxr-bert",
    model_type="",
    fingerprint=frozenset({"bert.embeddings.word_embeddings.weight", "cls_projection_head.dense_to_hidden.weight"}),
    rules=(
        *parts.bert("bert."),
        *parts.linear("cls_projection_head.dense_to_hidden", "heads/text/dense_to_hidden"),
        *parts.norm("cls_projection_head.LayerNorm", "heads/text/norm"),
        *parts.linear("cls_projection_head.dense_to_output", "heads/text/dense_to_output"),
    ),
    ignored=(
        *parts.bert_ignored("bert."),
        *(Ignored(f"cls.predictions.{name}", parts.MASKED_WORDS) for name in (*_PREDICTIONS, "decoder.weight", "decoder.bias")),
    ),
)
