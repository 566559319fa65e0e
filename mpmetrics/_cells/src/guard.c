/* The guard: operations that call into Python, one at a time; nobody waits for it. */

#include "core.h"

static PyObject *guard_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Guard *self = (Guard *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->queue = PyList_New(0);
    if (self->queue == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

/* What the first operation raised that did is raised in the end; what others raise goes to sys.unraisablehook. */
typedef struct {
    PyObject *type, *value, *trace;
} Raised;

static void keep_first(Raised *raised, PyObject *operation)
{
    if (raised->type == NULL)
        PyErr_Fetch(&raised->type, &raised->value, &raised->trace);
    else
        PyErr_WriteUnraisable(operation);
}

/* Carry out what is queued, unless another holder is going to. An operation that raises does not keep the others from
   being carried out. */
static int drain(Guard *self)
{
    Raised raised = {NULL, NULL, NULL};
    if (self->held || PyList_GET_SIZE(self->queue) == 0)
        return 0;
    uint64_t turn = self->held = ++self->turn;
    /* A forked child begins with another queue and another holder: its parent's goes on in the parent. */
    while (self->held == turn && PyList_GET_SIZE(self->queue) > 0) {
        PyObject *batch = self->queue, *empty = PyList_New(0);
        if (empty == NULL) {
            keep_first(&raised, (PyObject *)self);
            break;
        }
        self->queue = empty;
        for (Py_ssize_t at = 0; self->held == turn && at < PyList_GET_SIZE(batch); at++) {
            PyObject *entry = PyList_GET_ITEM(batch, at), *operation = PyTuple_GET_ITEM(entry, 0);
            PyObject *done = PyObject_CallOneArg(operation, PyTuple_GET_ITEM(entry, 1));
            if (done == NULL)
                keep_first(&raised, operation);
            Py_XDECREF(done);
        }
        Py_DECREF(batch);
    }
    if (self->held == turn)
        self->held = 0;
    if (raised.type == NULL)
        return 0;
    PyErr_Restore(raised.type, raised.value, raised.trace);
    return -1;
}

int guard_run(Guard *self, PyObject *operation, PyObject *argument)
{
    PyObject *entry = PyTuple_Pack(2, operation, argument);
    if (entry == NULL)
        return -1;
    int failed = PyList_Append(self->queue, entry);
    Py_DECREF(entry);
    return failed ? -1 : drain(self);
}

static PyObject *guard_run_method(Guard *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "run() takes an operation and its argument, not %zd arguments", count);
    if (guard_run(self, args[0], args[1]) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *guard_drain(Guard *self, PyObject *Py_UNUSED(none))
{
    if (drain(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *guard_reset(Guard *self, PyObject *Py_UNUSED(none))
{
    PyObject *queue = PyList_New(0);
    if (queue == NULL)
        return NULL;
    self->held = 0;
    Py_SETREF(self->queue, queue);
    Py_RETURN_NONE;
}

static int guard_traverse(Guard *self, visitproc visit, void *arg)
{
    Py_VISIT(self->queue);
    return 0;
}

static int guard_clear(Guard *self)
{
    /* Its cells may outlive it for a moment in which they are still written to: the queue itself stays. */
    return self->queue == NULL ? 0 : PyList_SetSlice(self->queue, 0, PyList_GET_SIZE(self->queue), NULL);
}

static void guard_dealloc(Guard *self)
{
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->queue);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef guard_methods[] = {
    {"run", (PyCFunction)(void (*)(void))guard_run_method, METH_FASTCALL,
     "Carry out ``operation(argument)`` alone: now, or by whoever holds the guard as soon as it lets go."},
    {"drain", (PyCFunction)guard_drain, METH_NOARGS,
     "Carry out what is queued, unless another holder is going to."},
    {"reset", (PyCFunction)guard_reset, METH_NOARGS,
     "In a forked child: nobody holds it, and none of the parent's queue, which the parent carries out."},
    {NULL},
};

PyTypeObject Guard_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.Guard",
    .tp_doc = "Makes operations on cells atomic within a process, without ever waiting.",
    .tp_basicsize = sizeof(Guard),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = guard_new,
    .tp_dealloc = (destructor)guard_dealloc,
    .tp_traverse = (traverseproc)guard_traverse,
    .tp_clear = (inquiry)guard_clear,
    .tp_methods = guard_methods,
};
