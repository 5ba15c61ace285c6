/* See config.h. The only file that calls getenv(). */
#include "core/base/config.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/base/parse.h"

static const char *const g_source_names[] = {"default", "config file", "environment", "flag"};

static void *field_of(const mcs_config_row_t *row, void *conf)
{
    return (char *)conf + row->offset;
}

static bool in_range(const mcs_config_row_t *row, double value)
{
    return (row->min == 0 && row->max == 0) || (value >= row->min && value <= row->max);
}

static mcs_status_t store_string(char **field, const char *value)
{
    char *copy = mcs_strdup(value);
    if (copy == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_free(*field);
    *field = copy;
    return MCS_OK;
}

static mcs_status_t store_unsigned(const mcs_config_row_t *row, void *field, const char *value)
{
    uint64_t number = 0;
    mcs_status_t status = MCS_ERR_INTERNAL;
    if (row->kind == MCS_CONFIG_UINT) {
        status = mcs_parse_u64(value, UINT64_MAX, &number);
    } else if (row->kind == MCS_CONFIG_SIZE) {
        status = mcs_parse_size(value, &number);
    } else {
        status = mcs_parse_duration_ms(value, &number);
    }
    if (status == MCS_OK && !in_range(row, (double)number)) {
        status = MCS_ERR_INVALID_PARAMS;
    }
    if (status == MCS_OK) {
        *(uint64_t *)field = number;
    }
    return status;
}

/* Parses and stores; the field is unchanged on failure. */
static mcs_status_t store_value(const mcs_config_row_t *row, void *conf, const char *value)
{
    void *field = field_of(row, conf);
    int64_t integer;
    double real;
    mcs_status_t status;
    switch (row->kind) {
    case MCS_CONFIG_BOOL: return mcs_parse_bool(value, field);
    case MCS_CONFIG_PRESENCE: *(bool *)field = true; return MCS_OK; /* any text */
    case MCS_CONFIG_STRING: return store_string(field, value);
    case MCS_CONFIG_INT:
        status = mcs_parse_i64(value, INT64_MIN, INT64_MAX, &integer);
        if (status == MCS_OK && !in_range(row, (double)integer)) {
            status = MCS_ERR_INVALID_PARAMS;
        }
        if (status == MCS_OK) {
            *(int64_t *)field = integer;
        }
        return status;
    case MCS_CONFIG_DOUBLE:
        status = mcs_parse_double(value, -1e300, 1e300, &real);
        if (status == MCS_OK && !in_range(row, real)) {
            status = MCS_ERR_INVALID_PARAMS;
        }
        if (status == MCS_OK) {
            *(double *)field = real;
        }
        return status;
    case MCS_CONFIG_UINT:
    case MCS_CONFIG_SIZE:
    case MCS_CONFIG_DURATION: return store_unsigned(row, field, value);
    default: return MCS_ERR_INTERNAL;
    }
}

mcs_status_t mcs_config_init(const mcs_config_table_t *table, void *conf)
{
    /* The table knows its fields only: strings are NULLed so that each store may free what was there. */
    for (size_t i = 0; i < table->row_count; i++) {
        if (table->rows[i].kind == MCS_CONFIG_STRING) {
            *(char **)field_of(&table->rows[i], conf) = NULL;
        }
    }
    for (size_t i = 0; i < table->row_count; i++) {
        const mcs_config_row_t *row = &table->rows[i];
        if (row->kind == MCS_CONFIG_PRESENCE) {
            *(bool *)field_of(row, conf) = false;
            continue;
        }
        mcs_status_t status = store_value(row, conf, row->default_text);
        if (status != MCS_OK) {
            MCS_ENSURE(status == MCS_ERR_NO_MEMORY); /* a default that does not parse is our bug */
            mcs_config_fini(table, conf);
            return status;
        }
    }
    return MCS_OK;
}

void mcs_config_fini(const mcs_config_table_t *table, void *conf)
{
    for (size_t i = 0; i < table->row_count; i++) {
        if (table->rows[i].kind == MCS_CONFIG_STRING) {
            char **field = field_of(&table->rows[i], conf);
            mcs_free(*field);
            *field = NULL;
        }
    }
}

/* snake_case against any mix of - and _. */
static bool same_name(const char *row_name, const char *name, size_t len)
{
    if (strlen(row_name) != len) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        char c = name[i] == '-' ? '_' : name[i];
        if (row_name[i] != c) {
            return false;
        }
    }
    return true;
}

