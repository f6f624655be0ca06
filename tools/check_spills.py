#!/usr/bin/env python3
"""Compiles every CUDA kernel and reads the compiler's report: no stack frames, no register spills, no serialised wgmma.

Usage: tools/check_spills.py [FILE.cu …]      (default: all under src/backend/cuda; needs nvcc, no GPU)

One line per kernel that breaks a rule; exit status 1 if there is any.
"""

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c++20", "-gencode=arch=compute_90a,code=sm_90a", "-O3", "--expt-relaxed-constexpr", "-Xptxas=-v", f"-I{ROOT / 'src'}"]
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def findings_of(report):
    """(kernel, what) for every rule that a report of ptxas shows broken."""
    kernel = "?"
    for line in report.splitlines():
        if match := re.search(r"(?:Compiling entry function|Function properties for) '?([\w$]+)'?", line):
            kernel = match.group(1)
        if (match := FRAME.search(line)) and any(int(count) > 0 for count in match.groups()):
            yield kernel, match.group()
        if re.search(r"\(C75\d\d\)", line):  # wgmma serialised, setmaxnreg ignored
            yield kernel, line.strip()


def compile_report(nvcc, source):
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, *FLAGS, "-c", str(source), "-o", str(Path(folder) / "kernel.o")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{source}: nvcc failed\n{result.stderr}")
    return result.stderr + result.stdout


def main(arguments):
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not Path(nvcc).exists():
        sys.exit("check_spills: nvcc was not found")
    sources = [Path(argument) for argument in arguments] or sorted((ROOT / "src/backend/cuda").rglob("*.cu"))
    num_kernels = num_findings = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for source, report in zip(sources, pool.map(lambda path: compile_report(nvcc, path), sources)):
            num_kernels += len(FRAME.findall(report))
            for kernel, what in findings_of(report):
                num_findings += 1
                print(f"{source}: {kernel}: {what}")
    print(f"{num_kernels} kernels in {len(sources)} files, {num_findings} findings")
    return 1 if num_findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
