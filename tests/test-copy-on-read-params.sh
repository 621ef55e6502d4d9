#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# What copy-on-read= and stream= can't do is refused before nbdkit goes into the
# background, with the parameter and what to do about it: whatever keeps the
# image from being written to, parameters that don't go together, and streaming
# without the backing file that the header names.  With "false" nothing of that
# matters.

source ./functions.sh nbdinfo qemu-img

cd $d
truncate -s 1M base
qed-img create -b base -F raw x.qed
state_of x.qed base >before

# -r in all its forms and places.
for p in copy-on-read stream; do
    re="error: $p=true: .*nbdkit -r .*leave out one"
    for r in -r --readonly --read-only -fr -rv; do
        refused "$re" $r qed x.qed $p=true
    done
    refused "$re" qed x.qed $p=true -r
    refused "$re" -D qed.io=1 qed -v -r file=x.qed $p=1
    refused "$re" qed $p=yes --readonly dir=.
done
# Nor does another word that only looks like it.
mkdir -- '-r'
for words in '-e -r' '--exportname=-r' '-D qed.stream=1' '-t 3'; do
    start_nbdkit $words qed x.qed copy-on-read=true
    stop_nbdkit
done
start_nbdkit qed ./x.qed copy-on-read=true backing-dir=-r
stop_nbdkit
cmp <(state_of base) <(grep base before) # no more than that was read

# Other parameters.
for p in copy-on-read stream; do
    refused "salvage=true: .*leave out copy-on-read= and stream=" \
            qed x.qed salvage=true $p=true
    for v in '' maybe 2; do
        refused "error: could not decipher boolean \($v\)" qed x.qed $p=$v
    done
done
refused 'stream-rate=1M: .*without stream=true' qed x.qed stream-rate=1M
refused 'stream-rate=1M: .*without stream=true' \
        qed x.qed stream-rate=1M copy-on-read=true stream=false
refused 'stream-rate=0: must be more than 0.*stream=false' \
        qed x.qed stream=true stream-rate=0
for v in '' fast -1 1q; do
    refused 'could not parse size|size cannot be negative' \
            qed x.qed stream=true stream-rate=$v
done

# Clusters that are too large to be kept when they are read.
qed-img create -o cluster_size=16M -b base -F raw large.qed
refused 'large.qed: clusters have 16777216 bytes.*8388608.*streaming can' \
        qed large.qed copy-on-read=true
start_nbdkit qed large.qed copy-on-read=true stream=true
stop_nbdkit
qed-img create -o cluster_size=16M without.qed 1M
start_nbdkit qed without.qed copy-on-read=true
stop_nbdkit

# Without the backing file that the header names the image would change.
refused 'stream.*leave out backing=none' qed x.qed stream=true backing=none
qed-img create alone.qed 1M
start_nbdkit -v qed alone.qed stream=true backing=none
wait_for 30 grep 'streaming is complete' $log
stop_nbdkit

# "false" is as nothing.
state_of x.qed base >before
nbdkit -r -U - qed x.qed copy-on-read=false stream=false \
       --run 'nbdinfo "$uri"' | grep 'is_read_only: true'
nbdkit -r -U - qed x.qed copy-on-read=no stream=off salvage=true \
       --run 'nbdinfo --size "$uri"' | grep -x 1048576
state_of x.qed base | diff -u before -

# A file without permission to write, for which root is another user.
chmod 0444 x.qed
chmod 0755 $d
as=
if [ "$(id -u)" -eq 0 ]; then
    if ! setpriv --reuid 65534 --clear-groups test -x "$abs_top_builddir/nbdkit"
    then
        skip "other users can't get at the build directory"
    fi
    as="setpriv --reuid 65534 --clear-groups"
fi
mkdir sock
chmod 0777 sock
for p in copy-on-read stream; do
    fails 1 "x.qed: .*Permission denied" \
          $as "$abs_top_builddir/nbdkit" -U $d/sock/s qed $d/x.qed $p=true \
          --run true
    # What keeps it from being copied to, and what to do.
    grep -E "$p=" fails.log
done
chmod 0644 x.qed

# A read-only filesystem.
if [ "$(id -u)" -eq 0 ]; then
    small_filesystem $d/mnt 1M
    qed-img create -b base -F raw y.qed
    cp y.qed base mnt 2>/dev/null || { truncate -s 64k mnt/base; }
    mount -o remount,ro $d/mnt
    for p in copy-on-read stream; do
        refused "y.qed: .*Read-only file system" qed mnt/y.qed $p=true \
                backing=$d/base
        grep -E "$p=" refused.log
    done
fi
