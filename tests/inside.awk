# Print the private types of cnn.h that tests look into, for tests/inside.h: awk -f tests/inside.awk cnn.h
# A type stands at the left margin, in one block from typedef, struct or enum to the ; that closes it.
BEGIN { wanted = "struct cnn_graph [{]|[} ]cnn__(team|cpu|block|node|moment|probe|text|way|entry|file|pattern);|CNN__(HOST|F32|SEED)," \
                 "|CNN__HOST =" }
/^#define CNN_IMPLEMENTATION_ONCE/ { inside = 1 }
inside && !open && /^(typedef|struct|enum)/ { open = 1; depth = 0; block = "" }
open {
    block = block $0 "\n"
    depth += gsub(/[{]/, "{") - gsub(/[}]/, "}")
    if (depth == 0 && /;/) { open = 0; if (block ~ wanted) printf "%s", block }
}
