/* Data: loaders of CIFAR, CSV and .npy with hostile files, and what cnn_feed_augmented does to a sample.

       cc -std=c99 -O2 -I. -o build/test_data tests/test_data.c -lm && build/test_data */
#include "cnn.h"
#include "alloc.h"
#include "test.h"

/* ---- Any loader, on a copy whose ends a sanitizer sees ---- */

typedef enum { CIFAR10, CIFAR100, CSV, NPY } format;
static cnn_csv_args csv_args;
static const unsigned char *npy_labels;
static size_t npy_label_bytes;

static cnn_dataset read_as(format f, const void *file, size_t n)
{
    unsigned char *p = test_alloc(n);
    if (n) memcpy(p, file, n);
    cnn_dataset d = f == CSV ? cnn_csv_memory(p, n, csv_args)
                  : f == NPY ? cnn_npy_memory(p, n, npy_labels, npy_label_bytes)
                  : cnn_cifar_memory(p, n, f == CIFAR10 ? 10 : 100);
    free(p);                                               /* all of them copy */
    return d;
}

/* Either samples, all of which can be read and fed, or a message. */
static bool try_file(format f, const void *file, size_t n, const char *message)
{
    long before = alloc_live;
    cnn_dataset d = read_as(f, file, n);
    bool good = d.count > 0;
    CHECK(good == !d.error[0]);
    if (message) CHECK_STR(d.error, message);
    if (good) {
        size_t values = (size_t)d.count * (size_t)(d.shape.c * d.shape.h * d.shape.w);
        double sum = 0;
        int    known = 0;
        for (size_t i = 0; i < values; i++) sum += d.bytes ? (double)d.bytes[i] : (double)d.floats[i];
        for (int i = 0; d.labels && i < d.count; i++) known += d.labels[i] < d.classes;
        CHECK(!(sum < -INFINITY) && known == (d.labels ? d.count : 0));
    }
    cnn_dataset_free(&d);
    CHECK_INT(alloc_live, before);
    return good;
}

static void failing_allocations(format f, const void *file, size_t n)
{
    for (long k = 0; ; k++) {
        long before = alloc_live;
        alloc_left = k;
        cnn_dataset d = read_as(f, file, n);
        alloc_left = -1;
        bool done = d.count > 0;
        if (!done) CHECK_MSG(strstr(d.error, "out of memory") != NULL, "allocation %ld: %s", k, d.error);
        cnn_dataset_free(&d);
        CHECK_INT(alloc_live, before);
        if (done) { CHECK(k >= 2); break; }
    }
}

/* ---- CIFAR ---- */

enum { PIXELS = 3072, MANY = 5 };
static size_t cifar(unsigned char *to, int records, int classes)
{
    unsigned char *p = to;
    for (int i = 0; i < records; i++) {
        if (classes == 100) *p++ = (unsigned char)(i % 20);
        *p++ = (unsigned char)((7 * i + 2) % classes);
        for (int k = 0; k < PIXELS; k++) *p++ = (unsigned char)(i * 31 + k * 7 + k / 256);
    }
    return (size_t)(p - to);
}
static bool write_file(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    bool good = f && fwrite(p, 1, n, f) == n;
    return f && fclose(f) == 0 && good;
}

