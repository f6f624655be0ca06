#!/usr/bin/env python3
"""Makes docs/STATUS.md (and docs/speed.svg) from what was measured. Neither file is edited by hand.

  tools/status.py                  writes the files
  tools/status.py --check          exit status 1 if they are not what the results say
  tools/status.py record --machine NAME GATE VALUE [--command C] [--date YYYY-MM-DD] [--unit U] [--limit L --comparison >=|<=|==]
                                   appends one result and writes the files

bench/gates.jsonl        one gate a line: what must be measured, and its limit
bench/results/*.jsonl    one result a line, a file per machine: of a gate, or what `dsv4 bench decode|prefill --append` wrote; a later line
                         replaces an earlier one of the same gate or measurement and machine
"""

import argparse
import datetime
import json
import operator
import re
import sys
from pathlib import Path

import draw_roofline
import peers
import svg

RESULT_KEYS = ["machine", "date", "gate", "value", "unit", "limit", "comparison", "command", "pass"]
STEP_KEYS = ["bench", "machine", "date", "command", "setup", "figures", "ops", "parts"]
STEP_SETUP = {"decode": ["model", "layers", "batch", "context"], "prefill": ["model", "layers", "context", "tokens", "chunk"]}
STEP_FIGURES = {
    "decode": ["step_ms", "tokens_per_second", "floor_ms", "times_floor"],
    "prefill": ["ms", "tokens_per_second", "tflops", "full_tokens_per_second"],
}
GATE_KEYS = ["gate", "what", "unit", "limit", "comparison", "command"]
COMPARISONS = {">=": operator.ge, "<=": operator.le, "==": operator.eq}
SPEED_UNITS = ["tokens/s", "GB/s", "TFLOPS"]
STEPS_NOTE = [
    "`dsv4 bench decode` and `dsv4 bench prefill`. The floor is the time that the bytes of a step take at the rate of a copy measured in",
    "the same run: weights read once with the experts that so many tokens are expected to choose, and every cache ([gpu](gpu.md)).",
]


class StatusError(Exception):
    """A line of a data file that cannot be right; the text says which and why."""


def passes(value, limit, comparison):
    """True or False against the limit; None for a figure that has no limit."""
    return None if limit is None else COMPARISONS[comparison](value, limit)


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) != float("inf") and value == value


def check_limit(entry, where):
    if (entry["limit"] is None) != (entry["comparison"] is None):
        raise StatusError(f"{where}: limit and comparison go together")
    if entry["limit"] is not None and not (is_number(entry["limit"]) and entry["comparison"] in COMPARISONS):
        raise StatusError(f"{where}: expected a number as limit and one of {', '.join(COMPARISONS)} as comparison")


def check_result(result, gates, where):
    """Raises StatusError unless the result makes sense by itself and fits its gate's definition."""
    check_limit(result, where)
    if not is_number(result["value"]):
        raise StatusError(f"{where}: value {result['value']!r}, expected a number")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", str(result["date"])):
        raise StatusError(f"{where}: date {result['date']!r}, expected YYYY-MM-DD")
    if result["pass"] is not passes(result["value"], result["limit"], result["comparison"]):
        raise StatusError(f"{where}: pass {result['pass']} contradicts the value and the limit")
    gate = gates.get(result["gate"])
    if gate is not None and any(gate[key] != result[key] for key in ("unit", "limit", "comparison")):
        raise StatusError(f"{where}: unit or limit differ from bench/gates.jsonl, measure {result['gate']} again")


def check_step(step, where):
    """Raises StatusError unless this is a line that `dsv4 bench decode` or `prefill` writes."""
    bench = step["bench"]
    if bench not in STEP_SETUP:
        raise StatusError(f"{where}: bench {bench!r}, expected one of {', '.join(STEP_SETUP)}")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", str(step["date"])):
        raise StatusError(f"{where}: date {step['date']!r}, expected YYYY-MM-DD")
    for part, names in (("setup", STEP_SETUP[bench]), ("figures", STEP_FIGURES[bench])):
        missing = [name for name in names if name not in step[part]]
        if missing:
            raise StatusError(f"{where}: {part} has no {', '.join(missing)}")
    for name, value in step["figures"].items():
        if value is not None and not is_number(value):
            raise StatusError(f"{where}: {name}: {value!r}, expected a number")


