/* cnn_opencl.h - the OpenCL companion of cnn.h: the whole training step on a GPU.

   >>usage ---- Usage ----------------------------------------------------------------------------------------

       #define CNN_OPENCL_IMPLEMENTATION                in ONE .c file of the program: that of cnn.h's
       #include "cnn_opencl.h"                          implementation, or another; it includes cnn.h

       cnn_graph *g = cnn_new(.max_batch = 64, .backend = cnn_opencl());      and the rest as on the CPU

   cc -std=c99 -O2 program.c -lm, with the OpenCL headers installed; a glibc before 2.34 also needs -ldl. The
   libraries are looked for when the backend is opened, so the program also starts on a machine that has none
   of them.

   Contents (search for the tag): >>usage >>manual >>api | >>cl-library >>cl-devices >>cl-kernels >>cl-run
   >>cl-gemm >>cl-rows >>cl-open >>licence

   >>manual ---- Manual --------------------------------------------------------------------------------------

   Parameters, activations, gradients and the optimizer's state stay on the device, where every operation of
   cnn.h with all its options, forward and backward, every optimizer, clipping, the moving average and the
   count of correct answers have kernels. A function behind a convolution or dense layer is computed with its
   bias. A training step copies two arrays up, the batch and its labels, and one number down, the loss:
   cnn_copies(g) counts. An operation without a row here, such as one of your own, runs on the CPU between two
   copies; cnn_copies(g).host_nodes and the summary say how many there are.

   Any device with OpenCL 1.2 and work-groups of 256 will do. Which one is taken: .device counts among those
   that .type and .name let through, GPUs (with memory of their own first) before accelerators before CPUs; a
   CPU is taken only when it is asked for. If none of the three is given, the environment variable
   CNN_OPENCL_DEVICE chooses: gpu, accelerator, cpu, all, a number (a place in the list of
   cnn_opencl_devices), or a part of a device's name.

   Errors. cnn_opencl never returns NULL. If the device could not be opened, cnn_opencl_error says why in one
   sentence, and cnn_new makes that sentence the graph's error. A program that would rather run on the CPU
   asks:

       cnn_backend *device = cnn_opencl();
       if (cnn_opencl_error(device)) {
           printf("%s; running on the CPU\n", cnn_opencl_error(device));
           cnn_opencl_close(device), device = NULL;
       }

   If the device fails while it works (lost, out of memory), that is the graph's error, as any other. Then
   cnn_leave_device(g) fetches the parameters, if the device still answers, and the training goes on on the
   CPU.

   A backend belongs to one graph, and cnn_free closes it. One graph belongs to one thread at a time, as
   without a device; CLBlast itself allows only one thread to call it, so give .gemm = CNN_OPENCL_OWN where
   several graphs train in several threads.

   Matrix products are done by CLBlast where libclblast is found, and by a kernel of our own where it is not,
   on CPU devices, from the first product that it refuses, and wherever a check at opening time finds a wrong
   number. Every other kernel is held to the CPU's result, too: an operation whose kernel is wrong on this
   driver, or does not compile, is left to the CPU. cnn_opencl_report says so.

   With .cache = "directory" the compiled kernels are kept there. A file that was cut or changed, or is
   another driver's, is compiled and written again.

   Results are those of the CPU to rounding, dropout masks included. On one device the same seed gives the
   same bits: there are no atomics, and every sum has a fixed order.

   What to install:
       to compile       Debian, Ubuntu: opencl-c-headers, or ocl-icd-opencl-dev with the loader
       NVIDIA           the driver brings OpenCL; where clinfo finds nothing, write libnvidia-opencl.so.1 into
                        /etc/OpenCL/vendors/nvidia.icd
       AMD              rocm-opencl-runtime of ROCm, or mesa-opencl-icd (with RUSTICL_ENABLE=radeonsi)
       Intel            intel-opencl-icd
       Mali, Adreno     libOpenCL.so of the vendor's driver; on Android an app names it in its manifest,
                        <uses-native-library android:name="libOpenCL.so" android:required="false"/>
       Apple            nothing: the framework is part of macOS; CNN_OPENCL_LINK links it directly
       no GPU: a CPU    pocl-opencl-icd, and CNN_OPENCL_DEVICE=cpu
       CLBlast          libclblast-dev or libclblast1; optional
   Tested on PoCL 3.1 with CLBlast 1.5.3 (Debian 12, x86-64) only; for Windows compiled by MinGW, not run.
   The other rows follow the vendors' documentation and were not run.

   Switches:
       CNN_OPENCL_LINK                call libOpenCL directly: link with -lOpenCL (macOS: -framework OpenCL)
       CNN_OPENCL_LINK_CLBLAST        call libclblast directly: link with -lclblast

   >>api ---- API ----------------------------------------------------------------------------------------- */
#ifndef CNN_OPENCL_H_INCLUDED
#define CNN_OPENCL_H_INCLUDED

#include "cnn.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { CNN_OPENCL_GPU = 1, CNN_OPENCL_ACCELERATOR = 2, CNN_OPENCL_CPU = 4, CNN_OPENCL_ALL = 7 };
typedef enum { CNN_OPENCL_AUTO, CNN_OPENCL_OWN, CNN_OPENCL_CLBLAST } cnn_opencl_gemm;

typedef struct {
    const char *at, *said;
    int         device;               /* default the first, 0, of those that type and name let through */
    unsigned    type;                 /* default CNN_OPENCL_GPU | CNN_OPENCL_ACCELERATOR */
    const char *name;                 /* part of the device's or the platform's name; default any */
    /* default: CLBlast on GPUs and accelerators, where it passes the check */
    cnn_opencl_gemm gemm;
    size_t      workspace;            /* bytes that unfolded images may take; default 256 MiB */
    int         no_check;             /* 1: do not hold every kernel to the CPU's result at opening */
    const char *without;              /* operations to leave to the CPU, "conv2d,relu"; default none */
    const char *cache;                /* a directory for compiled kernels, so that the next opening is quick;
                                         default none. What lies there is run: trust it as the program. */
} cnn_opencl_args;

CNN_API cnn_backend *cnn_opencl_(cnn_opencl_args);
/* why it is not open or stopped; NULL: all well */
CNN_API const char  *cnn_opencl_error (const cnn_backend *);
/* the device, who multiplies, what was replaced */
CNN_API const char  *cnn_opencl_report(const cnn_backend *);
CNN_API void         cnn_opencl_close (cnn_backend *);         /* one that was not given to a graph */

/* Tuning of CLBlast for a device that it does not know, as in its CLBlastOverrideParameters; false if refused
   or if CLBlast is not in use. */
CNN_API bool         cnn_opencl_tune(cnn_backend *, const char *kernel, int count, const char **names,
                                     const size_t *values);

/* What there is, in the order in which .device counts with .type = CNN_OPENCL_ALL. Writes at most `capacity`
   entries; returns how many devices there are; 0 also without any OpenCL. */
typedef struct {
    char     name[128], platform[128], version[64];
    unsigned type;                    /* CNN_OPENCL_GPU, ... */
    int      units;                   /* compute units */
    uint64_t memory;                  /* bytes */
} cnn_opencl_device;
CNN_API int          cnn_opencl_devices(cnn_opencl_device *list, int capacity);

#define cnn_opencl(...) CNN_OPTIONS(cnn_opencl_, cnn_opencl_args, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif /* CNN_OPENCL_H_INCLUDED */

/* To USE the companion stop here. To know how it works read on. */
#ifdef CNN_OPENCL_IMPLEMENTATION
#ifndef CNN_OPENCL_IMPLEMENTATION_ONCE
#define CNN_OPENCL_IMPLEMENTATION_ONCE

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#ifdef CNN_NO_STDIO
int vsnprintf(char *, size_t, const char *, va_list);
#else
#include <stdio.h>
#endif

#ifndef CNN_MALLOC                 /* set where the implementation of cnn.h is in the same file */
#define CNN_MALLOC(bytes) malloc(bytes)
#define CNN_FREE(p)       free(p)
#endif
#ifdef __GNUC__                    /* with CNN_OPENCL_LINK nothing is looked for */
#define CNNCL_UNUSED __attribute__((unused))
#else
#define CNNCL_UNUSED
#endif

static void cnncl_say(char *out, size_t room, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(out, room, format, ap);
    va_end(ap);
}

static int cnncl_len(cnn_shape s)      { return s.n * s.c * s.h * s.w; }
static int cnncl_elements(cnn_shape s) { return s.c * s.h * s.w; }       /* of one sample */
static int cnncl_plane(cnn_shape s)    { return s.h * s.w; }

/* ===========================================================================================================
   >>cl-library ---- 1. The libraries: found while the program runs, so that it starts without them
   ======================================================================================================== */

#ifndef CL_TARGET_OPENCL_VERSION
#define CL_TARGET_OPENCL_VERSION 120
#endif
#ifdef __APPLE__
#include <OpenCL/cl.h>
#else
#include <CL/cl.h>
#endif
#ifndef _WIN32
#include <dlfcn.h>
#else                              /* <windows.h> would define near, small and min for the whole file */
struct HINSTANCE__;
#ifdef _WIN64
typedef long long (__stdcall *cnncl_address)(void);
#else
typedef int (__stdcall *cnncl_address)(void);
#endif
__declspec(dllimport) struct HINSTANCE__ *__stdcall LoadLibraryExA(const char *, void *, unsigned long);
__declspec(dllimport) cnncl_address __stdcall GetProcAddress(struct HINSTANCE__ *, const char *);
#endif

/* Every function of OpenCL that is used here: result, name, parameters. */
#define CNNCL_FUNCTIONS(X)                                                                                   \
    X(cl_int, clGetPlatformIDs, (cl_uint, cl_platform_id *, cl_uint *))                                      \
    X(cl_int, clGetPlatformInfo, (cl_platform_id, cl_platform_info, size_t, void *, size_t *))               \
    X(cl_int, clGetDeviceIDs, (cl_platform_id, cl_device_type, cl_uint, cl_device_id *, cl_uint *))          \
    X(cl_int, clGetDeviceInfo, (cl_device_id, cl_device_info, size_t, void *, size_t *))                     \
    X(cl_context, clCreateContext, (const cl_context_properties *, cl_uint, const cl_device_id *,            \
          void (CL_CALLBACK *)(const char *, const void *, size_t, void *), void *, cl_int *))               \
    X(cl_int, clReleaseContext, (cl_context))                                                                \
    X(cl_command_queue, clCreateCommandQueue, (cl_context, cl_device_id, cl_command_queue_properties,        \
                                               cl_int *))                                                    \
    X(cl_int, clReleaseCommandQueue, (cl_command_queue))                                                     \
    X(cl_program, clCreateProgramWithSource, (cl_context, cl_uint, const char **, const size_t *, cl_int *)) \
    X(cl_program, clCreateProgramWithBinary, (cl_context, cl_uint, const cl_device_id *, const size_t *,     \
                                              const unsigned char **, cl_int *, cl_int *))                   \
    X(cl_int, clGetProgramInfo, (cl_program, cl_program_info, size_t, void *, size_t *))                     \
    X(cl_int, clBuildProgram, (cl_program, cl_uint, const cl_device_id *, const char *,                      \
                               void (CL_CALLBACK *)(cl_program, void *), void *))                            \
    X(cl_int, clGetProgramBuildInfo, (cl_program, cl_device_id, cl_program_build_info, size_t, void *,       \
                                      size_t *))                                                             \
    X(cl_int, clReleaseProgram, (cl_program))                                                                \
    X(cl_kernel, clCreateKernel, (cl_program, const char *, cl_int *))                                       \
    X(cl_int, clReleaseKernel, (cl_kernel))                                                                  \
    X(cl_int, clSetKernelArg, (cl_kernel, cl_uint, size_t, const void *))                                    \
    X(cl_int, clEnqueueNDRangeKernel, (cl_command_queue, cl_kernel, cl_uint, const size_t *, const size_t *, \
                                       const size_t *, cl_uint, const cl_event *, cl_event *))               \
    X(cl_mem, clCreateBuffer, (cl_context, cl_mem_flags, size_t, void *, cl_int *))                          \
    X(cl_int, clReleaseMemObject, (cl_mem))                                                                  \
    X(cl_int, clEnqueueReadBuffer, (cl_command_queue, cl_mem, cl_bool, size_t, size_t, void *, cl_uint,      \
                                    const cl_event *, cl_event *))                                           \
    X(cl_int, clEnqueueWriteBuffer, (cl_command_queue, cl_mem, cl_bool, size_t, size_t, const void *,        \
                                     cl_uint, const cl_event *, cl_event *))                                 \
    X(cl_int, clWaitForEvents, (cl_uint, const cl_event *))                                                  \
    X(cl_int, clReleaseEvent, (cl_event))                                                                    \
    X(cl_int, clFlush, (cl_command_queue))                                                                   \
    X(cl_int, clFinish, (cl_command_queue))

/* And of CLBlast (Nugteren 2018), as in clblast_c.h, whose enumerations are passed as int. */
#define CNNCL_BLAS_FUNCTIONS(X)                                                                              \
    X(int, CLBlastSgemm, (int layout, int ta, int tb, size_t m, size_t n, size_t k, float alpha,             \
                          cl_mem a, size_t a_at, size_t lda, cl_mem b, size_t b_at, size_t ldb, float beta,  \
                          cl_mem c, size_t c_at, size_t ldc, cl_command_queue *, cl_event *))                \
    X(int, CLBlastOverrideParameters, (cl_device_id, const char *, int precision, size_t, const char **,     \
                                       const size_t *))                                                      \
    X(int, CLBlastClearCache, (void))

#define CNNCL_FIELD(result, name, parameters) result (CL_API_CALL *name) parameters;
#define CNNCL_BLAS_FIELD(result, name, parameters) result (*name) parameters;
typedef struct { CNNCL_FUNCTIONS(CNNCL_FIELD) } cnncl_api;
typedef struct { CNNCL_BLAS_FUNCTIONS(CNNCL_BLAS_FIELD) } cnncl_blas_api;

/* A library stays loaded once it was found: drivers keep threads and exit handlers of their own. */
static CNNCL_UNUSED void *cnncl_open_library(const char *const *names)
{
    void *library = NULL;
    for (; !library && *names; names++)
#ifdef _WIN32
        library = LoadLibraryExA(*names, NULL, 0x1000);  /* not from the working directory */
#else
        library = dlopen(*names, RTLD_NOW | RTLD_LOCAL);
#endif
    return library;
}

/* A function's address into a function pointer, which C keeps apart from object pointers. */
static CNNCL_UNUSED bool cnncl_find_function(void *library, const char *name, void *function, size_t size)
{
#ifdef _WIN32
    cnncl_address found = GetProcAddress(library, name);
#else
    void *found = dlsym(library, name);
#endif
    if (found && size == sizeof found) memcpy(function, &found, size);
    return found != NULL;
}

