/* Copies and moves of replicas: the calls that ask for them, and QueryTaskResponse, what one has come to. */
#include "python/src/store.h"

#include "core/base/alloc.h"
#include "python/src/enums.h"

#define TARGETS_MAX 4096 /* looked at; more than there can be replicas is refused by the library */

/* ---- QueryTaskResponse ---- */

typedef struct mpy_task {
    PyObject_HEAD mcs_task_info_t info;
} mpy_task_t;

static const mcs_task_info_t *info_of(PyObject *self)
{
    return &((const mpy_task_t *)(const void *)self)->info;
}

static PyObject *id_tuple(mcs_task_id_t id)
{
    return Py_BuildValue("(KK)", (unsigned long long)id.hi, (unsigned long long)id.lo);
}

static PyObject *task_id(PyObject *self, void *closure)
{
    (void)closure;
    return id_tuple(info_of(self)->id);
}

static PyObject *member(PyObject *self, mpy_enum_id_t id, int value)
{
    PyObject *module = mpy_module_of_type(Py_TYPE(self));
    return module != NULL ? mpy_enum_member(mpy_state_of_module(module), id, value) : NULL;
}

static PyObject *task_type(PyObject *self, void *closure)
{
    (void)closure;
    return member(self, MPY_TASK_TYPE, info_of(self)->type);
}

static PyObject *task_status(PyObject *self, void *closure)
{
    (void)closure;
    return member(self, MPY_TASK_STATUS, info_of(self)->status);
}

static PyObject *task_created(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(info_of(self)->created_ms);
}

static PyObject *task_updated(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(info_of(self)->updated_ms);
}

static PyObject *task_client(PyObject *self, void *closure)
{
    (void)closure;
    return id_tuple(info_of(self)->client);
}

static PyObject *task_message(PyObject *self, void *closure)
{
    (void)closure;
    const char *text = info_of(self)->message;
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)__builtin_strlen(text), "replace");
}

static PyObject *task_repr(PyObject *self)
{
    const mcs_task_info_t *info = info_of(self);
    PyObject *message = task_message(self, NULL);
    PyObject *text = message != NULL
                         ? PyUnicode_FromFormat(
                               "QueryTaskResponse(id=%llu-%llu, type=%d, status=%d, created_at=%llu, "
                               "last_updated_at=%llu, assigned_client=%llu-%llu, message=\"%U\")",
                               (unsigned long long)info->id.hi, (unsigned long long)info->id.lo, info->type,
                               info->status, (unsigned long long)info->created_ms, (unsigned long long)info->updated_ms,
                               (unsigned long long)info->client.hi, (unsigned long long)info->client.lo, message)
                         : NULL;
    Py_XDECREF(message);
    return text;
}

