/* inside.h - cnn.h's private names, for tests that look inside without compiling the implementation again: its types,
   which inside.awk takes out of cnn.h, and doors to its functions, which tests/cnn.c opens. One more: a type in
   inside.awk, a function here. Nothing where the implementation itself has been included. */
#ifndef CNN_INSIDE_H
#define CNN_INSIDE_H
#ifndef CNN_IMPLEMENTATION_ONCE
#include "inside_types.h"
#endif

typedef struct { const char *name; unsigned bits; } inside_dtype;

/* DOOR(return or nothing, its type, name, parameters, arguments): cnn__name is called inside_name outside cnn.o. */
#define INSIDE(DOOR) \
    DOOR(return, cnn__node *, of, (const cnn_tensor *t), (t)) \
    DOOR(return, int, sample, (cnn_shape s), (s)) \
    DOOR(return, bool, is_learned, (const cnn_tensor *t), (t)) \
    DOOR(return, bool, trains, (const cnn_tensor *t), (t)) \
    DOOR(return, int, len, (cnn_shape s), (s)) \
    DOOR(return, const cnn_kernel *, find_kernel, (const cnn_backend *dev, const cnn_tensor *y), (dev, y)) \
    DOOR(return, float, float_of_bits, (uint32_t bits), (bits)) \
    DOOR(return, uint32_t, bits_of_float, (float v), (v)) \
    DOOR(return, uint64_t, le64, (const unsigned char *p), (p)) \
    DOOR(, void, philox, (uint32_t out[4], uint64_t key, uint64_t stream, uint64_t i), (out, key, stream, i)) \
    DOOR(return, double, seconds, (void), ()) \
    DOOR(return, bool, matches, (const char *pattern, const char *name), (pattern, name)) \
    DOOR(return, cnn__text, decimal, (double v, int digits), (v, digits)) \
    DOOR(, void, print_bar, (FILE *f, const cnn_progress *p), (f, p)) \
    DOOR(return, double, sum_of_squares, (const cnn__cpu *cpu, const float *x, size_t n), (cpu, x, n)) \
    DOOR(return, int, correct, (const float *score, cnn_shape z, const float *label, int ignored), (score, z, label, ignored)) \
    DOOR(return, size_t, trained_floats, (const cnn_graph *g), (g)) \
    DOOR(return, bool, copy_trained, (cnn_graph *g, float *store, cnn__way way, float decay), (g, store, way, decay)) \
    DOOR(return, unsigned char *, read_file, (const char *path, size_t *n, char *why, size_t room), (path, n, why, room)) \
    DOOR(return, cnn__file, file_of, (cnn_graph *g, const char *at, const char *what, const char *path), (g, at, what, path)) \
    DOOR(return, bool, open_file, (cnn__file *f, const void *file, size_t bytes), (f, file, bytes)) \
    DOOR(, void, close_file, (cnn__file *f), (f)) \
    DOOR(return, double, element, (const cnn__file *f, const cnn__entry *e, size_t i), (f, e, i)) \
    DOOR(return, cnn__entry *, lookup, (const cnn__file *f, const char *prefix, const char *name), (f, prefix, name)) \
    DOOR(return, int, slots_of, (const cnn_graph *g), (g))

/* In a test the function has its own name again. */
#ifndef CNN_IMPLEMENTATION_ONCE
#include <stdio.h>
#define INSIDE_DOOR(returns, type, name, parameters, arguments) \
    type inside_##name parameters; \
    static inline type cnn__##name parameters { returns inside_##name arguments; }
INSIDE(INSIDE_DOOR)
inside_dtype inside_dtype_of(int dtype);
#endif
#endif
