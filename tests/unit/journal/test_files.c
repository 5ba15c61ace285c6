/* master/journal: what is replayed after a kill, torn tails, damage, full disks, snapshots, reboots. */
#include "tests/unit/journal/folder.h"

#include <sys/resource.h>

#include "core/base/alloc.h"
#include "core/base/hash.h"
#include "core/base/rng.h"

#define KEYS 64u

/* What the records of all streams amount to: the value (payload_len) of key "k<i>"; 0 = none. */
typedef struct values {
    uint64_t value[KEYS];
    uint64_t records;
    pthread_mutex_t lock;
} values_t;

static folder_t g_folder;
static uint32_t g_failed;

static void on_failed(void *arg)
{
    (void)arg;
    g_failed++;
}

static mcs_status_t try_open(mcs_journal_config_t config, mcs_journal_t **journal_out)
{
    config.dir = g_folder.path;
    return mcs_journal_open(&config, journal_out);
}

static mcs_journal_t *open_it(mcs_journal_config_t config)
{
    mcs_journal_t *journal = NULL;
    assert_int_equal(try_open(config, &journal), MCS_OK);
    return journal;
}

static uint32_t stream_of(uint32_t key)
{
    return key % MCS_JOURNAL_GROUPS;
}

static bool append(mcs_journal_t *journal, mcs_record_kind_t kind, uint32_t key, uint64_t value)
{
    char name[16];
    snprintf(name, sizeof(name), "k%u", key);
    mcs_obj_head_t head = {.kind = (uint8_t)kind, .key_len = (uint16_t)strlen(name)};
    mcs_obj_replica_t replica = {value, value};
    if (kind == MCS_REC_PUT) {
        head.replica_count = 1;
        head.payload_len = value;
    }
    uint32_t len = mcs_obj_len(&head);
    uint8_t body[256];
    uint8_t *at = body;
    memcpy(at, &head, sizeof(head));
    memcpy(at + sizeof(head), &replica, head.replica_count * sizeof(replica));
    memcpy(at + len - head.key_len, name, head.key_len);
    return mcs_journal_append(journal, stream_of(key), body, len);
}

static void take(void *arg, const uint8_t *body, uint32_t len)
{
    values_t *values = arg;
    mcs_obj_t obj;
    assert_int_equal(mcs_obj_decode(body, len, &obj), MCS_OK);
    char name[16] = "";
    memcpy(name, obj.key, MCS_MIN((size_t)obj.head.key_len, sizeof(name) - 1));
    unsigned long key = strtoul(name + 1, NULL, 10);
    assert_true(name[0] == 'k' && key < KEYS);
    values->value[key] = obj.head.kind == MCS_REC_PUT ? obj.head.payload_len : 0;
    values->records++;
}

static values_t replay(mcs_journal_t *journal)
{
    values_t values;
    memset(&values, 0, sizeof(values));
    for (uint32_t s = 0; s < MCS_JOURNAL_GROUPS; s++) {
        assert_int_equal(mcs_journal_replay(journal, s, take, &values), MCS_OK);
    }
    return values;
}

static mcs_journal_t *begin(mcs_journal_config_t config, uint64_t epoch)
{
    mcs_journal_t *journal = open_it(config);
    assert_int_equal(mcs_journal_begin(journal, epoch, 1000), MCS_OK);
    return journal;
}

/* What a start finds. */
static values_t after(mcs_journal_config_t config, mcs_journal_past_t *past)
{
    mcs_journal_t *journal = open_it(config);
    values_t values = replay(journal);
    if (past != NULL) {
        *past = *mcs_journal_past(journal);
    }
    mcs_journal_destroy(journal);
    return values;
}

static int setup(void **state)
{
    (void)state;
    folder_make(&g_folder);
    g_failed = 0;
    mcs_log_set_level(MCS_LOG_ERROR + 1);
    signal(SIGXFSZ, SIG_IGN);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    folder_drop(&g_folder);
    return 0;
}

static const mcs_journal_config_t g_plain = {.go_on = true};