static PyGetSetDef task_getset[] = {
    {"id", task_id, NULL, "Two ints.", NULL},
    {"type", task_type, NULL, "A TaskType.", NULL},
    {"status", task_status, NULL, "A TaskStatus.", NULL},
    {"created_at_ms_epoch", task_created, NULL, "Milliseconds since 1970.", NULL},
    {"last_updated_at_ms_epoch", task_updated, NULL, "Milliseconds since 1970.", NULL},
    {"assigned_client", task_client, NULL, "Two ints: the client that executes it.", NULL},
    {"message", task_message, NULL, "The last failure; empty without.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char task_doc[] = "QueryTaskResponse()\n--\n\nWhat a task has come to, made by query_task.";

static PyType_Slot task_slots[] = {
    {Py_tp_doc, (void *)task_doc},
    {Py_tp_dealloc, (void *)mpy_free_object},
    {Py_tp_getset, (void *)task_getset},
    {Py_tp_repr, (void *)task_repr},
    {0, NULL},
};

static PyType_Spec task_spec = {
    .name = "mooncake.store.QueryTaskResponse",
    .basicsize = sizeof(mpy_task_t),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = task_slots,
};

static PyObject *new_response(mpy_state_t *state, const mcs_task_info_t *info)
{
    if (state->task_type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "mooncake.store has been unloaded");
        return NULL;
    }
    PyTypeObject *type = (PyTypeObject *)state->task_type;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *self = alloc(type, 0);
    if (self != NULL) {
        ((mpy_task_t *)(void *)self)->info = *info;
    }
    return self;
}

int mpy_tasks_init(PyObject *module, mpy_state_t *state)
{
    return mpy_add_type(module, &task_spec, &state->task_type);
}

/* ---- the calls ---- */

static PyObject *created(mcs_task_id_t id, int code)
{
    id = code == 0 ? id : (mcs_task_id_t){0, 0};
    return Py_BuildValue("((KK)i)", (unsigned long long)id.hi, (unsigned long long)id.lo, code);
}

/* The names as C strings, valid as long as the tuple *list_out. */
static const char **take_names(const char *name, const char *param, PyObject *value, PyObject **list_out,
                               size_t *count_out)
{
    PyObject *list = mpy_sequence(name, param, value);
    size_t count = list != NULL ? (size_t)PyTuple_Size(list) : 0;
    const char **names = list != NULL ? mpy_calloc(MCS_MIN(count, (size_t)TARGETS_MAX), sizeof(*names)) : NULL;
    bool ok = names != NULL;
    for (size_t i = 0; ok && i < MCS_MIN(count, (size_t)TARGETS_MAX); i++) {
        ok = mpy_text(name, param, PyTuple_GetItem(list, (Py_ssize_t)i), &names[i]);
    }
    if (!ok) {
        mcs_free(names);
        Py_XDECREF(list);
        return NULL;
    }
    *list_out = list;
    *count_out = MCS_MIN(count, (size_t)TARGETS_MAX);
    return names;
}

MPY_STORE_METHOD(create_copy_task)
{
    static const char *const params[] = {"key", "targets", NULL};
    static const mpy_sig_t sig = {"create_copy_task", 2, params};
    PyObject *given[MPY_PARAMS_MAX];
    PyObject *list;
    mpy_key_t key;
    size_t count;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_key(sig.name, params[0], given[0], &key)) {
        return NULL;
    }
    const char **names = take_names(sig.name, params[1], given[1], &list, &count);
    PyObject *answer = NULL;
    if (names != NULL) {
        mcs_task_id_t id;
        mpy_call_t call;
        mpy_call_begin(&call);
        int code = mcs_create_copy_task(mpy_store_of(self)->store, key.bytes, names, count, &id);
        answer = mpy_call_end(&call) ? created(id, code) : NULL;
        mcs_free(names);
        Py_DECREF(list);
    }
    mpy_key_drop(&key);
    return answer;
}

MPY_STORE_METHOD(create_move_task)
{
    static const char *const params[] = {"key", "source", "target", NULL};
    static const mpy_sig_t sig = {"create_move_task", 3, params};
    PyObject *given[MPY_PARAMS_MAX];
    const char *source;
    const char *target;
    mpy_key_t key;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_text(sig.name, params[1], given[1], &source) ||
        !mpy_text(sig.name, params[2], given[2], &target) || !mpy_key(sig.name, params[0], given[0], &key)) {
        return NULL;
    }
    mcs_task_id_t id;
    mpy_call_t call;
    mpy_call_begin(&call);
    int code = mcs_create_move_task(mpy_store_of(self)->store, key.bytes, source, target, &id);
    PyObject *answer = mpy_call_end(&call) ? created(id, code) : NULL;
    mpy_key_drop(&key);
    return answer;
}

MPY_STORE_METHOD(query_task)
{
    static const char *const params[] = {"task_id", NULL};
    static const mpy_sig_t sig = {"query_task", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_numbers_t numbers;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_numbers(sig.name, params[0], given[0], &numbers)) {
        return NULL;
    }
    bool pair = numbers.count == 2;
    mcs_task_id_t id = pair ? (mcs_task_id_t){numbers.items[0], numbers.items[1]} : (mcs_task_id_t){0, 0};
    mpy_numbers_drop(&numbers);
    if (!pair) {
        mpy_wrong_type(sig.name, params[0], "tuple of two ints", given[0]);
        return NULL;
    }
    mcs_task_info_t info;
    mpy_call_t call;
    mpy_call_begin(&call);
    int code = mcs_query_task(mpy_store_of(self)->store, id, &info);
    if (!mpy_call_end(&call)) {
        return NULL;
    }
    PyObject *response = code == 0 ? new_response(mpy_store_state(mpy_store_of(self)), &info) : Py_NewRef(Py_None);
    PyObject *answer = response != NULL ? Py_BuildValue("(Oi)", response, code) : NULL;
    Py_XDECREF(response);
    return answer;
}
