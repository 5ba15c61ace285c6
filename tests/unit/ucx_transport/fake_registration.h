/* Registration without a UCX: `map` and `unmap` are the test's, keys are 8 bytes of nothing. Header only. */
#ifndef MCS_TESTS_FAKE_REGISTRATION_H
#define MCS_TESTS_FAKE_REGISTRATION_H

#include "ucx_transport/regions.h"

MCS_UNUSED static ucs_status_t fake_pack(ucp_context_h ucp MCS_UNUSED, ucp_mem_h memh MCS_UNUSED, void **key_out,
                                         size_t *len_out)
{
    static char key[8];
    *key_out = key;
    *len_out = sizeof(key);
    return UCS_OK;
}

MCS_UNUSED static void fake_release(void *key MCS_UNUSED)
{
}

MCS_UNUSED static void fake_registration(ucxt_dl_t *dl,
                                         ucs_status_t (*map)(ucp_context_h, const ucp_mem_map_params_t *, ucp_mem_h *),
                                         ucs_status_t (*unmap)(ucp_context_h, ucp_mem_h))
{
    dl->ucp_mem_map = map;
    dl->ucp_mem_unmap = unmap;
    dl->ucp_rkey_pack = fake_pack;
    dl->ucp_rkey_buffer_release = fake_release;
}

#endif
