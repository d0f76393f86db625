/* opencl_counts.h - what a kernel of cnn_opencl.h computes and moves, by its arguments: for dry runs, in
   which kernels are counted and not run. Include it behind the implementation. Bytes are those that must be
   moved: each array once, read or written, and twice where it is added to; what a cache cannot hold comes on
   top. Winograd's arrays, which are cut so that the device's cache holds them, are counted apart. */
#ifndef OPENCL_COUNTS_H
#define OPENCL_COUNTS_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* groups: of the grid. done: floating-point operations of a tile kernel, those of the tiles' empty edges too;
   0 for the others, which wait for memory. cached: bytes of Winograd's arrays. known: false for a kernel that
   is missing here. */
typedef struct { const char *kernel; bool known; double groups, done, bytes, cached; } counted;

/* ---- The arguments of a launch by name, as the kernel's source has them ---- */

static const char *counts__names[] = { CNNCL_KERNELS(CNNCL_NAME) };

/* Behind this text in the sources, or NULL. */
static const char *counts__behind(const char *text)
{
    for (int k = 0; k < CNNCL_SOURCES; k++) {
        const char *at = strstr(cnncl_source[k], text);
        if (at) return at + strlen(text);
    }
    return NULL;
}
/* What stands between the parentheses behind the kernel's name; a word of capitals is a macro for several
   parameters. */
