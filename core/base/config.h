/* The config table: one row per knob, one field in a struct, three sources.
 *
 *   defaults  <  file (given by the caller as name=value pairs)  <  environment  <  flags
 *
 * A table describes a plain struct: each row is {name, env, default text, kind, offset, min, max, doc}. The same rows
 * give
 * `--help`, docs/configuration.md, the flags' long options, and bounds checks. getenv() is called in config.c alone.
 * Not thread-safe while loading; afterwards the struct is read-only. */
#ifndef MCS_BASE_CONFIG_H
#define MCS_BASE_CONFIG_H

#include "core/base/buf.h"
#include "core/base/status.h"

typedef enum mcs_config_kind {
    MCS_CONFIG_BOOL,     /* bool */
    MCS_CONFIG_INT,      /* int64_t, min..max */
    MCS_CONFIG_UINT,     /* uint64_t, min..max */
    MCS_CONFIG_SIZE,     /* uint64_t bytes, "4GB" grammar */
    MCS_CONFIG_DURATION, /* uint64_t milliseconds, "5s" grammar */
    MCS_CONFIG_DOUBLE,   /* double, min..max */
    MCS_CONFIG_STRING,   /* char *, owned by the struct, never NULL after load */
    MCS_CONFIG_PRESENCE  /* bool: any value, even "0", switches on (environment only) */
} mcs_config_kind_t;

typedef enum mcs_config_source {
    MCS_CONFIG_FROM_DEFAULT,
    MCS_CONFIG_FROM_FILE,
    MCS_CONFIG_FROM_ENV,
    MCS_CONFIG_FROM_FLAG
} mcs_config_source_t;

typedef enum mcs_config_flags {
    /* A bad environment value warns and keeps what was there (the API's documented behaviour); without this it fails.
     */
    MCS_CONFIG_LENIENT_ENV = 1,
    /* Accepted for compatibility and without effect: the doc says why; a value other than the default warns once. */
    MCS_CONFIG_IGNORED = 2,
    /* Recognised, but this build cannot do it: a value other than the default is an error that says so. */
    MCS_CONFIG_UNSUPPORTED = 4,
    /* An alias row (same offset as its main row): not printed in docs twice. */
    MCS_CONFIG_ALIAS = 8,
    /* A secret: never printed. */
    MCS_CONFIG_SECRET = 16
} mcs_config_flags_t;

typedef struct mcs_config_row {
    const char *name; /* flag and file key, snake_case; NULL = environment only */
    const char *env;  /* NULL = none; "PREFIX_*" = every variable that begins so and has no row (IGNORED) */
    const char *default_text;
    mcs_config_kind_t kind;
    unsigned flags;
    size_t offset;
    double min; /* of INT, UINT, DOUBLE, SIZE, DURATION; min == max == 0: unbounded */
    double max;
    const char *doc; /* one line with the unit */
} mcs_config_row_t;

typedef struct mcs_config_table {
    const char *title;
    const mcs_config_row_t *rows;
    size_t row_count;
} mcs_config_table_t;

/* Sets every field of the table to its default; `conf` may be uninitialised. Fails only for lack of memory. */
mcs_status_t mcs_config_init(const mcs_config_table_t *table, void *conf) MCS_MUST_CHECK;
/* Frees the strings. */
void mcs_config_fini(const mcs_config_table_t *table, void *conf);
/* Sets one field by name. Unknown name: MCS_ERR_OBJECT_NOT_FOUND; bad value: MCS_ERR_INVALID_PARAMS, and `why` (may be
 * NULL) gets one line that names the knob, the value and what would be right. */
mcs_status_t mcs_config_set(const mcs_config_table_t *table, void *conf, mcs_config_source_t source, const char *name,
                            const char *value, mcs_buf_t *why) MCS_MUST_CHECK;
/* Is there a row of this name (a flag's, a file key's)? */
bool mcs_config_has(const mcs_config_table_t *table, const char *name);
/* Applies the environment to rows that have an `env`. */
mcs_status_t mcs_config_load_env(const mcs_config_table_t *table, void *conf, mcs_buf_t *why) MCS_MUST_CHECK;
/* Flags in gflags' spellings: --x=v, --x v, -x=v, -x v, --nox and --x for booleans, dashes for underscores. Stops with
 * MCS_ERR_INVALID_PARAMS at the first unknown one. Positional arguments are an error. "--help" and "--version" are the
 * caller's: handle them first. */
mcs_status_t mcs_config_load_flags(const mcs_config_table_t *table, void *conf, int argc, char **argv, mcs_buf_t *why)
    MCS_MUST_CHECK;
/* The table as text for --help ("  --name (doc) type: … default: …") or as a Markdown table for docs/. */
void mcs_config_help(const mcs_config_table_t *table, mcs_buf_t *out);
void mcs_config_markdown(const mcs_config_table_t *table, mcs_buf_t *out);

/* The only other door to the environment, for values that are no knobs (HOME, TMPDIR …). NULL when unset. */
const char *mcs_env(const char *name);

#endif
