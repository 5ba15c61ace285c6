/* See host_memory.h.
 *
 * An allocation is a mapping of its own, aligned to 2 MiB, with its size in the page before it. The memory is the
 * program's: it outlives the allocator object, whose users keep only the method. An address given back is believed only
 * when that page is there and says so, because it may be any number. */
#include "python/src/host_memory.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memprobe.h"

#define AREA        "python"
#define ALIGN       ((size_t)2 << 20)
#define HEAD        ((size_t)4096)
#define HOST_MAX    ((uint64_t)1 << 46)
#define MAGIC       UINT64_C(0x6d6370794d454d31)
#define NODE_MAX    1023
#define PREFER_NODE 1 /* MPOL_PREFERRED */

typedef struct head {
    uint64_t magic; /* xor the address of the memory */
    void *mapping;
    uint64_t mapping_len;
} head_t;

static void *host_alloc(uint64_t size)
{
    if (size == 0 || size > HOST_MAX) {
        return NULL;
    }
    size_t len = MCS_ALIGN_UP((size_t)size, ALIGN) + ALIGN + HEAD;
    char *mapping = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) {
        return NULL;
    }
    char *memory = mapping + HEAD;
    memory += MCS_ALIGN_UP((uintptr_t)memory, ALIGN) - (uintptr_t)memory;
    (void)madvise(memory, MCS_ALIGN_UP((size_t)size, ALIGN), MADV_HUGEPAGE); /* a wish */
    head_t head = {MAGIC ^ (uint64_t)(uintptr_t)memory, mapping, len};
    memcpy(memory - HEAD, &head, sizeof(head));
    return memory;
}

static bool host_free(uint64_t address)
{
    if (address == 0 || address % ALIGN != 0) {
        return false;
    }
    const char *memory = (const char *)(uintptr_t)address; /* NOLINT(performance-no-int-to-ptr) */
    head_t head;
    mcs_memprobe_t probe;
    mcs_memprobe_init(&probe);
    bool there = mcs_memprobe_check(&probe, memory - HEAD, sizeof(head), true) == MCS_OK;
    mcs_memprobe_fini(&probe);
    if (!there) {
        return false;
    }
    memcpy(&head, memory - HEAD, sizeof(head));
    return head.magic == (MAGIC ^ address) && munmap(head.mapping, (size_t)head.mapping_len) == 0;
}

/* ---- for torch's pluggable allocators ---- */

static void *pluggable_alloc(ssize_t size, int device, void *stream)
{
    (void)device;
    (void)stream;
    return size > 0 ? host_alloc((uint64_t)size) : NULL;
}

static void pluggable_free(void *memory, ssize_t size, int device, void *stream)
{
    (void)size;
    (void)device;
    (void)stream;
    (void)host_free((uint64_t)(uintptr_t)memory);
}

PyObject *mpy_get_alloc_func_addr(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLongLong((uint64_t)(uintptr_t)pluggable_alloc);
}

PyObject *mpy_get_free_func_addr(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLongLong((uint64_t)(uintptr_t)pluggable_free);
}

/* ---- NUMA ---- */

/* "0-3,8" of a file in sysfs. */
static bool read_cpus(int node, cpu_set_t *cpus)
{
    char path[80];
    char text[4096] = "";
    snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist", node);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    bool ok = fgets(text, sizeof(text), file) != NULL;
    (void)fclose(file);
    CPU_ZERO(cpus);
    for (char *at = text; ok && *at >= '0' && *at <= '9';) {
        unsigned long from = strtoul(at, &at, 10);
        unsigned long to = *at == '-' ? strtoul(at + 1, &at, 10) : from;
        for (unsigned long cpu = from; cpu <= to && cpu < CPU_SETSIZE; cpu++) {
            CPU_SET(cpu, cpus);
        }
        at += *at == ',';
    }
    return ok && CPU_COUNT(cpus) > 0;
}

