// JSON from files that are not trusted.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string_view>

namespace dsv4 {

// Parses one JSON document. Refuses what a plain parse lets pass: a key that occurs twice in an object, nesting deeper than 32, and more
// than `max_values` values (so that the tree stays in proportion to what the file may mean). Throws Error whose line begins with `where`.
nlohmann::json parse_strict_json(std::string_view text, std::string_view where, size_t max_values);

}  // namespace dsv4
