#!/bin/sh
# transfer.sh: examples/transfer.c as a user runs it, but on a stand-in for torchvision's file (random weights under its
# names, from examples/zoo.c) and on a folder of pictures made here: the head learns, and the body stays as it was. Run
# from the top of the repository; CC, BUILD, INC and OBJECT (the implementation, compiled) may be set.
CC=${CC:-cc} BUILD=${BUILD:-build} INC=${INC:-.}
dir=$BUILD/transfer
. tests/report.sh
rm -rf "$dir" && mkdir -p "$dir/pictures"
[ -f "$OBJECT" ] || { OBJECT=$dir/cnn.o; $CC -std=c99 -O1 -I"$INC" -c tests/switches/impl.c -o "$OBJECT"; }
THREADS=; nm "$OBJECT" 2>/dev/null | grep -q pthread_create && THREADS=-pthread
for e in transfer zoo; do sed -e '/^#define CNN_STATIC/d' -e '/^#define CNN_IMPLEMENTATION/d' -e 's|"../cnn.h"|"cnn.h"|' examples/$e.c >"$dir/$e.c"; done
cat >"$dir/check.c" <<'END'
/* check make FILE FOLDER; check compare FILE LEARNED */
#include <sys/stat.h>
#define main zoo
#include "zoo.c"
#undef main

/* MobileNetV2 with random weights, and the running statistics that it has on random pictures. */
static int make(const char *file, const char *folder)
{
    enum { BATCH = 8, FLOATS = BATCH * 3 * 32 * 32 };
    cnn_graph    *g = cnn_new(.max_batch = BATCH, .seed = 7);
    cnn_tensor   *x = cnn_input(g, 3, 32, 32), *loss = cnn_mean(mobilenet_v2(x));
    static float  v[FLOATS];
    if (!cnn_compile(g, loss)) return puts(cnn_error(g)), 1;
    for (int run = 0; run < 20; run++) {
        for (int i = 0; i < FLOATS; i++) v[i] = (float)(rand() % 1000) / 250 - 2;
        cnn_set(x, v, FLOATS), cnn_forward(loss, CNN_TRAIN);
    }
    if (!cnn_save(g, file)) return puts(cnn_error(g)), 1;
    cnn_free(g);
    for (int i = 0; i < 24; i++) {                      /* left and right half are of two colours, in one order or the other */
        char  path[300];
        sprintf(path, "%s/%s", folder, i % 2 ? "cat" : "dog");
        mkdir(path, 0777);
        sprintf(path + strlen(path), "/%d.ppm", i);
        FILE *f = fopen(path, "wb");
        if (!f) return puts(path), 1;
        fprintf(f, "P6\n40 36\n255\n");
        for (int y = 0; y < 36; y++)
            for (int x = 0; x < 40; x++) {
                const int left = (x < 20) == i % 2;
                fputc(left ? 200 + i : 30, f), fputc((x + y + i) % 60, f), fputc(left ? 20 : 220 - i, f);
            }
        fclose(f);
    }
    return 0;
}

/* The body is the file's to the bit, the head is another one. */
static int compare(const char *file, const char *learned)
{
    cnn_graph  *g = cnn_load(file, .inference = 1), *h = cnn_load(learned, .inference = 1);
    const char *names[2] = { cnn_class_name(h, 0), cnn_class_name(h, 1) };
    int same = 0;
    if (cnn_error(g) || cnn_error(h)) return puts(cnn_error(g) ? cnn_error(g) : cnn_error(h)), 1;
    for (int i = 0; cnn_node(h, i); i++) {
        cnn_tensor *t = cnn_node(h, i), *u;
        if (t->kind != CNN_PARAM && t->kind != CNN_BUFFER) continue;
        if (strncmp(t->name, "head.", 5) == 0) continue;
        u = cnn_find(g, t->name);
        if (!u || !t->frozen || cnn_count(u) != cnn_count(t) ||
            memcmp(cnn_map_read(u), cnn_map_read(t), cnn_count(t) * sizeof(float))) return puts(t->name), 1;
        same++;
    }
    cnn_tensor *head = cnn_find(h, "head.weight");
    if (same != 260 || !head || head->frozen || head->shape.n != 2) return printf("%d tensors, not 52 x 5\n", same), 1;
    if (!names[0] || !names[1] || strcmp(names[0], "cat") || strcmp(names[1], "dog")) return puts("no names of classes"), 1;
    return cnn_free(g), cnn_free(h), 0;
}

int main(int argc, char **argv)
{
    return argc == 4 && strcmp(argv[1], "make") == 0 ? make(argv[2], argv[3]) : compare(argv[2], argv[3]);
}
END
lines=$(wc -l <examples/transfer.c)
[ "$lines" -le 60 ] && pass || fail "examples/transfer.c has $lines lines, and may have 60"
flags="-std=c99 -O1 $THREADS -I$INC -I$dir"
heads='-include errno.h -include math.h -include stdlib.h -include string.h'            # what the implementation includes
out=$($CC $flags $heads "$dir/transfer.c" "$OBJECT" -o "$dir/transfer" -lm 2>&1 &&
      $CC $flags $heads -D_POSIX_C_SOURCE=200809L "$dir/check.c" "$OBJECT" -o "$dir/check" -lm 2>&1) && pass ||
    { fail 'it does not compile' "$out"; end; }
out=$("$dir/check" make "$dir/mobile.safetensors" "$dir/pictures" 2>&1) && pass || fail 'the stand-in could not be made' "$out"
out=$(cd "$dir" && ./transfer mobile.safetensors pictures 32 20 2>&1) && pass || fail 'examples/transfer.c' "$out"
last=$(printf '%s\n' "$out" | tail -n 1 | sed 's/.*accuracy \([0-9]*\).*/\1/')
[ "$last" -ge 90 ] && pass || fail 'it did not learn the pictures' "$out"
out=$("$dir/check" compare "$dir/mobile.safetensors" "$dir/transfer.safetensors" 2>&1) && pass || fail 'the body changed' "$out"
names='import json, struct, sys, torchvision
file = open(sys.argv[1], "rb"); header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
want = {k: list(v.shape) for k, v in torchvision.models.mobilenet_v2().state_dict().items()}
print({k for k in (want.keys() | header.keys()) - {"__metadata__"} if want.get(k) != header.get(k, {}).get("shape")})'
if python3 -c 'import torchvision' >/dev/null 2>&1; then
    out=$(python3 -c "$names" "$dir/mobile.safetensors" 2>&1)
    [ "$out" = 'set()' ] && pass || fail "names or shapes are not torchvision's" "$out"
else skip 'no torchvision: the names of its file are those of examples/zoo.c'; fi
out=$(cd "$dir" && ./transfer mobile.safetensors no_folder 32 1 2>&1) && fail 'no folder: no error' || { case $out in *no_folder*) pass;; *) fail 'no folder' "$out";; esac; }
out=$(cd "$dir" && ./transfer no_file pictures 32 1 2>&1) && fail 'no file: no error' || { case $out in *no_file*) pass;; *) fail 'no file' "$out";; esac; }
end
