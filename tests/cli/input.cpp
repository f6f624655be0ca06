#include "cli/input.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "support/temp_dir.h"

namespace dsv4 {
namespace {

std::vector<std::string> read_lines(const std::string& contents) {
  const test::TempDir dir;
  test::write_file(dir / "lines", contents);
  std::vector<std::string> lines;
  read_input_lines((dir / "lines").string(), [&](std::string_view line) { lines.emplace_back(line); });
  return lines;
}

std::string error_of(const std::string& path) {
  try {
    read_input_text(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Input, ReadsWholeFilesAnyByte) {
  const test::TempDir dir;
  std::string contents;
  for (int i = 0; i < 300000; ++i) contents.push_back(static_cast<char>(i * 7));
  test::write_file(dir / "bytes", contents);
  EXPECT_EQ(read_input((dir / "bytes").string()), contents);
}

TEST(Input, CutsLines) {
  EXPECT_EQ(read_lines(""), std::vector<std::string>{});
  EXPECT_EQ(read_lines("\n"), std::vector<std::string>{""});
  EXPECT_EQ(read_lines("a\n\nb\r\nc"), (std::vector<std::string>{"a", "", "b", "c"}));
}

TEST(Input, CutsLinesLongerThanABlock) {
  const std::string first(200000, 'x');
  const std::string second(65535, 'y');
  EXPECT_EQ(read_lines(first + "\n" + second + "\nz\n"), (std::vector<std::string>{first, second, "z"}));
}

TEST(Input, NamesWhatCannotBeRead) {
  const test::TempDir dir;
  EXPECT_EQ(error_of((dir / "none").string()), (dir / "none").string() + ": No such file or directory");
  EXPECT_EQ(error_of(dir.path().string()), dir.path().string() + ": is a directory, expected a file");
  test::write_file(dir / "bad", std::string_view("abc\xff"
                                                 "d"));
  EXPECT_EQ(error_of((dir / "bad").string()), (dir / "bad").string() + ": invalid UTF-8 at byte 3");
  test::write_file(dir / "cut", std::string_view("ab\xc3"));
  EXPECT_EQ(error_of((dir / "cut").string()), (dir / "cut").string() + ": invalid UTF-8 at byte 2");
}

}  // namespace
}  // namespace dsv4
