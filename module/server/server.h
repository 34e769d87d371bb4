/* What the files that speak to the server share: types, state, and what each file offers to those
 * above it. They stand here from the bottom up: no file calls a function of a later one. */
#ifndef CERTAUTH_SERVER_H
#define CERTAUTH_SERVER_H

#include "tls.h"
#include "redis_api.h"

#include <limits.h>

#include <arpa/inet.h>

/* A user that a `pattern` line makes: there while it has sessions. */
typedef struct {
    char *rules; /* as ACL SETUSER was given them */
    size_t sessions;
} made_user;

/* A user whose rules have changed, until its clients have been looked at. */
typedef struct {
    RedisModuleString *before; /* its rules; empty: not known */
    bool judged;               /* is the rest filled in? */
    bool keys, commands;       /* it may have lost some */
    unsigned lost;             /* of STREAMS: a bit for each that it may not begin any more */
} rights;

/* A client, from its connection to its end. Unix sockets and plain TCP have one too. */
typedef struct {
    uint64_t id;
    identity *leaf; /* owned; NULL: no certificate, or one that cannot be read */
    path *issuers;  /* owned; with a leaf */
    ip address;
    uint16_t port;    /* 0: not known */
    int tls_version;  /* of its connection; 0: not known, or not TLS */
    bool local;       /* a unix socket: never anybody's business */
    action act;       /* what was done to it when it connected or chose */
    bool strayed;     /* it has changed its user since, by AUTH or RESET */
    bool listens;     /* it has asked for MONITOR or replication, see on_listen */
    bool closing;     /* it is over: it runs nothing any more, and is closed when we act */
    bool hung_up;     /* see takes_turn */
    bool turned_away; /* when it connected, and the server closes it: it has never run anything */
    int socket;       /* -1: not known */
    int64_t due;      /* when we are to act on it, as now_us has it; 0: not, see look_at_later */
    reason why;
    RedisModuleString *user; /* that we logged it in as; NULL otherwise */
    made_user *made;         /* that is this user; NULL otherwise */
    int64_t since, end;      /* seconds since 1970; closed at `end`, 0: never */
} session;

/* What may be done at once: 2 ms of our own time, and few closings, for the server frees the clients
 * only behind us, all at once (beforeSleep, freeClientsInAsyncFreeQueue). */
typedef struct {
    int64_t stop;
    int closings;
} slice;

/* Lines that a call brought, to be read when it has returned. Owned. */
typedef struct {
    span *lines; /* their bytes are behind them */
    size_t count, at;
} given_lines;

/* A change of the policy on its way: checked, being written, coming into force, being swept after. One
 * at a time. */
typedef struct write_order write_order;

/* A step is to be called again in the next slice, or the next step now; or the order has gone to a
 * thread, or been answered, and is nobody's here any more. */
typedef enum { STEP_AGAIN, STEP_NEXT, STEP_OVER } progress;

typedef progress step(write_order *, slice *);

struct write_order {
    RedisModuleBlockedClient *client;
    given_lines given; /* of the change: none where they were staged */
    patch *change;
    bool whole, force, has_digest;
    char digest[DIGEST_TEXT]; /* that the sender expects */
    stamp next;
    uint64_t sender; /* its client id */
    bool close_sender;
    RedisModuleString *sender_user; /* that the sender left for the time being: it may lose it */
    int when;                       /* a transition */
    bool remakes;                   /* it brings `pattern` lines */
    bool patterns;                  /* it brings words of `pattern` lines, or some begin to count */
    bool done;                      /* it is in force */
    uint64_t brings, frees, left;   /* bytes of memory, about; `left` before it */
    fault why;                      /* the answer where it is refused */
    uint64_t closed;                /* sessions ended by it */
    uint64_t swept;                 /* id of the last session looked at */
    int64_t decided;                /* when it had last somebody closed, as now_us has it */
    step *next_step;                /* on the main thread */
    bool here;                      /* it is ours to go on with, and no thread's */
    size_t row, at;                 /* how far that is, see walk */
    RedisModuleString *remade;      /* the last made user that was looked at */
};

