/* cnn_exchange.h - how a net leaves cnn.h: one freestanding C99 file that computes it.

   >>usage ---- Usage ----------------------------------------------------------------------------------------

       #define CNN_IMPLEMENTATION                       in ONE .c file of the program
       #include "cnn.h"
       #include "cnn_exchange.h"

       cnn_export_c(logits, "net.c", .softmax = 1, .data = &train);          after training, or after cnn_load

   The implementation comes along with that of cnn.h, as above. To have it in another .c file, define
   CNN_EXCHANGE_IMPLEMENTATION there instead, and include this header nowhere where CNN_IMPLEMENTATION is
   defined.

   Contents (search for the tag): >>usage >>manual >>api | >>x-text >>x-rows >>x-plan >>x-file
   >>licence

   >>manual ---- Manual --------------------------------------------------------------------------------------

   The written file needs nothing else: no cnn.h, no header, no heap, no input or output; of the C library it
   calls only functions such as expf, and only those that the net needs. It holds the weights to the last bit
   and one function

       void net_predict(const float *x, float *y, float *work);

   that computes y from one sample, as CNN_EVAL does. A net with several inputs takes x1, x2, ... in the order
   of the graph. The head of the file tells the shapes, the size of `work` (NET_WORK floats) and, with .data,
   how x is normalised.

   Dropout disappears, a batch norm is folded into the preceding convolution or dense layer where there is
   one, and a relu behind such a layer runs in its loop. The loops are plain; a compiler with -O3 makes vector
   code of the inner ones. Results are those of CNN_EVAL to rounding.

   Limits. Every operation of cnn.h but the losses can be exported, if it treats each sample alone: no mean
   over the batch, no weights that the net computes. An operation of your own cannot, unless you add its row
   to the table in >>x-rows.

   Errors. A failed export stops nothing: it returns false, cnn_error(g) says why until the next export or
   save succeeds, and no half-written file is left behind.

   Private names here begin with cnnx_: this companion uses only what cnn.h declares, never a name of its
   implementation.

   >>api ---- API ----------------------------------------------------------------------------------------- */
#ifndef CNN_EXCHANGE_H_INCLUDED
#define CNN_EXCHANGE_H_INCLUDED

#include "cnn.h"
#ifdef CNN_NO_STDIO
#error "cnn_exchange.h writes files: it cannot be used with CNN_NO_STDIO"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Write what computes y, a tensor of a compiled graph, as one C99 file. Written beside, then renamed. */
typedef struct { const char *at, *said; cnn_tensor *y; const char *path; /* required */
                 const char *prefix;      /* of all names in the file; default "net" */
                 const cnn_dataset *data; /* the head tells its mean and deviation; default none */
                 int softmax;             /* 1: y are logits, and the file computes their softmax over C */
               } cnn_export_c_args;
CNN_API bool cnn_export_c_(cnn_export_c_args);
#define cnn_export_c(...) CNN_CALL(cnn_export_c_, cnn_export_c_args, y, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif /* CNN_EXCHANGE_H_INCLUDED */

/* To USE the companion stop here. To know how it works read on. */
#if (defined(CNN_IMPLEMENTATION) || defined(CNN_EXCHANGE_IMPLEMENTATION)) && !defined(__cplusplus)
#ifndef CNN_EXCHANGE_IMPLEMENTATION_ONCE
#define CNN_EXCHANGE_IMPLEMENTATION_ONCE

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#ifndef CNN_MALLOC                 /* set where the implementation of cnn.h is in the same file */
#define CNN_MALLOC(bytes) malloc(bytes)
#define CNN_FREE(p)       free(p)
#endif

/* As a backend has rows that replace rooms, so an export has rows that put rooms into C: the text of a
   function that computes the operation, once in a file, and the arguments of a call of it for each node. The
   calls follow the order of the graph. */

typedef struct cnnx_export cnnx_export;
typedef struct cnnx_node   cnnx_node;

typedef struct {
    const cnn_op *op;
    const char   *text;      /* the function in C, as cnnx_put reads it; NULL: y is its operand by another
                                name */
    const char   *formula;   /* what $ in the text stands for */
    const char   *arguments; /* of a call, as cnnx_put reads them, */
    void        (*call)(const cnnx_export *, const cnnx_node *); /* or what puts the call */
    bool          layer;     /* operands after the first are not values but arrays of the call */
    bool          relu;      /* the call takes a relu along */
    size_t      (*channel)(const cnn_tensor *y, size_t *i); /* a batch norm can be folded into the weights:
                                the output channel of weight *i, which becomes its place in in[1] */
} cnnx_row;

/* What becomes of a node. Its value has a home: a place of its own or, where it is another name for its
   operand or overwrites it, that of the operand. */
struct cnnx_node {
    const cnn_tensor *t;      /* NULL: the exported tensor does not depend on it */
    const cnnx_row   *row;    /* NULL: a leaf */
    const float      *values; /* of a leaf that is no input */
    int    input;             /* inputs: 1, 2, ... */
    int    readers;
    bool   alone;             /* its value has one reader, which may overwrite it */
    bool   stored;            /* a leaf that is read as a value: it becomes an array */
    bool   silent;            /* no call: another name, or part of an earlier call */
    int    home;              /* index of the node whose place it has */
    int    call;              /* of a layer and what became part of it: the node that is called; else -1 */
    int    norm, relu;        /* of a node that is called: what became part of it; else -1 */
    int    last;              /* of a home: the last node that reads or writes the place */
    size_t size, at;          /* of a home: floats in the workspace, and where they begin */
};

struct cnnx_export {
    cnn_export_c_args a;
    cnn_tensor *y;            /* what is computed: a.y or its softmax */
    cnnx_node  *node;         /* by index in the graph, up to that of y */
    cnnx_node **call;         /* those that are called, in order */
    int         n, calls, inputs;
    size_t      work;         /* floats */
    FILE       *out;
};

static cnnx_node *cnnx_operand(const cnnx_export *e, const cnnx_node *v, int k)
{
    return &e->node[v->t->in[k]->index];
}
static int  cnnx_plane(cnn_shape s)              { return s.h * s.w; }
static int  cnnx_sample(cnn_shape s)             { return s.c * s.h * s.w; }
static bool cnnx_equal(cnn_shape a, cnn_shape b) { return a.c == b.c && a.h == b.h && a.w == b.w; }

/* lenet.c:14: export_c "net.c": ... Of long paths only the end is shown. */
static const char *cnnx_end(const char *s) { return strlen(s) > 100 ? s + strlen(s) - 100 : s; }
static bool cnnx_fail(const cnnx_export *e, const char *format, ...)
{
    const char *at = e->a.at ? e->a.at : "", *path = e->a.path ? e->a.path : "";
    char        why[300], text[CNN_ERROR_SIZE];
    va_list     ap;
    va_start(ap, format);
    vsnprintf(why, sizeof why, format, ap);
    va_end(ap);
    snprintf(text, sizeof text, "%s%sexport_c%s%s%s: %s", cnnx_end(at), *at ? ": " : "", *path ? " \"" : "",
             cnnx_end(path), *path ? "\"" : "", why);
    cnn_notice(e->y->graph, text);
    return false;
}

/* ===========================================================================================================
   >>x-text ---- 1. Text about a node: numbers, names, places, weights, options
   ======================================================================================================== */

/* A constant, exactly, in hexadecimal: 0x1.8p-3f is (1 + 8/16) / 2^3. Not by printf, whose decimal point
   follows the locale and whose %a is free in its first digit. */
static void cnnx_put_float(FILE *out, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t mantissa = bits & 0x7fffff, exponent = bits >> 23 & 255;
    char           digits[9];
    if (exponent == 255) {                             /* no literal is infinite or NaN */
        fprintf(out, "(%s0.0f)", mantissa ? "0.0f / " : bits >> 31 ? "-1 / " : "1 / ");
        return;
    }
    int n = snprintf(digits, sizeof digits, "%06lx", (unsigned long)mantissa << 1);
    while (n > 0 && digits[n - 1] == '0') digits[--n] = 0;
    fprintf(out, "%s0x%c%s%sp%df", bits >> 31 ? "-" : "", exponent ? '1' : '0', n ? "." : "", digits,
            exponent ? (int)exponent - 127 : mantissa ? -126 : 0);
}

