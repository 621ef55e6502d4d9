#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# When qed-img create or convert returns, the image and its name are on stable
# storage.  The file is synced before it gets the name, and the directory after
# that.  Under its name it isn't written any more.

source ./functions.sh strace

mkdir $d/dir
truncate -s 1M $d/raw
echo data | dd of=$d/raw seek=9 conv=notrunc
# Each makes a new file, and one that replaces it.
for args in "create X 1M" "create X 1M" "convert $d/raw Y" "convert $d/raw Y" \
            "convert -O qed $d/raw Z" "convert -O qed $d/raw Z"; do
    args=${args/X/$d/dir/x.qed}
    args=${args/Y/$d/dir/y.x.qed}
    args=${args/Z/$d/dir/z.x.qed}
    ASAN_OPTIONS=detect_leaks=0 strace -f -y -o $d/trace \
           -e trace=fsync,fdatasync,rename,renameat,renameat2,link,linkat,pwrite64 \
           "$abs_top_builddir/tools/qed-img" $args ||
        skip "strace doesn't work here"
    cat $d/trace
    grep -n -E 'f(data)?sync\([0-9]+<[^>]*/dir/[^>]+>(\(deleted\))?\) += 0' $d/trace |
        cut -d: -f1 >$d/file
    grep -n -E '(rename|link).*x\.qed.*= 0' $d/trace | cut -d: -f1 >$d/name
    grep -n -E 'f(data)?sync\([0-9]+<[^>]*/dir>\) += 0' $d/trace |
        cut -d: -f1 >$d/directory
    test $(tail -1 $d/file) -lt $(head -1 $d/name)
    test $(head -1 $d/name) -lt $(tail -1 $d/directory)
    grep -n pwrite64 $d/trace | cut -d: -f1 >$d/writes
    test $(tail -1 $d/writes) -lt $(tail -1 $d/file)
done
