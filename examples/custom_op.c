/* custom_op.c - an activation and a loss of one's own, from outside the library, and the check that they
   are right.

     cc -std=c99 -O2 examples/custom_op.c -o custom_op -lm && ./custom_op

   An operation is one struct cnn_op: a rule for the shape, a forward and a backward function. Nothing in
   cnn.h has to be edited or registered; the planner, the training loop and the gradient check treat it
   like their own. */
#define CNN_STATIC                      /* the only file: what it does not use is not compiled */
#define CNN_IMPLEMENTATION
#include "../cnn.h"

/* ---- snake --------------------------------------------------------------------------------------------
   y  = x + sin(x)^2                                                                   (Ziyin et al. 2020)
   dx = dy (1 + sin(2x))                                                   since 2 sin(x) cos(x) = sin(2x)
   For what repeats: a net of relus learns a wave where it saw it, and goes on in straight lines. */

/* Elements at the batch of this very run: while a rule runs, shape.n is the current batch. */
static int count(const cnn_tensor *t) { return (int)cnn_count(t); }

static bool snake_shape(cnn_tensor *y) { y->shape = y->in[0]->shape; return true; }

static void snake_forward(cnn_tensor *y, cnn_mode mode)
{
    const float *x = y->in[0]->data;
    int          n = count(y);
    (void)mode;                                           /* the same in training and in evaluation */
    for (int i = 0; i < n; i++) y->data[i] = x[i] + sinf(x[i]) * sinf(x[i]);
}

static void snake_backward(cnn_tensor *y)
{
    const float *x = y->in[0]->data, *dy = y->grad;
    float       *dx = y->in[0]->grad;
    int          n = count(y);
    if (!y->in[0]->needs_grad) return;
    for (int i = 0; i < n; i++) dx[i] += dy[i] * (1 + sinf(2 * x[i]));     /* += : others may use x too */
}

static const cnn_op op_snake = { .name = "snake", .shape = snake_shape, .forward = snake_forward,
                                 .backward = snake_backward, .flags = CNN_READS_X };

#define snake(x) snake_(CNN_HERE, x)                      /* so that messages name the line of the call */
static cnn_tensor *snake_(const char *at, cnn_tensor *x) { return cnn_apply(&op_snake, &x, 1, NULL, at); }

/* ---- logcosh ------------------------------------------------------------------------------------------
   J  = 1/M sum_i s^2 log cosh(d_i / s),   d = y - t
   dy = dJ/M s tanh(d / s),   dt = -dy
   About d^2/2 near the target, s |d| far from it: an outlier pulls with the force s at most, where the pull
   of mse has no bound. */
typedef struct { const char *at, *said; cnn_tensor *y, *target; float s; } logcosh_args;  /* s: default 1 */
static const cnn_field logcosh_fields[] = { CNN_FIELD('f', logcosh_args, s), { 0 } };

static float logcosh_s(const cnn_tensor *j)               /* zero means the default, in one place */
{
    float s = ((const logcosh_args *)j->args)->s;
    return s > 0 ? s : 1;
}

static bool logcosh_shape(cnn_tensor *j)
{
    cnn_shape y = j->in[0]->shape, t = j->in[1]->shape;
    if (y.n != t.n || y.c != t.c || y.h != t.h || y.w != t.w)
        return cnn_fail(j, "a target (%d,%d,%d,%d) for an output (%d,%d,%d,%d): the shapes must be equal",
                        t.n, t.c, t.h, t.w, y.n, y.c, y.h, y.w);
    j->shape = (cnn_shape){ 1, 1, 1, 1 }, j->batched = false;       /* one number, whatever the batch */
    return true;
}

static void logcosh_forward(cnn_tensor *j, cnn_mode mode)
{
    const float *y = j->in[0]->data, *t = j->in[1]->data, s = logcosh_s(j);
    int          m = count(j->in[0]);
    double       sum = 0;
    (void)mode;
    for (int i = 0; i < m; i++) {
        float d = fabsf(y[i] - t[i]) / s;                 /* log cosh d = d + log(1 + e^-2d) - log 2 */
        sum += (double)(d + log1pf(expf(-2 * d)) - 0.69314718f);
    }
    j->data[0] = (float)(sum / m) * s * s;
}

static void logcosh_backward(cnn_tensor *j)
{
    const float *y = j->in[0]->data, *t = j->in[1]->data, s = logcosh_s(j);
    int          m = count(j->in[0]);
    for (int k = 0; k < 2; k++) {                         /* to y with +, to the target with - */
        float *to = j->in[k]->grad, factor = (k ? -s : s) * j->grad[0] / (float)m;
        for (int i = 0; j->in[k]->needs_grad && i < m; i++) to[i] += factor * tanhf((y[i] - t[i]) / s);
    }
}

static const cnn_op op_logcosh = { .name = "logcosh", .shape = logcosh_shape, .forward = logcosh_forward,
                                   .backward = logcosh_backward, .flags = CNN_READS_X | CNN_LOSS,
                                   .args_size = sizeof(logcosh_args), .fields = logcosh_fields };

