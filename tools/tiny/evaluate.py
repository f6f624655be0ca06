"""Bits per byte of a text, and how often the MTP block's draft equals the main model's choice."""

import math

import torch
from torch import nn

from .model import MtpBlock, Taps, window_mask
from .tokenizer import BOS_ID

WINDOW_TOKENS = 1023
PROTOCOL = (
    "The whole text is tokenised without adding special tokens and cut into consecutive windows of 1023 tokens; each window is preceded by "
    "BOS and run as one sequence from position 0; every token of a window is predicted from BOS and its predecessors in the window. "
    "bits per token = mean of -log2 p; bits per byte = sum of -log2 p / UTF-8 bytes of the text."
)


def windows(ids: list[int]) -> list[torch.Tensor]:
    """BOS + up to 1023 tokens each."""
    return [torch.tensor([BOS_ID, *ids[i : i + WINDOW_TOKENS]]) for i in range(0, len(ids), WINDOW_TOKENS)]


def _batches(ids: list[int], batch: int):
    rows = windows(ids)
    full = [r for r in rows if len(r) == WINDOW_TOKENS + 1]
    yield from (torch.stack(full[i : i + batch]) for i in range(0, len(full), batch))
    if len(rows) > len(full):
        yield rows[-1][None]


@torch.no_grad()
def total_bits(model: nn.Module, ids: list[int], device: str, batch: int = 8) -> float:
    """Sum of -log2 p over all tokens, by PROTOCOL; the model is run as it is (mode, dtype, hooks)."""
    nats = 0.0
    for rows in _batches(ids, batch):
        rows = rows.to(device)
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits.float()
        nats += torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum").item()
    return nats / math.log(2)


def mtp_logits(model: nn.Module, mtp: MtpBlock, streams: torch.Tensor, next_ids: torch.Tensor) -> torch.Tensor:
    """streams [B,S,4,d] at t and ids [B,S] of t+1 -> logits [B,S,V] for t+2."""
    positions = torch.arange(next_ids.shape[1], device=next_ids.device)[None]
    embedded = model.model.embed_tokens(next_ids)
    rope = {"main": model.model.rotary_emb(embedded, position_ids=positions, layer_type="main")}
    dtype = torch.get_autocast_dtype(next_ids.device.type) if torch.is_autocast_enabled(next_ids.device.type) else embedded.dtype
    mask = window_mask(next_ids.shape[1], model.config.sliding_window, dtype, next_ids.device)
    return model.lm_head(mtp(streams, embedded, rope, positions, mask))


@torch.no_grad()
def mtp_agreement(model: nn.Module, mtp: MtpBlock, taps: Taps, ids: list[int], device: str) -> float:
    """Share of positions t where argmax of the block (for t+2, given t+1) equals argmax of the main model at t+1."""
    equal = total = 0
    for rows in _batches(ids, 8):
        rows = rows.to(device)
        choice = model(input_ids=rows, use_cache=False).logits.argmax(-1)
        draft = mtp_logits(model, mtp, taps.streams[:, :-1], rows[:, 1:]).argmax(-1)
        equal += (draft == choice[:, 1:]).sum().item()
        total += draft.numel()
    return equal / total
