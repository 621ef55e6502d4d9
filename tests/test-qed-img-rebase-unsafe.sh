#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# rebase -u changes only the name of the backing file, as qemu-img does.

source ./functions.sh nbd qemu

cd $d
truncate -s 1M a.raw
qemu-img create -q -f qed a.qed 1M
for old in "" "-b a.raw -F raw" "-b a.qed -F qed"; do
    for new in "a.raw raw" "a.qed qed" "not/there raw" "not/there qed" \
               "$d/a.raw raw" "nbd://localhost/x raw"; do
        qemu-img create -q -f qed $old x.qed 1M
        qemu-io -f qed -c 'write -P 5 0 100k' x.qed
        cp x.qed qemu.qed
        qemu-img rebase -u -b ${new% *} -F ${new#* } qemu.qed
        qed-img rebase -u -b ${new% *} -F ${new#* } x.qed
        # The name may be at another offset of the header, so QEMU's output is
        # compared.
        qemu-img info qemu.qed | grep -v -e '^image:' -e '^disk size' >want
        qemu-img info x.qed | grep -v -e '^image:' -e '^disk size' >got
        cmp want got
        cmp -i 65536 x.qed qemu.qed
        cp x.qed y.qed
        qemu-img rebase -u -b '' qemu.qed
        qed-img rebase -u -b '' y.qed
        test "$(od -An -tx8 -j56 -N8 y.qed)" = " 0000000000000000"
        cmp -i 65536 x.qed y.qed
        qemu-img info y.qed >out
        absent backing out
    done
done

# No byte of the old name is left.
name=secret-$(printf '%0600d' 0)
qed-img rebase -u -b $name -F raw x.qed
grep -q secret x.qed
qed-img rebase -u -b short -F raw x.qed
absent 'secret|00000000' x.qed

# Without -F, rebase detects the format if the file exists.  Otherwise it sets
# no format and prints a note.
qed-img rebase -u -b a.qed x.qed 2>err
test ! -s err
test $(od -An -tu8 -j16 -N8 x.qed) -eq 1
qed-img rebase -u -b a.raw x.qed 2>err
grep 'a.raw: .*taken as raw' err
test $(od -An -tu8 -j16 -N8 x.qed) -eq 5
qed-img rebase -u -b nowhere.raw x.qed 2>err
grep 'x.qed: backing file: nowhere.raw: does not exist, .*-F' err
test $(od -An -tu8 -j16 -N8 x.qed) -eq 1

# The old backing file does not exist.
qed-img rebase -u -b a.raw -F raw x.qed
on_disk x.qed "
assert h.pread (102400, 0) == b'\\5' * 102400
assert h.pread (1 << 19, 1 << 19) == bytes (1 << 19)" -r
