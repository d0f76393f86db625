#!/bin/sh
# Instruction sets that this machine lacks: the tests of the kernels under an emulator (SIMDe, qemu, node), but for the
# largest shapes. Run from the top of the repository; CC, CLANG, BUILD and INC may be set. Ends with
# `N passed, N failed`.
CC=${CC:-cc} CLANG=${CLANG:-clang} BUILD=${BUILD:-build}/emulated INC=${INC:-.} S=tests/switches
MOST=-DMOST_WORK=16e6
. tests/report.sh
mkdir -p "$BUILD"

# kernels ISA COMMAND...: the tests of its kernels, and none is skipped.
kernels() {
    isa=$1; shift
    if out=$("$@" $isa 2>&1) && ! echo "$out" | grep -q "skipped: $isa"; then pass; else fail "$isa emulated" "$out"; fi
}

if printf '#include <simde/x86/avx512.h>\n' | $CC -x c -mavx2 -mfma -fsyntax-only - >/dev/null 2>&1; then
    sed -e 's/target("avx512f,avx2,fma")/target("avx2,fma")/' -e 's/__builtin_cpu_supports("avx512f")/1/' \
        -e 's/__asm__("" : "+v"(v))/(void)(v)/' "$INC/cnn.h" >"$BUILD/cnn.h"      # SIMDe's are in no register
    [ "$(diff "$INC/cnn.h" "$BUILD/cnn.h" | grep -c '^>')" -eq 3 ] && pass ||
        fail 'the three lines in cnn.h are not as this test takes them to be'
    if grep -qw avx512f /proc/cpuinfo 2>/dev/null; then             # then build/test_kernels runs the real one
        skip 'AVX-512 emulated: this machine has it'
    elif out=$($CC -std=gnu99 -O1 $MOST -mavx2 -mfma -include $S/avx512.h -I"$BUILD" -Itests tests/test_kernels.c \
                   -o "$BUILD/kernels_avx512" -lm 2>&1); then kernels avx512 "$BUILD/kernels_avx512"
    else fail 'AVX-512 emulated does not compile' "$out"; fi
else skip 'AVX-512 emulated: libsimde-dev is not installed, or this is not x86-64'; fi
if have aarch64-linux-gnu-gcc && have qemu-aarch64; then
    if out=$(aarch64-linux-gnu-gcc -std=c99 -O1 $MOST -static -I"$INC" -Itests tests/test_kernels.c \
                 -o "$BUILD/kernels_neon" -lm 2>&1); then kernels neon qemu-aarch64 "$BUILD/kernels_neon"
    else fail 'NEON does not compile' "$out"; fi
else skip 'NEON under qemu: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user are not installed'; fi
# WebAssembly, where the rest of the library runs too: 32 bits to a pointer.
WASM="$CLANG --target=wasm32-wasi -msimd128 -std=c99 -O1 $MOST -I$INC -I. -Itests -I$BUILD"
if ! have node || ! printf '#include <math.h>\nint main(void) { return 0; }\n' |
        $WASM -x c - -o "$BUILD/probe.wasm" >/dev/null 2>&1; then
    skip 'WebAssembly under node: node, clang, lld, wasi-libc and libclang-rt-14-dev-wasm32 are not installed'
elif awk -f tests/inside.awk "$INC/cnn.h" >"$BUILD/inside_types.h" &&
     out=$($WASM tests/test_kernels.c -o "$BUILD/kernels.wasm" 2>&1 &&
           $WASM tests/test_rooms.c tests/cnn.c -o "$BUILD/rooms.wasm" 2>&1); then
    kernels wasm node --no-warnings $S/wasi.js "$BUILD/kernels.wasm"
    if out=$(node --no-warnings $S/wasi.js "$BUILD/rooms.wasm" 2>&1); then pass; else fail 'rooms as WebAssembly' "$out"; fi
else fail 'WebAssembly does not compile' "$out"; fi

end