static void counts__signature(const char *kernel, char *out, size_t room)
{
    char find[60];
    const char *from;
    snprintf(find, sizeof find, "void %s(", kernel);
    if (!(from = counts__behind(find))) {                          /* a tile's */
        snprintf(find, sizeof find, "NAME(%.*s)(", (int)strcspn(kernel, "_"), kernel);
        from = counts__behind(find);
    }
    size_t n = 0;
    for (int depth = 0; from && *from && depth >= 0 && n + 400 < room; from++) {
        const size_t capitals = n && out[n - 1] == ' ' ? strspn(from, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") : 0;
        depth += *from == '(' ? 1 : *from == ')' ? -1 : 0;
        if (capitals > 3 && from[capitals] != '(') {
            snprintf(find, sizeof find, "#define %.*s ", (int)capitals, from);
            const char *text = counts__behind(find);
            for (; text && *text && (*text != '\n' || text[-1] == '\\') && n + 1 < room; text++)
                out[n++] = *text;
            from += capitals - 1;
        } else out[n++] = *from;
    }
    out[n] = 0;
}
/* Where the value of `name` stands among the arguments, or NULL. */
static const unsigned char *counts__value(const cnncl_launch *l, const char *name)
{
    static const struct { const char *type; size_t bytes; } types[] = {
        { "ARRAY", 16 }, { "int", 4 }, { "float", 4 },
        { "ulong", 8 }, { "shape", 16 }, { "conv", 64 } };
    const unsigned char *value = l->argument;
    char parameters[2000];
    counts__signature(counts__names[l->kernel], parameters, sizeof parameters);
    for (const char *s = parameters; *s && *s != ')'; ) {
        s += strspn(s, " \n\\,(");
        size_t type = 0, letters = strcspn(s, " (");
        while (type < 6 && (strlen(types[type].type) != letters ||
                            strncmp(s, types[type].type, letters) != 0)) type++;
        if (type == 6) return NULL;
        s += letters + strspn(s + letters, " (");
        letters = strcspn(s, ",) ");
        if (strlen(name) == letters && strncmp(s, name, letters) == 0) return value;
        s += letters, s += type == 0 && *s == ')', value += types[type].bytes;
    }
    return NULL;
}
static double counts__int(const cnncl_launch *l, const char *name)
{
    const unsigned char *at = counts__value(l, name);
    int i = 0;
    if (at) memcpy(&i, at, sizeof i);
    return i;
}
static double counts__some(const cnncl_launch *l, const char *name)         /* is it given and not 0? */
{
    const unsigned char *at = counts__value(l, name);
    float f = 0;
    if (at) memcpy(&f, at, sizeof f);
    return f != 0;
}
static double counts__given(const cnncl_launch *l, const char *name)        /* is there such an array? */
{
    const unsigned char *at = counts__value(l, name);
    cl_mem               array = NULL;
    if (at) memcpy(&array, at, sizeof array);
    return array != NULL;
}
static double counts__length(const cnncl_launch *l, const char *name)
{
    const unsigned char *at = counts__value(l, name);
    cnn_shape s = { 0, 0, 0, 0 };
    if (at) memcpy(&s, at, sizeof s);
    return (double)s.n * s.c * s.h * s.w;
}

/* ---- Floats, by kernel ---- */

/* A row: kernels whose names begin so, and the floats that they move. x, y: of both sides of a convolution or
   pool; b: 1 where results are added to what is there; e: all elements of a batch norm. */
#define COUNTS(X)                                                                                            \
    X("depthwise_weights", x + y + w * z * (1 + b)) X("depthwise", x + w + y * (1 + b))                      \
    X("conv", x + w + y * (1 + b)) X("weights", x + y + w * z / g.groups * (1 + b))                          \
    X("product", z / I(parts) * (I(m) * I(k) + I(k) * I(n) + I(m) * I(n) * I(parts) * (1 + b)))              \
    X("add_slices", (I(n) + I(n2)) * (I(slices) + 1 + b)) X("wino_dw", 18 * I(weights))                      \
    X("wino_in", 16 * g.ic * I(count) + more) X("wino_out", g.oc * I(count) * 16 * (1 + b))                  \
    X("stretch_back", L(ys) + L(as) + L(bs) + I(n) * (1 + b))                                                \
    X("stretch", L(as) + A(b) * L(bs) + I(n) * (1 + b)) X("norm_statistics", e)                              \
    X("fold", L(xs) + (I(how) > 2) * L(us) + L(ys) * (1 + b)) X("move", I(n) * (2 + b)) X("fill", I(n))      \
    X("pad", L(xs) + L(ys)) X("pool_forward", x + y * (1 + A(saved)))                                        \
    X("pool_backward", y * (1 + A(saved)) + x * (1 + b)) X("upsample", L(xs) + L(ys))                        \
    X("dropout", I(n) * (2 + b)) X("softmax_forward", 2 * I(n) * I(channels))                                \
    X("softmax_backward", I(n) * I(channels) * (3 + b)) X("norm_forward", e * (2 + A(other)))                \
    X("norm_sums", e * (2 + (I(how) != 0) + A(dother) * (1 + b)))                                            \
    X("norm_backward", e * (2 + (I(how) != 0) + A(dx) * (1 + b))) X("norm_weight", 2 * e)                    \
    X("lrn_forward", I(n) * (2 + A(saved))) X("lrn_backward", I(n) * (5 + b))                                \
    X("label_rows", I(n) * (I(channels) + 4)) X("label_loss_backward", I(n) * (2 + b))                       \
    X("label_end", 2 * I(count)) X("correct", I(n) * (I(channels) + 1))                                      \
    X("update", I(n) * (I(how) ? 7 : F(momentum) != 0 ? 5 : 3)) X("pair_loss_forward", 2 * I(n))             \
    X("pair_loss_backward", I(n) * (3 + b)) X("squares", I(n))

static counted count_launch(const cnncl_launch *l, const size_t *global, const size_t *local)
{
#define I(name) counts__int(l, #name)
#define F(name) counts__some(l, #name)
#define L(name) counts__length(l, #name)
#define A(name) counts__given(l, #name)
    static const int sides[] = { 128, 64, 32, 4 };
    counted     c = { counts__names[l->kernel], false, 1, 0, 0, 0 };
    cnncl_conv  g = { 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1 };
    const unsigned char *at = counts__value(l, "g");
    if (at) memcpy(&g, at, sizeof g);
    for (int i = 0; i < 3; i++) c.groups *= (double)(global[i] / local[i]);
    const double x = (double)g.n * g.ic * g.h * g.w, y = (double)g.n * g.oc * g.oh * g.ow, b = F(beta);
    const double taps = (double)g.kh * g.kw, w = g.oc * (double)(g.ic / g.groups) * taps,
        z = (double)(global[2] / local[2]);
    const double e = I(channels) * I(count);
    const double more = I(more) == 1 ? 9.0 * g.ic * g.oc : I(more) == 2 ? 16 * g.oc * I(count) : 0;
    const int    tile = l->kernel % CNNCL_TILES, side = sides[tile];
    const double phases = I(back) ? (g.sh < g.oh ? g.sh : g.oh) * (double)(g.sw < g.ow ? g.sw : g.ow) : 1;
    const double area = 2.0 * side * side * c.groups * (tile == CNNCL_NO_LOCAL ? (double)local[0] : 1);
    if (l->kernel < CNNCL_weights_128)
        c.done = area * g.ic * taps / phases / g.groups;
    else if (l->kernel < CNNCL_add_slices)  c.done = area * I(length);
#define COUNT(name, floats)                                                                                  \
    if (!c.known && strncmp(c.kernel, name, strlen(name)) == 0) c.known = true, c.bytes = 4 * (floats);
    COUNTS(COUNT)
    const double in = g.ic, out = g.oc;
    if (l->kernel == CNNCL_wino_in)
        c.cached = 4 * 36 * (in * I(count) + (I(more) == 1 ? in * out : I(more) == 2 ? g.oc * I(count) : 0));
    if (l->kernel == CNNCL_wino_out) c.cached = 4 * 36 * out * I(count);
    if (l->kernel == CNNCL_wino_dw)  c.cached = 4 * 36 * I(parts) * I(weights);
    if (l->kernel >= CNNCL_product_128 && l->kernel < CNNCL_add_slices &&
        z == 36 * I(parts)) c.cached = c.bytes, c.bytes = 0;
    return c;
#undef I
#undef F
#undef L
#undef A
}

/* Dry runs: from dry_begin to dry_end kernels are counted, buffers hold next to nothing, and copies copy
   nothing. */
static cnncl  *dry_device;
static long    dry_launches, dry_objects, dry_sets;                  /* kernels run and made, arguments set */
static double  dry_bytes, dry_cached;
static void  (*dry_each)(const counted *);                                  /* or NULL */
static const char *dry_unknown;                                      /* a kernel that is missing above */
static cl_int CL_API_CALL dry_run(cl_command_queue q, cl_kernel k, cl_uint dim, const size_t *at,
                                  const size_t *all, const size_t *group, cl_uint n, const cl_event *w,
                                  cl_event *e)
{
    (void)q, (void)dim, (void)at, (void)n, (void)w, (void)e;
    for (int i = 0; i < CNNCL_LAUNCHES; i++) {
        if (dry_device->launch[i].object != k) continue;
        const counted c = count_launch(&dry_device->launch[i], all, group);
        if (!c.known) dry_unknown = c.kernel;
        dry_launches++, dry_bytes += c.bytes, dry_cached += c.cached;
        if (dry_each) dry_each(&c);
    }
    return CL_SUCCESS;
}
static cl_mem (CL_API_CALL *dry__buffer)(cl_context, cl_mem_flags, size_t, void *, cl_int *);
static cl_mem CL_API_CALL dry_buffer(cl_context c, cl_mem_flags f, size_t n, void *p, cl_int *e)
{
    return dry__buffer(c, f, n < 64 ? n : 64, p, e);
}
static cl_int CL_API_CALL dry_read(cl_command_queue q, cl_mem m, cl_bool b, size_t at, size_t size, void *to,
                                   cl_uint n, const cl_event *w, cl_event *e)
{
    (void)q, (void)m, (void)b, (void)at, (void)n, (void)w, (void)e;
    return memset(to, 0, size), CL_SUCCESS;
}
static cl_int CL_API_CALL dry_write(cl_command_queue q, cl_mem m, cl_bool b, size_t at, size_t size,
                                    const void *from, cl_uint n, const cl_event *w, cl_event *e)
{
    (void)q, (void)m, (void)b, (void)at, (void)size, (void)from, (void)n, (void)w;
    if (e) *e = NULL;
    return CL_SUCCESS;
}
static cl_kernel CL_API_CALL dry_kernel(cl_program p, const char *name, cl_int *e)
{
    static uintptr_t handle;
    (void)p, (void)name, dry_objects++;
    return *e = CL_SUCCESS, (cl_kernel)++handle;
}
static cl_int CL_API_CALL dry_release(cl_kernel k) { return (void)k, CL_SUCCESS; }
static cl_int CL_API_CALL dry_set(cl_kernel k, cl_uint i, size_t n, const void *v)
{
    (void)k, (void)i, (void)n, (void)v;
    return dry_sets++, CL_SUCCESS;
}
static cnncl_api dry_begin(cnncl *d)
{
    const cnncl_api keep = d->cl;
    cnncl_forget_launches(d);
    dry_device = d, dry__buffer = d->cl.clCreateBuffer, dry_unknown = NULL;
    d->cl.clCreateBuffer = dry_buffer, d->cl.clEnqueueNDRangeKernel = dry_run, d->cl.clSetKernelArg = dry_set;
    d->cl.clEnqueueReadBuffer = dry_read, d->cl.clEnqueueWriteBuffer = dry_write;
    d->cl.clCreateKernel = dry_kernel, d->cl.clReleaseKernel = dry_release;
    return keep;
}
static void dry_end(cnncl *d, const cnncl_api *keep)
{
    cnncl_forget_launches(d);
    d->cl = *keep;
}
#endif
