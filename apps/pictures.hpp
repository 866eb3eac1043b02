#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "vlmzoo/error.hpp"
#include "vlmzoo/image.hpp"

namespace vlmzoo::app {

/// The pictures that the arguments name: files as they are; of a folder the *.png, *.jpg, *.jpeg and *.webp directly in
/// it (any case), sorted by name. Error: kNotFound for what doesn't exist and for a folder without pictures.
std::vector<std::filesystem::path> collect_pictures(std::span<const std::string> arguments);

/// True for faults of one picture, which a run over many tells and passes over; those of the machine end it.
bool is_fault_of_picture(ErrorCode code);

/// load_image() of each.
std::vector<Image> load_images(std::span<const std::string> files);

}  // namespace vlmzoo::app
