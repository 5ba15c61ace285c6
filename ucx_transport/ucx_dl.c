/* See ucx_dl.h. */
#include "ucx_transport/ucx_dl.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/fault.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "ucx_transport/ucx_env.h"

#define AREA     "ucx"
#define SONAME   "libucp.so.0"
#define OLDEST   13 /* minor of major 1 */
#define NEW_WIRE 20
/* A file larger than this is no libucp. */
#define FILE_MAX (64 << 20)

static ucxt_dl_t g_dl;
static bool g_loaded;
static mcs_mutex_t g_lock;
static pthread_once_t g_once = PTHREAD_ONCE_INIT;

/* Where a system keeps its libraries; only to learn the version of what the loader would take, which is asked by
 * soname. */
static const char *const g_system_dirs[] = {
#if defined(__x86_64__)
    "/usr/lib/x86_64-linux-gnu",
    "/lib/x86_64-linux-gnu",
#elif defined(__aarch64__)
    "/usr/lib/aarch64-linux-gnu",
    "/lib/aarch64-linux-gnu",
#endif
    "/usr/local/lib",
    "/usr/lib64",
    "/usr/lib",
    "/opt/ucx/lib",
};

static void init_lock(void)
{
    mcs_mutex_init(&g_lock, MCS_RANK_CONFIG, "ucx library");
}

/* ---- which file ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "1.13.1" and a terminator at `at`: its number, 0 when it is something else. */
static uint64_t version_at(const char *at, const char *end)
{
    uint64_t part[3] = {0, 0, 0};
    for (unsigned i = 0; i < 3; i++) {
        const char *digits = at;
        while (at < end && is_digit(*at) && at - digits < 4) {
            part[i] = part[i] * 10 + (uint64_t)(*at++ - '0');
        }
        if (at == digits || at == end || *at++ != (i < 2 ? '.' : '\0')) {
            return 0;
        }
    }
    return part[0] != 1 ? 0 : part[0] << 32 | part[1] << 16 | part[2];
}

uint64_t ucxt_dl_file_version(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    struct stat st;
    uint64_t version = 0;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 && st.st_size <= FILE_MAX) {
        size_t size = (size_t)st.st_size;
        char *bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes != MAP_FAILED) {
            /* The string that ucp_get_version_string() returns. */
            for (size_t i = 1; i + 6 < size && version == 0; i++) {
                if (bytes[i] == '1' && bytes[i + 1] == '.' && !is_digit(bytes[i - 1]) && bytes[i - 1] != '.') {
                    version = version_at(bytes + i, bytes + size);
                }
            }
            munmap(bytes, size);
        }
    }
    close(fd);
    return version;
}

/* Is the module for RDMA beside the library? PyPI's packages are built without. */
static bool has_rdma(const char *library)
{
    char folder[UCXT_PATH_MAX];
    snprintf(folder, sizeof(folder), "%s", library);
    char *slash = strrchr(folder, '/');
    if (slash == NULL) {
        return false;
    }
    snprintf(slash, sizeof(folder) - (size_t)(slash - folder), "/ucx");
    DIR *dir = opendir(folder);
    bool found = false;
    for (const struct dirent *entry; dir != NULL && !found && (entry = readdir(dir)) != NULL;) {
        found = strncmp(entry->d_name, "libuct_ib", 9) == 0;
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return found;
}

static uint64_t system_version(bool rdma)
{
    char path[UCXT_PATH_MAX];
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_system_dirs); i++) {
        snprintf(path, sizeof(path), "%s/" SONAME, g_system_dirs[i]);
        uint64_t version = ucxt_dl_file_version(path);
        if (version != 0) {
            return rdma && !has_rdma(path) ? 0 : version;
        }
    }
    return 0;
}

/* The file that `library` means, or the soname for the system's. */
static mcs_status_t choose(const char *library, bool rdma, char path[UCXT_PATH_MAX])
{
    snprintf(path, UCXT_PATH_MAX, "%s", SONAME);
    if (library[0] == '\0' || strcmp(library, "system") == 0) {
        return MCS_OK;
    }
    if (strncmp(library, "hint:", 5) != 0) {
        if (strchr(library, '/') == NULL || strlen(library) >= UCXT_PATH_MAX) {
            mcs_error(AREA, "library \"%s\": want \"system\" or the path of a " SONAME, library);
            return MCS_ERR_INVALID_PARAMS;
        }
        snprintf(path, UCXT_PATH_MAX, "%s", library);
        return MCS_OK;
    }
    static const char *const below[] = {"lib/", ""};
    uint64_t best = system_version(rdma);
    for (size_t i = 0; i < MCS_ARRAY_LEN(below); i++) {
        char candidate[UCXT_PATH_MAX];
        int n = snprintf(candidate, sizeof(candidate), "%s/%s" SONAME, library + 5, below[i]);
        uint64_t version = n > 0 && n < UCXT_PATH_MAX ? ucxt_dl_file_version(candidate) : 0;
        if (version > best && (!rdma || has_rdma(candidate))) {
            best = version;
            memcpy(path, candidate, sizeof(candidate));
        }
    }
    return MCS_OK;
}

