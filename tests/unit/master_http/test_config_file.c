/* Configuration files: JSON and YAML, good and bad. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <sys/ioctl.h>
#include <sys/stat.h>

#include "core/base/alloc.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "master/config_file.h"
#include "master/master.h"

static char g_folder[] = "/tmp/mcs-config-XXXXXX";
static char g_path[256];
static mcs_master_config_t g_config;
static mcs_buf_t g_why;
static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(g_folder) != NULL ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(g_folder);
}

static int setup(void **state)
{
    (void)state;
    memset(&g_config, 0, sizeof(g_config));
    mcs_buf_init(&g_why, 1 << 16);
    return mcs_config_init(&mcs_master_config_table, &g_config) == MCS_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    mcs_config_fini(&mcs_master_config_table, &g_config);
    mcs_buf_fini(&g_why);
    unlink(g_path);
    return 0;
}

static mcs_status_t load_bytes(const char *name, const void *bytes, size_t len)
{
    snprintf(g_path, sizeof(g_path), "%s/%s", g_folder, name);
    FILE *file = fopen(g_path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
    mcs_buf_reset(&g_why);
    return mcs_config_file_load(g_path, &mcs_master_config_table, &g_config, &g_why);
}

static mcs_status_t load(const char *name, const char *text)
{
    return load_bytes(name, text, strlen(text));
}

static void expect_values(void)
{
    assert_int_equal(g_config.rpc_port, 50123);
    assert_int_equal(g_config.default_kv_lease_ttl, 5000);
    assert_int_equal(g_config.default_kv_soft_pin_ttl, 1800000);
    assert_true(g_config.enable_http_metadata_server);
    assert_false(g_config.allow_evict_soft_pinned_objects);
    assert_true(g_config.eviction_ratio > 0.0999 && g_config.eviction_ratio < 0.1001);
    assert_true(g_config.eviction_high_watermark_ratio == 1);
    assert_string_equal(g_config.rpc_address, "127.0.0.1");
    assert_string_equal(g_config.cluster_id, "");
    assert_int_equal(g_config.client_ttl, 60);
}

static const char g_json[] =
    "{\"rpc_port\": 50123, \"default_kv_lease_ttl\": \"5s\", \"enable_http_metadata_server\": true,"
    "\"allow_evict_soft_pinned_objects\": \"no\", \"eviction_ratio\": 0.1,\n"
    "\"eviction_high_watermark_ratio\": 1.0, \"rpc_address\": \"127.0.0.1\", \"cluster_id\": \"\","
    "\"client_live_ttl_sec\": 60, \"default_kv_soft_pin_ttl\": null}";
static const char g_yaml[] =
    "# the same\nrpc_port: 50123\ndefault_kv_lease_ttl: 5s\nenable_http_metadata_server: true\n"
    "allow_evict_soft_pinned_objects: no\neviction_ratio: 0.1\neviction_high_watermark_ratio: 1.0\n"
    "rpc_address: \"127.0.0.1\"\ncluster_id: ''\nclient_live_ttl_sec: 60\n"
    "default_kv_soft_pin_ttl: ~\n";

static void a_json_file_sets_its_keys(void **state)
{
    (void)state;
    assert_int_equal(load("m.json", g_json), MCS_OK);
    expect_values();
}

static void a_yaml_file_sets_its_keys(void **state)
{
    (void)state;
    assert_int_equal(load("m.yaml", g_yaml), MCS_OK);
    expect_values();
}

static void without_an_extension_the_first_character_decides(void **state)
{
    (void)state;
    assert_int_equal(load("one.conf", g_json), MCS_OK);
    expect_values();
    unlink(g_path);
    assert_int_equal(load("two.conf", g_yaml), MCS_OK);
    expect_values();
    unlink(g_path);
    assert_int_equal(load("three.yml", g_json), MCS_OK); /* JSON is YAML too */
    expect_values();
}

static void an_empty_file_changes_nothing(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "\n\n", "# a comment\n", "---\n", "--- {}\n"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(texts); i++) {
        assert_int_equal(load("m.yaml", texts[i]), MCS_OK);
    }
    assert_int_equal(g_config.port, 50051);
}

/* A misspelt setting must not be taken for one that holds. */
static void an_unknown_key_is_an_error_that_names_it(void **state)
{
    static const char *const texts[][2] = {{"m.json", "{\"no_such_key\": 1, \"rpc_port\": 7}"},
                                           {"m.json", "{\"no_such_key\": null}"},
                                           {"m.yaml", "no_such_key:\n"},
                                           {"m.yaml", "rpc_port: 7\nno_such_key: 1\n"}};
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(texts); i++) {
        assert_int_equal(load(texts[i][0], texts[i][1]), MCS_ERR_INVALID_PARAMS);
        assert_non_null(strstr(mcs_buf_cstr(&g_why), "no such setting: no_such_key"));
    }
}

