"""Time-boxed training of master weights whose stored (quantised) values the model runs with; on a GPU the whole step is one CUDA graph."""

import time
from collections.abc import Callable

import torch
from torch import nn

from .model import Taps, storage_kind
from .quant import stored_value

NO_DECAY_PARTS = ("norm", "attn_hc.", "ffn_hc.", "hc_head.", "sinks", "position_bias")


class Trainer:
    """AdamW on fp32 masters; the module's own parameters always hold exactly what the export stores (straight-through gradients)."""

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[torch.Tensor], torch.Tensor],
        batch: torch.Tensor,
        weight_decay: float,
        bias_rate: float,
        taps: Taps,
    ):
        self.module, self.loss, self.batch, self.bias_rate, self.taps = module, loss, batch, bias_rate, taps
        self.names, self.params = zip(*((n, p) for n, p in module.named_parameters() if p.requires_grad), strict=True)
        self.masters = [p.detach().clone() for p in self.params]
        self.on_gpu = batch.is_cuda
        self.lr = torch.zeros((), device=batch.device)
        decayed = [m for n, m in zip(self.names, self.masters, strict=True) if not any(part in n for part in NO_DECAY_PARTS)]
        rest = [m for n, m in zip(self.names, self.masters, strict=True) if any(part in n for part in NO_DECAY_PARTS)]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.98), eps=1e-9, fused=True, capturable=self.on_gpu)
        self.last_loss = torch.zeros((), device=batch.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.requantise()

    @torch.no_grad()
    def requantise(self) -> None:
        for name, param, master in zip(self.names, self.params, self.masters, strict=True):
            param.copy_(stored_value(master, storage_kind(name)))

    def _step(self) -> None:
        self.taps.clear()
        loss = self.loss(self.batch)
        loss.backward()
        self.taps.index_losses = [x.detach() for x in self.taps.index_losses]  # keeps no autograd graph alive
        for param, master in zip(self.params, self.masters, strict=True):
            master.grad = param.grad
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0, foreach=True)
        self.optimizer.step()
        self.requantise()
        self._balance()
        with torch.no_grad():
            self.last_loss.copy_(loss)

    @torch.no_grad()
    def _balance(self) -> None:
        """Auxiliary-loss-free balancing: raise the selection bias of experts below the mean load, lower the others."""
        for name, counts in self.taps.expert_counts.items():
            bias = self.module.get_submodule(name).e_score_correction_bias
            bias.add_(self.bias_rate * torch.sign(counts.mean() - counts))
            bias.sub_(bias.mean())

    def _clear_gradients(self) -> None:
        for tensor in (*self.params, *self.masters):
            tensor.grad = None

    def capture(self) -> None:
        """(Re)build the CUDA graph, after two eager steps; call again when a switch that the step reads has changed."""
        if not self.on_gpu:
            return
        self.graph = None
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._clear_gradients()
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        self._clear_gradients()
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self._step()
        self.graph = graph

    def step(self, rows: torch.Tensor, lr: float) -> None:
        self.batch.copy_(rows)
        self.lr.fill_(lr)
        if self.graph is not None:
            self.graph.replay()
        else:
            self._clear_gradients()
            self._step()


def schedule(progress: float, peak: float) -> float:
    """Linear warm-up over 2 %, then linear decay to 1 % of the peak."""
    return peak * min(progress / 0.02, 1.0 - 0.99 * progress) if progress < 1 else 0.01 * peak


def run_for(
    trainer: Trainer,
    next_rows: Callable[[], torch.Tensor],
    seconds: float,
    peak_lr: float,
    every: float,
    report: Callable[[int, float, float], None],
    phases: list[tuple[float, Callable[[], None]]] | None = None,
) -> int:
    """Train for a wall-clock time; `report(steps, progress, loss)` every `every` seconds; phases: (progress, action before a recapture)."""
    phases = list(phases or [])
    trainer.batch.copy_(next_rows())
    trainer.capture()
    steps, start = 0, time.monotonic()
    next_report = start + every
    while (now := time.monotonic()) - start < seconds:
        progress = (now - start) / seconds
        if phases and progress >= phases[0][0]:
            phases.pop(0)[1]()
            trainer.capture()
        trainer.step(next_rows(), schedule(progress, peak_lr))
        steps += 1
        if steps % 10 == 0 and trainer.on_gpu:
            torch.cuda.synchronize()
        if now >= next_report:
            report(steps, progress, trainer.last_loss.item())
            next_report = time.monotonic() + every
    return steps
