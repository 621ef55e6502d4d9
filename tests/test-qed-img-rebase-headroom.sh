#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# If a backing file's name doesn't fit into the header clusters, a rebase makes
# the header larger: what follows it moves to the end of the file.  The disk
# stays the same, nothing is leaked, and QEMU opens the result.

source ./functions.sh qemu

cd $d
name ()
{
    printf "%0$1d" 0
}

# Overlays in which each kind of thing is behind the header: the L1 table, an L2
# table, data, and a leaked cluster.  Their headers have room for no other name.
# QEMU has no tables of one cluster.
make_images ()
{
    "$PYTHON" - "$@" <<'END'
import sys
import qedimg

table_size = int(sys.argv[1])
for behind in "l1", "l2", "data", "leak":
    at = {"l1": 1, "l2": 1 + table_size}.get(behind, 2)
    img = qedimg.Image(4 << 20, 4096, table_size, l1_at=at, backing="base.raw",
                       features=qedimg.F_BACKING_FORMAT_NO_PROBE)
    img.table(0, at=1 if behind == "l2" else None)
    img.data(0, at=1 if behind == "data" else None)
    for cluster in 5, 6, 511, 600, 1023:
        img.data(cluster)
    img.zero(8)
    img.bytes.append((72, b"#" * (4096 - 72)))
    img.save(behind + ".qed")
END
}

# leaks FILE: how many clusters nothing refers to, as a second implementation
# counts them.
leaks ()
{
    "$PYTHON" -c 'import qedimg, sys
print(qedimg.References(sys.argv[1]).leaks)' $1
}

# field FILE KEY: a number of the header.
field ()
{
    qed-img info --output=json $1 | "$PYTHON" -c 'import json, sys
print(json.load(sys.stdin)["format-specific"]["data"][sys.argv[1]])' $2
}

printf '%0100000d' 0 | dd of=base.raw bs=300k conv=sync
truncate -s 4M base.raw
ln -s base.raw $(name 200)
for table_size in 2 4; do
    make_images $table_size
    for f in l1 l2 data leak; do
        cp $f.qed $f.old
        qemu-img convert -f qed -O raw $f.old $f.raw
        test $f = leak || qemu-img check -f qed $f.qed

        for args in "-u -F raw" "-F raw"; do
            cp $f.old $f.qed
            qed-img rebase $args -b $(name 200) $f.qed
            case $f in l1 | l2) n=$((1 + table_size)) ;; *) n=2 ;; esac
            test $(field $f.qed header-size) = $n
            qed-img info $f.qed | grep -x "backing file: $(name 200)"
            qemu-img info -f qed $f.qed | grep "^backing file: $(name 200)"
            qed-img check $f.qed
            test $(leaks $f.qed) = 0
            qemu-img check -f qed $f.qed
            qemu-img compare -f raw -F qed $f.raw $f.qed
            # The bytes of others, but not the old name.
            test "$(tail -c +65 $f.qed | head -c 4032 | tr -d '\0#' | wc -c)" \
                 = 0
            test "$(head -c 4096 $f.qed | tr -dc '#' | wc -c)" = $((4096 - 72))
        done

        # QEMU writes to it, and our next rebase finds room.
        qemu-io -f qed -c 'write -P 7 2M 64k' $f.qed
        qemu-io -f raw -c 'write -P 7 2M 64k' $f.raw
        qed-img rebase -b '' $f.qed
        qed-img rebase -u -b $(name 3000) -F raw $f.qed
        test $(field $f.qed header-size) = $n
        qed-img rebase -u -b '' $f.qed
        qed-img check $f.qed
        qemu-img compare -f raw -F qed $f.raw $f.qed
    done
done

# Not while the image is corrupt, and not with unknown compat_features; and
# nothing changes then.
make_images 2
printf '\1' | dd of=l2.qed bs=1 seek=24 conv=notrunc
"$PYTHON" - <<'END'
import qedimg
img = qedimg.Image(1 << 20, 4096, 1)
img.entry(3, 4096 + 1)
img.bytes.append((64, b"#" * 4032))
img.save("bad.qed")
END
cp bad.qed bad.old
for args in "-u -b new -F raw" "-b base.raw -F raw"; do
    fails 1 'bad.qed: 1 entries .* corrupt, so nothing is moved.*check -r all' \
          qed-img rebase $args bad.qed
    cmp bad.qed bad.old
    fails 1 'l2.qed: header: compat_features 0x1: ' qed-img rebase $args l2.qed
done
