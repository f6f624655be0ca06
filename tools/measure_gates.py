#!/usr/bin/env python3
"""Measures the gates of bench/gates.jsonl that a command can tell, appends them to bench/results, and renews docs/STATUS.md.

    tools/measure_gates.py --machine "2 cores of AMD EPYC" [GROUP…]
    tools/measure_gates.py --machine "NVIDIA H200" gpu

Groups: golden inspect tiny text tests fuzz; default: all but fuzz. Build preset cpu first (fuzz: preset fuzz). On a machine with a GPU:
gpu_tests gpu_golden gpu_attention gpu_tiny gpu_steps gpu_loader gpu_sanitizer, or gpu for all of them; they need the binaries in
build/cuda/bin, the sanitizer's group compute-sanitizer, and nothing else. Nothing is recorded when a command fails to give its figure,
and the other groups go on; a gate that is missed is recorded as missed.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import make_random_checkpoint  # noqa: E402
import status  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / "build/cpu/bin/dsv4"
CUDA_BIN = ROOT / "build/cuda/bin"
TINY = ROOT / "models/tiny"
FUZZ_SECONDS = 600


class MeasureError(Exception):
    """A command that did not give its figure."""


def run(*command, cwd=ROOT, check=True):
    """Standard output of a command; a failure is a MeasureError with what the command said."""
    result = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    if check and result.returncode != 0:
        said = result.stdout[-2000:] + result.stderr[-2000:]
        raise MeasureError(f"{' '.join(map(str, command))}: exit status {result.returncode}\n{said}")
    return result.stdout


def dsv4(*arguments):
    return json.loads(run(BINARY, *arguments, "--json"))


def golden_folders():
    """(name, folder) of every golden checkpoint: those beside the checkout or in it, else the tests' own."""
    for shared in (ROOT / "../shared/goldens", ROOT / "shared/goldens"):
        paths = sorted(shared.glob("*/golden.safetensors"))
        if paths:
            return [(path.parent.name, path.parent) for path in paths]
    return [("mini", ROOT / "tests/data/mini")]


def verify_golden(binary, prefix, *options):
    for name, folder in golden_folders():
        # The exit status says pass or fail; the figures are wanted in both cases.
        output = run(binary, "verify", *options, "--model", folder, "--golden", folder / "golden.safetensors", "--json", check=False)
        try:
            report = json.loads(output)
        except json.JSONDecodeError as error:
            raise MeasureError(f"verify {name}: no report\n{output[-2000:]}") from error
        yield f"{prefix}golden.{name}.pass", int(report["pass"])
        yield f"{prefix}golden.{name}.prefill_median", round(report["prefill"]["median"], 6)
        yield f"{prefix}golden.{name}.layer_median", round(min(layer["median"] for layer in report["layers"]), 7)
        overlaps = [layer["topk_overlap"] for layer in report["layers"] if layer["topk_overlap"] is not None]
        yield f"{prefix}golden.{name}.topk_overlap", round(min(overlaps), 4)
        strict = [layer["topk_overlap_strict"] for layer in report["layers"] if layer["topk_overlap_strict"] is not None]
        yield f"{prefix}golden.{name}.topk_overlap_strict", round(min(strict), 4)


def measure_golden():
    return verify_golden(BINARY, "")


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


def count_tests(output, what):
    """(tests that ran, passed, were skipped) from a test program's output; there must be some that ran."""
    ran = re.search(r"^\[=+\] (\d+) tests? from .* ran\.", output, re.MULTILINE)
    passed = re.search(r"^\[  PASSED  \] (\d+) tests?", output, re.MULTILINE)
    skipped = re.search(r"^\[  SKIPPED \] (\d+) tests?", output, re.MULTILINE)
    if not ran or not passed or int(ran.group(1)) == 0:
        raise MeasureError(f"{what}: no clear result\n{output[-2000:]}")
    return int(ran.group(1)), int(passed.group(1)), int(skipped.group(1)) if skipped else 0


def failed_tests(program, *filters):
    """Number of failed tests of one test program, none of which may be skipped."""
    output = run(program, *filters, check=False)
    ran, passed, skipped = count_tests(output, program)
    if skipped:
        raise MeasureError(f"{program} {' '.join(filters)}: {skipped} tests were skipped\n{output[-2000:]}")
    return ran - passed