static void cifar_files(void)
{
    static unsigned char file[MANY * (PIXELS + 2)];
    for (int classes = 10; classes <= 100; classes += 90) {
        format f = classes == 10 ? CIFAR10 : CIFAR100;
        size_t n = cifar(file, MANY, classes), record = n / MANY;
        cnn_dataset d = cnn_cifar_memory(file, n, classes);
        CHECK_STR(d.error, "");
        CHECK_INT(d.count, MANY), CHECK_INT(d.shape.c, 3), CHECK_INT(d.shape.h, 32), CHECK_INT(d.shape.w, 32);
        for (int i = 0; i < d.count; i++) {
            CHECK_INT(d.labels[i], (7 * i + 2) % classes);
            CHECK(memcmp(d.bytes + i * PIXELS, file + (size_t)(i + 1) * record - PIXELS, PIXELS) == 0);
        }
        cnn_dataset_free(&d);
        for (size_t k = 0; k < n; k++)
            CHECK(try_file(f, file, k, NULL) == (k > 0 && k % record == 0));
        failing_allocations(f, file, n);
        for (int round = 0; round < 256; round++) {
            unsigned char was = file[record + record - PIXELS - 1];
            file[record + record - PIXELS - 1] = (unsigned char)round;
            CHECK(try_file(f, file, n, NULL) == (round < classes));
            file[record + record - PIXELS - 1] = was;
        }
    }
    size_t n = cifar(file, MANY, 10);
    try_file(CIFAR10, file, n - 1,
        "cifar: 15364 bytes are not a whole number of CIFAR-10 records of 3073 bytes");
    try_file(CIFAR10, file, 0, "cifar: 0 bytes are not a whole number of CIFAR-10 records of 3073 bytes");
    file[3073] = 10;
    try_file(CIFAR10, file, n, "cifar: record 2 begins with 10, 31: these are no labels of CIFAR-10");
    file[0] = 0x1f, file[1] = 0x8b;
    try_file(CIFAR10, file, n, "cifar is gzipped: gunzip it first");
    n = cifar(file, MANY, 100), file[0] = 20;
    try_file(CIFAR100, file, n, "cifar: record 1 begins with 20, 2: these are no labels of CIFAR-100");
    cnn_dataset d = cnn_cifar_memory(file, n, 11);
    CHECK_STR(d.error, "cifar: 11 classes: there are CIFAR-10 and CIFAR-100");
    d = cnn_cifar_memory(NULL, 5, 10);
    CHECK(d.count == 0 && d.error[0]);

    const char *const path[3] = { "test_data_1.bin", "test_data_2.bin", "test_data_none.bin" };
    n = cifar(file, MANY, 10);
    CHECK(write_file(path[0], file, n) && write_file(path[1], file + 3073, 2 * 3073));
    d = cnn_load_cifar(path, 2, 10);
    CHECK_STR(d.error, "");
    CHECK_INT(d.count, MANY + 2);
    CHECK(d.count && memcmp(d.bytes + MANY * PIXELS, file + 3073 + 1, PIXELS) == 0 && d.labels[MANY] == 9);
    cnn_dataset_free(&d);
    d = cnn_load_cifar(path, 3, 10);
    CHECK_STR(d.error, "test_data_none.bin: No such file or directory");
    cnn_dataset_free(&d);
    d = cnn_load_cifar(NULL, 3, 10);
    CHECK_STR(d.error, "cnn_load_cifar: no path was given");
    remove(path[0]), remove(path[1]);
    CHECK_INT(alloc_live, 0);
}

/* ---- CSV ---- */

