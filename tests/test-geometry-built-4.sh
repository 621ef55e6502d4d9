#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# nbdkit reads images of every cluster size with tables of 4 clusters.  Each
# has its geometry's largest disk.  They are built without QEMU.

source ./functions.sh nbd

"$PYTHON" "$testsdir/geometry.py" built 4