#define logcosh(...) CNN_CALL(logcosh_, logcosh_args, y, __VA_ARGS__)  /* logcosh(y, t, .s = 2) */
static cnn_tensor *logcosh_(logcosh_args a)
{
    cnn_tensor *in[2] = { a.y, a.target };
    return cnn_apply(&op_logcosh, in, 2, &a, a.at);
}

/* What goes wrong most often: a derivative that is almost right. Here the factor cos(x) is forgotten. */
static void wrong_backward(cnn_tensor *y)
{
    const float *x = y->in[0]->data;
    int          n = count(y);
    for (int i = 0; i < n && y->in[0]->needs_grad; i++)
        y->in[0]->grad[i] += y->grad[i] * (1 + 2 * sinf(x[i]));
}
static const cnn_op op_wrong = { .name = "wrong snake", .shape = snake_shape, .forward = snake_forward,
                                 .backward = wrong_backward, .flags = CNN_READS_X };

/* ---- A small net that uses them: learn y = sin 3x from 64 points, every eighth an outlier ---- */

enum { POINTS = 64 };

typedef struct { cnn_graph *g; cnn_tensor *x, *t, *y, *loss; } net;
static net build(const cnn_op *activation, bool squared)
{
    net n;
    n.g = cnn_new(.max_batch = POINTS, .seed = 1);
    n.x = cnn_input(n.g, 1), n.t = cnn_input(n.g, 1, .name = "target");
    cnn_tensor *h = cnn_dense(n.x, 24);
    h = cnn_apply(activation, &h, 1, NULL, CNN_HERE);
    h = cnn_dense(h, 24);
    h = cnn_apply(activation, &h, 1, NULL, CNN_HERE);
    n.y = cnn_dense(h, 1);
    n.loss = squared ? cnn_mse(n.y, n.t) : logcosh(n.y, n.t, .s = 0.2f);
    return n;
}

int main(void)
{
    float x[POINTS], t[POINTS], y[POINTS];
    for (int i = 0; i < POINTS; i++) {
        x[i] = 2.0f * (float)i / (POINTS - 1) - 1, t[i] = sinf(3 * x[i]);
        if (i % 8 == 4) t[i] += 3;                                     /* a broken sensor, now and then */
    }

    int status = 0;
    printf("The gradient check:\n");
    const cnn_op *activations[2] = { &op_snake, &op_wrong };
    for (int k = 0; k < 2; k++) {
        net n = build(activations[k], false);
        cnn_check c = { .worst = NAN, .param = "" };
        if (cnn_compile(n.g, n.loss) && cnn_set(n.x, x, POINTS) && cnn_set(n.t, t, POINTS))
            c = cnn_gradient_check(n.loss, 0);
        if (cnn_error(n.g)) fprintf(stderr, "%s\n", cnn_error(n.g)), status = 1;
        else printf("  %-11s  worst difference %.1e, at %s[%d]: backward %9.6f, numeric %9.6f  -> %s\n",
                    activations[k]->name, c.worst, c.param, c.index, c.analytic, c.numeric,
                    c.worst < 1e-2 ? "right" : "wrong");
        if ((c.worst < 1e-2) != (k == 0)) status = 1;
        cnn_free(n.g);
    }

    printf("\nMean error from sin 3x after training on data with outliers:\n");
    for (int k = 0; k < 2; k++) {
        net n = build(&op_snake, k == 0);
        double error = 0;
        if (cnn_compile(n.g, n.loss) && cnn_set(n.x, x, POINTS) && cnn_set(n.t, t, POINTS))
            for (int step = 0; step < 3000; step++)
                cnn_forward(n.loss, CNN_TRAIN), cnn_backward(n.loss),
                cnn_step(n.g, .lr = 0.01f, .momentum = 0.9f);
        cnn_forward(n.y, CNN_EVAL), cnn_get(n.y, y, POINTS);
        if (cnn_error(n.g)) { fprintf(stderr, "%s\n", cnn_error(n.g)), status = 1, cnn_free(n.g); break; }
        for (int i = 0; i < POINTS; i++) error += fabs((double)y[i] - sin(3 * (double)x[i])) / POINTS;
        printf("  %-12s %.3f\n", k ? "logcosh" : "mse", error);
        if (!(error < (k ? 0.1 : 1))) status = 1;
        cnn_free(n.g);
    }

    /* The rules of shape speak through cnn_fail like the library's own. */
    cnn_graph *g = cnn_new(.max_batch = 2);
    cnn_compile(g, logcosh(snake(cnn_dense(cnn_input(g, 5), 3)), cnn_input(g, 4)));
    printf("\nA mistake in a shape:\n  %s\n", cnn_error(g) ? cnn_error(g) : "not found");
    if (!cnn_error(g)) status = 1;
    cnn_free(g);
    if (fflush(stdout) || ferror(stdout)) status = 1, fprintf(stderr, "stdout: cannot be written\n");
    return status;
}