static void what_was_appended_is_there_after_a_kill(void **state)
{
    (void)state;
    mcs_journal_t *journal = begin(g_plain, 7);
    assert_true(mcs_journal_past(journal)->empty);
    for (uint32_t i = 0; i < KEYS; i++) {
        assert_true(append(journal, MCS_REC_PUT, i, 100 + i));
    }
    assert_true(append(journal, MCS_REC_DEL, 5, 0));
    assert_true(append(journal, MCS_REC_PUT, 6, 9));
    mcs_journal_destroy(journal); /* nothing is written any more: as after kill -9 */
    mcs_journal_past_t past;
    values_t values = after(g_plain, &past);
    assert_int_equal(values.records, KEYS + 2);
    assert_int_equal(values.value[4], 104);
    assert_int_equal(values.value[5], 0);
    assert_int_equal(values.value[6], 9);
    assert_false(past.empty);
    assert_int_equal(past.epoch, 7);
    assert_int_equal(past.lease_ms, 1000);
}

static void a_window_that_is_full_is_followed_by_another(void **state)
{
    (void)state;
    mcs_journal_t *journal = begin(g_plain, 1);
    uint64_t count = 3 * MCS_JOURNAL_WINDOW / 56;
    for (uint64_t i = 1; i <= count; i++) {
        assert_true(append(journal, MCS_REC_PUT, 3, i));
    }
    mcs_journal_destroy(journal);
    values_t values = after(g_plain, NULL);
    assert_int_equal(values.records, count);
    assert_int_equal(values.value[3], count);
}

/* The frame at this place of stream 2's first file: its length, and (`body`, may be NULL) that of its body. */
static uint64_t frame_at(uint64_t at, uint32_t *body)
{
    uint64_t word;
    folder_read(&g_folder, 2, 1, at, &word, sizeof(word));
    if (body != NULL) {
        *body = (uint32_t)word;
    }
    return word == 0 ? 0 : mcs_journal_frame_len((uint32_t)word);
}

static void a_frame_that_is_torn_by_a_kill_is_cut_at_every_byte(void **state)
{
    (void)state;
    mcs_journal_t *journal = begin(g_plain, 1);
    assert_true(append(journal, MCS_REC_PUT, 2, 11));
    assert_true(append(journal, MCS_REC_PUT, 2, 12));
    mcs_journal_destroy(journal);
    uint64_t second = MCS_JOURNAL_PAGE + frame_at(MCS_JOURNAL_PAGE, NULL);
    uint64_t len = frame_at(second, NULL);
    uint8_t frame[256];
    folder_read(&g_folder, 2, 1, second, frame, len);
    /* The word comes last, in one piece: until then any part of the body may be there. */
    for (uint64_t keep = 0; keep <= len - 8; keep++) {
        uint8_t torn[256] = {0};
        memcpy(torn + 8, frame + 8, keep);
        folder_write(&g_folder, 2, 1, second, torn, len);
        mcs_journal_past_t past;
        values_t values = after(g_plain, &past);
        assert_int_equal(past.damaged, 0);
        assert_int_equal(values.value[2], 11);
    }
    folder_write(&g_folder, 2, 1, second, frame, len);
    assert_int_equal(after(g_plain, NULL).value[2], 12);
}

