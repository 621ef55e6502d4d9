/* nbdkit-qed
 * Copyright (C) 2026 nbdkit-qed authors
 *
 * Redistribution and use in source and binary forms, with or without
 * modification, are permitted provided that the following conditions are
 * met:
 *
 * * Redistributions of source code must retain the above copyright
 * notice, this list of conditions and the following disclaimer.
 *
 * * Redistributions in binary form must reproduce the above copyright
 * notice, this list of conditions and the following disclaimer in the
 * documentation and/or other materials provided with the distribution.
 *
 * * Neither the name of nbdkit-qed nor the names of its contributors may be
 * used to endorse or promote products derived from this software without
 * specific prior written permission.
 *
 * THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
 * ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
 * THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
 * PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
 * CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
 * SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
 * LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
 * USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
 * ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
 * OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
 * OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
 * SUCH DAMAGE.
 */



/* What has to be so after qed_repair, whether it ended or was interrupted. */

#ifndef REPAIRED_H
#define REPAIRED_H

#include "damage.h"

/* Call qed_repair for the image in F, and count from then on. */
extern int repair (struct mem_file *f, enum qed_repair what,
                   struct qed_repair_result *result);

/* How often F was changed or synced since. */
extern uint64_t changes (struct mem_file *f);

/* What is known of an image before it is repaired in one way. */
struct before {
  enum qed_repair what;
  uint8_t header[QED_HEADER_BYTES];
  struct qed_header h;
  struct snapshot content;
  struct qed_check_result check;
  uint64_t hash;
};
extern void take_before (struct before *b, struct mem_file *f,
                         enum qed_repair what);
extern void free_before (struct before *b);

/* Is F what may be left of it?  If not: a description.  After an interruption
 * F is repaired again, in the same way.
 */
extern const char *check_repaired (const struct before *b,
                                   struct mem_file *f);
extern const char *check_interrupted (const struct before *b,
                                      struct mem_file *f);

#endif /* REPAIRED_H */
