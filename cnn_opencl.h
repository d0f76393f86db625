/* cnn_opencl.h - the OpenCL companion of cnn.h: the whole training step on a GPU.

   >>usage ---- Usage ----------------------------------------------------------------------------------------

       #define CNN_IMPLEMENTATION                       in ONE .c file of the program, both together
       #define CNN_OPENCL_IMPLEMENTATION
       #include "cnn.h"
       #include "cnn_opencl.h"

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
   that .type and .name let through, GPUs before accelerators before CPUs; a CPU is taken only when it is
   asked for. If none of the three is given, the environment variable CNN_OPENCL_DEVICE chooses: gpu,
   accelerator, cpu, all, a number (a place in the list of cnn_opencl_devices), or a part of a device's name.

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
   on CPU devices, and wherever a check at opening time finds a wrong number. Every other kernel is held to
   the CPU's result, too: an operation whose kernel is wrong on this driver is left to the CPU.
   cnn_opencl_report says so.

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
       Mali, Adreno     libOpenCL.so of the vendor's driver (Android: /vendor/lib64), in the loader's path
       Apple            nothing: the framework is part of macOS; CNN_OPENCL_LINK links it directly
       no GPU: a CPU    pocl-opencl-icd, and CNN_OPENCL_DEVICE=cpu
       CLBlast          libclblast-dev or libclblast1; optional
   Tested on PoCL 3.1 with CLBlast 1.5.3 (Debian 12, x86-64) only. The other rows follow the vendors'
   documentation and were not run.

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
    const char *at;
    int         device;               /* default the first, 0, of those that type and name let through */
    unsigned    type;                 /* default CNN_OPENCL_GPU | CNN_OPENCL_ACCELERATOR */
    const char *name;                 /* part of the device's or the platform's name; default any */
    /* default: CLBlast on GPUs and accelerators, where it passes the check */
    cnn_opencl_gemm gemm;
    size_t      workspace;            /* bytes that unfolded images may take; default 256 MiB */
    int         no_map;               /* 1: copy also where host and device share their memory */
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

#ifndef __cplusplus
#define cnn_opencl(...) cnn_opencl_((cnn_opencl_args){ .at = CNN_HERE, __VA_ARGS__ })
#endif

#ifdef __cplusplus
}
#endif
#endif /* CNN_OPENCL_H_INCLUDED */

/* To USE the companion stop here. To know how it works read on. */
#ifdef CNN_OPENCL_IMPLEMENTATION
#ifndef CNN_OPENCL_IMPLEMENTATION_ONCE
#define CNN_OPENCL_IMPLEMENTATION_ONCE
#ifndef CNN_IMPLEMENTATION_ONCE
#error "cnn_opencl.h: define CNN_IMPLEMENTATION and CNN_OPENCL_IMPLEMENTATION in one .c file, cnn.h first"
#endif

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
#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

/* Every function of OpenCL that is used here: result, name, parameters. */
#define CNN__CL_FUNCTIONS(X)                                                                                 \
    X(cl_int, clGetPlatformIDs, (cl_uint, cl_platform_id *, cl_uint *))                                      \
    X(cl_int, clGetPlatformInfo, (cl_platform_id, cl_platform_info, size_t, void *, size_t *))               \
    X(cl_int, clGetDeviceIDs, (cl_platform_id, cl_device_type, cl_uint, cl_device_id *, cl_uint *))          \
    X(cl_int, clGetDeviceInfo, (cl_device_id, cl_device_info, size_t, void *, size_t *))                     \
    X(cl_context, clCreateContext, (const cl_context_properties *, cl_uint, const cl_device_id *,            \
                                    void (CL_CALLBACK *)(const char *, const void *, size_t, void *),        \
                                        void *, cl_int *))                                                   \
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
                                     cl_uint,                                                                \
                                     const cl_event *, cl_event *))                                          \
    X(cl_int, clEnqueueFillBuffer, (cl_command_queue, cl_mem, const void *, size_t, size_t, size_t, cl_uint, \
                                    const cl_event *, cl_event *))                                           \
    X(void *, clEnqueueMapBuffer, (cl_command_queue, cl_mem, cl_bool, cl_map_flags, size_t, size_t, cl_uint, \
                                   const cl_event *, cl_event *, cl_int *))                                  \
    X(cl_int, clEnqueueUnmapMemObject, (cl_command_queue, cl_mem, void *, cl_uint, const cl_event *,         \
                                        cl_event *))                                                         \
    X(cl_int, clWaitForEvents, (cl_uint, const cl_event *))                                                  \
    X(cl_int, clReleaseEvent, (cl_event))                                                                    \
    X(cl_int, clFlush, (cl_command_queue))                                                                   \
    X(cl_int, clFinish, (cl_command_queue))

/* And of CLBlast (Nugteren 2018), as in clblast_c.h, whose enumerations are passed as int. */
#define CNN__BLAS_FUNCTIONS(X)                                                                               \
    X(int, CLBlastSgemm, (int layout, int ta, int tb, size_t m, size_t n, size_t k, float alpha,             \
                          cl_mem a, size_t a_at, size_t lda, cl_mem b, size_t b_at, size_t ldb, float beta,  \
                          cl_mem c, size_t c_at, size_t ldc, cl_command_queue *, cl_event *))                \
    X(int, CLBlastOverrideParameters, (cl_device_id, const char *, int precision, size_t, const char **,     \
                                       const size_t *))                                                      \
    X(int, CLBlastClearCache, (void))

#define CNN__CL_FIELD(result, name, parameters) result (CL_API_CALL *name) parameters;
#define CNN__BLAS_FIELD(result, name, parameters) result (*name) parameters;
typedef struct { CNN__CL_FUNCTIONS(CNN__CL_FIELD) } cnn__cl_api;
typedef struct { CNN__BLAS_FUNCTIONS(CNN__BLAS_FIELD) } cnn__blas_api;

/* A library stays loaded once it was found: drivers keep threads and exit handlers of their own. */
static CNN__UNUSED void *cnn__open_library(const char *const *names)
{
    void *library = NULL;
    for (; !library && *names; names++)
#ifdef _WIN32
        library = (void *)LoadLibraryA(*names);
#else
        library = dlopen(*names, RTLD_NOW | RTLD_LOCAL);
#endif
    return library;
}

/* A function's address into a function pointer, which C keeps apart from object pointers. */
static CNN__UNUSED bool cnn__find_function(void *library, const char *name, void *function, size_t size)
{
#ifdef _WIN32
    FARPROC found = GetProcAddress((HMODULE)library, name);
#else
    void *found = dlsym(library, name);
#endif
    if (found && size == sizeof found) memcpy(function, &found, size);
    return found != NULL;
}

