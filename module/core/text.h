/* What reads text shares. For text.c, name.c alone. */
#ifndef CERTAUTH_TEXT_H
#define CERTAUTH_TEXT_H

#include "internal.h"

/* ---- text.c ---- */

int hex_digit(uint8_t c);
bool hex_byte(span s, uint8_t *out);
/* How many bytes stand before the first character that is not clean. */
size_t clean_length(span s);

#endif
