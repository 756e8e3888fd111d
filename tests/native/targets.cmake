# The native tests, included by the top CMakeLists.txt with -DICMH_BUILD_TESTS=ON. Every *_test.cpp
# here is a program of its own that exits with 0 if all is well.
option(ICMH_BUILD_FUZZERS "Build the libFuzzer targets (clang only; see tests/fuzz/README.md)" OFF)
set(ICMH_TEST_CASES 10000 CACHE STRING "Cases of rans_levels_test: 10000, or 300 for a quick run")
set(ICMH_FUZZ_MUTATIONS 20000 CACHE STRING "Mutated inputs of the fuzzers' replay")

enable_testing()
set(ICMH_TESTS_FOLDER ${CMAKE_CURRENT_LIST_DIR}/..)

function(icmh_test_program name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE icmh_core)
  target_include_directories(${name} PRIVATE ${ICMH_TESTS_FOLDER}/native)
endfunction()

file(GLOB ICMH_TEST_SOURCES CONFIGURE_DEPENDS ${ICMH_TESTS_FOLDER}/native/*_test.cpp)
foreach(source IN LISTS ICMH_TEST_SOURCES)
  get_filename_component(name ${source} NAME_WE)
  icmh_test_program(${name} ${source})
  set(arguments)
  if(name STREQUAL "rans_levels_test")
    set(arguments --cases ${ICMH_TEST_CASES})
  endif()
  add_test(NAME ${name} COMMAND ${name} ${arguments})
  set_tests_properties(${name} PROPERTIES TIMEOUT 1800)
endforeach()

# The fuzz targets as plain programs: the committed corpus, and mutations of it.
foreach(target rans compat)
  set(sources ${ICMH_TESTS_FOLDER}/fuzz/${target}_fuzz.cpp)
  icmh_test_program(${target}_fuzz_replay ${sources} ${ICMH_TESTS_FOLDER}/fuzz/replay.cpp)
  add_test(NAME ${target}_fuzz_replay COMMAND ${target}_fuzz_replay
    --mutations ${ICMH_FUZZ_MUTATIONS} ${ICMH_TESTS_FOLDER}/fuzz/corpus/${target})
  set_tests_properties(${target}_fuzz_replay PROPERTIES TIMEOUT 1800)
  if(ICMH_BUILD_FUZZERS)
    icmh_test_program(${target}_fuzz ${sources})
    target_link_options(${target}_fuzz PRIVATE -fsanitize=fuzzer)
  endif()
endforeach()