#define CNNCL_LINK(result, name, parameters) api->name = name;
#define CNNCL_FIND(result, name, parameters)                                                                 \
    if (!lacks && !cnncl_find_function(library, #name, &api->name, sizeof api->name)) lacks = #name;

/* NULL, or what is missing. */
static const char *cnncl_load_opencl(cnncl_api *api)
{
#ifdef CNN_OPENCL_LINK
    CNNCL_FUNCTIONS(CNNCL_LINK)
    return NULL;
#else
    static const char *const names[] = {
#if defined(_WIN32)
        "OpenCL.dll",
#elif defined(__APPLE__)
        "/System/Library/Frameworks/OpenCL.framework/OpenCL",
#else
        "libOpenCL.so.1", "libOpenCL.so",
#ifdef __ANDROID__
        "libOpenCL-pixel.so", "libGLES_mali.so", "libPVROCL.so",
#endif
#endif
        NULL };
    void *library = cnncl_open_library(names);
    const char *lacks = NULL;
    if (!library) return "libOpenCL was not found";
    CNNCL_FUNCTIONS(CNNCL_FIND)
    return lacks;
#endif
}

#ifdef CNN_OPENCL_LINK_CLBLAST
#define CNNCL_BLAS_DECLARE(result, name, parameters) result name parameters;
CNNCL_BLAS_FUNCTIONS(CNNCL_BLAS_DECLARE)
#endif

static bool cnncl_load_clblast(cnncl_blas_api *api)
{
#ifdef CNN_OPENCL_LINK_CLBLAST
    CNNCL_BLAS_FUNCTIONS(CNNCL_LINK)
    return true;
#else
    static const char *const names[] = {
#if defined(_WIN32)
        "clblast.dll", "libclblast.dll",
#elif defined(__APPLE__)
        "libclblast.1.dylib", "libclblast.dylib", "/opt/homebrew/lib/libclblast.dylib",
            "/usr/local/lib/libclblast.dylib",
#else
        "libclblast.so.1", "libclblast.so",
#endif
        NULL };
    void *library = cnncl_open_library(names);
    const char *lacks = library ? NULL : "libclblast";
    CNNCL_BLAS_FUNCTIONS(CNNCL_FIND)
    return !lacks;
#endif
}

/* ===========================================================================================================
   >>cl-devices ---- 2. Devices: listed, then chosen
   ======================================================================================================== */

typedef struct { cl_platform_id platform; cl_device_id id; cnn_opencl_device about; int rank; } cnncl_device;
enum { CNNCL_MAX_DEVICES = 64, CNNCL_MAX_PLATFORMS = 16 };

/* What the driver says of a platform or, if d is not NULL, a device: cut where the field ends, since a driver
   that is given too little room gives nothing. */
static void cnncl_text(const cnncl_api *cl, cl_platform_id p, cl_device_id d, cl_uint what, char *out,
                       size_t room)
{
    char text[2048] = "";
    if (d) cl->clGetDeviceInfo(d, what, sizeof text - 1, text, NULL);
    else   cl->clGetPlatformInfo(p, what, sizeof text - 1, text, NULL);
    cnncl_say(out, room, "%s", text);
}

/* The order of devices: GPUs, accelerators, CPUs; in each, what has memory of its own before what shares the
   host's, as integrated GPUs do; last what is emulated on Direct3D. */
static int cnncl_rank(const cnncl_api *cl, const cnncl_device *d)
{
    cl_bool shares = CL_FALSE;
    cl->clGetDeviceInfo(d->id, CL_DEVICE_HOST_UNIFIED_MEMORY, sizeof shares, &shares, NULL);
    return (int)d->about.type * 4 + (strstr(d->about.platform, "OpenCLOn12") ? 2 : 0) + (shares ? 1 : 0);
}

/* All devices by rank, equals in the order of the platforms. A platform without a device of a type answers
   with an error and leaves the count alone, so the count starts at zero. */
static int cnncl_list(const cnncl_api *cl, cnncl_device *list)
{
    static const struct { cl_device_type cl; unsigned type; } types[] = {
        { CL_DEVICE_TYPE_GPU, CNN_OPENCL_GPU }, { CL_DEVICE_TYPE_ACCELERATOR, CNN_OPENCL_ACCELERATOR },
        { CL_DEVICE_TYPE_CPU, CNN_OPENCL_CPU } };
    cl_platform_id platform[CNNCL_MAX_PLATFORMS];
    cl_uint        platforms = 0;
    int            count = 0;
    if (cl->clGetPlatformIDs(CNNCL_MAX_PLATFORMS, platform, &platforms) != CL_SUCCESS) return 0;
    if (platforms > CNNCL_MAX_PLATFORMS) platforms = CNNCL_MAX_PLATFORMS;
    for (int t = 0; t < 3; t++)
        for (cl_uint p = 0; p < platforms; p++) {
            cl_device_id id[CNNCL_MAX_DEVICES];
            cl_uint      ids = 0;
            if (cl->clGetDeviceIDs(platform[p], types[t].cl, CNNCL_MAX_DEVICES, id, &ids) != CL_SUCCESS)
                continue;
            for (cl_uint i = 0; i < ids && i < CNNCL_MAX_DEVICES && count < CNNCL_MAX_DEVICES; i++) {
                cnncl_device d = { .platform = platform[p], .id = id[i], .about = { .type = types[t].type } };
                cl_uint      units = 0;
                cl_ulong     memory = 0;
                bool         seen = false;
                for (int k = 0; k < count; k++) seen = seen || list[k].id == id[i];
                if (seen) continue;
                cnncl_text(cl, NULL, d.id, CL_DEVICE_NAME, d.about.name, sizeof d.about.name);
                cnncl_text(cl, NULL, d.id, CL_DEVICE_VERSION, d.about.version, sizeof d.about.version);
                cnncl_text(cl, d.platform, NULL, CL_PLATFORM_NAME, d.about.platform,
                           sizeof d.about.platform);
                cl->clGetDeviceInfo(d.id, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units, &units, NULL);
                cl->clGetDeviceInfo(d.id, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof memory, &memory, NULL);
                d.about.units = (int)units, d.about.memory = memory, d.rank = cnncl_rank(cl, &d);
                int at = count++;
                for (; at > 0 && list[at - 1].rank > d.rank; at--) list[at] = list[at - 1];
                list[at] = d;
            }
        }
    return count;
}

CNN_API int cnn_opencl_devices(cnn_opencl_device *list, int capacity)
{
    cnncl_api     cl;
    cnncl_device *all = CNN_MALLOC(CNNCL_MAX_DEVICES * sizeof *all);
    int             count = all && !cnncl_load_opencl(&cl) ? cnncl_list(&cl, all) : 0;
    for (int i = 0; list && i < count && i < capacity; i++) list[i] = all[i].about;
    CNN_FREE(all);
    return count;
}

/* Is `part` in `text`, whatever the case of letters? */
static bool cnncl_contains(const char *text, const char *part)
{
    for (; *text; text++) {
        size_t k = 0;
        while (part[k] && text[k] && ((unsigned char)text[k] | 32) == ((unsigned char)part[k] | 32)) k++;
        if (!part[k]) return true;
    }
    return !*part;
}

/* The wish in the environment counts where the program has none. */
static void cnncl_wish(cnn_opencl_args *a)
{
    static const struct { const char *word; unsigned type; } words[] = { { "gpu", CNN_OPENCL_GPU },
        { "accelerator", CNN_OPENCL_ACCELERATOR }, { "cpu", CNN_OPENCL_CPU }, { "all", CNN_OPENCL_ALL } };
    const char *wish = a->type || a->name || a->device ? NULL : getenv("CNN_OPENCL_DEVICE");
    if (wish && *wish) {
        char *end;
        long  number = strtol(wish, &end, 10);
        a->type = CNN_OPENCL_ALL;
        if (!*end && number >= 0 && number < CNNCL_MAX_DEVICES) a->device = (int)number;
        else a->name = wish;
        for (int i = 0; i < 4; i++)
            if (strcmp(wish, words[i].word) == 0) a->type = words[i].type, a->name = NULL;
    }
    if (!a->type) a->type = a->name ? CNN_OPENCL_ALL : CNN_OPENCL_GPU | CNN_OPENCL_ACCELERATOR;
}

static const cnncl_device *cnncl_choose(const cnncl_device *list, int count, const cnn_opencl_args *a)
{
    int left = a->device;
    for (int i = 0; i < count; i++) {
        const cnn_opencl_device *d = &list[i].about;
        if (!(d->type & a->type)) continue;
        if (a->name && !cnncl_contains(d->name, a->name) && !cnncl_contains(d->platform, a->name))
            continue;
        if (left-- == 0) return &list[i];
    }
    return NULL;
}

/* ===========================================================================================================
   >>cl-kernels ---- 3. The kernels, in OpenCL C 1.2

   An array is passed as the buffer of its arena and an offset in floats, since a sub-buffer may begin at few
   places. y aliases x where an operation runs in place, so nothing is declared restrict. Gradients are added
   (+=): the executor has zeroed them. What several items would have to add to one place is gathered by the
   owner of the place instead, so that no atomics are needed and each sum has one order.

   The sources are turned into strings by the preprocessor; the lines with # have to be strings as they stand.
   One string holds less than 4096 characters: C promises no more.
   ======================================================================================================== */

#define CNNCL_SOURCE(...) #__VA_ARGS__ "\n"

/* The functions of one number, y = f(x) with constants k0 and k1, and f'(x) in terms of what backward reads:
   y, or x where the room says so. In both formulas that is v. A(X, ...) gives each to A. */
#define CNNCL_ACTIVATIONS(A, X)                                                                              \
    A(X, relu,       v <= 0.0f ? 0.0f : v,              v <= 0.0f ? 0.0f : 1.0f)                             \
    A(X, leaky_relu, v > 0.0f ? v : k0 * v,             v > 0.0f ? 1.0f : k0)                                \
    A(X, sigmoid,    1.0f / (1.0f + exp(-v)),           v * (1.0f - v))                                      \
    A(X, tanh,       tanh(v),                           1.0f - v * v)                                        \
    A(X, clamp,      v < k0 ? fmin(k0, k1) : v > k1 ? k1 : v, v > k0 && v < k1 ? 1.0f : 0.0f)                \
    A(X, elu,        v > 0.0f ? v : k0 * expm1(v),      v > 0.0f ? 1.0f : v + k0)                            \
    A(X, gelu,       k0 != 0.0f ? v * gelu_share(v) : 0.5f * v * erfc(v * -0.707106781f),                    \
                     k0 != 0.0f ? gelu_slope(v)                                                              \
                     : 0.5f * erfc(v * -0.707106781f) + v * 0.398942280f * exp(-0.5f * v * v))               \
    A(X, silu,       v / (1.0f + exp(-v)),              (1.0f + v / (1.0f + exp(v))) / (1.0f + exp(-v)))     \
    A(X, softplus,   k0 * v > k1 ? v : (v < 0.0f ? 0.0f : v) + log1p(exp(-fabs(k0 * v))) / k0,               \
                     k0 * v > k1 ? 1.0f : 1.0f / (1.0f + exp(-k0 * v)))                                      \
    A(X, hard_swish, v * (clamp(v, -3.0f, 3.0f) + 3.0f) / 6.0f,                                              \
                     v <= -3.0f ? 0.0f : v >= 3.0f ? 1.0f : (2.0f * v + 3.0f) / 6.0f)                        \
    A(X, selu,       v > 0.0f ? 1.05070099f * v : 1.75809934f * expm1(v),                                    \
                     v > 0.0f ? 1.05070099f : v + 1.75809934f)                                               \
    A(X, mish,       v * mish_share(v),                 mish_slope(v))                                       \
    A(X, hard_sigmoid, v <= -3.0f ? 0.0f : v >= 3.0f ? 1.0f : (v + 3.0f) / 6.0f,                             \
                     v > 0.0f && v < 1.0f ? 1.0f / 6.0f : 0.0f)                                              \
    A(X, softsign,   v / (1.0f + fabs(v)),              1.0f / ((1.0f + fabs(v)) * (1.0f + fabs(v))))        \
    A(X, exp,        exp(v),                            v)                                                   \
    A(X, log,        log(v),                            1.0f / v)                                            \
    A(X, sqrt,       sqrt(v),                           0.5f / v)                                            \
    A(X, abs,        fabs(v),                           v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : 0.0f)           \
    A(X, erf,        erf(v),                            1.12837917f * exp(-v * v))                           \
    A(X, power,      pow(v, k0),                        k0 == 0.0f ? 0.0f : k0 * pow(v, k0 - 1.0f))

/* Each kernel and the shape of its work: one item per element, one group per element of the result (a sum
   that the group shares), or tiles of the result. */
#define CNNCL_KERNELS(X)                                                                                     \
    X(gemm, TILES) X(gemm_flat, TILES) X(gemm_tall, TILES) X(spread, ITEMS) X(stretch, ITEMS)                \
    X(stretch_back, ITEMS) X(fold_most, ITEMS)                                                               \
    X(fold, ITEMS) X(fold_group, GROUPS) X(copy_rows, ITEMS) X(im2col, ITEMS) X(col2im, ITEMS)               \
    X(rows_to_images, ITEMS) X(images_to_rows, ITEMS) X(conv_forward, ITEMS) X(conv_backward_data, ITEMS)    \
    X(conv_backward_weights, GROUPS) X(max_pool_forward, ITEMS) X(max_pool_backward, ITEMS)                  \
    X(avg_pool_forward, ITEMS) X(avg_pool_backward, ITEMS) X(map_forward, ITEMS) X(map_backward, ITEMS)      \
    X(bias_map, ITEMS) X(softmax_forward, ITEMS) X(softmax_backward, ITEMS) X(dropout, ITEMS)                \
    X(batch_norm_statistics, GROUPS) X(batch_norm_forward, ITEMS) X(batch_norm_sums, GROUPS)                 \
    X(batch_norm_backward, ITEMS) X(label_loss_rows, ITEMS) X(label_loss_mean, GROUPS)                       \
    X(label_loss_share, GROUPS) X(label_loss_backward, ITEMS) X(pair_loss_forward, GROUPS)                   \
    X(pair_loss_backward, ITEMS) X(lrn_forward, ITEMS) X(lrn_backward, ITEMS) X(move, ITEMS)                 \
    X(pad_forward, ITEMS) X(pad_backward, ITEMS) X(adaptive_forward, ITEMS) X(adaptive_backward, ITEMS)      \
    X(upsample_forward, ITEMS) X(upsample_backward, ITEMS) X(prelu_forward, ITEMS)                           \
    X(prelu_backward, ITEMS) X(prelu_weight, GROUPS) X(sample_norm_statistics, GROUPS)                       \
    X(sample_norm_forward, ITEMS) X(sample_norm_backward, GROUPS) X(sample_norm_weight, GROUPS)              \
    X(sgd, ITEMS) X(adam, ITEMS) X(adamw, ITEMS) X(rmsprop, ITEMS) X(rmsprop_centered, ITEMS)                \
    X(adagrad, ITEMS) X(squares, GROUPS) X(correct, GROUPS) X(fill, ITEMS)
#define CNNCL_NUMBER(name, work) CNNCL_##name,
enum { CNNCL_KERNELS(CNNCL_NUMBER) CNNCL_COUNT };
#define CNNCL_HOW(X, name, value, derivative) CNNCL_IS_##name,
enum { CNNCL_IS_NOTHING, CNNCL_ACTIVATIONS(CNNCL_HOW, ) CNNCL_IS_ALL };

enum { CNNCL_LOCAL = 64,            /* items in a group where they do not cooperate */
       CNNCL_GROUP = 256,           /* items in a group that shares a sum */
       /* the items of a tile of a matrix product: 16 x 16, with 4 x 4 numbers each */
       CNNCL_SIDE = 16 };

#define CNNCL_NAME_IS(X, name, value, derivative) "IS_" #name ", "
#define CNNCL_VALUE(X, name, value, derivative) "    if (how == IS_" #name ") return " #value ";\n"
#define CNNCL_SLOPE(X, name, value, derivative) "    if (how == IS_" #name ") return " #derivative ";\n"

/* C (m,n) = A (m,k) B (k,n) + beta C, where A and B have any strides, so that all transposes are one code. An
   item has RM x RN numbers of C, so a tile is 16 RM x 16 RN: fewer where C is thin, which would leave most of
   a tile idle. Layer z of the grid is part z % parts of the sum for image z / parts, the images a_step and
   b_step apart, and goes to slice z of C: the products of the images, or a stack of partial products. */
#define CNNCL_GEMM(name, rm, rn)                                                                             \
    "#define GEMM " #name "\n#define RM " #rm "\n#define RN " #rn "\n"                                       \
    CNNCL_GEMM_SOURCE "#undef GEMM\n#undef RM\n#undef RN\n"
#define CNNCL_GEMM_SOURCE CNNCL_SOURCE(                                                                      \
    __kernel __attribute__((reqd_work_group_size(16, 16, 1)))                                                \
    void GEMM(ARRAY(c), int ldc, ulong slice, float beta, ARRAY(a), int a_row, int a_col, ARRAY(b),          \
              int b_row, int b_col, int m, int n, int k, int k_slice, int parts, ulong a_step, ulong b_step) \
    {                                                                                                        \
        enum { K = 16, TM = 16 * RM, TN = 16 * RN };                                                         \
        __local float as[K][TM + 1]; __local float bs[K][TN + 1];                                            \
        const int x = (int)get_local_id(0); const int y = (int)get_local_id(1); const int me = y * 16 + x;   \
        const int i0 = (int)get_group_id(1) * TM; const int j0 = (int)get_group_id(0) * TN;                  \
        const int z = (int)get_group_id(2); const int image = z / parts;                                     \
        const int first = z % parts * k_slice; const int last = min(k, first + k_slice);                     \
        float sum[RM][RN];                                                                                   \
        BASE(a) BASE(b) BASE(c)                                                                              \
        a += a_step * image, b += b_step * image, c += slice * z;                                            \
        for (int i = 0; i < RM; i++) for (int j = 0; j < RN; j++) sum[i][j] = 0.0f;                          \
        for (int k0 = first; k0 < last; k0 += K) {                                                           \
            /* neighbours read neighbours, whatever the transpose */                                         \
            for (int q = me; q < TM * K; q += 256) {                                                         \
                const int p = a_col == 1 ? q % K : q / TM; const int i = a_col == 1 ? q / K : q % TM;        \
                const size_t at = (size_t)(i0 + i) * a_row + (size_t)(k0 + p) * a_col;                       \
                as[p][i] = i0 + i < m && k0 + p < last ? a[at] : 0.0f;                                       \
            }                                                                                                \
            for (int q = me; q < TN * K; q += 256) {                                                         \
                const int p = b_row == 1 ? q % K : q / TN; const int j = b_row == 1 ? q / K : q % TN;        \
                const size_t at = (size_t)(k0 + p) * b_row + (size_t)(j0 + j) * b_col;                       \
                bs[p][j] = j0 + j < n && k0 + p < last ? b[at] : 0.0f;                                       \
            }                                                                                                \
            barrier(CLK_LOCAL_MEM_FENCE);                                                                    \
            for (int p = 0; p < K; p++) {                                                                    \
                float u[RM]; float v[RN];                                                                    \
                for (int i = 0; i < RM; i++) u[i] = as[p][y + 16 * i];                                       \
                for (int j = 0; j < RN; j++) v[j] = bs[p][x + 16 * j];                                       \
                for (int i = 0; i < RM; i++)                                                                 \
                    for (int j = 0; j < RN; j++) sum[i][j] = mad(u[i], v[j], sum[i][j]);                     \
            }                                                                                                \
            barrier(CLK_LOCAL_MEM_FENCE);                                                                    \
        }                                                                                                    \
        for (int i = 0; i < RM; i++) for (int j = 0; j < RN; j++) {                                          \
            const int r = i0 + y + 16 * i; const int s = j0 + x + 16 * j;                                    \
            if (r >= m || s >= n) continue;                                                                  \
            const size_t at = (size_t)r * ldc + s;                                                           \
            c[at] = beta == 0.0f ? sum[i][j] : sum[i][j] + beta * c[at];                                     \
        }                                                                                                    \
    })

static const char *const cnncl_source[] = {
    "#define ARRAY(a) __global float *a, ulong a##_at\n"
    "#define BASE(a) a += a##_at;\n"
    "#define ITEM(i, n) if (get_global_id(0) >= (size_t)(n)) return; const int i = (int)get_global_id(0);\n"
    "#define GROUP 256\n"
    "#define GROUP_KERNEL __kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))\n"
    CNNCL_SOURCE(
    typedef struct { int n, c, h, w; } shape;
    typedef struct { int n, ic, h, w, oc, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw, groups; } conv;

    /* The sum of v over the items of the group, by halves; every item gets it. */
    float group_sum(float v, __local float *part)
    {
        const int me = (int)get_local_id(0);
        barrier(CLK_LOCAL_MEM_FENCE);
        part[me] = v;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int half_ = GROUP / 2; half_ > 0; half_ /= 2) {
            if (me < half_) part[me] += part[me + half_];
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        return part[0];
    }

    /* Coordinates of element i of an array of shape s, and back; an extent of 1 is stretched over all
       coordinates. */
    shape coordinates(shape s, int i)
    {
        shape at;
        at.w = i % s.w, i /= s.w, at.h = i % s.h, i /= s.h, at.c = i % s.c, at.n = i / s.c;
        return at;
    }
    size_t element(shape s, shape at)
    {
        return (size_t)((((s.n > 1 ? at.n : 0) * s.c + (s.c > 1 ? at.c : 0)) * s.h + (s.h > 1 ? at.h : 0))
                        * s.w + (s.w > 1 ? at.w : 0));
    }),

    /* y = f(x), and dx += dy f'(x), where `how` says which f; 0 is the identity. At the end of a layer the
       function that follows it in place is done at once with the bias: y = f(y + b). gelu_...: the form with
       tanh, where k0 says so. */
    CNNCL_SOURCE(
    float gelu_share(float v) { return 1.0f / (1.0f + exp(-1.59576912f * v * (1.0f + 0.044715f * v * v))); }
    float gelu_slope(float v)
    {
        const float s = gelu_share(v); const float z = s * (1.0f - s);
        return s + (z == 0.0f ? 0.0f : v * z * 1.59576912f * (1.0f + 0.134145f * v * v));
    }
    float mish_share(float v) { return tanh(fmax(v, 0.0f) + log1p(exp(-fabs(v)))); }
    float mish_slope(float v)
    {
        const float t = mish_share(v);
        return t + v * (1.0f - t * t) / (1.0f + exp(-v));
    })
    "enum { IS_nothing, " CNNCL_ACTIVATIONS(CNNCL_NAME_IS, ) "IS_all };\n"
    "float value(int how, float v, float k0, float k1)\n{\n"
    CNNCL_ACTIVATIONS(CNNCL_VALUE, )
    "    return v;\n}\n",
    "float slope(int how, float v, float k0, float k1)\n{\n"
    CNNCL_ACTIVATIONS(CNNCL_SLOPE, )
    "    return 1.0f;\n}\n",
    CNNCL_SOURCE(
    __kernel void map_forward(ARRAY(y), ARRAY(x), int n, int how, float k0, float k1)
    {
        BASE(y) BASE(x) ITEM(i, n)
        y[i] = value(how, x[i], k0, k1);
    }
    __kernel void map_backward(ARRAY(dx), ARRAY(dy), ARRAY(b), int n, int how, float k0, float k1)
    {
        BASE(dx) BASE(dy) BASE(b) ITEM(i, n)
        dx[i] += dy[i] * slope(how, b[i], k0, k1);
    }
    __kernel void bias_map(ARRAY(y), ARRAY(b), int has_bias, int channels, int plane, int n, int how,
                           float k0, float k1)
    {
        BASE(y) BASE(b) ITEM(i, n)
        y[i] = value(how, y[i] + (has_bias ? b[i / plane % channels] : 0.0f), k0, k1);
    }),

    CNNCL_GEMM(gemm, 4, 4),
    CNNCL_GEMM(gemm_flat, 1, 4),
    CNNCL_GEMM(gemm_tall, 4, 1),

    /* spread:  y = beta y + factor x + offset, with x stretched to the shape of y
       stretch: y = a op b, with both stretched; how: the place of the operation in cnncl_binary
       stretch_back: d = dy times the derivative of op to a, or to b; the formulas stand in the room
       fold_most: y = the largest (least: the smallest) x over what y does not tell apart
       fold:    y = beta y + factor (sum of x u over what y does not tell apart), with u stretched to the
                shape of x; has_u = 0 for u = 1. Element q of the sum for y[j] is at folded(j, q). */
    CNNCL_SOURCE(
    __kernel void fill(ARRAY(y), int n, float v)
    {
        BASE(y) ITEM(i, n)
        y[i] = v;
    }
    __kernel void spread(ARRAY(y), shape ys, ARRAY(x), shape xs, int n, float beta, float factor,
                         float offset)
    {
        BASE(y) BASE(x) ITEM(i, n)
        const float v = factor * x[element(xs, coordinates(ys, i))] + offset;
        y[i] = beta == 0.0f ? v : beta * y[i] + v;
    }
    __kernel void stretch(ARRAY(y), shape ys, ARRAY(a), shape as, ARRAY(b), shape bs, int n, int how)
    {
        BASE(y) BASE(a) BASE(b) ITEM(i, n)
        const shape at = coordinates(ys, i);
        const float u = a[element(as, at)]; const float v = b[element(bs, at)];
        y[i] = how == 0 ? u + v : how == 1 ? u - v : how == 2 ? u * v : how == 3 ? u / v
             : how == 4 ? (u > v || u != u ? u : v) : how == 5 ? (u < v || u != u ? u : v)
             : how == 6 ? pow(u, v) : (u == v ? 1.0f : 0.0f);
    }
    float stretch_slope(float u, float v, int how, int to_b)
    {
        if (how == 3) return to_b ? -(u / v) / v : 1.0f / v;
        if (how == 6 && !to_b) return v == 0.0f ? 0.0f : v * pow(u, v - 1.0f);
        if (how == 6) return u == 0.0f && v >= 0.0f ? 0.0f : pow(u, v) * log(u);
        return u == v ? 0.5f : (how == 4) == (to_b != 0) ? (u > v ? 0.0f : 1.0f) : (u < v ? 0.0f : 1.0f);
    }
    __kernel void stretch_back(ARRAY(d), ARRAY(dy), shape ys, ARRAY(a), shape as, ARRAY(b), shape bs, int n,
                               int how, int to_b)
    {
        BASE(d) BASE(dy) BASE(a) BASE(b) ITEM(i, n)
        const shape at = coordinates(ys, i);
        d[i] = dy[i] * stretch_slope(a[element(as, at)], b[element(bs, at)], how, to_b);
    }
    shape folded(shape xs, shape ys, int j, int q)
    {
        shape at;
        if (ys.w == xs.w) at.w = j % xs.w, j /= xs.w; else at.w = q % xs.w, q /= xs.w;
        if (ys.h == xs.h) at.h = j % xs.h, j /= xs.h; else at.h = q % xs.h, q /= xs.h;
        if (ys.c == xs.c) at.c = j % xs.c, j /= xs.c; else at.c = q % xs.c, q /= xs.c;
        at.n = ys.n == xs.n ? j : q;
        return at;
    }
    __kernel void fold_most(ARRAY(y), shape ys, ARRAY(x), shape xs, int n, int count, int least)
    {
        BASE(y) BASE(x) ITEM(j, n)
        float most = x[element(xs, folded(xs, ys, j, 0))];
        for (int q = 1; q < count; q++) {
            const float v = x[element(xs, folded(xs, ys, j, q))];
            if ((least ? v < most : v > most) || v != v) most = v;
        }
        y[j] = most;
    }
    float fold_part(__global float *x, shape xs, __global float *u, shape us, int has_u, shape ys, int j,
                    int q, int count, int step)
    {
        float sum = 0.0f;
        for (; q < count; q += step) {
            const shape at = folded(xs, ys, j, q);
            sum += x[element(xs, at)] * (has_u ? u[element(us, at)] : 1.0f);
        }
        return sum;
    }
    __kernel void fold(ARRAY(y), shape ys, ARRAY(x), shape xs, ARRAY(u), shape us, int has_u, int n,
                       int count, float beta, float factor)
    {
        BASE(y) BASE(x) BASE(u) ITEM(j, n)
        const float sum = factor * fold_part(x, xs, u, us, has_u, ys, j, 0, count, 1);
        y[j] = beta == 0.0f ? sum : beta * y[j] + sum;
    }
    GROUP_KERNEL void fold_group(ARRAY(y), shape ys, ARRAY(x), shape xs, ARRAY(u), shape us, int has_u, int n,
                                 int count, float beta, float factor)
    {
        __local float part[GROUP]; BASE(y) BASE(x) BASE(u)
        const int j = (int)get_group_id(0);
        const float sum = factor * group_sum(fold_part(x, xs, u, us, has_u, ys, j, (int)get_local_id(0),
                                                       count, GROUP), part);
        if (get_local_id(0) == 0) y[j] = beta == 0.0f ? sum : beta * y[j] + sum;
    }
    /* row r of y, of `length` floats, = beta y + row r of x; rows are y_step and x_step apart */
    __kernel void copy_rows(ARRAY(y), int y_step, ARRAY(x), int x_step, int length, int n, float beta)
    {
        BASE(y) BASE(x) ITEM(i, n)
        const size_t row = i / length; const size_t col = i % length;
        const float v = x[row * x_step + col];
        y[row * y_step + col] = beta == 0.0f ? v : beta * y[row * y_step + col] + v;
    }
    /* element i of a, as cnn_move tells its place in b: the one is beta times itself + the other; into = 1
       writes b */
    int moved(int i, int div, int step_, int within) { return i / div * step_ + i % div * within; }
    __kernel void move(ARRAY(a), shape as, ARRAY(b), int at, shape div, shape step_, shape within, int n,
                       int into, float beta)
    {
        BASE(a) BASE(b) ITEM(i, n)
        const shape c = coordinates(as, i);
        const int p = at + moved(c.n, div.n, step_.n, within.n) + moved(c.c, div.c, step_.c, within.c)
                    + moved(c.h, div.h, step_.h, within.h) + moved(c.w, div.w, step_.w, within.w);
        if (into) b[p] = beta == 0.0f ? a[i] : beta * b[p] + a[i];
        else      a[i] = beta == 0.0f ? b[p] : beta * a[i] + b[p];
    }),

    /* A padded axis: place i of y, counted from the first of x, is this place of x, of n; -1: none. mode: 1
       the mirror, 2 the edge. Back: place k of x is at so many places of y, of out, some of which are none:
       number j. from: of x in y. */
    CNNCL_SOURCE(
    int pad_source(int i, int n, int mode)
    {
        if (mode == 0) return i >= 0 && i < n ? i : -1;
        return mode == 2 ? clamp(i, 0, n - 1) : i < 0 ? -i : i < n ? i : 2 * (n - 1) - i;
    }
    int pad_places(int k, int n, int from, int out, int mode)
    {
        return mode == 0 ? 1 : mode == 1 ? 3 : 1 + (k == 0 ? from : 0) + (k == n - 1 ? out - from - n : 0);
    }
    int pad_place(int j, int k, int n, int from, int out, int mode)
    {
        if (mode != 1) return from + k + j - (mode == 2 && k == 0 ? from : 0);
        if (j == 0) return from + k;
        if (j == 1) return k > 0 && k <= from ? from - k : -1;
        return k < n - 1 && from + 2 * (n - 1) - k < out ? from + 2 * (n - 1) - k : -1;
    }
    __kernel void pad_forward(ARRAY(y), shape ys, ARRAY(x), shape xs, shape from, int mode, float value,
                              int n)
    {
        BASE(y) BASE(x) ITEM(i, n)
        const shape at = coordinates(ys, i);
        const int c = pad_source(at.c - from.c, xs.c, mode);
        const int h = pad_source(at.h - from.h, xs.h, mode);
        const int w = pad_source(at.w - from.w, xs.w, mode);
        y[i] = c < 0 || h < 0 || w < 0 ? value : x[((at.n * xs.c + c) * xs.h + h) * xs.w + w];
    }
    __kernel void pad_backward(ARRAY(dx), shape xs, ARRAY(dy), shape ys, shape from, int mode, int n)
    {
        BASE(dx) BASE(dy) ITEM(i, n)
        const shape at = coordinates(xs, i);
        float sum = 0.0f;
        for (int a = 0; a < pad_places(at.c, xs.c, from.c, ys.c, mode); a++) {
            const int c = pad_place(a, at.c, xs.c, from.c, ys.c, mode);
            for (int b = 0; c >= 0 && b < pad_places(at.h, xs.h, from.h, ys.h, mode); b++) {
                const int h = pad_place(b, at.h, xs.h, from.h, ys.h, mode);
                for (int d = 0; h >= 0 && d < pad_places(at.w, xs.w, from.w, ys.w, mode); d++) {
                    const int w = pad_place(d, at.w, xs.w, from.w, ys.w, mode);
                    if (w >= 0) sum += dy[((at.n * ys.c + c) * ys.h + h) * ys.w + w];
                }
            }
        }
        dx[i] += sum;
    }

    /* The pixels of bin i, of `bins`, from b0 on below b1; and so the bins that pixel i is in. */
    int bin_from(int i, int size, int bins) { return (int)((long)i * size / bins); }
    int bin_to(int i, int size, int bins)   { return (int)(((long)(i + 1) * size + bins - 1) / bins); }
    __kernel void adaptive_forward(ARRAY(y), shape ys, ARRAY(x), shape xs, int n)
    {
        BASE(y) BASE(x) ITEM(i, n)
        const shape at = coordinates(ys, i);
        const int y0 = bin_from(at.h, xs.h, ys.h); const int y1 = bin_to(at.h, xs.h, ys.h);
        const int x0 = bin_from(at.w, xs.w, ys.w); const int x1 = bin_to(at.w, xs.w, ys.w);
        float sum = 0.0f;
        x += (size_t)(at.n * xs.c + at.c) * xs.h * xs.w;
        for (int r = y0; r < y1; r++) for (int q = x0; q < x1; q++) sum += x[r * xs.w + q];
        y[i] = sum / ((float)(y1 - y0) * (float)(x1 - x0));
    }
    __kernel void adaptive_backward(ARRAY(dx), shape xs, ARRAY(dy), shape ys, int n)
    {
        BASE(dx) BASE(dy) ITEM(i, n)
        const shape at = coordinates(xs, i);
        float sum = 0.0f;
        dy += (size_t)(at.n * xs.c + at.c) * ys.h * ys.w;
        for (int r = bin_from(at.h, ys.h, xs.h); r < bin_to(at.h, ys.h, xs.h); r++)
            for (int q = bin_from(at.w, ys.w, xs.w); q < bin_to(at.w, ys.w, xs.w); q++)
                sum += dy[r * ys.w + q] / ((float)(bin_to(r, xs.h, ys.h) - bin_from(r, xs.h, ys.h))
                                           * (float)(bin_to(q, xs.w, ys.w) - bin_from(q, xs.w, ys.w)));
        dx[i] += sum;
    }),

    /* Convolution as a matrix product (Chellapilla et al. 2006), y = w col, over columns first .. first +
       count - 1 of all N OH OW columns. Row (c,i,k) of col holds x[n][c][oy SH - PH + i DH][ox SW - PW + k
       DW] at column (n,oy,ox). */
    CNNCL_SOURCE(
    __kernel void im2col(ARRAY(col), ARRAY(x), conv g, int first, int count)
    {
        BASE(col) BASE(x) ITEM(j, count)
        const int c = (int)get_global_id(1); const int n = (first + j) / (g.oh * g.ow);
        const int p = (first + j) % (g.oh * g.ow);
        const int y0 = p / g.ow * g.sh - g.ph; const int x0 = p % g.ow * g.sw - g.pw;
        x += (size_t)(n * g.ic + c) * g.h * g.w;
        col += (size_t)c * g.kh * g.kw * count + j;
        for (int i = 0; i < g.kh; i++) for (int k = 0; k < g.kw; k++, col += count) {
            const int iy = y0 + i * g.dh; const int ix = x0 + k * g.dw;
            *col = iy >= 0 && iy < g.h && ix >= 0 && ix < g.w ? x[(size_t)iy * g.w + ix] : 0.0f;
        }
    }
    /* dx += the elements of col that came from it; item i counts from sample n0 */
    __kernel void col2im(ARRAY(dx), ARRAY(col), conv g, int first, int count, int n0, int items)
    {
        BASE(dx) BASE(col) ITEM(i, items)
        const int ix = i % g.w; const int iy = i / g.w % g.h;
        const int c = i / (g.w * g.h) % g.ic; const int n = n0 + i / (g.w * g.h * g.ic);
        float sum = 0.0f;
        for (int kh = 0; kh < g.kh; kh++) {
            const int ty = iy + g.ph - kh * g.dh; const int oy = ty / g.sh;
            if (ty < 0 || ty % g.sh || oy >= g.oh) continue;
            for (int kw = 0; kw < g.kw; kw++) {
                const int tx = ix + g.pw - kw * g.dw; const int ox = tx / g.sw;
                if (tx < 0 || tx % g.sw || ox >= g.ow) continue;
                const int j = (n * g.oh + oy) * g.ow + ox - first;
                if (j >= 0 && j < count) sum += col[(size_t)((c * g.kh + kh) * g.kw + kw) * count + j];
            }
        }
        dx[((size_t)n0 * g.ic * g.h * g.w) + i] += sum;
    }
    /* between rows (C, count) of such columns and images (N,C,P); forward adds the bias, and takes f of it */
    __kernel void rows_to_images(ARRAY(y), ARRAY(rows), ARRAY(bias), int has_bias, int channels, int plane,
                                 int first, int count, float beta, int how, float k0, float k1)
    {
        BASE(y) BASE(rows) BASE(bias) ITEM(j, count)
        const int c = (int)get_global_id(1); const int n = (first + j) / plane;
        const int p = (first + j) % plane;
        const size_t at = (size_t)(n * channels + c) * plane + p;
        const float v = value(how, rows[(size_t)c * count + j] + (has_bias ? bias[c] : 0.0f), k0, k1);
        y[at] = beta == 0.0f ? v : beta * y[at] + v;
    }
    __kernel void images_to_rows(ARRAY(rows), ARRAY(y), int channels, int plane, int first, int count)
    {
        BASE(rows) BASE(y) ITEM(j, count)
        const int c = (int)get_global_id(1); const int n = (first + j) / plane;
        const int p = (first + j) % plane;
        rows[(size_t)c * count + j] = y[(size_t)(n * channels + c) * plane + p];
    }),

    /* Convolution by its definition, for groups (depthwise among them), whose matrices would be thin. */
    CNNCL_SOURCE(
    __kernel void conv_forward(ARRAY(y), ARRAY(x), ARRAY(w), ARRAY(b), int has_bias, conv g, int items,
                               float beta, int how, float k0, float k1)
    {
        BASE(y) BASE(x) BASE(w) BASE(b) ITEM(o, items)
        const int ox = o % g.ow; const int oy = o / g.ow % g.oh;
        const int oc = o / (g.ow * g.oh) % g.oc; const int n = o / (g.ow * g.oh * g.oc);
        const int channels = g.ic / g.groups; const int c0 = oc / (g.oc / g.groups) * channels;
        float sum = has_bias ? b[oc] : 0.0f;
        for (int c = 0; c < channels; c++) for (int i = 0; i < g.kh; i++) {
            const int iy = oy * g.sh - g.ph + i * g.dh;
            if (iy < 0 || iy >= g.h) continue;
            for (int j = 0; j < g.kw; j++) {
                const int ix = ox * g.sw - g.pw + j * g.dw;
                if (ix < 0 || ix >= g.w) continue;
                sum += w[((size_t)(oc * channels + c) * g.kh + i) * g.kw + j]
                    * x[((size_t)(n * g.ic + c0 + c) * g.h + iy) * g.w + ix];
            }
        }
        sum = value(how, sum, k0, k1);
        y[o] = beta == 0.0f ? sum : beta * y[o] + sum;
    }
    __kernel void conv_backward_data(ARRAY(dx), ARRAY(dy), ARRAY(w), conv g, int items)
    {
        BASE(dx) BASE(dy) BASE(w) ITEM(o, items)
        const int ix = o % g.w; const int iy = o / g.w % g.h;
        const int ic = o / (g.w * g.h) % g.ic; const int n = o / (g.w * g.h * g.ic);
        const int channels = g.ic / g.groups; const int outs = g.oc / g.groups;
        const int group = ic / channels;
        float sum = 0.0f;
        for (int i = 0; i < g.kh; i++) {
            const int ty = iy + g.ph - i * g.dh; const int oy = ty / g.sh;
            if (ty < 0 || ty % g.sh || oy >= g.oh) continue;
            for (int j = 0; j < g.kw; j++) {
                const int tx = ix + g.pw - j * g.dw; const int ox = tx / g.sw;
                if (tx < 0 || tx % g.sw || ox >= g.ow) continue;
                for (int oc = group * outs; oc < (group + 1) * outs; oc++)
                    sum += w[((size_t)(oc * channels + ic - group * channels) * g.kh + i) * g.kw + j]
                         * dy[((size_t)(n * g.oc + oc) * g.oh + oy) * g.ow + ox];
            }
        }
        dx[o] += sum;
    }),
    CNNCL_SOURCE(
    GROUP_KERNEL void conv_backward_weights(ARRAY(dw), ARRAY(x), ARRAY(dy), conv g)
    {
        __local float part[GROUP]; BASE(dw) BASE(x) BASE(dy)
        const int o = (int)get_group_id(0); const int channels = g.ic / g.groups;
        const int plane = g.oh * g.ow;
        const int j = o % g.kw; const int i = o / g.kw % g.kh; const int oc = o / (g.kw * g.kh * channels);
        const int ic = oc / (g.oc / g.groups) * channels + o / (g.kw * g.kh) % channels;
        float sum = 0.0f;
        for (int q = (int)get_local_id(0); q < g.n * plane; q += GROUP) {
            const int n = q / plane; const int p = q % plane;
            const int iy = p / g.ow * g.sh - g.ph + i * g.dh;
            const int ix = p % g.ow * g.sw - g.pw + j * g.dw;
            if (iy < 0 || iy >= g.h || ix < 0 || ix >= g.w) continue;
            sum += x[((size_t)(n * g.ic + ic) * g.h + iy) * g.w + ix]
                * dy[(size_t)(n * g.oc + oc) * plane + p];
        }
        sum = group_sum(sum, part);
        if (get_local_id(0) == 0) dw[o] += sum;
    }),

    /* Pooling windows start at oy SH - PH; saved is the place of the maximum in its plane, the first one in a
       tie. Of a window of every d-th element that starts at i: the first one inside. */
    CNNCL_SOURCE(
    int first_inside(int i, int d) { return i < 0 ? i + (d - 1 - i) / d * d : i; }
    __kernel void max_pool_forward(ARRAY(y), ARRAY(x), ARRAY(saved), int save, conv g, int items)
    {
        BASE(y) BASE(x) BASE(saved) ITEM(o, items)
        const int ox = o % g.ow; const int oy = o / g.ow % g.oh;
        const size_t plane = (size_t)(o / (g.ow * g.oh)) * g.h * g.w;
        const int top = oy * g.sh - g.ph; const int left = ox * g.sw - g.pw;
        const int y0 = first_inside(top, g.dh); const int y1 = min(top + (g.kh - 1) * g.dh + 1, g.h);
        const int x0 = first_inside(left, g.dw); const int x1 = min(left + (g.kw - 1) * g.dw + 1, g.w);
        int best = y0 * g.w + x0;
        for (int iy = y0; iy < y1; iy += g.dh) for (int ix = x0; ix < x1; ix += g.dw) {
            const float v = x[plane + iy * g.w + ix];
            if (v > x[plane + best] || isnan(v)) best = iy * g.w + ix;
        }
        y[o] = x[plane + best];
        if (save) ((__global int *)saved)[o] = best;
    }
    /* first and last output whose window holds input i, along one side */
    int first_window(int i, int k, int s, int p) { return max((i + p - k + s) / s, 0); }
    int last_window(int i, int s, int p, int o)  { return min((i + p) / s, o - 1); }
    __kernel void max_pool_backward(ARRAY(dx), ARRAY(dy), ARRAY(saved), conv g, int items)
    {
        BASE(dx) BASE(dy) BASE(saved) ITEM(i, items)
        const int me = i % (g.h * g.w); const size_t out = (size_t)(i / (g.h * g.w)) * g.oh * g.ow;
        const int iy = me / g.w; const int ix = me % g.w;
        const int kh = (g.kh - 1) * g.dh + 1; const int kw = (g.kw - 1) * g.dw + 1;
        float sum = 0.0f;
        for (int oy = first_window(iy, kh, g.sh, g.ph); oy <= last_window(iy, g.sh, g.ph, g.oh); oy++)
            for (int ox = first_window(ix, kw, g.sw, g.pw); ox <= last_window(ix, g.sw, g.pw, g.ow); ox++)
                if (((__global int *)saved)[out + oy * g.ow + ox] == me) sum += dy[out + oy * g.ow + ox];
        dx[i] += sum;
    }
    /* what a mean over the window at (oy,ox) divides by: its part inside the image, or inside image and
       padding, which may be more than an int holds */
    int inside(int start, int k, int d, int size, int before, int behind)
    {
        const int first = first_inside(start + before, d) - before;
        return (min(start + (k - 1) * d + 1, size + behind) - first + d - 1) / d;
    }
    float window_size(conv g, shape pad, int oy, int ox)
    {
        return (float)inside(oy * g.sh - g.ph, g.kh, g.dh, g.h, pad.n, pad.c)
             * (float)inside(ox * g.sw - g.pw, g.kw, g.dw, g.w, pad.h, pad.w);
    }
    __kernel void avg_pool_forward(ARRAY(y), ARRAY(x), conv g, shape pad, int items)
    {
        BASE(y) BASE(x) ITEM(o, items)
        const int ox = o % g.ow; const int oy = o / g.ow % g.oh;
        const size_t plane = (size_t)(o / (g.ow * g.oh)) * g.h * g.w;
        const int top = oy * g.sh - g.ph; const int left = ox * g.sw - g.pw;
        const int y1 = min(top + (g.kh - 1) * g.dh + 1, g.h);
        const int x1 = min(left + (g.kw - 1) * g.dw + 1, g.w);
        float sum = 0.0f;
        for (int iy = first_inside(top, g.dh); iy < y1; iy += g.dh)
            for (int ix = first_inside(left, g.dw); ix < x1; ix += g.dw) sum += x[plane + iy * g.w + ix];
        y[o] = sum / window_size(g, pad, oy, ox);
    }
    __kernel void avg_pool_backward(ARRAY(dx), ARRAY(dy), conv g, shape pad, int items)
    {
        BASE(dx) BASE(dy) ITEM(i, items)
        const int ix = i % g.w; const int iy = i / g.w % g.h;
        const size_t out = (size_t)(i / (g.h * g.w)) * g.oh * g.ow;
        const int kh = (g.kh - 1) * g.dh + 1; const int kw = (g.kw - 1) * g.dw + 1;
        float sum = 0.0f;
        for (int oy = first_window(iy, kh, g.sh, g.ph); oy <= last_window(iy, g.sh, g.ph, g.oh); oy++)
            for (int ox = first_window(ix, kw, g.sw, g.pw); ox <= last_window(ix, g.sw, g.pw, g.ow); ox++)
                if ((iy + g.ph - oy * g.sh) % g.dh == 0 && (ix + g.pw - ox * g.sw) % g.dw == 0)
                    sum += dy[out + oy * g.ow + ox] / window_size(g, pad, oy, ox);
        dx[i] += sum;
    }),

    /* softmax over C of x (N,C,P), or its logarithm; one item per (n,p). With top = max x:
           softmax:   y = exp(x - top) / sum exp(x - top),      dx += y (dy - sum y dy)
           logarithm: y = x - top - log sum exp(x - top),       dx += dy - exp(y) sum dy */
    CNNCL_SOURCE(
    __kernel void softmax_forward(ARRAY(y), ARRAY(x), int channels, int plane, int items, int logarithm)
    {
        BASE(y) BASE(x) ITEM(i, items)
        const size_t first = (size_t)(i / plane) * channels * plane + i % plane;
        const size_t end = first + (size_t)channels * plane;
        float top = x[first]; float sum = 0.0f;
        for (size_t at = first; at < end; at += plane) top = fmax(top, x[at]);
        for (size_t at = first; at < end; at += plane) sum += exp(x[at] - top);
        for (size_t at = first; at < end; at += plane)
            y[at] = logarithm ? x[at] - top - log(sum) : exp(x[at] - top) / sum;
    }
    __kernel void softmax_backward(ARRAY(dx), ARRAY(dy), ARRAY(y), int channels, int plane, int items,
                                   int logarithm)
    {
        BASE(dx) BASE(dy) BASE(y) ITEM(i, items)
        const size_t first = (size_t)(i / plane) * channels * plane + i % plane;
        const size_t end = first + (size_t)channels * plane;
        float sum = 0.0f;
        for (size_t at = first; at < end; at += plane) sum += logarithm ? dy[at] : y[at] * dy[at];
        for (size_t at = first; at < end; at += plane)
            dx[at] += logarithm ? dy[at] - exp(y[at]) * sum : y[at] * (dy[at] - sum);
    }),

    /* Local response normalisation: s = k + share sum of x^2 over the channels c - left .. c + right,
       y = x s^-beta,  dx += dy s^-beta - 2 share beta x (sum of dy y / s over c in whose window it is). */
    CNNCL_SOURCE(
    __kernel void lrn_forward(ARRAY(y), ARRAY(x), ARRAY(saved), int save, int size, float share, float beta,
                              float k, int channels, int plane, int n)
    {
        BASE(y) BASE(x) BASE(saved) ITEM(i, n)
        const int c = i / plane % channels; const size_t first = (size_t)i - (size_t)c * plane;
        float sum = 0.0f;
        for (int j = max(c - size / 2, 0); j <= min(c + (size - 1) / 2, channels - 1); j++)
            sum += x[first + (size_t)j * plane] * x[first + (size_t)j * plane];
        sum = k + share * sum;
        y[i] = x[i] * pow(sum, -beta);
        if (save) saved[i] = sum;
    }
    __kernel void lrn_backward(ARRAY(dx), ARRAY(dy), ARRAY(x), ARRAY(y), ARRAY(saved), int size, float share,
                               float beta, int channels, int plane, int n)
    {
        BASE(dx) BASE(dy) BASE(x) BASE(y) BASE(saved) ITEM(i, n)
        const int c = i / plane % channels; const size_t first = (size_t)i - (size_t)c * plane;
        float sum = 0.0f;
        for (int j = max(c - (size - 1) / 2, 0); j <= min(c + size / 2, channels - 1); j++) {
            const size_t at = first + (size_t)j * plane;
            sum += dy[at] * y[at] / saved[at];
        }
        dx[i] += dy[i] * pow(saved[i], -beta) - 2.0f * share * beta * x[i] * sum;
    }

    /* Upsampling, as in the room: output i lies between rows a and b, at the distance t from a. filter: 0
       nearest, 1 bilinear, 2 bilinear with aligned corners. */
    typedef struct { int a, b; float t; } between;
    between source(int i, int in, int out, int filter)
    {
        between r;
        float at = ((float)i + 0.5f) * (float)in / (float)out - 0.5f;
        if (filter == 2) at = out > 1 ? (float)i * (float)(in - 1) / (float)(out - 1) : 0.0f;
        at = fmax(at, 0.0f);
        r.a = filter ? min((int)at, in - 1) : (int)((long)i * in / out);
        r.b = filter ? min(r.a + 1, in - 1) : r.a;
        r.t = filter ? at - (float)r.a : 0.0f;
        return r;
    }
    __kernel void upsample_forward(ARRAY(y), shape ys, ARRAY(x), shape xs, int filter, int n)
    {
        BASE(y) BASE(x) ITEM(i, n)
        const between r = source(i / ys.w % ys.h, xs.h, ys.h, filter);
        const between q = source(i % ys.w, xs.w, ys.w, filter);
        x += (size_t)(i / (ys.w * ys.h)) * xs.h * xs.w;
        y[i] = (1.0f - r.t) * ((1.0f - q.t) * x[r.a * xs.w + q.a] + q.t * x[r.a * xs.w + q.b])
             + r.t * ((1.0f - q.t) * x[r.b * xs.w + q.a] + q.t * x[r.b * xs.w + q.b]);
    }
    /* The first output that reads input i or a later one: a and b never fall. What output o takes of i. */
    int first_reader(int i, int in, int out, int filter)
    {
        int from = 0; int to = out;
        while (from < to) {
            const int middle = (from + to) / 2;
            if (source(middle, in, out, filter).b >= i) to = middle; else from = middle + 1;
        }
        return from;
    }
    float share_of(between r, int i) { return (r.a == i ? 1.0f - r.t : 0.0f) + (r.b == i ? r.t : 0.0f); }
    __kernel void upsample_backward(ARRAY(dx), shape xs, ARRAY(dy), shape ys, int filter, int n)
    {
        BASE(dx) BASE(dy) ITEM(i, n)
        const int row = i / xs.w % xs.h; const int col = i % xs.w;
        const int left = first_reader(col, xs.w, ys.w, filter);
        float sum = 0.0f;
        dy += (size_t)(i / (xs.w * xs.h)) * ys.h * ys.w;
        for (int a = first_reader(row, xs.h, ys.h, filter); a < ys.h; a++) {
            const between r = source(a, xs.h, ys.h, filter);
            if (r.a > row) break;
            for (int b = left; b < ys.w; b++) {
                const between q = source(b, xs.w, ys.w, filter);
                if (q.a > col) break;
                sum += share_of(r, row) * share_of(q, col) * dy[a * ys.w + b];
            }
        }
        dx[i] += sum;
    }),

    CNNCL_SOURCE(
    /* y = beta y + mask x / (1 - p), where the mask is zero with probability p: number i of the stream, by
       the same Philox4x32-10 as cnn_random, so that the CPU draws the same mask and backward need not keep
       it. */
    uint4 philox(uint4 c, uint2 k)
    {
        for (int round_ = 0; round_ < 10; round_++) {
            c = (uint4)(mul_hi(0xCD9E8D57u, c.z) ^ c.y ^ k.x, 0xCD9E8D57u * c.z,
                        mul_hi(0xD2511F53u, c.x) ^ c.w ^ k.y, 0xD2511F53u * c.x);
            k += (uint2)(0x9E3779B9u, 0xBB67AE85u);
        }
        return c;
    }
    __kernel void dropout(ARRAY(y), ARRAY(x), ulong key, ulong stream, float p, float beta, int n)
    {
        BASE(y) BASE(x) ITEM(i, n)
        const uint4 r = philox((uint4)((uint)i / 4, 0, (uint)stream, (uint)(stream >> 32)),
                               (uint2)((uint)key, (uint)(key >> 32)));
        const uint bits = i % 4 == 0 ? r.x : i % 4 == 1 ? r.y : i % 4 == 2 ? r.z : r.w;
        const float v = (float)(bits >> 8) * (1.0f / 16777216.0f) < p ? 0.0f : x[i] * (1.0f / (1.0f - p));
        y[i] = beta == 0.0f ? v : beta * y[i] + v;
    }),

    /* Batch norm over (N,P) of x (N,C,P). mean and inverse = 1/sqrt(variance + eps) by two passes, since the
       difference of two large sums would lose the variance. Backward, h = (x - mean) inverse and m = N P:
           dw = sum dy h,  db = sum dy,  dx += w inverse (dy - db / m - h dw / m)
       running: the statistics are the running ones, `inverse` holds their variance, and dx += w inverse dy. */
    CNNCL_SOURCE(
    GROUP_KERNEL void batch_norm_statistics(ARRAY(x), ARRAY(mean), ARRAY(inverse), ARRAY(running_mean),
                                            ARRAY(running_var), int channels, int plane, int count, float eps,
                                            float momentum)
    {
        __local float part[GROUP]; BASE(x) BASE(mean) BASE(inverse) BASE(running_mean) BASE(running_var)
        const int c = (int)get_group_id(0);
        float sum = 0.0f; float square = 0.0f;
        for (int q = (int)get_local_id(0); q < count; q += GROUP)
            sum += x[(size_t)(q / plane * channels + c) * plane + q % plane];
        const float m = group_sum(sum, part) / (float)count;
        for (int q = (int)get_local_id(0); q < count; q += GROUP) {
            const float d = x[(size_t)(q / plane * channels + c) * plane + q % plane] - m;
            square += d * d;
        }
        square = group_sum(square, part);
        if (get_local_id(0) != 0) return;
        mean[c] = m, inverse[c] = 1.0f / sqrt(square / (float)count + eps);
        running_mean[c] = (1.0f - momentum) * running_mean[c] + momentum * m;
        running_var[c] = (1.0f - momentum) * running_var[c] + momentum * (square / (float)max(count - 1, 1));
    }
    float inverse_of(float v, float eps, int running) { return running ? 1.0f / sqrt(v + eps) : v; }
    __kernel void batch_norm_forward(ARRAY(y), ARRAY(x), ARRAY(mean), ARRAY(inverse), ARRAY(w), ARRAY(b),
                                     int affine, int channels, int plane, int n, float eps, int running)
    {
        BASE(y) BASE(x) BASE(mean) BASE(inverse) BASE(w) BASE(b) ITEM(i, n)
        const int c = i / plane % channels;
        const float h = (x[i] - mean[c]) * inverse_of(inverse[c], eps, running);
        y[i] = affine ? w[c] * h + b[c] : h;
    }
    /* sums (2,C): of dy h, then of dy; added to dw and db where these are wanted */
    GROUP_KERNEL void batch_norm_sums(ARRAY(sums), ARRAY(dw), int want_dw, ARRAY(db), int want_db, ARRAY(x),
                                      ARRAY(dy), ARRAY(mean), ARRAY(inverse), int channels, int plane,
                                      int count, float eps, int running)
    {
        __local float part[GROUP]; BASE(sums) BASE(dw) BASE(db) BASE(x) BASE(dy) BASE(mean) BASE(inverse)
        const int c = (int)get_group_id(0);
        float sum = 0.0f; float with_h = 0.0f; const float r = inverse_of(inverse[c], eps, running);
        for (int q = (int)get_local_id(0); q < count; q += GROUP) {
            const size_t at = (size_t)(q / plane * channels + c) * plane + q % plane;
            sum += dy[at], with_h += dy[at] * (x[at] - mean[c]) * r;
        }
        sum = group_sum(sum, part);
        with_h = group_sum(with_h, part);
        if (get_local_id(0) != 0) return;
        sums[c] = with_h, sums[channels + c] = sum;
        if (want_dw) dw[c] += with_h;
        if (want_db) db[c] += sum;
    }
    __kernel void batch_norm_backward(ARRAY(dx), ARRAY(dy), ARRAY(x), ARRAY(mean), ARRAY(inverse), ARRAY(w),
                                      int affine, ARRAY(sums), int channels, int plane, int count, int n,
                                      float eps, int running)
    {
        BASE(dx) BASE(dy) BASE(x) BASE(mean) BASE(inverse) BASE(w) BASE(sums) ITEM(i, n)
        const int c = i / plane % channels; const float m = (float)count;
        const float r = inverse_of(inverse[c], eps, running); const float h = (x[i] - mean[c]) * r;
        const float d = dy[i] - (running ? 0.0f : sums[channels + c] / m + h * sums[c] / m);
        dx[i] += (affine ? w[c] : 1.0f) * r * d;
    }),

    /* prelu: y = x for x > 0, else w x; w has one element (channels = 1) or one a channel */
    CNNCL_SOURCE(
    __kernel void prelu_forward(ARRAY(y), ARRAY(x), ARRAY(w), int channels, int plane, int n)
    {
        BASE(y) BASE(x) BASE(w) ITEM(i, n)
        y[i] = x[i] > 0.0f ? x[i] : w[i / plane % channels] * x[i];
    }
    __kernel void prelu_backward(ARRAY(dx), ARRAY(dy), ARRAY(x), ARRAY(w), int channels, int plane, int n)
    {
        BASE(dx) BASE(dy) BASE(x) BASE(w) ITEM(i, n)
        dx[i] += x[i] > 0.0f ? dy[i] : w[i / plane % channels] * dy[i];
    }
    GROUP_KERNEL void prelu_weight(ARRAY(dw), ARRAY(dy), ARRAY(x), int channels, int plane, int n)
    {
        __local float part[GROUP]; BASE(dw) BASE(dy) BASE(x)
        const int c = (int)get_group_id(0);
        float sum = 0.0f;
        for (int q = (int)get_local_id(0); q < n / channels; q += GROUP) {
            const size_t i = (size_t)(q / plane * channels + c) * plane + q % plane;
            if (!(x[i] > 0.0f)) sum += dy[i] * x[i];
        }
        sum = group_sum(sum, part);
        if (get_local_id(0) == 0) dw[c] += sum;
    }

    /* Norms of one sample: row r holds k elements; `share` neighbours have one weight, and after `sample`
       elements the weights begin anew; affine: how many of w and b there are; rms_norm is not `centred`.
       As in the room, h = (x - mean) rstd,  e = dy w:
           dx += (e - mean e - h mean(e h)) rstd,  dw = sum dy h,  db = sum dy */
    GROUP_KERNEL void sample_norm_statistics(ARRAY(x), ARRAY(saved), int k, float eps, int centred)
    {
        __local float part[GROUP]; BASE(x) BASE(saved)
        const int r = (int)get_group_id(0);
        float sum = 0.0f; float square = 0.0f;
        x += (size_t)r * k;
        for (int i = (int)get_local_id(0); i < k; i += GROUP) sum += x[i];
        sum = group_sum(sum, part) / (float)k;
        const float mean = centred ? sum : 0.0f;
        for (int i = (int)get_local_id(0); i < k; i += GROUP) square += (x[i] - mean) * (x[i] - mean);
        square = group_sum(square, part);
        if (get_local_id(0) == 0)
            saved[2 * r] = mean, saved[2 * r + 1] = 1.0f / sqrt(square / (float)k + eps);
    }
    __kernel void sample_norm_forward(ARRAY(y), ARRAY(x), ARRAY(saved), ARRAY(w), ARRAY(b), int affine, int k,
                                      int sample, int share, int n)
    {
        BASE(y) BASE(x) BASE(saved) BASE(w) BASE(b) ITEM(i, n)
        const int r = i / k; const int j = i % sample / share;
        const float h = (x[i] - saved[2 * r]) * saved[2 * r + 1];
        y[i] = affine ? w[j] * h + (affine > 1 ? b[j] : 0.0f) : h;
    }
    GROUP_KERNEL void sample_norm_backward(ARRAY(dx), ARRAY(dy), ARRAY(x), ARRAY(saved), ARRAY(w), int affine,
                                           int k, int sample, int share, int centred)
    {
        __local float part[GROUP]; BASE(dx) BASE(dy) BASE(x) BASE(saved) BASE(w)
        const int r = (int)get_group_id(0); const float mean = saved[2 * r];
        const float rstd = saved[2 * r + 1];
        const int first = r * k; const int last = first + k;
        float sum = 0.0f; float with_h = 0.0f;
        for (int i = first + (int)get_local_id(0); i < last; i += GROUP) {
            const float e = affine ? dy[i] * w[i % sample / share] : dy[i];
            sum += e, with_h += e * (x[i] - mean) * rstd;
        }
        sum = centred ? group_sum(sum, part) / (float)k : 0.0f;
        with_h = group_sum(with_h, part) / (float)k;
        for (int i = first + (int)get_local_id(0); i < last; i += GROUP)
            dx[i] += ((affine ? dy[i] * w[i % sample / share] : dy[i]) - sum - (x[i] - mean) * rstd * with_h)
                * rstd;
    }
    GROUP_KERNEL void sample_norm_weight(ARRAY(dw), int want_dw, ARRAY(db), int want_db, ARRAY(dy), ARRAY(x),
                                         ARRAY(saved), int k, int sample, int share, int count)
    {
        __local float part[GROUP]; BASE(dw) BASE(db) BASE(dy) BASE(x) BASE(saved)
        const int j = (int)get_group_id(0);
        float sum = 0.0f; float with_h = 0.0f;
        for (int q = (int)get_local_id(0); q < count; q += GROUP) {
            const int i = q / share * sample + j * share + q % share; const int r = i / k;
            sum += dy[i], with_h += dy[i] * (x[i] - saved[2 * r]) * saved[2 * r + 1];
        }
        sum = group_sum(sum, part);
        with_h = group_sum(with_h, part);
        if (get_local_id(0) != 0) return;
        if (want_dw) dw[j] += with_h;
        if (want_db) db[j] += sum;
    }),

    /* Losses with labels, of rows (n,p) of x (N,C,P), as in the rooms of softmax_cross_entropy and nll. For
       class c with the weight v_c, 1 without class weights: q = v_c ((1 - e) [c = label] + e / C), with e the
       smoothing, and
           cross-entropy: row = sum q (log sum exp x - x),  dx = (softmax(x) sum q - q) dloss / M
           nll:           row = - q x (e = 0),              dx = - q dloss / M
       M is the sum of the labels' own weights. Where the label is `ignored`, q is 0 (0 ignores none). A label
       that is no class makes the loss NaN. saved: max x and log(sum exp(x - max)) of each row. */
    CNNCL_SOURCE(
    int is_ignored(float label, int ignored) { return ignored != 0 && label == (float)ignored; }
    float own_weight(float label, int ignored, __global float *v, int weighted, int channels)
    {
        if (is_ignored(label, ignored)) return 0.0f;
        if (!(label >= 0.0f && label < (float)channels)) return NAN;
        return weighted ? v[(int)label] : 1.0f;
    }
    float own_weights(__global float *labels, int n, int ignored, __global float *v, int weighted,
                      int channels, __local float *part)
    {
        float sum = 0.0f;
        for (int i = (int)get_local_id(0); i < n; i += GROUP)
            sum += own_weight(labels[i], ignored, v, weighted, channels);
        return group_sum(sum, part);
    }
    __kernel void label_loss_rows(ARRAY(rows), ARRAY(saved), int save, ARRAY(x), ARRAY(labels), ARRAY(v),
                                  int weighted, int ignored, int nll, float smoothing, int channels,
                                      int plane, int n)
    {
        BASE(rows) BASE(saved) BASE(x) BASE(labels) BASE(v) ITEM(i, n)
        const float label = labels[i]; const float own = own_weight(label, ignored, v, weighted, channels);
        x += (size_t)(i / plane) * channels * plane + i % plane;
        const float at_label = own == own && !is_ignored(label, ignored) ? x[(size_t)(int)label * plane]
            : 0.0f;
        if (nll) {
            rows[i] = -own * at_label;
            return;
        }
        float top = x[0]; float sum = 0.0f; float spread_ = 0.0f;
        for (int c = 1; c < channels; c++) top = fmax(top, x[(size_t)c * plane]);
        for (int c = 0; c < channels; c++) sum += exp(x[(size_t)c * plane] - top);
        const float rest = log(sum);
        for (int c = 0; c < channels && smoothing > 0.0f; c++)
            spread_ += (weighted ? v[c] : 1.0f) * (rest + (top - x[(size_t)c * plane])) / (float)channels;
        rows[i] = is_ignored(label, ignored) ? 0.0f
                : (1.0f - smoothing) * own * (rest + (top - at_label)) + smoothing * spread_;
        if (save) saved[2 * i] = top, saved[2 * i + 1] = rest;
    }),
    CNNCL_SOURCE(
    GROUP_KERNEL void label_loss_mean(ARRAY(loss), ARRAY(rows), ARRAY(labels), ARRAY(v), int weighted,
                                      int ignored, int channels, int n)
    {
        __local float part[GROUP]; BASE(loss) BASE(rows) BASE(labels) BASE(v)
        float sum = 0.0f;
        for (int i = (int)get_local_id(0); i < n; i += GROUP) sum += rows[i];
        sum = group_sum(sum, part);
        const float weights = own_weights(labels, n, ignored, v, weighted, channels, part);
        if (get_local_id(0) == 0) loss[0] = weights <= 0.0f ? 0.0f : sum / weights;
    }
    /* share: dloss / M, and the mean of v */
    GROUP_KERNEL void label_loss_share(ARRAY(share), ARRAY(dloss), ARRAY(labels), ARRAY(v), int weighted,
                                       int ignored, int channels, int n)
    {
        __local float part[GROUP]; BASE(share) BASE(dloss) BASE(labels) BASE(v)
        float sum = 0.0f;
        for (int c = (int)get_local_id(0); c < channels && weighted; c += GROUP) sum += v[c];
        sum = group_sum(sum, part);
        const float weights = own_weights(labels, n, ignored, v, weighted, channels, part);
        if (get_local_id(0) != 0) return;
        share[0] = weights <= 0.0f ? 0.0f : dloss[0] / weights;
        share[1] = weighted ? sum / (float)channels : 1.0f;
    }
    __kernel void label_loss_backward(ARRAY(dx), ARRAY(share), ARRAY(saved), ARRAY(x), ARRAY(labels),
                                      ARRAY(v), int weighted, int ignored, int nll, float smoothing,
                                          int channels, int plane, int n)
    {
        BASE(dx) BASE(share) BASE(saved) BASE(x) BASE(labels) BASE(v) ITEM(i, n)
        const int c = i / plane % channels; const int row = i / (plane * channels) * plane + i % plane;
        const float label = labels[row];
        if (is_ignored(label, ignored)) return;
        const float own = (1.0f - smoothing) * own_weight(label, ignored, v, weighted, channels);
        const float q = smoothing / (float)channels * (weighted ? v[c] : 1.0f)
            + (label == (float)c ? own : 0.0f);
        const float all = weighted ? own + smoothing * share[1] : 1.0f;
        dx[i] += share[0] * ((nll ? 0.0f : exp(x[i] - saved[2 * row] - saved[2 * row + 1]) * all) - q);
    }),

    /* The other losses are means over the elements of x and t, times a factor: how = 0 mse, 1 l1, 2 huber, 3
       bce_with_logits, whose formulas stand in the room: p = 1 and w = 1 unless `weights` says that there is
       p (1), or both (2). */
    CNNCL_SOURCE(
    float softplus_of_minus(float x) { return fmax(-x, 0.0f) + log1p(exp(-fabs(x))); }
    float pair_loss(float x, float t, int how, float delta, float p)
    {
        const float d = fabs(x - t);
        if (how == 0) return d * d;
        if (how == 1) return d;
        if (how == 2) return d <= delta ? d * d / 2.0f : delta * (d - delta / 2.0f);
        return (1.0f - t) * x + (1.0f + (p - 1.0f) * t) * softplus_of_minus(x);
    }
    GROUP_KERNEL void pair_loss_forward(ARRAY(loss), ARRAY(x), ARRAY(t), ARRAY(p), ARRAY(w), int weights,
                                        int channels, int plane, int n, int how, float delta, float factor)
    {
        __local float part[GROUP]; BASE(loss) BASE(x) BASE(t) BASE(p) BASE(w)
        float sum = 0.0f;
        for (int i = (int)get_local_id(0); i < n; i += GROUP) {
            const int c = i / plane % channels;
            sum += pair_loss(x[i], t[i], how, delta, weights > 0 ? p[c] : 1.0f) * (weights > 1 ? w[c] : 1.0f);
        }
        sum = group_sum(sum, part);
        if (get_local_id(0) == 0) loss[0] = factor * sum / (float)n;
    }
    /* to_target: the gradient of t, else that of x */
    __kernel void pair_loss_backward(ARRAY(dx), ARRAY(x), ARRAY(t), ARRAY(dloss), ARRAY(p), ARRAY(w),
                                     int weights, int channels, int plane, int n, int how, float delta,
                                     float factor, int to_target)
    {
        BASE(dx) BASE(x) BASE(t) BASE(dloss) BASE(p) BASE(w) ITEM(i, n)
        const float d = x[i] - t[i]; const int c = i / plane % channels;
        const float more = weights > 0 ? p[c] - 1.0f : 0.0f; const float s = 1.0f / (1.0f + exp(-x[i]));
        float f = how == 0 ? 2.0f * d
                : how == 1 ? (float)((d > 0.0f) - (d < 0.0f))
                : how == 2 ? clamp(d, -delta, delta)
                : s - t[i] - more * t[i] * (1.0f - s);
        if (to_target) f = how == 3 ? more * softplus_of_minus(x[i]) - x[i] : -f;
        dx[i] += f * (weights > 1 ? w[c] : 1.0f) * factor * dloss[0] / (float)n;
    }),

    /* The updates, named as the rows of cnn.h; the formulas stand there. */
    "#define UPDATE(name) __kernel void name(ARRAY(w), ARRAY(dw), ARRAY(slot), ulong stride, int n, \\\n"
    "    float lr, float decay, float momentum, float share, int nesterov, float beta1, float beta2, \\\n"
    "    float rate, float scale, float alpha, float eps)\n"
    "#define START BASE(w) BASE(dw) BASE(slot) ITEM(i, n) const float d = dw[i] + decay * w[i];\n"
    "#define SLOT(k) slot[i + k * stride]\n"
    CNNCL_SOURCE(
    UPDATE(sgd)
    {
        START
        if (momentum > 0.0f) SLOT(0) = momentum * SLOT(0) + share * d;
        w[i] -= lr * (momentum == 0.0f ? d : nesterov ? d + momentum * SLOT(0) : SLOT(0));
    }
    float adam_step(__global float *m, __global float *v, float d, float beta1, float beta2, float scale,
                    float eps)
    {
        *m = beta1 * *m + (1.0f - beta1) * d;
        *v = beta2 * *v + (1.0f - beta2) * d * d;
        return *m / (sqrt(*v) * scale + eps);
    }
    UPDATE(adam)
    {
        START
        w[i] -= rate * adam_step(&SLOT(0), &SLOT(1), d, beta1, beta2, scale, eps);
    }
    UPDATE(adamw)
    {
        START
        const float step = rate * adam_step(&SLOT(0), &SLOT(1), dw[i], beta1, beta2, scale, eps);
        w[i] = (1.0f - lr * decay) * w[i] - step;
    }
    UPDATE(rmsprop)
    {
        START
        SLOT(0) = alpha * SLOT(0) + (1.0f - alpha) * d * d;
        SLOT(1) = momentum * SLOT(1) + d / (sqrt(SLOT(0)) + eps);
        w[i] -= lr * SLOT(1);
    }
    UPDATE(rmsprop_centered)
    {
        START
        SLOT(0) = alpha * SLOT(0) + (1.0f - alpha) * d * d;
        SLOT(2) = alpha * SLOT(2) + (1.0f - alpha) * d;
        SLOT(1) = momentum * SLOT(1) + d / (sqrt(max(SLOT(0) - SLOT(2) * SLOT(2), 0.0f)) + eps);
        w[i] -= lr * SLOT(1);
    }
    UPDATE(adagrad)
    {
        START
        SLOT(0) += d * d;
        w[i] -= lr * (d / (sqrt(SLOT(0)) + eps));
    }

    /* Running sums, from 0 where `anew`: of x^2, one for each group, and of the rows whose label's logit is
       the largest, the first of equals. Rows are counted in two parts, as a float holds no count beyond
       2^24. */
    GROUP_KERNEL void squares(ARRAY(sums), ARRAY(x), int n, int anew)
    {
        __local float part[GROUP]; BASE(sums) BASE(x)
        const int group = (int)get_group_id(0);
        float sum = 0.0f;
        for (size_t i = get_global_id(0); i < (size_t)n; i += get_global_size(0)) sum += x[i] * x[i];
        sum = group_sum(sum, part);
        if (get_local_id(0) == 0) sums[group] = (anew ? 0.0f : sums[group]) + sum;
    }
    GROUP_KERNEL void correct(ARRAY(sum), ARRAY(x), ARRAY(labels), int channels, int plane, int n, int anew)
    {
        __local float part[GROUP]; BASE(sum) BASE(x) BASE(labels)
        int count = 0;
        for (int i = (int)get_local_id(0); i < n; i += GROUP) {
            __global float *z = x + (size_t)(i / plane) * channels * plane + i % plane;
            const int k = labels[i] >= 0.0f && labels[i] < (float)channels ? (int)labels[i] : -1;
            int right = k >= 0;
            for (int c = 0; c < channels && right; c++) {
                const float best = z[(size_t)k * plane]; const float other = z[(size_t)c * plane];
                right = c < k ? other < best : other <= best;
            }
            count += right;
        }
        const int low = (int)group_sum((float)(count % 4096), part);
        const int high = (int)group_sum((float)(count / 4096), part);
        __global int *total = (__global int *)sum;
        if (get_local_id(0) == 0) total[0] = (anew ? 0 : total[0]) + high * 4096 + low;
    })
};

/* ===========================================================================================================
   >>cl-run ---- 4. Memory, copies and launches
   ======================================================================================================== */

typedef struct { void *memory; size_t room; cl_event sent; } cnncl_stage;

/* A kernel object and the arguments that it has, one after another. */
enum { CNNCL_LAUNCHES = 4096, CNNCL_ARGUMENTS = 192 };
typedef struct { cl_kernel object; int kernel; unsigned char argument[CNNCL_ARGUMENTS]; } cnncl_launch;

typedef struct {
    cnn_backend      base;                    /* first, so that a cnn_backend * is one of these */
    cnncl_api        cl;
    cnncl_blas_api   blas;
    cl_device_id     device;
    cl_context       context;
    cl_command_queue queue;
    cl_program       program;
    cnncl_launch     launch[CNNCL_LAUNCHES];
    bool             clblast;                 /* it does the matrix products */
    bool             cached;                  /* the program came from a file of the cache */
    bool             lacks;                   /* kernels that do not build */
    int              launches;                /* since the last flush */
    size_t           workspace, max_buffer;   /* bytes */
    cl_mem           slices;                  /* partial products, and behind them the sums */
    cnncl_stage      stage[2];                /* what is on its way up */
    int              staged;
    cnn_kernel       row[128];
    char             name[128], report[CNN_ERROR_SIZE];
} cnncl;

enum { CNNCL_SLICES = 1 << 20,              /* floats of partial products */
       CNNCL_SQUARES = 64,                  /* partial sums of squares, behind them ... */
       CNNCL_COUNTER = CNNCL_SLICES + CNNCL_SQUARES,      /* ... and the count of correct rows */
       /* bytes: longer uploads are waited for instead of copied first */
       CNNCL_STAGE = 1 << 24 };

static cnncl *cnncl_of(cnn_backend *dev) { return (cnncl *)(void *)dev; }

static const char *cnncl_error_text(cl_int e)
{
    static const struct { cl_int code; const char *text; } texts[] = {
        { CL_DEVICE_NOT_AVAILABLE, "the device is not available" },
        { CL_OUT_OF_RESOURCES, "out of resources, or the device was lost" },
        { CL_MEM_OBJECT_ALLOCATION_FAILURE, "out of device memory" },
        { CL_OUT_OF_HOST_MEMORY, "out of host memory" },
        { CL_BUILD_PROGRAM_FAILURE, "the kernels do not build" },
        { CL_INVALID_BUFFER_SIZE, "the device allows no buffer of this size" },
        { CL_INVALID_WORK_GROUP_SIZE, "the work-group is too large for the device" },
        { CL_COMPILER_NOT_AVAILABLE, "the device has no compiler" },
        { CL_INVALID_COMMAND_QUEUE, "the queue is gone: the device was lost" },
        { CL_INVALID_KERNEL_ARGS, "arguments are missing" } };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].code == e) return texts[i].text;
    return "see CL/cl.h";
}

