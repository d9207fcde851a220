"""The published dual encoders that relink_jax knows, as data: adding one of a known architecture is adding one entry.

An entry gives what no checkpoint says of itself: the tier, what its training has seen, the licence, the download, the preprocessing and the
text rule. Geometry of Hugging Face layouts (`hf`) is read from the user's own `config.json` and the entry's is what was published; for the
other layouts the entry's geometry is the model, and the checkpoint's shapes must agree with it. Which layout a file has is decided by its
keys, never by a name here.

Sources: the model cards, repositories and papers named in each entry; `confidence` says whether exposure is stated there or inferred.
"""

import dataclasses

from relink_jax.encoders.specs import BertSpec, Exposure, ImageSpec, ReportSpec, ResNetSpec, StackSpec, SwinSpec, TextSpec, VitSpec


@dataclasses.dataclass(frozen=True)
class Published:
    """What is known of a published model beside its files; fields as in `VLMSpec`.

    `tier`: general, biomedical, medical or chest X-ray; `rung`: the same as a number, for the ladder of specialisation. `hf`: whether
    `config.json` decides the geometry. `files`: what to download, from `origin`.
    """

    tier: str
    description: str
    licence: str
    origin: str
    files: str
    exposure: tuple[Exposure, ...]
    image: ImageSpec
    text: ReportSpec
    dim: int
    image_head: str = "linear"
    text_head: str = "linear"
    recipe: str = ""
    text_rule: str = "clip"
    hf: bool = False

    @property
    def rung(self) -> int:
        """The tier as a number from 0 (general) to 3 (chest X-ray)."""
        return TIERS.index(self.tier)


TIERS = ("general", "biomedical", "medical", "chest X-ray")


def _vit(width: int, layers: int, heads: int, patch: int, act: str = "quick_gelu", side: int = 224, mlp: int = 0) -> VitSpec:
    return VitSpec(StackSpec(width, layers, heads, mlp or 4 * width, act, 1e-5), side, patch)


def _clip_text(width: int, heads: int, act: str = "quick_gelu") -> TextSpec:
    return TextSpec(StackSpec(width, 12, heads, 4 * width, act, 1e-5), 49408, 77, 2)


def _siglip(width: int, layers: int, heads: int, mlp: int, patch: int, side: int) -> tuple[VitSpec, TextSpec]:
    stack = StackSpec(width, layers, heads, mlp, "gelu_pytorch_tanh", 1e-6)
    image = VitSpec(stack, side, patch, class_token=False, pre_norm=False, patch_bias=True, pool="probe")
    return image, TextSpec(stack, 32000, 64, 49407, causal=False, pool="last")


def _bert(vocabulary: int, length: int, pool: str) -> BertSpec:
    return BertSpec(StackSpec(768, 12, 12, 3072, "gelu", 1e-12), vocabulary, length, pool)


def _saw(mimic: str, chexpert: str, source: str, *, mimic_split: str = "", chexpert_split: str = "", confidence: str = "stated") -> tuple[Exposure, ...]:
    return (
        Exposure("MIMIC-CXR", mimic, mimic_split, source, confidence),
        Exposure("CheXpert Plus", chexpert, chexpert_split, source, confidence),
    )


_B32, _B16, _L14 = _vit(768, 12, 12, 32), _vit(768, 12, 12, 16), _vit(1024, 24, 16, 14)
_BASE_TEXT, _LARGE_TEXT = _clip_text(512, 8), _clip_text(768, 12)
_WEB = _saw("none", "none", "web pairs, not public; none known", confidence="inferred")
_CLINICAL_BERT = 28996
_AIMI = "StanfordAIMI on Hugging Face"
_AIMI_SAW = _saw("pairs", "pairs", "CheXpert Plus README, model zoo", mimic_split="not stated", chexpert_split="not stated")
_HF_FILES = "config.json, model.safetensors (or pytorch_model.bin), preprocessor_config.json, tokenizer files"


def _openai(name: str, image: VitSpec, text: TextSpec, dim: int, patch: str) -> Published:
    origin = f"openai/clip-vit-{patch} on Hugging Face, or the original {name}.pt"
    description = f"OpenAI CLIP {name}: 400 million web pairs"
    return Published("general", description, "MIT (code); weights under the CLIP model card", origin, _HF_FILES, _WEB, image, text, dim, recipe="clip", hf=True)


def _aimi(loss: str, suffix: str, image: ImageSpec, text: ReportSpec, dim: int) -> Published:
    siglip = "siglip" in suffix
    forms = {"image_head": "map", "text_head": "affine", "text_rule": "siglip"} if siglip else {}
    description = f"CheXagent's by-product, trained with the {'sigmoid' if loss == 'XraySigLIP' else 'softmax'} loss"
    return Published("chest X-ray", description, "CC BY-NC 4.0", f"{_AIMI}, {loss}__{suffix}", _HF_FILES, _AIMI_SAW, image, text, dim, **forms, hf=True)


