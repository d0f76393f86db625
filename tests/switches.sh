#!/bin/sh
# Compile and link cnn.h in every way that it promises (C++: tests/cpp.sh): switches, compilers, standards, symbols, examples.
# Run from the top of the repository; CC, CXX, CLANG, BUILD and INC (where cnn.h is) may be set. Ends with
# `N passed, N failed`. What the machine lacks is skipped, and said.
CC=${CC:-cc} CXX=${CXX:-c++} CLANG=${CLANG:-clang} BUILD=${BUILD:-build}/switches INC=${INC:-.}
S=tests/switches
STRICT="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror"
. tests/report.sh
mkdir -p "$BUILD"

# ok NAME COMMAND...: a test that passes if the command succeeds without a word.
ok() {
    name=$1; shift
    if out=$("$@" 2>&1) && [ -z "$out" ]; then pass; else fail "$name: $*" "$out"; fi
}
# built NAME COMPILER FLAGS...: compile and link into $BUILD/NAME without a warning, then run it.
built() {
    name=$1; shift
    if out=$("$@" -o "$BUILD/$name" -lm 2>&1) && [ -z "$out" ]; then
        if out=$("$BUILD/$name" 2>&1); then pass; else fail "$name returned $?" "$out"; fi
    else fail "$name: $*" "$out"; fi
}
compiles() { printf 'int main(void) { return 0; }\n' | $1 -x c - $2 -o "$BUILD/probe" >/dev/null 2>&1; }
OPENMP=; compiles "$CC" -fopenmp && OPENMP=-fopenmp

# ---- Switches, each with a net that trains ----
# The implementation is optimised once, with all warnings, in impl.o; where only compiling and a right result matter, -O0.
ok    'implementation alone' $CC -std=c99 -O2 $STRICT -I"$INC" -c $S/impl.c -o "$BUILD/impl.o"
ok    'a program without the implementation' $CC -std=c99 -O2 $STRICT -I"$INC" -c $S/net.c -o "$BUILD/net.o"
built 'two_units'   $CC "$BUILD/net.o" "$BUILD/impl.o"
built 'one_file'    $CC -std=c99 -O0 $STRICT -I"$INC" -DONE_FILE $S/net.c
ok    'static object' $CC -std=c99 -O0 $STRICT -I"$INC" -DONE_FILE -DCNN_STATIC -c $S/net.c -o "$BUILD/static.o"
built 'static'      $CC "$BUILD/static.o"
built 'static_beside_another' $CC "$BUILD/static.o" "$BUILD/impl.o"
ok    'implementation without stdio' $CC -std=c99 -O0 $STRICT -I"$INC" -DCNN_NO_STDIO -c $S/impl.c -o "$BUILD/no_stdio.o"
built 'no_stdio'    $CC -std=c99 -O0 $STRICT -I"$INC" -DCNN_NO_STDIO $S/net.c "$BUILD/no_stdio.o"
built 'no_simd'     $CC -std=c99 -O1 $STRICT -I"$INC" -DONE_FILE -DCNN_NO_SIMD $S/net.c
# ... and where options change arithmetic, which the implementation must not notice.
for option in -Ofast -mfpmath=387; do
    compiles "$CC" $option && built no_simd$option $CC -std=gnu17 -O1 $option -I"$INC" -DONE_FILE -DCNN_NO_SIMD $S/net.c
done
[ -n "$OPENMP" ] && built 'openmp' $CC -std=c99 -O0 $STRICT $OPENMP -I"$INC" -DONE_FILE $S/net.c
if compiles "$CC" -pthread; then built 'threads' $CC -std=c99 -O1 -pthread -I"$INC" -Itests $S/threads.c "$BUILD/impl.o"
else skip 'no -pthread'; fi
for isa in c avx2 avx512 neon; do
    if CNN_ISA=$isa "$BUILD/two_units" >/dev/null 2>&1; then pass; else
        [ $? -eq 1 ] && skip "CNN_ISA=$isa: this machine lacks it" || fail "CNN_ISA=$isa"; fi
done
if out=$($CC -std=c99 -I"$INC" '-DCNN_MALLOC(n)=malloc(n)' -c $S/impl.c -o "$BUILD/probe.o" 2>&1); then
    fail 'CNN_MALLOC without CNN_FREE must not compile'
