/* The part of the CUDA driver's ABI that is used here, declared by hand: the store is built on machines without a CUDA
 * toolkit and runs with any driver. tests/unit/gpu/test_cuda_abi.c compares it with cuda.h where there is one. */
#ifndef MCS_GPU_CUDA_API_H
#define MCS_GPU_CUDA_API_H

#include <stddef.h>
#include <stdint.h>

typedef int cuda_result_t;
typedef int cuda_handle_t; /* CUdevice */
typedef uint64_t cuda_ptr_t;
typedef struct CUctx_st *cuda_context_t;
typedef struct CUstream_st *cuda_stream_t;
typedef struct CUevent_st *cuda_event_t;
typedef struct CUmod_st *cuda_module_t;
typedef struct CUfunc_st *cuda_function_t;
typedef uint64_t cuda_memory_t; /* CUmemGenericAllocationHandle */

enum {
    CUDA_OK = 0,
    CUDA_BAD_VALUE = 1,
    CUDA_OUT_OF_MEMORY = 2,
    CUDA_NOT_INITIALIZED = 3,
    CUDA_DEINITIALIZED = 4,
    CUDA_BAD_CONTEXT = 201,
    CUDA_NOT_READY = 600,
    CUDA_ALREADY_REGISTERED = 712,
    CUDA_NOT_REGISTERED = 713,
    CUDA_NOT_SUPPORTED = 801
};

enum {
    CUDA_POINTER_CONTEXT = 1,
    CUDA_POINTER_MEMORY_TYPE = 2,
    CUDA_POINTER_SYNC_MEMOPS = 6,
    CUDA_POINTER_BUFFER_ID = 7,
    CUDA_POINTER_IS_MANAGED = 8,
    CUDA_POINTER_DEVICE_ORDINAL = 9,
    CUDA_POINTER_RANGE_START = 11,
    CUDA_POINTER_RANGE_SIZE = 12,
    CUDA_POINTER_MAPPED = 13,
    CUDA_POINTER_RDMA_CAPABLE = 15,
    CUDA_POINTER_MAPPING_SIZE = 18,
    CUDA_POINTER_MAPPING_BASE = 19
};

enum { CUDA_MEMORY_HOST = 1, CUDA_MEMORY_DEVICE = 2 };
enum { CUDA_HOST_PORTABLE = 1, CUDA_HOST_DEVICEMAP = 2 };
enum { CUDA_STREAM_NON_BLOCKING = 1 };
/* Handles that are no pointers. */
#define CUDA_STREAM_LEGACY ((cuda_stream_t)(uintptr_t)1)
enum { CUDA_EVENT_BLOCKING_SYNC = 1, CUDA_EVENT_DISABLE_TIMING = 2 };
enum {
    CUDA_DEVICE_COMPUTE_MAJOR = 75,
    CUDA_DEVICE_COMPUTE_MINOR = 76,
    CUDA_DEVICE_HAS_VMM = 102,
    CUDA_DEVICE_HAS_VMM_FDS = 103,
    CUDA_DEVICE_HAS_POOLS = 115,
    CUDA_DEVICE_HAS_RDMA = 116,
    CUDA_DEVICE_RDMA_FLUSHES = 117,
    CUDA_DEVICE_RDMA_ORDERING = 118
};
/* How RDMA devices' writes come to be seen by the device's own work. */
enum { CUDA_RDMA_FLUSH_BY_HOST = 1, CUDA_RDMA_ORDERED_FOR_OWNER = 100 };
enum { CUDA_RDMA_FLUSH_CURRENT = 0, CUDA_RDMA_FLUSH_TO_OWNER = 100 };

/* CUmemcpyAttributes. */
enum { CUDA_COPY_ORDER_STREAM = 1 };
enum { CUDA_COPY_OVERLAP = 1 }; /* prefer overlap with compute */
typedef struct cuda_location {
    int type; /* 0: none given */
    int id;
} cuda_location_t;
enum { CUDA_LOCATION_DEVICE = 1 };
typedef struct cuda_copy_attributes {
    int order;
    cuda_location_t source;
    cuda_location_t target;
    unsigned flags;
} cuda_copy_attributes_t;

/* CUmemAllocationProp, CUmemAccessDesc, CUipcMemHandle. */
enum { CUDA_MEMORY_PINNED = 1, CUDA_SHARED_BY_FD = 1, CUDA_ACCESS_READ_WRITE = 3, CUDA_GRANULARITY_LEAST = 0 };
enum { CUDA_IPC_LAZY_PEER = 1 };
typedef struct cuda_memory_kind {
    int type;
    int shared_by;
    cuda_location_t location;
    void *windows;
    uint8_t compression;
    uint8_t gpu_direct;
    uint16_t usage;
    uint8_t reserved[4];
} cuda_memory_kind_t;
typedef struct cuda_access {
    cuda_location_t location;
    int flags;
} cuda_access_t;
typedef struct cuda_ipc_handle {
    char bytes[64];
} cuda_ipc_handle_t;
typedef struct cuda_uuid {
    char bytes[16];
} cuda_uuid_t;

#endif