/* Lines that come in several calls, until COMMIT makes a change of them. One at a time. */
typedef struct {
    char id[64];
    patch *change; /* NULL: none */
    bool whole;
    size_t lines, reading; /* how many came; calls whose lines are still being read */
    uint64_t serial;       /* another one for each stage */
    int64_t touched;       /* seconds since 1970 */
} stage;

/* What happened to a client, for CERTAUTH.LOG. Texts are cut to fit, and say so; what is behind their
 * end is never touched: the ring is in nobody's cache. */
typedef struct {
    uint64_t seq, client;
    int64_t time; /* microseconds since 1970 */
    const char *event;
    reason why;
    ip address;
    uint64_t ticket;         /* by which a refused client names its entry; 0: it was not told any */
    uint16_t port;           /* of the other end; 0: not known */
    const char *door;        /* of a node's link; NULL: a client's */
    bool certified, vouched; /* it has a certificate; and its CA is known */
    bool serves;             /* see identity */
    uint8_t cert[HASH_BYTES], key[HASH_BYTES], ca[HASH_BYTES];
    int64_t not_after;
    char user[128], subject[384], issuer[256], serial[2 * SERIAL_BYTES + 1], detail[320];
    char ocsp[OCSP_BYTES]; /* see identity */
    char sans[512];        /* each "kind:value" with a newline behind it, which no value holds */
} log_entry;

enum { LOG_ENTRIES = 4096 };

/* What goes on in slices beside a write: lines that are staged, a change that is asked about, trust. */
typedef struct chore {
    struct chore *next;
    bool (*go_on)(void *data, const slice *); /* true where there is more to do */
    void *data;
} chore;

/* A look at what a restart needs of the disk. One at a time, and none while a change is written. */
typedef struct {
    bool under_way;              /* in its thread, or not yet answered for */
    bool done;                   /* the thread has gone */
    bool journal;                /* there is one that was good */
    bool ever;                   /* a copy: is there to be a marker? */
    fault wrong;                 /* empty: nothing */
    int64_t next;                /* not before, as now_us has it */
    shown_files files;           /* a copy of what the server is set to */
    shown_state read, last, now; /* those two of own_certificate; and what is found */
    bool renewed;    /* they are others than those that it has read, and stay as they are now */
    X509 *leaves[2]; /* of these; owned */
    fault unfit;     /* why they cannot be shown; empty: they can */
} look;

/* The certificates that this server shows, and the files that it has read them from. */
typedef struct {
    shown_state read;         /* as the files were then */
    shown_state last;         /* at the last look */
    shown_state failed;       /* as they were when the server did not take them */
    fault wrong;              /* why it does not show what is in them now; empty: it does */
    uint8_t next[HASH_BYTES]; /* the key that waits to be shown */
    bool waits;
} own_certificate;

/* What the directory behind tls-ca-cert-dir is to hold, and what came of that. By one thread at a time, of
 * a change or of a look, and the policy stays as it is meanwhile. */
typedef struct {
    bool under_way, done;   /* in a thread of a change; it has gone */
    bool ours;              /* the server looks there */
    bool again;             /* all was as it is to be: what is not any more, a hand has changed */
    bool holds;             /* it holds certificates of the policy */
    const char *links;      /* why the policy's are not to be there; NULL: they are */
    const policy *lines;    /* the policy, then; or NULL */
    trust_work work;        /* `stale` until the server has looked */
    fault why;              /* empty: nothing is wrong */
    char setting[PATH_MAX]; /* of tls-ca-cert-dir */
} trust;

/* A text that grows; NUL ended. */
typedef struct {
    char *text;
    size_t len;
} text_buffer;

/* What each user that a line makes has beside its rules: as if it were the hash of a password, which it is
 * of none (it is text: "redis-certauth: not a password!!"). The server's own files keep it (ACL SAVE, CONFIG
 * REWRITE), so that a copy which outlives its line is known from a user that the operator made. */
