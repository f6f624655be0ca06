#!/usr/bin/env python3
"""Checks dsv4_attention of libdsv4 on a GPU against its formula in fp64 on the same cache bytes, over random steps.

Usage: tools/check_attention.py [--library FILE] [--steps N] [--seed N] [--verbose]

Needs NumPy, a driver and a library built with CUDA (default: what build/cuda/lib has). Each step draws heads, head_dim, window, ratio,
list or none, counts, padding, sequences of one to twelve rows; cache bytes that no row attends to are 0xff, NaN in every format. The
kernel runs with every output format. Limits: cosine of every row and head at least 0.999998 in fp32 and 0.99999 in bf16, its length within
0.1 % and 0.5 %, LSE within 1e-5 (of 1 or its magnitude); FP8 and FP4 must be the bf16 result quantised, byte for byte. Exit status 1 over
a limit, 77 without a GPU or NumPy.
"""

import argparse
import ctypes
import sys
from pathlib import Path
from typing import NamedTuple

try:
    import numpy as np
except ImportError:
    if __name__ != "__main__":
        raise
    print("check_attention: NumPy is not installed", file=sys.stderr)
    sys.exit(77)  # as SKIPPED below

ROOT = Path(__file__).resolve().parent.parent
ROPE_DIM = 64
KV_BLOCK = 64
PAGE_POSITIONS = 256
POISON = 0xFF
SKIPPED = 77

MIN_COSINE = {"fp32": 0.999998, "bf16": 0.99999}
MAX_LENGTH_ERROR = {"fp32": 1e-3, "bf16": 5e-3}  # two roundings to bf16 may take 2^-8 of a number alone
MAX_LSE_ERROR = 1e-5


# ---- Formats


def float_table(exponent_bits, mantissa_bits, bias):
    """Values of the codes without a sign, in ascending order."""
    codes = np.arange(1 << (exponent_bits + mantissa_bits))
    exponent, mantissa = codes >> mantissa_bits, (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    return np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent.astype(float) - bias))


E4M3 = float_table(4, 3, 7)[:127]  # 127 is NaN
E2M1 = float_table(2, 1, 1)


def sign_bit(table):
    return 128 if len(table) == len(E4M3) else 8


def decode(codes, table):
    """Values of sign-magnitude codes; a magnitude beyond the table is NaN."""
    values = np.append(table, np.nan)
    codes = np.asarray(codes, dtype=np.int64)
    return np.where(codes & sign_bit(table), -1.0, 1.0) * values[codes & (sign_bit(table) - 1)]


def encode(values, table):
    """Nearest codes, ties to the even one, saturating; −0 keeps its sign."""
    magnitudes = np.abs(values)
    middles = (table[:-1] + table[1:]) / 2
    codes = np.searchsorted(middles, magnitudes, side="left")  # a tie stays below
    is_tie = magnitudes == middles[np.minimum(codes, len(middles) - 1)]
    codes = np.where(is_tie & (codes < len(middles)) & (codes % 2 == 1), codes + 1, codes)
    return (codes | np.where(np.signbit(values), sign_bit(table), 0)).astype(np.uint8)


def quantize(x, block, table, floor):
    """Codes and ue8m0 scales of blocks along the last dim: scale 2^⌈log2(max(amax, floor) / largest)⌉."""
    blocks = x.reshape(*x.shape[:-1], -1, block)
    amax = np.maximum(np.abs(blocks).max(axis=-1), floor)
    mantissa, exponent = np.frexp(amax / table[-1])
    exponent = np.where(mantissa == 0.5, exponent - 1, exponent)
    codes = encode(blocks / 2.0 ** exponent[..., None].astype(float), table)
    return codes.reshape(x.shape), (exponent + 127).astype(np.uint8)


def quantize_fp8(x, block):
    return quantize(x, block, E4M3, 1e-4)


def quantize_fp4(x):
    """Pairs of codes, even dim in the low nibble, and scales."""
    codes, scales = quantize(x, 32, E2M1, 6.0 * 2.0**-126)
    return codes[..., 0::2] | codes[..., 1::2] << 4, scales


