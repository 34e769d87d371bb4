/* The core of certauth: from a certificate and a policy to a decision.
 *
 *     X509 ──identity_read──▶ identity ┐
 *     chain ─path_of_chain──▶ path     ├─ policy_decide ──▶ decision: action, reason, users
 *     lines ─patch_*, commit─▶ policy  ┘
 *
 * No part of Redis is known here. The server's module, `redis-certauth explain` and the tests all
 * run this code: the C files include this page, and Python reads its parts word for word (cffi's
 * cdef), which is why the parts hold no preprocessor line and are included here alone.
 *
 * Nothing here is thread-safe except by having one writer: many threads may read a policy while
 * nobody commits to it; an identity belongs to one thread. Nothing allocates while it decides, but
 * for the hashes of a leaf that nobody has asked for before. */
#ifndef CERTAUTH_CORE_H
#define CERTAUTH_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In this order, which build.py follows. */
#include "base.h"
#include "reason.h"
#include "name.h"
#include "leaf.h"
#include "path.h"
#include "rule.h"
#include "patch.h"
#include "decision.h"

/* The policy on disk: only the module and the tests read it. */
#include "journal.h"

#endif