static void what_is_wrong_is_named(void **state)
{
    static const struct {
        const char *name;
        const char *text;
        const char *why;
    } rows[] = {
        {"m.json", "{\"rpc_port\": 70000}", "rpc_port: bad value \"70000\""},
        {"m.json", "{\"rpc_port\": \"abc\"}", "rpc_port: bad value \"abc\""},
        {"m.json", "{\"rpc_port\": -1}", "rpc_port: bad value \"-1\""},
        {"m.json", "{\"rpc_port\": 1.5}", "rpc_port: bad value \"1.5\""},
        {"m.json", "{\"rpc_port\": [1]}", "rpc_port: a single value is wanted"},
        {"m.json", "{\"rpc\": {\"port\": 1}}", "rpc: a single value is wanted"},
        {"m.json", "{\"rpc_port\": 1, \"rpc_port\": 2}", "line 1: duplicate object key"},
        {"m.json", "{\"rpc_port\": 1,\n\n}", "line 3"},
        {"m.json", "[]", "an object is wanted"},
        {"m.json", "", "line 1"},
        {"m.json", "{\"enable_ha\": true}", "this build has no high availability"},
        {"m.yaml", "rpc_port: 70000\n", "rpc_port: bad value \"70000\""},
        {"m.yaml", "rpc_port: [1]\n", "line 1: a single value is wanted"},
        {"m.yaml", "port: 1\nrpc:\n  port: 1\n", "line 3: a single value is wanted"},
        {"m.yaml", "- rpc_port\n", "line 1: a single value is wanted"},
        {"m.yaml", "just text\n", "a mapping is wanted"},
        {"m.yaml", "a: &x 1\nb: *x\n", "plain text is wanted"},
        {"m.yaml", "b: *x\n", "a single value is wanted"},
        {"m.yaml", "? [1, 2]\n: 3\n", "a single value is wanted"},
        {"m.yaml", "rpc_port: 1\n---\nrpc_port: 2\n", "one document is wanted"},
        {"m.yaml", "rpc_port: \"1\n", "line"},
        {"m.yaml", "rpc_port: 1\n\tbad: 2\n", "line 2"},
    };
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        assert_int_equal(load(rows[i].name, rows[i].text), MCS_ERR_INVALID_PARAMS);
        if (strstr(mcs_buf_cstr(&g_why), rows[i].why) == NULL) {
            print_error("%s: got \"%s\", wanted \"%s\"\n", rows[i].text, mcs_buf_cstr(&g_why), rows[i].why);
            fail();
        }
        assert_non_null(strstr(mcs_buf_cstr(&g_why), g_path));
    }
    assert_int_equal(mcs_config_file_load(g_path, &mcs_master_config_table, &g_config, NULL), MCS_ERR_INVALID_PARAMS);
}