else case $out in *"or none"*) pass;; *) fail 'CNN_MALLOC without CNN_FREE' "$out";; esac; fi
if out=$(sed -n '/^       #define CNN_IMPLEMENTATION/,/^       }/p' "$INC/cnn.h" |
         sed 's/ in ONE \.c file.*//; s/  *XOR: cc .*//' >"$BUILD/usage.c"; grep -c . "$BUILD/usage.c"); then
    built 'usage_at_the_top_of_cnn.h' $CC -std=c99 -O0 -Wall -Wextra -I"$INC" "$BUILD/usage.c"
else fail 'no usage at the top of cnn.h' "$out"; fi

# ---- Companions: on the public interface alone ----
if compiles "$CC" '-include CL/cl.h'; then
    printf '#define CNN_OPENCL_IMPLEMENTATION\n#include "cnn_opencl.h"\n' >"$BUILD/opencl_alone.c"
    for switch in '' -DCNN_NO_STDIO -DCNN_OPENCL_LINK; do
        ok "cnn_opencl.h without the implementation $switch" $CC -std=c99 -O1 $STRICT $switch -I"$INC" -I. \
            -c "$BUILD/opencl_alone.c" -o "$BUILD/opencl_alone.o"
    done
    out=$(grep -o 'cnn__[a-z0-9_]*\|CNN__[A-Z0-9_]*' cnn_opencl.h | sort -u)
    [ -z "$out" ] && pass || fail 'cnn_opencl.h uses private names of cnn.h' "$out"
    built 'android' $CC -std=c99 -O0 -I"$INC" -I. $S/android.c "$BUILD/impl.o"
    OPENCL=-DOPENCL
else skip "cnn_opencl.h: OpenCL's headers are not installed"; fi

# ---- Windows: words that its headers define, and its compiler where there is one ----
for c in $CC $CLANG; do have $c && ok "words of windows.h, $c" $c -std=c99 $STRICT $OPENCL -I"$INC" -I. -fsyntax-only $S/names.c; done
MINGW=x86_64-w64-mingw32-gcc
if have $MINGW; then
    mkdir -p "$BUILD/windows" && ln -sfn /usr/include/CL "$BUILD/windows/CL"
    [ -f "$BUILD/windows/CL/cl.h" ] || OPENCL=
    for place in '' -DBEFORE -DBEHIND; do
        ok "$MINGW $OPENCL $place" $MINGW -std=c99 -O0 -Wall -Wextra -Werror $OPENCL $place \
            -I"$INC" -I. -I"$BUILD/windows" $S/windows.c -o "$BUILD/windows.exe"
    done
else skip "$MINGW is not installed"; fi
[ ! -r /proc/self/statm ] || built 'resident' $CC -std=c99 -O0 -I"$INC" $S/resident.c "$BUILD/impl.o"

# ---- Compilers and standards ----
for c in gcc $CLANG; do
    if ! have $c; then skip "$c is not installed"; continue; fi
    for std in c99 c17; do
        for switch in '' -DCNN_NO_SIMD -DCNN_NO_STDIO -DCNN_STATIC; do
            ok "$c $std $switch" $c -std=$std $STRICT $switch -I"$INC" -fsyntax-only $S/impl.c
        done
    done
    compiles $c -fopenmp && ok "$c -fopenmp" $c -std=c99 $STRICT -fopenmp -I"$INC" -fsyntax-only $S/impl.c
done
if have $CLANG; then built 'clang' $CLANG -std=c99 -O0 $STRICT -I"$INC" -DONE_FILE $S/net.c; fi
if printf 'int main() { return 0; }\n' | $CXX -x c++ - -o "$BUILD/probe" >/dev/null 2>&1; then
    printf '#define CNN_IMPLEMENTATION\n#include "cnn.h"\n' >"$BUILD/wrong.cc"         # one error, that says what to do
    out=$($CXX -std=c++11 -I"$INC" -fsyntax-only "$BUILD/wrong.cc" 2>&1)
    [ "$(printf '%s\n' "$out" | grep -c ' error: ')" -eq 1 ] && [ "${out#*into a .c file}" != "$out" ] && pass ||
        fail 'CNN_IMPLEMENTATION in C++: one error' "$out"
else skip 'no C++ compiler'; fi

