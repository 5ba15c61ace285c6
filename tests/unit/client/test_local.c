/* core/client/local: ports that are picked and held, and where a name binds. */
#include "core/client/local.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "tests/support/unit.h"

#define FIRST 21300
#define LAST  21399

static bool can_bind(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool bound = bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
    close(fd);
    return bound;
}

static void a_picked_port_is_in_the_range_and_held_until_it_is_released(void **state)
{
    (void)state;
    int fd = -1;
    uint16_t port = 0;
    assert_int_equal(mcs_local_pick_port("", false, FIRST, LAST, &fd, &port), MCS_OK);
    assert_true(port >= FIRST && port <= LAST);
    assert_false(can_bind(port));
    mcs_local_release_port(fd);
    assert_true(can_bind(port));
    mcs_local_release_port(-1);
}

static void no_two_get_the_same_port_and_a_full_range_is_a_limit(void **state)
{
    (void)state;
    unit_log_t log;
    int fds[4];
    uint16_t ports[4];
    int extra = -1;
    uint16_t extra_port = 0;
    mcs_status_t status = MCS_OK;
    int n = 0;
    while (n < 4 && status == MCS_OK) {
        status = mcs_local_pick_port("127.0.0.1", false, FIRST, FIRST + 3, &fds[n], &ports[n]);
        n += status == MCS_OK;
    }
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < i; j++) {
            assert_int_not_equal(ports[i], ports[j]);
        }
    }
    unit_log_capture(&log);
    assert_int_equal(mcs_local_pick_port("127.0.0.1", false, FIRST, FIRST + 3, &extra, &extra_port), MCS_ERR_LIMIT);
    unit_log_release();
    assert_int_equal(extra, -1);
    assert_non_null(strstr(log.last, "no free port in 21300..21303"));
    for (int i = 0; i < n; i++) {
        mcs_local_release_port(fds[i]);
    }
}

static void a_bind_address_that_is_none_is_refused_by_name(void **state)
{
    (void)state;
    unit_log_t log;
    int fd = -1;
    uint16_t port;
    unit_log_capture(&log);
    assert_int_equal(mcs_local_pick_port("999.1.1.1", false, FIRST, LAST, &fd, &port), MCS_ERR_INVALID_PARAMS);
    unit_log_release();
    assert_non_null(strstr(log.last, "999.1.1.1"));
}

static void addresses_and_localhost_bind_where_they_say(void **state)
{
    (void)state;
    assert_string_equal(mcs_local_bind_host("localhost", "", false), "localhost");
    assert_string_equal(mcs_local_bind_host("127.0.0.1", "", false), "127.0.0.1");
}

static void what_is_no_address_of_this_machine_binds_everywhere_with_a_warning(void **state)
{
    (void)state;
    unit_log_t log;
    unit_log_capture(&log);
    assert_string_equal(mcs_local_bind_host("192.0.2.77", "", false), "");
    assert_int_equal(log.lines, 1);
    assert_int_equal(log.level, MCS_LOG_WARN);
    assert_non_null(strstr(log.last, "192.0.2.77"));
    assert_string_equal(mcs_local_bind_host("no-such-host.invalid", "", false), "");
    assert_int_equal(log.lines, 2);
    unit_log_release();
}

static void loopback_beside_a_master_on_a_network_binds_everywhere(void **state)
{
    (void)state;
    static const char *const near[] = {"127.0.0.1:50051",       "localhost:50051",        "[::1]:50051",
                                       "unix:/tmp/master.sock", "no-such-host.invalid:1", ""};
    static const char *const far[] = {"192.0.2.1:50051", "[2001:db8::1]:50051"};
    for (size_t i = 0; i < MCS_ARRAY_LEN(near); i++) {
        assert_string_equal(mcs_local_bind_host("127.0.0.1", near[i], false), "127.0.0.1");
    }
    unit_log_t log;
    unit_log_capture(&log);
    for (size_t i = 0; i < MCS_ARRAY_LEN(far); i++) {
        assert_string_equal(mcs_local_bind_host("localhost", far[i], false), "");
        assert_int_equal(log.level, MCS_LOG_WARN);
        assert_non_null(strstr(log.last, far[i]));
    }
    unit_log_release();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_picked_port_is_in_the_range_and_held_until_it_is_released),
        cmocka_unit_test(no_two_get_the_same_port_and_a_full_range_is_a_limit),
        cmocka_unit_test(a_bind_address_that_is_none_is_refused_by_name),
        cmocka_unit_test(addresses_and_localhost_bind_where_they_say),
        cmocka_unit_test(what_is_no_address_of_this_machine_binds_everywhere_with_a_warning),
        cmocka_unit_test(loopback_beside_a_master_on_a_network_binds_everywhere),
    };
    return cmocka_run_group_tests_name("local", tests, NULL, NULL);
}
