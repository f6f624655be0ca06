#include "model/safetensors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "support/checkpoint_writer.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace dsv4 {
namespace {

using test::error_of;
using test::safetensors_file;

std::string error_of_bytes(std::span<const std::byte> bytes) {
  return error_of([&] { parse_safetensors(bytes, "f"); });
}

// The error for a header text and `data_bytes` bytes of data.
std::string error_of_header(std::string_view header, size_t data_bytes) {
  return error_of_bytes(safetensors_file(header, std::vector<uint8_t>(data_bytes)));
}

std::string tensor_header(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

TEST(Safetensors, ReadsWhatWasWritten) {
  const std::vector<uint8_t> data = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F8_E8M0","shape":[2,2],"data_offsets":[8,12]},)"
      R"("a":{"data_offsets":[0,8],"shape":[2,1],"dtype":"F32"},"empty":{"dtype":"I64","shape":[0,7],"data_offsets":[8,8]},)"
      R"("none":{"dtype":"BF16","shape":[0],"data_offsets":[12,12]}}   )";
  const auto file = safetensors_file(header, data);
  const auto tensors = parse_safetensors(file, "f");
  ASSERT_EQ(tensors.size(), 4u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].view.dtype, DType::kF32);
  EXPECT_EQ(tensors[0].view.shape, (Shape{2, 1}));
  EXPECT_EQ(tensors[0].view.bytes, 8u);
  EXPECT_EQ(std::memcmp(tensors[0].view.data, data.data(), 8), 0);
  EXPECT_EQ(tensors[1].name, "empty");
  EXPECT_EQ(tensors[1].view.bytes, 0u);
  EXPECT_EQ(tensors[2].name, "b");
  EXPECT_EQ(std::memcmp(tensors[2].view.data, data.data() + 8, 4), 0);
  EXPECT_EQ(tensors[3].name, "none");
}

TEST(Safetensors, KnowsItsDtypes) {
  const std::pair<const char*, DType> dtypes[] = {{"F32", DType::kF32},        {"BF16", DType::kBf16}, {"F8_E4M3", DType::kF8E4M3},
                                                  {"F8_E8M0", DType::kF8E8M0}, {"I8", DType::kI8},     {"I32", DType::kI32},
                                                  {"I64", DType::kI64}};
  for (const auto& [name, dtype] : dtypes) {
    const size_t bytes = dtype_bytes(dtype);
    const auto file = safetensors_file(tensor_header(name, "[]", "[0," + std::to_string(bytes) + "]"), std::vector<uint8_t>(bytes));
    const auto tensors = parse_safetensors(file, "f");
    ASSERT_EQ(tensors.size(), 1u) << name;
    EXPECT_EQ(tensors[0].view.dtype, dtype) << name;
    EXPECT_EQ(tensors[0].view.num_elements(), 1) << name;
  }
  EXPECT_EQ(error_of_header(tensor_header("F16", "[1]", "[0,2]"), 2),
            "f: a: dtype \"F16\", expected BF16, F32, F8_E4M3, F8_E8M0, I8, I32 or I64");
}

TEST(Safetensors, HeaderLengths) {
  EXPECT_EQ(error_of_bytes({}), "f: 0 bytes, expected at least 8: not a safetensors file");
  EXPECT_EQ(error_of_bytes(std::vector<std::byte>(7)), "f: 7 bytes, expected at least 8: not a safetensors file");
  EXPECT_EQ(error_of_bytes(safetensors_file(uint64_t{1} << 63, "{}", {})),
            "f: header length 9223372036854775808, expected at most 100000000: not a safetensors file");
  EXPECT_EQ(error_of_bytes(safetensors_file(~uint64_t{0}, "{}", {})),
            "f: header length 18446744073709551615, expected at most 100000000: not a safetensors file");
  EXPECT_EQ(error_of_bytes(safetensors_file(3, "{}", {})), "f: header length 3, but the file has 10 bytes; is it cut short?");
  EXPECT_EQ(error_of_bytes(safetensors_file(0, "", {})), "f: the header is not valid JSON at byte 1");
  EXPECT_EQ(error_of_bytes(safetensors_file(1, "{}", {})), "f: the header is not valid JSON at byte 2");
  EXPECT_TRUE(parse_safetensors(safetensors_file(2, "{}", {}), "f").empty());
}

TEST(Safetensors, HeadersOfTheWrongForm) {
  EXPECT_EQ(error_of_header("[]", 0), "f: the header is an array, expected a JSON object");
  EXPECT_EQ(error_of_header("7", 0), "f: the header is a number, expected a JSON object");
  EXPECT_EQ(error_of_header("{\"a\":", 0), "f: the header is not valid JSON at byte 6");
  EXPECT_EQ(error_of_header("{} {}", 0), "f: the header is not valid JSON at byte 4");
  EXPECT_EQ(error_of_header(R"({"a":1})", 0), "f: a: a number where the header cannot have it, expected {dtype, shape, data_offsets}");
  EXPECT_EQ(error_of_header(R"({"a":[]})", 0), "f: a: an array where the header cannot have it, expected {dtype, shape, data_offsets}");
  EXPECT_EQ(error_of_header(R"({"a":{"dtype":{}}})", 0),
            "f: a: an object where the header cannot have it, expected {dtype, shape, data_offsets}");
  EXPECT_EQ(error_of_header(R"({"a":{"dtype":null}})", 0),
            "f: a: null where the header cannot have it, expected {dtype, shape, data_offsets}");
  EXPECT_EQ(error_of_header(R"({"a":{"shape":"x"}})", 0),
            "f: a: a string where the header cannot have it, expected {dtype, shape, data_offsets}");
  EXPECT_EQ(error_of_header(R"({"a":{"shape":7}})", 0),
            "f: a: a number where the header cannot have it, expected {dtype, shape, data_offsets}");
  EXPECT_EQ(error_of_header(R"({"a":{"shape":[[1]]}})", 0),
            "f: a: an array where the header cannot have it, expected {dtype, shape, data_offsets}");
  EXPECT_EQ(error_of_header(R"({"a":{"shape":[1.5]}})", 0),
            "f: a: a fraction where the header cannot have it, expected {dtype, shape, data_offsets}");
  EXPECT_EQ(error_of_header(R"({"a":{"size":3}})", 0), "f: a: unknown key \"size\", expected dtype, shape or data_offsets");
  EXPECT_EQ(error_of_header(R"({"__metadata__":{"format":1}})", 0), "f: a number in __metadata__, expected strings by name");
  EXPECT_EQ(error_of_header(R"({"__metadata__":"x"})", 0), "f: a string in __metadata__, expected strings by name");
  EXPECT_EQ(error_of_header(std::string(1000000, '['), 0), "f: the header is an array, expected a JSON object");
  EXPECT_EQ(error_of_header("{\"a\xff\":{}}", 0), "f: the header is not valid JSON at byte 4");
  EXPECT_EQ(error_of_header(R"({"":{}})", 0), "f: : a tensor name of 0 bytes, expected 1 to 1024");
  EXPECT_EQ(error_of_header("{\"" + std::string(1025, 'n') + "\":{}}", 0),
            "f: " + std::string(120, 'n') + "…: a tensor name of 1025 bytes, expected 1 to 1024");
}

TEST(Safetensors, MissingAndRepeatedParts) {
  EXPECT_EQ(error_of_header(R"({"a":{}})", 0), "f: a: dtype missing");
  EXPECT_EQ(error_of_header(R"({"a":{"dtype":"I8","data_offsets":[0,0]}})", 0), "f: a: shape missing");
  EXPECT_EQ(error_of_header(R"({"a":{"dtype":"I8","shape":[0]}})", 0), "f: a: data_offsets missing");
  EXPECT_EQ(error_of_header(R"({"a":{"dtype":"I8","dtype":"I8","shape":[0],"data_offsets":[0,0]}})", 0), "f: a: dtype occurs twice");
  EXPECT_EQ(
      error_of_header(R"({"a":{"dtype":"I8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}})", 0),
      "f: a: the header has this tensor twice");
}

