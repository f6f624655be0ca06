#!/usr/bin/env python3
"""Draws docs/architecture.svg: the rooms of the house with their one-way dependencies, and the path of a step through them.

  tools/draw_architecture.py            writes the picture
  tools/draw_architecture.py --check    exit status 1 if the committed picture is not this one
"""

import sys
from pathlib import Path

import svg

WIDTH, HEIGHT = 1080, 1110
PICTURE = Path(__file__).resolve().parent.parent / "docs/architecture.svg"

FILLS = {"entry": "#e8f0fb", "engine": "#fdf1dc", "maths": "#e7f5ea", "base": "#eef0f3"}
STROKES = {"entry": "#7ba0d6", "engine": "#d9a441", "maths": "#6bab7a", "base": "#9aa5b1"}

# room: (x, y, width, kind, what it holds)
ROOMS = {
    "capi": (40, 70, 220, "entry", "libdsv4: the C API"),
    "cli": (300, 70, 220, "entry", "commands of the binary"),
    "runtime": (40, 180, 480, "engine", "pages, sequences, batch, scheduler, engine"),
    "model": (200, 290, 190, "maths", "config, weights, forward"),
    "text": (420, 290, 100, "engine", "tokenizer, chat"),
    "backend": (40, 400, 190, "maths", "cpu: the ops; cuda: kernels"),
    "ops": (200, 510, 190, "maths", "op contracts, interface Backend"),
    "base": (40, 620, 480, "base", "errors, log, environment, dtypes"),
}
ROOM_HEIGHT = 56

OP_FILES = [
    ("src/ops/attention.h", "the contract: maths, shapes, dtypes"),
    ("src/backend/cpu/attention.cpp", "plain loops: the oracle"),
    ("src/backend/cuda/…/attention.cu", "the kernel"),
    ("tests/ops/attention.cpp", "against an independent formula"),
    ("tests/cuda/attention.cpp", "the kernel against the oracle"),
    ("bench/ops/attention.cpp", "speed, and its share of the ceiling"),
]

CUDA_FOLDERS = [
    ("ops.h", "a function per op, and per group of ops"),
    ("any/  sm90/", "kernels; sm90: tensor cores, clusters, TMA"),
    ("block/", "formats, weight tiles, cache entries, sums"),
    ("ptx/", "instructions: the only inline assembly"),
    ("tune/", "shape → launch configuration, host code"),
    ("runtime/", "launch, graphs, memory, loader, timing"),
]

# A step: what happens, and the room or op that does it.
STEP = [
    ("prompt → chat text → token ids", "text: chat encoding, tokenizer", "engine"),
    ("pick sequences, cut prefill chunks, assign pages", "runtime: scheduler, pages", "engine"),
    ("flat list of T tokens: id, position, slot", "ops/batch.h: BatchView", "engine"),
    ("streams[T, 4, hidden]", "embed", "maths"),
    ("collapse of the streams, norm", "mhc_pre, rms_norm, quantize", "maths"),
    ("query; window entry → ring", "linear_fp8, query_norm, kv_store", "maths"),
    ("compressed entries → pages (CSA, HCA)", "linear_fp32, compress", "maths"),
    ("which entries to read (CSA)", "indexer_query, index_scores, topk", "maths"),
    ("window + entries, sink, output projection", "attention, grouped_linear, linear_fp8", "maths"),
    ("back into the streams", "mhc_post", "maths"),
    ("experts, the same way in and out", "router, experts, shared_expert, combine", "maths"),
    ("rows that want logits", "gather_rows, mhc_head, rms_norm, linear_fp32", "maths"),
    ("one token per row", "sample", "maths"),
    ("token → bytes → text or tool calls", "text: streaming decoder, parser", "engine"),
]
FIRST_LAYER_ROW, LAST_LAYER_ROW = 4, 10


def draw_room(name):
    x, y, width, kind, holds = ROOMS[name]
    return [
        svg.rect(x, y, width, ROOM_HEIGHT, FILLS[kind], STROKES[kind]),
        svg.text(x + width / 2, y + 24, f"src/{name}", size=15, anchor="middle", weight="bold"),
        svg.text(x + width / 2, y + 43, holds, size=11.5, fill=svg.MUTED, anchor="middle"),
    ]


