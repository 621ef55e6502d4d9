/* SPDX-FileCopyrightText: 2026 nbdkit-qed authors
 * SPDX-License-Identifier: BSD-3-Clause
 */

/* Probing: the format that the first bytes of a file indicate.  Everything
 * that probes uses this one table.
 *
 * It has the disk image formats that QEMU 7.2 recognises by their first bytes,
 * and the compressed files and archives that images are usually shipped in.
 * The table is constant, so no lock is needed.
 */

#include <config.h>

#include <string.h>

#include "qed.h"

#define UNPACK(command) \
  "unpack it first with " command
#define UNPACK_OR_FILTER(command, filter) \
  UNPACK (command) ", or read it through nbdkit's " filter " filter (PACKED " \
  "IMAGES in nbdkit-qed-plugin(1))"

#define MAGIC(format, advice, offset, bytes) \
  { format, advice, offset, sizeof bytes - 1, bytes }

/* In order: the first entry that matches wins. */
static const struct {
  const char *format;
  const char *advice;           /* NULL: a disk image format */
  size_t offset, length;        /* of the magic, within QED_MAGIC_BYTES */
  const char *bytes;
} magics[] = {
  MAGIC ("qed",       NULL,  0, "QED\0"),
  MAGIC ("qcow",      NULL,  0, "QFI\xfb\0\0\0\1"),
  MAGIC ("qcow2",     NULL,  0, "QFI\xfb"),
  MAGIC ("vmdk",      NULL,  0, "KDMV"),
  MAGIC ("vmdk",      NULL,  0, "COWD"),
  MAGIC ("vmdk",      NULL,  0, "# Disk DescriptorFile"),
  MAGIC ("vhdx",      NULL,  0, "vhdxfile"),
  MAGIC ("vpc",       NULL,  0, "conectix"),
  MAGIC ("vdi",       NULL, 64, "\x7f\x10\xda\xbe"),
  MAGIC ("luks",      NULL,  0, "LUKS\xba\xbe"),
  MAGIC ("parallels", NULL,  0, "WithoutFreeSpace"),
  MAGIC ("parallels", NULL,  0, "WithouFreSpacExt"),
  MAGIC ("bochs",     NULL,  0, "Bochs Virtual HD Image"),
  MAGIC ("cloop",     NULL,  0, "#!/bin/sh\n#V2.0 Format\n"),

  MAGIC ("gzip",  UNPACK_OR_FILTER ("gunzip -k", "gzip"), 0, "\x1f\x8b\x08"),
  MAGIC ("xz",    UNPACK_OR_FILTER ("xz -dk", "xz"), 0, "\xfd" "7zXZ\0"),
  MAGIC ("tar",   UNPACK_OR_FILTER ("tar -xf", "tar"), 257, "ustar"),
  MAGIC ("bzip2", UNPACK ("bunzip2 -k"), 4, "1AY&SY"),
  MAGIC ("zstd",  UNPACK ("zstd -d"), 0, "\x28\xb5\x2f\xfd"),
  MAGIC ("lz4",   UNPACK ("lz4 -d"), 0, "\x04\x22\x4d\x18"),
  MAGIC ("lzip",  UNPACK ("lzip -dk"), 0, "LZIP\1"),
  MAGIC ("lzop",  UNPACK ("lzop -d"), 0, "\x89LZO\0\r\n\x1a\n"),
  MAGIC ("zip",   UNPACK ("unzip"), 0, "PK\3\4"),
  MAGIC ("7z",    UNPACK ("7z x"), 0, "7z\xbc\xaf\x27\x1c"),
};

#define NR_MAGICS (sizeof magics / sizeof magics[0])

const char *
qed_find_magic (const uint8_t *buf, size_t count)
{
  for (size_t i = 0; i < NR_MAGICS; ++i)
    if (magics[i].offset + magics[i].length <= count &&
        memcmp (buf + magics[i].offset, magics[i].bytes,
                magics[i].length) == 0)
      return magics[i].format;
  return NULL;
}

const char *
qed_packed_advice (const char *format)
{
  for (size_t i = 0; i < NR_MAGICS; ++i)
    if (strcmp (magics[i].format, format) == 0)
      return magics[i].advice;
  return NULL;
}
