#!/usr/bin/env python3
"""Writes a checkpoint of random weights in the official format and real dimensions, to measure loading without a download.

    tools/make_random_checkpoint.py models/configs/flash.json DIR [--layers 4]

The first layers of the configuration, without the MTP block and without hash layers. Every matrix repeats the same few megabytes of random
codes, scales are powers of two near 1/sqrt(columns), norms are 1. The tokenizer is that of models/tiny, whose ids every vocabulary has.
Standard library only.
"""

import argparse
import json
import math
import random
import shutil
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FP8_BLOCK = 128
FP4_BLOCK = 32
POOL_BYTES = 1 << 22
ONE_BF16 = b"\x80\x3f"


def blocks(size):
    return -(-size // FP8_BLOCK)


class Tensors:
    """Tensors in file order: name -> (dtype, shape, bytes that are repeated)."""

    def __init__(self, seed):
        generator = random.Random(seed)
        self.list = []
        raw = generator.randbytes(POOL_BYTES)
        # e4m3 of |x| < 2, any e2m1 pair, bf16 of 2^-7 ≤ |x| < 2^-6 or so: no NaN among them.
        self.fp8 = raw.translate(bytes(byte & 0xBF for byte in range(256)))
        self.fp4 = raw
        self.bf16 = b"".join(bytes((raw[i], 0xBC if raw[i + 1] & 1 else 0x3C)) for i in range(0, POOL_BYTES // 4, 2))
        self.fp32 = b"".join(struct.pack("<f", generator.uniform(-0.01, 0.01)) for _ in range(POOL_BYTES // 64))

    def add(self, name, dtype, shape, pool):
        self.list.append((name, dtype, shape, pool))

    def bf16_matrix(self, name, rows, columns):
        self.add(name, "BF16", [rows, columns], self.bf16)

    def norm(self, name, size):
        self.add(name, "BF16", [size], ONE_BF16)

    def floats(self, name, *shape):
        self.add(name, "F32", list(shape), self.fp32)

    def scale(self, name, rows, columns, length):
        self.add(name, "F8_E8M0", [rows, columns], bytes([127 - round(math.log2(length) / 2)]))

    def fp8_matrix(self, name, rows, columns):
        self.add(name + ".weight", "F8_E4M3", [rows, columns], self.fp8)
        self.scale(name + ".scale", blocks(rows), blocks(columns), columns)

    def fp4_matrix(self, name, rows, columns):
        self.add(name + ".weight", "I8", [rows, columns // 2], self.fp4)
        self.scale(name + ".scale", rows, columns // FP4_BLOCK, columns * 4)


def add_compressor(tensors, name, config, ratio, dim):
    width = dim * (2 if ratio == 4 else 1)
    tensors.floats(name + ".ape", ratio, width)
    tensors.bf16_matrix(name + ".wkv.weight", width, config["hidden_size"])
    tensors.bf16_matrix(name + ".wgate.weight", width, config["hidden_size"])
    tensors.norm(name + ".norm.weight", dim)


def add_layer(tensors, config, layer):
    prefix = f"layers.{layer}."
    hidden, rank, dim = config["hidden_size"], config["q_lora_rank"], config["head_dim"]
    heads, streams = config["num_attention_heads"], config["hc_mult"]
    for name in ("hc_attn", "hc_ffn"):
        tensors.floats(f"{prefix}{name}_fn", streams * (2 + streams), streams * hidden)
        tensors.floats(f"{prefix}{name}_base", streams * (2 + streams))
        tensors.floats(f"{prefix}{name}_scale", 3)
    tensors.norm(prefix + "attn_norm.weight", hidden)
    tensors.norm(prefix + "ffn_norm.weight", hidden)
    attention = prefix + "attn."
    tensors.floats(attention + "attn_sink", heads)
    tensors.fp8_matrix(attention + "wq_a", rank, hidden)
    tensors.norm(attention + "q_norm.weight", rank)
    tensors.fp8_matrix(attention + "wq_b", heads * dim, rank)
    tensors.fp8_matrix(attention + "wkv", dim, hidden)
    tensors.norm(attention + "kv_norm.weight", dim)
    o_rows = config["o_groups"] * config["o_lora_rank"]
    tensors.fp8_matrix(attention + "wo_a", o_rows, heads // config["o_groups"] * dim)
    tensors.fp8_matrix(attention + "wo_b", hidden, o_rows)
    ratio = config["compress_ratios"][layer]
    if ratio != 0:
        add_compressor(tensors, attention + "compressor", config, ratio, dim)
    if ratio == 4:
        index_heads, index_dim = config["index_n_heads"], config["index_head_dim"]
        tensors.fp8_matrix(attention + "indexer.wq_b", index_heads * index_dim, rank)
        tensors.bf16_matrix(attention + "indexer.weights_proj.weight", index_heads, hidden)
        add_compressor(tensors, attention + "indexer.compressor", config, ratio, index_dim)

    inner, num_experts = config["moe_intermediate_size"], config["n_routed_experts"]
    tensors.bf16_matrix(prefix + "ffn.gate.weight", num_experts, hidden)
    tensors.floats(prefix + "ffn.gate.bias", num_experts)
    add_expert = tensors.fp4_matrix if config.get("expert_dtype") == "fp4" else tensors.fp8_matrix
    experts = [(f"{prefix}ffn.experts.{expert}", add_expert) for expert in range(num_experts)]
    for name, add in [*experts, (prefix + "ffn.shared_experts", tensors.fp8_matrix)]:
        add(name + ".w1", inner, hidden)
        add(name + ".w2", hidden, inner)
        add(name + ".w3", inner, hidden)


def all_tensors(config, seed):
    tensors = Tensors(seed)
    hidden, streams = config["hidden_size"], config["hc_mult"]
    tensors.bf16_matrix("embed.weight", config["vocab_size"], hidden)
    tensors.bf16_matrix("head.weight", config["vocab_size"], hidden)
    tensors.floats("hc_head_fn", streams, streams * hidden)
    tensors.floats("hc_head_base", streams)
    tensors.floats("hc_head_scale", 1)
    tensors.norm("norm.weight", hidden)
    for layer in range(config["num_hidden_layers"]):
        add_layer(tensors, config, layer)
    return tensors.list


def write_repeated(file, pool, size):
    chunk = pool * max(1, POOL_BYTES // len(pool))
    while size > 0:
        file.write(chunk[:size])
        size -= min(size, len(chunk))


def write_safetensors(path, tensors):
    widths = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "F8_E8M0": 1, "I8": 1}
    header, end = {}, 0
    for name, dtype, shape, _ in tensors:
        begin, end = end, end + math.prod(shape) * widths[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, dtype, shape, pool in tensors:
            write_repeated(file, pool, math.prod(shape) * widths[dtype])
    return end


def make(config_file, folder, num_layers, seed=1):
    """Writes the checkpoint into a folder and returns the bytes of its tensors."""
    config = json.loads(Path(config_file).read_text(encoding="utf-8"))
    if not 1 <= num_layers <= config["num_hidden_layers"]:
        raise ValueError(f"{num_layers} layers, expected 1 to {config['num_hidden_layers']}")
    config.update(num_hidden_layers=num_layers, num_nextn_predict_layers=0, num_hash_layers=0,
                  compress_ratios=config["compress_ratios"][:num_layers])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    size = write_safetensors(folder / "model.safetensors", all_tensors(config, seed))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(ROOT / "models/tiny" / name, folder / name)
    return size


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="a config.json")
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--layers", type=int, default=4, help="the first N layers (default: 4)")
    options = parser.parse_args(arguments)
    try:
        size = make(options.config, options.folder, options.layers)
    except (ValueError, OSError, KeyError) as error:
        print(f"make_random_checkpoint: {error}", file=sys.stderr)
        return 1
    print(f"{options.folder}: {size} bytes of tensors")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