static const mcs_config_row_t *find_row(const mcs_config_table_t *table, const char *name, size_t len)
{
    for (size_t i = 0; i < table->row_count; i++) {
        if (table->rows[i].name != NULL && same_name(table->rows[i].name, name, len)) {
            return &table->rows[i];
        }
    }
    return NULL;
}

static void explain(mcs_buf_t *why, const mcs_config_row_t *row, const char *name, const char *value,
                    mcs_config_source_t source)
{
    if (why == NULL) {
        return;
    }
    bool secret = (row->flags & MCS_CONFIG_SECRET) != 0;
    mcs_buf_printf(why, "%s %s: bad value \"%.200s\" (%s", g_source_names[source], name, secret ? "***" : value,
                   row->doc);
    if (row->min != 0 || row->max != 0) {
        mcs_buf_printf(why, "; %g to %g", row->min, row->max);
    }
    mcs_buf_printf(why, ")");
}

/* Of a field that has just been set to `value`: "0.9" is "0.90". */
static bool is_default(const mcs_config_row_t *row, void *conf, const char *value)
{
    void *field = field_of(row, conf);
    uint64_t now;
    uint64_t then;
    if (row->kind == MCS_CONFIG_BOOL) {
        return *(bool *)field == (strcmp(row->default_text, "true") == 0);
    }
    if (row->kind == MCS_CONFIG_STRING || row->kind == MCS_CONFIG_PRESENCE) {
        return strcmp(value, row->default_text) == 0;
    }
    memcpy(&now, field, sizeof(now)); /* all numbers have 64 bits */
    if (store_value(row, conf, row->default_text) != MCS_OK) {
        return false;
    }
    memcpy(&then, field, sizeof(then));
    memcpy(field, &now, sizeof(now));
    return now == then;
}

static mcs_status_t set_row(const mcs_config_row_t *row, void *conf, mcs_config_source_t source, const char *name,
                            const char *value, mcs_buf_t *why)
{
    /* An empty text is a value for strings only. */
    mcs_status_t status = store_value(row, conf, value);
    if (status == MCS_ERR_INVALID_PARAMS) {
        explain(why, row, name, value, source);
        return status;
    }
    if (status != MCS_OK || (row->flags & (MCS_CONFIG_UNSUPPORTED | MCS_CONFIG_IGNORED)) == 0) {
        return status;
    }
    if (is_default(row, conf, value)) {
        return MCS_OK;
    }
    if ((row->flags & MCS_CONFIG_UNSUPPORTED) != 0) {
        if (why != NULL) {
            mcs_buf_printf(why, "%s %s=%.200s: this build has no %s", g_source_names[source], name, value, row->doc);
        }
        status = store_value(row, conf, row->default_text);
        return status != MCS_OK ? status : MCS_ERR_INVALID_PARAMS;
    }
    bool secret = (row->flags & MCS_CONFIG_SECRET) != 0;
    mcs_warn("config", "%s %s%s%s has no effect: %s", g_source_names[source], name, secret ? "" : "=",
             secret ? "" : value, row->doc);
    return MCS_OK;
}

mcs_status_t mcs_config_set(const mcs_config_table_t *table, void *conf, mcs_config_source_t source, const char *name,
                            const char *value, mcs_buf_t *why)
{
    const mcs_config_row_t *row = find_row(table, name, strlen(name));
    if (row == NULL) {
        if (why != NULL) {
            mcs_buf_printf(why, "%s %s: no such setting", g_source_names[source], name);
        }
        return MCS_ERR_OBJECT_NOT_FOUND;
    }
    return set_row(row, conf, source, name, value, why);
}

