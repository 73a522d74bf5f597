"""transformers' image classifiers, and those of video and of sound."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.foreign.axes import Tokens, Truth
from benchmarks.foreign.rows import Case, Row, torch_case
from benchmarks.foreign.transformers_cases import (
    SMALL,
    built,
    image_row,
    pictures,
    stages,
    vit,
)

__all__ = ["rows"]

S, WIDE, L = (96, 96), (64, 96), (224, 224)
"""A small square, an oblong, and the size that some want."""
CONV = {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 24, 32, 48], "embedding_size": 16}


def transformers() -> list[Row]:
    """One grid of patches, with or without tokens in front."""
    return [
        image_row("ViTForImageClassification", vit(S, 16), image_size=96, **SMALL),
        image_row("ViTForImageClassification eager", vit(S, 16), image_size=96,
                  attn_implementation="eager", **SMALL),
        image_row("ViTForImageClassification oblong", vit(WIDE, 16), image_size=WIDE, **SMALL),
        image_row("DeiTForImageClassification", vit(S, 16, 2), image_size=96, **SMALL),
        image_row("DeiTForImageClassificationWithTeacher", vit(WIDE, 16, 2), "DeiTConfig",
                  image_size=WIDE,
                  **SMALL),
        image_row("BeitForImageClassification", vit(S, 16), image_size=96, **SMALL),
        image_row("Data2VecVisionForImageClassification", vit(S, 16), image_size=96, **SMALL),
        image_row("Dinov2ForImageClassification", vit(S, 16), image_size=96, patch_size=16,
                  num_labels=5, **SMALL),
        image_row("Dinov2ForImageClassification oblong", vit(WIDE, 16), image_size=96,
                  patch_size=16,
                  num_labels=5, **SMALL),
        image_row("Dinov2WithRegistersForImageClassification", vit(S, 16, 5), image_size=96,
                  patch_size=16, num_labels=5, **SMALL),
        image_row("DonutSwinForImageClassification", stages(L, 4, 8, 16, 32), image_size=224,
                  embed_dim=24, depths=[1, 1, 2, 1], num_heads=[1, 2, 3, 4], window_size=7),
        image_row("TimmWrapperForImageClassification", vit(S, 16), architecture="test_vit",
                  model_args={"img_size": 96}, num_labels=5, do_pooling=True),
        image_row("ViTMSNForImageClassification", vit(S, 16), image_size=96, num_labels=5, **SMALL),
        image_row("IJepaForImageClassification", vit(S, 16, 0), image_size=96, patch_size=16,
                  num_labels=5, **SMALL),
        image_row("CLIPForImageClassification", vit(S, 16), "CLIPConfig", num_labels=5,
                  vision_config={"image_size": 96, "patch_size": 16, **SMALL}),
        image_row("SiglipForImageClassification", vit(S, 16, 0), "SiglipConfig", num_labels=5,
                  vision_config={"image_size": 96, "patch_size": 16, **SMALL}),
        image_row("MetaClip2ForImageClassification", vit(S, 16), "MetaClip2Config", num_labels=5,
                  vision_config={"image_size": 96, "patch_size": 16, **SMALL}),
    ]  # fmt: skip


def pyramids() -> list[Row]:
    """Grids that shrink from stage to stage."""
    four = (4, 8, 16, 32)
    return [
        image_row("SwinForImageClassification", stages(L, *four), image_size=224, embed_dim=24,
                  depths=[1, 1, 2, 1], num_heads=[1, 2, 3, 4], window_size=7),
        image_row("Swinv2ForImageClassification", stages((256, 256), *four), image_size=256,
                  embed_dim=24, depths=[1, 1, 2, 1], num_heads=[1, 2, 3, 4], window_size=8),
        image_row("PvtForImageClassification", stages(L, *four, prefix=1), image_size=224,
                  depths=[1, 1, 1, 1],
                  hidden_sizes=[16, 32, 40, 64], num_attention_heads=[1, 2, 4, 4]),
        image_row("PvtV2ForImageClassification", stages((96, 128), *four), image_size=96,
                  depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 40, 64],
                  num_attention_heads=[1, 2, 4, 4]),
        image_row("SegformerForImageClassification", stages((96, 128), *four), depths=[1, 1, 1, 1],
                  hidden_sizes=[16, 32, 40, 64], num_attention_heads=[1, 2, 4, 4]),
        image_row("CvtForImageClassification", stages(L, 4, 8, 16, prefix=1), depth=[1, 2, 3],
                  embed_dim=[16, 48, 96]),
        image_row("HieraForImageClassification", Truth(L, "", (Tokens((7, 7)),)), embed_dim=24,
                  depths=[1, 1, 3, 2], num_heads=[1, 2, 4, 8]),
        image_row("LevitForImageClassification", stages(L, 16, 32, 64), hidden_sizes=[32, 48, 64],
                  num_attention_heads=[2, 3, 4], depths=[2, 2, 2], key_dim=[8, 8, 8]),
        image_row("LevitForImageClassificationWithTeacher", stages(L, 16, 32, 64), "LevitConfig",
                  hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4], depths=[2, 2, 2],
                  key_dim=[8, 8, 8]),
    ]  # fmt: skip


def networks() -> list[Row]:
    """Convolutional networks, and those with attention on pictures."""
    last = (
        (r"stages\.\d+\.layers\.\d+\.(layernorm|pwconv|act|grn)", "channels last inside a block"),
    )
    inner = ((r"transformer", "unfolded patches are no picture"),)
    return [
        image_row("ResNetForImageClassification", pictures(S), **CONV),
        image_row("RegNetForImageClassification", pictures(WIDE), groups_width=8, **CONV),
        image_row("BitForImageClassification", pictures(S), num_groups=4, **CONV),
        image_row("ConvNextForImageClassification", pictures(S, rules=last), depths=[1, 1, 2, 1],
                  hidden_sizes=[16, 24, 32, 48]),
        image_row("ConvNextV2ForImageClassification", pictures((96, 160), rules=last),
                  depths=[1, 1, 2, 1], hidden_sizes=[16, 24, 32, 48]),
        image_row("MobileNetV1ForImageClassification", pictures(S), depth_multiplier=0.25),
        image_row("MobileNetV2ForImageClassification", pictures(WIDE), depth_multiplier=0.25),
        image_row("MobileViTForImageClassification", pictures((128, 128), rules=inner),
                  image_size=128,
                  hidden_sizes=[24, 32, 40], neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64]),
        image_row("MobileViTV2ForImageClassification", pictures((128, 128), rules=inner),
                  image_size=128, width_multiplier=0.5),
        image_row("EfficientNetForImageClassification", pictures(S), width_coefficient=0.5,
                  depth_coefficient=0.5, hidden_dim=640, image_size=96),
        image_row("PoolFormerForImageClassification", pictures(S), depths=[1, 1, 2, 1],
                  hidden_sizes=[16, 24, 32, 48]),
        image_row("FocalNetForImageClassification", stages(S, 4, 8, 16, 32), image_size=96,
                  embed_dim=24, depths=[1, 1, 2, 1]),
        image_row("SwiftFormerForImageClassification", pictures(L), depths=[1, 1, 2, 1],
                  embed_dims=[16, 24, 32, 48]),
        image_row("TextNetForImageClassification", pictures(S)),
        image_row("HGNetV2ForImageClassification", pictures(S)),
    ]  # fmt: skip


def _video(config: str, model: str, truth: Truth, frames: int, options: dict[str, Any]) -> Case:
    import torch

    made = built(config, model, options)
    inputs = torch.randn(2, frames, 3, *truth.size[-2:])
    keyword = "pixel_values_videos" if "VJEPA" in model else "pixel_values"
    return torch_case(made, {keyword: inputs}, truth)


def videos() -> list[Row]:
    """(N, T, C, H, W), in tubes of two frames or frame by frame."""
    size = (8, 64, 64)
    small = {"image_size": 64, "patch_size": 16, "num_frames": 8, **SMALL}
    tubes = (4, 4, 4)
    return [
        Row("VideoMAEForVideoClassification", functools.partial(
            _video, "VideoMAEConfig", "VideoMAEForVideoClassification",
            Truth(size, "", (Tokens(tubes),)), 8, {"tubelet_size": 2, **small})),
        Row("VivitForVideoClassification", functools.partial(
            _video, "VivitConfig", "VivitForVideoClassification",
            Truth(size, "", (Tokens(tubes, 1), Tokens(tubes))), 8,
            {"tubelet_size": [2, 16, 16], **small})),
        Row("VJEPA2ForVideoClassification", functools.partial(
            _video, "VJEPA2Config", "VJEPA2ForVideoClassification",
            Truth(size, "", (Tokens(tubes),)), 8,
            {"crop_size": 64, "patch_size": 16, "frames_per_clip": 8, "tubelet_size": 2,
             "num_pooler_layers": 1, "pred_hidden_size": 32, "pred_num_attention_heads": 4,
             "pred_num_hidden_layers": 1, "mlp_ratio": 2, "num_labels": 5, "hidden_size": 48,
             "num_hidden_layers": 4, "num_attention_heads": 4})),
        Row("TimesformerForVideoClassification", functools.partial(
            _video, "TimesformerConfig", "TimesformerForVideoClassification",
            # a position's frames lie side by side: places first, then frames
            Truth(size, "", (Tokens((4, 4, 8), 1), Tokens((4, 4, 8))),
                  rules=((r"attention|dense|temporal|norm", "frames or places folded in"),)), 8,
                  small)),
    ]  # fmt: skip


def _sound(
    config: str, model: str, shape: tuple[int, ...], truth: Truth, options: dict[str, Any]
) -> Case:
    import torch

    made = built(config, model, options)
    keyword = "input_features" if "Whisper" in model else "input_values"
    return torch_case(made, {keyword: torch.randn(2, *shape)}, truth)


def sounds() -> list[Row]:
    """Spectrograms whose patches overlap, and waves."""
    # 10 mel bands of 32 and 19 of 100 frames with strides of 10: the band runs slowest
    grid = ((32 - 16) // 10 + 1, (100 - 16) // 10 + 1)
    ast = Truth((100, 32), "", (Tokens(grid, 2), Tokens(grid)))
    time = Truth((3200,), "channels_first", (Tokens((9,)),))
    wave = {"conv_dim": [16, 16, 16, 16, 16, 16, 16], "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 16, **SMALL}  # fmt: skip
    whisper = {"d_model": 32, "encoder_layers": 3, "decoder_layers": 1,
        "encoder_attention_heads": 4,
               "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
               "num_mel_bins": 20, "max_source_positions": 50,
               "classifier_proj_size": 16}  # fmt: skip
    found = [
        Row("ASTForAudioClassification", functools.partial(
            _sound, "ASTConfig", "ASTForAudioClassification", (100, 32), ast,
            {"num_mel_bins": 32, "max_length": 100, **SMALL})),
        Row("WhisperForAudioClassification", functools.partial(
            _sound, "WhisperConfig", "WhisperForAudioClassification", (20, 100),
            Truth((100,), "channels_first", (Tokens((50,)),)), whisper)),
    ]  # fmt: skip
    for kind in ("Wav2Vec2", "Hubert", "WavLM", "UniSpeechSat"):
        model = f"{kind}ForSequenceClassification"
        make = functools.partial(_sound, f"{kind}Config", model, (3200,), time, wave)
        found.append(Row(model, make))
    return found


def rows() -> list[Row]:
    return [*transformers(), *pyramids(), *networks(), *videos(), *sounds()]