def arrow(*points):
    return svg.path(points, marker_end="url(#arrow)")


def draw_house():
    """Rooms and arrows; an arrow leads from the room that includes to the room that is included."""
    elements = [svg.text(40, 36, "The house: an arrow means “includes”", size=17, weight="bold")]
    elements += [element for name in ROOMS for element in draw_room(name)]
    elements += [
        arrow((150, 126), (150, 180)),
        arrow((410, 126), (410, 180)),
        arrow((295, 236), (295, 290)),
        arrow((470, 236), (470, 290)),
        arrow((120, 236), (120, 400)),
        arrow((330, 346), (330, 510)),
        arrow((215, 456), (215, 510)),
        arrow((295, 566), (295, 620)),
        arrow((470, 346), (470, 620)),
    ]
    elements += [
        svg.text(345, 400, "through the", size=11.5, fill=svg.MUTED),
        svg.text(345, 416, "interface Backend", size=11.5, fill=svg.MUTED),
        svg.text(345, 432, "alone: model never", size=11.5, fill=svg.MUTED),
        svg.text(345, 448, "includes backend", size=11.5, fill=svg.MUTED),
    ]
    elements.append(svg.rect(40, 706, 480, 171, "#ffffff", STROKES["base"]))
    elements.append(svg.text(58, 734, "One op, one stem, in every room", weight="bold"))
    for index, (path, what) in enumerate(OP_FILES):
        elements += [svg.text(58, 758 + 21 * index, path, size=12), svg.text(280, 758 + 21 * index, what, size=12, fill=svg.MUTED)]
    elements.append(svg.rect(40, 897, 480, 171, "#ffffff", STROKES["maths"]))
    elements.append(svg.text(58, 925, "Inside src/backend/cuda", weight="bold"))
    for index, (folder, what) in enumerate(CUDA_FOLDERS):
        elements += [svg.text(58, 949 + 21 * index, folder, size=12), svg.text(200, 949 + 21 * index, what, size=12, fill=svg.MUTED)]
    return elements


def draw_step():
    x, y, width, height, gap = 600, 70, 400, 44, 13
    elements = [svg.text(x, 36, "A step: what the data passes through", size=17, weight="bold")]
    for index, (what, who, kind) in enumerate(STEP):
        top = y + index * (height + gap)
        elements += [
            svg.rect(x, top, width, height, FILLS[kind], STROKES[kind]),
            svg.text(x + 14, top + 19, what, size=13, weight="bold"),
            svg.text(x + 14, top + 35, who, size=11.5, fill=svg.MUTED),
        ]
        if index + 1 < len(STEP):
            elements.append(arrow((x + width / 2, top + height), (x + width / 2, top + height + gap)))
    first = y + FIRST_LAYER_ROW * (height + gap)
    last = y + LAST_LAYER_ROW * (height + gap) + height
    edge = x + width + 24
    elements.append(arrow((x + width, last - 20), (edge, last - 20), (edge, first + 20), (x + width, first + 20)))
    label = svg.text(0, 0, "for every layer", size=12.5, anchor="middle")
    below = y + len(STEP) * (height + gap)
    elements += [
        svg.text(x, below + 26, "On a GPU a step of single tokens is one CUDA graph,", size=12.5),
        svg.text(x, below + 44, "from embedding to drawn token: boxes that follow each other", size=12.5),
        svg.text(x, below + 62, "share launches, nothing is uploaded, and the host waits", size=12.5),
        svg.text(x, below + 80, "for the drawn tokens only.", size=12.5),
    ]
    elements.append(svg.element("g", label, transform=f"translate({edge + 18:g} {(first + last) / 2:g}) rotate(90)"))
    return elements


def main(arguments):
    picture = svg.document(WIDTH, HEIGHT, "dsv4: rooms, dependencies and the path of a step", draw_house() + draw_step())
    if arguments == ["--check"]:
        if not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != picture:
            print("docs/architecture.svg: not up to date, run tools/draw_architecture.py", file=sys.stderr)
            return 1
        return 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
