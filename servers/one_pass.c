/* A first page of a home timeline in one pass: merged, ruled and put together from what lies ready.

   What it does is what domain/timeline.py (`page`), storage/windows.py (`merge`) and
   servers/tweet_presenter.py (`frames`) do, for the page that almost every read gets: all windows
   are there and reach far enough, all records are kept with frames that hold. In any other case it
   returns None, and they do it. tests/unit/test_one_pass.py holds both to the same bytes.

   Windows are only read as far down as the page needs, none of it is sorted, and of an entry no
   Python object is made. Why, and what it brings: docs/decisions/0007-home-reads.md. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

enum {
    ENTRY_BYTES = 32, /* tweet, author, original, other author: big-endian, 64 bits each */
    WINDOWS_MAX = 128,
    SEEN_MAX = 1024,
    LIMIT_MAX = 100,
    CURSOR_VERSION = 1,
    CURSOR_LENGTH = 12,
    CACHE_LINE = 64,
    FRAME_USUAL = 512, /* bytes that most frames have */
};

static const uint64_t MARK_ID = UINT64_MAX; /* begins a window that is being rebuilt */

typedef struct {
    uint64_t tweet, author, original, other;
} Entry;

/* What is left of a window: sorted, newest first, each entry once, as storage/functions/timelines.lua
   keeps it. */
typedef struct {
    PyObject **at, **end;
} Run;

typedef struct {
    const uint64_t *sorted;
    size_t count;
} Ids;

typedef struct {
    Run runs[WINDOWS_MAX];
    size_t run_count;
    uint64_t floor; /* all windows are complete above it; 0 reaches the beginning */
    const char *last; /* the entry that was taken last: others may repeat it */
    uint64_t me;
    Ids followees, hidden;
    Entry seen[SEEN_MAX]; /* visible entries, as far down as they were needed */
    size_t seen_count;
} Timeline;

typedef struct {
    PyObject *records, *erased, *liked, *retweeted;
    Ids hidden;
    uint64_t marks_floor;
    long long generation;
} Shelf;

/* Where the slots of servers.tweet_records.Record lie: `bind` looks once. */
typedef struct {
    Py_ssize_t tweet_id, version, author_id, deleted, original_id, quoted_id, refers, framed_at,
        kept_frame, parts;
} Slots;

static PyTypeObject *record_type;
static Slots slots;

#define SLOT(record, name) (*(PyObject **)((char *)(record) + slots.name))

/* Entries and windows */

static uint64_t big_endian(const char *bytes) {
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
#if PY_LITTLE_ENDIAN
    value = __builtin_bswap64(value);
#endif
    return value;
}

static bool is_entry(PyObject *element) {
    return PyBytes_CheckExact(element) && PyBytes_GET_SIZE(element) == ENTRY_BYTES;
}

/* False where a window is absent, being rebuilt, or no window at all. */
static bool open_run(PyObject *elements, Run *run, uint64_t *floor) {
    static const char complete[ENTRY_BYTES];
    if (!PyList_CheckExact(elements) || PyList_GET_SIZE(elements) == 0)
        return false;
    run->at = &PyList_GET_ITEM(elements, 0);
    run->end = run->at + PyList_GET_SIZE(elements);
    for (PyObject **each = run->at; each < run->end; each++)
        if (!is_entry(*each))
            return false;
    if (big_endian(PyBytes_AS_STRING(*run->at)) == MARK_ID)
        return false;
    const char *last = PyBytes_AS_STRING(run->end[-1]);
    if (memcmp(last, complete, ENTRY_BYTES) == 0)
        run->end--;
    else if (big_endian(last) > *floor)
        *floor = big_endian(last);
    return true;
}

/* The newest entry that no window has given yet; NULL below the floor. */
static const char *next_entry(Timeline *timeline) {
    for (;;) {
        Run *newest = NULL;
        for (Run *run = timeline->runs; run < timeline->runs + timeline->run_count; run++)
            if (run->at < run->end
                && (newest == NULL
                    || memcmp(PyBytes_AS_STRING(*run->at), PyBytes_AS_STRING(*newest->at),
                              ENTRY_BYTES) > 0))
                newest = run;
        if (newest == NULL)
            return NULL;
        const char *entry = PyBytes_AS_STRING(*newest->at);
        if (big_endian(entry) < timeline->floor)
            return NULL;
        newest->at++;
        if (timeline->last == NULL || memcmp(entry, timeline->last, ENTRY_BYTES) != 0)
            return timeline->last = entry;
    }
}

/* Rules */

