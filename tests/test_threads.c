/* test_threads.c - the team of threads: each unit of work is done once, and a number of a thread is one thread's at a
   time; the same bits for any number of threads; threads that cannot be started; fork; graphs in several threads;
   cnn_free while helpers are awake and while they sleep; no thread stays. test_kernels.c includes this file, to share its
   implementation; alone it runs under ThreadSanitizer. */
#define _DEFAULT_SOURCE                                  /* usleep */
#define CNN__SERIAL_WORK 0.0                             /* every kernel with as many threads as it is told */
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
static long startable = -1, begun;                       /* threads that can still be started, or -1; started */
static int start_one(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *with)
{
    if (__atomic_load_n(&startable, __ATOMIC_SEQ_CST) >= 0 && __atomic_fetch_sub(&startable, 1, __ATOMIC_SEQ_CST) <= 0) {
        __atomic_store_n(&startable, 0, __ATOMIC_SEQ_CST);
        return 11;
    }
    __atomic_fetch_add(&begun, 1, __ATOMIC_SEQ_CST);
    return pthread_create(t, a, f, with);
}
#define pthread_create start_one
#endif
#define CNN_IMPLEMENTATION
#include "cnn.h"
#undef pthread_create
#include "test.h"

/* ---- Units ---- */

enum { MOST = 3000, TEAM = 9 };
typedef struct { int done[MOST]; long used[TEAM], wrong; int pause; } units;

static void count_units(const void *of, ptrdiff_t from, ptrdiff_t to, int thread)
{
    units *u = (units *)(uintptr_t)of;
    if (__atomic_fetch_add(&u->used[thread], 1, __ATOMIC_SEQ_CST) != 0) __atomic_fetch_add(&u->wrong, 1, __ATOMIC_SEQ_CST);
    for (; from < to; from++) {
        u->done[from]++;                                 /* no two threads: ThreadSanitizer looks */
        for (volatile int i = 0; i < u->pause; i++) { }
    }
    __atomic_fetch_sub(&u->used[thread], 1, __ATOMIC_SEQ_CST);
}

static void each_unit_is_done_once(void)
{
    static units u;
    for (int threads = 1; threads < TEAM; threads++) {
        cnn__cpu cpu = { CNN_ISA_C, threads, false, NULL };
        CHECK(threads == 1 || cnn__open_team(&cpu) || !CNN__TEAMS);
        for (int round = 0; round < 300; round++) {
            const int n = test_chance(50) ? test_int(0, 3 * threads) : test_int(0, MOST);
            memset(&u, 0, sizeof u);
            u.pause = test_int(0, 200);
            cnn__share_out(&cpu, 1, n, count_units, &u);
            int once = 0;
            for (int i = 0; i < MOST; i++) once += u.done[i] == (i < n);
            CHECK_INT(once, MOST);
            CHECK_INT((int)u.wrong, 0);
#if defined(__unix__) || defined(__APPLE__)
            if (round % 100 == 99) usleep(3000);         /* now the helpers sleep */
#endif
        }
        cnn__close_team(&cpu);
    }
}

#if CNN__TEAMS && !defined(CNN__WIN32)

/* ---- A net with most kinds of work ---- */

enum { BATCH = 4, SIDE = 12 };
typedef struct { cnn_graph *g; cnn_tensor *x, *t, *y, *loss; } net;