/* Keep the first error of the device; false. what: what was tried. */
static bool cnncl_fail(cnncl *d, const char *what, cl_int e)
{
    if (!d->base.error[0])
        cnncl_say(d->base.error, sizeof d->base.error, "%s: OpenCL error %d: %s", what, (int)e,
                  cnncl_error_text(e));
    return false;
}
static bool cnncl_ok(cnncl *d, const char *what, cl_int e)
{
    return e == CL_SUCCESS || cnncl_fail(d, what, e);
}

/* Commands wait in the host until they are flushed: a few layers at a time, so that the device starts
   early. */
static bool cnncl_flush(cnncl *d)
{
    enum { LAUNCHES = 24 };
    if (++d->launches < LAUNCHES) return true;
    d->launches = 0;
    return cnncl_ok(d, "flush", d->cl.clFlush(d->queue));
}

static void *cnncl_alloc(cnn_backend *dev, size_t bytes)
{
    cnncl *d = cnncl_of(dev);
    cl_int e = CL_SUCCESS;
    if (bytes > d->max_buffer) {
        cnncl_say(dev->error, sizeof dev->error, "the device allows %zu bytes in one buffer",
                  d->max_buffer);
        return NULL;
    }
    cl_mem m = d->cl.clCreateBuffer(d->context, CL_MEM_READ_WRITE, bytes, NULL, &e);
    if (!m || e != CL_SUCCESS) return cnncl_fail(d, "buffer", e), NULL;
    return m;
}

