#pragma once

/// Marks what the shared library `vlmzoo_core` exports; everything else in it is hidden.
#define VLMZOO_API __attribute__((visibility("default")))