_LAION_B16, _LAION_L14 = _vit(768, 12, 12, 16, "gelu"), _vit(1024, 24, 16, 14, "gelu")
_LAION_TEXT_B, _LAION_TEXT_L = _clip_text(512, 8, "gelu"), _clip_text(768, 12, "gelu")
_SIGLIP_B, _SIGLIP_L = _siglip(768, 12, 12, 3072, 16, 512), _siglip(1024, 24, 16, 4096, 16, 384)
_SUFFIXES = {
    "vit-b-16__laion2b-s34b-b88k": (_LAION_B16, _LAION_TEXT_B, 512),
    "vit-l-14__laion2b-s32b-b82k": (_LAION_L14, _LAION_TEXT_L, 768),
    "vit-b-16-siglip-512__webli": (*_SIGLIP_B, 768),
    "vit-l-16-siglip-384__webli": (*_SIGLIP_L, 1024),
}


def _cxr_clip(image: ImageSpec, recipe: str, file: str) -> Published:
    saw = _saw("pairs", "none", "cxr-clip README, datasets/README.md", mimic_split="official train")
    return Published(
        tier="chest X-ray",
        description="CXR-CLIP trained on MIMIC-CXR alone (the M checkpoint; M,C and M,C,C14 also saw CheXpert images with label prompts)",
        licence="CC BY-NC 4.0",
        origin="Soombit-ai/cxr-clip on GitHub",
        files=f"{file}, vocab.txt of Bio_ClinicalBERT",
        exposure=saw,
        image=image,
        text=_bert(_CLINICAL_BERT, 256, "sep"),
        dim=512,
        image_head="affine",
        text_head="affine",
        recipe=recipe,
        text_rule="clinical_bert",
    )


def _medclip(image: ImageSpec, file: str) -> Published:
    return Published(
        tier="chest X-ray",
        description="MedCLIP: unpaired images and texts matched by their 14 labels, so instance retrieval is expected to be weak",
        licence="BSD by classifier; no licence file",
        origin="RyanWangZf/MedCLIP on GitHub",
        files=f"pytorch_model.bin of {file}, vocab.txt of Bio_ClinicalBERT",
        exposure=_saw("pairs", "labels", "MedCLIP examples/run_medclip_pretrain.py", mimic_split="not stated", chexpert_split="not stated"),
        image=image,
        text=_bert(_CLINICAL_BERT, 77, "three_layers"),
        dim=512,
        recipe="medclip",
        text_rule="medclip",
    )


