#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

source ./functions.sh
set -e
set -x
requires_nbd
requires_qemu

# Images that QEMU writes, of every cluster size that it can with tables of
# 2 clusters, against the model and "qemu-img convert".
"$PYTHON" "$testsdir/geometry.py" qemu 2
