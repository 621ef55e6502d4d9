#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# --dump-plugin describes the plugin in a form for scripts.

source ./functions.sh

nbdkit qed --dump-plugin >$d/dump
cat $d/dump
for line in name=qed thread_model=parallel magic_config_key=file \
            has_extents=1 has_cache=1 has_pwrite=1 has_zero=1 has_trim=1 \
            has_flush=1 qed_punch_hole=yes; do
    grep -x "$line" $d/dump
done
grep -E -x 'qed_libnbd=(yes|no)' $d/dump
version=$(sed -n "s/^PACKAGE_VERSION='\(.*\)'/\1/p" \
              "$abs_top_builddir/config.log")
grep -x "qed_version=$version" $d/dump
