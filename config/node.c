#include "config/node.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

/* Flow indicators inside a plain value travel through libyaml as characters of the private use
 * area: as wide as one character, so that all places stay right. */
static const char REPLACED[] = "{}[],";
#define PRIVATE_0     0xEF
#define PRIVATE_1     0xA3
#define PRIVATE_FIRST 0xB0 /* U+F8F0 */
#define MAX_REPAIRS   256

struct parse {
    char *text;
    size_t size;
    struct fault_list *faults;
    yaml_parser_t parser;
    bool failed;
    bool broken;             /* libyaml failed: only this can be repaired */
    size_t last_scalar_end;  /* characters from the start, of the event just before; SIZE_MAX: not a
                                plain scalar */
    struct config_mark last; /* where the last event began */
};

static int private_index(const char *p)
{
    const unsigned char *u = (const unsigned char *)p;

    if (u[0] != PRIVATE_0 || u[1] != PRIVATE_1 || u[2] < PRIVATE_FIRST ||
        u[2] >= PRIVATE_FIRST + sizeof(REPLACED) - 1)
        return -1;
    return u[2] - PRIVATE_FIRST;
}

static void restore(char *text)
{
    char *out = text;

    for (const char *p = text; *p != '\0';) {
        int i = private_index(p);
        if (i >= 0) {
            *out++ = REPLACED[i];
            p += 3;
        } else {
            *out++ = *p++;
        }
    }
    *out = '\0';
}

void node_free(struct node *node)
{
    if (node == NULL)
        return;
    for (size_t i = 0; i < node->n; i++) {
        if (node->keys != NULL)
            node_free(node->keys[i]);
        node_free(node->items[i]);
    }
    if (node->text != NULL)
        explicit_bzero(node->text, strlen(node->text)); /* it may be a key */
    free(node->keys);
    free(node->items);
    free(node->text);
    free(node);
}

static struct config_mark mark_of(yaml_mark_t m)
{
    return (struct config_mark){(unsigned)m.line + 1, (unsigned)m.column + 1};
}

static bool next(struct parse *p, yaml_event_t *event)
{
    if (!yaml_parser_parse(&p->parser, event)) {
        p->failed = p->broken = true;
        return false;
    }
    p->last = mark_of(event->start_mark);
    p->last_scalar_end = SIZE_MAX;
    if (event->type == YAML_SCALAR_EVENT && event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
        p->last_scalar_end = event->end_mark.index;
    return true;
}

static void refuse(struct parse *p, struct config_mark mark, const char *text)
{
    fault_add(p->faults, mark, "", "%s", text);
    p->failed = true;
}

static bool add_item(struct parse *p, struct node *parent, struct node *key, struct node *item)
{
    size_t n = parent->n;
    size_t capacity = n == 0 ? 4 : n >= 4 && (n & (n - 1)) == 0 ? 2 * n : 0;

    if (capacity > 0) { /* at 0, 4, 8, 16… */
        struct node **items = realloc(parent->items, capacity * sizeof(struct node *));
        if (items != NULL)
            parent->items = items;
        struct node **keys = parent->keys;
        if (parent->type == NODE_MAP) {
            keys = realloc(parent->keys, capacity * sizeof(struct node *));
            if (keys != NULL)
                parent->keys = keys;
        }
        if (items == NULL || (parent->type == NODE_MAP && keys == NULL)) {
            p->faults->nomem = p->failed = true;
            return false;
        }
    }
    parent->items[n] = item;
    if (parent->type == NODE_MAP)
        parent->keys[n] = key;
    parent->n++;
    return true;
}

static struct node *node_new(struct parse *p, enum node_type type, const yaml_event_t *event)
{
    struct node *node = calloc(1, sizeof(*node));

    if (node == NULL) {
        p->faults->nomem = p->failed = true;
        return NULL;
    }
    node->type = type;
    node->mark = mark_of(event->start_mark);
    node->end = mark_of(event->end_mark);
    return node;
}

static struct node *make_scalar(struct parse *p, const yaml_event_t *event)
{
    static const enum node_style STYLES[] = {
        [YAML_PLAIN_SCALAR_STYLE] = NODE_PLAIN,
        [YAML_SINGLE_QUOTED_SCALAR_STYLE] = NODE_SINGLE_QUOTED,
        [YAML_DOUBLE_QUOTED_SCALAR_STYLE] = NODE_DOUBLE_QUOTED,
        [YAML_LITERAL_SCALAR_STYLE] = NODE_BLOCK,
        [YAML_FOLDED_SCALAR_STYLE] = NODE_BLOCK,
    };
    const char *value = (const char *)event->data.scalar.value;

    if (memchr(value, '\0', event->data.scalar.length) != NULL) {
        refuse(p, mark_of(event->start_mark), "a NUL character is not allowed");
        return NULL;
    }
    struct node *node = node_new(p, NODE_SCALAR, event);
    if (node == NULL)
        return NULL;
    node->style = event->data.scalar.style == YAML_ANY_SCALAR_STYLE
                      ? NODE_PLAIN
                      : STYLES[event->data.scalar.style];
    node->text = strdup(value);
    if (node->text == NULL) {
        p->faults->nomem = p->failed = true;
        node_free(node);
        return NULL;
    }
    restore(node->text);
    return node;
}

static bool plain_event(struct parse *p, const yaml_event_t *event)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;

    switch (event->type) {
    case YAML_ALIAS_EVENT:
        refuse(p, mark_of(event->start_mark),
               "aliases (*name) are not supported: write the value out; a value that begins with * "
               "must be quoted");
        return false;
    case YAML_SCALAR_EVENT:
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
        break;
    default:
        break;
    }
    if (anchor != NULL)
        refuse(p, mark_of(event->start_mark),
               "anchors (&name) are not supported; a value that begins with & must be quoted");
    else if (tag != NULL)
        refuse(p, mark_of(event->start_mark),
               "tags (!name) are not supported; a value that begins with ! must be quoted");
    return !p->failed;
}

