#!/usr/bin/env python3
"""Measures the gates of bench/gates.jsonl that a command can tell, appends them to bench/results, and renews docs/STATUS.md.

    tools/measure_gates.py --machine "2 cores of AMD EPYC" [GROUP…]

Groups: golden inspect tiny text tests fuzz; default: all but fuzz. Build preset cpu first (fuzz: preset fuzz). Nothing is recorded when a
command fails to give its figure; a gate that is missed is recorded as missed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import status  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / "build/cpu/bin/dsv4"
TINY = ROOT / "models/tiny"
FUZZ_SECONDS = 600


def run(*command, cwd=ROOT, check=True):
    """Standard output of a command; a failure ends the program with what the command said."""
    result = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    if check and result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit status {result.returncode}\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result.stdout


def dsv4(*arguments):
    return json.loads(run(BINARY, *arguments, "--json"))


def golden_folders():
    """(name, folder) of every golden checkpoint: those beside the checkout, else the tests' own."""
    shared = sorted((ROOT / "../shared/goldens").glob("*/golden.safetensors"))
    return [(path.parent.name, path.parent) for path in shared or [ROOT / "tests/data/mini/golden.safetensors"]]


def measure_golden():
    for name, folder in golden_folders():
        # The exit status says pass or fail; the figures are wanted in both cases.
        output = run(BINARY, "verify", "--model", folder, "--golden", folder / "golden.safetensors", "--json", check=False)
        report = json.loads(output)
        yield f"golden.{name}.pass", int(report["pass"])
        yield f"golden.{name}.prefill_median", round(report["prefill"]["median"], 6)
        yield f"golden.{name}.layer_median", round(min(layer["median"] for layer in report["layers"]), 7)
        overlaps = [layer["topk_overlap"] for layer in report["layers"] if layer["topk_overlap"] is not None]
        yield f"golden.{name}.topk_overlap", round(min(overlaps), 4)
        strict = [layer["topk_overlap_strict"] for layer in report["layers"] if layer["topk_overlap_strict"] is not None]
        yield f"golden.{name}.topk_overlap_strict", round(min(strict), 4)


def measure_inspect():
    for name in ("flash", "pro"):
        report = dsv4("inspect", "--config", ROOT / f"models/configs/{name}.json")
        yield f"inspect.{name}.bytes", report["total_bytes"]
        yield f"inspect.{name}.tensors", report["num_tensors"]


def measure_tiny():
    yield "tiny.folder_bytes", sum(path.stat().st_size for path in TINY.iterdir())
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    yield "tiny.context", config["max_position_embeddings"]

    short = dsv4("bench", "--prompt-tokens", 1000, "--decode-tokens", 200)
    yield "tiny.prefill_tokens_per_second", round(short["rows"][0]["prefill_tokens_per_second"])
    yield "tiny.decode_tokens_per_second", round(short["rows"][0]["decode_tokens_per_second"])
    generated = dsv4("generate", "--prompt", "And it came to pass", "-n", 20, "--seed", 1)
    yield "tiny.first_token_seconds", round(generated["timings"]["first_token_seconds"], 3)

    # The last 1000 tokens of a 32,768-token prompt against the first 1000.
    long = dsv4("bench", "--context", "0,31768", "--prompt-tokens", 1000, "--decode-tokens", 1)
    first, last = (row["prefill_tokens_per_second"] for row in long["rows"])
    yield "tiny.long_prompt_slowdown", round(first / last, 2)
    file_bytes = (TINY / "model.safetensors").stat().st_size
    yield "tiny.resident_over_file_mb", round((long["peak_resident_bytes"] - file_bytes) / 1e6, 1)

    perplexity = dsv4("perplexity")
    reference = json.loads((TINY / "eval.json").read_text(encoding="utf-8"))["hf_bits_per_byte"]
    yield "tiny.bits_per_byte", round(perplexity["bits_per_byte"], 5)
    yield "tiny.bits_per_byte_difference", round(100 * abs(perplexity["bits_per_byte"] / reference - 1), 4)


def failed_tests(program, *filters):
    """Number of failed tests of one test program; there must be some that ran."""
    output = run(ROOT / "build/cpu/bin" / program, *filters, check=False)
    ran = re.search(r"^\[=+\] (\d+) tests? from .* ran\.", output, re.MULTILINE)
    passed = re.search(r"^\[  PASSED  \] (\d+) tests?", output, re.MULTILINE)
    skipped = re.search(r"^\[  SKIPPED \] (\d+) tests?", output, re.MULTILINE)
    if not ran or not passed or int(ran.group(1)) == 0 or skipped:
        sys.exit(f"{program} {' '.join(filters)}: no clear result\n{output[-2000:]}")
    return int(ran.group(1)) - int(passed.group(1))


def measure_text():
    yield "text.encoding_vectors_failed", failed_tests("test_text", "--gtest_filter=SharedVectors*")
    venv = ROOT / "build/venv/bin/python"
    output = run(venv, ROOT / "tools/check_tokenizer_parity.py", BINARY)
    strings, differ = re.search(r"parity: (\d+) strings, (\d+) differ", output).groups()
    yield "text.tokenizer_strings", int(strings)
    yield "text.tokenizer_mismatches", int(differ)


def measure_tests():
    yield "engine.bit_equality_failed", failed_tests("test_runtime", "--gtest_filter=Engine.*")
    output = run("ctest", "--test-dir", "build/cpu", "--parallel", 2, check=False)
    yield "tests.failed", int(re.search(r"(\d+) tests failed out of (\d+)", output).group(1))


def measure_fuzz():
    for target in sorted((ROOT / "build/fuzz/bin").glob("fuzz_*")):
        name = target.name.removeprefix("fuzz_")
        corpus = ROOT / "build/fuzz/corpus" / name
        artifacts = ROOT / "build/fuzz/artifacts"
        for folder in (corpus, artifacts):
            folder.mkdir(parents=True, exist_ok=True)
        dictionary = ROOT / f"fuzz/{name}.dict"
        options = [f"-dict={dictionary}"] if dictionary.exists() else []
        result = subprocess.run([target, *options, f"-max_total_time={FUZZ_SECONDS}", "-max_len=65536", "-timeout=10", "-rss_limit_mb=2048",
                                 "-verbosity=0", "-print_funcs=0", f"-artifact_prefix={artifacts}/{name}-", corpus,
                                 ROOT / "fuzz/seeds" / name],
                                capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
        yield f"fuzz.{name}.findings", int(result.returncode != 0)


GROUPS = {
    "golden": measure_golden,
    "inspect": measure_inspect,
    "tiny": measure_tiny,
    "text": measure_text,
    "tests": measure_tests,
    "fuzz": measure_fuzz,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machine", required=True, help='e.g. "2 cores of AMD EPYC"')
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {' '.join(GROUPS)}; default: all but fuzz")
    options = parser.parse_args()
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"unknown group {', '.join(sorted(unknown))}")
    for group in options.groups or [group for group in GROUPS if group != "fuzz"]:
        for gate, value in GROUPS[group]():
            print(f"{gate} = {value}", flush=True)
            if status.main(["record", "--machine", options.machine, gate, str(value)]) != 0:
                sys.exit(1)


if __name__ == "__main__":
    main()
