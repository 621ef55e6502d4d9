#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# info --stats counts what is allocated, fragmented and leaked, as check does,
# for each image of a chain, also of damaged images and of those in use.  The
# tables are read once.

source ./functions.sh nbd qemu strace

cd $d
truncate -s 1M base.raw
"$PYTHON" - <<'END'
import qedimg

img = qedimg.Image(8 << 20, backing="base.raw",
                   features=qedimg.F_BACKING_FORMAT_NO_PROBE)
for cluster in 0, 1, 20:
    img.data(cluster)
img.alloc(2)                    # leaks
img.data(3)
img.data(21)                    # 3 and 20 aren't next to those before
img.zero(4)
img.zero(127)
img.save("x.qed")
img.entry(5, 12345)
img.entry(6, 1 << 40)
img.save("bad.qed")
qedimg.Image(4 << 20, 4096, 16, backing="x.qed").save("top.qed")
END

# stats FILE: the numbers, in one line.
stats ()
{
    qed-img info --stats --output=json $1 | "$PYTHON" -c 'import json, sys
s = json.load(sys.stdin)["stats"]
print(*(s[k] for k in ("total-clusters", "allocated-clusters", "zero-clusters",
                       "fragmented-clusters", "leaked-clusters", "corruptions",
                       "image-end-offset", "bytes-used", "bytes-reserved")))'
}

# Header, L1 table, L2 table and 5 clusters are 14; and 2 leaks.
test "$(stats x.qed)" = "128 5 2 3 2 0 1048576 917504 0"
qed-img info --stats x.qed >out
sed -n '/^Statistics/,$p' out | diff - <(cat <<'END'
Statistics:
    allocated clusters: 5 of 128 (3.91%)
    zero clusters: 2 of 128 (1.56%)
    fragmented clusters: 3 of 5 (60.00%)
    file space in use: 896 KiB of 1 MiB (87.50%)
    leaked clusters: 2 (128 KiB)
END
)
# The rest is what info prints without it, and so is what is still below.
qed-img info x.qed | diff - <(sed '/^Statistics/,$d' out)
grep 'still in the backing file: 7.56 MiB (7929856 bytes)' out
# QEMU counts the same.
ends 3 qed-img check --output=json x.qed
qemu-img check --output=json x.qed >qemu || test $? = 3
"$PYTHON" - <<'END'
import json
for file in "ends.out", "qemu":
    c = json.load(open(file))
    assert (c["total-clusters"], c["allocated-clusters"],
            c["fragmented-clusters"], c["leaks"]) == (128, 5, 3, 2), c
END

# An image without clusters.
qed-img create -q empty.qed 0
test "$(stats empty.qed)" = "0 0 0 0 0 0 327680 327680 0"
qed-img info --stats empty.qed |
    grep -x '    allocated clusters: 0 of 0 (0.00%)'

# Damage is counted, and is no failure.
test "$(stats bad.qed)" = "128 5 2 3 2 2 1048576 917504 0"
qed-img info --stats bad.qed |
    grep -x '    corruptions: 2: qed-img check tells which'

# Each image of a chain has its own; raw files have none.
qed-img info --stats --backing-chain top.qed >out
test "$(grep -c '^Statistics:' out)" = 2
grep -x '    allocated clusters: 0 of 1024 (0.00%)' out
grep -x '    allocated clusters: 5 of 128 (3.91%)' out
qed-img info --stats --backing-chain --output=json top.qed >out
qed-img info --backing-chain --output=json top.qed >plain
"$PYTHON" - <<'END'
import json
layers = json.load(open("out"))
assert [l.pop("stats", {}).get("allocated-clusters") for l in layers] == \
    [0, 5, None]
assert layers == json.load(open("plain"))
assert [l.get("format-specific", {}).get("data", {}).get("bytes-in-backing")
        for l in layers] == [4 << 20, (1 << 20) - 4 * 65536, None], layers
END

# L2 tables are read once: more bytes than plain info reads are headers, and
# the L1 table, which a check looks at twice.  (LeakSanitizer doesn't work under
# strace.)
bytes_read ()
{
    ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 \
        strace -o trace -e trace=pread64,preadv "$@" >/dev/null
    sed -n 's/.*= \([0-9]*\)$/\1/p' trace | "$PYTHON" -c 'import sys
print(sum(map(int, sys.stdin)))'
}
cp --sparse=never x.qed dense.qed
plain=$(bytes_read qed-img info dense.qed)
more=$(bytes_read qed-img info --stats dense.qed)
test $plain -ge 500000
test $more -ge 500000
test $more -lt $((plain + 262144 + 50000))

# An image in use: what the server has reserved isn't leaked.
cp x.qed y.qed
start_nbdkit qed y.qed
nbdsh -u "$uri" -c 'h.pwrite(b"x" * 65536, 50 * 65536); h.flush()'
read -r -a s <<<"$(stats y.qed)"
test "${s[*]:0:8}" = "128 6 2 3 2 0 1114112 983040"
test ${s[8]} -gt 1000000
qed-img info --stats y.qed |
    grep -E '^    reserved by the program that has it open: [0-9.]+ MiB$'
stop_nbdkit

# Tables that can't be read.
start_nbdkit eval get_size='echo 1048576' \
    pread="if [ \$4 -ge 65536 ]; then echo EIO >&2; exit 1; fi
           tail -c +\$((\$4 + 1)) $d/x.qed | head -c \$3"
fails 1 'qed-img: nbd.*: read at 65536: .*Input/output error' \
      qed-img info --stats "$uri"
grep '^virtual size: 8 MiB' fails.out
absent Statistics fails.out
