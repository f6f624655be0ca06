#include "runtime/device.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "support/error_of.h"

namespace dsv4 {
namespace {

using test::error_of;

TEST(Device, TheCpuIsAlwaysThere) {
  EXPECT_STREQ(make_backend("cpu", 0)->name(), "cpu");
  EXPECT_STREQ(make_backend("cpu", 3)->name(), "cpu");
  EXPECT_THROW(make_backend("cpu", -1), Error);
  EXPECT_THROW(make_backend("cpu", 4097), Error);
}

TEST(Device, NamesAreRead) {
  EXPECT_EQ(parse_device("cpu"), -1);
  EXPECT_EQ(parse_device("cuda"), 0);
  EXPECT_EQ(parse_device("cuda:0"), 0);
  EXPECT_EQ(parse_device("cuda:12"), 12);
  for (const char* bad : {"", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:1x", "cuda: 1", "cuda:99999999999"})
    EXPECT_EQ(parse_device(bad), std::nullopt) << bad;
}

TEST(Device, WhatIsMissingIsNamed) {
  EXPECT_EQ(error_of([] { make_backend("tpu", 0); }), "device \"tpu\", expected cpu, cuda or cuda:N");
  if (describe_devices().size() > 1) GTEST_SKIP() << "this machine has a CUDA device";
  EXPECT_EQ(error_of([] { make_backend("cuda:1", 0); }).rfind("device cuda:1: ", 0), 0u);
}

TEST(Device, MachinesHaveNamesForResults) {
  const std::string cpu = machine_name("cpu");
  EXPECT_NE(cpu.find(" cores of "), std::string::npos) << cpu;
  EXPECT_EQ(std::to_string(std::stoi(cpu)), cpu.substr(0, cpu.find(' '))) << cpu;
  EXPECT_EQ(error_of([] { machine_name("tpu"); }), "device \"tpu\", expected cpu, cuda or cuda:N");
  if (describe_devices().size() > 1) GTEST_SKIP() << "this machine has a CUDA device";
  EXPECT_EQ(error_of([] { machine_name("cuda"); }).rfind("device cuda", 0), 0u);
}

TEST(Device, TheCpuComesFirstInTheList) {
  const std::vector<std::string> lines = describe_devices();
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines[0].rfind("cpu: ", 0), 0u);
  for (size_t i = 1; i < lines.size(); ++i) EXPECT_EQ(lines[i].rfind("cuda:" + std::to_string(i - 1) + ": ", 0), 0u) << lines[i];
}

}  // namespace
}  // namespace dsv4
