#include "model/file.h"

#include <gtest/gtest.h>

#include <string>

#include "support/error_of.h"
#include "support/temp_dir.h"

namespace dsv4 {
namespace {

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFile, HoldsTheFilesBytes) {
  const test::TempDir dir;
  test::write_file(dir / "a", "some text");
  EXPECT_EQ(text_of(MappedFile(dir / "a")), "some text");
  test::write_file(dir / "empty", "");
  EXPECT_TRUE(MappedFile(dir / "empty").bytes().empty());
  EXPECT_TRUE(MappedFile().bytes().empty());
}

TEST(MappedFile, MovesWithoutCopying) {
  const test::TempDir dir;
  test::write_file(dir / "a", "first");
  test::write_file(dir / "b", "second");
  MappedFile first(dir / "a");
  const auto* bytes = first.bytes().data();
  MappedFile second(std::move(first));
  EXPECT_EQ(second.bytes().data(), bytes);
  MappedFile third(dir / "b");
  third = std::move(second);
  EXPECT_EQ(text_of(third), "first");
  EXPECT_EQ(third.bytes().data(), bytes);
}

TEST(ReadTextFile, BoundsTheSize) {
  const test::TempDir dir;
  test::write_file(dir / "a", "12345");
  EXPECT_EQ(read_text_file(dir / "a", 5), "12345");
  EXPECT_EQ(test::error_of([&] { read_text_file(dir / "a", 4); }), (dir / "a").string() + ": 5 bytes, expected at most 4");
  EXPECT_EQ(test::error_of([&] { read_text_file(dir / "b", 4); }), (dir / "b").string() + ": No such file or directory");
  EXPECT_EQ(test::error_of([&] { read_text_file(dir / "a/b", 4); }), (dir / "a/b").string() + ": Not a directory");
  EXPECT_EQ(test::error_of([&] { read_text_file("/dev/null", 4); }), "/dev/null: not a regular file, expected a regular file");
}

}  // namespace
}  // namespace dsv4
