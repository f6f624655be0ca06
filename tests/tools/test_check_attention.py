"""Tests of what tools/check_attention.py does on the host: formats, caches, the formula, the steps, the comparison."""

import ctypes
import math
import re
import sys
import unittest
from pathlib import Path

try:
    import numpy as np
except ImportError as error:
    raise unittest.SkipTest("NumPy is not installed") from error

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import check_attention as tool


class Formats(unittest.TestCase):
    def test_tables_have_the_values_of_the_formats(self):
        self.assertEqual(list(tool.E2M1), [0, 0.5, 1, 1.5, 2, 3, 4, 6])
        self.assertEqual((tool.E4M3[1], tool.E4M3[7], tool.E4M3[8], tool.E4M3[126]), (2.0**-9, 7 * 2.0**-9, 2.0**-6, 448.0))

    def test_codes_survive_a_round_trip(self):
        for table, count in ((tool.E4M3, 256), (tool.E2M1, 16)):
            codes = np.array([code for code in range(count) if code % (count // 2) < len(table)])
            self.assertTrue((tool.encode(tool.decode(codes, table), table) == codes).all())
        self.assertTrue(math.isnan(tool.decode(0xFF, tool.E4M3)))

    def test_ties_go_to_the_even_code_and_large_values_saturate(self):
        ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 5.1, 100.0, -0.75])
        self.assertEqual(list(tool.encode(ties, tool.E2M1)), [0, 2, 2, 4, 4, 6, 6, 7, 7, 10])
        self.assertEqual(list(tool.encode(np.array([17.0, 19.0, 464.0, 1e9, 2.0**-10]), tool.E4M3)), [0x58, 0x5A, 0x7E, 0x7E, 0])

    def test_scales_are_the_smallest_powers_that_fit(self):
        for amax, code in ((448.0, 127), (448.1, 128), (224.0, 126), (0.0, 105), (1e-5, 105)):
            codes, scales = tool.quantize_fp8(np.full((1, 64), amax), 64)
            self.assertEqual(scales[0, 0], code, amax)
            self.assertLessEqual(abs(tool.decode(codes[0, 0], tool.E4M3) * 2.0 ** (code - 127) - amax), amax / 16 + 2e-10)
        pairs, scales = tool.quantize_fp4(np.array([[6.0, -1.0] + [0.0] * 30]))
        self.assertEqual((pairs[0, 0], pairs.shape, scales[0, 0]), (0xA7, (1, 16), 127))
        self.assertEqual(tool.quantize_fp4(np.zeros((1, 32)))[1][0, 0], 1)

    def test_bf16_rounds_to_nearest_even(self):
        values = np.array([1.0, 1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, -2.5])
        self.assertEqual(list(tool.from_bf16(tool.to_bf16(values))), [1.0, 1.0, 1.0 + 2.0**-6, -2.5])


class Caches(unittest.TestCase):
    def test_pages_have_the_bytes_of_the_format(self):
        layout = tool.EntryLayout(512)
        self.assertEqual((layout.value_bytes, layout.scale_bytes, layout.page_bytes(64), layout.page_bytes(2)), (576, 8, 37440, 1728))
        self.assertEqual((tool.EntryLayout(64).scale_bytes, tool.EntryLayout(64).page_bytes(3)), (0, 384))

    def test_parts_of_an_entry_stand_where_the_header_says(self):
        cache = tool.Cache(512, 3, 4)
        x = np.zeros((1, 512))
        x[0, 0], x[0, 64], x[0, 448], x[0, 511] = 448.0, 1.0, 1.0, -2.0
        cache.store(np.array([1]), np.array([2]), x)
        page = cache.bytes[1]
        self.assertEqual(list(page[2 * 576 : 2 * 576 + 2]), [0x7E, 0])
        self.assertEqual(list(page[2 * 576 + 448 : 2 * 576 + 450]), [0x80, 0x3F])
        self.assertEqual(list(page[2 * 576 + 574 : 2 * 576 + 576]), [0x00, 0xC0])
        self.assertEqual(list(page[4 * 576 + 16 : 4 * 576 + 24]), [127, 119, 105, 105, 105, 105, 105, 0])
        self.assertEqual(int((cache.bytes != tool.POISON).sum()), 584)
        self.assertTrue((cache.load(np.array([1]), np.array([2])) == x).all())
        self.assertTrue(np.isnan(cache.load(np.array([0]), np.array([2]))).any())

    def test_stored_numbers_stay_within_the_formats_error(self):
        x = np.random.default_rng(1).standard_normal((5, 256))
        cache = tool.Cache(256, 2, 8)
        places = np.array([0, 1, 1, 0, 1]), np.array([7, 0, 3, 2, 6])
        cache.store(*places, x)
        self.assertLess(np.abs(cache.load(*places) - x).max(), 4 * 2.0**-4)
        self.assertGreater(np.abs(cache.load(*places) - x).max(), 0)


class Formula(unittest.TestCase):
    def test_attend_is_the_softmax_with_a_sink(self):
        q, sink = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([0.3, -np.inf])
        keys = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        out, lse = tool.attend(q, keys, sink, 0.5)
        for head in range(2):
            weights = [math.exp(0.5 * sum(a * b for a, b in zip(q[head], key))) for key in keys]
            total = sum(weights) + math.exp(sink[head])
            self.assertAlmostEqual(lse[head], math.log(total), places=12)
            self.assertAlmostEqual(out[head, 0], weights[0] / total, places=12)
            self.assertAlmostEqual(out[head, 1], (weights[1] + weights[2]) / total, places=12)

    def test_no_keys_give_zeros_and_the_sink(self):
        out, lse = tool.attend(np.ones((2, 4)), np.zeros((0, 4)), np.array([0.3, -1.0]), 0.5)
        self.assertTrue((out == 0).all())
        self.assertEqual(list(lse), [0.3, -1.0])

    def test_rotate_back_turns_the_last_pairs(self):
        o = np.arange(128.0)[None]
        freqs = np.full(32, 0.1, dtype=np.float32)
        turned = tool.rotate_back(o, 7, freqs)
        angle = float(np.float32(7) * np.float32(0.1))
        self.assertTrue((turned[0, :64] == o[0, :64]).all())
        self.assertAlmostEqual(turned[0, 126], 126 * math.cos(angle) + 127 * math.sin(angle), places=10)
        self.assertAlmostEqual(turned[0, 127], 127 * math.cos(angle) - 126 * math.sin(angle), places=10)


class Steps(unittest.TestCase):
    def test_rows_see_stored_entries_only(self):
        modes = set()
        for seed in range(12):
            step = tool.Step(np.random.default_rng(seed))
            modes.add(step.mode)
            self.assertEqual(step.row_begin[-1], len(step.positions))
            for row, position in enumerate(step.positions):
                out, lse = step.expected(row)
                self.assertTrue(np.isfinite(out).all(), str(step))
                has_weight = (position >= 0) & (np.isfinite(step.sink) | (sum(len(keys) for keys in step.keys_of(row)) > 0))
                self.assertTrue((np.isfinite(lse) == has_weight).all(), str(step))
                if position < 0:
                    continue
                window, entries = step.keys_of(row)
                self.assertTrue(((window <= position) & (window > position - step.window) & (window >= 0)).all())
                self.assertTrue((entries < step.num_visible(row)).all())
        self.assertEqual(modes, {"window", "list", "all"})

    def test_counts_keep_the_last_positions_and_the_first_places(self):
        step = tool.Step(np.random.default_rng(0))
        step.mode, step.ratio, step.window = "list", 4, 8
        step.positions = np.array([100], dtype=np.int32)
        step.selected = np.array([[5, -1, 7, 9]], dtype=np.int32)
        step.key_counts = np.array([[3, 3]], dtype=np.int32)
        window, entries = step.keys_of(0)
        self.assertEqual((list(window), list(entries)), ([98, 99, 100], [5, 7]))
        step.key_counts = np.array([[0, 100]], dtype=np.int32)
        window, entries = step.keys_of(0)
        self.assertEqual((list(window), list(entries)), ([], [5, 7, 9]))


class Comparison(unittest.TestCase):
    def setUp(self):
        self.expected = np.random.default_rng(3).standard_normal((2, 3, 64))

    def failures(self, actual, expected=None):
        worst = tool.Worst()
        worst.add_rows("fp32", actual, self.expected if expected is None else expected, "here")
        return worst.failures

    def test_equal_rows_pass_and_others_do_not(self):
        self.assertEqual(self.failures(self.expected), [])
        wrong = self.expected.copy()
        wrong[1, 2, 5] += 0.1
        self.assertIn("here: fp32: cosine", self.failures(wrong)[0])
        wrong[1, 2, 5] = np.nan
        self.assertGreaterEqual(len(self.failures(wrong)), 1)
        self.assertEqual(self.failures(self.expected * 1.01), ["here: fp32: length off by 1.00e-02"])

    def test_rows_of_zeros_must_be_zeros(self):
        zeros = self.expected.copy()
        zeros[0] = 0
        self.assertEqual(self.failures(zeros, zeros), [])
        self.assertEqual(len(self.failures(self.expected, zeros)), 1)

    def test_lse(self):
        lse = np.array([[1.0, -np.inf, 40.0]])
        for error, count in ((0.0, 0), (3e-4, 0), (1e-3, 1), (np.nan, 1)):
            worst = tool.Worst()
            worst.add_lse(lse + [0, 0, error], lse, "here")
            self.assertEqual(len(worst.failures), count, error)
        worst = tool.Worst()
        worst.add_lse(np.array([[1.0, 0.0, 40.0]]), lse, "here")
        self.assertEqual(len(worst.failures), 1)

    def test_codes_must_be_those_of_the_bf16_result(self):
        bf16 = tool.from_bf16(tool.to_bf16(self.expected))
        for name, (values, scales) in (("fp8", tool.quantize_fp8(bf16, 64)), ("fp4", tool.quantize_fp4(bf16))):
            worst = tool.Worst()
            worst.add_codes(name, values, scales, bf16, np.array([False, False]), "here")
            self.assertEqual(worst.failures, [])
            values[0, 1, 2] ^= 1
            worst.add_codes(name, values, scales, bf16, np.array([False, False]), "here")
            self.assertEqual(len(worst.failures), 1)
            # A padding row is zeros, scales too.
            worst.add_codes(name, values, scales, bf16, np.array([True, False]), "here")
            self.assertEqual(len(worst.failures), 3)


class Structs(unittest.TestCase):
    def test_fields_are_those_of_the_header(self):
        header = (ROOT / "include" / "dsv4" / "kernels.h").read_text(encoding="utf-8")
        header = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
        types = {"size_t": ctypes.c_size_t, "int32_t": ctypes.c_int32, "float": ctypes.c_float}
        for struct in (tool.Batch, tool.AttentionArgs):
            name = struct.__doc__
            body = re.search(rf"typedef struct {name} \{{(.*?)\}} {name};", header, re.DOTALL).group(1)
            fields = re.findall(r"(?:const )?(\w+)(\*?) (\w+);", body)
            self.assertEqual([field for _, _, field in fields], [field for field, _ in struct._fields_])
            for (kind, star, field), (_, ctype) in zip(fields, struct._fields_):
                self.assertEqual(ctypes.sizeof(ctype), 8 if star else ctypes.sizeof(types[kind]), field)


if __name__ == "__main__":
    unittest.main()
