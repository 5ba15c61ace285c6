/* gpu/cuda_api.h and gpu/cuda_symbols.def say what the toolkit's cuda.h says. */
#include <cuda.h>

#include "gpu/cuda_api.h"
#include "tests/support/unit.h"

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)
SAME(CUDA_OK, CUDA_SUCCESS);
SAME(CUDA_BAD_VALUE, CUDA_ERROR_INVALID_VALUE);
SAME(CUDA_OUT_OF_MEMORY, CUDA_ERROR_OUT_OF_MEMORY);
SAME(CUDA_NOT_INITIALIZED, CUDA_ERROR_NOT_INITIALIZED);
SAME(CUDA_DEINITIALIZED, CUDA_ERROR_DEINITIALIZED);
SAME(CUDA_BAD_CONTEXT, CUDA_ERROR_INVALID_CONTEXT);
SAME(CUDA_NOT_READY, CUDA_ERROR_NOT_READY);
SAME(CUDA_ALREADY_REGISTERED, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
SAME(CUDA_NOT_REGISTERED, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
SAME(CUDA_NOT_SUPPORTED, CUDA_ERROR_NOT_SUPPORTED);
SAME(CUDA_POINTER_CONTEXT, CU_POINTER_ATTRIBUTE_CONTEXT);
SAME(CUDA_POINTER_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
SAME(CUDA_POINTER_BUFFER_ID, CU_POINTER_ATTRIBUTE_BUFFER_ID);
SAME(CUDA_POINTER_IS_MANAGED, CU_POINTER_ATTRIBUTE_IS_MANAGED);
SAME(CUDA_POINTER_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
SAME(CUDA_POINTER_RANGE_START, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR);
SAME(CUDA_POINTER_RANGE_SIZE, CU_POINTER_ATTRIBUTE_RANGE_SIZE);
SAME(CUDA_POINTER_MAPPED, CU_POINTER_ATTRIBUTE_MAPPED);
SAME(CUDA_POINTER_MAPPING_SIZE, CU_POINTER_ATTRIBUTE_MAPPING_SIZE);
SAME(CUDA_POINTER_MAPPING_BASE, CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR);
SAME(CUDA_MEMORY_HOST, CU_MEMORYTYPE_HOST);
SAME(CUDA_MEMORY_DEVICE, CU_MEMORYTYPE_DEVICE);
SAME(CUDA_HOST_PORTABLE, CU_MEMHOSTREGISTER_PORTABLE);
SAME(CUDA_HOST_PORTABLE, CU_MEMHOSTALLOC_PORTABLE);
SAME(CUDA_HOST_DEVICEMAP, CU_MEMHOSTREGISTER_DEVICEMAP);
SAME(CUDA_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING);
SAME(CUDA_EVENT_BLOCKING_SYNC, CU_EVENT_BLOCKING_SYNC);
SAME(CUDA_EVENT_DISABLE_TIMING, CU_EVENT_DISABLE_TIMING);
SAME(CUDA_DEVICE_COMPUTE_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
SAME(CUDA_DEVICE_COMPUTE_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
SAME(CUDA_NOT_SUPPORTED, CUDA_ERROR_NOT_SUPPORTED);
SAME(CUDA_DEVICE_HAS_VMM, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
SAME(CUDA_DEVICE_HAS_VMM_FDS, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
SAME(CUDA_LOCATION_DEVICE, CU_MEM_LOCATION_TYPE_DEVICE);
SAME(CUDA_MEMORY_PINNED, CU_MEM_ALLOCATION_TYPE_PINNED);
SAME(CUDA_SHARED_BY_FD, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
SAME(CUDA_ACCESS_READ_WRITE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
SAME(CUDA_GRANULARITY_LEAST, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
SAME(CUDA_IPC_LAZY_PEER, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
_Static_assert(sizeof(cuda_memory_t) == sizeof(CUmemGenericAllocationHandle), "CUmemGenericAllocationHandle");
_Static_assert(sizeof(cuda_memory_kind_t) == sizeof(CUmemAllocationProp), "CUmemAllocationProp");
_Static_assert(offsetof(cuda_memory_kind_t, shared_by) == offsetof(CUmemAllocationProp, requestedHandleTypes), "types");
_Static_assert(offsetof(cuda_memory_kind_t, location) == offsetof(CUmemAllocationProp, location), "location");
_Static_assert(offsetof(cuda_memory_kind_t, compression) == offsetof(CUmemAllocationProp, allocFlags), "allocFlags");
_Static_assert(sizeof(cuda_access_t) == sizeof(CUmemAccessDesc), "CUmemAccessDesc");
_Static_assert(offsetof(cuda_access_t, flags) == offsetof(CUmemAccessDesc, flags), "flags");
_Static_assert(sizeof(cuda_ipc_handle_t) == sizeof(CUipcMemHandle), "CUipcMemHandle");
_Static_assert(sizeof(cuda_uuid_t) == sizeof(CUuuid), "CUuuid");
SAME(CUDA_DEVICE_HAS_POOLS, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED);
_Static_assert(sizeof(cuda_ptr_t) == sizeof(CUdeviceptr), "CUdeviceptr");
_Static_assert(sizeof(cuda_handle_t) == sizeof(CUdevice), "CUdevice");
#if CUDA_VERSION >= 12080
SAME(CUDA_COPY_ORDER_STREAM, CU_MEMCPY_SRC_ACCESS_ORDER_STREAM);
SAME(CUDA_COPY_OVERLAP, CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE);
_Static_assert(sizeof(cuda_copy_attributes_t) == sizeof(CUmemcpyAttributes), "CUmemcpyAttributes");
_Static_assert(offsetof(cuda_copy_attributes_t, source) == offsetof(CUmemcpyAttributes, srcLocHint), "srcLocHint");
_Static_assert(offsetof(cuda_copy_attributes_t, target) == offsetof(CUmemcpyAttributes, dstLocHint), "dstLocHint");
_Static_assert(offsetof(cuda_copy_attributes_t, flags) == offsetof(CUmemcpyAttributes, flags), "flags");
#endif

static void the_declarations_agree_with_the_toolkit(void **state)
{
    (void)state;
    assert_int_equal(CUDA_VERSION >= 11000, 1); /* the rest was checked when this file was compiled */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_declarations_agree_with_the_toolkit)};
    return cmocka_run_group_tests_name("gpu_cuda_abi", tests, NULL, NULL);
}
