/* android.c - where the companion looks for OpenCL on Android: the names that the makers of GPUs give it, in order. */
#include "cnn.h"
#include <string.h>
#include <dlfcn.h>
#define __ANDROID__
static char asked[500];
static void *no_library(const char *name, int how)
{
    return (void)how, strcat(strcat(asked, name), " "), (void *)0;
}
#define dlopen no_library
#define CNN_OPENCL_IMPLEMENTATION
#include "cnn_opencl.h"

int main(void)
{
    cnn_opencl_close(cnn_opencl());
    return strcmp(asked, "libOpenCL.so.1 libOpenCL.so libOpenCL-pixel.so libGLES_mali.so libPVROCL.so ") != 0;
}