static struct node *parse_node(struct parse *p, yaml_event_t *event, unsigned depth);

static void parse_children(struct parse *p, struct node *parent, yaml_event_type_t end,
                           unsigned depth)
{
    for (;;) {
        yaml_event_t event;
        struct node *key = NULL, *item;

        if (!next(p, &event))
            return;
        if (event.type == end) {
            parent->end = mark_of(event.end_mark);
            yaml_event_delete(&event);
            return;
        }
        if (parent->n >= NODE_MAX_ITEMS)
            refuse(p, mark_of(event.start_mark), "too many items");
        if (parent->type == NODE_MAP && !p->failed) {
            if (event.type != YAML_SCALAR_EVENT && event.type != YAML_ALIAS_EVENT)
                refuse(p, mark_of(event.start_mark),
                       "a key must be plain text (a value that begins with { or [ must be quoted)");
            else
                key = parse_node(p, &event, depth);
            if (key == NULL) {
                if (p->failed && event.type != YAML_NO_EVENT)
                    yaml_event_delete(&event);
                return;
            }
            if (strcmp(key->text, "<<") == 0)
                refuse(p, key->mark, "merge keys (<<) are not supported");
            if (p->failed || !next(p, &event)) {
                node_free(key);
                return;
            }
        }
        item = p->failed ? NULL : parse_node(p, &event, depth);
        if (item == NULL) {
            if (event.type != YAML_NO_EVENT)
                yaml_event_delete(&event);
            node_free(key);
            return;
        }
        if (!add_item(p, parent, key, item)) {
            node_free(key);
            node_free(item);
            return;
        }
    }
}

/* Takes the event over: it is deleted, and zero then. NULL on a fault. */
static struct node *parse_node(struct parse *p, yaml_event_t *event, unsigned depth)
{
    struct node *node = NULL;
    yaml_event_type_t end = YAML_NO_EVENT;

    if (!plain_event(p, event)) {
        yaml_event_delete(event);
        return NULL;
    }
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        node = make_scalar(p, event);
        break;
    case YAML_SEQUENCE_START_EVENT:
        end = YAML_SEQUENCE_END_EVENT;
        break;
    case YAML_MAPPING_START_EVENT:
        end = YAML_MAPPING_END_EVENT;
        break;
    default:
        refuse(p, mark_of(event->start_mark), "a value was expected");
        break;
    }
    if (end != YAML_NO_EVENT) {
        if (depth >= NODE_MAX_DEPTH)
            refuse(p, mark_of(event->start_mark), "nested too deep");
        else
            node = node_new(p, end == YAML_MAPPING_END_EVENT ? NODE_MAP : NODE_LIST, event);
    }
    yaml_event_delete(event);
    if (node != NULL && end != YAML_NO_EVENT) {
        parse_children(p, node, end, depth + 1);
        if (p->failed) {
            node_free(node);
            return NULL;
        }
    }
    return node;
}

/* One document, the whole stream. An empty one gives NULL without `failed`. */
static struct node *parse_stream(struct parse *p)
{
    struct node *root = NULL;

