# Warnings for our own targets; headers of others are SYSTEM and stay silent.
function(vlmzoo_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion)
  # GCC 12 sees overflows and uninitialised values that are not there in inlined std::string and nlohmann::json code (GCC bugs
  # 105329, 105651, 105562).
  target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict -Wno-stringop-overflow -Wno-array-bounds -Wno-maybe-uninitialized>)
  if(VLMZOO_WARNINGS_AS_ERRORS)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
endfunction()
