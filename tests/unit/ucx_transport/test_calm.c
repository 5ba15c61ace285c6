/* Connections inside one machine: who is switched, and what makes them begin anew. */
#include "rig.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "ucx_transport/ucx_calm.h"

#define ENDLESS UINT32_C(0x7fffffff) /* the threshold of who has not left slow start */

/* A connection over the loopback, both ends under BBR. */
typedef struct pair {
    int caller;
    int owner;     /* accepted */
    uint16_t port; /* of the listener, as the wire has it */
} pair_t;

static bool has(int fd, const char *name)
{
    char found[16] = "";
    socklen_t len = sizeof(found) - 1;
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, found, &len), 0);
    return strcmp(found, name) == 0;
}

static uint32_t threshold(int fd)
{
    struct tcp_info info;
    socklen_t len = sizeof(info);
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
    return info.tcpi_snd_ssthresh;
}

/* False: BBR is not to be had on this machine. */
static bool pair_open(pair_t *pair)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pair->caller = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(listener >= 0 && pair->caller >= 0);
    if (setsockopt(listener, IPPROTO_TCP, TCP_CONGESTION, "bbr", 3) != 0 ||
        setsockopt(pair->caller, IPPROTO_TCP, TCP_CONGESTION, "bbr", 3) != 0) {
        close(listener);
        close(pair->caller);
        return false;
    }
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &len), 0);
    assert_int_equal(connect(pair->caller, (struct sockaddr *)&address, sizeof(address)), 0);
    pair->owner = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(pair->owner >= 0);
    pair->port = address.sin_port;
    close(listener);
    return true;
}

static void pair_close(const pair_t *pair)
{
    close(pair->caller);
    close(pair->owner);
}

