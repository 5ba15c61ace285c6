/* See config_file.h. */
#include "master/config_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

#include "core/base/log.h"

#define PIPE_WAIT_MS 5000

typedef struct loader {
    const char *path;
    const mcs_config_table_t *table;
    void *conf;
    mcs_buf_t *why; /* NULL: nobody asks */
} loader_t;

static mcs_status_t fail(const loader_t *l, mcs_status_t status, const char *what, size_t line)
{
    if (l->why != NULL) {
        mcs_buf_printf(l->why, "config file %s", l->path);
        if (line > 0) {
            mcs_buf_printf(l->why, ", line %zu", line);
        }
        mcs_buf_printf(l->why, ": %s", what);
    }
    return status;
}

/* NULL: as good as not mentioned. */
static mcs_status_t set_value(const loader_t *l, const char *key, const char *value)
{
    mcs_buf_t why;
    if (!mcs_config_has(l->table, key)) {
        char what[160];
        snprintf(what, sizeof(what), "no such setting: %.100s (--help lists them)", key);
        return fail(l, MCS_ERR_INVALID_PARAMS, what, 0);
    }
    if (value == NULL) {
        return MCS_OK;
    }
    mcs_buf_init(&why, 4096);
    mcs_status_t status = mcs_config_set(l->table, l->conf, MCS_CONFIG_FROM_FILE, key, value, &why);
    if (status != MCS_OK && l->why != NULL) {
        mcs_buf_printf(l->why, "%s: %s", l->path, status == MCS_ERR_NO_MEMORY ? "out of memory" : mcs_buf_cstr(&why));
    }
    mcs_buf_fini(&why);
    return status;
}

static mcs_status_t set_json(const loader_t *l, const char *key, const json_t *value)
{
    char text[64];
    switch (json_typeof(value)) {
    case JSON_STRING: return set_value(l, key, json_string_value(value));
    case JSON_INTEGER:
        snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return set_value(l, key, text);
    case JSON_REAL: snprintf(text, sizeof(text), "%.17g", json_real_value(value)); return set_value(l, key, text);
    case JSON_TRUE: return set_value(l, key, "true");
    case JSON_FALSE: return set_value(l, key, "false");
    case JSON_NULL: return set_value(l, key, NULL);
    case JSON_OBJECT:
    case JSON_ARRAY:
    default: break;
    }
    char what[128];
    snprintf(what, sizeof(what), "%.80s: a single value is wanted", key);
    return fail(l, MCS_ERR_INVALID_PARAMS, what, 0);
}

static mcs_status_t load_json(const loader_t *l, const mcs_buf_t *text)
{
    json_error_t error;
    json_t *root = json_loadb((const char *)text->bytes, text->len, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL) {
        return fail(l, MCS_ERR_INVALID_PARAMS, error.text, error.line > 0 ? (size_t)error.line : 0);
    }
    mcs_status_t status = MCS_OK;
    if (!json_is_object(root)) {
        status = fail(l, MCS_ERR_INVALID_PARAMS, "an object is wanted", 1);
    }
    for (void *it = json_object_iter(root); status == MCS_OK && it != NULL; it = json_object_iter_next(root, it)) {
        status = set_json(l, json_object_iter_key(it), json_object_iter_value(it));
    }
    json_decref(root);
    return status;
}

/* What libyaml reads is a stream of events; of all that YAML can say, a flat mapping of scalars is taken. */
typedef enum yaml_place { YAML_BEFORE, YAML_KEY, YAML_VALUE, YAML_AFTER } yaml_place_t;

typedef struct yaml_state {
    yaml_place_t place;
    char key[128];
} yaml_state_t;

static mcs_status_t take_scalar(const loader_t *l, yaml_state_t *state, const yaml_event_t *event)
{
    const char *text = (const char *)event->data.scalar.value;
    size_t line = event->start_mark.line + 1;
    if (event->data.scalar.anchor != NULL || strlen(text) != event->data.scalar.length) {
        return fail(l, MCS_ERR_INVALID_PARAMS, "plain text is wanted", line);
    }
    if (state->place == YAML_KEY) {
        if (event->data.scalar.length >= sizeof(state->key)) {
            return fail(l, MCS_ERR_INVALID_PARAMS, "key too long", line);
        }
        memcpy(state->key, text, event->data.scalar.length + 1);
        state->place = YAML_VALUE;
        return MCS_OK;
    }
    if (state->place != YAML_VALUE) {
        return fail(l, MCS_ERR_INVALID_PARAMS, "a mapping is wanted", line);
    }
    state->place = YAML_KEY;
    bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    bool is_null = plain && (text[0] == '\0' || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0);
    return set_value(l, state->key, is_null ? NULL : text);
}

static mcs_status_t take_event(const loader_t *l, yaml_state_t *state, const yaml_event_t *event)
{
    size_t line = event->start_mark.line + 1;
    switch (event->type) {
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_END_EVENT: return MCS_OK;
    case YAML_DOCUMENT_START_EVENT:
        return state->place == YAML_BEFORE ? MCS_OK : fail(l, MCS_ERR_INVALID_PARAMS, "one document is wanted", line);
    case YAML_MAPPING_START_EVENT:
        if (state->place != YAML_BEFORE) {
            return fail(l, MCS_ERR_INVALID_PARAMS, "a single value is wanted", line);
        }
        state->place = YAML_KEY;
        return MCS_OK;
    case YAML_MAPPING_END_EVENT: state->place = YAML_AFTER; return MCS_OK;
    case YAML_SCALAR_EVENT: return take_scalar(l, state, event);
    case YAML_SEQUENCE_START_EVENT:
    case YAML_SEQUENCE_END_EVENT:
    case YAML_ALIAS_EVENT:
    default: return fail(l, MCS_ERR_INVALID_PARAMS, "a single value is wanted", line);
    }
}

