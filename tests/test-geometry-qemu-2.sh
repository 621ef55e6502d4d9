#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# nbdkit reads images that QEMU wrote, of every cluster size that QEMU supports
# with tables of 2 clusters.  The content equals the model and the output of
# "qemu-img convert".

source ./functions.sh nbd qemu

"$PYTHON" "$testsdir/geometry.py" qemu 2