static void csv_says(const char *text, cnn_csv_args a, const char *message)
{
    csv_args = a;
    try_file(CSV, text, strlen(text), message);
}
static void csv_files(void)
{
    static const char text[] = "\xEF\xBB\xBF" "a,b,class,c\r\n"
        " 1, -2.5e1 ,3,+.25\r\n\r\n4,5.,0,6E-2\n7,8,255,-0.1";
    static const float want[9] = { 0.5f, -12.5f, 0.125f, 2, 2.5f, 0.03f, 3.5f, 4, -0.05f };
    const cnn_csv_args a = { .label = 3, .skip = 1, .scale = 0.5f };
    cnn_dataset d = cnn_csv_memory(text, sizeof text - 1, a);
    CHECK_STR(d.error, "");
    CHECK_INT(d.count, 3), CHECK_INT(d.classes, 256), CHECK_INT(d.shape.c, 3);
    if (d.count == 3) {
        CHECK_ALL_NEAR(d.floats, want, 9, 1e-7);
        CHECK(d.labels[0] == 3 && d.labels[1] == 0 && d.labels[2] == 255);
    }
    cnn_dataset_free(&d);
    csv_args = a;
    for (size_t n = 0; n < sizeof text; n++) try_file(CSV, text, n, NULL);
    failing_allocations(CSV, text, sizeof text - 1);

    d = cnn_csv_memory("1;2;3;4;9\n", 10, (cnn_csv_args){ .label = -1, .separator = ';', .h = 2, .w = 2 });
    CHECK_STR(d.error, "");
    CHECK(d.count == 1 && d.shape.c == 1 && d.shape.h == 2 && d.shape.w == 2 && d.labels[0] == 9);
    cnn_dataset_free(&d);
    static const char quoted[] = "\"x\",\"y\",\"class\"\r\n\"1\", \"-2.5\" ,\"7\"\r\n3,\"4e1\",\"0\"";
    static const float said[4] = { 1, -2.5f, 3, 40 };
    d = cnn_csv_memory(quoted, sizeof quoted - 1, (cnn_csv_args){ .label = -1, .skip = 1 });
    CHECK_STR(d.error, "");
    CHECK(d.count == 2 && d.classes == 8);
    if (d.count == 2) CHECK_SAME_BITS(d.floats, said, 4);
    cnn_dataset_free(&d);
    d = cnn_csv_memory("1,2\n3,4\n", 8, (cnn_csv_args){ 0 });
    CHECK(d.count == 2 && !d.labels && d.shape.c == 2);
    cnn_dataset_free(&d);

    /* Numbers as strtod reads them in the C locale. */
    for (int i = 0; i < 20000; i++) {
        char   number[64];
        double v = test_uniform(-1, 1) * pow(10, test_int(-44, 38));
        snprintf(number, sizeof number, test_chance(50) ? "%.*e" : test_chance(50) ? "%.*f" : "%.*g",
            test_int(0, 20), v);
        if (fabs(strtod(number, NULL)) > 3e38) continue;
        d = cnn_csv_memory(number, strlen(number), (cnn_csv_args){ 0 });
        double want_v = strtod(number, NULL), near = 1.2e-7 * fabs(want_v) + 1.5e-45;
        CHECK_MSG(d.count == 1 && fabs((double)d.floats[0] - want_v) <= near, "%s", number);
        cnn_dataset_free(&d);
    }

    csv_says("", (cnn_csv_args){ 0 }, "csv: there is no line with numbers");
    csv_says("a,b\n", (cnn_csv_args){ .skip = 1 }, "csv: there is no line with numbers");
    csv_says("a,b\n1,2\n", (cnn_csv_args){ 0 }, "csv, line 1, column 1: \"a\" is no number that fits; "
        "is it a heading? .skip = 1 leaves it out");
    csv_says("1,\"2\n", (cnn_csv_args){ 0 }, "csv, line 1, column 2: \"\"2\" is no number that fits");
    csv_says("1,2\n3,,4\n", (cnn_csv_args){ 0 }, "csv, line 2: 3 columns, the first line has 2");
    csv_says("1,2,3\n3,,4\n", (cnn_csv_args){ 0 }, "csv, line 2, column 2: \"\" is no number that fits");
    csv_says("1\n", (cnn_csv_args){ .skip = -1 }, "csv: skip is -1: it must not be negative");
    csv_says("1\n", (cnn_csv_args){ .scale = INFINITY }, "csv: scale inf is no number");
    csv_says("1,2\n3,\n", (cnn_csv_args){ 0 }, "csv, line 2, column 2: \"\" is no number that fits");
    csv_says("1,2\n3,nan\n", (cnn_csv_args){ 0 }, "csv, line 2, column 2: \"nan\" is no number that fits");
    csv_says("1,2\n3,1e39\n", (cnn_csv_args){ 0 }, "csv, line 2, column 2: \"1e39\" is no number that fits");
    csv_says("1,2\n\n3,1 2\n", (cnn_csv_args){ 0 }, "csv, line 3, column 2: \"1 2\" is no number that fits");
    csv_says("1,2\n3\n", (cnn_csv_args){ 0 }, "csv, line 2: 1 columns, the first line has 2");
    csv_says("1,2\n3,4,5\n", (cnn_csv_args){ 0 }, "csv, line 2: 3 columns, the first line has 2");
    csv_says("1,2\n3,4.5\n", (cnn_csv_args){ .label = 2 },
        "csv, line 2: label 4.5 is no whole number within +-2^24");
    csv_says("1,2\n3,16777217\n", (cnn_csv_args){ .label = -1 },
        "csv, line 2: label 1.67772e+07 is no whole number within +-2^24");
    csv_says("1,2\n", (cnn_csv_args){ .label = -3 },
        "csv: label is column -3, but the first line has 2 columns");
    csv_says("1,2\n", (cnn_csv_args){ .label = 3 },
        "csv: label is column 3, but the first line has 2 columns");
    csv_says("1,2\n", (cnn_csv_args){ .h = 2, .w = 2 },
        "csv: samples of (1,2,2), but the first line has 2 values between ','");
    csv_says("1\n", (cnn_csv_args){ .label = 1 }, "csv: samples of (0,1,1), but the first line has 0 values between ','");
    csv_says("1,2\n", (cnn_csv_args){ .c = -1 }, "csv: samples of (-1,1,1), but the first line has 2 values between ','");
    csv_says("\x1f\x8b", (cnn_csv_args){ 0 }, "csv is gzipped: gunzip it first");

    csv_args = (cnn_csv_args){ .label = 1 };
    static const char signs[] = "0123456789.,-+eE \t\r\n\"x";
    for (int round = 0; round < 30000; round++) {
        char junk[40];
        size_t n = (size_t)test_int(0, (int)sizeof junk);
        for (size_t i = 0; i < n; i++) junk[i] = signs[test_chance(70) ? test_int(0, 11) : test_int(0,
            (int)sizeof signs - 2)];
        try_file(CSV, junk, n, NULL);
    }
    CHECK(write_file("test_data.csv", "1,2\n3,4\n", 8));
    d = cnn_load_csv("test_data.csv", .label = 2);
    CHECK(d.count == 2 && d.labels[1] == 4);
    cnn_dataset_free(&d), remove("test_data.csv");
    d = cnn_load_csv("test_data_none.csv", .label = 2);
    CHECK_STR(d.error, "test_data_none.csv: No such file or directory");
    CHECK_INT(alloc_live, 0);
}

