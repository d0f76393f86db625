# cnn.h needs no build: include it. This builds the examples and the tests.
#
#   make run          train LeNet-5 on the digits in examples/data (seconds)
#   make test         every test; ends with `N passed, N failed`
#   make sanitize     the tests again under AddressSanitizer, UBSan and ThreadSanitizer
#   make coverage     which branches of cnn.h no test takes (gcc's gcov); 95 % are the least
#   make odd          other compilers, every switch, emulated processors; tests again under -Ofast, x87, clang's sanitizers
#   make test-opencl  the tests of cnn_opencl.h alone (make test runs them too, where OpenCL is installed)
#   make examples     all examples, into build/
#   make grade        the exercises of examples/lab: points, and a file for autograders (LAB="03 04": these alone)
#   make web          a page in which a net learns digits, build/web.html (examples/web: clang, lld, wasi-libc)
#   make bench        measurements, one `name threads value unit` a line; BENCH_SECONDS is the time for each
#   make bench-peers  the same beside OpenBLAS, oneDNN, PyTorch, ONNX Runtime, OpenVINO, ncnn, where installed (python3)
#   make bench-opencl the same on an OpenCL device
#   make opencl-model which share of a GPU's peak a training step should reach: a model, from a dry run (python3)
#   make clean
#
# A C compiler and make are enough. What else is missing (C++, clang, sanitizers, OpenCL, MPI) is skipped,
# and said.
# WERROR=1 makes warnings errors. INC is where cnn.h lies.

CC      ?= cc
CXX     ?= c++
CLANG   ?= clang
INC     ?= .
B       := build
takes    = $(shell printf 'int main(void) { return 0; }\n' | $(1) -x c - $(2) -o /dev/null >/dev/null 2>&1 && echo '$(2)')
THREADS := $(call takes,$(CC),-pthread)
OPENMP  := $(call takes,$(CC),-fopenmp)
OPENCL  := $(shell printf '\043include <CL/cl.h>\n' | $(CC) -x c -fsyntax-only - >/dev/null 2>&1 && echo yes)
MPICC   ?= mpicc
MPI     := $(shell command -v $(MPICC) 2>/dev/null)
# Two jobs, as tests/run.sh has, unless told otherwise.
ifeq ($(findstring -j,$(MAKEFLAGS)),)
MAKEFLAGS += -j2
endif
WARN    := -Wall -Wextra -Wpedantic -Wshadow -Wconversion $(if $(WERROR),-Werror)
CFLAGS  ?= -std=c99 -O2 $(THREADS)
LDLIBS  := -lm

