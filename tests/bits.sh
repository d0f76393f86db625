#!/bin/sh
# The same bits from any compiler, optimization, standard and number of threads: tests/bits.c trains four nets in each
# build and prints hashes of their weights; for one instruction set all builds must print the same. Run from the top
# of the repository; CLANG, BUILD and INC may be set. Ends with `N passed, N failed`; what is missing is skipped, and
# said.
CLANG=${CLANG:-clang} BUILD=${BUILD:-build}/bits INC=${INC:-.}
. tests/report.sh
mkdir -p "$BUILD"


# build NAME COMPILER FLAGS...: the program $BUILD/NAME; with -pthread where the compiler has it.
build() {
    name=$1; shift
    have "$1" || { skip "$name: $1 is not installed"; return 1; }
    printf 'int main(void) { return 0; }\n' >"$BUILD/probe.c"
    threads=; "$@" -pthread "$BUILD/probe.c" -o "$BUILD/probe" -lm 2>/dev/null && "$BUILD/probe" && threads=-pthread
    if out=$("$@" $threads -I"$INC" -I. tests/bits.c -o "$BUILD/$name" -lm 2>&1); then return 0
    else fail "$name does not compile: $*" "$out"; return 1; fi
}
# same NAME THREADS NETS: what NAME prints, against the reference, for each instruction set.
same() {
    for isa in $ISAS; do
        for net in $3; do CNN_ISA=$isa "$BUILD/$1" $2 $net; done >"$BUILD/out" 2>&1
        for net in $3; do grep "^$net " "$BUILD/$isa"; done >"$BUILD/want"
        if out=$(diff "$BUILD/want" "$BUILD/out"); then pass; else fail "$1, $2 threads, $isa" "$out"; fi
    done
}
ALL='lenet5 keras resnet20 mobilenet_v2'

# The reference: gcc -std=c99 -O2, one thread. OBJECT is an implementation that was compiled so, if there is one.
if have gcc; then CC=gcc; else CC=${CC:-cc}; fi
if [ -n "$OBJECT" ]; then
    mkdir -p "$BUILD/linked/examples"
    sed -e '/^#define CNN_STATIC/d' -e '/^#define CNN_IMPLEMENTATION/d' -e 's|"../cnn.h"|"cnn.h"|' examples/zoo.c >"$BUILD/linked/examples/zoo.c"
    build reference $CC -std=c99 -O2 -I"$BUILD/linked" "$OBJECT" || end
else build reference $CC -std=c99 -O2 || end; fi
ISAS=
for isa in c avx2 avx512 neon; do
    if CNN_ISA=$isa "$BUILD/reference" 1 >"$BUILD/$isa" 2>&1; then ISAS="$ISAS $isa"; pass
    elif [ $? -ne 1 ]; then fail "the reference with CNN_ISA=$isa" "$(cat "$BUILD/$isa")"
    else skip "CNN_ISA=$isa: this machine lacks it"; fi
done
same reference 2 "$ALL"
# With what distributions add to find overflows, and as users warn.
build gcc_O3 $CC -std=c99 -O3 -D_FORTIFY_SOURCE=2 -Wall -Wextra -Werror && same gcc_O3 3 "$ALL"
build gcc_O0 $CC -std=c99 -O0 && same gcc_O0 1 lenet5                   # unoptimised, the others take minutes

# gnu99 and -march=native: compilers may contract a b + c there; cnn.h forbids it.
build gcc_gnu99 $CC -std=gnu99 -O2 -march=native && same gcc_gnu99 8 "$ALL"
build clang_O3 $CLANG -std=c99 -O3 && same clang_O3 1 "$ALL"
build clang_gnu99 $CLANG -std=gnu99 -O1 -march=native && same clang_gnu99 2 "$ALL"
# WebAssembly: two instruction sets with the bits of "c". (A net of more than 64 MiB ends node 20 itself.)
if have node && $CLANG --target=wasm32-wasi -w -msimd128 -std=c99 -O1 -D_WASI_EMULATED_PROCESS_CLOCKS -I"$INC" -I. \
        tests/bits.c -o "$BUILD/bits.wasm" -lwasi-emulated-process-clocks 2>"$BUILD/out"; then
    grep -v '^mobilenet_v2' "$BUILD/c" >"$BUILD/want"
    for isa in c wasm; do
        for net in lenet5 keras resnet20; do
            CNN_ISA=$isa node --no-warnings tests/switches/wasi.js "$BUILD/bits.wasm" 1 $net
        done >"$BUILD/out" 2>&1
        if out=$(diff "$BUILD/want" "$BUILD/out"); then pass; else fail "WebAssembly, $isa" "$out"; fi
    done
else skip 'WebAssembly: node, clang, lld, wasi-libc and libclang-rt-14-dev-wasm32 are not installed'; fi
end
