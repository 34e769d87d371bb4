/* Bytes, tokens and distinguished names. Nothing here knows certificates or policies. */
#define _POSIX_C_SOURCE 200809L /* gmtime_r */
#include "text.h"

#include <ctype.h>
#include <time.h>

#include <openssl/objects.h>

const char *reason_name(reason why) {
    switch (why) {
    case REASON_UNDECIDED: return "undecided";
    case REASON_NO_JOURNAL: return "no_journal";
    case REASON_NO_POLICY: return "no_policy";
    case REASON_OFF: return "off";
    case REASON_NO_CERTIFICATE: return "no_certificate";
    case REASON_HANDSHAKE: return "handshake";
    case REASON_WEAK: return "weak";
    case REASON_UNKNOWN_ALGORITHM: return "unknown_algorithm";
    case REASON_MALFORMED: return "malformed";
    case REASON_TOO_LARGE: return "too_large";
    case REASON_BAD_STRING: return "bad_string";
    case REASON_AMBIGUOUS: return "ambiguous";
    case REASON_LOCKED: return "locked";
    case REASON_UNTRUSTED_ISSUER: return "untrusted_issuer";
    case REASON_CA_EXPIRED: return "ca_expired";
    case REASON_CA_REVOKED: return "ca_revoked";
    case REASON_NOT_YET_VALID: return "not_yet_valid";
    case REASON_EXPIRED: return "expired";
    case REASON_KEY_USAGE: return "key_usage";
    case REASON_REVOKED: return "revoked";
    case REASON_GATE: return "gate";
    case REASON_NO_BINDING: return "no_binding";
    case REASON_CONFLICT: return "conflict";
    case REASON_ADDRESS: return "address";
    case REASON_LIFETIME: return "lifetime";
    case REASON_REQUIRED_EKU: return "required_eku";
    case REASON_REQUIRED_POLICY: return "required_policy";
    case REASON_KEY_TOO_SMALL: return "key_too_small";
    case REASON_TLS_VERSION: return "tls_version";
    case REASON_USER_MISSING: return "user_missing";
    case REASON_USER_OFF: return "user_off";
    case REASON_MATCHED: return "matched";
    case REASON_COUNT: break;
    }
    return "undecided";
}

const char *action_name(action act) {
    switch (act) {
    case ACTION_REFUSE: return "refuse";
    case ACTION_LEAVE: return "leave";
    case ACTION_CHOOSE: return "choose";
    case ACTION_LOGIN: return "login";
    }
    return "refuse";
}

bool fail(fault *why, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(why->text, sizeof why->text, format, args);
    va_end(args);
    return false;
}

bool span_equal_nocase(span a, span b) {
    if (a.len != b.len) return false;
    for (size_t i = 0; i < a.len; i++) {
        if (tolower(a.ptr[i]) != tolower(b.ptr[i])) return false;
    }
    return true;
}

/* ---- Writing ---- */

void put(writer *w, const void *bytes, size_t len) {
    if (w->full || len > w->room - w->len) {
        w->full = true;
        return;
    }
    if (len) memcpy(w->ptr + w->len, bytes, len);
    w->len += len;
}

void put_u16(writer *w, size_t value) {
    if (value > UINT16_MAX) w->full = true;
    put_byte(w, (uint8_t)(value >> 8));
    put_byte(w, (uint8_t)value);
}

void put_hex(writer *w, span bytes) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < bytes.len; i++) {
        put_byte(w, (uint8_t)digits[bytes.ptr[i] >> 4]);
        put_byte(w, (uint8_t)digits[bytes.ptr[i] & 15]);
    }
}

static bool needs_quotes(span value) {
    for (size_t i = 0; i < value.len; i++) {
        uint8_t c = value.ptr[i];
        if (c <= ' ' || c == '"' || c == '\'' || c == '\\' || c == 0x7f) return true;
    }
    return value.len == 0;
}

void put_token(writer *w, span value) {
    if (!needs_quotes(value)) {
        put_span(w, value);
        return;
    }
    put_byte(w, '"');
    for (size_t i = 0; i < value.len; i++) {
        uint8_t c = value.ptr[i];
        if (c == '"' || c == '\\') put_byte(w, '\\');
        if (c < ' ' || c == 0x7f) {
            put_text(w, "\\x");
            put_hex(w, span_of(&c, 1));
        } else {
            put_byte(w, c);
        }
    }
    put_byte(w, '"');
}

size_t token_print(span value, char *out, size_t room) {
    writer w = {(uint8_t *)out, 0, room, false};
    put_token(&w, value);
    return w.full ? 0 : w.len;
}

/* ---- Characters ---- */

/* Characters that can make two names look alike, or end a line of a log: controls, what is drawn as
 * nothing (Unicode's Default_Ignorable_Code_Point), line separators, surrogates, non-characters. */