#define MARK "72656469732d63657274617574683a206e6f7420612070617373776f72642121"

/* What a change makes of enforcement: a transition. */
enum { OFF_ON = 1, ON_OFF = 2, ON_ON = 4, OFF_OFF = 8 };

/* What a question about a session is asked under. */
typedef struct {
    const patch *pending; /* as if it had been made; NULL: the policy in force */
    const patch *change;  /* whose users the server has not been given yet; NULL: none */
    int when;             /* what `change` makes of enforcement */
    bool enforced;
    bool ends_default; /* making the change closes anyone who holds `default` */
} regime;

enum { SCRIPT_MS = 600000 }; /* for so long a command may hold the server, and us: see plan */

typedef enum { ADDED, REMOVED, HELD } walked; /* by the change; by the policy in force */

enum { OF_USER = 1 << LINE_USER, OF_PATTERN = 1 << LINE_PATTERN };

/* Whom a change meets: what is done with which lines, where enforcement changes in which way. */
typedef struct {
    int when;
    walked from;
    int types;
    void (*visit)(write_order *, const rule *, size_t number);
} visit;

typedef struct {
    long long base, generation, epoch;
    span owner, digest;
    bool whole, has_epoch, has_digest, force;
    int lines;
} options;

enum { WEIGHS_LITTLE = 4 << 20 };

typedef struct {
    bool matches;
    glob match;
    long long count;
    uint64_t edition, from; /* the cursor: which edition, and how many lines of it were seen */
} page;

extern struct node {
    RedisModuleCtx *ctx; /* detached: for timers and one-shots */
    bool is_valkey, started, api_certificates;
    bool tells;      /* refused clients are told why, see tell_client */
    bool io_threads; /* more than one at the start */
    bool
        stops_threads; /* Redis 8 with io-threads does, for each client that the main thread touches */
    int version;
    uint64_t before;   /* clients up to this id were made while `default` was on */
    uint64_t loader;   /* the client that runs MODULE LOAD */
    void (*act)(void); /* does what is due */
    void (*filter)(
        RedisModuleCommandFilterCtx *); /* asked before each command, see watch_commands */
    RedisModuleTimerID timer;           /* of act; 0: none */
    int64_t act_at, ticked; /* when act is to be there, when it last was by the second; now_us */
    bool acting, aside;     /* we do; a one-shot of act_while_loading is on its way */
    uint64_t audited;       /* the last session looked at by audit */
    bool audit_due, audit_again; /* all sessions are to be looked at, and then once more */
    bool auth_queued;            /* an AUTH may wait for its EXEC, see on_command */
    char directory[PATH_MAX], trust[PATH_MAX + 8];
    char markers[2][PATH_MAX + 16]; /* beside the directory, and beside the path that was given */
    policy *policy, *bootstrap;
    journal *journal;
    stamp stamp;       /* of the policy in force */
    bool ever;         /* there was a policy, now or once */
    fault damage;      /* why only the bootstrap file counts; empty: it does not */
    fault lost;        /* what is wrong with a journal that was sound; empty: nothing */
    fault trust_state; /* of tls-ca-cert-dir, for a person */
    fault unverified;  /* what this libcrypto does not know of the policy's CAs; or empty */
    fault untaken;     /* what the policy trusts and no handshake here takes; or empty */
    trust trust_files;
    bool watches;             /* the doors that are not the clients', see doors.c */
    bool blind;               /* a client has come, and we were not asked */
    bool shares;              /* the server's OpenSSL is what we see, see learn_openssl */
    bool trusts;              /* they are open to the policy's CAs, unless guarded */
    RedisModuleUser *nobody;  /* permissionless; refused clients sit on it until they are closed */
    RedisModuleUser *scratch; /* for trying ACL rules */
    RedisModuleCommandFilter *muzzle; /* while there may be a client that is to run nothing */
    int closing;                      /* how many sessions are */
    int turned_away;                  /* how many of these, see session */
    int hung_up;                      /* how many of them, since hung_up_at */
    int64_t hung_up_at;               /* the last one, as now_us has it */
    RedisModuleDict *sessions;        /* client id → session */
    RedisModuleDict *ends;            /* end, client id → session */
    int64_t next_end;                 /* not after the first of them */
    RedisModuleDict *due;             /* due, client id → session */
    RedisModuleDict *managed; /* user → its ACL rules as the server tells them after we set them */
    RedisModuleDict *made;    /* user → made_user */
    RedisModuleDict
        *spent; /* users whose `was` line goes with the next change, see give_back_again */
    RedisModuleDict *changed; /* user → rights, see end_streams */
    uint64_t streams_seen;    /* the last session looked at by end_streams */
    size_t idle;              /* how many of them have no session */
    bool switching;           /* we are changing a client's user ourselves */
    write_order *order;
    bool sweeping; /* sessions behind order->swept are not yet decided by the policy in force */
    bool settling; /* users are still becoming what the policy in force says, see settle */
    bool starting; /* for the first time, see settle_at_start */
    bool unmaking; /* users without a session are to go, see unmake_idle */
    stage stage;
    look look;
    own_certificate own;
    chore *chores;
    uint64_t edition; /* another one after each change: what a cursor of SHOW is good for */
    uint64_t logins, refused, reasons[REASON_COUNT], api_reads;
    uint64_t memory;  /* that the policy in force takes, about; bytes */
    uint64_t no_room; /* clients that were turned away, see lacks_room */
    size_t room;      /* maxclients, of the last second; 0: not known */
    bool full;
    int64_t log_second;
    unsigned logged;
    char boot[33];              /* of this start of the server: seq counts from 1 in each */
    uint64_t seq;               /* of the last entry */
    int64_t ends_until;         /* so long ends of connections are told; seconds since 1970 */
    log_entry log[LOG_ENTRIES]; /* a ring */
} node;

