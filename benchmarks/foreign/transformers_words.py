"""transformers' models of images and words: two towers, questions, captions, and vision-language
models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from benchmarks.foreign.axes import Tokens, Truth, tokens
from benchmarks.foreign.rows import Case, Row, torch_case
from benchmarks.foreign.transformers_cases import SMALL, built, patch_grid

__all__ = ["rows"]

S = (64, 96)
TOWER = {"image_size": 96, "patch_size": 16, **SMALL}
TEXT = {"vocab_size": 64, "max_position_embeddings": 64, "eos_token_id": 2, "bos_token_id": 1,
        "pad_token_id": 0, **SMALL}  # fmt: skip
IMAGE = 60
"""The id of an image's token."""
SIZE = (96, 96)
GRID = patch_grid(SIZE, 16)


def alike(outputs: Any) -> Any:
    """How well each image fits the first text."""
    return outputs.logits_per_image[:, 0]


def next_token(outputs: Any) -> Any:
    """The logit of one token, at the last position."""
    return outputs.logits[:, -1, 7]


def words(count: int, *places: int) -> Any:
    """Two rows of token ids, with image tokens at these places."""
    import torch

    ids = torch.arange(2 * count).reshape(2, count) % 40 + 3
    for place in places:
        ids[:, place] = IMAGE
    return ids


def _made(
    config: str,
    model: str,
    options: dict[str, Any],
    inputs: Callable[[], dict[str, Any]],
    truth: Truth,
    target: Callable[[Any], Any] | None,
) -> Case:
    import torch

    made = built(config, model, options)
    torch.manual_seed(1)
    return torch_case(made, inputs(), truth, target)


def row(
    model: str,
    config: str,
    options: dict[str, Any],
    inputs: Callable[[], dict[str, Any]],
    truth: Truth,
    target: Callable[[Any], Any] | None,
) -> Row:
    return Row(model, functools.partial(_made, config, model, options, inputs, truth, target))


def pair(count: int = 8) -> dict[str, Any]:
    """Two images and two texts."""
    import torch

    ids = words(count)
    ids[:, -1] = 2
    return {
        "input_ids": ids,
        "pixel_values": torch.randn(2, 3, *SIZE),
        "attention_mask": ids * 0 + 1,
    }


def towers() -> list[Row]:
    """Two towers: the score depends on both, so nothing holds all that the input says but in the
    image's own.
    """
    truth = Truth(SIZE, "", tokens(GRID, 1) + tokens(GRID), behind=0.9)
    both = {"text_config": TEXT, "vision_config": TOWER}
    blip = {"text_config": {**TEXT, "encoder_hidden_size": 32}, "vision_config": TOWER}
    many = Truth(SIZE, "", (Tokens(GRID, 0, 8), Tokens(GRID, 1, 8), *truth.tokens, Tokens(GRID, 9)),
                 behind=0.9)  # fmt: skip
    return [
        row("CLIPModel", "CLIPConfig", both, pair, truth, alike),
        row("SiglipModel", "SiglipConfig", both, pair, truth, alike),
        row("MetaClip2Model", "MetaClip2Config", both, pair, truth, alike),
        row("ChineseCLIPModel", "ChineseCLIPConfig", both, pair, truth, alike),
        row("AltCLIPModel", "AltCLIPConfig",
            {"text_config": {**TEXT, "project_dim": 32}, "vision_config": TOWER,
            "projection_dim": 32},
            pair, truth, alike),
        row("BlipModel", "BlipConfig", {**blip, "projection_dim": 32}, pair, truth, alike),
        row("CLIPSegForImageSegmentation", "CLIPSegConfig",
            {**both, "extract_layers": [1, 2], "reduce_dim": 16, "decoder_num_attention_heads": 4,
             "projection_dim": 32, "decoder_intermediate_size": 32},
            pair, Truth(SIZE, "channels_first", truth.tokens, leak=10.0, behind=0.95),
            lambda outputs: outputs.logits.flatten(1).mean(1)),
        row("ViltForQuestionAnswering", "ViltConfig",
            {"vocab_size": 64, "image_size": 96, "patch_size": 16, "max_image_length": -1, **SMALL},
            pair, Truth(SIZE, "", (Tokens(GRID, 9),), behind=0.9), None),
        row("OwlViTForObjectDetection", "OwlViTConfig", {**both, "projection_dim": 32},
            lambda: {**pair(), "pixel_values": pair()["pixel_values"]},
            Truth(SIZE, "channels_last", truth.tokens, behind=0.95),
            lambda outputs: outputs.logits[:, :, 0].max(1).values),
        row("BlipForConditionalGeneration", "BlipConfig", blip, pair, many, next_token),
        row("GitForCausalLM", "GitConfig", {"vision_config": TOWER, **TEXT}, pair, many,
            next_token),
    ]  # fmt: skip


