#!/bin/sh
# path.sh: can it be read? How far is it from cnn_forward to the multiply-add of a convolution on the plain loops? A
# probe in each function writes down who calls whom; at most 8 functions and 120 lines, each below its caller in the
# file. The first hour has at most 800 lines; no function has more than 60, no macro more than 40, no line 110 columns.
# INC is where cnn.h lies. Ends with `N passed, N failed`.
CC=${CC:-cc} INC=${INC:-.} BUILD=${BUILD:-build}
dir=$BUILD/path passed=0 failed=0
mkdir -p "$dir"

if ! $CC -std=c99 -O0 -finstrument-functions -no-pie -I"$INC" tests/path.c -o "$dir/path" -lm 2>"$dir/errors" ||
   ! command -v nm >/dev/null; then
    echo "    skipped: path.sh: $CC cannot instrument functions, or there is no nm"
    echo "0 passed, 0 failed"
    exit 0
fi
"$dir/path" >"$dir/calls" || exit 1
nm "$dir/path" | sed 's/^0*//' >"$dir/names"

# The functions that are open when the multiply-add's function, cnn__conv_forward, is entered; and where they stand.
awk -v header="$INC/cnn.h" '
    FILENAME ~ /names$/  { name[$1] = $3; next }
    FILENAME ~ /calls$/  {
        if ($1 == "leave") { depth--; next }
        open[++depth] = name[$2]
        if (name[$2] == "cnn__conv_forward" && !n) for (n = depth; n > 0 && !(n in path); n--) path[n] = open[n]
        if (name[$2] == "cnn__conv_forward") last = depth
        next
    }
    /^[A-Za-z].*[ *]cnn_[a-z_0-9]*\(/ && !/;$/ {        # a function begins: remember the latest definition
        s = $0; sub(/\(.*/, "", s); sub(/.*[ *]/, "", s); current = s; begin[s] = FNR; now = FNR
    }
    /^}/ && current { lines[current] = FNR - now + 1; current = "" }
    END {
        before = 0; bad = ""
        for (i = 1; i <= last; i++) {
            f = path[i]
            printf "%6d  %3d lines  %s\n", begin[f], lines[f], f
            if (begin[f] <= before) bad = bad " " f
            before = begin[f]; sum += lines[f]; count++
        }
        printf "%d functions, %d lines%s\n", count, sum, bad ? "; above its caller:" bad : ""
        exit !(count > 1 && count <= 8 && sum <= 120 && !bad)
    }' "$dir/names" "$dir/calls" "$INC/cnn.h" && passed=$((passed + 1)) || failed=$((failed + 1))

# What is longer than it may be, in the three headers.
awk '
    FNR == 1                                    { begun = define = 0; file = FILENAME; sub(/.*\//, "", file) }
    length($0) > 110                            { print file ":" FNR ": " length($0) " columns"; bad = 1 }
    /^   >>hour ----/                           { hour = FNR }
    /^   >>rooms ----/                          { if (FNR - hour > 800) print "the first hour has " FNR - hour " lines"
                                                  if (FNR - hour > 800) bad = 1; seen = 1 }
    /^#[ ]*define/ && !define                   { define = FNR }
    define && !/\\$/                            { if (FNR - define >= 40) print file ":" define ": a macro of " FNR - define + 1 " lines"
                                                  if (FNR - define >= 40) bad = 1; define = 0; next }
    define                                      { next }
    { sub(/ *\/[*].*[*]\/ *$/, "") }
    /^[A-Za-z].*\(/ && !/[;}]$/ && !begun       { begun = FNR }
    /^[}]/                                      { if (begun && FNR - begun >= 60) print file ":" begun ": a function of " FNR - begun + 1 " lines"
                                                  if (begun && FNR - begun >= 60) bad = 1; begun = 0 }
    /;$/ && /^[A-Za-z]/                         { begun = 0 }
    END { exit bad || !seen }' "$INC/cnn.h" "$INC/cnn_opencl.h" "$INC/cnn_exchange.h" && passed=$((passed + 1)) || failed=$((failed + 1))
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
