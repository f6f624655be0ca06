#!/usr/bin/env python3
"""Draws rooflines of measured steps: each part of a step at its operations per byte and the rate it reached.

    tools/draw_roofline.py FILE.jsonl MACHINE decode|prefill >PICTURE.svg

tools/status.py draws them all into docs/. The slanted roof is the copy rate of the same run; the flat ones are tensor-core products of
8192³ measured once on a GPU of the same kind.
"""

import json
import math
import sys
from pathlib import Path

import svg

WIDTH, HEIGHT = 900, 560
LEFT, RIGHT, TOP, BOTTOM = 80, 30, 60, 60
LOW_X, HIGH_X = 0.1, 1e5  # operations per byte
LOW_Y, HIGH_Y = 1e-3, 3e3  # TFLOPS
FLAT_ROOFS = {"NVIDIA H200": [("bf16", 705.0), ("FP8", 1285.0)]}
COLORS = ["#3e7cb1", "#c0392b", "#2e8b57", "#8e44ad", "#d08700", "#455a64", "#b03a7a", "#00838f"]


def position(intensity, tflops):
    x = math.log(intensity / LOW_X) / math.log(HIGH_X / LOW_X)
    y = math.log(tflops / LOW_Y) / math.log(HIGH_Y / LOW_Y)
    return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)


def draw_grid():
    elements = []
    for exponent in range(-1, 6):
        x, bottom = position(10.0**exponent, LOW_Y)
        elements.append(svg.line(x, TOP, x, bottom, stroke="#e3e7eb", width=1))
        elements.append(svg.text(x, bottom + 18, f"{10.0**exponent:g}", size=11, fill=svg.MUTED, anchor="middle"))
    for exponent in range(-3, 4):
        left, y = position(LOW_X, 10.0**exponent)
        elements.append(svg.line(left, y, WIDTH - RIGHT, y, stroke="#e3e7eb", width=1))
        elements.append(svg.text(left - 8, y + 4, f"{10.0**exponent:g}", size=11, fill=svg.MUTED, anchor="end"))
    elements.append(svg.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, "operations per byte", size=12, anchor="middle"))
    elements.append(svg.text(12, TOP - 14, "TFLOPS", size=12))
    return elements


def draw_roofs(machine, bytes_per_second):
    """The roof under the copy rate up to the highest flat roof, and the flat roofs from where they meet it."""
    flat = [roof for name, roofs in FLAT_ROOFS.items() if name in machine for roof in roofs]
    top = max([tflops for _, tflops in flat], default=HIGH_Y)
    slope = 1e-12 * bytes_per_second  # TFLOPS per operation per byte
    begin = max(LOW_X, LOW_Y / slope)
    elements = [svg.path([position(begin, begin * slope), position(top / slope, top)], stroke=svg.INK, width=2)]
    x, y = position(begin, begin * slope)
    elements.append(svg.text(x + 12, y - 22, f"copy {1e-9 * bytes_per_second:.0f} GB/s", size=12))
    for name, tflops in flat:
        x, y = position(tflops / slope, tflops)
        elements.append(svg.line(x, y, WIDTH - RIGHT, y, stroke=svg.INK, width=2))
        elements.append(svg.text(WIDTH - RIGHT - 4, y - 6, f"{name} {tflops:g}", size=12, anchor="end"))
    return elements


def label(step):
    setup = step["setup"]
    if step["bench"] == "decode":
        return f"{setup['model']}, batch {setup['batch']}, context {setup['context']:,}"
    return f"{setup['model']}, {setup['tokens']:,} tokens in chunks of {setup['chunk']:,}, after {setup['context']:,}"


def points(step):
    """(part, operations per byte, TFLOPS) of the parts that have both."""
    for part in step["parts"]:
        if part["part"] != "other" and part["bytes"] > 0 and part["flop"] > 0 and part["us"] > 0:
            yield part["part"], part["flop"] / part["bytes"], 1e-6 * part["flop"] / part["us"]


def draw(machine, bench, steps):
    """A picture of steps of one kind on one machine."""
    elements = draw_grid() + draw_roofs(machine, 1e9 * max(step["figures"]["copy_gb_per_second"] for step in steps))
    for index, step in enumerate(steps):
        color = COLORS[index % len(COLORS)]
        elements.append(svg.rect(LEFT + 16, TOP + 8 + 20 * index, 10, 10, color, radius=5))
        elements.append(svg.text(LEFT + 32, TOP + 17 + 20 * index, label(step), size=12))
        for part, intensity, tflops in points(step):
            x, y = position(min(max(intensity, LOW_X), HIGH_X), min(max(tflops, LOW_Y), HIGH_Y))
            elements.append(svg.rect(round(x - 4, 1), round(y - 4, 1), 8, 8, color, radius=4))
            elements.append(svg.text(round(x + 7, 1), round(y + 4, 1), part, size=10, fill=color))
    return svg.document(WIDTH, HEIGHT, f"Roofline of {bench} on {machine}", elements)


def draw_all(steps):
    """(machine, bench, picture) of every machine and kind of step whose parts were timed."""
    groups = {}
    for step in steps:
        if any(True for _ in points(step)) and step["figures"].get("copy_gb_per_second"):
            groups.setdefault((step["machine"], step["bench"]), []).append(step)
    return [(machine, bench, draw(machine, bench, group)) for (machine, bench), group in sorted(groups.items())]


def main(arguments):
    if len(arguments) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    file, machine, bench = arguments
    lines = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line.get("bench") == bench and line["machine"] == machine]
    for _, _, picture in draw_all(steps):
        print(picture, end="")
        return 0
    print(f"{file}: no {bench} steps of {machine} with parts (dsv4 bench {bench} --ops --append)", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
