"""lint_tree: every rule fires on a small tree that breaks it, and stays silent on one that does not."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import lint_tree  # noqa: E402

CLEAN = {
    "src/base/dtype.h": "// Types.\n#pragma once\n",
    "src/base/env.cpp": '#include "base/env.h"\nint f() { return getenv("A") != nullptr; }\n',
    "src/base/env.h": "// Environment.\n#pragma once\n",
    "src/ops/scale.h": '// Scales.\n#pragma once\n#include "base/dtype.h"\nstruct ScaleParams {\n  int n;\n};\n',
    "src/ops/batch.h": "// A batch.\n#pragma once\nstruct BatchParams {};\n",
    "src/ops/backend.h": "// Ops.\n#pragma once\nclass Backend {\n  virtual void scale(const ScaleParams& params) = 0;\n};\n",
    "src/backend/cpu/scale.cpp": '#include "ops/scale.h"\nnamespace dsv4 {\nconst int kTable[] = {1, 2};\n}  // namespace dsv4\n',
    "src/backend/cuda/ptx/mma.h": '// mma.\n#pragma once\ninline void mma() { asm volatile(""); }\n',
    "src/backend/cuda/sm90/scale.cu": '#include "backend/cuda/ptx/mma.h"\n',
    "tests/ops/scale.cpp": "int main() { return 0; }\n",
    "tests/cuda/scale.cpp": "int main() { return 0; }\n",
    "tests/base/env.cpp": "int main() { return 0; }\n",
    "bench/ops/scale.cpp": "int main() { return 0; }\n",
    "docs/a.md": "See [b](b.md#part), [web](https://example.org) and [here](#there).\n",
    "docs/b.md": "# Part\n",
    "README.md": "See [the docs](docs/a.md).\n",
}


class LintTest(unittest.TestCase):
    def lint(self, changes=None):
        """'path:line: rule' of every finding in the clean tree with these files changed; None removes a file."""
        with tempfile.TemporaryDirectory() as root:
            for path, text in {**CLEAN, **(changes or {})}.items():
                if text is not None:
                    target = Path(root, path)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(text.encode())
            return [f"{finding.path}:{finding.line}: {finding.rule}" for finding in lint_tree.lint(root)]

    def lint_source(self, text):
        """Lines of the findings in one more source file."""
        findings = self.lint({"src/base/env.h": "// Environment.\n#pragma once\n" + text})
        return [(int(finding.split(":")[1]) - 2, finding.rpartition(" ")[2]) for finding in findings]


class CleanTree(LintTest):
    def test_no_findings(self):
        self.assertEqual(self.lint(), [])


class FileRules(LintTest):
    def test_file_length(self):
        self.assertEqual(self.lint({"src/base/a.cpp": "\n" * 798 + "int main();\n"}), [])
        self.assertEqual(self.lint({"src/base/a.cpp": "\n" * 799 + "int main();\n"}), ["src/base/a.cpp:800: file-length"])

    def test_function_length(self):
        body = "int f() {\n" + "  g();\n" * 117
        self.assertEqual(self.lint({"src/base/a.cpp": body + "}\n"}), [])
        self.assertEqual(self.lint({"src/base/a.cpp": "\n" + body + "  g();\n}\n"}), ["src/base/a.cpp:2: function-length"])
        self.assertEqual(self.lint({"tools/a.py": "def f():\n" + "    g()\n" * 119}), ["tools/a.py:1: function-length"])

    def test_layout(self):
        self.assertEqual(self.lint_source("\tint f();\n"), [(1, "whitespace")])
        self.assertEqual(self.lint_source("int f();\r\n"), [(1, "whitespace")])
        self.assertEqual(self.lint_source("// " + "é" * 137 + "\n"), [])
        self.assertEqual(self.lint_source("// " + "é" * 138 + "\n"), [(1, "columns")])
        self.assertEqual(self.lint_source("int f();"), [(1, "newline")])
        self.assertEqual(self.lint_source("int f();\n\n"), [(2, "newline")])

    def test_file_names(self):
        self.assertEqual(self.lint({"src/base/MyFile.cpp": "int f();\n"}), ["src/base/MyFile.cpp:1: file-name"])
        self.assertEqual(self.lint({"tools/my-tool.py": "pass\n"}), ["tools/my-tool.py:1: file-name"])
        self.assertEqual(self.lint({"src/base/CMakeLists.txt": "add()\n", "tools/tiny/__init__.py": "", "fuzz/seeds/a/X-1": "x"}), [])

    def test_headers(self):
        self.assertEqual(self.lint({"src/base/env.h": "#pragma once\n"}), ["src/base/env.h:1: header-comment"])
        self.assertEqual(self.lint({"src/base/env.h": "// Says #pragma once.\n"}), ["src/base/env.h:1: header-once"])
        guarded = "// API.\n#ifndef DSV4_H\n#define DSV4_H\n#endif\n"
        self.assertEqual(self.lint({"include/dsv4/dsv4.h": guarded}), [])
        self.assertEqual(self.lint({"src/base/env.h": guarded}), ["src/base/env.h:1: header-once"])

    def test_unfinished_words(self):
        for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X"):
            self.assertEqual(self.lint_source(f"// {word}: later\n"), [(1, "unfinished")])
        self.assertEqual(self.lint_source("// mktemp XXXXXX, todo list\n"), [])

    def test_environment(self):
        self.assertEqual(self.lint_source('inline auto* f() { return std::getenv("B"); }\n'), [(1, "environment")])
        self.assertEqual(self.lint_source("inline char** f() { return environ; }\n"), [(1, "environment")])
        self.assertEqual(self.lint({"tests/support/a.cpp": "char** f() { return environ; }\n"}), [])
        self.assertEqual(self.lint_source('// getenv("B")\nconst char* const a = "getenv";\n'), [])

    def test_inline_assembly(self):
        self.assertEqual(self.lint_source('inline void f() { asm volatile("nop"); }\n'), [(1, "inline-assembly")])

    def test_document_links(self):
        self.assertEqual(self.lint({"docs/b.md": "\n[c](c.md)\n"}), ["docs/b.md:2: link"])


class MutableGlobals(LintTest):
    def test_found(self):
        for text in (
            "int count;",
            "static int count = 0;",
            "inline std::vector<int> list = {1, 2};",
            "std::atomic<int> counter{0};",
            "std::atomic<int> counter(0);",
            "const char* name = nullptr;",
            "extern int count;",
            "std::map<std::string, std::vector<int>> table;",
            "void (*handler)(int) = nullptr;",
            "namespace a { namespace { bool flag = false; } }",
            "struct S {\n  int a;\n} instance;",
            "struct S { static int count; };",
            "struct S { inline static std::vector<int> list{}; };",
            "int f() { static int calls = 0; return ++calls; }",
            "int f() { static std::vector<int> cache; return 0; }",
            "int f() { static std::once_flag flag; return 0; }",
            "const int& f() { static int* const a = g(); static int* b = g(); return *a; }",
            "thread_local const int kId = 3;",
            "template <typename T>\nint count = 0;",
        ):
            self.assertEqual([rule for _, rule in self.lint_source(text + "\n")], ["mutable-global"], text)

    def test_not_found(self):
        for text in (
            "constexpr int kA = 1;",
            "volatile std::sig_atomic_t interrupted = 0;",
            "inline constexpr const char* kNames[] = {\"a\", \"b\"};",
            "const std::vector<int> kList = {1, 2};",
            "static const char* const kName = \"x\";",
            "extern const int kA;",
            "int f(int a = 3, const char* b = \"x\");",
            "static int f();",
            "std::vector<int> f(const S& s);",
            "bool operator==(const S& a, const S& b);",
            "using F = void (*)(int);",
            "typedef struct S S;",
            "struct S;",
            "enum class E : uint8_t;",
            "enum class E : uint8_t { kA, kB };",
            "class C : public B { int count_ = 0; static int f(); static constexpr int kA = 1; static const int kB; };",
            "template <typename T>\nstruct S { T value; };",
            "template <typename T>\ninline constexpr bool kIs = false;",
            "static_assert(sizeof(int) == 4, \"x\");",
            "BENCHMARK(f)->Arg(1)->Arg(2);",
            "BENCHMARK_MAIN();",
            "int f() { static const std::vector<int> kList = g(); int a = static_cast<int>(1); return a; }",
            "const S& f() { static const S s = [] { S t; t.a = 1; return t; }(); return s; }",
            "namespace a = b::c;",
            "const struct { int a; } kRows[] = {{1}, {2}};",
        ):
            self.assertEqual(self.lint_source(text + "\n"), [], text)


class TreeRules(LintTest):
    def test_include_direction(self):
        for path, include in (
            ("src/model/a.cpp", "backend/cpu/backend.h"),
            ("src/ops/a.cpp", "model/config.h"),
            ("src/base/a.cpp", "ops/scale.h"),
            ("src/text/a.cpp", "ops/scale.h"),
            ("src/backend/cpu/a.cpp", "backend/cuda/ptx/mma.h"),
            ("src/cli/a.cpp", "server/http.h"),
            ("src/base/a.cpp", "sibling.h"),
            ("include/dsv4/a.h", "base/env.h"),
        ):
            text = f'// A.\n#pragma once\n#include <vector>\n#include "{include}"\n'
            self.assertEqual(self.lint({path: text}), [f"{path}:4: include-direction"])
        commented = '// #include "backend/cpu/backend.h"\n#include <runtime/engine.h>\n'
        self.assertEqual(self.lint({"src/model/a.cpp": commented}), ["src/model/a.cpp:2: include-direction"])
        self.assertEqual(self.lint({"src/attic/a.cpp": "#include <vector>\n"}), ["src/attic/a.cpp:1: include-direction"])
        self.assertEqual(self.lint({"include/dsv4/b.h": '// B.\n#pragma once\n#include "dsv4/a.h"\n'}), [])
        self.assertEqual(self.lint({"src/runtime/a.cpp": '#include "backend/cpu/backend.h"\n#include "text/a.h"\n'}), [])

    def test_plain_headers(self):
        chain = {"src/ops/scale.h": CLEAN["src/ops/scale.h"].replace("base/dtype.h", "base/error.h")}
        chain["src/base/error.h"] = "// Errors.\n#pragma once\n#include <fmt/format.h>\n"
        self.assertEqual(self.lint(chain), ["src/base/error.h:3: plain-header"])
        self.assertEqual(self.lint({"src/base/error.h": chain["src/base/error.h"]}), [])

    def test_op_rooms(self):
        for path in ("src/backend/cpu/scale.cpp", "bench/ops/scale.cpp", "tests/ops/scale.cpp"):
            self.assertEqual(self.lint({path: None}), ["src/ops/scale.h:1: op-rooms"])
        no_kernel = {"src/backend/cuda/sm90/scale.cu": None, "src/backend/cuda/any/other.cu": "int f();\n"}
        self.assertEqual(self.lint({**no_kernel, "tests/cuda/scale.cpp": None}), ["src/ops/scale.h:1: op-rooms"])
        without_cuda = {path: None for path in CLEAN if path.startswith(("src/backend/cuda", "tests/cuda"))}
        self.assertEqual(self.lint(without_cuda), [])
        host_side_only = {"src/backend/cuda/sm90/scale.cu": None, "tests/cuda/scale.cpp": None}
        self.assertEqual(self.lint({**host_side_only, "src/backend/cuda/runtime/device.cpp": "int f();\n"}), [])
        self.assertEqual(self.lint({"src/ops/backend.h": "// Ops.\n#pragma once\n"}), ["src/ops/scale.h:1: op-rooms"])
        self.assertEqual(self.lint({"src/ops/rope.h": "// Rotations.\n#pragma once\n"}), ["src/ops/rope.h:1: op-rooms"])

    def test_kernels_that_ops_share(self):
        shared = {"src/backend/cuda/sm90/scale.cu": None, "tests/cuda/scale.cpp": None, "tests/cuda/group.cpp": "int f();\n"}
        other = "src/backend/cuda/any/group.cu"
        self.assertEqual(self.lint({**shared, other: "void scale(Context& context, const ScaleParams& params) {}\n"}), [])
        for text in ("// void scale(Context& context)\n", "void scaled(Context& context);\n", "int scale(Context& context);\n"):
            self.assertEqual(self.lint({**shared, other: text}), ["src/ops/scale.h:1: op-rooms"], text)
        untested = {"tests/cuda/scale.cpp": None}
        self.assertEqual(self.lint(untested), ["src/ops/scale.h:1: op-rooms"])

    def test_launches(self):
        for call in ("kernel<<<1, 32>>>()", "cudaLaunchKernelEx(a, b)", "cuLaunchKernel(a)"):
            text = f"void f() {{ {call}; }}\n"
            self.assertEqual(self.lint({"src/backend/cuda/sm90/scale.cu": text}), ["src/backend/cuda/sm90/scale.cu:1: launch"], text)
        launcher = "// Launches.\n#pragma once\nvoid f() { cudaLaunchKernelEx(a, b); }\n"
        self.assertEqual(self.lint({"src/backend/cuda/runtime/launch.h": launcher}), [])
        self.assertEqual(self.lint({"src/backend/cuda/sm90/scale.cu": "// <<<\nvoid f() { cudaGraphLaunch(a, b); }\n"}), [])
        self.assertEqual(self.lint({"tests/cuda/layout/mma.cu": "void f() { kernel<<<1, 32>>>(); }\n"}), [])

    def test_tune(self):
        for include in ("<cuda_runtime.h>", '"backend/cuda/runtime/launch.h"'):
            text = f"// A.\n#pragma once\n#include {include}\n"
            self.assertEqual(self.lint({"src/backend/cuda/tune/scale.h": text}), ["src/backend/cuda/tune/scale.h:3: tune"])
        own = '// A.\n#pragma once\n#include <vector>\n#include "backend/cuda/tune/tiles.h"\n#include "ops/scale.h"\n'
        self.assertEqual(self.lint({"src/backend/cuda/tune/scale.h": own}), [])

    def test_mirrors(self):
        self.assertEqual(self.lint({"tests/base/unknown.cpp": "int f();\n"}), ["tests/base/unknown.cpp:1: mirror"])
        self.assertEqual(self.lint({"bench/ops/batch.cpp": "int f();\n"}), ["bench/ops/batch.cpp:1: mirror"])
        self.assertEqual(self.lint({"tests/cuda/unknown.cpp": "int f();\n"}), ["tests/cuda/unknown.cpp:1: mirror"])
        of_the_model = {"tests/cuda/engine.cpp": "int f();\n", "src/runtime/engine.cpp": "int f();\n"}
        of_the_model.update({"tests/cuda/model.cpp": "int f();\n", "src/model/forward.cpp": "int f();\n"})
        self.assertEqual(self.lint(of_the_model), [])
        self.assertEqual(self.lint({"tests/support/compare.cpp": "int f();\n", "tests/cuda/layout/mma.cu": "int f();\n"}), [])


if __name__ == "__main__":
    unittest.main()