/* ---- .npy ---- */

static size_t npy(unsigned char *to, int version, const char *header, const void *data, size_t bytes)
{
    size_t n = strlen(header), head = version == 1 ? 10 : 12;
    memcpy(to, "\x93NUMPY", 6);
    to[6] = (unsigned char)version, to[7] = 0;
    for (size_t k = 8; k < head; k++) to[k] = (unsigned char)(n >> 8 * (k - 8) & 255);
    memcpy(to + head, header, n);
    if (bytes) memcpy(to + head + n, data, bytes);
    return head + n + bytes;
}
static void npy_says(const char *header, size_t bytes, const char *message)
{
    static const unsigned char zero[64];
    unsigned char file[400];
    try_file(NPY, file, npy(file, 1, header, zero, bytes), message);
}

/* Values of every type, in both orders of bytes, made by hand. */
static void npy_types(void)
{
    static const struct { const char *type; double least; double most; } types[] = {
        { "i1", -128, 127 }, { "i2", -32768, 32767 }, { "i4", -2e9, 2e9 }, { "i8", -9e15, 9e15 },
        { "u2", 0, 65535 }, { "u4", 0, 4e9 }, { "u8", 0, 9e15 }, { "b1", 0, 1 }, { "f4", -1e6, 1e6 },
            { "f8", -1e6, 1e6 } };
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int big = 0; big < 2; big++) {
            unsigned char data[12 * 8], file[400];
            float  want[12];
            size_t size = (size_t)(types[t].type[1] - '0');
            for (size_t i = 0; i < 12; i++) {
                double   v = test_uniform(types[t].least, types[t].most + 0.9);
                uint64_t bits;
                if (types[t].type[0] != 'f') v = i == 0 ? types[t].least : floor(v),
                    bits = (uint64_t)(int64_t)v;
                else if (size == 8) memcpy(&bits, &v, 8);
                else {
                    float    single = (float)v;
                    uint32_t low;
                    memcpy(&low, &single, 4), bits = low;
                }
                want[i] = (float)v;
                for (size_t k = 0; k < size; k++)
                    data[i * size + (big ? size - 1 - k : k)] = (unsigned char)(bits >> 8 * k & 255);
            }
            char header[100];
            snprintf(header, sizeof header,
                "{'descr': '%c%s', 'fortran_order': False, 'shape': (3, 2, 2), }   \n",
                     size == 1 ? '|' : big ? '>' : '<', types[t].type);
            cnn_dataset d = read_as(NPY, file, npy(file, big ? 2 : 1, header, data, 12 * size));
            CHECK_STR(d.error, "");
            CHECK(d.count == 3 && d.shape.c == 1 && d.shape.h == 2 && d.shape.w == 2 && !d.bytes);
            if (d.count) CHECK_SAME_BITS(d.floats, want, 12);
            cnn_dataset_free(&d);
        }
    /* float16, by the tables of IEEE 754: 1, -2, 65504, 2^-24, 0.333251953125 */
    static const unsigned char half[10] = { 0x00, 0x3C, 0x00, 0xC0, 0xFF, 0x7B, 0x01, 0x00, 0x55, 0x35 };
    static const float values[5] = { 1, -2, 65504, 5.9604644775390625e-8f, 0.333251953125f };
    unsigned char file[200];
    cnn_dataset d = read_as(NPY, file, npy(file, 3, "{'shape':(5,),'fortran_order':False,'descr':'<f2'}",
        half, 10));
    CHECK_STR(d.error, "");
    if (d.count == 5) CHECK_SAME_BITS(d.floats, values, 5);
    cnn_dataset_free(&d);
}

