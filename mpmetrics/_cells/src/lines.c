/* Write labels and families as text. Contract: mpmetrics/_cells/index.py (Texts), mpmetrics/_cells/text.py. */

#include "index.h"

/* --- the texts of rows --- */

PyObject *texts_new(void)
{
    return Texts_Type.tp_alloc(&Texts_Type, 0);
}

static int texts_room(Texts *texts, size_t more)
{
    Py_ssize_t room = (Py_ssize_t)texts->room;
    if (grow_array(&texts->bytes, &room, (Py_ssize_t)(texts->size + more), 1) < 0)
        return -1;
    texts->room = (size_t)room;
    return 0;
}

/* Complete a text: it ends where the bytes end. */
static int texts_end(Texts *texts)
{
    if (grow_array(&texts->ends, &texts->ends_room, texts->count + 1, sizeof *texts->ends) < 0)
        return -1;
    texts->ends[texts->count++] = texts->size;
    return 0;
}

static inline Text text_at(const Texts *texts, Py_ssize_t row)
{
    size_t start = row == 0 ? 0 : texts->ends[row - 1];
    return (Text){texts->bytes + start, (Py_ssize_t)(texts->ends[row] - start)};
}

static char *put_escaped(char *at, Text text)
{
    for (Py_ssize_t from = 0; from < text.size; from++) {
        char byte = text.bytes[from];
        if (byte == '\\' || byte == '"' || byte == '\n') {
            *at++ = '\\';
            byte = byte == '\n' ? 'n' : byte;
        }
        *at++ = byte;
    }
    return at;
}

static const char overflow_text[] = "otel_metric_overflow=\"true\"";

/* Append name="value",... of a row. */
static int put_labels(Texts *texts, const Table *table, Py_ssize_t number, Pair *pairs)
{
    const Row *row = &table->rows[number];
    size_t size = sizeof overflow_text;
    Py_ssize_t count = row_pairs(table, row, pairs);
    for (Py_ssize_t at = 0; at < count; at++)
        size += (size_t)(pairs[at].name.size + 2 * pairs[at].value.size) + 4;
    if (texts_room(texts, size) < 0)
        return -1;
    char *at = texts->bytes + texts->size;
    if (number == table->overflow) {
        memcpy(at, overflow_text, sizeof overflow_text - 1);
        at += sizeof overflow_text - 1;
    }
    for (Py_ssize_t pair = 0; pair < count; pair++) {
        if (pair > 0)
            *at++ = ',';
        copy_few(at, pairs[pair].name.bytes, (size_t)pairs[pair].name.size);
        at += pairs[pair].name.size;
        *at++ = '=';
        *at++ = '"';
        at = put_escaped(at, pairs[pair].value);
        *at++ = '"';
    }
    texts->size = (size_t)(at - texts->bytes);
    return texts_end(texts);
}

static int extend_in_c(Texts *texts, const Table *table)
{
    Py_ssize_t room = 0;
    Pair *pairs = NULL;
    int failed = 0;
    while (!failed && texts->count < table->count) {
        Py_ssize_t row = texts->count;
        failed = grow_array(&pairs, &room, row_most_pairs(table, &table->rows[row]) + 1, sizeof *pairs) < 0
            || put_labels(texts, table, row, pairs) < 0;
    }
    PyMem_RawFree(pairs);
    return failed ? -1 : 0;
}

/* `make` may run any code, even code that extends these texts. */
static int extend_by(Texts *texts, const Table *table, PyObject *make)
{
    while (texts->count < table->count) {
        Py_ssize_t row = texts->count;
        PyObject *labels = row_labels(table, row);
        PyObject *text = labels == NULL ? NULL : PyObject_CallOneArg(make, labels);
        Py_XDECREF(labels);
        if (text != NULL && !PyBytes_Check(text)) {
            PyErr_Format(PyExc_TypeError, "the text of labels must be bytes, not %R", text);
            Py_CLEAR(text);
        }
        if (text == NULL)
            return -1;
        int failed = 0;
        if (texts->count == row) {
            size_t size = (size_t)PyBytes_GET_SIZE(text);
            failed = texts_room(texts, size) < 0;
            if (!failed) {
                copy_few(texts->bytes + texts->size, PyBytes_AS_STRING(text), size);
                texts->size += size;
                failed = texts_end(texts) < 0;
            }
        }
        Py_DECREF(text);
        if (failed)
            return -1;
    }
    return 0;
}