    for (;;) {
        yaml_event_t event;
        yaml_event_type_t type;

        if (!next(p, &event))
            break;
        type = event.type;
        if (type == YAML_STREAM_START_EVENT || type == YAML_DOCUMENT_END_EVENT ||
            type == YAML_STREAM_END_EVENT) {
            yaml_event_delete(&event);
        } else if (type == YAML_DOCUMENT_START_EVENT) {
            if (root != NULL)
                refuse(p, mark_of(event.start_mark), "only one document a file is supported");
            yaml_event_delete(&event);
        } else {
            root = parse_node(p, &event, 0);
        }
        if (p->failed || type == YAML_STREAM_END_EVENT)
            break;
    }
    if (p->failed) {
        node_free(root);
        return NULL;
    }
    return root;
}

static size_t byte_offset(const char *text, size_t size, size_t characters)
{
    size_t i = 0;

    while (i < size && characters > 0) {
        i++;
        while (i < size && ((unsigned char)text[i] & 0xC0) == 0x80)
            i++;
        characters--;
    }
    return i;
}

/* If libyaml gave up behind a plain value that goes on with an opening brace or bracket, hides
 * those up to the closing one on that line. Whether it is worth parsing again. */
static bool repair(struct parse *p)
{
    size_t at, end, hidden = 0;

    if (!p->broken || p->last_scalar_end == SIZE_MAX)
        return false;
    at = byte_offset(p->text, p->size, p->last_scalar_end);
    if (at == 0 || at >= p->size || (p->text[at] != '{' && p->text[at] != '['))
        return false;
    char closing = p->text[at] == '{' ? '}' : ']';
    for (end = at + 1; end < p->size && p->text[end] != closing; end++) {
        if (p->text[end] == '\n' || p->text[end] == '\r')
            return false;
        if (strchr(REPLACED, p->text[end]) != NULL)
            hidden++;
    }
    if (end == p->size)
        return false;
    hidden += 2;
    char *grown = malloc(p->size + 2 * hidden + 1), *out = grown;
    if (grown == NULL) {
        p->faults->nomem = true;
        return false;
    }
    memcpy(out, p->text, at);
    out += at;
    for (size_t i = at; i <= end; i++) {
        const char *replaced = strchr(REPLACED, p->text[i]);
        if (replaced != NULL && *replaced != '\0') {
            *out++ = (char)PRIVATE_0;
            *out++ = (char)PRIVATE_1;
            *out++ = (char)(PRIVATE_FIRST + (replaced - REPLACED));
        } else {
            *out++ = p->text[i];
        }
    }
    memcpy(out, p->text + end + 1, p->size - end - 1);
    out += p->size - end - 1;
    *out = '\0';
    explicit_bzero(p->text, p->size);
    free(p->text);
    p->text = grown;
    p->size = (size_t)(out - grown);
    return true;
}

static void syntax_fault(struct parse *p)
{
    const yaml_parser_t *y = &p->parser;
    struct config_mark mark = mark_of(y->problem_mark);
    const char *hint = "";

    if (y->error == YAML_MEMORY_ERROR) {
        p->faults->nomem = true;
        return;
    }
    if (y->problem_mark.line == 0 && y->problem_mark.column == 0 && y->problem_mark.index == 0 &&
        p->last.line > 0)
        mark = p->last;
    const char *problem = y->problem != NULL ? y->problem : "not valid YAML";
    if (strstr(problem, "',' or") != NULL || strstr(problem, "expected key") != NULL ||
        strstr(problem, "start any token") != NULL || strstr(problem, "alphabetic") != NULL)
        hint = "; quote values that hold { } [ ] , * & ! % @ or begin with one";
    if (strstr(problem, "tab") != NULL || strstr(problem, "start any token") != NULL)
        hint = "; indent with blanks, not tabs, and quote values that begin with @, ` or %";
    fault_add(p->faults, mark, "", "not valid YAML: %s%s%s%s", y->context != NULL ? y->context : "",
              y->context != NULL ? ", " : "", problem, hint);
}

/* libyaml's own complaints about encoding give no line. */
static bool check_text(const char *text, size_t size, struct fault_list *faults)
{
    struct config_mark mark = {1, 1};

    for (size_t i = 0; i < size;) {
        size_t n = 1;

        while (i + n < size && ((unsigned char)text[i + n] & 0xC0) == 0x80)
            n++;
        unsigned char c = (unsigned char)text[i];
        if (!text_utf8_valid(text + i, n)) {
            fault_add(faults, mark, "", "not UTF-8 text");
            return false;
        }
        if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f) {
            fault_add(faults, mark, "", "a control character (0x%02x) is not allowed", c);
            return false;
        }
        if (n == 3 && private_index(text + i) >= 0) {
            fault_add(faults, mark, "", "a character of the private use area is not allowed");
            return false;
        }
        mark.column++;
        if (c == '\n') {
            mark.line++;
            mark.column = 1;
        }
        i += n;
    }
    return true;
}

