# coverage.awk: the branches of cnn.h that no test takes, from `gcov -b -c -t` of one or more objects: a branch counts as
# taken where one of them took it. A macro may make several functions: each has its own. Prints the lines with branches
# left, then the share; fails below LEAST percent.
/^ *-: *0:Source:/         { ours = $0 ~ /cnn\.h$/; next }
!ours                      { next }
/^function /               { function_of = $2 }
/^ *[-#=0-9*]+: *[0-9]+:/  { split($0, part, ":"); line = part[2] + 0; text[line] = $0; n = 0; next }
/^branch/                  { key = line " " function_of " " ++n; if (!(key in taken)) taken[key] = 0
                             if ($0 !~ /taken 0|never executed/) taken[key] = 1 }
END {
    for (key in taken) {
        split(key, part, " ")
        all++
        if (taken[key]) took++
        else left[part[1]]++
        if (part[1] > last) last = part[1] + 0
    }
    for (i = 1; i <= last; i++)
        if (i in left) {
            sub(/^[^:]*:[^:]*: */, "", text[i])
            printf "cnn.h:%d: %d left: %s\n", i, left[i], text[i]
        }
    printf "%d of %d branches taken: %.1f %%\n", took, all, all ? 100 * took / all : 0
    exit !(all && 100 * took / all >= LEAST)
}
