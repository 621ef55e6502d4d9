#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The extents of a chain are those that QEMU reports, at every boundary.

source ./functions.sh nbd qemu nbdcopy

cd $d
compare ()
{
    start_nbdkit -r qed $1
    qemu-img map --output=json -f qed $1 >qemu.json
    qemu-img map --output=json -f raw "$uri" >nbdkit.json
    stop_nbdkit
    "$PYTHON" - <<'END'
import json, qedtest
def load(name):
    result = []
    for e in json.load(open(f"{qedtest.TMP}/{name}.json")):
        if result and result[-1][2] == e["zero"]:
            result[-1][1] += e["length"]
        else:
            result.append([e["start"], e["length"], e["zero"]])
    return result
assert len(load("qemu")) > 20
assert load("qemu") == load("nbdkit"), (load("qemu"), load("nbdkit"))
END
    same_as_qemu $1
    # Holes of all layers are skipped.
    test $(stat -c %b got.raw) -le $(stat -c %b want.raw)
}

commands ()
{
    "$PYTHON" - "$@" <<'END'
import random, sys
seed, size, n = map(int, sys.argv[1:])
r = random.Random(seed)
for _ in range(n):
    offset = r.randrange(size) // 4096 * 4096
    n = min(int(2 ** r.uniform(12, 18)) // 4096 * 4096, size - offset)
    print(r.choice(("write -P 3", "write -P 4", "write -z")), offset, n)
print("quit")
END
}

truncate -s 15M base.raw
commands 1 $((15 << 20)) 60 | grep -v -e -z |
    qemu-io -f raw base.raw >/dev/null
below=base.raw format=raw
for i in 1 2 3; do
    cluster=$(set -- 64k 4k 256k; echo ${!i})
    qemu-img create -q -f qed -o cluster_size=$cluster -b $below -F $format \
             $i.qed $((14 + i))M
    compare $i.qed
    commands $i$i $(((14 + i) << 20)) 40 | qemu-io -f qed $i.qed >/dev/null
    compare $i.qed
    below=$i.qed format=qed
done

# One cluster, or one byte, at a time is the same.
"$PYTHON" - <<'END'
import random
import qedtest
with qedtest.Server("-r", "qed", qedtest.TMP + "/3.qed") as s:
    h = s.connect()
    whole = qedtest.extents(h)
    size = h.get_size()
    assert whole[0].start == 0 and whole[-1].end == size
    assert all(a.end == b.start and a.flags != b.flags
               for a, b in zip(whole, whole[1:]))
    assert {e.flags for e in whole} == {0, 3}
    assert qedtest.extents(h, req_one=True) == whole
    def flags_at(offset):
        return next(e.flags for e in whole if e.start <= offset < e.end)
    for e in whole[1:]:
        for offset in e.start - 1, e.start:
            for n in 1, 2, 65536:
                got = qedtest.block_status(h, offset, min(n, size - offset))
                assert got[0].flags == flags_at(offset), (offset, got)
    for e in whole:
        if e.flags == 3:
            for offset in range(e.start, e.end, 1 << 20):
                n = min(1 << 20, e.end - offset)
                assert h.pread(n, offset) == bytes(n)
END

# A sparse overlay of a sparse base costs nothing to copy.
truncate -s 1G huge.raw
qemu-io -f raw -c 'write -P 9 700M 64k' huge.raw >/dev/null
qemu-img create -q -f qed -b huge.raw -F raw huge.qed 8G
qemu-io -f qed -c 'write -P 8 5G 64k' huge.qed >/dev/null
nbdkit -r -U - qed huge.qed --run 'nbdcopy "$uri" got.raw'
test $(stat -c %s got.raw) -eq $((8 << 30))
test $(stat -c %b got.raw) -le 2048
qemu-img compare -f raw -F qed got.raw huge.qed
