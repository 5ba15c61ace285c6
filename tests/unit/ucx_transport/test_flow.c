/* Requests and their answers without a UCX: what a connection learns from them. */
#include "tests/support/unit.h"

#include <stdlib.h>

#include "tests/unit/ucx_transport/fake_registration.h"
#include "ucx_transport/flow_internal.h"

#define LEN ((size_t)256 << 10)

typedef struct one {
    ucxt_dl_t dl;
    ucxt_regions_t regions;
    mcs_transport_counters_t counters;
    ucxt_shared_t shared;
    ucxt_lane_t lane;
    ucxt_conn_t conn;
    struct iovec iov;
    mcs_range_t range;
    mcs_transfer_t transfer;
    uint32_t left;
    flow_t flow;
} one_t;

static ucs_status_t fake_map(ucp_context_h ucp MCS_UNUSED, const ucp_mem_map_params_t *params MCS_UNUSED,
                             ucp_mem_h *memh_out)
{
    *memh_out = NULL;
    return UCS_OK;
}

static ucs_status_t fake_unmap(ucp_context_h ucp MCS_UNUSED, ucp_mem_h memh MCS_UNUSED)
{
    return UCS_OK;
}

/* One store of registered memory, which is to be asked for by places. */
static int setup(void **state)
{
    static one_t storage;
    one_t *one = &storage;
    memset(one, 0, sizeof(*one));
    fake_registration(&one->dl, fake_map, fake_unmap);
    one->iov = (struct iovec){calloc(1, LEN), LEN};
    assert_non_null(one->iov.iov_base);
    one->shared.context = (ucxt_context_t){.dl = &one->dl, .rdma = true};
    one->shared.counters = &one->counters;
    one->shared.regions = &one->regions;
    ucxt_regions_init(&one->regions, &one->shared.context);
    assert_int_equal(ucxt_regions_start(&one->regions), MCS_OK);
    assert_int_equal(ucxt_regions_add(&one->regions, one->iov.iov_base, LEN, MCS_EXPOSED_AHEAD), MCS_OK);
    while (ucxt_regions_find(&one->regions, one->iov.iov_base, LEN, true) == NULL) {
        uint64_t soon_ns = mcs_deadline_after_ms(1); /* it may have happened before this */
        mcs_mutex_lock(&one->regions.lock);
        mcs_cond_wait_until(&one->regions.changed, &one->regions.lock, soon_ns);
        mcs_mutex_unlock(&one->regions.lock);
    }
    ucxt_lane_init(&one->lane, &one->shared);
    one->conn.lane = &one->lane;
    one->conn.state = UCXT_CONN_UP;
    one->conn.rdma = true;
    one->range.access = (mcs_access_t){.payload_len = LEN, .len = LEN};
    one->range.crc_count = 1;
    one->range.iov = &one->iov;
    one->range.iov_count = 1;
    one->transfer = (mcs_transfer_t){.direction = MCS_STORE, .ranges = &one->range, .range_count = 1};
    one->flow = (flow_t){.transfer = &one->transfer, .lane = &one->lane, .conn = &one->conn, .left = &one->left};
    ucxt_flow_prepare(&one->flow);
    *state = one;
    return 0;
}

static int teardown(void **state)
{
    one_t *one = *state;
    ucxt_regions_fini(&one->regions);
    free(one->iov.iov_base);
    return 0;
}

static void refuse(one_t *one, bool early)
{
    const ucxt_header_t refused = {.kind = UCXT_REFUSED, .value = (uint32_t)MCS_ERR_TRANSFER_FAIL};
    flow_request_t *request;
    assert_int_equal(ucxt_flow_next(&one->flow, 1000, &request), MCS_OK);
    ucxt_request_t *base = &request->base;
    assert_true(base->exposed);
    one->lane.exposed++; /* as ucxt_conn_send has it */
    base->sending = early;
    assert_int_equal(base->answer(base, &refused, NULL, 0), MCS_OK);
    if (early) {
        assert_int_equal(one->flow.ranges_open, 1);
        base->sending = false;
        base->sent(base);
    }
    assert_int_equal(one->flow.ranges_open, 0);
    assert_int_equal(one->range.status, MCS_ERR_TRANSFER_FAIL);
    assert_int_equal(one->lane.exposed, 0);
    assert_false(one->conn.rdma);
}

static void an_owner_whose_device_does_not_get_here_is_sent_messages(void **state)
{
    refuse(*state, false);
}

/* A device tells in another order. */
static void also_when_its_word_comes_before_the_request_has_left(void **state)
{
    refuse(*state, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_owner_whose_device_does_not_get_here_is_sent_messages, setup, teardown),
        cmocka_unit_test_setup_teardown(also_when_its_word_comes_before_the_request_has_left, setup, teardown),
    };
    return cmocka_run_group_tests_name("ucx_flow", tests, NULL, NULL);
}
