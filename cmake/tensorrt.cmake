# The TensorRT plugin: icmh_rt/_tensorrt_plugins.so, which a program with TensorRT loads through its
# plugin registry. It is built where TensorRT's headers are found beside the CUDA kernels; it links
# with nothing of TensorRT.
set(ICMH_TENSORRT AUTO CACHE STRING
  "Build the TensorRT plugin: AUTO (if the headers are found), ON or OFF")
set_property(CACHE ICMH_TENSORRT PROPERTY STRINGS AUTO ON OFF)
if(NOT ICMH_TENSORRT MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "ICMH_TENSORRT is ${ICMH_TENSORRT}: use AUTO, ON or OFF")
endif()

if(NOT ICMH_TENSORRT STREQUAL "OFF")
  find_path(ICMH_TENSORRT_INCLUDE NvInfer.h
    HINTS $ENV{TENSORRT_ROOT} ${TENSORRT_ROOT}
    PATHS /usr/local/tensorrt /usr/src/tensorrt
    PATH_SUFFIXES include
      include/x86_64-linux-gnu include/aarch64-linux-gnu x86_64-linux-gnu aarch64-linux-gnu
    DOC "Folder of NvInfer.h, TensorRT 10.0 or newer")
  if(NOT icmh_cuda_found)
    set(icmh_tensorrt_reason "the CUDA kernels are not built")
  elseif(NOT ICMH_TENSORRT_INCLUDE)
    set(icmh_tensorrt_reason "NvInfer.h is not found (name TensorRT's folder in TENSORRT_ROOT)")
  else()
    file(STRINGS ${ICMH_TENSORRT_INCLUDE}/NvInferVersion.h icmh_tensorrt_version
      REGEX "define (NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) +[0-9]+")
    string(REGEX MATCH "[0-9]+" icmh_tensorrt_major "${icmh_tensorrt_version}")
    if(icmh_tensorrt_major LESS 10)
      set(icmh_tensorrt_reason "TensorRT is ${icmh_tensorrt_major}, older than 10")
    else()
      set(icmh_tensorrt_found TRUE)
    endif()
  endif()
  if(NOT icmh_tensorrt_found)
    if(ICMH_TENSORRT STREQUAL "ON")
      message(FATAL_ERROR "ICMH_TENSORRT is ON, but ${icmh_tensorrt_reason}")
    endif()
    message(STATUS "Without the TensorRT plugin: ${icmh_tensorrt_reason}")
  endif()
endif()

if(icmh_tensorrt_found)
  add_library(icmh_tensorrt_plugins MODULE
    csrc/kernels/frequency_gate.cu
    csrc/trt/frequency_gate_plugin.cpp
  )
  target_include_directories(icmh_tensorrt_plugins PRIVATE csrc)
  target_include_directories(icmh_tensorrt_plugins SYSTEM PRIVATE
    ${ICMH_TENSORRT_INCLUDE} ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  set_target_properties(icmh_tensorrt_plugins PROPERTIES
    CUDA_STANDARD 17
    CUDA_STANDARD_REQUIRED ON
    CUDA_RUNTIME_LIBRARY Static
    PREFIX ""
    OUTPUT_NAME _tensorrt_plugins
    SUFFIX .so
    LINK_FLAGS "-Wl,--exclude-libs,ALL"
  )
endif()