/* Add texts until each row of the table has one: what `make` returns for its labels; without it, name="value",... */
int texts_extend(Texts *texts, Table *table, PyObject *make)
{
    return make == Py_None ? extend_in_c(texts, table) : extend_by(texts, table, make);
}

static void texts_dealloc(Texts *texts)
{
    PyMem_RawFree(texts->bytes);
    PyMem_RawFree(texts->ends);
    Py_TYPE(texts)->tp_free(texts);
}

static Py_ssize_t texts_length(Texts *texts)
{
    return texts->count;
}

static PyObject *texts_item(Texts *texts, Py_ssize_t row)
{
    if (row < 0 || row >= texts->count) {
        PyErr_Format(PyExc_IndexError, "there is no text %zd, of %zd", row, texts->count);
        return NULL;
    }
    Text text = text_at(texts, row);
    return PyBytes_FromStringAndSize(text.bytes, text.size);
}

/* Whether all rows whose byte in `shown` is not zero have different texts: 1 or 0, or -1 with MemoryError. */
static int are_distinct(const Texts *texts, const char *shown, Py_ssize_t rows)
{
    size_t size = 64;
    while (size < 2 * (size_t)rows)
        size *= 2;
    Slot *slots = PyMem_RawCalloc(size, sizeof *slots);
    int found = 0;
    if (slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t row = 0; !found && row < rows; row++) {
        if (!shown[row])
            continue;
        Text text = text_at(texts, row);
        uint32_t hash = (uint32_t)PyHash_GetFuncDef()->hash(text.bytes, text.size);
        size_t at = hash & (size - 1);
        for (; !found && slots[at].row != 0; at = (at + 1) & (size - 1)) {
            Text other = text_at(texts, (Py_ssize_t)slots[at].row - 1);
            found = slots[at].hash == hash && other.size == text.size
                && memcmp(other.bytes, text.bytes, (size_t)text.size) == 0;
        }
        if (!found)
            slots[at] = (Slot){hash, (uint32_t)row + 1};
    }
    PyMem_RawFree(slots);
    return !found;
}

static PyObject *texts_are_distinct(Texts *texts, PyObject *mask)
{
    if (!PyBytes_Check(mask) || PyBytes_GET_SIZE(mask) > texts->count)
        return PyErr_Format(PyExc_ValueError, "a mask must have a byte for each of at most %zd rows", texts->count);
    int are = are_distinct(texts, PyBytes_AS_STRING(mask), PyBytes_GET_SIZE(mask));
    return are < 0 ? NULL : PyBool_FromLong(are);
}

static PyMethodDef texts_methods[] = {
    {"are_distinct", (PyCFunction)texts_are_distinct, METH_O,
     "are_distinct($self, mask, /)\n--\n\nSee mpmetrics._cells.index."},
    {NULL},
};

static PySequenceMethods texts_sequence = {
    .sq_length = (lenfunc)texts_length,
    .sq_item = (ssizeargfunc)texts_item,
};

PyTypeObject Texts_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mpmetrics._cells.Texts",
    .tp_doc = "The text of the labels of each row of a table. See mpmetrics._cells.index.",
    .tp_basicsize = sizeof(Texts),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)texts_dealloc,
    .tp_as_sequence = &texts_sequence,
    .tp_methods = texts_methods,
};

/* --- lines --- */

/* A line's text before the labels, its text behind them, and its whole start if it has no labels. */
typedef struct {
    Text opening, closing, bare;
} Template;

typedef struct {
    PyObject *bytes;
    char *at, *end;
} Output;

static int reserve(Output *output, Py_ssize_t more)
{
    if (output->end - output->at >= more)
        return 0;
    Py_ssize_t size = output->at - PyBytes_AS_STRING(output->bytes), room = (size + more) * 3 / 2;
    if (_PyBytes_Resize(&output->bytes, room) < 0)
        return -1;
    output->at = PyBytes_AS_STRING(output->bytes) + size;
    output->end = PyBytes_AS_STRING(output->bytes) + room;
    return 0;
}