static bool is_among(Ids ids, uint64_t id) {
    const uint64_t *from = ids.sorted;
    for (size_t left = ids.count; left > 0;) {
        size_t half = left / 2;
        if (from[half] < id) {
            from += half + 1;
            left -= half + 1;
        } else
            left = half;
    }
    return from < ids.sorted + ids.count && *from == id;
}

/* Rule 2, apart from deletion. */
static bool is_visible(const Timeline *timeline, const Entry *entry) {
    if (entry->author == timeline->me)
        return true;
    if (!is_among(timeline->followees, entry->author) || is_among(timeline->hidden, entry->author)
        || (entry->other && is_among(timeline->hidden, entry->other)))
        return false;
    /* Who answers himself is followed, or would not have come so far. */
    return !entry->other || entry->original || entry->other == timeline->me
           || is_among(timeline->followees, entry->other);
}

/* Sees so many entries, or as many as there are. False where that is more than there is room for. */
static bool see(Timeline *timeline, size_t wanted) {
    if (wanted > SEEN_MAX)
        return false;
    const char *bytes;
    while (timeline->seen_count < wanted && (bytes = next_entry(timeline)) != NULL) {
        Entry *entry = &timeline->seen[timeline->seen_count];
        *entry = (Entry){big_endian(bytes), big_endian(bytes + 8), big_endian(bytes + 16),
                         big_endian(bytes + 24)};
        timeline->seen_count += is_visible(timeline, entry);
    }
    return true;
}

static uint64_t key(const Entry *entry) { return entry->original ? entry->original : entry->tweet; }

/* Rule 4: whether the same tweet stands again within `distance` entries below. */
static bool repeats_below(const Timeline *timeline, size_t position, size_t distance) {
    for (size_t below = position + 1;
         below < timeline->seen_count && below <= position + distance; below++)
        if (key(&timeline->seen[below]) == key(&timeline->seen[position]))
            return true;
    return false;
}

typedef struct {
    size_t places[LIMIT_MAX]; /* in what the timeline has seen */
    size_t count;
    bool has_more;
} Page;

/* Whether a page is sure, takes windows that reach further down, or more room than there is. */
typedef enum { COMPLETE, TOO_SHORT, TOO_LONG } Cut;

/* Cuts the newest `limit` entries above an id out. */
static Cut cut(Timeline *timeline, uint64_t above, size_t limit, size_t distance, Page *page) {
    page->count = 0;
    page->has_more = false;
    for (size_t position = 0;; position++) {
        if (!see(timeline, position + 1))
            return TOO_LONG;
        if (position == timeline->seen_count)
            return timeline->floor <= above + 1 ? COMPLETE : TOO_SHORT;
        if (timeline->seen[position].tweet <= above)
            return COMPLETE;
        if (timeline->seen[position].original) {
            if (!see(timeline, position + 1 + distance))
                return TOO_LONG;
            if (repeats_below(timeline, position, distance))
                continue;
            if (position + distance >= timeline->seen_count && timeline->floor != 0)
                return TOO_SHORT;
        }
        if (page->count == limit) {
            page->has_more = true;
            return COMPLETE;
        }
        page->places[page->count++] = position;
    }
}

/* Records */

/* Has the processor fetch memory that is looked at soon. */
static void fetch(const void *from, size_t length) {
    for (size_t at = 0; at < length; at += CACHE_LINE)
        __builtin_prefetch((const char *)from + at);
}

/* Whether no slot is unset. What they hold is not looked at here: each would be a miss of the
   processor's caches. */
static bool is_record(PyObject *object) {
    return Py_TYPE(object) == record_type && SLOT(object, tweet_id) && SLOT(object, version)
           && SLOT(object, author_id) && SLOT(object, original_id) && SLOT(object, quoted_id)
           && SLOT(object, framed_at) && SLOT(object, parts) && SLOT(object, kept_frame);
}

/* What is kept under the id of a tweet, borrowed, not yet looked at: it is on its way to the
   processor's caches while others are looked up. */
static PyObject *find(const Shelf *shelf, uint64_t tweet) {
    PyObject *tweet_id = PyLong_FromUnsignedLongLong(tweet);
    if (tweet_id == NULL)
        return NULL;
    PyObject *found = PyDict_GetItemWithError(shelf->records, tweet_id);
    Py_DECREF(tweet_id);
    if (found != NULL)
        fetch(found, record_type->tp_basicsize);
    return found;
}