/* Kernel objects keep no hold on their arrays, and a new buffer may get an old one's handle. */
static void cnncl_forget_launches(cnncl *d)
{
    for (int i = 0; i < CNNCL_LAUNCHES; i++) {
        if (d->launch[i].object) d->cl.clReleaseKernel(d->launch[i].object);
        d->launch[i].object = NULL;
    }
}

static void cnncl_release(cnn_backend *dev, void *buffer)
{
    cnncl_forget_launches(cnncl_of(dev));
    cnncl_of(dev)->cl.clReleaseMemObject((cl_mem)buffer);
}

/* Up. The host may write its array again at once, and the queue holds the step before: so the bytes are
   copied aside and sent from there, and only who comes two copies later waits for them. */
static bool cnncl_upload(cnn_backend *dev, void *buffer, size_t at, const void *from, size_t bytes)
{
    cnncl       *d = cnncl_of(dev);
    cnncl_stage *s = &d->stage[d->staged ^= 1];
    if (s->sent) {
        cl_int e = d->cl.clWaitForEvents(1, &s->sent);
        d->cl.clReleaseEvent(s->sent);
        s->sent = NULL;
        if (e != CL_SUCCESS) return cnncl_fail(d, "upload", e);
    }
    if (bytes <= CNNCL_STAGE && bytes > s->room) {
        CNN_FREE(s->memory);
        s->memory = CNN_MALLOC(bytes);
        s->room = s->memory ? bytes : 0;
    }
    if (bytes > s->room)
        return cnncl_ok(d, "upload", d->cl.clEnqueueWriteBuffer(d->queue, (cl_mem)buffer, CL_TRUE, at,
                                                                bytes, from, 0, NULL, NULL));
    memcpy(s->memory, from, bytes);
    return cnncl_ok(d, "upload", d->cl.clEnqueueWriteBuffer(d->queue, (cl_mem)buffer, CL_FALSE, at, bytes,
                                                            s->memory, 0, NULL, &s->sent));
}

static bool cnncl_download(cnn_backend *dev, void *buffer, size_t at, void *to, size_t bytes)
{
    cnncl *d = cnncl_of(dev);
    d->launches = 0;
    return cnncl_ok(d, "download", d->cl.clEnqueueReadBuffer(d->queue, (cl_mem)buffer, CL_TRUE, at, bytes,
                                                             to, 0, NULL, NULL));
}

/* ---- Launches ---- */

typedef struct { const void *value; size_t bytes; bool key; /* it tells launches apart */ } cnncl_arg;
#define CNNCL_ARRAY(p)  { &(cl_mem){ (cl_mem)(p).buffer }, sizeof(cl_mem), true },                           \
                       { &(cl_ulong){ (p).at }, sizeof(cl_ulong), true }
#define CNNCL_DATA(t)  CNNCL_ARRAY(cnn_place_data(t))
#define CNNCL_GRAD(t)  CNNCL_ARRAY(cnn_place_grad(t))
#define CNNCL_SAVED(t) CNNCL_ARRAY(cnn_place_saved(t))
#define CNNCL_SHAPE(s)  { &(cnn_shape){ (s).n, (s).c, (s).h, (s).w }, sizeof(cnn_shape), true }
#define CNNCL_INT(i)    { &(cl_int){ i }, sizeof(cl_int), true }
#define CNNCL_ULONG(i)  { &(cl_ulong){ i }, sizeof(cl_ulong), false }
#define CNNCL_FLOAT(f)  { &(cl_float){ f }, sizeof(cl_float), false }
#define CNNCL_CONV(g)   { &(g), sizeof(cnncl_conv), true }

/* FNV-1a (Fowler, Noll, Vo 1991), going on from `hash`; 0 at first. */
static uint64_t cnncl_hash(uint64_t hash, const void *data, size_t bytes)
{
    if (!hash) hash = 14695981039346656037u;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    return hash;
}

/* The object for a kernel with these arrays and sizes, or an empty place for it. So each layer has objects of
   its own, for each size of the batch, and step after step only rates and the like are set. */
static cnncl_launch *cnncl_find_launch(cnncl *d, int kernel, const cnncl_arg *arg, int n)
{
    enum { PROBES = 8 };
    uint64_t hash = cnncl_hash(0, &kernel, sizeof kernel);
    for (int i = 0; i < n; i++)
        if (arg[i].key) hash = cnncl_hash(hash, arg[i].value, arg[i].bytes);
    for (uint64_t p = 0; p < PROBES; p++) {
        cnncl_launch *l = &d->launch[(hash + p) % CNNCL_LAUNCHES];
        if (!l->object) return l;
        const unsigned char *has = l->argument;
        bool same = l->kernel == kernel;
        for (int i = 0; i < n && same; has += arg[i++].bytes)
            same = !arg[i].key || memcmp(has, arg[i].value, arg[i].bytes) == 0;
        if (same) return l;
    }
    cnncl_launch *l = &d->launch[hash % CNNCL_LAUNCHES];
    d->cl.clReleaseKernel(l->object);
    l->object = NULL;
    return l;
}

static cl_int cnncl_set_arguments(cnncl *d, cnncl_launch *l, bool all, const cnncl_arg *arg, int n)
{
    unsigned char *has = l->argument;
    for (int i = 0; i < n; has += arg[i++].bytes) {
        if (!all && memcmp(has, arg[i].value, arg[i].bytes) == 0) continue;
        if ((size_t)(has - l->argument) + arg[i].bytes > sizeof l->argument) return CL_INVALID_ARG_SIZE;
        cl_int e = d->cl.clSetKernelArg(l->object, (cl_uint)i, arg[i].bytes, arg[i].value);
        if (e != CL_SUCCESS) return e;
        memcpy(has, arg[i].value, arg[i].bytes);
    }
    return CL_SUCCESS;
}