static mcs_status_t load_yaml(const loader_t *l, const mcs_buf_t *text)
{
    yaml_parser_t parser;
    yaml_state_t state = {.place = YAML_BEFORE};
    if (!yaml_parser_initialize(&parser)) {
        return fail(l, MCS_ERR_NO_MEMORY, "out of memory", 0);
    }
    yaml_parser_set_input_string(&parser, text->bytes, text->len);
    mcs_status_t status = MCS_OK;
    for (bool ended = false; status == MCS_OK && !ended;) {
        yaml_event_t event;
        if (!yaml_parser_parse(&parser, &event)) {
            status = fail(l, MCS_ERR_INVALID_PARAMS, parser.problem != NULL ? parser.problem : "no YAML",
                          parser.problem_mark.line + 1);
            break;
        }
        ended = event.type == YAML_STREAM_END_EVENT;
        /* An empty document is one empty scalar. */
        bool empty = event.type == YAML_SCALAR_EVENT && state.place == YAML_BEFORE && event.data.scalar.length == 0;
        status = empty ? MCS_OK : take_event(l, &state, &event);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return status;
}

static bool is_pipe(int fd)
{
    struct stat about;
    return fstat(fd, &about) == 0 && S_ISFIFO(about.st_mode);
}

/* A shell's <(command) may not have written yet. */
static bool comes(int fd)
{
    struct pollfd event = {.fd = fd, .events = POLLIN};
    return poll(&event, 1, PIPE_WAIT_MS) > 0;
}

static mcs_status_t read_file(const loader_t *l, mcs_buf_t *text)
{
    int fd = open(l->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */
    if (fd < 0) {
        return fail(l, MCS_ERR_FILE_OPEN_FAIL, strerror(errno), 0);
    }
    mcs_status_t status = MCS_OK;
    for (;;) {
        uint8_t *at = mcs_buf_extend(text, 4096);
        if (at == NULL) {
            status = mcs_buf_status(text);
            fail(l, status, status == MCS_ERR_LIMIT ? "longer than 1 MiB" : "out of memory", 0);
            break;
        }
        ssize_t n = read(fd, at, 4096);
        text->len -= 4096 - (n > 0 ? (size_t)n : 0);
        if (n < 0 && (errno == EINTR || (errno == EAGAIN && comes(fd)))) {
            continue;
        }
        if (n == 0 && text->len == 0 && is_pipe(fd)) {
            status = fail(l, MCS_ERR_INVALID_PARAMS, "a pipe that nobody writes to", 0);
        } else if (n < 0) {
            status = fail(l, MCS_ERR_FILE_READ_FAIL, strerror(errno), 0);
        }
        if (n <= 0) {
            break;
        }
    }
    close(fd);
    return status;
}

static bool ends_in(const char *text, const char *end)
{
    size_t len = strlen(text);
    size_t end_len = strlen(end);
    return len >= end_len && strcasecmp(text + len - end_len, end) == 0;
}

static bool looks_like_json(const char *path, const mcs_buf_t *text)
{
    if (ends_in(path, ".json")) {
        return true;
    }
    if (ends_in(path, ".yaml") || ends_in(path, ".yml")) {
        return false;
    }
    size_t i = 0;
    while (i < text->len && strchr(" \t\r\n", text->bytes[i]) != NULL && text->bytes[i] != '\0') {
        i++;
    }
    return i < text->len && text->bytes[i] == '{';
}

mcs_status_t mcs_config_file_load(const char *path, const mcs_config_table_t *table, void *conf, mcs_buf_t *why)
{
    const loader_t l = {.path = path, .table = table, .conf = conf, .why = why};
    mcs_buf_t text;
    mcs_buf_init(&text, MCS_CONFIG_FILE_MAX);
    mcs_status_t status = read_file(&l, &text);
    if (status == MCS_OK) {
        status = looks_like_json(path, &text) ? load_json(&l, &text) : load_yaml(&l, &text);
    }
    mcs_buf_fini(&text);
    return status;
}

/* ---- a daemon's command line ---- */

/* The flags are read twice: first for config_path, and again over what the file and the environment said. */
mcs_status_t mcs_config_load_all(const mcs_config_table_t *table, void *conf, void *first, char *const *config_path,
                                 int argc, char **argv, mcs_buf_t *why)
{
    mcs_status_t status = mcs_config_init(table, first);
    if (status != MCS_OK) {
        return status;
    }
    /* Warnings about flags without effect would come twice. */
    mcs_log_set_level(MCS_LOG_ERROR);
    status = mcs_config_load_flags(table, first, argc, argv, why);
    mcs_log_set_level(MCS_LOG_INFO);
    if (status == MCS_OK && (*config_path)[0] != '\0') {
        status = mcs_config_file_load(*config_path, table, conf, why);
    }
    mcs_config_fini(table, first);
    if (status == MCS_OK) {
        status = mcs_config_load_env(table, conf, why);
    }
    return status == MCS_OK ? mcs_config_load_flags(table, conf, argc, argv, why) : status;
}

bool mcs_config_asks_for(int argc, char **argv, const char *name, const char *letter)
{
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        const char *word = arg[0] == '-' ? arg + (arg[1] == '-' ? 2 : 1) : "";
        if (strcmp(word, name) == 0 || (letter != NULL && strcmp(arg, letter) == 0)) {
            return true;
        }
    }
    return false;
}