/* The first index fastest: element (n,c,h,w) of (2,3,2,2) lies at n + 2 (c + 3 (h + 2 w)). */
static void npy_in_fortran_order(void)
{
    for (int bytes = 0; bytes < 2; bytes++) {
        unsigned char data[24 * 2], file[300];
        for (int n = 0, i = 0; n < 2; n++)
            for (int c = 0; c < 3; c++)
                for (int h = 0; h < 2; h++)
                    for (int w = 0; w < 2; w++, i++) {
                        const int at = n + 2 * (c + 3 * (h + 2 * w));
                        if (bytes) data[at] = (unsigned char)i;
                        else       data[2 * at] = (unsigned char)i, data[2 * at + 1] = 1;
                    }
        char header[100];
        snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': True, 'shape': (2, 3, 2, 2), }\n",
                 bytes ? "|u1" : "<i2");
        cnn_dataset d = read_as(NPY, file, npy(file, 1, header, data, bytes ? 24 : 48));
        CHECK_STR(d.error, "");
        CHECK(d.count == 2 && d.shape.c == 3 && d.shape.h == 2 && d.shape.w == 2);
        for (int i = 0; i < 24 && d.count; i++)
            CHECK_INT(bytes ? (double)d.bytes[i] : (double)d.floats[i], bytes ? i : 256 + i);
        cnn_dataset_free(&d);
    }
}

