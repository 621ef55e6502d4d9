#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The syntax of the man pages is right.

source ./functions.sh podchecker

for f in plugin/nbdkit-qed-plugin.pod tools/qed-img.pod; do
    podchecker -warnings "$abs_top_srcdir/$f" 2>&1 | tee $d/pod
    grep 'pod syntax OK' $d/pod
    absent WARNING $d/pod
done