static void a_flipped_bit_is_never_taken_for_a_record(void **state)
{
    (void)state;
    mcs_journal_t *journal = begin(g_plain, 1);
    assert_true(append(journal, MCS_REC_PUT, 2, 11));
    assert_true(append(journal, MCS_REC_DEL, 2, 0));
    assert_true(append(journal, MCS_REC_PUT, 3, 33));
    mcs_journal_destroy(journal);
    uint8_t file[4096 + 256];
    folder_read(&g_folder, 2, 1, 0, file, sizeof(file));
    uint64_t end = MCS_JOURNAL_PAGE;
    uint64_t covered = 0; /* all but what fills up frames to 8 bytes */
    uint32_t body;
    for (uint64_t len; (len = frame_at(end, &body)) > 0; end += len) {
        covered += 8 + body;
    }
    uint64_t damaged = 0;
    for (uint64_t at = MCS_JOURNAL_PAGE; at < end; at++) {
        file[at] ^= (uint8_t)(1u << (at % 8));
        folder_write(&g_folder, 2, 1, 0, file, sizeof(file)); /* it was deleted the time before */
        file[at] ^= (uint8_t)(1u << (at % 8));
        mcs_journal_past_t past;
        values_t values = after(g_plain, &past);
        assert_int_equal(values.value[2], 0); /* the removal, or nothing at all: never the old value alone */
        assert_int_equal(values.value[3], 33);
        damaged += past.damaged;
    }
    assert_true(covered > 20);
    assert_int_equal(damaged, covered);
}

static void a_changed_header_is_met(void **state)
{
    (void)state;
    mcs_journal_destroy(begin(g_plain, 1));
    mcs_journal_header_t good;
    folder_read(&g_folder, 2, 1, 0, &good, sizeof(good));
    for (size_t at = 0; at < offsetof(mcs_journal_header_t, synced); at++) {
        mcs_journal_header_t bad = good;
        const char *text = NULL;
        ((uint8_t *)&bad)[at] ^= 0x10;
        assert_int_not_equal(mcs_journal_header_check(&bad, &text), MCS_OK);
        assert_non_null(text);
    }
    good.stream = 3; /* whole, but another file's */
    mcs_journal_header_seal(&good);
    folder_write(&g_folder, 2, 1, 0, &good, sizeof(good));
    mcs_journal_past_t past;
    after(g_plain, &past);
    assert_true(past.empty);
    assert_int_equal(folder_count(&g_folder), 0);
}

static void another_version_is_refused_and_left_alone(void **state)
{
    (void)state;
    mcs_journal_destroy(begin(g_plain, 1));
    mcs_journal_header_t header;
    folder_read(&g_folder, 2, 1, 0, &header, sizeof(header));
    header.version++;
    mcs_journal_header_seal(&header);
    folder_write(&g_folder, 2, 1, 0, &header, sizeof(header));
    mcs_journal_t *journal = NULL;
    assert_int_equal(try_open(g_plain, &journal), MCS_ERR_INVALID_VERSION);
    assert_null(journal);
    assert_int_equal(folder_count(&g_folder), MCS_JOURNAL_STREAMS);
}

/* Of version 1 are files whose bodies are not packed. */
static void a_file_of_the_first_version_counts(void **state)
{
    (void)state;
    mcs_journal_destroy(begin(g_plain, 1));
    mcs_journal_header_t header;
    folder_read(&g_folder, 2, 1, 0, &header, sizeof(header));
    header.version = 1;
    mcs_journal_header_seal(&header);
    folder_write(&g_folder, 2, 1, 0, &header, sizeof(header));
    mcs_obj_head_t head = {.kind = MCS_REC_PUT, .key_len = 2, .replica_count = 1, .payload_len = 77};
    mcs_obj_replica_t replica = {1, 1};
    uint8_t body[sizeof(head) + sizeof(replica) + 2];
    memcpy(body, &head, sizeof(head));
    memcpy(body + sizeof(head), &replica, sizeof(replica));
    memcpy(body + sizeof(body) - 2, "k2", 2);
    for (uint64_t i = 0, at = MCS_JOURNAL_PAGE; i < 3; i++) {
        uint64_t word = mcs_journal_word(1, at, body, sizeof(body));
        folder_write(&g_folder, 2, 1, at, &word, sizeof(word));
        folder_write(&g_folder, 2, 1, at + sizeof(word), body, sizeof(body));
        at += mcs_journal_frame_len(sizeof(body));
    }
    mcs_journal_t *journal = begin(g_plain, 2); /* what follows it is of the present one */
    assert_true(append(journal, MCS_REC_PUT, 18, 5));
    mcs_journal_destroy(journal);
    mcs_journal_past_t past;
    values_t values = after(g_plain, &past);
    assert_int_equal(past.damaged, 0);
    assert_int_equal(values.records, 4);
    assert_int_equal(values.value[2], 77);
    assert_int_equal(values.value[18], 5);
}

