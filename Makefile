# cnn.h needs no build: include it. This builds the examples and tests.
#
#   make run        train LeNet-5 on the digits in examples/data (seconds)
#   make test       every test; ends with `N passed, N failed`
#   make sanitize   the tests again under AddressSanitizer, UBSan and ThreadSanitizer
#   make examples   all examples, into build/
#   make bench      measurements, one `name threads value unit` a line; BENCH_SECONDS=0.5 is the time for each
#   make clean
#
# A C compiler and make are enough; what else is missing (OpenMP, C++, clang, sanitizers) is skipped and said.
# WERROR=1 makes warnings errors. INC is where cnn.h lies.

CC      ?= cc
CXX     ?= c++
CLANG   ?= clang
INC     ?= .
B       := build
takes    = $(shell printf 'int main(void) { return 0; }\n' | $(1) $(2) -x c - -o /dev/null >/dev/null 2>&1 && echo $(2))
OPENMP  := $(call takes,$(CC),-fopenmp)
WARN    := -Wall -Wextra -Wpedantic -Wshadow -Wconversion $(if $(WERROR),-Werror)
CFLAGS  ?= -std=c99 -O2 $(OPENMP)
LDLIBS  := -lm

SUITES   := $(patsubst tests/test_%.c,%,$(wildcard tests/test_*.c))
EXAMPLES := $(patsubst examples/%.c,$(B)/%,$(wildcard examples/*.c))
BENCHES  := $(patsubst tests/bench/%.c,$(B)/bench_%,$(wildcard tests/bench/*.c))
# Sanitized builds go without OpenMP, whose runtime the sanitizers do not know, but for one suite.
ASAN     := -std=c99 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
TSAN     := -std=c99 -O1 -g -fsanitize=thread

.PHONY: all run examples test sanitize bench clean
all: examples

run: $(B)/lenet
	$(B)/lenet

examples: $(EXAMPLES)

$(B)/%: examples/%.c $(INC)/cnn.h | $(B)
	$(CC) $(CFLAGS) $(WARN) -I$(INC) $< -o $@ $(LDLIBS)

# ---- Tests ----

test: $(SUITES:%=$(B)/test_%)
	@CC='$(CC)' CXX='$(CXX)' CLANG='$(CLANG)' BUILD=$(B) INC='$(INC)' LOGS=$(B)/logs sh tests/run.sh $^ tests/switches.sh

$(B)/test_%: tests/test_%.c tests/test.h $(INC)/cnn.h | $(B)
	$(CC) $(CFLAGS) $(WARN) -I$(INC) -Itests $< -o $@ $(LDLIBS)

SANITIZED := $(if $(call takes,$(CC),-fsanitize=address,undefined),$(SUITES:%=$(B)/asan_%))
RACED     := $(if $(call takes,$(CC),-fsanitize=thread -pthread),$(B)/tsan_threads)

sanitize: $(SANITIZED) $(RACED)
	@$(if $(SANITIZED),,echo "    skipped: $(CC) has no AddressSanitizer";) $(if $(RACED),,echo "    skipped: $(CC) has no ThreadSanitizer";) \
	ASAN_OPTIONS=allocator_may_return_null=1 LOGS=$(B)/logs sh tests/run.sh $(SANITIZED) $(RACED:%=$(B)/tsan_suite)

$(B)/asan_%: tests/test_%.c tests/test.h $(INC)/cnn.h | $(B)
	$(CC) $(ASAN) -I$(INC) -Itests $< -o $@ $(LDLIBS)

$(B)/tsan_threads: tests/switches/threads.c $(INC)/cnn.h | $(B)
	$(CC) $(TSAN) -I$(INC) $< -o $@ -pthread $(LDLIBS)
	@printf '#!/bin/sh\n%s && echo "1 passed, 0 failed"\n' '$@' > $(B)/tsan_suite && chmod +x $(B)/tsan_suite

# ---- Bench ----

bench: $(BENCHES)
	@for b in $(BENCHES); do $$b || exit 1; done

$(B)/bench_%: tests/bench/%.c $(INC)/cnn.h | $(B)
	$(CC) $(CFLAGS) $(WARN) -I$(INC) $< -o $@ $(LDLIBS)

$(B):
	mkdir -p $@

clean:
	rm -rf $(B)
