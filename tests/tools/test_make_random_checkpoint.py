"""make_random_checkpoint: the file is a safetensors file of the right size whose values are finite."""

import json
import math
import struct
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import make_random_checkpoint  # noqa: E402


class MakeRandomCheckpoint(unittest.TestCase):
    def test_a_checkpoint_of_three_layers(self):
        config_file = ROOT / "tests/data/mini/config.json"
        with tempfile.TemporaryDirectory() as folder:
            size = make_random_checkpoint.make(config_file, folder, 3)
            content = (Path(folder) / "model.safetensors").read_bytes()
            config = json.loads((Path(folder) / "config.json").read_text())
            self.assertTrue((Path(folder) / "tokenizer.json").exists())
        (header_size,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + header_size])
        self.assertEqual(len(content), 8 + header_size + size)
        self.assertEqual((config["num_hidden_layers"], config["num_hash_layers"], len(config["compress_ratios"])), (3, 0, 3))
        self.assertEqual({name.split(".")[1] for name in header if name.startswith("layers.")}, {"0", "1", "2"})
        end = 0
        for name, tensor in header.items():
            self.assertEqual(tensor["data_offsets"][0], end, name)
            end = tensor["data_offsets"][1]
            data = content[8 + header_size + tensor["data_offsets"][0] : 8 + header_size + end]
            if tensor["dtype"] == "F8_E4M3":
                self.assertFalse({0x7F, 0xFF} & set(data), name)
            elif tensor["dtype"] == "F8_E8M0":
                self.assertTrue(100 < min(data) and max(data) < 128, name)
            elif tensor["dtype"] == "BF16":
                values = [struct.unpack("<f", b"\0\0" + data[i : i + 2])[0] for i in range(0, len(data), 2)]
                self.assertLessEqual(max(map(abs, values)), 1.0, name)
            elif tensor["dtype"] == "F32":
                self.assertTrue(all(math.isfinite(value) for (value,) in struct.iter_unpack("<f", data)), name)
        self.assertEqual(end, size)

    def test_too_many_layers_are_refused(self):
        with self.assertRaises(ValueError), tempfile.TemporaryDirectory() as folder:
            make_random_checkpoint.make(ROOT / "tests/data/mini/config.json", folder, 5)


if __name__ == "__main__":
    unittest.main()
