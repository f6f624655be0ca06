#!/usr/bin/env python3
"""Checks the rules of the tree: one function per rule, one line per finding (path:line: rule: text), exit status 1 if there is any.

Usage: tools/lint_tree.py [ROOT]      (default: the repository this file is in)

The files are those git knows or would add; in a folder without git, all of them. CONTRIBUTING.md lists the rules in prose.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cpp_scan

MAX_FILE_LINES = 800  # files stay under it
MAX_FUNCTION_LINES = 120  # functions stay under it
MAX_COLUMNS = 140

CPP_SUFFIXES = {".h", ".cpp", ".c", ".cu", ".cuh"}
SCRIPT_SUFFIXES = {".py", ".sh", ".cmake"}
CODE_FOLDERS = {"src", "include", "tests", "bench", "fuzz", "tools", "scripts", "cmake"}

# Which rooms the files of a room may include. Rooms are folders of src/.
ALLOWED_INCLUDES = {
    "base": {"base"},
    "ops": {"base", "ops"},
    "backend/cpu": {"base", "ops", "backend/cpu"},
    "backend/cuda": {"base", "ops", "backend/cuda"},
    "text": {"base", "text"},
    "model": {"base", "ops", "model"},
    "runtime": {"base", "ops", "backend/cpu", "backend/cuda", "text", "model", "runtime"},
    "capi": {"base", "ops", "text", "model", "runtime", "capi", "dsv4"},
    "cli": {"base", "ops", "text", "model", "runtime", "cli"},
    "server": {"base", "ops", "text", "model", "runtime", "server"},
}

# Headers of src/ops that are not ops: the interface, and what several contracts share.
SHARED_OP_HEADERS = {"backend", "batch", "buffer", "groups", "kv_layout", "weight"}
CUDA_KERNELS = [f"src/backend/cuda/{folder}" for folder in ("any", "sm90", "sm100")]
# Host libraries that no header reachable from device code may bring in.
HOST_LIBRARIES = re.compile(r"<(?:fmt|spdlog|nlohmann|CLI)/")


class Finding(NamedTuple):
    path: str
    line: int
    rule: str
    text: str


class SourceFile:
    """One text file: its lines, and for C++ the blanked code and the includes."""

    def __init__(self, path, text):
        self.path = path
        self.pure = PurePosixPath(path)
        self.text = text
        self.lines = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
        self.is_cpp = self.pure.suffix in CPP_SUFFIXES
        self.is_header = self.pure.suffix in {".h", ".cuh"}
        self.code = cpp_scan.blank_literals(text) if self.is_cpp else ""
        self.code_lines = self.code.split("\n")
        self.functions, self.declarations = cpp_scan.scan(text) if self.is_cpp else ([], [])

    def includes(self):
        """(line, spelling with quotes or angles) of every #include."""
        for index, code in enumerate(self.code_lines):
            if re.match(r"\s*#\s*include\b", code):
                match = re.search(r'["<][^">]*[">]', self.lines[index])
                if match:
                    yield index + 1, match.group()

    def matches(self, pattern):
        """(line, match) of a pattern in the code, comments and literals left out."""
        for index, code in enumerate(self.code_lines):
            for match in re.finditer(pattern, code):
                yield index + 1, match


