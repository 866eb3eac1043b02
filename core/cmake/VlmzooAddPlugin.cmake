# vlmzoo_add_plugin(<name> SOURCES <file>... [LINK_LIBRARIES <target>...] [OUTPUT_DIRECTORY <folder>] [NO_INSTALL])
#
# A plugin: the target vlmzoo_plugin_<name>, the file vlmzoo_<name>.so, installed to lib/vlmzoo/plugins, where the program
# looks for it. The same function in vlmzoo's own tree and after find_package(vlmzoo).
function(vlmzoo_add_plugin name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "NO_INSTALL" "OUTPUT_DIRECTORY" "SOURCES;LINK_LIBRARIES")
  if(NOT arg_SOURCES OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "usage: vlmzoo_add_plugin(<name> SOURCES <file>... [LINK_LIBRARIES <target>...] "
                        "[OUTPUT_DIRECTORY <folder>] [NO_INSTALL]); not understood: '${arg_UNPARSED_ARGUMENTS}'")
  endif()
  set(target vlmzoo_plugin_${name})
  add_library(${target} MODULE ${arg_SOURCES})
  target_link_libraries(${target} PRIVATE vlmzoo::core ${arg_LINK_LIBRARIES})
  target_compile_features(${target} PRIVATE cxx_std_20)
  # Unique symbols would tie plugins to each other; --no-undefined finds at link time what dlopen would find at run time.
  target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>)
  target_link_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:LINKER:--no-undefined>)
  set_target_properties(
    ${target}
    PROPERTIES PREFIX ""
               OUTPUT_NAME vlmzoo_${name}
               CXX_EXTENSIONS OFF
               CXX_VISIBILITY_PRESET hidden
               VISIBILITY_INLINES_HIDDEN ON
               INSTALL_RPATH "$ORIGIN/../..")

  get_target_property(installed_package vlmzoo::core IMPORTED)
  if(arg_OUTPUT_DIRECTORY)
    set_target_properties(${target} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${arg_OUTPUT_DIRECTORY})
  elseif(NOT installed_package)
    set_target_properties(${target} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib/vlmzoo/plugins)
  endif()
  if(NOT arg_NO_INSTALL)
    install(TARGETS ${target} LIBRARY DESTINATION lib/vlmzoo/plugins)
  endif()
endfunction()
