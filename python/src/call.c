/* mpy_call_*: leaving and entering the interpreter around a call that may block.
 *
 * Signals: Python runs handlers only on its main thread, so only there the library's interrupt hook is armed. The main
 * thread is taken to be the process's first (gettid() == getpid()), which is what it is unless a program embeds Python
 * elsewhere; then Ctrl-C waits for the call's own timeout. */
#include <sys/syscall.h>
#include <unistd.h>

#include "python/src/mpy.h"

static int check_signals(void *arg)
{
    (void)arg;
    PyGILState_STATE gil = PyGILState_Ensure();
    int raised = PyErr_CheckSignals();
    PyGILState_Release(gil);
    return raised != 0;
}

static bool on_main_thread(void)
{
    static _Thread_local pid_t t_thread; /* a thread keeps its id; after a fork it is asked again */
    static _Thread_local pid_t t_process;
    pid_t process = getpid();
    if (t_process != process) {
        t_process = process;
        t_thread = (pid_t)syscall(SYS_gettid);
    }
    return t_thread == process;
}

/* Calls inside calls: a signal handler may use the store while a call of the same thread waits. The hook stays until
 * the outermost ends. */
static _Thread_local unsigned t_depth;

void mpy_call_begin(mpy_call_t *call)
{
    call->interruptible = on_main_thread();
    call->thread = PyEval_SaveThread();
    if (call->interruptible && t_depth++ == 0) {
        mcs_thread_set_interrupt(check_signals, NULL);
    }
}

bool mpy_call_end(mpy_call_t *call)
{
    if (call->interruptible && --t_depth == 0) {
        mcs_thread_set_interrupt(NULL, NULL);
    }
    PyEval_RestoreThread(call->thread);
    return PyErr_Occurred() == NULL;
}

void mpy_quiet_begin(mpy_call_t *call)
{
    call->interruptible = false;
    call->thread = PyEval_SaveThread();
}

void mpy_quiet_end(mpy_call_t *call)
{
    PyEval_RestoreThread(call->thread);
}
