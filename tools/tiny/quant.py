"""The number formats of the checkpoint: FP8 e4m3 and FP4 e2m1 with power-of-two (ue8m0) scales, for weights and activations.

Weights are stored in FP8 with one scale per 128x128 block, in FP4 with one scale per row and 32 columns; scale = 2^ceil(log2(amax/limit)).
"""

import math

import torch

FP8_LIMIT, FP4_LIMIT = 448.0, 6.0
FP8_BLOCK, FP4_BLOCK = 128, 32
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def scale_exponent(amax: torch.Tensor, limit: float) -> torch.Tensor:
    """Biased exponent (the ue8m0 byte, as int32) of 2^ceil(log2(amax/limit)), read off the bits of the fp32 quotient."""
    bits = (amax.float() * (1.0 / limit)).view(torch.int32)
    return (bits >> 23) + ((bits & 0x7FFFFF) != 0).to(torch.int32)


def exponent_value(exponent: torch.Tensor) -> torch.Tensor:
    """2^(exponent-127), exactly."""
    return (exponent << 23).view(torch.float32)


def round_e2m1(x: torch.Tensor) -> torch.Tensor:
    """Nearest e2m1 value, ties to the even code; |x| <= 6."""
    size = x.abs()
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return torch.round(x / step) * step


def quantise_fp8_weight(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[out,in] -> e4m3 values as fp32 [out,in] and ue8m0 bytes as int32 [out/128,in/128]."""
    rows, cols = w.shape
    blocks = w.float().reshape(rows // FP8_BLOCK, FP8_BLOCK, cols // FP8_BLOCK, FP8_BLOCK)
    exponent = scale_exponent(blocks.abs().amax((1, 3)).clamp(min=2.0**-60), FP8_LIMIT)
    scaled = blocks / exponent_value(exponent)[:, None, :, None]
    values = scaled.clamp(-FP8_LIMIT, FP8_LIMIT).to(torch.float8_e4m3fn).float()
    return values.reshape(rows, cols), exponent


def quantise_fp4_weight(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[...,in] -> e2m1 values as fp32 [...,in] and ue8m0 bytes as int32 [...,in/32]."""
    blocks = w.float().reshape(*w.shape[:-1], -1, FP4_BLOCK)
    exponent = scale_exponent(blocks.abs().amax(-1).clamp(min=2.0**-60), FP4_LIMIT)
    values = round_e2m1((blocks / exponent_value(exponent)[..., None]).clamp(-FP4_LIMIT, FP4_LIMIT))
    return values.reshape(w.shape), exponent


def dequantise_fp8_weight(values: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    scale = exponent_value(exponent).repeat_interleave(FP8_BLOCK, 0).repeat_interleave(FP8_BLOCK, 1)
    return values * scale[: values.shape[0], : values.shape[1]]


def dequantise_fp4_weight(values: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    return values * exponent_value(exponent).repeat_interleave(FP4_BLOCK, -1)


def pack_e2m1(values: torch.Tensor) -> torch.Tensor:
    """e2m1 values [...,n] -> int8 [...,n/2]; the even column in the low nibble."""
    size = values.abs()
    code = sum((size >= v).to(torch.int32) for v in E2M1_VALUES[1:])
    code = code + 8 * torch.signbit(values).to(torch.int32)
    return (code[..., 0::2] | (code[..., 1::2] << 4)).to(torch.uint8).view(torch.int8)


def unpack_e2m1(packed: torch.Tensor) -> torch.Tensor:
    """int8 [...,n/2] -> e2m1 values fp32 [...,n]."""
    table = torch.tensor(E2M1_VALUES + tuple(-v for v in E2M1_VALUES), device=packed.device)
    byte = packed.view(torch.uint8).to(torch.int64)
    return table[torch.stack((byte & 15, byte >> 4), dim=-1).flatten(-2)]


def stored_value(w: torch.Tensor, kind: str) -> torch.Tensor:
    """What the checkpoint will hold for master weight w, as fp32."""
    if kind == "fp8":
        return dequantise_fp8_weight(*quantise_fp8_weight(w))
    if kind == "fp4":
        return dequantise_fp4_weight(*quantise_fp4_weight(w))
    if kind == "bf16":
        return w.to(torch.bfloat16).float()
    return w.float()


def simulate_fp8(x: torch.Tensor, block: int) -> torch.Tensor:
    """Quantise and dequantise activations in blocks of the last dimension."""
    blocks = x.float().reshape(*x.shape[:-1], -1, block)
    scale = exponent_value(scale_exponent(blocks.abs().amax(-1, keepdim=True).clamp(min=1e-4), FP8_LIMIT))
    values = (blocks / scale).clamp(-FP8_LIMIT, FP8_LIMIT).to(torch.float8_e4m3fn).float()
    return (values * scale).reshape(x.shape).to(x.dtype)


def simulate_fp4(x: torch.Tensor) -> torch.Tensor:
    blocks = x.float().reshape(*x.shape[:-1], -1, FP4_BLOCK)
    scale = exponent_value(scale_exponent(blocks.abs().amax(-1, keepdim=True).clamp(min=6 * 2.0**-60), FP4_LIMIT))
    values = round_e2m1((blocks / scale).clamp(-FP4_LIMIT, FP4_LIMIT))
    return (values * scale).reshape(x.shape).to(x.dtype)


class StraightThrough(torch.autograd.Function):
    """Applies a quantiser in the forward pass and nothing in the backward pass."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, quantiser, *args) -> torch.Tensor:
        ctx.num_args = len(args)
        return quantiser(x, *args)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        return (grad, None, *[None] * ctx.num_args)


def hadamard(size: int, device: torch.device | str) -> torch.Tensor:
    """Sylvester matrix of the given power of two, divided by sqrt(size)."""
    m = torch.ones(1, 1)
    while m.shape[0] < size:
        m = torch.cat((torch.cat((m, m), 1), torch.cat((m, -m), 1)), 0)
    return (m / math.sqrt(size)).to(device)