/* Run a kernel on x by y by z items, groups or tiles, as its entry in CNNCL_KERNELS says. The sizes of
   groups are constant, and the number of items is rounded up: some drivers compile a kernel again for each
   size. */
#define CNNCL_RUN(d, kernel, ...) CNNCL_RUN_NUMBER(d, CNNCL_##kernel, __VA_ARGS__)
#define CNNCL_RUN_NUMBER(d, number, x, y, z, ...)                                                            \
    cnncl_run(d, number, x, y, z, (cnncl_arg[]){ __VA_ARGS__ },                                              \
                (int)(sizeof (cnncl_arg[]){ __VA_ARGS__ } / sizeof(cnncl_arg)))

static bool cnncl_run(cnncl *d, int kernel, int x, int y, int z, const cnncl_arg *arg, int n)
{
    enum { ITEMS, GROUPS, TILES };
#define CNNCL_WORK(name, work) work,
#define CNNCL_NAME(name, work) #name,
    static const char work[] = { CNNCL_KERNELS(CNNCL_WORK) };
    static const char *const names[] = { CNNCL_KERNELS(CNNCL_NAME) };
    size_t local[3] = { CNNCL_LOCAL, 1, 1 }, global[3] = { (size_t)x, (size_t)y, (size_t)z };
    global[0] = (global[0] + CNNCL_LOCAL - 1) / CNNCL_LOCAL * CNNCL_LOCAL;
    if (work[kernel] == GROUPS) local[0] = CNNCL_GROUP, global[0] = (size_t)x * CNNCL_GROUP;
    if (work[kernel] == TILES)
        local[0] = local[1] = 16, global[0] = (size_t)x * 16, global[1] = (size_t)y * 16;
    cnncl_launch *l = cnncl_find_launch(d, kernel, arg, n);
    cl_int        e = CL_SUCCESS;
    bool          fresh = !l->object;
    if (fresh) l->kernel = kernel, l->object = d->cl.clCreateKernel(d->program, names[kernel], &e);
    if (!l->object) return cnncl_fail(d, names[kernel], e);
    e = cnncl_set_arguments(d, l, fresh, arg, n);
    if (e != CL_SUCCESS) {
        d->cl.clReleaseKernel(l->object);
        l->object = NULL;
        return cnncl_fail(d, names[kernel], e);
    }
    return cnncl_ok(d, names[kernel], d->cl.clEnqueueNDRangeKernel(d->queue, l->object, 3, NULL, global,
                                                                   local, 0, NULL, NULL)) &&
           cnncl_flush(d);
}

/* ===========================================================================================================
   >>cl-gemm ---- 5. Matrix products and sums
   ======================================================================================================== */

static cnn_place cnncl_place_at(cnn_place p, size_t more) { return (cnn_place){ p.buffer, p.at + more }; }

/* n floats = v. Not by clEnqueueFillBuffer: some drivers read its pattern late, when it is gone from the
   stack. */
static bool cnncl_fill(cnncl *d, cnn_place y, size_t n, float v)
{
    enum { MOST = 1 << 30 };
    for (int part; n > 0; n -= (size_t)part, y.at += (size_t)part) {
        part = n < MOST ? (int)n : MOST;
        if (!CNNCL_RUN(d, fill, part, 1, 1, CNNCL_ARRAY(y), CNNCL_INT(part), CNNCL_FLOAT(v))) return false;
    }
    return true;
}
static bool cnncl_clear(cnn_backend *dev, void *buffer, size_t at, size_t bytes)
{
    return cnncl_fill(cnncl_of(dev), (cnn_place){ buffer, at / sizeof(float) }, bytes / sizeof(float), 0);
}

/* y = beta y + factor (sum of x u over the extents where y's shape has 1 and x's has more); u NULL is 1. One
   item for each sum if they are short, else one group. */
static bool cnncl_fold(cnncl *d, cnn_place y, cnn_shape ys, float beta, float factor, cnn_place x,
                       cnn_shape xs, const cnn_place *u, cnn_shape us)
{
    int       n = cnncl_len(ys), count = cnncl_len(xs) / n, most = n < 4096 ? 32 : 1024;
    cnn_place       one = u ? *u : x;
    const cnncl_arg arg[] = { CNNCL_ARRAY(y), CNNCL_SHAPE(ys), CNNCL_ARRAY(x), CNNCL_SHAPE(xs),
                              CNNCL_ARRAY(one), CNNCL_SHAPE(us), CNNCL_INT(u != NULL), CNNCL_INT(n),
                              CNNCL_INT(count), CNNCL_FLOAT(beta), CNNCL_FLOAT(factor) };
    return cnncl_run(d, count > most ? CNNCL_fold_group : CNNCL_fold, n, 1, 1, arg,
                     (int)(sizeof arg / sizeof *arg));
}

/* y = beta y + factor x + offset, x stretched to the shape of y. */
static bool cnncl_spread(cnncl *d, cnn_place y, cnn_shape ys, float beta, float factor, cnn_place x,
                         cnn_shape xs, float offset)
{
    int n = cnncl_len(ys);
    return CNNCL_RUN(d, spread, n, 1, 1, CNNCL_ARRAY(y), CNNCL_SHAPE(ys), CNNCL_ARRAY(x), CNNCL_SHAPE(xs),
                     CNNCL_INT(n), CNNCL_FLOAT(beta), CNNCL_FLOAT(factor), CNNCL_FLOAT(offset));
}

/* Products of one shape, `count` of them, their arrays so far apart; c = 0: they are added up. */
typedef struct { int count; size_t a, b, c; } cnncl_images;

/* C (m,n) = op(A) op(B) + beta C by our own kernel. A small C with a long k would keep only a few groups
   busy: then the sum is cut into parts of fixed length. What is to be added up, in order, are slices. */
static bool cnncl_own_gemm(cnncl *d, cnncl_images g, cnn_place c, int ldc, float beta, cnn_place a, int lda,
                           bool ta, cnn_place b, int ldb, bool tb, int m, int n, int k)
{
    enum { LEAST = 512, GROUPS = 128, SIDE = CNNCL_SIDE };
    bool   flat = m <= SIDE, tall = n <= SIDE && !flat;
    int    height = flat ? SIDE : 4 * SIDE, width = tall ? SIDE : 4 * SIDE, length = k;
    int    tx = (n + width - 1) / width, ty = (m + height - 1) / height, tiles = tx * ty * g.count;
    size_t size = (size_t)m * (size_t)n, room = CNNCL_SLICES / size / (size_t)g.count;
    if (!g.c && ldc == n && k >= 2 * LEAST && tiles <= GROUPS / 2 && room >= 2) {
        length = k / (GROUPS / tiles) + 1;
        if (length < LEAST) length = LEAST;
        if ((size_t)((k + length - 1) / length) > room) length = k / (int)room + 1;
    }
    int             parts = (k + length - 1) / length, slices = parts * g.count;
    bool            add = parts > 1 || (!g.c && g.count > 1);
    cnn_place       to = add ? (cnn_place){ d->slices, 0 } : c;
    cnn_shape       all = { slices, 1, m, n }, one = { 1, 1, m, n };
    const cnncl_arg arg[] = { CNNCL_ARRAY(to), CNNCL_INT(ldc), CNNCL_ULONG(add ? size : g.c),
                              CNNCL_FLOAT(add ? 0 : beta), CNNCL_ARRAY(a), CNNCL_INT(ta ? 1 : lda),
                              CNNCL_INT(ta ? lda : 1), CNNCL_ARRAY(b), CNNCL_INT(tb ? 1 : ldb),
                              CNNCL_INT(tb ? ldb : 1), CNNCL_INT(m), CNNCL_INT(n), CNNCL_INT(k),
                              CNNCL_INT(length), CNNCL_INT(parts), CNNCL_ULONG(g.a), CNNCL_ULONG(g.b) };
    const int       kernel = flat ? CNNCL_gemm_flat : tall ? CNNCL_gemm_tall : CNNCL_gemm;
    return cnncl_run(d, kernel, tx, ty, slices, arg, (int)(sizeof arg / sizeof *arg)) &&
           (!add || cnncl_fold(d, c, one, beta, 1, to, all, NULL, one));
}

/* C (m,n) = op(A) op(B) + beta C, row by row: by CLBlast where it pays, not for thin products, which it does
   not slice. */
static bool cnncl_gemm(cnncl *d, cnn_place c, int ldc, float beta, cnn_place a, int lda, bool ta,
                       cnn_place b, int ldb, bool tb, int m, int n, int k)
{
    enum { NO = 111, YES = 112, ROW_MAJOR = 101, SMALL = 128 };
    const cnncl_images single = { 1, 0, 0, 0 };
    if (!d->clblast || (m < SMALL && n < SMALL))
        return cnncl_own_gemm(d, single, c, ldc, beta, a, lda, ta, b, ldb, tb, m, n, k);
    int e = d->blas.CLBlastSgemm(ROW_MAJOR, ta ? YES : NO, tb ? YES : NO, (size_t)m, (size_t)n, (size_t)k,
                                 1.0f, (cl_mem)a.buffer, a.at, (size_t)lda, (cl_mem)b.buffer, b.at,
                                 (size_t)ldb, beta, (cl_mem)c.buffer, c.at, (size_t)ldc, &d->queue, NULL);
    d->clblast = e == 0;                          /* no memory for its copies, perhaps: on without it */
    return e == 0 ? cnncl_flush(d) : cnncl_own_gemm(d, single, c, ldc, beta, a, lda, ta, b, ldb, tb, m, n,
                                                            k);
}

/* ===========================================================================================================
   >>cl-rows ---- 6. Rows: what replaces the rooms of cnn.h. Formulas stand there and above the kernels.
   ======================================================================================================== */

#define CNNCL_FORWARD(name)                                                                                  \
    static bool cnncl_##name##_forward(cnn_backend *dev, cnn_tensor *y, CNNCL_UNUSED cnn_mode mode)
#define CNNCL_BACKWARD(name) static bool cnncl_##name##_backward(cnn_backend *dev, cnn_tensor *y)

/* ---- The function at the end of a layer ---- */

/* One of CNNCL_ACTIVATIONS, with its constants. */
typedef struct { int how; float k[2]; } cnncl_function;

static cnncl_function cnncl_function_of(const cnn_tensor *y)
{
#define CNNCL_IS(X, name, value, derivative) if (y->op == &cnn_op_##name) f.how = CNNCL_IS_##name;
    cnncl_function f = { CNNCL_IS_NOTHING, { 0, 0 } };
    CNNCL_ACTIVATIONS(CNNCL_IS, )
    const size_t *k = f.how != CNNCL_IS_NOTHING ? y->op->formula->k : NULL;       /* where its options are */
    for (int i = 0; k && i < 2; i++)
        if (k[i]) memcpy(&f.k[i], (const char *)y->args + k[i], sizeof f.k[i]);
    if (y->op == &cnn_op_gelu) f.k[0] = ((const cnn_gelu_args *)y->args)->tanh ? 1.0f : 0.0f;
    return f;
}
#define CNNCL_FUNCTION(f) CNNCL_INT((f).how), CNNCL_FLOAT((f).k[0]), CNNCL_FLOAT((f).k[1])

/* The function that is computed next in y's place: the layer's last kernel does it, and its own row then has
   nothing to do. NULL if there is none. */
static const cnn_tensor *cnncl_ending(const cnn_tensor *y)
{
    if (y->op != &cnn_op_conv2d && y->op != &cnn_op_dense) return NULL;
    const cnn_tensor *t = cnn_next_in_place(y);
    return t && cnncl_function_of(t).how != CNNCL_IS_NOTHING ? t : NULL;
}
static cnncl_function cnncl_ending_function(const cnn_tensor *y)
{
    const cnn_tensor *t = cnncl_ending(y);
    return cnncl_function_of(t ? t : y);
}

/* y = f(y + b); b may be NULL */
static bool cnncl_bias_map(cnncl *d, cnn_place y, cnn_shape s, const cnn_place *b, cnncl_function f)
{
    cnn_place bias = b ? *b : y;
    int       n = cnncl_len(s);
    return (!b && f.how == CNNCL_IS_NOTHING) ||
           CNNCL_RUN(d, bias_map, n, 1, 1, CNNCL_ARRAY(y), CNNCL_ARRAY(bias), CNNCL_INT(b != NULL),
                     CNNCL_INT(s.c), CNNCL_INT(cnncl_plane(s)), CNNCL_INT(n), CNNCL_FUNCTION(f));
}

/* ---- Convolution ---- */

typedef struct { int n, ic, h, w, oc, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw, groups; } cnncl_conv;
/* The convolution from `from` to `to`, by options a. */
#define CNNCL_CONV_OF(a, from, to)                                                                           \
    (cnncl_conv){ (from).n, (from).c, (from).h, (from).w, (to).c, (to).h, (to).w, (a)->kernel_h,             \
                  (a)->kernel_w, (a)->stride_h, (a)->stride_w, (a)->pad_top, (a)->pad_left, (a)->dilation_h, \
                  (a)->dilation_w, (a)->groups }
/* Of a transposed one, the convolution from y to x. */
static cnncl_conv cnncl_conv_of(const cnn_tensor *y)
{
    const cnn_conv2d_args           *a = y->args;
    const cnn_conv_transpose2d_args *b = y->args;
    return y->op == &cnn_op_conv2d ? CNNCL_CONV_OF(a, y->in[0]->shape, y->shape)
                                   : CNNCL_CONV_OF(b, y->shape, y->in[0]->shape);
}

/* How many columns are unfolded at once: the workspace holds so many columns of col and of the rows of y. */
static int cnncl_columns(const cnncl *d, const cnncl_conv *g)
{
    size_t column = ((size_t)(g->ic * g->kh * g->kw) + (size_t)g->oc) * sizeof(float);
    size_t all = (size_t)g->n * (size_t)(g->oh * g->ow);
    size_t cap = (d->workspace < d->max_buffer ? d->workspace : d->max_buffer) / column;
    return (int)(cap < 1 ? 1 : cap < all ? cap : all);
}

/* A 1x1 convolution is a matrix product as it stands; with many small images it is better unfolded, in one
   product. */
static bool cnncl_is_product(const cnncl_conv *g)
{
    const bool pointwise = g->kh == 1 && g->kw == 1 && g->sh == 1 && g->sw == 1 && !g->ph && !g->pw;
    return pointwise && g->oh == g->h && g->ow == g->w && (g->n == 1 || g->oh * g->ow >= 1024);
}

static size_t cnncl_conv_scratch(const cnncl *d, const cnncl_conv *g)
{
    if (g->groups > 1 || cnncl_is_product(g)) return 0;
    return (size_t)cnncl_columns(d, g) * ((size_t)(g->ic * g->kh * g->kw) + (size_t)g->oc) * sizeof(float);
}

static bool cnncl_im2col(cnncl *d, cnn_place col, cnn_place x, const cnncl_conv *g, int first, int count)
{
    return CNNCL_RUN(d, im2col, count, g->ic, 1, CNNCL_ARRAY(col), CNNCL_ARRAY(x), CNNCL_CONV(*g),
                     CNNCL_INT(first), CNNCL_INT(count));
}

/* y = beta y + f(conv(x, w) + b); b may be NULL; beta = 0, or no b and no f */
static bool cnncl_conv_forward(cnncl *d, const cnncl_conv *g, cnn_place col, cnn_place y, float beta,
                               cnn_place x, cnn_place w, const cnn_place *b, cnncl_function f)
{
    cnn_place bias = b ? *b : w;
    int       k = g->ic * g->kh * g->kw, plane = g->oh * g->ow, total = g->n * plane;
    int       columns = cnncl_columns(d, g);
    cnn_shape ys = { g->n, g->oc, g->oh, g->ow };
    if (g->groups > 1)
        return CNNCL_RUN(d, conv_forward, cnncl_len(ys), 1, 1, CNNCL_ARRAY(y), CNNCL_ARRAY(x), CNNCL_ARRAY(w),
                         CNNCL_ARRAY(bias), CNNCL_INT(b != NULL), CNNCL_CONV(*g), CNNCL_INT(cnncl_len(ys)),
                         CNNCL_FLOAT(beta), CNNCL_FUNCTION(f));
    if (cnncl_is_product(g)) {
        const cnncl_images each = { g->n, 0, (size_t)k * (size_t)plane, (size_t)g->oc * (size_t)plane };
        return cnncl_own_gemm(d, each, y, plane, beta, w, k, false, x, plane, false, g->oc, plane, k) &&
               cnncl_bias_map(d, y, ys, b, f);
    }
    for (int first = 0, count; first < total; first += count) {
        count = total - first < columns ? total - first : columns;
        cnn_place rows = cnncl_place_at(col, (size_t)count * (size_t)k);
        if (!cnncl_im2col(d, col, x, g, first, count)) return false;
        if (!cnncl_gemm(d, rows, count, 0, w, k, false, col, count, false, g->oc, count, k)) return false;
        if (!CNNCL_RUN(d, rows_to_images, count, g->oc, 1, CNNCL_ARRAY(y), CNNCL_ARRAY(rows),
                       CNNCL_ARRAY(bias), CNNCL_INT(b != NULL), CNNCL_INT(g->oc), CNNCL_INT(plane),
                       CNNCL_INT(first), CNNCL_INT(count), CNNCL_FLOAT(beta),
                       CNNCL_FUNCTION(f))) return false;
    }
    return true;
}

/* dx += and dw +=; either may be NULL */
static bool cnncl_conv_backward(cnncl *d, const cnncl_conv *g, cnn_place col, const cnn_place *dx,
                                const cnn_place *dw, cnn_place dy, cnn_place x, cnn_place w)
{
    int       k = g->ic * g->kh * g->kw, plane = g->oh * g->ow, total = g->n * plane;
    int       columns = cnncl_columns(d, g);
    cnn_place to_x = dx ? *dx : dy, to_w = dw ? *dw : dy;
    if (g->groups > 1) {
        int n = g->n * g->ic * g->h * g->w, weights = g->oc * (g->ic / g->groups) * g->kh * g->kw;
        return (!dw ||
                CNNCL_RUN(d, conv_backward_weights, weights, 1, 1, CNNCL_ARRAY(to_w), CNNCL_ARRAY(x),
                          CNNCL_ARRAY(dy), CNNCL_CONV(*g))) &&
               (!dx ||
                CNNCL_RUN(d, conv_backward_data, n, 1, 1, CNNCL_ARRAY(to_x), CNNCL_ARRAY(dy), CNNCL_ARRAY(w),
                          CNNCL_CONV(*g), CNNCL_INT(n)));
    }
    if (cnncl_is_product(g)) {                                  /* dx += w^T dy, dw += dy x^T: slices of it */
        const size_t in = (size_t)k * (size_t)plane, out = (size_t)g->oc * (size_t)plane;
        const int    most = CNNCL_SLICES / (g->oc * k) > 1 ? CNNCL_SLICES / (g->oc * k) : 1;
        cnncl_images some = { g->n, 0, out, in };
        if (dx && !cnncl_own_gemm(d, some, to_x, plane, 1, w, k, true, dy, plane, false, k, plane, g->oc))
            return false;
        for (int i = 0; dw && i < g->n; i += some.count) {
            some = (cnncl_images){ g->n - i < most ? g->n - i : most, out, in, 0 };
            cnn_place dyi = cnncl_place_at(dy, (size_t)i * out), xi = cnncl_place_at(x, (size_t)i * in);
            if (!cnncl_own_gemm(d, some, to_w, k, 1, dyi, plane, false, xi, plane, true, g->oc, k, plane))
                return false;
        }
        return true;
    }
    /* dw += dy col^T, dx += fold of w^T dy */
    for (int first = 0, count; first < total; first += count) {
        count = total - first < columns ? total - first : columns;
        cnn_place rows = cnncl_place_at(col, (size_t)count * (size_t)k);
        if (!CNNCL_RUN(d, images_to_rows, count, g->oc, 1, CNNCL_ARRAY(rows), CNNCL_ARRAY(dy),
                       CNNCL_INT(g->oc), CNNCL_INT(plane), CNNCL_INT(first), CNNCL_INT(count))) return false;
        if (dw && !(cnncl_im2col(d, col, x, g, first, count) &&
                    cnncl_gemm(d, to_w, k, 1, rows, count, false, col, count, true, g->oc, k,
                               count))) return false;
        int n0 = first / plane, items = ((first + count - 1) / plane + 1 - n0) * g->ic * g->h * g->w;
        if (dx && !(cnncl_gemm(d, col, count, 0, w, k, true, rows, count, false, k, count, g->oc) &&
                    CNNCL_RUN(d, col2im, items, 1, 1, CNNCL_ARRAY(to_x), CNNCL_ARRAY(col), CNNCL_CONV(*g),
                              CNNCL_INT(first), CNNCL_INT(count), CNNCL_INT(n0),
                              CNNCL_INT(items)))) return false;
    }
    return true;
}

/* db += the sum of dy over all but the channels, where there is a bias that wants it: operand 2. */
static bool cnncl_bias_backward(cnncl *d, cnn_tensor *y)
{
    cnn_shape bs = { 1, y->shape.c, 1, 1 };
    return y->n_in < 3 || !y->in[2]->needs_grad ||
           cnncl_fold(d, cnn_place_grad(y->in[2]), bs, 1, 1, cnn_place_grad(y), y->shape, NULL, bs);
}

CNNCL_FORWARD(conv2d)
{
    cnncl_conv g = cnncl_conv_of(y);
    cnn_place  b = cnn_place_data(y->in[y->n_in - 1]);
    return cnncl_conv_forward(cnncl_of(dev), &g, cnn_place_scratch(y->graph), cnn_place_data(y), 0,
                              cnn_place_data(y->in[0]), cnn_place_data(y->in[1]), y->n_in > 2 ? &b : NULL,
                              cnncl_ending_function(y));
}
CNNCL_BACKWARD(conv2d)
{
    cnncl_conv g = cnncl_conv_of(y);
    cnn_place  dx = cnn_place_grad(y->in[0]), dw = cnn_place_grad(y->in[1]);
    return cnncl_bias_backward(cnncl_of(dev), y) &&
           cnncl_conv_backward(cnncl_of(dev), &g, cnn_place_scratch(y->graph), y->in[0]->needs_grad ? &dx
                               : NULL, y->in[1]->needs_grad ? &dw : NULL, cnn_place_grad(y),
                               cnn_place_data(y->in[0]), cnn_place_data(y->in[1]));
}

/* The gradient of a convolution from y to x, run forwards. */
CNNCL_FORWARD(conv_transpose2d)
{
    cnncl     *d = cnncl_of(dev);
    cnncl_conv g = cnncl_conv_of(y);
    cnn_place  out = cnn_place_data(y);
    cnn_shape  bs = { 1, y->shape.c, 1, 1 };
    return (y->n_in > 2 ? cnncl_spread(d, out, y->shape, 0, 1, cnn_place_data(y->in[2]), bs, 0)
            : cnncl_fill(d, out, (size_t)cnncl_len(y->shape), 0)) &&
           cnncl_conv_backward(d, &g, cnn_place_scratch(y->graph), &out, NULL, cnn_place_data(y->in[0]),
                               out, cnn_place_data(y->in[1]));
}
CNNCL_BACKWARD(conv_transpose2d)
{
    cnncl      *d = cnncl_of(dev);
    cnncl_conv  g = cnncl_conv_of(y);
    cnn_tensor *x = y->in[0], *w = y->in[1];
    cnn_place   col = cnn_place_scratch(y->graph), dy = cnn_place_grad(y), dw = cnn_place_grad(w);
    return cnncl_bias_backward(d, y) &&
           (!x->needs_grad ||
            cnncl_conv_forward(d, &g, col, cnn_place_grad(x), 1, dy, cnn_place_data(w), NULL,
                               (cnncl_function){ CNNCL_IS_NOTHING, { 0, 0 } })) &&
           (!w->needs_grad ||
            cnncl_conv_backward(d, &g, col, NULL, &dw, cnn_place_data(x), dy, cnn_place_data(w)));
}

/* ---- Dense and matrix product ---- */

CNNCL_FORWARD(dense)
{
    cnncl    *d = cnncl_of(dev);
    cnn_place out = cnn_place_data(y);
    int       n = y->shape.n, k = cnncl_elements(y->in[0]->shape), units = y->shape.c;
    cnn_place b = cnn_place_data(y->in[y->n_in - 1]);
    return cnncl_gemm(d, out, units, 0, cnn_place_data(y->in[0]), k, false, cnn_place_data(y->in[1]), k,
                      true, n, units, k) &&
           cnncl_bias_map(d, out, y->shape, y->n_in > 2 ? &b : NULL, cnncl_ending_function(y));
}
CNNCL_BACKWARD(dense)
{
    cnncl      *d = cnncl_of(dev);
    cnn_tensor *x = y->in[0], *w = y->in[1];
    cnn_place   dy = cnn_place_grad(y);
    int         n = y->shape.n, k = cnncl_elements(x->shape), units = y->shape.c;
    if (x->needs_grad &&
        !cnncl_gemm(d, cnn_place_grad(x), k, 1, dy, units, false, cnn_place_data(w), k, false, n, k,
                    units)) return false;
    if (w->needs_grad &&
        !cnncl_gemm(d, cnn_place_grad(w), k, 1, dy, units, true, cnn_place_data(x), k, false, units, k,
                    n)) return false;
    return cnncl_bias_backward(d, y);
}

