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
   bias; batch norm, the sum behind it and a function are one kernel, backward too. A training step copies two
   arrays up, the batch and its labels, and one number down, the loss: cnn_copies(g) counts. An operation
   without a row here, such as one of your own, runs on the CPU between two copies; cnn_copies(g).host_nodes
   and the summary say how many there are. Activations lie in several buffers where the device's largest
   (often a quarter of its memory) has no room for all.

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

   Convolutions, in all three directions, and products run on one tile kernel, in the size that the shape and
   the device's compute units ask for, and 3x3 convolutions by Winograd's transforms around it; .exact of
   cnn_new does without. CLBlast takes products that are large enough to fill the device, where libclblast is
   found, but not on CPU devices, nor after one that it refuses, nor where a check at opening time finds a
   wrong number. Every kernel is held to the CPU's result: an operation whose kernel is wrong on this driver,
   or does not compile, is left to the CPU. cnn_opencl_report says so.

   With .cache = "directory" the compiled kernels are kept there. A file that was cut or changed, or is
   another driver's, counts as none and is written again.

   Which tile computes a layer, or whether Winograd does, is a rule of its sizes and the device. With
   .tune = 1 cnn_compile measures instead what is fastest, for each layer and pass at the largest batch
   (others follow the rule; what CLBlast takes and depthwise layers have no choice), and keeps it in .cache:
   the next run measures nothing.

   Results are those of the CPU to rounding, dropout masks included. On one device the same seed gives the
   same bits: there are no atomics, and every sum has a fixed order. With .tune that holds for the same cache:
   another choice is another order of sums.

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
    size_t      workspace;            /* bytes that Winograd's arrays may take at once; default 3/4 of the
                                         device's cache, but enough to keep it busy */
    int         no_check;             /* 1: do not hold every kernel to the CPU's result at opening */
    const char *without;              /* operations to leave to the CPU, "conv2d,relu"; default none */
    const char *cache;                /* a directory for compiled kernels, so that the next opening is quick,
                                         and for what .tune has measured; default none. What lies there is
                                         run: trust it as the program. */
    int         tune;                 /* 1: measure which tile, or Winograd, is fastest for each layer */
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
    X(cl_int, clGetEventProfilingInfo, (cl_event, cl_profiling_info, size_t, void *, size_t *))              \
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
                cnncl_text(cl, d.platform, NULL, CL_PLATFORM_NAME, d.about.platform, sizeof d.about.platform);
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
    A(X, power,      pow(v, k0),                        k0 == 0.0f ? 0.0f : k0 * pow(v, k0 - 1.0f))          \
    A(X, scale,      k0 * v + k1,                       k0)

/* Each kernel and the shape of its work: one item per element; one group per element of the result (a sum
   that the group shares) or per tile of it; or one small group. Kernels of tiles are in the order of
   cnncl_sides. */
#define CNNCL_KERNELS(X)                                                                                     \
    X(conv_128, GROUPS) X(conv_64, GROUPS) X(conv_32, SMALL) X(conv_4, ITEMS)                                \
    X(weights_128, GROUPS) X(weights_64, GROUPS) X(weights_32, SMALL) X(weights_4, ITEMS)                    \
    X(product_128, GROUPS) X(product_64, GROUPS) X(product_32, SMALL) X(product_4, ITEMS)                    \
    X(add_slices, ITEMS) X(depthwise_forward, ITEMS) X(depthwise_data, ITEMS) X(depthwise_weights, GROUPS)   \
    X(wino_in, ITEMS) X(wino_out, ITEMS) X(wino_dw, ITEMS) X(stretch, ITEMS) X(move, ITEMS)                  \
    X(stretch_back, ITEMS) X(fold, GROUPS) X(fill, ITEMS) X(dropout, ITEMS)                                  \
    X(pool_forward, ITEMS) X(pool_backward, ITEMS) X(pad_forward, ITEMS) X(pad_backward, ITEMS)              \
    X(upsample_forward, ITEMS) X(upsample_backward, ITEMS) X(lrn_forward, ITEMS) X(lrn_backward, ITEMS)      \
    X(softmax_forward, GROUPS)                                                                               \
    X(softmax_backward, GROUPS) X(norm_statistics, GROUPS) X(norm_forward, GROUPS) X(norm_sums, GROUPS)      \
    X(norm_backward, GROUPS) X(norm_weight, GROUPS) X(label_rows, GROUPS) X(label_end, GROUPS)               \
    X(label_loss_backward, ITEMS) X(pair_loss_forward, GROUPS) X(pair_loss_backward, ITEMS)                  \
    X(dice_sums, GROUPS) X(dice_forward, ITEMS) X(dice_backward, ITEMS) X(update, ITEMS) X(squares, GROUPS)  \
    X(correct, GROUPS)
#define CNNCL_OPTIMIZERS(X) X(sgd) X(adam) X(adamw) X(rmsprop) X(rmsprop_centered) X(adagrad)
#define CNNCL_NUMBER(name, work) CNNCL_##name,
enum { CNNCL_KERNELS(CNNCL_NUMBER) CNNCL_COUNT };
#define CNNCL_HOW(X, name, value, derivative) CNNCL_IS_##name,
enum { CNNCL_IS_NOTHING, CNNCL_ACTIVATIONS(CNNCL_HOW, ) CNNCL_IS_ALL };

enum { CNNCL_LOCAL = 64,            /* items in a group where they do not cooperate, or in a small one */
       CNNCL_GROUP = 256 };         /* items in a group that shares a sum, or a tile */

#define CNNCL_NAME_BY(name) "BY_" #name ", "
#define CNNCL_NAME_IS(X, name, value, derivative) "IS_" #name ", "
#define CNNCL_VALUE(X, name, value, derivative) "    if (how == IS_" #name ") return " #value ";\n"
#define CNNCL_SLOPE(X, name, value, derivative) "    if (how == IS_" #name ") return " #derivative ";\n"

/* ---- The tile: all products ----

   A group of S x S items computes 4 R S x 4 R S numbers of C = A B, each item R x R blocks of 4 x 4, 4 S
   apart. It goes through the sum TK terms at a step: while those of one step are multiplied, the next are on
   their way into registers (a_, b_), and from there into the other half of the local arrays, as (A, TK x
   rows) and bs (B, TK x columns). For each term an item reads 4 rows u0 and 4 columns v0, with R = 2 also u1
   and v1: 2 R float4 for 16 R R multiply-adds. The sums are float4 with names, since not every compiler keeps
   an array of 64 in registers; rows of local arrays are 4 floats longer, so that neighbours meet no bank
   twice. S = 1 is a tile of one item without local memory, for devices that have none of their own.

   A kernel says where terms come from, between TERMS and MULTIPLY, A_AT(e) and B_AT(e) being their places,
   and for PUT where results go: AT(column) is the place in TO(row), or -1, of FINISH(v, row, column).
   ROW_SUMS adds up the rows of A: the gradient of a bias. No group leaves early: PoCL 3.1 loses barriers. */
static const char cnncl_tile[] =
    "#undef LOCAL\n#undef BARRIER\n#undef ME\n#undef TILE_ID\n#undef TILE_KERNEL\n#undef MULTIPLY\n"
    "#undef EACH_SUM\n#undef ROW\n#undef MORE\n#undef MORE_ROWS\n"
    "#if S == 1\n"
    "#define LOCAL\n#define BARRIER\n#define ME 0\n#define TILE_ID(d) (int)get_global_id(d)\n"
    "#define TILE_KERNEL __kernel __attribute__((reqd_work_group_size(64, 1, 1))) void\n"
    "#define MULTIPLY(first, last) STORE(0) TERM(as4, bs4) }\n"
    "#else\n"
    "#define LOCAL __local\n#define BARRIER barrier(CLK_LOCAL_MEM_FENCE);\n"
    "#define ME (int)get_local_id(0)\n#define TILE_ID(d) (int)get_group_id(d)\n"
    "#define TILE_KERNEL __kernel __attribute__((reqd_work_group_size(S * S, 1, 1))) void\n"
    "#define MULTIPLY(first, last) \\\n"
    "    for (int p = 0; p < TK && at > (first); p++) \\\n"
    "        TERM((as4 + (now * TK + p) * (LA / 4)), (bs4 + (now * TK + p) * (LA / 4))) \\\n"
    "    now ^= 1; \\\n"
    "    if (at < (last)) { STORE(now) } \\\n"
    "    BARRIER }\n"
    "#endif\n"
    "#if R == 2\n"
    "#define EACH_SUM(X) X(0, 0) X(0, 1) X(1, 0) X(1, 1) X(2, 0) X(2, 1) X(3, 0) X(3, 1) \\\n"
    "                    X(4, 0) X(4, 1) X(5, 0) X(5, 1) X(6, 0) X(6, 1) X(7, 0) X(7, 1)\n"
    "#define ROW(i, u) s##i##0 = mad((float4)(u), v0, s##i##0); s##i##1 = mad((float4)(u), v1, s##i##1);\n"
    "#define MORE(a, b) const float4 u1 = a[S + y_]; const float4 v1 = b[S + x_];\n"
    "#define MORE_ROWS ROW(4, u1.s0) ROW(5, u1.s1) ROW(6, u1.s2) ROW(7, u1.s3)\n"
    "#else\n"
    "#define EACH_SUM(X) X(0, 0) X(1, 0) X(2, 0) X(3, 0)\n"
    "#define ROW(i, u) s##i##0 = mad((float4)(u), v0, s##i##0);\n"
    "#define MORE(a, b)\n#define MORE_ROWS\n"
    "#endif\n";
static const char cnncl_tile_macros[] =
    "#define T (4 * R * S)\n#define LA (T + 4)\n#define PER (T * TK / (S * S))\n"
    "#define SUM_IS_0(i, j) float4 s##i##j = 0.0f;\n"
    "#define HALVES ((S > 1 ? 2 : 1) * TK * LA / 4)\n"
    "#define TILE LOCAL float4 as4[HALVES]; LOCAL float4 bs4[HALVES]; \\\n"
    "    LOCAL float *as = (LOCAL float *)as4; LOCAL float *bs = (LOCAL float *)bs4; \\\n"
    "    float a_[PER]; float b_[PER]; float r_[PER]; int now = 0; \\\n"
    "    const int x_ = ME % S; const int y_ = ME / S; \\\n"
    "    const int i0 = TILE_ID(1) * T; const int j0 = TILE_ID(0) * T; \\\n"
    "    EACH_SUM(SUM_IS_0) UNROLL for (int e = 0; e < PER; e++) r_[e] = 0.0f;\n"
    "#define STORE(half_) UNROLL for (int e = 0; e < PER; e++) { \\\n"
    "    const int to_ = (half_) * TK * LA; as[to_ + A_AT(e)] = a_[e]; bs[to_ + B_AT(e)] = b_[e]; \\\n"
    "    r_[e] += a_[e]; }\n"
    "#define TERM(a, b) { const float4 u0 = (a)[y_]; const float4 v0 = (b)[x_]; MORE((a), (b)) \\\n"
    "    ROW(0, u0.s0) ROW(1, u0.s1) ROW(2, u0.s2) ROW(3, u0.s3) MORE_ROWS }\n"
    "#define TERMS(first, last) \\\n"
    "    for (int at = (first); at < (last) + (S > 1 ? TK : 0); at += TK) { if (at < (last))\n"
    "#define ONE(j, v) { const int p = AT(j); if (p >= 0) to[p] = beta == 0.0f ? v : v + beta * to[p]; }\n"
    "#define PUT(i, j) { \\\n"
    "    const int row = i0 + i / 4 * 4 * S + y_ * 4 + i % 4; const int col = j * 4 * S + x_ * 4; \\\n"
    "    if (row < m) { const float4 v = FINISH(s##i##j, row, col); __global float *to = TO(row); \\\n"
    "                   ONE(col, v.s0) ONE(col + 1, v.s1) ONE(col + 2, v.s2) ONE(col + 3, v.s3) } }\n"
    "#define ROW_SUMS(wanted, y) { \\\n"
    "    UNROLL for (int e = 0; e < PER; e++) as[A_AT(e)] = r_[e]; \\\n"
    "    BARRIER \\\n"
    "    for (int q = ME; (wanted) && q < T && i0 + q < m; q += S * S) { \\\n"
    "        float sum = 0.0f; \\\n"
    "        for (int p = 0; p < TK; p++) sum += as[p * LA + q]; \\\n"
    "        y[i0 + q] = beta == 0.0f ? sum : beta * y[i0 + q] + sum; \\\n"
    "    } }\n"
    CNNCL_SOURCE(
    /* The functions that a tile computes with its sums. */
    float4 finish(int how, float4 v, float k0, float k1)
    {
        if (how == IS_relu)       return select(v, (float4)(0.0f), v <= 0.0f);
        if (how == IS_leaky_relu) return select(k0 * v, v, v > 0.0f);
        if (how == IS_clamp) return select(select(v, (float4)(k1), v > k1), (float4)(fmin(k0, k1)), v < k0);
        return v;
    }
    /* A counter of three digits, the last two to the bases b and c, and a step of it. */
    int4 digits(int i, int b, int c) { return (int4)(i / (b * c), i / c % b, i % c, 0); }
    int4 step_by(int4 i, int4 by, int b, int c)
    {
        i += by;
        if (i.z >= c) i.z -= c, i.y++;
        if (i.y >= b) i.y -= b, i.x++;
        return i;
    }

    /* A convolution along one side: pixel u is element from + u step of the result; its tap t reads element
       start + u stride + t reach, with weight first + t every. Forward, and backward to the data. There only
       the results that lie in one phase of the stride s meet the same weights: i with (place + p - i d) % s
       = 0; so each phase is a convolution of its own, and none multiplies zeros. */
    typedef struct { int from, step, count, start, stride, reach, first, every, taps; } side;
    side along(int back, int phase, int out, int k, int s, int p, int d)
    {
        side a;
        a.from = 0, a.step = 1, a.count = out, a.start = -p, a.stride = s, a.reach = d;
        a.first = 0, a.every = 1, a.taps = k;
        if (!back) return a;
        while (a.every < k && a.every * d % s) a.every++;
        while (a.first < k && (phase + p - a.first * d) % s) a.first++;
        a.from = phase, a.step = s, a.count = (out - phase + s - 1) / s, a.stride = 1;
        a.taps = a.first < k ? (k - a.first + a.every - 1) / a.every : 0;
        a.start = (phase + p - a.first * d) / s, a.reach = -(a.every * d / s);
        return a;
    });

/* y = beta y + f(conv(x, w) + b); back = 1: y = dx and x = dy, and g is turned: ic, h and w are those of dy.
   Layer z of the grid is a phase of a group;
   columns are the pixels of all images, and term (c,i,j) is a tap of a channel. */
static const char cnncl_tile_conv[] =
    "#undef A_AT\n#undef B_AT\n#undef AT\n#undef TO\n#undef FINISH\n"
    "#define COLUMNS (T > S * S ? T : 1)\n"
    "#define A_AT(e) ME % TK * LA + ME / TK + (e) * (S * S / TK)\n"
    "#define B_AT(e) (ME / T * (PER / COLUMNS) + (e) / COLUMNS) * LA + ME % T + (e) % COLUMNS\n"
    "#define AT(j) out_at[j]\n#define TO(row) y + (size_t)(row) * out\n"
    "#define FINISH(v, row, col) finish(how, b ? v + b[group * m + (row)] : v, k0, k1)\n"
    CNNCL_SOURCE(
    TILE_KERNEL NAME(conv)(ARRAY(y), ARRAY(x), ARRAY(w), ARRAY(b), conv g, int back, float beta, int how,
                           float k0, float k1)
    {
        TILE LOCAL int out_at[T];
        const int plane = g.h * g.w; const int out = g.oh * g.ow;
        const int channels = g.ic / g.groups; const int m = g.oc / g.groups;
        const int across = back ? min(g.sw, g.ow) : 1; const int down = back ? min(g.sh, g.oh) : 1;
        const int z = TILE_ID(2); const int group = z / (across * down); const int taps = g.kh * g.kw;
        const side v = along(back, z / across % down, g.oh, g.kh, g.sh, g.ph, g.dh);
        const side u = along(back, z % across, g.ow, g.kw, g.sw, g.pw, g.dw);
        const int pixels = g.n * v.count * u.count; const int k = channels * v.taps * u.taps;
        const int w_row = back ? taps : channels * taps; const int w_channel = back ? m * taps : taps;
        const int kh = max(v.taps, 1); const int kw = max(u.taps, 1);
        const int first_a = ME % TK; const int first_b = ME / T * (PER / COLUMNS);
        const int4 one = digits(1, kh, kw); const int4 step_ = digits(TK, kh, kw);
        int4 a = digits(first_a, kh, kw); int4 b0 = digits(first_b, kh, kw);
        int top[COLUMNS]; int left[COLUMNS]; int corner[COLUMNS];
        BASE(y) BASE(x) BASE(w) BASE(b)
        if (S == 1 && j0 >= pixels) return;
        x += (size_t)group * channels * plane, y += (size_t)group * m * out;
        w += (size_t)group * m * channels * taps;
        UNROLL for (int c = 0; c < COLUMNS; c++) {
            const int4 p = digits(j0 + ME % T + c, v.count, u.count);
            top[c] = j0 + ME % T + c < pixels ? v.start + p.y * v.stride : -(1 << 30);
            left[c] = u.start + p.z * u.stride;
            corner[c] = p.x * g.ic * plane + top[c] * g.w + left[c];
        }
        for (int c = ME; c < T; c += S * S) {
            const int4 p = digits(j0 + c, v.count, u.count);
            out_at[c] = j0 + c >= pixels ? -1 : p.x * g.oc * out
                + (v.from + p.y * v.step) * g.ow + u.from + p.z * u.step;
        }
        TERMS(0, k) {
            const int w_at = a.x * w_channel + (v.first + a.y * v.every) * g.kw + u.first + a.z * u.every;
            int4 t = b0;
            UNROLL for (int e = 0; e < PER; e++) {
                const int r = i0 + ME / TK + e * (S * S / TK);
                a_[e] = r < m && at + first_a < k ? w[r * w_row + w_at] : 0.0f;
            }
            UNROLL for (int q = 0; q < PER / COLUMNS; q++) {
                const int dy = t.y * v.reach; const int dx = t.z * u.reach;
                const int from = t.x * plane + dy * g.w + dx; const int is_term = at + first_b + q < k;
                UNROLL for (int c = 0; c < COLUMNS; c++)
                    b_[q * COLUMNS + c] = is_term && (uint)(top[c] + dy) < (uint)g.h
                        && (uint)(left[c] + dx) < (uint)g.w ? x[corner[c] + from] : 0.0f;
                t = step_by(t, one, kh, kw);
            }
            a = step_by(a, step_, kh, kw), b0 = step_by(b0, step_, kh, kw);
        } MULTIPLY(0, k)
        EACH_SUM(PUT)
    });

/* Slice z / groups of dw += dy x^T, of group z % groups: the terms are pixels first .. last - 1 of all
   images, columns the taps of a channel. db: the sums of the rows. */
static const char cnncl_tile_weights[] =
    "#undef A_AT\n#undef B_AT\n#undef AT\n#undef TO\n#undef FINISH\n"
    "#define A_AT(e) ME % TK * LA + ME / TK + (e) * (S * S / TK)\n"
    "#define B_AT(e) A_AT(e)\n"
    "#define AT(j) (j0 + (j) < columns ? j0 + (j) : -1)\n#define TO(row) dw + (size_t)(row) * columns\n"
    "#define FINISH(v, row, col) v\n"
    CNNCL_SOURCE(
    TILE_KERNEL NAME(weights)(ARRAY(dw), ARRAY(db), ulong slice, ARRAY(x), ARRAY(dy), conv g,
                              int length, float beta)
    {
        TILE
        const int group = TILE_ID(2) % g.groups; const int z = TILE_ID(2) / g.groups;
        const int channels = g.ic / g.groups; const int m = g.oc / g.groups; const int out = g.oh * g.ow;
        const int plane = g.h * g.w; const int columns = channels * g.kh * g.kw;
        const int first = z * length; const int last = min(first + length, g.n * out);
        const int4 step_ = digits(TK, g.oh, g.ow); int4 p = digits(first + ME % TK, g.oh, g.ow);
        int dy_[PER]; int dx_[PER]; int from[PER];
        BASE(dw) BASE(db) BASE(x) BASE(dy)
        if (S == 1 && j0 >= columns) return;
        x += (size_t)group * channels * plane, dy += (size_t)group * m * out;
        dw += slice * z + (size_t)group * m * columns;
        if (db) db += slice * z + group * m;
        UNROLL for (int e = 0; e < PER; e++) {
            const int c = j0 + ME / TK + e * (S * S / TK); const int4 t = digits(c, g.kh, g.kw);
            dy_[e] = c < columns ? t.y * g.dh : -(1 << 30), dx_[e] = t.z * g.dw;
            from[e] = t.x * plane + t.y * g.dh * g.w + t.z * g.dw;
        }
        TERMS(first, last) {
            const int top = p.y * g.sh - g.ph; const int left = p.z * g.sw - g.pw;
            const int corner = p.x * g.ic * plane + top * g.w + left;
            const int from_y = p.x * g.oc * out + p.y * g.ow + p.z; const int is_term = at + ME % TK < last;
            UNROLL for (int e = 0; e < PER; e++) {
                const int r = i0 + ME / TK + e * (S * S / TK);
                a_[e] = is_term && r < m ? dy[from_y + r * out] : 0.0f;
                b_[e] = is_term && (uint)(top + dy_[e]) < (uint)g.h && (uint)(left + dx_[e]) < (uint)g.w
                    ? x[corner + from[e]] : 0.0f;
            }
            p = step_by(p, step_, g.oh, g.ow);
        } MULTIPLY(first, last)
        EACH_SUM(PUT)
        ROW_SUMS(db && j0 == 0, db)
    });

/* C (m,n) = beta C + f(A (m,k) B (k,n) + b), where A and B have any strides, so that all transposes are one
   code. Layer z of the grid is part z % parts of the sum for product z / parts, whose arrays are a_step and
   b_step apart, and goes to slice z of C. sums += those of the rows of A. */
static const char cnncl_tile_product[] =
    "#undef A_AT\n#undef B_AT\n#undef AT\n#undef TO\n#undef FINISH\n#undef Q\n"
    "#define Q(e) (ME + (e) * (S * S))\n"
    "#define Q_TERM(near_, e) ((near_) == 1 ? Q(e) % TK : Q(e) / T)\n"
    "#define Q_SIDE(near_, e) ((near_) == 1 ? Q(e) / TK : Q(e) % T)\n"
    "#define A_TERM(e) Q_TERM(a_col, e)\n#define A_ROW(e) Q_SIDE(a_col, e)\n"
    "#define B_TERM(e) Q_TERM(b_row, e)\n#define B_COL(e) Q_SIDE(b_row, e)\n"
    "#define A_AT(e) A_TERM(e) * LA + A_ROW(e)\n#define B_AT(e) B_TERM(e) * LA + B_COL(e)\n"
    "#define AT(j) (j0 + (j) < n ? j0 + (j) : -1)\n#define TO(row) c + (size_t)(row) * ldc\n"
    "#define BIAS(j) (bias && j0 + (j) < n ? bias[j0 + (j)] : 0.0f)\n"
    "#define BIASES(j) (float4)(BIAS(j), BIAS(j + 1), BIAS(j + 2), BIAS(j + 3))\n"
    "#define FINISH(v, r, j) finish(how, v + BIASES(j), k0, k1)\n"
    CNNCL_SOURCE(
    TILE_KERNEL NAME(product)(ARRAY(c), int ldc, ulong slice, float beta, ARRAY(a), int a_row, int a_col,
                              ulong a_step, ARRAY(b), int b_row, int b_col, ulong b_step, int m, int n, int k,
                              int length, int parts, ARRAY(bias), int how, float k0, float k1, ARRAY(sums))
    {
        TILE
        const int z = TILE_ID(2); const int first = z % parts * length;
        const int last = min(first + length, k);
        BASE(a) BASE(b) BASE(c) BASE(bias) BASE(sums)
        if (S == 1 && j0 >= n) return;
        a += a_step * (z / parts), b += b_step * (z / parts), c += slice * z;
        if (sums) sums += slice * z;
        TERMS(first, last) UNROLL for (int e = 0; e < PER; e++) {
            const int r = i0 + A_ROW(e); const int p = at + A_TERM(e);
            const int s = j0 + B_COL(e); const int q = at + B_TERM(e);
            a_[e] = r < m && p < last ? a[(size_t)r * a_row + (size_t)p * a_col] : 0.0f;
            b_[e] = s < n && q < last ? b[(size_t)q * b_row + (size_t)s * b_col] : 0.0f;
        } MULTIPLY(first, last)
        EACH_SUM(PUT)
        ROW_SUMS(sums && j0 == 0, sums)
    });

