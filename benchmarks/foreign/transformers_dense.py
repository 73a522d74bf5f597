"""transformers' networks for segmentation, depth and detection, each with a target of its own."""

from __future__ import annotations

from typing import Any

from benchmarks.foreign.axes import Tokens, Truth
from benchmarks.foreign.rows import Row
from benchmarks.foreign.transformers_cases import (
    SMALL,
    image_row,
    patch_grid,
    pictures,
    stages,
    vit,
)

__all__ = ["rows"]

S, WIDE = (96, 96), (64, 96)
FOUR = (4, 8, 16, 32)
BACKBONE = {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 24, 32, 48],
            "depths": [1, 1, 2, 1], "out_features": ["stage4"]}  # fmt: skip
LATE = {"behind": 0.95}
"""A decoder of many layers may follow the last picture."""
OPEN = {"leak": 10.0, **LATE}
"""Skip connections go round it, too."""


def segmented(outputs: Any) -> Any:
    """The mean logit of class 1."""
    return outputs.logits[:, 1].mean((-2, -1))


def deep(outputs: Any) -> Any:
    """The mean depth of a region."""
    return outputs.predicted_depth[..., :16, :16].mean((-2, -1))


def detected(outputs: Any) -> Any:
    """The logit of class 1 at the query that is surest of it."""
    return outputs.logits[:, :, 1].max(1).values


def masked(outputs: Any) -> Any:
    """The mean logit of the first query's mask."""
    return outputs.masks_queries_logits[:, 0].mean((-2, -1))


def segmentation() -> list[Row]:
    many = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    four = [1, 2, 3, 4]
    beit = vit(S, 16, **LATE)
    beit = Truth(S, "channels_first", beit.tokens, **LATE)
    return [
        image_row("SegformerForSemanticSegmentation", stages(WIDE, *FOUR, **LATE), target=segmented,
                  depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 40, 64], num_attention_heads=[1, 2,
                  4, 4],
                  decoder_hidden_size=32),
        image_row("BeitForSemanticSegmentation", beit, target=segmented, image_size=96,
                  out_indices=four, use_auxiliary_head=False, **many),
        image_row("Data2VecVisionForSemanticSegmentation", beit, target=segmented, image_size=96,
                  out_indices=four, use_auxiliary_head=False, **many),
        image_row("MobileNetV2ForSemanticSegmentation", pictures(WIDE, **LATE), target=segmented,
                  depth_multiplier=0.25),
        image_row("MobileViTForSemanticSegmentation", pictures((128, 128), **LATE),
                  target=segmented,
                  image_size=128, hidden_sizes=[24, 32, 40], aspp_out_channels=16,
                  neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64]),
        image_row("UperNetForSemanticSegmentation", pictures(S, **LATE), target=segmented,
                  backbone_config={**BACKBONE, "out_features": ["stage1", "stage2", "stage3",
                  "stage4"]},
                  hidden_size=32, use_auxiliary_head=False, pool_scales=[1, 2]),
        image_row("DPTForSemanticSegmentation", beit, target=segmented, image_size=96,
                  neck_hidden_sizes=[8, 16, 24, 32], fusion_hidden_size=16,
                  backbone_out_indices=[0, 1, 2, 3], use_auxiliary_head=False, **many),
        image_row("DPTForDepthEstimation", beit, target=deep, image_size=96,
                  neck_hidden_sizes=[8, 16, 24, 32], fusion_hidden_size=16,
                  backbone_out_indices=[0, 1, 2, 3], **many),
        image_row("GLPNForDepthEstimation", stages(WIDE, *FOUR, **LATE), target=deep,
                  depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 40, 64], num_attention_heads=[1, 2,
                  4, 4],
                  decoder_hidden_size=16),
        image_row("DepthAnythingForDepthEstimation",
                  Truth((112, 112), tokens=vit((112, 112), 14).tokens, **LATE), target=deep,
                  backbone_config={"model_type": "dinov2", "image_size": 112, "patch_size": 14,
                                   "out_features": ["stage1", "stage2", "stage3", "stage4"],
                                   "reshape_hidden_states": False, **many},
                  reassemble_hidden_size=32, patch_size=14, neck_hidden_sizes=[8, 16, 24, 32],
                  fusion_hidden_size=16),
        image_row("MaskFormerForInstanceSegmentation", pictures(S, **OPEN), target=masked,
                  backbone_config={"model_type": "swin", "image_size": 96, "embed_dim": 24,
                                   "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4],
                                   "window_size": 3, "patch_size": 4,
                                   "out_features": ["stage1", "stage2", "stage3", "stage4"]},
                  decoder_config={"model_type": "detr", "d_model": 32, "decoder_layers": 2,
                                  "decoder_attention_heads": 4, "decoder_ffn_dim": 64,
                                  "encoder_layers": 1, "num_queries": 5},
                  fpn_feature_size=32, mask_feature_size=32),
        image_row("Mask2FormerForUniversalSegmentation", pictures(S, **OPEN), target=masked,
                  backbone_config={"model_type": "swin", "image_size": 96, "embed_dim": 24,
                                   "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4],
                                   "window_size": 3, "patch_size": 4,
                                   "out_features": ["stage1", "stage2", "stage3", "stage4"]},
                  feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=64,
                  encoder_layers=1, decoder_layers=2, num_attention_heads=4, dim_feedforward=64,
                  num_queries=5),
    ]  # fmt: skip


def detection() -> list[Row]:
    small = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
             "num_queries": 7}  # fmt: skip
    size = (96, 160)
    grid = (3, 5)
    flat = Truth(size, tokens=(Tokens(grid),), **LATE)
    yolos = {"image_size": list(S), "num_detection_tokens": 6, **SMALL}
    level = {"num_feature_levels": 1, **small}
    levels = [Tokens(grid)]
    return [
        image_row("DetrForObjectDetection", flat, target=detected, use_timm_backbone=False,
                  backbone=None, backbone_config=BACKBONE, **small),
        image_row("ConditionalDetrForObjectDetection", flat, target=detected,
                  use_timm_backbone=False, backbone=None, backbone_config=BACKBONE, **small),
        image_row("TableTransformerForObjectDetection", flat, target=detected,
                  use_timm_backbone=False, backbone=None, backbone_config=BACKBONE, **small),
        image_row("DeformableDetrForObjectDetection", Truth(size, tokens=tuple(levels), **LATE),
                  target=detected, use_timm_backbone=False, backbone=None,
                  backbone_config=BACKBONE, **level),
        image_row("YolosForObjectDetection",
                  Truth(S, "", (Tokens(patch_grid(S, 16), 1, 6),), **LATE), target=detected,
                  **yolos),
    ]  # fmt: skip


def rows() -> list[Row]:
    return [*segmentation(), *detection()]
