#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# --help lists the parameters.  The man pages describe each of them and every
# debug flag.

source ./functions.sh nm

nbdkit qed --help >$d/help
params=$(sed -n -e '/^plugin:/,$p' $d/help |
             grep -o -E '^\[?[a-z-]+=' | tr -d '[=' | sort -u)
test "$(echo $params)" = "arg backing backing-dir backing-format \
backing-uri cache-size check command copy-on-read dir fd file lock salvage \
stream stream-rate uri"
pod="$abs_top_srcdir/plugin/nbdkit-qed-plugin.pod"
for p in $params; do
    grep -F "B<$p=" "$pod"
done
for flag in $(nm -D --defined-only "$plugin" |
                  sed -n 's/.* qed_debug_/qed./p'); do
    grep -F -e "-D $flag=1" "$pod"
done