#define CNNCL_TILE(name, r, s, k)                                                                            \
    "#undef NAME\n#undef R\n#undef S\n#undef TK\n#define NAME(kernel) kernel##_" #name "\n"                  \
    "#define R " #r "\n#define S " #s "\n#define TK " #k "\n#if (S > 1) == HAS_LOCAL\n",                     \
    cnncl_tile, cnncl_tile_conv, cnncl_tile_weights, cnncl_tile_product, "#endif\n"

static const char *const cnncl_source[] = {
    "#define ARRAY(a) __global float *a, ulong a##_at\n"
    "#define BASE(a) a += a##_at;\n"
    "#define ITEM(i, n) if (get_global_id(0) >= (size_t)(n)) return; const int i = (int)get_global_id(0);\n"
    "#define FORWARD ARRAY(y), shape ys, ARRAY(x), shape xs, int n\n"
    "#define BACKWARD ARRAY(dx), float beta, shape xs, ARRAY(dy), shape ys, int n\n"
    "#define ADD_BY(beta, y, v) y = beta == 0.0f ? (v) : beta * y + (v);\n"
    "#define ADD(y, v) ADD_BY(beta, y, v)\n"
    "#define UNROLL _Pragma(\"unroll\")\n"
    "#define GROUP 256\n"
    "#define GROUP_KERNEL __kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))\n"
    CNNCL_SOURCE(
    typedef struct { int n, c, h, w; } shape;
    typedef struct { int n, ic, h, w, oc, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw, groups; } conv;

    /* The sum of v over `lanes` items of the group that follow each other, a power of two, by halves; how =
       1: the largest, 2: the smallest, or NaN. Each of them gets it. */
    float merge(int how, float a, float b)
    {
        return how == 0 ? a + b : (how == 1 ? b > a : b < a) || b != b ? b : a;
    }
    float team(int how, float v, __local float *part, int lanes)
    {
        const int me = (int)get_local_id(0);
        barrier(CLK_LOCAL_MEM_FENCE);
        part[me] = v;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int half_ = lanes / 2; half_ > 0; half_ /= 2) {
            if (me % lanes < half_) part[me] = merge(how, part[me], part[me + half_]);
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        return part[me - me % lanes];
    }
    float group_sum(float v, __local float *part) { return team(0, v, part, GROUP); }

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
    "    if (how == 0) return v;\n"
    CNNCL_ACTIVATIONS(CNNCL_VALUE, )
    "    return v;\n}\n",
    "float slope(int how, float v, float k0, float k1)\n{\n"
    CNNCL_ACTIVATIONS(CNNCL_SLOPE, )
    "    return 1.0f;\n}\n",

    cnncl_tile_macros, CNNCL_TILE(128, 2, 16, 8), CNNCL_TILE(64, 1, 16, 8), CNNCL_TILE(32, 1, 8, 8),
    CNNCL_TILE(4, 1, 1, 1),

    /* stretch: y = beta y + f(a op b), or f(a) without b, or, op = 9, a f'(b), with both stretched, unless
                all is `plain`; op: its place in cnncl_binary
       stretch_back: d = dy times the derivative of op to a, or to b; the formulas stand in the room
       fold:    y = beta y + factor (sum of terms over what y does not tell apart), where how = 0: the terms
                are x; 1, 2: it is the largest, or the smallest, x; 3: they are x u, with u stretched to the
                shape of x. Term q for y[j] is at folded(j, q). `lanes` items share each y[j], and each part
                z of its terms, which goes to slice z of y. */
    CNNCL_SOURCE(
    __kernel void fill(ARRAY(y), int n, float v)
    {
        BASE(y) ITEM(i, n)
        y[i] = v;
    }
    __kernel void stretch(ARRAY(y), shape ys, float beta, ARRAY(a), shape as, ARRAY(b), shape bs, int n,
                          int plain, int op, int how, float k0, float k1)
    {
        BASE(y) BASE(a) BASE(b) ITEM(i, n)
        size_t p = (size_t)i; size_t q = p;
        if (!plain) {
            const shape at = coordinates(ys, i);
            p = element(as, at), q = element(bs, at);
        }
        const float u = a[p]; const float v = b ? b[q] : 0.0f;
        const float r = op == 9 ? u * slope(how, v, k0, k1)
            : value(how, !b ? u : op == 0 ? u + v : op == 1 ? u - v : op == 2 ? u * v : op == 3 ? u / v
                       : op == 4 ? (u > v || u != u ? u : v) : op == 5 ? (u < v || u != u ? u : v)
                       : op == 6 ? pow(u, v) : op == 7 ? (u > 0.0f ? u : u * v)
                       : (u == v ? 1.0f : 0.0f), k0, k1);
        ADD(y[i], r)
    }
    float stretch_slope(float u, float v, int how, int to_b)
    {
        if (how == 3) return to_b ? -(u / v) / v : 1.0f / v;
        if (how == 6 && !to_b) return v == 0.0f ? 0.0f : v * pow(u, v - 1.0f);
        if (how == 6) return u == 0.0f && v >= 0.0f ? 0.0f : pow(u, v) * log(u);
        if (how == 7) return u > 0.0f ? (to_b ? 0.0f : 1.0f) : (to_b ? u : v);
        return u == v ? 0.5f : (how == 4) == (to_b != 0) ? (u > v ? 0.0f : 1.0f) : (u < v ? 0.0f : 1.0f);
    }
    __kernel void stretch_back(ARRAY(d), float beta, ARRAY(dy), shape ys, ARRAY(a), shape as, ARRAY(b),
                               shape bs, int n, int how, int to_b)
    {
        BASE(d) BASE(dy) BASE(a) BASE(b) ITEM(i, n)
        const shape at = coordinates(ys, i);
        const float slope_ = stretch_slope(a[element(as, at)], b[element(bs, at)], how, to_b);
        ADD(d[i], (how == 4 || how == 5) && slope_ == 0.0f ? 0.0f : dy[i] * slope_)
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
    float fold_part(__global float *x, shape xs, __global float *u, shape us, int how, shape ys, int j, int q,
                    int last, int step_)
    {
        float sum = how == 1 ? -INFINITY : how == 2 ? INFINITY : 0.0f;
        for (; q < last; q += step_) {
            const shape at = folded(xs, ys, j, q);
            float v = x[element(xs, at)];
            if (how == 3) v *= u[element(us, at)];
            sum = merge(how < 3 ? how : 0, sum, v);
        }
        return sum;
    }),
    CNNCL_SOURCE(
    GROUP_KERNEL void fold(ARRAY(y), shape ys, ARRAY(x), shape xs, ARRAY(u), shape us, int how, int n,
                           int count, int length, int lanes, float beta, float factor)
    {
        __local float part[GROUP]; BASE(y) BASE(x) BASE(u)
        const int me = (int)get_local_id(0); const int z = (int)get_group_id(1);
        const int j = (int)get_group_id(0) * (GROUP / lanes) + me / lanes;
        const int last = j < n ? min(count, z * length + length) : 0;
        const float sum = factor * team(how < 3 ? how : 0, fold_part(x, xs, u, us, how, ys, j,
            z * length + me % lanes, last, lanes), part, lanes);
        if (j < n && me % lanes == 0) ADD(y[(size_t)z * n + j], sum)
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
        if (into) ADD(b[p], a[i])
        else ADD(a[i], b[p])
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
    __kernel void pad_forward(FORWARD, shape from, int mode, float value)
    {
        BASE(y) BASE(x) ITEM(i, n)
        const shape at = coordinates(ys, i);
        const int c = pad_source(at.c - from.c, xs.c, mode);
        const int h = pad_source(at.h - from.h, xs.h, mode);
        const int w = pad_source(at.w - from.w, xs.w, mode);
        y[i] = c < 0 || h < 0 || w < 0 ? value : x[((at.n * xs.c + c) * xs.h + h) * xs.w + w];
    }
    __kernel void pad_backward(BACKWARD, shape from, int mode)
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
        ADD(dx[i], sum)
    }),

    /* y = beta y + f(sum of the slices of s + bias), n numbers; the n2 numbers behind them in each slice go
       to z. */
    CNNCL_SOURCE(
    __kernel void add_slices(ARRAY(y), ARRAY(z), ARRAY(s), int n, int n2, int slices, float beta, ARRAY(bias),
                             int columns, int how, float k0, float k1)
    {
        BASE(y) BASE(z) BASE(s) BASE(bias) ITEM(i, n + n2)
        float sum = 0.0f;
        for (int q = 0; q < slices; q++) sum += s[(size_t)q * (n + n2) + i];
        if (i >= n) ADD(z[i - n], sum)
        else ADD(y[i], value(how, bias ? sum + bias[i % columns] : sum, k0, k1))
    }

    /* Depthwise convolutions, of one channel a group: with oc / ic kernels for each, and few terms. */
    __kernel void depthwise_forward(ARRAY(y), ARRAY(x), ARRAY(w), ARRAY(b), conv g, int items, float beta,
                                    int how, float k0, float k1)
    {
        BASE(y) BASE(x) BASE(w) BASE(b) ITEM(o, items)
        const int ox = o % g.ow; const int oy = o / g.ow % g.oh;
        const int oc = o / (g.ow * g.oh) % g.oc; const int n = o / (g.ow * g.oh * g.oc);
        const int top = oy * g.sh - g.ph; const int left = ox * g.sw - g.pw;
        float sum = b ? b[oc] : 0.0f;
        x += (size_t)(n * g.ic + oc / (g.oc / g.ic)) * g.h * g.w, w += (size_t)oc * g.kh * g.kw;
        for (int i = 0; i < g.kh; i++) for (int j = 0; j < g.kw; j++) {
            const int iy = top + i * g.dh; const int ix = left + j * g.dw;
            if ((uint)iy < (uint)g.h && (uint)ix < (uint)g.w) sum += w[i * g.kw + j] * x[iy * g.w + ix];
        }
        ADD(y[o], value(how, sum, k0, k1))
    }
    /* with g turned as in conv */
    __kernel void depthwise_data(ARRAY(dx), ARRAY(dy), ARRAY(w), ARRAY(b), conv g, int items, float beta,
                                 int how, float k0, float k1)
    {
        BASE(dx) BASE(dy) BASE(w) BASE(b) ITEM(o, items)
        const int ix = o % g.ow; const int iy = o / g.ow % g.oh; const int outs = g.ic / g.oc;
        const int ic = o / (g.ow * g.oh) % g.oc; const int n = o / (g.ow * g.oh * g.oc);
        float sum = b ? b[ic] : 0.0f;
        for (int i = 0; i < g.kh; i++) for (int j = 0; j < g.kw; j++) {
            const int ty = iy + g.ph - i * g.dh; const int oy = ty / g.sh;
            const int tx = ix + g.pw - j * g.dw; const int ox = tx / g.sw;
            if (ty < 0 || ty % g.sh || oy >= g.h || tx < 0 || tx % g.sw || ox >= g.w) continue;
            for (int oc = ic * outs; oc < (ic + 1) * outs; oc++)
                sum += w[((size_t)oc * g.kh + i) * g.kw + j]
                     * dy[((size_t)(n * g.ic + oc) * g.h + oy) * g.w + ox];
        }
        ADD(dx[o], value(how, sum, k0, k1))
    }
    /* row i of dw of channel oc, from the pixels of slice z; db with row 0 */
    GROUP_KERNEL void depthwise_weights(ARRAY(dw), ARRAY(db), ulong slice, ARRAY(x), ARRAY(dy),
                                        conv g, int length, float beta)
    {
        enum { MOST = 8 };
        __local float part[MOST + 1][GROUP]; BASE(dw) BASE(db) BASE(x) BASE(dy)
        const int oc = (int)get_group_id(0); const int i = (int)get_group_id(1);
        const int z = (int)get_group_id(2);
        const int me = (int)get_local_id(0); const int first = z * length + me;
        const int last = min(z * length + length, g.n * g.oh * g.ow);
        const int4 by = digits(GROUP, g.oh, g.ow);
        dw += slice * z + ((size_t)oc * g.kh + i) * g.kw;
        for (int j = 0; j < g.kw; j += MOST) {
            float sum[MOST]; float all = 0.0f; int4 p = digits(first, g.oh, g.ow);
            UNROLL for (int e = 0; e < MOST; e++) sum[e] = 0.0f;
            for (int q = first; q < last; q += GROUP, p = step_by(p, by, g.oh, g.ow)) {
                const float d = dy[((size_t)(p.x * g.oc + oc) * g.oh + p.y) * g.ow + p.z];
                const int iy = p.y * g.sh - g.ph + i * g.dh; const int left = p.z * g.sw - g.pw + j * g.dw;
                __global float *row = x + ((size_t)(p.x * g.ic + oc / (g.oc / g.ic)) * g.h + iy) * g.w;
                all += d;
                UNROLL for (int e = 0; e < MOST; e++)
                    if (j + e < g.kw && (uint)iy < (uint)g.h && (uint)(left + e * g.dw) < (uint)g.w)
                        sum[e] += d * row[left + e * g.dw];
            }
            UNROLL for (int e = 0; e <= MOST; e++) part[e][me] = e < MOST ? sum[e] : all;
            barrier(CLK_LOCAL_MEM_FENCE);
            for (int half_ = GROUP / 2; half_ > 0; half_ /= 2) {
                for (int e = 0; e <= MOST && me < half_; e++) part[e][me] += part[e][me + half_];
                barrier(CLK_LOCAL_MEM_FENCE);
            }
            if (me < MOST && j + me < g.kw) ADD(dw[j + me], part[me][0])
            if (me == MOST && db && i == 0 && j == 0) ADD(db[slice * z + oc], part[MOST][0])
            barrier(CLK_LOCAL_MEM_FENCE);
        }
    }),

    /* ---- Winograd's F(4x4,3x3) (Lavin, Gray 2016), as in >>conv of cnn.h: 36 products of one tile each ----

       Tile t of channel c covers 4 x 4 outputs. V = B^T x B, U = G w G^T, y = A^T (U V) A; for the weights
       Z = A dy A^T, dw = G^T (Z V^T) G. Number q of 36 lies at plane q: of tiles, by channels. Backward to
       the data is forward of dy with turned weights, and g turned as in conv. A call has `count` tiles from
       `first`. */
    CNNCL_SOURCE(
    void wino_b(float *d, int s)
    {
        const float a = d[0]; const float b = d[s]; const float c = d[2 * s]; const float e = d[3 * s];
        const float f = d[4 * s]; const float g = d[5 * s];
        d[0] = 4 * a - 5 * c + f, d[s] = -4 * b - 4 * c + e + f, d[2 * s] = 4 * b - 4 * c - e + f;
        d[3 * s] = -2 * b - c + 2 * e + f, d[4 * s] = 2 * b - c - 2 * e + f, d[5 * s] = 4 * b - 5 * e + g;
    }
    void wino_at(const float *m, int s, float *y, int q)                               /* A^T m: 6 to 4 */
    {
        const float a = m[s] + m[2 * s]; const float b = m[s] - m[2 * s];
        const float c = m[3 * s] + m[4 * s]; const float d = m[3 * s] - m[4 * s];
        y[0] = m[0] + a + c, y[q] = b + 2 * d, y[2 * q] = a + 4 * c, y[3 * q] = b + 8 * d + m[5 * s];
    }
    void wino_a(const float *y, int q, float *m, int s)                                /* A y: 4 to 6 */
    {
        const float a = y[0] + y[2 * q]; const float b = y[q] + y[3 * q];
        const float c = y[0] + 4 * y[2 * q]; const float d = 2 * y[q] + 8 * y[3 * q];
        m[0] = y[0], m[s] = a + b, m[2 * s] = a - b, m[3 * s] = c + d, m[4 * s] = c - d, m[5 * s] = y[3 * q];
    }
    void wino_g(const float *w, int q, float *u, int s)                                /* G w: 3 to 6 */
    {
        const float a = w[0]; const float b = w[q]; const float c = w[2 * q];
        u[0] = a / 4, u[s] = -(a + b + c) / 6, u[2 * s] = -(a - b + c) / 6;
        u[3 * s] = a / 24 + b / 12 + c / 6, u[4 * s] = a / 24 - b / 12 + c / 6, u[5 * s] = c;
    }
    void wino_gt(const float *u, int s, float *w, int q)                               /* G^T u: 6 to 3 */
    {
        const float a = u[s] + u[2 * s]; const float b = u[s] - u[2 * s];
        const float c = u[3 * s] + u[4 * s]; const float d = u[3 * s] - u[4 * s];
        w[0] = u[0] / 4 - a / 6 + c / 24, w[q] = -b / 6 + d / 12, w[2 * q] = -a / 6 + c / 6 + u[5 * s];
    }
    )
    /* n x n numbers of a plane, from row y0 and column x0 on; 0 outside */
    "#define PATCH(n, plane, h, w, y0, x0) UNROLL for (int p = 0; p < n * n; p++) { \\\n"
    "    const int iy = (y0) + p / n; const int ix = (x0) + p % n; \\\n"
    "    d[p] = (uint)iy < (uint)(h) && (uint)ix < (uint)(w) ? plane[iy * (w) + ix] : 0.0f; }\n",
    CNNCL_SOURCE(
    /* V; and behind its items, if `more` is 1 or 2, those of U, or of Z */
    __kernel void wino_in(ARRAY(v), ARRAY(x), ARRAY(u), ARRAY(w), conv g, int back, int first, int count,
                          int more)
    {
        const int n_v = g.ic * count; const int weights = g.oc * g.ic;
        const int across = (g.ow + 3) / 4; const int down = (g.oh + 3) / 4;
        float d[36]; float e[36];
        BASE(v) BASE(x) BASE(u) BASE(w) ITEM(i, n_v + (more == 1 ? weights : more == 2 ? g.oc * count : 0))
        if (i >= n_v && more == 1) {
            const int ic = back ? g.oc : g.ic;                                           /* as w has them */
            const int o = (i - n_v) / ic; const int c = (i - n_v) % ic;
            UNROLL for (int q = 0; q < 9; q++) e[q] = w[(i - n_v) * 9 + (back ? 8 - q : q)];
            UNROLL for (int j = 0; j < 3; j++) wino_g(e + j, 3, e + 9 + j, 3);
            UNROLL for (int j = 0; j < 6; j++) wino_g(e + 9 + 3 * j, 1, d + 6 * j, 1);
            u += back ? c * g.ic + o : i - n_v;
            UNROLL for (int q = 0; q < 36; q++) u[(size_t)q * weights] = d[q];
            return;
        }
        const int k = i < n_v ? i : i - n_v; const int4 t = digits(first + k % count, down, across);
        if (i < n_v) {
            x += (size_t)(t.x * g.ic + k / count) * g.h * g.w;
            PATCH(6, x, g.h, g.w, t.y * 4 - (back ? 2 - g.ph : g.ph), t.z * 4 - (back ? 2 - g.pw : g.pw))
            UNROLL for (int j = 0; j < 6; j++) wino_b(d + j, 6);
            UNROLL for (int j = 0; j < 6; j++) wino_b(d + 6 * j, 1);
            UNROLL for (int q = 0; q < 36; q++) v[(size_t)q * n_v + i] = d[q];
        } else {
            w += (size_t)(t.x * g.oc + k / count) * g.oh * g.ow;
            PATCH(4, w, g.oh, g.ow, t.y * 4, t.z * 4)
            UNROLL for (int j = 0; j < 4; j++) wino_a(d + j, 4, e + j, 4);
            UNROLL for (int j = 0; j < 6; j++) wino_a(e + 4 * j, 1, d + 6 * j, 1);
            UNROLL for (int q = 0; q < 36; q++) u[(size_t)q * g.oc * count + k] = d[q];
        }
    }
    __kernel void wino_out(ARRAY(y), ARRAY(m), ARRAY(b), conv g, int first, int count, float beta, int how,
                           float k0, float k1)
    {
        const int h = g.oh; const int w = g.ow;
        float d[36]; float e[24];
        BASE(y) BASE(m) BASE(b) ITEM(i, g.oc * count)
        const int c = i / count; const int4 t = digits(first + i % count, (h + 3) / 4, (w + 3) / 4);
        UNROLL for (int q = 0; q < 36; q++) d[q] = m[(size_t)q * g.oc * count + i];
        UNROLL for (int j = 0; j < 6; j++) wino_at(d + j, 6, e + j, 6);
        UNROLL for (int j = 0; j < 4; j++) wino_at(e + 6 * j, 1, d + 4 * j, 1);
        y += (size_t)(t.x * g.oc + c) * h * w;
        UNROLL for (int j = 0; j < 4; j++) {
            const float4 r = (float4)(d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3]);
            const float4 f = finish(how, b ? r + b[c] : r, k0, k1);
            float row[4]; row[0] = f.s0, row[1] = f.s1, row[2] = f.s2, row[3] = f.s3;
            UNROLL for (int l = 0; l < 4; l++) if (4 * t.y + j < h && 4 * t.z + l < w) {
                const int at = (4 * t.y + j) * w + 4 * t.z + l;
                y[at] = beta == 0.0f ? row[l] : row[l] + beta * y[at];
            }
        }
    }
    /* dw += G^T (sum of `parts` products) G */
    __kernel void wino_dw(ARRAY(dw), ARRAY(du), int weights, int parts)
    {
        float d[36]; float e[18];
        BASE(dw) BASE(du) ITEM(i, weights)
        UNROLL for (int q = 0; q < 36; q++) {
            d[q] = 0.0f;
            for (int p = 0; p < parts; p++) d[q] += du[(size_t)(q * parts + p) * weights + i];
        }
        UNROLL for (int j = 0; j < 6; j++) wino_gt(d + j, 6, e + j, 6);
        UNROLL for (int j = 0; j < 3; j++) wino_gt(e + 6 * j, 1, d + 3 * j, 1);
        UNROLL for (int q = 0; q < 9; q++) dw[(size_t)i * 9 + q] += d[q];
    }),

    /* Pools. The window of output o holds along one side the inputs `from`, from + d, ... below `to`; input i
       is in windows of the outputs `from` to `to` - 1. pool: 0 the largest, 1 the mean, 2 the mean of bins as
       large as they come, for any number of outputs. saved: the place of the largest in its plane, the first
       one in a tie. */
    CNNCL_SOURCE(
    typedef struct { int size, out, k, s, p, d; } axis;
    typedef struct { int from, to; } range;
    axis rows_of(conv g)    { axis a = { g.h, g.oh, g.kh, g.sh, g.ph, g.dh }; return a; }
    axis columns_of(conv g) { axis a = { g.w, g.ow, g.kw, g.sw, g.pw, g.dw }; return a; }
    int first_inside(int i, int d) { return i < 0 ? i + (d - 1 - i) / d * d : i; }
    range bins(int i, int size, int out)
    {
        range r = { (int)((long)i * size / out), (int)(((long)(i + 1) * size + out - 1) / out) };
        return r;
    }
    range inputs(int o, axis a, int pool)
    {
        const int start = o * a.s - a.p;
        range r = { first_inside(start, a.d), min(start + (a.k - 1) * a.d + 1, a.size) };
        return pool == 2 ? bins(o, a.size, a.out) : r;
    }
    range outputs(int i, axis a, int pool)
    {
        const int end = i + a.p;
        range r = { max((end - (a.k - 1) * a.d - 1 + a.s) / a.s, 0), min(end / a.s, a.out - 1) + 1 };
        return pool == 2 ? bins(i, a.out, a.size) : r;
    }
    /* what a mean over the window of output o divides by: its part inside the image, or inside image and
       padding, which may be more than an int holds */
    float window_size(int o, axis a, int pool, int before, int behind)
    {
        const range r = inputs(o, a, pool);
        const int start = o * a.s - a.p; const int first = first_inside(start + before, a.d) - before;
        const int end = min(start + (a.k - 1) * a.d + 1, a.size + behind);
        return (float)(pool == 2 ? r.to - r.from : (end - first + a.d - 1) / a.d);
    }
    __kernel void pool_forward(ARRAY(y), ARRAY(x), ARRAY(saved), conv g, shape pad, int pool, int items)
    {
        BASE(y) BASE(x) BASE(saved) ITEM(o, items)
        const int ox = o % g.ow; const int oy = o / g.ow % g.oh;
        const range r = inputs(oy, rows_of(g), pool); const range c = inputs(ox, columns_of(g), pool);
        int best = r.from * g.w + c.from; float sum = 0.0f;
        x += (size_t)(o / (g.ow * g.oh)) * g.h * g.w;
        for (int iy = r.from; iy < r.to; iy += g.dh) for (int ix = c.from; ix < c.to; ix += g.dw) {
            const float v = x[iy * g.w + ix];
            sum += v;
            if (pool == 0 && (v > x[best] || isnan(v))) best = iy * g.w + ix;
        }
        y[o] = pool == 0 ? x[best] : sum / (window_size(oy, rows_of(g), pool, pad.n, pad.c)
                                            * window_size(ox, columns_of(g), pool, pad.h, pad.w));
        if (saved) ((__global int *)saved)[o] = best;
    }
    __kernel void pool_backward(ARRAY(dx), float beta, ARRAY(dy), ARRAY(saved), conv g, shape pad, int pool,
                                int items)
    {
        BASE(dx) BASE(dy) BASE(saved) ITEM(i, items)
        const int me = i % (g.h * g.w); const int iy = me / g.w; const int ix = me % g.w;
        const range r = outputs(iy, rows_of(g), pool); const range c = outputs(ix, columns_of(g), pool);
        const size_t out = (size_t)(i / (g.h * g.w)) * g.oh * g.ow;
        float sum = 0.0f;
        for (int oy = r.from; oy < r.to; oy++) for (int ox = c.from; ox < c.to; ox++) {
            const size_t o = out + oy * g.ow + ox;
            if (pool == 0) sum += ((__global int *)saved)[o] == me ? dy[o] : 0.0f;
            else if ((iy + g.ph - oy * g.sh) % g.dh == 0 && (ix + g.pw - ox * g.sw) % g.dw == 0)
                sum += dy[o] / (window_size(oy, rows_of(g), pool, pad.n, pad.c)
                                * window_size(ox, columns_of(g), pool, pad.h, pad.w));
        }
        ADD(dx[i], sum)
    }),

    /* softmax over C of x (N,C,P), or its logarithm; `lanes` items for each of the n rows (n,p). With top =
       max x:
           softmax:   y = exp(x - top) / sum exp(x - top),      dx += y (dy - sum y dy)
           logarithm: y = x - top - log sum exp(x - top),       dx += dy - exp(y) sum dy */
    "#define EACH_LANE \\\n"
    "    for (size_t at = first + (size_t)(me % lanes) * plane; at < end; at += (size_t)lanes * plane)\n"
    "#define ROW_OF_LANES __local float part[GROUP]; const int me = (int)get_local_id(0); \\\n"
    "    const int i = (int)get_group_id(0) * (GROUP / lanes) + me / lanes; \\\n"
    "    const size_t first = (size_t)(i / plane) * channels * plane + i % plane; \\\n"
    "    const size_t end = i < n ? first + (size_t)channels * plane : 0;\n"
    CNNCL_SOURCE(
    GROUP_KERNEL void softmax_forward(ARRAY(y), ARRAY(x), int channels, int plane, int n, int lanes,
                                      int logarithm)
    {
        BASE(y) BASE(x) ROW_OF_LANES
        float top = -INFINITY; float sum = 0.0f;
        EACH_LANE top = fmax(top, x[at]);
        top = team(1, top, part, lanes);
        EACH_LANE sum += exp(x[at] - top);
        sum = team(0, sum, part, lanes);
        EACH_LANE y[at] = logarithm ? x[at] - top - log(sum) : exp(x[at] - top) / sum;
    }
    GROUP_KERNEL void softmax_backward(ARRAY(dx), float beta, ARRAY(dy), ARRAY(y), int channels, int plane,
                                       int n, int lanes, int logarithm)
    {
        BASE(dx) BASE(dy) BASE(y) ROW_OF_LANES
        float sum = 0.0f;
        EACH_LANE sum += logarithm ? dy[at] : y[at] * dy[at];
        sum = team(0, sum, part, lanes);
        EACH_LANE ADD(dx[at], logarithm ? dy[at] - exp(y[at]) * sum : y[at] * (dy[at] - sum))
    }),

    /* Local response normalisation: s = k + share sum of x^2 over the channels c - left .. c + right,
       y = x s^-beta,  dx += dy s^-beta - 2 share beta x (sum of dy y / s over c in whose window it is). */
    CNNCL_SOURCE(
    __kernel void lrn_forward(FORWARD, ARRAY(saved), int size, float share, float power, float k)
    {
        BASE(y) BASE(x) BASE(saved) ITEM(i, n)
        const int plane = xs.h * xs.w; const int channels = xs.c;
        const int c = i / plane % channels; const size_t first = (size_t)i - (size_t)c * plane;
        float sum = 0.0f;
        for (int j = max(c - size / 2, 0); j <= min(c + (size - 1) / 2, channels - 1); j++)
            sum += x[first + (size_t)j * plane] * x[first + (size_t)j * plane];
        sum = k + share * sum;
        y[i] = x[i] * pow(sum, -power);
        if (saved) saved[i] = sum;
    }
    __kernel void lrn_backward(BACKWARD, ARRAY(x), ARRAY(y), ARRAY(saved), int size, float share, float power)
    {
        BASE(dx) BASE(dy) BASE(x) BASE(y) BASE(saved) ITEM(i, n)
        const int plane = xs.h * xs.w; const int channels = xs.c;
        const int c = i / plane % channels; const size_t first = (size_t)i - (size_t)c * plane;
        float sum = 0.0f;
        for (int j = max(c - (size - 1) / 2, 0); j <= min(c + size / 2, channels - 1); j++) {
            const size_t at = first + (size_t)j * plane;
            sum += dy[at] * y[at] / saved[at];
        }
        ADD(dx[i], dy[i] * pow(saved[i], -power) - 2.0f * share * power * x[i] * sum)
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
    __kernel void upsample_forward(FORWARD, int filter)
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
    __kernel void upsample_backward(BACKWARD, int filter)
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
        ADD(dx[i], sum)
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
        ADD(y[i], v)
    }),

    /* Norms, with what follows in y's place: y = f(w h + b + other), h = (x - mean) rstd. x is seen as (N,
       channels,plane); group (c,s) has slice s of the `count` elements of channel c, which have mean and rstd
       in common. Batch norm's channels have one weight each (share = 0). In the norms of one sample a channel
       is a row of `plane` elements, N = 1; `share` neighbours have one weight, and after `sample` elements
       the weights begin anew. rms_norm is not `centred`. Statistics by two passes, since the difference of
       two large sums would lose the variance; slices' means and squares are merged in order (Chan et al.
       1979).
       Backward, with e = dy f'(y), which is also the gradient of other, and m elements:
           dw = sum e h,  db = sum e,  dx += rstd (w e - sum w e / m - h (sum w e h) / m)
       There is no w, other, saved or gradient where its array is NULL. */
    "#define EACH_PIXEL(first, last) \\\n"
    "    for (int q = (first) + me, n_ = q / plane, p_ = q % plane; q < (last); q += GROUP, \\\n"
    "         p_ += GROUP % plane, n_ += GROUP / plane + (p_ >= plane), p_ -= p_ >= plane ? plane : 0)\n"
    "#define AT_PIXEL ((size_t)(n_ * channels + c) * plane + p_)\n"
    "#define SLICE const int c = (int)get_group_id(0); const int s = (int)get_group_id(1); \\\n"
    "    const int me = (int)get_local_id(0); \\\n"
    "    const int first = s * length; const int last = min(count, first + length);\n"
    "#define STATISTICS float sum_ = 0.0f; float squares_ = 0.0f; \\\n"
    "    EACH_PIXEL(first, last) sum_ += x[AT_PIXEL]; \\\n"
    "    const float m_ = centred ? group_sum(sum_, part) / (float)(last - first) : 0.0f; \\\n"
    "    EACH_PIXEL(first, last) squares_ += (x[AT_PIXEL] - m_) * (x[AT_PIXEL] - m_); \\\n"
    "    squares_ = group_sum(squares_, part);\n"
    "#define NORM int channels, int plane, int count, int length, int sample, int share, int centred\n"
    "#define WEIGHT(at) ((int)(at) % sample / share)\n",
    CNNCL_SOURCE(
    GROUP_KERNEL void norm_statistics(ARRAY(x), ARRAY(parts), NORM)
    {
        __local float part[GROUP]; BASE(x) BASE(parts) SLICE
        STATISTICS
        parts += 2 * (s * channels + c);
        if (me == 0) parts[0] = m_, parts[1] = squares_;
    }
    /* slices = 0: with the running statistics; 1: with its own, without norm_statistics before it */
    GROUP_KERNEL void norm_forward(ARRAY(y), ARRAY(x), ARRAY(parts), ARRAY(saved), ARRAY(running_mean),
                                   ARRAY(running_var), ARRAY(w), ARRAY(b), ARRAY(other), float sign_, NORM,
                                   int slices, float eps, float momentum, int how, float k0, float k1)
    {
        __local float part[GROUP]; BASE(y) BASE(x) BASE(parts) BASE(saved) BASE(running_mean)
        BASE(running_var) BASE(w) BASE(b) BASE(other) SLICE
        float mean = slices ? 0.0f : running_mean[c]; float square = 0.0f;
        if (slices == 1) {
            STATISTICS
            mean = m_, square = squares_;
        } else for (int q = 0; q < slices; q++) {
            const float n = (float)(q * length);
            const float m = (float)(min(count, q * length + length) - q * length);
            const float d = parts[2 * (q * channels + c)] - mean;
            mean += d * m / (n + m);
            square += parts[2 * (q * channels + c) + 1] + d * d * n * m / (n + m);
        }
        const float inverse = 1.0f / sqrt((slices ? square / (float)count : running_var[c]) + eps);
        const float u = w && !share ? w[c] * inverse : inverse; const float v = b && !share ? b[c] : 0.0f;
        EACH_PIXEL(first, last) {
            const size_t at = AT_PIXEL;
            float h = (x[at] - mean) * u + v;
            if (share && w) h = w[WEIGHT(at)] * h + (b ? b[WEIGHT(at)] : 0.0f);
            y[at] = value(how, other ? h + sign_ * other[at] : h, k0, k1);
        }
        if (me != 0 || s != 0 || !saved) return;
        saved[c] = mean, saved[channels + c] = inverse;
        if (!slices || !running_mean) return;
        running_mean[c] = (1.0f - momentum) * running_mean[c] + momentum * mean;
        running_var[c] = (1.0f - momentum) * running_var[c] + momentum * (square / (float)max(count - 1, 1));
    }),
    "#define SLOPE_AT(at) (how ? dy[at] * slope(how, y[at], k0, k1) : dy[at])\n"
    "#define WEIGHTED(e, at) (share && w ? (e) * w[WEIGHT(at)] : (e))\n",
    CNNCL_SOURCE(
    GROUP_KERNEL void norm_sums(ARRAY(parts), ARRAY(dother), float sign_, float beta, ARRAY(x), ARRAY(dy),
                                ARRAY(y), ARRAY(saved), ARRAY(w), NORM, int how, float k0, float k1)
    {
        __local float part[GROUP];
        BASE(parts) BASE(dother) BASE(x) BASE(dy) BASE(y) BASE(saved) BASE(w) SLICE
        const float mean = saved[c]; const float inverse = saved[channels + c];
        float sum = 0.0f; float with_h = 0.0f;
        EACH_PIXEL(first, last) {
            const size_t at = AT_PIXEL; const float e = SLOPE_AT(at); const float f = WEIGHTED(e, at);
            sum += f, with_h += f * (x[at] - mean) * inverse;
            if (dother) ADD(dother[at], sign_ * e)
        }
        sum = group_sum(sum, part);
        with_h = group_sum(with_h, part);
        parts += 2 * (s * channels + c);
        if (me == 0) parts[0] = with_h, parts[1] = sum;
    }
    /* part: 1 / m, or 0 where the statistics do not depend on x */
    GROUP_KERNEL void norm_backward(ARRAY(dx), ARRAY(dw), ARRAY(db), float beta, ARRAY(parts), ARRAY(x),
                                    ARRAY(dy), ARRAY(y), ARRAY(saved), ARRAY(w), NORM, int slices, float part,
                                    int how, float k0, float k1)
    {
        BASE(dx) BASE(dw) BASE(db) BASE(parts) BASE(x) BASE(dy) BASE(y) BASE(saved) BASE(w) SLICE
        const float mean = saved[c]; const float inverse = saved[channels + c];
        float sum = 0.0f; float with_h = 0.0f;
        for (int q = 0; q < slices; q++) {
            with_h += parts[2 * (q * channels + c)];
            sum += centred ? parts[2 * (q * channels + c) + 1] : 0.0f;
        }
        if (dx) EACH_PIXEL(first, last) {
            const size_t at = AT_PIXEL; const float h = (x[at] - mean) * inverse;
            const float less = part != 0.0f ? (sum + h * with_h) * part : 0.0f;       /* no 0 times Inf */
            ADD(dx[at], (w && !share ? w[c] : 1.0f) * inverse * (WEIGHTED(SLOPE_AT(at), at) - less))
        }
        if (me != 0 || s != 0) return;
        if (dw) dw[c] += with_h;
        if (db) db[c] += sum;
    }
    /* Of the norms of one sample, from part z of the terms to slice z. */
    GROUP_KERNEL void norm_weight(ARRAY(dw), ARRAY(db), ulong slice, ARRAY(dy), ARRAY(x), ARRAY(saved), NORM,
                                  int terms, int terms_of_part, float beta)
    {
        __local float part[GROUP]; BASE(dw) BASE(db) BASE(dy) BASE(x) BASE(saved)
        const int j = (int)get_group_id(0); const int z = (int)get_group_id(1);
        const int first = z * terms_of_part; const int last = min(terms, first + terms_of_part);
        float sum = 0.0f; float with_h = 0.0f;
        for (int q = first + (int)get_local_id(0); q < last; q += GROUP) {
            const int i = q / share * sample + j * share + q % share; const int c = i / plane;
            sum += dy[i], with_h += dy[i] * (x[i] - saved[c]) * saved[channels + c];
        }
        sum = group_sum(sum, part);
        with_h = group_sum(with_h, part);
        if (get_local_id(0) != 0) return;
        if (dw) ADD(dw[slice * z + j], with_h)
        if (db) ADD(db[slice * z + j], sum)
    }),

    /* Losses with labels, of rows (n,p) of x (N,C,P), as in the rooms of softmax_cross_entropy and nll. For
       class c with the weight v_c, 1 without class weights: q = v_c ((1 - e) p_c + e / C), with e the
       smoothing, p_c = [c = label], or that of `soft` labels, and
           cross-entropy: term = sum q (log sum exp x - x),  dx = g (softmax(x) sum q - q),
                          dp = - g v_c (1 - e) log softmax(x)
           nll:           term = - q x (e = 0),              dx = - g q
       g is the gradient of the term; of a mean, dloss / M, where M is the sum of the labels' own weights.
       Where the label is `ignored`, q is 0. A label that is no class makes the loss NaN.
       saved: max x and log(sum exp(x - max)) of each row. how: 0 mean, 1 sum, 2 the terms. */
    "#define LABELS ARRAY(x), ARRAY(labels), ARRAY(v), int soft, int ignored, int nll, \\\n"
    "    float e, int channels, int plane\n"
    CNNCL_SOURCE(
    int is_ignored(float label, int ignored) { return label == (float)ignored; }
    float own_weight(float label, int ignored, __global float *v, int channels)
    {
        if (is_ignored(label, ignored)) return 0.0f;
        if (!(label >= 0.0f && label < (float)channels)) return NAN;
        return v ? v[(int)label] : 1.0f;
    }
    float reduced(float sum, float weights, int how)
    {
        return how ? sum : weights <= 0.0f ? 0.0f : sum / weights;
    }

    /* Of part z of the n rows, `lanes` items for each: out = the terms, or back, sum q; and of each part the
       sum of the terms, and of the own weights. If there is but one, total = the loss, or back, g. */
    GROUP_KERNEL void label_rows(ARRAY(out), ARRAY(parts), ARRAY(total), ARRAY(dloss), ARRAY(saved),
                                 LABELS, int n, int length, int lanes, int how, int back)
    {
        __local float part[GROUP];
        BASE(out) BASE(parts) BASE(total) BASE(dloss) BASE(saved) BASE(x) BASE(labels) BASE(v)
        const int me = (int)get_local_id(0); const int z = (int)get_group_id(0);
        const int last = min(n, z * length + length);
        float sum = 0.0f; float weights = 0.0f;
        for (int start = z * length; start < last; start += GROUP / lanes) {
            const int i = start + me / lanes; const int is_row = i < last;
            const size_t first = (size_t)(i / plane) * channels * plane + i % plane;
            const size_t end = is_row ? first + (size_t)channels * plane : 0;
            const float label = is_row && !soft ? labels[i] : 0.0f;
            const float own = !is_row ? 0.0f : soft ? 1.0f
                            : own_weight(label, ignored, v, channels);
            const int is_class = is_row && !soft && own == own && !is_ignored(label, ignored);
            const float at_label = is_class && !back ? x[first + (size_t)(int)label * plane] : 0.0f;
            float top = -INFINITY; float rest = 0.0f; float term = 0.0f; float all = 0.0f;
            if (!nll && !back) {
                EACH_LANE top = fmax(top, x[at]);
                top = team(1, top, part, lanes);
                EACH_LANE rest += exp(x[at] - top);
                rest = log(team(0, rest, part, lanes));
            }
            if (soft || e > 0.0f) {
                EACH_LANE {
                    const float w = v ? v[(at - first) / plane] : 1.0f;
                    const float q = w * ((soft ? (1.0f - e) * labels[at] : 0.0f) + e / (float)channels);
                    all += q;
                    if (q != 0.0f && !back) term += q * (rest + (top - x[at]));
                }
                all = team(0, all, part, lanes);
                term = team(0, term, part, lanes);
            }
            if (!soft) all = v ? all + (1.0f - e) * own : own;
            if (!soft) term += (1.0f - e) * own * (nll ? -at_label : rest + (top - at_label));
            if (!soft && is_ignored(label, ignored)) term = 0.0f;
            const int writes = is_row && me % lanes == 0;
            if (writes) sum += term, weights += own;
            if (writes && saved) saved[2 * i] = top, saved[2 * i + 1] = rest;
            if (writes && (back || how == 2)) out[i] = back ? all : term;
        }
        sum = group_sum(sum, part);
        weights = group_sum(weights, part);
        if (me != 0) return;
        parts[2 * z] = sum, parts[2 * z + 1] = weights;
        if (how < 2 && get_num_groups(0) == 1) total[0] = reduced(back ? dloss[0] : sum, weights, how);
    }
    GROUP_KERNEL void label_end(ARRAY(total), ARRAY(parts), int count, ARRAY(dloss), int how, int back)
    {
        __local float part[GROUP]; BASE(total) BASE(parts) BASE(dloss)
        float sum = 0.0f; float weights = 0.0f;
        for (int q = (int)get_local_id(0); q < count; q += GROUP) sum += parts[2 * q],
            weights += parts[2 * q + 1];
        sum = group_sum(sum, part);
        weights = group_sum(weights, part);
        if (get_local_id(0) == 0) total[0] = reduced(back ? dloss[0] : sum, weights, how);
    }),
    CNNCL_SOURCE(
    /* of x and of soft labels; each: a g for each row. all: sum q */
    __kernel void label_loss_backward(ARRAY(dx), float beta, ARRAY(dp), float beta_p, ARRAY(g), int each,
                                      ARRAY(all), ARRAY(saved), LABELS, int n)
    {
        BASE(dx) BASE(dp) BASE(g) BASE(all) BASE(saved) BASE(x) BASE(labels) BASE(v) ITEM(i, n)
        const int c = i / plane % channels; const int row = i / (plane * channels) * plane + i % plane;
        const float label = soft ? 0.0f : labels[row]; const float w = v ? v[c] : 1.0f;
        const float p = soft ? labels[i] : label == (float)c ? 1.0f : 0.0f;
        const float log_y = nll ? 0.0f : x[i] - saved[2 * row] - saved[2 * row + 1];
        const float q = w * ((1.0f - e) * p + e / (float)channels);
        const float d = (nll ? 0.0f : exp(log_y) * all[row]) - q; const float g_ = g[each ? row : 0];
        if (dx) ADD(dx[i], !soft && is_ignored(label, ignored) ? 0.0f : g_ * d)
        if (dp) ADD_BY(beta_p, dp[i], g_ * -w * (1.0f - e) * log_y)
    }),

    /* The other losses have a term for each element of x and t, times a factor: how = 0 mse, 1 l1, 2 huber, 3
       bce_with_logits, 4 sigmoid_focal, where delta is alpha. The formulas stand in the room: p and w are
       1 where they are NULL. Group z makes `length` of them: `each` goes to
       y, or their sum to y[z]. */
    CNNCL_SOURCE(
    float softplus_of_minus(float x) { return fmax(-x, 0.0f) + log1p(exp(-fabs(x))); }
    /* f and its derivatives to x and to t: which = 0, 1, 2 */
    float focal(float x, float t, float alpha, float gamma, int which)
    {
        const float s = 1.0f / (1.0f + exp(-x)); const float no = 1.0f / (1.0f + exp(x));
        const float m = s * (1.0f - t) + no * t; const float c = (1.0f - t) * x + softplus_of_minus(x);
        const float a = alpha < 0.0f ? 1.0f : alpha * t + (1.0f - alpha) * (1.0f - t);
        const float power = pow(m, gamma); const float slope_ = m > 0.0f ? gamma * power / m : 0.0f;
        if (which == 0) return a * c * power;
        if (which == 1) return a * ((s - t) * power + c * slope_ * (1.0f - 2.0f * t) * s * no);
        return a * (c * slope_ * (no - s) - x * power)
             + (alpha < 0.0f ? 0.0f : 2.0f * alpha - 1.0f) * c * power;
    }
    float pair_loss(float x, float t, int how, float delta, float gamma, float p)
    {
        if (how == 4) return focal(x, t, delta, gamma, 0);
        const float d = fabs(x - t);
        if (how == 0) return d * d;
        if (how == 1) return d;
        if (how == 2) return d <= delta ? d * d / 2.0f : delta * (d - delta / 2.0f);
        return (1.0f - t) * x + (1.0f + (p - 1.0f) * t) * softplus_of_minus(x);
    }
    GROUP_KERNEL void pair_loss_forward(ARRAY(y), ARRAY(x), ARRAY(t), int each, int length, ARRAY(p),
                                        ARRAY(w), int channels, int plane, int n, int how,
                                        float delta, float gamma, float factor)
    {
        __local float part[GROUP]; BASE(y) BASE(x) BASE(t) BASE(p) BASE(w)
        const int z = (int)get_group_id(0);
        float sum = 0.0f;
        for (int i = z * length + (int)get_local_id(0); i < min(n, z * length + length); i += GROUP) {
            const int c = i / plane % channels;
            const float term = pair_loss(x[i], t[i], how, delta, gamma, p ? p[c] : 1.0f)
                * (w ? w[c] : 1.0f);
            sum += term;
            if (each) y[i] = factor * term;
        }
        sum = group_sum(sum, part);
        if (!each && get_local_id(0) == 0) y[z] = factor * sum;
    }
    __kernel void pair_loss_backward(ARRAY(dx), float beta, ARRAY(dt), float beta_t, ARRAY(x), ARRAY(t),
                                     int each, ARRAY(dloss), ARRAY(p), ARRAY(w), int channels, int plane,
                                     int n, int how, float delta, float gamma, float factor)
    {
        BASE(dx) BASE(dt) BASE(x) BASE(t) BASE(dloss) BASE(p) BASE(w) ITEM(i, n)
        const float d = x[i] - t[i]; const int c = i / plane % channels;
        const float more = p ? p[c] - 1.0f : 0.0f; const float s = 1.0f / (1.0f + exp(-x[i]));
        const float f = how == 0 ? 2.0f * d
                      : how == 1 ? (float)((d > 0.0f) - (d < 0.0f))
                      : how == 2 ? (d < -delta ? -delta : d > delta ? delta : d)
                      : how == 3 ? s - t[i] - more * t[i] * (1.0f - s) : focal(x[i], t[i], delta, gamma, 1);
        const float to_t = how < 3 ? -f : how == 3 ? more * softplus_of_minus(x[i]) - x[i]
                         : focal(x[i], t[i], delta, gamma, 2);
        const float g = (w ? w[c] : 1.0f) * factor * dloss[each ? i : 0];
        if (dx) ADD(dx[i], f * g)
        if (dt) ADD_BY(beta_t, dt[i], to_t * g)
    }),
    CNNCL_SOURCE(
    /* dice: of channel j of x (N C,P) the sums I = sum p t and S = sum p + t, as in the room; part z of its
       pixels goes to slice z of sums, which holds all I, then all S. t: labels, or, of so many elements as p,
       masks. */
    float dice_target(__global float *t, int j, int pixel, int is_label, int channels, int plane)
    {
        const float v = t[(size_t)(is_label ? j / channels : j) * plane + pixel];
        return !is_label ? v : v == (float)(j % channels) ? 1.0f : 0.0f;
    }
    int dice_ignores(__global float *t, int j, int pixel, int is_label, int channels, int plane, int ignored)
    {
        return is_ignored(t[(size_t)(is_label ? j / channels : j) * plane + pixel], ignored);
    }
    GROUP_KERNEL void dice_sums(ARRAY(sums), ARRAY(p), ARRAY(t), int is_label, int channels, int plane,
                                int ignored, int length)
    {
        __local float part[GROUP]; BASE(sums) BASE(p) BASE(t)
        const int j = (int)get_group_id(0); const int z = (int)get_group_id(1);
        const int n = (int)get_num_groups(0);
        float product = 0.0f; float sum = 0.0f;
        for (int i = z * length + (int)get_local_id(0); i < min(plane, z * length + length); i += GROUP) {
            if (dice_ignores(t, j, i, is_label, channels, plane, ignored)) continue;
            const float u = p[(size_t)j * plane + i];
            const float v = dice_target(t, j, i, is_label, channels, plane);
            product += u * v, sum += u + v;
        }
        product = group_sum(product, part);
        sum = group_sum(sum, part);
        sums += (size_t)z * 2 * n + j;
        if (get_local_id(0) == 0) sums[0] = product, sums[n] = sum;
    }
    float dice_overlap(__global float *sums, int j, int n, float smooth)
    {
        return (2.0f * sums[j] + smooth) / (sums[n + j] + smooth);
    }
    __kernel void dice_forward(ARRAY(y), ARRAY(sums), float smooth, int n)
    {
        BASE(y) BASE(sums) ITEM(j, n)
        y[j] = 1.0f - dice_overlap(sums, j, n, smooth);
    }
    /* of p, and of masks t; each: a dloss for each channel */
    __kernel void dice_backward(ARRAY(dp), float beta, ARRAY(dt), float beta_t, ARRAY(sums), ARRAY(dloss),
                                int each, float factor, ARRAY(p), ARRAY(t), int is_label, int channels,
                                int plane, int ignored, float smooth, int n)
    {
        BASE(dp) BASE(dt) BASE(sums) BASE(dloss) BASE(p) BASE(t) ITEM(i, n)
        const int j = i / plane; const int pixel = i % plane;
        const int none = dice_ignores(t, j, pixel, is_label, channels, plane, ignored);
        const float overlap = dice_overlap(sums, j, n / plane, smooth);
        const float g = -factor * dloss[each ? j : 0] / (sums[n / plane + j] + smooth);
        const float target = dice_target(t, j, pixel, is_label, channels, plane);
        if (dp) ADD(dp[i], none ? 0.0f : g * (2.0f * target - overlap))
        if (dt) ADD_BY(beta_t, dt[i], none ? 0.0f : g * (2.0f * p[i] - overlap))
    }),

    /* The updates, by the optimizers' names; the formulas stand at their rows in cnn.h. */
    "enum { " CNNCL_OPTIMIZERS(CNNCL_NAME_BY) "BY_all };\n"
    "#define SLOT(k) slot[i + k * stride]\n"
    CNNCL_SOURCE(
    __kernel void update(ARRAY(w), ARRAY(dw), ARRAY(slot), ulong stride, int n, int how, float lr,
                         float decay, float momentum, float share, int nesterov, float beta1, float beta2,
                         float rate, float scale, float alpha, float eps)
    {
        BASE(w) BASE(dw) BASE(slot) ITEM(i, n)
        const float d = how == BY_adamw ? dw[i] : dw[i] + decay * w[i];
        float step = 0.0f;
        if (how == BY_sgd) {
            if (momentum > 0.0f) SLOT(0) = momentum * SLOT(0) + share * d;
            step = lr * (momentum == 0.0f ? d : nesterov ? d + momentum * SLOT(0) : SLOT(0));
        } else if (how == BY_adam || how == BY_adamw) {
            SLOT(0) = beta1 * SLOT(0) + (1.0f - beta1) * d;
            SLOT(1) = beta2 * SLOT(1) + (1.0f - beta2) * d * d;
            step = rate * (SLOT(0) / (sqrt(SLOT(1)) * scale + eps));
        } else if (how == BY_adagrad) {
            SLOT(0) += d * d;
            step = lr * (d / (sqrt(SLOT(0)) + eps));
        } else {                                                     /* rmsprop, and with a mean gradient */
            SLOT(0) = alpha * SLOT(0) + (1.0f - alpha) * d * d;
            float square = SLOT(0);
            if (how == BY_rmsprop_centered) {
                SLOT(2) = alpha * SLOT(2) + (1.0f - alpha) * d;
                square = max(SLOT(0) - SLOT(2) * SLOT(2), 0.0f);
            }
            SLOT(1) = momentum * SLOT(1) + d / (sqrt(square) + eps);
            step = lr * SLOT(1);
        }
        w[i] = (how == BY_adamw ? (1.0f - lr * decay) * w[i] : w[i]) - step;
    }

    /* Running sums, one for each group, from 0 where `anew`: of x^2, and of the rows whose label's logit is
       the largest, the first of equals. Rows are counted in two parts, as a float holds no count beyond 2^24.
       */
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
        for (size_t i = get_global_id(0); i < (size_t)n; i += get_global_size(0)) {
            __global float *z = x + i / plane * channels * plane + i % plane;
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
        __global int *total = (__global int *)sum + get_group_id(0);
        if (get_local_id(0) == 0) total[0] = (anew ? 0 : total[0]) + high * 4096 + low;
    })
};

/* ===========================================================================================================
   >>cl-run ---- 4. Memory, copies and launches
   ======================================================================================================== */

typedef struct { void *memory; size_t room; cl_event sent; } cnncl_stage;

/* A kernel object and the arguments that it has, one after another. */
enum { CNNCL_LAUNCHES = 4096, CNNCL_ARGUMENTS = 256 };
typedef struct { cl_kernel object; int kernel; unsigned char argument[CNNCL_ARGUMENTS]; } cnncl_launch;

enum { CNNCL_EVENTS = 64, CNNCL_TUNED = 1024 };

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
    bool             timing;                  /* kernels are measured: their events, and seconds until now */
    cl_event         event[CNNCL_EVENTS];
    int              events;
    double           seconds;
    int              units, clblast_tiles;    /* compute units; what CLBlast needs to fill them */
    bool             has_local, tight;        /* local memory of its own; a workspace was given */
    int              tile, winograd;          /* forced: a tile, -1 none; 1 wherever it can, -1 never */
    size_t           workspace;               /* bytes */
    bool             tune;                    /* what is not in `tuned` is measured, and kept in the cache */
    int              n_tuned, measured;       /* measured: since opening */
    uint64_t         tuned[CNNCL_TUNED][2];   /* the key of a pass or product, and its way */
    char             cache[1100];             /* path and start of the files' names; "": none is kept */
    cl_mem           slices;                  /* partial products, and behind them the sums */
    cnncl_stage      stage[2];                /* what is on its way up */
    int              staged;
    cnn_kernel       row[128];
    char             name[128], report[CNN_ERROR_SIZE];
} cnncl;

