/* Segments, and the words of one operation in them. */

#include "core.h"

static uint64_t last_stamp = 0;

/* Whether `view` is of doubles that can be written to, one after another and aligned. */
static int is_direct(const Py_buffer *view)
{
    return view->itemsize == sizeof(double) && view->format != NULL && strcmp(view->format, "d") == 0
        && (uintptr_t)view->buf % sizeof(double) == 0;
}

static int segment_set_words(Segment *self, PyObject *words, void *Py_UNUSED(closure))
{
    Py_buffer view = {0}, old = self->view;
    double *data = NULL;
    if (words == NULL) {
        PyErr_SetString(PyExc_AttributeError, "a segment always has words");
        return -1;
    }
    if (PyMemoryView_Check(words)) {
        if (PyObject_GetBuffer(words, &view, PyBUF_CONTIG | PyBUF_FORMAT) < 0) {
            PyErr_Clear(); /* they can be had one by one, perhaps */
        } else if (is_direct(&view)) {
            data = view.buf;
        } else {
            PyBuffer_Release(&view);
        }
    }
    PyObject *before = self->words;
    self->words = Py_NewRef(words);
    self->view = data == NULL ? (Py_buffer){0} : view;
    self->data = data;
    self->size = data == NULL ? 0 : view.len / (Py_ssize_t)sizeof(double);
    self->stamp = ++last_stamp;
    /* Last: letting go of the old words may run code that uses this segment. */
    if (old.obj != NULL)
        PyBuffer_Release(&old);
    Py_XDECREF(before);
    return 0;
}

static PyObject *segment_words(Segment *self, void *Py_UNUSED(closure)) { return Py_NewRef(self->words); }

static PyObject *segment_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"words", NULL};
    PyObject *words;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Segment", names, &words))
        return NULL;
    Segment *self = (Segment *)type->tp_alloc(type, 0);
    if (self != NULL)
        segment_set_words(self, words, NULL);
    return (PyObject *)self;
}

static int segment_traverse(Segment *self, visitproc visit, void *arg)
{
    /* A view of a map leads nowhere else. To the collector it is held from outside: else it would take the view apart
       while the segment still has it, and a view that was taken apart cannot be released any more. */
    if (self->data == NULL)
        Py_VISIT(self->words);
    return 0;
}

static int segment_clear(Segment *self)
{
    /* In a cycle that is being taken apart a cell may still be written to: to words that are nowhere. */
    return self->words == NULL || self->words == Py_None ? 0 : segment_set_words(self, Py_None, NULL);
}

static void segment_dealloc(Segment *self)
{
    PyObject_GC_UnTrack(self);
    segment_clear(self);
    Py_CLEAR(self->words);
    Py_TYPE(self)->tp_free(self);
}

static PyGetSetDef segment_fields[] = {
    {"words", (getter)segment_words, (setter)segment_set_words,
     "The words: a view of format ``d`` is written to directly, anything else item by item.", NULL},
    {NULL},
};

PyTypeObject Segment_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells._native.Segment",
    .tp_doc = "A run of words that cells write to; ``words`` is replaced by the segment's owner only.",
    .tp_basicsize = sizeof(Segment),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = segment_new,
    .tp_dealloc = (destructor)segment_dealloc,
    .tp_traverse = (traverseproc)segment_traverse,
    .tp_clear = (inquiry)segment_clear,
    .tp_getset = segment_fields,
};

int place_begin(Cell *cell, Py_ssize_t width, Place *place)
{
    Segment *segment = cell->segment;
    if (segment == NULL || segment->words == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the cell has no words");
        return -1;
    }
    place->index = cell->index;
    place->data = NULL;
    if (segment->data != NULL) {
        if (cell->index > segment->size - width) {
            PyErr_Format(PyExc_IndexError, "word %zd is past the end of a segment of %zd", cell->index + width - 1,
                         segment->size);
            return -1;
        }
        place->data = segment->data + cell->index;
    }
    place->words = Py_NewRef(segment->words);
    return 0;
}

void place_end(Place *place) { Py_CLEAR(place->words); }

int place_get(Place *place, Py_ssize_t at, double *value)
{
    if (place->data != NULL) {
        *value = load_word(place->data + at);
        return 0;
    }
    PyObject *index = PyLong_FromSsize_t(place->index + at);
    PyObject *item = index == NULL ? NULL : PyObject_GetItem(place->words, index);
    Py_XDECREF(index);
    if (item == NULL)
        return -1;
    *value = PyFloat_AsDouble(item);
    Py_DECREF(item);
    return *value == -1.0 && PyErr_Occurred() ? -1 : 0;
}

int place_put(Place *place, Py_ssize_t at, double value)
{
    if (place->data != NULL) {
        commit_word(place->data + at, value);
        return 0;
    }
    PyObject *index = PyLong_FromSsize_t(place->index + at), *item = PyFloat_FromDouble(value);
    int failed = index == NULL || item == NULL ? -1 : PyObject_SetItem(place->words, index, item);
    Py_XDECREF(index);
    Py_XDECREF(item);
    return failed;
}