MODELS: dict[str, Published] = {
    "clip-vit-b-32": _openai("ViT-B/32", _B32, _BASE_TEXT, 512, "base-patch32"),
    "clip-vit-b-16": _openai("ViT-B/16", _B16, _BASE_TEXT, 512, "base-patch16"),
    "clip-vit-l-14": _openai("ViT-L/14", _L14, _LARGE_TEXT, 768, "large-patch14"),
    "pubmedclip": Published(
        tier="biomedical",
        description="CLIP ViT-B/32 fine-tuned on ROCO, radiology figures of PubMed Central with short captions",
        licence="MIT",
        origin="flaviagiammarino/pubmed-clip-vit-base-patch32 on Hugging Face",
        files=_HF_FILES,
        exposure=_saw("none", "none", "model card"),
        image=_B32,
        text=_BASE_TEXT,
        dim=512,
        recipe="clip",
        hf=True,
    ),
    "biomedclip": Published(
        tier="biomedical",
        description="BiomedCLIP: ViT-B/16 and PubMedBERT on 15 million PubMed Central figure captions",
        licence="MIT",
        origin="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224 on Hugging Face",
        files="open_clip_pytorch_model.bin, open_clip_config.json, vocab.txt; the file was replaced once: note its SHA-256",
        exposure=_saw("none", "none", "model card"),
        image=VitSpec(StackSpec(768, 12, 12, 3072, "gelu", 1e-6), 224, 16, pre_norm=False, patch_bias=True),
        text=_bert(30522, 256, "cls"),
        dim=512,
        text_head="mlp",
        recipe="clip",
        text_rule="biomedclip",
    ),
    "siglip-base-patch16-224": Published(
        tier="general",
        description="SigLIP base: web pairs with the sigmoid loss",
        licence="Apache-2.0",
        origin="google/siglip-base-patch16-224 on Hugging Face",
        files=f"{_HF_FILES}, spiece.model",
        exposure=_WEB,
        image=_siglip(768, 12, 12, 3072, 16, 224)[0],
        text=_siglip(768, 12, 12, 3072, 16, 224)[1],
        dim=768,
        image_head="map",
        text_head="affine",
        text_rule="siglip",
        hf=True,
    ),
    "medsiglip-448": Published(
        tier="medical",
        description="MedSigLIP: chest radiographs, dermatology, ophthalmology, pathology, CT and MR slices mixed with natural images",
        licence="Health AI Developer Foundations terms; gated; convert locally, do not redistribute",
        origin="google/medsiglip-448 on Hugging Face",
        files="config.json, model.safetensors, preprocessor_config.json, spiece.model",
        exposure=_saw("pairs", "none", "MedGemma report, recalled and not checked", mimic_split="not stated", confidence="unknown"),
        image=_siglip(1152, 27, 16, 4304, 14, 448)[0],
        text=_siglip(1152, 27, 16, 4304, 14, 448)[1],
        dim=1152,
        image_head="map",
        text_head="affine",
        text_rule="siglip",
        hf=True,
    ),
    "biovil": Published(
        tier="chest X-ray",
        description="BioViL: ResNet-50 patches and CXR-BERT",
        licence="MIT",
        origin="microsoft/BiomedVLP-CXR-BERT-specialized, tag v1.1, on Hugging Face",
        files="biovil_image_resnet50_proj_size_128.pt, pytorch_model.bin, vocab.txt",
        exposure=_saw("pairs", "none", "model card; splits recalled", mimic_split="not stated"),
        image=ResNetSpec(480, pool="map"),
        text=_bert(30522, 512, "cls"),
        dim=128,
        image_head="patch",
        text_head="cxr_bert",
        recipe="biovil",
        text_rule="cxr_bert",
    ),
    "biovil-t": Published(
        tier="chest X-ray",
        description="BioViL-T: BioViL with prior images in training; a single image uses the learned stand-in for the missing prior",
        licence="MIT",
        origin="microsoft/BiomedVLP-BioViL-T, tag v1.0, on Hugging Face",
        files="biovil_t_image_model_proj_size_128.pt, pytorch_model.bin (or model.safetensors), vocab.txt",
        exposure=_saw("pairs", "none", "model card; splits recalled", mimic_split="not stated"),
        image=ResNetSpec(448, pool="map", joint_width=256),
        text=_bert(30522, 512, "cls"),
        dim=128,
        image_head="patch",
        text_head="cxr_bert",
        recipe="biovil_t",
        text_rule="cxr_bert",
    ),
    "chexzero": Published(
        tier="chest X-ray",
        description="CheXzero: CLIP ViT-B/32 trained on impressions of MIMIC-CXR; ten members were published, for --ensemble",
        licence="MIT (code); weights unstated",
        origin="rajpurkarlab/CheXzero on GitHub",
        files="one best_*.pt, or several with --ensemble; vocab.json and merges.txt of CLIP",
        exposure=_saw("pairs", "labels", "run_preprocess.py, data_process.py", mimic_split="all, official test included", chexpert_split="model selection"),
        image=_B32,
        text=_BASE_TEXT,
        dim=512,
        recipe="chexzero",
        text_rule="chexzero",
    ),
    "cxr-clip-resnet50": _cxr_clip(ResNetSpec(224), "cxr_clip_resnet", "r50_m.tar"),
    "cxr-clip-swin-t": _cxr_clip(SwinSpec(224, "first"), "cxr_clip_swin", "swint_m.tar"),
    "medclip-resnet50": _medclip(ResNetSpec(224), "medclip-pretrained.zip"),
    "medclip-swin-t": _medclip(SwinSpec(224, "mean"), "medclip-vit-pretrained.zip"),
    **{
        f"{loss.lower()}-{suffix.split('__')[0]}": _aimi(loss, suffix, image, text, dim)
        for loss in ("XrayCLIP", "XraySigLIP")
        for suffix, (image, text, dim) in _SUFFIXES.items()
    },
    "gloria": Published(
        tier="chest X-ray",
        description="GLoRIA: ResNet-50 and Bio_ClinicalBERT on CheXpert images with their reports",
        licence="Apache-2.0 (code); weights unstated",
        origin="marshuang80/gloria on GitHub",
        files="chexpert_resnet50.ckpt, vocab.txt of Bio_ClinicalBERT",
        exposure=_saw("none", "pairs", "gloria configs, README", chexpert_split="train"),
        image=ResNetSpec(224, resize=299),
        text=_bert(_CLINICAL_BERT, 97, "last_four"),
        dim=768,
        image_head="affine",
        text_head="none",
        recipe="gloria",
        text_rule="gloria",
    ),
}


def table() -> str:
    """Returns the Markdown table of every model: tier, what its training saw, licence, download; docs/models.md holds it and a test compares."""
    lines = ["| model | tier | MIMIC-CXR seen | CheXpert Plus seen | licence | download |", "|---|---|---|---|---|---|"]
    for name, entry in MODELS.items():
        mimic, chexpert = (_seen(one) for one in entry.exposure)
        lines.append(f"| `{name}` | {entry.tier} | {mimic} | {chexpert} | {entry.licence} | {entry.origin}: {entry.files} |")
    return "\n".join(lines)


def _seen(one: Exposure) -> str:
    described = one.kind if one.kind == "none" or not one.split else f"{one.kind} ({one.split})"
    return described if one.confidence == "stated" else f"{described}, {one.confidence}"