TEST(Safetensors, ShapesAndOffsets) {
  EXPECT_EQ(error_of_header(tensor_header("I8", "[-1]", "[0,1]"), 1), "f: a: -1 in shape, expected no negative number");
  EXPECT_EQ(error_of_header(tensor_header("I8", "[1]", "[-1,0]"), 1), "f: a: -1 in data_offsets, expected no negative number");
  EXPECT_EQ(error_of_header(tensor_header("I8", "[1]", "[0]"), 1), "f: a: 1 data_offsets, expected 2");
  EXPECT_EQ(error_of_header(tensor_header("I8", "[1]", "[0,1,1]"), 1), "f: a: 3 data_offsets, expected 2");
  EXPECT_EQ(error_of_header(tensor_header("I8", "[1]", "[1,0]"), 1), "f: a: data_offsets [1,0], expected begin before end");
  EXPECT_EQ(error_of_header(tensor_header("I8", "[2]", "[0,2]"), 1),
            "f: a: data_offsets [0,2], but the file has 1 bytes of data; is it cut short?");
  EXPECT_EQ(error_of_header(tensor_header("I8", "[1]", "[9223372036854775806,9223372036854775807]"), 1),
            "f: a: data_offsets [9223372036854775806,9223372036854775807], but the file has 1 bytes of data; is it cut short?");
  EXPECT_EQ(error_of_header(tensor_header("I8", "[1]", "[0,9223372036854775808]"), 1),
            "f: a: 9223372036854775808 in data_offsets, expected less than 2^63");
  EXPECT_EQ(error_of_header(tensor_header("BF16", "[1]", "[0,1]"), 1), "f: a: 1 bytes of data, expected 2 for BF16 [1]");
  EXPECT_EQ(error_of_header(tensor_header("F32", "[4294967296,4294967296]", "[0,0]"), 0),
            "f: a: shape [4294967296,4294967296] is too large");
  EXPECT_EQ(error_of_header(tensor_header("I64", "[4611686018427387904]", "[0,0]"), 0), "f: a: shape [4611686018427387904] is too large");
  EXPECT_EQ(error_of_header(tensor_header("I8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1), "f: a: more than 8 numbers in shape");
  EXPECT_EQ(error_of_header(tensor_header("I8", "[9223372036854775807,0]", "[0,0]"), 0), "");
}

TEST(Safetensors, TensorsMustCoverTheDataExactly) {
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"I8","shape":[4],"data_offsets":)" + first + R"(},"b":{"dtype":"I8","shape":[4],"data_offsets":)" + second +
           "}}";
  };
  EXPECT_EQ(error_of_header(two("[0,4]", "[4,8]"), 8), "");
  EXPECT_EQ(error_of_header(two("[4,8]", "[0,4]"), 8), "");
  EXPECT_EQ(error_of_header(two("[0,4]", "[2,6]"), 8), "f: b: begins at byte 2 of the data, inside a, which ends at 4");
  EXPECT_EQ(error_of_header(two("[0,4]", "[0,4]"), 4), "f: b: begins at byte 0 of the data, inside a, which ends at 4");
  EXPECT_EQ(error_of_header(two("[0,4]", "[5,9]"), 9),
            "f: b: begins at byte 5 of the data, expected 4: bytes between tensors belong to none");
  EXPECT_EQ(error_of_header(two("[1,5]", "[5,9]"), 9),
            "f: a: begins at byte 1 of the data, expected 0: bytes between tensors belong to none");
  EXPECT_EQ(error_of_header(two("[0,4]", "[4,8]"), 11), "f: 3 bytes behind the last tensor, expected none");
  EXPECT_EQ(error_of_header("{}", 1), "f: 1 bytes behind the last tensor, expected none");
}

TEST(Safetensors, MessagesStayOnOneLine) {
  EXPECT_EQ(error_of_header("{\"a\\nb\\u0001\":{}}", 0), "f: a\\x0ab\\x01: dtype missing");
}

// Every prefix of a valid file is refused, whatever it cuts through.
TEST(Safetensors, EveryTruncationIsRefused) {
  const auto file = safetensors_file(tensor_header("F32", "[2,2]", "[0,16]"), std::vector<uint8_t>(16, 7));
  ASSERT_EQ(error_of_bytes(file), "");
  for (size_t length = 0; length < file.size(); ++length) {
    EXPECT_NE(error_of_bytes(std::span(file).first(length)), "") << length;
  }
}

TEST(Safetensors, FilesOnDisk) {
  const test::TempDir dir;
  const auto open = [&](const std::string& name) { return error_of([&] { SafetensorsFile file(dir / name); }); };
  EXPECT_EQ(open("absent.safetensors"), (dir / "absent.safetensors").string() + ": No such file or directory");
  std::filesystem::create_directory(dir / "folder.safetensors");
  EXPECT_EQ(open("folder.safetensors"), (dir / "folder.safetensors").string() + ": a directory, expected a regular file");
  test::write_file(dir / "empty.safetensors", "");
  EXPECT_EQ(open("empty.safetensors"), "empty.safetensors: 0 bytes, expected at least 8: not a safetensors file");
  std::filesystem::create_symlink("cycle.safetensors", dir / "cycle.safetensors");
  EXPECT_EQ(open("cycle.safetensors"), (dir / "cycle.safetensors").string() + ": Too many levels of symbolic links");
  ASSERT_EQ(::mkfifo((dir / "pipe.safetensors").c_str(), 0600), 0);
  EXPECT_EQ(open("pipe.safetensors"), (dir / "pipe.safetensors").string() + ": not a regular file, expected a regular file");
  if (::geteuid() != 0) {
    test::write_file(dir / "locked.safetensors", "x");
    std::filesystem::permissions(dir / "locked.safetensors", std::filesystem::perms::none);
    EXPECT_EQ(open("locked.safetensors"), (dir / "locked.safetensors").string() + ": Permission denied");
  }
}

TEST(Safetensors, MovingKeepsTheMapping) {
  const test::TempDir dir;
  const std::vector<uint8_t> data = {9, 8, 7, 6};
  test::write_file(dir / "a", safetensors_file(tensor_header("I8", "[4]", "[0,4]"), data));
  test::write_file(dir / "b", safetensors_file("{}", {}));
  SafetensorsFile first(dir / "a");
  const void* const bytes = first.find("a")->data;
  SafetensorsFile second(std::move(first));
  SafetensorsFile third(dir / "b");
  third = std::move(second);
  ASSERT_NE(third.find("a"), nullptr);
  EXPECT_EQ(third.find("a")->data, bytes);
  EXPECT_EQ(std::memcmp(bytes, data.data(), 4), 0);
  EXPECT_EQ(third.find("x"), nullptr);
}

}  // namespace
}  // namespace dsv4
