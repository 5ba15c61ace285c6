/* Prints the configuration page from the tables, or compares a file with it: exit code 1 when they differ. */
#include <stdio.h>
#include <string.h>

#include "client/daemon.h"
#include "core/base/buf.h"
#include "core/client/client_config.h"
#include "master/master.h"

static const char g_head[] =
    "# Configuration\n\n"
    "Printed from the config tables in the sources; do not edit. After a change of a table:\n"
    "`config_docs --write docs/configuration.md` (in the build folder under `tests/unit/config_docs`).\n\n"
    "Sources, the later wins: default, file, environment, flag. Sizes are numbers with B, KB, MB, GB or TB "
    "(1024-based); durations are\n"
    "milliseconds or have ms, s, m or h behind them.\n\n"
    "`mooncake_master` takes flags as `--name=value`, `--name value`, `-name=value`, `-name value`; booleans also as "
    "`--name` and\n"
    "`--noname`; `-` and `_` in names are the same. `--config_path=FILE` names a JSON or YAML file: one flat mapping "
    "with keys named like\n"
    "the flags.\n\n";

static const char g_daemon_head[] =
    "\n`mooncake_client` takes flags and a file in the same way; the variables below hold for it, too.\n\n";

static const char g_client_head[] = "\nThe client reads these from the environment at each `setup`; a bad value is "
                                    "warned about and the default kept.\n\n";

static void print_page(mcs_buf_t *page)
{
    mcs_buf_printf(page, "%s", g_head);
    mcs_config_markdown(&mcs_master_config_table, page);
    mcs_buf_printf(page, "%s", g_daemon_head);
    mcs_config_markdown(&mcs_daemon_config_table, page);
    mcs_buf_printf(page, "%s", g_client_head);
    mcs_config_markdown(&mcs_client_config_table, page);
}

static int write_page(const mcs_buf_t *page, const char *path)
{
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        perror(path);
        return 1;
    }
    bool ok = fwrite(page->bytes, 1, page->len, file) == page->len;
    ok = fclose(file) == 0 && ok;
    return ok ? 0 : 1;
}

/* Names the first line that differs. */
static int compare_page(const mcs_buf_t *page, const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        perror(path);
        return 1;
    }
    size_t line = 1;
    size_t at = 0;
    int c;
    while ((c = fgetc(file)) != EOF && at < page->len && page->bytes[at] == (uint8_t)c) {
        line += c == '\n' ? 1 : 0;
        at++;
    }
    fclose(file);
    if (c == EOF && at == page->len) {
        return 0;
    }
    fprintf(stderr, "%s:%zu: not what the config tables say; run: config_docs --write %s\n", path, line, path);
    return 1;
}

int main(int argc, char **argv)
{
    mcs_buf_t page;
    mcs_buf_init(&page, (size_t)1 << 20);
    print_page(&page);
    int code = 1;
    if (mcs_buf_status(&page) != MCS_OK) {
        fprintf(stderr, "config_docs: %s\n", mcs_status_name(mcs_buf_status(&page)));
    } else if (argc == 3 && strcmp(argv[1], "--write") == 0) {
        code = write_page(&page, argv[2]);
    } else if (argc == 2) {
        code = compare_page(&page, argv[1]);
    } else {
        fprintf(stderr, "usage: config_docs [--write] FILE\n");
    }
    mcs_buf_fini(&page);
    return code;
}
