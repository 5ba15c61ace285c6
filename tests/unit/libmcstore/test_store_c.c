/* libmcstore.so as a binding of another language uses it: loaded at run time, mooncake_store_* looked up by name, real
 * data plane, a master embedded in the first store. */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mcstore/store_c.h"

/* X(result, name, parameters) */
#define FUNCTIONS(X)                                                                                                   \
    X(mooncake_store_t, create, (void))                                                                                \
    X(void, destroy, (mooncake_store_t))                                                                               \
    X(int, setup,                                                                                                      \
      (mooncake_store_t, const char *, const char *, uint64_t, uint64_t, const char *, const char *, const char *))    \
    X(int, init_all, (mooncake_store_t, const char *, const char *, uint64_t))                                         \
    X(int, health_check, (mooncake_store_t))                                                                           \
    X(int, put, (mooncake_store_t, const char *, const void *, size_t, const mooncake_replicate_config_t *))           \
    X(int, put_from, (mooncake_store_t, const char *, void *, size_t, const mooncake_replicate_config_t *))            \
    X(int, batch_put_from,                                                                                             \
      (mooncake_store_t, const char **, void **, const size_t *, size_t, const mooncake_replicate_config_t *, int *))  \
    X(int64_t, get_into, (mooncake_store_t, const char *, void *, size_t))                                             \
    X(int, batch_get_into, (mooncake_store_t, const char **, void **, const size_t *, size_t, int64_t *))              \
    X(int, is_exist, (mooncake_store_t, const char *))                                                                 \
    X(int, batch_is_exist, (mooncake_store_t, const char **, size_t, int *))                                           \
    X(int64_t, get_size, (mooncake_store_t, const char *))                                                             \
    X(int, get_hostname, (mooncake_store_t, char *, size_t))                                                           \
    X(int, remove, (mooncake_store_t, const char *, int))                                                              \
    X(int64_t, remove_by_regex, (mooncake_store_t, const char *, int))                                                 \
    X(int64_t, remove_all, (mooncake_store_t, int))                                                                    \
    X(int, register_buffer, (mooncake_store_t, void *, size_t))                                                        \
    X(int, unregister_buffer, (mooncake_store_t, void *))

static struct {
#define FIELD(result, name, parameters) result(*name) parameters;
    FUNCTIONS(FIELD)
#undef FIELD
} api;

static int load(void **state)
{
    void *library = dlopen(LIBMCSTORE, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return -1;
    }
#define LOOK_UP(result, name, parameters)                                                                              \
    *(void **)(void *)&api.name = dlsym(library, "mooncake_store_" #name);                                             \
    if (api.name == NULL) {                                                                                            \
        return -1;                                                                                                     \
    }
    FUNCTIONS(LOOK_UP)
#undef LOOK_UP
    mooncake_store_t store = api.create();
    if (store == NULL ||
        api.setup(store, "127.0.0.1", "P2PHANDSHAKE", 64 << 20, 16 << 20, "tcp", "", "embedded") != 0) {
        return -1;
    }
    *state = store;
    return 0;
}

static int unload(void **state)
{
    api.destroy(*state);
    return 0;
}

static void a_value_is_put_read_and_removed(void **state)
{
    mooncake_store_t store = *state;
    char back[16] = "";
    assert_int_equal(api.put(store, "one", "hello", 5, NULL), 0);
    assert_int_equal(api.get_size(store, "one"), 5);
    assert_int_equal(api.get_into(store, "one", back, sizeof(back)), 5);
    assert_string_equal(back, "hello");
    assert_int_equal(api.is_exist(store, "one"), 1);
    assert_int_equal(api.remove(store, "one", 1), 0);
    assert_int_equal(api.is_exist(store, "one"), 0);
    assert_int_equal(api.get_into(store, "one", back, sizeof(back)), -704);
    assert_int_equal(api.health_check(store), 0);
    assert_true(api.get_hostname(store, back, sizeof(back)) > 0);
}

static void batches_give_a_result_a_key(void **state)
{
    mooncake_store_t store = *state;
    enum { COUNT = 3, LEN = 70000 };
    const char *keys[COUNT + 1] = {"b0", "b1", "b2", "none"};
    size_t sizes[COUNT + 1] = {LEN, LEN, LEN, LEN};
    void *out[COUNT + 1], *in[COUNT + 1];
    int codes[COUNT + 1];
    int64_t lengths[COUNT + 1];
    for (int i = 0; i <= COUNT; i++) {
        out[i] = malloc(LEN);
        in[i] = calloc(1, LEN);
        memset(out[i], 'a' + i, LEN);
    }
    const char *preferred[1] = {"nowhere:1"};
    mooncake_replicate_config_t config = {
        .replica_num = 1, .with_soft_pin = 1, .preferred_segments = preferred, .preferred_segments_count = 1};
    assert_int_equal(api.register_buffer(store, out[0], LEN), 0);
    assert_int_equal(api.batch_put_from(store, keys, out, sizes, COUNT, &config, codes), 0);
    assert_int_equal(api.unregister_buffer(store, out[0]), 0);
    assert_int_equal(api.batch_get_into(store, keys, in, sizes, COUNT + 1, lengths), 0);
    assert_int_equal(api.batch_is_exist(store, keys, COUNT + 1, codes), 0);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(lengths[i], LEN);
        assert_int_equal(codes[i], 1);
        assert_memory_equal(in[i], out[i], LEN);
    }
    assert_int_equal(lengths[COUNT], -704);
    assert_int_equal(codes[COUNT], 0);
    for (int i = 0; i <= COUNT; i++) {
        free(out[i]);
        free(in[i]);
    }
    assert_int_equal(api.remove_by_regex(store, "^b[01]$", 1), 2);
    assert_int_equal(api.remove_all(store, 1), 1);
}

