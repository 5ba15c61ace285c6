/* The main of libmcstore.so: plugs the transport, the metadata client and the embedded master into the client library
 * when it is loaded. */
#include "core/client/parts.h"
#include "gpu/gpu.h"
#include "master/embed.h"
#include "master/http_client_pages.h"
#include "ucx_transport/ucx_transport.h"

static void __attribute__((constructor)) plug_parts(void)
{
    static const mcs_parts_t parts = {
        .transport = &ucxt_transport_ops,
        .metadata = &ucxt_metadata_http_ops,
        .embed = &mcs_master_embed_ops,
        .http = &mcs_client_http_ops,
        .mem_space = &mcs_gpu_space_ops,
    };
    mcs_parts_set(&parts);
}
