"""timm's families, a small member of each, and what timm's own attributes say of their axes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.foreign import torchvision_schemas  # noqa: F401
from benchmarks.foreign.axes import Reading, Tokens, Truth, tokens
from benchmarks.foreign.rows import Case, Row, revived, torch_case

__all__ = ["rows"]

SQUARE = {
    64: "vgg11 vgg11_bn",
    96: """beit_base_patch16_224 cait_xxs24_224 coat_lite_tiny coat_tiny convit_tiny
        convmixer_768_32 davit_tiny deit_tiny_patch16_224 deit3_small_patch16_224 gmixer_12_224
        vit_small_patch16_rope_224 vit_small_patch16_dinov3 vit_pe_core_tiny_patch16_384
        vit_pe_spatial_tiny_patch16_512 gmlp_ti16_224 mixer_s32_224 resmlp_12_224 mvitv2_tiny
        mvitv2_small_cls naflexvit_base_patch16_gap naflexvit_base_patch16_map
        naflexvit_base_patch16_par_gap qwen3_vit_88m gemma4_vit_167m sequencer2d_s test_byobnet
        tnt_s_patch16_224 tnt_s_legacy_patch16_224 vit_tiny_patch16_224 vit_medium_patch16_gap_240
        vit_base_patch16_siglip_224 vit_base_patch16_xp_224 vit_base_patch16_rpn_224 test_vit
        test_vit2 test_vit3 test_vit4 vit_relpos_small_patch16_224 vit_relpos_medium_patch16_cls_224
        vit_relpos_base_patch16_clsgap_224 vit_srelpos_small_patch16_224 volo_d1_224
        xcit_nano_12_p16_224 vit_base_patch32_clip_224 vit_dwee_patch16_reg1_gap_256
        vit_pwee_patch16_reg1_gap_256 samvit_base_patch16_224""",
    112: "eva02_tiny_patch14_224 vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2",
    128: """botnet26t_256 eca_botnext26ts_256 lambda_resnet26t gcresnet33ts gcresnext26ts
        eca_resnext26ts seresnext26ts gernet_s mobileone_s0 regnetz_b16 regnetz_b16_evos
        repvgg_a0 resnet32ts
        resnet50_clip resnet50_clip_gap resnet50_mlp resnet51q convnext_zepto_rms convnextv2_atto
        cpubone_nano cs3darknet_focus_s cs3sedarknet_l cspdarknet53 cspresnet50 cspresnext50
        darknet17 sedarknet21 cspnext_tiny densenet121 dla46_c dpn48b edgenext_xx_small
        efficientnet_b0 efficientnet_b0_gn efficientnet_cc_b0_4e efficientnet_es efficientnet_lite0
        efficientnetv2_rw_t gc_efficientnetv2_rw_t fbnetc_100 mixnet_s mnasnet_050
        mobilenet_edgetpu_v2_xs efficientvit_b0 fasternet_t0 fastvit_t8 fastvit_mci0
        focalnet_tiny_srf ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnet_tiny
        hgnetv2_b0 hrnet_w18_small inception_next_atto lcnetv2_small lowformer_b0 test_mambaout
        mambaout_femto caformer_s18 convformer_s18 poolformer_s12 poolformerv2_s12 fbnetv3_b
        lcnet_035 mobilenetv3_small_050 mobilevit_xxs mobilevitv2_050 nextvit_small dm_nfnet_f0
        eca_nfnet_l0 nf_regnet_b0 nf_resnet26 nf_seresnet26 test_nfnet nasnetalarge pnasnet5large
        pvt_v2_b0 rdnet_tiny regnetx_002 regnety_002 regnetv_040 repghostnet_050 repvit_m0_9
        res2net50_14w_8s resnest14d resnet10t ecaresnet26t resnetaa34d resnetrs50 resnext50_32x4d
        wide_resnet50_2 resnet50_gn resnetv2_18 resnetv2_50x1_bit rexnet_100 legacy_seresnet18
        legacy_seresnext26_32x4d skresnet18 tresnet_m vitamin_small_224 eca_vovnet39b
        ese_vovnet19b_slim vovnet39a legacy_xception xception41 xception41p vit_small_r26_s32_224
        vit_small_resnet26d_224 vit_tiny_r_s16_p8_224""",
    160: "inception_resnet_v2 inception_v3 inception_v4",
    192: "selecsls42",
    224: """efficientformer_l1 efficientformerv2_s0 efficientvim_m1 efficientvit_m0 gcvit_xxtiny
        hiera_tiny_224 sam2_hiera_tiny hieradet_small iformer_t levit_128s levit_conv_128s
        coatnet_nano_rw_224 coatnet_rmlp_nano_rw_224 coatnext_nano_rw_224 test_maxvit nest_tiny
        pit_ti_224 pit_ti_distilled_224 shvit_s1 swiftformer_xs swin_tiny_patch4_window7_224
        swin_s3_tiny_224 swinv2_cr_tiny_ns_224 tiny_vit_5m_224 twins_pcpvt_small twins_svt_small
        visformer_tiny""",
    240: "crossvit_9_240 crossvit_9_dagger_240",
    256: """halonet26t eca_halonext26ts sehalonet33ts bat_resnext26ts lambda_resnet26rpt_256 csatv2
        hiera_small_abswin_256 maxvit_pico_rw_256 maxvit_rmlp_pico_rw_256 maxxvit_rmlp_nano_rw_256
        maxxvitv2_nano_rw_256 swinv2_tiny_window8_256""",
}
OBLONG = {
    (
        96,
        64,
    ): """deit_tiny_distilled_patch16_224 beitv2_base_patch16_224 vit_wee_patch16_reg1_gap_256
        vit_small_patch16_lingbot xcit_tiny_12_p16_224 vit_base_patch16_siglip_gap_224
        flexivit_small beit3_base_patch16_224 gmixer_24_224 deit_tiny_patch16_224
        vit_tiny_patch16_224
        naflexvit_base_patch16_par_gap qwen3_vit_88m""",
    (112, 84): "eva_large_patch14_196 aimv2_large_patch14_224",
    (
        128,
        96,
    ): """mobilenetv1_100 mobilenetv2_050 semnasnet_075 spnasnet_100 tinynet_e tf_efficientnet_b0
        mobilenetv4_conv_small_035 mobilenetv4_hybrid_medium_075 regnetz_005 resnetblur18
        res2next50 seresnet18 rexnetr_100 starnet_s050 cs3edgenet_x resnet18 convnext_atto
        mambaout_femto focalnet_tiny_srf""",
    (96, 160): "resnet26d tf_mobilenetv3_small_100 mobilevit_xs pvt_v2_b0 davit_tiny",
    (224, 448): "swin_tiny_patch4_window7_224",
}
DEPTH = {"eva_large_patch14_196": 6, "aimv2_large_patch14_224": 6, "vit_base_patch16_18x2_224": 4}
"""Of the large ones that have no small member."""
STAGES = (4, 8, 16, 32)


def grids(size: tuple[int, ...], strides: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The grids of an image after each of these strides, rounded up."""
    return [tuple(math.ceil(n / stride) for n in size) for stride in strides]