class Tree:
    """The files of a checkout; code and documents are read, other files only known by name."""

    def __init__(self, root):
        self.root = Path(root)
        self.paths = sorted(self._list())
        read = [path for path in self.paths if is_code(path) or path.endswith(".md")]
        self.files = {path: SourceFile(path, (self.root / path).read_bytes().decode("utf-8", errors="replace")) for path in read}

    def _list(self):
        command = ["git", "-C", str(self.root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        if (self.root / ".git").exists():
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            names = [name for name in output.split("\0") if name]
        else:
            names = [path.relative_to(self.root).as_posix() for path in self.root.rglob("*")]
        return [name for name in names if (self.root / name).is_file() and not name.startswith("build/")]

    def code(self):
        return [file for file in self.files.values() if is_code(file.path)]

    def cpp(self):
        return [file for file in self.files.values() if file.is_cpp]

    def stems(self, folder, *suffixes):
        """Stems of the files directly in a folder."""
        pures = (PurePosixPath(path) for path in self.paths)
        return {pure.stem for pure in pures if pure.parent.as_posix() == folder and pure.suffix in suffixes}

    def has_folder(self, folder):
        return any(path.startswith(folder + "/") for path in self.paths)

    def ops(self):
        """Stems of the op contracts: headers of src/ops that declare a params struct."""
        for file in self.cpp():
            if file.pure.parent.as_posix() == "src/ops" and file.is_header and file.pure.stem not in SHARED_OP_HEADERS:
                if re.search(r"\bstruct \w+Params\b", file.code):
                    yield file.pure.stem


def is_code(path):
    pure = PurePosixPath(path)
    return pure.suffix in CPP_SUFFIXES | SCRIPT_SUFFIXES or pure.name == "CMakeLists.txt" or path == ".ci/run"


def room_of(path):
    """"base" for src/base/…, "backend/cpu" for src/backend/cpu/…, None outside src."""
    parts = PurePosixPath(path).parts
    if parts[0] != "src" or len(parts) < 3:
        return None
    return "/".join(parts[1:3]) if parts[1] == "backend" else parts[1]


# ---- Rules on one file at a time


def check_file_length(tree):
    for file in tree.code():
        if len(file.lines) >= MAX_FILE_LINES:
            yield Finding(file.path, MAX_FILE_LINES, "file-length", f"{len(file.lines)} lines, expected under {MAX_FILE_LINES}")


def check_function_length(tree):
    for file in tree.code():
        if file.is_cpp:
            functions = [(function.name, function.line, function.end_line) for function in file.functions]
        elif file.pure.suffix == ".py":
            nodes = [node for node in ast.walk(ast.parse(file.text)) if isinstance(node, ast.FunctionDef)]
            functions = [(node.name, node.lineno, node.end_lineno) for node in nodes]
        else:
            continue
        for name, line, end_line in functions:
            length = end_line - line + 1
            if length >= MAX_FUNCTION_LINES:
                yield Finding(file.path, line, "function-length", f"{name}: {length} lines, expected under {MAX_FUNCTION_LINES}")


def check_layout(tree):
    """Tabs, carriage returns, long lines, the newline at the end."""
    for file in tree.code():
        for index, line in enumerate(file.lines):
            if "\t" in line or "\r" in line:
                yield Finding(file.path, index + 1, "whitespace", "tab or carriage return")
            if len(line) > MAX_COLUMNS:
                yield Finding(file.path, index + 1, "columns", f"{len(line)} columns, expected at most {MAX_COLUMNS}")
        if file.text and (not file.text.endswith("\n") or file.text.endswith("\n\n")):
            yield Finding(file.path, len(file.lines), "newline", "expected exactly one newline at the end of the file")


def check_file_names(tree):
    for file in tree.code():
        if file.pure.parts[0] not in CODE_FOLDERS or file.pure.name == "CMakeLists.txt":
            continue
        for part in (*file.pure.parts[:-1], file.pure.stem):
            if not re.fullmatch(r"[a-z][a-z0-9_]*|Dsv4|__init__", part):
                yield Finding(file.path, 1, "file-name", f'"{part}" is not snake_case')


def check_headers(tree):
    for file in tree.cpp():
        if not file.is_header:
            continue
        if not file.text.startswith(("//", "/*")):
            yield Finding(file.path, 1, "header-comment", "a header opens with a comment that says what it is for")
        guarded = re.search(r"^#ifndef (\w+)\n#define \1\b", file.text, re.MULTILINE) if file.pure.parts[0] == "include" else None
        if "#pragma once" not in file.code and not guarded:
            yield Finding(file.path, 1, "header-once", "expected #pragma once")


def check_unfinished_words(tree):
    words = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")  # in pieces, so that this file passes
    for file in tree.files.values():
        for index, line in enumerate(file.lines):
            if (match := words.search(line)) is not None:
                yield Finding(file.path, index + 1, "unfinished", match.group())


def check_environment_access(tree):
    for file in tree.cpp():
        if file.path == "src/base/env.cpp":
            continue
        names = r"\b(?:secure_)?getenv\b"
        if room_of(file.path) is not None:  # a test may hand its environment on to a program it starts
            names += r"|\benviron\b"
        for line, match in file.matches(names):
            yield Finding(file.path, line, "environment", f"{match.group()}: the environment is read in src/base/env.cpp alone")


def check_inline_assembly(tree):
    for file in tree.cpp():
        if "ptx" in file.pure.parts[:-1]:
            continue
        for line, _ in file.matches(r"\b(?:asm|__asm|__asm__)\b"):
            yield Finding(file.path, line, "inline-assembly", "inline assembly lives in a ptx/ folder")


def is_mutable(declaration):
    """Whether a variable's declaration (its initialiser may follow) leaves the variable itself changeable.

    A volatile sig_atomic_t is let through: it is the only thing a signal handler may write.
    """
    plain = cpp_scan.strip_angles(declaration)
    if re.search(r"\bvolatile\b.*\bsig_atomic_t\b", plain):
        return False
    if re.search(r"\bconstexpr\b", plain):
        return False
    plain = re.split(r"[={;]|\[(?!\[)", plain)[0]
    if (pointer := plain.rfind("*")) >= 0:
        plain = plain[pointer:]
    return re.search(r"\bconst\b", plain) is None


def is_variable(declaration):
    """Whether a declaration at namespace scope, without its template<…>, declares a variable."""
    if re.match(r"(?:using|typedef|friend|static_assert|namespace|asm)\b", declaration):
        return False
    plain = cpp_scan.strip_angles(declaration)
    if re.fullmatch(r"(?:class|struct|union|enum(?: class| struct)?) [\w:]+(?: ?: ?[\w:]+)?(?: ?\{\})?", plain):
        return False
    before_initializer = re.split(r"[={]", plain)[0]
    if re.search(r"\( ?\*[^()]*\)", before_initializer):  # a pointer to a function
        return True
    if (call := re.search(r"[\w:*&>] +[\w:]+ ?\(([^()]*)", before_initializer)) is not None:
        return re.match(r" ?(?:[-+\d.\"']|true\b|false\b|nullptr\b)", call.group(1)) is not None
    if "(" in before_initializer or "operator" in before_initializer:
        return False
    return len(re.findall(r"[\w:]+", before_initializer)) >= 2


def check_mutable_globals(tree):
    """Variables of static or thread storage that can change: at namespace scope, in classes, in functions."""
    for file in tree.cpp():
        for line, _ in file.matches(r"\bthread_local\b"):
            yield Finding(file.path, line, "mutable-global", "thread_local")
        for declaration in file.declarations:
            text = cpp_scan.strip_prefixes(declaration.text)
            if declaration.scope == "class":
                if not re.match(r"(?:inline )?static\b", text) or "(" in re.split(r"[={]", cpp_scan.strip_angles(text))[0]:
                    continue
            elif not is_variable(text):
                continue
            if is_mutable(text):
                yield Finding(file.path, declaration.line, "mutable-global", text)
        for function in file.functions:
            for match in re.finditer(r"\bstatic\b[^;={(]*(?:\([^)]*\))?[^;={(]*", function.body):
                if is_mutable(match.group()):
                    line = function.body_line + function.body.count("\n", 0, match.start())
                    yield Finding(file.path, line, "mutable-global", re.sub(r"\s+", " ", match.group()).strip())


# ---- Rules on the tree


def check_include_direction(tree):
    """Each room includes only the rooms it may know; public headers include nothing else of ours."""
    for file in tree.cpp():
        room = room_of(file.path)
        for line, include in file.includes():
            name = include[1:-1]
            if file.pure.parts[0] == "include" and include.startswith('"') and not name.startswith("dsv4/"):
                yield Finding(file.path, line, "include-direction", f"{name}: a public header includes public headers alone")
            if room is None:
                continue
            if room not in ALLOWED_INCLUDES:
                yield Finding(file.path, line, "include-direction", f'unknown room "{room}": say in ALLOWED_INCLUDES what it may include')
                break
            target = room_of("src/" + name) or name.partition("/")[0]
            is_ours = include.startswith('"') or target in ALLOWED_INCLUDES
            if is_ours and target not in ALLOWED_INCLUDES[room]:
                allowed = ", ".join(sorted(ALLOWED_INCLUDES[room]))
                yield Finding(file.path, line, "include-direction", f"{room} includes {name}, expected only {allowed}")


def check_plain_headers(tree):
    """Headers that .cu files include bring no host library in: the op contracts, base/dtype.h, and what device code includes."""
    pending = [path for path in tree.files if re.fullmatch(r"src/ops/\w+\.h|src/base/dtype\.h|src/backend/cuda/.*\.(?:cu|cuh)", path)]
    seen = set(pending)
    while pending:
        file = tree.files[pending.pop()]
        for line, include in file.includes():
            target = "src/" + include[1:-1]
            if HOST_LIBRARIES.match(include):
                yield Finding(file.path, line, "plain-header", f"{include} in a file that device code includes")
            elif include.startswith('"') and target in tree.files and target not in seen:
                seen.add(target)
                pending.append(target)


def kernel_stem(tree, op):
    """Stem of the .cu file that has the op's function: its own, or that of an op it shares a kernel with; None without one."""
    if any(op in tree.stems(folder, ".cu") for folder in CUDA_KERNELS):
        return op
    for file in tree.cpp():
        if file.pure.suffix == ".cu" and file.pure.parent.as_posix() in CUDA_KERNELS:
            if re.search(rf"^void {op}\(Context& context\b", file.code, re.MULTILINE):
                return file.pure.stem
    return None


def check_op_rooms(tree):
    """An op is found by its stem in every room."""
    ops = sorted(tree.ops())
    backend = tree.files.get("src/ops/backend.h")
    rooms = [("src/backend/cpu", ".cpp"), ("tests/ops", ".cpp"), ("bench/ops", ".cpp")]
    with_kernels = any(tree.has_folder(folder) for folder in CUDA_KERNELS)
    for op in ops:
        contract = f"src/ops/{op}.h"
        for folder, suffix in rooms:
            if op not in tree.stems(folder, suffix):
                yield Finding(contract, 1, "op-rooms", f"{folder}/{op}{suffix} is missing")
        if backend is not None and not re.search(rf"\bvirtual void {op}\(", backend.code):
            yield Finding(contract, 1, "op-rooms", f"Backend::{op} is missing in src/ops/backend.h")
        if not with_kernels:
            continue
        stem = kernel_stem(tree, op)
        if stem is None:
            yield Finding(contract, 1, "op-rooms", f"src/backend/cuda/any or sm90 has neither {op}.cu nor void {op}(Context&…)")
        elif not {op, stem} & tree.stems("tests/cuda", ".cpp"):
            yield Finding(contract, 1, "op-rooms", f"tests/cuda/{stem}.cpp is missing, or a test of {op} alone")
    for stem in sorted(tree.stems("src/ops", ".h") - SHARED_OP_HEADERS - set(ops) - tree.stems("tests/ops", ".cpp")):
        yield Finding(f"src/ops/{stem}.h", 1, "op-rooms", f"tests/ops/{stem}.cpp is missing (a building block of ops)")


def check_mirrors(tree):
    """Tests and benchmarks carry the stem of what they test; a test on a GPU may be one of the engine or of the room model as a whole."""
    cuda = [f"src/backend/cuda/{folder}" for folder in ("runtime", "tune", "block")]
    homes = {"ops": ["src/ops", "src/backend/cpu"], "cuda": [*CUDA_KERNELS, *cuda, "src/model", "src/runtime"]}
    for file in tree.cpp():
        parts = file.pure.parts
        if parts[0] == "tests" and len(parts) == 3 and file.pure.suffix == ".cpp" and parts[1] != "support":
            folders = homes.get(parts[1], [f"src/{parts[1]}"])
            if parts[1] == "cuda" and tree.has_folder(f"src/{file.pure.stem}"):
                continue
            if not any(file.pure.stem in tree.stems(folder, ".h", ".cpp", ".cu") for folder in folders):
                yield Finding(file.path, 1, "mirror", f"no file of this stem in {' or '.join(folders)}")
        if parts[:2] == ("bench", "ops") and file.pure.suffix == ".cpp":
            if file.pure.stem not in tree.stems("src/ops", ".h") - SHARED_OP_HEADERS:
                yield Finding(file.path, 1, "mirror", f"src/ops/{file.pure.stem}.h is not an op")


def check_launches(tree):
    """Kernels of the house start in runtime/launch.h, which counts them; those of the layout tests may start by themselves."""
    for file in tree.cpp():
        if not file.path.startswith("src/backend/cuda/") or file.path == "src/backend/cuda/runtime/launch.h":
            continue
        for line, match in file.matches(r"<<<|\bcu(?:da)?Launch\w*Kernel\w*"):
            yield Finding(file.path, line, "launch", f"{match.group()}: kernels are started by runtime/launch.h alone")


def check_tune(tree):
    """Launch configurations are plain host code, so that they are tested without a GPU."""
    for file in tree.cpp():
        if file.pure.parent.as_posix() != "src/backend/cuda/tune":
            continue
        for line, include in file.includes():
            if re.match(r'[<"]cuda|"backend/cuda/(?!tune/)', include):
                yield Finding(file.path, line, "tune", f"{include} in tune/, expected base, ops and tune alone")


def check_document_links(tree):
    """Relative links of documents lead to files."""
    for file in tree.files.values():
        if file.pure.suffix != ".md":
            continue
        for index, line in enumerate(file.lines):
            for target in re.findall(r"\]\(([^()\s#]+)(?:#[^()\s]*)?\)", line):
                if "://" not in target and not (tree.root / file.pure.parent / target).exists():
                    yield Finding(file.path, index + 1, "link", f"{target} does not exist")


RULES = [
    check_file_length,
    check_function_length,
    check_layout,
    check_file_names,
    check_headers,
    check_unfinished_words,
    check_environment_access,
    check_inline_assembly,
    check_mutable_globals,
    check_include_direction,
    check_plain_headers,
    check_op_rooms,
    check_mirrors,
    check_launches,
    check_tune,
    check_document_links,
]


def lint(root):
    """All findings of the tree under `root`, sorted by place."""
    tree = Tree(root)
    return sorted(finding for rule in RULES for finding in rule(tree))


def main(arguments):
    root = arguments[0] if arguments else Path(__file__).resolve().parent.parent
    findings = lint(root)
    for finding in findings:
        print(f"{finding.path}:{finding.line}: {finding.rule}: {finding.text}")
    if findings:
        print(f"lint: {len(findings)} findings", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