def to_bf16(values):
    """bf16 bits, rounded to nearest even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


# ---- Caches


class EntryLayout(NamedTuple):
    """Where the parts of an entry stand (include/dsv4/kernels.h, "Caches")."""

    head_dim: int

    @property
    def nope_dim(self):
        return self.head_dim - ROPE_DIM

    @property
    def value_bytes(self):
        return self.nope_dim + 2 * ROPE_DIM

    @property
    def scale_bytes(self):
        return -(-self.nope_dim // KV_BLOCK // 4) * 4

    def page_bytes(self, num_entries):
        return -(-num_entries * (self.value_bytes + self.scale_bytes) // self.value_bytes) * self.value_bytes


class Cache:
    """Pages of entries as bytes; what was not stored is poison."""

    def __init__(self, head_dim, num_pages, entries_per_page):
        self.layout = EntryLayout(head_dim)
        self.entries_per_page = entries_per_page
        self.bytes = np.full((num_pages, self.layout.page_bytes(entries_per_page)), POISON, dtype=np.uint8)

    def _parts(self):
        layout, count = self.layout, self.entries_per_page
        values = self.bytes[:, : count * layout.value_bytes].reshape(len(self.bytes), count, layout.value_bytes)
        end = count * (layout.value_bytes + layout.scale_bytes)
        scales = self.bytes[:, count * layout.value_bytes : end].reshape(len(self.bytes), count, layout.scale_bytes)
        return values, scales

    def store(self, pages, entries, x):
        """Quantises x [n, head_dim] into entries of pages, arrays of n indices."""
        layout = self.layout
        values, scales = self._parts()
        packed = np.zeros((len(x), layout.scale_bytes), dtype=np.uint8)
        if layout.nope_dim > 0:
            codes, packed[:, : layout.nope_dim // KV_BLOCK] = quantize_fp8(x[:, : layout.nope_dim], KV_BLOCK)
            values[pages, entries, : layout.nope_dim] = codes
        values[pages, entries, layout.nope_dim :] = to_bf16(x[:, layout.nope_dim :]).view(np.uint8)
        scales[pages, entries] = packed

    def load(self, pages, entries):
        """Entries as fp64 [n, head_dim]."""
        layout = self.layout
        values, scales = self._parts()
        values, scales = values[pages, entries], scales[pages, entries, : layout.nope_dim // KV_BLOCK]
        nope = decode(values[:, : layout.nope_dim], E4M3) * np.repeat(2.0 ** (scales.astype(float) - 127), KV_BLOCK, axis=1)
        return np.concatenate([nope, from_bf16(np.ascontiguousarray(values[:, layout.nope_dim :]).view(np.uint16))], axis=1)


# ---- Formula


def rotate_back(o, position, freqs):
    """The last ROPE_DIM values of o [num_heads, head_dim] turned back by the angles of a position, which are fp32 products."""
    angles = (np.float32(position) * freqs.astype(np.float32)).astype(np.float64)
    cos, sin = np.cos(angles), np.sin(angles)
    a, b = o[:, -ROPE_DIM::2].copy(), o[:, -ROPE_DIM + 1 :: 2].copy()
    o = o.copy()
    o[:, -ROPE_DIM::2] = a * cos + b * sin
    o[:, -ROPE_DIM + 1 :: 2] = b * cos - a * sin
    return o


def attend(q, keys, sink, scale):
    """Output [num_heads, head_dim] before its rotation and LSE [num_heads] of one row; keys [n, head_dim]."""
    if len(keys) == 0:
        return np.zeros_like(q), sink.copy()
    logits = q @ keys.T * scale
    top = np.maximum(logits.max(axis=1), sink)
    weights = np.exp(logits - top[:, None])
    denominator = weights.sum(axis=1) + np.exp(sink - top)
    return weights @ keys / denominator[:, None], top + np.log(denominator)


# ---- Steps


class Step:
    """A random step: the arrays of the call, and the caches."""

    def __init__(self, rng):
        self.head_dim = int(rng.choice([64, 128, 256, 512], p=[0.1, 0.15, 0.15, 0.6]))
        self.num_heads = int(rng.choice([8, 16, 32, 64, 128])) if rng.random() < 0.7 else int(rng.integers(1, 129))
        self.window = 128 if rng.random() < 0.7 else int(rng.integers(1, 129))
        self.mode = str(rng.choice(["window", "list", "all"], p=[0.2, 0.5, 0.3]))
        self.ratio = 0 if self.mode == "window" else int(rng.choice([4, 128]))
        self.num_selected = int(rng.integers(1, 1025)) if self.mode == "list" else 0
        self._draw_rows(rng)
        self.ring_size = self.window - 1 + int(self.lengths.max()) + int(rng.integers(0, 30))
        self.entries_per_page = PAGE_POSITIONS // self.ratio if self.ratio else 1
        shape = (len(self.positions), self.num_heads, self.head_dim)
        self.q = to_bf16(rng.standard_normal(shape) * rng.choice([0.3, 1.0, 3.0]))
        self.sink = (rng.standard_normal(self.num_heads) * rng.choice([1.0, 10.0])).astype(np.float32)
        self.sink[rng.random(self.num_heads) < 0.05] = -np.inf  # no sink
        self.freqs = (10000.0 ** (-np.arange(0, ROPE_DIM, 2) / ROPE_DIM)).astype(np.float32)
        self.scale = np.float32(self.head_dim**-0.5)
        self._draw_lists(rng)
        self._fill_caches(rng)

    def _draw_rows(self, rng):
        """Sequences of one row, a few, or more than the kernel splits over CTAs; one in five steps has a padding row too."""
        num_seqs = int(rng.integers(1, 6))
        longest = int(rng.choice([1, 4, 12]))
        self.lengths = rng.integers(1, longest + 1, num_seqs)
        limit = 20000 if self.num_heads * self.head_dim <= 32768 else 6000
        starts = np.where(rng.random(num_seqs) < 0.2, 0, rng.integers(0, limit, num_seqs))
        self.slots = rng.permutation(num_seqs + 2)[:num_seqs].astype(np.int32)
        self.positions = np.concatenate([np.arange(start, start + length) for start, length in zip(starts, self.lengths)]).astype(np.int32)
        if rng.random() < 0.2:
            self.lengths = np.append(self.lengths, 1)
            self.slots = np.append(self.slots, -1).astype(np.int32)
            self.positions = np.append(self.positions, -1).astype(np.int32)
        self.seq_idx = np.repeat(np.arange(len(self.lengths)), self.lengths).astype(np.int32)
        self.row_begin = np.append(0, np.cumsum(self.lengths)).astype(np.int32)
        self.knows_lengths = bool(rng.random() < 0.5)

    def num_visible(self, row):
        return (int(self.positions[row]) + 1) // self.ratio if self.ratio else 0

    def _draw_lists(self, rng):
        """Lists with holes and repeats, some of them empty; counts in a third of the steps."""
        rows = len(self.positions)
        self.selected = np.full((rows, self.num_selected), -1, dtype=np.int32)
        for row in range(rows):
            places = min(self.num_visible(row), self.num_selected)
            if places == 0 or rng.random() < 0.1:
                continue
            chosen = rng.integers(0, self.num_visible(row), places)
            self.selected[row, :places] = np.where(rng.random(places) < 0.1, -1, chosen)
        self.key_counts = None
        if rng.random() < 0.33:
            largest = np.array([self.window, max(self.num_selected, int(self.positions.max()) // 4, 1)])
            self.key_counts = (rng.random((rows, 2)) * 1.3 * largest).astype(np.int32)
            self.key_counts[rng.random((rows, 2)) < 0.2] = 0

    def keys_of(self, row):
        """(window positions, entries) that the row attends to."""
        position = int(self.positions[row])
        window = np.arange(max(0, position - self.window + 1), position + 1)
        entries = self.selected[row] if self.mode == "list" else np.arange(self.num_visible(row))
        if self.key_counts is not None:
            last, first = self.key_counts[row]
            window, entries = window[max(0, len(window) - last) :], entries[:first]
        return window, entries[entries >= 0]

    def _places(self, row):
        """The same as (pages, entries) of the ring and of the compressed entries."""
        window, entries = self.keys_of(row)
        seq = self.seq_idx[row]
        pages = self.page_table[seq, entries // self.entries_per_page]
        return (np.full(len(window), self.slots[seq]), window % self.ring_size), (pages, entries % self.entries_per_page)

    def _fill_caches(self, rng):
        num_seqs = len(self.slots)
        pages_per_seq = max(int(self.positions.max()), 0) // PAGE_POSITIONS + 1
        num_pages = num_seqs * pages_per_seq + 3
        self.page_table = rng.permutation(num_pages)[: num_seqs * pages_per_seq].reshape(num_seqs, -1).astype(np.int32)
        self.page_table[self.slots < 0] = -1
        self.ring = Cache(self.head_dim, int(self.slots.max()) + 1, self.ring_size)
        self.entries = Cache(self.head_dim, num_pages, self.entries_per_page) if self.ratio else None
        for cache, part in ((self.ring, 0), (self.entries, 1)):
            rows = [row for row in range(len(self.positions)) if self.positions[row] >= 0]
            if cache is None:
                continue
            places = np.unique(np.concatenate([np.stack(self._places(row)[part], axis=1) for row in rows]), axis=0)
            if len(places) == 0:
                continue
            spread = 2.0 ** rng.integers(-3, 2, (len(places), 1))
            x = rng.standard_normal((len(places), self.head_dim)) * spread
            cache.store(places[:, 0], places[:, 1], from_bf16(to_bf16(x)))

    def expected(self, row):
        """Output and LSE of a row by the formula."""
        q = from_bf16(self.q[row])
        if self.positions[row] < 0:
            return np.zeros_like(q), np.full(self.num_heads, -np.inf)
        ring, entries = self._places(row)
        keys = self.ring.load(*ring)
        if self.entries is not None:
            keys = np.concatenate([keys, self.entries.load(*entries)])
        o, lse = attend(q, keys, self.sink.astype(np.float64), float(self.scale))
        return rotate_back(o, int(self.positions[row]), self.freqs), lse

    def __str__(self):
        lengths = "+".join(str(length) for length in self.lengths)
        counts = ", counts" if self.key_counts is not None else ""
        return (f"{self.num_heads} heads of {self.head_dim}, window {self.window}, {self.mode} (ratio {self.ratio}, {self.num_selected} "
                f"selected{counts}), rows {lengths}")


# ---- The library and the device


class Batch(ctypes.Structure):
    """dsv4_batch"""

    _fields_ = [("struct_size", ctypes.c_size_t)] + [
        (name, ctypes.c_void_p) for name in ("positions", "seq_idx", "row_begin", "slots", "page_table")
    ] + [(name, ctypes.c_int32) for name in ("page_table_stride", "num_tokens", "num_seqs", "max_new_tokens")]


class AttentionArgs(ctypes.Structure):
    """dsv4_attention_args"""

    _fields_ = [("struct_size", ctypes.c_size_t), ("batch", ctypes.POINTER(Batch))] + [
        (name, ctypes.c_void_p)
        for name in ("q", "ring", "entries", "selected", "key_counts", "sink", "freqs", "out", "out_scales", "lse", "workspace")
    ] + [("workspace_bytes", ctypes.c_size_t)] + [
        (name, ctypes.c_int32)
        for name in ("num_heads", "head_dim", "window", "ring_size", "entries_per_page", "ratio", "num_selected", "output")
    ] + [("softmax_scale", ctypes.c_float)]


OUTPUTS = {"bf16": 0, "fp32": 1, "fp8": 2, "fp4": 3}


class NoGpu(Exception):
    """There is no driver or no device."""


class Device:
    """Memory of the first GPU through the driver; the library's CUDA runtime uses the same (primary) context."""

    def __init__(self):
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise NoGpu(str(error)) from error
        device, context, count = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
        if self._driver.cuInit(0) != 0 or self._driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
            raise NoGpu("the driver finds no device")
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        name = ctypes.create_string_buffer(128)
        self._call("cuDeviceGetName", name, len(name), device)
        self.name = name.value.decode()

    def _call(self, function, *arguments):
        status = getattr(self._driver, function)(*arguments)
        if status != 0:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            raise RuntimeError(f"{function}: {(text.value or b'?').decode()}")

    def allocate(self, num_bytes):
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(num_bytes, 16)))
        return pointer.value

    def free(self, pointer):
        self._call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def upload(self, pointer, array):
        array = np.ascontiguousarray(array)
        if array.nbytes > 0:
            self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(pointer), ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))

    def download(self, pointer, array):
        self._call("cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(pointer), ctypes.c_size_t(array.nbytes))
        return array


def load_library(path):
    library = ctypes.CDLL(str(path))
    library.dsv4_attention.argtypes = [ctypes.POINTER(AttentionArgs), ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    library.dsv4_attention_workspace_bytes.argtypes = [ctypes.POINTER(AttentionArgs)]
    library.dsv4_attention_workspace_bytes.restype = ctypes.c_size_t
    return library


class DeviceStep:
    """A step in device memory."""

    def __init__(self, library, device, step):
        self.library, self.device, self.step = library, device, step
        self._memory = []
        put = self._put
        batch = self._batch = Batch(struct_size=ctypes.sizeof(Batch), num_tokens=len(step.positions), num_seqs=len(step.slots))
        for name in ("positions", "seq_idx", "row_begin", "slots", "page_table"):
            setattr(batch, name, put(getattr(step, name)))
        batch.page_table_stride = step.page_table.shape[1]
        if step.knows_lengths:
            batch.max_new_tokens = int(step.lengths.max())
        args = self._args = AttentionArgs(struct_size=ctypes.sizeof(AttentionArgs), batch=ctypes.pointer(batch))
        args.q, args.ring, args.sink, args.freqs = put(step.q), put(step.ring.bytes), put(step.sink), put(step.freqs)
        if step.entries is not None:
            args.entries, args.entries_per_page, args.ratio = put(step.entries.bytes), step.entries_per_page, step.ratio
        if step.num_selected > 0:
            args.selected, args.num_selected = put(step.selected), step.num_selected
        if step.key_counts is not None:
            args.key_counts = put(step.key_counts)
        args.num_heads, args.head_dim, args.window, args.ring_size = step.num_heads, step.head_dim, step.window, step.ring_size
        args.softmax_scale = float(step.scale)
        args.workspace_bytes = library.dsv4_attention_workspace_bytes(ctypes.byref(args))
        if args.workspace_bytes > 0:
            args.workspace = self._allocate(args.workspace_bytes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pointer in self._memory:
            self.device.free(pointer)

    def _allocate(self, num_bytes):
        self._memory.append(self.device.allocate(num_bytes))
        return self._memory[-1]

    def _put(self, array):
        pointer = self._allocate(array.nbytes)
        self.device.upload(pointer, array)
        return pointer

    def run(self, output):
        """(values, scales or None, LSE) of one output format, as bytes and fp32."""
        rows, heads, dim = self.step.q.shape
        values = np.full((rows, heads, {"bf16": 2 * dim, "fp32": 4 * dim, "fp8": dim, "fp4": dim // 2}[output]), POISON, dtype=np.uint8)
        num_scales = {"fp8": -(-dim // 128), "fp4": dim // 32}.get(output, 0)
        scales = np.full((rows, heads, num_scales), POISON, dtype=np.uint8)
        lse = np.full((rows, heads), np.nan, dtype=np.float32)
        args = self._args
        args.output, args.out, args.lse = OUTPUTS[output], self._put(values), self._put(lse)
        args.out_scales = self._put(scales) if num_scales else None
        message = ctypes.create_string_buffer(512)
        if self.library.dsv4_attention(ctypes.byref(args), None, message, len(message)) != 0:
            raise RuntimeError(message.value.decode())
        self.device.download(args.out, values)
        self.device.download(args.lse, lse)
        if num_scales:
            self.device.download(args.out_scales, scales)
        return values, scales if num_scales else None, lse


# ---- Comparison


class Worst:
    """The worst figures so far, where they were, and what was over a limit."""

    def __init__(self):
        self.cosine = {name: (np.inf, "nowhere") for name in MIN_COSINE}
        self.lse = (0.0, "nowhere")
        self.failures = []

    def add_rows(self, name, actual, expected, where):
        """Compares [rows, heads, dim]; rows of zeros must be zeros."""
        dot = (actual * expected).sum(axis=-1)
        norm, expected_norm = np.linalg.norm(actual, axis=-1), np.linalg.norm(expected, axis=-1)
        is_zero = expected_norm == 0
        if not (norm[is_zero] == 0).all():
            self.failures.append(f"{where}: {name}: a row without keys, or of padding, is not zero")
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = np.where(is_zero, np.inf, dot / (norm * expected_norm))
            length_error = np.where(is_zero, 0.0, np.abs(norm / expected_norm - 1.0))
        cosine = np.where(np.isnan(cosine), -np.inf, cosine)
        place = np.unravel_index(np.argmin(cosine), cosine.shape)
        if cosine[place] < self.cosine[name][0]:
            self.cosine[name] = (float(cosine[place]), f"{where}, row {place[0]}, head {place[1]}")
        if cosine[place] < MIN_COSINE[name]:
            self.failures.append(f"{where}: {name}: cosine {cosine[place]:.9f} in row {place[0]}, head {place[1]}")
        if not (length_error <= MAX_LENGTH_ERROR[name]).all():
            self.failures.append(f"{where}: {name}: length off by {np.nanmax(length_error):.2e}")

    def add_lse(self, actual, expected, where):
        is_padding = np.isneginf(expected)
        if not np.isneginf(actual[is_padding]).all():
            self.failures.append(f"{where}: LSE of a padding row is not −inf")
        difference = np.where(is_padding, 0.0, np.abs(actual - np.where(is_padding, 0.0, expected)))
        error = np.where(is_padding, 0.0, difference / np.maximum(1.0, np.abs(np.where(is_padding, 0.0, expected))))
        error = np.where(np.isnan(error), np.inf, error)
        place = np.unravel_index(np.argmax(error), error.shape)
        if error[place] > self.lse[0]:
            self.lse = (float(error[place]), f"{where}, row {place[0]}, head {place[1]}")
        if error[place] > MAX_LSE_ERROR:
            self.failures.append(f"{where}: LSE off by {error[place]:.2e} in row {place[0]}, head {place[1]}")

    def add_codes(self, name, values, scales, bf16, is_padding, where):
        """Codes and scales against the bf16 result, quantised here; zeros in padding rows."""
        expected = quantize_fp4(bf16) if name == "fp4" else quantize_fp8(bf16, min(128, bf16.shape[-1]))
        for kind, actual, wanted in zip(("codes", "scales"), (values, scales), expected):
            wanted = np.where(is_padding[:, None, None], 0, wanted)
            different = int((actual != wanted).sum())
            if different > 0:
                self.failures.append(f"{where}: {name}: {different} of {actual.size} {kind} are not those of the bf16 result")


def check_step(library, device, step, where, worst):
    expected = [step.expected(row) for row in range(len(step.positions))]
    expected_out, expected_lse = np.stack([out for out, _ in expected]), np.stack([lse for _, lse in expected])
    is_padding = step.positions < 0
    with DeviceStep(library, device, step) as on_device:
        first_lse = None
        for output in OUTPUTS:
            values, scales, lse = on_device.run(output)
            if first_lse is None:
                first_lse = lse
                worst.add_lse(lse.astype(np.float64), expected_lse, where)
            elif lse.tobytes() != first_lse.tobytes():
                worst.failures.append(f"{where}: {output}: the LSE depends on the output's format")
            if output == "fp32":
                worst.add_rows(output, values.view(np.float32).astype(np.float64), expected_out, where)
            elif output == "bf16":
                bf16 = from_bf16(values.view(np.uint16))
                worst.add_rows(output, bf16, expected_out, where)
            else:
                worst.add_codes(output, values, scales, bf16, is_padding, where)


def default_library():
    for name in ("libdsv4.so", "libdsv4_kernels.so"):
        if (path := ROOT / "build" / "cuda" / "lib" / name).exists():
            return path
    return ROOT / "build" / "cuda" / "lib" / "libdsv4.so"


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--library", type=Path, default=default_library())
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="a line for every step")
    options = parser.parse_args(arguments)
    try:
        device = Device()
    except NoGpu as error:
        print(f"check_attention: no GPU: {error}", file=sys.stderr)
        return SKIPPED
    library = load_library(options.library)
    worst = Worst()
    for index in range(options.steps):
        step = Step(np.random.default_rng([options.seed, index]))
        where = f"step {index}: {step}"
        if options.verbose:
            print(where, flush=True)
        check_step(library, device, step, where, worst)
    for failure in worst.failures:
        print(failure)
    print(f"{options.steps} random steps on {device.name}, seed {options.seed}")
    for name, (cosine, where) in worst.cosine.items():
        print(f"{name}: worst cosine {cosine:.9f} (limit {MIN_COSINE[name]}): {where}")
    print(f"LSE: worst error {worst.lse[0]:.2e} (limit {MAX_LSE_ERROR:.0e}): {worst.lse[1]}")
    print(f"{len(worst.failures)} failures")
    return 1 if worst.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
