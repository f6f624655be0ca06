"""cpp_scan: literals, functions and declarations of small C++ texts."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import cpp_scan  # noqa: E402


def function_lines(text):
    return [(function.name, function.line, function.end_line) for function in cpp_scan.scan(text)[0]]


def declarations(text, scope="namespace"):
    return [declaration.text for declaration in cpp_scan.scan(text)[1] if declaration.scope == scope]


class BlankLiterals(unittest.TestCase):
    def test_positions_stay(self):
        text = 'int a; // one { \n/* two\n { */ char b = \'{\'; auto c = "}\\"{"; auto d = R"x(}"\n)x"; int e = 1\'000;\n'
        blanked = cpp_scan.blank_literals(text)
        self.assertEqual(len(blanked), len(text))
        self.assertEqual([i for i, c in enumerate(blanked) if c == "\n"], [i for i, c in enumerate(text) if c == "\n"])
        self.assertNotIn("{", blanked)
        self.assertNotIn("}", blanked)
        self.assertIn("int e = 1'000;", blanked)

    def test_comment_signs_inside_strings(self):
        self.assertEqual(cpp_scan.blank_literals('f("//", "/*"); g();'), 'f("  ", "  "); g();')


class StripAngles(unittest.TestCase):
    def test_nested(self):
        self.assertEqual(cpp_scan.strip_angles("std::vector<std::pair<A, B*>> x").split(), ["std::vector", "x"])
        self.assertEqual(cpp_scan.strip_angles("std::function<void(int*)> f").split(), ["std::function", "f"])


class Functions(unittest.TestCase):
    def test_kinds(self):
        text = """\
namespace a::b {
namespace {
int one(int x) {
  if (x) { return 1; }
  return 2;
}
}  // namespace
class C final : public B<int> {
 public:
  C(int a, int b) : a_(a), b_{b} {
    use(a);
  }
  ~C() override { if (a_) { free(a_); } }
  bool operator==(const C& other) const { return a_ == other.a_; }
  int get() const noexcept { return b_; }
 private:
  int a_ = 0;
  int b_{1};
};
template <typename T, int N = 3>
auto two(std::array<T, N> x = {}) -> std::vector<T> {
  struct Local { int y; };
  return {};
}
TEST(Suite, Name) {
  EXPECT_EQ(1, 1);
}
}  // namespace a::b
int main() { return 0; }
"""
        self.assertEqual(
            function_lines(text),
            [
                ("one", 3, 6),
                ("C", 10, 12),
                ("~C", 13, 13),
                ("operator==", 14, 14),
                ("get", 15, 15),
                ("two", 20, 24),
                ("TEST(Suite, Name)", 25, 27),
                ("main", 29, 29),
            ],
        )

    def test_tables_and_enums_are_not_functions(self):
        text = """\
enum class E : uint8_t { kA, kB };
constexpr int kTable[] = {1, 2, 3};
const struct { int a; } kRows[] = {{1}, {2}};
constexpr auto kLambda = [](int x) { return x; };
extern "C" {
int f(void);
}
#define BEGIN {
void g() {}
"""
        self.assertEqual(function_lines(text), [("g", 9, 9)])
        self.assertEqual(
            declarations(text),
            [
                "enum class E : uint8_t {}",
                "constexpr int kTable[] = {}",
                "const struct kRows[] = {}",
                "constexpr auto kLambda = [](int x) {}",
                "int f(void)",
            ],
        )

    def test_members_are_of_class_scope(self):
        text = "struct S {\n  int a = 1;\n  static int b;\n};\nint c;\n"
        self.assertEqual(declarations(text, "class"), ["int a = 1", "static int b"])
        self.assertEqual(declarations(text), ["int c"])

    def test_class_with_declarator(self):
        self.assertEqual(declarations("struct S {\n  int a;\n} instance;\n"), ["struct S instance"])


if __name__ == "__main__":
    unittest.main()
