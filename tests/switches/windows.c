/* windows.c - all headers beside <windows.h>, before it or behind it. */
#define CNN_IMPLEMENTATION
#ifdef OPENCL
#define CNN_OPENCL_IMPLEMENTATION
#endif
#ifdef BEFORE
#include <windows.h>
#endif
#include "cnn.h"
#include "cnn_exchange.h"
#ifdef OPENCL
#include "cnn_opencl.h"
#endif
#ifdef BEHIND
#include <windows.h>
#endif

int main(void)
{
    cnn_graph *g = cnn_new(.max_batch = 1);
#ifdef OPENCL
    cnn_opencl_close(cnn_opencl());
#endif
    cnn_free(g);
    return 0;
}