/* Sends until BBR has measured what the connection can do, and leaves slow start. */
static void leave_slow_start(const pair_t *pair)
{
    static uint8_t bytes[1 << 18];
    uint64_t end = mcs_now_ns() + UINT64_C(60) * 1000000000;
    while (threshold(pair->caller) == ENDLESS) {
        assert_true(mcs_now_ns() < end);
        while (send(pair->caller, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
        }
        assert_int_equal(errno, EAGAIN);
        while (recv(pair->owner, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
        }
    }
}

static ucxt_listeners_t listeners_of(const pair_t *pair)
{
    return (ucxt_listeners_t){.count = 1, .port = {ntohs(pair->port)}};
}

static void each_side_switches_its_own_end(void **state)
{
    (void)state;
    pair_t pair;
    pair_t strange;
    if (!pair_open(&pair)) {
        skip(); /* no BBR on this machine */
    }
    assert_true(pair_open(&strange));
    ucxt_calm_t calling = {0};
    ucxt_calm_add(&calling, &pair.port, sizeof(pair.port), NULL);
    assert_true(has(pair.caller, "reno"));
    assert_true(has(pair.owner, "bbr"));
    assert_int_equal(calling.count, 1);

    ucxt_calm_t serving = {0};
    const ucxt_listeners_t listeners = listeners_of(&pair);
    ucxt_calm_add(&serving, "", 0, &listeners);
    assert_true(has(pair.owner, "reno"));
    assert_int_equal(serving.count, 1);

    assert_true(has(strange.caller, "bbr") && has(strange.owner, "bbr"));
    pair_close(&pair);
    pair_close(&strange);
}

static void a_connection_is_looked_at_by_who_switched_it(void **state)
{
    (void)state;
    pair_t pair;
    if (!pair_open(&pair)) {
        skip();
    }
    ucxt_calm_t calm[2] = {0};
    for (size_t i = 0; i < MCS_ARRAY_LEN(calm); i++) {
        ucxt_calm_add(&calm[i], &pair.port, sizeof(pair.port), NULL);
        ucxt_calm_add(&calm[i], &pair.port, sizeof(pair.port), NULL);
    }
    assert_int_equal(calm[0].count, 1);
    assert_int_equal(calm[1].count, 0);
    pair_close(&pair);
}

static void a_connection_that_left_slow_start_begins_anew(void **state)
{
    (void)state;
    pair_t pair;
    if (!pair_open(&pair)) {
        skip();
    }
    leave_slow_start(&pair);
    ucxt_calm_t calm = {0};
    ucxt_calm_add(&calm, &pair.port, sizeof(pair.port), NULL);
    assert_true(threshold(pair.caller) < ENDLESS);
    calm.socket[0].lost = UINT32_MAX; /* whatever this machine has lost meanwhile */
    ucxt_calm_sent(&calm, UCXT_CALM_EVERY - 1);
    assert_true(threshold(pair.caller) < ENDLESS);
    ucxt_calm_sent(&calm, 1);
    assert_int_equal(threshold(pair.caller), ENDLESS);
    assert_true(has(pair.caller, "reno"));
    assert_int_equal(calm.count, 1);
    pair_close(&pair);
}

static void a_descriptor_that_is_another_socket_is_let_alone(void **state)
{
    (void)state;
    pair_t pair;
    pair_t other;
    if (!pair_open(&pair)) {
        skip();
    }
    assert_true(pair_open(&other));
    leave_slow_start(&other);
    ucxt_calm_t calm = {0};
    ucxt_calm_add(&calm, &pair.port, sizeof(pair.port), NULL);
    assert_int_equal(dup2(other.caller, pair.caller), pair.caller);
    ucxt_calm_look(&calm);
    assert_true(has(other.caller, "bbr"));
    assert_true(threshold(other.caller) < ENDLESS);
    assert_int_equal(calm.count, 0);
    ucxt_calm_look(&calm);
    pair_close(&pair);
    pair_close(&other);
}

static void a_closed_one_is_forgotten_and_the_others_have_their_turn(void **state)
{
    (void)state;
    pair_t pairs[3];
    ucxt_calm_t calm = {0};
    for (size_t i = 0; i < MCS_ARRAY_LEN(pairs); i++) {
        if (!pair_open(&pairs[i])) {
            skip();
        }
        leave_slow_start(&pairs[i]);
        ucxt_calm_add(&calm, &pairs[i].port, sizeof(pairs[i].port), NULL);
        calm.socket[i].lost = UINT32_MAX;
    }
    assert_int_equal(calm.count, 3);
    pair_close(&pairs[0]);
    for (size_t i = 0; i < MCS_ARRAY_LEN(pairs); i++) {
        ucxt_calm_look(&calm);
    }
    assert_int_equal(calm.count, 2);
    for (size_t i = 1; i < MCS_ARRAY_LEN(pairs); i++) {
        assert_int_equal(threshold(pairs[i].caller), ENDLESS);
        pair_close(&pairs[i]);
    }
}

static void what_was_retransmitted_for_nothing_is_forgiven_at_once(void **state)
{
    (void)state;
    ucxt_calm_socket_t held = {0};
    assert_true(ucxt_calm_forgives(&held, 0, 0));
    assert_true(ucxt_calm_forgives(&held, 45, 45));
    assert_false(ucxt_calm_forgives(&held, 90, 45)); /* the word is on its way */
    assert_true(ucxt_calm_forgives(&held, 90, 90));
    assert_true(ucxt_calm_forgives(&held, 90, 91)); /* a probe at the end counts there alone */
}

static void what_was_lost_is_forgiven_after_a_rest(void **state)
{
    (void)state;
    ucxt_calm_socket_t held = {0};
    for (uint32_t i = 0; i < UCXT_CALM_REST; i++) {
        assert_false(ucxt_calm_forgives(&held, 10, 3));
    }
    assert_false(ucxt_calm_forgives(&held, 10, 3));
    assert_true(ucxt_calm_forgives(&held, 10, 3));
    assert_true(ucxt_calm_forgives(&held, 12, 5));
    assert_false(ucxt_calm_forgives(&held, 13, 5)); /* another one: another rest */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_side_switches_its_own_end),
        cmocka_unit_test(a_connection_is_looked_at_by_who_switched_it),
        cmocka_unit_test(a_connection_that_left_slow_start_begins_anew),
        cmocka_unit_test(a_descriptor_that_is_another_socket_is_let_alone),
        cmocka_unit_test(a_closed_one_is_forgotten_and_the_others_have_their_turn),
        cmocka_unit_test(what_was_retransmitted_for_nothing_is_forgiven_at_once),
        cmocka_unit_test(what_was_lost_is_forgiven_after_a_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
