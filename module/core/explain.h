/* What the files that tell a decision share. For explain.c, nearest.c alone. */
#ifndef CERTAUTH_EXPLAIN_H
#define CERTAUTH_EXPLAIN_H

#include "internal.h"

/* ---- explain.c: what strangers wrote, so that it can be seen and pasted ---- */

void put_name(writer *w, span name);
void put_visible_token(writer *w, span token);
void put_line(writer *w, span text);
void put_extension(writer *w, const attribute *one); /* OID=text */

/* ---- nearest.c ---- */

/* The line that was most likely meant, of at most `most` that are looked at; nothing where none is near. `p`
 * may be NULL. */
void tell_nearest(writer *w, const policy *p, const identity *leaf, size_t most);

#endif