CNNCL_FORWARD(matmul)
{
    int m = y->shape.n, k = y->in[0]->shape.c, p = y->shape.c;
    return cnncl_gemm(cnncl_of(dev), cnn_place_data(y), p, 0, cnn_place_data(y->in[0]), k, false,
                      cnn_place_data(y->in[1]), p, false, m, p, k);
}
CNNCL_BACKWARD(matmul)
{
    cnncl      *d = cnncl_of(dev);
    cnn_tensor *a = y->in[0], *b = y->in[1];
    cnn_place   dy = cnn_place_grad(y);
    int         m = y->shape.n, k = a->shape.c, p = y->shape.c;
    if (a->needs_grad &&
        !cnncl_gemm(d, cnn_place_grad(a), k, 1, dy, p, false, cnn_place_data(b), p, true, m, k,
                    p)) return false;
    return !b->needs_grad ||
           cnncl_gemm(d, cnn_place_grad(b), p, 1, cnn_place_data(a), k, true, dy, p, false, k, p, m);
}

/* ---- Pools: the kernels take a pool as a convolution with one channel a plane ---- */

static cnncl_conv cnncl_pool(const cnn_tensor *y)
{
    const cnn_shape      x = y->in[0]->shape;
    const cnn_pool_args *a = y->args;
    const int            c = x.n * x.c;
    if (y->op == &cnn_op_global_max_pool)
        return (cnncl_conv){ 1, c, x.h, x.w, c, 1, 1, x.h, x.w, 1, 1, 0, 0, 1, 1, 1 };
    return (cnncl_conv){ 1, c, x.h, x.w, c, y->shape.h, y->shape.w, a->kernel_h, a->kernel_w, a->stride_h,
                         a->stride_w, a->pad_top, a->pad_left, a->dilation_h, a->dilation_w, 1 };
}

CNNCL_FORWARD(max_pool)
{
    cnncl_conv g = cnncl_pool(y);
    int        n = cnncl_len(y->shape);
    return CNNCL_RUN(cnncl_of(dev), max_pool_forward, n, 1, 1, CNNCL_DATA(y), CNNCL_DATA(y->in[0]),
                     CNNCL_SAVED(y), CNNCL_INT(mode == CNN_TRAIN), CNNCL_CONV(g), CNNCL_INT(n));
}
CNNCL_BACKWARD(max_pool)
{
    cnncl_conv g = cnncl_pool(y);
    int        n = cnncl_len(y->in[0]->shape);
    return CNNCL_RUN(cnncl_of(dev), max_pool_backward, n, 1, 1, CNNCL_GRAD(y->in[0]), CNNCL_GRAD(y),
                     CNNCL_SAVED(y), CNNCL_CONV(g), CNNCL_INT(n));
}

/* The padding that a mean counts, on the four sides. */
static cnn_shape cnncl_counted_pad(const cnn_tensor *y)
{
    const cnn_pool_args *a = y->args;
    return a->no_count_pad ? (cnn_shape){ 0, 0, 0, 0 }
                           : (cnn_shape){ a->pad_top, a->pad_bottom, a->pad_left, a->pad_right };
}
CNNCL_FORWARD(avg_pool)
{
    cnncl_conv g = cnncl_pool(y);
    int        n = cnncl_len(y->shape);
    return CNNCL_RUN(cnncl_of(dev), avg_pool_forward, n, 1, 1, CNNCL_DATA(y), CNNCL_DATA(y->in[0]),
                     CNNCL_CONV(g), CNNCL_SHAPE(cnncl_counted_pad(y)), CNNCL_INT(n));
}
CNNCL_BACKWARD(avg_pool)
{
    cnncl_conv g = cnncl_pool(y);
    int        n = cnncl_len(y->in[0]->shape);
    return CNNCL_RUN(cnncl_of(dev), avg_pool_backward, n, 1, 1, CNNCL_GRAD(y->in[0]), CNNCL_GRAD(y),
                     CNNCL_CONV(g), CNNCL_SHAPE(cnncl_counted_pad(y)), CNNCL_INT(n));
}

CNNCL_FORWARD(adaptive_avg_pool)
{
    int n = cnncl_len(y->shape);
    return CNNCL_RUN(cnncl_of(dev), adaptive_forward, n, 1, 1, CNNCL_DATA(y), CNNCL_SHAPE(y->shape),
                     CNNCL_DATA(y->in[0]), CNNCL_SHAPE(y->in[0]->shape), CNNCL_INT(n));
}
CNNCL_BACKWARD(adaptive_avg_pool)
{
    int n = cnncl_len(y->in[0]->shape);
    return CNNCL_RUN(cnncl_of(dev), adaptive_backward, n, 1, 1, CNNCL_GRAD(y->in[0]),
                     CNNCL_SHAPE(y->in[0]->shape), CNNCL_GRAD(y), CNNCL_SHAPE(y->shape), CNNCL_INT(n));
}

/* ---- Sums over extents: sum, mean and global_avg_pool fold x into y, and spread dy over dx. ---- */

/* Places in the kernel stretch. */
enum { CNNCL_DIV = 3, CNNCL_EQUAL = 7 };

static float cnncl_reduce_factor(const cnn_tensor *y)
{
    return y->op == &cnn_op_sum ? 1.0f : (float)cnncl_len(y->shape) / (float)cnncl_len(y->in[0]->shape);
}

CNNCL_FORWARD(reduce)
{
    cnn_tensor *x = y->in[0];
    return cnncl_fold(cnncl_of(dev), cnn_place_data(y), y->shape, 0, cnncl_reduce_factor(y),
                      cnn_place_data(x), x->shape, NULL, y->shape);
}
CNNCL_BACKWARD(reduce)
{
    cnn_tensor *x = y->in[0];
    return cnncl_spread(cnncl_of(dev), cnn_place_grad(x), x->shape, 1, cnncl_reduce_factor(y),
                        cnn_place_grad(y), y->shape, 0);
}

static bool cnncl_stretch(cnncl *d, cnn_place y, cnn_shape ys, int how, cnn_place a, cnn_shape as,
                          cnn_place b, cnn_shape bs)
{
    int n = cnncl_len(ys);
    return CNNCL_RUN(d, stretch, n, 1, 1, CNNCL_ARRAY(y), CNNCL_SHAPE(ys), CNNCL_ARRAY(a), CNNCL_SHAPE(as),
                     CNNCL_ARRAY(b), CNNCL_SHAPE(bs), CNNCL_INT(n), CNNCL_INT(how));
}
static bool cnncl_is_most(const cnn_tensor *y) { return y->op == &cnn_op_amax || y->op == &cnn_op_amin; }

CNNCL_FORWARD(most)
{
    int n = cnncl_len(y->shape), count = cnncl_len(y->in[0]->shape) / n;
    return CNNCL_RUN(cnncl_of(dev), fold_most, n, 1, 1, CNNCL_DATA(y), CNNCL_SHAPE(y->shape),
                     CNNCL_DATA(y->in[0]), CNNCL_SHAPE(y->in[0]->shape), CNNCL_INT(n), CNNCL_INT(count),
                     CNNCL_INT(y->op == &cnn_op_amin));
}
/* Which are equal to y, how many, and dy for each of them. */
CNNCL_BACKWARD(most)
{
    cnncl          *d = cnncl_of(dev);
    cnn_tensor     *x = y->in[0];
    const cnn_shape xs = x->shape, ys = y->shape;
    cnn_place       equal = cnn_place_scratch(y->graph), share = cnncl_place_at(equal, (size_t)cnncl_len(xs));
    return cnncl_stretch(d, equal, xs, CNNCL_EQUAL, cnn_place_data(x), xs, cnn_place_data(y), ys) &&
           cnncl_fold(d, share, ys, 0, 1, equal, xs, NULL, ys) &&
           cnncl_stretch(d, share, ys, CNNCL_DIV, cnn_place_grad(y), ys, share, ys) &&
           cnncl_fold(d, cnn_place_grad(x), xs, 1, 1, equal, xs, &share, ys);
}

/* ---- add, sub, mul, ...: forward stretches both operands, backward folds dy back into each. ---- */

/* The place of an operation in the kernels stretch and stretch_back. */
static int cnncl_binary(const cnn_tensor *y)
{
    const cnn_op *const all[] = { &cnn_op_add, &cnn_op_sub, &cnn_op_mul, &cnn_op_div, &cnn_op_maximum,
                                  &cnn_op_minimum, &cnn_op_pow };
    int how = 0;
    while (how < CNNCL_EQUAL && all[how] != y->op) how++;
    return how;
}
CNNCL_FORWARD(binary)
{
    const cnn_tensor *a = y->in[0], *b = y->in[1];
    return cnncl_stretch(cnncl_of(dev), cnn_place_data(y), y->shape, cnncl_binary(y), cnn_place_data(a),
                         a->shape, cnn_place_data(b), b->shape);
}
CNNCL_BACKWARD(binary)
{
    const int how = cnncl_binary(y), n = cnncl_len(y->shape);
    for (int i = 0; i < 2; i++) {
        cnn_tensor *x = y->in[i], *other = y->in[1 - i];
        cnn_place   u = cnn_place_data(other), dy = cnn_place_grad(y), d = cnn_place_scratch(y->graph);
        float       factor = i == 1 && y->op == &cnn_op_sub ? -1.0f : 1.0f;
        if (!x->needs_grad) continue;
        if (how >= CNNCL_DIV &&
            !CNNCL_RUN(cnncl_of(dev), stretch_back, n, 1, 1, CNNCL_ARRAY(d), CNNCL_ARRAY(dy),
                       CNNCL_SHAPE(y->shape), CNNCL_DATA(y->in[0]), CNNCL_SHAPE(y->in[0]->shape),
                       CNNCL_DATA(y->in[1]), CNNCL_SHAPE(y->in[1]->shape), CNNCL_INT(n), CNNCL_INT(how),
                       CNNCL_INT(i))) return false;
        if (!cnncl_fold(cnncl_of(dev), cnn_place_grad(x), x->shape, 1, factor, how < CNNCL_DIV ? dy : d,
                        y->shape, y->op == &cnn_op_mul ? &u : NULL, other->shape)) return false;
    }
    return true;
}

CNNCL_FORWARD(scale)
{
    const cnn_scale_args *a = y->args;
    return cnncl_spread(cnncl_of(dev), cnn_place_data(y), y->shape, 0, a->factor,
                        cnn_place_data(y->in[0]), y->shape, a->offset);
}
CNNCL_BACKWARD(scale)
{
    const cnn_scale_args *a = y->args;
    return cnncl_spread(cnncl_of(dev), cnn_place_grad(y->in[0]), y->shape, 1, a->factor,
                        cnn_place_grad(y), y->shape, 0);
}

/* ---- Copies ---- */

static bool cnncl_copy_rows(cnn_backend *dev, cnn_place y, int y_step, cnn_place x, int x_step, int length,
                            int rows, float beta)
{
    int n = length * rows;
    return CNNCL_RUN(cnncl_of(dev), copy_rows, n, 1, 1, CNNCL_ARRAY(y), CNNCL_INT(y_step), CNNCL_ARRAY(x),
                     CNNCL_INT(x_step), CNNCL_INT(length), CNNCL_INT(n), CNNCL_FLOAT(beta));
}

CNNCL_FORWARD(reshape)
{
    cnn_place out = cnn_place_data(y), x = cnn_place_data(y->in[0]);
    int       n = cnncl_len(y->shape);
    return (out.buffer == x.buffer && out.at == x.at) || cnncl_copy_rows(dev, out, n, x, n, n, 1, 0);
}
CNNCL_BACKWARD(reshape)
{
    int n = cnncl_len(y->shape);
    return cnncl_copy_rows(dev, cnn_place_grad(y->in[0]), n, cnn_place_grad(y), n, n, 1, 1);
}

/* What only moves numbers (op->move): y from its operands; or, back, their gradients from that of y. */
static cnn_shape cnncl_by_axis(const int v[4]) { return (cnn_shape){ v[0], v[1], v[2], v[3] }; }
static bool cnncl_move(cnn_backend *dev, cnn_tensor *y, bool back)
{
    cnn_move m;
    bool     good = true;
    for (int k = 0; k < y->n_in && good && y->op->move(y, k, &m); k++) {
        cnn_tensor *x = y->in[k], *own = m.into ? x : y, *other = m.into ? y : x;
        cnn_place   a = back ? cnn_place_grad(own) : cnn_place_data(own);
        cnn_place   b = back ? cnn_place_grad(other) : cnn_place_data(other);
        int         n = cnncl_len(own->shape);
        if (back && !x->needs_grad) continue;
        good = CNNCL_RUN(cnncl_of(dev), move, n, 1, 1, CNNCL_ARRAY(a), CNNCL_SHAPE(own->shape),
                         CNNCL_ARRAY(b), CNNCL_INT(m.at), CNNCL_SHAPE(cnncl_by_axis(m.div)),
                         CNNCL_SHAPE(cnncl_by_axis(m.step)), CNNCL_SHAPE(cnncl_by_axis(m.within)),
                         CNNCL_INT(n), CNNCL_INT(m.into != back), CNNCL_FLOAT(back ? 1.0f : 0.0f));
    }
    return good;
}
CNNCL_FORWARD(move)  { return (void)mode, cnncl_move(dev, y, false); }
CNNCL_BACKWARD(move) { return cnncl_move(dev, y, true); }

CNNCL_FORWARD(pad)
{
    const cnn_pad_args *a = y->args;
    const cnn_shape     x = y->in[0]->shape, from = { 0, a->front, a->top, a->left };
    int                 n = cnncl_len(y->shape);
    return CNNCL_RUN(cnncl_of(dev), pad_forward, n, 1, 1, CNNCL_DATA(y), CNNCL_SHAPE(y->shape),
                     CNNCL_DATA(y->in[0]), CNNCL_SHAPE(x), CNNCL_SHAPE(from), CNNCL_INT(a->mode),
                     CNNCL_FLOAT(a->value), CNNCL_INT(n));
}
CNNCL_BACKWARD(pad)
{
    const cnn_pad_args *a = y->args;
    const cnn_shape     x = y->in[0]->shape, from = { 0, a->front, a->top, a->left };
    int                 n = cnncl_len(x);
    return CNNCL_RUN(cnncl_of(dev), pad_backward, n, 1, 1, CNNCL_GRAD(y->in[0]), CNNCL_SHAPE(x),
                     CNNCL_GRAD(y), CNNCL_SHAPE(y->shape), CNNCL_SHAPE(from), CNNCL_INT(a->mode),
                     CNNCL_INT(n));
}

static int cnncl_filter(const cnn_upsample_args *a) { return a->bilinear ? 1 + (a->align_corners != 0) : 0; }
CNNCL_FORWARD(upsample)
{
    cnn_tensor *x = y->in[0];
    cnn_place in = cnn_place_data(x);
    int         n = cnncl_len(y->shape);
    return CNNCL_RUN(cnncl_of(dev), upsample_forward, n, 1, 1, CNNCL_DATA(y), CNNCL_SHAPE(y->shape),
                     CNNCL_ARRAY(in), CNNCL_SHAPE(x->shape), CNNCL_INT(cnncl_filter(y->args)), CNNCL_INT(n));
}
CNNCL_BACKWARD(upsample)
{
    cnn_tensor *x = y->in[0];
    int         n = cnncl_len(x->shape);
    return CNNCL_RUN(cnncl_of(dev), upsample_backward, n, 1, 1, CNNCL_GRAD(x), CNNCL_SHAPE(x->shape),
                     CNNCL_GRAD(y), CNNCL_SHAPE(y->shape), CNNCL_INT(cnncl_filter(y->args)), CNNCL_INT(n));
}

CNNCL_FORWARD(lrn)
{
    const cnn_lrn_args *t = y->args;
    cnn_place out = cnn_place_data(y);
    cnn_place saved = mode == CNN_TRAIN ? cnn_place_saved(y) : out;
    int       n = cnncl_len(y->shape);
    return CNNCL_RUN(cnncl_of(dev), lrn_forward, n, 1, 1, CNNCL_ARRAY(out), CNNCL_DATA(y->in[0]),
                     CNNCL_ARRAY(saved), CNNCL_INT(mode == CNN_TRAIN), CNNCL_INT(t->size),
                     CNNCL_FLOAT(t->alpha / (float)t->size), CNNCL_FLOAT(t->beta), CNNCL_FLOAT(t->k),
                     CNNCL_INT(y->shape.c), CNNCL_INT(cnncl_plane(y->shape)), CNNCL_INT(n));
}
CNNCL_BACKWARD(lrn)
{
    const cnn_lrn_args *t = y->args;
    int       n = cnncl_len(y->shape);
    return CNNCL_RUN(cnncl_of(dev), lrn_backward, n, 1, 1, CNNCL_GRAD(y->in[0]), CNNCL_GRAD(y),
                     CNNCL_DATA(y->in[0]), CNNCL_DATA(y), CNNCL_SAVED(y), CNNCL_INT(t->size),
                     CNNCL_FLOAT(t->alpha / (float)t->size), CNNCL_FLOAT(t->beta), CNNCL_INT(y->shape.c),
                     CNNCL_INT(cnncl_plane(y->shape)), CNNCL_INT(n));
}

/* ---- Functions of one number ---- */

CNNCL_FORWARD(map)
{
    cnncl_function f = cnncl_function_of(y);
    int            n = cnncl_len(y->shape);
    return cnncl_ending(y->in[0]) == y ||
           CNNCL_RUN(cnncl_of(dev), map_forward, n, 1, 1, CNNCL_DATA(y), CNNCL_DATA(y->in[0]), CNNCL_INT(n),
                     CNNCL_FUNCTION(f));
}
CNNCL_BACKWARD(map)
{
    cnncl_function f = cnncl_function_of(y);
    int            n = cnncl_len(y->shape);
    return CNNCL_RUN(cnncl_of(dev), map_backward, n, 1, 1, CNNCL_GRAD(y->in[0]), CNNCL_GRAD(y),
                     CNNCL_DATA(y->op->flags & CNN_READS_X ? y->in[0] : y), CNNCL_INT(n), CNNCL_FUNCTION(f));
}

/* ---- softmax and its logarithm ---- */

/* y as (n,c,plane), c being the axis: rows n plane. */
static int cnncl_lines(const cnn_tensor *y, int *c, int *plane)
{
    const cnn_shape s = y->shape;
    const unsigned  axis = ((const cnn_softmax_args *)y->args)->axis;
    *c = axis == CNN_C ? s.c : axis == CNN_H ? s.h : s.w;
    *plane = axis == CNN_C ? s.h * s.w : axis == CNN_H ? s.w : 1;
    return cnncl_len(s) / *c;
}
CNNCL_FORWARD(softmax)
{
    int c, plane, rows = cnncl_lines(y, &c, &plane);
    return CNNCL_RUN(cnncl_of(dev), softmax_forward, rows, 1, 1, CNNCL_DATA(y), CNNCL_DATA(y->in[0]),
                     CNNCL_INT(c), CNNCL_INT(plane), CNNCL_INT(rows),
                     CNNCL_INT(y->op == &cnn_op_log_softmax));
}
CNNCL_BACKWARD(softmax)
{
    int c, plane, rows = cnncl_lines(y, &c, &plane);
    return CNNCL_RUN(cnncl_of(dev), softmax_backward, rows, 1, 1, CNNCL_GRAD(y->in[0]), CNNCL_GRAD(y),
                     CNNCL_DATA(y), CNNCL_INT(c), CNNCL_INT(plane), CNNCL_INT(rows),
                     CNNCL_INT(y->op == &cnn_op_log_softmax));
}

/* ---- Dropout ---- */

static bool cnncl_dropout(cnn_backend *dev, cnn_tensor *y, cnn_place to, cnn_place from, float beta)
{
    uint64_t key, stream;
    cnn_random_key(y, &key, &stream);
    float p = ((const cnn_dropout_args *)y->args)->p;
    int   n = cnncl_len(y->shape);
    return CNNCL_RUN(cnncl_of(dev), dropout, n, 1, 1, CNNCL_ARRAY(to), CNNCL_ARRAY(from), CNNCL_ULONG(key),
                     CNNCL_ULONG(stream), CNNCL_FLOAT(p), CNNCL_FLOAT(beta), CNNCL_INT(n));
}
CNNCL_FORWARD(dropout)
{
    if (mode == CNN_EVAL) return cnncl_reshape_forward(dev, y, mode);      /* y = x */
    return cnncl_dropout(dev, y, cnn_place_data(y), cnn_place_data(y->in[0]), 0);
}
CNNCL_BACKWARD(dropout) { return cnncl_dropout(dev, y, cnn_place_grad(y->in[0]), cnn_place_grad(y), 1); }

/* ---- Batch norm ---- */

typedef struct {
    cnn_place x, w, b, mean, inverse, running_mean, running_var;
    int       affine, channels, plane, count, running;
} cnncl_norm;

static cnncl_norm cnncl_norm_of(cnn_tensor *y, cnn_mode mode)
{
    const cnn_tensor *w = cnn_operand(y, "weight"), *b = cnn_operand(y, "bias");
    cnncl_norm        v;
    v.affine = w != NULL;
    v.x = cnn_place_data(y->in[0]);
    v.w = w ? cnn_place_data(w) : v.x, v.b = b ? cnn_place_data(b) : v.x;
    v.running_mean = cnn_place_data(cnn_operand(y, "running_mean"));
    v.running_var = cnn_place_data(cnn_operand(y, "running_var"));
    v.channels = y->shape.c, v.plane = cnncl_plane(y->shape), v.count = y->shape.n * v.plane;
    v.running = mode == CNN_EVAL || cnn_operand(y, "running_mean")->frozen;
    v.mean = v.running ? v.running_mean : cnn_place_saved(y);
    v.inverse = v.running ? v.running_var : cnncl_place_at(v.mean, (size_t)v.channels);
    return v;
}

CNNCL_FORWARD(batch_norm)
{
    cnncl                     *d = cnncl_of(dev);
    cnncl_norm                 v = cnncl_norm_of(y, mode);
    const cnn_batch_norm_args *a = y->args;
    int                        n = cnncl_len(y->shape);
    return (v.running ||
            CNNCL_RUN(d, batch_norm_statistics, v.channels, 1, 1, CNNCL_ARRAY(v.x), CNNCL_ARRAY(v.mean),
                      CNNCL_ARRAY(v.inverse), CNNCL_ARRAY(v.running_mean), CNNCL_ARRAY(v.running_var),
                      CNNCL_INT(v.channels), CNNCL_INT(v.plane), CNNCL_INT(v.count), CNNCL_FLOAT(a->eps),
                      CNNCL_FLOAT(a->momentum))) &&
           CNNCL_RUN(d, batch_norm_forward, n, 1, 1, CNNCL_DATA(y), CNNCL_ARRAY(v.x), CNNCL_ARRAY(v.mean),
                     CNNCL_ARRAY(v.inverse), CNNCL_ARRAY(v.w), CNNCL_ARRAY(v.b), CNNCL_INT(v.affine),
                     CNNCL_INT(v.channels), CNNCL_INT(v.plane), CNNCL_INT(n), CNNCL_FLOAT(a->eps),
                     CNNCL_INT(v.running));
}
CNNCL_BACKWARD(batch_norm)
{
    const float eps = ((const cnn_batch_norm_args *)y->args)->eps;
    cnncl      *d = cnncl_of(dev);
    cnncl_norm  v = cnncl_norm_of(y, CNN_TRAIN);
    cnn_tensor *x = y->in[0], *w = cnn_operand(y, "weight"), *b = cnn_operand(y, "bias");
    cnn_place   sums = cnn_place_scratch(y->graph);
    bool        want_dw = w && w->needs_grad, want_db = b && b->needs_grad;
    cnn_place   dx = x->needs_grad ? cnn_place_grad(x) : sums;
    cnn_place   dw = want_dw ? cnn_place_grad(w) : sums, db = want_db ? cnn_place_grad(b) : sums;
    int         n = cnncl_len(y->shape);
    return CNNCL_RUN(d, batch_norm_sums, v.channels, 1, 1, CNNCL_ARRAY(sums), CNNCL_ARRAY(dw),
                     CNNCL_INT(want_dw), CNNCL_ARRAY(db), CNNCL_INT(want_db), CNNCL_ARRAY(v.x), CNNCL_GRAD(y),
                     CNNCL_ARRAY(v.mean), CNNCL_ARRAY(v.inverse), CNNCL_INT(v.channels), CNNCL_INT(v.plane),
                     CNNCL_INT(v.count), CNNCL_FLOAT(eps), CNNCL_INT(v.running)) &&
           (!x->needs_grad ||
            CNNCL_RUN(d, batch_norm_backward, n, 1, 1, CNNCL_ARRAY(dx), CNNCL_GRAD(y), CNNCL_ARRAY(v.x),
                      CNNCL_ARRAY(v.mean), CNNCL_ARRAY(v.inverse), CNNCL_ARRAY(v.w), CNNCL_INT(v.affine),
                      CNNCL_ARRAY(sums), CNNCL_INT(v.channels), CNNCL_INT(v.plane), CNNCL_INT(v.count),
                      CNNCL_INT(n), CNNCL_FLOAT(eps), CNNCL_INT(v.running)));
}

/* ---- Norms of one sample ---- */

