# LibTorch, with the targets and variables of its own configuration. PyPI's wheel for x86-64 is built for CUDA, and its
# configuration wants the CUDA toolkit; without one its half for the processor is taken as it is.
find_path(VLMZOO_TORCH_CMAKE TorchConfig.cmake HINTS ${Torch_DIR} ${CMAKE_PREFIX_PATH} PATH_SUFFIXES Torch share/cmake/Torch)
get_filename_component(TORCH_INSTALL_PREFIX "${VLMZOO_TORCH_CMAKE}/../../.." ABSOLUTE)
if(EXISTS "${TORCH_INSTALL_PREFIX}/lib/libtorch_cuda.so")
  find_package(CUDAToolkit QUIET)
endif()

if(NOT EXISTS "${TORCH_INSTALL_PREFIX}/lib/libtorch_cuda.so" OR CUDAToolkit_FOUND)
  find_package(Torch 2.13 REQUIRED)
elseif(NOT TARGET torch)
  include("${VLMZOO_TORCH_CMAKE}/TorchConfigVersion.cmake")
  if(PACKAGE_VERSION VERSION_LESS 2.13)
    message(FATAL_ERROR "LibTorch in ${TORCH_INSTALL_PREFIX} is ${PACKAGE_VERSION}, 2.13 or newer is needed")
  endif()
  message(STATUS "LibTorch ${PACKAGE_VERSION} is built for CUDA and no CUDA toolkit is there: for the processor only")
  set(TORCH_INCLUDE_DIRS "${TORCH_INSTALL_PREFIX}/include" "${TORCH_INSTALL_PREFIX}/include/torch/csrc/api/include")
  file(GLOB VLMZOO_CUDA_LIBS "${TORCH_INSTALL_PREFIX}/../nvidia/cu*/lib")
  add_library(torch_library INTERFACE IMPORTED)
  target_include_directories(torch_library SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
  target_link_libraries(torch_library INTERFACE "${TORCH_INSTALL_PREFIX}/lib/libtorch_cpu.so"
                                                "${TORCH_INSTALL_PREFIX}/lib/libc10.so")
  foreach(folder IN LISTS VLMZOO_CUDA_LIBS)  # what libtorch_cpu.so itself needs
    target_link_options(torch_library INTERFACE "-Wl,-rpath-link,${folder}")
  endforeach()
  add_library(torch INTERFACE IMPORTED)
  target_link_libraries(torch INTERFACE torch_library)
endif()
