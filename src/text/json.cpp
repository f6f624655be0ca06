#include "text/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "base/error.h"
#include "text/utf8.h"

namespace dsv4 {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// The decimal exponent of the leading non-zero digit of a JSON number, saturated far outside the range of a double; 0 if all digits are
// zero.
int64_t decimal_exponent(std::string_view number) {
  const size_t e = number.find_first_of("eE");
  const std::string_view mantissa = number.substr(0, e);
  const size_t lead = mantissa.find_first_of("123456789");
  if (lead == std::string_view::npos) return 0;
  const size_t point = std::min(mantissa.find('.'), mantissa.size());
  int64_t exponent = static_cast<int64_t>(point) - static_cast<int64_t>(lead) - (lead < point ? 1 : 0);
  if (e == std::string_view::npos) return exponent;
  std::string_view written = number.substr(e + 1);
  const bool negative = written.front() == '-';
  if (negative || written.front() == '+') written.remove_prefix(1);
  int64_t value = 0;
  constexpr int64_t kSaturated = int64_t{1} << 60;
  if (std::from_chars(written.data(), written.data() + written.size(), value).ec != std::errc() || value > kSaturated) value = kSaturated;
  return exponent + (negative ? -value : value);
}

// The nearest double; a value outside the range becomes zero or infinity as in Python.
double parse_double(std::string_view number) {
  double value = 0.0;
  const auto result = std::from_chars(number.data(), number.data() + number.size(), value);
  if (result.ec != std::errc::result_out_of_range) return value;
  const double magnitude = decimal_exponent(number) < 0 ? 0.0 : std::numeric_limits<double>::infinity();
  return number.front() == '-' ? -magnitude : magnitude;
}

// Of repeated keys keeps the first position and the last value, as filling a Python dict does.
void merge_repeated_keys(Json::Object& members) {
  std::unordered_map<std::string_view, size_t> first;
  first.reserve(members.size());
  std::vector<size_t> target(members.size());
  bool repeated = false;
  for (size_t i = 0; i < members.size(); ++i) {
    const auto [found, inserted] = first.try_emplace(members[i].first, i);
    target[i] = found->second;
    repeated |= !inserted;
  }
  if (!repeated) return;
  Json::Object unique;
  std::vector<size_t> place(members.size());
  for (size_t i = 0; i < members.size(); ++i) {
    if (target[i] == i) {
      place[i] = unique.size();
      unique.emplace_back(members[i].first, std::move(members[i].second));
    } else {
      unique[place[target[i]]].second = std::move(members[i].second);
    }
  }
  members = std::move(unique);
}

void append_value(std::string& out, const Json& value) {
  switch (value.kind()) {
    case Json::Kind::kNull:
      out += "null";
      return;
    case Json::Kind::kBool:
      out += value.boolean() ? "true" : "false";
      return;
    case Json::Kind::kInteger:
      out += value.digits();
      return;
    case Json::Kind::kFloat:
      out += python_float(value.number());
      return;
    case Json::Kind::kString:
      append_json_string(out, value.string());
      return;
    case Json::Kind::kArray: {
      out += '[';
      for (const Json& item : value.array()) {
        if (&item != value.array().data()) out += ", ";
        append_value(out, item);
      }
      out += ']';
      return;
    }
    case Json::Kind::kObject: {
      out += '{';
      for (const Json::Member& member : value.object()) {
        if (&member != value.object().data()) out += ", ";
        append_json_string(out, member.first);
        out += ": ";
        append_value(out, member.second);
      }
      out += '}';
      return;
    }
  }
}

}  // namespace

Json Json::integer(std::string digits) {
  Json json;
  json.value_ = Integer{std::move(digits)};
  return json;
}

Json Json::parse(std::string_view text) {
  JsonReader reader(text, "JSON");
  Json value = reader.read_value();
  reader.finish();
  return value;
}

std::string Json::dump() const {
  std::string out;
  append_value(out, *this);
  return out;
}

const char* Json::kind_name() const {
  constexpr std::array<const char*, 7> kNames = {"null", "a boolean", "an integer", "a float", "a string", "an array", "an object"};
  return kNames[value_.index()];
}

bool Json::truthy() const {
  switch (kind()) {
    case Kind::kNull:
      return false;
    case Kind::kBool:
      return boolean();
    case Kind::kInteger:
      return digits() != "0";
    case Kind::kFloat:
      return number() != 0.0;
    case Kind::kString:
      return !string().empty();
    case Kind::kArray:
      return !array().empty();
    case Kind::kObject:
      return !object().empty();
  }
  return false;
}

