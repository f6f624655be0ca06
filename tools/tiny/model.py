"""Transformers' DeepseekV4 model prepared for training: initial values, dense experts, the engine's activation quantisation as hooks."""

import copy
import types
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as hf
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config

from .quant import StraightThrough, hadamard, simulate_fp4, simulate_fp8

FP8_MODULES = ("q_a_proj", "q_b_proj", "o_a_proj", "o_b_proj", "e_proj", "h_proj", "gate_proj", "up_proj", "down_proj")
FP32_PARTS = ("attn_hc.", "ffn_hc.", "hc_head.", "sinks", "position_bias", "e_score_correction_bias")


def config_json(vocab_size: int, compress_ratios: list[int], experts: int, intermediate: int) -> dict:
    """The checkpoint's config.json, in the key names of the official release."""
    return {
        "architectures": ["DeepseekV4ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "compress_ratios": compress_ratios,
        "compress_rope_theta": 160000.0,
        "eos_token_id": 1,
        "expert_dtype": "fp4",
        "hc_eps": 1e-06,
        "hc_mult": 4,
        "hc_sinkhorn_iters": 20,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 256,
        "index_head_dim": 128,
        "index_n_heads": 4,
        "index_topk": 64,
        "initializer_range": 0.02,
        "max_position_embeddings": 1048576,
        "model_type": "deepseek_v4",
        "moe_intermediate_size": intermediate,
        "n_routed_experts": experts,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 8,
        "num_experts_per_tok": 2,
        "num_hash_layers": 1,
        "num_hidden_layers": len(compress_ratios) - 1,
        "num_key_value_heads": 1,
        "num_nextn_predict_layers": 1,
        "o_groups": 2,
        "o_lora_rank": 128,
        "q_lora_rank": 128,
        "qk_rope_head_dim": 64,
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "scale_fmt": "ue8m0",
            "weight_block_size": [128, 128],
        },
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 16,
            "original_max_position_embeddings": 65536,
            "type": "yarn",
        },
        "rope_theta": 10000.0,
        "routed_scaling_factor": 1.5,
        "scoring_func": "sqrtsoftplus",
        "sliding_window": 128,
        "swiglu_limit": 10.0,
        "tie_word_embeddings": False,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": vocab_size,
    }


def hf_config(config: dict) -> DeepseekV4Config:
    """Transformers' view of config.json, without its own quantisation and with eager attention (the only one it has)."""
    config = {k: v for k, v in copy.deepcopy(config).items() if k not in ("quantization_config", "torch_dtype", "architectures")}
    return DeepseekV4Config(**config, attn_implementation="eager")


def storage_kind(name: str) -> str:
    """How the checkpoint stores the parameter with this Transformers name: fp8, fp4, bf16 or fp32."""
    if any(part in name for part in FP32_PARTS):
        return "fp32"
    if ".experts." in name:
        return "fp4"
    module = name.rsplit(".", 2)[-2] if "." in name else ""
    if ".compressor." in name and ".q_b_proj" not in name:
        return "bf16"
    if module in FP8_MODULES or name.endswith("self_attn.kv_proj.weight"):
        return "fp8"
    return "bf16"


class MtpBlock(nn.Module):
    """Multi-token prediction block: streams after the last main layer at t, and token t+1, predict token t+2."""

    def __init__(self, config: DeepseekV4Config):
        super().__init__()
        config = copy.deepcopy(config)
        config.layer_types, config.mlp_layer_types, config.num_hidden_layers = ["sliding_attention"], ["moe"], 1
        size, eps = config.hidden_size, config.rms_norm_eps
        self.enorm, self.hnorm = hf.DeepseekV4RMSNorm(size, eps), hf.DeepseekV4RMSNorm(size, eps)
        self.e_proj, self.h_proj = nn.Linear(size, size, bias=False), nn.Linear(size, size, bias=False)
        self.layer = hf.DeepseekV4DecoderLayer(config, 0)
        self.hc_head = hf.DeepseekV4HyperHead(config)
        self.norm = hf.DeepseekV4RMSNorm(size, eps)

    def forward(self, streams, next_embeddings, position_embeddings, position_ids, mask):
        """streams [B,S,4,d], next_embeddings [B,S,d] -> hidden state [B,S,d] to be multiplied by the main head."""
        joined = self.e_proj(self.enorm(next_embeddings)).unsqueeze(2) + self.h_proj(self.hnorm(streams))
        out = self.layer(joined, position_embeddings=position_embeddings, position_ids=position_ids, attention_mask=mask)
        return self.norm(self.hc_head(out))


