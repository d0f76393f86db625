/* peer_onednn.cpp - one pass of one convolution by oneDNN in the formats that it likes best: the tensors lie in its own
   blocked layouts and no reorder is counted. Used by peers.py.
     c++ -O2 -I. peer_onednn.cpp -ldnnl && OMP_NUM_THREADS=1 ./a.out NAME IC OC HW K STRIDE PAD GROUPS BATCH THREADS
   NAME ends in _fwd, _bwd_d or _bwd_w. */
#define _POSIX_C_SOURCE 200112L
#define BENCH_PREFIX "onednn_"
#include "bench.h"
#include <oneapi/dnnl/dnnl.hpp>
#include <cstring>
#include <string>
#include <unordered_map>
using namespace dnnl;

static engine cpu(engine::kind::cpu, 0);
static stream queue(cpu);
static primitive                        conv;
static std::unordered_map<int, memory> args;

static void give(int arg, const memory::desc &d)
{
    memory m(d, cpu);
    float *p = static_cast<float *>(m.get_data_handle());
    for (size_t i = 0; i < d.get_size() / sizeof *p; i++) p[i] = 0.01f * static_cast<float>(static_cast<int>(i % 13) - 6);
    args[arg] = m;
}
static void run(void *) { conv.execute(queue, args); queue.wait(); }

int main(int argc, char **argv)
{
    if (argc < 11) return fprintf(stderr, "usage: %s NAME IC OC HW K STRIDE PAD GROUPS BATCH THREADS\n", argv[0]), 2;
    int v[9];
    for (int i = 0; i < 9; i++) v[i] = atoi(argv[i + 2]);
    const int ic = v[0], oc = v[1], hw = v[2], k = v[3], s = v[4], p = v[5], g = v[6], n = v[7], o = (hw + 2 * p - k) / s + 1;
    const std::string name = argv[1];
    const auto f32 = memory::data_type::f32;
    const auto any = memory::format_tag::any;
    const memory::desc x({ n, ic, hw, hw }, f32, any), y({ n, oc, o, o }, f32, any), b({ oc }, f32, memory::format_tag::x);
    const memory::desc w = g > 1 ? memory::desc({ g, oc / g, ic / g, k, k }, f32, any) : memory::desc({ oc, ic, k, k }, f32, any);
    const memory::dims stride{ s, s }, pad{ p, p };
    const auto direct = algorithm::convolution_direct;
    const convolution_forward::primitive_desc fwd({ prop_kind::forward_training, direct, x, w, b, y, stride, pad, pad }, cpu);
    if (name.find("_bwd_d") != name.npos) {
        const convolution_backward_data::primitive_desc d({ direct, x, w, y, stride, pad, pad }, cpu, fwd);
        give(DNNL_ARG_DIFF_DST, d.diff_dst_desc()), give(DNNL_ARG_WEIGHTS, d.weights_desc());
        give(DNNL_ARG_DIFF_SRC, d.diff_src_desc());
        conv = convolution_backward_data(d);
    } else if (name.find("_bwd_w") != name.npos) {
        const convolution_backward_weights::primitive_desc d({ direct, x, w, b, y, stride, pad, pad }, cpu, fwd);
        give(DNNL_ARG_SRC, d.src_desc()), give(DNNL_ARG_DIFF_DST, d.diff_dst_desc());
        give(DNNL_ARG_DIFF_WEIGHTS, d.diff_weights_desc()), give(DNNL_ARG_DIFF_BIAS, b);
        conv = convolution_backward_weights(d);
    } else {
        give(DNNL_ARG_SRC, fwd.src_desc()), give(DNNL_ARG_WEIGHTS, fwd.weights_desc());
        give(DNNL_ARG_BIAS, b), give(DNNL_ARG_DST, fwd.dst_desc());
        conv = convolution_forward(fwd);
    }
    bench_case(argv[1], v[8], 2e-9 * n * oc * o * o * (ic / g) * k * k, "GFLOP/s", run, nullptr);
    return 0;
}
