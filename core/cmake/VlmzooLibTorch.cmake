# LibTorch where its own configuration can't be used: PyPI's wheel for x86-64 is built for CUDA, and .ci/setup installs it
# without CUDA's libraries. Its half for the processor is taken then, under the names that find_package(Torch) gives;
# Torch_FOUND says so. With them, and with other builds, find_package(Torch) has to do.
find_path(VLMZOO_TORCH_CMAKE TorchConfig.cmake HINTS ${Torch_DIR} ${CMAKE_PREFIX_PATH} ${VLMZOO_TORCH_HINT}
          PATH_SUFFIXES Torch share/cmake/Torch)
get_filename_component(vlmzoo_torch "${VLMZOO_TORCH_CMAKE}/../../.." ABSOLUTE)
file(GLOB vlmzoo_cudnn "${vlmzoo_torch}/lib/libcudnn*" "${vlmzoo_torch}/../nvidia/cudnn/lib/libcudnn*")

if(EXISTS "${vlmzoo_torch}/lib/libtorch_cuda.so" AND NOT vlmzoo_cudnn AND NOT TARGET torch)
  include("${VLMZOO_TORCH_CMAKE}/TorchConfigVersion.cmake")
  set(Torch_VERSION ${PACKAGE_VERSION})
  set(Torch_FOUND TRUE)
  set(TORCH_INSTALL_PREFIX "${vlmzoo_torch}")
  set(TORCH_INCLUDE_DIRS "${vlmzoo_torch}/include" "${vlmzoo_torch}/include/torch/csrc/api/include")
  add_library(torch_library INTERFACE IMPORTED)
  target_include_directories(torch_library SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
  target_link_libraries(torch_library INTERFACE "${vlmzoo_torch}/lib/libtorch_cpu.so" "${vlmzoo_torch}/lib/libc10.so")
  file(GLOB vlmzoo_cuda "${vlmzoo_torch}/../nvidia/cu*/lib")
  foreach(folder IN LISTS vlmzoo_cuda)  # what libtorch_cpu.so itself needs
    target_link_options(torch_library INTERFACE "-Wl,-rpath-link,${folder}")
  endforeach()
  add_library(torch INTERFACE IMPORTED)
  target_link_libraries(torch INTERFACE torch_library)
endif()