/* A name inside a comment: nothing that could end it. */
static void cnnx_put_name(FILE *out, const char *s)
{
    for (int n = 0; *s && n < 60; s++, n++) {
        const bool plain = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9');
        fputc(plain || strchr("._-:", *s) ? *s : '_', out);
    }
}

/* Where the value of v is: the caller's x or y, an array, or a place in the workspace. */
static void cnnx_put_place(const cnnx_export *e, const cnnx_node *v)
{
    const cnnx_node *home = &e->node[v->home];
    if (home->input && e->inputs == 1)               fputs("x", e->out);
    else if (home->input)                            fprintf(e->out, "x%d", home->input);
    else if (!home->row)                             fprintf(e->out, "%s_v%d", e->a.prefix, v->home);
    else if (v->home == e->node[e->y->index].home)   fputs("y", e->out);
    else                                             fprintf(e->out, "work + %zu", home->at);
}

/* The value of an option by its name; 0 if the operation has no such option. */
static double cnnx_option(const cnn_tensor *y, const char *name)
{
    for (const cnn_field *f = y->op->fields; f && f->name; f++) {
        const void *at = (const char *)y->args + f->offset;
        if (strcmp(f->name, name) == 0) return f->type == 'f' ? (double)*(const float *)at : *(const int *)at;
    }
    return 0;
}

/* A batch norm in evaluation is factor x + offset, channel by channel. Operands x, w, b, mean, variance, or
   x, mean, variance. */
static double cnnx_factor(const cnnx_export *e, const cnnx_node *norm, size_t c)
{
    const float *variance = cnnx_operand(e, norm, norm->t->n_in - 1)->values;
    const double w = norm->t->n_in == 5 ? (double)cnnx_operand(e, norm, 1)->values[c] : 1.0;
    return w / sqrt((double)variance[c] + cnnx_option(norm->t, "eps"));
}

/* Number i of an array: 'v', the values of a leaf; 'w' and 'b', the weights and the bias that layer v is
   called with. A batch norm that has become part of the layer is folded in; one that stands alone is folded
   into weight 1 and bias 0. */
static float cnnx_number(const cnnx_export *e, const cnnx_node *v, char kind, size_t i)
{
    if (kind == 'v') return v->values[i];
    const cnnx_node *norm = v->norm < 0 ? NULL : &e->node[v->norm];
    if (kind == 'w') {
        const size_t c = v->row->channel ? v->row->channel(v->t, &i) : i;
        const float  w = norm == v ? 1.0f : cnnx_operand(e, v, 1)->values[i];
        return norm ? (float)((double)w * cnnx_factor(e, norm, c)) : w;
    }
    const double b = norm != v && v->t->n_in == 3 ? (double)cnnx_operand(e, v, 2)->values[i] : 0.0;
    if (!norm) return (float)b;
    const double mean = (double)cnnx_operand(e, norm, norm->t->n_in - 2)->values[i];
    const double offset = norm->t->n_in == 5 ? (double)cnnx_operand(e, norm, 2)->values[i] : 0.0;
    return (float)((b - mean) * cnnx_factor(e, norm, i) + offset);
}

/* How many numbers it has. */
static size_t cnnx_count(const cnnx_node *v, char kind)
{
    const cnn_tensor *t = v->t;
    const int         k = kind == 'w' ? 1 : 2;
    if (kind == 'v') return v->stored ? (size_t)cnnx_sample(t->shape) : 0;
    if (!v->row || !v->row->layer) return 0;
    if (v->norm == t->index || (kind == 'b' && v->norm >= 0)) return (size_t)t->shape.c;
    return k < t->n_in ? (size_t)t->in[k]->shape.n * (size_t)cnnx_sample(t->in[k]->shape) : 0;
}

/* The value of the option called name; without a name a comma and the value of each, as floats. */
static void cnnx_put_options(const cnnx_export *e, const cnnx_node *v, const char *name, size_t length)
{
    for (const cnn_field *f = v->t->op->fields; f && f->name; f++) {
        const double value = cnnx_option(v->t, f->name);
        if (name && (strlen(f->name) != length || memcmp(f->name, name, length) != 0)) continue;
        if (!name) fputs(", ", e->out);
        if (!name || f->type == 'f') cnnx_put_float(e->out, (float)value);
        else                         fprintf(e->out, "%d", (int)value);
    }
}

/* The window as a literal. For a 1x1 window with stride 1 the plane becomes one row: a long inner loop. */
static void cnnx_put_window(const cnnx_export *e, const cnnx_node *v)
{
    static const char *const part[] = { "kernel_h", "kernel_w", "stride_h", "stride_w", "pad_top",
                                        "pad_left", "dilation_h", "dilation_w", "pad_bottom", "pad_right" };
    cnn_shape x = v->t->in[0]->shape, y = v->t->shape;
    int       o[10] = { x.h, x.w, 1, 1, 0, 0, 1, 1, 0, 0 };                  /* of global_max_pool */
    for (int i = 0; i < 10 && v->t->op->fields; i++) o[i] = (int)cnnx_option(v->t, part[i]);
    if (o[0] == 1 && o[1] == 1 && o[2] == 1 && o[3] == 1 && !o[4] && !o[5] && x.h == y.h && x.w == y.w)
        x.w *= x.h, y.w *= y.h, x.h = y.h = 1;
    fprintf(e->out, "&(const %s_window){ .c = %d, .h = %d, .w = %d, .oc = %d, .oh = %d, .ow = %d,\n"
            "        .kh = %d, .kw = %d, .sh = %d, .sw = %d, .ph = %d, .pw = %d, .eh = %d, .ew = %d,\n"
            "        .dh = %d, .dw = %d, .groups = %d },\n        ", e->a.prefix, x.c, x.h, x.w, y.c, y.h,
            y.w, o[0], o[1], o[2], o[3], o[4], o[5], o[8], o[9], o[6], o[7],
            v->row->channel ? (int)cnnx_option(v->t, "groups") : 1);
}

/* A small printf for C text about node v.
     @  the prefix, %u in capitals    %y %x  places of v and its first operand     %d %z  an int, a size_t
     #  the operation                 %Y %X  their extents: c, h, w                %s     a string
     $  its formula                   %C %S %P  v: c; h, w; h w                    %f     a float in a double
     ~  the parameters for its        %N     numbers in the first operand          %t     the place of a node
        options, %~ their values      %w %b  weights and bias, 0 for none          %n     a tensor's name and
     %(name) one option               %W     how many weights                      %e     its extents, for
     %v the window                    %r     1 with relu, else 0                          comments */
static void cnnx_put(const cnnx_export *e, const cnnx_node *v, const char *format, ...)
{
    const cnn_tensor *t = v ? v->t : NULL, *x = t && t->n_in ? t->in[0] : t;
    cnn_shape         shape;
    va_list           ap;
    va_start(ap, format);
    for (const char *s = format; *s; s++) {
        int n = 0;
        if (*s == '@')      fputs(e->a.prefix, e->out);
        else if (*s == '#') fputs(t->op->name, e->out);
        else if (*s == '$') fputs(v->row->formula, e->out);
        else if (*s == '~')
            for (; t->op->fields && t->op->fields[n].name; n++) fprintf(e->out, ", float %c", 'a' + n);
        else if (*s != '%') fputc(*s, e->out);
        else switch (*++s) {
        case 'y': cnnx_put_place(e, v); break;
        case 'x': cnnx_put_place(e, cnnx_operand(e, v, 0)); break;
        case 't': cnnx_put_place(e, va_arg(ap, const cnnx_node *)); break;
        case 'e': shape = va_arg(ap, const cnn_tensor *)->shape;
                  fprintf(e->out, "(%d,%d,%d)", shape.c, shape.h, shape.w); break;
        case 'X': fprintf(e->out, "%d, %d, %d", x->shape.c, x->shape.h, x->shape.w); break;
        case 'Y': fprintf(e->out, "%d, %d, %d", t->shape.c, t->shape.h, t->shape.w); break;
        case 'n': cnnx_put_name(e->out, va_arg(ap, const cnn_tensor *)->name); break;
        case 'u': for (const char *c = e->a.prefix; *c; c++)
                      fputc(*c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c, e->out);
                  break;
        case 'C': fprintf(e->out, "%d", t->shape.c); break;
        case 'S': fprintf(e->out, "%d, %d", t->shape.h, t->shape.w); break;
        case 'P': fprintf(e->out, "%d", cnnx_plane(t->shape)); break;
        case 'N': fprintf(e->out, "%d", cnnx_sample(x->shape)); break;
        case 'W': fprintf(e->out, "%zu", cnnx_count(v, 'w')); break;
        case 'w':
        case 'b': if (cnnx_count(v, *s)) fprintf(e->out, "%s_%c%d", e->a.prefix, *s, t->index);
                  else fputc('0', e->out);
                  break;
        case 'r': fputc(v->relu >= 0 ? '1' : '0', e->out); break;
        case 'v': cnnx_put_window(e, v); break;
        case '~': cnnx_put_options(e, v, NULL, 0); break;
        case '(': n = (int)strcspn(++s, ")"), cnnx_put_options(e, v, s, (size_t)n), s += n; break;
        case 'd': fprintf(e->out, "%d", va_arg(ap, int)); break;
        case 'z': fprintf(e->out, "%zu", va_arg(ap, size_t)); break;
        case 's': fputs(va_arg(ap, const char *), e->out); break;
        case 'f': cnnx_put_float(e->out, (float)va_arg(ap, double)); break;
        default:  fputc(*s, e->out);
        }
    }
    va_end(ap);
}