static void a_key_with_a_zero_byte_or_of_endless_length_is_refused(void **state)
{
    char text[1024];
    (void)state;
    memset(text, 'k', sizeof(text));
    memcpy(text + sizeof(text) - 3, ": 1", 3);
    assert_int_equal(load_bytes("m.yaml", text, sizeof(text)), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(load_bytes("m.yaml", "\"a\\0b\": 1\n", 10), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(load_bytes("m.json", "{\"a\\u0000b\": 1}", 15), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(load_bytes("m.json", "\xff\xfe{\0}", 5), MCS_ERR_INVALID_PARAMS);
}

static void files_that_are_none_are_refused(void **state)
{
    (void)state;
    char path[300];
    snprintf(path, sizeof(path), "%s/none.json", g_folder);
    assert_int_equal(mcs_config_file_load(path, &mcs_master_config_table, &g_config, &g_why), MCS_ERR_FILE_OPEN_FAIL);
    assert_non_null(strstr(mcs_buf_cstr(&g_why), "No such file"));
    assert_int_equal(mcs_config_file_load(g_folder, &mcs_master_config_table, &g_config, &g_why),
                     MCS_ERR_FILE_READ_FAIL);
    assert_int_equal(mcs_config_file_load("/dev/zero", &mcs_master_config_table, &g_config, &g_why), MCS_ERR_LIMIT);
    snprintf(path, sizeof(path), "%s/fifo.json", g_folder);
    assert_int_equal(mkfifo(path, 0600), 0); /* nobody writes: must not block */
    assert_int_equal(mcs_config_file_load(path, &mcs_master_config_table, &g_config, &g_why), MCS_ERR_INVALID_PARAMS);
    unlink(path);
    snprintf(path, sizeof(path), "%s/fifo", g_folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(mcs_config_file_load(path, &mcs_master_config_table, &g_config, &g_why), MCS_ERR_INVALID_PARAMS);
    assert_non_null(strstr(mcs_buf_cstr(&g_why), "a pipe that nobody writes to"));
    unlink(path);
}

/* The second half of the file, once the first has been read: the reader finds an empty pipe in between. */
static void *write_late(void *arg)
{
    static const char text[] = "lients: 77\n";
    int *ends = arg;
    int left = 1;
    while (left > 0 && ioctl(ends[0], FIONREAD, &left) == 0) {
        sched_yield();
    }
    ssize_t written = write(ends[1], text, sizeof(text) - 1);
    close(ends[1]);
    return written == (ssize_t)sizeof(text) - 1 ? arg : NULL;
}

/* As --config_path=<(command) of a shell, which opens the pipe before the command has written to it. */
static void a_pipe_is_waited_for(void **state)
{
    (void)state;
    int ends[2];
    pthread_t writer;
    void *result = NULL;
    char path[64];
    assert_int_equal(pipe(ends), 0);
    snprintf(path, sizeof(path), "/dev/fd/%d", ends[0]);
    assert_int_equal(write(ends[1], "max_c", 5), 5);
    assert_int_equal(pthread_create(&writer, NULL, write_late, ends), 0);
    mcs_status_t status = mcs_config_file_load(path, &mcs_master_config_table, &g_config, &g_why);
    pthread_join(writer, &result);
    close(ends[0]);
    assert_ptr_equal(result, ends);
    assert_int_equal(status, MCS_OK);
    assert_int_equal(g_config.max_clients, 77);
}

static void deep_nesting_is_refused(void **state)
{
    (void)state;
    char *text = mcs_malloc(200000);
    assert_non_null(text);
    memset(text, '[', 200000);
    assert_int_equal(load_bytes("m.json", text, 200000), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(load_bytes("m.yaml", text, 200000), MCS_ERR_INVALID_PARAMS);
    mcs_free(text);
}

/* Bytes changed, cut and doubled: whatever comes is loaded or refused with a reason. */
static void mutated_files_are_loaded_or_refused(void **state)
{
    static const char *const names[] = {"m.json", "m.yaml"};
    static const char *const texts[] = {g_json, g_yaml};
    static const char interesting[] = "{}[]:,\"'\\\n\t -&*!|>%@`#?\xff\x80\x01";
    uint64_t random = 2463534242;
    (void)state;
    for (int i = 0; i < 2000; i++) {
        char text[1024];
        size_t len = strlen(texts[i % 2]);
        memcpy(text, texts[i % 2], len);
        for (int k = 0; k < 1 + i % 7; k++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            size_t at = random % len;
            text[at] = interesting[(random >> 32) % strlen(interesting)];
            len = (random >> 20) % 50 == 0 ? at + 1 : len;
        }
        mcs_status_t status = load_bytes(names[i % 2], text, len);
        assert_true(status == MCS_OK || status == MCS_ERR_INVALID_PARAMS);
        assert_true(status == MCS_OK || g_why.len > 0);
        unlink(g_path);
    }
}

static void loading_survives_every_lost_allocation(void **state)
{
    static const char *const names[] = {"m.json", "m.yaml"};
    static const char *const texts[] = {g_json, g_yaml};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        bool fired = true;
        assert_int_equal(load(names[i], texts[i]), MCS_OK);
        for (uint64_t nth = 1; fired; nth++) {
            mcs_buf_reset(&g_why);
            mcs_fault_arm(MCS_FAULT_ALLOC, nth);
            mcs_status_t status = mcs_config_file_load(g_path, &mcs_master_config_table, &g_config, &g_why);
            fired = mcs_fault_fired(MCS_FAULT_ALLOC);
            mcs_fault_arm(MCS_FAULT_ALLOC, 0);
            assert_int_equal(status, fired ? MCS_ERR_NO_MEMORY : MCS_OK);
        }
        expect_values();
        unlink(g_path);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_json_file_sets_its_keys),
        TEST(a_yaml_file_sets_its_keys),
        TEST(without_an_extension_the_first_character_decides),
        TEST(an_empty_file_changes_nothing),
        TEST(an_unknown_key_is_an_error_that_names_it),
        TEST(what_is_wrong_is_named),
        TEST(a_key_with_a_zero_byte_or_of_endless_length_is_refused),
        TEST(files_that_are_none_are_refused),
        TEST(a_pipe_is_waited_for),
        TEST(deep_nesting_is_refused),
        TEST(mutated_files_are_loaded_or_refused),
        TEST(loading_survives_every_lost_allocation),
    };
    return cmocka_run_group_tests_name("config file", tests, make_folder, remove_folder);
}
