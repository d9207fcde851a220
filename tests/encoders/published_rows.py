"""Every published layout as rows of keys and shapes, spelled from the reference (models.md sections 1 to 10, keys_dump.txt), not from our tables.

A row is `key shape target how`. Letters of a shape are sizes; `{i}` counts layers, `{s}` and `{b}` stages and blocks. `how` says what
becomes of the array: `=` nothing, `t` transposed, `c` OIHW to HWIO, `1` a 1 x 1 convolution to [in, out], `s` axes of length one dropped,
`q` cut into query, key and value along the first axis and each transposed if a matrix, `-` nothing: the key is ignored.
"""

import re

V, W, D, LAYERS, VOCAB = 24, 16, 12, 2, 30  # image width, text width, joint width
BLOCKS, STEM, OUT = (1, 2, 1, 1), 4, 128  # ResNet: blocks per stage, width of the first, width of the last map
SWIN_BLOCKS, SWIN_HEADS, SWIN_WIDTH, WINDOW = (1, 2), (2, 4), 8, 4
JOINT, POOLER = 8, 2
SIZES = {
    **{"V": V, "W": W, "D": D, "M": 40, "N": 28, "P": 8, "X": 17, "Y": 16, "L": 24, "K": VOCAB, "H": (W + D) // 2},
    **{"F": OUT, "J": JOINT, "G": OUT // 2, "E": 2 * SWIN_WIDTH, "C": SWIN_WIDTH, "S": STEM, "A": 10},
}

_BERT = """
{p}embeddings.word_embeddings.weight K,W text/word_embedding =
{p}embeddings.position_embeddings.weight L,W text/position_embedding =
{p}embeddings.token_type_embeddings.weight 2,W text/type_embedding =
{p}embeddings.LayerNorm.weight W text/embedding_norm/scale =
{p}embeddings.LayerNorm.bias W text/embedding_norm/bias =
{p}encoder.layer.{i}.attention.self.query.weight W,W text/block_{i}/self_attn/q_proj/kernel t
{p}encoder.layer.{i}.attention.self.query.bias W text/block_{i}/self_attn/q_proj/bias =
{p}encoder.layer.{i}.attention.self.key.weight W,W text/block_{i}/self_attn/k_proj/kernel t
{p}encoder.layer.{i}.attention.self.key.bias W text/block_{i}/self_attn/k_proj/bias =
{p}encoder.layer.{i}.attention.self.value.weight W,W text/block_{i}/self_attn/v_proj/kernel t
{p}encoder.layer.{i}.attention.self.value.bias W text/block_{i}/self_attn/v_proj/bias =
{p}encoder.layer.{i}.attention.output.dense.weight W,W text/block_{i}/self_attn/out_proj/kernel t
{p}encoder.layer.{i}.attention.output.dense.bias W text/block_{i}/self_attn/out_proj/bias =
{p}encoder.layer.{i}.attention.output.LayerNorm.weight W text/block_{i}/attention_norm/scale =
{p}encoder.layer.{i}.attention.output.LayerNorm.bias W text/block_{i}/attention_norm/bias =
{p}encoder.layer.{i}.intermediate.dense.weight N,W text/block_{i}/fc1/kernel t
{p}encoder.layer.{i}.intermediate.dense.bias N text/block_{i}/fc1/bias =
{p}encoder.layer.{i}.output.dense.weight W,N text/block_{i}/fc2/kernel t
{p}encoder.layer.{i}.output.dense.bias W text/block_{i}/fc2/bias =
{p}encoder.layer.{i}.output.LayerNorm.weight W text/block_{i}/output_norm/scale =
{p}encoder.layer.{i}.output.LayerNorm.bias W text/block_{i}/output_norm/bias =
{p}embeddings.position_ids int:1,L . -
"""
_POOLER = """
{p}pooler.dense.weight W,W . -
{p}pooler.dense.bias W . -
"""
_HF_STACK = """
{p}.encoder.layers.{i}.self_attn.k_proj.weight @,@ {g}/encoder/block_{i}/self_attn/k_proj/kernel t
{p}.encoder.layers.{i}.self_attn.k_proj.bias @ {g}/encoder/block_{i}/self_attn/k_proj/bias =
{p}.encoder.layers.{i}.self_attn.v_proj.weight @,@ {g}/encoder/block_{i}/self_attn/v_proj/kernel t
{p}.encoder.layers.{i}.self_attn.v_proj.bias @ {g}/encoder/block_{i}/self_attn/v_proj/bias =
{p}.encoder.layers.{i}.self_attn.q_proj.weight @,@ {g}/encoder/block_{i}/self_attn/q_proj/kernel t
{p}.encoder.layers.{i}.self_attn.q_proj.bias @ {g}/encoder/block_{i}/self_attn/q_proj/bias =
{p}.encoder.layers.{i}.self_attn.out_proj.weight @,@ {g}/encoder/block_{i}/self_attn/out_proj/kernel t
{p}.encoder.layers.{i}.self_attn.out_proj.bias @ {g}/encoder/block_{i}/self_attn/out_proj/bias =
{p}.encoder.layers.{i}.layer_norm1.weight @ {g}/encoder/block_{i}/layer_norm1/scale =
{p}.encoder.layers.{i}.layer_norm1.bias @ {g}/encoder/block_{i}/layer_norm1/bias =
{p}.encoder.layers.{i}.mlp.fc1.weight #,@ {g}/encoder/block_{i}/fc1/kernel t
{p}.encoder.layers.{i}.mlp.fc1.bias # {g}/encoder/block_{i}/fc1/bias =
{p}.encoder.layers.{i}.mlp.fc2.weight @,# {g}/encoder/block_{i}/fc2/kernel t
{p}.encoder.layers.{i}.mlp.fc2.bias @ {g}/encoder/block_{i}/fc2/bias =
{p}.encoder.layers.{i}.layer_norm2.weight @ {g}/encoder/block_{i}/layer_norm2/scale =
{p}.encoder.layers.{i}.layer_norm2.bias @ {g}/encoder/block_{i}/layer_norm2/bias =
"""
_OPENAI_STACK = """
{p}transformer.resblocks.{i}.ln_1.weight @ {g}/encoder/block_{i}/layer_norm1/scale =
{p}transformer.resblocks.{i}.ln_1.bias @ {g}/encoder/block_{i}/layer_norm1/bias =
{p}transformer.resblocks.{i}.attn.in_proj_weight 3@,@ {g}/encoder/block_{i}/self_attn/*_proj/kernel q
{p}transformer.resblocks.{i}.attn.in_proj_bias 3@ {g}/encoder/block_{i}/self_attn/*_proj/bias q
{p}transformer.resblocks.{i}.attn.out_proj.weight @,@ {g}/encoder/block_{i}/self_attn/out_proj/kernel t
{p}transformer.resblocks.{i}.attn.out_proj.bias @ {g}/encoder/block_{i}/self_attn/out_proj/bias =
{p}transformer.resblocks.{i}.ln_2.weight @ {g}/encoder/block_{i}/layer_norm2/scale =
{p}transformer.resblocks.{i}.ln_2.bias @ {g}/encoder/block_{i}/layer_norm2/bias =
{p}transformer.resblocks.{i}.mlp.c_fc.weight #,@ {g}/encoder/block_{i}/fc1/kernel t
{p}transformer.resblocks.{i}.mlp.c_fc.bias # {g}/encoder/block_{i}/fc1/bias =
{p}transformer.resblocks.{i}.mlp.c_proj.weight @,# {g}/encoder/block_{i}/fc2/kernel t
{p}transformer.resblocks.{i}.mlp.c_proj.bias @ {g}/encoder/block_{i}/fc2/bias =
"""
_BN = """
{p}.weight @ {g}/scale =
{p}.bias @ {g}/bias =
{p}.running_mean @ {g}/mean =
{p}.running_var @ {g}/var =
{p}.num_batches_tracked int: . -
"""
_SWIN_BLOCK = """
{p}.layernorm_before.weight @ {g}/norm1/scale =
{p}.layernorm_before.bias @ {g}/norm1/bias =
{p}.layernorm_after.weight @ {g}/norm2/scale =
{p}.layernorm_after.bias @ {g}/norm2/bias =
{p}.attention.self.query.weight @,@ {g}/attn/q_proj/kernel t
{p}.attention.self.query.bias @ {g}/attn/q_proj/bias =
{p}.attention.self.key.weight @,@ {g}/attn/k_proj/kernel t
{p}.attention.self.key.bias @ {g}/attn/k_proj/bias =
{p}.attention.self.value.weight @,@ {g}/attn/v_proj/kernel t
{p}.attention.self.value.bias @ {g}/attn/v_proj/bias =
{p}.attention.self.relative_position_bias_table 49,& {g}/attn/relative_position_bias =
{p}.attention.self.relative_position_index int:16,16 . -
{p}.attention.output.dense.weight @,@ {g}/attn/out_proj/kernel t
{p}.attention.output.dense.bias @ {g}/attn/out_proj/bias =
{p}.intermediate.dense.weight #,@ {g}/fc1/kernel t
{p}.intermediate.dense.bias # {g}/fc1/bias =
{p}.output.dense.weight @,# {g}/fc2/kernel t
{p}.output.dense.bias @ {g}/fc2/bias =
"""


def _filled(rows: str, prefix: str, target: str = "", width: str = "", hidden: str = "", heads: str = "") -> str:
    rows = rows.replace("{p}", prefix).replace("{g}", target)
    return re.sub("[@#&]", lambda found: {"@": width, "#": hidden, "&": heads}[found[0]], rows)


def resnet(prefix: str) -> str:
    rows = f"{prefix}conv1.weight {STEM},3,7,7 image/stem/conv/kernel c" + _filled(_BN, f"{prefix}bn1", "image/stem/bn", str(STEM))
    came = STEM
    for stage, (blocks, width) in enumerate(zip(BLOCKS, (STEM, 2 * STEM, 4 * STEM, 8 * STEM), strict=True), 1):
        for block in range(blocks):
            source, target = f"{prefix}layer{stage}.{block}", f"image/stage_{stage}/block_{block}"
            shapes = {1: (width, came, 1), 2: (width, width, 3), 3: (4 * width, width, 1)}
            for index, (out, into, side) in shapes.items():
                rows += f"{source}.conv{index}.weight {out},{into},{side},{side} {target}/conv{index}/kernel c"
                rows += _filled(_BN, f"{source}.bn{index}", f"{target}/bn{index}", str(out))
            if block == 0:
                rows += f"{source}.downsample.0.weight {4 * width},{came},1,1 {target}/downsample/conv/kernel c"
                rows += _filled(_BN, f"{source}.downsample.1", f"{target}/downsample/bn", str(4 * width))
            came = 4 * width
    return rows


def swin(prefix: str) -> str:
    rows = f"""
{prefix}embeddings.patch_embeddings.projection.weight C,3,4,4 image/patch_embedding/kernel c
{prefix}embeddings.patch_embeddings.projection.bias C image/patch_embedding/bias =
{prefix}embeddings.norm.weight C image/patch_norm/scale =
{prefix}embeddings.norm.bias C image/patch_norm/bias =
{prefix}encoder.layers.0.downsample.norm.weight 4C image/stage_0/downsample/norm/scale =
{prefix}encoder.layers.0.downsample.norm.bias 4C image/stage_0/downsample/norm/bias =
{prefix}encoder.layers.0.downsample.reduction.weight 2C,4C image/stage_0/downsample/reduction/kernel t
{prefix}layernorm.weight E image/final_norm/scale =
{prefix}layernorm.bias E image/final_norm/bias =
"""
    for stage, (blocks, heads) in enumerate(zip(SWIN_BLOCKS, SWIN_HEADS, strict=True)):
        for block in range(blocks):
            source, target = f"{prefix}encoder.layers.{stage}.blocks.{block}", f"image/stage_{stage}/block_{block}"
            rows += _filled(_SWIN_BLOCK, source, target, str(SWIN_WIDTH * 2**stage), str(4 * SWIN_WIDTH * 2**stage), str(heads))
    return rows


HF_CLIP = f"""
logit_scale () logit_scale =
text_model.embeddings.token_embedding.weight K,W text/token_embedding =
text_model.embeddings.position_embedding.weight L,W text/position_embedding =
{_filled(_HF_STACK, "text_model", "text", "W", "N")}
text_model.final_layer_norm.weight W text/final_layer_norm/scale =
text_model.final_layer_norm.bias W text/final_layer_norm/bias =
vision_model.embeddings.class_embedding V image/class_embedding =
vision_model.embeddings.patch_embedding.weight V,3,P,P image/patch_embedding/kernel c
vision_model.embeddings.position_embedding.weight X,V image/position_embedding =
vision_model.pre_layrnorm.weight V image/pre_layernorm/scale =
vision_model.pre_layrnorm.bias V image/pre_layernorm/bias =
{_filled(_HF_STACK, "vision_model", "image", "V", "M")}
vision_model.post_layernorm.weight V image/post_layernorm/scale =
vision_model.post_layernorm.bias V image/post_layernorm/bias =
visual_projection.weight D,V heads/image/kernel t
text_projection.weight D,W heads/text/kernel t
vision_model.embeddings.position_ids int:1,X . -
text_model.embeddings.position_ids int:1,L . -
"""
HF_SIGLIP = f"""
logit_scale 1 logit_scale s
logit_bias 1 logit_bias s
text_model.embeddings.token_embedding.weight K,V text/token_embedding =
text_model.embeddings.position_embedding.weight L,V text/position_embedding =
{_filled(_HF_STACK, "text_model", "text", "V", "M")}
text_model.final_layer_norm.weight V text/final_layer_norm/scale =
text_model.final_layer_norm.bias V text/final_layer_norm/bias =
text_model.head.weight V,V heads/text/kernel t
text_model.head.bias V heads/text/bias =
vision_model.embeddings.patch_embedding.weight V,3,P,P image/patch_embedding/kernel c
vision_model.embeddings.patch_embedding.bias V image/patch_embedding/bias =
vision_model.embeddings.position_embedding.weight Y,V image/position_embedding =
{_filled(_HF_STACK, "vision_model", "image", "V", "M")}
vision_model.post_layernorm.weight V image/post_layernorm/scale =
vision_model.post_layernorm.bias V image/post_layernorm/bias =
vision_model.head.probe 1,1,V image/probe s
vision_model.head.attention.in_proj_weight 3V,V image/probe_attn/*_proj/kernel q
vision_model.head.attention.in_proj_bias 3V image/probe_attn/*_proj/bias q
vision_model.head.attention.out_proj.weight V,V image/probe_attn/out_proj/kernel t
vision_model.head.attention.out_proj.bias V image/probe_attn/out_proj/bias =
vision_model.head.layernorm.weight V heads/image/norm/scale =
vision_model.head.layernorm.bias V heads/image/norm/bias =
vision_model.head.mlp.fc1.weight M,V heads/image/fc1/kernel t
vision_model.head.mlp.fc1.bias M heads/image/fc1/bias =
vision_model.head.mlp.fc2.weight V,M heads/image/fc2/kernel t
vision_model.head.mlp.fc2.bias V heads/image/fc2/bias =
"""
OPENAI = f"""
positional_embedding L,W text/position_embedding =
text_projection W,D heads/text/kernel =
logit_scale () logit_scale =
visual.class_embedding V image/class_embedding =
visual.positional_embedding X,V image/position_embedding =
visual.proj V,D heads/image/kernel =
visual.conv1.weight V,3,P,P image/patch_embedding/kernel c
visual.ln_pre.weight V image/pre_layernorm/scale =
visual.ln_pre.bias V image/pre_layernorm/bias =
{_filled(_OPENAI_STACK, "visual.", "image", "V", "M")}
visual.ln_post.weight V image/post_layernorm/scale =
visual.ln_post.bias V image/post_layernorm/bias =
{_filled(_OPENAI_STACK, "", "text", "W", "N")}
token_embedding.weight K,W text/token_embedding =
ln_final.weight W text/final_layer_norm/scale =
ln_final.bias W text/final_layer_norm/bias =
input_resolution int: . -
context_length int: . -
vocab_size int: . -
"""
BIOMEDCLIP = f"""
logit_scale () logit_scale =
visual.trunk.cls_token 1,1,V image/class_embedding s
visual.trunk.pos_embed 1,X,V image/position_embedding s
visual.trunk.patch_embed.proj.weight V,3,P,P image/patch_embedding/kernel c
visual.trunk.patch_embed.proj.bias V image/patch_embedding/bias =
visual.trunk.blocks.{{i}}.norm1.weight V image/encoder/block_{{i}}/layer_norm1/scale =
visual.trunk.blocks.{{i}}.norm1.bias V image/encoder/block_{{i}}/layer_norm1/bias =
visual.trunk.blocks.{{i}}.attn.qkv.weight 3V,V image/encoder/block_{{i}}/self_attn/*_proj/kernel q
visual.trunk.blocks.{{i}}.attn.qkv.bias 3V image/encoder/block_{{i}}/self_attn/*_proj/bias q
visual.trunk.blocks.{{i}}.attn.proj.weight V,V image/encoder/block_{{i}}/self_attn/out_proj/kernel t
visual.trunk.blocks.{{i}}.attn.proj.bias V image/encoder/block_{{i}}/self_attn/out_proj/bias =
visual.trunk.blocks.{{i}}.norm2.weight V image/encoder/block_{{i}}/layer_norm2/scale =
visual.trunk.blocks.{{i}}.norm2.bias V image/encoder/block_{{i}}/layer_norm2/bias =
visual.trunk.blocks.{{i}}.mlp.fc1.weight M,V image/encoder/block_{{i}}/fc1/kernel t
visual.trunk.blocks.{{i}}.mlp.fc1.bias M image/encoder/block_{{i}}/fc1/bias =
visual.trunk.blocks.{{i}}.mlp.fc2.weight V,M image/encoder/block_{{i}}/fc2/kernel t
visual.trunk.blocks.{{i}}.mlp.fc2.bias V image/encoder/block_{{i}}/fc2/bias =
visual.trunk.norm.weight V image/post_layernorm/scale =
visual.trunk.norm.bias V image/post_layernorm/bias =
visual.head.proj.weight D,V heads/image/kernel t
{_filled(_BERT, "text.transformer.")}
text.proj.0.weight H,W heads/text/fc1/kernel t
text.proj.2.weight D,H heads/text/fc2/kernel t
"""
_PROJECTOR = f"""
projector.model.0.weight D,{{f}},1,1 heads/image/conv1/kernel 1
{_filled(_BN, "projector.model.1", "heads/image/bn", "D")}
projector.model.3.weight D,D,1,1 heads/image/conv2/kernel 1
projector.model.3.bias D heads/image/conv2/bias =
encoder.encoder.fc.weight A,F . -
encoder.encoder.fc.bias A . -
"""
BIOVIL = resnet("encoder.encoder.") + _PROJECTOR.replace("{f}", "F")
BIOVIL_T = (
    resnet("encoder.encoder.")
    + _PROJECTOR.replace("{f}", "2J")
    + """
encoder.missing_previous_emb 1,J,1,1 heads/image/missing s
encoder.backbone_to_vit.weight J,F,1,1 image/backbone_to_vit/kernel c
encoder.vit_pooler.type_embed 2,1,J image/pooler/type_embedding s
encoder.vit_pooler.blocks.{i}.norm1.weight J image/pooler/block_{i}/norm1/scale =
encoder.vit_pooler.blocks.{i}.norm1.bias J image/pooler/block_{i}/norm1/bias =
encoder.vit_pooler.blocks.{i}.attn.proj_q.weight J,J image/pooler/block_{i}/attn/q_proj/kernel t
encoder.vit_pooler.blocks.{i}.attn.proj_k.weight J,J image/pooler/block_{i}/attn/k_proj/kernel t
encoder.vit_pooler.blocks.{i}.attn.proj_v.weight J,J image/pooler/block_{i}/attn/v_proj/kernel t
encoder.vit_pooler.blocks.{i}.attn.proj.weight J,J image/pooler/block_{i}/attn/out_proj/kernel t
encoder.vit_pooler.blocks.{i}.attn.proj.bias J image/pooler/block_{i}/attn/out_proj/bias =
encoder.vit_pooler.blocks.{i}.norm2.weight J image/pooler/block_{i}/norm2/scale =
encoder.vit_pooler.blocks.{i}.norm2.bias J image/pooler/block_{i}/norm2/bias =
encoder.vit_pooler.blocks.{i}.mlp.fc1.weight J,J image/pooler/block_{i}/fc1/kernel t
encoder.vit_pooler.blocks.{i}.mlp.fc1.bias J image/pooler/block_{i}/fc1/bias =
encoder.vit_pooler.blocks.{i}.mlp.fc2.weight J,J image/pooler/block_{i}/fc2/kernel t
encoder.vit_pooler.blocks.{i}.mlp.fc2.bias J image/pooler/block_{i}/fc2/bias =
encoder.vit_pooler.norm_post.weight J image/pooler/norm_post/scale =
encoder.vit_pooler.norm_post.bias J image/pooler/norm_post/bias =
"""
)
CXR_BERT = f"""
{_filled(_BERT, "bert.")}
cls.predictions.bias K . -
cls.predictions.transform.dense.weight W,W . -
cls.predictions.transform.dense.bias W . -
cls.predictions.transform.LayerNorm.weight W . -
cls.predictions.transform.LayerNorm.bias W . -
cls.predictions.decoder.weight K,W . -
cls.predictions.decoder.bias K . -
cls_projection_head.dense_to_hidden.weight D,W heads/text/dense_to_hidden/kernel t
cls_projection_head.dense_to_hidden.bias D heads/text/dense_to_hidden/bias =
cls_projection_head.LayerNorm.weight D heads/text/norm/scale =
cls_projection_head.LayerNorm.bias D heads/text/norm/bias =
cls_projection_head.dense_to_output.weight D,D heads/text/dense_to_output/kernel t
cls_projection_head.dense_to_output.bias D heads/text/dense_to_output/bias =
"""
CXR_CLIP = f"""
{_filled(_BERT + _POOLER, "text_encoder.text_encoder.")}
image_projection.projection.weight D,{{f}} heads/image/kernel t
image_projection.projection.bias D heads/image/bias =
text_projection.projection.weight D,W heads/text/kernel t
text_projection.projection.bias D heads/text/bias =
logit_scale () logit_scale =
"""
MEDCLIP = f"""
{_filled(_BERT + _POOLER, "text_model.model.")}
text_model.projection_head.weight D,W heads/text/kernel t
logit_scale () logit_scale =
"""
GLORIA = f"""
{resnet("img_encoder.model.")}
img_encoder.global_embedder.weight W,F heads/image/kernel t
img_encoder.global_embedder.bias W heads/image/bias =
img_encoder.local_embedder.weight W,G,1,1 . -
{_filled(_BERT + _POOLER, "text_encoder.model.")}
"""
