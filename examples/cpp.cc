/* cpp.cc - LeNet-5 on handwritten digits, from C++: the calls of lenet.c, with cnn::pad(2) for .pad = 2, and owners that
   free what they hold. The implementation is C, and is compiled once, as C:

       cc  -std=c99 -O2 -x c -DCNN_IMPLEMENTATION -c cnn.h -o cnn.o
       c++ -std=c++11 -O2 examples/cpp.cc cnn.o -o cpp
       ./cpp

   Run from the top of the repository, where the digits are. */
#include "../cnn.h"
#include <cstddef>
#include <iostream>
#include <string>
#include <vector>

static cnn::dataset digits(const std::string &which)
{
    const std::string start = "examples/data/" + which;
    return cnn_load_idx((start + "-images-idx3-ubyte").c_str(), (start + "-labels-idx1-ubyte").c_str());
}

int main()
{
    cnn::dataset train = digits("train"), test = digits("test");
    cnn_standardize(&train, &train), cnn_standardize(&test, &train);

    cnn::graph  g(cnn_new(cnn::max_batch(16), cnn::seed(1)));
    cnn_tensor *x = cnn_input(g, 1, 28, 28);
    cnn_tensor *h = cnn_avg_pool(cnn_tanh(cnn_conv2d(x, 6, 5, cnn::pad(2), cnn::name("conv1"))), 2);
    h = cnn_avg_pool(cnn_tanh(cnn_conv2d(h, 16, 5, cnn::name("conv2"))), 2);
    cnn_tensor *logits = cnn_dense(cnn_tanh(cnn_dense(cnn_tanh(cnn_dense(h, 120)), 84)), 10);
    cnn_tensor *loss = cnn_softmax_cross_entropy(logits, cnn_labels(g));

    const auto show = [](const cnn_progress *p, void *) {
        if (p->epoch_done) std::cout << "epoch " << p->epoch << "  loss " << p->loss << "\n";
        return true;
    };
    const bool learned = cnn_compile(g, loss) &&
        cnn_fit(loss, logits, &train, 12, cnn::lr(0.02), cnn::lr_end(0.0002), cnn::momentum(0.9), cnn::nesterov(1),
                cnn::weight_decay(0.0005), cnn::progress(show));
    if (!learned)
        return std::cerr << cnn_error(g) << "\n", 1;
    std::cout << "accuracy " << 100 * cnn_evaluate(loss, logits, &test).accuracy << " %\n";

    cnn_feed(x, nullptr, &test, 0);                                         // the first of them, one by one
    std::vector<float> probability(10), pictures(cnn_count(x));
    cnn_get(x, pictures.data(), pictures.size());
    for (int i = 0; i < 5; i++) {
        const int digit = cnn_predict(x, logits, &pictures[std::size_t(i) * 28 * 28], probability.data());
        std::cout << "a " << digit << ", probability " << probability[std::size_t(digit)] << "\n";
    }
}
