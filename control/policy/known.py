"""The commands and categories that servers know, for rules that no server can be asked about. Pure.

It is what COMMAND DOCS says of each command, `since`: tests/control/policy/test_known.py holds it
to the servers. Commands of modules have a dot in their name, and nothing is said of them here."""

import re
from collections.abc import Mapping


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CATEGORIES = _words("""
    admin bitmap blocking connection dangerous fast geo hash hyperloglog keyspace list
    pubsub read scripting set slow sortedset stream string transaction write
    """)
# Of modules, which a server may have or not.
MODULES_CATEGORIES = _words("bloom cms cuckoo json search tdigest timeseries topk")
FIRST = _words(  # what each version has that the module runs on
    """
    acl acl|cat acl|deluser acl|dryrun acl|genpass acl|getuser acl|help acl|list acl|load
    acl|log acl|save acl|setuser acl|users acl|whoami append asking auth bgrewriteaof bgsave
    bitcount bitfield bitfield_ro bitop bitpos blmove blmpop blpop brpop brpoplpush bzmpop
    bzpopmax bzpopmin client client|caching client|getname client|getredir client|help
    client|id client|info client|kill client|list client|no-evict client|pause client|reply
    client|setname client|tracking client|trackinginfo client|unblock client|unpause cluster
    cluster|addslots cluster|addslotsrange cluster|bumpepoch cluster|count-failure-reports
    cluster|countkeysinslot cluster|delslots cluster|delslotsrange cluster|failover
    cluster|flushslots cluster|forget cluster|getkeysinslot cluster|help cluster|info
    cluster|keyslot cluster|links cluster|meet cluster|myid cluster|nodes cluster|replicas
    cluster|replicate cluster|reset cluster|saveconfig cluster|set-config-epoch
    cluster|setslot cluster|shards cluster|slaves cluster|slots command command|count
    command|docs command|getkeys command|getkeysandflags command|help command|info
    command|list config config|get config|help config|resetstat config|rewrite config|set
    copy dbsize debug decr decrby del discard dump echo eval eval_ro evalsha evalsha_ro exec
    exists expire expireat expiretime failover fcall fcall_ro flushall flushdb function
    function|delete function|dump function|flush function|help function|kill function|list
    function|load function|restore function|stats geoadd geodist geohash geopos georadius
    georadius_ro georadiusbymember georadiusbymember_ro geosearch geosearchstore get getbit
    getdel getex getrange getset hdel hello hexists hget hgetall hincrby hincrbyfloat hkeys
    hlen hmget hmset hrandfield hscan hset hsetnx hstrlen hvals incr incrby incrbyfloat info
    keys lastsave latency latency|doctor latency|graph latency|help latency|histogram
    latency|history latency|latest latency|reset lcs lindex linsert llen lmove lmpop lolwut
    lpop lpos lpush lpushx lrange lrem lset ltrim memory memory|doctor memory|help
    memory|malloc-stats memory|purge memory|stats memory|usage mget migrate module
    module|help module|list module|load module|loadex module|unload monitor move mset msetnx
    multi object object|encoding object|freq object|help object|idletime object|refcount
    persist pexpire pexpireat pexpiretime pfadd pfcount pfdebug pfmerge pfselftest ping
    psetex psubscribe psync pttl publish pubsub pubsub|channels pubsub|help pubsub|numpat
    pubsub|numsub pubsub|shardchannels pubsub|shardnumsub punsubscribe quit randomkey
    readonly readwrite rename renamenx replconf replicaof reset restore restore-asking role
    rpop rpoplpush rpush rpushx sadd save scan scard script script|debug script|exists
    script|flush script|help script|kill script|load sdiff sdiffstore select set setbit
    setex setnx setrange shutdown sinter sintercard sinterstore sismember slaveof slowlog
    slowlog|get slowlog|help slowlog|len slowlog|reset smembers smismember smove sort
    sort_ro spop spublish srandmember srem sscan ssubscribe strlen subscribe substr sunion
    sunionstore sunsubscribe swapdb sync time touch ttl type unlink unsubscribe unwatch wait
    watch xack xadd xautoclaim xclaim xdel xgroup xgroup|create xgroup|createconsumer
    xgroup|delconsumer xgroup|destroy xgroup|help xgroup|setid xinfo xinfo|consumers
    xinfo|groups xinfo|help xinfo|stream xlen xpending xrange xread xreadgroup xrevrange
    xsetid xtrim zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard zinterstore
    zlexcount zmpop zmscore zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore
    zrangestore zrank zrem zremrangebylex zremrangebyrank zremrangebyscore zrevrange
    zrevrangebylex zrevrangebyscore zrevrank zscan zscore zunion zunionstore
    """
)
LATER: Mapping[str, Mapping[str, frozenset[str]]] = {
    "redis": {
        "7.2.0": _words("client|no-touch client|setinfo cluster|myshardid waitaof"),
        "7.4.0": _words("""
            hexpire hexpireat hexpiretime hpersist hpexpire hpexpireat hpexpiretime
            hpttl httl
            """),
        "8.0.0": _words("""
            hgetdel hgetex hsetex vadd vcard vdim vemb vgetattr vinfo vlinks
            vismember vrandmember vrem vsetattr vsim
            """),
        "8.2.0": _words("cluster|slot-stats xackdel xdelex"),
        "8.4.0": _words("""
            cluster|migration cluster|syncslots delex digest msetex trimslots vrange
            """),
        "8.6.0": _words("""
            hotkeys hotkeys|get hotkeys|reset hotkeys|start hotkeys|stop xcfgset
            """),
        "8.6.1": _words("hotkeys|help"),
        "8.6.2": _words("xidmprecord"),
    },
    "valkey": {
        "7.2.0": _words("client|no-touch client|setinfo cluster|myshardid waitaof"),
        "8.0.0": _words("client|capa cluster|slot-stats script|show"),
        "8.1.0": _words("""
            client|import-source commandlog commandlog|get commandlog|help
            commandlog|len commandlog|reset
            """),
        "9.0.0": _words("""
            cluster|cancelslotmigrations cluster|flushslot cluster|getslotmigrations
            cluster|migrateslots cluster|syncslots delifeq hexpire hexpireat
            hexpiretime hgetex hpersist hpexpire hpexpireat hpexpiretime hpttl
            hsetex httl
            """),
        "9.1.0": _words("clusterscan hgetdel msetex"),
    },
}
NEWEST = {"redis": (8, 6), "valkey": (9, 1)}  # release lines: of a later one nothing is known
RULE = re.compile(r"[+-](@?)([\w.|-]+)", re.ASCII)
Version = tuple[int, ...]


