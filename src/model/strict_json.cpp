#include "model/strict_json.h"

#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/printable.h"

namespace dsv4 {
namespace {

constexpr int kMaxDepth = 32;

}  // namespace

nlohmann::json parse_strict_json(std::string_view text, std::string_view where, size_t max_values) {
  using nlohmann::json;
  std::vector<std::set<std::string, std::less<>>> keys;  // of the objects that are open
  size_t num_values = 0;
  const json::parser_callback_t check = [&](int depth, json::parse_event_t event, json& parsed) {
    require(depth <= kMaxDepth, "{}: JSON nested deeper than {}", where, kMaxDepth);
    if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      require(keys.back().insert(key).second, "{}: key \"{}\" occurs twice", where, printable(key));
    } else if (event == json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event != json::parse_event_t::array_end) {
      if (event == json::parse_event_t::object_start) keys.emplace_back();
      require(++num_values <= max_values, "{}: more than {} JSON values", where, max_values);
    }
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::parse_error& error) {
    fail("{}: not valid JSON at byte {}", where, error.byte);
  } catch (const json::exception&) {
    fail("{}: a JSON number is out of range", where);
  }
}

}  // namespace dsv4