static void a_shortened_or_missing_file_is_damage(void **state)
{
    (void)state;
    char path[128];
    mcs_journal_past_t past;
    mcs_journal_t *journal = begin(g_plain, 1);
    assert_true(append(journal, MCS_REC_PUT, 2, 11));
    mcs_journal_destroy(journal);
    folder_name(&g_folder, 2, 1, path, sizeof(path));
    assert_int_equal(truncate(path, 5000), 0);
    assert_int_equal(after(g_plain, &past).value[2], 0);
    assert_int_equal(past.damaged, 1);
    for (uint64_t epoch = 2; epoch < 5; epoch++) {
        mcs_journal_destroy(begin(g_plain, epoch));
    }
    folder_name(&g_folder, 3, 2, path, sizeof(path));
    assert_int_equal(unlink(path), 0);
    after(g_plain, &past);
    assert_int_equal(past.damaged, 1);
    /* Its successor begins anew. */
    journal = begin(g_plain, 6);
    assert_true(append(journal, MCS_REC_PUT, 3, 5));
    mcs_journal_destroy(journal);
    assert_int_equal(after(g_plain, &past).value[3], 5);
    assert_int_equal(past.damaged, 0);
}

static void one_master_has_a_folder(void **state)
{
    (void)state;
    mcs_journal_t *journal = begin(g_plain, 1);
    mcs_journal_t *other = NULL;
    assert_int_equal(try_open(g_plain, &other), MCS_ERR_FILE_LOCK_FAIL);
    mcs_journal_destroy(journal);
}

static void a_folder_that_is_none_is_an_error(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof(path), "%s/file", g_folder.path);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    mcs_journal_config_t config = {.dir = path};
    mcs_journal_t *journal = NULL;
    assert_int_equal(mcs_journal_open(&config, &journal), MCS_ERR_FILE_OPEN_FAIL);
    snprintf(path, sizeof(path), "/proc/nothing/here");
    assert_int_equal(mcs_journal_open(&config, &journal), MCS_ERR_FILE_OPEN_FAIL);
}

/* Appends until it fails; how many. */
static uint64_t fill(mcs_journal_t *journal)
{
    uint64_t count = 0;
    while (append(journal, MCS_REC_PUT, 1, count + 1)) {
        count++;
        assert_true(count < 10000000);
    }
    return count;
}

static void a_full_disk_goes_on_without_and_is_not_believed_later(void **state)
{
    (void)state;
    mcs_journal_config_t config = {.go_on = true, .max_bytes = (MCS_JOURNAL_STREAMS + 2) * MCS_JOURNAL_WINDOW};
    mcs_journal_t *journal = begin(config, 1);
    uint64_t count = fill(journal);
    assert_true(count > 2 * MCS_JOURNAL_WINDOW / 64);
    assert_false(mcs_journal_is_on(journal));
    assert_false(append(journal, MCS_REC_PUT, 2, 1)); /* all streams */
    mcs_journal_destroy(journal);
    mcs_journal_past_t past;
    after(g_plain, &past);
    assert_true(past.empty);
    assert_int_equal(past.epoch, 1); /* that much is known */
}

