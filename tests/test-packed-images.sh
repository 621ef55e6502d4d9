#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The commands in PACKED IMAGES in the man page of the plugin serve the disk
# from each kind of packed file.

source ./functions.sh nbd gzip nbdcopy perl tar xz filter:gzip,tar,xz fuse

cd $d
cleanup_fn tidy
tidy ()
{
    if mountpoint -q packed; then fusermount3 -u packed; fi
    wait
}
qed-img create -q disk.qed 64M
on_disk disk.qed 'h.pwrite (bytearray (range (256)) * 9000, 12345678)'
nbdkit -r -U - qed disk.qed --run 'nbdcopy "$uri" want.raw'
gzip -k disk.qed
xz -k disk.qed
tar -cf disks.tar disk.qed
sed -n '/^=head1 PACKED IMAGES/,/^=head1 SECURITY/p' \
    "$abs_top_srcdir/plugin/nbdkit-qed-plugin.pod" |
    sed -n 's/^ \([^ ]\)/\1/p; s/^     */    /p' >section
cat section

# The first command unpacks.
mv disk.qed hidden.qed
eval "$(sed -n 1p section)"
cmp disk.qed hidden.qed
rm disk.qed

# The others up to fusermount3 don't.
sed -n '2,/^fusermount3/p' section >commands
grep -F -e 'filter=xz' commands
commands=$(cat commands)
rm -f disk.raw
# They wait for nbdfuse, which may not be allowed to mount.
if ! timeout 60 bash -e -c "$commands" </dev/null; then
    if [ ! -s packed.pid ]; then skip "nbdfuse can't mount here"; fi
    fail "the commands of the man page"
fi
cmp disk.raw want.raw
# After that come the filters for the other kinds, each to be put there.
others=$(sed '1,/^fusermount3/d' section)
test "$(wc -l <<<"$others")" = 2
for k in gzip tar; do
    line=$(grep -e "filter=$k" <<<"$others")
    rm -f disk.raw packed.pid
    rmdir packed
    timeout 60 bash -e -c \
            "${commands/'[ nbdkit -r --filter=xz file disk.qed.xz ]'/$line}" \
            </dev/null
    cmp disk.raw want.raw
done