const Json* Json::find(std::string_view key) const {
  if (!is_object()) return nullptr;
  const auto found = std::find_if(object().begin(), object().end(), [&](const Member& member) { return member.first == key; });
  return found == object().end() ? nullptr : &found->second;
}

void append_json_escaped(std::string& out, std::string_view text) {
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
}

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  append_json_escaped(out, text);
  out += '"';
}

std::string python_float(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
  // Shortest digits that read back as the same double, "d.ddde±xx"; Python lays the same digits out in its own way.
  std::array<char, 32> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific).ptr;
  std::string_view written(buffer.data(), static_cast<size_t>(end - buffer.data()));
  const bool negative = written.front() == '-';
  if (negative) written.remove_prefix(1);
  const size_t e = written.find('e');
  int exponent = 0;
  const size_t sign = written[e + 1] == '+' ? 1 : 0;
  std::from_chars(written.data() + e + 1 + sign, written.data() + written.size(), exponent);
  std::string digits(written.substr(0, 1));
  if (e > 2) digits += written.substr(2, e - 2);

  std::string out(negative ? 1 : 0, '-');
  const int num_digits = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out.append(digits, 0, 1);
    if (num_digits > 1) out.append(1, '.').append(digits, 1);
    out += fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  } else if (exponent < 0) {
    out.append("0.").append(static_cast<size_t>(-exponent - 1), '0').append(digits);
  } else if (num_digits <= exponent + 1) {
    out.append(digits).append(static_cast<size_t>(exponent + 1 - num_digits), '0').append(".0");
  } else {
    const size_t point = static_cast<size_t>(exponent) + 1;
    out.append(digits, 0, point).append(1, '.').append(digits, point);
  }
  return out;
}

JsonReader::JsonReader(std::string_view text, std::string_view source) : text_(text), source_(source) {
  position_ = utf8_valid_prefix(text);
  if (position_ != text.size()) fail_here("invalid UTF-8");
  position_ = 0;
}

void JsonReader::fail_here(std::string_view message) const {
  fail("{}: byte {}: {}", source_, position_, message);
}

void JsonReader::skip_space() {
  while (position_ < text_.size() && std::string_view(" \t\r\n").find(text_[position_]) != std::string_view::npos) ++position_;
}

bool JsonReader::accept(char c) {
  skip_space();
  if (position_ >= text_.size() || text_[position_] != c) return false;
  ++position_;
  return true;
}

void JsonReader::expect(char c) {
  if (!accept(c)) fail_here(fmt::format("expected '{}'", c));
}

void JsonReader::enter(char open) {
  expect(open);
  if (++depth_ > kMaxJsonDepth) fail_here(fmt::format("nested deeper than {} levels", kMaxJsonDepth));
}

bool JsonReader::accept_word(std::string_view word) {
  skip_space();
  if (!text_.substr(position_).starts_with(word)) return false;
  position_ += word.size();
  return true;
}

Json::Kind JsonReader::peek() {
  skip_space();
  if (position_ >= text_.size()) fail_here("expected a value, found the end");
  switch (text_[position_]) {
    case '{':
      return Json::Kind::kObject;
    case '[':
      return Json::Kind::kArray;
    case '"':
      return Json::Kind::kString;
    case 't':
    case 'f':
      return Json::Kind::kBool;
    case 'n':
      return Json::Kind::kNull;
    case 'N':
    case 'I':
      return Json::Kind::kFloat;
    default:
      break;
  }
  const size_t start = position_;
  bool is_float = false;
  read_number(is_float);
  position_ = start;
  return is_float ? Json::Kind::kFloat : Json::Kind::kInteger;
}

std::string JsonReader::read_string() {
  expect('"');
  std::string out;
  while (true) {
    const size_t start = position_;
    while (position_ < text_.size() && text_[position_] != '"' && text_[position_] != '\\' &&
           static_cast<unsigned char>(text_[position_]) >= 0x20)
      ++position_;
    out.append(text_.substr(start, position_ - start));
    if (position_ >= text_.size()) fail_here("unterminated string");
    if (text_[position_] == '"') break;
    if (text_[position_] != '\\') fail_here("control character in a string");
    ++position_;
    read_escape(out);
  }
  ++position_;
  return out;
}

