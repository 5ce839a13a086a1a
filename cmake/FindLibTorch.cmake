# LibTorch::cpu = libtorch_cpu + libc10 and their headers. Looks in CMAKE_PREFIX_PATH first (a user's own LibTorch), then
# where scripts/bootstrap.sh unpacked the pinned wheel. TorchConfig.cmake is not used: that of a CUDA build insists on a
# CUDA toolkit, and Polyad's core needs none.
find_path(LibTorch_INCLUDE_DIR ATen/core/Tensor.h PATH_SUFFIXES include
          HINTS ${CMAKE_SOURCE_DIR}/.deps/site/torch)
find_library(LibTorch_CPU_LIBRARY torch_cpu PATH_SUFFIXES lib HINTS ${CMAKE_SOURCE_DIR}/.deps/site/torch)
find_library(LibTorch_C10_LIBRARY c10 PATH_SUFFIXES lib HINTS ${CMAKE_SOURCE_DIR}/.deps/site/torch)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
    REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR
    REASON_FAILURE_MESSAGE "run scripts/bootstrap.sh, or point CMAKE_PREFIX_PATH at a LibTorch 2.11")

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
    get_filename_component(LibTorch_LIBRARY_DIR ${LibTorch_CPU_LIBRARY} DIRECTORY)
    add_library(LibTorch::c10 SHARED IMPORTED)
    set_target_properties(LibTorch::c10 PROPERTIES IMPORTED_LOCATION ${LibTorch_C10_LIBRARY})
    add_library(LibTorch::cpu SHARED IMPORTED)
    set_target_properties(LibTorch::cpu PROPERTIES
        IMPORTED_LOCATION ${LibTorch_CPU_LIBRARY}
        INTERFACE_INCLUDE_DIRECTORIES "${LibTorch_INCLUDE_DIR};${LibTorch_INCLUDE_DIR}/torch/csrc/api/include"
        INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${LibTorch_INCLUDE_DIR};${LibTorch_INCLUDE_DIR}/torch/csrc/api/include"
        INTERFACE_LINK_LIBRARIES LibTorch::c10)
    # The wheel's libtorch_cpu needs the CUDA runtime and CUPTI wheels that lie beside it.
    file(GLOB LibTorch_RUNTIME_DIRS ${LibTorch_LIBRARY_DIR}/../../nvidia/*/lib)
    if(LibTorch_RUNTIME_DIRS)
        list(TRANSFORM LibTorch_RUNTIME_DIRS PREPEND "-Wl,-rpath-link,")
        set_property(TARGET LibTorch::cpu APPEND PROPERTY INTERFACE_LINK_OPTIONS ${LibTorch_RUNTIME_DIRS})
    endif()
endif()
