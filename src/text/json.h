// JSON as Python's json module reads and writes it. Prompts must reproduce json.dumps byte for byte (spec 6.3): key order, integers of any
// size as written, Python's float form, NaN and infinities. nlohmann-json has no place for the last three, hence this small value type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace dsv4 {

// Nesting of arrays and objects that is read; deeper documents are an error.
inline constexpr int kMaxJsonDepth = 512;

// A JSON value. Copying copies everything below it.
class Json {
 public:
  enum class Kind : uint8_t { kNull, kBool, kInteger, kFloat, kString, kArray, kObject };
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;  // insertion order, keys unique

  Json() = default;
  explicit Json(bool value) : value_(value) {}
  explicit Json(double value) : value_(value) {}
  explicit Json(std::string value) : value_(std::move(value)) {}
  explicit Json(std::string_view value) : value_(std::string(value)) {}
  explicit Json(const char* value) : value_(std::string(value)) {}
  explicit Json(Array value) : value_(std::move(value)) {}
  explicit Json(Object value) : value_(std::move(value)) {}

  // An integer of any size; `digits` are its decimal digits with an optional minus sign.
  static Json integer(std::string digits);

  // Reads one document with json.loads' rules: white space is space, tab, CR, LF; NaN, Infinity and -Infinity are numbers; control
  // characters in strings are errors; of a repeated key the first position and the last value stay. Beyond Python: the text must be valid
  // UTF-8, a lone surrogate escape becomes U+FFFD, and nesting is limited to kMaxJsonDepth. Errors name the byte.
  static Json parse(std::string_view text);

  // json.dumps(value, ensure_ascii=False).
  std::string dump() const;

  Kind kind() const { return static_cast<Kind>(value_.index()); }
  const char* kind_name() const;
  bool is_null() const { return kind() == Kind::kNull; }
  bool is_string() const { return kind() == Kind::kString; }
  bool is_array() const { return kind() == Kind::kArray; }
  bool is_object() const { return kind() == Kind::kObject; }

  // Python's bool(value): false for null, false, 0, 0.0, "", [] and {}.
  bool truthy() const;

  // The value of a kind; the caller has checked the kind.
  bool boolean() const { return std::get<bool>(value_); }
  double number() const { return std::get<double>(value_); }
  const std::string& digits() const { return std::get<Integer>(value_).digits; }
  const std::string& string() const { return std::get<std::string>(value_); }
  const Array& array() const { return std::get<Array>(value_); }
  const Object& object() const { return std::get<Object>(value_); }

  // The member of that name; nullptr if there is none or this is no object.
  const Json* find(std::string_view key) const;

 private:
  struct Integer {
    std::string digits;
  };
  std::variant<std::monostate, bool, Integer, double, std::string, Array, Object> value_;
};

// Appends `text` as a JSON string with quotes, escaped as in spec 6.3.
void append_json_string(std::string& out, std::string_view text);

// Appends `text` escaped for the inside of a JSON string, without quotes. Works on pieces: cutting the text changes nothing.
void append_json_escaped(std::string& out, std::string_view text);

// repr(value) of Python, with NaN, Infinity and -Infinity as json.dumps writes them.
std::string python_float(double value);

// Reads JSON piece by piece, so that a large document (tokenizer.json) needs no tree in memory. The dialect is that of Json::parse.
// Every function throws Error with the source's name and the byte where the document is not what the caller or JSON asks for.
class JsonReader {
 public:
  // `text` must outlive the reader; `source` names it in errors.
  JsonReader(std::string_view text, std::string_view source);

  // The kind of the value that comes next.
  Json::Kind peek();

  std::string read_string();
  bool read_bool();
  void read_null();
  // An integer in [low, high].
  int64_t read_integer(int64_t low, int64_t high);
  Json read_value();
  void skip_value();

  // Calls `member(key)` for every member of the object that comes next, repeated keys included; it must read the member's value.
  template <typename Function>
  void read_object(Function&& member) {
    enter('{');
    if (!accept('}')) {
      do {
        const std::string key = read_string();
        expect(':');
        member(key);
      } while (accept(','));
      expect('}');
    }
    --depth_;
  }

  // Calls `item()` for every item of the array that comes next; it must read the item.
  template <typename Function>
  void read_array(Function&& item) {
    enter('[');
    if (!accept(']')) {
      do item();
      while (accept(','));
      expect(']');
    }
    --depth_;
  }

  // Only white space may be left.
  void finish();

  // Throws Error: "SOURCE: byte N: MESSAGE", N being where the reader stands.
  [[noreturn]] void fail_here(std::string_view message) const;

 private:
  void skip_space();
  bool accept(char c);
  void expect(char c);
  void enter(char open);
  bool accept_word(std::string_view word);
  void read_escape(std::string& out);
  uint32_t read_hex4();
  // The characters of the number that comes next; `is_float` tells whether it has a fraction or an exponent.
  std::string_view read_number(bool& is_float);
  Json read_number_value();

  std::string_view text_;
  std::string source_;
  size_t position_ = 0;
  int depth_ = 0;
};

}  // namespace dsv4
