/* The kernels' code in the program: the fatbin that the build made of kernels/paged.cu, or nothing where there was no
 * CUDA compiler. */
#include <stdint.h>

extern const unsigned char mcs_i_gpu_image[];
extern const uint64_t mcs_i_gpu_image_len;

#ifdef MCS_GPU_FATBIN
/* The driver wants it aligned. */
__asm__(".section .rodata\n"
        ".balign 16\n"
        ".hidden mcs_i_gpu_image\n"
        ".global mcs_i_gpu_image\n"
        "mcs_i_gpu_image:\n"
        ".incbin \"" MCS_GPU_FATBIN "\"\n"
        "mcs_i_gpu_image_end:\n"
        ".balign 8\n"
        ".hidden mcs_i_gpu_image_len\n"
        ".global mcs_i_gpu_image_len\n"
        "mcs_i_gpu_image_len:\n"
        ".quad mcs_i_gpu_image_end - mcs_i_gpu_image\n"
        ".previous\n");
#else
const unsigned char mcs_i_gpu_image[1] = {0};
const uint64_t mcs_i_gpu_image_len = 0;
#endif