/* Whether what was found is a record, and sure. */
static bool is_sure(const Shelf *shelf, PyObject *found) {
    return found != NULL && is_record(found)
           && (PySet_GET_SIZE(shelf->erased) == 0
               || PySet_Contains(shelf->erased, SLOT(found, author_id)) == 0);
}

static bool stands(const Shelf *shelf, PyObject *found) {
    return is_sure(shelf, found) && SLOT(found, deleted) == Py_False;
}

static bool is_marked(PyObject *set, PyObject *tweet_id) {
    /* An id is an int: neither its hash nor a comparison fails. */
    return PySet_GET_SIZE(set) && PySet_Contains(set, tweet_id) == 1;
}

/* Whether the viewer's marks on a tweet are known to be those in the sets. */
static bool knows_marks(const Shelf *shelf, PyObject *record) {
    return PyLong_AsUnsignedLongLong(SLOT(record, tweet_id)) > shelf->marks_floor;
}

static bool has_marks(const Shelf *shelf, PyObject *record) {
    PyObject *tweet_id = SLOT(record, tweet_id);
    return is_marked(shelf->liked, tweet_id) || is_marked(shelf->retweeted, tweet_id);
}

/* Whether `part`, which a frame shows or None, is what is kept of that tweet, and shown to this
   viewer as to all, apart from marks. A record never changes in a version. */
static bool part_holds(const Shelf *shelf, PyObject *part, PyObject *tweet_id) {
    if (PyLong_AsUnsignedLongLong(tweet_id) == 0)
        return part == Py_None;
    PyObject *kept = PyDict_GetItemWithError(shelf->records, tweet_id);
    if (!is_sure(shelf, kept) || !is_record(part) || !knows_marks(shelf, kept)
        || is_among(shelf->hidden, PyLong_AsUnsignedLongLong(SLOT(kept, author_id))))
        return false;
    return kept == part
           || (PyLong_AsLongLong(SLOT(kept, version)) == PyLong_AsLongLong(SLOT(part, version))
               && SLOT(kept, deleted) == SLOT(part, deleted));
}

/* Whether a record's frame can be sent, perhaps with other marks. */
static bool frame_holds(const Shelf *shelf, PyObject *record) {
    if (PyLong_AsLongLong(SLOT(record, framed_at)) != shelf->generation
        || !knows_marks(shelf, record) || !PyBytes_CheckExact(SLOT(record, kept_frame)))
        return false;
    if (SLOT(record, refers) != Py_True)
        return true;
    PyObject *parts = SLOT(record, parts);
    if (!PyTuple_CheckExact(parts) || PyTuple_GET_SIZE(parts) != 2)
        return false;
    PyObject *original = PyTuple_GET_ITEM(parts, 0), *quoted = PyTuple_GET_ITEM(parts, 1);
    return part_holds(shelf, original, SLOT(record, original_id))
           && part_holds(shelf, quoted,
                         SLOT(original == Py_None ? record : original, quoted_id));
}

/* Marks */

/* Reads a varint below `end`; NULL where there is none. */
static char *varint(char *at, const char *end, uint64_t *value) {
    *value = 0;
    for (int shift = 0; at < end && shift < 64; shift += 7) {
        unsigned char byte = (unsigned char)*at++;
        *value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            return at;
    }
    return NULL;
}

/* Writes the viewer's marks into a serialised Tweet, and into those that it shows. Marks are sent
   also when false, so it stays as long as it was. False where that is not what lies there. */
static bool put_marks(const Shelf *shelf, char *at, char *end) {
    enum { VARINT = 0, EIGHT_BYTES = 1, BYTES = 2, FOUR_BYTES = 5 };
    enum { ID = 1, RETWEETED_TWEET = 18, QUOTED_TWEET = 19, LIKED = 20, RETWEETED = 21 };
    uint64_t tweet = 0, tag, value;
    while (at < end) {
        if ((at = varint(at, end, &tag)) == NULL)
            return false;
        uint64_t field = tag >> 3, kind = tag & 7, skipped = 0;
        char *from = at;
        if (kind == EIGHT_BYTES || kind == FOUR_BYTES)
            skipped = kind == EIGHT_BYTES ? 8 : 4;
        else if ((kind != VARINT && kind != BYTES) || (at = varint(at, end, &value)) == NULL)
            return false;
        else if (kind == BYTES)
            skipped = value;
        else if (field == ID)
            tweet = value;
        else if (field == LIKED || field == RETWEETED) {
            PyObject *tweet_id = PyLong_FromUnsignedLongLong(tweet);
            if (tweet_id == NULL)
                return false;
            *from = is_marked(field == LIKED ? shelf->liked : shelf->retweeted, tweet_id);
            Py_DECREF(tweet_id);
        }
        if (skipped > (uint64_t)(end - at))
            return false;
        if (kind == BYTES && (field == RETWEETED_TWEET || field == QUOTED_TWEET)
            && !put_marks(shelf, at, at + skipped))
            return false;
        at += skipped;
    }
    return true;
}