def llava_inputs() -> dict[str, Any]:
    import torch

    ids = words(42, *range(3, 39))
    return {
        "input_ids": ids,
        "pixel_values": torch.randn(2, 3, *SIZE),
        "attention_mask": ids * 0 + 1,
    }


def qwen_inputs() -> dict[str, Any]:
    """Two images of 8 x 12 patches of 14 pixels; the tower merges them to 4 x 6 tokens each."""
    import torch

    ids = words(32, *range(4, 28))
    ids[:, 3], ids[:, 28] = 61, 62
    return {
        "input_ids": ids,
        "attention_mask": ids * 0 + 1,
        "pixel_values": torch.randn(2 * 96, 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, 8, 12], [1, 8, 12]]),
        "mm_token_type_ids": (ids == IMAGE).int(),
    }


def language() -> list[Row]:
    """The logit of one token: its grid is found in the tower, or between the words."""
    text = {"model_type": "llama", "num_key_value_heads": 4, **TEXT}
    llava = Truth(SIZE, "", (Tokens(GRID, 3, 3), *tokens(GRID, 1), *tokens(GRID)), behind=0.9)
    qwen = Truth((112, 168), "", (Tokens((4, 6), 4, 4),), behind=0.9)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    ids = {"image_token_id": IMAGE, "video_token_id": 59, "vision_start_token_id": 61,
           "vision_end_token_id": 62, "tie_word_embeddings": False}  # fmt: skip
    words_of = {**TEXT, "num_key_value_heads": 4, "rope_parameters": rope, "rope_scaling": rope}
    merged = {"depth": 3, "num_heads": 4, "patch_size": 14, "spatial_merge_size": 2,
              "temporal_patch_size": 2, "in_channels": 3}  # fmt: skip
    return [
        row("LlavaForConditionalGeneration", "LlavaConfig",
            {"vision_config": {"model_type": "clip_vision_model", **TOWER}, "text_config": text,
             "image_token_id": IMAGE, "image_token_index": IMAGE, "vision_feature_layer": -2},
            llava_inputs, llava, next_token),
        row("VipLlavaForConditionalGeneration", "VipLlavaConfig",
            {"vision_config": {"model_type": "clip_vision_model", **TOWER}, "text_config": text,
             "image_token_id": IMAGE, "image_token_index": IMAGE, "vision_feature_layers": [-2,
             -1]},
            llava_inputs, llava, next_token),
        row("PaliGemmaForConditionalGeneration", "PaliGemmaConfig",
            {"vision_config": {"model_type": "siglip_vision_model", "projection_dim": 32, **TOWER},
             "text_config": {"model_type": "gemma", "num_key_value_heads": 4, "head_dim": 8,
             **TEXT},
             "image_token_id": IMAGE, "image_token_index": IMAGE, "projection_dim": 32},
            lambda: {**llava_inputs(), "token_type_ids": words(42) * 0}, llava, next_token),
        row("Qwen2VLForConditionalGeneration", "Qwen2VLConfig",
            {"vision_config": {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, **merged},
             "text_config": words_of, **ids}, qwen_inputs, qwen, next_token),
        row("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig",
            {"vision_config": {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64,
                               "window_size": 56, "fullatt_block_indexes": [2], **merged},
             "text_config": words_of, **ids}, qwen_inputs, qwen, next_token),
    ]  # fmt: skip


def rows() -> list[Row]:
    return [*towers(), *language()]