static bool is_treacherous(uint32_t c) {
    static const struct {
        uint32_t first, last;
    } ranges[] = {
        {0, 0x1f},          {0x7f, 0x9f},           {0xad, 0xad},       {0x34f, 0x34f},
        {0x61c, 0x61c},     {0x115f, 0x1160},       {0x17b4, 0x17b5},   {0x180b, 0x180f},
        {0x200b, 0x200f},   {0x2028, 0x202e},       {0x2060, 0x206f},   {0x3164, 0x3164},
        {0xd800, 0xdfff},   {0xfdd0, 0xfdef},       {0xfe00, 0xfe0f},   {0xfeff, 0xfeff},
        {0xffa0, 0xffa0},   {0xfff0, 0xfff8},       {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a},
        {0xe0000, 0xe0fff}, {0x110000, UINT32_MAX},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        if (c >= ranges[i].first && c <= ranges[i].last) return true;
    }
    return (c & 0xfffe) == 0xfffe;
}

/* Length of the UTF-8 sequence at `s` and its character; 0 where it is invalid (RFC 3629:
 * overlong forms, surrogates, cut sequences). */
static size_t utf8_read(span s, uint32_t *out) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t first = s.ptr[0];
    size_t len = first < 0x80   ? 1
                 : first < 0xc2 ? 0
                 : first < 0xe0 ? 2
                 : first < 0xf0 ? 3
                 : first < 0xf5 ? 4
                                : 0;
    if (len == 0 || len > s.len) return 0;
    uint32_t c = len == 1 ? first : first & (0xffu >> (len + 1));
    for (size_t i = 1; i < len; i++) {
        if ((s.ptr[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (s.ptr[i] & 0x3f);
    }
    *out = c;
    return c < least[len] ? 0 : len;
}

size_t clean_length(span s) {
    size_t at = 0;
    while (at < s.len) {
        uint32_t c = s.ptr[at];
        bool plain = c >= ' ' && c < 0x7f; /* nearly every character of nearly every name */
        size_t len = plain ? 1 : utf8_read(span_skip(s, at), &c);
        if (len == 0 || (!plain && is_treacherous(c))) break;
        at += len;
    }
    return at;
}

bool text_clean(span s) { return clean_length(s) == s.len; }

static bool is_elusive(uint32_t c) {
    static const struct {
        uint32_t first, last;
    } ranges[] = {
        {0xa0, 0xa0},     {0x300, 0x36f},   {0x1680, 0x1680}, {0x1ab0, 0x1aff},
        {0x1dc0, 0x1dff}, {0x2000, 0x200a}, {0x202f, 0x202f}, {0x205f, 0x205f},
        {0x20d0, 0x20ff}, {0x2800, 0x2800}, {0x3000, 0x3000}, {0xfe20, 0xfe2f},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        if (c >= ranges[i].first && c <= ranges[i].last) return true;
    }
    return false;
}

/* The length of the first character of clean text. */
static size_t character(span text, bool *elusive) {
    uint32_t c = 0;
    size_t len = utf8_read(text, &c);
    *elusive = is_elusive(c);
    return len ? len : 1;
}

bool text_visible(span text) {
    bool elusive = false;
    while (text.len && !elusive) text = span_skip(text, character(text, &elusive));
    return !elusive;
}

void put_visible(writer *w, span text, const char *escape) {
    while (text.len) {
        bool elusive;
        size_t len = character(text, &elusive);
        if (!elusive) put(w, text.ptr, len);
        for (size_t i = 0; elusive && i < len; i++) {
            put_string(w, escape);
            put_hex(w, span_of(text.ptr + i, 1));
        }
        text = span_skip(text, len);
    }
}

static void put_utf8(writer *w, uint32_t c) {
    if (c < 0x80) {
        put_byte(w, (uint8_t)c);
        return;
    }
    size_t more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    put_byte(w, (uint8_t)(0xff00u >> (more + 1) | c >> (6 * more)));
    while (more--) put_byte(w, (uint8_t)(0x80 | ((c >> (6 * more)) & 0x3f)));
}

/* BMPString (2 bytes a character, no surrogates: X.680 41.10) and UniversalString (4 bytes). */
static size_t put_wide_text(writer *w, span content, size_t width) {
    size_t i = 0;
    for (; i + width <= content.len; i += width) {
        uint32_t c = 0;
        for (size_t k = 0; k < width; k++) c = c << 8 | content.ptr[i + k];
        if (is_treacherous(c)) break;
        put_utf8(w, c);
    }
    return i;
}

static size_t put_ascii_text(writer *w, span content) {
    size_t i = 0;
    while (i < content.len && content.ptr[i] >= 0x20 && content.ptr[i] < 0x7f) i++;
    put(w, content.ptr, i);
    return i;
}

size_t put_asn1_text(writer *w, int tag, span content) {
    switch (tag) {
    case V_ASN1_UTF8STRING: put_span(w, content); return clean_length(content);
    case V_ASN1_NUMERICSTRING:
    case V_ASN1_PRINTABLESTRING:
    case V_ASN1_IA5STRING:
    case V_ASN1_VISIBLESTRING:
    case V_ASN1_T61STRING: return put_ascii_text(w, content);
    case V_ASN1_BMPSTRING: return put_wide_text(w, content, 2);
    case V_ASN1_UNIVERSALSTRING: return put_wide_text(w, content, 4);
    default: return NO_TEXT;
    }
}

int hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One byte out of two digits at the start of `s`. */
bool hex_byte(span s, uint8_t *out) {
    if (s.len < 2 || hex_digit(s.ptr[0]) < 0 || hex_digit(s.ptr[1]) < 0) return false;
    *out = (uint8_t)(hex_digit(s.ptr[0]) << 4 | hex_digit(s.ptr[1]));
    return true;
}

bool hex_parse(span text, uint8_t *out, size_t len) {
    for (size_t i = 0; i < len; i++) {
        if (i && text.len && text.ptr[0] == ':') text = span_skip(text, 1);
        if (!hex_byte(text, out + i)) return false;
        text = span_skip(text, 2);
    }
    return text.len == 0;
}

/* ---- Tokens ---- */

static bool is_blank(uint8_t c) { return c == ' ' || c == '\t'; }

/* One character inside double quotes; how many bytes of text it took. */
static size_t unescape(span s, uint8_t *out) {
    *out = s.ptr[0];
    if (s.ptr[0] != '\\' || s.len < 2) return 1;
    if (s.ptr[1] == 'x' && hex_byte(span_skip(s, 2), out)) return 4;
    switch (s.ptr[1]) {
    case 'n': *out = '\n'; break;
    case 'r': *out = '\r'; break;
    case 't': *out = '\t'; break;
    case 'b': *out = '\b'; break;
    case 'a': *out = '\a'; break;
    default: *out = s.ptr[1];
    }
    return 2;
}

/* Reads from after an opening quote to behind the closing one. */
static bool token_quoted(span *line, uint8_t quote, uint8_t *out, size_t *len) {
    while (line->len && line->ptr[0] != quote) {
        size_t taken = 1;
        uint8_t c = line->ptr[0];
        if (quote == '"') {
            taken = unescape(*line, &c);
        } else if (c == '\\' && line->len > 1 && line->ptr[1] == '\'') {
            c = '\'';
            taken = 2;
        }
        out[(*len)++] = c;
        *line = span_skip(*line, taken);
    }
    if (line->len == 0) return false;
    *line = span_skip(*line, 1);
    return line->len == 0 || is_blank(line->ptr[0]);
}

token_result token_read(span *line, uint8_t *out, size_t *len) {
    while (line->len && is_blank(line->ptr[0])) *line = span_skip(*line, 1);
    if (line->len == 0) return TOKEN_END;
    *len = 0;
    while (line->len && !is_blank(line->ptr[0])) {
        uint8_t c = line->ptr[0];
        *line = span_skip(*line, 1);
        if (c == '"' || c == '\'') return token_quoted(line, c, out, len) ? TOKEN_READ : TOKEN_BAD;
        out[(*len)++] = c;
    }
    return TOKEN_READ;
}

/* ---- Globs ---- */

static void set_bit(uint64_t *bits, size_t at) { bits[at / 64] |= (uint64_t)1 << at % 64; }

bool glob_read(span pattern, glob *g) {
    memset(g, 0, sizeof *g);
    for (size_t i = 0; i < pattern.len; i++) {
        bool any = pattern.ptr[i] == '?', escaped = pattern.ptr[i] == '\\' && i + 1 < pattern.len;
        if (pattern.ptr[i] == '*') {
            set_bit(g->stays, g->places);
            continue;
        }
        if (g->places == GLOB_PLACES) return false;
        i += escaped;
        for (int byte = 0; byte < 256; byte++) {
            if (any || byte == pattern.ptr[i]) set_bit(g->takes[byte], g->places);
        }
        g->places++;
    }
    return true;
}

/* Bit i: the first i places have taken all of the text so far. */
bool glob_matches(const glob *g, span text) {
    uint64_t at[GLOB_WORDS] = {1}, left = 1;
    size_t words = g->places / 64 + 1;
    for (size_t i = 0; i < text.len && left; i++) {
        const uint64_t *takes = g->takes[text.ptr[i]];
        uint64_t carry = left = 0;
        for (size_t w = 0; w < words; w++) {
            uint64_t moved = at[w] & takes[w];
            at[w] = moved << 1 | carry | (at[w] & g->stays[w]);
            carry = moved >> 63;
            left |= at[w];
        }
    }
    return at[g->places / 64] >> g->places % 64 & 1;
}

/* A word of a shell's command. */
void put_shell_word(writer *w, span text) {
    put_byte(w, '\'');
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == '\'') put_string(w, "'\\'");
        put_byte(w, text.ptr[i]);
    }
    put_byte(w, '\'');
}

/* "2026-11-24T21:54:13Z". */
void put_time(writer *w, int64_t seconds) {
    char text[64];
    struct tm tm;
    time_t at = (time_t)seconds;
    size_t len = gmtime_r(&at, &tm) ? strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm) : 0;
    put(w, text, len);
}
