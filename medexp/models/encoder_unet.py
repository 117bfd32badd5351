"""U-Nets in 2D over the encoders of segmentation-models-pytorch and timm, with or without pretrained weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from medexp.core.errors import UsageError, did_you_mean
from medexp.models.adapter import DenseModel
from medexp.models.extras import require

_HALVINGS = 5
_OF_TIMM = "tu-"
_NORMS = ("batchnorm", "instancenorm", "identity")  # the library's layernorm takes maps with channels last


def encoder_unet(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    encoder_name: str,
    encoder_weights: str | None,
    decoder_channels: Sequence[int],
    decoder_norm: str,
    decoder_attention: str | None,
    decoder_interpolation: str,
) -> nn.Module:
    """Build the U-Net of segmentation-models-pytorch over an encoder for photographs.

    Pretrained weights expect three channels, normalised as the encoder was trained; for another number of channels the
    library sums or repeats the first layer's weights. Weights are downloaded once and kept by huggingface_hub.

    Args:
        spatial_dims: 2.
        in_channels: Channels of the image.
        heads: Channels of each map.
        encoder_name: An encoder of the library (resnet18), or `tu-` before a name of timm's (tu-convnext_tiny).
        encoder_weights: Name of pretrained weights ("imagenet"), or None for random ones.
        decoder_channels: Channels of the five levels of the decoder, coarsest first.
        decoder_norm: "batchnorm", "instancenorm" or "identity".
        decoder_attention: "scse" (Roy et al., MICCAI 2018), or None.
        decoder_interpolation: How the decoder enlarges maps: "nearest", "bilinear" or "bicubic".

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: The images are not 2D, the library is not installed or has no such encoder or weights, or the
            weights cannot be had.
    """
    if spatial_dims != 2:
        raise UsageError(f"model=encoder_unet is for 2D images, got {spatial_dims}D; choose e.g. model=resenc_unet")
    require("segmentation_models_pytorch", model="encoder_unet")
    if decoder_norm not in _NORMS:
        raise UsageError(f"model.decoder_norm needs {' or '.join(_NORMS)}, got {decoder_norm}")
    if len(decoder_channels) != _HALVINGS:
        raise UsageError(f"model.decoder_channels needs {_HALVINGS} values, got {list(decoder_channels)}")
    _check_names(encoder_name, encoder_weights)
    from segmentation_models_pytorch import Unet

    def built(weights: str | bool | None) -> nn.Module:
        network: nn.Module = Unet(
            encoder_name=encoder_name,
            encoder_depth=_HALVINGS,
            encoder_weights=weights,
            # The library starts the scale of a normalisation, which this one lacks unless it is told.
            decoder_use_norm={"type": decoder_norm, **({"affine": True} if decoder_norm == "instancenorm" else {})},
            decoder_channels=tuple(decoder_channels),
            decoder_attention_type=decoder_attention,
            decoder_interpolation=decoder_interpolation,
            in_channels=in_channels,
            classes=sum(heads.values()),
        )
        return network

    network = built(None) if encoder_weights is None else _pretrained(built, encoder_name, encoder_weights)
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)


def _check_names(encoder: str, weights: str | None) -> None:
    import timm
    from segmentation_models_pytorch.encoders import encoders

    if encoder.startswith(_OF_TIMM):
        name = encoder.removeprefix(_OF_TIMM)
        known, offered = timm.list_models(), ["imagenet"] if timm.models.is_model_pretrained(name) else []
        exists = timm.is_model(name)
    else:
        name, known, exists = encoder, sorted(encoders), encoder in encoders
        offered = sorted(encoders[encoder]["pretrained_settings"]) if exists else []
    if not exists:
        raise UsageError(
            f"model.encoder_name needs an encoder of segmentation-models-pytorch, or {_OF_TIMM} before a name of "
            f"timm's, got {encoder}{did_you_mean(name, known)}"
        )
    if weights is not None and weights not in offered:
        raise UsageError(
            f"model.encoder_weights needs null{''.join(f' or {name}' for name in offered)} with {encoder}, "
            f"got {weights}{did_you_mean(weights, offered)}"
        )


def _pretrained(built: Callable[[str | bool | None], nn.Module], encoder: str, weights: str) -> nn.Module:
    """The network with its encoder's weights; random ones are never taken instead."""
    try:
        return built(True if encoder.startswith(_OF_TIMM) else weights)
    except Exception as error:  # the libraries let through whatever their clients raise
        told = str(error).splitlines() or [""]
        raise UsageError(
            f"model.encoder_weights={weights}: the weights of {encoder} cannot be had ({type(error).__name__}: "
            f"{told[0]}); build the model once with network access, or copy huggingface's cache (HF_HOME) from a "
            "machine that has them, or set model.encoder_weights=null for random weights"
        ) from error