static net new_net(int threads, uint64_t seed)
{
    net n = { .g = cnn_new(.max_batch = BATCH, .seed = seed, .threads = threads) };
    n.x = cnn_input(n.g, 3, SIDE, SIDE), n.t = cnn_labels(n.g);
    cnn_tensor *h = cnn_relu(cnn_batch_norm(cnn_conv2d(n.x, 16, 3, .pad = 1)));
    h = cnn_add(h, cnn_prelu(cnn_conv2d(h, 16, 3, .pad = 1, .groups = 16)));
    h = cnn_max_pool(cnn_lrn(h, 3), 2);
    h = cnn_concat(cnn_avg_pool(h, 3, .stride = 1, .pad = 1), cnn_group_norm(cnn_conv2d(h, 8, 1), 4));
    h = cnn_conv2d(cnn_upsample(cnn_dropout(h, 0.2f), 2), 12, 5, .stride = 2, .pad = 2);
    n.y = cnn_dense(cnn_mul(h, cnn_sigmoid(cnn_mean(h, .axes = CNN_H | CNN_W))), 5);
    n.loss = cnn_softmax_cross_entropy(n.y, n.t);
    cnn_compile(n.g, n.loss);
    return n;
}
static float train(net *n, int steps)                   /* the last loss; NAN after an error; in any thread */
{
    float pixel[BATCH * 3 * SIDE * SIDE], loss = NAN;
    int   label[BATCH] = { 0, 3, 1, 4 };
    for (size_t i = 0; i < sizeof pixel / sizeof *pixel; i++) pixel[i] = (float)(i * 37 % 64) / 32 - 1;
    cnn_set(n->x, pixel, sizeof pixel / sizeof *pixel), cnn_set_labels(n->t, label, BATCH);
    for (int s = 0; s < steps; s++) {
        loss = cnn_forward(n->loss, CNN_TRAIN), cnn_backward(n->loss);
        cnn_clip_grads(n->g, 1), cnn_step(n->g, .lr = 0.02f, .momentum = 0.9f);
    }
    return cnn_error(n->g) ? NAN : loss;
}

static void same_bits_for_any_number_of_threads(void)
{
    static const int threads[] = { 1, 2, 3, 7 };
    float *first = NULL;
    for (size_t k = 0; k < sizeof threads / sizeof *threads; k++) {
        size_t m = 0;
        net n = new_net(threads[k], 11);
        const long before = begun;
        CHECK(train(&n, 10) > 0);
        CHECK_INT((int)(begun - before), threads[k] - 1);
        float *w = cnn_flat_params(n.g, &m);
        if (!first) first = test_alloc(m * sizeof *w), memcpy(first, w, m * sizeof *w);
        CHECK_MSG(!memcmp(first, w, m * sizeof *w), "%d threads change the bits", threads[k]);
        cnn_free(n.g);
    }
    free(first);
}

/* ---- Threads that cannot be started ---- */

static void a_thread_that_cannot_be_started_is_missed(void)
{
    net one = new_net(1, 5);
    const float want = train(&one, 3);
    CHECK(want > 0);
    cnn_free(one.g);
    for (int can = 0; can < 4; can++) {
        net n = new_net(4, 5);
        const long before = begun;
        startable = can;
        const float got = train(&n, 3);
        CHECK_INT((int)(begun - before), can < 3 ? can : 3);
        CHECK_SAME_BITS(&got, &want, 1);
        cnn_free(n.g);
        startable = -1;
    }
}

/* ---- fork ---- */

#if !defined(__SANITIZE_THREAD__)                        /* which does not follow a fork */
static int child_of(net *n, bool after_a_run)
{
    const float here = after_a_run ? train(n, 1) : 0;
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        net own = new_net(3, 5), alone = new_net(1, 5);
        const float a = train(&own, 2), b = train(&alone, 2), c = train(n, 1);
        const bool  fine = !memcmp(&a, &b, sizeof a) && c == c && c != here;
        cnn_free(own.g), cnn_free(alone.g), cnn_free(n->g);
        _exit(fine && begun >= 2 ? 0 : 1);
    }
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
    return WEXITSTATUS(status);
}
static void the_child_of_a_fork_goes_on(void)
{
    for (int sleeping = 0; sleeping < 2; sleeping++)
        for (int ran = 0; ran < 2; ran++) {
            net n = new_net(3, 9);
            if (ran) train(&n, 1);
            if (sleeping) usleep(20000);
            CHECK_INT(child_of(&n, ran), 0);
            CHECK(train(&n, 1) > 0);
            cnn_free(n.g);
        }
}
#endif

/* ---- Several callers, and the end ---- */

