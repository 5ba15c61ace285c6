# libmcstore.so: the C API (core/include/mcstore) for programs and for bindings of other languages. Its exports are what those headers mark.
if(NOT TARGET mcs_ucx_transport OR NOT TARGET mcs_master)
  return()
endif()
add_library(mcstore SHARED ucx_transport/libmcstore.c)
set_target_properties(mcstore PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
target_link_libraries(mcstore PRIVATE mcs_flags -Wl,--whole-archive mcs_client -Wl,--no-whole-archive mcs_master mcs_ucx_transport mcs_gpu)
install(TARGETS mcstore LIBRARY DESTINATION lib COMPONENT client)
install(DIRECTORY core/include/mcstore DESTINATION include COMPONENT client FILES_MATCHING PATTERN "*.h")

# The name under which bindings of the original's C API look for it.
file(CREATE_LINK libmcstore.so.${PROJECT_VERSION_MAJOR} ${CMAKE_BINARY_DIR}/libmooncake_store.so SYMBOLIC)
install(FILES ${CMAKE_BINARY_DIR}/libmooncake_store.so DESTINATION lib COMPONENT client)
