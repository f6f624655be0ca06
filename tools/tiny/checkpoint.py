"""The official checkpoint format: names, dtypes and shapes; writing it from a Transformers model and reading it back."""

import json
from pathlib import Path

import torch
from torch import nn

from .model import MtpBlock, storage_kind
from .quant import (
    dequantise_fp4_weight,
    dequantise_fp8_weight,
    pack_e2m1,
    quantise_fp4_weight,
    quantise_fp8_weight,
    unpack_e2m1,
)

DTYPES = {
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.uint8,
    "I8": torch.int8,
    "I64": torch.int64,
}
# Transformers name parts -> official, applied in order.
RENAMES = [
    ("model.", ""),
    ("embed_tokens.", "embed."),
    ("lm_head.", "head."),
    ("hc_head.hc_", "hc_head_"),
    ("input_layernorm.", "attn_norm."),
    ("post_attention_layernorm.", "ffn_norm."),
    ("attn_hc.", "hc_attn_"),
    ("ffn_hc.", "hc_ffn_"),
    ("compressor.indexer.scorer.weights_proj.", "indexer.weights_proj."),
    ("compressor.indexer.q_b_proj.", "indexer.wq_b."),
    ("compressor.indexer.", "indexer.compressor."),
    ("compressor.kv_proj.", "compressor.wkv."),
    ("compressor.gate_proj.", "compressor.wgate."),
    ("compressor.kv_norm.", "compressor.norm."),
    ("position_bias", "ape"),
    ("self_attn.q_a_proj.", "attn.wq_a."),
    ("self_attn.q_b_proj.", "attn.wq_b."),
    ("self_attn.kv_proj.", "attn.wkv."),
    ("self_attn.o_a_proj.", "attn.wo_a."),
    ("self_attn.o_b_proj.", "attn.wo_b."),
    ("self_attn.q_a_norm.", "attn.q_norm."),
    ("self_attn.sinks", "attn.attn_sink"),
    ("self_attn.", "attn."),
    ("e_score_correction_bias", "bias"),
    ("shared_experts.gate_proj.", "shared_experts.w1."),
    ("shared_experts.down_proj.", "shared_experts.w2."),
    ("shared_experts.up_proj.", "shared_experts.w3."),
    ("mlp.", "ffn."),
]


def official_name(name: str) -> str:
    for old, new in RENAMES:
        if old == "model.":
            name = name.removeprefix(old)
        else:
            name = name.replace(old, new)
    return name