def read_lines(path, *kinds):
    """The objects of a .jsonl file, each with exactly the keys of one of these kinds of lines."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise StatusError(f"{path}:{number}: {error}") from error
        if not isinstance(entry, dict) or list(entry) not in kinds:
            expected = " or ".join(", ".join(keys) for keys in kinds)
            raise StatusError(f"{path}:{number}: expected the keys {expected} in this order")
        if "limit" in entry:
            check_limit(entry, f"{path}:{number}")
        yield number, entry


def read_gates(root):
    """Gate name -> definition."""
    path = root / "bench/gates.jsonl"
    gates = {}
    for number, gate in read_lines(path, GATE_KEYS):
        if gate["gate"] in gates:
            raise StatusError(f"{path}:{number}: gate {gate['gate']} is defined twice")
        gates[gate["gate"]] = gate
    return gates


def read_results(root, gates):
    """The last result of every gate on every machine, sorted by gate and machine, and the last of every measurement of steps."""
    latest, steps = {}, {}
    for path in sorted((root / "bench/results").glob("*.jsonl")):
        for number, line in read_lines(path, RESULT_KEYS, STEP_KEYS):
            where = f"{path}:{number}"
            if "bench" in line:
                check_step(line, where)
                setup = tuple(line["setup"][key] for key in STEP_SETUP[line["bench"]])
                steps[line["bench"], line["machine"], *setup] = line
            else:
                latest[line["gate"], line["machine"]] = (line, where)
    for result, where in latest.values():  # earlier results may have had another limit
        check_result(result, gates, where)
    return [latest[key][0] for key in sorted(latest)], [steps[key] for key in sorted(steps)]


def cell(value):
    return str(value).replace("|", "\\|")


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]


def describe_number(number):
    """Counts in full, with separators; other numbers to ten digits."""
    return f"{number:,}" if isinstance(number, int) else f"{number:.10g}"


def describe_limit(entry):
    sign = {">=": "≥", "<=": "≤", "==": "="}[entry["comparison"]]
    return f"{sign} {describe_number(entry['limit'])} {entry['unit']}".rstrip()


def describe_value(result):
    return f"{describe_number(result['value'])} {result['unit']}".rstrip()


def figure_cell(value):
    return "" if value is None else describe_number(value)


def step_tables(steps):
    """Lines with a table of decode steps and one of prompts, where there are any."""
    heads = {
        "decode": ["model", "layers", "batch", "context", "ms a step", "tokens/s", "floor, ms", "× floor", "kernels"],
        "prefill": ["model", "layers", "after", "tokens", "chunk", "ms", "tokens/s", "TFLOPS", "tokens/s, all layers"],
    }
    lines = []
    for bench, head in heads.items():
        rows = []
        for step in steps:
            if step["bench"] == bench:
                figures = [step["figures"].get(key) for key in STEP_FIGURES[bench]]
                if bench == "decode":
                    figures.append(step["figures"].get("kernels"))
                setup = [describe_number(value) if is_number(value) else value for value in (step["setup"][k] for k in STEP_SETUP[bench])]
                rows.append([*setup, *map(figure_cell, figures), f"`{step['command']}`", step["machine"], step["date"]])
        if rows:
            lines += ["", f"### {bench.capitalize()}", ""] + table([*head, "command", "machine", "date"], rows)
    return ["", "## Steps", "", *STEPS_NOTE, *lines] if lines else []


def make_status(gates, results, steps=(), rooflines=()):
    """The text of docs/STATUS.md."""
    measured = {result["gate"] for result in results}
    rows = []
    for result in results:
        if result["limit"] is not None:
            state = "pass" if result["pass"] else "**fail**"
            measured_by = [f"`{result['command']}`", result["machine"], result["date"]]
            rows.append([result["gate"], describe_limit(result), describe_value(result), state, *measured_by])
    for name in gates.keys() - measured:
        rows.append([name, describe_limit(gates[name]), "", "not measured", f"`{gates[name]['command']}`", "", ""])
    rows.sort(key=lambda row: (row[0], row[5]))
    figures = [result for result in results if result["limit"] is None]
    states = [row[3] for row in rows]

    lines = ["# Status", "", "Made by `tools/status.py` from bench/gates.jsonl and bench/results/; not edited by hand.", ""]
    counts = [f"{states.count('pass')} pass", f"{states.count('**fail**')} fail", f"{states.count('not measured')} not measured"]
    lines += [f"{len(rows)} gates: {', '.join(counts)}.", ""]
    lines += table(["gate", "limit", "measured", "state", "command", "machine", "date"], rows)
    if gates:
        lines += ["", "## What the gates mean", ""] + table(["gate", "meaning"], [[name, gates[name]["what"]] for name in sorted(gates)])
    if figures:
        figure_rows = [[r["gate"], describe_value(r), f"`{r['command']}`", r["machine"], r["date"]] for r in figures]
        lines += ["", "## Figures without a limit", ""] + table(["figure", "measured", "command", "machine", "date"], figure_rows)
    lines += step_tables(steps)
    if compared := peers.compare(steps):
        lines += ["", "## Beside others", "", *peers.NOTE, ""] + table(peers.HEAD, compared)
    if rooflines:
        lines += ["", "## Rooflines", ""] + [f"![{title}]({name})" for name, title in rooflines]
    if speed_results(results):
        lines += ["", "## Speed", "", "![Measured speed](speed.svg)"]
    return "\n".join(lines) + "\n"


def speed_results(results):
    return [result for result in results if result["unit"] in SPEED_UNITS]


def make_speed_plot(results):
    """Bars of the measured rates, one group per unit on its own scale; a tick marks a limit. None without such results."""
    width, label_width, row_height = 900, 400, 26
    elements = []
    y = 20
    for unit in SPEED_UNITS:
        group = [result for result in results if result["unit"] == unit]
        if not group:
            continue
        elements.append(svg.text(16, y + 14, unit, size=15, weight="bold"))
        y += 28
        largest = max([result["value"] for result in group] + [result["limit"] or 0 for result in group] + [1e-12])
        scale = (width - label_width - 120) / largest
        for result in group:
            elements.append(svg.text(label_width - 10, y + 15, f"{result['gate']}, {result['machine']}", size=12, anchor="end"))
            elements.append(svg.rect(label_width, y + 2, max(result["value"] * scale, 1), row_height - 8, "#3e7cb1", radius=2))
            elements.append(svg.text(label_width + result["value"] * scale + 8, y + 15, f"{result['value']:.4g}", size=12))
            if result["limit"] is not None:
                x = label_width + result["limit"] * scale
                elements.append(svg.line(x, y, x, y + row_height - 4, stroke="#c0392b", width=2))
            y += row_height
        y += 14
    return svg.document(width, y, "Measured speed", elements) if elements else None


def generate(root):
    """Path -> text of every generated file; None where the file should not exist."""
    gates = read_gates(root)
    results, steps = read_results(root, gates)
    files = {path: None for path in (root / "docs").glob("roofline_*.svg")}
    rooflines = []
    for machine, bench, picture in draw_roofline.draw_all(steps):
        name = f"roofline_{file_stem(machine)}_{bench}.svg"
        rooflines.append((name, f"Roofline of {bench} on {machine}"))
        files[root / "docs" / name] = picture
    files[root / "docs/STATUS.md"] = make_status(gates, results, steps, rooflines)
    files[root / "docs/speed.svg"] = make_speed_plot(speed_results(results))
    return files


def write(root):
    for path, content in generate(root).items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, encoding="utf-8")


def check(root):
    """The generated files that are not up to date."""
    stale = []
    for path, content in generate(root).items():
        present = path.read_text(encoding="utf-8") if path.exists() else None
        if present != content:
            stale.append(path.relative_to(root).as_posix())
    return stale


def file_stem(machine):
    """"nvidia_h200" for "NVIDIA H200"; empty for a name without letters and digits."""
    return re.sub(r"[^a-z0-9]+", "_", machine.lower()).strip("_")


def record(root, options):
    """Appends a result; what the options leave out comes from the gate's definition."""
    gates = read_gates(root)
    gate = gates.get(options.gate, {})
    entry = {
        "machine": options.machine,
        "date": options.date or datetime.date.today().isoformat(),
        "gate": options.gate,
        "value": options.value,
        "unit": options.unit if options.unit is not None else gate.get("unit"),
        "limit": options.limit if options.limit is not None else gate.get("limit"),
        "comparison": options.comparison or gate.get("comparison"),
        "command": options.command or gate.get("command"),
    }
    for key in ("unit", "command"):
        if entry[key] is None:
            raise StatusError(f"gate {options.gate} is not in bench/gates.jsonl: give --{key}")
    check_limit(entry, "record")
    entry["pass"] = passes(entry["value"], entry["limit"], entry["comparison"])
    check_result(entry, gates, "record")
    stem = file_stem(options.machine)
    if not stem:
        raise StatusError(f"machine {options.machine!r}, expected a name with letters or digits")
    folder = root / "bench/results"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{stem}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def number(text):
    """An integer stays one, so that counts are written without a point."""
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text)


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description="Makes docs/STATUS.md from bench/gates.jsonl and bench/results.")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the checkout")
    parser.add_argument("--check", action="store_true", help="only say whether the files are up to date")
    recorder = parser.add_subparsers(dest="action").add_parser("record", help="append a result")
    recorder.add_argument("gate")
    recorder.add_argument("value", type=number)
    recorder.add_argument("--machine", required=True, help='e.g. "NVIDIA H200" or "2 cores of Xeon 8481C"')
    recorder.add_argument("--command", help="what was run; default: the gate's")
    recorder.add_argument("--date", help="YYYY-MM-DD; default: today")
    recorder.add_argument("--unit")
    recorder.add_argument("--limit", type=number)
    recorder.add_argument("--comparison", choices=list(COMPARISONS))
    return parser.parse_args(arguments)


def main(arguments):
    options = parse_arguments(arguments)
    try:
        if options.check:
            stale = check(options.root)
            for path in stale:
                print(f"{path}: not up to date, run tools/status.py", file=sys.stderr)
            return 1 if stale else 0
        if options.action == "record":
            record(options.root, options)
        write(options.root)
    except (StatusError, OSError) as error:
        print(f"status: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