static void npy_files(void)
{
    static const char header[] =
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 1, 2), }        \n";
    static const unsigned char pixels[12] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255 };
    static const unsigned char classes[16] = { 7, 0, 0, 0, 0, 0, 0, 0, 2 };
    unsigned char file[300], labels[300];
    size_t n = npy(file, 1, header, pixels, 12);
    size_t m = npy(labels, 1, "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 1)}", classes, 16);
    npy_labels = labels, npy_label_bytes = m;
    cnn_dataset d = read_as(NPY, file, n);
    CHECK_STR(d.error, "");
    CHECK(d.count == 2 && d.shape.c == 3 && d.shape.h == 1 && d.shape.w == 2 && d.classes == 8);
    CHECK(d.bytes && memcmp(d.bytes, pixels, 12) == 0 && d.labels[0] == 7 && d.labels[1] == 2);
    cnn_dataset_free(&d);
    for (size_t k = 0; k < n; k++) CHECK(!try_file(NPY, file, k, NULL));
    for (size_t k = 0; k < m; k++) npy_label_bytes = k, CHECK(!try_file(NPY, file, n, NULL));
    npy_label_bytes = m;
    failing_allocations(NPY, file, n);
    labels[m - 1] = 1;                                         /* 2^56 + 2 */
    try_file(NPY, file, n, "labels: label 1 is 7.20575940379279e+16: it must be within +-2^24");
    labels[m - 1] = 255;
    CHECK(!try_file(NPY, file, n, NULL));
    labels[m - 1] = 0;
    for (int round = 0; round < 60000; round++) {
        unsigned char bad[300];
        memcpy(bad, file, n);
        for (int k = test_int(1, 3); k > 0; k--)
            bad[test_int(0, (int)n - 1)] = (unsigned char)(test_chance(50) ? test_int(32, 126) : test_int(0,
                255));
        try_file(NPY, bad, n, NULL);
    }
    m = npy(labels, 1, "{'descr': '|u1', 'fortran_order': False, 'shape': (3,)}", classes, 3),
        npy_label_bytes = m;
    try_file(NPY, file, n, "values has 2 samples, but labels has 3 targets");
    m = npy(labels, 1, "{'descr': '|u1', 'fortran_order': False, 'shape': (2,2)}", classes, 4),
        npy_label_bytes = m;
    d = read_as(NPY, file, n);
    CHECK(d.count == 2 && d.target_type == CNN_I32 && d.target.c == 2 && d.labels[3] == classes[3]);
    cnn_dataset_free(&d);
    npy_labels = NULL;

    try_file(NPY, "PK\3\4", 4, "values is a zip, perhaps of numpy.savez: save each array by numpy.save");
    try_file(NPY, "\x93NUMPY\1", 7, "values: truncated: a .npy file begins with 10 bytes");
    try_file(NPY, "0123456789", 10, "values: not a .npy file: it does not begin with \\x93NUMPY");
    try_file(NPY, "\x93NUMPY\4\0\1\0", 10, "values: version 4 of .npy: 1 to 3 can be read");
    try_file(NPY, "\x93NUMPY\1\0\1\0", 10, "values: truncated: the header has 11 bytes, the file has 10");
    npy_says("{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,)}", 4,
             "values: the header is not the dictionary of a .npy file");
    npy_says("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", 8,
             "values: elements of type  '<c8', 'fortran_ord: integers, floats and bools can be read");
    npy_says("{'descr': '<f4', 'fortran_order': False, 'shape': (1,2,3,4,5)}", 4,
             "values: shape  (1,2,3,4,5)}: 1 to 4 extents from 1 to 2147483647 can be read");
    npy_says("{'descr': '<f4', 'fortran_order': False, 'shape': (0,)}", 0,
             "values: shape  (0,)}: 1 to 4 extents from 1 to 2147483647 can be read");
    npy_says("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", 4,
             "values: shape  (99999999999999999999,)}: 1 to 4 extents from 1 to 2147483647 can be read");
    npy_says("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", 4,
             "values holds one number, of shape (): samples need an axis");
    npy_says("{'descr': '<f4', 'shape': (1,)}", 4, "values: the header is not the dictionary of a .npy file");
    npy_says("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 4,
             "values: the header is not the dictionary of a .npy file");
    npy_says("", 0, "values: the header is not the dictionary of a .npy file");
    npy_says("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 7,
             "values: truncated: the header promises 8 bytes of elements, the file has 7");
    npy_says("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 9,
             "values: the header promises 8 bytes of elements, the file has 9");
    char want[200];
    snprintf(want, sizeof want,
        "values: truncated: the header promises %zu bytes of elements, the file has 4", (size_t)SIZE_MAX);
    npy_says("{'descr': '<f8', 'fortran_order': False, 'shape': (2147483647,2147483647,2147483647)}", 4,
        want);

    CHECK(write_file("test_data.npy", file, n));
    d = cnn_load_npy("test_data.npy", NULL);
    CHECK(d.count == 2 && !d.labels);
    cnn_dataset_free(&d), remove("test_data.npy");
    d = cnn_load_npy("test_data_none.npy", NULL);
    CHECK_STR(d.error, "test_data_none.npy: No such file or directory");
    CHECK_INT(alloc_live, 0);
}

/* ---- Augmentation, against a reference that pads, cuts out a window and mirrors it ---- */

enum { C = 2, H = 6, W = 7, COUNT = 400 };
static float world[COUNT * C * H * W];