def expected_tensors(config: dict) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (dtype, shape) of every tensor that a checkpoint with this config holds."""
    d, dim, heads, q = config["hidden_size"], config["head_dim"], config["num_attention_heads"], config["q_lora_rank"]
    o = config["o_groups"] * config["o_lora_rank"]
    experts, inter, vocab, hc = config["n_routed_experts"], config["moe_intermediate_size"], config["vocab_size"], config["hc_mult"]
    mix = (2 + hc) * hc
    index_heads, index_dim = config["index_n_heads"], config["index_head_dim"]
    out: dict[str, tuple[str, tuple[int, ...]]] = {}

    def fp8(name: str, rows: int, cols: int) -> None:
        out[name + ".weight"] = ("F8_E4M3", (rows, cols))
        out[name + ".scale"] = ("F8_E8M0", (-(-rows // 128), -(-cols // 128)))

    def fp4(name: str, rows: int, cols: int) -> None:
        out[name + ".weight"] = ("I8", (rows, cols // 2))
        out[name + ".scale"] = ("F8_E8M0", (rows, cols // 32))

    def compressor(prefix: str, ratio: int, width: int) -> None:
        channels = width * (2 if ratio == 4 else 1)
        out[prefix + "ape"] = ("F32", (ratio, channels))
        out[prefix + "wkv.weight"] = out[prefix + "wgate.weight"] = ("BF16", (channels, d))
        out[prefix + "norm.weight"] = ("BF16", (width,))

    def head(prefix: str) -> None:
        out[prefix + "norm.weight"] = ("BF16", (d,))
        out[prefix + "hc_head_fn"] = ("F32", (hc, hc * d))
        out[prefix + "hc_head_base"] = ("F32", (hc,))
        out[prefix + "hc_head_scale"] = ("F32", (1,))

    def layer(prefix: str, ratio: int, is_hash: bool) -> None:
        for part in ("attn", "ffn"):
            out[f"{prefix}{part}_norm.weight"] = ("BF16", (d,))
            out[f"{prefix}hc_{part}_fn"] = ("F32", (mix, hc * d))
            out[f"{prefix}hc_{part}_base"] = ("F32", (mix,))
            out[f"{prefix}hc_{part}_scale"] = ("F32", (3,))
        attn, ffn = prefix + "attn.", prefix + "ffn."
        out[attn + "attn_sink"] = ("F32", (heads,))
        fp8(attn + "wq_a", q, d)
        fp8(attn + "wq_b", heads * dim, q)
        fp8(attn + "wkv", dim, d)
        fp8(attn + "wo_a", o, heads * dim // config["o_groups"])
        fp8(attn + "wo_b", d, o)
        out[attn + "q_norm.weight"], out[attn + "kv_norm.weight"] = ("BF16", (q,)), ("BF16", (dim,))
        if ratio:
            compressor(attn + "compressor.", ratio, dim)
        if ratio == 4:
            fp8(attn + "indexer.wq_b", index_heads * index_dim, q)
            out[attn + "indexer.weights_proj.weight"] = ("BF16", (index_heads, d))
            compressor(attn + "indexer.compressor.", 4, index_dim)
        out[ffn + "gate.weight"] = ("BF16", (experts, d))
        if is_hash:
            out[ffn + "gate.tid2eid"] = ("I64", (vocab, config["num_experts_per_tok"]))
        else:
            out[ffn + "gate.bias"] = ("F32", (experts,))
        for e in range(experts):
            fp4(f"{ffn}experts.{e}.w1", inter, d)
            fp4(f"{ffn}experts.{e}.w2", d, inter)
            fp4(f"{ffn}experts.{e}.w3", inter, d)
        fp8(ffn + "shared_experts.w1", inter, d)
        fp8(ffn + "shared_experts.w2", d, inter)
        fp8(ffn + "shared_experts.w3", inter, d)

    out["embed.weight"] = out["head.weight"] = ("BF16", (vocab, d))
    head("")
    for i in range(config["num_hidden_layers"]):
        layer(f"layers.{i}.", config["compress_ratios"][i], i < config["num_hash_layers"])
    layer("mtp.0.", 0, False)
    head("mtp.0.")
    fp8("mtp.0.e_proj", d, d)
    fp8("mtp.0.h_proj", d, d)
    out["mtp.0.enorm.weight"] = out["mtp.0.hnorm.weight"] = ("BF16", (d,))
    return out


def _store(out: dict, name: str, kind: str, value: torch.Tensor) -> None:
    """Add a tensor (with its scale, if it has one) under its official name."""
    if kind == "fp8":
        values, exponent = quantise_fp8_weight(value)
        out[name] = ("F8_E4M3", values.to(torch.float8_e4m3fn))
        out[name.removesuffix("weight") + "scale"] = ("F8_E8M0", exponent.to(torch.uint8))
    elif kind == "fp4":
        values, exponent = quantise_fp4_weight(value)
        out[name] = ("I8", pack_e2m1(values))
        out[name.removesuffix("weight") + "scale"] = ("F8_E8M0", exponent.to(torch.uint8))
    else:
        out[name] = ("BF16", value.bfloat16()) if kind == "bf16" else ("F32", value.float())


def official_tensors(model: nn.Module, mtp: MtpBlock) -> dict[str, tuple[str, torch.Tensor]]:
    """Official name -> (dtype, tensor). Values already on their grids are stored without loss."""
    out: dict[str, tuple[str, torch.Tensor]] = {}
    named = [(n, v) for n, v in model.state_dict().items()]
    named += [("mtp.0." + n.removeprefix("layer."), v) for n, v in mtp.state_dict().items()]
    for name, value in named:
        value = value.detach().cpu()
        kind, official = storage_kind(name), official_name(name)
        if name.endswith("tid2eid"):
            out[official] = ("I64", value.long())
        elif name.endswith("gate_up_proj"):
            for e, pair in enumerate(value):
                for part, half in zip(("w1", "w3"), pair.chunk(2), strict=True):
                    _store(out, official.replace("gate_up_proj", f"{e}.{part}.weight"), kind, half)
        elif ".experts.down_proj" in name:
            for e, matrix in enumerate(value):
                _store(out, official.replace("down_proj", f"{e}.w2.weight"), kind, matrix)
        else:
            _store(out, official, kind, value)
    return out


def validate(tensors: dict[str, tuple[str, torch.Tensor]], config: dict) -> None:
    """Names, dtypes, shapes and finiteness; raises ValueError."""
    expected = expected_tensors(config)
    if expected.keys() != tensors.keys():
        raise ValueError(f"missing {sorted(expected.keys() - tensors.keys())[:5]}, extra {sorted(tensors.keys() - expected.keys())[:5]}")
    for name, (dtype, tensor) in tensors.items():
        if (dtype, tuple(tensor.shape)) != expected[name]:
            raise ValueError(f"{name}: {dtype} {tuple(tensor.shape)}, expected {expected[name]}")
        if dtype in ("BF16", "F32", "F8_E4M3") and not torch.isfinite(tensor.float()).all():
            raise ValueError(f"{name}: not finite")
        if dtype == "F8_E8M0" and (tensor == 255).any():
            raise ValueError(f"{name}: NaN scale")
        if name.endswith("tid2eid"):
            if tensor.min() < 0 or tensor.max() >= config["n_routed_experts"] or (tensor.sort(-1).values.diff(dim=-1) == 0).any():
                raise ValueError(f"{name}: not distinct experts")


def _alignment(num_bytes: int) -> int:
    return min(num_bytes & -num_bytes, 64)


def save_checkpoint(path: Path, tensors: dict[str, tuple[str, torch.Tensor]]) -> None:
    """One safetensors file; sizes divisible by 64 first, so that the large tensors start at multiples of 64 and none is misaligned."""
    order = sorted(tensors, key=lambda n: (-_alignment(tensors[n][1].nbytes), n))
    header: dict = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in order:
        dtype, tensor = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(tensors[name][1].contiguous().view(-1).view(torch.uint8).numpy().tobytes())


def load_checkpoint(path: Path) -> dict[str, tuple[str, torch.Tensor]]:
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    out = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + o for o in entry["data_offsets"])
            raw = torch.frombuffer(data[begin:end], dtype=torch.uint8)
            out[name] = (entry["dtype"], raw.view(DTYPES[entry["dtype"]]).reshape(entry["shape"]))
    return out


def _dequantised(tensors: dict, name: str) -> torch.Tensor:
    dtype, value = tensors[name]
    if dtype == "I64":
        return value
    if dtype in ("F8_E4M3", "I8"):
        exponent = tensors[name.removesuffix("weight") + "scale"][1].to(torch.int32)
        if dtype == "I8":
            return dequantise_fp4_weight(unpack_e2m1(value), exponent)
        return dequantise_fp8_weight(value.float(), exponent)
    return value.float()


def load_into(module: nn.Module, tensors: dict[str, tuple[str, torch.Tensor]], prefix: str = "") -> None:
    """Fill a Transformers model (prefix "") or an MtpBlock (prefix "mtp.0.") with the dequantised checkpoint."""
    state = {}
    for name, old in module.state_dict().items():
        official = official_name(prefix + (name.removeprefix("layer.") if prefix else name))
        experts = range(old.shape[0])
        if name.endswith("gate_up_proj"):
            pairs = [[_dequantised(tensors, official.replace("gate_up_proj", f"{e}.{w}.weight")) for w in ("w1", "w3")] for e in experts]
            state[name] = torch.stack([torch.cat(pair) for pair in pairs])
        elif ".experts.down_proj" in name:
            state[name] = torch.stack([_dequantised(tensors, official.replace("down_proj", f"{e}.w2.weight")) for e in experts])
        else:
            state[name] = _dequantised(tensors, official)
    module.load_state_dict(state)