static void a_full_disk_stops_and_has_all_that_was_appended(void **state)
{
    (void)state;
    struct rlimit old;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    mcs_journal_config_t config = {.failed = on_failed};
    mcs_journal_t *journal = begin(config, 1);
    struct rlimit limit = {2 * MCS_JOURNAL_WINDOW, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    uint64_t count = fill(journal);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(g_failed, 1);
    mcs_journal_destroy(journal);
    mcs_journal_past_t past;
    values_t values = after(g_plain, &past);
    assert_false(past.empty);
    assert_int_equal(values.records, count);
    assert_int_equal(values.value[1], count);
}

static void after_a_reboot_an_unsynced_journal_does_not_count(void **state)
{
    (void)state;
    mcs_journal_past_t past;
    mcs_journal_t *journal = begin(g_plain, 1);
    assert_true(append(journal, MCS_REC_PUT, 2, 11));
    mcs_journal_destroy(journal);
    folder_reboot(&g_folder);
    after(g_plain, &past);
    assert_true(past.empty);
    assert_int_equal(folder_count(&g_folder), 0);
}

static void after_a_reboot_a_closed_journal_counts(void **state)
{
    (void)state;
    mcs_journal_past_t past;
    mcs_journal_destroy(begin(g_plain, 1));
    mcs_journal_t *journal = begin(g_plain, 2);
    assert_true(append(journal, MCS_REC_PUT, 2, 11));
    mcs_journal_close(journal);
    assert_false(append(journal, MCS_REC_PUT, 2, 12));
    mcs_journal_destroy(journal);
    folder_reboot(&g_folder);
    assert_int_equal(after(g_plain, &past).value[2], 11);
    assert_false(past.empty);
}

static void after_a_reboot_what_was_synced_counts(void **state)
{
    (void)state;
    mcs_journal_config_t config = {.go_on = true, .sync = true};
    mcs_journal_past_t past;
    mcs_journal_t *journal = begin(config, 1);
    assert_true(append(journal, MCS_REC_PUT, 2, 11));
    mcs_journal_sync(journal);
    assert_true(append(journal, MCS_REC_PUT, 2, 12)); /* not waited for */
    mcs_journal_destroy(journal);
    folder_reboot(&g_folder);
    uint64_t second = MCS_JOURNAL_PAGE + frame_at(MCS_JOURNAL_PAGE, NULL);
    uint64_t len = frame_at(second, NULL);
    uint8_t frame[256];
    folder_read(&g_folder, 2, 1, second, frame, len);
    for (uint64_t keep = 0; keep < len - 8; keep++) { /* any part of it may have reached the disk */
        uint8_t torn[256] = {0};
        memcpy(torn, frame, keep);
        folder_write(&g_folder, 2, 1, second, torn, len);
        assert_int_equal(after(g_plain, &past).value[2], 11);
        assert_int_equal(past.damaged, 0);
    }
    /* What had been synced is another matter. */
    folder_write(&g_folder, 2, 1, second - 1, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
    folder_read(&g_folder, 2, 1, MCS_JOURNAL_PAGE, frame, 16);
    frame[10] ^= 1;
    folder_write(&g_folder, 2, 1, MCS_JOURNAL_PAGE, frame, 16);
    after(g_plain, &past);
    assert_int_equal(past.damaged, 1);
}

static void a_snapshot_replaces_what_was_before_it(void **state)
{
    (void)state;
    mcs_journal_config_t config = {.go_on = true, .compact_bytes = 10000};
    mcs_journal_t *journal = begin(config, 1);
    for (uint64_t i = 1; i < 400; i++) {
        assert_true(append(journal, MCS_REC_PUT, 1, i));
    }
    assert_true(mcs_journal_wants_snapshot(journal, 1));
    assert_false(mcs_journal_wants_snapshot(journal, 2));
    assert_true(mcs_journal_snapshot_begin(journal, 1));
    assert_true(append(journal, MCS_REC_PUT, 17, 5));
    assert_true(append(journal, MCS_REC_PUT, 1, 399)); /* what lives */
    mcs_journal_destroy(journal);
    values_t values = after(config, NULL); /* not finished: both files count */
    assert_int_equal(values.records, 401);
    assert_int_equal(values.value[1], 399);
    journal = begin(config, 2);
    assert_true(mcs_journal_snapshot_begin(journal, 1));
    assert_true(append(journal, MCS_REC_PUT, 1, 399));
    assert_true(append(journal, MCS_REC_PUT, 17, 5));
    mcs_journal_snapshot_end(journal, 1);
    assert_false(mcs_journal_wants_snapshot(journal, 1));
    mcs_journal_stats_t stats;
    mcs_journal_stats(journal, &stats);
    assert_int_equal(stats.snapshots, 1);
    mcs_journal_destroy(journal);
    values = after(config, NULL);
    assert_int_equal(values.records, 2);
    assert_int_equal(values.value[1], 399);
    assert_int_equal(values.value[17], 5);
}

static void snapshot(mcs_journal_t *journal, uint32_t stream, const values_t *values, bool finish)
{
    if (!mcs_journal_snapshot_begin(journal, stream)) {
        return;
    }
    for (uint32_t key = stream; key < KEYS; key += MCS_JOURNAL_GROUPS) {
        if (values->value[key] != 0) {
            append(journal, MCS_REC_PUT, key, values->value[key]);
        }
    }
    if (finish) {
        mcs_journal_snapshot_end(journal, stream);
    }
}

static void whatever_happens_a_replay_says_what_is(void **state)
{
    (void)state;
    values_t model;
    memset(&model, 0, sizeof(model));
    g_dice_state = 4711;
    for (uint64_t epoch = 1; epoch < 60; epoch++) {
        mcs_journal_t *journal = begin(g_plain, epoch);
        for (uint32_t i = dice(200); i > 0; i--) {
            uint32_t key = dice(KEYS);
            if (dice(50) == 0) {
                snapshot(journal, dice(MCS_JOURNAL_GROUPS), &model, dice(2) == 0);
            }
            model.value[key] = dice(3) == 0 ? 0 : dice(1u << 28) + UINT64_C(1);
            assert_true(append(journal, model.value[key] == 0 ? MCS_REC_DEL : MCS_REC_PUT, key, model.value[key]));
        }
        if (dice(3) == 0) {
            mcs_journal_close(journal);
        }
        mcs_journal_destroy(journal);
        values_t found = after(g_plain, NULL);
        assert_memory_equal(found.value, model.value, sizeof(model.value));
    }
}

/* A whole life; what it said it has appended is found afterwards, or the journal says that it does not count. */
static mcs_status_t live(void *arg)
{
    mcs_journal_config_t config = {.go_on = true, .sync = *(bool *)arg};
    mcs_journal_t *journal = NULL;
    uint64_t appended = 0;
    folder_clear(&g_folder);
    mcs_status_t status = try_open(config, &journal);
    if (status == MCS_OK) {
        status = mcs_journal_begin(journal, 3, 1000);
    }
    bool begun = status == MCS_OK;
    for (uint64_t i = 1; status == MCS_OK && i <= MCS_JOURNAL_WINDOW / 40; i++) {
        status = append(journal, MCS_REC_PUT, 1, i) ? MCS_OK : MCS_ERR_FILE_WRITE_FAIL;
        appended += status == MCS_OK;
    }
    if (status == MCS_OK) {
        values_t values = {.value = {[1] = appended}};
        snapshot(journal, 1, &values, true);
        mcs_journal_sync(journal);
        status = mcs_journal_is_on(journal) ? MCS_OK : MCS_ERR_FILE_WRITE_FAIL;
    }
    if (status == MCS_OK) {
        mcs_journal_close(journal);
    }
    mcs_journal_destroy(journal);
    bool fired = mcs_fault_fired(MCS_FAULT_SYSCALL) || mcs_fault_fired(MCS_FAULT_ALLOC);
    mcs_fault_arm(MCS_FAULT_SYSCALL, 0);
    mcs_fault_arm(MCS_FAULT_ALLOC, 0);
    if (begun) {
        mcs_journal_past_t past;
        values_t values = after(g_plain, &past);
        assert_true(past.empty || values.value[1] == appended);
        assert_true(status != MCS_OK || !past.empty);
    }
    /* The loop asks after this. */
    return fired && status == MCS_OK ? MCS_ERR_AGAIN : status;
}

static void every_failing_call_is_survived(void **state)
{
    (void)state;
    for (int sync = 0; sync < 2; sync++) {
        bool with_sync = sync == 1;
        for (int kind = 0; kind < MCS_FAULT_KIND_COUNT; kind++) {
            uint64_t nth = 1;
            mcs_status_t status;
            do {
                mcs_fault_arm((mcs_fault_kind_t)kind, nth++);
                status = live(&with_sync);
            } while (status != MCS_OK && nth < 1000);
            assert_int_equal(status, MCS_OK);
            assert_true(nth > 3);
        }
    }
}

static void a_check_explains(void **state)
{
    (void)state;
    mcs_buf_t text;
    mcs_buf_init(&text, 1 << 20);
    assert_int_equal(mcs_journal_check(g_folder.path, &text), MCS_OK);
    assert_non_null(strstr(mcs_buf_cstr(&text), "no journal"));
    mcs_journal_t *journal = begin(g_plain, 42);
    assert_true(append(journal, MCS_REC_PUT, 2, 11));
    assert_true(append(journal, MCS_REC_DEL, 2, 0));
    mcs_buf_reset(&text);
    assert_int_equal(mcs_journal_check(g_folder.path, &text), MCS_OK); /* also of one in use */
    assert_non_null(strstr(mcs_buf_cstr(&text), "epoch 42"));
    assert_non_null(strstr(mcs_buf_cstr(&text), "2 records"));
    assert_non_null(strstr(mcs_buf_cstr(&text), "verdict: good"));
    mcs_journal_destroy(journal);
    folder_write(&g_folder, 2, 1, MCS_JOURNAL_PAGE + 10, "x", 1);
    mcs_buf_reset(&text);
    assert_int_equal(mcs_journal_check(g_folder.path, &text), MCS_ERR_CHECKSUM_MISMATCH);
    assert_non_null(
        strstr(mcs_buf_cstr(&text), "stream 2: DAMAGED: journal-02-000000000001.mcj: bad frame at byte 4096"));
    folder_write(&g_folder, 3, 1, 0, "x", 1);
    mcs_buf_reset(&text);
    assert_int_equal(mcs_journal_check(g_folder.path, &text), MCS_ERR_CHECKSUM_MISMATCH);
    assert_non_null(strstr(mcs_buf_cstr(&text), "not a journal file"));
    assert_int_equal(folder_count(&g_folder), MCS_JOURNAL_STREAMS); /* it only looks */
    mcs_buf_reset(&text);
    assert_int_not_equal(mcs_journal_check("/nonexistent", &text), MCS_OK);
    mcs_buf_fini(&text);
}

static void voiding_takes_it_out_of_use(void **state)
{
    (void)state;
    mcs_journal_destroy(begin(g_plain, 1));
    assert_int_equal(mcs_journal_void(g_folder.path), MCS_OK);
    assert_int_equal(folder_count(&g_folder), 0);
    assert_int_equal(mcs_journal_void("/nonexistent/folder"), MCS_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_was_appended_is_there_after_a_kill),
        TEST(a_window_that_is_full_is_followed_by_another),
        TEST(a_frame_that_is_torn_by_a_kill_is_cut_at_every_byte),
        TEST(a_flipped_bit_is_never_taken_for_a_record),
        TEST(a_changed_header_is_met),
        TEST(another_version_is_refused_and_left_alone),
        TEST(a_file_of_the_first_version_counts),
        TEST(a_shortened_or_missing_file_is_damage),
        TEST(one_master_has_a_folder),
        TEST(a_folder_that_is_none_is_an_error),
        TEST(a_full_disk_goes_on_without_and_is_not_believed_later),
        TEST(a_full_disk_stops_and_has_all_that_was_appended),
        TEST(after_a_reboot_an_unsynced_journal_does_not_count),
        TEST(after_a_reboot_a_closed_journal_counts),
        TEST(after_a_reboot_what_was_synced_counts),
        TEST(a_snapshot_replaces_what_was_before_it),
        TEST(whatever_happens_a_replay_says_what_is),
        TEST(every_failing_call_is_survived),
        TEST(a_check_explains),
        TEST(voiding_takes_it_out_of_use),
    };
    return cmocka_run_group_tests_name("journal files", tests, NULL, NULL);
}
