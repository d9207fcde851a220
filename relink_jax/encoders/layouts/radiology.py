"""Chest-radiograph models that put a ResNet or a Swin beside Bio_ClinicalBERT: CXR-CLIP, MedCLIP, GLoRIA.

Sources: kakaobrain/cxr-clip cxrclip/model/{clip.py,modules/}; RyanWangZf/MedCLIP medclip/modeling_medclip.py; marshuang80/gloria
gloria/models/{vision_model,text_model}.py.
"""

from relink_jax.encoders.layouts import parts
from relink_jax.encoders.rules import IDENTITY, LINEAR, Ignored, Layout, Rule

_SCALE = Rule("logit_scale", "logit_scale", IDENTITY)
_CXR_CLIP = (
    *parts.bert("text_encoder.text_encoder."),
    *parts.linear("image_projection.projection", "heads/image"),
    *parts.linear("text_projection.projection", "heads/text"),
    _SCALE,
)
_CXR_CLIP_IGNORED = parts.bert_ignored("text_encoder.text_encoder.")
_CXR_CLIP_KEYS = frozenset({"image_projection.projection.weight", "text_projection.projection.weight"})

CXR_CLIP_RESNET = Layout(
    name="cxr-clip-resnet",
    model_type="",
    fingerprint=_CXR_CLIP_KEYS | {"image_encoder.resnet.conv1.weight"},
    rules=(*parts.resnet("image_encoder.resnet."), *_CXR_CLIP),
    ignored=(*parts.resnet_ignored("image_encoder.resnet."), *_CXR_CLIP_IGNORED),
)
CXR_CLIP_SWIN = Layout(
    name="cxr-clip-swin",
    model_type="",
    fingerprint=_CXR_CLIP_KEYS | {"image_encoder.image_encoder.embeddings.patch_embeddings.projection.weight"},
    rules=(*parts.swin("image_encoder.image_encoder."), *_CXR_CLIP),
    ignored=(*parts.swin_ignored("image_encoder.image_encoder."), *_CXR_CLIP_IGNORED),
)

_MEDCLIP = (*parts.bert("text_model.model."), Rule("text_model.projection_head.weight", "heads/text/kernel", LINEAR), _SCALE)
_MEDCLIP_IGNORED = parts.bert_ignored("text_model.model.")

MEDCLIP_RESNET = Layout(
    name="medclip-resnet",
    model_type="",
    fingerprint=frozenset({"vision_model.model.conv1.weight", "vision_model.model.fc.weight", "text_model.projection_head.weight"}),
    rules=(*parts.resnet("vision_model.model."), Rule("vision_model.model.fc.weight", "heads/image/kernel", LINEAR), *_MEDCLIP),
    ignored=(*parts.resnet_ignored("vision_model.model."), *_MEDCLIP_IGNORED),
)
MEDCLIP_SWIN = Layout(
    name="medclip-swin",
    model_type="",
    fingerprint=frozenset(
        {
            "vision_model.model.embeddings.patch_embeddings.projection.weight",
            "vision_model.projection_head.weight",
            "text_model.projection_head.weight",
        }
    ),
    rules=(*parts.swin("vision_model.model."), Rule("vision_model.projection_head.weight", "heads/image/kernel", LINEAR), *_MEDCLIP),
    ignored=(*parts.swin_ignored("vision_model.model."), *_MEDCLIP_IGNORED),
)

GLORIA = Layout(
    name="gloria",
    model_type="",
    fingerprint=frozenset({"img_encoder.global_embedder.weight", "img_encoder.model.conv1.weight", "text_encoder.model.embeddings.word_embeddings.weight"}),
    rules=(
        *parts.resnet("img_encoder.model."),
        *parts.linear("img_encoder.global_embedder", "heads/image"),
        *parts.bert("text_encoder.model."),
    ),
    ignored=(
        *parts.resnet_ignored("img_encoder.model."),
        Ignored("img_encoder.local_embedder.weight", "the head of the local, word-by-region loss; no global embedding passes through it"),
        *parts.bert_ignored("text_encoder.model."),
    ),
)
