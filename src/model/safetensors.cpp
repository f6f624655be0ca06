#include "model/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/printable.h"

namespace dsv4 {
namespace {

constexpr size_t kLengthBytes = 8;

std::optional<DType> parse_dtype(std::string_view name) {
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF8E4M3, DType::kF8E8M0, DType::kI8, DType::kI32, DType::kI64}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  return std::nullopt;
}

// A tensor as the header describes it.
struct HeaderTensor {
  std::string name;
  std::optional<DType> dtype;
  std::optional<Shape> shape;
  std::optional<std::array<uint64_t, 2>> offsets;
};

// Takes the header's JSON event by event: {"NAME": {"dtype": "…", "shape": [..], "data_offsets": [begin, end]}, …, "__metadata__": {"…":
// "…"}}. Nothing else is let through, so the memory used stays in proportion to the number of tensors. Every handler throws Error at the
// first fault.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderHandler(std::string_view where) : where_(where) {}

  std::vector<HeaderTensor> take() { return std::move(tensors_); }

  bool start_object(std::size_t) override {
    switch (state_) {
      case State::kBegin:
        state_ = State::kTop;
        return true;
      case State::kTop:
        state_ = in_metadata_ ? State::kMetadata : State::kTensor;
        return true;
      default:
        unexpected("an object");
    }
  }

  bool key(string_t& name) override {
    if (state_ == State::kTop) {
      in_metadata_ = name == "__metadata__";
      require(names_.insert(name).second, "{}: {}: the header has this tensor twice", where_, printable(name));
      if (!in_metadata_) {
        require(!name.empty() && name.size() <= kMaxTensorName, "{}: {}: a tensor name of {} bytes, expected 1 to {}", where_,
                printable(name), name.size(), kMaxTensorName);
        tensors_.push_back({.name = name, .dtype = {}, .shape = {}, .offsets = {}});
      }
    } else if (state_ == State::kTensor) {
      HeaderTensor& tensor = tensors_.back();
      field_ = name == "dtype" ? Field::kDType : name == "shape" ? Field::kShape : Field::kOffsets;
      require(field_ != Field::kOffsets || name == "data_offsets", "{}: {}: unknown key \"{}\", expected dtype, shape or data_offsets",
              where_, printable(tensor.name), printable(name));
      const bool repeated = (field_ == Field::kDType && tensor.dtype) || (field_ == Field::kShape && tensor.shape) ||
                            (field_ == Field::kOffsets && tensor.offsets);
      require(!repeated, "{}: {}: {} occurs twice", where_, printable(tensor.name), name);
    }
    return true;
  }

  bool end_object() override {
    if (state_ == State::kTensor) {
      const HeaderTensor& tensor = tensors_.back();
      require(tensor.dtype && tensor.shape && tensor.offsets, "{}: {}: {} missing", where_, printable(tensor.name),
              !tensor.dtype   ? "dtype"
              : !tensor.shape ? "shape"
                              : "data_offsets");
    }
    state_ = state_ == State::kTop ? State::kEnd : State::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ != State::kTensor || field_ == Field::kDType) unexpected("an array");
    numbers_.clear();
    state_ = State::kArray;
    return true;
  }

  bool end_array() override {
    HeaderTensor& tensor = tensors_.back();
    if (field_ == Field::kShape) {
      tensor.shape.emplace(numbers_.begin(), numbers_.end());
    } else {
      require(numbers_.size() == 2, "{}: {}: {} data_offsets, expected 2", where_, printable(tensor.name), numbers_.size());
      tensor.offsets = {numbers_[0], numbers_[1]};
    }
    state_ = State::kTensor;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ != State::kArray) unexpected("a number");
    const std::string& name = tensors_.back().name;
    require(value <= uint64_t{std::numeric_limits<int64_t>::max()}, "{}: {}: {} in {}, expected less than 2^63", where_, printable(name),
            value, field_name());
    require(numbers_.size() < kMaxTensorRank, "{}: {}: more than {} numbers in {}", where_, printable(name), kMaxTensorRank, field_name());
    numbers_.push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (state_ == State::kMetadata) return true;
    if (state_ != State::kTensor || field_ != Field::kDType) unexpected("a string");
    HeaderTensor& tensor = tensors_.back();
    tensor.dtype = parse_dtype(value);
    require(tensor.dtype.has_value(), "{}: {}: dtype \"{}\", expected BF16, F32, F8_E4M3, F8_E8M0, I8, I32 or I64", where_,
            printable(tensor.name), printable(value, 20));
    return true;
  }

  bool number_integer(number_integer_t value) override {
    if (state_ != State::kArray) unexpected("a number");
    fail("{}: {}: {} in {}, expected no negative number", where_, printable(tensors_.back().name), value, field_name());
  }
  bool number_float(number_float_t, const string_t&) override { unexpected("a fraction"); }
  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("true or false"); }
  bool binary(binary_t&) override { unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail("{}: the header is not valid JSON at byte {}", where_, position);
  }

 private:
  enum class State { kBegin, kTop, kMetadata, kTensor, kArray, kEnd };
  enum class Field { kDType, kShape, kOffsets };

  const char* field_name() const { return field_ == Field::kShape ? "shape" : "data_offsets"; }

  [[noreturn]] void unexpected(const char* what) const {
    if (state_ == State::kBegin) fail("{}: the header is {}, expected a JSON object", where_, what);
    if (in_metadata_) fail("{}: {} in __metadata__, expected strings by name", where_, what);
    const std::string name = tensors_.empty() ? "" : printable(tensors_.back().name);
    fail("{}: {}: {} where the header cannot have it, expected {{dtype, shape, data_offsets}}", where_, name, what);
  }

  std::string_view where_;
  State state_ = State::kBegin;
  Field field_ = Field::kDType;
  bool in_metadata_ = false;
  std::vector<uint64_t> numbers_;
  std::set<std::string, std::less<>> names_;
  std::vector<HeaderTensor> tensors_;
};