static void *train_alone(void *loss)
{
    net n = new_net(3, 21);
    *(float *)loss = train(&n, 20);
    cnn_free(n.g);
    return NULL;
}
static void graphs_in_several_threads(void)
{
    pthread_t thread[3];
    float     loss[4];
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&thread[i], NULL, train_alone, &loss[i]) == 0);
    train_alone(&loss[3]);
    for (int i = 0; i < 3; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < 3; i++) CHECK_SAME_BITS(&loss[i], &loss[3], 1);
    CHECK(loss[3] > 0);
}

static int threads_now(void)                             /* of this process; 1 where nobody says */
{
    int  n = 1;
#ifdef __linux__
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f)) sscanf(line, "Threads: %d", &n);
    if (f) fclose(f);
#endif
    return n;
}
/* Are there at most so many, soon? A thread that was joined may still count for a moment. */
static bool no_more_threads_than(int most)
{
    for (int i = 0; i < 1000 && threads_now() > most; i++) usleep(10000);
    return threads_now() <= most;
}
static void free_wakes_and_ends_helpers(void)
{
    const int before = threads_now();
    for (int i = 0; i < 20; i++) {
        net n = new_net(i % 4 + 2, 3);
        CHECK(train(&n, 1) > 0);
        if (i % 2) usleep(10000);                        /* they sleep; else they are awake */
        cnn_free(n.g);
    }
    CHECK_MSG(no_more_threads_than(before), "%d threads, %d before", threads_now(), before);
}
static void a_thousand_graphs_leave_no_thread(void)
{
    const int before = threads_now(), ones = (int)begun;
    for (int i = 0; i < 1000; i++) {
        cnn_graph  *g = cnn_new(.max_batch = 64, .threads = 3, .inference = 1);
        cnn_tensor *x = cnn_input(g, 8), *y = cnn_dense(x, 8);
        float      *v = cnn_compile(g, y) ? cnn_map_write(x) : NULL;
        if (v) for (int k = 0; k < 8 * 64; k++) v[k] = 1;
        if (i % 3) cnn_forward(y, CNN_EVAL);             /* the others never start theirs */
        CHECK_STR(cnn_error(g), NULL);
        cnn_free(g);
    }
    CHECK_INT((int)begun - ones, 2 * 666);
    CHECK_MSG(no_more_threads_than(before), "%d threads, %d before", threads_now(), before);
}

/* ---- How many ---- */

static int unsaid(const char *wish)
{
    if (wish) setenv("OMP_NUM_THREADS", wish, 1);
    else      unsetenv("OMP_NUM_THREADS");
    cnn_graph *g = cnn_new(.max_batch = 1);
    const int  n = cnn_threads(cnn_input(g, 1));
    cnn_free(g);
    return n;
}
static void the_default_is_what_the_system_has(void)
{
    char *old = getenv("OMP_NUM_THREADS"), keep[32] = "";
    if (old) snprintf(keep, sizeof keep, "%s", old);
    const int all = unsaid(NULL);
    CHECK(all >= 1 && all <= sysconf(_SC_NPROCESSORS_ONLN));
    CHECK_INT(unsaid("3"), 3);
    CHECK_INT(unsaid("5,2"), 5);
    CHECK_INT(unsaid("99999"), 1024);
    CHECK(unsaid("0") == all && unsaid("-2") == all && unsaid("many") == all && unsaid("") == all);
    if (old) setenv("OMP_NUM_THREADS", keep, 1);
    else     unsetenv("OMP_NUM_THREADS");
}
#endif

static void all_of_the_threads(void)
{
    RUN(each_unit_is_done_once);
#if CNN__TEAMS && !defined(CNN__WIN32)
    RUN(same_bits_for_any_number_of_threads);
    RUN(a_thread_that_cannot_be_started_is_missed);
#if !defined(__SANITIZE_THREAD__)
    RUN(the_child_of_a_fork_goes_on);
#endif
    RUN(graphs_in_several_threads);
    RUN(free_wakes_and_ends_helpers);
    RUN(a_thousand_graphs_leave_no_thread);
    RUN(the_default_is_what_the_system_has);
#endif
}

#ifndef IN_TEST_KERNELS
int main(int argc, char **argv)
{
    test_args(argc, argv);
    all_of_the_threads();
    return test_end();
}
#endif