/* Elements of a group; how many neighbours share one weight; elements after which the weights begin anew. */
typedef struct { int k, share, period, centred; float eps; cnn_tensor *w, *b; } cnncl_sample_norm;
static cnncl_sample_norm cnncl_sample_norm_of(const cnn_tensor *y)
{
    const bool                 rms = y->op == &cnn_op_rms_norm, layer = rms || y->op == &cnn_op_layer_norm;
    const cnn_group_norm_args *group = y->op == &cnn_op_group_norm ? y->args : NULL;
    const cnn_norm_args       *a = y->args;
    const int rows = group ? group->groups
                   : (a->axes & CNN_C ? 1 : y->shape.c) * (a->axes & CNN_H ? 1 : y->shape.h);
    const int k = cnncl_elements(y->shape) / rows;
    return (cnncl_sample_norm){ k, layer ? 1 : cnncl_plane(y->shape),
                                layer ? k : cnncl_elements(y->shape), !rms, group ? group->eps : a->eps,
                                cnn_operand(y, "weight"), cnn_operand(y, "bias") };
}

CNNCL_FORWARD(sample_norm)
{
    const cnncl_sample_norm t = cnncl_sample_norm_of(y);
    cnncl    *d = cnncl_of(dev);
    cnn_place x = cnn_place_data(y->in[0]);
    cnn_place saved = mode == CNN_TRAIN ? cnn_place_saved(y) : cnn_place_scratch(y->graph);
    cnn_place w = t.w ? cnn_place_data(t.w) : x, b = t.b ? cnn_place_data(t.b) : x;
    int       n = cnncl_len(y->shape), k = t.k;
    return CNNCL_RUN(d, sample_norm_statistics, n / k, 1, 1, CNNCL_ARRAY(x), CNNCL_ARRAY(saved), CNNCL_INT(k),
                     CNNCL_FLOAT(t.eps), CNNCL_INT(t.centred)) &&
           CNNCL_RUN(d, sample_norm_forward, n, 1, 1, CNNCL_DATA(y), CNNCL_ARRAY(x), CNNCL_ARRAY(saved),
                     CNNCL_ARRAY(w), CNNCL_ARRAY(b), CNNCL_INT((t.w != NULL) + (t.b != NULL)), CNNCL_INT(k),
                     CNNCL_INT(t.period), CNNCL_INT(t.share), CNNCL_INT(n));
}
CNNCL_BACKWARD(sample_norm)
{
    const cnncl_sample_norm t = cnncl_sample_norm_of(y);
    cnncl    *d = cnncl_of(dev);
    cnn_place x = cnn_place_data(y->in[0]), saved = cnn_place_saved(y);
    cnn_place w = t.w ? cnn_place_data(t.w) : x;
    bool      want_dw = t.w && t.w->needs_grad, want_db = t.b && t.b->needs_grad;
    cnn_place dw = want_dw ? cnn_place_grad(t.w) : saved, db = want_db ? cnn_place_grad(t.b) : saved;
    int       n = cnncl_len(y->shape), k = t.k, sample = t.period, share = t.share;
    return (!y->in[0]->needs_grad ||
            CNNCL_RUN(d, sample_norm_backward, n / k, 1, 1, CNNCL_GRAD(y->in[0]), CNNCL_GRAD(y),
                      CNNCL_ARRAY(x), CNNCL_ARRAY(saved), CNNCL_ARRAY(w), CNNCL_INT(t.w != NULL),
                      CNNCL_INT(k), CNNCL_INT(sample), CNNCL_INT(share), CNNCL_INT(t.centred))) &&
           (!(want_dw || want_db) ||
            CNNCL_RUN(d, sample_norm_weight, sample / share, 1, 1, CNNCL_ARRAY(dw), CNNCL_INT(want_dw),
                      CNNCL_ARRAY(db), CNNCL_INT(want_db), CNNCL_GRAD(y), CNNCL_ARRAY(x), CNNCL_ARRAY(saved),
                      CNNCL_INT(k), CNNCL_INT(sample), CNNCL_INT(share), CNNCL_INT(n / sample * share)));
}

CNNCL_FORWARD(prelu)
{
    int n = cnncl_len(y->shape), channels = y->in[1]->shape.c, plane = cnncl_plane(y->shape);
    return CNNCL_RUN(cnncl_of(dev), prelu_forward, n, 1, 1, CNNCL_DATA(y), CNNCL_DATA(y->in[0]),
                     CNNCL_DATA(y->in[1]), CNNCL_INT(channels), CNNCL_INT(plane), CNNCL_INT(n));
}
CNNCL_BACKWARD(prelu)
{
    cnncl *d = cnncl_of(dev);
    int    n = cnncl_len(y->shape), channels = y->in[1]->shape.c, plane = cnncl_plane(y->shape);
    return (!y->in[0]->needs_grad ||
            CNNCL_RUN(d, prelu_backward, n, 1, 1, CNNCL_GRAD(y->in[0]), CNNCL_GRAD(y), CNNCL_DATA(y->in[0]),
                      CNNCL_DATA(y->in[1]), CNNCL_INT(channels), CNNCL_INT(plane), CNNCL_INT(n))) &&
           (!y->in[1]->needs_grad ||
            CNNCL_RUN(d, prelu_weight, channels, 1, 1, CNNCL_GRAD(y->in[1]), CNNCL_GRAD(y),
                      CNNCL_DATA(y->in[0]), CNNCL_INT(channels), CNNCL_INT(plane), CNNCL_INT(n)));
}

/* ---- Losses ---- */

/* With its labels, and the class weights v (or the labels again, where it has none). */
typedef struct {
    cnn_place x, labels, v;
    int       weighted, ignored, nll, channels, plane, rows, n;
    float     smoothing;
} cnncl_labels;

static cnncl_labels cnncl_labels_of(const cnn_tensor *y)
{
    const cnn_shape s = y->in[0]->shape;
    const bool      nll = y->op == &cnn_op_nll;
    const cnn_softmax_cross_entropy_args *a = y->args;
    const cnn_nll_args                   *b = y->args;
    return (cnncl_labels){ cnn_place_data(y->in[0]), cnn_place_data(y->in[1]),
                           cnn_place_data(y->in[y->n_in - 1]), y->n_in == 3,
                           nll ? b->ignore_index : a->ignore_index, nll, s.c, cnncl_plane(s),
                           s.n * cnncl_plane(s), cnncl_len(s), nll ? 0.0f : a->smoothing };
}
static bool cnncl_hard_labels(const cnn_backend *dev, const cnn_tensor *y)      /* soft ones are the host's */
{
    (void)dev;
    return y->in[1]->shape.c == 1;
}
CNNCL_FORWARD(label_loss)
{
    cnncl       *d = cnncl_of(dev);
    cnncl_labels l = cnncl_labels_of(y);
    cnn_place    rows = cnn_place_scratch(y->graph);
    bool         save = mode == CNN_TRAIN && !l.nll;
    cnn_place    saved = save ? cnn_place_saved(y) : rows;
    if (!cnn_check_labels(y)) return false;
    return CNNCL_RUN(d, label_loss_rows, l.rows, 1, 1, CNNCL_ARRAY(rows), CNNCL_ARRAY(saved), CNNCL_INT(save),
                     CNNCL_ARRAY(l.x), CNNCL_ARRAY(l.labels), CNNCL_ARRAY(l.v), CNNCL_INT(l.weighted),
                     CNNCL_INT(l.ignored), CNNCL_INT(l.nll), CNNCL_FLOAT(l.smoothing), CNNCL_INT(l.channels),
                     CNNCL_INT(l.plane), CNNCL_INT(l.rows)) &&
           CNNCL_RUN(d, label_loss_mean, 1, 1, 1, CNNCL_DATA(y), CNNCL_ARRAY(rows), CNNCL_ARRAY(l.labels),
                     CNNCL_ARRAY(l.v), CNNCL_INT(l.weighted), CNNCL_INT(l.ignored), CNNCL_INT(l.channels),
                     CNNCL_INT(l.rows));
}
CNNCL_BACKWARD(label_loss)
{
    cnncl       *d = cnncl_of(dev);
    cnncl_labels l = cnncl_labels_of(y);
    cnn_place    share = cnn_place_scratch(y->graph);
    cnn_place    saved = l.nll ? share : cnn_place_saved(y);
    if (!y->in[0]->needs_grad) return true;
    return CNNCL_RUN(d, label_loss_share, 1, 1, 1, CNNCL_ARRAY(share), CNNCL_GRAD(y), CNNCL_ARRAY(l.labels),
                     CNNCL_ARRAY(l.v), CNNCL_INT(l.weighted), CNNCL_INT(l.ignored), CNNCL_INT(l.channels),
                     CNNCL_INT(l.rows)) &&
           CNNCL_RUN(d, label_loss_backward, l.n, 1, 1, CNNCL_GRAD(y->in[0]), CNNCL_ARRAY(share),
                     CNNCL_ARRAY(saved), CNNCL_ARRAY(l.x), CNNCL_ARRAY(l.labels), CNNCL_ARRAY(l.v),
                     CNNCL_INT(l.weighted), CNNCL_INT(l.ignored), CNNCL_INT(l.nll), CNNCL_FLOAT(l.smoothing),
                     CNNCL_INT(l.channels), CNNCL_INT(l.plane), CNNCL_INT(l.n));
}

/* Between two arrays. Its last arguments, the same both ways: p and w (or the target again, where it has
   none), and the constants. */
static int cnncl_pair(const cnn_tensor *y)
{
    return y->op == &cnn_op_mse ? 0 : y->op == &cnn_op_l1 ? 1 : y->op == &cnn_op_huber ? 2 : 3;
}
/* The constants: huber's delta, or a factor. */
static float cnncl_huber(const cnn_tensor *y, bool factor)
{
    const cnn_huber_args *a = y->op == &cnn_op_huber ? y->args : NULL;
    return factor ? (a && a->smooth_l1 ? 1 / a->delta : 1.0f) : a ? a->delta : 0.0f;
}
static cnn_place cnncl_operand(const cnn_tensor *y, int i)
{
    return cnn_place_data(y->in[i < y->n_in ? i : 1]);
}
#define CNNCL_PAIR(y)                                                                                        \
    CNNCL_ARRAY(p), CNNCL_ARRAY(w), CNNCL_INT((y)->n_in - 2), CNNCL_INT((y)->in[0]->shape.c),                \
    CNNCL_INT(cnncl_plane((y)->in[0]->shape)), CNNCL_INT(n), CNNCL_INT(cnncl_pair(y)),                       \
    CNNCL_FLOAT(cnncl_huber(y, false)), CNNCL_FLOAT(cnncl_huber(y, true))

CNNCL_FORWARD(pair_loss)
{
    cnn_place p = cnncl_operand(y, 2), w = cnncl_operand(y, 3);
    int       n = cnncl_len(y->in[0]->shape);
    return CNNCL_RUN(cnncl_of(dev), pair_loss_forward, 1, 1, 1, CNNCL_DATA(y), CNNCL_DATA(y->in[0]),
                     CNNCL_DATA(y->in[1]), CNNCL_PAIR(y));
}
CNNCL_BACKWARD(pair_loss)
{
    cnn_place p = cnncl_operand(y, 2), w = cnncl_operand(y, 3);
    int       n = cnncl_len(y->in[0]->shape);
    for (int i = 0; i < 2; i++) {
        if (!y->in[i]->needs_grad) continue;
        cnn_place to = cnn_place_grad(y->in[i]);
        if (!CNNCL_RUN(cnncl_of(dev), pair_loss_backward, n, 1, 1, CNNCL_ARRAY(to), CNNCL_DATA(y->in[0]),
                       CNNCL_DATA(y->in[1]), CNNCL_GRAD(y), CNNCL_PAIR(y), CNNCL_INT(i))) return false;
    }
    return true;
}

/* ---- Training beside the rows ---- */

/* Where an optimizer's row has no kernel, the CPU updates. An option that it does not take is 0: so `rate` is
   lr, and scale 1, but for Adam's. */
static bool cnncl_update(cnn_backend *dev, const cnn_optimizer *o, cnn_place w, cnn_place dw,
                         cnn_place slots, size_t n, size_t slot_stride, const cnn_step_args *a, long step)
{
    static const struct { const cnn_optimizer *(*row)(void); int kernel; } rows[] = {
        { cnn_sgd, CNNCL_sgd }, { cnn_adam, CNNCL_adam }, { cnn_adamw, CNNCL_adamw },
        { cnn_rmsprop, CNNCL_rmsprop }, { cnn_rmsprop_centered, CNNCL_rmsprop_centered },
        { cnn_adagrad, CNNCL_adagrad } };
    const size_t n_rows = sizeof rows / sizeof *rows;
    const double t = (double)step + 1, rate = (double)a->lr / (1 - pow((double)a->beta1, t));
    const double scale = 1 / sqrt(1 - pow((double)a->beta2, t));
    size_t k = 0;
    while (k < n_rows && rows[k].row() != o) k++;
    if (k == n_rows || n > INT_MAX) return false;
    return CNNCL_RUN_NUMBER(cnncl_of(dev), rows[k].kernel, (int)n, 1, 1, CNNCL_ARRAY(w), CNNCL_ARRAY(dw),
                            CNNCL_ARRAY(slots), CNNCL_ULONG(slot_stride), CNNCL_INT((int)n),
                            CNNCL_FLOAT(a->lr), CNNCL_FLOAT(a->weight_decay), CNNCL_FLOAT(a->momentum),
                            CNNCL_FLOAT(step ? 1 - a->dampening : 1), CNNCL_INT(a->nesterov),
                            CNNCL_FLOAT(a->beta1), CNNCL_FLOAT(a->beta2), CNNCL_FLOAT((float)rate),
                            CNNCL_FLOAT((float)scale), CNNCL_FLOAT(a->alpha), CNNCL_FLOAT(a->eps));
}

static bool cnncl_scale(cnn_backend *dev, cnn_place x, size_t n, float factor)
{
    cnn_shape s = { 1, 1, 1, (int)n };
    return cnncl_spread(cnncl_of(dev), x, s, 0, factor, x, s, 0);
}

static bool cnncl_mix(cnn_backend *dev, cnn_place a, cnn_place x, size_t n, float share)
{
    cnn_shape s = { 1, 1, 1, (int)n };
    return cnncl_spread(cnncl_of(dev), a, s, 1 - share, share, x, s, 0);
}

static bool cnncl_squares(cnn_backend *dev, cnn_place x, size_t n, bool anew, double *take)
{
    cnncl    *d = cnncl_of(dev);
    cnn_place sums = { d->slices, CNNCL_SLICES };
    float     part[CNNCL_SQUARES];
    if (n &&
        !CNNCL_RUN(d, squares, CNNCL_SQUARES, 1, 1, CNNCL_ARRAY(sums), CNNCL_ARRAY(x), CNNCL_INT((int)n),
                   CNNCL_INT(anew))) return false;
    if (!take) return true;
    if (!cnncl_download(dev, d->slices, sums.at * sizeof(float), part, sizeof part)) return false;
    *take = 0;
    for (int i = 0; i < CNNCL_SQUARES; i++) *take += (double)part[i];
    return true;
}

static bool cnncl_correct(cnn_backend *dev, cnn_place logits, cnn_shape s, cnn_place labels, bool anew,
                          int *take)
{
    cnncl    *d = cnncl_of(dev);
    cnn_place sum = { d->slices, CNNCL_COUNTER };
    int       plane = cnncl_plane(s), rows = s.n * plane;
    return CNNCL_RUN(d, correct, 1, 1, 1, CNNCL_ARRAY(sum), CNNCL_ARRAY(logits), CNNCL_ARRAY(labels),
                     CNNCL_INT(s.c), CNNCL_INT(plane), CNNCL_INT(rows), CNNCL_INT(anew)) &&
           (!take || cnncl_download(dev, d->slices, sum.at * sizeof(float), take, sizeof(cl_int)));
}

/* ---- The table: every operation of cnn.h ---- */

static size_t cnncl_scratch(const cnn_backend *dev, const cnn_tensor *y)
{
    const cnncl *d = (const cnncl *)(const void *)dev;
    if (y->op == &cnn_op_conv2d || y->op == &cnn_op_conv_transpose2d) {
        cnncl_conv g = cnncl_conv_of(y);
        return cnncl_conv_scratch(d, &g);
    }
    if (cnncl_is_most(y) || y->op->formula)     return y->op->scratch ? y->op->scratch(y) : 0;
    if (y->op == &cnn_op_batch_norm)            return 2 * (size_t)y->shape.c * sizeof(float);
    if (y->op == &cnn_op_layer_norm || y->op == &cnn_op_rms_norm || y->op == &cnn_op_group_norm ||
        y->op == &cnn_op_instance_norm) return y->op->saved(y);
    if (y->op == &cnn_op_softmax_cross_entropy || y->op == &cnn_op_nll)
        /* rows; or the two of label_loss_share */
        return ((size_t)cnncl_len(y->in[1]->shape) + 2) * sizeof(float);
    return 0;
}