enum { CNNCL_SLICES = 1 << 20,              /* floats of partial products */
       CNNCL_SUMS = 1024,                   /* groups on a sum at most; behind the slices are their running
                                               sums of squares, and counts of correct rows */
       CNNCL_STAGE = 1 << 24 };             /* bytes: longer uploads are waited for instead of copied first */

/* One more remark in the report. */
static void cnncl_report(cnncl *d, const char *format, const char *name)
{
    cnncl_say(d->report + strlen(d->report), sizeof d->report - strlen(d->report), format, name);
}
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
#define CNNCL_DATA(t)  CNNCL_ARRAY(cnncl_data(t))
#define CNNCL_GRAD(t)  CNNCL_ARRAY(cnncl_grad(t))
#define CNNCL_SHAPE(s)  { &(cnn_shape){ (s).n, (s).c, (s).h, (s).w }, sizeof(cnn_shape), true }
#define CNNCL_INT(i)    { &(cl_int){ i }, sizeof(cl_int), true }
#define CNNCL_ULONG(i)  { &(cl_ulong){ i }, sizeof(cl_ulong), false }
#define CNNCL_FLOAT(f)  { &(cl_float){ f }, sizeof(cl_float), false }
#define CNNCL_CONV(g)   { (cnncl_conv[]){ g }, sizeof(cnncl_conv), true }