static bool shows_marks(const Shelf *shelf, PyObject *record) {
    if (has_marks(shelf, record))
        return true;
    if (SLOT(record, refers) == Py_True)
        for (Py_ssize_t place = 0; place < 2; place++) {
            PyObject *part = PyTuple_GET_ITEM(SLOT(record, parts), place);
            if (part != Py_None && has_marks(shelf, part))
                return true;
        }
    return false;
}

/* The page */

/* NULL where a frame is none. */
static char *put_frame(const Shelf *shelf, PyObject *record, char *to) {
    PyObject *frame = SLOT(record, kept_frame);
    Py_ssize_t length = PyBytes_GET_SIZE(frame);
    memcpy(to, PyBytes_AS_STRING(frame), length);
    char *end = to + length;
    if (shows_marks(shelf, record)) {
        uint64_t tag, left;
        if ((to = varint(to, end, &tag)) == NULL || (to = varint(to, end, &left)) == NULL
            || !put_marks(shelf, to, end))
            return NULL;
    }
    return end;
}

/* As paging.encode_cursor: base64url of a version and the last tweet's id. */
static char *put_cursor(uint64_t tweet, char *to) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned char bytes[9] = {CURSOR_VERSION};
    for (int i = 0; i < 8; i++)
        bytes[1 + i] = (unsigned char)(tweet >> (56 - 8 * i));
    for (int i = 0; i < 9; i += 3) {
        uint32_t three = (uint32_t)bytes[i] << 16 | (uint32_t)bytes[i + 1] << 8 | bytes[i + 2];
        for (int shift = 18; shift >= 0; shift -= 6)
            *to++ = digits[three >> shift & 63];
    }
    return to;
}