static bool bind_thread(long node)
{
    cpu_set_t cpus;
    unsigned long mask[(NODE_MAX + 1) / (8 * sizeof(unsigned long))] = {0};
    if (node < 0 || node > NODE_MAX || !read_cpus((int)node, &cpus) || sched_setaffinity(0, sizeof(cpus), &cpus) != 0) {
        return false;
    }
    mask[(size_t)node / (8 * sizeof(unsigned long))] |= 1UL << ((size_t)node % (8 * sizeof(unsigned long)));
    return syscall(SYS_set_mempolicy, PREFER_NODE, mask, (unsigned long)NODE_MAX + 2) == 0;
}

PyObject *mpy_bind_to_numa_node(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const params[] = {"node", NULL};
    static const mpy_sig_t sig = {"bind_to_numa_node", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    (void)module;
    if (!mpy_bind(&sig, args, nargs, kwnames, given)) {
        return NULL;
    }
    if (!PyIndex_Check(given[0])) {
        mpy_wrong_type(sig.name, params[0], "int", given[0]);
        return NULL;
    }
    PyObject *number = PyNumber_Index(given[0]);
    int overflow = 0;
    long node = number != NULL ? PyLong_AsLongAndOverflow(number, &overflow) : -1;
    Py_XDECREF(number);
    if (number == NULL || (node == -1 && PyErr_Occurred() != NULL)) {
        return NULL;
    }
    if (overflow != 0 || !bind_thread(node)) {
        mcs_warn(AREA, "bind_to_numa_node(%ld): this thread is not bound", node);
    }
    Py_RETURN_NONE;
}

/* ---- MooncakeHostMemAllocator ---- */

static PyObject *allocator_alloc(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const params[] = {"size", NULL};
    static const mpy_sig_t sig = {"alloc", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    uint64_t size;
    (void)self;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_u64(sig.name, params[0], given[0], &size)) {
        return NULL;
    }
    mpy_call_t call;
    mpy_quiet_begin(&call);
    void *memory = host_alloc(size);
    mpy_quiet_end(&call);
    return PyLong_FromUnsignedLongLong((uint64_t)(uintptr_t)memory);
}

static PyObject *allocator_free(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const params[] = {"ptr", NULL};
    static const mpy_sig_t sig = {"free", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    uint64_t address;
    (void)self;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_u64(sig.name, params[0], given[0], &address)) {
        return NULL;
    }
    mpy_call_t call;
    mpy_quiet_begin(&call);
    bool freed = host_free(address);
    mpy_quiet_end(&call);
    return PyLong_FromLong(freed ? 0 : MCS_INVALID_PARAMS);
}

static PyMethodDef allocator_methods[] = {
    MPY_METHOD("alloc", allocator_alloc,
               "alloc($self, size)\n--\n\nThe address of `size` bytes of zeros, or 0. They stay until free."),
    MPY_METHOD("free", allocator_free, "free($self, ptr)\n--\n\n0, or -600 for an address that alloc did not give."),
    {NULL, NULL, 0, NULL},
};

static void allocator_dealloc(PyObject *self)
{
    mpy_free_object(self);
}

static char allocator_doc[] =
    "MooncakeHostMemAllocator()\n--\n\nHost memory for buffers: aligned to 2 MiB, in huge pages "
    "when there are any.\nWhat was allocated outlives the object.";

static PyType_Slot allocator_slots[] = {
    {Py_tp_doc, (void *)allocator_doc},
    {Py_tp_dealloc, (void *)allocator_dealloc},
    {Py_tp_methods, (void *)allocator_methods},
    {0, NULL},
};

static PyType_Spec allocator_spec = {
    .name = "mooncake.store.MooncakeHostMemAllocator",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = allocator_slots,
};

int mpy_host_memory_init(PyObject *module, mpy_state_t *state)
{
    return mpy_add_type(module, &allocator_spec, &state->allocator_type);
}
