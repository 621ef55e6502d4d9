# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# make_tree DIR fills DIR with files of many sizes, a sparse file, links and
# odd names.
make_tree ()
{
    mkdir -p "$1/sub/deep/er"
    "$PYTHON" - "$1" <<'END'
import os, random, sys
r = random.Random(8)
os.chdir(sys.argv[1])
for i in range(150):
    n = int(2 ** r.uniform(0, 19))
    with open(r.choice((".", "sub", "sub/deep/er")) + f"/file {i}", "wb") as f:
        f.write(r.randbytes(n))
with open("sparse", "wb") as f:
    f.seek(5 << 20)
    f.write(b"end")
with open("empty", "wb"):
    pass
with open("hello", "w") as f:
    f.write("hello, world\n" * 10000)
os.symlink("hello", "link")
os.link("hello", "sub/hard")
END
}