static inline void put(Output *output, Text text)
{
    copy_few(output->at, text.bytes, (size_t)text.size);
    output->at += text.size;
}

static int put_line(Output *output, const Template *template, Text labels, double value)
{
    Py_ssize_t most = template->opening.size + template->closing.size + template->bare.size + labels.size + NUMBER_ROOM + 1;
    if (reserve(output, most) < 0)
        return -1;
    if (labels.size == 0)
        put(output, template->bare);
    else {
        put(output, template->opening);
        put(output, labels);
        put(output, template->closing);
    }
    Py_ssize_t size = write_number(value, output->at);
    if (size < 0)
        return -1;
    output->at += size;
    *output->at++ = '\n';
    return 0;
}

/* A family: `width` values a row. A value whose template has no opening is left out. */
typedef struct {
    const Template *templates;
    Py_ssize_t width, rows;
    const Texts *texts;
    const double *values;
    const char *shown;
    Py_ssize_t shown_width; /* a byte for each value, for each row, or none */
    const Template *created_template;
    const double *created;
} Lines;

static inline int is_shown(const Lines *lines, Py_ssize_t row, Py_ssize_t at)
{
    return lines->templates[at].opening.bytes != NULL
        && (lines->shown == NULL || lines->shown[lines->shown_width == 1 ? row : row * lines->width + at]);
}

/* Roughly the size of the output in bytes. */
static Py_ssize_t estimate(const Lines *lines)
{
    Py_ssize_t count = 0, size = 0;
    for (Py_ssize_t at = 0; at < lines->width; at++) {
        if (lines->templates[at].opening.bytes == NULL)
            continue;
        for (Py_ssize_t row = 0; row < lines->rows; row++)
            count += is_shown(lines, row, at);
        size = lines->templates[at].opening.size + lines->templates[at].closing.size;
    }
    Py_ssize_t labels = lines->texts->count == 0 ? 0 : (Py_ssize_t)lines->texts->size / lines->texts->count;
    return (count + (lines->created == NULL ? 0 : lines->rows)) * (size + labels + 16) + 256;
}

static PyObject *write_lines(const Lines *lines)
{
    Py_ssize_t room = estimate(lines);
    Output output = {.bytes = PyBytes_FromStringAndSize(NULL, room)};
    if (output.bytes == NULL)
        return NULL;
    output.at = PyBytes_AS_STRING(output.bytes);
    output.end = output.at + room;
    want_large_pages(output.at, (size_t)room);
    int failed = 0;
    for (Py_ssize_t row = 0; !failed && row < lines->rows; row++) {
        Text labels = text_at(lines->texts, row);
        int is_any = 0;
        for (Py_ssize_t at = 0; !failed && at < lines->width; at++) {
            if (!is_shown(lines, row, at))
                continue;
            is_any = 1;
            failed = put_line(&output, &lines->templates[at], labels, lines->values[row * lines->width + at]) < 0;
        }
        if (!failed && is_any && lines->created != NULL)
            failed = put_line(&output, lines->created_template, labels, lines->created[row]) < 0;
    }
    if (failed) {
        Py_XDECREF(output.bytes);
        return NULL;
    }
    Py_ssize_t size = output.at - PyBytes_AS_STRING(output.bytes);
    return _PyBytes_Resize(&output.bytes, size) < 0 ? NULL : output.bytes;
}

static int parse_template(PyObject *object, Template *template)
{
    Text *texts[] = {&template->opening, &template->closing, &template->bare};
    *template = (Template){0};
    if (object == Py_None)
        return 0;
    int is_right = PyTuple_Check(object) && PyTuple_GET_SIZE(object) == 3;
    for (int at = 0; is_right && at < 3; at++) {
        PyObject *bytes = PyTuple_GET_ITEM(object, at);
        is_right = PyBytes_Check(bytes);
        if (is_right)
            *texts[at] = (Text){PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes)};
    }
    if (!is_right)
        PyErr_Format(PyExc_TypeError, "%R is not a template: a tuple of three bytes objects", object);
    return is_right ? 0 : -1;
}

