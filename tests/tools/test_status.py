"""status: recording, generating and checking in a folder of its own."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
import xml.etree.ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import draw_roofline  # noqa: E402
import status  # noqa: E402

GATES = [
    {"gate": "b.cosine", "what": "close", "unit": "", "limit": 0.9, "comparison": ">=", "command": "verify"},
    {"gate": "a.failed", "what": "failures | all", "unit": "tests", "limit": 0, "comparison": "==", "command": "test"},
]


class StatusTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = Path(self.folder.name)
        (self.root / "bench/results").mkdir(parents=True)
        (self.root / "bench/gates.jsonl").write_text("".join(json.dumps(gate) + "\n" for gate in GATES))

    def run_status(self, *arguments):
        """(exit status, stderr)."""
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr):
            code = status.main(["--root", str(self.root), *arguments])
        return code, stderr.getvalue()

    def rows(self):
        """Gate rows of STATUS.md as lists of cells."""
        lines = (self.root / "docs/STATUS.md").read_text().split("\n## ")[0].splitlines()
        return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")][1:]

    def test_unmeasured_gates_are_listed_sorted(self):
        self.assertEqual(self.run_status(), (0, ""))
        self.assertEqual([(row[0], row[3]) for row in self.rows()], [("a.failed", "not measured"), ("b.cosine", "not measured")])
        self.assertIn("2 gates: 0 pass, 0 fail, 2 not measured.", (self.root / "docs/STATUS.md").read_text())

    def test_record_takes_the_gates_limit_and_later_lines_replace(self):
        self.assertEqual(self.run_status("record", "--machine", "Box 1", "--date", "2030-01-02", "b.cosine", "0.5")[0], 0)
        self.assertEqual(self.rows()[1], ["b.cosine", "≥ 0.9", "0.5", "**fail**", "`verify`", "Box 1", "2030-01-02"])
        self.run_status("record", "--machine", "Box 1", "--date", "2030-01-01", "b.cosine", "0.95")
        self.assertEqual(self.rows()[1][2:4], ["0.95", "pass"])
        self.run_status("record", "--machine", "Another", "--date", "2030-01-01", "b.cosine", "0.9")
        self.assertEqual([(row[3], row[5]) for row in self.rows()[1:]], [("pass", "Another"), ("pass", "Box 1")])
        lines = (self.root / "bench/results/box_1.jsonl").read_text().splitlines()
        self.assertEqual([json.loads(line)["pass"] for line in lines], [False, True])
        self.assertEqual(list(json.loads(lines[0])), status.RESULT_KEYS)

    def test_counts_stay_whole(self):
        self.run_status("record", "--machine", "m", "--date", "2030-01-01", "a.failed", "0")
        self.assertEqual(self.rows()[0][1:4], ["= 0 tests", "0 tests", "pass"])

    def test_figures_and_plot(self):
        self.assertEqual(self.run_status("record", "--machine", "m", "decode", "12.5")[0], 1)
        self.assertEqual(self.run_status("record", "--machine", "m", "--unit", "tokens/s", "--command", "bench", "de<code", "12.5")[0], 0)
        text = (self.root / "docs/STATUS.md").read_text()
        self.assertIn("| de<code | 12.5 tokens/s | `bench` | m |", text)
        self.assertIn("speed.svg", text)
        plot = xml.etree.ElementTree.parse(self.root / "docs/speed.svg").getroot()
        self.assertIn("de<code, m", [element.text for element in plot.iter("{http://www.w3.org/2000/svg}text")])
        self.assertEqual(self.run_status("--check"), (0, ""))

    def test_check_finds_stale_and_missing_files(self):
        self.assertEqual(self.run_status("--check"), (1, "docs/STATUS.md: not up to date, run tools/status.py\n"))
        self.run_status()
        self.assertEqual(self.run_status("--check"), (0, ""))
        (self.root / "docs/speed.svg").write_text("left over")
        self.assertEqual(self.run_status("--check")[0], 1)
        self.run_status()
        self.assertFalse((self.root / "docs/speed.svg").exists())

    def test_bad_results_are_named(self):
        good = {"machine": "m", "date": "2030-01-01", "gate": "b.cosine", "value": 1.0, "unit": "", "limit": 0.9, "comparison": ">=",
                "command": "c", "pass": True}  # fmt: skip
        for change in (
            {"pass": False},
            {"value": "1"},
            {"value": True},
            {"date": "today"},
            {"limit": 0.8},
            {"unit": "%"},
            {"comparison": ">"},
            {"limit": None, "pass": None},
            {"extra": 1},
        ):
            (self.root / "bench/results/m.jsonl").write_text(json.dumps(good) + "\n" + json.dumps({**good, **change}) + "\n")
            code, error = self.run_status()
            self.assertEqual(code, 1, change)
            self.assertIn("m.jsonl:2: ", error)
        (self.root / "bench/results/m.jsonl").write_text("{\n")
        self.assertIn("m.jsonl:1: ", self.run_status()[1])

    def test_record_refuses_what_would_not_be_read(self):
        for value in ("nan", "inf"):
            self.assertEqual(self.run_status("record", "--machine", "m", "b.cosine", value)[0], 1)
        self.assertEqual(self.run_status("record", "--machine", "??", "b.cosine", "1")[0], 1)
        self.assertEqual(self.run_status("record", "--machine", "m", "--date", "today", "b.cosine", "1")[0], 1)
        self.assertEqual(self.run_status("record", "--machine", "m", "--limit", "2", "b.cosine", "1")[0], 1)
        self.assertEqual(list((self.root / "bench/results").iterdir()), [])

STEP = {
    "bench": "decode",
    "machine": "NVIDIA H200",
    "date": "2030-01-01",
    "command": "dsv4 bench decode",
    "setup": {"model": "flash", "layers": 32, "batch": 1, "context": 4096},
    "figures": {
        "step_ms": 7.5,
        "tokens_per_second": 133.0,
        "floor_ms": 2.5,
        "times_floor": 3.0,
        "copy_gb_per_second": 4000.0,
        "kernels": 700,
    },
    "ops": [],
    "parts": [
        {"part": "attention", "us": 400.0, "bytes": 1e7, "flop": 2e9, "us_per_layer": {"swa": 8.0, "csa": 24.6, "hca": 10.0}},
        {"part": "experts", "us": 1000.0, "bytes": 3e9, "flop": 6e9, "us_per_layer": {"swa": 30.0, "csa": 30.0, "hca": 30.0}},
        {"part": "other", "us": 300.0, "bytes": 1e4, "flop": 0.0, "us_per_layer": {}},
    ],
}
PROMPT = {
    **STEP,
    "bench": "prefill",
    "setup": {"model": "flash", "layers": 32, "context": 0, "tokens": 8192, "chunk": 2048},
    "figures": {"ms": 1500.0, "tokens_per_second": 5461.0, "tflops": 80.0, "full_tokens_per_second": None, "copy_gb_per_second": 4000.0},
}


class StepsTest(StatusTest):
    def write_steps(self, *steps):
        (self.root / "bench/results/nvidia_h200.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
        return self.run_status()

    def status_text(self):
        return (self.root / "docs/STATUS.md").read_text()

    def test_steps_become_tables_and_later_lines_replace(self):
        slower = {**STEP, "figures": {**STEP["figures"], "step_ms": 98765}}
        self.assertEqual(self.write_steps(slower, STEP, PROMPT), (0, ""))
        self.assertIn("| flash | 32 | 1 | 4,096 | 7.5 | 133 | 2.5 | 3 | 700 | `dsv4 bench decode` | NVIDIA H200 |", self.status_text())
        self.assertNotIn("98,765", self.status_text())
        self.assertIn("| flash | 32 | 0 | 8,192 | 2,048 | 1500 | 5461 | 80 |  |", self.status_text())
        self.assertEqual(self.run_status("--check"), (0, ""))

    def test_others_stand_beside_ours(self):
        self.write_steps(STEP)
        self.assertIn("| attention, 64 heads, 128 + 512 keys, batch 1 | FlashMLA sparse decode | 12.3 | 24.6 | 2.00 |", self.status_text())
        self.assertIn("| attention, 64 heads, 128 + 512 keys, batch 4 | FlashMLA sparse decode | 13.3 |  |  |", self.status_text())
        self.assertIn("| experts of 1 token, FP4 | DeepGEMM masked, FP8 weights | 86.3 | 30.0 | 0.35 |", self.status_text())
        for change in ({"machine": "2 cores"}, {"setup": {**STEP["setup"], "model": "tiny"}}, {"parts": []}):
            self.write_steps({**STEP, **change})
            self.assertNotIn("Beside others", self.status_text(), change)

    def test_rooflines_are_drawn_and_removed(self):
        self.write_steps(STEP, PROMPT)
        for bench in ("decode", "prefill"):
            name = f"roofline_nvidia_h200_{bench}.svg"
            self.assertIn(f"({name})", self.status_text())
            picture = xml.etree.ElementTree.parse(self.root / "docs" / name).getroot()
            texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
            self.assertIn("experts", texts)
            self.assertIn("copy 4000 GB/s", texts)
            self.assertNotIn("other", texts)
        self.write_steps({**STEP, "parts": []})
        self.assertEqual(list((self.root / "docs").glob("roofline_*")), [])

    def test_points_stand_where_they_belong(self):
        # Under the copy roof: operations per byte times the rate of the bytes.
        (_, intensity, tflops), (_, of_experts, _) = draw_roofline.points(STEP)
        self.assertAlmostEqual(intensity, 200.0)
        self.assertAlmostEqual(tflops, 5.0)
        self.assertAlmostEqual(of_experts, 2.0)
        low, high = draw_roofline.position(1.0, 1.0), draw_roofline.position(10.0, 10.0)
        self.assertGreater(high[0], low[0])
        self.assertLess(high[1], low[1])

    def test_bad_steps_are_named(self):
        for change in (
            {"bench": "sleep"},
            {"date": "today"},
            {"setup": {"model": "flash"}},
            {"figures": {**STEP["figures"], "step_ms": "7"}},
            {"figures": {"step_ms": 7}},
            {"extra": 1},
        ):
            code, error = self.write_steps(STEP, {**STEP, **change})
            self.assertEqual(code, 1, change)
            self.assertIn("nvidia_h200.jsonl:2: ", error)


if __name__ == "__main__":
    unittest.main()
