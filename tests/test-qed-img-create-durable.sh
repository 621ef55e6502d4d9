#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# When qed-img create returns, the image and its name are on stable storage.
# The file is synced before it gets the name, and the directory after that.

source ./functions.sh strace

mkdir $d/dir
for i in 1 2; do                # a new file, and one that replaces it
    ASAN_OPTIONS=detect_leaks=0 strace -f -y -o $d/trace \
           -e trace=fsync,fdatasync,rename,renameat,renameat2,link,linkat \
           "$abs_top_builddir/tools/qed-img" create $d/dir/x.qed 1M ||
        skip "strace doesn't work here"
    cat $d/trace
    grep -n -E 'f(data)?sync\([0-9]+<[^>]*/dir/[^>]+>(\(deleted\))?\) += 0' $d/trace |
        cut -d: -f1 >$d/file
    grep -n -E '(rename|link).*x\.qed.*= 0' $d/trace | cut -d: -f1 >$d/name
    grep -n -E 'f(data)?sync\([0-9]+<[^>]*/dir>\) += 0' $d/trace |
        cut -d: -f1 >$d/directory
    test $(tail -1 $d/file) -lt $(head -1 $d/name)
    test $(head -1 $d/name) -lt $(tail -1 $d/directory)
done