def stranger(rules: str, software: str) -> str:
    """The first of these ACL rules that names what this version ("redis 7.0.15") does not know; or,
    where it is "", what no version knows. "" for none."""
    name, version = _read(software)
    for word in rules.split():
        found = RULE.fullmatch(word.strip('"()'))
        if found and not _knows(found[1], found[2].lower(), name, version):
            return found[0]
    return ""


def _read(software: str) -> tuple[str, Version]:
    name, _, text = software.partition(" ")
    numbers = re.findall(r"\d+", text)[:3]
    return (name, tuple(map(int, numbers))) if name in LATER and numbers else ("", ())


def _knows(category: str, what: str, name: str, version: Version) -> bool:
    if "." in what or (name and version[:2] > NEWEST[name]):
        return True
    if category:
        return what in CATEGORIES or what in MODULES_CATEGORIES or what == "all"
    return what == "all" or _has(what, name, version) or _has_first(what, name, version)


def _has(command: str, name: str, version: Version) -> bool:
    later = [LATER[name]] if name else LATER.values()
    return command in FIRST or any(
        command in commands
        for one in later
        for since, commands in one.items()
        if not name or _number(since) <= version
    )


def _has_first(rule: str, name: str, version: Version) -> bool:
    """`select|0`: the first argument of a command without subcommands."""
    command, bar, _ = rule.partition("|")
    there = FIRST.union(*(found for one in LATER.values() for found in one.values()))
    contains = any(one.startswith(f"{command}|") for one in there)
    return bool(bar) and not contains and _has(command, name, version)


def _number(text: str) -> Version:
    return tuple(map(int, text.split(".")))