def patches(model: Any, size: tuple[int, ...]) -> tuple[int, ...]:
    """The grid of patches that a transformer's embedding makes, from its own attributes."""
    embedding = getattr(model, "patch_embed", None) or getattr(model, "stem", None)
    embedding = embedding or getattr(getattr(model, "encoder", None), "patch_embed", None)
    grid = getattr(embedding, "grid_size", None)
    if grid is not None:
        return tuple(int(n) for n in grid)
    patch = getattr(embedding, "patch_size", None) or model.feature_info[-1]["reduction"]
    patch = patch if isinstance(patch, (tuple, list)) else (patch, patch)
    return tuple(n // p for n, p in zip(size, patch))


def plain(model: Any, size: tuple[int, ...]) -> Truth:
    """A transformer of one grid: `num_prefix_tokens` and then the patches; some blocks work on the
    patches alone.
    """
    grid, prefix = patches(model, size), int(getattr(model, "num_prefix_tokens", 0) or 0)
    stages = tokens(grid, prefix) + (tokens(grid, 0) if prefix else ())
    last = "channels_last" if getattr(model, "output_fmt", None) == "NHWC" else ""
    return Truth(size, last, stages)


def pyramid(prefix: int, *strides: int) -> Callable[[Any, tuple[int, ...]], Truth]:
    """Pictures with the channels first between the stages, and tokens in them."""

    def truth(_: Any, size: tuple[int, ...]) -> Truth:
        stages = tuple(Tokens(grid, prefix) for grid in grids(size, strides or STAGES))
        return Truth(size, "channels_first", stages)

    return truth


def pictures(model: Any, size: tuple[int, ...]) -> Truth:
    """`output_fmt` says where the channels are: first, unless it is "NHWC"."""
    if getattr(model, "output_fmt", None) == "NHWC":
        return Truth(size, "channels_last")
    inner = "a layer inside attention or of unfolded patches is no picture"
    return Truth(size, rules=((r"(attn|transformer)\.", inner),))


def channels_last(_: Any, size: tuple[int, ...]) -> Truth:
    return Truth(size, "channels_last")


def blocks_last(pattern: str) -> Callable[[Any, tuple[int, ...]], Truth]:
    """Channels first, but for the paths of a pattern, whose pictures have them last."""

    def truth(_: Any, size: tuple[int, ...]) -> Truth:
        return Truth(size, rules=((pattern, Reading("channels_last")),))

    return truth


def hiera(_: Any, size: tuple[int, ...]) -> Truth:
    """Its tokens lie in units of the mask, 8 x 8 patches: in the order of rows in the last stage
    alone.
    """
    return Truth(size, "", tokens(grids(size, (32,))[0]))


def pit(model: Any, size: tuple[int, ...]) -> Truth:
    """16 x 16 patches with a stride of 8, then pooled twice; the class token (and a second) in
    front.
    """
    grid = tuple(int(n) for n in model.patch_embed.grid_size)
    prefix, stages = int(model.cls_token.shape[1]), []
    for _ in range(3):
        stages.append(Tokens(grid, prefix))
        grid = tuple((n + 1) // 2 for n in grid)
    return Truth(size, "channels_first", tuple(stages))


def crossvit(model: Any, size: tuple[int, ...]) -> Truth:
    """Two branches to the end, each with its own size of patches and its own class token."""
    stages = []
    for embedding in model.patch_embed:
        count = embedding.num_patches
        stages.append(Tokens((math.isqrt(count), math.isqrt(count)), 1))
    return Truth(size, "", tuple(stages), leak=10.0)


def volo(model: Any, size: tuple[int, ...]) -> Truth:
    """Channels last in the outlookers and the transformer, and then tokens behind a class token."""
    grid = grids(size, (16,))[0]
    return Truth(size, "channels_last", (Tokens(grid, 1), Tokens(grid, 0)))


def levit(_: Any, size: tuple[int, ...]) -> Truth:
    return pyramid(0, 16, 32, 64)(None, size)


def coat(model: Any, size: tuple[int, ...]) -> Truth:
    """A class token in every stage; with `parallel_blocks` stages run side by side to the end."""
    stages = tuple(Tokens(grid, 1) for grid in grids(size, STAGES))
    return Truth(size, "channels_first", stages, leak=10.0 if model.parallel_blocks else 1e-4)


FAMILIES: dict[str, Callable[[Any, tuple[int, ...]], Truth]] = {
    "CoaT": coat,
    "CrossVit": crossvit,
    "EfficientFormer": pyramid(0, 32),
    "GlobalContextVit": blocks_last(r"stages\.\d+\.blocks"),
    "Hiera": hiera,
    "LevitDistilled": levit,
    "Levit": levit,
    "MultiScaleVit": lambda model, size: Truth(
        size, "", tuple(Tokens(g, model.num_prefix_tokens) for g in grids(size, STAGES))
    ),
    "Nest": blocks_last(r"^norm$"),
    "PoolingVisionTransformer": pit,
    "PyramidVisionTransformerV2": pyramid(0),
    "Sequencer2d": channels_last,
    "SwinTransformerV2Cr": blocks_last(r"blocks\.\d+(\.norm\d)?$"),
    "TNT": lambda model, size: replace(
        plain(model, size), leak=0.05
    ),  # pixels go on beside the patches
    "Twins": pyramid(0),
    "VOLO": volo,
    "VisionTransformerSAM": lambda model, size: Truth(
        size, rules=((r"(blocks|patch_embed)", Reading("channels_last")),)
    ),
}
PLAIN = [
    "Beit",
    "VisionTransformer",
    "VisionTransformerDistilled",
    "VisionTransformerRelPos",
    "Eva",
    "Cait",
    "ConVit",
    "MlpMixer",
    "Xcit",
    "NaFlexVit",
    "DeepseekVitClassifier",
    "Qwen3VitClassifier",
    "Gemma4VitClassifier",
]


def truth_of(model: Any, size: tuple[int, ...]) -> Truth:
    """The truth of a family, by the class of its model."""
    kind = type(model).__name__
    if kind in FAMILIES:
        return FAMILIES[kind](model, size)
    if kind in PLAIN:
        return plain(model, size)
    return pictures(model, size)


def made(name: str, size: tuple[int, ...]) -> Case:
    """The model, with the size that is asked for where its constructor takes one."""
    import timm
    import torch

    torch.manual_seed(0)
    options: dict[str, Any] = {"pretrained": False}
    if name in DEPTH:
        options["depth"] = DEPTH[name]
    try:
        model = timm.create_model(name, img_size=size, **options)
    except TypeError:
        model = timm.create_model(name, **options)
    model = revived(model).eval()
    inputs = torch.randn(2, 3, *size)
    return torch_case(model, inputs, truth_of(model, size))


def rows() -> list[Row]:
    found = []
    for side, text in SQUARE.items():
        for name in text.split():
            found.append(Row(name, functools.partial(made, name, (side, side))))
    for size, text in OBLONG.items():
        for name in text.split():
            label = f"{name} {size[0]}x{size[1]}"
            found.append(Row(label, functools.partial(made, name, size)))
    return found
