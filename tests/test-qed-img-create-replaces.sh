#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img create replaces an existing file.

source ./functions.sh nbd nbdinfo

cd $d
mkdir dir
cd dir
serves ()
{
    nbdkit -U - qed "$1" --run 'nbdinfo --size "$uri"' >$d/size
    test "$(cat $d/size)" = "$2"
}

# A file that is no image, or is one: its permissions stay.
echo text >x.qed
chmod 0640 x.qed
qed-img create x.qed 1M
serves x.qed 1048576
test "$(stat -c %a x.qed)" = 640
qed-img create -o cluster_size=4k x.qed 2M
serves x.qed 2097152
test "$(stat -c %a x.qed)" = 640

# A new file has the default permissions.
(umask 027; qed-img create y.qed 1M; touch z)
test "$(stat -c %a y.qed)" = "$(stat -c %a z)"

# Through a symbolic link: the link stays one.
mkdir sub
ln -s sub/target.qed link.qed
qed-img create sub/target.qed 1M
qed-img create link.qed 3M
test -L link.qed
serves sub/target.qed 3145728

# Not over its own backing file.
state_of x.qed >$d/before
fails 1 '^qed-img: x.qed: .*same file' qed-img create -b x.qed -F qed x.qed
qed-img create -b x.qed -F qed top.qed
fails 1 '^qed-img: x.qed: .*would be replaced' \
      qed-img create -b top.qed -F qed x.qed
state_of x.qed >$d/after
cmp $d/before $d/after

# No other file is left behind.
test "$(echo $(ls -A))" = "link.qed sub top.qed x.qed y.qed z"
test "$(ls -A sub)" = target.qed
