#!/bin/sh
# places.sh: how many places does a contributor touch? Into a copy of cnn.h go, at its marks alone, an operation
# (snake: API block, room, a word in CNN_OPS), an optimizer (Lion: row, a word in CNN_OPTIMIZERS), and an instruction
# set ("c4", four lanes in tiles of 6 x 8: section, row). Then the tests of the rooms run on the copy, with snake among
# the operations and c4 as the instruction set, and tests/places.c. Ends with `N passed, N failed`.
CC=${CC:-cc} INC=${INC:-.} BUILD=${BUILD:-build}
dir=$BUILD/places
mkdir -p "$dir"
fail() { echo "places.sh: $1"; echo "0 passed, 1 failed"; exit 1; }

cat >"$dir/api" <<'END'
/* As x: x + sin(x)^2 (Ziyin et al. 2020). */
CNN_API cnn_tensor *cnn_snake_(const char *at, cnn_tensor *x);
#define cnn_snake(x)   cnn_snake_(CNN_HERE, x)
END
cat >"$dir/room" <<'END'
CNN__LOOP(cnn__each_snake,      float x = v[i], s = sinf(x); v[i] = x + s * s)
CNN__LOOP(cnn__each_snake_back, v[i] *= 1 + sinf(2 * a[i]))
CNN__FORMULA(snake, CNN_READS_X, NULL)
END
cat >"$dir/optimizer" <<'END'
/* Lion (Chen et al. 2023):  w -= lr (sign(beta1 m + (1 - beta1) dw) + decay w),  m = beta2 m + (1 - beta2) dw */
static void cnn__lion_run(float *restrict w, const float *restrict dw, float *const *slot, cnn__rates r)
{
    float *restrict m = slot[0];
    for (int i = 0; i < CNN__RUN_OF; i++) {
        const float c = r.beta1 * m[i] + (1 - r.beta1) * dw[i];
        w[i] -= r.lr * ((float)((c > 0) - (c < 0)) + r.decay * w[i]);
        m[i] = r.beta2 * m[i] + (1 - r.beta2) * dw[i];
    }
}
static void cnn__lion_update(float *w, const float *dw, float *const *slot, size_t n, const cnn_step_args *a, long step)
{
    (void)step;
    cnn__in_runs(cnn__lion_run, w, dw, slot, n, (cnn__rates){ .lr = a->lr, .decay = a->weight_decay,
                                                              .beta1 = a->beta1, .beta2 = a->beta2 });
}
static const cnn_field cnn__lion_fields[] = {
    CNN__TAKES(beta1, 0.9, "[0,1)"), CNN__TAKES(beta2, 0.99, "[0,1)"), CNN__TAKES(weight_decay, 0, "[0,inf)"), { 0 } };
static const cnn_optimizer cnn__lion = { "lion", 1, cnn__lion_update, cnn__lion_fields, NULL };
END
{   # the vocabulary of the portable set under other names, in larger tiles
    echo '#define CNN_ISA_C4 ((cnn_isa)40)'
    echo 'static bool cnn__has_c4(void) { return true; }'
    echo 'enum { CNN__W_c4 = 4, CNN__MR_c4 = 6, CNN__NV_c4 = 2, CNN__TALL_c4 = 6 };'
    echo 'typedef cnn__v_c cnn__v_c4;'
    echo 'typedef cnn__m_c cnn__m_c4;'
    echo '#define CNN__TARGET_c4'
    for word in mask set add fma load store masked sum4 gather4 scatter4 zip split larger clip put; do
        echo "#define cnn__${word}_c4 cnn__${word}_c"
    done
    echo 'CNN__ISA_KERNELS(c4)'
} >"$dir/section"
echo '    CNN__ISA_ROW(CNN_ISA_C4, c4),' >"$dir/row"

# Each piece behind its mark; the room behind the end of its comment.
sed -e "/An operation of your own: its API block here/r $dir/api" \
    -e "/An operation of your own: its room here/,/^ \* --/{
        /^ \* --/r $dir/room
        }" \
    -e "/An optimizer of your own: its row here/r $dir/optimizer" \
    -e "/An instruction set of your own: its section here/r $dir/section" \
    -e "/An instruction set of your own: its row here/r $dir/row" \
    -e 's/^#define CNN_OPS(X) /&X(snake) /' -e 's/^#define CNN_OPTIMIZERS(X) /&X(lion) /' "$INC/cnn.h" >"$dir/cnn.h"
[ "$(diff "$INC/cnn.h" "$dir/cnn.h" | grep -c '^[0-9]')" -eq 7 ] || fail "a mark in cnn.h is missing"

# The tests of the rooms know snake by its float64 reference.
sed -e 's|^EACH(silu,|static cnn_tensor *build_snake(one *k) { k->gap = 0.1; return cnn_snake(any(k)); }\
EACH(snake, x + sin(x) * sin(x))\
&|' -e 's/ROOM(silu, 40, 1e-5),/& ROOM(snake, 40, 1e-5),/' tests/rooms_more.h >"$dir/rooms_more.h"
# What the other instruction sets compute is no other than in test_rooms: all cases run on c4 here, and only as many as
# would be drawn for one of four; those of snake run on each, when it is asked for by its name.
sed -e 's/^    find_isas();/    if (test__only) find_isas();/' \
    -e 's/i < rooms\[j\]\.cases && test__bad < 8/i < (test__only ? rooms[j].cases : (rooms[j].cases + 3) \/ 4) \&\& test__bad < 8/' \
    tests/test_rooms.c >"$dir/test_rooms.c"
[ "$(diff tests/test_rooms.c "$dir/test_rooms.c" | grep -c '^>')" -eq 2 ] || fail "test_rooms.c has no find_isas or cases"
flags="-std=c99 -O1 -I$dir -I. -Itests -I$BUILD"
# The time goes into the references: the copy itself need not be fast.
$CC $flags -O0 -c tests/cnn.c -o "$dir/cnn.o" && $CC $flags "$dir/test_rooms.c" "$dir/cnn.o" -o "$dir/test_rooms" -lm &&
    $CC $flags tests/places.c "$dir/cnn.o" -o "$dir/places" -lm || fail "the copy does not compile"
for program in test_rooms places; do CNN_ISA=c4 "$dir/$program" >"$dir/$program.log"; done
CNN_ISA=c4 "$dir/test_rooms" 'room snake' >"$dir/snake.log"
set -- "$dir/test_rooms.log" "$dir/snake.log" "$dir/places.log"
cat "$@" | grep -v 'passed,'
p=$(sed -n 's/^\([0-9]*\) passed, .*/\1/p' "$@" | awk '{ n += $1 } END { print n + 0 }')
f=$(sed -n 's/^[0-9]* passed, \([0-9]*\) failed$/\1/p' "$@" | awk '{ n += $1; k++ } END { print k == 3 ? n : n + 1 }')
echo "$p passed, $f failed"
[ "$f" -eq 0 ]