static void bindings_find_it_by_the_name_they_look_for(void **state)
{
    (void)state;
    void *by_our_name = dlopen(LIBMCSTORE, RTLD_NOW | RTLD_NOLOAD);
    void *by_theirs = dlopen(LIBMOONCAKE_STORE, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(by_our_name);
    assert_ptr_equal(by_theirs, by_our_name);
    dlclose(by_theirs);
    dlclose(by_our_name);
}

static void bad_arguments_are_codes(void **state)
{
    mooncake_store_t store = *state;
    mooncake_store_t fresh = api.create();
    assert_int_equal(api.put(NULL, "k", "v", 1, NULL), -600);
    assert_int_equal(api.put(store, NULL, "v", 1, NULL), -600);
    assert_int_equal(api.put(store, "k", NULL, 1, NULL), -600);
    assert_int_equal(api.put(store, "k", "", 0, NULL), -600);
    assert_int_equal(api.put(fresh, "k", "v", 1, NULL), -600);
    assert_int_equal(api.put_from(store, "k", NULL, 0, NULL), 0);
    assert_int_equal(api.is_exist(store, "k"), 0);
    assert_int_equal(api.init_all(NULL, "tcp", "", 0), -600);
    assert_int_equal(api.init_all(fresh, NULL, "", 0), -600);
    assert_int_equal(api.put_from(store, "k", &fresh, SIZE_MAX, NULL), -600);
    assert_int_equal(api.register_buffer(store, NULL, 1), -600);
    assert_int_equal(api.batch_get_into(store, (const char *[]){"k"}, NULL, NULL, SIZE_MAX, NULL), -600);
    assert_int_equal(api.get_into(fresh, "k", &fresh, 1), -600);
    assert_int_equal(api.batch_is_exist(store, NULL, 1, NULL), -600);
    assert_int_equal(api.setup(fresh, "127.0.0.1", "P2PHANDSHAKE", 0, 0, "garbage", NULL, "127.0.0.1:1"), -600);
    assert_int_equal(api.health_check(fresh), 1);
    api.destroy(fresh);
    api.destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_is_put_read_and_removed),
        cmocka_unit_test(batches_give_a_result_a_key),
        cmocka_unit_test(bindings_find_it_by_the_name_they_look_for),
        cmocka_unit_test(bad_arguments_are_codes),
    };
    return cmocka_run_group_tests_name("store_c", tests, load, unload);
}
