#!/usr/bin/env python3
"""Make models/tiny: corpus, tokenizer, quantisation-aware training of the model and its MTP block, export in the official format.

    train_tiny.py prepare --work DIR [--bible-text FILE] --out models/tiny     (CPU; minutes)
    train_tiny.py train --work DIR --save DIR [--main-seconds N --mtp-seconds N]  (GPU; time-boxed)
    train_tiny.py samples --model models/tiny                                  (CPU)

`prepare` needs the text of the King James Bible as the program `bible` prints it (Debian packages bible-kjv and bible-kjv-text, or a file).
`train` writes model.safetensors and log.jsonl; copy the former to models/tiny and run tools/eval_tiny_hf.py for the published figure.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from tiny import checkpoint, corpus, evaluate, loop, samples
from tiny.model import (
    MtpBlock,
    Taps,
    attach_hooks,
    config_json,
    hf,
    hf_config,
    initialise,
    window_mask,
)
from tiny.tokenizer import (
    ASSISTANT,
    BOS,
    BOS_ID,
    END_THINK,
    EOS_ID,
    PAD_ID,
    USER,
    save_tokenizer,
    train_tokenizer,
)

VOCAB_SIZE = 3072
COMPRESS_RATIOS = [0, 4, 128, 4, 128, 0]
NUM_EXPERTS, INTERMEDIATE = 8, 128
SEED = 1611
ROW_SHARES = {"prose": 0.55, "numbered": 0.20, "chat": 0.25}


def prepare(args: argparse.Namespace) -> None:
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    split = corpus.split_chapters(corpus.parse_chapters(corpus.read_text(args.bible_text)))
    prose, numbered = corpus.as_prose(split.train), corpus.as_numbered(split.train)
    chats = samples.Conversations(split.train, SEED)
    tokenizer = train_tokenizer([prose, numbered[: len(numbered) // 4]], VOCAB_SIZE)
    config = config_json(VOCAB_SIZE, COMPRESS_RATIOS, NUM_EXPERTS, INTERMEDIATE)
    for folder in (args.work, args.out):
        save_tokenizer(tokenizer, folder, config["max_position_embeddings"])
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": 0, "do_sample": True, "eos_token_id": 1, "temperature": 1.0, "top_p": 1.0}
    (args.out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    heldout = corpus.as_prose(split.heldout)
    (args.out / "heldout.txt").write_text(heldout, encoding="utf-8")
    data = {"prose": prose, "numbered": numbered, "dev": corpus.as_prose(split.dev), "heldout": heldout}
    arrays = {name: samples.encode_text(tokenizer, text) for name, text in data.items()}
    arrays["chat"] = chats.rows(tokenizer, args.chat_rows)
    frequency = np.bincount(arrays["prose"], minlength=VOCAB_SIZE) + np.bincount(arrays["chat"].ravel(), minlength=VOCAB_SIZE) * 0.1
    frequency[PAD_ID] = 0
    arrays["tid2eid"] = samples.hash_table(frequency, NUM_EXPERTS, config["num_experts_per_tok"], SEED)
    np.savez_compressed(args.work / "data.npz", **arrays)
    bytes_of = {name: len(text.encode()) for name, text in data.items()}
    (args.work / "bytes.json").write_text(json.dumps(bytes_of))
    print({name: array.shape for name, array in arrays.items()}, bytes_of)


class RowSource:
    """Draws batches on the device: BOS + a random piece of running text, or a prepared conversation."""

    def __init__(self, data: dict[str, np.ndarray], batch: int, device: str):
        self.streams = {name: torch.from_numpy(data[name].astype(np.int16)).to(device) for name in ("prose", "numbered")}
        self.chats = torch.from_numpy(data["chat"].astype(np.int16)).to(device)
        self.device = device
        self.counts = {name: round(batch * ROW_SHARES[name]) for name in ("numbered", "chat")}
        self.counts["prose"] = batch - sum(self.counts.values())
        self.columns = torch.arange(samples.ROW_TOKENS - 1, device=device)

    def __call__(self) -> torch.Tensor:
        parts = []
        for name, stream in self.streams.items():
            start = torch.randint(len(stream) - samples.ROW_TOKENS, (self.counts[name], 1), device=self.device)
            text = stream[start + self.columns].long()
            parts.append(torch.cat((torch.full_like(start, BOS_ID), text), 1))
        parts.append(self.chats[torch.randint(len(self.chats), (self.counts["chat"],), device=self.device)].long())
        return torch.cat(parts)


def autocast(device: str):
    return torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False)


def main_loss(model, taps: Taps, device: str):
    mask = window_mask(samples.ROW_TOKENS - 1, model.config.sliding_window, torch.bfloat16, device)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        with autocast(device):
            masks = {"all": mask.expand(len(rows), -1, -1, -1)}
            logits = model(input_ids=rows[:, :-1], attention_mask=masks, use_cache=False).logits
        targets = rows[:, 1:].masked_fill(rows[:, 1:] == PAD_ID, -100)
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten()) + sum(taps.index_losses)

    return loss


def mtp_loss(model, mtp: MtpBlock, main_taps: Taps, device: str):
    """Cross-entropy against the frozen main model's distribution of the token after next."""
    mask = window_mask(samples.ROW_TOKENS - 1, model.config.sliding_window, torch.bfloat16, device)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        with autocast(device):
            with torch.no_grad():
                masks = {"all": mask.expand(len(rows), -1, -1, -1)}
                logits = model(input_ids=rows[:, :-1], attention_mask=masks, use_cache=False).logits
                target = logits[:, 1:].float().softmax(-1)
                streams = main_taps.streams[:, :-1]
            logits = evaluate.mtp_logits(model, mtp, streams, rows[:, 1:-1])
        real = (rows[:, 2:] != PAD_ID).float()
        nats = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), target.transpose(1, 2), reduction="none")
        return (nats * real).sum() / real.sum()

    return loss