#define CNNCL_ROW(name, functions)                                                                           \
    { &cnn_op_##name, NULL, cnncl_##functions##_forward, cnncl_##functions##_backward },
#define CNNCL_MAP(X, name, value, derivative) CNNCL_ROW(name, map)
static const cnn_kernel cnncl_rows[] = {
    CNNCL_ROW(conv2d, conv2d) CNNCL_ROW(conv_transpose2d, conv_transpose2d)
    CNNCL_ROW(dense, dense) CNNCL_ROW(matmul, matmul)
    CNNCL_ROW(max_pool, max_pool) CNNCL_ROW(global_max_pool, max_pool) CNNCL_ROW(avg_pool, avg_pool)
    CNNCL_ROW(global_avg_pool, reduce) CNNCL_ROW(sum, reduce) CNNCL_ROW(mean, reduce)
    CNNCL_ROW(amax, most) CNNCL_ROW(amin, most) CNNCL_ROW(scale, scale)
    CNNCL_ROW(add, binary) CNNCL_ROW(sub, binary) CNNCL_ROW(mul, binary) CNNCL_ROW(div, binary)
    CNNCL_ROW(maximum, binary) CNNCL_ROW(minimum, binary) CNNCL_ROW(pow, binary)
    CNNCL_ROW(reshape, reshape) CNNCL_ROW(concat, move) CNNCL_ROW(slice, move) CNNCL_ROW(permute, move)
    CNNCL_ROW(depth_to_space, move) CNNCL_ROW(space_to_depth, move) CNNCL_ROW(channel_shuffle, move)
    CNNCL_ROW(pad, pad) CNNCL_ROW(adaptive_avg_pool, adaptive_avg_pool)
    CNNCL_ROW(upsample, upsample) CNNCL_ROW(lrn, lrn) CNNCL_ACTIVATIONS(CNNCL_MAP, )
    CNNCL_ROW(softmax, softmax) CNNCL_ROW(log_softmax, softmax) CNNCL_ROW(dropout, dropout)
    CNNCL_ROW(prelu, prelu) CNNCL_ROW(layer_norm, sample_norm) CNNCL_ROW(group_norm, sample_norm)
    CNNCL_ROW(instance_norm, sample_norm) CNNCL_ROW(rms_norm, sample_norm)
    CNNCL_ROW(batch_norm, batch_norm)
    { &cnn_op_softmax_cross_entropy, cnncl_hard_labels, cnncl_label_loss_forward, cnncl_label_loss_backward },
    CNNCL_ROW(nll, label_loss)
    CNNCL_ROW(mse, pair_loss) CNNCL_ROW(l1, pair_loss) CNNCL_ROW(huber, pair_loss)
    CNNCL_ROW(bce_with_logits, pair_loss) };

/* ===========================================================================================================
   >>cl-open ---- 7. Opening, checking and closing a device
   ======================================================================================================== */

static void cnncl_close(cnn_backend *dev)
{
    cnncl *d = cnncl_of(dev);
    if (d->queue) d->cl.clFinish(d->queue);
    if (d->blas.CLBlastClearCache) d->blas.CLBlastClearCache();   /* it holds programs of this context */
    for (int i = 0; i < 2; i++) {
        if (d->stage[i].sent) d->cl.clReleaseEvent(d->stage[i].sent);
        CNN_FREE(d->stage[i].memory);
    }
    cnncl_forget_launches(d);
    if (d->slices)  d->cl.clReleaseMemObject(d->slices);
    if (d->program) d->cl.clReleaseProgram(d->program);
    if (d->queue)   d->cl.clReleaseCommandQueue(d->queue);
    if (d->context) d->cl.clReleaseContext(d->context);
    CNN_FREE(d);
}

static const char cnncl_options[] = "-cl-std=CL1.2";
enum { CNNCL_SOURCES = sizeof cnncl_source / sizeof *cnncl_source };

/* Build d->program; if it does not build, the compiler's log is the message. */
static cl_int cnncl_build_program(cnncl *d)
{
    size_t bytes = 0;
    cl_int e = d->cl.clBuildProgram(d->program, 1, &d->device, cnncl_options, NULL, NULL);
    if (e == CL_SUCCESS) return e;
    d->cl.clGetProgramBuildInfo(d->program, d->device, CL_PROGRAM_BUILD_LOG, 0, NULL, &bytes);
    char *log = CNN_MALLOC(bytes + 1);
    if (log && d->cl.clGetProgramBuildInfo(d->program, d->device, CL_PROGRAM_BUILD_LOG, bytes, log,
                                           NULL) == CL_SUCCESS) {
        log[bytes] = 0;
        cnncl_say(d->base.error, sizeof d->base.error, "the kernels do not build: %s", log);
    }
    CNN_FREE(log);
    return cnncl_fail(d, "build", e), e;
}

/* The same from the first n of these sources. */
static cl_int cnncl_build_sources(cnncl *d, const char **source, int n)
{
    cl_int e;
    if (d->program) d->cl.clReleaseProgram(d->program);
    d->program = d->cl.clCreateProgramWithSource(d->context, (cl_uint)n, source, NULL, &e);
    if (!d->program) return cnncl_fail(d, "program", e), e;
    return cnncl_build_program(d);
}

/* While the sources do not build, the one that is to blame is left out, found by halving: the rows without
   their kernels will not pass the check. Nothing goes without the first sources. */
static bool cnncl_build_most(cnncl *d)
{
    enum { NEEDED = 7 };
    const char *source[CNNCL_SOURCES];
    cl_int      e;
    memcpy(source, cnncl_source, sizeof source);
    for (int n = CNNCL_SOURCES; (e = cnncl_build_sources(d, source, n)) == CL_BUILD_PROGRAM_FAILURE; n--) {
        int good = NEEDED - 1, bad = n;                /* the first `bad` do not build */
        while (bad - good > 1) {
            const int middle = (good + bad) / 2;
            e = cnncl_build_sources(d, source, middle);
            if (e == CL_SUCCESS) good = middle;
            else bad = middle;
        }
        if (bad == NEEDED) return false;
        memmove(source + bad - 1, source + bad, (size_t)(n - bad) * sizeof *source);
        d->lacks = true, d->base.error[0] = 0;
    }
    return e == CL_SUCCESS;
}

#ifndef CNN_NO_STDIO
/* ---- Compiled kernels on disk ----

   A file is: the 8 characters of `magic`, and three numbers of 8 bytes: the key, the length of what follows
   and its checksum. The key is that of the device, its driver and the sources; it also names the file. A file
   that is cut, changed, another's or refused by the driver counts as none, and is written again. */

static const char cnncl_magic[] = "cnnocl1\n";
enum { CNNCL_HEAD = 32 };

static uint64_t cnncl_key(cnncl *d)
{
    static const cl_device_info about[] = { CL_DEVICE_NAME, CL_DEVICE_VENDOR, CL_DEVICE_VERSION,
                                            CL_DRIVER_VERSION };
    uint64_t key = cnncl_hash(0, cnncl_options, sizeof cnncl_options);
    for (int i = 0; i < 4; i++) {
        char text[2048];
        cnncl_text(&d->cl, NULL, d->device, about[i], text, sizeof text);
        key = cnncl_hash(key, text, strlen(text) + 1);
    }
    for (int i = 0; i < CNNCL_SOURCES; i++)
        key = cnncl_hash(key, cnncl_source[i], strlen(cnncl_source[i]));
    return key;
}

static void cnncl_head(unsigned char head[CNNCL_HEAD], uint64_t key, const unsigned char *binary,
                       size_t bytes)
{
    const uint64_t number[3] = { key, bytes, cnncl_hash(0, binary, bytes) };
    memcpy(head, cnncl_magic, 8);
    for (int i = 0; i < 24; i++) head[8 + i] = (unsigned char)(number[i / 8] >> i % 8 * 8);
}

static unsigned char *cnncl_read_file(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    long  n = f && fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
    unsigned char *file = n > 0 && fseek(f, 0, SEEK_SET) == 0 ? CNN_MALLOC((size_t)n) : NULL;
    *bytes = file ? fread(file, 1, (size_t)n, f) : 0;
    if (f) fclose(f);
    return file;
}

static void cnncl_read_cache(cnncl *d, const char *path, uint64_t key)
{
    unsigned char  head[CNNCL_HEAD];
    size_t         bytes = 0;
    cl_int         e, status;
    unsigned char *file = cnncl_read_file(path, &bytes);
    if (file && bytes > CNNCL_HEAD) {
        const unsigned char *binary = file + CNNCL_HEAD;
        bytes -= CNNCL_HEAD;
        cnncl_head(head, key, binary, bytes);
        if (memcmp(head, file, sizeof head) == 0)
            d->program = d->cl.clCreateProgramWithBinary(d->context, 1, &d->device, &bytes, &binary, &status,
                                                         &e);
    }
    CNN_FREE(file);
    if (!d->program) return;
    if (d->cl.clBuildProgram(d->program, 1, &d->device, cnncl_options, NULL, NULL) == CL_SUCCESS) return;
    d->cl.clReleaseProgram(d->program);
    d->program = NULL;
}

typedef struct { unsigned char head[CNNCL_HEAD], *binary; size_t bytes; } cnncl_cache;
static bool cnncl_put_cache(FILE *f, void *what)
{
    const cnncl_cache *c = what;
    return fwrite(c->head, 1, sizeof c->head, f) == sizeof c->head &&
           fwrite(c->binary, 1, c->bytes, f) == c->bytes;
}

/* A directory that cannot be written is no error. */
static void cnncl_write_cache(cnncl *d, const char *path, uint64_t key)
{
    cnncl_cache c = { { 0 }, NULL, 0 };
    d->cl.clGetProgramInfo(d->program, CL_PROGRAM_BINARY_SIZES, sizeof c.bytes, &c.bytes, NULL);
    c.binary = c.bytes ? CNN_MALLOC(c.bytes) : NULL;
    if (c.binary && d->cl.clGetProgramInfo(d->program, CL_PROGRAM_BINARIES, sizeof c.binary, &c.binary,
                                           NULL) == CL_SUCCESS) {
        cnncl_head(c.head, key, c.binary, c.bytes);
        cnn_write_file(path, cnncl_put_cache, &c);
    }
    CNN_FREE(c.binary);
}

#endif

static bool cnncl_build(cnncl *d, CNNCL_UNUSED const char *cache)
{
#ifndef CNN_NO_STDIO
    char     path[1100] = "";
    uint64_t key = cache ? cnncl_key(d) : 0;
    if (cache && strlen(cache) < 1000) {
        cnncl_say(path, sizeof path, "%s/cnn_opencl-%016llx.bin", cache, (unsigned long long)key);
        cnncl_read_cache(d, path, key);
        d->cached = d->program != NULL;
        if (d->cached) return true;
    }
#endif
    if (!cnncl_build_most(d)) return false;
#ifndef CNN_NO_STDIO
    if (path[0] && !d->lacks) cnncl_write_cache(d, path, key);
#endif
    return true;
}

static int cnncl_number(uint64_t i) { return (int)(i * 0x9E3779B97F4A7C15u >> 40) % 7 - 3; } /* -3 to 3 */

static const char cnncl_check_memory[] = "out of memory in the check of the kernels";

/* Is C = op(A) op(B) + beta C right? Small whole numbers, so that float has no rounding and every order of
   adding the same sum; every `every`-th element is compared. */
static bool cnncl_try_gemm(cnncl *d, int m, int n, int k, bool ta, bool tb, float beta, int every)
{
    size_t  an = (size_t)m * (size_t)k, bn = (size_t)k * (size_t)n, cn = (size_t)m * (size_t)n;
    size_t  all = an + bn + cn, at = 8;
    float  *host = CNN_MALLOC((2 * all + at) * sizeof *host);
    if (!host)
        return cnncl_say(d->base.error, sizeof d->base.error, "%s", cnncl_check_memory), false;
    float  *a = host + at, *b = a + an, *c = b + bn, *got = c + cn;
    void   *buffer = d->base.alloc(&d->base, (all + at) * sizeof *host);
    bool    same = false;
    for (size_t i = 0; i < all + at; i++)
        host[i] = (float)cnncl_number(i);
    if (buffer && d->base.upload(&d->base, buffer, 0, host, (all + at) * sizeof *host) &&
        cnncl_gemm(d, (cnn_place){ buffer, at + an + bn }, n, beta, (cnn_place){ buffer, at }, ta ? m : k,
                   ta, (cnn_place){ buffer, at + an }, tb ? k : n, tb, m, n, k) &&
        d->base.download(&d->base, buffer, (at + an + bn) * sizeof *host, got, cn * sizeof *host)) {
        same = true;
        for (size_t q = 0; q < cn; q += (size_t)every) {
            size_t i = q / (size_t)n, j = q % (size_t)n;
            float  sum = beta == 0 ? 0 : beta * c[q];
            for (size_t p = 0; p < (size_t)k; p++)
                sum += a[ta ? p * (size_t)m + i : i * (size_t)k + p]
                    * b[tb ? j * (size_t)k + p : p * (size_t)n + j];
            same = same && sum == got[q];
        }
    }
    if (buffer) d->base.release(&d->base, buffer);
    CNN_FREE(host);
    return same;
}

/* Odd sizes, exact multiples of the tiles, long and thin, all transposes, with and without beta; with CLBlast
   also sizes beyond its threshold between two ways of working. */
static bool cnncl_check_gemm(cnncl *d)
{
    static const struct { int m, n, k; } sizes[] = {
        { 7, 133, 31 }, { 133, 9, 70 }, { 64, 64, 64 }, { 128, 192, 64 }, { 20, 30, 3000 },
            { 16, 16, 2000 } };
    bool right = true;
    for (int i = 0; i < 6; i++)
        for (int way = 0; way < 4 && right; way++)
            right = cnncl_try_gemm(d, sizes[i].m, sizes[i].n, sizes[i].k, way & 1, way >> 1,
                                   (float)(way != 2), 1);
    return right && (!d->clblast || (cnncl_try_gemm(d, 1024, 1024, 1024, false, true, 0, 997) &&
                                     cnncl_try_gemm(d, 2050, 2000, 1999, true, false, 1, 4999)));
}

/* Before version 1.6.3 CLBlast's way for large products overwrites memory on some Intel devices; 1 << 20 is
   larger than any product's side. */
static void cnncl_force_direct(cnncl *d)
{
    const char *names[] = { "XGEMM_MIN_INDIRECT_SIZE" };
    size_t      values[] = { 1 << 20 };
    d->blas.CLBlastOverrideParameters(d->device, "GemmRoutine", 32, 1, names, values);
}

/* Which code multiplies matrices; the report says so. A wrong product of our own kernel is an error. */
static bool cnncl_choose_gemm(cnncl *d, const cnn_opencl_args *a, const cnn_opencl_device *about,
                              const char **says)
{
    char vendor[128] = "";
    *says = "our own GEMM";
    if (!cnncl_check_gemm(d)) {
        if (!d->base.error[0])
            cnncl_say(d->base.error, sizeof d->base.error,
                      "%s multiplies matrices wrongly; its driver cannot be trusted", d->name);
        return false;
    }
    if (a->gemm == CNN_OPENCL_OWN || (a->gemm == CNN_OPENCL_AUTO && about->type == CNN_OPENCL_CPU))
        return true;
    if (!cnncl_load_clblast(&d->blas)) {
        *says = "our own GEMM (CLBlast is not installed)";
        return true;
    }
    cnncl_text(&d->cl, NULL, d->device, CL_DEVICE_VENDOR, vendor, sizeof vendor);
    const bool intel = cnncl_contains(vendor, "intel") && about->type != CNN_OPENCL_CPU;
    for (int direct = intel; direct < 2; direct++) {
        if (direct) cnncl_force_direct(d);
        d->clblast = true, d->base.error[0] = 0;
        *says = !direct ? "CLBlast" : intel ? "CLBlast (direct)"
              : "CLBlast (direct: its indirect way gave wrong products)";
        if (!cnncl_check_gemm(d)) continue;
        if (!d->clblast) *says = "our own GEMM (CLBlast fails here)";
        return true;
    }
    d->clblast = false, d->base.error[0] = 0;
    *says = "our own GEMM (CLBlast gave wrong products)";
    return true;
}

/* ---- The check of the rows: a net around one operation, its row alone on the device, and the CPU ---- */

static const float cnncl_class_weights[] = { 1, 0.5f, 2, 0.25f, 0, 3 };
static cnn_tensor *cnncl_check_net(const cnn_op *op, cnn_graph *g, cnn_tensor *x, cnn_tensor *t, int way)
{
    cnn_tensor *row = cnn_param(g, "row", { 1, 6, 1, 1 }, CNN_INIT_UNIFORM), *u = way ? x : row;
    if (op == &cnn_op_conv2d)          return cnn_conv2d(x, 4, 3, .stride_w = 2, .pad = 1, .groups = 1 + way);
    if (op == &cnn_op_dense)           return cnn_dense(x, 5);
    if (op == &cnn_op_matmul)
        return cnn_matmul(cnn_flatten(x), cnn_param(g, "b", { 180, 3, 1, 1 }, CNN_INIT_HE));
    if (op == &cnn_op_max_pool)
        return cnn_max_pool(x, 3, .stride = 2, .pad = way, .dilation = 1 + way);
    if (op == &cnn_op_avg_pool)
        return cnn_avg_pool(x, 3, .stride = 2, .pad = 2, .dilation_w = 1 + way, .no_count_pad = way);
    if (op == &cnn_op_sum)             return cnn_sum(x, CNN_N | CNN_W);
    if (op == &cnn_op_mean)            return cnn_mean(x, way ? 0 : CNN_C);
    if (op == &cnn_op_add)             return cnn_add(x, u);
    if (op == &cnn_op_sub)             return cnn_sub(u, x);
    if (op == &cnn_op_mul)             return cnn_mul(u, x);
    if (op == &cnn_op_amax)            return cnn_amax(x, way ? 0 : CNN_N | CNN_W);
    if (op == &cnn_op_amin)            return cnn_amin(x, way ? CNN_H : CNN_C);
    if (op == &cnn_op_div)             return cnn_div(x, cnn_scale(row, 1, 3));
    if (op == &cnn_op_pow)             return cnn_pow(cnn_scale(x, 0.25f, 1), u);
    if (op == &cnn_op_maximum || op == &cnn_op_minimum) {
        cnn_tensor *two[2] = { x, cnn_scale(u, 2) };
        return cnn_apply(op, two, 2, NULL, CNN_HERE);
    }
    if (op == &cnn_op_scale)           return cnn_scale(x, -2, 0.5f);
    if (op == &cnn_op_concat)          return way ? cnn_concat_along(CNN_W, x, x) : cnn_concat(x, x, x);
    if (op == &cnn_op_permute)         return cnn_permute(x, CNN_W, CNN_C, CNN_H);
    if (op == &cnn_op_depth_to_space)  return cnn_depth_to_space(cnn_slice(x, CNN_C, 1, 5), 2);
    if (op == &cnn_op_space_to_depth)  return cnn_space_to_depth(cnn_reshape(x, 5, 6, 6), 2 + way);
    if (op == &cnn_op_channel_shuffle) return cnn_channel_shuffle(x, 2 + way);
    if (op == &cnn_op_softmax)         return cnn_softmax(x, .axis = way ? CNN_H : CNN_C);
    if (op == &cnn_op_log_softmax)     return cnn_log_softmax(x, .axis = way ? CNN_W : CNN_C);
    if (op == &cnn_op_reshape)         return cnn_flatten(x);
    if (op == &cnn_op_leaky_relu)      return cnn_leaky_relu(x, 0.2f);
    if (op == &cnn_op_dropout)         return cnn_dropout(x, 0.3f);
    if (op == &cnn_op_batch_norm)      return cnn_batch_norm(x, .no_affine = way);
    cnn_tensor *v = way ? cnn_const(g, (cnn_shape){ 1, 6, 1, 1 }, cnncl_class_weights) : NULL;
    if (op == &cnn_op_softmax_cross_entropy)
        return cnn_softmax_cross_entropy(x, t, .smoothing = way ? 0.1f : 0, .class_weights = v,
                                         .ignore_index = 2 * way);
    if (op == &cnn_op_nll)             return cnn_nll(x, t, .class_weights = v, .ignore_index = 2 * way);
    if (op == &cnn_op_conv_transpose2d)
        return cnn_conv_transpose2d(x, 4, 3, .stride = 2, .pad = 1, .groups = 1 + way);
    if (op == &cnn_op_slice)           return cnn_slice(x, way ? CNN_H : CNN_C, 1, 5, .step = 2);
    if (op == &cnn_op_pad)
        return cnn_pad(cnn_pad(x, 1, 2, 0, 1, .value = 0.5f), 2, 3, 4, .mode = 1 + way);
    if (op == &cnn_op_adaptive_avg_pool) return cnn_adaptive_avg_pool(x, 4, 7);
    if (op == &cnn_op_upsample)
        return way ? cnn_upsample(x, .height = 11, .width = 3, .bilinear = 1, .align_corners = 1)
                   : cnn_upsample(cnn_upsample(x, 2), .height = 7, .width = 13, .bilinear = 1);
    if (op == &cnn_op_lrn)             return cnn_lrn(x, 3, .alpha = 0.5f);
    if (op == &cnn_op_clamp)           return cnn_clamp(x, -1, 0.5f);
    if (op == &cnn_op_prelu)           return cnn_prelu(x, .per_channel = way);
    if (op == &cnn_op_layer_norm)      return way ? cnn_layer_norm(x, .axes = CNN_W) : cnn_layer_norm(x);
    if (op == &cnn_op_rms_norm)        return cnn_rms_norm(x, .axes = CNN_H | CNN_W, .no_affine = way);
    if (op == &cnn_op_group_norm)      return cnn_group_norm(x, 2 + way);
    if (op == &cnn_op_instance_norm)   return cnn_instance_norm(x, .affine = way);
    if (op == &cnn_op_gelu)            return cnn_gelu(x, .tanh = way);
    if (op == &cnn_op_power)           return cnn_power(cnn_scale(x, 0.25f, 1), way ? 3 : -2);
    if (op == &cnn_op_huber)           return cnn_huber(x, cnn_scale(x, 2, 1), 0.5f, .smooth_l1 = way);
    cnn_tensor *in[2] = { x, cnn_sub(x, row) };
    if (op == &cnn_op_bce_with_logits) return cnn_bce_with_logits(x, in[1], .pos_weight = v, .weight = v);
    /* a loss of two, else what needs no options */
    bool        pair = op->flags & CNN_LOSS;
    if (op == &cnn_op_log || op == &cnn_op_sqrt) in[0] = cnn_scale(x, 0.25f, 1);
    return cnn_apply(op, in, pair ? 2 : 1, NULL, CNN_HERE);
}

static bool cnncl_near(const float *a, const float *b, size_t n)
{
    bool close = a && b;
    for (size_t i = 0; close && i < n; i++) close = fabsf(a[i] - b[i]) <= 1e-3f * (1 + fabsf(b[i]));
    return close;
}

/* A training step and one more update on both: the same loss, gradients and parameters? With the optimizer o,
   NULL for SGD with momentum, the gradients are clipped, and the parameters are averages. A lack of host
   memory says nothing about the row: it stops the opening. */
static bool cnncl_try_row(cnncl *d, const cnn_op *op, int way, const cnn_optimizer *o)
{
    enum { BATCH = 3, SAMPLE = 6 * 6 * 5, LABELS = 6 * 5 };
    float      *x = CNN_MALLOC(BATCH * SAMPLE * sizeof *x);
    int         labels[BATCH * LABELS];
    float       loss[2] = { 0, 0 }, clipped[2] = { 0, 0 };
    cnn_graph  *g[2] = { NULL, NULL };
    for (int i = 0; x && i < BATCH * SAMPLE; i++)
        x[i] = (float)(cnncl_number((uint64_t)i) * 7 + cnncl_number((uint64_t)(i + way + 1) << 20)) / 12;
    for (int i = 0; i < BATCH * LABELS; i++) labels[i] = i % 6;
    for (int k = 0; x && k < 2; k++) {
        cnn_graph  *one = g[k] = cnn_new(.max_batch = BATCH, .seed = 7, .threads = 1, .optimizer = o,
                                     .backend = k ? &d->base : NULL);
        cnn_tensor *in = cnn_input(one, 6, 6, 5, .grad = 1), *t = cnn_labels(one, 6, 5);
        cnn_tensor *y = cnncl_check_net(op, one, in, t, way);
        cnn_tensor *J = y->op && (y->op->flags & CNN_LOSS) ? y : cnn_mean(cnn_mul(y, y));
        if (!cnn_compile(one, J)) break;
        cnn_set(in, x, BATCH * SAMPLE);
        if (t->index >= 0) cnn_set_labels(t, labels, BATCH * LABELS);
        loss[k] = cnn_forward(J, CNN_TRAIN);
        cnn_backward(J);
        if (o) clipped[k] = (float)cnn_clip_grads(one, 0.5f);
        for (int i = 0; i < 2; i++) {
            if (o) cnn_average(one, 0.75f);
            cnn_step(one, .lr = 0.1f, .momentum = o ? 0 : 0.5f, .weight_decay = 0.1f);
        }
        if (o) cnn_average(one, 0.75f), cnn_swap_average(one);
    }
    bool same = g[0] && g[1] && !cnn_error(g[0]) && !cnn_error(g[1]) && cnncl_near(&loss[1], &loss[0], 1) &&
                cnncl_near(&clipped[1], &clipped[0], 1);
    cnn_tensor *a, *b;
    for (int i = 0; same && (a = cnn_node(g[0], i)) && (b = cnn_node(g[1], i)); i++) {
        if (a->op) continue;
        same = cnncl_near(cnn_map_read(b), cnn_map_read(a), cnn_count(a)) &&
               (!a->needs_grad || cnncl_near(cnn_map_grad(b), cnn_map_grad(a), cnn_count(a)));
    }
    d->base.error[0] = 0;
    if (!g[0] || !g[1] || cnn_error(g[0]) || (cnn_error(g[1]) && strstr(cnn_error(g[1]), "out of memory")))
        cnncl_say(d->base.error, sizeof d->base.error, "%s", cnncl_check_memory);
    cnn_free(g[0]), cnn_free(g[1]);
    CNN_FREE(x);
    return same;
}

/* Keep the rows that compute what their rooms compute; the report names the others. */
static bool cnncl_check_rows(cnncl *d)
{
    void     (*close)(cnn_backend *) = d->base.close;
    int        rows = d->base.n_kernels, kept = 0;
    size_t     room = sizeof d->report;
    cnn_kernel one;
    d->base.close = NULL, d->base.kernels = &one, d->base.n_kernels = 1;
    for (int i = 0; i < rows && !d->base.error[0]; i++) {
        one = d->row[i];
        if (cnncl_try_row(d, one.op, 0, NULL) && cnncl_try_row(d, one.op, 1, NULL)) d->row[kept++] = one;
        else if (!d->base.error[0])
            cnncl_say(d->report + strlen(d->report), room - strlen(d->report),
                      "; wrong here and left to the CPU: %s", one.op->name);
    }
    d->base.close = close, d->base.kernels = d->row, d->base.n_kernels = kept;
    return !d->base.error[0];
}

/* And of what stands beside them: the optimizers, clipping, the count of correct rows. */
static bool cnncl_check_training(cnncl *d)
{
    int n_optimizers;
    const cnn_optimizer *const *optimizers = cnn_optimizers(&n_optimizers);
    /* (4,3), then labels */
    static const float values[] = { 1, 2, 0,  3, 3, 1,  0, 1, 1,  NAN, 0, 1,   1, 0, 2, 1 };
    void (*close)(cnn_backend *) = d->base.close;
    void  *buffer = d->base.alloc(&d->base, sizeof values);
    size_t room = sizeof d->report;
    int    correct = -1;
    bool   right = buffer && d->base.upload(&d->base, buffer, 0, values, sizeof values);
    for (int i = 0; i < 2 && right; i++)
        right = cnncl_correct(&d->base, (cnn_place){ buffer, 0 }, (cnn_shape){ 4, 3, 1, 1 },
                              (cnn_place){ buffer, 12 }, !i, i ? &correct : NULL);
    if (buffer) d->base.release(&d->base, buffer);
    d->base.close = NULL;
    for (int i = 0; i < n_optimizers && right; i++)
        right = cnncl_try_row(d, &cnn_op_dense, 0, optimizers[i]);
    d->base.close = close;
    if (d->base.error[0] || (right && correct == 2 * 2)) return !d->base.error[0];
    d->base.update = NULL, d->base.scale = NULL, d->base.mix = NULL;
    d->base.squares = NULL, d->base.correct = NULL;
    cnncl_say(d->report + strlen(d->report), room - strlen(d->report),
              "; wrong here and left to the CPU: updates");
    return true;
}

/* Is `name` one of "conv2d,relu"? */
static bool cnncl_listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *s = list; s && *s; s += strcspn(s, ","), s += *s == ',')
        if (strcspn(s, ",") == n && strncmp(s, name, n) == 0) return true;
    return false;
}

static bool cnncl_open(cnncl *d, cnn_opencl_args *a, cnncl_device *list)
{
    cl_int e;
    char  *error = d->base.error;
    size_t room = sizeof d->base.error;
    cnncl_wish(a);
    const char *lacks = cnncl_load_opencl(&d->cl);
    if (lacks)
        return cnncl_say(error, room, "no OpenCL 1.2 on this machine: %s%s",
                         lacks[0] == 'c' ? "libOpenCL lacks " : "", lacks), false;
    int                 count = cnncl_list(&d->cl, list);
    const cnncl_device *chosen = cnncl_choose(list, count, a);
    if (!chosen)
        return cnncl_say(error, room, !count ? "OpenCL finds no device on this machine" :
                         "OpenCL finds %d device%s here, the first is %s, but none as asked for "
                         "(a CPU is taken only if it is asked for)", count, count == 1 ? "" : "s",
                               list[0].about.name), false;
    d->device = chosen->id;
    memcpy(d->name, chosen->about.name, sizeof d->name);
    d->base.name = d->name;
    size_t   group = 0;
    cl_ulong largest = 0;
    d->cl.clGetDeviceInfo(d->device, CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof group, &group, NULL);
    d->cl.clGetDeviceInfo(d->device, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof largest, &largest, NULL);
    d->max_buffer = largest > SIZE_MAX ? SIZE_MAX : (size_t)largest;
    d->workspace = a->workspace ? a->workspace : (size_t)256 << 20;
    if (group < CNNCL_GROUP)
        return cnncl_say(error, room, "%s allows groups of %zu items; %d are needed", d->name, group,
                         (int)CNNCL_GROUP), false;

    const cl_context_properties properties[] = { CL_CONTEXT_PLATFORM, (cl_context_properties)chosen->platform,
                                                 0 };
    d->context = d->cl.clCreateContext(properties, 1, &d->device, NULL, NULL, &e);
    if (!d->context) return cnncl_fail(d, "context", e);
    d->queue = d->cl.clCreateCommandQueue(d->context, d->device, 0, &e);
    if (!d->queue) return cnncl_fail(d, "queue", e);
    const char *says;
    if (!cnncl_build(d, a->cache)) return false;
    d->slices = (cl_mem)cnncl_alloc(&d->base, (CNNCL_COUNTER + 1) * sizeof(float));
    if (!d->slices || !cnncl_choose_gemm(d, a, &chosen->about, &says)) return false;
    cnncl_say(d->report, sizeof d->report, "%s (%s, %s), %s%s", d->name, chosen->about.version,
              chosen->about.platform, says, d->cached ? ", cached kernels" : "");
    for (size_t i = 0; i < sizeof cnncl_rows / sizeof *cnncl_rows; i++)
        if (!cnncl_listed(a->without, cnncl_rows[i].op->name))
            d->row[d->base.n_kernels++] = cnncl_rows[i];
    return (a->no_check && !d->lacks) || (cnncl_check_rows(d) && cnncl_check_training(d));
}

CNN_API cnn_backend *cnn_opencl_(cnn_opencl_args a)
{
    static const cnn_backend no_memory = { .name = "OpenCL", .error = "out of memory" };
    cnncl        *d = CNN_MALLOC(sizeof *d);
    cnncl_device *list = CNN_MALLOC(CNNCL_MAX_DEVICES * sizeof *list);
    if (!d || !list) {
        CNN_FREE(d);
        CNN_FREE(list);
        return (cnn_backend *)(uintptr_t)&no_memory;
    }
    memset(d, 0, sizeof *d);
    d->base = (cnn_backend){
        .name = "OpenCL", .alloc = cnncl_alloc, .release = cnncl_release, .upload = cnncl_upload,
        .download = cnncl_download, .clear = cnncl_clear, .scratch = cnncl_scratch,
        .update = cnncl_update, .scale = cnncl_scale, .mix = cnncl_mix, .squares = cnncl_squares,
        .correct = cnncl_correct, .close = cnncl_close, .kernels = d->row };
    if (!cnncl_open(d, &a, list) && !d->base.error[0])
        cnncl_say(d->base.error, sizeof d->base.error, "it cannot be opened");
    CNN_FREE(list);
    return &d->base;
}

CNN_API const char *cnn_opencl_error(const cnn_backend *dev)
{
    return dev && dev->error[0] ? dev->error : NULL;
}

CNN_API const char *cnn_opencl_report(const cnn_backend *dev)
{
    return !dev ? "no device" : dev->error[0] ? dev->error : ((const cnncl *)(const void *)dev)->report;
}

CNN_API void cnn_opencl_close(cnn_backend *dev)
{
    if (dev && dev->close) dev->close(dev);
}

CNN_API bool cnn_opencl_tune(cnn_backend *dev, const char *kernel, int count, const char **names,
                             const size_t *values)
{
    cnncl *d = dev && dev->close ? cnncl_of(dev) : NULL;
    return d && d->clblast && d->blas.CLBlastOverrideParameters(d->device, kernel, 32, (size_t)count, names,
                                                                values) == 0;
}

#endif /* CNN_OPENCL_IMPLEMENTATION_ONCE */
#endif /* CNN_OPENCL_IMPLEMENTATION */

/* >>licence: that of cnn.h, at its end: public domain or MIT, as you like. */
