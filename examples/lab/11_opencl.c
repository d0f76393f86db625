/* Exercise 11: conv2d as an OpenCL kernel. Your code goes into lab.cl; this is the program around it.

     cc -std=c99 -O2 examples/lab/11_opencl.c -o lab11 -lm -lOpenCL && ./lab11       (faster: see lab.h)

   It takes the first GPU, else any device; x, w and b are copied there and y back for each call, and the time
   shown counts the copies. LAB_CL=FILE takes another file than lab.cl. */
#include "lab.h"
#define CL_TARGET_OPENCL_VERSION 120
#ifdef __APPLE__
#include <OpenCL/opencl.h>
#else
#include <CL/cl.h>
#endif

static cl_context       context;
static cl_command_queue queue;
static cl_kernel        kernel;

static cl_device_id first_device(void)
{
    cl_platform_id platform[8];
    cl_device_id   device;
    cl_uint        n = 0;
    if (clGetPlatformIDs(8, platform, &n) != CL_SUCCESS) return NULL;
    for (int any = 0; any < 2; any++)
        for (cl_uint i = 0; i < n && i < 8; i++)
            if (clGetDeviceIDs(platform[i], any ? CL_DEVICE_TYPE_ALL : CL_DEVICE_TYPE_GPU, 1, &device, NULL)
                == CL_SUCCESS) return device;
    return NULL;
}
static char *read_source(void)
{
    static char source[1 << 16];
    const char *slash = strrchr(__FILE__, '/'), *given = getenv("LAB_CL");
    char        path[600];
    snprintf(path, sizeof path, "%.*slab.cl", slash ? (int)(slash - __FILE__) + 1 : 0, __FILE__);
    FILE *f = fopen(given ? given : path, "r");
    if (!f) fprintf(stderr, "cannot read %s\n", given ? given : path), exit(2);
    source[fread(source, 1, sizeof source - 1, f)] = 0;
    fclose(f);
    return source;
}
/* False if lab.cl does not compile: the compiler's words are printed. */
static bool build(cl_device_id device)
{
    const char *source = read_source();
    cl_int      error;
    context = clCreateContext(NULL, 1, &device, NULL, NULL, &error);
    queue = clCreateCommandQueue(context, device, 0, &error);
    cl_program program = clCreateProgramWithSource(context, 1, &source, NULL, &error);
    if (clBuildProgram(program, 1, &device, "", NULL, NULL) != CL_SUCCESS) {
        static char log[4000];
        clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, sizeof log - 1, log, NULL);
        fprintf(stderr, "lab.cl does not compile:\n%s\n", log);
        return false;
    }
    kernel = clCreateKernel(program, "conv2d", &error);
    return error == CL_SUCCESS;
}
static cl_mem buffer(const float *from, size_t n)
{
    cl_int error;
    cl_mem m = clCreateBuffer(context, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, n * sizeof(float),
                              (void *)(uintptr_t)from, &error);
    return error == CL_SUCCESS ? m : NULL;
}
/* conv2d by lab.cl. Not done: the kernel wrote nothing. */
static lab_answer run_kernel(float *y, const float *x, const float *w, const float *b, int N, int C, int H,
                             int W, int O, int K, int stride, int pad)
{
    const int    OH = lab_out(H, K, stride, pad), OW = lab_out(W, K, stride, pad);
    const size_t items[3] = { (size_t)OW, (size_t)OH, (size_t)(N * O) },
        count = items[0] * items[1] * items[2];
    const int    sizes[8] = { N, C, H, W, O, K, stride, pad };
    bool         wrote = false;
    for (size_t i = 0; i < count; i++) y[i] = NAN;
    cl_mem m[4] = { buffer(y, count), buffer(x, (size_t)(N * C * H * W)), buffer(w, (size_t)(O * C * K * K)),
                    buffer(b, (size_t)O) };
    for (cl_uint i = 0; i < 4; i++) clSetKernelArg(kernel, i, sizeof m[i], &m[i]);
    for (cl_uint i = 0; i < 8; i++) clSetKernelArg(kernel, 4 + i, sizeof sizes[i], &sizes[i]);
    const cl_int error = clEnqueueNDRangeKernel(queue, kernel, 3, NULL, items, NULL, 0, NULL, NULL);
    if (error != CL_SUCCESS) fprintf(stderr, "the kernel does not start: error %d\n", error);
    clEnqueueReadBuffer(queue, m[0], CL_TRUE, 0, count * sizeof *y, y, 0, NULL, NULL);
    for (int i = 0; i < 4; i++) if (m[i]) clReleaseMemObject(m[i]);
    for (size_t i = 0; i < count && !wrote; i++) wrote = !isnan(y[i]);
    return wrote ? DONE : NOT_DONE;
}

int main(int argc, char **argv)
{
    cl_device_id device = first_device();
    if (!device) return printf("Exercise 11: skipped: no OpenCL device\n"), 3;
    if (!build(device)) return 2;
    return lab_conv2d_opencl(argc, argv, run_kernel);
}