/* ===========================================================================================================
   >>x-rows ---- 2. Rows: each operation as a C function, and its call
   ======================================================================================================== */

/* ---- Element by element ---- */

static const char cnnx_elementwise[] =
    "static void @_#(float *y, const float *x, int n~)\n"
    "{\n"
    "    for (int i = 0; i < n; i++) {\n"
    "        const float v = x[i];\n"
    "        y[i] = $;\n"
    "    }\n"
    "}\n";

/* ---- Windows ---- */

/* Before the first function that slides a window. */
static const char cnnx_window[] =
    "\n/* A window that slides: extents of input and output, kernel, stride, padding before (ph, pw) and\n"
    "   behind (eh, ew), dilation. */\n"
    "typedef struct {\n"
    "    int c, h, w, oc, oh, ow, kh, kw, sh, sw, ph, pw, eh, ew, dh, dw, groups;\n"
    "} @_window;\n";

/* Before the first convolution. */
static const char cnnx_range[] =
    "\n/* All i below n for which 0 <= i step + at < limit: from the first to below the end. */\n"
    "static int @_first(int at, int step) { return at < 0 ? (step - 1 - at) / step : 0; }\n"
    "static int @_end(int at, int step, int limit, int n)\n"
    "{\n"
    "    const int end = limit > at ? (limit - at + step - 1) / step : 0;\n"
    "    return end < n ? end : n;\n"
    "}\n";

static const char cnnx_conv2d[] =
    "/* w (oc,c/groups,kh,kw), b (oc) or none. Each weight is applied to all that it sees, row by row. */\n"
    "static void @_conv2d(const @_window *t, float *restrict y, const float *restrict x,\n"
    "                     const float *restrict w, const float *b, int relu)\n"
    "{\n"
    "    const int cg = t->c / t->groups, og = t->oc / t->groups, plane = t->oh * t->ow;\n"
    "    for (int o = 0; o < t->oc; o++, y += plane) {\n"
    "        const float *in = x + o / og * cg * t->h * t->w;\n"
    "        for (int i = 0; i < plane; i++) y[i] = b ? b[o] : 0;\n"
    "        for (int c = 0; c < cg; c++, in += t->h * t->w)\n"
    "            for (int k = 0; k < t->kh; k++)\n"
    "                for (int l = 0; l < t->kw; l++) {\n"
    "                    const float weight = *w++;\n"
    "                    const int   top = k * t->dh - t->ph, left = l * t->dw - t->pw;\n"
    "                    const int   i1 = @_end(top, t->sh, t->h, t->oh);\n"
    "                    const int   j0 = @_first(left, t->sw), j1 = @_end(left, t->sw, t->w, t->ow);\n"
    "                    for (int i = @_first(top, t->sh); i < i1; i++) {\n"
    "                        const int from = (i * t->sh + top) * t->w + left, to = i * t->ow;\n"
    "                        for (int j = j0; j < j1; j++) y[to + j] += weight * in[from + j * t->sw];\n"
    "                    }\n"
    "                }\n"
    "        for (int i = 0; relu && i < plane; i++) y[i] = y[i] < 0 ? 0 : y[i];\n"
    "    }\n"
    "}\n";

static const char cnnx_conv_transpose2d[] =
    "/* w (c,oc/groups,kh,kw). A convolution walked backwards: input i goes to i stride + at. */\n"
    "static void @_conv_transpose2d(const @_window *t, float *restrict y, const float *restrict x,\n"
    "                               const float *restrict w, const float *b, int relu)\n"
    "{\n"
    "    const int cg = t->c / t->groups, og = t->oc / t->groups, plane = t->oh * t->ow;\n"
    "    for (int o = 0; o < t->oc; o++, y += plane) {\n"
    "        for (int i = 0; i < plane; i++) y[i] = b ? b[o] : 0;\n"
    "        for (int c = o / og * cg; c < (o / og + 1) * cg; c++)\n"
    "            for (int k = 0; k < t->kh; k++)\n"
    "                for (int l = 0; l < t->kw; l++) {\n"
    "                    const float weight = w[((c * og + o %% og) * t->kh + k) * t->kw + l];\n"
    "                    const int   top = k * t->dh - t->ph, left = l * t->dw - t->pw;\n"
    "                    const int   i1 = @_end(top, t->sh, t->oh, t->h);\n"
    "                    const int   j0 = @_first(left, t->sw), j1 = @_end(left, t->sw, t->ow, t->w);\n"
    "                    for (int i = @_first(top, t->sh); i < i1; i++) {\n"
    "                        const int from = (c * t->h + i) * t->w, to = (i * t->sh + top) * t->ow + left;\n"
    "                        for (int j = j0; j < j1; j++) y[to + j * t->sw] += weight * x[from + j];\n"
    "                    }\n"
    "                }\n"
    "        for (int i = 0; relu && i < plane; i++) y[i] = y[i] < 0 ? 0 : y[i];\n"
    "    }\n"
    "}\n";
static size_t cnnx_conv_channel(const cnn_tensor *y, size_t *i)
{
    return *i / (size_t)cnnx_sample(y->in[1]->shape);
}
static size_t cnnx_transpose_channel(const cnn_tensor *y, size_t *i)       /* w (C,O/G,KH,KW) */
{
    const cnn_shape w = y->in[1]->shape;
    const size_t    groups = (size_t)(y->shape.c / w.c), in = *i / (size_t)cnnx_sample(w);
    const size_t    group = in / ((size_t)w.n / groups);
    return group * (size_t)w.c + *i / (size_t)cnnx_plane(w) % (size_t)w.c;
}

static const char cnnx_max_pool[] =
    "static void @_#(const @_window *t, float *restrict y, const float *restrict x)\n"
    "{\n"
    "    for (int c = 0; c < t->c; c++, x += t->h * t->w)\n"
    "        for (int i = 0; i < t->oh; i++)\n"
    "            for (int j = 0; j < t->ow; j++) {\n"
    "                float most = 0;\n"
    "                for (int k = 0, seen = 0; k < t->kh; k++)\n"
    "                    for (int l = 0; l < t->kw; l++) {\n"
    "                        const int r = i * t->sh - t->ph + k * t->dh;\n"
    "                        const int q = j * t->sw - t->pw + l * t->dw;\n"
    "                        if (r < 0 || r >= t->h || q < 0 || q >= t->w) continue;\n"
    "                        const float v = x[r * t->w + q];\n"
    "                        if (!seen || v > most || v != v) most = v, seen = 1;\n"
    "                    }\n"
    "                *y++ = most;\n"
    "            }\n"
    "}\n";

