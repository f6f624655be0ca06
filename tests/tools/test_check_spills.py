"""Tests of tools/check_spills.py on reports as ptxas prints them."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import check_spills

CLEAN = """ptxas info    : Compiling entry function '_Z1fv' for 'sm_90a'
ptxas info    : Function properties for _Z1fv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers
"""


class Findings(unittest.TestCase):
    def test_a_clean_report_has_none(self):
        self.assertEqual(list(check_spills.findings_of(CLEAN)), [])

    def test_spills_and_stack_frames_are_named_with_their_kernel(self):
        for text in ("8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads",
                     "0 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads"):
            report = CLEAN + CLEAN.replace("_Z1fv", "_Z1gv").replace("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", text)
            self.assertEqual(list(check_spills.findings_of(report)), [("_Z1gv", text)])

    def test_serialised_wgmma_is_found(self):
        line = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized"
        self.assertEqual(list(check_spills.findings_of(CLEAN + line)), [("_Z1fv", line)])


if __name__ == "__main__":
    unittest.main()