class Log:
    def __init__(self, path: Path):
        self.file, self.start = open(path, "a"), time.monotonic()

    def __call__(self, **entry) -> None:
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in entry.items()}
        entry = {"seconds": round(time.monotonic() - self.start, 1)} | rounded
        print(json.dumps(entry), flush=True)
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()


def bits_per_byte(model, data: dict, name: str, num_bytes: int, device: str) -> float:
    model.eval()
    with autocast(device):
        bits = evaluate.total_bits(model, data[name].tolist(), device)
    model.train()
    return bits / num_bytes


def train_main(args, config: dict, data: dict, bytes_of: dict, log: Log, device: str):
    """Train the main model; returns it with the weights that did best on the dev chapters."""
    model = hf.DeepseekV4ForCausalLM(hf_config(config)).to(device)
    initialise(model, config["num_hidden_layers"])
    for layer in model.model.layers:
        if layer.mlp.is_hash:
            layer.mlp.gate.tid2eid.copy_(torch.from_numpy(data["tid2eid"]))
    taps = Taps(dropout=args.dropout)
    attach_hooks(model, taps, training_aids=True)
    indexers = [m for m in model.modules() if isinstance(m, hf.DeepseekV4Indexer)]
    for indexer in indexers:  # every visible entry in the first half of the training
        indexer.index_topk = samples.ROW_TOKENS
    model.train()
    source = RowSource(data, args.batch, device)
    batch = torch.full((args.batch, samples.ROW_TOKENS), PAD_ID, device=device)
    trainer = loop.Trainer(model, main_loss(model, taps, device), batch, args.weight_decay, 1e-3, taps)
    best = {"dev": math.inf, "state": None}
    log(event="start", parameters=sum(p.numel() for p in model.parameters()))

    def report(steps: int, progress: float, loss: float) -> None:
        dev = bits_per_byte(model, data, "dev", bytes_of["dev"], device)
        selecting = indexers[0].index_topk == config["index_topk"]
        index_loss = float(sum(x.detach() for x in taps.index_losses))
        log(steps=steps, tokens=steps * args.batch * (samples.ROW_TOKENS - 1), progress=progress, loss=loss, index_loss=index_loss,
            dev_bits_per_byte=dev, selecting=selecting)  # fmt: skip
        if selecting and dev < best["dev"]:
            best.update(dev=dev, state={k: v.detach().clone() for k, v in model.state_dict().items()})

    def start_selecting() -> None:
        for indexer in indexers:
            indexer.index_topk = config["index_topk"]

    steps = loop.run_for(trainer, source, args.main_seconds, args.lr, args.report_seconds, report, [(0.5, start_selecting)])
    report(steps, 1.0, trainer.last_loss.item())
    if best["state"] is not None:
        model.load_state_dict(best["state"])
    trainer.graph = None
    model.eval().requires_grad_(False)
    log(event="main done", steps=steps, dev=best["dev"], heldout=bits_per_byte(model, data, "heldout", bytes_of["heldout"], device))
    return model.eval(), taps, source