static const char cnnx_avg_pool[] =
    "/* Divided by the window's part inside the padded input or, with no_count_pad, inside the input. */\n"
    "static void @_avg_pool(const @_window *t, float *restrict y, const float *restrict x,\n"
    "                       int no_count_pad)\n"
    "{\n"
    "    const int pad = !no_count_pad, dh = t->dh, dw = t->dw;\n"
    "    const int y0 = pad * -t->ph, y1 = t->h + pad * t->eh, x0 = pad * -t->pw, x1 = t->w + pad * t->ew;\n"
    "    for (int c = 0; c < t->c; c++, x += t->h * t->w)\n"
    "        for (int i = 0; i < t->oh; i++)\n"
    "            for (int j = 0; j < t->ow; j++) {\n"
    "                const int top = i * t->sh - t->ph, left = j * t->sw - t->pw;\n"
    "                const int bottom = top + t->kh * dh, right = left + t->kw * dw;\n"
    "                float     sum = 0;\n"
    "                int       rows = 0, columns = 0;\n"
    "                for (int r = top; r < bottom; r += dh) rows += r >= y0 && r < y1;\n"
    "                for (int q = left; q < right; q += dw) columns += q >= x0 && q < x1;\n"
    "                for (int r = top; r < bottom && r < t->h; r += dh)\n"
    "                    for (int q = left; r >= 0 && q < right && q < t->w; q += dw)\n"
    "                        if (q >= 0) sum += x[r * t->w + q];\n"
    "                *y++ = sum / (float)(rows * columns);\n"
    "            }\n"
    "}\n";

static const char cnnx_adaptive_avg_pool[] =
    "/* Row i is the mean of rows floor(i h / oh) to ceil((i + 1) h / oh) - 1 of x, and so are columns. */\n"
    "static void @_#(float *restrict y, int oh, int ow, const float *restrict x, int c, int h, int w)\n"
    "{\n"
    "    for (int p = 0; p < c; p++, x += h * w)\n"
    "        for (int i = 0; i < oh; i++)\n"
    "            for (int j = 0; j < ow; j++) {\n"
    "                const int y0 = (int)((long long)i * h / oh), x0 = (int)((long long)j * w / ow);\n"
    "                const int y1 = (int)(((i + 1LL) * h + oh - 1) / oh);\n"
    "                const int x1 = (int)(((j + 1LL) * w + ow - 1) / ow);\n"
    "                double    sum = 0;\n"
    "                for (int r = y0; r < y1; r++)\n"
    "                    for (int q = x0; q < x1; q++) sum += (double)x[r * w + q];\n"
    "                *y++ = (float)(sum / ((double)(y1 - y0) * (x1 - x0)));\n"
    "            }\n"
    "}\n";

/* ---- Matrices ---- */

static const char cnnx_dense[] =
    "/* w (k,units), so that the inner loop runs along it. */\n"
    "static void @_#(float *restrict y, const float *restrict x, int k, int units, const float *restrict w,\n"
    "                const float *b, int relu)\n"
    "{\n"
    "    for (int o = 0; o < units; o++) y[o] = b ? b[o] : 0;\n"
    "    for (int i = 0; i < k; i++, w += units)\n"
    "        for (int o = 0; o < units; o++) y[o] += x[i] * w[o];\n"
    "    for (int o = 0; relu && o < units; o++) y[o] = y[o] < 0 ? 0 : y[o];\n"
    "}\n";
static size_t cnnx_dense_channel(const cnn_tensor *y, size_t *i)           /* from (units,K) to (K,units) */
{
    const size_t units = (size_t)y->shape.c, unit = *i % units;
    *i = unit * (size_t)cnnx_sample(y->in[0]->shape) + *i / units;
    return unit;
}

/* ---- Several operands ---- */

static const char cnnx_binary[] =
    "/* y (c,h,w) = # of l and r; the steps of an operand are 0 along an axis where it is stretched. */\n"
    "static void @_#(float *y, int c, int h, int w, const float *l, const int *lstep, const float *r,\n"
    "                const int *rstep)\n"
    "{\n"
    "    for (int i = 0; i < c; i++)\n"
    "        for (int j = 0; j < h; j++)\n"
    "            for (int k = 0; k < w; k++) {\n"
    "                const float a = l[i * lstep[0] + j * lstep[1] + k * lstep[2]];\n"
    "                const float b = r[i * rstep[0] + j * rstep[1] + k * rstep[2]];\n"
    "                *y++ = $;\n"
    "            }\n"
    "}\n";
static void cnnx_call_binary(const cnnx_export *e, const cnnx_node *v)
{
    /* Equal shapes become one row: a long inner loop. */
    const cnn_tensor *t = v->t;
    const bool        equal = cnnx_equal(t->in[0]->shape, t->shape) && cnnx_equal(t->in[1]->shape, t->shape);
    const cnn_shape   s = equal ? (cnn_shape){ 1, 1, 1, cnnx_sample(t->shape) } : t->shape;
    cnnx_put(e, v, "    @_#(%y, %d, %d, %d", s.c, s.h, s.w);
    for (int k = 0; k < 2; k++) {
        const cnn_shape x = equal ? s : t->in[k]->shape;
        cnnx_put(e, v, ", %t, (const int[3]){ %d, %d, %d }", cnnx_operand(e, v, k),
                 x.c == 1 ? 0 : x.h * x.w, x.h == 1 ? 0 : x.w, x.w == 1 ? 0 : 1);
    }
    cnnx_put(e, v, ");\n");
}

/* What op->move tells, as one loop. */
static const char cnnx_move[] =
    "/* Element (i,j,k) of n extents of y, or with `into` of x, is at place at + sum of (i / d) s +\n"
    "   (i %% d) r of the other. */\n"
    "static void @_#(float *restrict y, const float *restrict x, int into, int at, const int *n,\n"
    "                const int *d, const int *s, const int *r)\n"
    "{\n"
    "    for (int i = 0; i < n[0]; i++)\n"
    "        for (int j = 0; j < n[1]; j++)\n"
    "            for (int k = 0; k < n[2]; k++) {\n"
    "                const int p = at + i / d[0] * s[0] + i %% d[0] * r[0] + j / d[1] * s[1]\n"
    "                            + j %% d[1] * r[1] + k / d[2] * s[2] + k %% d[2] * r[2];\n"
    "                if (into) y[p] = *x++;\n"
    "                else      *y++ = x[p];\n"
    "            }\n"
    "}\n";
static void cnnx_call_move(const cnnx_export *e, const cnnx_node *v)
{
    cnn_move m;
    for (int k = 0; k < v->t->n_in && v->t->op->move(v->t, k, &m); k++) {
        const cnn_shape n = m.into ? v->t->in[k]->shape : v->t->shape;
        cnnx_put(e, v, "    @_#(%y, %t, %d, %d, (const int[3]){ %d, %d, %d }", cnnx_operand(e, v, k), m.into,
                 m.at, n.c, n.h, n.w);
        cnnx_put(e, v, ", (const int[3]){ %d, %d, %d }", m.div[1], m.div[2], m.div[3]);
        cnnx_put(e, v, ",\n        (const int[3]){ %d, %d, %d }", m.step[1], m.step[2], m.step[3]);
        cnnx_put(e, v, ", (const int[3]){ %d, %d, %d });\n", m.within[1], m.within[2], m.within[3]);
    }
}

/* ---- Extents ---- */

static const char cnnx_reduce[] =
    "/* y (oc,oh,ow) = the # of x (c,h,w) along the axes whose extent has become 1. */\n"
    "static void @_#(float *restrict y, int oc, int oh, int ow, const float *restrict x, int c, int h,\n"
    "                int w)\n"
    "{\n"
    "    for (int a = 0; a < oc; a++)\n"
    "        for (int b = 0; b < oh; b++)\n"
    "            for (int d = 0; d < ow; d++) {\n"
    "                const int i1 = oc == 1 ? c : a + 1, j1 = oh == 1 ? h : b + 1;\n"
    "                const int k1 = ow == 1 ? w : d + 1;\n"
    "                double    sum = 0;\n"
    "                for (int i = a; i < i1; i++)\n"
    "                    for (int j = b; j < j1; j++)\n"
    "                        for (int k = d; k < k1; k++) sum += (double)x[(i * h + j) * w + k];\n"
    "                *y++ = $;\n"
    "            }\n"
    "}\n";