# ---- Symbols ----
if have nm && nm "$BUILD/impl.o" >/dev/null 2>&1; then
    out=$(nm "$BUILD/impl.o" | awk 'NF == 3 && $2 ~ /[A-TV-Z]/ { print $3 }' | grep -v '^_*cnn_[a-z]')
    [ -z "$out" ] && pass || fail 'global symbols without cnn_' "$out"
    out=$(nm "$BUILD/impl.o" | awk 'NF == 3 && $2 ~ /[dDbBcCsS]/ { print }' | grep -v '\.rel\.ro\|cnn__ro_')
    out=$(for s in $(printf '%s\n' "$out" | awk '{ print $3 }'); do      # tables of pointers are constant after relocation
              objdump -t "$BUILD/impl.o" 2>/dev/null | grep " $s\$" | grep -q '\.data\.rel\.ro\|\.rodata' || echo "$s"; done)
    [ -z "$out" ] && pass || fail 'writable globals' "$out"
    out=$(nm "$BUILD/impl.o" | awk '$1 == "U" { print $2 }' | sed 's/@.*//' |
          grep -x '_*\(exit\|_exit\|abort\|printf\|puts\|putchar\|perror\|rand\|srand\|strcpy\|strcat\|sprintf\|vsprintf\|gets\|atexit\|signal\|setlocale\|system\|__assert_fail\|assert\|stdout\)')
    [ -z "$out" ] && pass || fail 'calls what a library must not' "$out"
    out=$(nm "$BUILD/no_stdio.o" | awk '$1 == "U" { print $2 }' | grep -x '_*\(f[a-z]*printf\|fopen[0-9]*\|f\(read\|write\|close\|seek\|tell\|puts\|putc\|flush\)[a-z0-9]*\|rename\|remove\|std\(in\|out\|err\)\|snprintf\)')
    [ -z "$out" ] && pass || fail 'CNN_NO_STDIO uses stdio' "$out"
    $CC -std=c99 -O0 -I"$INC" '-DCNN_MALLOC(n)=mine_malloc(n)' '-DCNN_REALLOC(p,n)=mine_realloc(p,n)' '-DCNN_FREE(p)=mine_free(p)' \
        -include "$S/mine.h" -c $S/impl.c -o "$BUILD/mine.o"
    out=$(nm "$BUILD/mine.o" | awk '$1 == "U" { print $2 }' | grep -x '_*\(malloc\|calloc\|realloc\|free\|strdup\)')
    [ -z "$out" ] && pass || fail 'CNN_MALLOC is set, and still calls' "$out"
else skip 'nm is not installed'; fi
out=$(grep -n 'TODO\|FIXME\|XXX\|HACK' "$INC/cnn.h")
[ -z "$out" ] && pass || fail 'cnn.h: left-over marks' "$out"

# ---- Examples: each opens with its cc line and compiles so; optimised, it is linked with impl.o ----
HEADS=$(for h in errno float limits math stdarg stdlib string time; do echo "-include $h.h"; done)     # what the implementation would have included
for e in examples/*.c; do
    [ -f "$e" ] || continue
    n=${e##*/}
    head -n 12 "$e" | grep -q "cc .*-std=c99 -O2.*examples/$n" && pass || fail "$e does not open with its cc line"
    [ $n = mpi.c ] && continue                          # its compiler is mpicc: tests/mpi.sh
    if [ $n = opencl.c ]; then
        if printf '#include <CL/cl.h>\n' | $CC -x c -fsyntax-only - >/dev/null 2>&1; then
            ok "$e" $CC -std=c99 -O0 -Wall -Wextra -I"$INC" "$e" -o "$BUILD/${n%.c}" -lm
        else skip "$e: OpenCL's headers are not installed"; fi
        continue
    fi
    ok "$e" $CC -std=c99 -Wall -Wextra -I"$INC" -fsyntax-only "$e"
    sed -e '/^#define CNN_STATIC/d' -e '/^#define CNN_IMPLEMENTATION/d' -e 's|"../cnn.h"|"cnn.h"|' "$e" >"$BUILD/$n"
    ok "$e, linked" $CC -std=c99 -O2 -Wall -Wextra $HEADS -I"$INC" "$BUILD/$n" "$BUILD/impl.o" -o "$BUILD/${n%.c}" -lm
done

end