bool mcs_config_has(const mcs_config_table_t *table, const char *name)
{
    return find_row(table, name, strlen(name)) != NULL;
}

static bool has_env(const mcs_config_table_t *table, const char *name, size_t len)
{
    for (size_t i = 0; i < table->row_count; i++) {
        const char *env = table->rows[i].env;
        if (env != NULL && strlen(env) == len && memcmp(env, name, len) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_prefix(const char *env)
{
    return env[strlen(env) - 1] == '*';
}

/* A family of variables without effect. Their values may be secrets; one that says "no" wants nothing that is not. */
static void warn_of_family(const mcs_config_table_t *table, const mcs_config_row_t *row)
{
    size_t prefix_len = strlen(row->env) - 1;
    for (char **at = environ; at != NULL && *at != NULL; at++) {
        size_t len = strcspn(*at, "=");
        bool off = false;
        if (len <= prefix_len || memcmp(*at, row->env, prefix_len) != 0 || has_env(table, *at, len)) {
            continue;
        }
        const char *value = *at + len + ((*at)[len] == '=');
        if (value[0] != '\0' && (mcs_parse_bool(value, &off) != MCS_OK || off)) {
            mcs_warn("config", "environment %.*s has no effect: %s", (int)MCS_MIN(len, (size_t)128), *at, row->doc);
        }
    }
}

mcs_status_t mcs_config_load_env(const mcs_config_table_t *table, void *conf, mcs_buf_t *why)
{
    for (size_t i = 0; i < table->row_count; i++) {
        const mcs_config_row_t *row = &table->rows[i];
        if (row->env != NULL && is_prefix(row->env)) {
            warn_of_family(table, row);
            continue;
        }
        const char *value = row->env != NULL ? getenv(row->env) : NULL;
        if (value == NULL) {
            continue;
        }
        mcs_buf_t text;
        mcs_buf_init(&text, 4096);
        mcs_status_t status = set_row(row, conf, MCS_CONFIG_FROM_ENV, row->env, value, &text);
        if (status == MCS_ERR_INVALID_PARAMS && (row->flags & MCS_CONFIG_LENIENT_ENV) != 0) {
            mcs_warn("config", "%s; the default %s stays", mcs_buf_cstr(&text), row->default_text);
            status = MCS_OK;
        } else if (status != MCS_OK && why != NULL) {
            mcs_buf_printf(why, "%s", mcs_buf_cstr(&text));
        }
        mcs_buf_fini(&text);
        if (status != MCS_OK) {
            return status;
        }
    }
    return MCS_OK;
}

/* The row that a flag without its dashes is of. *value_out: the text behind its "=", "false" when a boolean has "no" in
 * front, or NULL. */
static const mcs_config_row_t *find_flag(const mcs_config_table_t *table, const char *arg, const char **value_out)
{
    size_t len = strcspn(arg, "=");
    const mcs_config_row_t *row = find_row(table, arg, len);
    *value_out = arg[len] == '=' ? arg + len + 1 : NULL;
    if (row == NULL && *value_out == NULL && strncmp(arg, "no", 2) == 0) { /* --nox, --no-x, --no_x */
        const char *positive = arg + 2 + (arg[2] == '-' || arg[2] == '_');
        row = find_row(table, positive, strlen(positive));
        row = row != NULL && row->kind == MCS_CONFIG_BOOL ? row : NULL;
        *value_out = "false";
    }
    return row;
}

/* The value of a flag that has no "=". NULL: it needs one, and no argument follows. */
static const char *value_behind(const mcs_config_row_t *row, const char *next, bool *used_next)
{
    bool ignored;
    if (row->kind == MCS_CONFIG_BOOL) {
        /* gflags: a boolean takes the next argument only when it is a boolean's text. */
        *used_next = next != NULL && next[0] != '-' && mcs_parse_bool(next, &ignored) == MCS_OK;
        return *used_next ? next : "true";
    }
    *used_next = next != NULL;
    return next;
}

/* One flag: `arg` without its dashes. *used_next: the value was the following argument. */
static mcs_status_t load_flag(const mcs_config_table_t *table, void *conf, const char *arg, const char *next,
                              bool *used_next, mcs_buf_t *why)
{
    const char *value;
    const mcs_config_row_t *row = find_flag(table, arg, &value);
    *used_next = false;
    if (row == NULL) {
        if (why != NULL) {
            mcs_buf_printf(why, "unknown flag --%.*s (see --help)", (int)MCS_MIN(strcspn(arg, "="), (size_t)200), arg);
        }
        return MCS_ERR_INVALID_PARAMS;
    }
    value = value != NULL ? value : value_behind(row, next, used_next);
    if (value == NULL) {
        if (why != NULL) {
            mcs_buf_printf(why, "flag --%s needs a value (%s)", row->name, row->doc);
        }
        return MCS_ERR_INVALID_PARAMS;
    }
    char name[128];
    size_t name_len = MCS_MIN(strlen(row->name), sizeof(name) - 3);
    memcpy(name, "--", 2);
    memcpy(name + 2, row->name, name_len);
    name[2 + name_len] = '\0';
    return set_row(row, conf, MCS_CONFIG_FROM_FLAG, name, value, why);
}

mcs_status_t mcs_config_load_flags(const mcs_config_table_t *table, void *conf, int argc, char **argv, mcs_buf_t *why)
{
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (arg[0] != '-' || arg[1] == '\0' || strcmp(arg, "--") == 0) {
            if (why != NULL) {
                mcs_buf_printf(why, "unexpected argument \"%.200s\": only flags are taken (see --help)", arg);
            }
            return MCS_ERR_INVALID_PARAMS;
        }
        arg += arg[1] == '-' ? 2 : 1;
        bool used_next;
        mcs_status_t status = load_flag(table, conf, arg, i + 1 < argc ? argv[i + 1] : NULL, &used_next, why);
        if (status != MCS_OK) {
            return status;
        }
        i += used_next ? 1 : 0;
    }
    return MCS_OK;
}

static const char *kind_name(mcs_config_kind_t kind)
{
    static const char *const names[] = {"bool", "int", "uint", "size", "duration", "double", "string", "presence"};
    return names[kind];
}

void mcs_config_help(const mcs_config_table_t *table, mcs_buf_t *out)
{
    for (size_t i = 0; i < table->row_count; i++) {
        const mcs_config_row_t *row = &table->rows[i];
        if (row->name == NULL) {
            continue;
        }
        mcs_buf_printf(out, "  --%s (%s%s) type: %s default: %s\n", row->name, row->doc,
                       (row->flags & MCS_CONFIG_UNSUPPORTED) != 0 ? "; not in this build" : "", kind_name(row->kind),
                       row->default_text[0] == '\0' ? "\"\"" : row->default_text);
    }
}

void mcs_config_markdown(const mcs_config_table_t *table, mcs_buf_t *out)
{
    mcs_buf_printf(out, "## %s\n\n| name | environment | type | default | meaning |\n|---|---|---|---|---|\n",
                   table->title);
    for (size_t i = 0; i < table->row_count; i++) {
        const mcs_config_row_t *row = &table->rows[i];
        const char *note = "";
        if ((row->flags & MCS_CONFIG_UNSUPPORTED) != 0) {
            note = " (not in this build: another value than the default is an error)";
        } else if ((row->flags & MCS_CONFIG_IGNORED) != 0) {
            note = " (accepted, no effect)";
        }
        mcs_buf_printf(out, "| %s | %s | %s | `%s` | %s%s |\n", row->name != NULL ? row->name : "",
                       row->env != NULL ? row->env : "", kind_name(row->kind),
                       row->default_text[0] == '\0' ? "\"\"" : row->default_text, row->doc, note);
    }
}

const char *mcs_env(const char *name)
{
    return getenv(name);
}