static float padded(const float *plane, int y, int x, bool reflect)
{
    if (reflect) {
        while (y < 0 || y >= H) y = y < 0 ? -y : 2 * (H - 1) - y;
        while (x < 0 || x >= W) x = x < 0 ? -x : 2 * (W - 1) - x;
    }
    return y < 0 || y >= H || x < 0 || x >= W ? 0 : (plane[y * W + x] - 0.25f) / 0.5f;
}
/* The only shift and flip that give this picture; false if none does. */
static bool explain(const float *picture, const float *sample, int shift, bool reflect, int *dy, int *dx,
    int *flip)
{
    int found = 0;
    for (int f = 0; f < 2; f++)
        for (int v = -shift; v <= shift; v++)
            for (int u = -shift; u <= shift; u++) {
                bool same = true;
                for (int c = 0; c < C && same; c++)
                    for (int i = 0; i < H * W && same; i++) {
                        const float *plane = sample + c * H * W;
                        float mirrored[H * W];
                        for (int k = 0; k < H * W;
                            k++) mirrored[k] = plane[f ? k / W * W + W - 1 - k % W : k];
                        same = picture[c * H * W + i] == padded(mirrored, i / W + v, i % W + u, reflect);
                    }
                if (same) *dy = v, *dx = u, *flip = f, found++;
            }
    return found == 1;
}

static cnn_dataset new_world(void)
{
    for (int i = 0; i < COUNT * C * H * W; i++) world[i] = (float)test_uniform(0.3, 1);
    cnn_dataset d = cnn_floats(world, NULL, COUNT, C, H, W);
    for (int c = 0; c < C; c++) d.mean[c] = 0.25f, d.deviation[c] = 0.5f;
    return d;
}

static void shifts_and_flips(void)
{
    cnn_dataset d = new_world();
    for (int reflect = 0; reflect < 2; reflect++) {
        cnn_graph  *g = cnn_new(.max_batch = COUNT, .seed = 3);
        cnn_tensor *x = cnn_input(g, C, H, W);
        CHECK(cnn_compile(g, cnn_sum(x)) || cnn_error(g));
        int seen[2][5][5] = { { { 0 } } }, flips = 0;
        CHECK_INT(cnn_feed_augmented(x, NULL, &d, 0, (cnn_augment){ .shift = 2, .flip = 1,
            .reflect = reflect }, 0), COUNT);
        for (int i = 0; i < COUNT; i++) {
            int dy = 0, dx = 0, flip = 0;
            CHECK(explain(cnn_map_read(x) + i * C * H * W, world + i * C * H * W, 2, reflect, &dy, &dx,
                &flip));
            seen[flip][dy + 2][dx + 2]++, flips += flip;
        }
        for (int k = 0; k < 50; k++) CHECK(((int *)seen)[k] >= 1 && ((int *)seen)[k] <= 22);
            /* 8 expected */
        CHECK(flips > 150 && flips < 250);
        cnn_free(g);
    }
    cnn_dataset_free(&d);
}

static void flips_alternate(void)
{
    cnn_dataset d = new_world();
    cnn_graph  *g = cnn_new(.max_batch = COUNT, .seed = 3);
    cnn_tensor *x = cnn_input(g, C, H, W);
    CHECK(cnn_compile(g, cnn_sum(x)) || cnn_error(g));
    int before[COUNT], flips = 0;
    for (int epoch = 0; epoch < 4; epoch++) {
        cnn_feed_augmented(x, NULL, &d, 0, (cnn_augment){ .flip = CNN_FLIP_ALTERNATE }, epoch);
        for (int i = 0; i < COUNT; i++) {
            int dy, dx, flip = 0;
            CHECK(explain(cnn_map_read(x) + i * C * H * W, world + i * C * H * W, 0, false, &dy, &dx, &flip));
            if (epoch) CHECK(flip != before[i]);
            before[i] = flip, flips += flip;
        }
    }
    CHECK_INT(flips, 2 * COUNT);
    cnn_feed_augmented(x, NULL, &d, 0, (cnn_augment){ .flip = CNN_FLIP_ALTERNATE }, 0);
    for (int i = flips = 0; i < COUNT; i++) {
        int dy, dx, flip = 0;
        explain(cnn_map_read(x) + i * C * H * W, world + i * C * H * W, 0, false, &dy, &dx, &flip),
            flips += flip;
    }
    CHECK(flips > 150 && flips < 250);
    cnn_free(g), cnn_dataset_free(&d);
}

