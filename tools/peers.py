"""What the best kernels of others take for the same work, beside what ours take (docs/STATUS.md).

The figures of others are the project's anchors: measured once, side by side, on one NVIDIA H200 (driver 580, CUDA 13.0, device copy
4.24 TB/s), per call inside a CUDA graph. Ours are timed with events launch by launch, so they carry some microseconds that theirs do not,
and a part of a step may hold more than the one kernel named: ours are bounds from above.
"""

NOTE = [
    "Anchors: figures of others, measured for this project on the same kind of GPU, per call in a CUDA graph. Ours are the mean of a",
    "layer, launch by launch with events around each launch, which adds some microseconds; the last column says what else is in them.",
]
HEAD = ["work", "others", "µs", "ours, µs", "ours / others", "ours include"]
MACHINE = "NVIDIA H200"


class Peer:
    """Work of one layer of Flash, and where to find ours: part and kind of layer in a decode step of this batch and context."""

    def __init__(self, work, who, microseconds, part, kind, batch, min_context, max_context, note=""):
        self.work = work
        self.who = who
        self.microseconds = microseconds
        self.part = part
        self.kind = kind
        self.batch = batch
        self.min_context = min_context
        self.max_context = max_context
        self.note = note

    def ours(self, steps):
        """Microseconds in the row with the longest context that fits, None without one."""
        for step in reversed(steps):
            setup = step["setup"]
            if step["bench"] != "decode" or setup["model"] != "flash" or MACHINE not in step["machine"]:
                continue
            if setup["batch"] != self.batch or not self.min_context <= setup["context"] <= self.max_context:
                continue
            for part in step["parts"]:
                if part["part"] == self.part and self.kind in part.get("us_per_layer", {}):
                    return part["us_per_layer"][self.kind]
        return None


ANY = 1 << 20
FLASHMLA, DEEPGEMM = "FlashMLA sparse decode", "DeepGEMM masked, FP8 weights"
MIXING = "mixing, norm, quantisation, sum of experts"
PEERS = [
    *(
        Peer(f"attention, 64 heads, 128 + 512 keys, batch {batch}", FLASHMLA, microseconds, "attention", "csa", batch, 2048, ANY)
        for batch, microseconds in ((1, 12.3), (4, 13.3), (16, 17.1), (64, 44.7), (128, 46.7), (256, 89.5))
    ),
    *(
        Peer(f"attention, 64 heads, 128 + 8192 keys, batch {batch}", FLASHMLA, microseconds, "attention", "hca", batch, ANY, ANY)
        for batch, microseconds in ((1, 28.1), (16, 83.0), (64, 247.0))
    ),
    Peer("index scores of 256K entries, batch 1", "DeepGEMM mqa_logits, FP8 keys", 11.8, "index scores", "csa", 1, ANY, ANY),
    Peer("experts of 1 token, FP4", DEEPGEMM, 86.3, "experts", "swa", 1, 1, ANY, "the shared expert"),
    Peer("experts of 64 tokens, FP4", DEEPGEMM, 1323.0, "experts", "swa", 64, 1, ANY, "the shared expert"),
    Peer("wq_a, wkv, wq_b, wo_b, batch 1", "DeepGEMM FP8", 44.2, "products", "swa", 1, 1, ANY),
    Peer("wq_a, wkv, wq_b, wo_b, batch 64", "DeepGEMM FP8", 40.1, "products", "swa", 64, 1, ANY),
    Peer("mHC projections, twice, batch 1", "DeepGEMM tf32_hc_prenorm_gemm", 12.6, "mHC", "csa", 1, 1, ANY, MIXING),
    Peer("mHC projections, twice, batch 64", "DeepGEMM tf32_hc_prenorm_gemm", 12.8, "mHC", "csa", 64, 1, ANY, MIXING),
    Peer("router, batch 1", "cuBLAS bf16", 6.6, "router", "csa", 1, 1, ANY, "the choice of experts"),
]


def compare(steps):
    """Rows of the table: every peer's figure, with ours where a row of ours fits; nothing where none does."""
    rows = []
    for peer in PEERS:
        ours = peer.ours(steps)
        cells = ["", ""] if ours is None else [f"{ours:.1f}", f"{ours / peer.microseconds:.2f}"]
        rows.append([peer.work, peer.who, f"{peer.microseconds:g}", *cells, peer.note])
    return rows if any(row[3] for row in rows) else []