/* ---- node.c ---- */

bool damaged(void);
bool closes_late(void);
int64_t now_seconds(void);
int64_t now_us(void);
slice slice_start(void);
bool slice_goes_on(const slice *now);
bool script_runs(void);
void *as_data(uint64_t id);

/* ---- reply.c ---- */

span string_span(const RedisModuleString *s);
span text_span(const char *text);
bool string_is(const RedisModuleString *s, const char *word);
RedisModuleString *string_of(span s);
span take_word(span *text);
bool has_word(span text, span word);
void reply_text(RedisModuleCtx *ctx, const char *text);
void reply_named(RedisModuleCtx *ctx, const char *name, const char *value);
void reply_number(RedisModuleCtx *ctx, const char *name, uint64_t value);
bool read_number(RedisModuleString *text, long long *out, fault *why);
void reply_optional(RedisModuleCtx *ctx, const char *name, span value);
void reply_hex(RedisModuleCtx *ctx, const char *name, span bytes);
void reply_name(RedisModuleCtx *ctx, const char *label, span name);
void reply_hash(RedisModuleCtx *ctx, const char *name, bool there, const uint8_t *hash);

/* ---- schedule.c ---- */

void add_chore(bool (*go_on)(void *data, const slice *), void *data);
bool in_thread(void *(*work)(void *), void *data);
void drop_patch(patch *change);
bool loads_aside(void);
void act_while_loading(void);
void act_in(int64_t ms);
void watch_commands(void);
void leave_commands(void);

/* ---- clients.c ---- */

void each_client_of(RedisModuleString **ids, size_t count, void (*take)(span line, void *data),
                    void *data);
void each_client(void (*take)(span line, void *data), void *data);
span client_field(span line, const char *name);
uint64_t client_id(span line);
bool has_flag(span line, char flag);

/* ---- users.c ---- */

