// cnn.h included from C++11: the declarations compile, the functions behind the macros can be called.
#include "cnn.h"
#include "cnn_exchange.h"
#include <cstdio>

static cnn_tensor *dense(cnn_tensor *x, int units)
{
    cnn_dense_args a = cnn_dense_args();
    a.at = CNN_HERE, a.x = x, a.units = units;
    return cnn_dense_(a);
}

int main()
{
    const float in[8] = { 0, 0, 0, 1, 1, 0, 1, 1 }, out[4] = { 0, 1, 1, 0 };
    cnn_config config = cnn_config();
    config.max_batch = 4, config.seed = 1;
    cnn_graph *g = cnn_new_(config);
    cnn_input_args xa = cnn_input_args(), ta = cnn_input_args();
    xa.g = ta.g = g, xa.c = 2, ta.c = 1;
    cnn_tensor *x = cnn_input_(xa), *t = cnn_input_(ta);
    cnn_tensor *loss = cnn_mse(dense(cnn_tanh(dense(x, 8)), 1), t);     // macros without options work here too
    if (!cnn_compile(g, loss)) return std::fprintf(stderr, "%s\n", cnn_error(g)), 1;
    cnn_set(x, in, 8), cnn_set(t, out, 4);
    cnn_step_args step = cnn_step_args();
    step.g = g, step.lr = 0.1f, step.momentum = 0.9f;
    for (int i = 0; i < 1000; i++) cnn_forward(loss, CNN_TRAIN), cnn_backward(loss), cnn_step_(step);
    const float error = cnn_forward(loss, CNN_EVAL);
    const bool  bad = cnn_error(g) || !(error < 1e-3f);
    cnn_free(g);
    return bad;
}