/* ---- loading ---- */

/* Loading UCX may set handlers for these: they belong to the program that we live in. */
static const int g_signals[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGABRT};

static void *open_quietly(const char *path, int flags)
{
    struct sigaction saved[MCS_ARRAY_LEN(g_signals)];
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_signals); i++) {
        sigaction(g_signals[i], NULL, &saved[i]);
    }
    ucxt_env_enter();
    void *handle = mcs_fault_hit(MCS_FAULT_SYSCALL) ? NULL : dlopen(path, flags);
    ucxt_env_leave();
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_signals); i++) {
        sigaction(g_signals[i], &saved[i], NULL);
    }
    return handle;
}

static mcs_status_t resolve(ucxt_dl_t *dl)
{
#define UCXT_RESOLVE(name)                                                                                             \
    *(void **)&dl->name = dlsym(dl->handle, #name);                                                                    \
    if (dl->name == NULL) {                                                                                            \
        mcs_error(AREA, "%s has no " #name ": not a UCX of 1.13 or later", dl->path);                                  \
        return MCS_ERR_INVALID_PARAMS;                                                                                 \
    }
    UCXT_SYMBOLS(UCXT_RESOLVE)
#undef UCXT_RESOLVE
    *(void **)&dl->ucs_global_opts_set_value = dlsym(dl->handle, "ucs_global_opts_set_value");
    dl->ucp_get_version(&dl->major, &dl->minor, &dl->release);
    if (dl->major != 1 || dl->minor < OLDEST) {
        mcs_error(AREA, "%s is UCX %u.%u.%u: want 1.13 or later of 1", dl->path, dl->major, dl->minor, dl->release);
        return MCS_ERR_INVALID_PARAMS;
    }
    return MCS_OK;
}

static void remember_path(ucxt_dl_t *dl, const char *asked)
{
    struct link_map *map = NULL;
    const char *name = dlinfo(dl->handle, RTLD_DI_LINKMAP, &map) == 0 && map->l_name[0] != '\0' ? map->l_name : asked;
    snprintf(dl->path, sizeof(dl->path), "%s", name);
}

static bool same_file(const char *a, const char *b)
{
    struct stat sa;
    struct stat sb;
    return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

/* May a library that is there already stand for what is asked? */
static bool suits(const char *library, const char *loaded_path)
{
    return library[0] == '\0' || strncmp(library, "hint:", 5) == 0 || strcmp(library, "system") == 0 ||
           same_file(library, loaded_path);
}

static mcs_status_t load_locked(const char *library, bool rdma)
{
    ucxt_dl_t dl;
    memset(&dl, 0, sizeof(dl));
    char path[UCXT_PATH_MAX];
    dl.handle = dlopen(SONAME, RTLD_LOCAL | RTLD_NOW | RTLD_NOLOAD);
    if (dl.handle != NULL) {
        remember_path(&dl, SONAME);
        if (!suits(library, dl.path)) {
            mcs_error(AREA, "this process has loaded %s already: %s cannot be used beside it", dl.path, library);
            dlclose(dl.handle);
            return MCS_ERR_INVALID_PARAMS;
        }
        mcs_debug(AREA, "%s was loaded by the program", dl.path);
    } else {
        mcs_status_t status = choose(library, rdma, path);
        if (status != MCS_OK) {
            return status;
        }
        dl.handle = open_quietly(path, RTLD_LOCAL | RTLD_NOW);
        if (dl.handle == NULL) {
            const char *why = dlerror();
            mcs_error(AREA, "UCX not loaded: %s", why != NULL ? why : path);
            return MCS_ERR_INVALID_PARAMS;
        }
        remember_path(&dl, path);
    }
    mcs_status_t status = resolve(&dl);
    if (status != MCS_OK) {
        dlclose(dl.handle);
        return status;
    }
    g_dl = dl;
    g_loaded = true;
    return MCS_OK;
}

mcs_status_t ucxt_dl_load(const char *library, bool rdma, const ucxt_dl_t **dl_out)
{
    pthread_once(&g_once, init_lock);
    mcs_mutex_lock(&g_lock);
    mcs_status_t status = MCS_OK;
    if (!g_loaded) {
        status = load_locked(library, rdma);
    } else if (!suits(library, g_dl.path)) {
        mcs_error(AREA, "this process has loaded %s already: %s cannot be used beside it", g_dl.path, library);
        status = MCS_ERR_INVALID_PARAMS;
    }
    mcs_mutex_unlock(&g_lock);
    if (status == MCS_OK) {
        *dl_out = &g_dl;
    }
    return status;
}

const char *ucxt_dl_wire(const ucxt_dl_t *dl)
{
    return dl->minor >= NEW_WIRE ? "ucx-1.20" : "ucx-1.13";
}

uint8_t ucxt_dl_generation(const ucxt_dl_t *dl)
{
    return dl->minor >= NEW_WIRE ? NEW_WIRE : OLDEST;
}