void text_add(text_buffer *b, span s);
RedisModuleString *user_rules(span name);
user_state server_user(span name);
text_buffer acl_text(const rule *line, span user, bool limited);
RedisModuleCallReply *answer(const char *command, const char *verb, span name, span text);
bool call(const char *command, const char *verb, span name, span text, fault *why);
void kill_clients(const char *field, span value);
bool must_kill(void);
void know_user(span name);
bool set_user(span name, span rules);
bool is_bootstrap_user(span name);
bool leave_out(const rule *line, span user);
void apply_user(const rule *line, bool limited);
made_user *made_find(span user);
bool is_as_made(const rule *pattern, span user);
made_user *make_user(const rule *pattern, span user);
void undo_user(span name);
bool enforced(void);
bool unmake_idle(const slice *now);
void each_user(void (*take)(span name, void *data), void *data);
void clean_saved_users(void);
const char *journal_state(void);

/* ---- log.c ---- */

void address_text(const ip *address, char out[INET6_ADDRSTRLEN]);
const identity *leaf_of(const session *s);
log_entry *record(const session *s, const char *event, reason why, span user);
/* The name of an entry that only who was told it can say: it follows from the number by this process's
 * secret, so that nobody counts clients by it. Empty where there is none. */
enum { TICKET_TEXT = 17 };
void give_ticket(log_entry *e);
void ticket_text(const log_entry *e, char out[TICKET_TEXT]);
void tell(const char *event, const char *text);
void log_refusal(RedisModuleCtx *ctx, const log_entry *e, bool shadow);
void log_to_acl(RedisModuleCtx *ctx, const log_entry *e);
void count(const decision *d);
void tell_doors(void);

/* ---- config.c ---- */

bool config_get(const char *name, char *out, size_t room);
bool config_set(const char *name, const char *value, fault *why);
bool switch_off_native_login(fault *why);
const char *internal_links(void);
bool is_known_to_guard(void);
void commit_to_doors(patch *change);
void follow_doors(void);
void learn_doors(void);
void learn_files(shown_files *out);
void note_files(void);
void on_config_change(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t sub, void *data);
void learn_trust(bool holds);
void learn_openssl(void);
void learn_unverified(void);
void plan_trust(void);
void write_trust(void);
void take_trust(void);
void start_trust(void);
void end_trust(void);
bool moved_trust(void);
void apply_client_auth(void);

/* ---- session.c ---- */

uint64_t session_key(uint64_t id);
session *session_find(uint64_t id);
void session_moves(RedisModuleDict *dict, session *s, int64_t *time, int64_t to);
session *session_first(RedisModuleDict *dict);
int64_t until_second(int64_t second);
void session_ends_at(session *s, int64_t end);
void session_user(session *s, span user);
void session_free(session *s);
session *session_new(uint64_t id, const char *address, bool local);
void path_of_session(identity *leaf, X509 *const *chain, size_t count, path *out);
bool session_certificate(RedisModuleCtx *ctx, session *s, uint16_t port, peer *found);

/* ---- rights.c ---- */

int transition_of(const patch *change);
bool is_managed(const regime *r, span name);
user_state ask_server(span name, void *under);
const rule *default_line(const regime *r);
bool default_is_off(const regime *r);
bool default_is_free(const regime *r);
regime regime_now(void);
regime regime_after(const patch *change);
request request_for(const session *s, const regime *r);
decision decide(const session *s, const regime *r);
int64_t end_of(const session *s, const decision *d);
bool permits(const regime *r, const decision *d, span user);
bool is_peer(const decision *d);
bool may_hold(const regime *r, const session *s, const decision *d, span user);
bool may_become(const regime *r, const session *s, const decision *d, span user);
bool may_stay(const regime *r, const session *s, const decision *d);
int64_t end_under(const regime *r, const session *s, const decision *d);
bool survives(const regime *r, const session *s, const decision *d);

/* ---- login.c ---- */