/* The answer, as tweet_records.page_bytes puts it together; NULL where a frame is none. */
static PyObject *put_together(const Shelf *shelf, PyObject *const *records, size_t count,
                              bool has_more) {
    Py_ssize_t length = has_more ? 2 + CURSOR_LENGTH + 2 : 0;
    for (size_t place = 0; place < count; place++)
        length += PyBytes_GET_SIZE(SLOT(records[place], kept_frame));
    PyObject *answer = PyBytes_FromStringAndSize(NULL, length);
    if (answer == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(answer);
    for (size_t place = 0; place < count; place++)
        if ((to = put_frame(shelf, records[place], to)) == NULL) {
            Py_DECREF(answer);
            return NULL;
        }
    if (has_more) {
        *to++ = '\x12'; /* next_cursor = 2 */
        *to++ = CURSOR_LENGTH;
        to = put_cursor(PyLong_AsUnsignedLongLong(SLOT(records[count - 1], tweet_id)), to);
        *to++ = '\x18'; /* has_more = 3 */
        *to++ = 1;
    }
    return answer;
}

static bool ids_of(PyObject *packed, Ids *ids) {
    if (!PyBytes_CheckExact(packed))
        return false;
    ids->sorted = (const uint64_t *)PyBytes_AS_STRING(packed);
    ids->count = PyBytes_GET_SIZE(packed) / sizeof(uint64_t);
    return true;
}

PyDoc_STRVAR(page_doc,
             "page(windows, me, followees, hidden, liked, retweeted, marks_floor, records, erased,\n"
             "     generation, above, limit, distance, /)\n--\n\n"
             "See _one_pass.pyi.");

static PyObject *page(PyObject *module, PyObject *const *args, Py_ssize_t arg_count) {
    if (arg_count != 13 || record_type == NULL) {
        PyErr_SetString(PyExc_TypeError, "page takes 13 arguments, and bind comes first");
        return NULL;
    }
    PyObject *windows = args[0];
    Timeline timeline; /* `seen` is large, and filled as far as it is counted */
    timeline.run_count = timeline.seen_count = 0;
    timeline.floor = 0;
    timeline.last = NULL;
    timeline.me = PyLong_AsUnsignedLongLong(args[1]);
    Shelf shelf = {.liked = args[4], .retweeted = args[5], .records = args[7], .erased = args[8]};
    shelf.marks_floor = PyLong_AsUnsignedLongLong(args[6]);
    shelf.generation = PyLong_AsLongLong(args[9]);
    uint64_t above = PyLong_AsUnsignedLongLong(args[10]);
    size_t limit = PyLong_AsSize_t(args[11]), distance = PyLong_AsSize_t(args[12]);
    if (PyErr_Occurred())
        return NULL;
    if (!PyList_CheckExact(windows) || !ids_of(args[2], &timeline.followees)
        || !ids_of(args[3], &timeline.hidden) || !PyAnySet_Check(shelf.liked)
        || !PyAnySet_Check(shelf.retweeted) || !PyDict_Check(shelf.records)
        || !PyAnySet_Check(shelf.erased) || limit < 1 || limit > LIMIT_MAX
        || distance > SEEN_MAX) {
        PyErr_SetString(PyExc_TypeError, "page: see _one_pass.pyi for what it takes");
        return NULL;
    }
    shelf.hidden = timeline.hidden;
    if (PyList_GET_SIZE(windows) > WINDOWS_MAX)
        Py_RETURN_NONE;
    for (Py_ssize_t place = 0; place < PyList_GET_SIZE(windows); place++)
        if (!open_run(PyList_GET_ITEM(windows, place), &timeline.runs[timeline.run_count++],
                      &timeline.floor))
            Py_RETURN_NONE;
    Page page;
    switch (cut(&timeline, above, limit, distance, &page)) {
    case TOO_SHORT:
        return Py_BuildValue("(Oi)", Py_None, 0);
    case TOO_LONG:
        Py_RETURN_NONE;
    case COMPLETE:
        break;
    }
    /* What was deleted since it stood in a window moves the page up, also where it only decided
       whether a retweet repeats it. */
    PyObject *originals[SEEN_MAX], *records[LIMIT_MAX];
    size_t original_count = 0;
    for (size_t place = 0; place < page.count; place++)
        records[place] = find(&shelf, timeline.seen[page.places[place]].tweet);
    for (size_t position = 0; position < timeline.seen_count; position++)
        if (timeline.seen[position].original)
            originals[original_count++] = find(&shelf, timeline.seen[position].original);
    for (size_t place = 0; place < page.count; place++)
        if (stands(&shelf, records[place]))
            fetch(SLOT(records[place], kept_frame), FRAME_USUAL);
        else
            goto other;
    for (size_t place = 0; place < original_count; place++)
        if (!stands(&shelf, originals[place]))
            goto other;
    for (size_t place = 0; place < page.count; place++)
        if (!frame_holds(&shelf, records[place]))
            goto other;
    if (PyErr_Occurred()) /* an id that is none */
        return NULL;
    PyObject *answer = put_together(&shelf, records, page.count, page.has_more);
    if (answer != NULL)
        return Py_BuildValue("(Nn)", answer, (Py_ssize_t)page.count);
other:
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(bind_doc, "bind(record_type, /)\n--\n\nSee _one_pass.pyi.");

static PyObject *bind(PyObject *module, PyObject *type) {
    Slots found;
    const struct {
        const char *name;
        Py_ssize_t *offset;
    } wanted[] = {
        {"tweet_id", &found.tweet_id},       {"version", &found.version},
        {"author_id", &found.author_id},     {"deleted", &found.deleted},
        {"original_id", &found.original_id}, {"quoted_id", &found.quoted_id},
        {"refers", &found.refers},           {"framed_at", &found.framed_at},
        {"kept_frame", &found.kept_frame},   {"parts", &found.parts},
    };
    if (!PyType_Check(type)) {
        PyErr_SetString(PyExc_TypeError, "bind takes a class");
        return NULL;
    }
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        PyObject *slot = PyObject_GetAttrString(type, wanted[i].name);
        if (slot == NULL)
            return NULL;
        bool is_slot = Py_IS_TYPE(slot, &PyMemberDescr_Type);
        if (is_slot) {
            const PyMemberDef *member = ((PyMemberDescrObject *)slot)->d_member;
            is_slot = member->type == T_OBJECT_EX;
            *wanted[i].offset = member->offset;
        }
        Py_DECREF(slot);
        if (!is_slot) {
            PyErr_Format(PyExc_TypeError, "%s is not a slot of the class", wanted[i].name);
            return NULL;
        }
    }
    slots = found;
    Py_INCREF(type);
    Py_XSETREF(record_type, (PyTypeObject *)type);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"page", (PyCFunction)(void (*)(void))page, METH_FASTCALL, page_doc},
    {"bind", bind, METH_O, bind_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_one_pass",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__one_pass(void) { return PyModule_Create(&definition); }
