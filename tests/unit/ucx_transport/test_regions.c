/* Regions over a UCX that registers when the test lets it. */
#include "tests/support/unit.h"

#include "tests/unit/ucx_transport/fake_registration.h"

#define WINDOWS 8
#define BASE    ((void *)(uintptr_t)(UINT64_C(1) << 40)) /* never touched */

static struct {
    mcs_mutex_t lock;
    mcs_cond_t changed;
    uint32_t begun;
    uint32_t allowed;
    uint32_t mapped;
    bool removed;
} g_ucx;

static ucs_status_t fake_map(ucp_context_h ucp MCS_UNUSED, const ucp_mem_map_params_t *params MCS_UNUSED,
                             ucp_mem_h *memh_out)
{
    mcs_mutex_lock(&g_ucx.lock);
    g_ucx.begun++;
    mcs_cond_broadcast(&g_ucx.changed);
    while (g_ucx.begun > g_ucx.allowed) {
        mcs_cond_wait(&g_ucx.changed, &g_ucx.lock);
    }
    g_ucx.mapped++;
    mcs_mutex_unlock(&g_ucx.lock);
    *memh_out = NULL;
    return UCS_OK;
}

static ucs_status_t fake_unmap(ucp_context_h ucp MCS_UNUSED, ucp_mem_h memh MCS_UNUSED)
{
    mcs_mutex_lock(&g_ucx.lock);
    g_ucx.mapped--;
    mcs_cond_broadcast(&g_ucx.changed);
    mcs_mutex_unlock(&g_ucx.lock);
    return UCS_OK;
}

static void allow(uint32_t windows)
{
    mcs_mutex_lock(&g_ucx.lock);
    g_ucx.allowed = windows;
    mcs_cond_broadcast(&g_ucx.changed);
    mcs_mutex_unlock(&g_ucx.lock);
}

/* Until so many registrations have begun; false: not within two seconds. */
static bool begun_in_time(uint32_t windows)
{
    uint64_t end_ns = mcs_deadline_after_ms(2000);
    mcs_mutex_lock(&g_ucx.lock);
    while (g_ucx.begun < windows && mcs_cond_wait_until(&g_ucx.changed, &g_ucx.lock, end_ns)) {
    }
    bool begun = g_ucx.begun >= windows;
    mcs_mutex_unlock(&g_ucx.lock);
    return begun;
}

static bool removed_in_time(void)
{
    uint64_t end_ns = mcs_deadline_after_ms(2000);
    mcs_mutex_lock(&g_ucx.lock);
    while (!g_ucx.removed && mcs_cond_wait_until(&g_ucx.changed, &g_ucx.lock, end_ns)) {
    }
    bool removed = g_ucx.removed;
    mcs_mutex_unlock(&g_ucx.lock);
    return removed;
}

/* The region is not found any more. */
static bool is_out_in_time(ucxt_regions_t *regions)
{
    uint64_t end_ns = mcs_deadline_after_ms(2000);
    mcs_mutex_lock(&regions->lock);
    while (regions->count > 0 && !mcs_deadline_passed(end_ns)) { /* who removes it tells nobody */
        mcs_cond_wait_until(&regions->changed, &regions->lock, mcs_deadline_after_ms(1));
    }
    size_t count = regions->count;
    mcs_mutex_unlock(&regions->lock);
    return count == 0;
}

static void remove_main(void *arg)
{
    ucxt_regions_remove(arg, BASE);
    mcs_mutex_lock(&g_ucx.lock);
    g_ucx.removed = true;
    mcs_cond_broadcast(&g_ucx.changed);
    mcs_mutex_unlock(&g_ucx.lock);
}

/* A buffer whose registration has begun is given up again: its other windows are not registered first. */
static void removing_waits_for_the_window_that_is_being_registered_alone(void **state MCS_UNUSED)
{
    static ucxt_dl_t dl;
    ucxt_context_t context = {.dl = &dl, .rdma = true};
    ucxt_regions_t regions;
    mcs_thread_t remover = {0};
    fake_registration(&dl, fake_map, fake_unmap);
    mcs_mutex_init(&g_ucx.lock, MCS_RANK_LEAF, "fake ucx");
    mcs_cond_init(&g_ucx.changed);
    ucxt_regions_init(&regions, &context);
    assert_int_equal(ucxt_regions_start(&regions), MCS_OK);
    assert_int_equal(ucxt_regions_add(&regions, BASE, WINDOWS * UCXT_WINDOW_BYTES, MCS_EXPOSED_AHEAD), MCS_OK);
    assert_true(begun_in_time(1));
    assert_int_equal(mcs_thread_start(&remover, "remover", remove_main, &regions), MCS_OK);
    assert_true(is_out_in_time(&regions));
    assert_false(g_ucx.removed);
    allow(1);
    bool removed = removed_in_time();
    allow(WINDOWS);
    mcs_thread_join(&remover);
    assert_true(removed);
    assert_int_equal(g_ucx.begun, 1);
    /* The next one is registered as ever. */
    assert_int_equal(ucxt_regions_add(&regions, BASE, UCXT_WINDOW_BYTES, MCS_EXPOSED_AHEAD), MCS_OK);
    assert_true(begun_in_time(2));
    ucxt_regions_fini(&regions);
    assert_int_equal(g_ucx.begun, 2);
    assert_int_equal(g_ucx.mapped, 0);
    mcs_cond_fini(&g_ucx.changed);
    mcs_mutex_fini(&g_ucx.lock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(removing_waits_for_the_window_that_is_being_registered_alone),
    };
    return cmocka_run_group_tests_name("ucx_regions", tests, NULL, NULL);
}