static const char cnnx_most[] =
    "/* y (oc,oh,ow) = the # of x (c,h,w) along the axes whose extent has become 1. */\n"
    "static void @_#(float *restrict y, int oc, int oh, int ow, const float *restrict x, int c, int h,\n"
    "                int w)\n"
    "{\n"
    "    for (int i = 0; i < c; i++)\n"
    "        for (int j = 0; j < h; j++)\n"
    "            for (int k = 0; k < w; k++) {\n"
    "                const int   a = oc == 1 ? 0 : i, b = oh == 1 ? 0 : j, d = ow == 1 ? 0 : k;\n"
    "                const float v = *x++;\n"
    "                const int   first = (i == 0 || oc > 1) && (j == 0 || oh > 1) && (k == 0 || ow > 1);\n"
    "                float      *to = y + (a * oh + b) * ow + d;\n"
    "                if (first || v $ *to || v != v) *to = v;\n"
    "            }\n"
    "}\n";

static const char cnnx_mean[] = "(float)(oc * oh * ow) / (float)(c * h * w) * (float)sum";

static const char cnnx_pad[] =
    "/* Place i of a padded axis in x, of n places; negative: outside. mode: 1 the mirror, 2 the edge. */\n"
    "static int @_source(int i, int n, int mode)\n"
    "{\n"
    "    if (mode == 1) return i < 0 ? -i : i < n ? i : 2 * (n - 1) - i;\n"
    "    if (mode == 2) return i < 0 ? 0 : i < n ? i : n - 1;\n"
    "    return i < n ? i : -1;\n"
    "}\n"
    "/* x (c,h,w) inside y (oc,oh,ow), with `value` or elements of x around it. */\n"
    "static void @_pad(float *restrict y, int oc, int oh, int ow, const float *restrict x, int c, int h,\n"
    "                  int w, int front, int top, int left, int mode, float value)\n"
    "{\n"
    "    for (int i = 0; i < oc; i++)\n"
    "        for (int j = 0; j < oh; j++)\n"
    "            for (int k = 0; k < ow; k++) {\n"
    "                const int a = @_source(i - front, c, mode), b = @_source(j - top, h, mode);\n"
    "                const int d = @_source(k - left, w, mode);\n"
    "                *y++ = a < 0 || b < 0 || d < 0 ? value : x[(a * h + b) * w + d];\n"
    "            }\n"
    "}\n";

static const char cnnx_upsample[] =
    "/* Output i is between inputs *a and *b: (1 - t) of the first, the returned t of the second. */\n"
    "static float @_between(int i, int in, int out, int bilinear, int aligned, int *a, int *b)\n"
    "{\n"
    "    float at = (float)(int)((long long)i * in / out);                                   /* nearest */\n"
    "    if (bilinear) at = ((float)i + 0.5f) * (float)in / (float)out - 0.5f;\n"
    "    if (bilinear && aligned) at = out > 1 ? (float)i * (float)(in - 1) / (float)(out - 1) : 0;\n"
    "    if (at < 0) at = 0;\n"
    "    *a = (int)at < in - 1 ? (int)at : in - 1;\n"
    "    *b = *a + 1 < in ? *a + 1 : *a;\n"
    "    return at - (float)*a;\n"
    "}\n"
    "static void @_upsample(float *restrict y, int oh, int ow, const float *restrict x, int c, int h,\n"
    "                       int w, int bilinear, int aligned)\n"
    "{\n"
    "    for (int p = 0; p < c; p++, x += h * w)\n"
    "        for (int i = 0; i < oh; i++) {\n"
    "            int         up, down, left, right;\n"
    "            const float t = @_between(i, h, oh, bilinear, aligned, &up, &down);\n"
    "            for (int j = 0; j < ow; j++) {\n"
    "                const float u = @_between(j, w, ow, bilinear, aligned, &left, &right);\n"
    "                *y++ = bilinear ? (1 - t) * ((1 - u) * x[up * w + left] + u * x[up * w + right])\n"
    "                                    + t * ((1 - u) * x[down * w + left] + u * x[down * w + right])\n"
    "                                  : x[up * w + left];\n"
    "            }\n"
    "        }\n"
    "}\n";

/* ---- Across channels, and normalisation ---- */

static const char cnnx_softmax[] =
    "/* Over c of x (n,c,m); the largest is subtracted first, so that nothing overflows. */\n"
    "static void @_#(float *restrict y, const float *restrict x, int n, int c, int m)\n"
    "{\n"
    "    for (int j = 0; j < n; j++, x += c * m, y += c * m)\n"
    "        for (int i = 0; i < m; i++) {\n"
    "            float most = x[i], sum = 0;\n"
    "            for (int k = 1; k < c; k++) most = x[k * m + i] > most ? x[k * m + i] : most;\n"
    "            for (int k = 0; k < c; k++) sum += y[k * m + i] = expf(x[k * m + i] - most);\n"
    "            for (int k = 0; k < c; k++) y[k * m + i] = $;\n"
    "        }\n"
    "}\n";
static void cnnx_call_softmax(const cnnx_export *e, const cnnx_node *v)
{
    const cnn_shape s = v->t->shape;
    const unsigned  axis = (unsigned)cnnx_option(v->t, "axis");
    const int       c = axis == CNN_C ? s.c : axis == CNN_H ? s.h : s.w;
    const int       plane = axis == CNN_C ? s.h * s.w : axis == CNN_H ? s.w : 1;
    cnnx_put(e, v, "    @_#(%y, %x, %d, %d, %d);\n", cnnx_sample(s) / c / plane, c, plane);
}

static const char cnnx_lrn[] =
    "/* y = x (k + alpha/size sum of x^2)^-beta, over the channels from c - size/2 to c + (size-1)/2. */\n"
    "static void @_lrn(float *restrict y, const float *restrict x, int c, int plane, int size, float alpha,\n"
    "                  float beta, float k)\n"
    "{\n"
    "    for (int i = 0; i < c; i++) {\n"
    "        const int from = i > size / 2 ? i - size / 2 : 0;\n"
    "        const int to = i + (size - 1) / 2 < c ? i + (size - 1) / 2 : c - 1;\n"
    "        for (int p = 0; p < plane; p++) {\n"
    "            float sum = 0;\n"
    "            for (int j = from; j <= to; j++) sum += x[j * plane + p] * x[j * plane + p];\n"
    "            y[i * plane + p] = x[i * plane + p] * powf(k + alpha / (float)size * sum, -beta);\n"
    "        }\n"
    "    }\n"
    "}\n";

static const char cnnx_batch_norm[] =
    "/* Batch norm with its statistics folded into w and b: y = w x + b for each channel. */\n"
    "static void @_batch_norm(float *y, const float *x, int c, int plane, const float *w, const float *b,\n"
    "                         int relu)\n"
    "{\n"
    "    for (int i = 0; i < c * plane; i++) {\n"
    "        const float v = w[i / plane] * x[i] + b[i / plane];\n"
    "        y[i] = relu && v < 0 ? 0 : v;\n"
    "    }\n"
    "}\n";

static const char cnnx_sample_norm[] =
    "/* Runs of k numbers get mean 0 (centred) and variance 1; `share` neighbours have one w, and after\n"
    "   each `period` these begin anew. */\n"
    "static void @_#(float *restrict y, const float *restrict x, int n, int k, int share, int period,\n"
    "                int centred, float eps, const float *w, const float *b)\n"
    "{\n"
    "    for (int g = 0; g < n / k; g++) {\n"
    "        double sum = 0, squares = 0;\n"
    "        for (int i = g * k; i < (g + 1) * k; i++) sum += (double)x[i];\n"
    "        const float mean = centred ? (float)(sum / k) : 0;\n"
    "        for (int i = g * k; i < (g + 1) * k; i++) squares += (double)((x[i] - mean) * (x[i] - mean));\n"
    "        const float r = 1 / sqrtf((float)(squares / k) + eps);\n"
    "        for (int i = g * k; i < (g + 1) * k; i++)\n"
    "            y[i] = (x[i] - mean) * r * (w ? w[i %% period / share] : 1)\n"
    "                   + (b ? b[i %% period / share] : 0);\n"
    "    }\n"
    "}\n";
