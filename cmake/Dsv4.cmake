# Flags shared by every target, and one function per kind of target.

add_library(dsv4_flags INTERFACE)
set(host_code $<OR:$<COMPILE_LANGUAGE:CXX>,$<COMPILE_LANGUAGE:C>>)
target_compile_options(dsv4_flags INTERFACE $<${host_code}:-Wall -Wextra -Wpedantic -Wshadow -Werror>)
target_compile_options(dsv4_flags INTERFACE
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Werror;-Werror=all-warnings;-lineinfo;--expt-relaxed-constexpr>")
# Contraction would let the compiler fuse a*b+c differently in each loop shape; results must not depend on how a step is cut.
target_compile_options(dsv4_flags INTERFACE $<${host_code}:-ffp-contract=off>)
target_include_directories(dsv4_flags INTERFACE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
target_link_libraries(dsv4_flags INTERFACE Threads::Threads)
if(DSV4_SANITIZE)
  target_compile_options(dsv4_flags INTERFACE -fsanitize=${DSV4_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
  target_link_options(dsv4_flags INTERFACE -fsanitize=${DSV4_SANITIZE})
endif()

# dsv4_add_library(NAME DEPENDENCIES...): a static library of the .cpp files in this folder.
function(dsv4_add_library name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  add_library(dsv4_${name} STATIC ${sources})
  target_link_libraries(dsv4_${name} PUBLIC dsv4_flags ${ARGN})
endfunction()

# dsv4_add_tests(NAME DEPENDENCIES...): one GoogleTest program of the .cpp files in this folder.
function(dsv4_add_tests name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  if(NOT sources)
    return()
  endif()
  add_executable(test_${name} ${sources})
  target_link_libraries(test_${name} PRIVATE dsv4_test_support ${ARGN} GTest::gtest GTest::gtest_main)
  target_compile_definitions(test_${name} PRIVATE
    DSV4_SOURCE_DIR="${PROJECT_SOURCE_DIR}" DSV4_BIN_DIR="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
  gtest_discover_tests(test_${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 120 PROPERTIES TIMEOUT 900)
endfunction()