static void check_duplicates(const struct node *node, const char *path, struct fault_list *faults)
{
    char below[FAULT_PATH_SIZE];

    for (size_t i = 0; i < node->n; i++) {
        if (node->type == NODE_MAP) {
            fault_path(below, path, node->keys[i]->text);
            for (size_t k = 0; k < i; k++) {
                if (strcmp(node->keys[k]->text, node->keys[i]->text) == 0) {
                    fault_add(faults, node->keys[i]->mark, below, "given twice; first in line %u",
                              node->keys[k]->mark.line);
                    break;
                }
            }
        } else {
            fault_path_index(below, path, i);
        }
        check_duplicates(node->items[i], below, faults);
    }
}

struct node *node_parse(const char *text, size_t size, struct fault_list *faults)
{
    struct parse p = {.faults = faults};
    struct node *root = NULL;

    if (size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
        size -= 3;
    }
    if (size > NODE_MAX_SIZE) {
        fault_add(faults, (struct config_mark){1, 1}, "",
                  "the file is larger than %d KiB, which no configuration is",
                  NODE_MAX_SIZE / 1024);
        return NULL;
    }
    if (!check_text(text, size, faults))
        return NULL;
    p.text = malloc(size + 1);
    if (p.text == NULL) {
        faults->nomem = true;
        return NULL;
    }
    memcpy(p.text, text, size);
    p.text[size] = '\0';
    p.size = size;
    for (unsigned repairs = 0;; repairs++) {
        p.failed = p.broken = false;
        p.last_scalar_end = SIZE_MAX;
        p.last = (struct config_mark){0};
        if (!yaml_parser_initialize(&p.parser)) {
            faults->nomem = true;
            break;
        }
        yaml_parser_set_encoding(&p.parser, YAML_UTF8_ENCODING);
        yaml_parser_set_input_string(&p.parser, (const unsigned char *)p.text, p.size);
        root = parse_stream(&p);
        bool again = repairs < MAX_REPAIRS && repair(&p);
        if (!again && p.broken)
            syntax_fault(&p);
        yaml_parser_delete(&p.parser);
        if (!again)
            break;
    }
    explicit_bzero(p.text, p.size);
    free(p.text);
    if (root != NULL && node_is_null(root)) { /* a document without content */
        node_free(root);
        root = NULL;
    }
    if (root == NULL && !p.failed && !faults->nomem)
        fault_add(faults, (struct config_mark){1, 1}, "",
                  "the file is empty; it needs state, watch, destinations and routes");
    if (root != NULL)
        check_duplicates(root, "", faults);
    return root;
}

const struct node *node_get(const struct node *map, const char *key)
{
    if (map == NULL || map->type != NODE_MAP)
        return NULL;
    for (size_t i = 0; i < map->n; i++) {
        if (strcmp(map->keys[i]->text, key) == 0)
            return map->items[i];
    }
    return NULL;
}

struct config_mark node_mark(const struct node *map, const char *key)
{
    const struct node *value = node_get(map, key);

    if (value != NULL)
        return value->mark;
    return map != NULL ? map->mark : (struct config_mark){0};
}

static size_t count_characters(const char *text, size_t n)
{
    size_t count = 0;

    for (size_t i = 0; i < n && text[i] != '\0'; i++)
        count += ((unsigned char)text[i] & 0xC0) != 0x80;
    return count;
}

struct config_mark node_mark_within(const struct node *scalar, size_t offset)
{
    struct config_mark mark = scalar->mark;
    size_t all, quotes = 0, quotes_before = 0;

    if (scalar->type != NODE_SCALAR || mark.line != scalar->end.line || scalar->style == NODE_BLOCK)
        return mark;
    all = count_characters(scalar->text, strlen(scalar->text));
    for (size_t i = 0; scalar->text[i] != '\0'; i++) {
        if (scalar->style == NODE_SINGLE_QUOTED && scalar->text[i] == '\'') {
            quotes++;
            quotes_before += i < offset;
        }
    }
    if (scalar->style != NODE_PLAIN && scalar->end.column - mark.column != all + quotes + 2)
        return mark; /* escapes */
    mark.column += (unsigned)(count_characters(scalar->text, offset) + quotes_before);
    mark.column += scalar->style != NODE_PLAIN;
    return mark;
}

bool node_is_null(const struct node *node)
{
    return node->type == NODE_SCALAR && node->style == NODE_PLAIN &&
           (node->text[0] == '\0' || strcmp(node->text, "~") == 0 ||
            strcmp(node->text, "null") == 0);
}

const char *node_describe(const struct node *node, char out[FAULT_QUOTE_SIZE])
{
    if (node->type == NODE_LIST)
        return "a list";
    if (node->type == NODE_MAP)
        return "a mapping";
    if (node_is_null(node))
        return "nothing";
    return fault_quote(out, node->text);
}