/* Arrays of t. One that is not there, or not wanted, is NULL in the kernel, which asks. */
static const cnn_place cnncl_none = { NULL, 0 };
static cnn_place cnncl_data(const cnn_tensor *t) { return t ? cnn_place_data(t) : cnncl_none; }
static cnn_place cnncl_grad(const cnn_tensor *t)
{
    return t && t->needs_grad ? cnn_place_grad(t) : cnncl_none;
}
static cnn_place cnncl_saved(const cnn_tensor *y, cnn_mode mode)
{
    return y->op->saved && mode == CNN_TRAIN ? cnn_place_saved(y) : cnncl_none;
}
/* An array and its shape. */
typedef struct { cnn_place place; cnn_shape shape; } cnncl_view;
#define CNNCL_VIEW(v) CNNCL_ARRAY((v).place), CNNCL_SHAPE((v).shape)
static cnncl_view cnncl_row(cnn_place p, int n) { return (cnncl_view){ p, { 1, 1, 1, n } }; }
static cnncl_view cnncl_data_of(const cnn_tensor *t) { return (cnncl_view){ cnn_place_data(t), t->shape }; }
static cnncl_view cnncl_grad_of(const cnn_tensor *t) { return (cnncl_view){ cnncl_grad(t), t->shape }; }
static const cnn_tensor *cnncl_in(const cnn_tensor *y, int i) { return i < y->n_in ? y->in[i] : NULL; }

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

/* ---- Files of the cache ----

   A file is: the 8 characters of `magic`, and three numbers of 8 bytes: the key, the length of what follows
   and its checksum. The key is that of the device, its driver and the sources; it also names the file. A file
   that is cut, changed, another's or refused by the driver counts as none, and is written again. */

/* Tiles of the other kind are left out: they take long to compile. */
static const char *cnncl_options(const cnncl *d)
{
    return d->has_local ? "-cl-std=CL1.2 -DHAS_LOCAL=1" : "-cl-std=CL1.2 -DHAS_LOCAL=0";
}
enum { CNNCL_SOURCES = sizeof cnncl_source / sizeof *cnncl_source };

#ifdef CNN_NO_STDIO
static unsigned char *cnncl_read(cnncl *d, const char *kind, size_t *bytes)
{
    return (void)d, (void)kind, (void)bytes, NULL;
}
static void cnncl_write(cnncl *d, const char *kind, const void *data, size_t bytes)
{
    (void)d, (void)kind, (void)data, (void)bytes;
}
#else
static uint64_t cnncl_key(cnncl *d)
{
    static const cl_device_info about[] = { CL_DEVICE_NAME, CL_DEVICE_VENDOR, CL_DEVICE_VERSION,
                                            CL_DRIVER_VERSION };
    uint64_t key = cnncl_hash(0, cnncl_options(d), strlen(cnncl_options(d)));
    for (int i = 0; i < 4; i++) {
        char text[2048];
        cnncl_text(&d->cl, NULL, d->device, about[i], text, sizeof text);
        key = cnncl_hash(key, text, strlen(text) + 1);
    }
    for (int i = 0; i < CNNCL_SOURCES; i++)
        key = cnncl_hash(key, cnncl_source[i], strlen(cnncl_source[i]));
    return key;
}

static const char cnncl_magic[] = "cnnocl1\n";
enum { CNNCL_HEAD = 32 };

static void cnncl_head(unsigned char head[CNNCL_HEAD], uint64_t key, const void *data, size_t bytes)
{
    const uint64_t number[3] = { key, bytes, cnncl_hash(0, data, bytes) };
    memcpy(head, cnncl_magic, 8);
    for (int i = 0; i < 24; i++) head[8 + i] = (unsigned char)(number[i / 8] >> i % 8 * 8);
}

/* What the file of this kind holds; NULL: nothing. */
static unsigned char *cnncl_read(cnncl *d, const char *kind, size_t *bytes)
{
    char          path[sizeof d->cache + 40];
    unsigned char head[CNNCL_HEAD];
    const uint64_t key = cnncl_key(d);
    cnncl_say(path, sizeof path, "%s-%016llx%s", d->cache, (unsigned long long)key, kind);
    FILE *f = d->cache[0] ? fopen(path, "rb") : NULL;
    long  n = f && fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
    unsigned char *file = n > CNNCL_HEAD && fseek(f, 0, SEEK_SET) == 0 ? CNN_MALLOC((size_t)n) : NULL;
    *bytes = file ? fread(file, 1, (size_t)n, f) : 0;
    if (f) fclose(f);
    if (*bytes > CNNCL_HEAD) {
        *bytes -= CNNCL_HEAD;
        cnncl_head(head, key, file + CNNCL_HEAD, *bytes);
        if (memcmp(head, file, sizeof head) == 0) return memmove(file, file + CNNCL_HEAD, *bytes);
    }
    CNN_FREE(file);
    return NULL;
}

typedef struct { unsigned char head[CNNCL_HEAD]; const void *data; size_t bytes; } cnncl_contents;
static bool cnncl_put(FILE *f, void *what)
{
    const cnncl_contents *c = what;
    return fwrite(c->head, 1, sizeof c->head, f) == sizeof c->head &&
           fwrite(c->data, 1, c->bytes, f) == c->bytes;
}

/* A directory that cannot be written is no error. */
static void cnncl_write(cnncl *d, const char *kind, const void *data, size_t bytes)
{
    char           path[sizeof d->cache + 40];
    const uint64_t key = cnncl_key(d);
    cnncl_contents c = { { 0 }, data, bytes };
    cnncl_head(c.head, key, data, bytes);
    cnncl_say(path, sizeof path, "%s-%016llx%s", d->cache, (unsigned long long)key, kind);
    if (d->cache[0]) cnn_write_file(path, cnncl_put, &c);
}
#endif

/* ---- Times of kernels ---- */

/* Add up the events that are done, all of them if asked. */
static bool cnncl_read_events(cnncl *d)
{
    cl_int e = d->events ? d->cl.clWaitForEvents((cl_uint)d->events, d->event) : CL_SUCCESS;
    for (int i = 0; i < d->events; i++) {
        cl_ulong from = 0, to = 0;
        d->cl.clGetEventProfilingInfo(d->event[i], CL_PROFILING_COMMAND_START, sizeof from, &from, NULL);
        d->cl.clGetEventProfilingInfo(d->event[i], CL_PROFILING_COMMAND_END, sizeof to, &to, NULL);
        d->cl.clReleaseEvent(d->event[i]);
        d->seconds += to > from ? 1e-9 * (double)(to - from) : 0;
    }
    d->events = 0;
    return cnncl_ok(d, "event", e);
}

/* The measuring needs a queue of its own kind. */
static double cnncl_seconds(cnn_backend *dev, bool go_on)
{
    cnncl *d = cnncl_of(dev);
    cl_int e;
    cnncl_read_events(d);
    if (d->timing == go_on) return d->seconds;
    const cl_command_queue_properties how = go_on ? CL_QUEUE_PROFILING_ENABLE : 0;
    cl_command_queue queue = d->cl.clCreateCommandQueue(d->context, d->device, how, &e);
    if (!queue) return d->timing = d->timing && go_on, d->seconds;
    d->cl.clFinish(d->queue);
    d->cl.clReleaseCommandQueue(d->queue);
    d->queue = queue, d->timing = go_on, d->seconds = 0;
    return 0;
}

/* Where the next kernel's event goes. */
static cl_event *cnncl_event(cnncl *d)
{
    if (d->timing && d->events == CNNCL_EVENTS) cnncl_read_events(d);
    return d->timing ? &d->event[d->events++] : NULL;
}

/* Run a kernel on x by y by z items, groups or tiles, as its entry in CNNCL_KERNELS says. The sizes of
   groups are constant, and the number of items is rounded up: some drivers compile a kernel again for each
   size. */
#define CNNCL_RUN(d, kernel, ...) CNNCL_RUN_NUMBER(d, CNNCL_##kernel, __VA_ARGS__)
#define CNNCL_RUN_NUMBER(d, number, x, y, z, ...)                                                            \
    cnncl_run(d, number, x, y, z, (cnncl_arg[]){ __VA_ARGS__ },                                              \
                (int)(sizeof (cnncl_arg[]){ __VA_ARGS__ } / sizeof(cnncl_arg)))

/* The kernels with FORWARD, one item for each element of y, and with BACKWARD, one for each of in[0]. */
#define CNNCL_MAKE_Y(d, kernel, y, ...)                                                                      \
    CNNCL_RUN(d, kernel, cnncl_len((y)->shape), 1, 1, CNNCL_DATA(y), CNNCL_SHAPE((y)->shape),                \
              CNNCL_DATA((y)->in[0]), CNNCL_SHAPE((y)->in[0]->shape), CNNCL_INT(cnncl_len((y)->shape)),      \
              __VA_ARGS__)
#define CNNCL_MAKE_DX(d, kernel, y, ...)                                                                     \
    CNNCL_RUN(d, kernel, cnncl_len((y)->in[0]->shape), 1, 1, CNNCL_ADDED(y, 0),                              \
              CNNCL_SHAPE((y)->in[0]->shape), CNNCL_GRAD(y), CNNCL_SHAPE((y)->shape),                        \
              CNNCL_INT(cnncl_len((y)->in[0]->shape)), __VA_ARGS__)

static bool cnncl_run(cnncl *d, int kernel, int x, int y, int z, const cnncl_arg *arg, int n)
{
    enum { ITEMS, GROUPS, SMALL };
#define CNNCL_WORK(name, work) work,
#define CNNCL_NAME(name, work) #name,
    static const char work[] = { CNNCL_KERNELS(CNNCL_WORK) };
    static const char *const names[] = { CNNCL_KERNELS(CNNCL_NAME) };
    size_t local[3] = { CNNCL_LOCAL, 1, 1 }, global[3] = { (size_t)x, (size_t)y, (size_t)z };
    global[0] = (global[0] + CNNCL_LOCAL - 1) / CNNCL_LOCAL * CNNCL_LOCAL;
    if (work[kernel] == GROUPS) local[0] = CNNCL_GROUP, global[0] = (size_t)x * CNNCL_GROUP;
    if (work[kernel] == SMALL) global[0] = (size_t)x * CNNCL_LOCAL;
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
    cl_event *event = cnncl_event(d);
    e = d->cl.clEnqueueNDRangeKernel(d->queue, l->object, 3, NULL, global, local, 0, NULL, event);
    if (event && e != CL_SUCCESS) d->events--;
    return cnncl_ok(d, names[kernel], e) && cnncl_flush(d);
}

/* ===========================================================================================================
   >>cl-gemm ---- 5. Products and sums
   ======================================================================================================== */

enum { CNNCL_MOST_ITEMS = 1 << 30 };        /* the kernels count in ints */
static cnn_place cnncl_place_at(cnn_place p, size_t more) { return (cnn_place){ p.buffer, p.at + more }; }

/* n floats = v. Not by clEnqueueFillBuffer: some drivers read its pattern late, when it is gone from the
   stack. */
static bool cnncl_fill(cnncl *d, cnn_place y, size_t n, float v)
{
    for (size_t part; n > 0; n -= part, y.at += part) {
        part = n < CNNCL_MOST_ITEMS ? n : CNNCL_MOST_ITEMS;
        if (!CNNCL_RUN(d, fill, (int)part, 1, 1, CNNCL_ARRAY(y), CNNCL_INT((int)part), CNNCL_FLOAT(v)))
            return false;
    }
    return true;
}
static bool cnncl_clear(cnn_backend *dev, void *buffer, size_t at, size_t bytes)
{
    return cnncl_fill(cnncl_of(dev), (cnn_place){ buffer, at / sizeof(float) }, bytes / sizeof(float), 0);
}

/* In how many parts is a sum of k terms cut, so that `groups` groups become two for each unit? Each part has
   `size` results, for which there is so much room, and enough terms to be worth it. */
static int cnncl_parts(const cnncl *d, double groups, int k, size_t size)
{
    enum { LEAST = 256 };
    const size_t room = CNNCL_SLICES / size;
    double parts = 2.0 * d->units / groups;
    if (parts > k / LEAST) parts = k / LEAST;
    if (parts > (double)room) parts = (double)room;
    return parts < 2 ? 1 : (int)parts;
}
static int cnncl_part_length(int k, int parts) { return (k + parts - 1) / parts; }

/* The same for groups whose items add four terms each, at the least. *length: terms of a part. */
static int cnncl_group_parts(const cnncl *d, int groups, int k, size_t size, int *length)
{
    *length = cnncl_part_length(k, cnncl_parts(d, groups, k / 4, size));
    return cnncl_part_length(k, *length);
}

/* y = beta y + factor (what `how` says of the terms), over the extents where y's shape has 1 and x's has
   more. One item for each sum if they are short, else one group, or as many as it takes to keep the device
   busy. */
enum { CNNCL_SUM, CNNCL_MOST, CNNCL_LEAST, CNNCL_PRODUCTS };        /* how; products take x and u */
static bool cnncl_fold(cnncl *d, cnncl_view y, float beta, float factor, int how, cnncl_view x, cnncl_view u)
{
    const int       n = cnncl_len(y.shape), count = cnncl_len(x.shape) / n;
    const int       lanes = count <= (n < 4096 ? 32 : 1024) ? 1 : CNNCL_GROUP;
    int             length = count;
    const int       parts = lanes == 1 ? 1 : cnncl_group_parts(d, n, count, (size_t)n, &length);
    const bool      cut = parts > 1;
    const cnn_place slices = { d->slices, 0 };
    const cnncl_view all = { slices, { 1, 1, parts, n } };
    return CNNCL_RUN(d, fold, cnncl_part_length(n, CNNCL_GROUP / lanes), parts, 1,
                     CNNCL_ARRAY(cut ? slices : y.place), CNNCL_SHAPE(y.shape), CNNCL_VIEW(x), CNNCL_VIEW(u),
                     CNNCL_INT(how), CNNCL_INT(n), CNNCL_INT(count), CNNCL_INT(length), CNNCL_INT(lanes),
                     CNNCL_FLOAT(cut ? 0 : beta), CNNCL_FLOAT(cut ? 1 : factor)) &&
           (!cut || cnncl_fold(d, cnncl_row(y.place, n), beta, factor,
                               how < CNNCL_PRODUCTS ? how : CNNCL_SUM, all, all));
}
static bool cnncl_total(cnncl *d, cnncl_view y, float beta, float factor, cnncl_view x)
{
    return cnncl_fold(d, y, beta, factor, CNNCL_SUM, x, x);
}

/* One of CNNCL_ACTIVATIONS, with its constants. */
typedef struct { int how; float k[2]; } cnncl_function;
#define CNNCL_FUNCTION(f) CNNCL_INT((f).how), CNNCL_FLOAT((f).k[0]), CNNCL_FLOAT((f).k[1])
static const cnncl_function cnncl_identity = { CNNCL_IS_NOTHING, { 0, 0 } };

/* What a tile does with its sums; the other functions would take too many registers. */
static cnncl_function cnncl_finish(cnncl_function f)
{
    const bool in_tile = f.how == CNNCL_IS_relu || f.how == CNNCL_IS_leaky_relu || f.how == CNNCL_IS_clamp;
    return in_tile ? f : cnncl_identity;
}
/* y = beta y + f(a op b), or f(a) where b has no array, both stretched; op: its place in cnncl_binary, or one
   of these. */