static void cutout(void)
{
    cnn_dataset d = new_world();
    cnn_graph  *g = cnn_new(.max_batch = COUNT, .seed = 9);
    cnn_tensor *x = cnn_input(g, C, H, W);
    CHECK(cnn_compile(g, cnn_sum(x)) || cnn_error(g));
    cnn_feed_augmented(x, NULL, &d, 0, (cnn_augment){ .cutout = 3 }, 1);
    int centre[H * W] = { 0 };
    for (int i = 0; i < COUNT; i++) {
        const float *p = cnn_map_read(x) + i * C * H * W, *q = world + i * C * H * W;
        int fits = 0;
        for (int k = 0; k < H * W; k++) {                     /* is k the centre? */
            bool same = true;
            for (int j = 0; j < C * H * W && same; j++) {
                int y = j % (H * W) / W, u = j % W;
                bool cut = abs(y - k / W) <= 1 && abs(u - k % W) <= 1;
                same = p[j] == (cut ? 0 : (q[j] - 0.25f) / 0.5f);
            }
            if (same) centre[k]++, fits++;
        }
        CHECK_INT(fits, 1);
    }
    for (int k = 0; k < H * W; k++) CHECK(centre[k] >= 1 && centre[k] <= 25);
        /* 10 expected */
    cnn_free(g), cnn_dataset_free(&d);
}

/* A sample looks the same wherever it stands and whoever draws it, and otherwise in another epoch or seed. */
static void draws_follow_the_sample(void)
{
    enum { N = C * H * W };
    cnn_dataset d = new_world();
    const cnn_augment a = { .shift = 2, .flip = 1, .cutout = 2 };
    float *all[4];
    for (int run = 0; run < 4; run++) {
        cnn_graph  *g = cnn_new(.max_batch = run == 1 ? 7 : COUNT, .seed = run == 3 ? 6 : 5,
            .threads = run == 1 ? 3 : 1);
        cnn_tensor *x = cnn_input(g, C, H, W);
        CHECK(cnn_compile(g, cnn_sum(x)) || cnn_error(g));
        if (run == 1) cnn_shuffle(&d, 77);
        all[run] = test_floats(COUNT * N);
        for (int i = 0, n; (n = cnn_feed_augmented(x, NULL, &d, i, a, run == 2 ? 1 : 0)) > 0; i += n)
            for (int k = 0; k < n; k++)
                memcpy(all[run] + d.order[i + k] * N, cnn_map_read(x) + k * N, N * sizeof(float));
        cnn_free(g);
    }
    CHECK_SAME_BITS(all[0], all[1], COUNT * N);
    for (int run = 2; run < 4; run++) {
        int same = 0;
        for (int i = 0; i < COUNT; i++) same += memcmp(all[0] + i * N, all[run] + i * N,
            N * sizeof(float)) == 0;
        CHECK(same < COUNT / 10);
    }
    for (int run = 0; run < 4; run++) free(all[run]);
    cnn_dataset_free(&d);
}

static void augment_errors(void)
{
    cnn_dataset d = new_world();
    static const struct { cnn_augment a; const char *message; } bad[] = {
        { { .shift = -1 }, "feed: augment.shift is -1: samples of 6x7 pixels allow 0 to 7" },
        { { .shift = 6, .reflect = 1 }, "feed: augment.shift is 6: samples of 6x7 pixels allow 0 to 5" },
        { { .flip = 3 }, "feed: augment.flip is 3: CNN_FLIP_RANDOM or CNN_FLIP_ALTERNATE" },
        { { .cutout = -1 }, "feed: augment.cutout is -1: too large for samples of 6x7 pixels" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cnn_graph  *g = cnn_new(.max_batch = 4);
        cnn_tensor *x = cnn_input(g, C, H, W);
        CHECK(cnn_compile(g, cnn_sum(x)) || cnn_error(g));
        CHECK_INT(cnn_feed_augmented(x, NULL, &d, 0, bad[i].a, 0), 0);
        CHECK_STR(test_words(cnn_error(g)), bad[i].message);
        cnn_free(g);
    }
    cnn_dataset_free(&d);
}

int main(int argc, char **argv)
{
    test_args(argc, argv);
    RUN(cifar_files);
    RUN(csv_files);
    RUN(npy_types);
    RUN(npy_in_fortran_order);
    RUN(npy_files);
    RUN(shifts_and_flips);
    RUN(flips_alternate);
    RUN(cutout);
    RUN(draws_follow_the_sample);
    RUN(augment_errors);
    return test_end();
}