// Bytes of a tensor of this shape; nullopt if they do not fit in 63 bits.
std::optional<uint64_t> shape_bytes(const Shape& shape, DType dtype) {
  constexpr uint64_t kLimit = std::numeric_limits<int64_t>::max();
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  uint64_t bytes = dtype_bytes(dtype);
  for (const int64_t dim : shape) {
    if (static_cast<uint64_t>(dim) > kLimit / bytes) return std::nullopt;
    bytes *= static_cast<uint64_t>(dim);
  }
  return bytes;
}

SafetensorsEntry resolve(HeaderTensor& tensor, std::span<const std::byte> data, std::string_view where) {
  const std::string name = printable(tensor.name);
  const auto [begin, end] = *tensor.offsets;
  require(begin <= end, "{}: {}: data_offsets [{},{}], expected begin before end", where, name, begin, end);
  require(end <= data.size(), "{}: {}: data_offsets [{},{}], but the file has {} bytes of data; is it cut short?", where, name, begin, end,
          data.size());
  const std::optional<uint64_t> bytes = shape_bytes(*tensor.shape, *tensor.dtype);
  require(bytes.has_value(), "{}: {}: shape {} is too large", where, name, shape_text(*tensor.shape));
  require(*bytes == end - begin, "{}: {}: {} bytes of data, expected {} for {} {}", where, name, end - begin, *bytes,
          dtype_name(*tensor.dtype), shape_text(*tensor.shape));
  return {.name = std::move(tensor.name),
          .view = {.dtype = *tensor.dtype, .shape = std::move(*tensor.shape), .data = data.data() + begin, .bytes = end - begin}};
}

void check_coverage(const std::vector<SafetensorsEntry>& tensors, std::span<const std::byte> data, std::string_view where) {
  const auto* begin = data.data();
  size_t covered = 0;
  const SafetensorsEntry* previous = nullptr;
  for (const SafetensorsEntry& tensor : tensors) {
    const auto offset = static_cast<size_t>(static_cast<const std::byte*>(tensor.view.data) - begin);
    require(offset >= covered, "{}: {}: begins at byte {} of the data, inside {}, which ends at {}", where, printable(tensor.name), offset,
            previous ? printable(previous->name) : "", covered);
    require(offset == covered, "{}: {}: begins at byte {} of the data, expected {}: bytes between tensors belong to none", where,
            printable(tensor.name), offset, covered);
    covered = offset + tensor.view.bytes;
    previous = &tensor;
  }
  require(covered == data.size(), "{}: {} bytes behind the last tensor, expected none", where, data.size() - covered);
}

}  // namespace

std::vector<SafetensorsEntry> parse_safetensors(std::span<const std::byte> file, std::string_view where) {
  require(file.size() >= kLengthBytes, "{}: {} bytes, expected at least {}: not a safetensors file", where, file.size(), kLengthBytes);
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) header_bytes |= static_cast<uint64_t>(file[i]) << (8 * i);
  require(header_bytes <= kMaxSafetensorsHeader, "{}: header length {}, expected at most {}: not a safetensors file", where, header_bytes,
          kMaxSafetensorsHeader);
  require(header_bytes <= file.size() - kLengthBytes, "{}: header length {}, but the file has {} bytes; is it cut short?", where,
          header_bytes, file.size());
  const auto* text = reinterpret_cast<const char*>(file.data()) + kLengthBytes;
  HeaderHandler handler(where);
  nlohmann::json::sax_parse(text, text + header_bytes, &handler);
  const std::span<const std::byte> data = file.subspan(kLengthBytes + header_bytes);
  std::vector<HeaderTensor> header = handler.take();
  std::vector<SafetensorsEntry> tensors;
  tensors.reserve(header.size());
  for (HeaderTensor& tensor : header) tensors.push_back(resolve(tensor, data, where));
  // Empty tensors before the one that begins at the same byte, so that they count as covered.
  std::sort(tensors.begin(), tensors.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return a.view.data != b.view.data ? std::less<>{}(a.view.data, b.view.data) : a.view.bytes < b.view.bytes;
  });
  check_coverage(tensors, data, where);
  return tensors;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file)
    : file_(file), tensors_(parse_safetensors(file_.bytes(), printable(file.filename().string()))) {}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto found = std::find_if(tensors_.begin(), tensors_.end(), [name](const SafetensorsEntry& tensor) { return tensor.name == name; });
  return found == tensors_.end() ? nullptr : &found->view;
}

}  // namespace dsv4
