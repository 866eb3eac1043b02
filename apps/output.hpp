#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

/// What reaches stdout. Functions throw Error(kIo) when it can't be written (a closed pipe, a full disk).
namespace vlmzoo::app {

/// Keeps the keys in the order in which they were set.
using OrderedJson = nlohmann::ordered_json;

/// Indented, as UTF-8; bytes that are none become U+FFFD.
std::string to_text(const OrderedJson& json);

void print(std::string_view text);
void print_json(const OrderedJson& json);
void flush_output();

/// "error: …" on stderr, whatever the log level. Never throws.
void complain(std::string_view message);

}  // namespace vlmzoo::app