static void cnnx_call_sample_norm(const cnnx_export *e, const cnnx_node *v)
{
    const cnn_tensor *t = v->t;
    const cnn_shape   x = t->shape;
    const unsigned    axes = (unsigned)cnnx_option(t, "axes");             /* 0: group_norm */
    const bool        rms = t->op == &cnn_op_rms_norm, layer = rms || t->op == &cnn_op_layer_norm;
    const int         groups = axes ? (axes & CNN_C ? 1 : x.c) * (axes & CNN_H ? 1 : x.h)
                             : (int)cnnx_option(t, "groups");
    const int         n = cnnx_sample(x), k = n / groups;
    cnnx_put(e, v, "    @_#(%y, %x, %d, %d, %d, %d, %d, %(eps), %w, %b);\n", n, k, layer ? 1 : cnnx_plane(x),
             layer ? k : n, !rms);
}

static const char cnnx_prelu[] =
    "/* n / slopes neighbours have one slope. */\n"
    "static void @_prelu(float *y, const float *x, int n, int slopes, const float *w)\n"
    "{\n"
    "    for (int i = 0; i < n; i++) y[i] = x[i] > 0 ? x[i] : w[i / (n / slopes)] * x[i];\n"
    "}\n";

/* ---- The table: an operation is a row ---- */

