"""Every published layout by name: `FAMILIES[name](directory, seed, size)` writes a checkpoint and returns its `core.Oracle`."""

import pathlib

from oracles import biomedclip, biovil, clip, core, cxrclip, gloria, medclip, siglip

FAMILIES: dict[str, core.Builder] = {
    "clip-hf": clip.build_hf("clip-hf"),
    "clip-msgpack": clip.build_msgpack,
    "clip-openai": clip.build_openai,
    "pubmedclip": clip.build_hf("pubmedclip", file="pytorch_model.bin", eos=2),
    "biomedclip": biomedclip.build,
    "siglip": siglip.build("siglip"),
    "biovil": biovil.build("biovil"),
    "biovil-t": biovil.build("biovil-t"),
    "chexzero": clip.build_chexzero,
    "cxr-clip-resnet": cxrclip.build("resnet"),
    "cxr-clip-swin": cxrclip.build("swin"),
    "medclip-resnet": medclip.build("resnet"),
    "medclip-swin": medclip.build("swin"),
    "xrayclip": clip.build_hf("xrayclip", act="gelu"),
    "gloria": gloria.build,
}


def build(family: str, directory: pathlib.Path, seed: int = 0, size: str = "tiny") -> core.Oracle:
    """Writes the family's checkpoint into `directory` (made if missing) and returns its oracle; `size` is tiny, small or published."""
    directory.mkdir(parents=True, exist_ok=True)
    return FAMILIES[family](directory, seed, size)
