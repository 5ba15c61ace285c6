# A file as a C array: cmake -DFROM=index.html -DTO=page.c -P embed.cmake
file(READ ${FROM} bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
string(REGEX REPLACE "(...................................................................................................................)" "\\1\n" bytes "${bytes}")
file(WRITE ${TO} "#include <stddef.h>
extern const unsigned char mcs_dashboard_page[];
extern const size_t mcs_dashboard_page_len;
const unsigned char mcs_dashboard_page[] = {
${bytes}
};
const size_t mcs_dashboard_page_len = sizeof(mcs_dashboard_page);
")