def train_mtp(args, model, mtp: MtpBlock, main_taps: Taps, source: RowSource, data: dict, log: Log, device: str) -> None:
    taps = Taps(dropout=0.0)
    attach_hooks(mtp, taps, training_aids=True)
    mtp.train()
    batch = torch.full((args.batch, samples.ROW_TOKENS), PAD_ID, device=device)
    trainer = loop.Trainer(mtp, mtp_loss(model, mtp, main_taps, device), batch, args.weight_decay, 1e-3, taps)

    def agreement(name: str) -> float:
        mtp.eval()
        with autocast(device):
            value = evaluate.mtp_agreement(model, mtp, main_taps, data[name].tolist(), device)
        mtp.train()
        return value

    def report(steps: int, progress: float, loss: float) -> None:
        log(mtp_steps=steps, progress=progress, loss=loss, dev_agreement=agreement("dev"))

    steps = loop.run_for(trainer, source, args.mtp_seconds, args.lr, args.report_seconds, report)
    log(event="mtp done", steps=steps, dev_agreement=agreement("dev"), heldout_agreement=agreement("heldout"))
    mtp.eval()


def export(model, mtp: MtpBlock, config: dict, folder: Path, log: Log) -> None:
    """Write and reread model.safetensors; logs whether it holds exactly the weights that were evaluated."""
    path = folder / "model.safetensors"
    tensors = checkpoint.official_tensors(model, mtp)
    checkpoint.validate(tensors, config)
    checkpoint.save_checkpoint(path, tensors)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    checkpoint.load_into(model, checkpoint.load_checkpoint(path))
    lossless = all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    log(event="exported", tensors=len(tensors), bytes=path.stat().st_size, lossless=lossless)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(SEED)
    torch.backends.cuda.matmul.allow_tf32 = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args.save.mkdir(parents=True, exist_ok=True)
    config = json.loads((args.work / "config.json").read_text())
    data, bytes_of = dict(np.load(args.work / "data.npz")), json.loads((args.work / "bytes.json").read_text())
    log = Log(args.save / "log.jsonl")
    log(event="arguments", **{k: v for k, v in vars(args).items() if isinstance(v, (int, float))})
    model, taps, source = train_main(args, config, data, bytes_of, log, device)
    mtp = MtpBlock(model.config).to(device)
    initialise(mtp, config["num_hidden_layers"])
    export(model, mtp, config, args.save, log)  # in case the second part is cut short
    train_mtp(args, model, mtp, taps, source, data, log, device)
    export(model, mtp, config, args.save, log)


def show_samples(args: argparse.Namespace) -> None:
    """Greedy and sampled continuations, with Transformers' own generation loop."""
    config = json.loads((args.model / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    model = hf.DeepseekV4ForCausalLM(hf_config(config)).eval()
    checkpoint.load_into(model, checkpoint.load_checkpoint(args.model / "model.safetensors"))
    torch.manual_seed(args.seed)
    prompts = [BOS + "In the beginning", BOS + "And it came to pass", BOS + "Once upon a time there was a king"]
    prompts += [f"{BOS}{USER}{q}{ASSISTANT}{END_THINK}" for q in ("Hello!", "Tell me about wisdom.", "Recite Genesis 1.")]
    for prompt in prompts:
        for temperature in (0.0, 0.7):
            ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False).ids])
            choice = {"do_sample": bool(temperature), "temperature": temperature or 1.0, "top_p": 1.0, "top_k": 0}
            stop = {"max_new_tokens": args.tokens, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
            out = model.generate(ids, attention_mask=torch.ones_like(ids), **stop, **choice)
            print(f"[T={temperature}] {tokenizer.decode(out[0].tolist(), skip_special_tokens=False)!r}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("prepare")
    p.set_defaults(run=prepare)
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--bible-text", type=Path)
    p.add_argument("--chat-rows", type=int, default=8000)
    p = commands.add_parser("train")
    p.set_defaults(run=train)
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--save", type=Path, required=True)
    p.add_argument("--main-seconds", type=float, default=215)
    p.add_argument("--mtp-seconds", type=float, default=120)
    p.add_argument("--report-seconds", type=float, default=20)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--dropout", type=float, default=0.3)
    p.add_argument("--weight-decay", type=float, default=0.2)
    p = commands.add_parser("samples")
    p.set_defaults(run=show_samples)
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--tokens", type=int, default=60)
    p.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