#define CNNX_LAYER(name, text, arguments, relu, channel)                                                     \
    { &cnn_op_##name, text, NULL, arguments, NULL, true, relu, channel }
#define CNNX_ROW(name, text, formula, arguments)                                                             \
    { &cnn_op_##name, text, formula, arguments, NULL, false, false, NULL }
#define CNNX_CALL(name, text, formula, call)                                                                 \
    { &cnn_op_##name, text, formula, NULL, call, false, false, NULL }
#define CNNX_NORM(name)                                                                                      \
    { &cnn_op_##name, cnnx_sample_norm, NULL, NULL, cnnx_call_sample_norm, true, false, NULL },
#define CNNX_EACH(name, formula) CNNX_ROW(name, cnnx_elementwise, formula, "%y, %x, %N%~")

static const cnnx_row cnnx_rows[] = {
    CNNX_LAYER(conv2d,           cnnx_conv2d, "%v%y, %x, %w, %b, %r", true, cnnx_conv_channel),
    CNNX_LAYER(conv_transpose2d, cnnx_conv_transpose2d, "%v%y, %x, %w, %b, %r", true, cnnx_transpose_channel),
    CNNX_LAYER(dense,            cnnx_dense, "%y, %x, %N, %C, %w, %b, %r", true, cnnx_dense_channel),
    CNNX_LAYER(matmul,           cnnx_dense, "%y, %x, %N, %C, %w, %b, %r", false, NULL),
    CNNX_LAYER(batch_norm,       cnnx_batch_norm, "%y, %x, %C, %P, %w, %b, %r", true, NULL),
    CNNX_NORM(layer_norm) CNNX_NORM(rms_norm) CNNX_NORM(group_norm) CNNX_NORM(instance_norm)
    CNNX_LAYER(prelu,            cnnx_prelu, "%y, %x, %N, %W, %w", false, NULL),
    CNNX_ROW(max_pool,           cnnx_max_pool, NULL, "%v%y, %x"),
    CNNX_ROW(global_max_pool,    cnnx_max_pool, NULL, "%v%y, %x"),
    CNNX_ROW(avg_pool,           cnnx_avg_pool, NULL, "%v%y, %x, %(no_count_pad)"),
    CNNX_ROW(adaptive_avg_pool,  cnnx_adaptive_avg_pool, NULL, "%y, %S, %x, %X"),
    CNNX_ROW(global_avg_pool,    cnnx_reduce, cnnx_mean, "%y, %Y, %x, %X"),
    CNNX_ROW(mean,               cnnx_reduce, cnnx_mean, "%y, %Y, %x, %X"),
    CNNX_ROW(sum,                cnnx_reduce, "(float)sum", "%y, %Y, %x, %X"),
    CNNX_ROW(amax,               cnnx_most, ">", "%y, %Y, %x, %X"),
    CNNX_ROW(amin,               cnnx_most, "<", "%y, %Y, %x, %X"),
    CNNX_CALL(add,               cnnx_binary, "a + b", cnnx_call_binary),
    CNNX_CALL(sub,               cnnx_binary, "a - b", cnnx_call_binary),
    CNNX_CALL(mul,               cnnx_binary, "a * b", cnnx_call_binary),
    CNNX_CALL(div,               cnnx_binary, "a / b", cnnx_call_binary),
    CNNX_CALL(maximum,           cnnx_binary, "a > b || a != a ? a : b", cnnx_call_binary),
    CNNX_CALL(minimum,           cnnx_binary, "a < b || a != a ? a : b", cnnx_call_binary),
    CNNX_CALL(pow,               cnnx_binary, "powf(a, b)", cnnx_call_binary),
    CNNX_CALL(concat,            cnnx_move, NULL, cnnx_call_move),
    CNNX_CALL(slice,             cnnx_move, NULL, cnnx_call_move),
    CNNX_CALL(permute,           cnnx_move, NULL, cnnx_call_move),
    CNNX_CALL(depth_to_space,    cnnx_move, NULL, cnnx_call_move),
    CNNX_CALL(space_to_depth,    cnnx_move, NULL, cnnx_call_move),
    CNNX_CALL(channel_shuffle,   cnnx_move, NULL, cnnx_call_move),
    CNNX_ROW(pad, cnnx_pad, NULL, "%y, %Y, %x, %X, %(front), %(top), %(left), %(mode), %(value)"),
    CNNX_ROW(upsample,           cnnx_upsample, NULL, "%y, %S, %x, %X, %(bilinear), %(align_corners)"),
    CNNX_ROW(lrn,                cnnx_lrn, NULL, "%y, %x, %C, %P, %(size), %(alpha), %(beta), %(k)"),
    CNNX_CALL(softmax,           cnnx_softmax, "y[k * m + i] / sum", cnnx_call_softmax),
    CNNX_CALL(log_softmax,       cnnx_softmax, "x[k * m + i] - most - logf(sum)", cnnx_call_softmax),
    CNNX_ROW(reshape,            NULL, NULL, NULL),
    CNNX_ROW(dropout,            NULL, NULL, NULL),
    CNNX_EACH(relu,       "v < 0 ? 0 : v"),
    CNNX_EACH(leaky_relu, "v < 0 ? a * v : v"),
    CNNX_EACH(scale,      "a * v + b"),
    CNNX_EACH(clamp,      "v < a ? a < b ? a : b : v > b ? b : v"),
    CNNX_EACH(hard_swish, "v * ((v < -3 ? -3 : v > 3 ? 3 : v) + 3) / 6"),
    CNNX_EACH(abs,        "v < 0 ? -v : v"),
    CNNX_EACH(selu,       "v > 0 ? 1.05070099f * v : 1.75809934f * expm1f(v)"),
    CNNX_EACH(mish,       "v * tanhf((v < 0 ? 0 : v) + log1pf(expf(v < 0 ? v : -v)))"),
    CNNX_EACH(hard_sigmoid, "((v < -3 ? -3 : v > 3 ? 3 : v) + 3) / 6"),
    CNNX_EACH(softsign,   "v / (1 + (v < 0 ? -v : v))"),
    CNNX_EACH(erf,        "erff(v)"),
    CNNX_EACH(power,      "powf(v, a)"),
    CNNX_EACH(sigmoid,    "1 / (1 + expf(-v))"),
    CNNX_EACH(silu,       "v / (1 + expf(-v))"),
    CNNX_EACH(softplus,   "a * v > b ? v : (v < 0 ? 0 : v) + log1pf(expf(v < 0 ? a * v : -a * v)) / a"),
    CNNX_EACH(elu,        "v > 0 ? v : a * expm1f(v)"),
    CNNX_EACH(gelu,       "a > 0 ? v / (1 + expf(-1.59576912f * v * (1 + 0.044715f * v * v)))\n"
                          "             : 0.5f * v * erfcf(v * -0.707106781f)"),
    CNNX_EACH(tanh,       "tanhf(v)"),
    CNNX_EACH(exp,        "expf(v)"),
    CNNX_EACH(log,        "logf(v)"),
    CNNX_EACH(sqrt,       "sqrtf(v)") };

static const cnnx_row *cnnx_row_of(const cnn_op *op)
{
    for (size_t i = 0; op && i < sizeof cnnx_rows / sizeof *cnnx_rows; i++)
        if (cnnx_rows[i].op == op) return &cnnx_rows[i];
    return NULL;
}

/* ===========================================================================================================
   >>x-plan ---- 3. The plan: what is called, and where each value is
   ======================================================================================================== */

static bool cnnx_refuse(const cnnx_export *e, const cnn_tensor *t, const char *why)
{
    return cnnx_fail(e, "%s \"%.60s\"%s%.60s%s cannot be exported: %s", t->op ? t->op->name : "tensor",
                     t->name, t->at ? " (" : "", t->at ? t->at : "", t->at ? ")" : "", why);
}

/* Can v be exported? Its operation needs a row, must not mix samples, and its weights must be stored, not
   computed. */
static bool cnnx_check(const cnnx_export *e, const cnnx_node *v)
{
    const cnn_tensor *t = v->t;
    if (!t->op) return true;
    if (t->op->flags & CNN_LOSS) return cnnx_refuse(e, t, "it is a loss; export what the loss judges");
    if (!v->row)                 return cnnx_refuse(e, t, "its operation has no row in cnn_exchange.h");
    if (!t->batched && t->shape.n != 1)
        return cnnx_refuse(e, t, "its N is its own, not the batch");
    for (int k = 0; k < t->n_in; k++) {
        const cnn_tensor *x = t->in[k];
        const bool        value = !v->row->layer || k == 0;
        if (x->batched && !t->batched) return cnnx_refuse(e, t, "it is computed from the whole batch");
        if (!value && (x->op || x->batched))
            return cnnx_refuse(e, t, "its weights are computed, not stored");
        if (value && !x->op && !x->batched && x->shape.n != 1)
            return cnnx_refuse(e, t, "the N of an operand is its own, not the batch");
    }
    return true;
}

/* Find the nodes that y depends on, and fetch the values of its leaves. */
static bool cnnx_find(cnnx_export *e)
{
    e->node[e->y->index].t = e->y;
    for (int i = e->n - 1; i >= 0; i--)
        for (int k = 0; e->node[i].t && k < e->node[i].t->n_in; k++) {
            cnnx_node *x = cnnx_operand(e, &e->node[i], k);
            x->t = e->node[i].t->in[k], x->readers++;
        }
    for (int i = 0; i < e->n; i++) {
        cnnx_node *v = &e->node[i];
        if (!v->t) continue;
        v->home = v->last = i, v->call = v->norm = v->relu = -1;
        v->row = cnnx_row_of(v->t->op);
        if (v->t->kind == CNN_INPUT || v->t->kind == CNN_LABELS) v->input = ++e->inputs;
        else if (!v->t->op && !(v->values = cnn_map_read(cnn_node(v->t->graph, i)))) return false;
    }
    return true;
}

/* May v run as part of the call that computes its operand? */
static bool cnnx_joins(const cnnx_export *e, const cnnx_node *v)
{
    const cnnx_node *x = cnnx_operand(e, v, 0), *call = x->call < 0 ? NULL : &e->node[x->call];
    if (!call || !x->alone || call->relu >= 0) return false;
    return v->row->op == &cnn_op_relu
        || (v->row->op == &cnn_op_batch_norm && call->row->channel && call->norm < 0);
}

/* The home of v, and the call that computes it. Operands are settled before. */
static void cnnx_settle(const cnnx_export *e, cnnx_node *v)
{
    const cnn_tensor *t = v->t;
    v->alone = v->readers == 1;
    if (!v->row) return;
    cnnx_node *x = cnnx_operand(e, v, 0);
    for (int k = 0; k < (v->row->layer ? 1 : t->n_in); k++)
        if (cnnx_operand(e, v, k)->values) cnnx_operand(e, v, k)->stored = true;
    if (!v->row->text) {                                                   /* x by another name */
        v->home = x->home, v->silent = true, v->alone = v->alone && x->alone;
    } else if (cnnx_joins(e, v)) {
        v->home = x->home, v->call = x->call, v->silent = true;
        *(v->row->op == &cnn_op_relu ? &e->node[v->call].relu : &e->node[v->call].norm) = t->index;
        return;
    } else {
        if (v->row->op == &cnn_op_batch_norm) v->norm = t->index;          /* it stands alone */
        if (v->row->relu) v->call = t->index;
        if (t->op->flags & CNN_INPLACE && cnnx_equal(t->in[0]->shape, t->shape) && x->alone
            && e->node[x->home].row) v->home = x->home;
    }
    for (int k = 0; k < t->n_in; k++) {
        cnnx_node *home = &e->node[cnnx_operand(e, v, k)->home];
        if (home->last < t->index) home->last = t->index;
    }
}

static int cnnx_larger(const void *a, const void *b)
{
    const cnnx_node *v = *(cnnx_node *const *)a, *u = *(cnnx_node *const *)b;
    return v->size != u->size ? (v->size < u->size ? 1 : -1) : v->t->index - u->t->index;
}

/* Places in the workspace: larger values choose first, each the lowest gap that is free while it lives, as
   in the memory plan of cnn.h. The value of y goes to the caller's array. */
static bool cnnx_plan(cnnx_export *e)
{
    cnnx_node **list = e->call;
    int         n = 0;
    for (int i = 0; i < e->n; i++) {
        cnnx_node *v = &e->node[i];
        if (!v->t) continue;
        if (!cnnx_check(e, v)) return false;
        cnnx_settle(e, v);
        v->size = ((size_t)cnnx_sample(v->t->shape) + 15) / 16 * 16;       /* whole cache lines */
        if (v->row && v->home == i) list[n++] = v;
    }
    cnnx_node *y = &e->node[e->n - 1];
    if (y->values) y->stored = true;
    qsort(list, (size_t)n, sizeof *list, cnnx_larger);
    for (int i = 0; i < n; i++) {
        cnnx_node *v = list[i];
        if (v == &e->node[y->home]) continue;
        for (int j = 0; j < i; ) {
            const cnnx_node *u = list[j];
            const bool apart = u == &e->node[y->home] || u->last < v->t->index || v->last < u->t->index
                               || v->at + v->size <= u->at || u->at + u->size <= v->at;
            if (apart) j++;
            else       v->at = u->at + u->size, j = 0;
        }
        if (v->at + v->size > e->work) e->work = v->at + v->size;
    }
    for (int i = 0; i < e->n; i++)
        if (e->node[i].row && !e->node[i].silent) e->call[e->calls++] = &e->node[i];
    return e->work <= INT_MAX || cnnx_fail(e, "the workspace would have %zu floats", e->work);
}

/* ===========================================================================================================
   >>x-file ---- 4. The file
   ======================================================================================================== */

static bool cnnx_array(const cnnx_export *e, const cnnx_node *v, char kind)
{
    const size_t n = cnnx_count(v, kind);
    if (!n) return true;
    fprintf(e->out, "static const float %s_%c%d[%zu] = {", e->a.prefix, kind, v->t->index, n);
    for (size_t i = 0; i < n; i++) {
        const float x = cnnx_number(e, v, kind, i);
        if (!(x - x == 0)) return cnnx_refuse(e, v->t, "it has weights that are not finite numbers");
        cnnx_put(e, v, "%s%f%s", i % 6 ? " " : "\n    ", (double)x, i + 1 < n ? "," : "\n");
    }
    fputs("};\n", e->out);
    return true;
}

static bool cnnx_arrays(const cnnx_export *e)
{
    for (int i = 0; i < e->n; i++) {
        const cnnx_node *v = &e->node[i];
        if (!v->t || v->silent || !(cnnx_count(v, 'v') + cnnx_count(v, 'w'))) continue;
        cnnx_put(e, v, "\n/* %n */\n", v->t);
        if (!cnnx_array(e, v, 'v') || !cnnx_array(e, v, 'w') || !cnnx_array(e, v, 'b')) return false;
    }
    return true;
}

/* Each function once, and before it what it needs. */
static void cnnx_functions(const cnnx_export *e)
{
    bool window = false, range = false;
    for (int i = 0, first = 0; i < e->calls; i++, first = 0) {
        const cnnx_node *v = e->call[i];
        while (e->call[first]->row != v->row) first++;
        if (first < i) continue;
        if (!window && strstr(v->row->text, "@_window")) cnnx_put(e, v, cnnx_window), window = true;
        if (!range && strstr(v->row->text, "@_end"))     cnnx_put(e, v, cnnx_range), range = true;
        cnnx_put(e, v, "\n"), cnnx_put(e, v, v->row->text);
    }
}

/* Does the file call this function of the C library? */
static bool cnnx_calls(const cnnx_export *e, const char *function)
{
    char call[16];
    snprintf(call, sizeof call, "%s(", function);
    for (int i = 0; i < e->calls; i++) {
        const cnnx_row *row = e->call[i]->row;
        if (strstr(row->text, call) || (row->formula && strstr(row->formula, call))) return true;
    }
    return false;
}

static void cnnx_signature(const cnnx_export *e)
{
    cnnx_put(e, NULL, "void @_predict(");
    for (int i = 0; i < e->n; i++)
        if (e->node[i].input) cnnx_put(e, &e->node[i], "const float *%y, ");
    fputs("float *y, float *work)", e->out);
}

/* What a user of the file must know about its inputs. */
static void cnnx_inputs(const cnnx_export *e)
{
    const cnn_dataset *d = e->a.data;
    for (int i = 0; i < e->n; i++) {
        const cnnx_node *v = &e->node[i];
        if (!v->input) continue;
        cnnx_put(e, v, e->inputs == 1 ? "   %y     " : v->input < 10 ? "   %y    " : "   %y   ");
        cnnx_put(e, v, "%d floats, %e channels by rows by columns, columns fastest: \"%n\"\n",
                 cnnx_sample(v->t->shape), v->t, v->t);
    }
    if (!d) {
        cnnx_put(e, NULL, "         prepared as in training: the same scale, mean and deviation\n");
        return;
    }
    cnnx_put(e, NULL, "         each pixel as (value - mean) / deviation of its channel, value%s:\n",
             d->bytes ? " = byte / 255" : " as in the data");
    for (int c = 0; c < d->shape.c && c < 4; c++)
        fprintf(e->out, "         channel %d%s: mean %.9g, deviation %.9g\n", c,
                c == 3 && d->shape.c > 4 ? " and above" : "", (double)d->mean[c], (double)d->deviation[c]);
}

static void cnnx_head(const cnnx_export *e)
{
    static const char *const libm[] = { "expf", "expm1f", "logf", "log1pf", "sqrtf", "tanhf", "erfcf",
                                        "erff", "powf", NULL };
    const char              *comma = "";
    cnnx_put(e, NULL, "/* A trained network in C99, written by cnn_export_c of cnn.h %s. It computes one\n"
             "   sample at a time and needs no header, no heap, no input or output.\n\n       ", CNN_VERSION);
    cnnx_signature(e), cnnx_put(e, NULL, ";\n\n");
    cnnx_inputs(e);
    cnnx_put(e, NULL, "   y     %d floats, %e: \"%n\"; must not overlap the input\n"
             "   work  %u_WORK floats of scratch memory; each thread needs its own\n\n"
             "   Compile it (cc -std=c99 -O3 -c) and declare the function above, or %#include it. From"
             " the C\n   library it calls ", cnnx_sample(e->y->shape), e->y, e->y);
    for (int i = 0; libm[i]; i++)
        if (cnnx_calls(e, libm[i])) cnnx_put(e, NULL, "%s%s", comma, libm[i]), comma = ", ";
    cnnx_put(e, NULL, "%s. */\n%#define %u_WORK %z\n%s", *comma ? " (-lm)" : "nothing", e->work ? e->work : 1,
             *comma ? "\n" : "");
    for (int i = 0; libm[i]; i++)
        if (cnnx_calls(e, libm[i]))
            cnnx_put(e, NULL, "float %s(float%s);\n", libm[i], strcmp(libm[i], "powf") == 0 ? ", float" : "");
}

static void cnnx_body(const cnnx_export *e)
{
    const cnnx_node *y = &e->node[e->n - 1];
    cnnx_put(e, NULL, "\n"), cnnx_signature(e), cnnx_put(e, NULL, ";\n");
    cnnx_signature(e), cnnx_put(e, NULL, "\n{\n%s", e->work ? "" : "    (void)work;\n");
    for (int i = 0; i < e->calls; i++) {
        const cnnx_node *v = e->call[i];
        cnnx_put(e, v, "    /* %n: %e to %e", v->t, v->t->in[0], v->t);
        if (v->norm >= 0 && v->norm != v->t->index) cnnx_put(e, v, ", with %n", e->node[v->norm].t);
        if (v->relu >= 0) cnnx_put(e, v, ", with %n", e->node[v->relu].t);
        cnnx_put(e, v, " */\n");
        if (v->row->call) v->row->call(e, v);
        else cnnx_put(e, v, "    @_#("), cnnx_put(e, v, v->row->arguments), cnnx_put(e, v, ");\n");
    }
    if (!e->node[y->home].row)                   /* no operation is left: y is its input by another name */
        cnnx_put(e, y, "    for (int i = 0; i < %d; i++) y[i] = %y[i];\n", cnnx_sample(y->t->shape));
    cnnx_put(e, NULL, "}\n");
}

static bool cnnx_write(FILE *out, void *user)
{
    cnnx_export *e = user;
    e->out = out;
    cnnx_head(e);
    cnnx_functions(e);
    if (!cnnx_arrays(e)) return false;
    cnnx_body(e);
    return !ferror(out);
}

/* A C identifier of at most 60 letters. */
static bool cnnx_is_identifier(const char *s)
{
    static const char letters[] = "_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    const size_t n = strspn(s, letters);
    return n > 0 && n <= 60 && !s[n] && !(*s >= '0' && *s <= '9');
}

static bool cnnx_run(cnnx_export *e)
{
    const size_t n = (size_t)e->n, bytes = n * (sizeof *e->node + sizeof(cnnx_node *));
    e->node = CNN_MALLOC(bytes);
    if (!e->node) return cnnx_fail(e, "out of memory: %zu bytes", bytes);
    memset(e->node, 0, bytes);
    e->call = (cnnx_node **)(void *)(e->node + n);
    bool ok = cnnx_find(e) && cnnx_plan(e);
    if (ok) {
        cnn_notice(e->y->graph, NULL);
        errno = 0;
        ok = cnn_write_file(e->a.path, cnnx_write, e);
        if (!ok && !cnn_error(e->y->graph))                    /* else the file was begun, and given up */
            cnnx_fail(e, "%s", errno == ENOMEM ? "out of memory" : errno ? strerror(errno)
                               : "it cannot be written");
    }
    CNN_FREE(e->node);
    return ok;
}

CNN_API bool cnn_export_c_(cnn_export_c_args a)
{
    if (!a.y || !a.y->graph) return false;                     /* nil: the graph has its message */
    cnn_graph  *g = a.y->graph;
    const cnn_softmax_args over = { .axis = CNN_C };
    cnn_tensor  softmax = { .name = "softmax", .op = &cnn_op_softmax, .graph = g, .in = { a.y }, .n_in = 1,
                            .args = &over,
                            .shape = a.y->shape, .batched = a.y->batched, .index = a.y->index + 1 };
    cnnx_export e = { .a = a, .y = a.softmax ? &softmax : a.y };
    e.n = e.y->index + 1;
    if (!e.a.prefix) e.a.prefix = "net";
    if (!cnn_node(g, 0)) return cnnx_fail(&e, "call cnn_compile first");
    if (cnn_node(g, a.y->index) != a.y)
        return cnnx_fail(&e, "neither the loss nor a kept tensor depends on y: cnn_keep it before compiling");
    if (a.softmax && a.y->op == &cnn_op_softmax)
        return cnnx_fail(&e, "softmax \"%.60s\" is a softmax already: leave .softmax out", a.y->name);
    if (!cnnx_is_identifier(e.a.prefix))
        return cnnx_fail(&e, "prefix \"%.60s\" is not a C identifier of at most 60 characters", e.a.prefix);
    if (a.data && a.data->count < 1) return cnnx_fail(&e, "the data set is empty: %s", a.data->error);
    if (!a.path) return cnnx_fail(&e, "no path was given");
    return cnnx_run(&e);
}

#endif /* CNN_EXCHANGE_IMPLEMENTATION_ONCE */
#endif /* CNN_IMPLEMENTATION or CNN_EXCHANGE_IMPLEMENTATION */

/* >>licence: that of cnn.h, at its end: public domain or MIT, as you like. */