void JsonReader::read_escape(std::string& out) {
  if (position_ >= text_.size()) fail_here("unterminated string");
  constexpr std::string_view kLetters = "\"\\/bfnrt";
  constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
  const char letter = text_[position_];
  if (letter != 'u') {
    const size_t i = kLetters.find(letter);
    if (i == std::string_view::npos) fail_here("unknown escape in a string");
    out += kValues[i];
    ++position_;
    return;
  }
  ++position_;
  const auto is_high = [](uint32_t unit) { return unit >= 0xd800 && unit < 0xdc00; };
  const auto is_low = [](uint32_t unit) { return unit >= 0xdc00 && unit < 0xe000; };
  const uint32_t unit = read_hex4();
  if (is_high(unit) && text_.substr(position_).starts_with("\\u")) {
    const size_t after_high = position_;
    position_ += 2;
    const uint32_t low = read_hex4();
    if (is_low(low)) return append_utf8(out, 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
    position_ = after_high;  // the second escape stands for itself
  }
  if (is_high(unit) || is_low(unit)) {
    out.append(kReplacementCharacter);
  } else {
    append_utf8(out, unit);
  }
}

uint32_t JsonReader::read_hex4() {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i, ++position_) {
    const char c = position_ < text_.size() ? text_[position_] : '\0';
    uint32_t digit = 0;
    if (is_digit(c)) {
      digit = static_cast<uint32_t>(c - '0');
    } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
      digit = static_cast<uint32_t>((c | 0x20) - 'a') + 10;
    } else {
      fail_here("expected four hexadecimal digits after \\u");
    }
    value = value * 16 + digit;
  }
  return value;
}

std::string_view JsonReader::read_number(bool& is_float) {
  skip_space();
  const size_t start = position_;
  size_t end = start;
  const auto at = [&](size_t i) { return i < text_.size() ? text_[i] : '\0'; };
  if (at(end) == '-') ++end;
  if (text_.substr(end).starts_with("Infinity") && end > start) {
    is_float = true;
    position_ = end + std::string_view("Infinity").size();
    return text_.substr(start, position_ - start);
  }
  if (!is_digit(at(end))) fail_here("expected a value");
  if (at(end) == '0') {
    ++end;  // no digit may follow a leading zero: the caller then finds one where it expects a separator
  } else {
    while (is_digit(at(end))) ++end;
  }
  is_float = false;
  if (at(end) == '.' && is_digit(at(end + 1))) {
    is_float = true;
    ++end;
    while (is_digit(at(end))) ++end;
  }
  if (at(end) == 'e' || at(end) == 'E') {
    const size_t digits = end + (at(end + 1) == '+' || at(end + 1) == '-' ? 2 : 1);
    if (is_digit(at(digits))) {
      is_float = true;
      end = digits;
      while (is_digit(at(end))) ++end;
    }
  }
  position_ = end;
  return text_.substr(start, end - start);
}

Json JsonReader::read_number_value() {
  bool is_float = false;
  const std::string_view number = read_number(is_float);
  if (number == "-Infinity") return Json(-std::numeric_limits<double>::infinity());
  if (is_float) return Json(parse_double(number));
  return Json::integer(number == "-0" ? "0" : std::string(number));
}

Json JsonReader::read_value() {
  switch (peek()) {
    case Json::Kind::kNull:
      read_null();
      return Json();
    case Json::Kind::kBool:
      return Json(read_bool());
    case Json::Kind::kString:
      return Json(read_string());
    case Json::Kind::kArray: {
      Json::Array items;
      read_array([&] { items.push_back(read_value()); });
      return Json(std::move(items));
    }
    case Json::Kind::kObject: {
      Json::Object members;
      read_object([&](const std::string& key) { members.emplace_back(key, read_value()); });
      merge_repeated_keys(members);
      return Json(std::move(members));
    }
    default:
      break;
  }
  if (accept_word("NaN")) return Json(std::numeric_limits<double>::quiet_NaN());
  if (accept_word("Infinity")) return Json(std::numeric_limits<double>::infinity());
  return read_number_value();
}

void JsonReader::skip_value() {
  switch (peek()) {
    case Json::Kind::kString:
      read_string();
      return;
    case Json::Kind::kArray:
      read_array([&] { skip_value(); });
      return;
    case Json::Kind::kObject:
      read_object([&](const std::string&) { skip_value(); });
      return;
    default:
      read_value();
  }
}

bool JsonReader::read_bool() {
  if (accept_word("true")) return true;
  if (!accept_word("false")) fail_here("expected true or false");
  return false;
}

void JsonReader::read_null() {
  if (!accept_word("null")) fail_here("expected null");
}

int64_t JsonReader::read_integer(int64_t low, int64_t high) {
  bool is_float = false;
  const size_t start = position_;
  const std::string_view number = read_number(is_float);
  int64_t value = 0;
  const auto result = std::from_chars(number.data(), number.data() + number.size(), value);
  if (is_float || result.ec != std::errc() || value < low || value > high) {
    position_ = start;
    fail_here(fmt::format("{} is not an integer in [{}, {}]", number, low, high));
  }
  return value;
}

void JsonReader::finish() {
  skip_space();
  if (position_ != text_.size()) fail_here("unexpected text after the value");
}

}  // namespace dsv4
