/* GPU memory for the client: the CUDA driver behind core's table of memory spaces (core/ops/mem_space.h says what each
 * call means). One binary for every machine: libcuda.so.1 is found at run time, in processes that have loaded it
 * already, and nothing of CUDA is linked. */
#ifndef MCS_GPU_GPU_H
#define MCS_GPU_GPU_H

#include "core/ops/mem_space.h"

extern const mcs_mem_space_ops_t mcs_gpu_space_ops;

/* Tests: the kernels' image for spaces opened from now on, instead of the one built in. NULL: none, copies only. */
void mcs_gpu_set_kernel_image(const void *image);

#endif