def measure_text():
    yield "text.encoding_vectors_failed", failed_tests(ROOT / "build/cpu/bin/test_text", "--gtest_filter=SharedVectors*")
    venv = ROOT / "build/venv/bin/python"
    output = run(venv, ROOT / "tools/check_tokenizer_parity.py", BINARY)
    strings, differ = re.search(r"parity: (\d+) strings, (\d+) differ", output).groups()
    yield "text.tokenizer_strings", int(strings)
    yield "text.tokenizer_mismatches", int(differ)


def measure_tests():
    yield "engine.bit_equality_failed", failed_tests(ROOT / "build/cpu/bin/test_runtime", "--gtest_filter=Engine.*")
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


# ---- On a machine with a GPU


def cuda_dsv4(*arguments):
    return json.loads(run(CUDA_BIN / "dsv4", *arguments, "--json"))


def measure_gpu_tests():
    output = run(CUDA_BIN / "test_cuda", check=False)
    ran, passed, _ = count_tests(output, "test_cuda")
    yield "gpu.tests.passed", passed
    yield "gpu.tests.failed", ran - passed  # with those that were skipped
    invariance = "--gtest_filter=ModelGpu.ADecodedToken*:EngineGpu.SequencesThatEnd*"
    yield "gpu.batch_invariance.failed", failed_tests(CUDA_BIN / "test_cuda", invariance)
    replay = "--gtest_filter=ModelGpu.TheLastPosition*:EngineGpu.DrawsWithin*:AttentionGpu.ARecordedStep*"
    yield "gpu.replay.failed", failed_tests(CUDA_BIN / "test_cuda", replay)


def measure_gpu_golden():
    return verify_golden(CUDA_BIN / "dsv4", "gpu.", "--device", "cuda")


def measure_gpu_tiny():
    greedy = "--gtest_filter=EngineGpu.GreedyTextIsTheCpus"  # 200 tokens; those count whose margin on the CPU exceeds 0.05
    yield "gpu.tiny.greedy.failed", failed_tests(CUDA_BIN / "test_cuda", greedy)
    bits = [cuda_dsv4("perplexity", "--device", device)["bits_per_byte"] for device in ("cpu", "cuda")]
    yield "gpu.tiny.bits_per_byte_difference", round(100 * abs(bits[1] / bits[0] - 1), 5)


def bench_steps(machine, *arguments):
    """Figures of one `dsv4 bench decode` or `prefill`, which also go into the machine's results."""
    folder = ROOT / "bench/results"
    folder.mkdir(parents=True, exist_ok=True)
    append = folder / f"{status.file_stem(machine)}.jsonl"
    flash = ["--dummy", "flash", "--layers", 32, "--device", "cuda"]
    output = run(CUDA_BIN / "dsv4", "bench", *arguments, *flash, "--ops", "--json", "--append", append)
    return [json.loads(line)["figures"] for line in output.splitlines()]


def measure_gpu_steps(machine):
    one, many = bench_steps(machine, "decode", "--batch", "1,64", "--context", 4096)
    yield "gpu.decode.graph_launches", one["graph_launches"]
    yield "gpu.decode.kernel_launches", one["kernel_launches"]
    yield "gpu.decode.extra_waits", max(one["synchronizations"] - 1, 0)  # one for the tokens drawn
    yield "gpu.decode.allocations", one["allocations"]
    yield "gpu.decode.kernels_csa", one["kernels_csa"]
    yield "gpu.decode.kernels_hca", one["kernels_hca"]
    yield "gpu.flash32.decode_b1_times_floor", one["times_floor"]
    yield "gpu.flash32.decode_b64_times_floor", many["times_floor"]
    prefill = bench_steps(machine, "prefill", "--tokens", 8192, "--chunk", "2048,4096,8192")
    yield "gpu.flash32.prefill_tokens_per_second", max(figures["full_tokens_per_second"] for figures in prefill)
    # A prompt of a million tokens through layers of every kind, then decode steps at the end of the context.
    context = ["--context", 1048000, "--prompt-tokens", 512, "--decode-tokens", 32]
    longest = cuda_dsv4("bench", "--dummy", "flash", "--layers", 4, "--device", "cuda", *context)
    yield "gpu.flash4.context_1m_decode_ms", round(1e3 * longest["rows"][0]["decode_step_seconds"], 3)


def measure_gpu_loader():
    """From a checkpoint of four layers of Flash that was just written, and so stands in the page cache."""
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        if shutil.disk_usage(folder).free < 20e9:
            raise MeasureError(f"{folder}: less than 20 GB free for a checkpoint")
        size = make_random_checkpoint.make(ROOT / "models/configs/flash.json", folder, 4)
        # Token 0, whatever the random model would say: the bundled tokenizer does not know every id of Flash.
        options = ["generate", "--raw", "--prompt", "a", "-n", 1, "--logit-bias", "0=1e6", "--context", 512, "--device", "cuda"]
        seconds = cuda_dsv4(*options, "--model", folder)["timings"]["load_seconds"]
    yield "gpu.loader.gb_per_second", round(1e-9 * size / seconds, 3)