# (test_kernels includes test_threads.)
SUITES   := $(filter-out threads,$(patsubst tests/test_%.c,%,$(wildcard tests/test_*.c)))
EXAMPLES := $(patsubst examples/%.c,$(B)/%,$(filter-out $(if $(OPENCL),,examples/opencl.c) \
              $(if $(MPI),,examples/mpi.c),$(wildcard examples/*.c)))
BENCHES  := $(patsubst tests/bench/%.c,$(B)/%,$(filter-out %_opencl.c,$(wildcard tests/bench/bench_*.c)))
HEADERS  := $(wildcard $(INC)/cnn.h cnn_opencl.h cnn_exchange.h)
RUN_TESTS = CC='$(CC)' MPICC='$(MPICC)' CXX='$(CXX)' CLANG='$(CLANG)' OPENCL='$(OPENCL)' BUILD=$(B) INC='$(INC)' LOGS=$(B)/logs \
            OBJECT='$(if $(filter file,$(origin CFLAGS)),$(B)/test_cnn.o)' sh tests/run.sh

.PHONY: all run examples web test test-opencl sanitize odd coverage bench bench-peers bench-opencl opencl-model grade clean
all: examples

run: $(B)/lenet
	$(B)/lenet

examples: $(EXAMPLES) $(if $(shell command -v $(firstword $(CXX)) 2>/dev/null),$(B)/cpp_example)

$(B)/cpp_example: examples/cpp.cc $(B)/test_cnn.o
	$(CXX) -std=c++11 -O2 $(THREADS) $(WARN) -I$(INC) -I. $^ -o $@ $(LDLIBS)

$(B)/%: examples/%.c $(HEADERS) | $(B)
	$(CC) $(CFLAGS) $(WARN) -I$(INC) -I. $< -o $@ $(LDLIBS)

$(B)/mpi: examples/mpi.c $(HEADERS) | $(B)
	$(MPICC) $(CFLAGS) $(WARN) -I$(INC) -I. $< -o $@ $(LDLIBS)

# ---- Tests ----

# Tests link one object with the implementation, tests/cnn.c; but test_kernels holds one of its own.
LINKED  := $(filter-out kernels,$(SUITES))
# Tests that are no C program, each ending with `N passed, N failed`.
SCRIPTS := tests/lab.sh tests/places.sh tests/readme.sh tests/cpp.sh tests/transfer.sh tests/mpi.sh tests/tasks.sh tests/path.sh tests/torch.sh
# Those of `make odd`: other compilers, options and processors.
ODDITIES := tests/web.sh tests/emulated.sh tests/bits.sh tests/switches.sh
# $(call ordered,test_,SCRIPTS): what is to run, the longest first, so that no core waits for the last.
LONG    := opencl lab.sh plain readme.sh places.sh kernels cpp.sh rooms
ordered  = $(foreach t,$(LONG),$(filter tests/$(t),$(2)) $(patsubst %,$(B)/$(1)%,$(filter $(t),$(SUITES)))) \
           $(filter-out $(LONG:%=tests/%),$(2)) $(patsubst %,$(B)/$(1)%,$(filter-out $(LONG),$(SUITES)))
# tests/inside.h wants the private types of cnn.h, tests/test_zoo.c the zoo without the implementation.
PARTS   := $(B)/inside_types.h $(B)/zoo.h
TESTING := $(wildcard tests/*.h tests/bench/*.h) tests/test_rooms.c examples/zoo.c $(PARTS) $(HEADERS)
INCLUDE  = -I$(INC) -I. -Itests -I$(B)

test: $(B)/test_cnn.o $(B)/test_kernels $(SUITES:%=$(B)/test_%)
	@$(RUN_TESTS) $(call ordered,test_,$(SCRIPTS))

test-opencl: $(B)/test_opencl
	@$(RUN_TESTS) $^

# What is tested is optimised, the tests that are linked to it not much. Their objects need not wait for the first.
$(LINKED:%=$(B)/test_%): $(B)/test_%: $(B)/of_%.o $(B)/test_cnn.o
	$(CC) $(CFLAGS) $(filter %.o,$^) -o $@ $(LDLIBS)

$(B)/of_%.o: tests/test_%.c $(TESTING)
	$(CC) $(CFLAGS) $(if $(filter file,$(origin CFLAGS)),-O1) $(WARN) $(INCLUDE) -c $< -o $@

$(B)/test_kernels: tests/test_kernels.c tests/test_threads.c $(TESTING)
	$(CC) $(CFLAGS) $(WARN) $(INCLUDE) $< -o $@ $(LDLIBS)

$(B)/test_cnn.o: tests/cnn.c $(TESTING)
	$(CC) $(CFLAGS) $(WARN) $(INCLUDE) -c $< -o $@

$(LINKED:%=$(B)/asan_%): $(B)/asan_cnn.o
$(B)/asan_kernels: tests/test_threads.c

$(B)/inside_types.h: tests/inside.awk $(HEADERS) | $(B)
	awk -f $< $(INC)/cnn.h >$@

$(B)/zoo.h: examples/zoo.c | $(B)
	sed -e '/^#define CNN_STATIC/d' -e '/^#define CNN_IMPLEMENTATION/d' -e 's|"../cnn.h"|"cnn.h"|' $< >$@

ASAN := -fsanitize=address,undefined $(THREADS)
TSAN := -fsanitize=thread -pthread
SANITIZED := $(if $(call takes,$(CC),$(ASAN)),$(call ordered,asan_))
RACED     := $(if $(call takes,$(CC),$(TSAN)),$(B)/tsan_threads $(B)/tsan_graphs)
ASAN_CC    = $(CC) -std=c99 -O1 -g -fno-omit-frame-pointer $(ASAN) -fno-sanitize-recover=all $(INCLUDE)

sanitize: $(SANITIZED) $(RACED)
	@$(if $(SANITIZED),,echo "    skipped: $(CC) has no AddressSanitizer";) $(if $(RACED),,echo "    skipped: $(CC) has no ThreadSanitizer";) \
	ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 $(RUN_TESTS) $^

$(B)/asan_%: tests/test_%.c $(TESTING)
	$(ASAN_CC) $< $(filter %.o,$^) -o $@ $(LDLIBS)

$(B)/asan_cnn.o: tests/cnn.c $(TESTING)
	$(ASAN_CC) -c $< -o $@

TSAN_CC = $(CC) -std=c99 -O1 -g $(TSAN) $(INCLUDE)

$(B)/tsan_graphs: tests/switches/threads.c tests/switches/impl.c $(TESTING)
	$(TSAN_CC) $(filter tests/switches/%.c,$^) -o $@ $(LDLIBS)

$(B)/tsan_threads: tests/test_threads.c $(TESTING)
	$(TSAN_CC) $< -o $@ $(LDLIBS)

# test_opencl stays out: it tests another header, and takes minutes so.
COVERED  := $(filter-out $(B)/cov_opencl,$(call ordered,cov_))
COV_CC    = $(CC) -std=c99 -O1 -fno-inline -Dalways_inline=unused $(INCLUDE)

coverage: $(COVERED)
	@rm -f $(B)/cov_*.gcda
	-@$(RUN_TESTS) $^
	@gcov -b -c -t $(B)/cov_cnn.gcda $(B)/cov_kernels*.gcda 2>/dev/null | awk -v LEAST=95 -f tests/coverage.awk

$(B)/cov_%: tests/test_%.c $(TESTING) $(B)/cov_cnn.o
	$(COV_CC) $< $(B)/cov_cnn.o -o $@ -lgcov $(LDLIBS)

$(B)/cov_kernels: tests/test_kernels.c tests/test_threads.c $(TESTING)
	$(COV_CC) --coverage $< -o $@ $(LDLIBS)

$(B)/cov_cnn.o: tests/cnn.c $(TESTING)
	$(COV_CC) --coverage -c $< -o $@

# Options that change arithmetic, which the implementation must not notice, and one that watches it. Tests that hold
# no implementation are compiled without the first two, test_kernels with NaN: their own would be lost.
ODD_TESTS := rooms kernels files train faults
UBSAN     := -fsanitize=undefined,float-cast-overflow
fast       = $(CC) -std=gnu17 -Ofast
x87        = $(CC) -std=gnu17 -O1 -mfpmath=387
cast       = $(CLANG) -std=c99 -O1 $(UBSAN) -fno-sanitize-recover=all
ODD       := $(if $(call takes,$(CC),-Ofast),fast) $(if $(call takes,$(CC),-mfpmath=387),x87) \
             $(if $(call takes,$(CLANG),$(UBSAN)),cast)

odd: $(foreach o,$(ODD),$(ODD_TESTS:%=$(B)/$(o)_%)) $(B)/test_cnn.o
	@$(if $(filter cast,$(ODD)),,echo "    skipped: $(CLANG) has no $(UBSAN)";) $(RUN_TESTS) $(ODDITIES) $(filter-out %.o,$^)

define ODD_RULES
$(B)/$(1)_cnn.o: tests/cnn.c $(TESTING)
	$($(1)) $(INCLUDE) -c $$< -o $$@
$(B)/$(1)_kernels: tests/test_kernels.c tests/test_threads.c $(TESTING)
	$($(1)) -fno-finite-math-only $(INCLUDE) $$< -o $$@ $(LDLIBS)
$(B)/$(1)_%: tests/test_%.c $(B)/$(1)_cnn.o
	$(filter-out -Ofast -mfpmath=387,$($(1))) $(INCLUDE) $$< $(B)/$(1)_cnn.o -o $$@ $(LDLIBS)
endef
$(foreach o,$(ODD),$(eval $(call ODD_RULES,$(o))))

# ---- Lab ----

grade: $(B)/lab/cnn.o
	@CC='$(CC)' MPICC='$(MPICC)' OPENMP='$(OPENMP)' BUILD=$(B)/lab OBJECT=$< sh examples/lab/grade.sh $(LAB)

$(B)/lab/cnn.o: $(INC)/cnn.h
	mkdir -p $(@D)
	$(CC) $(CFLAGS) -DCNN_IMPLEMENTATION -x c -c $< -o $@

# ---- The page in which a net learns: examples/web, all of it in one file ----

DIGITS := wasm=$(B)/web.wasm $(foreach set,train test,$(set)-images=examples/data/$(set)-images-idx3-ubyte \
            $(set)-labels=examples/data/$(set)-labels-idx1-ubyte)

web: $(B)/web.html

$(B)/web.wasm: examples/web/web.c $(INC)/cnn.h | $(B)
	$(CLANG) --target=wasm32-wasi -mexec-model=reactor -std=c99 -O2 -msimd128 -Wl,-s $< -o $@

$(B)/web.html: examples/web/index.html $(B)/web.wasm
	@{ sed '/<!-- EMBED -->/,$$d' $<; for part in $(DIGITS); do \
	    echo "<script type=\"application/gzip\" id=\"$${part%%=*}\">"; gzip -9nc "$${part#*=}" | base64; \
	    echo '</script>'; done; sed '1,/<!-- EMBED -->/d' $<; } >$@
	@echo 'wrote $@: open it in a browser'

# ---- Bench ----

bench: $(BENCHES)
	@for b in $(BENCHES); do $$b || exit 1; done

bench-peers: $(BENCHES)
	@$(CC) -O2 tests/bench/peer_blas.c -o $(B)/peer_blas -ldl 2>/dev/null || true
	@$(CC) -O2 -march=native -std=gnu99 $(OPENMP) tests/bench/peer_peak.c -o $(B)/peer_peak || true
	@$(CXX) -O2 tests/bench/peer_onednn.cpp -o $(B)/peer_onednn -ldnnl 2>/dev/null || true
	@BUILD=$(B) python3 tests/bench/peers.py $(PEERS)

bench-opencl: $(B)/bench_opencl
	@$<

opencl-model: $(B)/opencl_counts
	@python3 tests/bench/opencl_model.py $<

$(B)/opencl_counts: tests/bench/opencl_counts.c tests/bench/opencl_counts.h examples/zoo.c $(HEADERS) | $(B)
	$(CC) $(CFLAGS) $(WARN) -I$(INC) -I. $< -o $@ $(LDLIBS)

$(B)/bench_%: tests/bench/bench_%.c $(wildcard tests/bench/*.h) $(HEADERS) | $(B)
	$(CC) $(CFLAGS) $(WARN) -I$(INC) -I. $< -o $@ $(LDLIBS)

$(B):
	mkdir -p $@

clean:
	rm -rf $(B)