@torch.no_grad()
def initialise(module: nn.Module, num_layers: int) -> None:
    """Own initial values: unit-gain projections, small output projections, hyper-connections near the identity."""
    for name, p in module.named_parameters():
        kind = name.rsplit(".", 1)[-1]
        if "attn_hc." in name or "ffn_hc." in name:
            if kind == "fn":
                p.normal_(0, 0.02)
            elif kind == "scale":
                p.fill_(0.3)
            else:  # pre and post differ a little between the streams; comb starts near the identity
                p[:8].normal_(0, 0.5)
                p[8:].copy_(3.0 * torch.eye(4).flatten())
        elif "hc_head." in name:
            p.normal_(0, 0.02) if kind == "hc_fn" else p.fill_(0.3 if kind == "hc_scale" else 0.0)
        elif kind in ("sinks", "position_bias"):
            p.zero_()
        elif "embed_tokens" in name:
            p.normal_(0, 0.1)
        elif "lm_head" in name:
            p.normal_(0, 0.02)
        elif "norm" in name:
            p.fill_(1.0)
        else:
            gain = 0.5 / (2 * num_layers) ** 0.5 if "o_b_proj" in name or "down_proj" in name else 0.8
            p.normal_(0, gain * p.shape[-1] ** -0.5)


def dense_experts(self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
    """Replaces DeepseekV4Experts.forward in training: every expert for every token, routing weight (0 if not chosen) before down_proj."""
    num, size = self.num_experts, self.hidden_dim
    weights = top_k_weights.new_zeros(hidden_states.shape[0], num).scatter(1, top_k_index, top_k_weights)
    x = StraightThrough.apply(hidden_states, simulate_fp8, 128)
    gate_up = F.linear(x, self.gate_up_proj.reshape(-1, size)).unflatten(1, (num, -1))
    hidden = self._apply_gate(gate_up) * weights.to(gate_up.dtype).unsqueeze(-1)
    hidden = StraightThrough.apply(hidden, simulate_fp8, 128)
    return F.linear(hidden.flatten(1), self.down_proj.transpose(0, 1).reshape(size, -1)).to(hidden_states.dtype)


@dataclass
class Taps:
    """What the hooks collect during one forward pass, and the switches they read."""

    dropout: float = 0.0
    index_losses: list[torch.Tensor] = field(default_factory=list)
    expert_counts: dict[str, torch.Tensor] = field(default_factory=dict)
    streams: torch.Tensor | None = None

    def clear(self) -> None:
        self.index_losses.clear()


def _fp32_router(gate: nn.Module) -> None:
    """Scores in fp32 also under autocast."""
    forward = gate.forward

    def run(hidden_states, *args):
        with torch.autocast(hidden_states.device.type, enabled=False):
            return forward(hidden_states.float(), *args)

    gate.forward = run


def _index_loss(probabilities: torch.Tensor, scores: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """KL(attention mass over the selected compressed entries || softmax of the index scores over the same), mean over tokens."""
    mass = probabilities[..., num_tokens:].detach().float().sum(1)  # [B,S,T]
    chosen = mass > 0
    target = mass / mass.sum(-1, keepdim=True).clamp(min=1e-9)
    log_q = scores.float().masked_fill(~chosen, -1e9).log_softmax(-1)
    return (target * (target.clamp(min=1e-9).log() - log_q)).masked_fill(~chosen, 0.0).sum(-1).mean()


def attach_hooks(model: nn.Module, taps: Taps, training_aids: bool) -> list:
    """Simulate the engine's activation quantisation; with training_aids also dropout, the indexer's loss and expert counts.

    Returns the handles of the hooks.
    """
    handles = []
    rotation = {}

    def quantise_input(_, args):
        return (StraightThrough.apply(args[0], simulate_fp8, 128), *args[1:])

    def quantise_entry(_, __, out):
        nope = out.shape[-1] - 64
        return torch.cat((StraightThrough.apply(out[..., :nope], simulate_fp8, 64), out[..., nope:]), -1)

    def quantise_index(_, args):
        q, keys, hidden = args
        if q.device not in rotation:
            rotation[q.device] = hadamard(q.shape[-1], q.device)
        m = rotation[q.device]
        with torch.autocast(q.device.type, enabled=False):
            q, keys = q.float() @ m, keys.float() @ m
        return StraightThrough.apply(q, simulate_fp4), StraightThrough.apply(keys, simulate_fp4), hidden

    for name, module in model.named_modules():
        leaf = name.rsplit(".", 1)[-1]
        if isinstance(module, nn.Linear) and storage_kind(name + ".weight") == "fp8" and leaf != "o_a_proj":
            handles.append(module.register_forward_pre_hook(quantise_input))
        elif leaf == "kv_norm" and not name.endswith("indexer.kv_norm"):
            handles.append(module.register_forward_hook(quantise_entry))
        elif isinstance(module, hf.DeepseekV4IndexerScorer):
            handles.append(module.register_forward_pre_hook(quantise_index))
        elif isinstance(module, hf.DeepseekV4Experts):
            module.forward = types.MethodType(dense_experts, module)
        elif isinstance(module, (hf.DeepseekV4TopKRouter, hf.DeepseekV4HashRouter)):
            _fp32_router(module)
        elif isinstance(module, hf.DeepseekV4HyperHead):
            handles.append(module.register_forward_pre_hook(lambda _, args: setattr(taps, "streams", args[0].detach())))
    if training_aids:
        handles += _attach_training_aids(model, taps)
    return handles


def _attach_training_aids(model: nn.Module, taps: Taps) -> list:
    handles = []

    def detach_inputs(_, args):
        return (args[0].detach(), args[1].detach(), *args[2:])

    def keep_scores(module, _, out):
        module.last_scores = out

    def after_attention(module, _, __, out):
        hidden, probabilities = out
        if isinstance(module.compressor, hf.DeepseekV4CSACompressor) and module.training:
            scorer = module.compressor.indexer.scorer
            scores, scorer.last_scores = scorer.last_scores, None
            taps.index_losses.append(_index_loss(probabilities, scores, hidden.shape[1]))
        return F.dropout(hidden, taps.dropout, module.training), probabilities

    def after_mlp(module, _, out):
        return F.dropout(out, taps.dropout, module.training)

    def count_experts(name):
        def hook(module, _, out):
            counts = torch.zeros(module.num_experts, device=out[2].device)
            taps.expert_counts[name] = counts.scatter_add(0, out[2].flatten(), torch.ones_like(out[2].flatten(), dtype=torch.float32))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, hf.DeepseekV4Indexer):
            handles.append(module.register_forward_pre_hook(detach_inputs))
        elif isinstance(module, hf.DeepseekV4IndexerScorer):
            handles.append(module.register_forward_hook(keep_scores))
        elif isinstance(module, hf.DeepseekV4Attention):
            handles.append(module.register_forward_hook(after_attention, with_kwargs=True))
        elif isinstance(module, hf.DeepseekV4SparseMoeBlock):
            handles.append(module.register_forward_hook(after_mlp))
        elif isinstance(module, hf.DeepseekV4TopKRouter):
            handles.append(module.register_forward_hook(count_experts(name)))
        elif isinstance(module, nn.Embedding):
            handles.append(module.register_forward_hook(after_mlp))
    return handles


def window_mask(num_tokens: int, window: int, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    """Additive mask [1,1,S,S]: token t sees max(0,t-window+1) .. t."""
    distance = torch.arange(num_tokens, device=device)[:, None] - torch.arange(num_tokens, device=device)[None, :]
    visible = (distance >= 0) & (distance < window)
    return torch.zeros(num_tokens, num_tokens, dtype=dtype, device=device).masked_fill(~visible, float("-inf"))[None, None]
