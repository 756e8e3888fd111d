# The CUDA kernels: icmh_rt/_cuda_kernels.so, a plain shared library that Python loads with ctypes.
# It contains the CUDA runtime and machine code for A100 (8.0, also runs on 8.6 and 8.9), Jetson
# Orin (8.7) and H100 (9.0); newer GPUs compile its PTX when it is loaded.
set(ICMH_CUDA AUTO CACHE STRING "Build the CUDA kernels: AUTO (if nvcc 11.8 is found), ON or OFF")
set_property(CACHE ICMH_CUDA PROPERTY STRINGS AUTO ON OFF)
if(NOT ICMH_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "ICMH_CUDA is ${ICMH_CUDA}: use AUTO, ON or OFF")
endif()

if(NOT ICMH_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    # Before enable_language, which would choose one by itself.
    set(CMAKE_CUDA_ARCHITECTURES 80-real 87-real 90)
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 11.8)
      set(icmh_cuda_found TRUE)
    else()
      set(icmh_cuda_reason "nvcc is ${CMAKE_CUDA_COMPILER_VERSION}, older than 11.8")
    endif()
  else()
    set(icmh_cuda_reason "there is no nvcc")
  endif()
  if(NOT icmh_cuda_found)
    if(ICMH_CUDA STREQUAL "ON")
      message(FATAL_ERROR "ICMH_CUDA is ON, but ${icmh_cuda_reason}")
    endif()
    message(STATUS "Without CUDA kernels: ${icmh_cuda_reason}")
  endif()
endif()

if(icmh_cuda_found)
  add_library(icmh_cuda_kernels MODULE
    csrc/kernels/depth_conv_block.cu
    csrc/kernels/frequency_gate.cu
    csrc/kernels/gdn.cu
    csrc/kernels/images.cu
    csrc/kernels/pointwise.cu
    csrc/kernels/projections.cu
    csrc/kernels/quantize_index.cu
    csrc/kernels/runtime.cu
    csrc/kernels/spatial_modulation.cu
  )
  target_include_directories(icmh_cuda_kernels PRIVATE csrc)
  target_compile_options(icmh_cuda_kernels PRIVATE
    -Werror all-warnings -Xcompiler=-Wall,-Wextra)
  set_target_properties(icmh_cuda_kernels PROPERTIES
    CUDA_STANDARD 17
    CUDA_STANDARD_REQUIRED ON
    CUDA_RUNTIME_LIBRARY Static
    PREFIX ""
    OUTPUT_NAME _cuda_kernels
    SUFFIX .so
    # The headers' functions and nothing of the CUDA runtime, which torch has in another version.
    LINK_FLAGS "-Wl,--exclude-libs,ALL"
  )
endif()
