/* The slot protocol at full speed: an owner writes, gives back and writes again as fast as it can, and nobody who has a
 * pin ever sees a byte change - threads of this process (which the thread sanitizer watches), and other processes. */
#include "tests/support/unit.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "core/base/thread.h"
#include "tests/unit/same_host/board.h"

#define EXTENTS (3u * BOARD_PLACES)
#if defined(__SANITIZE_THREAD__)
#define ROUNDS 4000u /* ten times as slow there */
#else
#define ROUNDS 20000u
#endif
#define READERS 3

static rig_t g_rig;

typedef struct reader {
    mcs_thread_t thread;
    board_t *board;
    long long result;
} reader_t;

static void reader_main(void *arg)
{
    reader_t *reader = arg;
    reader->result = board_read_until_stopped(reader->board, g_rig.own);
}

/* Extents that are the owner's again. */
typedef struct churn {
    uint32_t free_extents[EXTENTS];
    uint32_t free_count;
    uint32_t extent_of[ROUNDS + 1]; /* by generation */
    uint32_t seen;                  /* entries of g_rig.released */
} churn_t;

static void take_released(churn_t *churn, bool wait)
{
    uint64_t deadline_ns = mcs_deadline_after_ms(RIG_PATIENCE_MS);
    mcs_mutex_lock(&g_rig.lock);
    while (wait && churn->seen == g_rig.released_count &&
           mcs_cond_wait_until(&g_rig.changed, &g_rig.lock, deadline_ns)) {
    }
    while (churn->seen < g_rig.released_count) {
        churn->free_extents[churn->free_count++] = churn->extent_of[g_rig.released[churn->seen++]];
    }
    mcs_mutex_unlock(&g_rig.lock);
}

/* Puts `rounds` objects, each in the place of an older one that is given back. */
static void churn(board_t *board, churn_t *churn, uint32_t rounds)
{
    uint64_t current[BOARD_PLACES] = {0};
    for (uint32_t i = 0; i < EXTENTS; i++) {
        churn->free_extents[churn->free_count++] = i;
    }
    for (uint64_t generation = 1; generation <= rounds; generation++) {
        take_released(churn, churn->free_count == 0);
        assert_true(churn->free_count > 0);
        uint32_t extent = churn->free_extents[--churn->free_count];
        churn->extent_of[generation] = extent;
        assert_int_equal(rig_write(g_rig.own, extent * BOARD_STRIDE, generation, BOARD_LEN, generation), MCS_OK);
        uint32_t place = (uint32_t)(generation % BOARD_PLACES);
        __atomic_store_n(&board->extent[place], extent, __ATOMIC_RELEASE);
        __atomic_store_n(&board->generation[place], generation, __ATOMIC_RELEASE);
        if (current[place] != 0) {
            rig_release(&g_rig, churn->extent_of[current[place]] * BOARD_STRIDE, current[place], BOARD_LEN, 0,
                        g_rig.session);
        }
        current[place] = generation;
    }
    __atomic_store_n(&board->stop, 1, __ATOMIC_RELEASE);
}

static void threads_never_see_a_pinned_byte_change(void **state)
{
    (void)state;
    static board_t board;
    static churn_t state_of_churn;
    reader_t readers[READERS];
    memset(&board, 0, sizeof(board));
    memset(&state_of_churn, 0, sizeof(state_of_churn));
    rig_start(&g_rig, 16 * MCS_MIB, NULL);
    for (int i = 0; i < READERS; i++) {
        readers[i] = (reader_t){.board = &board};
        assert_int_equal(mcs_thread_start(&readers[i].thread, "reader", reader_main, &readers[i]), MCS_OK);
    }
    churn(&board, &state_of_churn, ROUNDS);
    long long reads = 0;
    for (int i = 0; i < READERS; i++) {
        mcs_thread_join(&readers[i].thread);
        assert_true(readers[i].result >= 0);
        reads += readers[i].result;
    }
    assert_true(reads > 100);
    rig_stop(&g_rig);
}

static void other_processes_never_see_a_pinned_byte_change(void **state)
{
    (void)state;
    static churn_t state_of_churn;
    memset(&state_of_churn, 0, sizeof(state_of_churn));
    int fd = memfd_create("board", 0);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, sizeof(board_t)), 0);
    board_t *board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(board, MAP_FAILED);
    rig_start(&g_rig, 16 * MCS_MIB, NULL);
    peer_t peers[READERS];
    for (int i = 0; i < READERS; i++) {
        peer_start(&peers[i], PEER_PROGRAM, fd);
        assert_int_equal(peer_map(&peers[i], &g_rig, (mcs_id_t){40, (uint64_t)i + 1}), MCS_OK);
        peer_send(&peers[i], "race");
    }
    churn(board, &state_of_churn, ROUNDS);
    long long reads = 0;
    for (int i = 0; i < READERS; i++) {
        char answer[32] = "";
        for (size_t len = 0; len < sizeof(answer) - 1 && read(peers[i].out, &answer[len], 1) == 1; len++) {
            if (answer[len] == '\n') {
                break;
            }
        }
        long long result = strtoll(answer, NULL, 10);
        assert_true(result >= 0);
        reads += result;
        peer_stop(&peers[i]);
    }
    assert_true(reads > 100);
    rig_stop(&g_rig);
    munmap(board, sizeof(*board));
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_never_see_a_pinned_byte_change),
        cmocka_unit_test(other_processes_never_see_a_pinned_byte_change),
    };
    return cmocka_run_group_tests_name("same_host_race", tests, NULL, NULL);
}
