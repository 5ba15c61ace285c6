/* The master's configuration file: JSON or YAML, one flat mapping with keys named like the flags.
 *
 * "x.json" is JSON, "x.yaml" and "x.yml" are YAML; other names by their first character. Values are scalars; null (and
 * an empty YAML value) leaves the default. Everything that is wrong, a key that no flag has too, is an error that names
 * the file, the key or the line: a misspelt setting must not be taken for one that holds. Set-up path; not
 * thread-safe. */
#ifndef MCS_MASTER_CONFIG_FILE_H
#define MCS_MASTER_CONFIG_FILE_H

#include "core/base/config.h"

/* Longer files are refused. */
#define MCS_CONFIG_FILE_MAX ((size_t)1 << 20)

/* Sets fields of `conf`, which has been initialised. MCS_ERR_INVALID_PARAMS, MCS_ERR_FILE_OPEN_FAIL,
 * MCS_ERR_FILE_READ_FAIL, MCS_ERR_LIMIT, MCS_ERR_NO_MEMORY; `why` (may be NULL) says what. Fields before the error have
 * been set. */
mcs_status_t mcs_config_file_load(const char *path, const mcs_config_table_t *table, void *conf, mcs_buf_t *why)
    MCS_MUST_CHECK;

/* A daemon's whole configuration: the file of its flag config_path, under the environment, under the flags. `first` is
 * a second structure of the table, zeroed, for the flags alone; *config_path is its field. Errors of all of these. */
mcs_status_t mcs_config_load_all(const mcs_config_table_t *table, void *conf, void *first, char *const *config_path,
                                 int argc, char **argv, mcs_buf_t *why) MCS_MUST_CHECK;

/* Is "--NAME", "-NAME" or `letter` ("-h"; NULL: none) anywhere on the line? */
bool mcs_config_asks_for(int argc, char **argv, const char *name, const char *letter);

#endif
