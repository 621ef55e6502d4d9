#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img create makes what QEMU does for every cluster size with tables of
# 16 clusters, and images that work where QEMU refuses.

source ./functions.sh nbd qemu

"$PYTHON" "$testsdir/geometry.py" created 16