void sit_on_nobody(RedisModuleCtx *ctx, session *s);
bool become(RedisModuleCtx *ctx, session *s, span user);
void session_over(session *s, int64_t ms);
bool takes_turn(session *);
void close_client(session *s);
void set_end(session *s, const decision *d);
void set_end_of_left(session *s);
void refuse_client(RedisModuleCtx *ctx, session *s, const peer *p);
void enact(RedisModuleCtx *ctx, session *s, const peer *p, decision d);
void end_session(session *s, const char *event, reason why);

/* ---- streams.c ---- */

bool end_streams(slice *now);
bool may_switch(const session *s, span user, fault *why);

/* ---- audit.c ---- */

bool audit_session(session *s);
bool audit(const slice *now);
bool audit_all(const slice *now);
void ask_for_audit(void);

/* ---- auth.c ---- */

bool choose(RedisModuleCtx *ctx, session *s, span user, fault *why);
int on_auth(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleString *password,
            RedisModuleString **error);

/* ---- markers.c ---- */

bool make_markers(fault *why);
void come_back(RedisModuleCtx *ctx, write_order *order);
const char *found_marker(void);
bool set_directory(span path_text, fault *why);

/* ---- change.c ---- */

void adopt_client(span line, void *none);
void close_default(write_order *order);
bool settle_at_start(const slice *now);
void put_in_force(void);
bool walk(write_order *order, const visit *rows, size_t count, const slice *now);
void tell_journal(void);
void tell_unwritten(const char *text);
void drop_stage(void);
progress commit(write_order *order, slice *now);
void take_back(void *data);
int reply_order(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
void free_order(RedisModuleCtx *ctx, void *data);
void end_order(write_order *order);
void sweep_session(write_order *order, session *s);
size_t bytes_of(RedisModuleString **texts, int count);
void reply_problems(RedisModuleCtx *ctx, const patch *change);
void reply_error(RedisModuleCtx *ctx, write_order *order);
uint64_t line_memory(const rule *line);
uint64_t memory_after(const write_order *order);

/* ---- write.c ---- */

bool advance(write_order *order, slice *now);
bool try_acl(const rule *line, span user, bool limited, fault *why);
given_lines keep_lines(RedisModuleString **texts, int count);
bool has_journal(fault *why);
bool check_stamp(const options *o, fault *why);
bool read_lines(patch *change, bool whole, given_lines *given, size_t first, const slice *now);
bool check_lines(write_order *order, const slice *now);
bool check_change(write_order *order);
int start_order(RedisModuleCtx *ctx, patch *change, given_lines given, const options *o);
bool may_wait(RedisModuleCtx *ctx);

/* ---- connect.c ---- */

void look_at_room(void);
void keep_room(void);
void on_client_change(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t sub, void *data);

/* ---- cmd_policy.c ---- */

bool may_take_lines(RedisModuleString **texts, int count, fault *why);
bool may_administer(RedisModuleCtx *ctx, const char *verb);
int deny(RedisModuleCtx *ctx, const char *verb);
int policy_load(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
int policy_patch(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
int policy_stage(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
int policy_commit_stage(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
void drop_old_stage(void);

/* ---- cmd_show.c ---- */

int policy_show(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
int policy_status(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
void info(RedisModuleInfoCtx *ctx, int for_crash_report);

/* ---- cmd_client.c ---- */

int whoami(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
int login(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
int explain(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
int sessions(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
int show_log(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);

/* ---- acl_load.c ---- */

int acl_load(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
int acl_load_unasked(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
void watch_acl_load(RedisModuleCtx *ctx);

/* ---- guards.c ---- */

void repair_users(void);
void repair_configuration(void);
void watch_settings(void);
void watch_trust(void);
void start_look(void);
void end_look(void);

/* ---- act.c ---- */

void act(void);
void on_loading_progress(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t sub, void *data);
void on_cron(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t sub, void *data);
void muzzle(RedisModuleCommandFilterCtx *filter);
void on_listen(RedisModuleCommandFilterCtx *filter);
void on_command(RedisModuleCommandFilterCtx *filter);

/* ---- start.c ---- */

void open_journal(span path_text);
bool read_bootstrap(const char *name, fault *why);

#endif
