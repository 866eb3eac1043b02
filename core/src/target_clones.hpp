#pragma once

// For loops of plain C++: compiled for three instruction sets and chosen by the processor.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define VLMZOO_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VLMZOO_CLONES
#endif
