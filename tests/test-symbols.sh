#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The plugin exports only its entry point and its debug flags.

source ./functions.sh nm

nm -D --defined-only "$plugin" | cut -d' ' -f3 | sort >$d/symbols
cat $d/symbols
grep -x plugin_init $d/symbols
grep -x qed_debug_io $d/symbols
grep -x qed_debug_table $d/symbols
grep -v -x -e plugin_init -e 'qed_debug_[a-z]*' $d/symbols >$d/others || :
test ! -s $d/others
