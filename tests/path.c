/* path.c - for tests/path.sh: run cnn_forward once on a net whose last node is a convolution, on the plain loops,
   compiled with -finstrument-functions; print the address of each function when it is entered and left. */
#define CNN_IMPLEMENTATION
#include "cnn.h"

#define QUIET __attribute__((no_instrument_function))
static int on;

QUIET void __cyg_profile_func_enter(void *function, void *caller);
QUIET void __cyg_profile_func_exit(void *function, void *caller);
void __cyg_profile_func_enter(void *function, void *caller)
{
    (void)caller;
    if (on) printf("enter %lx\n", (unsigned long)(uintptr_t)function);
}
void __cyg_profile_func_exit(void *function, void *caller)
{
    (void)caller;
    if (on) printf("leave %lx\n", (unsigned long)(uintptr_t)function);
}

int main(void)
{
    cnn_graph  *g = cnn_new(.isa = CNN_ISA_PLAIN, .inference = 1);
    cnn_tensor *x = cnn_input(g, 1, 8, 8), *y = cnn_conv2d(x, 2, 3);
    static const float pixels[64] = { 1 };
    if (!cnn_compile(g, y) || !cnn_set(x, pixels, 64)) return 1;
    on = 1;
    cnn_forward(y, CNN_EVAL);
    on = 0;
    cnn_free(g);
    return 0;
}
