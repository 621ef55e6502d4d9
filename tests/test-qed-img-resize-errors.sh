#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A resize that is refused exits with code 1 and leaves the file unchanged.
# The message names the file, the problem and what to do.

source ./functions.sh nbd

cd $d
bad ()
{
    state_of x.qed >before
    fails 1 "^qed-img: $1" qed-img resize "${@:2}"
    state_of x.qed | cmp - before
    test ! -s fails.out
}

# Limits of the geometry.
qed-img create -q -o cluster_size=4k,table_size=1 x.qed 1M
bad "x.qed: size 1073742336: must be at most 1073741824 with the image's \
cluster_size 4096 and table_size 1, .*qed-img create -o cluster_size=4k,\
table_size=2 and copy the disk\$" x.qed 1073741825
bad "x.qed: size .*: must be at most 1073741824" x.qed +1G
bad "x.qed: size .*: must be at most 1073741824" x.qed 8E
bad "x.qed: size .*: must be at most 1073741824" x.qed +15.9E
bad "x.qed: size .*: must be at most 1073741824" x.qed 18446744073709551615
qed-img create -q x.qed 1M
bad "x.qed: size .*: must be at most 70368744177664 with the image's \
cluster_size 65536 and table_size 4, which can't be changed: make a larger \
image with qed-img create -o cluster_size=64k,table_size=8 and copy the \
disk\$" x.qed 65T
# No geometry allows this size, so the message has no advice.
bad "x.qed: size .*: must be at most 70368744177664 with the image's \
cluster_size 65536 and table_size 4\$" x.qed 8E

# Arguments that are no sizes.
for s in '' x 1x 1.b + - +-1 0x10 ' 1' 16E; do
    bad "x.qed: size '.*': is not a size: expected digits" --shrink x.qed "$s"
done
bad "x.qed: size '0': must be more than 0" --shrink x.qed 0
bad "x.qed: size '-1M': the disk has 1048576 bytes" --shrink x.qed -1M
bad "x.qed: size '-8E': the disk has 1048576 bytes" --shrink x.qed -8E

# The command line.
bad 'resize: expected one file name and one size' x.qed
bad 'resize: expected one file name and one size'
bad 'resize: expected one file name and one size' -1M
bad 'resize: expected one file name and one size' x.qed 1M 2M
bad "resize: -f: format 'raw'" -f raw x.qed 2M
bad "resize: option '--frob' is unknown" --frob x.qed 2M
bad "resize: option '-1' is unknown" x.qed -1M --shrink

# Files that are no images.
bad 'none.qed: .*No such file' none.qed 1M
echo hello >y
bad 'y: header: .*this is not a QED image' y 1M
"$PYTHON" - <<'END'
import qedimg
i = qedimg.Image(1 << 20, features=1 << 40)
i.save("unknown.qed")
i = qedimg.Image(1 << 20, compat_features=1 << 40, autoclear_features=6)
i.save("compat.qed")
i = qedimg.Image(1 << 20)
i.data(3)
i.entry(40, 12345)
i.save("unsound.qed")
i = qedimg.Image(1 << 20)
i.data(3)
i.entry(5, i.entries[max(i.entries)])
i.save("twice.qed")
END
bad 'unknown.qed: .*features' unknown.qed 2M

# Unknown compat bits are kept, unknown autoclear bits are not.
qed-img resize compat.qed 2M
test "$(od -An -tx8 -j24 -N16 compat.qed)" = \
     " 0000010000000000 0000000000000000"

# Corrupt images.
cp unsound.qed x.qed
bad 'x.qed: 1 entries .* corrupt, .*: run qed-img check -r all' x.qed 4M
bad 'x.qed: 1 entries .* corrupt, .*: run qed-img check -r all' \
    --shrink x.qed 512k
cp twice.qed x.qed
bad 'x.qed: 1 entries .* corrupt, .*: run qed-img check -r all' x.qed 4M
bad 'x.qed: 1 entries .* corrupt, .*: run qed-img check -r all' \
    --shrink x.qed 512k

# A file that may not be written.
as=
if [ "$(id -u)" -eq 0 ]; then as="setpriv --reuid 65534 --clear-groups"; fi
chmod 755 $d
qed-img create -q x.qed 1M
chmod 444 x.qed
if $as test -x $abs_top_builddir/tools/qed-img; then
    state_of x.qed >before
    for args in "resize x.qed 2M" "rebase -u -b gone -F raw x.qed"; do
        fails 1 'qed-img: x.qed: .*Permission denied' $as $QED_IMG $args
    done
    state_of x.qed | cmp - before
fi
