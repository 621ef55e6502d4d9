#!/bin/sh
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Run a test program, under valgrind if NBDKIT_VALGRIND is set as for the
# ./nbdkit wrapper.

leaks=definite,indirect,possible
if [ -n "$NBDKIT_VALGRIND" ]; then
  exec "${VALGRIND:?was not found by configure}" --quiet \
    --error-exitcode=119 --leak-check=full --show-leak-kinds=$leaks \
    --errors-for-leak-kinds=$leaks --child-silent-after-fork=no "$@"
fi
exec "$@"