/* The doubles of a buffer. */
static int parse_doubles(PyObject *object, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_ND | PyBUF_FORMAT) < 0)
        return -1;
    if (view->itemsize == sizeof(double) && view->format != NULL && strcmp(view->format, "d") == 0)
        return 0;
    PyBuffer_Release(view);
    PyErr_SetString(PyExc_TypeError, "lines() needs values as an array of format 'd'");
    return -1;
}

static int parse_mask(PyObject *mask, Lines *lines)
{
    if (mask == Py_None)
        return 0;
    Py_ssize_t size = PyBytes_Check(mask) ? PyBytes_GET_SIZE(mask) : -1;
    if (size != lines->rows && size != lines->rows * lines->width) {
        PyErr_Format(PyExc_ValueError, "the mask must have a byte for each of %zd rows, or for each value", lines->rows);
        return -1;
    }
    lines->shown = PyBytes_AS_STRING(mask);
    lines->shown_width = size == lines->rows ? 1 : lines->width;
    return 0;
}

static PyObject *lines_of(PyObject *templates, PyObject *texts, const Py_buffer *values, PyObject *mask,
                          PyObject *created_template, const Py_buffer *created)
{
    Py_ssize_t width = PyTuple_GET_SIZE(templates), count = values->len / (Py_ssize_t)sizeof(double);
    Template template, *parsed = PyMem_New(Template, width + 1);
    Lines lines = {.templates = parsed, .width = width, .rows = width == 0 ? 0 : count / width, .values = values->buf};
    PyObject *text = NULL;
    if (parsed == NULL)
        return PyErr_NoMemory();
    int failed = 0;
    for (Py_ssize_t at = 0; !failed && at < width; at++)
        failed = parse_template(PyTuple_GET_ITEM(templates, at), &parsed[at]) < 0;
    if (!failed && created != NULL) {
        failed = parse_template(created_template, &template) < 0;
        lines.created_template = &template;
        lines.created = created->buf;
    }
    lines.texts = (const Texts *)texts;
    if (!failed && (lines.rows * width != count || lines.rows > lines.texts->count
                    || (created != NULL && created->len / (Py_ssize_t)sizeof(double) != lines.rows))) {
        PyErr_Format(PyExc_ValueError, "%zd values do not fit %zd texts", count, lines.texts->count);
        failed = 1;
    }
    if (!failed && parse_mask(mask, &lines) == 0)
        text = write_lines(&lines);
    PyMem_Free(parsed);
    return text;
}

static PyObject *lines(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *templates, *texts, *values, *mask, *created = Py_None;
    Py_buffer view, created_view;
    if (!PyArg_ParseTuple(args, "O!O!OO|O:lines", &PyTuple_Type, &templates, &Texts_Type, &texts, &values, &mask, &created))
        return NULL;
    int has_created = created != Py_None;
    if (has_created && (!PyTuple_Check(created) || PyTuple_GET_SIZE(created) != 2))
        return PyErr_Format(PyExc_TypeError, "created must be a tuple of a template and times, not %R", created);
    /* First, as it may run code. Nothing below does, so the texts cannot change. */
    if (parse_doubles(values, &view) < 0)
        return NULL;
    PyObject *text = NULL;
    if (!has_created)
        text = lines_of(templates, texts, &view, mask, NULL, NULL);
    else if (parse_doubles(PyTuple_GET_ITEM(created, 1), &created_view) == 0) {
        text = lines_of(templates, texts, &view, mask, PyTuple_GET_ITEM(created, 0), &created_view);
        PyBuffer_Release(&created_view);
    }
    PyBuffer_Release(&view);
    return text;
}

static PyObject *number(PyObject *Py_UNUSED(module), PyObject *value)
{
    char text[NUMBER_ROOM];
    double number;
    if (parse_number(value, &number) < 0)
        return NULL;
    Py_ssize_t size = write_number(number, text);
    return size < 0 ? NULL : PyUnicode_FromStringAndSize(text, size);
}

PyMethodDef line_methods[] = {
    {"lines", lines, METH_VARARGS,
     "lines(templates, texts, values, mask, created=None, /)\n--\n\nSee mpmetrics._cells.text."},
    {"number", number, METH_O, "number(value, /)\n--\n\nSee mpmetrics._cells.text."},
    {NULL},
};
