#!/usr/bin/env python3
"""Bits per byte of models/tiny on heldout.txt, computed by Transformers from the exported checkpoint (dequantised to fp32).

The protocol is evaluate.PROTOCOL, which `dsv4 perplexity` follows too. With --simulate the activation quantisation of the engine is added
(FP8 inputs of linear maps, FP8 key-value entries, Hadamard and FP4 in the indexer), which Transformers does not do; --write stores
eval.json.
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer

from tiny import checkpoint, evaluate
from tiny.model import MtpBlock, Taps, attach_hooks, hf, hf_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(__file__).resolve().parent.parent / "models" / "tiny")
    parser.add_argument("--text", type=Path, help="default: heldout.txt of the model")
    parser.add_argument("--simulate", action="store_true", help="simulate the engine's activation quantisation")
    parser.add_argument("--mtp", action="store_true", help="also measure the MTP block's greedy acceptance")
    parser.add_argument("--write", action="store_true", help="write eval.json beside the model")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    config = json.loads((args.model / "config.json").read_text())
    tensors = checkpoint.load_checkpoint(args.model / "model.safetensors")
    checkpoint.validate(tensors, config)
    model = hf.DeepseekV4ForCausalLM(hf_config(config)).eval()
    checkpoint.load_into(model, tensors)
    taps = Taps()
    model.model.hc_head.register_forward_pre_hook(lambda _, inputs: setattr(taps, "streams", inputs[0]))
    mtp = MtpBlock(model.config).eval()
    checkpoint.load_into(mtp, tensors, "mtp.0.")
    if args.simulate:
        attach_hooks(model, taps, training_aids=False)
        attach_hooks(mtp, Taps(), training_aids=False)
    model.to(args.device)
    mtp.to(args.device)

    text = (args.text or args.model / "heldout.txt").read_bytes()
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    ids = tokenizer.encode(text.decode("utf-8"), add_special_tokens=False).ids
    bits = evaluate.total_bits(model, ids, args.device, batch=2)
    result = {
        "heldout_bytes": len(text),
        "tokens": len(ids),
        "hf_bits_per_byte": round(bits / len(text), 5),
        "hf_bits_per_token": round(bits / len(ids), 5),
        "protocol": evaluate.PROTOCOL,
    }
    if args.mtp:
        result["hf_mtp_agreement"] = round(evaluate.mtp_agreement(model, mtp, taps, ids, args.device), 4)
    print(json.dumps(result, indent=2))
    if args.write:
        (args.model / "eval.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