enum { CNNCL_DIV = 3, CNNCL_EQUAL = 8, CNNCL_SLOPE };
static const cnncl_view cnncl_no_view = { { NULL, 0 }, { 1, 1, 1, 1 } };
static bool cnncl_same_shape(cnn_shape a, cnn_shape b) { return memcmp(&a, &b, sizeof a) == 0; }
static bool cnncl_stretch(cnncl *d, cnncl_view y, float beta, int op, cnncl_view a, cnncl_view b,
                          cnncl_function f)
{
    const int  n = cnncl_len(y.shape);
    const bool plain = cnncl_same_shape(a.shape, y.shape) &&
                       (!b.place.buffer || cnncl_same_shape(b.shape, y.shape));
    return CNNCL_RUN(d, stretch, n, 1, 1, CNNCL_VIEW(y), CNNCL_FLOAT(beta), CNNCL_VIEW(a), CNNCL_VIEW(b),
                     CNNCL_INT(n), CNNCL_INT(plain), CNNCL_INT(op), CNNCL_FUNCTION(f));
}
/* y = beta y + factor x + offset, x stretched; y = f(x), of n numbers. */
static bool cnncl_spread(cnncl *d, cnncl_view y, float beta, float factor, cnncl_view x, float offset)
{
    const cnncl_function f = { CNNCL_IS_scale, { factor, offset } };
    return cnncl_stretch(d, y, beta, 0, x, cnncl_no_view, f);
}
static bool cnncl_map(cnncl *d, cnn_place y, cnn_place x, int n, cnncl_function f)
{
    return cnncl_stretch(d, cnncl_row(y, n), 0, 0, cnncl_row(x, n), cnncl_no_view, f);
}
/* What was left out of the last kernel: y = f(y), if no tile does that. */
static bool cnncl_finish_after(cnncl *d, cnn_place y, int n, cnncl_function f)
{
    return cnncl_finish(f).how == f.how || cnncl_map(d, y, y, n, f);
}

/* ---- Which tile, and how many slices of a sum ---- */

static const int cnncl_sides[] = { 128, 64, 32, 4 };
enum { CNNCL_TILES = 4, CNNCL_NO_LOCAL = 3, CNNCL_WINOGRAD = CNNCL_TILES, CNNCL_BY_RULE = -1 };    /* ways */

static int cnncl_groups(int tile, int m, int n)
{
    const int side = cnncl_sides[tile];
    return ((m + side - 1) / side) * ((n + side - 1) / side);
}

/* With .tune: the way that was measured to be the fastest for what `key` stands for, or CNNCL_BY_RULE. */
static int cnncl_measured(const cnncl *d, uint64_t key)
{
    int i = 0;
    while (i < d->n_tuned && d->tuned[i][0] != key) i++;
    return i < d->n_tuned && d->tile < 0 && d->winograd <= 0 ? (int)d->tuned[i][1] : CNNCL_BY_RULE;
}

/* The tile for C (m,n), where so many groups work on each tile of it: `way`, if that is one; else the largest
   that C fills at least half and that gives each unit two groups. The rule knows the device and the shape
   alone, so that the same seed gives the same bits. */
static int cnncl_tile_for(const cnncl *d, int way, int m, int n, int times)
{
    const int least = m < n ? m : n;
    if (d->tile >= 0)   return d->tile;
    if (way >= 0 && way < CNNCL_TILES) return way;
    if (!d->has_local) return CNNCL_NO_LOCAL;
    if (least > 64 && (double)cnncl_groups(0, m, n) * times >= 2.0 * d->units) return 0;
    return least > 32 ? 1 : 2;
}

/* y = beta y + f(sum of slices + bias), and behind them in each slice y2, of n2 numbers. */
static bool cnncl_add_slices(cnncl *d, cnn_place y, int n, cnn_place y2, int n2, int slices, float beta,
                             cnn_place bias, int columns, cnncl_function f)
{
    const cnn_place from = { d->slices, 0 };
    return CNNCL_RUN(d, add_slices, n + n2, 1, 1, CNNCL_ARRAY(y), CNNCL_ARRAY(y2), CNNCL_ARRAY(from),
                     CNNCL_INT(n), CNNCL_INT(n2), CNNCL_INT(slices), CNNCL_FLOAT(beta), CNNCL_ARRAY(bias),
                     CNNCL_INT(columns), CNNCL_FUNCTION(f));
}

/* ---- C (m,n) = beta C + f(A (m,k) B (k,n) + bias) ---- */

/* What is measured: a convolution to y, backward to x, to w; a product. */
enum { CNNCL_TO_Y, CNNCL_TO_X, CNNCL_TO_W, CNNCL_OF_PRODUCT };

/* Rows and columns of A and B are so far apart. There may be a bias, one a column, and sums, where A's
   columns are m apart: the sums of A's rows are added. count products lie c_step, a_step and b_step apart. */
typedef struct {
    cnn_place      c, a, b, bias, sums;
    int            ldc, a_row, a_col, b_row, b_col, m, n, k;
    float          beta;
    cnncl_function f;
    int            count;
    size_t         c_step, a_step, b_step;
} cnncl_product;

/* By the tile, each sum in so many parts, c_step apart. */
static bool cnncl_run_product(cnncl *d, const cnncl_product *p, int tile, int parts)
{
    const int            side = cnncl_sides[tile];
    const cnncl_function f = cnncl_finish(p->f);
    return CNNCL_RUN_NUMBER(d, CNNCL_product_128 + tile, (p->n + side - 1) / side, (p->m + side - 1) / side,
                            p->count * parts, CNNCL_ARRAY(p->c), CNNCL_INT(p->ldc), CNNCL_ULONG(p->c_step),
                            CNNCL_FLOAT(p->beta), CNNCL_ARRAY(p->a), CNNCL_INT(p->a_row), CNNCL_INT(p->a_col),
                            CNNCL_ULONG(p->a_step), CNNCL_ARRAY(p->b), CNNCL_INT(p->b_row),
                            CNNCL_INT(p->b_col), CNNCL_ULONG(p->b_step), CNNCL_INT(p->m), CNNCL_INT(p->n),
                            CNNCL_INT(p->k), CNNCL_INT(cnncl_part_length(p->k, parts)), CNNCL_INT(parts),
                            CNNCL_ARRAY(p->bias), CNNCL_FUNCTION(f), CNNCL_ARRAY(p->sums));
}

static uint64_t cnncl_product_key(const cnncl_product *p)
{
    const int what[] = { CNNCL_OF_PRODUCT, p->m, p->n, p->k, p->a_col == 1, p->b_col == 1 };
    return cnncl_hash(0, what, sizeof what);
}

/* A small C with a long sum would keep few groups busy: then the sum is cut, and the parts are added in
   order. */
static bool cnncl_own_gemm(cnncl *d, cnncl_product p)
{
    const int    most = p.k / 256 > 1 ? p.k / 256 : 1, way = cnncl_measured(d, cnncl_product_key(&p));
    const int    tile = cnncl_tile_for(d, way, p.m, p.n, most);
    const size_t size = (size_t)p.m * (size_t)(p.n + (p.sums.buffer != NULL));
    const int    parts = cnncl_parts(d, cnncl_groups(tile, p.m, p.n), p.k, size);
    p.count = 1;
    if (parts == 1)
        return cnncl_run_product(d, &p, tile, 1) && cnncl_finish_after(d, p.c, p.m * p.n, p.f);
    cnncl_product   q = p;
    const cnn_place slices = { d->slices, 0 };
    q.c = slices, q.ldc = p.n, q.c_step = size, q.beta = 0, q.bias = cnncl_none, q.f = cnncl_identity;
    if (p.sums.buffer) q.sums = cnncl_place_at(slices, (size_t)p.m * (size_t)p.n);
    return cnncl_run_product(d, &q, tile, parts) &&
           cnncl_add_slices(d, p.c, p.m * p.n, p.sums, p.sums.buffer ? p.m : 0, parts, p.beta, p.bias, p.n,
                            p.f);
}

/* By CLBlast where it pays: only with enough tiles for all units, as it cuts no sums. It is asked for the
   transpose, C' = B' A', in column-major order, which is how C lies here: so it transposes nothing. */
static bool cnncl_is_clblasts(const cnncl *d, const cnncl_product *p)
{
    return d->clblast && cnncl_groups(1, p->m, p->n) >= d->clblast_tiles;
}
static bool cnncl_gemm(cnncl *d, cnncl_product p)
{
    enum { NO = 111, YES = 112, COLUMN_MAJOR = 102 };
    if (!cnncl_is_clblasts(d, &p)) return cnncl_own_gemm(d, p);
    const int ta = p.a_col == 1 ? NO : YES, tb = p.b_col == 1 ? NO : YES;
    cl_event *event = cnncl_event(d);
    const int lda = ta == YES ? p.a_col : p.m > 1 ? p.a_row : p.k;           /* a single row has no step */
    const int ldb = tb == YES ? p.b_col : p.k > 1 ? p.b_row : p.n;
    const int e = d->blas.CLBlastSgemm(COLUMN_MAJOR, tb, ta, (size_t)p.n, (size_t)p.m, (size_t)p.k, 1.0f,
                                       (cl_mem)p.b.buffer, p.b.at, (size_t)ldb, (cl_mem)p.a.buffer, p.a.at,
                                       (size_t)lda, p.beta, (cl_mem)p.c.buffer, p.c.at, (size_t)p.ldc,
                                       &d->queue, event);
    if (event && e != 0) d->events--;
    d->clblast = e == 0;                          /* no memory for its copies, perhaps: on without it */
    if (e != 0) return cnncl_own_gemm(d, p);
    const cnncl_view c = { p.c, { p.m, p.n, 1, 1 } }, bias = { p.bias, { 1, p.n, 1, 1 } };
    const cnncl_view a = { p.a, { p.k, p.m, 1, 1 } }, sums = { p.sums, { 1, p.m, 1, 1 } };
    const bool       more = p.bias.buffer || p.f.how != CNNCL_IS_NOTHING;
    return cnncl_flush(d) && (!more || cnncl_stretch(d, c, 0, 0, c, bias, p.f)) &&
           (!p.sums.buffer || cnncl_total(d, sums, 1, 1, a));
}

/* ===========================================================================================================
   >>cl-rows ---- 6. Rows: what replaces the rooms of cnn.h. Formulas stand there and above the kernels.
   ======================================================================================================== */

/* The two functions of a row, which have the device as d. */
#define CNNCL_FORWARD(name)                                                                                  \
    static bool cnncl_##name##_run(cnncl *d, cnn_tensor *y, CNNCL_UNUSED cnn_mode mode);                     \
    static bool cnncl_##name##_forward(cnn_backend *dev, cnn_tensor *y, cnn_mode mode)                       \
    {                                                                                                        \
        return cnncl_##name##_run(cnncl_of(dev), y, mode);                                                   \
    }                                                                                                        \
    static bool cnncl_##name##_run(cnncl *d, cnn_tensor *y, CNNCL_UNUSED cnn_mode mode)
#define CNNCL_BACKWARD(name)                                                                                 \
    static bool cnncl_##name##_back(cnncl *d, cnn_tensor *y);                                                \
    static bool cnncl_##name##_backward(cnn_backend *dev, cnn_tensor *y)                                     \
    {                                                                                                        \
        return cnncl_##name##_back(cnncl_of(dev), y);                                                        \
    }                                                                                                        \
    static bool cnncl_##name##_back(cnncl *d, cnn_tensor *y)

/* ---- What is computed in one kernel ---- */

static bool cnncl_same_place(cnn_place a, cnn_place b) { return a.buffer == b.buffer && a.at == b.at; }

static cnncl_function cnncl_function_of(const cnn_tensor *y)
{
#define CNNCL_IS(X, name, value, derivative) if (y->op == &cnn_op_##name) f.how = CNNCL_IS_##name;
    cnncl_function f = cnncl_identity;
    CNNCL_ACTIVATIONS(CNNCL_IS, )
    const size_t *k = f.how != CNNCL_IS_NOTHING ? y->op->formula->k : NULL;       /* where its options are */
    for (int i = 0; k && i < 2; i++)
        if (k[i]) memcpy(&f.k[i], (const char *)y->args + k[i], sizeof f.k[i]);
    if (y->op == &cnn_op_gelu) f.k[0] = ((const cnn_gelu_args *)y->args)->tanh ? 1.0f : 0.0f;
    return f;
}

/* An option, by name: 0 where the operation has none of it. */
static void cnncl_read_option(const cnn_tensor *y, const char *name, void *value)
{
    for (const cnn_field *f = y->op->fields; f && f->name; f++)
        if (strcmp(f->name, name) == 0) memcpy(value, (const char *)y->args + f->offset, sizeof(int));
}
static int cnncl_option(const cnn_tensor *y, const char *name)
{
    int value = 0;
    return cnncl_read_option(y, name, &value), value;
}
static float cnncl_constant(const cnn_tensor *y, const char *name)
{
    float value = 0;
    return cnncl_read_option(y, name, &value), value;
}

/* What runs next in the place of y: behind batch norm the sum with another array of its shape, times sign,
   and then a function. The row of y does it all, and theirs have nothing to do. */
typedef struct { const cnn_tensor *add, *map; cnncl_function f; float sign; } cnncl_chain;

static bool cnncl_is_sum(const cnn_tensor *y) { return y->op == &cnn_op_add || y->op == &cnn_op_sub; }
static cnncl_chain cnncl_chain_of(const cnn_tensor *y)
{
    const bool        norm = y->op == &cnn_op_batch_norm;
    cnncl_chain       chain = { NULL, NULL, cnncl_identity, 0 };
    const cnn_tensor *t = norm || cnncl_is_sum(y) || y->op == &cnn_op_mul || y->op == &cnn_op_conv2d ||
        y->op == &cnn_op_dense || y->op == &cnn_op_conv_transpose2d ? cnn_next_in_place(y) : NULL;
    if (t && norm && cnncl_is_sum(t) && cnn_on_device(t->in[1]) &&
        cnncl_same_shape(t->in[1]->shape, y->shape))
        chain.add = t, chain.sign = t->op == &cnn_op_add ? 1.0f : -1.0f, t = cnn_next_in_place(t);
    if (t && cnncl_function_of(t).how != CNNCL_IS_NOTHING) chain.map = t, chain.f = cnncl_function_of(t);
    return chain;
}

/* The batch norm that y, a sum or a function, may follow; or what is before y. */
static const cnn_tensor *cnncl_head_of(const cnn_tensor *y)
{
    const cnn_tensor *x = y->in[0];
    return !cnncl_is_sum(y) && x->op && cnncl_is_sum(x) && x->in[0]->op == &cnn_op_batch_norm ? x->in[0] : x;
}
static bool cnncl_is_joined(const cnn_tensor *y)
{
    const cnn_tensor *head = cnncl_head_of(y), *x = y->in[0];
    if (!x->op) return false;
    const cnncl_chain chain = cnncl_chain_of(head);
    return chain.add == y || chain.map == y || (head != x && cnncl_chain_of(x).map == y);
}

/* Does batch norm x do the gradients of its chain too? Where they all have one place. */
static bool cnncl_joins_backward(const cnn_tensor *x)
{
    const cnncl_chain chain = cnncl_chain_of(x);
    const cnn_tensor *last = chain.map ? chain.map : chain.add;
    if (!last || !x->needs_grad) return false;
    return cnncl_same_place(cnn_place_grad(x), cnn_place_grad(last));
}
static bool cnncl_is_joined_backward(const cnn_tensor *y)
{
    const cnn_tensor *head = cnncl_head_of(y);
    if (head->op != &cnn_op_batch_norm || !cnncl_joins_backward(head)) return false;
    const cnncl_chain chain = cnncl_chain_of(head);
    return chain.add == y || chain.map == y;
}

