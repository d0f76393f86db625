#!/bin/sh
# examples/lab: every exercise compiles without a warning and runs empty ("not done", no points, the net learns
# without it); every blank can be filled (cnn.h's own kernels, tests/lab/answers.h, are worth all points); every
# judge can fail (five typical mistakes in each function, each by itself). Run from the top of the repository; CC,
# MPICC, BUILD, INC and OBJECT (an implementation that is compiled already) may be set. Ends with `N passed, N failed`.
CC=${CC:-cc} MPICC=${MPICC:-mpicc} BUILD=${BUILD:-build}/lab_test INC=${INC:-.}
passed=0 failed=0
pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "    FAILED: $1"; [ -z "$2" ] || printf '%s\n' "$2" | head -n 20 | sed 's/^/        /'; }
end()  { echo "$passed passed, $failed failed"; [ $failed -eq 0 ]; exit $?; }

export OMP_NUM_THREADS=1                        # CPU time is scarce where tests run side by side
unset LAB_MISTAKE LAB_ONLY LAB_JSON
rm -rf "$BUILD" && mkdir -p "$BUILD/examples/lab" || exit 1
ln -s "$PWD/examples/data" "$BUILD/examples/data"
cp "$INC/cnn.h" cnn_opencl.h "$BUILD" && cp examples/lab/* "$BUILD/examples/lab" && cp tests/lab/answers.h "$BUILD/examples/lab"
if [ -z "$OBJECT" ] || [ ! -f "$OBJECT" ]; then
    OBJECT=$BUILD/cnn.o
    $CC -std=c99 -O1 -DCNN_IMPLEMENTATION -x c -c "$INC/cnn.h" -o "$OBJECT" || { fail 'cnn.h does not compile'; end; }
fi
WARN='-Wall -Wextra -Wpedantic -Wshadow -Wconversion'

# Fill the blanks of a file; print the names of its functions.
fill() { awk '/^(static )?lab_answer [a-z_0-9]+\(/ { name = $0; sub(/\(.*/, "", name); sub(/.* /, "", name) }
              /^    return NOT_DONE;/ { print "    ANSWER_" name ";"; next }
              { print } /^#include "lab.h"/ { print "#include \"answers.h\"" }' "$1"; }
names() { sed -n 's/^static lab_answer \([a-z_0-9]*\)(.*/\1/p' "$1"; }

# exercise NUMBER: the three things above. RUN and COMPILE are for MPI.
exercise() {
    file=$(ls "$BUILD/examples/lab/$1"_*.c) name=$(basename "$file" .c) bin=$BUILD/$1
    compile=${COMPILE:-$CC}
    out=$($compile -std=c99 -O2 $WARN -DLAB_LINKED "$file" "$OBJECT" -o "$bin" -lm $LIBS 2>&1)
    if [ $? -eq 0 ] && [ -z "$out" ]; then pass; else fail "$name does not compile without a warning" "$out"; return; fi

    out=$($RUN "$bin" 2>&1) && fail "$name is accepted while it is empty" "$out"
    if printf '%s\n' "$out" | grep -q ': 0 of 100 points$' && printf '%s\n' "$out" | grep -q 'not done'; then pass
    else fail "$name, empty, does not say: not done, 0 of 100 points" "$out"; fi

    fill "$file" >"$BUILD/examples/lab/filled_$name.c"
    out=$($compile -std=c99 -O2 -w -DLAB_LINKED "$BUILD/examples/lab/filled_$name.c" "$OBJECT" -o "$bin.filled" -lm $LIBS 2>&1) ||
        { fail "$name, filled, does not compile" "$out"; return; }
    out=$($RUN "$bin.filled" 2>&1)
    case $1 in 09|10) want='right' ;; *) want=': 100 of 100 points$' ;; esac        # speed depends on the machine
    if printf '%s\n' "$out" | grep -q "$want" && ! printf '%s\n' "$out" | grep -q 'WRONG\|not done'; then pass
    else fail "$name: cnn.h's own kernels are not right" "$out"; fi

    for only in $(names "$file"); do
        for LAB_MISTAKE in 1 2 3 4 5; do
            out=$(LAB_MISTAKE=$LAB_MISTAKE LAB_ONLY=$only $RUN "$bin.filled" judge 2>&1)
            if printf '%s\n' "$out" | grep -q '^  WRONG' && printf '%s\n' "$out" | grep -q ' is [^ ]*, right is '; then pass
            else fail "$name: mistake $LAB_MISTAKE in $only is not found" "$out"; fi
        done
    done
}
for number in ${LAB:-01 02 03 04 05 06 07 08 09 10}; do exercise $number; done
end
