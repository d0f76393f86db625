#!/bin/sh
# examples/mpi.c under mpirun: two and four ranks with their parts of each batch follow one rank with the whole batch,
# the last batch of an epoch being smaller. Run from the top of the repository; MPICC, BUILD and INC may be set. Ends
# with `N passed, N failed`. Without MPI it is skipped, and says so. OBJECT (the implementation, compiled) may be set.
MPICC=${MPICC:-mpicc} BUILD=${BUILD:-build}/mpi_test INC=${INC:-.}
. tests/report.sh
skip() { echo "    skipped: $1"; end; }

have "$MPICC" && have mpirun || skip 'examples/mpi.c: mpicc or mpirun is not installed'
export OMP_NUM_THREADS=1                        # ranks share the cores
mkdir -p "$BUILD"
printf '#include <mpi.h>\nint main(int n, char **v) { MPI_Init(&n, &v); MPI_Finalize(); return 0; }\n' >"$BUILD/probe.c"
$MPICC "$BUILD/probe.c" -o "$BUILD/probe" >"$BUILD/probe.log" 2>&1 || skip "examples/mpi.c: $MPICC compiles no program"

# Open MPI counts cores, and asks root whether it is sure; two ranks may share a core here.
RUN=mpirun
if mpirun --version 2>&1 | grep -q 'Open MPI'; then
    RUN='mpirun --oversubscribe'
    [ "$(id -u)" -ne 0 ] || RUN="$RUN --allow-run-as-root"
fi
$RUN -n 2 "$BUILD/probe" >"$BUILD/probe.log" 2>&1 || skip 'examples/mpi.c: mpirun starts no two ranks here'

# Its own line is checked; with OBJECT the program is linked.
file=examples/mpi.c OPENMP=
if [ -f "$OBJECT" ]; then
    file=$BUILD/mpi.c
    sed -e '/^#define CNN_IMPLEMENTATION/d' -e '/^#define CNN_STATIC/d' -e 's|"../cnn.h"|"cnn.h"|' examples/mpi.c >"$file"
    nm "$OBJECT" 2>/dev/null | grep -q GOMP && OPENMP=-fopenmp
else OBJECT=; fi
if out=$($MPICC -std=c99 -Wall -Wextra -I"$INC" -fsyntax-only examples/mpi.c 2>&1 &&
         $MPICC -std=c99 -O1 -Wall -Wextra -include math.h -include stdlib.h -include string.h -I"$INC" "$file" $OBJECT $OPENMP -o "$BUILD/mpi" -lm 2>&1) && [ -z "$out" ]; then pass
else fail 'examples/mpi.c does not compile without a warning' "$out"; end; fi

for n in 1 2 4; do
    if $RUN -n $n "$BUILD/mpi" 2 48 >"$BUILD/$n.log" 2>"$BUILD/$n.err"; then pass
    else fail "$n ranks" "$(cat "$BUILD/$n.log" "$BUILD/$n.err")"; end; fi
done
# follows A B: two epochs each, losses that fall, and equal to one part in 100,000.
follows() {
    awk 'FNR == 1 { n = 0 }
         /^epoch/ { n++; if (NR == FNR) one[n] = $4; else many[n] = $4 }
         END { if (n != 2 || !(one[1] > one[2] && one[2] > 0)) exit 1
               for (i = 1; i <= 2; i++) { d = many[i] - one[i]; if (!(d * d <= 1e-10 * one[i] * one[i])) exit 1 } }' "$1" "$2"
}
for n in 2 4; do
    if follows "$BUILD/1.log" "$BUILD/$n.log"; then pass; else fail "$n ranks do not follow one" "$(cat "$BUILD/1.log" "$BUILD/$n.log")"; fi
done
if $RUN -n 2 "$BUILD/mpi" 1 5 >"$BUILD/odd.log" 2>&1; then fail 'a batch that the ranks cannot share was taken'
elif grep -q 'multiple of the number of ranks' "$BUILD/odd.log"; then pass
else fail 'no message for a batch that the ranks cannot share' "$(cat "$BUILD/odd.log")"; fi
end