/* Gradients: beta y + ..., with beta = 0 for the first that writes one, so that none is cleared before. */
static float cnncl_beta(const cnn_tensor *y, int i) { return cnn_grad_is_first(y, i) ? 0.0f : 1.0f; }
#define CNNCL_ADDED(y, i) CNNCL_GRAD((y)->in[i]), CNNCL_FLOAT(cnncl_beta((y), (i)))
static bool cnncl_start_grad(cnncl *d, const cnn_tensor *y, int i)      /* for those who only add */
{
    return i >= y->n_in || !y->in[i]->needs_grad || !cnn_grad_is_first(y, i) ||
           cnncl_fill(d, cnn_place_grad(y->in[i]), cnn_count(y->in[i]), 0);
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
static int cnncl_min(int a, int b) { return a < b ? a : b; }

/* One pass of a convolution: CNNCL_TO_Y, ..., a tile, Winograd or the rule. To x, g is turned: ic, h and w
   are those of dy, which is read. */
typedef struct { cnncl_conv g; int pass, way; bool exact; cnn_place scratch; } cnncl_task;
static cnncl_conv cnncl_turned(cnncl_conv g)
{
    const cnncl_conv from = g;
    g.ic = from.oc, g.h = from.oh, g.w = from.ow, g.oc = from.ic, g.oh = from.h, g.ow = from.w;
    return g;
}
static bool cnncl_is_depthwise(const cnncl_task *t)
{
    return t->g.groups > 1 && t->g.groups == (t->pass == CNNCL_TO_X ? t->g.oc : t->g.ic);
}

/* Winograd's tiles of 4 x 4 outputs, in one image of the result. */
static int cnncl_wino_tiles(const cnncl_conv *g) { return (g->oh + 3) / 4 * ((g->ow + 3) / 4); }
static bool cnncl_wino_may(const cnncl *d, const cnncl_task *t)
{
    const cnncl_conv *g = &t->g;
    return g->kh == 3 && g->kw == 3 && g->sh == 1 && g->sw == 1 && g->dh == 1 && g->dw == 1 &&
           g->groups == 1 && !t->exact && d->winograd >= 0;
}
/* A tile takes 36 products where the sum takes 9 an output, and four passes over memory: so most of it must
   be used, by enough channels. */
static bool cnncl_wino_pays(const cnncl *d, const cnncl_task *t)
{
    const cnncl_conv *g = &t->g;
    const bool        many = g->ic >= 16 && g->oc >= 16 && g->oh * g->ow >= 8 * cnncl_wino_tiles(g);
    return cnncl_wino_may(d, t) && (d->winograd > 0 || many);
}
static uint64_t cnncl_task_key(const cnncl_task *t)
{
    const int what[] = { t->pass, t->exact };
    return cnncl_hash(cnncl_hash(0, what, sizeof what), &t->g, sizeof t->g);
}
/* By what was measured, else by the rule. */
static cnncl_task cnncl_task_of(const cnncl *d, const cnn_tensor *y, int pass)
{
    cnncl_task t = { cnncl_conv_of(y), pass, CNNCL_BY_RULE, cnn_is_exact(y), cnn_place_scratch(y->graph) };
    if (pass == CNNCL_TO_X) t.g = cnncl_turned(t.g);
    if (d->n_tuned) t.way = cnncl_measured(d, cnncl_task_key(&t));
    if (t.way == CNNCL_WINOGRAD ? !cnncl_wino_may(d, &t) : t.way == CNNCL_BY_RULE)
        t.way = cnncl_wino_pays(d, &t) ? CNNCL_WINOGRAD : CNNCL_BY_RULE;
    return t;
}

/* How many of its tiles at once: the arrays stay in the device's cache, but each unit gets four groups. */
static int cnncl_wino_chunk(const cnncl *d, const cnncl_conv *g)
{
    const size_t tile = 36 * sizeof(float) * ((size_t)g->ic + (size_t)g->oc), most = d->workspace / tile;
    const int    rows = 36 * ((cnncl_min(g->ic, g->oc) + 63) / 64);
    const size_t least = d->tight ? 1 : 64 * (size_t)((4 * d->units + rows - 1) / rows);
    const size_t chunk = most > least ? most : least;
    const int    all = cnncl_wino_tiles(g) * g->n;
    return chunk < (size_t)all ? (int)chunk : all;
}
static int cnncl_wino_parts(const cnncl *d, const cnncl_conv *g, int count)
{
    return cnncl_parts(d, 36.0 * cnncl_groups(1, g->oc, g->ic), count, 1);
}

/* V; U or Z; products, or the gradient of U. */
static size_t cnncl_wino_scratch(const cnncl *d, const cnncl_task *t)
{
    const size_t ic = (size_t)t->g.ic, oc = (size_t)t->g.oc, count = (size_t)cnncl_wino_chunk(d, &t->g);
    const size_t parts = (size_t)cnncl_wino_parts(d, &t->g, (int)count);
    return 36 * (count * (ic + oc) + ic * oc * parts) * sizeof(float);
}
/* Of all three passes, also by the rule: so go batches of a size that was not measured. */
static size_t cnncl_conv_scratch(const cnncl *d, const cnn_tensor *y)
{
    size_t most = 0;
    for (int pass = CNNCL_TO_Y; pass <= CNNCL_TO_W; pass++) {
        const cnncl_task t = cnncl_task_of(d, y, pass);
        if (t.way != CNNCL_WINOGRAD && !cnncl_wino_pays(d, &t)) continue;
        const size_t bytes = cnncl_wino_scratch(d, &t);
        if (bytes > most) most = bytes;
    }
    return most;
}

/* y = beta y + f(conv(x, w) + b) in three steps for each chunk of tiles: transforms, products, transforms. */
static bool cnncl_wino(cnncl *d, const cnncl_task *t, cnn_place y, float beta, cnn_place x, cnn_place w,
                       cnn_place b, cnncl_function f)
{
    const cnncl_conv *g = &t->g;
    const int    in = g->ic, out = g->oc, all = cnncl_wino_tiles(g) * g->n;
    const size_t weights = (size_t)in * (size_t)out;
    cnn_place    u = t->scratch, v = cnncl_place_at(u, 36 * weights);
    for (int first = 0, count, chunk = cnncl_wino_chunk(d, g); first < all; first += count) {
        count = cnncl_min(chunk, all - first);
        const size_t  n_v = (size_t)in * (size_t)count, n_m = (size_t)out * (size_t)count;
        cnn_place     m = cnncl_place_at(v, 36 * n_v);
        cnncl_product p = { .c = m, .a = u, .b = v, .ldc = count, .a_row = in, .a_col = 1, .b_row = count,
                            .b_col = 1, .m = out, .n = count, .k = in, .count = 36, .c_step = n_m,
                            .a_step = weights, .b_step = n_v };
        if (!CNNCL_RUN(d, wino_in, (int)(n_v + (first ? 0 : weights)), 1, 1, CNNCL_ARRAY(v), CNNCL_ARRAY(x),
                       CNNCL_ARRAY(u), CNNCL_ARRAY(w), CNNCL_CONV(*g), CNNCL_INT(t->pass == CNNCL_TO_X),
                       CNNCL_INT(first), CNNCL_INT(count), CNNCL_INT(!first)) ||
            !cnncl_run_product(d, &p, cnncl_tile_for(d, CNNCL_BY_RULE, out, count, 36), 1) ||
            !CNNCL_RUN(d, wino_out, (int)n_m, 1, 1, CNNCL_ARRAY(y), CNNCL_ARRAY(m), CNNCL_ARRAY(b),
                       CNNCL_CONV(*g), CNNCL_INT(first), CNNCL_INT(count), CNNCL_FLOAT(beta),
                       CNNCL_FUNCTION(cnncl_finish(f)))) return false;
    }
    return true;
}

/* dw +=, by the gradient of U */
static bool cnncl_wino_weights(cnncl *d, const cnncl_task *t, cnn_place dw, cnn_place dy, cnn_place x)
{
    const cnncl_conv *g = &t->g;
    const int    all = cnncl_wino_tiles(g) * g->n, weights = g->ic * g->oc;
    const int    chunk = cnncl_wino_chunk(d, g), parts = cnncl_wino_parts(d, g, chunk);
    cnn_place    du = t->scratch, v = cnncl_place_at(du, 36 * (size_t)weights * (size_t)parts);
    for (int first = 0, count; first < all; first += count) {
        count = cnncl_min(chunk, all - first);
        const size_t  n_v = (size_t)g->ic * (size_t)count, n_z = (size_t)g->oc * (size_t)count;
        cnn_place     z = cnncl_place_at(v, 36 * n_v);
        cnncl_product p = { .c = du, .a = z, .b = v, .ldc = g->ic, .a_row = count, .a_col = 1, .b_row = 1,
                            .b_col = count, .m = g->oc, .n = g->ic, .k = count, .count = 36,
                            .c_step = (size_t)weights, .a_step = n_z, .b_step = n_v,
                            .beta = first ? 1.0f : 0.0f };
        const int tile = cnncl_tile_for(d, CNNCL_BY_RULE, g->oc, g->ic, 36 * parts);
        if (!CNNCL_RUN(d, wino_in, (int)(n_v + n_z), 1, 1, CNNCL_ARRAY(v), CNNCL_ARRAY(x), CNNCL_ARRAY(z),
                       CNNCL_ARRAY(dy), CNNCL_CONV(*g), CNNCL_INT(0), CNNCL_INT(first), CNNCL_INT(count),
                       CNNCL_INT(2)) || !cnncl_run_product(d, &p, tile, parts)) return false;
    }
    return CNNCL_RUN(d, wino_dw, weights, 1, 1, CNNCL_ARRAY(dw), CNNCL_ARRAY(du), CNNCL_INT(weights),
                     CNNCL_INT(parts));
}

/* y = beta y + f(conv(x, w) + b); CNNCL_TO_X: y = dx, x = dy, the convolution's transpose. There may be a b;
   beta = 0, or no b and no f. */
static bool cnncl_convolve(cnncl *d, const cnncl_task *t, cnn_place y, float beta, cnn_place x, cnn_place w,
                           cnn_place b, cnncl_function f)
{
    const cnncl_conv *g = &t->g;
    const bool back = t->pass == CNNCL_TO_X;
    const int  rows = g->oc / g->groups, n = g->n * g->oc * g->oh * g->ow;
    const int  sh = back ? g->sh : 1, sw = back ? g->sw : 1;                     /* so many phases, at most */
    const int  pixels = g->n * ((g->oh - 1) / sh + 1) * ((g->ow - 1) / sw + 1);
    const int  grid = g->groups * cnncl_min(sw, g->ow) * cnncl_min(sh, g->oh);
    const int  tile = cnncl_tile_for(d, t->way, rows, pixels, grid), side = cnncl_sides[tile];
    const cnncl_function now = cnncl_finish(f);
    if (t->way == CNNCL_WINOGRAD) {
        if (!cnncl_wino(d, t, y, beta, x, w, b, f)) return false;
    } else if (cnncl_is_depthwise(t)) {
        if (!CNNCL_RUN_NUMBER(d, back ? CNNCL_depthwise_data : CNNCL_depthwise_forward, n, 1, 1,
                              CNNCL_ARRAY(y), CNNCL_ARRAY(x), CNNCL_ARRAY(w), CNNCL_ARRAY(b), CNNCL_CONV(*g),
                              CNNCL_INT(n), CNNCL_FLOAT(beta), CNNCL_FUNCTION(now))) return false;
    } else if (!CNNCL_RUN_NUMBER(d, CNNCL_conv_128 + tile, (pixels + side - 1) / side,
                                 (rows + side - 1) / side, grid, CNNCL_ARRAY(y), CNNCL_ARRAY(x),
                                 CNNCL_ARRAY(w), CNNCL_ARRAY(b), CNNCL_CONV(*g), CNNCL_INT(back),
                                 CNNCL_FLOAT(beta), CNNCL_FUNCTION(now))) return false;
    return cnncl_finish_after(d, y, n, f);
}

/* dw += dy x^T, and db += the sums of dy where there is one. */
static bool cnncl_convolve_weights(cnncl *d, const cnncl_task *t, cnn_place dw, cnn_place db, cnn_place dy,
                                   cnn_place x)
{
    const cnncl_conv *g = &t->g;
    const int    columns = g->ic / g->groups * g->kh * g->kw, rows = g->oc / g->groups, n = g->oc * columns;
    const int    pixels = g->n * g->oh * g->ow, n_db = db.buffer ? g->oc : 0;
    if (t->way == CNNCL_WINOGRAD) {
        const cnncl_view all = { dy, { g->n, g->oc, g->oh, g->ow } }, sums = { db, { 1, g->oc, 1, 1 } };
        return cnncl_wino_weights(d, t, dw, dy, x) && (!n_db || cnncl_total(d, sums, 1, 1, all));
    }
    const bool   depthwise = cnncl_is_depthwise(t);
    const int    most = pixels / 256 > 1 ? pixels / 256 : 1;
    const int    tile = cnncl_tile_for(d, t->way, rows, columns, g->groups * most), side = cnncl_sides[tile];
    const size_t size = (size_t)n + (size_t)n_db;
    const double groups = depthwise ? g->oc * g->kh : (double)cnncl_groups(tile, rows, columns) * g->groups;
    const int    parts = cnncl_parts(d, groups, pixels, size), length = cnncl_part_length(pixels, parts);
    const bool   add = parts > 1;
    const cnn_place slices = { d->slices, 0 }, to = add ? slices : dw;
    const cnn_place to_b = add && n_db ? cnncl_place_at(slices, (size_t)n) : db;
    return CNNCL_RUN_NUMBER(d, depthwise ? CNNCL_depthwise_weights : CNNCL_weights_128 + tile,
                            depthwise ? g->oc : (columns + side - 1) / side,
                            depthwise ? g->kh : (rows + side - 1) / side,
                            depthwise ? parts : g->groups * parts, CNNCL_ARRAY(to), CNNCL_ARRAY(to_b),
                            CNNCL_ULONG(size), CNNCL_ARRAY(x), CNNCL_ARRAY(dy), CNNCL_CONV(*g),
                            CNNCL_INT(length), CNNCL_FLOAT(add ? 0 : 1)) &&
           (!add || cnncl_add_slices(d, dw, n, db, n_db, parts, 1, cnncl_none, 1, cnncl_identity));
}

/* db += the sum of dy over all but the channels, where there is a bias that wants it: operand 2. */
static bool cnncl_bias_backward(cnncl *d, cnn_tensor *y)
{
    const cnncl_view db = { cnncl_grad(cnncl_in(y, 2)), { 1, y->shape.c, 1, 1 } };
    return !db.place.buffer || cnncl_total(d, db, 1, 1, cnncl_grad_of(y));
}

/* Of a transposed convolution, forward is the pass to x of the convolution from y to x, and so on. */
static bool cnncl_is_transposed(const cnn_tensor *y) { return y->op == &cnn_op_conv_transpose2d; }
CNNCL_FORWARD(conv)
{
    const cnncl_task t = cnncl_task_of(d, y, cnncl_is_transposed(y) ? CNNCL_TO_X : CNNCL_TO_Y);
    return cnncl_convolve(d, &t, cnn_place_data(y), 0, cnn_place_data(y->in[0]), cnn_place_data(y->in[1]),
                          cnncl_data(cnncl_in(y, 2)), cnncl_chain_of(y).f);
}
CNNCL_BACKWARD(conv)
{
    const bool       transposed = cnncl_is_transposed(y);
    const cnncl_task t = cnncl_task_of(d, y, CNNCL_TO_W);
    const cnncl_task to_x = cnncl_task_of(d, y, transposed ? CNNCL_TO_Y : CNNCL_TO_X);
    cnn_tensor      *x = y->in[0], *w = y->in[1];
    const cnn_place  dy = cnn_place_grad(y), from = cnn_place_data(x);
    const bool       with_b = w->needs_grad && !transposed;
    const cnn_place  db = with_b ? cnncl_grad(cnncl_in(y, 2)) : cnncl_none;
    return cnncl_start_grad(d, y, 1) && cnncl_start_grad(d, y, 2) && (with_b || cnncl_bias_backward(d, y)) &&
           (!w->needs_grad || cnncl_convolve_weights(d, &t, cnn_place_grad(w), db, transposed ? from : dy,
                                                     transposed ? dy : from)) &&
           (!x->needs_grad || cnncl_convolve(d, &to_x, cnn_place_grad(x), cnncl_beta(y, 0), dy,
                                             cnn_place_data(w), cnncl_none, cnncl_identity));
}

/* ---- Dense and matrix product: y (m,n) = x (m,k) w, with w (n,k) of dense turned ---- */

/* The sizes of a pass. */
static cnncl_product cnncl_sizes_of(const cnn_tensor *y, int pass)
{
    const int  m = y->shape.n, n = y->shape.c, k = cnncl_elements(y->in[0]->shape);
    const bool turned = y->op == &cnn_op_dense;
    if (pass == CNNCL_TO_Y)
        return (cnncl_product){ .ldc = n, .a_row = k, .a_col = 1, .b_row = turned ? 1 : n,
                                .b_col = turned ? k : 1, .m = m, .n = n, .k = k };
    if (pass == CNNCL_TO_X)
        return (cnncl_product){ .ldc = k, .a_row = n, .a_col = 1, .b_row = turned ? k : 1,
                                .b_col = turned ? 1 : n, .m = m, .n = k, .k = n };
    const int rows = turned ? n : k, columns = turned ? k : n;               /* of w */
    return (cnncl_product){ .ldc = columns, .a_row = 1, .a_col = rows, .b_row = columns, .b_col = 1,
                            .m = rows, .n = columns, .k = m };
}
CNNCL_FORWARD(product)
{
    cnncl_product p = cnncl_sizes_of(y, CNNCL_TO_Y);
    p.c = cnn_place_data(y), p.a = cnn_place_data(y->in[0]), p.b = cnn_place_data(y->in[1]);
    p.bias = cnncl_data(cnncl_in(y, 2)), p.f = cnncl_chain_of(y).f;
    return cnncl_gemm(d, p);
}
CNNCL_BACKWARD(product)
{
    cnn_tensor     *x = y->in[0], *w = y->in[1];
    const bool      dense = y->op == &cnn_op_dense;
    const cnn_place dy = cnn_place_grad(y), data = cnn_place_data(x);
    cnncl_product   dx = cnncl_sizes_of(y, CNNCL_TO_X), dw = cnncl_sizes_of(y, CNNCL_TO_W);
    dx.c = cnncl_grad(x), dx.a = dy, dx.b = cnn_place_data(w), dx.beta = cnncl_beta(y, 0);
    dw.c = cnncl_grad(w), dw.a = dense ? dy : data, dw.b = dense ? data : dy;
    dw.sums = cnncl_grad(cnncl_in(y, 2)), dw.beta = dense ? 1 : cnncl_beta(y, 1);
    return (!dense || (cnncl_start_grad(d, y, 1) && cnncl_start_grad(d, y, 2))) &&
           (w->needs_grad ? cnncl_gemm(d, dw) : cnncl_bias_backward(d, y)) &&
           (!x->needs_grad || cnncl_gemm(d, dx));
}

/* ---- Pools: the kernels take a pool as a convolution with one channel a plane ---- */

enum { CNNCL_MAX_POOL, CNNCL_MEAN_POOL, CNNCL_BINS };
static int cnncl_pool_of(const cnn_tensor *y)
{
    return y->op == &cnn_op_avg_pool ? CNNCL_MEAN_POOL
         : y->op == &cnn_op_adaptive_avg_pool ? CNNCL_BINS : CNNCL_MAX_POOL;
}
static cnncl_conv cnncl_windows(const cnn_tensor *y)
{
    const cnn_shape      x = y->in[0]->shape;
    const cnn_pool_args *a = y->args;
    const int            c = x.n * x.c;
    if (y->op == &cnn_op_global_max_pool || y->op == &cnn_op_adaptive_avg_pool)
        return (cnncl_conv){ 1, c, x.h, x.w, c, y->shape.h, y->shape.w, x.h, x.w, 1, 1, 0, 0, 1, 1, 1 };
    return (cnncl_conv){ 1, c, x.h, x.w, c, y->shape.h, y->shape.w, a->kernel_h, a->kernel_w, a->stride_h,
                         a->stride_w, a->pad_top, a->pad_left, a->dilation_h, a->dilation_w, 1 };
}
/* The padding that a mean counts, on the four sides. */
static cnn_shape cnncl_counted_pad(const cnn_tensor *y)
{
    const cnn_pool_args *a = y->op == &cnn_op_avg_pool ? y->args : NULL;
    return !a || a->no_count_pad ? (cnn_shape){ 0, 0, 0, 0 }
                                 : (cnn_shape){ a->pad_top, a->pad_bottom, a->pad_left, a->pad_right };
}
#define CNNCL_POOL(y, n)                                                                                     \
    CNNCL_CONV(cnncl_windows(y)), CNNCL_SHAPE(cnncl_counted_pad(y)), CNNCL_INT(cnncl_pool_of(y)), CNNCL_INT(n)

CNNCL_FORWARD(pool)
{
    const int n = cnncl_len(y->shape);
    return CNNCL_RUN(d, pool_forward, n, 1, 1, CNNCL_DATA(y), CNNCL_DATA(y->in[0]),
                     CNNCL_ARRAY(cnncl_saved(y, mode)), CNNCL_POOL(y, n));
}
CNNCL_BACKWARD(pool)
{
    const int n = cnncl_len(y->in[0]->shape);
    return CNNCL_RUN(d, pool_backward, n, 1, 1, CNNCL_ADDED(y, 0), CNNCL_GRAD(y),
                     CNNCL_ARRAY(cnncl_saved(y, CNN_TRAIN)), CNNCL_POOL(y, n));
}

/* ---- Sums over extents: sum, mean and global_avg_pool fold x into y, and spread dy over dx. ---- */

static float cnncl_reduce_factor(const cnn_tensor *y)
{
    const bool mean = y->op == &cnn_op_mean || y->op == &cnn_op_global_avg_pool;
    return mean ? (float)cnncl_len(y->shape) / (float)cnncl_len(y->in[0]->shape) : 1.0f;
}
static bool cnncl_is_most(const cnn_tensor *y) { return y->op == &cnn_op_amax || y->op == &cnn_op_amin; }

CNNCL_FORWARD(reduce)
{
    const cnncl_view x = cnncl_data_of(y->in[0]);
    const int how = !cnncl_is_most(y) ? CNNCL_SUM : y->op == &cnn_op_amax ? CNNCL_MOST : CNNCL_LEAST;
    return cnncl_fold(d, cnncl_data_of(y), 0, cnncl_reduce_factor(y), how, x, x);
}
CNNCL_BACKWARD(reduce)
{
    const float factor = cnncl_reduce_factor(y);
    return cnncl_spread(d, cnncl_grad_of(y->in[0]), cnncl_beta(y, 0), factor, cnncl_grad_of(y), 0);
}

/* Which are equal to y, how many, and dy for each of them. */
CNNCL_BACKWARD(most)
{
    const cnn_tensor *x = y->in[0];
    const cnncl_view  equal = { cnn_place_scratch(y->graph), x->shape };
    const cnncl_view  share = { cnncl_place_at(equal.place, (size_t)cnncl_len(x->shape)), y->shape };
    return cnncl_stretch(d, equal, 0, CNNCL_EQUAL, cnncl_data_of(x), cnncl_data_of(y), cnncl_identity) &&
           cnncl_total(d, share, 0, 1, equal) &&
           cnncl_stretch(d, share, 0, CNNCL_DIV, cnncl_grad_of(y), share, cnncl_identity) &&
           cnncl_fold(d, cnncl_grad_of(x), cnncl_beta(y, 0), 1, CNNCL_PRODUCTS, equal, share);
}

/* ---- add, sub, mul, ...: forward stretches both operands, backward folds dy back into each. ---- */

/* The place of an operation in the kernels stretch and stretch_back. */
static int cnncl_binary(const cnn_tensor *y)
{
    const cnn_op *const all[] = { &cnn_op_add, &cnn_op_sub, &cnn_op_mul, &cnn_op_div, &cnn_op_maximum,
                                  &cnn_op_minimum, &cnn_op_pow, &cnn_op_prelu };
    int how = 0;
    while (how < CNNCL_EQUAL && all[how] != y->op) how++;
    return how;
}
CNNCL_FORWARD(binary)
{
    const cnncl_view a = cnncl_data_of(y->in[0]), b = cnncl_data_of(y->in[1]);
    return cnncl_is_joined(y) ||
           cnncl_stretch(d, cnncl_data_of(y), 0, cnncl_binary(y), a, b, cnncl_chain_of(y).f);
}
CNNCL_BACKWARD(binary)
{
    const int how = cnncl_binary(y), n = cnncl_len(y->shape);
    const int fold = y->op == &cnn_op_mul ? CNNCL_PRODUCTS : CNNCL_SUM;
    const bool has_slope = how >= CNNCL_DIV;
    const cnncl_view a = cnncl_data_of(y->in[0]), b = cnncl_data_of(y->in[1]), dy = cnncl_grad_of(y);
    for (int i = 0; i < 2 && !cnncl_is_joined_backward(y); i++) {
        const cnncl_view dx = cnncl_grad_of(y->in[i]);
        const bool       all = has_slope && cnncl_same_shape(dx.shape, dy.shape);      /* nothing to fold */
        const cnncl_view part = { all ? dx.place : cnn_place_scratch(y->graph), dy.shape };
        const float      factor = i == 1 && y->op == &cnn_op_sub ? -1.0f : 1.0f, beta = cnncl_beta(y, i);
        if (!dx.place.buffer) continue;
        if (i == 0 && cnncl_is_sum(y) && cnncl_same_place(dx.place, dy.place)) continue;
        if (has_slope &&
            !CNNCL_RUN(d, stretch_back, n, 1, 1, CNNCL_ARRAY(part.place), CNNCL_FLOAT(all ? beta : 0),
                       CNNCL_VIEW(dy), CNNCL_VIEW(a), CNNCL_VIEW(b), CNNCL_INT(n), CNNCL_INT(how),
                       CNNCL_INT(i))) return false;
        if (!all && !cnncl_fold(d, dx, beta, factor, fold, has_slope ? part : dy, i ? a : b)) return false;
    }
    return true;
}

/* ---- Copies ---- */

CNNCL_FORWARD(reshape)
{
    const cnn_place out = cnn_place_data(y), x = cnn_place_data(y->in[0]);
    return cnncl_same_place(out, x) || cnncl_map(d, out, x, cnncl_len(y->shape), cnncl_identity);
}
CNNCL_BACKWARD(reshape)
{
    const cnncl_view dx = cnncl_grad_of(y->in[0]), dy = { cnn_place_grad(y), dx.shape };
    return cnncl_same_place(dx.place, dy.place) || cnncl_spread(d, dx, cnncl_beta(y, 0), 1, dy, 0);
}

/* What only moves numbers (op->move): y from its operands; or, back, their gradients from that of y. */
static cnn_shape cnncl_by_axis(const int v[4]) { return (cnn_shape){ v[0], v[1], v[2], v[3] }; }
static bool cnncl_move(cnncl *d, cnn_tensor *y, bool back)
{
    cnn_move m;
    bool     good = true;
    for (int k = 0; k < y->n_in && good && y->op->move(y, k, &m); k++) {
        cnn_tensor *x = y->in[k], *own = m.into ? x : y, *other = m.into ? y : x;
        cnn_place   a = back ? cnn_place_grad(own) : cnn_place_data(own);
        cnn_place   b = back ? cnn_place_grad(other) : cnn_place_data(other);
        int         n = cnncl_len(own->shape);
        const bool  all = m.into || n == cnncl_len(x->shape);             /* it writes all of x's gradient */
        if (back && !x->needs_grad) continue;
        if (back && !all && !cnncl_start_grad(d, y, k)) return false;
        const float beta = !back ? 0 : all ? cnncl_beta(y, k) : 1;
        good = CNNCL_RUN(d, move, n, 1, 1, CNNCL_ARRAY(a), CNNCL_SHAPE(own->shape), CNNCL_ARRAY(b),
                         CNNCL_INT(m.at), CNNCL_SHAPE(cnncl_by_axis(m.div)),
                         CNNCL_SHAPE(cnncl_by_axis(m.step)), CNNCL_SHAPE(cnncl_by_axis(m.within)),
                         CNNCL_INT(n), CNNCL_INT(m.into != back), CNNCL_FLOAT(beta));
    }
    return good;
}
CNNCL_FORWARD(move)  { return cnncl_move(d, y, false); }
CNNCL_BACKWARD(move) { return cnncl_move(d, y, true); }

static cnn_shape cnncl_pad_of(const cnn_pad_args *a) { return (cnn_shape){ 0, a->front, a->top, a->left }; }
CNNCL_FORWARD(pad)
{
    const cnn_pad_args *a = y->args;
    return CNNCL_MAKE_Y(d, pad_forward, y, CNNCL_SHAPE(cnncl_pad_of(a)), CNNCL_INT(a->mode),
                        CNNCL_FLOAT(a->value));
}
CNNCL_BACKWARD(pad)
{
    const cnn_pad_args *a = y->args;
    return CNNCL_MAKE_DX(d, pad_backward, y, CNNCL_SHAPE(cnncl_pad_of(a)), CNNCL_INT(a->mode));
}

static int cnncl_filter(const cnn_upsample_args *a) { return a->bilinear ? 1 + (a->align_corners != 0) : 0; }
CNNCL_FORWARD(upsample)  { return CNNCL_MAKE_Y(d, upsample_forward, y, CNNCL_INT(cnncl_filter(y->args))); }
CNNCL_BACKWARD(upsample) { return CNNCL_MAKE_DX(d, upsample_backward, y, CNNCL_INT(cnncl_filter(y->args))); }

CNNCL_FORWARD(lrn)
{
    const cnn_lrn_args *t = y->args;
    return CNNCL_MAKE_Y(d, lrn_forward, y, CNNCL_ARRAY(cnncl_saved(y, mode)), CNNCL_INT(t->size),
                        CNNCL_FLOAT(t->alpha / (float)t->size), CNNCL_FLOAT(t->beta), CNNCL_FLOAT(t->k));
}
CNNCL_BACKWARD(lrn)
{
    const cnn_lrn_args *t = y->args;
    return CNNCL_MAKE_DX(d, lrn_backward, y, CNNCL_DATA(y->in[0]), CNNCL_DATA(y),
                         CNNCL_ARRAY(cnncl_saved(y, CNN_TRAIN)), CNNCL_INT(t->size),
                         CNNCL_FLOAT(t->alpha / (float)t->size), CNNCL_FLOAT(t->beta));
}

/* ---- Functions of one number ---- */

CNNCL_FORWARD(map)
{
    cnncl_function f = cnncl_function_of(y);
    int            n = cnncl_len(y->shape);
    return cnncl_is_joined(y) || cnncl_map(d, cnn_place_data(y), cnn_place_data(y->in[0]), n, f);
}
CNNCL_BACKWARD(map)
{
    const cnn_tensor *read = y->op->flags & CNN_READS_X ? y->in[0] : y;
    return cnncl_is_joined_backward(y) ||
           cnncl_stretch(d, cnncl_grad_of(y->in[0]), cnncl_beta(y, 0), CNNCL_SLOPE, cnncl_grad_of(y),
                         cnncl_data_of(read), cnncl_function_of(y));
}

/* ---- softmax and its logarithm ---- */

/* How many items share a row of c elements that lie `plane` apart? Neighbours should read neighbours. */
static int cnncl_lanes(int c, int plane)
{
    int lanes = 1;
    while (plane < 16 && lanes < CNNCL_GROUP && 8 * lanes <= c) lanes *= 2;
    return lanes;
}

/* y as (n,c,plane), c being the axis: rows n plane. */
static int cnncl_lines(const cnn_tensor *y, int *c, int *plane, int *lanes)
{
    const cnn_shape s = y->shape;
    const unsigned  axis = ((const cnn_softmax_args *)y->args)->axis;
    *c = axis == CNN_C ? s.c : axis == CNN_H ? s.h : s.w;
    *plane = axis == CNN_C ? s.h * s.w : axis == CNN_H ? s.w : 1;
    *lanes = cnncl_lanes(*c, *plane);
    return cnncl_len(s) / *c;
}
CNNCL_FORWARD(softmax)
{
    int c, plane, lanes, rows = cnncl_lines(y, &c, &plane, &lanes),
        groups = cnncl_part_length(rows, CNNCL_GROUP / lanes);
    return CNNCL_RUN(d, softmax_forward, groups, 1, 1, CNNCL_DATA(y), CNNCL_DATA(y->in[0]),
                     CNNCL_INT(c), CNNCL_INT(plane), CNNCL_INT(rows), CNNCL_INT(lanes),
                     CNNCL_INT(y->op == &cnn_op_log_softmax));
}
CNNCL_BACKWARD(softmax)
{
    int c, plane, lanes, rows = cnncl_lines(y, &c, &plane, &lanes),
        groups = cnncl_part_length(rows, CNNCL_GROUP / lanes);
    return CNNCL_RUN(d, softmax_backward, groups, 1, 1, CNNCL_ADDED(y, 0), CNNCL_GRAD(y), CNNCL_DATA(y),
                     CNNCL_INT(c), CNNCL_INT(plane), CNNCL_INT(rows), CNNCL_INT(lanes),
                     CNNCL_INT(y->op == &cnn_op_log_softmax));
}

/* ---- Dropout ---- */

static bool cnncl_dropout(cnncl *d, cnn_tensor *y, cnn_place to, cnn_place from, float beta)
{
    uint64_t key, stream;
    cnn_random_key(y, &key, &stream);
    float p = ((const cnn_dropout_args *)y->args)->p;
    int   n = cnncl_len(y->shape);
    return CNNCL_RUN(d, dropout, n, 1, 1, CNNCL_ARRAY(to), CNNCL_ARRAY(from), CNNCL_ULONG(key),
                     CNNCL_ULONG(stream), CNNCL_FLOAT(p), CNNCL_FLOAT(beta), CNNCL_INT(n));
}
CNNCL_FORWARD(dropout)
{
    if (mode == CNN_EVAL) return cnncl_reshape_run(d, y, mode);      /* y = x */
    return cnncl_dropout(d, y, cnn_place_data(y), cnn_place_data(y->in[0]), 0);
}
CNNCL_BACKWARD(dropout) 
{
    return cnncl_dropout(d, y, cnn_place_grad(y->in[0]), cnn_place_grad(y), cnncl_beta(y, 0));
}

/* ---- Norms ---- */

/* In how many slices is each of so many channels of `count` elements cut, so that each unit gets four
   groups? */
static int cnncl_norm_slices(const cnncl *d, int channels, int count)
{
    enum { LEAST = 1024, MOST = 64 };
    const int slices = cnncl_min(cnncl_min((4 * d->units + channels - 1) / channels, count / LEAST), MOST);
    return slices > 1 ? slices : 1;
}

typedef struct {
    const cnn_tensor *w, *b, *mean, *var;
    cnn_place         parts;                 /* statistics of the slices */
    int               channels, plane, count, length, sample, share, centred;      /* see the kernels */
    int               slices;
    float             eps, momentum;
    bool              running;               /* the statistics are those that are kept */
} cnncl_norm;
static cnncl_norm cnncl_norm_of(const cnncl *d, const cnn_tensor *y, cnn_mode mode)
{
    const bool batch = y->op == &cnn_op_batch_norm, rms = y->op == &cnn_op_rms_norm;
    const bool layer = rms || y->op == &cnn_op_layer_norm;
    const cnn_group_norm_args *group = y->op == &cnn_op_group_norm ? y->args : NULL;
    const cnn_norm_args       *a = y->args;
    const cnn_shape s = y->shape;
    const int  plane = cnncl_plane(s), all = cnncl_elements(s);
    cnncl_norm v = { .w = cnn_operand(y, "weight"), .b = cnn_operand(y, "bias"), .centred = !rms,
                     .mean = cnn_operand(y, "running_mean"), .var = cnn_operand(y, "running_var"),
                     .parts = cnn_place_scratch(y->graph), .channels = s.c, .plane = plane,
                     .count = s.n * plane };
    v.running = batch && (mode == CNN_EVAL || v.mean->frozen);
    if (!batch) {
        const int rows = group ? group->groups : (a->axes & CNN_C ? 1 : s.c) * (a->axes & CNN_H ? 1 : s.h);
        v.channels = s.n * rows, v.plane = v.count = all / rows;
        v.sample = layer ? v.plane : all, v.share = layer ? 1 : plane;
    }
    v.eps = cnncl_constant(y, "eps"), v.momentum = cnncl_constant(y, "momentum");
    v.length = cnncl_part_length(v.count, cnncl_norm_slices(d, v.channels, v.count));
    v.slices = cnncl_part_length(v.count, v.length);
    return v;
}
#define CNNCL_NORM(v)                                                                                        \
    CNNCL_INT((v).channels), CNNCL_INT((v).plane), CNNCL_INT((v).count), CNNCL_INT((v).length),              \
    CNNCL_INT((v).sample), CNNCL_INT((v).share), CNNCL_INT((v).centred)

CNNCL_FORWARD(norm)
{
    const cnncl_norm  v = cnncl_norm_of(d, y, mode);
    const cnncl_chain chain = cnncl_chain_of(y);
    return (v.running || v.slices == 1 ||
            CNNCL_RUN(d, norm_statistics, v.channels, v.slices, 1, CNNCL_DATA(y->in[0]), CNNCL_ARRAY(v.parts),
                      CNNCL_NORM(v))) &&
           CNNCL_RUN(d, norm_forward, v.channels, v.slices, 1, CNNCL_DATA(y), CNNCL_DATA(y->in[0]),
                     CNNCL_ARRAY(v.parts), CNNCL_ARRAY(cnncl_saved(y, mode)), CNNCL_DATA(v.mean),
                     CNNCL_DATA(v.var), CNNCL_DATA(v.w), CNNCL_DATA(v.b),
                     CNNCL_DATA(chain.add ? chain.add->in[1] : NULL), CNNCL_FLOAT(chain.sign), CNNCL_NORM(v),
                     CNNCL_INT(v.running ? 0 : v.slices), CNNCL_FLOAT(v.eps), CNNCL_FLOAT(v.momentum),
                     CNNCL_FUNCTION(chain.f));
}

/* The sums of the weights' gradients, where w is not batch norm's. */
static bool cnncl_norm_weight(cnncl *d, const cnn_tensor *y, const cnncl_norm *v)
{
    const cnn_place dw = cnncl_grad(v->w), db = cnncl_grad(v->b), slices = { d->slices, 0 };
    const int       weights = v->sample / v->share, terms = cnncl_len(y->shape) / v->sample * v->share;
    const int       n_db = db.buffer ? weights : 0;
    int             length = terms;
    const size_t    size = 2 * (size_t)weights;
    const int       parts = dw.buffer ? cnncl_group_parts(d, weights, terms, size, &length) : 1;
    const bool      cut = parts > 1;
    const cnn_place to = cut ? slices : dw, to_b = cut && n_db ? cnncl_place_at(slices, (size_t)weights) : db;
    return (!dw.buffer && !n_db) ||
           (CNNCL_RUN(d, norm_weight, weights, parts, 1, CNNCL_ARRAY(to), CNNCL_ARRAY(to_b),
                      CNNCL_ULONG((size_t)(weights + n_db)), CNNCL_GRAD(y), CNNCL_DATA(y->in[0]),
                      CNNCL_ARRAY(cnn_place_saved(y)), CNNCL_NORM(*v), CNNCL_INT(terms), CNNCL_INT(length),
                      CNNCL_FLOAT(cut ? 0 : 1)) &&
            (!cut || cnncl_add_slices(d, dw, weights, db, n_db, parts, 1, cnncl_none, 1, cnncl_identity)));
}
CNNCL_BACKWARD(norm)
{
    const cnncl_norm  v = cnncl_norm_of(d, y, CNN_TRAIN);
    const cnncl_chain none = { NULL, NULL, cnncl_identity, 0 };
    const cnncl_chain chain = cnncl_joins_backward(y) ? cnncl_chain_of(y) : none;
    const cnn_tensor *x = y->in[0];
    const bool        batch = y->op == &cnn_op_batch_norm;
    return cnncl_start_grad(d, y, 1) && cnncl_start_grad(d, y, 2) &&
           CNNCL_RUN(d, norm_sums, v.channels, v.slices, 1, CNNCL_ARRAY(v.parts),
                     CNNCL_GRAD(chain.add ? chain.add->in[1] : NULL), CNNCL_FLOAT(chain.sign),
                     CNNCL_FLOAT(chain.add ? cnncl_beta(chain.add, 1) : 0), CNNCL_DATA(x), CNNCL_GRAD(y),
                     CNNCL_DATA(y), CNNCL_ARRAY(cnn_place_saved(y)), CNNCL_DATA(v.w), CNNCL_NORM(v),
                     CNNCL_FUNCTION(chain.f)) &&
           CNNCL_RUN(d, norm_backward, v.channels, v.slices, 1, CNNCL_GRAD(x),
                     CNNCL_GRAD(batch ? v.w : NULL), CNNCL_GRAD(batch ? v.b : NULL),
                     CNNCL_FLOAT(cnncl_beta(y, 0)), CNNCL_ARRAY(v.parts), CNNCL_DATA(x), CNNCL_GRAD(y),
                     CNNCL_DATA(y), CNNCL_ARRAY(cnn_place_saved(y)), CNNCL_DATA(v.w), CNNCL_NORM(v),
                     CNNCL_INT(v.slices), CNNCL_FLOAT(v.running ? 0 : 1 / (float)v.count),
                     CNNCL_FUNCTION(chain.f)) &&
           (batch || cnncl_norm_weight(d, y, &v));
}

/* ---- Losses ---- */

static bool cnncl_each(const cnn_tensor *y) { return cnncl_option(y, "reduction") == CNN_NONE; }

/* What each of n terms counts in their mean, or in their sum. */
static float cnncl_share(const cnn_tensor *y, int n)
{
    const float factor = cnncl_option(y, "smooth_l1") ? 1 / cnncl_constant(y, "delta") : 1;
    return cnncl_option(y, "reduction") == CNN_MEAN ? factor * (1 / (float)n) : factor;
}

/* With labels. In scratch: the gradient of all terms, the sums of the parts, and behind them a number for
   each row. */
typedef struct { int nll, channels, plane, rows, lanes, how, length, parts; } cnncl_labels;
enum { CNNCL_PART_SUMS = 2, CNNCL_ROWS = 2 + 2 * CNNCL_SUMS };

static cnncl_labels cnncl_labels_of(const cnncl *d, const cnn_tensor *y)
{
    const cnn_shape s = y->in[0]->shape;
    const int       plane = cnncl_plane(s), nll = y->op == &cnn_op_nll;
    cnncl_labels    l = { nll, s.c, plane, s.n * plane, nll ? 1 : cnncl_lanes(s.c, plane),
                          cnncl_option(y, "reduction"), 0, 0 };
    const int at_once = CNNCL_GROUP / l.lanes, turns = cnncl_part_length(l.rows, at_once);   /* of a group */
    const int parts = cnncl_parts(d, 1, CNNCL_GROUP * turns, CNNCL_SLICES / CNNCL_SUMS);
    l.length = at_once * cnncl_part_length(turns, parts);
    l.parts = cnncl_part_length(l.rows, l.length);
    return l;
}
#define CNNCL_LABELS(y, l)                                                                                   \
    CNNCL_DATA((y)->in[0]), CNNCL_DATA((y)->in[1]), CNNCL_DATA(cnncl_in(y, 2)),                              \
    CNNCL_INT((y)->in[1]->shape.c > 1), CNNCL_INT(cnncl_option(y, "ignore_index")), CNNCL_INT((l)->nll),     \
    CNNCL_FLOAT(cnncl_constant(y, "smoothing")), CNNCL_INT((l)->channels), CNNCL_INT((l)->plane)

/* Forward: the terms, and what becomes of them. Back: sum q of each row, and the gradient of a term. */
static bool cnncl_label_rows(cnncl *d, cnn_tensor *y, const cnncl_labels *l, cnn_place saved, bool back)
{
    const cnn_place scratch = cnn_place_scratch(y->graph), rows = cnncl_place_at(scratch, CNNCL_ROWS);
    const cnn_place parts = cnncl_place_at(scratch, CNNCL_PART_SUMS),
        dloss = back ? cnn_place_grad(y) : scratch;
    const cnn_place total = back ? scratch : cnn_place_data(y), out = back ? rows : total;
    return CNNCL_RUN(d, label_rows, l->parts, 1, 1, CNNCL_ARRAY(out), CNNCL_ARRAY(parts), CNNCL_ARRAY(total),
                     CNNCL_ARRAY(dloss), CNNCL_ARRAY(saved), CNNCL_LABELS(y, l), CNNCL_INT(l->rows),
                     CNNCL_INT(l->length), CNNCL_INT(l->lanes), CNNCL_INT(l->how), CNNCL_INT(back)) &&
           (l->parts == 1 || l->how == CNN_NONE ||
            CNNCL_RUN(d, label_end, 1, 1, 1, CNNCL_ARRAY(total), CNNCL_ARRAY(parts), CNNCL_INT(l->parts),
                      CNNCL_ARRAY(dloss), CNNCL_INT(l->how), CNNCL_INT(back)));
}
CNNCL_FORWARD(label_loss)
{
    const cnncl_labels l = cnncl_labels_of(d, y);
    return cnn_check_labels(y) && cnncl_label_rows(d, y, &l, cnncl_saved(y, mode), false);
}
CNNCL_BACKWARD(label_loss)
{
    const cnncl_labels l = cnncl_labels_of(d, y);
    const bool         each = l.how == CNN_NONE;
    const int          n = l.rows * l.channels;
    const cnn_place    scratch = cnn_place_scratch(y->graph), all = cnncl_place_at(scratch, CNNCL_ROWS);
    const cnn_place    g = each ? cnn_place_grad(y) : scratch, saved = cnncl_saved(y, CNN_TRAIN);
    return cnncl_label_rows(d, y, &l, cnncl_none, true) &&
           CNNCL_RUN(d, label_loss_backward, n, 1, 1, CNNCL_ADDED(y, 0), CNNCL_ADDED(y, 1), CNNCL_ARRAY(g),
                     CNNCL_INT(each), CNNCL_ARRAY(all), CNNCL_ARRAY(saved), CNNCL_LABELS(y, &l),
                     CNNCL_INT(n));
}

/* Between two arrays. Its last arguments, the same both ways: p and w, and the constants: huber's delta, or
   focal's alpha and gamma. */
static int cnncl_pair(const cnn_tensor *y)
{
    return y->op == &cnn_op_mse ? 0 : y->op == &cnn_op_l1 ? 1 : y->op == &cnn_op_huber ? 2
         : y->op == &cnn_op_bce_with_logits ? 3 : 4;
}
#define CNNCL_PAIR(y)                                                                                        \
    CNNCL_DATA(cnncl_in(y, 2)), CNNCL_DATA(cnncl_in(y, 3)), CNNCL_INT((y)->in[0]->shape.c),                  \
    CNNCL_INT(cnncl_plane((y)->in[0]->shape)), CNNCL_INT(n), CNNCL_INT(cnncl_pair(y)),                       \
    CNNCL_FLOAT(cnncl_constant(y, (y)->op == &cnn_op_huber ? "delta" : "alpha")),                            \
    CNNCL_FLOAT(cnncl_constant(y, "gamma")), CNNCL_FLOAT(cnncl_share(y, n))

CNNCL_FORWARD(pair_loss)
{
    const cnn_place slices = { d->slices, 0 };
    const bool      each = cnncl_each(y);
    const int       n = cnncl_len(y->in[0]->shape);
    int             length = 4 * CNNCL_GROUP, parts = cnncl_part_length(n, length);
    if (!each) parts = cnncl_group_parts(d, 1, n, 1, &length);
    const cnn_place to = each || parts == 1 ? cnn_place_data(y) : slices;
    return CNNCL_RUN(d, pair_loss_forward, parts, 1, 1, CNNCL_ARRAY(to), CNNCL_DATA(y->in[0]),
                     CNNCL_DATA(y->in[1]), CNNCL_INT(each), CNNCL_INT(length), CNNCL_PAIR(y)) &&
           (each || parts == 1 || cnncl_total(d, cnncl_data_of(y), 0, 1, cnncl_row(slices, parts)));
}
CNNCL_BACKWARD(pair_loss)
{
    const int n = cnncl_len(y->in[0]->shape);
    return CNNCL_RUN(d, pair_loss_backward, n, 1, 1, CNNCL_ADDED(y, 0), CNNCL_ADDED(y, 1),
                     CNNCL_DATA(y->in[0]), CNNCL_DATA(y->in[1]), CNNCL_INT(cnncl_each(y)), CNNCL_GRAD(y),
                     CNNCL_PAIR(y));
}

/* Overlaps of channels; in scratch: their two sums, and the terms. */
#define CNNCL_DICE(y)                                                                                        \
    CNNCL_INT((y)->in[1]->shape.c != (y)->in[0]->shape.c), CNNCL_INT((y)->in[0]->shape.c),                   \
    CNNCL_INT(cnncl_plane((y)->in[0]->shape)), CNNCL_INT(cnncl_option(y, "ignore_index"))

static bool cnncl_dice_sums(cnncl *d, const cnn_tensor *y)
{
    const cnn_shape s = y->in[0]->shape;
    const int       n = s.n * s.c;
    int             length;
    const int       parts = cnncl_group_parts(d, n, cnncl_plane(s), 2 * (size_t)n, &length);
    const cnncl_view slices = { { d->slices, 0 }, { 1, 1, parts, 2 * n } };
    const cnncl_view sums = cnncl_row(cnn_place_scratch(y->graph), 2 * n);
    const cnn_place  to = parts > 1 ? slices.place : sums.place;
    return CNNCL_RUN(d, dice_sums, n, parts, 1, CNNCL_ARRAY(to), CNNCL_DATA(y->in[0]), CNNCL_DATA(y->in[1]),
                     CNNCL_DICE(y), CNNCL_INT(length)) &&
           (parts == 1 || cnncl_total(d, sums, 0, 1, slices));
}
CNNCL_FORWARD(dice)
{
    const bool      each = cnncl_each(y);
    const int       n = y->in[0]->shape.n * y->in[0]->shape.c;
    const cnn_place sums = cnn_place_scratch(y->graph), terms = cnncl_place_at(sums, 2 * (size_t)n);
    const cnn_place to = each ? cnn_place_data(y) : terms;
    return (y->in[1]->shape.c == y->in[0]->shape.c || cnn_check_labels(y)) && cnncl_dice_sums(d, y) &&
           CNNCL_RUN(d, dice_forward, n, 1, 1, CNNCL_ARRAY(to), CNNCL_ARRAY(sums),
                     CNNCL_FLOAT(cnncl_constant(y, "smooth")), CNNCL_INT(n)) &&
           (each || cnncl_total(d, cnncl_data_of(y), 0, cnncl_share(y, n), cnncl_row(terms, n)));
}
CNNCL_BACKWARD(dice)
{
    const int       n = cnncl_len(y->in[0]->shape), channels = y->in[0]->shape.n * y->in[0]->shape.c;
    const cnn_place sums = cnn_place_scratch(y->graph);
    return cnncl_dice_sums(d, y) &&
           CNNCL_RUN(d, dice_backward, n, 1, 1, CNNCL_ADDED(y, 0), CNNCL_ADDED(y, 1), CNNCL_ARRAY(sums),
                     CNNCL_GRAD(y), CNNCL_INT(cnncl_each(y)), CNNCL_FLOAT(cnncl_share(y, channels)),
                     CNNCL_DATA(y->in[0]), CNNCL_DATA(y->in[1]), CNNCL_DICE(y),
                     CNNCL_FLOAT(cnncl_constant(y, "smooth")), CNNCL_INT(n));
}

/* ---- Training beside the rows ---- */

/* Where an optimizer's row has no kernel, the CPU updates. An option that it does not take is 0: so `rate` is
   lr, and scale 1, but for Adam's. */
static bool cnncl_update(cnn_backend *dev, const cnn_optimizer *o, cnn_place w, cnn_place dw,
                         cnn_place slots, size_t n, size_t slot_stride, const cnn_step_args *a, long step)
{
#define CNNCL_OPTIMIZER(name) cnn_##name,
    static const cnn_optimizer *(*const rows[])(void) = { CNNCL_OPTIMIZERS(CNNCL_OPTIMIZER) };
    const int    n_rows = sizeof rows / sizeof *rows;
    const double t = (double)step + 1, rate = (double)a->lr / (1 - pow((double)a->beta1, t));
    const double scale = 1 / sqrt(1 - pow((double)a->beta2, t));
    int k = 0;
    while (k < n_rows && rows[k]() != o) k++;
    if (k == n_rows || n > INT_MAX) return false;
    return CNNCL_RUN(cnncl_of(dev), update, (int)n, 1, 1, CNNCL_ARRAY(w), CNNCL_ARRAY(dw), CNNCL_ARRAY(slots),
                     CNNCL_ULONG(slot_stride), CNNCL_INT((int)n), CNNCL_INT(k), CNNCL_FLOAT(a->lr),
                     CNNCL_FLOAT(a->weight_decay), CNNCL_FLOAT(a->momentum),
                     CNNCL_FLOAT(step ? 1 - a->dampening : 1), CNNCL_INT(a->nesterov), CNNCL_FLOAT(a->beta1),
                     CNNCL_FLOAT(a->beta2), CNNCL_FLOAT((float)rate), CNNCL_FLOAT((float)scale),
                     CNNCL_FLOAT(a->alpha), CNNCL_FLOAT(a->eps));
}

/* y = beta y + factor x, of any n. */
static bool cnncl_linear(cnn_backend *dev, cnn_place y, size_t n, float beta, float factor, cnn_place x)
{
    bool good = true;
    for (size_t part; n > 0 && good; n -= part, y.at += part, x.at += part) {
        part = n < CNNCL_MOST_ITEMS ? n : CNNCL_MOST_ITEMS;
        good = cnncl_spread(cnncl_of(dev), cnncl_row(y, (int)part), beta, factor, cnncl_row(x, (int)part), 0);
    }
    return good;
}
static bool cnncl_scale(cnn_backend *dev, cnn_place x, size_t n, float factor)
{
    return cnncl_linear(dev, x, n, 0, factor, x);
}
static bool cnncl_mix(cnn_backend *dev, cnn_place a, cnn_place x, size_t n, float share)
{
    return cnncl_linear(dev, a, n, 1 - share, share, x);
}

/* Groups for a running sum: always as many, as each adds to what it has. */
static int cnncl_running(const cnncl *d) { return cnncl_min(2 * d->units, CNNCL_SUMS); }

/* The sums of the groups, of which a running sum consists, if they are asked for. */
static bool cnncl_take(cnncl *d, size_t at, void *parts, bool wanted)
{
    const size_t one = sizeof(float);
    return !wanted || cnncl_download(&d->base, d->slices, at * one, parts, (size_t)cnncl_running(d) * one);
}
static bool cnncl_squares(cnn_backend *dev, cnn_place x, size_t n, bool anew, double *take)
{
    cnncl    *d = cnncl_of(dev);
    cnn_place sums = { d->slices, CNNCL_SLICES };
    float     part[CNNCL_SUMS];
    for (size_t some; n > 0; n -= some, x.at += some, anew = false) {
        some = n < CNNCL_MOST_ITEMS ? n : CNNCL_MOST_ITEMS;
        if (!CNNCL_RUN(d, squares, cnncl_running(d), 1, 1, CNNCL_ARRAY(sums), CNNCL_ARRAY(x),
                       CNNCL_INT((int)some), CNNCL_INT(anew))) return false;
    }
    if (!cnncl_take(d, sums.at, part, take != NULL)) return false;
    if (take) *take = 0;
    for (int i = 0; take && i < cnncl_running(d); i++) *take += (double)part[i];
    return true;
}
static bool cnncl_correct(cnn_backend *dev, cnn_place logits, cnn_shape s, cnn_place labels, bool anew,
                          int *take)
{
    cnncl    *d = cnncl_of(dev);
    cnn_place sums = { d->slices, CNNCL_SLICES + CNNCL_SUMS };
    cl_int    part[CNNCL_SUMS];
    const int plane = cnncl_plane(s);
    if (!CNNCL_RUN(d, correct, cnncl_running(d), 1, 1, CNNCL_ARRAY(sums), CNNCL_ARRAY(logits),
                   CNNCL_ARRAY(labels), CNNCL_INT(s.c), CNNCL_INT(plane), CNNCL_INT(s.n * plane),
                   CNNCL_INT(anew)) || !cnncl_take(d, sums.at, part, take != NULL)) return false;
    if (take) *take = 0;
    for (int i = 0; take && i < cnncl_running(d); i++) *take += part[i];
    return true;
}

/* ---- .tune: what is fastest is measured ---- */

/* One pass of a convolution or a product, on arrays of its sizes. */
typedef struct { cnncl_task task; cnncl_product p; cnn_place x, w, y; } cnncl_trial;

static bool cnncl_has_way(const cnncl *d, const cnncl_trial *t, int way)
{
    if (way == CNNCL_WINOGRAD) return t->task.pass != CNNCL_OF_PRODUCT && cnncl_wino_may(d, &t->task);
    return d->has_local == (way != CNNCL_NO_LOCAL);
}
static bool cnncl_run_trial(cnncl *d, cnncl_trial *t, int way)
{
    const cnncl_task *task = &t->task;
    const bool        back = task->pass == CNNCL_TO_X;
    t->task.way = d->tile = way;                                  /* no other tile, but inside of Winograd */
    if (way == CNNCL_WINOGRAD) d->tile = -1;
    const cnn_place to = back ? t->x : t->y, from = back ? t->y : t->x;
    const bool done = task->pass == CNNCL_OF_PRODUCT ? cnncl_own_gemm(d, t->p)
                    : task->pass == CNNCL_TO_W ? cnncl_convolve_weights(d, task, t->w, cnncl_none, t->y, t->x)
                    : cnncl_convolve(d, task, to, 0, from, t->w, cnncl_none, cnncl_identity);
    return d->tile = -1, done;
}

/* The way that took the least time in one of three runs behind a first one; CNNCL_BY_RULE if it cannot be
   said. */
static int cnncl_fastest(cnncl *d, cnncl_trial *t)
{
    enum { RUNS = 4 };
    int    fastest = CNNCL_BY_RULE;
    double least = 0;
    cnncl_seconds(&d->base, true);
    for (int way = 0; way <= CNNCL_WINOGRAD && d->timing && !d->base.error[0]; way++)
        for (int run = 0; run < RUNS && cnncl_has_way(d, t, way); run++) {
            const double before = d->seconds;
            if (!cnncl_run_trial(d, t, way)) break;
            const double took = cnncl_seconds(&d->base, true) - before;
            if (run && took > 0 && (fastest == CNNCL_BY_RULE || took < least)) least = took, fastest = way;
        }
    cnncl_seconds(&d->base, false);
    return d->base.error[0] ? CNNCL_BY_RULE : fastest;
}

/* Measure it, unless that was done or there is one way only. n: floats of x, w and y. No memory for its
   arrays, or an error: then the rule stays. */
static void cnncl_tune(cnncl *d, cnncl_trial *t, size_t n_x, size_t n_w, size_t n_y)
{
    const bool     product = t->task.pass == CNNCL_OF_PRODUCT;
    const uint64_t key = product ? cnncl_product_key(&t->p) : cnncl_task_key(&t->task);
    const size_t   all = n_x + n_w + n_y;
    int            ways = 0;
    for (int way = 0; way <= CNNCL_WINOGRAD; way++) ways += cnncl_has_way(d, t, way);
    if (ways < 2 || d->n_tuned == CNNCL_TUNED || cnncl_measured(d, key) != CNNCL_BY_RULE) return;
    const bool   wino = cnncl_has_way(d, t, CNNCL_WINOGRAD);
    const size_t scratch = wino ? cnncl_wino_scratch(d, &t->task) : sizeof(float);
    void *arrays = cnncl_alloc(&d->base, all * sizeof(float));
    void *more = arrays ? cnncl_alloc(&d->base, scratch) : NULL;
    t->x.buffer = t->w.buffer = t->y.buffer = arrays, t->task.scratch = (cnn_place){ more, 0 };
    t->w.at = n_x, t->y.at = n_x + n_w;
    t->p.a = t->x, t->p.b = t->w, t->p.c = t->y;
    const int way = more && cnncl_fill(d, t->x, all, 0.25f) ? cnncl_fastest(d, t) : CNNCL_BY_RULE;
    if (arrays) cnncl_release(&d->base, arrays);
    if (more)   cnncl_release(&d->base, more);
    d->base.error[0] = 0;
    if (way == CNNCL_BY_RULE) return;
    d->tuned[d->n_tuned][0] = key, d->tuned[d->n_tuned++][1] = (uint64_t)way;
    d->measured++;
    cnncl_write(d, ".tune", d->tuned, (size_t)d->n_tuned * sizeof *d->tuned);
}

/* The passes of y that the net needs. */
static void cnncl_tune_layer(cnncl *d, const cnn_tensor *y)
{
    const cnn_tensor *x = y->in[0], *w = y->in[1];
    const bool transposed = cnncl_is_transposed(y), conv = transposed || y->op == &cnn_op_conv2d;
    for (int pass = CNNCL_TO_Y; pass <= CNNCL_TO_W; pass++) {
        cnncl_trial t = { .task.pass = CNNCL_OF_PRODUCT };
        if ((pass == CNNCL_TO_X && !x->needs_grad) || (pass == CNNCL_TO_W && !w->needs_grad)) continue;
        if (conv) {
            const int way = transposed && pass != CNNCL_TO_W ? CNNCL_TO_X - pass : pass;
            t.task = cnncl_task_of(d, y, way);
            if (cnncl_is_depthwise(&t.task)) continue;
            const cnn_tensor *from = transposed ? y : x, *to = transposed ? x : y;
            cnncl_tune(d, &t, cnn_count(from), cnn_count(w), cnn_count(to));
        } else {
            t.p = cnncl_sizes_of(y, pass);
            const size_t m = (size_t)t.p.m, n = (size_t)t.p.n, k = (size_t)t.p.k;
            if (!cnncl_is_clblasts(d, &t.p)) cnncl_tune(d, &t, m * k, k * n, m * n);
        }
    }
}

/* What was measured in another run; ways that are none are dropped. */
static void cnncl_read_tuned(cnncl *d)
{
    size_t         bytes;
    unsigned char *file = cnncl_read(d, ".tune", &bytes);
    for (size_t at = 0; file && at + sizeof *d->tuned <= bytes &&
         d->n_tuned < CNNCL_TUNED; at += sizeof *d->tuned) {
        uint64_t *entry = d->tuned[d->n_tuned];
        memcpy(entry, file + at, sizeof *d->tuned);
        const bool is_tile = entry[1] < CNNCL_TILES && d->has_local == (entry[1] != CNNCL_NO_LOCAL);
        d->n_tuned += is_tile || entry[1] == CNNCL_WINOGRAD;
    }
    CNN_FREE(file);
}

/* ---- The table: every operation of cnn.h ---- */

static size_t cnncl_scratch(const cnn_backend *dev, const cnn_tensor *y)
{
    cnncl *d = (cnncl *)(uintptr_t)dev;
    const bool conv = y->op == &cnn_op_conv2d || cnncl_is_transposed(y);
    if (d->tune && (conv || y->op == &cnn_op_dense || y->op == &cnn_op_matmul)) cnncl_tune_layer(d, y);
    if (conv) return cnncl_conv_scratch(d, y);
    if (y->op == &cnn_op_prelu) return (size_t)cnncl_len(y->shape) * sizeof(float);
    if (cnncl_is_most(y) || y->op->formula)     return y->op->scratch ? y->op->scratch(y) : 0;
    if (y->op == &cnn_op_batch_norm || y->op == &cnn_op_layer_norm || y->op == &cnn_op_rms_norm ||
        y->op == &cnn_op_group_norm || y->op == &cnn_op_instance_norm) {
        const cnncl_norm v = cnncl_norm_of(d, y, CNN_TRAIN);
        return 2 * (size_t)v.channels * (size_t)v.slices * sizeof(float);
    }
    if (y->op == &cnn_op_softmax_cross_entropy || y->op == &cnn_op_nll)
        return ((size_t)(y->in[0]->shape.n * cnncl_plane(y->in[0]->shape)) + CNNCL_ROWS) * sizeof(float);
    if (y->op == &cnn_op_dice)
        return 3 * (size_t)(y->in[0]->shape.n * y->in[0]->shape.c) * sizeof(float);
    return 0;
}

#define CNNCL_ROW(name, functions)                                                                           \
    { &cnn_op_##name, NULL, cnncl_##functions##_forward, cnncl_##functions##_backward },
#define CNNCL_MOST_ROW(name) { &cnn_op_##name, NULL, cnncl_reduce_forward, cnncl_most_backward },
#define CNNCL_MAP(X, name, value, derivative) CNNCL_ROW(name, map)
static const cnn_kernel cnncl_rows[] = {
    CNNCL_ROW(conv2d, conv) CNNCL_ROW(conv_transpose2d, conv)
    CNNCL_ROW(dense, product) CNNCL_ROW(matmul, product)
    CNNCL_ROW(max_pool, pool) CNNCL_ROW(global_max_pool, pool) CNNCL_ROW(avg_pool, pool)
    CNNCL_ROW(adaptive_avg_pool, pool) CNNCL_ROW(global_avg_pool, reduce) CNNCL_ROW(sum, reduce)
    CNNCL_ROW(mean, reduce) CNNCL_MOST_ROW(amax) CNNCL_MOST_ROW(amin)
    CNNCL_ROW(add, binary) CNNCL_ROW(sub, binary) CNNCL_ROW(mul, binary) CNNCL_ROW(div, binary)
    CNNCL_ROW(maximum, binary) CNNCL_ROW(minimum, binary) CNNCL_ROW(pow, binary)
    CNNCL_ROW(reshape, reshape) CNNCL_ROW(concat, move) CNNCL_ROW(slice, move) CNNCL_ROW(permute, move)
    CNNCL_ROW(depth_to_space, move) CNNCL_ROW(space_to_depth, move) CNNCL_ROW(channel_shuffle, move)
    CNNCL_ROW(pad, pad) CNNCL_ROW(upsample, upsample) CNNCL_ROW(lrn, lrn) CNNCL_ACTIVATIONS(CNNCL_MAP, )
    CNNCL_ROW(softmax, softmax) CNNCL_ROW(log_softmax, softmax) CNNCL_ROW(dropout, dropout)
    CNNCL_ROW(prelu, binary) CNNCL_ROW(batch_norm, norm) CNNCL_ROW(layer_norm, norm)
    CNNCL_ROW(group_norm, norm) CNNCL_ROW(instance_norm, norm) CNNCL_ROW(rms_norm, norm)
    CNNCL_ROW(softmax_cross_entropy, label_loss) CNNCL_ROW(nll, label_loss) CNNCL_ROW(dice, dice)
    CNNCL_ROW(mse, pair_loss) CNNCL_ROW(l1, pair_loss) CNNCL_ROW(huber, pair_loss)
    CNNCL_ROW(bce_with_logits, pair_loss) CNNCL_ROW(sigmoid_focal, pair_loss) };

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
    cnncl_read_events(d);
    cnncl_forget_launches(d);
    if (d->slices)  d->cl.clReleaseMemObject(d->slices);
    if (d->program) d->cl.clReleaseProgram(d->program);
    if (d->queue)   d->cl.clReleaseCommandQueue(d->queue);
    if (d->context) d->cl.clReleaseContext(d->context);
    CNN_FREE(d);
}

/* Build d->program; if it does not build, the compiler's log is the message. */
static cl_int cnncl_build_program(cnncl *d)
{
    size_t bytes = 0;
    cl_int e = d->cl.clBuildProgram(d->program, 1, &d->device, cnncl_options(d), NULL, NULL);
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
    enum { NEEDED = 30 };                     /* up to the source with fold */
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

/* The program from the cache. */
static void cnncl_read_program(cnncl *d)
{
    size_t         bytes;
    cl_int         e, status;
    unsigned char *file = cnncl_read(d, ".bin", &bytes);
    const unsigned char *binary = file;
    if (file)
        d->program = d->cl.clCreateProgramWithBinary(d->context, 1, &d->device, &bytes, &binary, &status, &e);
    CNN_FREE(file);
    if (!d->program) return;
    if (d->cl.clBuildProgram(d->program, 1, &d->device, cnncl_options(d), NULL, NULL) == CL_SUCCESS) return;
    d->cl.clReleaseProgram(d->program);
    d->program = NULL;
}
static void cnncl_write_program(cnncl *d)
{
    size_t bytes = 0;
    if (!d->cache[0]) return;                 /* a driver may compile each kernel once more to answer */
    d->cl.clGetProgramInfo(d->program, CL_PROGRAM_BINARY_SIZES, sizeof bytes, &bytes, NULL);
    unsigned char *binary = bytes ? CNN_MALLOC(bytes) : NULL;
    if (binary && d->cl.clGetProgramInfo(d->program, CL_PROGRAM_BINARIES, sizeof binary, &binary,
                                         NULL) == CL_SUCCESS)
        cnncl_write(d, ".bin", binary, bytes);
    CNN_FREE(binary);
}

static bool cnncl_build(cnncl *d)
{
    cnncl_read_program(d);
    d->cached = d->program != NULL;
    if (d->cached) return true;
    if (!cnncl_build_most(d)) return false;
    if (!d->lacks) cnncl_write_program(d);
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
        cnncl_gemm(d, (cnncl_product){
            .c = { buffer, at + an + bn }, .ldc = n, .a = { buffer, at }, .a_row = ta ? 1 : k,
            .a_col = ta ? m : 1, .b = { buffer, at + an }, .b_row = tb ? 1 : n, .b_col = tb ? k : 1, .m = m,
            .n = n, .k = k, .beta = beta }) &&
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
    const int keep = d->tile, tiles = d->clblast ? 1 : CNNCL_TILES;
    bool right = true;
    for (int i = 0; i < 6 * tiles; i++)
        for (int way = 0; way < 4 && right; way++) {
            if (!d->clblast) d->tile = i / 6;
            if (d->has_local == (i / 6 == CNNCL_NO_LOCAL) && !d->clblast) continue;
            right = cnncl_try_gemm(d, sizes[i % 6].m, sizes[i % 6].n, sizes[i % 6].k, way & 1, way >> 1,
                                   (float)(way != 2), 1);
        }
    d->tile = keep;
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
        d->clblast = true, d->clblast_tiles = 1, d->base.error[0] = 0;
        *says = !direct ? "CLBlast" : intel ? "CLBlast (direct)"
              : "CLBlast (direct: its indirect way gave wrong products)";
        const bool right = cnncl_check_gemm(d);
        d->clblast_tiles = 2 * d->units;
        if (!right) continue;
        if (!d->clblast) *says = "our own GEMM (CLBlast fails here)";
        return true;
    }
    d->clblast = false, d->base.error[0] = 0;
    *says = "our own GEMM (CLBlast gave wrong products)";
    return true;
}

/* ---- The check of the rows: a net around one operation, its row alone on the device, and the CPU ---- */

static const float cnncl_class_weights[] = { 1, 0.5f, 2, 0.25f, 0, 3 };
#define CNNCL_NET(name, net) if (op == &cnn_op_##name) return net;

static cnn_tensor *cnncl_check_loss(const cnn_op *op, cnn_tensor *x, cnn_tensor *t, cnn_tensor *row, int way)
{
    const int               each = way ? CNN_NONE : CNN_MEAN;
    const cnn_distance_args a = { .reduction = each };
    cnn_tensor *v = way ? cnn_const(x->graph, (cnn_shape){ 1, 6, 1, 1 }, cnncl_class_weights) : NULL;
    cnn_tensor *in[2] = { x, cnn_sub(x, row) }, *p = cnn_sigmoid(x), *q = cnn_sigmoid(in[1]);
    if (op == &cnn_op_softmax_cross_entropy && way) {
        cnn_tensor *soft = cnn_softmax_cross_entropy(x, p, 0.1f, v, .reduction = CNN_SUM);
        return cnn_add(cnn_softmax_cross_entropy(x, t, 0.1f, v, .ignore_index = 2, .reduction = each),
                       cnn_scale(soft, 0.01f));
    }
    CNNCL_NET(softmax_cross_entropy, cnn_softmax_cross_entropy(x, t))
    CNNCL_NET(nll, cnn_nll(x, t, .class_weights = v, .ignore_index = way, .reduction = each))
    CNNCL_NET(dice, cnn_dice(p, way ? t : q, .ignore_index = 2 * way - 1, .reduction = each))
    CNNCL_NET(huber, cnn_huber(x, cnn_scale(x, 2, 1), 0.5f, .smooth_l1 = way, .reduction = each))
    CNNCL_NET(sigmoid_focal, cnn_sigmoid_focal(x, q, way ? -1 : 0.25f, way ? 1.5f : 2, .reduction = each))
    CNNCL_NET(bce_with_logits, cnn_bce_with_logits(x, in[1], .pos_weight = v, .weight = v, .reduction = each))
    return cnn_apply(op, in, 2, &a, CNN_HERE);
}

static cnn_tensor *cnncl_check_net(const cnn_op *op, cnn_graph *g, cnn_tensor *x, cnn_tensor *t, int way)
{
    cnn_tensor *row = cnn_param(g, "row", { 1, 6, 1, 1 }, CNN_INIT_UNIFORM), *u = way ? x : row, *more = NULL;
    const unsigned axis = way ? CNN_H : CNN_C;
    if (op->flags & CNN_LOSS) return cnncl_check_loss(op, x, t, row, way);
    if (op == &cnn_op_matmul) more = cnn_param(g, "b", { 180, 3, 1, 1 }, CNN_INIT_HE);
    if (op == &cnn_op_conv2d) more = cnn_conv2d(x, 6, 3, .pad_w = 1);
    if (op == &cnn_op_pad)    more = cnn_pad(x, 1, 2, 0, 1, .value = 0.5f);
    if (op == &cnn_op_maximum || op == &cnn_op_minimum) more = cnn_scale(u, 2);
    if (op == &cnn_op_log || op == &cnn_op_sqrt || op == &cnn_op_pow || op == &cnn_op_power)
        x = cnn_scale(x, 0.25f, 1);
    CNNCL_NET(conv2d, cnn_conv2d(more, 4, 3, .stride_w = 2, .pad = 1, .groups = 1 + way))
    CNNCL_NET(conv_transpose2d, cnn_conv_transpose2d(x, 4, 3, .stride = 2, .pad = 1, .groups = 1 + way))
    CNNCL_NET(dense, cnn_dense(x, 5))
    CNNCL_NET(matmul, cnn_matmul(cnn_flatten(x), more))
    CNNCL_NET(max_pool, cnn_max_pool(x, 3, .stride = 2, .pad = way, .dilation = 1 + way))
    CNNCL_NET(avg_pool, cnn_avg_pool(x, 3, .stride = 2, .pad = 2, .dilation_w = 1 + way, .no_count_pad = way))
    CNNCL_NET(adaptive_avg_pool, cnn_adaptive_avg_pool(x, 4, 7))
    CNNCL_NET(sum, cnn_sum(x, CNN_N | CNN_W))
    CNNCL_NET(mean, cnn_mean(x, way ? 0 : CNN_C))
    CNNCL_NET(amax, cnn_amax(x, way ? 0 : CNN_N | CNN_W))
    CNNCL_NET(amin, cnn_amin(x, axis))
    CNNCL_NET(add, cnn_add(x, u))
    CNNCL_NET(sub, cnn_sub(u, x))
    CNNCL_NET(mul, cnn_mul(u, x))
    CNNCL_NET(div, cnn_div(x, cnn_scale(row, 1, 3)))
    CNNCL_NET(pow, cnn_pow(x, way ? x : row))
    CNNCL_NET(power, cnn_power(x, way ? 3 : -2))
    CNNCL_NET(scale, cnn_scale(x, -2, 0.5f))
    CNNCL_NET(concat, way ? cnn_concat_along(CNN_W, x, x) : cnn_concat(x, x, x))
    CNNCL_NET(slice, cnn_slice(x, axis, 1, 5, .step = 2))
    CNNCL_NET(pad, cnn_pad(more, 2, 3, 4, .mode = 1 + way))
    CNNCL_NET(permute, cnn_permute(x, CNN_W, CNN_C, CNN_H))
    CNNCL_NET(reshape, cnn_flatten(x))
    CNNCL_NET(depth_to_space, cnn_depth_to_space(cnn_slice(x, CNN_C, 1, 5), 2))
    CNNCL_NET(space_to_depth, cnn_space_to_depth(cnn_reshape(x, 5, 6, 6), 2 + way))
    CNNCL_NET(channel_shuffle, cnn_channel_shuffle(x, 2 + way))
    if (op == &cnn_op_upsample)
        return way ? cnn_upsample(x, .height = 11, .width = 3, .bilinear = 1, .align_corners = 1)
                   : cnn_upsample(cnn_upsample(x, 2), .height = 7, .width = 13, .bilinear = 1);
    CNNCL_NET(softmax, cnn_softmax(x, .axis = axis))
    CNNCL_NET(log_softmax, cnn_log_softmax(x, .axis = way ? CNN_W : CNN_C))
    CNNCL_NET(leaky_relu, cnn_leaky_relu(x, 0.2f))
    CNNCL_NET(clamp, cnn_clamp(x, -1, 0.5f))
    CNNCL_NET(prelu, cnn_prelu(x, .per_channel = way))
    CNNCL_NET(gelu, cnn_gelu(x, .tanh = way))
    CNNCL_NET(dropout, cnn_dropout(x, 0.3f))
    CNNCL_NET(lrn, cnn_lrn(x, 3, .alpha = 0.5f))
    CNNCL_NET(batch_norm, cnn_batch_norm(x, .no_affine = way))
    CNNCL_NET(layer_norm, way ? cnn_layer_norm(x, .axes = CNN_W) : cnn_layer_norm(x))
    CNNCL_NET(rms_norm, cnn_rms_norm(x, .axes = CNN_H | CNN_W, .no_affine = way))
    CNNCL_NET(group_norm, cnn_group_norm(x, 2 + way))
    CNNCL_NET(instance_norm, cnn_instance_norm(x, .affine = way))
    cnn_tensor *in[2] = { x, more };
    return cnn_apply(op, in, more ? 2 : 1, NULL, CNN_HERE);           /* no options */
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
        cnn_tensor *J = y->op && (y->op->flags & CNN_LOSS) && !y->batched ? y : cnn_mean(cnn_mul(y, y));
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

/* In both ways; what multiplies with each tile that this device has, and by Winograd, which it may fail. */
static bool cnncl_try_ways(cnncl *d, const cnn_op *op)
{
    const bool multiplies = op == &cnn_op_conv2d || op == &cnn_op_conv_transpose2d || op == &cnn_op_dense;
    const int  wino = d->winograd;
    bool       right = cnncl_try_row(d, op, 0, NULL) && cnncl_try_row(d, op, 1, NULL);
    d->winograd = -1;
    for (d->tile = 0; d->tile < CNNCL_NO_LOCAL && multiplies && d->has_local && right; d->tile++)
        right = cnncl_try_row(d, op, 0, NULL) && cnncl_try_row(d, op, 1, NULL);
    d->tile = -1, d->winograd = 1;
    const bool fine = op != &cnn_op_conv2d || !right || wino < 0 || cnncl_try_row(d, op, 0, NULL);
    d->winograd = fine ? wino : -1;
    if (!fine && !d->base.error[0]) cnncl_report(d, "; %s is wrong here", "Winograd");
    return right;
}

/* Keep the rows that compute what their rooms compute; the report names the others. */
static bool cnncl_check_rows(cnncl *d)
{
    void     (*close)(cnn_backend *) = d->base.close;
    int        rows = d->base.n_kernels, kept = 0;
    cnn_kernel one;
    d->base.close = NULL, d->base.kernels = &one, d->base.n_kernels = 1;
    for (int i = 0; i < rows && !d->base.error[0]; i++) {
        one = d->row[i];
        if (cnncl_try_ways(d, one.op)) d->row[kept++] = one;
        else if (!d->base.error[0]) cnncl_report(d, "; wrong here and left to the CPU: %s", one.op->name);
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
    cnncl_report(d, "; wrong here and left to the CPU: %s", "updates");
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
    d->base.max_bytes = largest > SIZE_MAX ? SIZE_MAX : (size_t)largest;
    cl_ulong            cache = 0;
    cl_device_local_mem_type local = CL_LOCAL;
    d->cl.clGetDeviceInfo(d->device, CL_DEVICE_GLOBAL_MEM_CACHE_SIZE, sizeof cache, &cache, NULL);
    d->cl.clGetDeviceInfo(d->device, CL_DEVICE_LOCAL_MEM_TYPE, sizeof local, &local, NULL);
    d->units = chosen->about.units > 0 ? chosen->about.units : 1, d->clblast_tiles = 2 * d->units;
    d->has_local = local == CL_LOCAL, d->tile = -1, d->tight = a->workspace > 0;
    d->workspace = a->workspace ? a->workspace : (size_t)cache / 4 * 3;
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
    if (a->cache && strlen(a->cache) < sizeof d->cache - 100)
        cnncl_say(d->cache, sizeof d->cache, "%s/cnn_opencl", a->cache);
    if (!cnncl_build(d)) return false;
    d->slices = (cl_mem)cnncl_alloc(&d->base, (CNNCL_SLICES + 2 * CNNCL_SUMS) * sizeof(float));
    if (!d->slices || !cnncl_choose_gemm(d, a, &chosen->about, &says)) return false;
    cnncl_say(d->report, sizeof d->report, "%s (%s, %s), %s%s", d->name, chosen->about.version,
              chosen->about.platform, says, d->cached ? ", cached kernels" : "");
    for (size_t i = 0; i < sizeof cnncl_rows / sizeof *cnncl_rows; i++)
        if (!cnncl_listed(a->without, cnncl_rows[i].op->name))
            d->row[d->base.n_kernels++] = cnncl_rows[i];
    const bool right = (a->no_check && !d->lacks) || (cnncl_check_rows(d) && cnncl_check_training(d));
    d->tune = a->tune;
    if (d->tune) cnncl_read_tuned(d);
    return right;
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
        .download = cnncl_download, .clear = cnncl_clear, .scratch = cnncl_scratch, .sets_grads = true,
        .update = cnncl_update, .scale = cnncl_scale, .mix = cnncl_mix, .squares = cnncl_squares,
        .correct = cnncl_correct, .seconds = cnncl_seconds, .close = cnncl_close, .kernels = d->row };
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
    if (dev && dev->close && !dev->graph) dev->close(dev);
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