#define CNN__LINK(result, name, parameters) api->name = name;
#define CNN__FIND(result, name, parameters)                                                                  \
    if (!lacks && !cnn__find_function(library, #name, &api->name, sizeof api->name)) lacks = #name;

/* NULL, or what is missing. */
static const char *cnn__load_opencl(cnn__cl_api *api)
{
#ifdef CNN_OPENCL_LINK
    CNN__CL_FUNCTIONS(CNN__LINK)
    return NULL;
#else
    static const char *const names[] = {
#if defined(_WIN32)
        "OpenCL.dll",
#elif defined(__APPLE__)
        "/System/Library/Frameworks/OpenCL.framework/OpenCL",
#else
        "libOpenCL.so.1", "libOpenCL.so",
#endif
        NULL };
    void *library = cnn__open_library(names);
    const char *lacks = NULL;
    if (!library) return "libOpenCL was not found";
    CNN__CL_FUNCTIONS(CNN__FIND)
    return lacks;
#endif
}

#ifdef CNN_OPENCL_LINK_CLBLAST
#define CNN__BLAS_DECLARE(result, name, parameters) result name parameters;
CNN__BLAS_FUNCTIONS(CNN__BLAS_DECLARE)
#endif

static bool cnn__load_clblast(cnn__blas_api *api)
{
#ifdef CNN_OPENCL_LINK_CLBLAST
    CNN__BLAS_FUNCTIONS(CNN__LINK)
    return true;
#else
    static const char *const names[] = {
#if defined(_WIN32)
        "clblast.dll",
#elif defined(__APPLE__)
        "libclblast.1.dylib", "libclblast.dylib", "/opt/homebrew/lib/libclblast.dylib",
            "/usr/local/lib/libclblast.dylib",
#else
        "libclblast.so.1", "libclblast.so",
#endif
        NULL };
    void *library = cnn__open_library(names);
    const char *lacks = library ? NULL : "libclblast";
    CNN__BLAS_FUNCTIONS(CNN__FIND)
    return !lacks;
#endif
}

/* ===========================================================================================================
   >>cl-devices ---- 2. Devices: listed, then chosen
   ======================================================================================================== */

typedef struct { cl_platform_id platform; cl_device_id id; cnn_opencl_device about; } cnn__cl_device;
enum { CNN__CL_MAX_DEVICES = 64, CNN__CL_MAX_PLATFORMS = 16 };

/* All devices, GPUs first, then accelerators, then CPUs; otherwise in the order of the platforms. A platform
   without a device of a type answers with an error and leaves the count alone, so the count starts at
   zero. */
static int cnn__cl_list(const cnn__cl_api *cl, cnn__cl_device *list)
{
    static const struct { cl_device_type cl; unsigned type; } types[] = {
        { CL_DEVICE_TYPE_GPU, CNN_OPENCL_GPU }, { CL_DEVICE_TYPE_ACCELERATOR, CNN_OPENCL_ACCELERATOR },
        { CL_DEVICE_TYPE_CPU, CNN_OPENCL_CPU } };
    cl_platform_id platform[CNN__CL_MAX_PLATFORMS];
    cl_uint        platforms = 0;
    int            count = 0;
    if (cl->clGetPlatformIDs(CNN__CL_MAX_PLATFORMS, platform, &platforms) != CL_SUCCESS) return 0;
    if (platforms > CNN__CL_MAX_PLATFORMS) platforms = CNN__CL_MAX_PLATFORMS;
    for (int t = 0; t < 3; t++)
        for (cl_uint p = 0; p < platforms; p++) {
            cl_device_id id[CNN__CL_MAX_DEVICES];
            cl_uint      ids = 0;
            if (cl->clGetDeviceIDs(platform[p], types[t].cl, CNN__CL_MAX_DEVICES, id, &ids) != CL_SUCCESS)
                continue;
            for (cl_uint i = 0; i < ids && i < CNN__CL_MAX_DEVICES && count < CNN__CL_MAX_DEVICES; i++) {
                cnn__cl_device *d = &list[count];
                cl_uint  units = 0;
                cl_ulong memory = 0;
                bool     seen = false;
                for (int k = 0; k < count; k++) seen = seen || list[k].id == id[i];
                if (seen) continue;
                memset(d, 0, sizeof *d);
                d->platform = platform[p], d->id = id[i], d->about.type = types[t].type;
                cl->clGetDeviceInfo(id[i], CL_DEVICE_NAME, sizeof d->about.name - 1, d->about.name, NULL);
                cl->clGetDeviceInfo(id[i], CL_DEVICE_VERSION, sizeof d->about.version - 1, d->about.version,
                                    NULL);
                cl->clGetPlatformInfo(platform[p], CL_PLATFORM_NAME, sizeof d->about.platform - 1,
                                      d->about.platform, NULL);
                cl->clGetDeviceInfo(id[i], CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units, &units, NULL);
                cl->clGetDeviceInfo(id[i], CL_DEVICE_GLOBAL_MEM_SIZE, sizeof memory, &memory, NULL);
                d->about.units = (int)units, d->about.memory = memory;
                count++;
            }
        }
    return count;
}

CNN_API int cnn_opencl_devices(cnn_opencl_device *list, int capacity)
{
    cnn__cl_api     cl;
    cnn__cl_device *all = CNN_MALLOC(CNN__CL_MAX_DEVICES * sizeof *all);
    int             count = all && !cnn__load_opencl(&cl) ? cnn__cl_list(&cl, all) : 0;
    for (int i = 0; list && i < count && i < capacity; i++) list[i] = all[i].about;
    CNN_FREE(all);
    return count;
}

/* Is `part` in `text`, whatever the case of letters? */
static bool cnn__cl_contains(const char *text, const char *part)
{
    for (; *text; text++) {
        size_t k = 0;
        while (part[k] && text[k] && ((unsigned char)text[k] | 32) == ((unsigned char)part[k] | 32)) k++;
        if (!part[k]) return true;
    }
    return !*part;
}

/* The wish in the environment counts where the program has none. */
static void cnn__cl_wish(cnn_opencl_args *a)
{
    static const struct { const char *word; unsigned type; } words[] = { { "gpu", CNN_OPENCL_GPU },
        { "accelerator", CNN_OPENCL_ACCELERATOR }, { "cpu", CNN_OPENCL_CPU }, { "all", CNN_OPENCL_ALL } };
    const char *wish = a->type || a->name || a->device ? NULL : getenv("CNN_OPENCL_DEVICE");
    if (wish && *wish) {
        char *end;
        long  number = strtol(wish, &end, 10);
        a->type = CNN_OPENCL_ALL;
        if (!*end && number >= 0 && number < CNN__CL_MAX_DEVICES) a->device = (int)number;
        else a->name = wish;
        for (int i = 0; i < 4; i++)
            if (strcmp(wish, words[i].word) == 0) a->type = words[i].type, a->name = NULL;
    }
    if (!a->type) a->type = a->name ? CNN_OPENCL_ALL : CNN_OPENCL_GPU | CNN_OPENCL_ACCELERATOR;
}

static const cnn__cl_device *cnn__cl_choose(const cnn__cl_device *list, int count, const cnn_opencl_args *a)
{
    int left = a->device;
    for (int i = 0; i < count; i++) {
        const cnn_opencl_device *d = &list[i].about;
        if (!(d->type & a->type)) continue;
        if (a->name && !cnn__cl_contains(d->name, a->name) && !cnn__cl_contains(d->platform, a->name))
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

#define CNN__CL_SOURCE(...) #__VA_ARGS__ "\n"

/* The functions of one number, y = f(x) with constants k0 and k1, and f'(x) in terms of what backward reads:
   y, or x where the room says so. In both formulas that is v. A(X, ...) gives each to A. */
#define CNN__CL_ACTIVATIONS(A, X)                                                                            \
    A(X, relu,       v <= 0.0f ? 0.0f : v,              v <= 0.0f ? 0.0f : 1.0f)                             \
    A(X, leaky_relu, v > 0.0f ? v : k0 * v,             v > 0.0f ? 1.0f : k0)                                \
    A(X, sigmoid,    1.0f / (1.0f + exp(-v)),           v * (1.0f - v))                                      \
    A(X, tanh,       tanh(v),                           1.0f - v * v)                                        \
    A(X, clamp,      v < k0 ? fmin(k0, k1) : v > k1 ? k1 : v, v > k0 && v < k1 ? 1.0f : 0.0f)             \
    A(X, elu,        v > 0.0f ? v : k0 * expm1(v),      v > 0.0f ? 1.0f : v + k0)                            \
    A(X, gelu,       k0 != 0.0f ? v * gelu_share(v) : 0.5f * v * erfc(v * -0.707106781f),                    \
                     k0 != 0.0f ? gelu_slope(v)                                                              \
                     : 0.5f * erfc(v * -0.707106781f) + v * 0.398942280f * exp(-0.5f * v * v))               \
    A(X, silu,       v / (1.0f + exp(-v)),              (1.0f + v / (1.0f + exp(v))) / (1.0f + exp(-v)))     \
    A(X, softplus,   k0 * v > k1 ? v : (v < 0.0f ? 0.0f : v) + log1p(exp(-fabs(k0 * v))) / k0,               \
                     k0 * v > k1 ? 1.0f : 1.0f / (1.0f + exp(-k0 * v)))                                      \
    A(X, hard_swish, v * (clamp(v, -3.0f, 3.0f) + 3.0f) / 6.0f,                                              \
                     v <= -3.0f ? 0.0f : v >= 3.0f ? 1.0f : (2.0f * v + 3.0f) / 6.0f)                        \
    A(X, exp,        exp(v),                            v)                                                   \
    A(X, log,        log(v),                            1.0f / v)                                            \
    A(X, sqrt,       sqrt(v),                           0.5f / v)                                            \
    A(X, abs,        fabs(v),                           v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : 0.0f)

/* Each kernel and the shape of its work: one item per element, one group per element of the result (a sum
   that the group shares), or tiles of the result. */
#define CNN__CL_KERNELS(X)                                                                                   \
    X(gemm, TILES) X(gemm_flat, TILES) X(gemm_tall, TILES) X(spread, ITEMS) X(stretch, ITEMS)                \
    X(fold, ITEMS) X(fold_group, GROUPS) X(copy_rows, ITEMS) X(im2col, ITEMS) X(col2im, ITEMS)               \
    X(rows_to_images, ITEMS) X(images_to_rows, ITEMS) X(conv_forward, ITEMS) X(conv_backward_data, ITEMS)    \
    X(conv_backward_weights, GROUPS) X(max_pool_forward, ITEMS) X(max_pool_backward, ITEMS)                  \
    X(avg_pool_forward, ITEMS) X(avg_pool_backward, ITEMS) X(map_forward, ITEMS) X(map_backward, ITEMS)      \
    X(bias_map, ITEMS) X(softmax_forward, ITEMS) X(softmax_backward, ITEMS) X(dropout, ITEMS)                \
    X(batch_norm_statistics, GROUPS) X(batch_norm_forward, ITEMS) X(batch_norm_sums, GROUPS)                 \
    X(batch_norm_backward, ITEMS) X(label_loss_rows, ITEMS) X(label_loss_mean, GROUPS)                       \
    X(label_loss_share, GROUPS) X(label_loss_backward, ITEMS) X(pair_loss_forward, GROUPS)                   \
    X(pair_loss_backward, ITEMS) X(part, ITEMS) X(lrn_forward, ITEMS) X(lrn_backward, ITEMS)                 \
    X(upsample_forward, ITEMS) X(upsample_backward, ITEMS) X(prelu_forward, ITEMS)                           \
    X(prelu_backward, ITEMS) X(prelu_weight, GROUPS) X(sample_norm_statistics, GROUPS)                       \
    X(sample_norm_forward, ITEMS) X(sample_norm_backward, GROUPS) X(sample_norm_weight, GROUPS)              \
    X(sgd, ITEMS) X(adam, ITEMS) X(adamw, ITEMS) X(rmsprop, ITEMS) X(rmsprop_centered, ITEMS)                \
    X(adagrad, ITEMS) X(squares, GROUPS) X(correct, GROUPS)
#define CNN__CL_NUMBER(name, work) CNN__CL_##name,
enum { CNN__CL_KERNELS(CNN__CL_NUMBER) CNN__CL_COUNT };
#define CNN__CL_HOW(X, name, value, derivative) CNN__CL_IS_##name,
enum { CNN__CL_IS_NOTHING, CNN__CL_ACTIVATIONS(CNN__CL_HOW, ) CNN__CL_IS_ALL };

enum { CNN__CL_LOCAL = 64,            /* items in a group where they do not cooperate */
       CNN__CL_GROUP = 256,           /* items in a group that shares a sum */
       /* the items of a tile of a matrix product: 16 x 16, with 4 x 4 numbers each */
       CNN__CL_SIDE = 16 };

#define CNN__CL_NAME_IS(X, name, value, derivative) "IS_" #name ", "
#define CNN__CL_VALUE(X, name, value, derivative) "    if (how == IS_" #name ") return " #value ";\n"
#define CNN__CL_SLOPE(X, name, value, derivative) "    if (how == IS_" #name ") return " #derivative ";\n"

/* C (m,n) = A (m,k) B (k,n) + beta C, where A and B have any strides, so that all transposes are one code. An
   item has RM x RN numbers of C, so a tile is 16 RM x 16 RN: fewer where C is thin, which would leave most of
   a tile idle. Part z of the sum goes to slice z of C: with more than one slice, C is a stack of partial
   products. */
#define CNN__CL_GEMM(name, rm, rn)                                                                           \
    "#define GEMM " #name "\n#define RM " #rm "\n#define RN " #rn "\n"                                       \
    CNN__CL_GEMM_SOURCE "#undef GEMM\n#undef RM\n#undef RN\n"
#define CNN__CL_GEMM_SOURCE CNN__CL_SOURCE(                                                                  \
    __kernel __attribute__((reqd_work_group_size(16, 16, 1)))                                                \
    void GEMM(ARRAY(c), int ldc, ulong slice, float beta, ARRAY(a), int a_row, int a_col, ARRAY(b),          \
              int b_row, int b_col,                                                                          \
              int m, int n, int k, int k_slice)                                                              \
    {                                                                                                        \
        enum { K = 16, TM = 16 * RM, TN = 16 * RN };                                                         \
        __local float as[K][TM + 1]; __local float bs[K][TN + 1];                                            \
        const int x = (int)get_local_id(0); const int y = (int)get_local_id(1); const int me = y * 16 + x;   \
        const int i0 = (int)get_group_id(1) * TM; const int j0 = (int)get_group_id(0) * TN;                  \
        const int first = (int)get_group_id(2) * k_slice; const int last = min(k, first + k_slice);          \
        float sum[RM][RN];                                                                                   \
        BASE(a) BASE(b) BASE(c)                                                                              \
        c += slice * get_group_id(2);                                                                        \
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

static const char *const cnn__cl_source[] = {
    "#define ARRAY(a) __global float *a, ulong a##_at\n"
    "#define BASE(a) a += a##_at;\n"
    "#define ITEM(i, n) if (get_global_id(0) >= (size_t)(n)) return; const int i = (int)get_global_id(0);\n"
    "#define GROUP 256\n"
    "#define GROUP_KERNEL __kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))\n"
    CNN__CL_SOURCE(
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
    CNN__CL_SOURCE(
    float gelu_share(float v) { return 1.0f / (1.0f + exp(-1.59576912f * v * (1.0f + 0.044715f * v * v))); }
    float gelu_slope(float v)
    {
        const float s = gelu_share(v); const float z = s * (1.0f - s);
        return s + (z == 0.0f ? 0.0f : v * z * 1.59576912f * (1.0f + 0.134145f * v * v));
    })
    "enum { IS_nothing, " CNN__CL_ACTIVATIONS(CNN__CL_NAME_IS, ) "IS_all };\n"
    "float value(int how, float v, float k0, float k1)\n{\n"
    CNN__CL_ACTIVATIONS(CNN__CL_VALUE, )
    "    return v;\n}\n"
    "float slope(int how, float v, float k0, float k1)\n{\n"
    CNN__CL_ACTIVATIONS(CNN__CL_SLOPE, )
    "    return 1.0f;\n}\n",
    CNN__CL_SOURCE(
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

    CNN__CL_GEMM(gemm, 4, 4),
    CNN__CL_GEMM(gemm_flat, 1, 4),
    CNN__CL_GEMM(gemm_tall, 4, 1),

    /* spread:  y = beta y + factor x + offset, with x stretched to the shape of y
       stretch: y = a + b, a - b or a b (how = 0, 1, 2), with both stretched
       fold:    y = beta y + factor (sum of x u over what y does not tell apart), with u stretched to the
                shape of x; has_u = 0 for u = 1. Element q of the sum for y[j] is at folded(j, q). */
    CNN__CL_SOURCE(
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
        y[i] = how == 0 ? u + v : how == 1 ? u - v : u * v;
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
    GROUP_KERNEL
    void fold_group(ARRAY(y), shape ys, ARRAY(x), shape xs, ARRAY(u), shape us, int has_u, int n, int count,
                    float beta, float factor)
    {
        __local float part[GROUP];
        BASE(y) BASE(x) BASE(u)
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
    /* element i of the small array s and its place in the large array l, from + step * coordinates: the one
       is beta times itself + the other; out = 1 writes l */
    __kernel void part(ARRAY(s), shape ss, ARRAY(l), shape ls, shape from, shape step_, int n, int out,
                       float beta)
    {
        BASE(s) BASE(l) ITEM(i, n)
        const shape c = coordinates(ss, i);
        const int n_ = from.n + step_.n * c.n; const int c_ = from.c + step_.c * c.c;
        const int h_ = from.h + step_.h * c.h; const int w_ = from.w + step_.w * c.w;
        const size_t at = (((size_t)n_ * ls.c + c_) * ls.h + h_) * ls.w + w_;
        if (out) l[at] = beta == 0.0f ? s[i] : beta * l[at] + s[i];
        else     s[i] = beta == 0.0f ? l[at] : beta * s[i] + l[at];
    }),

    /* Convolution as a matrix product (Chellapilla et al. 2006), y = w col, over columns first .. first +
       count - 1 of all N OH OW columns. Row (c,i,k) of col holds x[n][c][oy SH - PH + i DH][ox SW - PW + k
       DW] at column (n,oy,ox). */
    CNN__CL_SOURCE(
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
    CNN__CL_SOURCE(
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
    CNN__CL_SOURCE(
    GROUP_KERNEL
    void conv_backward_weights(ARRAY(dw), ARRAY(x), ARRAY(dy), conv g)
    {
        __local float part[GROUP];
        BASE(dw) BASE(x) BASE(dy)
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
    CNN__CL_SOURCE(
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
    int inside(int start, int k, int d, int size, int p)
    {
        const int first = first_inside(start + p, d) - p;
        return (min(start + (k - 1) * d + 1, size + p) - first + d - 1) / d;
    }
    float window_size(conv g, int count_pad, int oy, int ox)
    {
        const int p = count_pad ? g.ph : 0; const int q = count_pad ? g.pw : 0;
        return (float)inside(oy * g.sh - g.ph, g.kh, g.dh, g.h, p)
             * (float)inside(ox * g.sw - g.pw, g.kw, g.dw, g.w, q);
    }
    __kernel void avg_pool_forward(ARRAY(y), ARRAY(x), conv g, int count_pad, int items)
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
        y[o] = sum / window_size(g, count_pad, oy, ox);
    }
    __kernel void avg_pool_backward(ARRAY(dx), ARRAY(dy), conv g, int count_pad, int items)
    {
        BASE(dx) BASE(dy) ITEM(i, items)
        const int ix = i % g.w; const int iy = i / g.w % g.h;
        const size_t out = (size_t)(i / (g.h * g.w)) * g.oh * g.ow;
        const int kh = (g.kh - 1) * g.dh + 1; const int kw = (g.kw - 1) * g.dw + 1;
        float sum = 0.0f;
        for (int oy = first_window(iy, kh, g.sh, g.ph); oy <= last_window(iy, g.sh, g.ph, g.oh); oy++)
            for (int ox = first_window(ix, kw, g.sw, g.pw); ox <= last_window(ix, g.sw, g.pw, g.ow); ox++)
                if ((iy + g.ph - oy * g.sh) % g.dh == 0 && (ix + g.pw - ox * g.sw) % g.dw == 0)
                    sum += dy[out + oy * g.ow + ox] / window_size(g, count_pad, oy, ox);
        dx[i] += sum;
    }),

    /* softmax over C of x (N,C,P), or its logarithm; one item per (n,p). With top = max x:
           softmax:   y = exp(x - top) / sum exp(x - top),      dx += y (dy - sum y dy)
           logarithm: y = x - top - log sum exp(x - top),       dx += dy - exp(y) sum dy */
    CNN__CL_SOURCE(
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
    CNN__CL_SOURCE(
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

    CNN__CL_SOURCE(
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
           dw = sum dy h,  db = sum dy,  dx += w inverse (dy - db / m - h dw / m) */
    CNN__CL_SOURCE(
    GROUP_KERNEL
    void batch_norm_statistics(ARRAY(x), ARRAY(mean), ARRAY(inverse), ARRAY(running_mean), ARRAY(running_var),
                               int channels, int plane, int count, float eps, float momentum)
    {
        __local float part[GROUP];
        BASE(x) BASE(mean) BASE(inverse) BASE(running_mean) BASE(running_var)
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
    /* in evaluation, `inverse` is the running variance */
    __kernel void batch_norm_forward(ARRAY(y), ARRAY(x), ARRAY(mean), ARRAY(inverse), ARRAY(w), ARRAY(b),
                                     int affine, int channels, int plane, int n, float eps, int running)
    {
        BASE(y) BASE(x) BASE(mean) BASE(inverse) BASE(w) BASE(b) ITEM(i, n)
        const int c = i / plane % channels;
        const float h = (x[i] - mean[c]) * (running ? 1.0f / sqrt(inverse[c] + eps) : inverse[c]);
        y[i] = affine ? w[c] * h + b[c] : h;
    }
    /* sums (2,C): of dy h, then of dy; added to dw and db where these are wanted */
    GROUP_KERNEL
    void batch_norm_sums(ARRAY(sums), ARRAY(dw), int want_dw, ARRAY(db), int want_db, ARRAY(x), ARRAY(dy),
                         ARRAY(mean), ARRAY(inverse), int channels, int plane, int count)
    {
        __local float part[GROUP];
        BASE(sums) BASE(dw) BASE(db) BASE(x) BASE(dy) BASE(mean) BASE(inverse)
        const int c = (int)get_group_id(0);
        float sum = 0.0f; float with_h = 0.0f;
        for (int q = (int)get_local_id(0); q < count; q += GROUP) {
            const size_t at = (size_t)(q / plane * channels + c) * plane + q % plane;
            sum += dy[at], with_h += dy[at] * (x[at] - mean[c]) * inverse[c];
        }
        sum = group_sum(sum, part);
        with_h = group_sum(with_h, part);
        if (get_local_id(0) != 0) return;
        sums[c] = with_h, sums[channels + c] = sum;
        if (want_dw) dw[c] += with_h;
        if (want_db) db[c] += sum;
    }
    __kernel void batch_norm_backward(ARRAY(dx), ARRAY(dy), ARRAY(x), ARRAY(mean), ARRAY(inverse), ARRAY(w),
                                      int affine, ARRAY(sums), int channels, int plane, int count, int n)
    {
        BASE(dx) BASE(dy) BASE(x) BASE(mean) BASE(inverse) BASE(w) BASE(sums) ITEM(i, n)
        const int c = i / plane % channels; const float m = (float)count;
        const float h = (x[i] - mean[c]) * inverse[c];
        dx[i] += (affine ? w[c] : 1.0f) * inverse[c] * (dy[i] - sums[channels + c] / m - h * sums[c] / m);
    }),

    /* prelu: y = x for x > 0, else w x; w has one element (channels = 1) or one a channel */
    CNN__CL_SOURCE(
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
    GROUP_KERNEL
    void prelu_weight(ARRAY(dw), ARRAY(dy), ARRAY(x), int channels, int plane, int n)
    {
        __local float part[GROUP];
        BASE(dw) BASE(dy) BASE(x)
        const int c = (int)get_group_id(0);
        float sum = 0.0f;
        for (int q = (int)get_local_id(0); q < n / channels; q += GROUP) {
            const size_t i = (size_t)(q / plane * channels + c) * plane + q % plane;
            if (!(x[i] > 0.0f)) sum += dy[i] * x[i];
        }
        sum = group_sum(sum, part);
        if (get_local_id(0) == 0) dw[c] += sum;
    }

    /* Norms of one sample: row r holds k elements, groups rows a sample; `share` neighbours have one weight.
       As in the room, h = (x - mean) rstd,  e = dy w:
           dx += (e - mean e - h mean(e h)) rstd,  dw = sum dy h,  db = sum dy */
    GROUP_KERNEL
    void sample_norm_statistics(ARRAY(x), ARRAY(saved), int k, float eps)
    {
        __local float part[GROUP];
        BASE(x) BASE(saved)
        const int r = (int)get_group_id(0);
        float sum = 0.0f; float square = 0.0f;
        x += (size_t)r * k;
        for (int i = (int)get_local_id(0); i < k; i += GROUP) sum += x[i];
        const float mean = group_sum(sum, part) / (float)k;
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
        y[i] = affine ? w[j] * h + b[j] : h;
    }
    GROUP_KERNEL
    void sample_norm_backward(ARRAY(dx), ARRAY(dy), ARRAY(x), ARRAY(saved), ARRAY(w), int affine, int k,
                              int sample, int share)
    {
        __local float part[GROUP];
        BASE(dx) BASE(dy) BASE(x) BASE(saved) BASE(w)
        const int r = (int)get_group_id(0); const float mean = saved[2 * r];
        const float rstd = saved[2 * r + 1];
        const int first = r * k; const int last = first + k;
        float sum = 0.0f; float with_h = 0.0f;
        for (int i = first + (int)get_local_id(0); i < last; i += GROUP) {
            const float e = affine ? dy[i] * w[i % sample / share] : dy[i];
            sum += e, with_h += e * (x[i] - mean) * rstd;
        }
        sum = group_sum(sum, part) / (float)k;
        with_h = group_sum(with_h, part) / (float)k;
        for (int i = first + (int)get_local_id(0); i < last; i += GROUP)
            dx[i] += ((affine ? dy[i] * w[i % sample / share] : dy[i]) - sum - (x[i] - mean) * rstd * with_h)
                * rstd;
    }
    GROUP_KERNEL
    void sample_norm_weight(ARRAY(dw), int want_dw, ARRAY(db), int want_db, ARRAY(dy), ARRAY(x), ARRAY(saved),
                            int k, int sample, int share, int count)
    {
        __local float part[GROUP];
        BASE(dw) BASE(db) BASE(dy) BASE(x) BASE(saved)
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
    CNN__CL_SOURCE(
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
    CNN__CL_SOURCE(
    GROUP_KERNEL
    void label_loss_mean(ARRAY(loss), ARRAY(rows), ARRAY(labels), ARRAY(v), int weighted, int ignored,
                         int channels, int n)
    {
        __local float part[GROUP];
        BASE(loss) BASE(rows) BASE(labels) BASE(v)
        float sum = 0.0f;
        for (int i = (int)get_local_id(0); i < n; i += GROUP) sum += rows[i];
        sum = group_sum(sum, part);
        const float weights = own_weights(labels, n, ignored, v, weighted, channels, part);
        if (get_local_id(0) == 0) loss[0] = weights <= 0.0f ? 0.0f : sum / weights;
    }
    /* share: dloss / M, and the mean of v */
    GROUP_KERNEL
    void label_loss_share(ARRAY(share), ARRAY(dloss), ARRAY(labels), ARRAY(v), int weighted, int ignored,
                          int channels, int n)
    {
        __local float part[GROUP];
        BASE(share) BASE(dloss) BASE(labels) BASE(v)
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
    CNN__CL_SOURCE(
    float softplus_of_minus(float x) { return fmax(-x, 0.0f) + log1p(exp(-fabs(x))); }
    float pair_loss(float x, float t, int how, float delta, float p)
    {
        const float d = fabs(x - t);
        if (how == 0) return d * d;
        if (how == 1) return d;
        if (how == 2) return d <= delta ? d * d / 2.0f : delta * (d - delta / 2.0f);
        return (1.0f - t) * x + (1.0f + (p - 1.0f) * t) * softplus_of_minus(x);
    }
    GROUP_KERNEL
    void pair_loss_forward(ARRAY(loss), ARRAY(x), ARRAY(t), ARRAY(p), ARRAY(w), int weights, int channels,
                           int plane, int n, int how, float delta, float factor)
    {
        __local float part[GROUP];
        BASE(loss) BASE(x) BASE(t) BASE(p) BASE(w)
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
    CNN__CL_SOURCE(
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
    GROUP_KERNEL
    void squares(ARRAY(sums), ARRAY(x), int n, int anew)
    {
        __local float part[GROUP];
        BASE(sums) BASE(x)
        const int group = (int)get_group_id(0);
        float sum = 0.0f;
        for (size_t i = get_global_id(0); i < (size_t)n; i += get_global_size(0)) sum += x[i] * x[i];
        sum = group_sum(sum, part);
        if (get_local_id(0) == 0) sums[group] = (anew ? 0.0f : sums[group]) + sum;
    }
    GROUP_KERNEL
    void correct(ARRAY(sum), ARRAY(x), ARRAY(labels), int channels, int plane, int n, int anew)
    {
        __local float part[GROUP];
        BASE(sum) BASE(x) BASE(labels)
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

typedef struct { void *memory; size_t room; cl_event sent; } cnn__cl_stage;

/* A kernel object and the arguments that it has, one after another. */
enum { CNN__CL_LAUNCHES = 1024, CNN__CL_ARGUMENTS = 192 };
typedef struct { cl_kernel object; int kernel; unsigned char argument[CNN__CL_ARGUMENTS]; } cnn__cl_launch;

typedef struct {
    cnn_backend      base;                    /* first, so that a cnn_backend * is one of these */
    cnn__cl_api      cl;
    cnn__blas_api    blas;
    cl_device_id     device;
    cl_context       context;
    cl_command_queue queue;
    cl_program       program;
    cnn__cl_launch   launch[CNN__CL_LAUNCHES];
    bool             unified;                 /* host and device share their memory: map instead of copying */
    bool             clblast;                 /* it does the matrix products */
    bool             cached;                  /* the program came from a file of the cache */
    int              launches;                /* since the last flush */
    size_t           workspace, max_buffer;   /* bytes */
    /* partial products of thin matrices, and behind them the sums */
    cl_mem           slices;
    cnn__cl_stage    stage[2];                /* what is on its way up */
    int              staged;
    cnn_kernel       row[64];
    char             name[128], report[CNN_ERROR_SIZE];
} cnn__cl;

enum { CNN__CL_SLICES = 1 << 20,              /* floats of partial products */
       CNN__CL_SQUARES = 64,                  /* partial sums of squares, behind them ... */
       CNN__CL_COUNTER = CNN__CL_SLICES + CNN__CL_SQUARES,      /* ... and the count of correct rows */
       /* bytes: longer uploads are waited for instead of copied first */
       CNN__CL_STAGE = 1 << 24 };

static cnn__cl *cnn__cl_of(cnn_backend *dev) { return (cnn__cl *)(void *)dev; }

static const char *cnn__cl_error_text(cl_int e)
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
static bool cnn__cl_fail(cnn__cl *d, const char *what, cl_int e)
{
    if (!d->base.error[0])
        cnn__format(d->base.error, sizeof d->base.error, "%s: OpenCL error %d: %s", what, (int)e,
                    cnn__cl_error_text(e));
    return false;
}
static bool cnn__cl_ok(cnn__cl *d, const char *what, cl_int e)
{
    return e == CL_SUCCESS || cnn__cl_fail(d, what, e);
}

/* Commands wait in the host until they are flushed: a few layers at a time, so that the device starts
   early. */
static bool cnn__cl_flush(cnn__cl *d)
{
    enum { LAUNCHES = 24 };
    if (++d->launches < LAUNCHES) return true;
    d->launches = 0;
    return cnn__cl_ok(d, "flush", d->cl.clFlush(d->queue));
}

static void *cnn__cl_alloc(cnn_backend *dev, size_t bytes)
{
    cnn__cl *d = cnn__cl_of(dev);
    cl_int   e = CL_SUCCESS;
    if (bytes > d->max_buffer) {
        cnn__format(dev->error, sizeof dev->error, "the device allows %zu bytes in one buffer",
                    d->max_buffer);
        return NULL;
    }
    cl_mem_flags flags = (cl_mem_flags)CL_MEM_READ_WRITE | (d->unified ? CL_MEM_ALLOC_HOST_PTR : 0);
    cl_mem       m = d->cl.clCreateBuffer(d->context, flags, bytes, NULL, &e);
    if (!m || e != CL_SUCCESS) return cnn__cl_fail(d, "buffer", e), NULL;
    return m;
}

/* Kernel objects keep no hold on their arrays, and a new buffer may get an old one's handle. */
static void cnn__cl_forget_launches(cnn__cl *d)
{
    for (int i = 0; i < CNN__CL_LAUNCHES; i++) {
        if (d->launch[i].object) d->cl.clReleaseKernel(d->launch[i].object);
        d->launch[i].object = NULL;
    }
}

static void cnn__cl_release(cnn_backend *dev, void *buffer)
{
    cnn__cl_forget_launches(cnn__cl_of(dev));
    cnn__cl_of(dev)->cl.clReleaseMemObject((cl_mem)buffer);
}

/* Shared memory: a blocking map gives the host its turn. */
static bool cnn__cl_mapped(cnn__cl *d, cl_mem m, size_t at, size_t bytes, const void *from, void *to)
{
    cl_int       e;
    cl_map_flags how = from ? CL_MAP_WRITE_INVALIDATE_REGION : CL_MAP_READ;
    void        *p = d->cl.clEnqueueMapBuffer(d->queue, m, CL_TRUE, how, at, bytes, 0, NULL, NULL, &e);
    if (!p || e != CL_SUCCESS) return cnn__cl_fail(d, "map", e);
    if (from) memcpy(p, from, bytes);
    else      memcpy(to, p, bytes);
    return cnn__cl_ok(d, "unmap", d->cl.clEnqueueUnmapMemObject(d->queue, m, p, 0, NULL, NULL));
}

/* Up. The host may write its array again at once, and the queue holds the step before: so the bytes are
   copied aside and sent from there, and only who comes two copies later waits for them. */
static bool cnn__cl_upload(cnn_backend *dev, void *buffer, size_t at, const void *from, size_t bytes)
{
    cnn__cl       *d = cnn__cl_of(dev);
    cnn__cl_stage *s = &d->stage[d->staged ^= 1];
    if (d->unified) return cnn__cl_mapped(d, (cl_mem)buffer, at, bytes, from, NULL);
    if (s->sent) {
        cl_int e = d->cl.clWaitForEvents(1, &s->sent);
        d->cl.clReleaseEvent(s->sent);
        s->sent = NULL;
        if (e != CL_SUCCESS) return cnn__cl_fail(d, "upload", e);
    }
    if (bytes <= CNN__CL_STAGE && bytes > s->room) {
        CNN_FREE(s->memory);
        s->memory = CNN_MALLOC(bytes);
        s->room = s->memory ? bytes : 0;
    }
    if (bytes > s->room)
        return cnn__cl_ok(d, "upload", d->cl.clEnqueueWriteBuffer(d->queue, (cl_mem)buffer, CL_TRUE, at,
                                                                  bytes, from, 0, NULL, NULL));
    memcpy(s->memory, from, bytes);
    return cnn__cl_ok(d, "upload", d->cl.clEnqueueWriteBuffer(d->queue, (cl_mem)buffer, CL_FALSE, at, bytes,
                                                              s->memory, 0, NULL, &s->sent));
}

static bool cnn__cl_download(cnn_backend *dev, void *buffer, size_t at, void *to, size_t bytes)
{
    cnn__cl *d = cnn__cl_of(dev);
    d->launches = 0;
    if (d->unified) return cnn__cl_mapped(d, (cl_mem)buffer, at, bytes, NULL, to);
    return cnn__cl_ok(d, "download", d->cl.clEnqueueReadBuffer(d->queue, (cl_mem)buffer, CL_TRUE, at, bytes,
                                                               to, 0, NULL, NULL));
}

static bool cnn__cl_fill(cnn__cl *d, cnn_place p, size_t n, float value)          /* n floats = value */
{
    return cnn__cl_ok(d, "fill", d->cl.clEnqueueFillBuffer(d->queue, (cl_mem)p.buffer, &value, sizeof value,
                                                           p.at * sizeof value, n * sizeof value, 0, NULL,
                                                           NULL)) && cnn__cl_flush(d);
}
static bool cnn__cl_clear(cnn_backend *dev, void *buffer, size_t at, size_t bytes)
{
    return cnn__cl_fill(cnn__cl_of(dev), (cnn_place){ buffer, at / sizeof(float) }, bytes / sizeof(float), 0);
}

/* ---- Launches ---- */

typedef struct { const void *value; size_t bytes; bool array; } cnn__cl_arg;
#define CNN__ARRAY(p)  { &(cl_mem){ (cl_mem)(p).buffer }, sizeof(cl_mem), true },                            \
                       { &(cl_ulong){ (p).at }, sizeof(cl_ulong), true }
#define CNN__SHAPE(s)  { &(cnn_shape){ (s).n, (s).c, (s).h, (s).w }, sizeof(cnn_shape), false }
#define CNN__INT(i)    { &(cl_int){ i }, sizeof(cl_int), false }
#define CNN__ULONG(i)  { &(cl_ulong){ i }, sizeof(cl_ulong), false }
#define CNN__FLOAT(f)  { &(cl_float){ f }, sizeof(cl_float), false }
#define CNN__CONV(g)   { &(g), sizeof(cnn__conv), false }

/* FNV-1a (Fowler, Noll, Vo 1991), going on from `hash`; 0 at first. */
static uint64_t cnn__cl_hash(uint64_t hash, const void *data, size_t bytes)
{
    if (!hash) hash = 14695981039346656037u;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    return hash;
}

/* The object for a kernel and its arrays, or an empty place for it. Each layer so has objects of its own, and
   step after step only what has changed is set. */
static cnn__cl_launch *cnn__cl_find_launch(cnn__cl *d, int kernel, const cnn__cl_arg *arg, int n)
{
    enum { PROBES = 8 };
    uint64_t hash = cnn__cl_hash(0, &kernel, sizeof kernel);
    for (int i = 0; i < n; i++)
        if (arg[i].array) hash = cnn__cl_hash(hash, arg[i].value, arg[i].bytes);
    for (uint64_t p = 0; p < PROBES; p++) {
        cnn__cl_launch *l = &d->launch[(hash + p) % CNN__CL_LAUNCHES];
        if (!l->object) return l;
        const unsigned char *has = l->argument;
        bool same = l->kernel == kernel;
        for (int i = 0; i < n && same; has += arg[i++].bytes)
            same = !arg[i].array || memcmp(has, arg[i].value, arg[i].bytes) == 0;
        if (same) return l;
    }
    cnn__cl_launch *l = &d->launch[hash % CNN__CL_LAUNCHES];
    d->cl.clReleaseKernel(l->object);
    l->object = NULL;
    return l;
}

static cl_int cnn__cl_set_arguments(cnn__cl *d, cnn__cl_launch *l, bool all, const cnn__cl_arg *arg, int n)
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

/* Run a kernel on x by y by z items, groups or tiles, as its entry in CNN__CL_KERNELS says. The sizes of
   groups are constant, and the number of items is rounded up: some drivers compile a kernel again for each
   size. */
#define CNN__RUN(d, kernel, ...) CNN__RUN_NUMBER(d, CNN__CL_##kernel, __VA_ARGS__)
#define CNN__RUN_NUMBER(d, number, x, y, z, ...)                                                             \
    cnn__cl_run(d, number, x, y, z, (cnn__cl_arg[]){ __VA_ARGS__ },                                          \
                (int)(sizeof (cnn__cl_arg[]){ __VA_ARGS__ } / sizeof(cnn__cl_arg)))

static bool cnn__cl_run(cnn__cl *d, int kernel, int x, int y, int z, const cnn__cl_arg *arg, int n)
{
    enum { ITEMS, GROUPS, TILES };
#define CNN__CL_WORK(name, work) work,
#define CNN__CL_NAME(name, work) #name,
    static const char work[] = { CNN__CL_KERNELS(CNN__CL_WORK) };
    static const char *const names[] = { CNN__CL_KERNELS(CNN__CL_NAME) };
    size_t local[3] = { CNN__CL_LOCAL, 1, 1 }, global[3] = { cnn__round_up((size_t)x, CNN__CL_LOCAL),
                                                             (size_t)y, (size_t)z };
    if (work[kernel] == GROUPS) local[0] = CNN__CL_GROUP, global[0] = (size_t)x * CNN__CL_GROUP;
    if (work[kernel] == TILES)
        local[0] = local[1] = 16, global[0] = (size_t)x * 16, global[1] = (size_t)y * 16;
    cnn__cl_launch *l = cnn__cl_find_launch(d, kernel, arg, n);
    cl_int e = CL_SUCCESS;
    bool   fresh = !l->object;
    if (fresh) l->kernel = kernel, l->object = d->cl.clCreateKernel(d->program, names[kernel], &e);
    if (!l->object) return cnn__cl_fail(d, names[kernel], e);
    e = cnn__cl_set_arguments(d, l, fresh, arg, n);
    if (e != CL_SUCCESS) {
        d->cl.clReleaseKernel(l->object);
        l->object = NULL;
        return cnn__cl_fail(d, names[kernel], e);
    }
    return cnn__cl_ok(d, names[kernel], d->cl.clEnqueueNDRangeKernel(d->queue, l->object, 3, NULL, global,
                                                                     local, 0, NULL, NULL)) &&
           cnn__cl_flush(d);
}

/* ===========================================================================================================
   >>cl-gemm ---- 5. Matrix products and sums
   ======================================================================================================== */

static cnn_place cnn__place_at(cnn_place p, size_t more) { return (cnn_place){ p.buffer, p.at + more }; }

/* y = beta y + factor (sum of x u over the extents where y's shape has 1 and x's has more); u NULL is 1. One
   item for each sum if they are short, else one group. */
static bool cnn__cl_fold(cnn__cl *d, cnn_place y, cnn_shape ys, float beta, float factor, cnn_place x,
                         cnn_shape xs, const cnn_place *u, cnn_shape us)
{
    enum { SHORT = 32 };
    int n = cnn__len(ys), count = cnn__len(xs) / n;
    cnn_place one = u ? *u : x;
    const cnn__cl_arg arg[] = { CNN__ARRAY(y), CNN__SHAPE(ys), CNN__ARRAY(x), CNN__SHAPE(xs), CNN__ARRAY(one),
                                CNN__SHAPE(us), CNN__INT(u != NULL), CNN__INT(n), CNN__INT(count),
                                CNN__FLOAT(beta), CNN__FLOAT(factor) };
    return cnn__cl_run(d, count > SHORT ? CNN__CL_fold_group : CNN__CL_fold, n, 1, 1, arg,
                       (int)(sizeof arg / sizeof *arg));
}

/* y = beta y + factor x + offset, x stretched to the shape of y. */
static bool cnn__cl_spread(cnn__cl *d, cnn_place y, cnn_shape ys, float beta, float factor, cnn_place x,
                           cnn_shape xs, float offset)
{
    int n = cnn__len(ys);
    return CNN__RUN(d, spread, n, 1, 1, CNN__ARRAY(y), CNN__SHAPE(ys), CNN__ARRAY(x), CNN__SHAPE(xs),
                    CNN__INT(n), CNN__FLOAT(beta), CNN__FLOAT(factor), CNN__FLOAT(offset));
}

/* C (m,n) = op(A) op(B) + beta C by our own kernel. A small C with a long k would keep only a few groups
   busy: then the sum is cut into slices of fixed length, whose partial products are added in order. */
static bool cnn__cl_own_gemm(cnn__cl *d, cnn_place c, int ldc, float beta, cnn_place a, int lda, bool ta,
                             cnn_place b, int ldb, bool tb, int m, int n, int k)
{
    enum { LEAST = 512, GROUPS = 128, SIDE = CNN__CL_SIDE };
    bool   flat = m <= SIDE, tall = n <= SIDE && !flat;
    int    height = flat ? SIDE : 4 * SIDE, width = tall ? SIDE : 4 * SIDE;
    int    tx = (n + width - 1) / width, ty = (m + height - 1) / height, length = k, slices = 1;
    size_t size = (size_t)m * (size_t)n;
    if (ldc == n && k >= 2 * LEAST && tx * ty <= GROUPS / 2 && 2 * size <= CNN__CL_SLICES) {
        length = k / (GROUPS / (tx * ty)) + 1;
        if (length < LEAST) length = LEAST;
        if ((size_t)((k + length - 1) / length) > CNN__CL_SLICES / size)
            length = k / (int)(CNN__CL_SLICES / size) + 1;
        slices = (k + length - 1) / length;
    }
    cnn_place to = slices > 1 ? (cnn_place){ d->slices, 0 } : c;
    float     by = slices > 1 ? 0 : beta;
    cnn_shape all = { slices, 1, m, n }, one = { 1, 1, m, n };
    const cnn__cl_arg arg[] = { CNN__ARRAY(to), CNN__INT(ldc), CNN__ULONG(size), CNN__FLOAT(by),
                                CNN__ARRAY(a), CNN__INT(ta ? 1 : lda), CNN__INT(ta ? lda : 1), CNN__ARRAY(b),
                                CNN__INT(tb ? 1 : ldb), CNN__INT(tb ? ldb : 1), CNN__INT(m), CNN__INT(n),
                                CNN__INT(k), CNN__INT(length) };
    return cnn__cl_run(d, flat ? CNN__CL_gemm_flat : tall ? CNN__CL_gemm_tall : CNN__CL_gemm, tx, ty, slices,
                       arg, (int)(sizeof arg / sizeof *arg)) &&
           (slices == 1 || cnn__cl_fold(d, c, one, beta, 1, to, all, NULL, one));
}

/* The parameters are those of cnn__gemm. CLBlast where it pays: not for thin products, which it does not
   slice. */
static bool cnn__cl_gemm(cnn__cl *d, cnn_place c, int ldc, float beta, cnn_place a, int lda, bool ta,
                         cnn_place b, int ldb, bool tb, int m, int n, int k)
{
    enum { NO = 111, YES = 112, ROW_MAJOR = 101, SMALL = 128 };
    if (!d->clblast || (m < SMALL && n < SMALL))
        return cnn__cl_own_gemm(d, c, ldc, beta, a, lda, ta, b, ldb, tb, m, n, k);
    int e = d->blas.CLBlastSgemm(ROW_MAJOR, ta ? YES : NO, tb ? YES : NO, (size_t)m, (size_t)n, (size_t)k,
                                 1.0f, (cl_mem)a.buffer, a.at, (size_t)lda, (cl_mem)b.buffer, b.at,
                                 (size_t)ldb, beta, (cl_mem)c.buffer, c.at, (size_t)ldc, &d->queue, NULL);
    return cnn__cl_ok(d, "CLBlastSgemm", (cl_int)e) && cnn__cl_flush(d);
}

/* ===========================================================================================================
   >>cl-rows ---- 6. Rows: what replaces the rooms of cnn.h. Formulas stand there and above the kernels.
   ======================================================================================================== */

#define CNN__CL_FORWARD(name)                                                                                \
    static bool cnn__cl_##name##_forward(cnn_backend *dev, cnn_tensor *y, cnn_mode mode)
#define CNN__CL_BACKWARD(name) static bool cnn__cl_##name##_backward(cnn_backend *dev, cnn_tensor *y)

/* ---- The function at the end of a layer ---- */

/* One of CNN__CL_ACTIVATIONS, with its constants. */
typedef struct { int how; float k[2]; } cnn__cl_function;

static cnn__cl_function cnn__cl_function_of(const cnn_tensor *y)
{
#define CNN__CL_IS(X, name, value, derivative) if (y->op == &cnn_op_##name) f.how = CNN__CL_IS_##name;
    cnn__cl_function f = { CNN__CL_IS_NOTHING, { 0, 0 } };
    CNN__CL_ACTIVATIONS(CNN__CL_IS, )
    if (f.how != CNN__CL_IS_NOTHING) cnn__formula(y, f.k);
    if (y->op == &cnn_op_gelu) f.k[0] = ((const cnn_gelu_args *)y->args)->tanh ? 1.0f : 0.0f;
    return f;
}
#define CNN__FUNCTION(f) CNN__INT((f).how), CNN__FLOAT((f).k[0]), CNN__FLOAT((f).k[1])

/* The function of y's elements that this run computes next, on the device and in y's place, so that nobody
   else reads y: the layer's last kernel does it, and its own row then has nothing to do. NULL if there is
   none. */
static const cnn_tensor *cnn__cl_ending(const cnn_tensor *y)
{
    const cnn_graph *g = y->graph;
    if (!cnn__of(y)->kernel || (y->op != &cnn_op_conv2d && y->op != &cnn_op_dense)) return NULL;
    const cnn__node *v = y->index + 1 < g->n_order ? g->order[y->index + 1] : NULL;
    return v && v->kernel && v->mark == g->walk && v->alias[g->mode] == cnn__of(y) &&
           cnn__cl_function_of(&v->t).how != CNN__CL_IS_NOTHING ? &v->t : NULL;
}
static cnn__cl_function cnn__cl_ending_function(const cnn_tensor *y)
{
    const cnn_tensor *t = cnn__cl_ending(y);
    return cnn__cl_function_of(t ? t : y);
}

/* y = f(y + b); b may be NULL */
static bool cnn__cl_bias_map(cnn__cl *d, cnn_place y, cnn_shape s, const cnn_place *b, cnn__cl_function f)
{
    cnn_place bias = b ? *b : y;
    int       n = cnn__len(s);
    return (!b && f.how == CNN__CL_IS_NOTHING) ||
           CNN__RUN(d, bias_map, n, 1, 1, CNN__ARRAY(y), CNN__ARRAY(bias), CNN__INT(b != NULL), CNN__INT(s.c),
                    CNN__INT(cnn__plane(s)), CNN__INT(n), CNN__FUNCTION(f));
}

/* ---- Convolution ---- */

/* How many columns are unfolded at once: the workspace holds so many columns of col and of the rows of y. */
static int cnn__cl_columns(const cnn__cl *d, const cnn__conv *g)
{
    size_t column = ((size_t)(g->ic * g->kh * g->kw) + (size_t)g->oc) * sizeof(float);
    size_t all = (size_t)g->n * (size_t)(g->oh * g->ow);
    size_t cap = (d->workspace < d->max_buffer ? d->workspace : d->max_buffer) / column;
    return (int)(cap < 1 ? 1 : cap < all ? cap : all);
}

/* A 1x1 convolution is a matrix product as it stands; with many small images it is better unfolded, in one
   product. */
static bool cnn__cl_is_product(const cnn__conv *g)
{
    const bool pointwise = g->kh == 1 && g->kw == 1 && g->sh == 1 && g->sw == 1 && !g->ph && !g->pw;
    return pointwise && (g->n == 1 || g->oh * g->ow >= 1024);
}

static size_t cnn__cl_conv_scratch(const cnn__cl *d, const cnn__conv *g)
{
    if (g->groups > 1 || cnn__cl_is_product(g)) return 0;
    return (size_t)cnn__cl_columns(d, g) * ((size_t)(g->ic * g->kh * g->kw) + (size_t)g->oc) * sizeof(float);
}

static bool cnn__cl_im2col(cnn__cl *d, cnn_place col, cnn_place x, const cnn__conv *g, int first, int count)
{
    return CNN__RUN(d, im2col, count, g->ic, 1, CNN__ARRAY(col), CNN__ARRAY(x), CNN__CONV(*g),
                    CNN__INT(first), CNN__INT(count));
}

/* y = beta y + f(conv(x, w) + b); b may be NULL; beta = 0, or no b and no f */
static bool cnn__cl_conv_forward(cnn__cl *d, const cnn__conv *g, cnn_place col, cnn_place y, float beta,
                                 cnn_place x, cnn_place w, const cnn_place *b, cnn__cl_function f)
{
    cnn_place bias = b ? *b : w;
    int       k = g->ic * g->kh * g->kw, plane = g->oh * g->ow, total = g->n * plane;
    int       columns = cnn__cl_columns(d, g);
    cnn_shape ys = { g->n, g->oc, g->oh, g->ow };
    if (g->groups > 1)
        return CNN__RUN(d, conv_forward, cnn__len(ys), 1, 1, CNN__ARRAY(y), CNN__ARRAY(x), CNN__ARRAY(w),
                        CNN__ARRAY(bias), CNN__INT(b != NULL), CNN__CONV(*g), CNN__INT(cnn__len(ys)),
                        CNN__FLOAT(beta), CNN__FUNCTION(f));
    if (cnn__cl_is_product(g)) {
        for (int i = 0; i < g->n; i++)
            if (!cnn__cl_gemm(d, cnn__place_at(y, (size_t)i * (size_t)(g->oc * plane)), plane, beta, w, k,
                              false, cnn__place_at(x, (size_t)i * (size_t)(k * plane)), plane, false, g->oc,
                              plane, k)) return false;
        return cnn__cl_bias_map(d, y, ys, b, f);
    }
    for (int first = 0, count; first < total; first += count) {
        count = total - first < columns ? total - first : columns;
        cnn_place rows = cnn__place_at(col, (size_t)count * (size_t)k);
        if (!cnn__cl_im2col(d, col, x, g, first, count)) return false;
        if (!cnn__cl_gemm(d, rows, count, 0, w, k, false, col, count, false, g->oc, count, k)) return false;
        if (!CNN__RUN(d, rows_to_images, count, g->oc, 1, CNN__ARRAY(y), CNN__ARRAY(rows), CNN__ARRAY(bias),
                      CNN__INT(b != NULL), CNN__INT(g->oc), CNN__INT(plane), CNN__INT(first), CNN__INT(count),
                      CNN__FLOAT(beta), CNN__FUNCTION(f))) return false;
    }
    return true;
}

/* dx += and dw +=; either may be NULL */
static bool cnn__cl_conv_backward(cnn__cl *d, const cnn__conv *g, cnn_place col, const cnn_place *dx,
                                  const cnn_place *dw, cnn_place dy, cnn_place x, cnn_place w)
{
    int       k = g->ic * g->kh * g->kw, plane = g->oh * g->ow, total = g->n * plane;
    int       columns = cnn__cl_columns(d, g);
    cnn_place to_x = dx ? *dx : dy, to_w = dw ? *dw : dy;
    if (g->groups > 1) {
        int n = g->n * g->ic * g->h * g->w, weights = g->oc * (g->ic / g->groups) * g->kh * g->kw;
        return (!dw ||
                CNN__RUN(d, conv_backward_weights, weights, 1, 1, CNN__ARRAY(to_w), CNN__ARRAY(x),
                         CNN__ARRAY(dy), CNN__CONV(*g))) &&
               (!dx ||
                CNN__RUN(d, conv_backward_data, n, 1, 1, CNN__ARRAY(to_x), CNN__ARRAY(dy), CNN__ARRAY(w),
                         CNN__CONV(*g), CNN__INT(n)));
    }
    if (cnn__cl_is_product(g)) {                                             /* dw += dy x^T, dx += w^T dy */
        for (int i = 0; i < g->n; i++) {
            size_t    in = (size_t)i * (size_t)(k * plane), out = (size_t)i * (size_t)(g->oc * plane);
            cnn_place dyi = cnn__place_at(dy, out);
            if (dw &&
                !cnn__cl_gemm(d, to_w, k, 1, dyi, plane, false, cnn__place_at(x, in), plane, true, g->oc, k,
                              plane)) return false;
            if (dx &&
                !cnn__cl_gemm(d, cnn__place_at(to_x, in), plane, 1, w, k, true, dyi, plane, false, k, plane,
                              g->oc)) return false;
        }
        return true;
    }
    /* dw += dy col^T, dx += fold of w^T dy */
    for (int first = 0, count; first < total; first += count) {
        count = total - first < columns ? total - first : columns;
        cnn_place rows = cnn__place_at(col, (size_t)count * (size_t)k);
        if (!CNN__RUN(d, images_to_rows, count, g->oc, 1, CNN__ARRAY(rows), CNN__ARRAY(dy), CNN__INT(g->oc),
                      CNN__INT(plane), CNN__INT(first), CNN__INT(count))) return false;
        if (dw && !(cnn__cl_im2col(d, col, x, g, first, count) &&
                    cnn__cl_gemm(d, to_w, k, 1, rows, count, false, col, count, true, g->oc, k,
                                 count))) return false;
        int n0 = first / plane, items = ((first + count - 1) / plane + 1 - n0) * g->ic * g->h * g->w;
        if (dx && !(cnn__cl_gemm(d, col, count, 0, w, k, true, rows, count, false, k, count, g->oc) &&
                    CNN__RUN(d, col2im, items, 1, 1, CNN__ARRAY(to_x), CNN__ARRAY(col), CNN__CONV(*g),
                             CNN__INT(first), CNN__INT(count), CNN__INT(n0), CNN__INT(items)))) return false;
    }
    return true;
}

/* db += the sum of dy over all but the channels, where there is a bias that wants it: operand 2. */
static bool cnn__cl_bias_backward(cnn__cl *d, cnn_tensor *y)
{
    cnn_shape bs = { 1, y->shape.c, 1, 1 };
    return y->n_in < 3 || !y->in[2]->needs_grad ||
           cnn__cl_fold(d, cnn_place_grad(y->in[2]), bs, 1, 1, cnn_place_grad(y), y->shape, NULL, bs);
}

CNN__CL_FORWARD(conv2d)
{
    cnn__conv g = cnn__conv_of(y);
    cnn_place b = cnn_place_data(y->in[y->n_in - 1]);
    (void)mode;
    return cnn__cl_conv_forward(cnn__cl_of(dev), &g, cnn_place_scratch(y->graph), cnn_place_data(y), 0,
                                cnn_place_data(y->in[0]), cnn_place_data(y->in[1]), y->n_in > 2 ? &b : NULL,
                                cnn__cl_ending_function(y));
}
CNN__CL_BACKWARD(conv2d)
{
    cnn__conv g = cnn__conv_of(y);
    cnn_place dx = cnn_place_grad(y->in[0]), dw = cnn_place_grad(y->in[1]);
    return cnn__cl_bias_backward(cnn__cl_of(dev), y) &&
           cnn__cl_conv_backward(cnn__cl_of(dev), &g, cnn_place_scratch(y->graph), y->in[0]->needs_grad ? &dx
                                 : NULL, y->in[1]->needs_grad ? &dw : NULL, cnn_place_grad(y),
                                 cnn_place_data(y->in[0]), cnn_place_data(y->in[1]));
}

/* The gradient of a convolution from y to x, run forwards. */
CNN__CL_FORWARD(conv_transpose2d)
{
    cnn__cl  *d = cnn__cl_of(dev);
    cnn__conv g = cnn__transpose_of(y);
    cnn_place out = cnn_place_data(y);
    cnn_shape bs = { 1, y->shape.c, 1, 1 };
    (void)mode;
    return (y->n_in > 2 ? cnn__cl_spread(d, out, y->shape, 0, 1, cnn_place_data(y->in[2]), bs, 0)
            : cnn__cl_fill(d, out, (size_t)cnn__len(y->shape), 0)) &&
           cnn__cl_conv_backward(d, &g, cnn_place_scratch(y->graph), &out, NULL, cnn_place_data(y->in[0]),
                                 out, cnn_place_data(y->in[1]));
}
CNN__CL_BACKWARD(conv_transpose2d)
{
    cnn__cl    *d = cnn__cl_of(dev);
    cnn__conv   g = cnn__transpose_of(y);
    cnn_tensor *x = y->in[0], *w = y->in[1];
    cnn_place   col = cnn_place_scratch(y->graph), dy = cnn_place_grad(y), dw = cnn_place_grad(w);
    return cnn__cl_bias_backward(d, y) &&
           (!x->needs_grad ||
            cnn__cl_conv_forward(d, &g, col, cnn_place_grad(x), 1, dy, cnn_place_data(w), NULL,
                                 (cnn__cl_function){ CNN__CL_IS_NOTHING, { 0, 0 } })) &&
           (!w->needs_grad ||
            cnn__cl_conv_backward(d, &g, col, NULL, &dw, cnn_place_data(x), dy, cnn_place_data(w)));
}

/* ---- Dense and matrix product ---- */

CNN__CL_FORWARD(dense)
{
    cnn__cl  *d = cnn__cl_of(dev);
    cnn_place out = cnn_place_data(y);
    int       n = y->shape.n, k = cnn__sample(y->in[0]->shape), units = y->shape.c;
    cnn_place b = cnn_place_data(y->in[y->n_in - 1]);
    (void)mode;
    return cnn__cl_gemm(d, out, units, 0, cnn_place_data(y->in[0]), k, false, cnn_place_data(y->in[1]), k,
                        true, n, units, k) &&
           cnn__cl_bias_map(d, out, y->shape, y->n_in > 2 ? &b : NULL, cnn__cl_ending_function(y));
}

CNN__CL_BACKWARD(dense)
{
    cnn__cl    *d = cnn__cl_of(dev);
    cnn_tensor *x = y->in[0], *w = y->in[1];
    cnn_place   dy = cnn_place_grad(y);
    int         n = y->shape.n, k = cnn__sample(x->shape), units = y->shape.c;
    if (x->needs_grad &&
        !cnn__cl_gemm(d, cnn_place_grad(x), k, 1, dy, units, false, cnn_place_data(w), k, false, n, k,
                      units)) return false;
    if (w->needs_grad &&
        !cnn__cl_gemm(d, cnn_place_grad(w), k, 1, dy, units, true, cnn_place_data(x), k, false, units, k,
                      n)) return false;
    return cnn__cl_bias_backward(d, y);
}

CNN__CL_FORWARD(matmul)
{
    int m = y->shape.n, k = y->in[0]->shape.c, p = y->shape.c;
    (void)mode;
    return cnn__cl_gemm(cnn__cl_of(dev), cnn_place_data(y), p, 0, cnn_place_data(y->in[0]), k, false,
                        cnn_place_data(y->in[1]), p, false, m, p, k);
}

CNN__CL_BACKWARD(matmul)
{
    cnn__cl    *d = cnn__cl_of(dev);
    cnn_tensor *a = y->in[0], *b = y->in[1];
    cnn_place   dy = cnn_place_grad(y);
    int         m = y->shape.n, k = a->shape.c, p = y->shape.c;
    if (a->needs_grad &&
        !cnn__cl_gemm(d, cnn_place_grad(a), k, 1, dy, p, false, cnn_place_data(b), p, true, m, k,
                      p)) return false;
    return !b->needs_grad ||
           cnn__cl_gemm(d, cnn_place_grad(b), p, 1, cnn_place_data(a), k, true, dy, p, false, k, p, m);
}

/* ---- Pools: the kernels take a pool as a convolution with one channel a plane ---- */

static cnn__conv cnn__cl_pool(const cnn_tensor *y, int *count_pad)
{
    cnn__pool p = cnn__pool_of(y);
    *count_pad = p.count_pad;
    return (cnn__conv){ 1, p.planes, p.h, p.w, p.planes, p.oh, p.ow, p.kh, p.kw, p.sh, p.sw, p.ph, p.pw,
                        p.dh, p.dw, 1 };
}

CNN__CL_FORWARD(max_pool)
{
    int       count_pad;
    cnn__conv g = cnn__cl_pool(y, &count_pad);
    cnn_place out = cnn_place_data(y), x = cnn_place_data(y->in[0]), saved = cnn_place_saved(y);
    int       n = cnn__len(y->shape);
    return CNN__RUN(cnn__cl_of(dev), max_pool_forward, n, 1, 1, CNN__ARRAY(out), CNN__ARRAY(x),
                    CNN__ARRAY(saved), CNN__INT(mode == CNN_TRAIN), CNN__CONV(g), CNN__INT(n));
}

CNN__CL_BACKWARD(max_pool)
{
    int       count_pad;
    cnn__conv g = cnn__cl_pool(y, &count_pad);
    cnn_place dx = cnn_place_grad(y->in[0]), dy = cnn_place_grad(y), saved = cnn_place_saved(y);
    int       n = cnn__len(y->in[0]->shape);
    return CNN__RUN(cnn__cl_of(dev), max_pool_backward, n, 1, 1, CNN__ARRAY(dx), CNN__ARRAY(dy),
                    CNN__ARRAY(saved), CNN__CONV(g), CNN__INT(n));
}

CNN__CL_FORWARD(avg_pool)
{
    int       count_pad;
    cnn__conv g = cnn__cl_pool(y, &count_pad);
    cnn_place out = cnn_place_data(y), x = cnn_place_data(y->in[0]);
    int       n = cnn__len(y->shape);
    (void)mode;
    return CNN__RUN(cnn__cl_of(dev), avg_pool_forward, n, 1, 1, CNN__ARRAY(out), CNN__ARRAY(x), CNN__CONV(g),
                    CNN__INT(count_pad), CNN__INT(n));
}

CNN__CL_BACKWARD(avg_pool)
{
    int       count_pad;
    cnn__conv g = cnn__cl_pool(y, &count_pad);
    cnn_place dx = cnn_place_grad(y->in[0]), dy = cnn_place_grad(y);
    int       n = cnn__len(y->in[0]->shape);
    return CNN__RUN(cnn__cl_of(dev), avg_pool_backward, n, 1, 1, CNN__ARRAY(dx), CNN__ARRAY(dy), CNN__CONV(g),
                    CNN__INT(count_pad), CNN__INT(n));
}

/* ---- Sums over extents: sum, mean and global_avg_pool fold x into y, and spread dy over dx. ---- */

CNN__CL_FORWARD(reduce)
{
    cnn_tensor *x = y->in[0];
    (void)mode;
    return cnn__cl_fold(cnn__cl_of(dev), cnn_place_data(y), y->shape, 0, cnn__reduce_factor(y),
                        cnn_place_data(x), x->shape, NULL, y->shape);
}
CNN__CL_BACKWARD(reduce)
{
    cnn_tensor *x = y->in[0];
    return cnn__cl_spread(cnn__cl_of(dev), cnn_place_grad(x), x->shape, 1, cnn__reduce_factor(y),
                          cnn_place_grad(y), y->shape, 0);
}

/* ---- add, sub, mul: forward stretches both operands, backward folds dy back into each. ---- */

CNN__CL_FORWARD(binary)
{
    cnn_place out = cnn_place_data(y), a = cnn_place_data(y->in[0]), b = cnn_place_data(y->in[1]);
    int       n = cnn__len(y->shape), how = y->op == &cnn_op_add ? 0 : y->op == &cnn_op_sub ? 1 : 2;
    (void)mode;
    return CNN__RUN(cnn__cl_of(dev), stretch, n, 1, 1, CNN__ARRAY(out), CNN__SHAPE(y->shape), CNN__ARRAY(a),
                    CNN__SHAPE(y->in[0]->shape), CNN__ARRAY(b), CNN__SHAPE(y->in[1]->shape), CNN__INT(n),
                    CNN__INT(how));
}
CNN__CL_BACKWARD(binary)
{
    for (int i = 0; i < 2; i++) {
        cnn_tensor *x = y->in[i], *other = y->in[1 - i];
        cnn_place   u = cnn_place_data(other);
        float       factor = i == 1 && y->op == &cnn_op_sub ? -1.0f : 1.0f;
        if (x->needs_grad &&
            !cnn__cl_fold(cnn__cl_of(dev), cnn_place_grad(x), x->shape, 1, factor, cnn_place_grad(y),
                          y->shape, y->op == &cnn_op_mul ? &u : NULL, other->shape)) return false;
    }
    return true;
}

CNN__CL_FORWARD(scale)
{
    const cnn_scale_args *a = y->args;
    (void)mode;
    return cnn__cl_spread(cnn__cl_of(dev), cnn_place_data(y), y->shape, 0, a->factor,
                          cnn_place_data(y->in[0]), y->shape, a->offset);
}
CNN__CL_BACKWARD(scale)
{
    const cnn_scale_args *a = y->args;
    return cnn__cl_spread(cnn__cl_of(dev), cnn_place_grad(y->in[0]), y->shape, 1, a->factor,
                          cnn_place_grad(y), y->shape, 0);
}

/* ---- Copies ---- */

static bool cnn__cl_copy_rows(cnn_backend *dev, cnn_place y, int y_step, cnn_place x, int x_step, int length,
                              int rows, float beta)
{
    int n = length * rows;
    return CNN__RUN(cnn__cl_of(dev), copy_rows, n, 1, 1, CNN__ARRAY(y), CNN__INT(y_step), CNN__ARRAY(x),
                    CNN__INT(x_step), CNN__INT(length), CNN__INT(n), CNN__FLOAT(beta));
}

CNN__CL_FORWARD(concat)
{
    int whole = cnn__sample(y->shape), at = 0;
    (void)mode;
    for (int i = 0; i < y->n_in; i++) {
        int part = cnn__sample(y->in[i]->shape);
        if (!cnn__cl_copy_rows(dev, cnn__place_at(cnn_place_data(y), (size_t)at), whole,
                               cnn_place_data(y->in[i]), part, part, y->shape.n, 0)) return false;
        at += part;
    }
    return true;
}
CNN__CL_BACKWARD(concat)
{
    int whole = cnn__sample(y->shape), at = 0;
    for (int i = 0; i < y->n_in; i++) {
        int part = cnn__sample(y->in[i]->shape);
        if (y->in[i]->needs_grad &&
            !cnn__cl_copy_rows(dev, cnn_place_grad(y->in[i]), part,
                               cnn__place_at(cnn_place_grad(y), (size_t)at), whole, part, y->shape.n,
                               1)) return false;
        at += part;
    }
    return true;
}

CNN__CL_FORWARD(reshape)
{
    cnn_place out = cnn_place_data(y), x = cnn_place_data(y->in[0]);
    int       n = cnn__len(y->shape);
    (void)mode;
    return (out.buffer == x.buffer && out.at == x.at) || cnn__cl_copy_rows(dev, out, n, x, n, n, 1, 0);
}
CNN__CL_BACKWARD(reshape)
{
    int n = cnn__len(y->shape);
    return cnn__cl_copy_rows(dev, cnn_place_grad(y->in[0]), n, cnn_place_grad(y), n, n, 1, 1);
}

/* Between a small array and places of a large one: slice reads x there, pad writes x there. */
static bool cnn__cl_part(cnn_backend *dev, cnn_place s, cnn_shape ss, cnn_place l, cnn_shape ls,
                         cnn_shape from, cnn_shape step, bool out, float beta)
{
    int n = cnn__len(ss);
    return CNN__RUN(cnn__cl_of(dev), part, n, 1, 1, CNN__ARRAY(s), CNN__SHAPE(ss), CNN__ARRAY(l),
                    CNN__SHAPE(ls), CNN__SHAPE(from), CNN__SHAPE(step), CNN__INT(n), CNN__INT(out),
                    CNN__FLOAT(beta));
}

static void cnn__cl_slice_of(const cnn_tensor *y, cnn_shape *from, cnn_shape *step)
{
    cnn__slice t = cnn__slice_of(y);
    *from = (cnn_shape){ t.axis == 0 ? t.from : 0, t.axis == 1 ? t.from : 0, t.axis == 2 ? t.from : 0,
                         t.axis == 3 ? t.from : 0 };
    *step = (cnn_shape){ t.axis == 0 ? t.step : 1, t.axis == 1 ? t.step : 1, t.axis == 2 ? t.step : 1,
                         t.axis == 3 ? t.step : 1 };
}
CNN__CL_FORWARD(slice)
{
    cnn_shape from, step;
    cnn__cl_slice_of(y, &from, &step);
    (void)mode;
    return cnn__cl_part(dev, cnn_place_data(y), y->shape, cnn_place_data(y->in[0]), y->in[0]->shape, from,
                        step, false, 0);
}
CNN__CL_BACKWARD(slice)
{
    cnn_shape from, step;
    cnn__cl_slice_of(y, &from, &step);
    return cnn__cl_part(dev, cnn_place_grad(y), y->shape, cnn_place_grad(y->in[0]), y->in[0]->shape, from,
                        step, true, 1);
}

static const cnn_shape cnn__cl_ones = { 1, 1, 1, 1 };
CNN__CL_FORWARD(pad)
{
    const cnn_pad_args *a = y->args;
    cnn_shape           from = { 0, a->front, a->top, a->left };
    (void)mode;
    return cnn__cl_fill(cnn__cl_of(dev), cnn_place_data(y), (size_t)cnn__len(y->shape), a->value) &&
           cnn__cl_part(dev, cnn_place_data(y->in[0]), y->in[0]->shape, cnn_place_data(y), y->shape, from,
                        cnn__cl_ones, true, 0);
}
CNN__CL_BACKWARD(pad)
{
    const cnn_pad_args *a = y->args;
    cnn_shape           from = { 0, a->front, a->top, a->left };
    return cnn__cl_part(dev, cnn_place_grad(y->in[0]), y->in[0]->shape, cnn_place_grad(y), y->shape, from,
                        cnn__cl_ones, false, 1);
}

CNN__CL_FORWARD(upsample)
{
    cnn_tensor *x = y->in[0];
    cnn_place   out = cnn_place_data(y), in = cnn_place_data(x);
    int         n = cnn__len(y->shape);
    (void)mode;
    return CNN__RUN(cnn__cl_of(dev), upsample_forward, n, 1, 1, CNN__ARRAY(out), CNN__SHAPE(y->shape),
                    CNN__ARRAY(in), CNN__SHAPE(x->shape), CNN__INT((int)cnn__filter_of(y)), CNN__INT(n));
}
CNN__CL_BACKWARD(upsample)
{
    cnn_tensor *x = y->in[0];
    cnn_place   dx = cnn_place_grad(x), dy = cnn_place_grad(y);
    int         n = cnn__len(x->shape);
    return CNN__RUN(cnn__cl_of(dev), upsample_backward, n, 1, 1, CNN__ARRAY(dx), CNN__SHAPE(x->shape),
                    CNN__ARRAY(dy), CNN__SHAPE(y->shape), CNN__INT((int)cnn__filter_of(y)), CNN__INT(n));
}

CNN__CL_FORWARD(lrn)
{
    const cnn_lrn_args *t = y->args;
    cnn_place out = cnn_place_data(y), x = cnn_place_data(y->in[0]);
    cnn_place saved = mode == CNN_TRAIN ? cnn_place_saved(y) : out;
    int       n = cnn__len(y->shape);
    return CNN__RUN(cnn__cl_of(dev), lrn_forward, n, 1, 1, CNN__ARRAY(out), CNN__ARRAY(x), CNN__ARRAY(saved),
                    CNN__INT(mode == CNN_TRAIN), CNN__INT(t->size), CNN__FLOAT(t->alpha / (float)t->size),
                    CNN__FLOAT(t->beta), CNN__FLOAT(t->k), CNN__INT(y->shape.c),
                    CNN__INT(cnn__plane(y->shape)), CNN__INT(n));
}
CNN__CL_BACKWARD(lrn)
{
    const cnn_lrn_args *t = y->args;
    cnn_place dx = cnn_place_grad(y->in[0]), dy = cnn_place_grad(y), x = cnn_place_data(y->in[0]);
    cnn_place out = cnn_place_data(y), saved = cnn_place_saved(y);
    int       n = cnn__len(y->shape);
    return CNN__RUN(cnn__cl_of(dev), lrn_backward, n, 1, 1, CNN__ARRAY(dx), CNN__ARRAY(dy), CNN__ARRAY(x),
                    CNN__ARRAY(out), CNN__ARRAY(saved), CNN__INT(t->size),
                    CNN__FLOAT(t->alpha / (float)t->size), CNN__FLOAT(t->beta),
                    CNN__INT(y->shape.c), CNN__INT(cnn__plane(y->shape)), CNN__INT(n));
}

/* ---- Functions of one number ---- */

CNN__CL_FORWARD(map)
{
    cnn__cl_function f = cnn__cl_function_of(y);
    int              n = cnn__len(y->shape);
    cnn_place        out = cnn_place_data(y), x = cnn_place_data(y->in[0]);
    (void)mode;
    return cnn__cl_ending(y->in[0]) == y ||
           CNN__RUN(cnn__cl_of(dev), map_forward, n, 1, 1, CNN__ARRAY(out), CNN__ARRAY(x), CNN__INT(n),
                    CNN__FUNCTION(f));
}
CNN__CL_BACKWARD(map)
{
    cnn__cl_function f = cnn__cl_function_of(y);
    int              n = cnn__len(y->shape);
    cnn_place        dx = cnn_place_grad(y->in[0]), dy = cnn_place_grad(y);
    cnn_place        b = cnn_place_data(y->op->flags & CNN_READS_X ? y->in[0] : y);
    return CNN__RUN(cnn__cl_of(dev), map_backward, n, 1, 1, CNN__ARRAY(dx), CNN__ARRAY(dy), CNN__ARRAY(b),
                    CNN__INT(n), CNN__FUNCTION(f));
}

/* ---- softmax and its logarithm ---- */

CNN__CL_FORWARD(softmax)
{
    cnn_place out = cnn_place_data(y), x = cnn_place_data(y->in[0]);
    int       plane = cnn__plane(y->shape), rows = y->shape.n * plane;
    (void)mode;
    return CNN__RUN(cnn__cl_of(dev), softmax_forward, rows, 1, 1, CNN__ARRAY(out), CNN__ARRAY(x),
                    CNN__INT(y->shape.c), CNN__INT(plane), CNN__INT(rows),
                    CNN__INT(y->op == &cnn_op_log_softmax));
}
CNN__CL_BACKWARD(softmax)
{
    cnn_place dx = cnn_place_grad(y->in[0]), dy = cnn_place_grad(y), out = cnn_place_data(y);
    int       plane = cnn__plane(y->shape), rows = y->shape.n * plane;
    return CNN__RUN(cnn__cl_of(dev), softmax_backward, rows, 1, 1, CNN__ARRAY(dx), CNN__ARRAY(dy),
                    CNN__ARRAY(out), CNN__INT(y->shape.c), CNN__INT(plane), CNN__INT(rows),
                    CNN__INT(y->op == &cnn_op_log_softmax));
}

/* ---- Dropout ---- */

static bool cnn__cl_dropout(cnn_backend *dev, cnn_tensor *y, cnn_place to, cnn_place from, float beta)
{
    float p = ((const cnn_dropout_args *)y->args)->p;
    int   n = cnn__len(y->shape);
    return CNN__RUN(cnn__cl_of(dev), dropout, n, 1, 1, CNN__ARRAY(to), CNN__ARRAY(from),
                    CNN__ULONG(y->graph->config.seed), CNN__ULONG(cnn__stream(y)), CNN__FLOAT(p),
                    CNN__FLOAT(beta), CNN__INT(n));
}
CNN__CL_FORWARD(dropout)
{
    if (mode == CNN_EVAL) return cnn__cl_reshape_forward(dev, y, mode);      /* y = x */
    return cnn__cl_dropout(dev, y, cnn_place_data(y), cnn_place_data(y->in[0]), 0);
}
CNN__CL_BACKWARD(dropout) { return cnn__cl_dropout(dev, y, cnn_place_grad(y->in[0]), cnn_place_grad(y), 1); }

/* ---- Batch norm ---- */

typedef struct {
    cnn_place x, w, b, mean, inverse, running_mean, running_var;
    int       affine, channels, plane, count;
} cnn__cl_norm;

static cnn__cl_norm cnn__cl_norm_of(cnn_tensor *y, cnn_mode mode)
{
    const cnn_tensor *w = cnn_operand(y, "weight"), *b = cnn_operand(y, "bias");
    cnn__cl_norm      v;
    v.affine = w != NULL;
    v.x = cnn_place_data(y->in[0]);
    v.w = w ? cnn_place_data(w) : v.x, v.b = b ? cnn_place_data(b) : v.x;
    v.running_mean = cnn_place_data(cnn_operand(y, "running_mean"));
    v.running_var = cnn_place_data(cnn_operand(y, "running_var"));
    v.channels = y->shape.c, v.plane = cnn__plane(y->shape), v.count = y->shape.n * v.plane;
    v.mean = mode == CNN_TRAIN ? cnn_place_saved(y) : v.running_mean;
    v.inverse = mode == CNN_TRAIN ? cnn__place_at(v.mean, (size_t)v.channels) : v.running_var;
    return v;
}

CNN__CL_FORWARD(batch_norm)
{
    cnn__cl     *d = cnn__cl_of(dev);
    cnn__cl_norm v = cnn__cl_norm_of(y, mode);
    const cnn_batch_norm_args *a = y->args;
    cnn_place    out = cnn_place_data(y);
    int          n = cnn__len(y->shape);
    return (mode == CNN_EVAL ||
            CNN__RUN(d, batch_norm_statistics, v.channels, 1, 1, CNN__ARRAY(v.x), CNN__ARRAY(v.mean),
                     CNN__ARRAY(v.inverse), CNN__ARRAY(v.running_mean), CNN__ARRAY(v.running_var),
                     CNN__INT(v.channels), CNN__INT(v.plane), CNN__INT(v.count), CNN__FLOAT(a->eps),
                     CNN__FLOAT(a->momentum))) &&
           CNN__RUN(d, batch_norm_forward, n, 1, 1, CNN__ARRAY(out), CNN__ARRAY(v.x), CNN__ARRAY(v.mean),
                    CNN__ARRAY(v.inverse), CNN__ARRAY(v.w), CNN__ARRAY(v.b), CNN__INT(v.affine),
                    CNN__INT(v.channels), CNN__INT(v.plane), CNN__INT(n), CNN__FLOAT(a->eps),
                    CNN__INT(mode == CNN_EVAL));
}

CNN__CL_BACKWARD(batch_norm)
{
    cnn__cl     *d = cnn__cl_of(dev);
    cnn__cl_norm v = cnn__cl_norm_of(y, CNN_TRAIN);
    cnn_tensor  *x = y->in[0], *w = cnn_operand(y, "weight"), *b = cnn_operand(y, "bias");
    cnn_place    sums = cnn_place_scratch(y->graph), dy = cnn_place_grad(y);
    bool         want_dw = w && w->needs_grad, want_db = b && b->needs_grad;
    cnn_place    dx = x->needs_grad ? cnn_place_grad(x) : sums;
    cnn_place    dw = want_dw ? cnn_place_grad(w) : sums, db = want_db ? cnn_place_grad(b) : sums;
    int          n = cnn__len(y->shape);
    return CNN__RUN(d, batch_norm_sums, v.channels, 1, 1, CNN__ARRAY(sums), CNN__ARRAY(dw), CNN__INT(want_dw),
                    CNN__ARRAY(db), CNN__INT(want_db), CNN__ARRAY(v.x), CNN__ARRAY(dy), CNN__ARRAY(v.mean),
                    CNN__ARRAY(v.inverse), CNN__INT(v.channels), CNN__INT(v.plane), CNN__INT(v.count)) &&
           (!x->needs_grad ||
            CNN__RUN(d, batch_norm_backward, n, 1, 1, CNN__ARRAY(dx), CNN__ARRAY(dy), CNN__ARRAY(v.x),
                     CNN__ARRAY(v.mean), CNN__ARRAY(v.inverse), CNN__ARRAY(v.w), CNN__INT(v.affine),
                     CNN__ARRAY(sums), CNN__INT(v.channels), CNN__INT(v.plane), CNN__INT(v.count),
                     CNN__INT(n)));
}

/* ---- Norms of one sample ---- */

CNN__CL_FORWARD(sample_norm)
{
    const cnn__sample_norm t = cnn__sample_norm_of(y);
    cnn__cl  *d = cnn__cl_of(dev);
    cnn_place out = cnn_place_data(y), x = cnn_place_data(y->in[0]);
    cnn_place saved = mode == CNN_TRAIN ? cnn_place_saved(y) : cnn_place_scratch(y->graph);
    cnn_place w = t.w ? cnn_place_data(t.w) : x, b = t.b ? cnn_place_data(t.b) : x;
    int       n = cnn__len(y->shape), k = (int)t.k;
    return CNN__RUN(d, sample_norm_statistics, n / k, 1, 1, CNN__ARRAY(x), CNN__ARRAY(saved), CNN__INT(k),
                    CNN__FLOAT(t.eps)) &&
           CNN__RUN(d, sample_norm_forward, n, 1, 1, CNN__ARRAY(out), CNN__ARRAY(x), CNN__ARRAY(saved),
                    CNN__ARRAY(w), CNN__ARRAY(b), CNN__INT(t.w != NULL), CNN__INT(k),
                    CNN__INT(cnn__sample(y->shape)), CNN__INT((int)t.share), CNN__INT(n));
}
CNN__CL_BACKWARD(sample_norm)
{
    const cnn__sample_norm t = cnn__sample_norm_of(y);
    cnn__cl  *d = cnn__cl_of(dev);
    cnn_place dy = cnn_place_grad(y), x = cnn_place_data(y->in[0]), saved = cnn_place_saved(y);
    cnn_place dx = cnn_place_grad(y->in[0]);
    cnn_place w = t.w ? cnn_place_data(t.w) : x;
    bool      want_dw = t.w && t.w->needs_grad, want_db = t.b && t.b->needs_grad;
    cnn_place dw = want_dw ? cnn_place_grad(t.w) : saved, db = want_db ? cnn_place_grad(t.b) : saved;
    int       n = cnn__len(y->shape), k = (int)t.k, sample = cnn__sample(y->shape), share = (int)t.share;
    return (!y->in[0]->needs_grad ||
            CNN__RUN(d, sample_norm_backward, n / k, 1, 1, CNN__ARRAY(dx), CNN__ARRAY(dy), CNN__ARRAY(x),
                     CNN__ARRAY(saved), CNN__ARRAY(w), CNN__INT(t.w != NULL), CNN__INT(k), CNN__INT(sample),
                     CNN__INT(share))) &&
           (!(want_dw || want_db) ||
            CNN__RUN(d, sample_norm_weight, sample / share, 1, 1, CNN__ARRAY(dw), CNN__INT(want_dw),
                     CNN__ARRAY(db), CNN__INT(want_db), CNN__ARRAY(dy), CNN__ARRAY(x), CNN__ARRAY(saved),
                     CNN__INT(k), CNN__INT(sample), CNN__INT(share), CNN__INT(y->shape.n * share)));
}

CNN__CL_FORWARD(prelu)
{
    cnn_place out = cnn_place_data(y), x = cnn_place_data(y->in[0]), w = cnn_place_data(y->in[1]);
    int       n = cnn__len(y->shape), channels = y->in[1]->shape.c, plane = cnn__plane(y->shape);
    (void)mode;
    return CNN__RUN(cnn__cl_of(dev), prelu_forward, n, 1, 1, CNN__ARRAY(out), CNN__ARRAY(x), CNN__ARRAY(w),
                    CNN__INT(channels), CNN__INT(plane), CNN__INT(n));
}
CNN__CL_BACKWARD(prelu)
{
    cnn__cl  *d = cnn__cl_of(dev);
    cnn_place x = cnn_place_data(y->in[0]), w = cnn_place_data(y->in[1]), dy = cnn_place_grad(y);
    cnn_place dx = cnn_place_grad(y->in[0]), dw = cnn_place_grad(y->in[1]);
    int       n = cnn__len(y->shape), channels = y->in[1]->shape.c, plane = cnn__plane(y->shape);
    return (!y->in[0]->needs_grad ||
            CNN__RUN(d, prelu_backward, n, 1, 1, CNN__ARRAY(dx), CNN__ARRAY(dy), CNN__ARRAY(x), CNN__ARRAY(w),
                     CNN__INT(channels), CNN__INT(plane), CNN__INT(n))) &&
           (!y->in[1]->needs_grad ||
            CNN__RUN(d, prelu_weight, channels, 1, 1, CNN__ARRAY(dw), CNN__ARRAY(dy), CNN__ARRAY(x),
                     CNN__INT(channels), CNN__INT(plane), CNN__INT(n)));
}

/* ---- Losses ---- */

/* With its labels, and the class weights v (or the labels again, where it has none). */
typedef struct {
    cnn_place x, labels, v;
    int       weighted, ignored, nll, channels, plane, rows, n;
    float     smoothing;
} cnn__cl_labels;

static cnn__cl_labels cnn__cl_labels_of(const cnn_tensor *y)
{
    cnn_shape         s = y->in[0]->shape;
    const cnn__target t = cnn__target_of(y);
    return (cnn__cl_labels){ cnn_place_data(y->in[0]), cnn_place_data(y->in[1]),
                             cnn_place_data(y->in[y->n_in - 1]),
                             y->n_in == 3, t.ignore, y->op == &cnn_op_nll, s.c, cnn__plane(s),
                                 s.n * cnn__plane(s),
                             cnn__len(s), t.e };
}
CNN__CL_FORWARD(label_loss)
{
    cnn__cl       *d = cnn__cl_of(dev);
    cnn__cl_labels l = cnn__cl_labels_of(y);
    cnn_place      out = cnn_place_data(y), rows = cnn_place_scratch(y->graph);
    bool           save = mode == CNN_TRAIN && !l.nll;
    cnn_place      saved = save ? cnn_place_saved(y) : rows;
    /* The labels were set by the host, which keeps its copy: so the room's check can be made before they are
       used. */
    if ((cnn__of(y->in[1])->data_on & CNN__HOST) && !cnn__check_labels(y)) return false;
    return CNN__RUN(d, label_loss_rows, l.rows, 1, 1, CNN__ARRAY(rows), CNN__ARRAY(saved), CNN__INT(save),
                    CNN__ARRAY(l.x), CNN__ARRAY(l.labels), CNN__ARRAY(l.v), CNN__INT(l.weighted),
                    CNN__INT(l.ignored), CNN__INT(l.nll), CNN__FLOAT(l.smoothing), CNN__INT(l.channels),
                    CNN__INT(l.plane), CNN__INT(l.rows)) &&
           CNN__RUN(d, label_loss_mean, 1, 1, 1, CNN__ARRAY(out), CNN__ARRAY(rows), CNN__ARRAY(l.labels),
                    CNN__ARRAY(l.v), CNN__INT(l.weighted), CNN__INT(l.ignored), CNN__INT(l.channels),
                    CNN__INT(l.rows));
}

CNN__CL_BACKWARD(label_loss)
{
    cnn__cl       *d = cnn__cl_of(dev);
    cnn__cl_labels l = cnn__cl_labels_of(y);
    cnn_place      share = cnn_place_scratch(y->graph), dloss = cnn_place_grad(y);
    cnn_place      saved = l.nll ? share : cnn_place_saved(y);
    if (!y->in[0]->needs_grad) return true;
    cnn_place      dx = cnn_place_grad(y->in[0]);
    return CNN__RUN(d, label_loss_share, 1, 1, 1, CNN__ARRAY(share), CNN__ARRAY(dloss), CNN__ARRAY(l.labels),
                    CNN__ARRAY(l.v), CNN__INT(l.weighted), CNN__INT(l.ignored), CNN__INT(l.channels),
                    CNN__INT(l.rows)) &&
           CNN__RUN(d, label_loss_backward, l.n, 1, 1, CNN__ARRAY(dx), CNN__ARRAY(share), CNN__ARRAY(saved),
                    CNN__ARRAY(l.x), CNN__ARRAY(l.labels), CNN__ARRAY(l.v), CNN__INT(l.weighted),
                    CNN__INT(l.ignored), CNN__INT(l.nll), CNN__FLOAT(l.smoothing), CNN__INT(l.channels),
                    CNN__INT(l.plane), CNN__INT(l.n));
}

/* Between two arrays. Its last arguments, the same both ways: p and w (or the target again, where it has
   none), and the constants. */
static int cnn__cl_pair(const cnn_tensor *y)
{
    return y->op == &cnn_op_mse ? 0 : y->op == &cnn_op_l1 ? 1 : y->op == &cnn_op_huber ? 2 : 3;
}
/* The constants: huber's delta, and a factor. */
static float cnn__cl_delta(const cnn_tensor *y)
{
    return y->op == &cnn_op_huber ? ((const cnn_huber_args *)y->args)->delta : 0.0f;
}
static float cnn__cl_pair_factor(const cnn_tensor *y)
{
    const bool smooth = y->op == &cnn_op_huber && ((const cnn_huber_args *)y->args)->smooth_l1;
    return smooth ? 1 / cnn__cl_delta(y) : 1.0f;
}
static cnn_place cnn__cl_operand(const cnn_tensor *y, int i)
{
    return cnn_place_data(y->in[i < y->n_in ? i : 1]);
}
#define CNN__PAIR(y)                                                                                         \
    CNN__ARRAY(p), CNN__ARRAY(w), CNN__INT((y)->n_in - 2), CNN__INT((y)->in[0]->shape.c),                    \
    CNN__INT(cnn__plane((y)->in[0]->shape)), CNN__INT(n), CNN__INT(cnn__cl_pair(y)),                         \
    CNN__FLOAT(cnn__cl_delta(y)), CNN__FLOAT(cnn__cl_pair_factor(y))

CNN__CL_FORWARD(pair_loss)
{
    cnn_place out = cnn_place_data(y), x = cnn_place_data(y->in[0]), t = cnn_place_data(y->in[1]);
    cnn_place p = cnn__cl_operand(y, 2), w = cnn__cl_operand(y, 3);
    int       n = cnn__len(y->in[0]->shape);
    (void)mode;
    return CNN__RUN(cnn__cl_of(dev), pair_loss_forward, 1, 1, 1, CNN__ARRAY(out), CNN__ARRAY(x),
                    CNN__ARRAY(t), CNN__PAIR(y));
}
CNN__CL_BACKWARD(pair_loss)
{
    cnn_place x = cnn_place_data(y->in[0]), t = cnn_place_data(y->in[1]), dloss = cnn_place_grad(y);
    cnn_place p = cnn__cl_operand(y, 2), w = cnn__cl_operand(y, 3);
    int       n = cnn__len(y->in[0]->shape);
    for (int i = 0; i < 2; i++) {
        if (!y->in[i]->needs_grad) continue;
        cnn_place to = cnn_place_grad(y->in[i]);
        if (!CNN__RUN(cnn__cl_of(dev), pair_loss_backward, n, 1, 1, CNN__ARRAY(to), CNN__ARRAY(x),
                      CNN__ARRAY(t), CNN__ARRAY(dloss), CNN__PAIR(y), CNN__INT(i))) return false;
    }
    return true;
}

/* ---- Training beside the rows ---- */

/* Where an optimizer's row has no kernel, the CPU updates. An option that it does not take is 0: so `rate` is
   lr, and scale 1, but for Adam's. */
static bool cnn__cl_update(cnn_backend *dev, const cnn_optimizer *o, cnn_place w, cnn_place dw,
                           cnn_place slots, size_t n, size_t slot_stride, const cnn_step_args *a, long step)
{
    static const struct { const cnn_optimizer *(*row)(void); int kernel; } rows[] = {
        { cnn_sgd, CNN__CL_sgd }, { cnn_adam, CNN__CL_adam }, { cnn_adamw, CNN__CL_adamw },
        { cnn_rmsprop, CNN__CL_rmsprop }, { cnn_rmsprop_centered, CNN__CL_rmsprop_centered },
        { cnn_adagrad, CNN__CL_adagrad } };
    const size_t n_rows = sizeof rows / sizeof *rows;
    const double t = (double)step + 1, rate = (double)a->lr / (1 - pow((double)a->beta1, t));
    const double scale = 1 / sqrt(1 - pow((double)a->beta2, t));
    size_t k = 0;
    while (k < n_rows && rows[k].row() != o) k++;
    if (k == n_rows || n > INT_MAX) return false;
    return CNN__RUN_NUMBER(cnn__cl_of(dev), rows[k].kernel, (int)n, 1, 1, CNN__ARRAY(w), CNN__ARRAY(dw),
                           CNN__ARRAY(slots), CNN__ULONG(slot_stride), CNN__INT((int)n), CNN__FLOAT(a->lr),
                           CNN__FLOAT(a->weight_decay), CNN__FLOAT(a->momentum),
                           CNN__FLOAT(step ? 1 - a->dampening : 1), CNN__INT(a->nesterov),
                           CNN__FLOAT(a->beta1), CNN__FLOAT(a->beta2), CNN__FLOAT((float)rate),
                           CNN__FLOAT((float)scale), CNN__FLOAT(a->alpha), CNN__FLOAT(a->eps));
}

static bool cnn__cl_scale(cnn_backend *dev, cnn_place x, size_t n, float factor)
{
    cnn_shape s = { 1, 1, 1, (int)n };
    return cnn__cl_spread(cnn__cl_of(dev), x, s, 0, factor, x, s, 0);
}

static bool cnn__cl_mix(cnn_backend *dev, cnn_place a, cnn_place x, size_t n, float share)
{
    cnn_shape s = { 1, 1, 1, (int)n };
    return cnn__cl_spread(cnn__cl_of(dev), a, s, 1 - share, share, x, s, 0);
}

static bool cnn__cl_squares(cnn_backend *dev, cnn_place x, size_t n, bool anew, double *take)
{
    cnn__cl  *d = cnn__cl_of(dev);
    cnn_place sums = { d->slices, CNN__CL_SLICES };
    float     part[CNN__CL_SQUARES];
    if (n &&
        !CNN__RUN(d, squares, CNN__CL_SQUARES, 1, 1, CNN__ARRAY(sums), CNN__ARRAY(x), CNN__INT((int)n),
                  CNN__INT(anew))) return false;
    if (!take) return true;
    if (!cnn__cl_download(dev, d->slices, sums.at * sizeof(float), part, sizeof part)) return false;
    *take = 0;
    for (int i = 0; i < CNN__CL_SQUARES; i++) *take += (double)part[i];
    return true;
}

static bool cnn__cl_correct(cnn_backend *dev, cnn_place logits, cnn_shape s, cnn_place labels, bool anew,
                            int *take)
{
    cnn__cl  *d = cnn__cl_of(dev);
    cnn_place sum = { d->slices, CNN__CL_COUNTER };
    int       plane = cnn__plane(s), rows = s.n * plane;
    return CNN__RUN(d, correct, 1, 1, 1, CNN__ARRAY(sum), CNN__ARRAY(logits), CNN__ARRAY(labels),
                    CNN__INT(s.c), CNN__INT(plane), CNN__INT(rows), CNN__INT(anew)) &&
           (!take || cnn__cl_download(dev, d->slices, sum.at * sizeof(float), take, sizeof(cl_int)));
}

/* ---- The table: every operation of cnn.h ---- */

static size_t cnn__cl_scratch(const cnn_backend *dev, const cnn_tensor *y)
{
    const cnn__cl *d = (const cnn__cl *)(const void *)dev;
    if (y->op == &cnn_op_conv2d || y->op == &cnn_op_conv_transpose2d) {
        cnn__conv g = y->op == &cnn_op_conv2d ? cnn__conv_of(y) : cnn__transpose_of(y);
        return cnn__cl_conv_scratch(d, &g);
    }
    if (y->op == &cnn_op_batch_norm)            return 2 * (size_t)y->shape.c * sizeof(float);
    if (y->op == &cnn_op_layer_norm || y->op == &cnn_op_group_norm || y->op == &cnn_op_instance_norm)
        return y->op->saved(y);
    if (y->op == &cnn_op_softmax_cross_entropy || y->op == &cnn_op_nll)
        /* rows; or the two of label_loss_share */
        return ((size_t)cnn__len(y->in[1]->shape) + 2) * sizeof(float);
    return 0;
}

#define CNN__CL_ROW(name, functions)                                                                         \
    { &cnn_op_##name, NULL, cnn__cl_##functions##_forward, cnn__cl_##functions##_backward },
#define CNN__CL_MAP(X, name, value, derivative) CNN__CL_ROW(name, map)
static const cnn_kernel cnn__cl_rows[] = {
    CNN__CL_ROW(conv2d, conv2d) CNN__CL_ROW(conv_transpose2d, conv_transpose2d)
    CNN__CL_ROW(dense, dense) CNN__CL_ROW(matmul, matmul)
    CNN__CL_ROW(max_pool, max_pool) CNN__CL_ROW(global_max_pool, max_pool) CNN__CL_ROW(avg_pool, avg_pool)
    CNN__CL_ROW(global_avg_pool, reduce) CNN__CL_ROW(sum, reduce) CNN__CL_ROW(mean, reduce)
    CNN__CL_ROW(add, binary) CNN__CL_ROW(sub, binary) CNN__CL_ROW(mul, binary) CNN__CL_ROW(scale, scale)
    CNN__CL_ROW(concat, concat) CNN__CL_ROW(reshape, reshape) CNN__CL_ROW(slice, slice) CNN__CL_ROW(pad, pad)
    CNN__CL_ROW(upsample, upsample) CNN__CL_ROW(lrn, lrn) CNN__CL_ACTIVATIONS(CNN__CL_MAP, )
    CNN__CL_ROW(softmax, softmax) CNN__CL_ROW(log_softmax, softmax) CNN__CL_ROW(dropout, dropout)
    CNN__CL_ROW(prelu, prelu) CNN__CL_ROW(layer_norm, sample_norm) CNN__CL_ROW(group_norm, sample_norm)
    CNN__CL_ROW(instance_norm, sample_norm)
    CNN__CL_ROW(batch_norm, batch_norm)
    CNN__CL_ROW(softmax_cross_entropy, label_loss) CNN__CL_ROW(nll, label_loss)
    CNN__CL_ROW(mse, pair_loss) CNN__CL_ROW(l1, pair_loss) CNN__CL_ROW(huber, pair_loss)
    CNN__CL_ROW(bce_with_logits, pair_loss) };

/* ===========================================================================================================
   >>cl-open ---- 7. Opening, checking and closing a device
   ======================================================================================================== */

static void cnn__cl_close(cnn_backend *dev)
{
    cnn__cl *d = cnn__cl_of(dev);
    if (d->queue) d->cl.clFinish(d->queue);
    if (d->clblast) d->blas.CLBlastClearCache();            /* it holds programs of this context */
    for (int i = 0; i < 2; i++) {
        if (d->stage[i].sent) d->cl.clReleaseEvent(d->stage[i].sent);
        CNN_FREE(d->stage[i].memory);
    }
    cnn__cl_forget_launches(d);
    if (d->slices)  d->cl.clReleaseMemObject(d->slices);
    if (d->program) d->cl.clReleaseProgram(d->program);
    if (d->queue)   d->cl.clReleaseCommandQueue(d->queue);
    if (d->context) d->cl.clReleaseContext(d->context);
    CNN_FREE(d);
}

static const char cnn__cl_options[] = "-cl-std=CL1.2";
enum { CNN__CL_SOURCES = sizeof cnn__cl_source / sizeof *cnn__cl_source };

/* Build d->program; if it does not build, the compiler's log is the message. */
static bool cnn__cl_build_program(cnn__cl *d)
{
    size_t bytes = 0;
    cl_int e = d->cl.clBuildProgram(d->program, 1, &d->device, cnn__cl_options, NULL, NULL);
    if (e == CL_SUCCESS) return true;
    d->cl.clGetProgramBuildInfo(d->program, d->device, CL_PROGRAM_BUILD_LOG, 0, NULL, &bytes);
    char *log = CNN_MALLOC(bytes + 1);
    if (log && d->cl.clGetProgramBuildInfo(d->program, d->device, CL_PROGRAM_BUILD_LOG, bytes, log,
                                           NULL) == CL_SUCCESS) {
        log[bytes] = 0;
        cnn__format(d->base.error, sizeof d->base.error, "the kernels do not build: %s", log);
    }
    CNN_FREE(log);
    return cnn__cl_fail(d, "build", e);
}

#ifndef CNN_NO_STDIO
/* ---- Compiled kernels on disk ----

   A file is: the 8 characters of `magic`, and three numbers of 8 bytes: the key, the length of what follows
   and its checksum. The key is that of the device, its driver and the sources; it also names the file. A file
   that is cut, changed, another's or refused by the driver counts as none, and is written again. */

static const char cnn__cl_magic[] = "cnnocl1\n";
enum { CNN__CL_HEAD = 32 };

static uint64_t cnn__cl_key(cnn__cl *d)
{
    static const cl_device_info about[] = { CL_DEVICE_NAME, CL_DEVICE_VENDOR, CL_DEVICE_VERSION,
                                            CL_DRIVER_VERSION };
    uint64_t key = cnn__cl_hash(0, cnn__cl_options, sizeof cnn__cl_options);
    for (int i = 0; i < 4; i++) {
        char text[256] = "";
        d->cl.clGetDeviceInfo(d->device, about[i], sizeof text - 1, text, NULL);
        key = cnn__cl_hash(key, text, sizeof text);
    }
    for (int i = 0; i < CNN__CL_SOURCES; i++)
        key = cnn__cl_hash(key, cnn__cl_source[i], strlen(cnn__cl_source[i]));
    return key;
}

static void cnn__cl_head(unsigned char head[CNN__CL_HEAD], uint64_t key, const unsigned char *binary,
                         size_t bytes)
{
    const uint64_t number[3] = { key, bytes, cnn__cl_hash(0, binary, bytes) };
    memcpy(head, cnn__cl_magic, 8);
    for (int i = 0; i < 3; i++) cnn__put_le(head + 8 + 8 * i, number[i], 8);
}

static void cnn__cl_read_cache(cnn__cl *d, const char *path, uint64_t key)
{
    char           why[128];
    unsigned char  head[CNN__CL_HEAD];
    size_t         bytes = 0;
    cl_int         e, status;
    unsigned char *file = cnn__is_special(path) ? NULL : cnn__read_file(path, &bytes, why, sizeof why);
    if (file && bytes > CNN__CL_HEAD) {
        const unsigned char *binary = file + CNN__CL_HEAD;
        bytes -= CNN__CL_HEAD;
        cnn__cl_head(head, key, binary, bytes);
        if (memcmp(head, file, sizeof head) == 0)
            d->program = d->cl.clCreateProgramWithBinary(d->context, 1, &d->device, &bytes, &binary, &status,
                                                         &e);
    }
    CNN_FREE(file);
    if (!d->program) return;
    if (d->cl.clBuildProgram(d->program, 1, &d->device, cnn__cl_options, NULL, NULL) == CL_SUCCESS) return;
    d->cl.clReleaseProgram(d->program);
    d->program = NULL;
}

typedef struct { unsigned char head[CNN__CL_HEAD], *binary; size_t bytes; } cnn__cl_cache;
static bool cnn__cl_put_cache(FILE *f, void *what)
{
    const cnn__cl_cache *c = what;
    return fwrite(c->head, 1, sizeof c->head, f) == sizeof c->head &&
           fwrite(c->binary, 1, c->bytes, f) == c->bytes;
}

/* A directory that cannot be written is no error. */
static void cnn__cl_write_cache(cnn__cl *d, const char *path, uint64_t key)
{
    cnn__cl_cache c = { { 0 }, NULL, 0 };
    d->cl.clGetProgramInfo(d->program, CL_PROGRAM_BINARY_SIZES, sizeof c.bytes, &c.bytes, NULL);
    c.binary = c.bytes ? CNN_MALLOC(c.bytes) : NULL;
    if (c.binary && d->cl.clGetProgramInfo(d->program, CL_PROGRAM_BINARIES, sizeof c.binary, &c.binary,
                                           NULL) == CL_SUCCESS) {
        cnn__cl_head(c.head, key, c.binary, c.bytes);
        cnn_write_file(path, cnn__cl_put_cache, &c);
    }
    CNN_FREE(c.binary);
}

#endif

static bool cnn__cl_build(cnn__cl *d, const char *cache)
{
    const char *source[CNN__CL_SOURCES];
    cl_int      e;
#ifndef CNN_NO_STDIO
    char     path[1100] = "";
    uint64_t key = cache ? cnn__cl_key(d) : 0;
    if (cache && strlen(cache) < 1000) {
        cnn__format(path, sizeof path, "%s/cnn_opencl-%016llx.bin", cache, (unsigned long long)key);
        cnn__cl_read_cache(d, path, key);
        d->cached = d->program != NULL;
        if (d->cached) return true;
    }
#else
    (void)cache;
#endif
    for (int i = 0; i < CNN__CL_SOURCES; i++) source[i] = cnn__cl_source[i];
    d->program = d->cl.clCreateProgramWithSource(d->context, CNN__CL_SOURCES, source, NULL, &e);
    if (!d->program) return cnn__cl_fail(d, "program", e);
    if (!cnn__cl_build_program(d)) return false;
#ifndef CNN_NO_STDIO
    if (path[0]) cnn__cl_write_cache(d, path, key);
#endif
    return true;
}

static const char cnn__cl_check_memory[] = "out of memory in the check of the kernels";

/* Is C = op(A) op(B) + beta C right? Small whole numbers, so that float has no rounding and every order of
   adding the same sum; every `every`-th element is compared. */
static bool cnn__cl_try_gemm(cnn__cl *d, int m, int n, int k, bool ta, bool tb, float beta, int every)
{
    size_t  an = (size_t)m * (size_t)k, bn = (size_t)k * (size_t)n, cn = (size_t)m * (size_t)n;
    size_t  all = an + bn + cn, at = 8;
    float  *host = CNN_MALLOC((2 * all + at) * sizeof *host);
    if (!host)
        return cnn__format(d->base.error, sizeof d->base.error, "%s", cnn__cl_check_memory), false;
    float  *a = host + at, *b = a + an, *c = b + bn, *got = c + cn;
    void   *buffer = d->base.alloc(&d->base, (all + at) * sizeof *host);
    bool    same = false;
    for (size_t i = 0; i < all + at; i++)
        host[i] = (float)((int)(cnn__random_bits(1, all, i) % 7) - 3);
    if (buffer && d->base.upload(&d->base, buffer, 0, host, (all + at) * sizeof *host) &&
        cnn__cl_gemm(d, (cnn_place){ buffer, at + an + bn }, n, beta, (cnn_place){ buffer, at }, ta ? m : k,
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
static bool cnn__cl_check_gemm(cnn__cl *d)
{
    static const struct { int m, n, k; } sizes[] = {
        { 7, 133, 31 }, { 133, 9, 70 }, { 64, 64, 64 }, { 128, 192, 64 }, { 20, 30, 3000 },
            { 16, 16, 2000 } };
    bool right = true;
    for (int i = 0; i < 6; i++)
        for (int way = 0; way < 4 && right; way++)
            right = cnn__cl_try_gemm(d, sizes[i].m, sizes[i].n, sizes[i].k, way & 1, way >> 1,
                                     (float)(way != 2), 1);
    return right && (!d->clblast || (cnn__cl_try_gemm(d, 1024, 1024, 1024, false, true, 0, 997) &&
                                     cnn__cl_try_gemm(d, 1100, 1300, 1050, true, false, 1, 997)));
}

/* Before version 1.6.3 CLBlast's way for large products overwrites memory on some Intel devices; 1 << 20 is
   larger than any product's side. */
static void cnn__cl_force_direct(cnn__cl *d)
{
    const char *names[] = { "XGEMM_MIN_INDIRECT_SIZE" };
    size_t      values[] = { 1 << 20 };
    d->blas.CLBlastOverrideParameters(d->device, "GemmRoutine", 32, 1, names, values);
}

/* Which code multiplies matrices; the report says so. A wrong product of our own kernel is an error. */
static bool cnn__cl_choose_gemm(cnn__cl *d, const cnn_opencl_args *a, const cnn_opencl_device *about,
                                const char **says)
{
    char vendor[128] = "";
    *says = "our own GEMM";
    if (!cnn__cl_check_gemm(d)) {
        if (!d->base.error[0])
            cnn__format(d->base.error, sizeof d->base.error,
                        "%s multiplies matrices wrongly; its driver cannot be trusted", d->name);
        return false;
    }
    if (a->gemm == CNN_OPENCL_OWN || (a->gemm == CNN_OPENCL_AUTO && about->type == CNN_OPENCL_CPU))
        return true;
    if (!cnn__load_clblast(&d->blas)) {
        *says = "our own GEMM (CLBlast is not installed)";
        return true;
    }
    d->clblast = true;
    d->cl.clGetDeviceInfo(d->device, CL_DEVICE_VENDOR, sizeof vendor - 1, vendor, NULL);
    bool intel = cnn__cl_contains(vendor, "intel") && about->type != CNN_OPENCL_CPU;
    if (intel) cnn__cl_force_direct(d);
    *says = intel ? "CLBlast (direct)" : "CLBlast";
    if (cnn__cl_check_gemm(d)) return true;
    d->base.error[0] = 0;
    cnn__cl_force_direct(d);
    *says = "CLBlast (direct: its indirect way gave wrong products)";
    if (cnn__cl_check_gemm(d)) return true;
    d->base.error[0] = 0;
    d->clblast = false;
    d->blas.CLBlastClearCache();
    *says = "our own GEMM (CLBlast gave wrong products)";
    return true;
}

/* ---- The check of the rows: a net around one operation, its row alone on the device, beside the CPU's
   ---- */

static const float cnn__cl_class_weights[] = { 1, 0.5f, 2, 0.25f, 0, 3 };
static cnn_tensor *cnn__cl_sample(const cnn_op *op, cnn_graph *g, cnn_tensor *x, cnn_tensor *t, int way)
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
    if (op == &cnn_op_global_avg_pool) return cnn_global_avg_pool(x);
    if (op == &cnn_op_sum)             return cnn_sum(x, CNN_N | CNN_W);
    if (op == &cnn_op_mean)            return cnn_mean(x, way ? 0 : CNN_C);
    if (op == &cnn_op_add)             return cnn_add(x, u);
    if (op == &cnn_op_sub)             return cnn_sub(u, x);
    if (op == &cnn_op_mul)             return cnn_mul(u, x);
    if (op == &cnn_op_scale)           return cnn_scale(x, -2, 0.5f);
    if (op == &cnn_op_concat)          return cnn_concat(x, x, x);
    if (op == &cnn_op_reshape)         return cnn_flatten(x);
    if (op == &cnn_op_leaky_relu)      return cnn_leaky_relu(x, 0.2f);
    if (op == &cnn_op_softmax)         return cnn_softmax(x);
    if (op == &cnn_op_dropout)         return cnn_dropout(x, 0.3f);
    if (op == &cnn_op_batch_norm)      return cnn_batch_norm(x, .no_affine = way);
    cnn_tensor *v = way ? cnn_const(g, cnn__vector(6), cnn__cl_class_weights) : NULL;
    if (op == &cnn_op_softmax_cross_entropy)
        return cnn_softmax_cross_entropy(x, t, .smoothing = way ? 0.1f : 0, .class_weights = v,
                                         .ignore_index = 2 * way);
    if (op == &cnn_op_nll)             return cnn_nll(x, t, .class_weights = v, .ignore_index = 2 * way);
    if (op == &cnn_op_conv_transpose2d)
        return cnn_conv_transpose2d(x, 4, 3, .stride = 2, .pad = 1, .groups = 1 + way);
    if (op == &cnn_op_global_max_pool) return cnn_global_max_pool(x);
    if (op == &cnn_op_slice)           return cnn_slice(x, way ? CNN_H : CNN_C, 1, 5, .step = 2);
    if (op == &cnn_op_pad)             return cnn_pad(x, 1, 2, 0, 1, .value = 0.5f);
    if (op == &cnn_op_upsample)
        return way ? cnn_upsample(x, .height = 11, .width = 3, .bilinear = 1, .align_corners = 1)
                   : cnn_upsample(cnn_upsample(x, 2), .height = 7, .width = 13, .bilinear = 1);
    if (op == &cnn_op_lrn)             return cnn_lrn(x, 3, .alpha = 0.5f);
    if (op == &cnn_op_clamp)           return cnn_clamp(x, -1, 0.5f);
    if (op == &cnn_op_log_softmax)     return cnn_log_softmax(x);
    if (op == &cnn_op_prelu)           return cnn_prelu(x, .per_channel = way);
    if (op == &cnn_op_layer_norm)      return cnn_layer_norm(x, .no_affine = way);
    if (op == &cnn_op_group_norm)      return cnn_group_norm(x, 2 + way);
    if (op == &cnn_op_instance_norm)   return cnn_instance_norm(x, .affine = way);
    if (op == &cnn_op_gelu)            return cnn_gelu(x, .tanh = way);
    if (op == &cnn_op_huber)           return cnn_huber(x, cnn_scale(x, 2, 1), 0.5f, .smooth_l1 = way);
    cnn_tensor *in[2] = { x, cnn_sub(x, row) };
    if (op == &cnn_op_bce_with_logits) return cnn_bce_with_logits(x, in[1], .pos_weight = v, .weight = v);
    /* a loss of two, else a function of one number */
    bool        pair = op->flags & CNN_LOSS;
    if (op == &cnn_op_log || op == &cnn_op_sqrt) in[0] = cnn_scale(x, 0.25f, 1);
    return cnn_apply(op, in, pair ? 2 : 1, NULL, CNN_HERE);
}

static bool cnn__cl_near(const float *a, const float *b, size_t n)
{
    bool near = a && b;
    for (size_t i = 0; near && i < n; i++) near = fabsf(a[i] - b[i]) <= 1e-3f * (1 + fabsf(b[i]));
    return near;
}

/* A training step and one more update on both: the same loss, gradients and parameters? With the optimizer o,
   NULL for SGD with momentum, the gradients are clipped, and the parameters are averages. A lack of host
   memory says nothing about the row: it stops the opening. */
static bool cnn__cl_try_row(cnn__cl *d, const cnn_op *op, int way, const cnn_optimizer *o)
{
    enum { BATCH = 3, SAMPLE = 6 * 6 * 5, LABELS = 6 * 5 };
    float      *x = CNN_MALLOC(BATCH * SAMPLE * sizeof *x);
    int         labels[BATCH * LABELS];
    float       loss[2] = { 0, 0 }, clipped[2] = { 0, 0 };
    cnn_graph  *g[2] = { NULL, NULL };
    for (int i = 0; x && i < BATCH * SAMPLE; i++)
        x[i] = 4 * cnn__uniform(cnn__random_bits(2, (uint64_t)way, (uint64_t)i)) - 2;
    for (int i = 0; i < BATCH * LABELS; i++) labels[i] = i % 6;
    for (int k = 0; x && k < 2; k++) {
        cnn_graph  *one = g[k] = cnn_new(.max_batch = BATCH, .seed = 7, .threads = 1, .optimizer = o,
                                     .backend = k ? &d->base : NULL);
        cnn_tensor *in = cnn_input(one, 6, 6, 5, .grad = 1), *t = cnn_labels(one, 6, 5);
        cnn_tensor *y = cnn__cl_sample(op, one, in, t, way);
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
    bool same = g[0] && g[1] && !cnn_error(g[0]) && !cnn_error(g[1]) && cnn__cl_near(&loss[1], &loss[0], 1) &&
                cnn__cl_near(&clipped[1], &clipped[0], 1);
    for (int i = 0; same && i < g[0]->n_order; i++) {
        cnn_tensor *a = &g[0]->order[i]->t, *b = &g[1]->order[i]->t;
        if (a->op) continue;
        same = cnn__cl_near(cnn_map_read(b), cnn_map_read(a), cnn_count(a)) &&
               (!a->needs_grad || cnn__cl_near(cnn_map_grad(b), cnn_map_grad(a), cnn_count(a)));
    }
    d->base.error[0] = 0;
    if (!g[0] || !g[1] || cnn_error(g[0]) || (cnn_error(g[1]) && strstr(cnn_error(g[1]), "out of memory")))
        cnn__format(d->base.error, sizeof d->base.error, "%s", cnn__cl_check_memory);
    cnn_free(g[0]), cnn_free(g[1]);
    CNN_FREE(x);
    return same;
}

/* Keep the rows that compute what their rooms compute; the report names the others. */
static bool cnn__cl_check_rows(cnn__cl *d)
{
    void     (*close)(cnn_backend *) = d->base.close;
    int        rows = d->base.n_kernels, kept = 0;
    size_t     room = sizeof d->report;
    cnn_kernel one;
    d->base.close = NULL, d->base.kernels = &one, d->base.n_kernels = 1;
    for (int i = 0; i < rows && !d->base.error[0]; i++) {
        one = d->row[i];
        if (cnn__cl_try_row(d, one.op, 0, NULL) && cnn__cl_try_row(d, one.op, 1, NULL)) d->row[kept++] = one;
        else if (!d->base.error[0])
            cnn__format(d->report + strlen(d->report), room - strlen(d->report),
                        "; wrong here and left to the CPU: %s", one.op->name);
    }
    d->base.close = close, d->base.kernels = d->row, d->base.n_kernels = kept;
    return !d->base.error[0];
}

/* And of what stands beside them: the optimizers, clipping, the count of correct rows. */
static bool cnn__cl_check_training(cnn__cl *d)
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
        right = cnn__cl_correct(&d->base, (cnn_place){ buffer, 0 }, (cnn_shape){ 4, 3, 1, 1 },
                                (cnn_place){ buffer, 12 }, !i, i ? &correct : NULL);
    if (buffer) d->base.release(&d->base, buffer);
    d->base.close = NULL;
    for (int i = 0; i < n_optimizers && right; i++)
        right = cnn__cl_try_row(d, &cnn_op_dense, 0, optimizers[i]);
    d->base.close = close;
    if (d->base.error[0] || (right && correct == 2 * 2)) return !d->base.error[0];
    d->base.update = NULL, d->base.scale = NULL, d->base.mix = NULL;
    d->base.squares = NULL, d->base.correct = NULL;
    cnn__format(d->report + strlen(d->report), room - strlen(d->report),
                "; wrong here and left to the CPU: updates");
    return true;
}

/* Is `name` one of "conv2d,relu"? */
static bool cnn__cl_listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *s = list; s && *s; s += strcspn(s, ","), s += *s == ',')
        if (strcspn(s, ",") == n && strncmp(s, name, n) == 0) return true;
    return false;
}

static bool cnn__cl_open(cnn__cl *d, cnn_opencl_args *a, cnn__cl_device *list)
{
    cl_int e;
    char  *error = d->base.error;
    size_t room = sizeof d->base.error;
    cnn__cl_wish(a);
    const char *lacks = cnn__load_opencl(&d->cl);
    if (lacks)
        return cnn__format(error, room, "no OpenCL 1.2 on this machine: %s%s",
                           lacks[0] == 'c' ? "libOpenCL lacks " : "", lacks), false;
    int count = cnn__cl_list(&d->cl, list);
    const cnn__cl_device *chosen = cnn__cl_choose(list, count, a);
    if (!chosen)
        return cnn__format(error, room, !count ? "OpenCL finds no device on this machine" :
                           "OpenCL finds %d device%s here, the first is %s, but none as asked for "
                           "(a CPU is taken only if it is asked for)", count, count == 1 ? "" : "s",
                               list[0].about.name), false;
    d->device = chosen->id;
    memcpy(d->name, chosen->about.name, sizeof d->name);
    d->base.name = d->name;
    size_t   group = 0;
    cl_ulong largest = 0;
    cl_bool  unified = CL_FALSE;
    d->cl.clGetDeviceInfo(d->device, CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof group, &group, NULL);
    d->cl.clGetDeviceInfo(d->device, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof largest, &largest, NULL);
    d->cl.clGetDeviceInfo(d->device, CL_DEVICE_HOST_UNIFIED_MEMORY, sizeof unified, &unified, NULL);
    d->unified = unified && !a->no_map;
    d->max_buffer = largest > SIZE_MAX ? SIZE_MAX : (size_t)largest;
    d->workspace = a->workspace ? a->workspace : (size_t)256 << 20;
    if (group < CNN__CL_GROUP)
        return cnn__format(error, room, "%s allows groups of %zu items; %d are needed", d->name, group,
                           (int)CNN__CL_GROUP), false;

    const cl_context_properties properties[] = { CL_CONTEXT_PLATFORM, (cl_context_properties)chosen->platform,
                                                 0 };
    d->context = d->cl.clCreateContext(properties, 1, &d->device, NULL, NULL, &e);
    if (!d->context) return cnn__cl_fail(d, "context", e);
    d->queue = d->cl.clCreateCommandQueue(d->context, d->device, 0, &e);
    if (!d->queue) return cnn__cl_fail(d, "queue", e);
    const char *says;
    if (!cnn__cl_build(d, a->cache)) return false;
    d->slices = (cl_mem)cnn__cl_alloc(&d->base, (CNN__CL_COUNTER + 1) * sizeof(float));
    if (!d->slices || !cnn__cl_choose_gemm(d, a, &chosen->about, &says)) return false;
    cnn__format(d->report, sizeof d->report, "%s (%s, %s), %s%s", d->name, chosen->about.version,
                chosen->about.platform, says, d->cached ? ", cached kernels" : "");
    for (size_t i = 0; i < sizeof cnn__cl_rows / sizeof *cnn__cl_rows; i++)
        if (!cnn__cl_listed(a->without, cnn__cl_rows[i].op->name))
            d->row[d->base.n_kernels++] = cnn__cl_rows[i];
    return a->no_check || (cnn__cl_check_rows(d) && cnn__cl_check_training(d));
}

CNN_API cnn_backend *cnn_opencl_(cnn_opencl_args a)
{
    static const cnn_backend no_memory = { .name = "OpenCL", .error = "out of memory" };
    cnn__cl        *d = CNN_MALLOC(sizeof *d);
    cnn__cl_device *list = CNN_MALLOC(CNN__CL_MAX_DEVICES * sizeof *list);
    if (!d || !list) {
        CNN_FREE(d);
        CNN_FREE(list);
        return (cnn_backend *)(uintptr_t)&no_memory;
    }
    memset(d, 0, sizeof *d);
    d->base = (cnn_backend){
        .name = "OpenCL", .alloc = cnn__cl_alloc, .release = cnn__cl_release, .upload = cnn__cl_upload,
        .download = cnn__cl_download, .clear = cnn__cl_clear, .scratch = cnn__cl_scratch,
        .update = cnn__cl_update, .scale = cnn__cl_scale, .mix = cnn__cl_mix, .squares = cnn__cl_squares,
        .correct = cnn__cl_correct, .close = cnn__cl_close, .kernels = d->row };
    if (!cnn__cl_open(d, &a, list) && !d->base.error[0])
        cnn__format(d->base.error, sizeof d->base.error, "it cannot be opened");
    CNN_FREE(list);
    return &d->base;
}

CNN_API const char *cnn_opencl_error(const cnn_backend *dev)
{
    return dev && dev->error[0] ? dev->error : NULL;
}

CNN_API const char *cnn_opencl_report(const cnn_backend *dev)
{
    return !dev ? "no device" : dev->error[0] ? dev->error : ((const cnn__cl *)(const void *)dev)->report;
}

CNN_API void cnn_opencl_close(cnn_backend *dev)
{
    if (dev && dev->close) dev->close(dev);
}

CNN_API bool cnn_opencl_tune(cnn_backend *dev, const char *kernel, int count, const char **names,
                             const size_t *values)
{
    cnn__cl *d = dev && dev->close ? cnn__cl_of(dev) : NULL;
    return d && d->clblast && d->blas.CLBlastOverrideParameters(d->device, kernel, 32, (size_t)count, names,
                                                                values) == 0;
}

#endif /* CNN_OPENCL_IMPLEMENTATION_ONCE */
#endif /* CNN_OPENCL_IMPLEMENTATION */

/* >>licence ---- Licence ------------------------------------------------------------------------------------

   This file is available under two licences. Choose whichever you prefer.

   ALTERNATIVE A - MIT License

   Copyright (c) 2026 cnn.h contributors

   Permission is hereby granted, free of charge, to any person obtaining a copy of
   this software and associated documentation files (the "Software"), to deal in
   the Software without restriction, including without limitation the rights to
   use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies
   of the Software, and to permit persons to whom the Software is furnished to do
   so, subject to the following conditions:

   The above copyright notice and this permission notice shall be included in all
   copies or substantial portions of the Software.

   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
   IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
   FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
   AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
   LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
   OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
   SOFTWARE.

   ----------------------------------------------------------------------------
   ALTERNATIVE B - Public Domain (www.unlicense.org)

   This is free and unencumbered software released into the public domain.

   Anyone is free to copy, modify, publish, use, compile, sell, or distribute this
   software, either in source code form or as a compiled binary, for any purpose,
   commercial or non-commercial, and by any means.

   In jurisdictions that recognize copyright laws, the author or authors of this
   software dedicate any and all copyright interest in the software to the public
   domain. We make this dedication for the benefit of the public at large and to
   the detriment of our heirs and successors. We intend this dedication to be an
   overt act of relinquishment in perpetuity of all present and future rights to
   this software under copyright law.

   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
   IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
   FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
   AUTHORS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN
   ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION
   WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

   For more information, please refer to <https://unlicense.org>
*/