def measure_gpu_attention():
    output = run(CUDA_BIN / "test_cuda", "--gtest_filter=AttentionGpu.Parity*", check=False)
    worst = {}
    for name, pattern in (
        ("worst_cosine_fp32", r"worst fp32 cosine 1 - ([\d.e+-]+):"),
        ("worst_cosine_bf16", r"worst bf16 cosine 1 - ([\d.e+-]+):"),
        ("worst_lse_error", r"worst LSE error ([\d.e+-]+):"),
    ):
        worst[name] = [float(value) for value in re.findall(pattern, output)]
        if len(worst[name]) != 2 or "[  FAILED  ]" in output:
            raise MeasureError(f"attention: no figures of its parity\n{output[-2000:]}")
        yield f"gpu.attention.{name}", max(worst[name])
    yield "gpu.attention.nodes", 1 + failed_tests(CUDA_BIN / "test_cuda", "--gtest_filter=AttentionGpu.HintsDoNot*")
    # Lines as `--append` writes them: gates, and figures beside them.
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "attention.jsonl"
        run(CUDA_BIN / "dsv4_bench_attention", "--append", lines)
        for line in map(json.loads, lines.read_text().splitlines()):
            if line["limit"] is not None:
                yield line["gate"], line["value"]


def measure_spills():
    output = run(ROOT / "tools/check_spills.py", check=False)
    found = re.search(r"(\d+) kernels in \d+ files, (\d+) findings", output)
    if not found or int(found.group(1)) == 0:
        raise MeasureError(f"check_spills: no result\n{output[-2000:]}")
    yield "gpu.spills.findings", int(found.group(2))


def measure_gpu_sanitizer():
    for tool, summary, figure in (
        ("memcheck", r"ERROR SUMMARY: (\d+) error", "memcheck_errors"),
        ("racecheck", r"RACECHECK SUMMARY: (\d+) hazard", "racecheck_hazards"),
    ):
        output = run(ROOT / "scripts/test_gpu.sh", "--no-build", tool, check=False)
        found = re.search(summary, output)
        _, _, skipped = count_tests(output, tool)
        if not found or skipped:
            raise MeasureError(f"{tool}: no clear result\n{output[-2000:]}")
        yield f"gpu.sanitizer.{figure}", int(found.group(1))


GROUPS = {
    "golden": measure_golden,
    "inspect": measure_inspect,
    "tiny": measure_tiny,
    "text": measure_text,
    "tests": measure_tests,
    "fuzz": measure_fuzz,
    "spills": measure_spills,
    "gpu_tests": measure_gpu_tests,
    "gpu_golden": measure_gpu_golden,
    "gpu_attention": measure_gpu_attention,
    "gpu_tiny": measure_gpu_tiny,
    "gpu_steps": measure_gpu_steps,
    "gpu_loader": measure_gpu_loader,
    "gpu_sanitizer": measure_gpu_sanitizer,
}
GPU_GROUPS = [group for group in GROUPS if group.startswith("gpu_")]
DEFAULT_GROUPS = [group for group in GROUPS if group not in ("fuzz", "spills", *GPU_GROUPS)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machine", required=True, help='e.g. "2 cores of AMD EPYC" or "NVIDIA H200"')
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {' '.join(GROUPS)}, gpu; default: {' '.join(DEFAULT_GROUPS)}")
    options = parser.parse_args()
    groups = []
    for group in options.groups or DEFAULT_GROUPS:
        groups += GPU_GROUPS if group == "gpu" else [group]
    unknown = set(groups) - set(GROUPS)
    if unknown:
        parser.error(f"unknown group {', '.join(sorted(unknown))}")
    failed = []
    for group in groups:
        measure = GROUPS[group]
        try:
            for gate, value in measure(options.machine) if measure is measure_gpu_steps else measure():
                print(f"{gate} = {value}", flush=True)
                if status.main(["record", "--machine", options.machine, gate, str(value)]) != 0:
                    sys.exit(1)
        except (MeasureError, OSError, KeyError, TypeError, ValueError) as error:
            print(f"{group}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed.append(group)
    if failed:
        sys.exit(f"not measured in full: {' '.join(failed)}")


if __name__ == "__main__":
    main()
