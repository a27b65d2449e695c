"""Every script on every server that it must run on: Redis, Valkey and the nodes of a Cluster.

What is late is harmless: each script is also run after the epoch, the lineage, the token or the record that it was
meant for is gone, and must then change nothing that anybody believes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from datalayer.contracts.fence import parse_record
from datalayer.testing.servers import redis_binaries, start_cluster, start_redis
from datalayer.tiers.l2 import scripts
from datalayer.tiers.l2.wire import Place

EPOCH, NEXT = b"7.aa", b"8.bb"
FOREIGN = b"f" * 40
LONG = 100_000


def _only(answer: Any) -> Any:
    """What a script that answers for every key says of one; a refusal of all is one already."""
    return answer[0] if isinstance(answer[0], list) else answer


PLACES = [name for name, _ in redis_binaries()]


class Shard:
    """One shard on one server, spoken to script by script."""

    def __init__(self, client: redis.Redis, publish: str, number: int = 0) -> None:
        self.client = client
        self.place = Place("sc", number, 0)
        self.publish = publish
        self.lineage = self._info()["master_replid"].encode()
        self.epoch = EPOCH

    def _info(self) -> dict[str, str]:
        text: Any = self.client.execute_command("INFO", "replication")
        if isinstance(text, dict):
            return {name: str(value) for name, value in text.items()}
        return dict(line.split(":", 1) for line in text.decode().split("\r\n") if ":" in line)

    def run(self, name: str, keys: list[str], *arguments: Any, epoch: bytes | None = None, lineage: Any = None) -> Any:
        names = [self.place.header, *[self.place.values + key for key in keys]]
        under = (lineage or self.lineage, *(() if name == "INIT" else (epoch or self.epoch,)))
        return self.client.eval(scripts.ALL[name].decode(), len(names), *names, *under, *arguments)

    def init(self, epoch: bytes = EPOCH, **how: Any) -> Any:
        return self.run("INIT", [], epoch, **how)

    def lease(self, key: str = "s:1", token: str = "t", **how: Any) -> Any:
        return _only(self.run("LEASE", [key], "=s", "+s", LONG, key, token, **how))

    def fill(
        self,
        key: str = "s:1",
        expect: str = "Lt",
        payload: bytes = b"row",
        generation: Any = "-",
        births: Any = "-",
        **how: Any,
    ) -> Any:
        answer = self.run("FILL", [key], "=s", "+s", key, generation, births, expect, payload, LONG, **how)
        return {1: [b"OK"], 0: [b"NO"]}.get(answer[0], answer)

    def release(self, key: str = "s:1", token: str = "t", **how: Any) -> Any:
        return self.run("RELEASE", [key], f"L{token}", **how)

    def mark(self, writer: str, xid: int, *keys: str, tags: tuple[str, ...] = (), watched: Any = (), **how: Any) -> Any:
        head = self.publish, self.place.channel, writer, xid, len(keys), len(tags)
        return self.run("MARK", list(keys), *head, *keys, *tags, *watched, **how)

    def done(
        self, writer: str, change: int, *keys: str, tags: tuple[str, ...] = (), row: bytes = b"", **how: Any
    ) -> Any:
        parts = [part for key in keys for part in (key, "=s", "-", row, LONG)]
        return self.run("DONE", list(keys), writer, change, len(keys), *parts, *tags, **how)

    def resolve(self, change: Any, key: str = "s:1", row: bytes = b"", generation: Any = "-", **how: Any) -> Any:
        return self.run("RESOLVE", [key], key, change, "=s", generation, row, LONG, **how)

    def drop(self, *keys: str, tags: tuple[str, ...] = (), **how: Any) -> Any:
        return self.run("DROP", list(keys), self.publish, self.place.channel, len(keys), *keys, *tags, **how)

    def beat(self, **how: Any) -> Any:
        return self.run("HB", [], self.publish, self.place.channel, "process", "nonce", **how)

    def value(self, key: str = "s:1") -> Any:
        return self.client.get(self.place.values + key)

    def payload(self, key: str = "s:1") -> bytes | None:
        value = self.value(key)
        return value.split(b"|", 3)[3] if value is not None and value[:1] == b"V" else None

    def header(self, field: str) -> Any:
        return self.client.hget(self.place.header, field)

    def state(self) -> dict[bytes, Any]:
        """Everything that lies in this shard."""
        found: dict[bytes, Any] = {}
        for name in self.client.scan_iter(match=f"*{self.place.tag}*"):
            kind = self.client.type(name)
            found[name] = self.client.hgetall(name) if kind == b"hash" else self.client.get(name)
        return found


@pytest.fixture(scope="module", params=[*PLACES, "cluster"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[list[redis.Redis], str]]:
    if request.param == "cluster":
        cluster = start_cluster(masters=3, replicas=0)
        clients = [redis.Redis.from_url(node.url, protocol=2) for node in cluster.masters]
        yield clients, "SPUBLISH"
        for client in clients:
            client.close()
        cluster.stop()
        return
    one = start_redis(binary=dict(redis_binaries())[request.param])
    with redis.Redis.from_url(one.url, protocol=2) as client:
        yield [client], "PUBLISH"
    one.stop()


@pytest.fixture
def shard(server: tuple[list[redis.Redis], str]) -> Shard:
    clients, publish = server
    for client in clients:
        client.config_set("maxmemory", 0)
        client.flushall()
    shard = Shard(_owner(clients, Place("sc", 0, 0).header), publish)
    assert shard.init() == [b"OK", EPOCH]
    return shard


def _owner(clients: list[redis.Redis], key: str) -> redis.Redis:
    for client in clients:
        try:
            client.exists(key)
        except redis.ResponseError:  # MOVED
            continue
        return client
    raise AssertionError("no node owns the slot")


def test_every_script_names_keys_of_one_slot_only(server: tuple[list[redis.Redis], str]) -> None:
    """A CROSSSLOT or a key that was not declared would raise on a Cluster: many shards, many keys a call."""
    clients, publish = server
    keys = [f"s:{i}" for i in range(20)]
    for number in range(8):
        shard = Shard(_owner(clients, Place("sc", number, 0).header), publish, number)
        shard.init()
        assert shard.lease()[0] == b"LEASE"
        assert shard.fill() == [b"OK"]
        assert shard.release() == [b"OK"]
        change = shard.mark("w", 1, *keys, tags=("=s", "+s"))[1]
        assert shard.done("w", change, *keys, tags=("=s", "+s"))[:2] == [b"OK", 22]
        record = shard.mark("w", 1, "s:1")[1]
        assert shard.resolve(record) == [b"OK"]
        assert shard.drop(*keys, tags=("=s",))[0] == b"OK"
        assert shard.beat()[0] == b"OK"


def test_an_epoch_begins_once_and_only_with_a_larger_number(shard: Shard) -> None:
    shard.mark("w", 1, "s:1")
    assert shard.init(b"7.zz") == [b"OK", EPOCH]
    assert shard.init(b"6.zz") == [b"OK", EPOCH]
    assert shard.header("m:s:1") is not None
    assert shard.init(NEXT) == [b"OK", NEXT]
    assert shard.client.hgetall(shard.place.header) == {b"e": NEXT, b"q": b"0", b"c": b"0", b"f": b"0"}
    assert shard.init(b"10.a") == [b"OK", b"10.a"], "numbers are compared as numbers"


def test_one_reader_gets_the_lease_and_its_fill_is_what_the_others_get(shard: Shard) -> None:
    assert shard.lease(token="a") == [b"LEASE", b"-", b"-", 0]
    assert shard.lease(token="b") == [b"BUSY"]
    assert shard.fill(expect="Lb") == [b"NO"]
    assert shard.fill(expect="La", payload=b"mine") == [b"OK"]
    assert shard.payload() == b"mine"
    assert shard.value().startswith(b"V7.aa|1.")
    assert shard.lease(token="c") == [b"HIT", shard.value()]
    assert 0 < shard.client.pttl(shard.place.values + "s:1") <= LONG


def test_a_fill_whose_token_is_gone_is_refused(shard: Shard) -> None:
    shard.lease()
    shard.client.delete(shard.place.values + "s:1")
    assert shard.fill() == [b"NO"]
    assert shard.value() is None


def test_a_lease_that_is_old_or_given_back_is_the_next_reader_s(shard: Shard) -> None:
    shard.lease(token="a")
    assert shard.release(token="b") == [b"OK"]
    assert shard.lease(token="b") == [b"BUSY"], "only who holds it gives it back"
    assert shard.release(token="a") == [b"OK"]
    assert shard.lease(token="b")[0] == b"LEASE"
    shard.client.pexpire(shard.place.values + "s:1", LONG - 150)
    assert shard.lease(token="c")[0] == b"LEASE", "its holder may be dead"
    assert shard.fill(expect="Lb", payload=b"late") == [b"NO"]
    assert shard.release(token="b") == [b"OK"]
    assert shard.fill(expect="Lc") == [b"OK"]


def test_a_mark_takes_value_and_token_away_and_says_who_writes(shard: Shard) -> None:
    shard.lease("s:1", "a")
    shard.fill("s:1", "La")
    shard.lease("s:2", "b")
    assert shard.mark("A", 500, "s:1", "s:2") == [b"OK", 1, 1]
    assert (shard.value("s:1"), shard.value("s:2")) == (None, None)
    assert shard.lease("s:1") == [b"MARK", b"1|A:500", b"-"]
    assert shard.fill("s:2", "Lb") == [b"NO"]
    assert parse_record(shard.header("m:s:1")) == (b"1", ["500"])
    assert shard.client.ttl(shard.place.header) == -1, "marks have no life of their own"


def test_marks_of_several_writers_are_a_set_and_the_last_one_out_unlocks(shard: Shard) -> None:
    shard.mark("A", 500, "s:1")
    shard.mark("B", 501, "s:1")
    assert shard.header("m:s:1") == b"2|A:500|B:501"
    shard.mark("B", 501, "s:1")
    assert shard.header("m:s:1") == b"3|A:500|B:501", "a mark that is repeated is one mark"
    assert shard.done("A", 1, "s:1")[:2] == [b"OK", 1]
    assert shard.lease()[0] == b"MARK"
    assert shard.done("B", 3, "s:1")[:2] == [b"OK", 1]
    assert shard.lease()[0] == b"LEASE"


def test_the_names_of_writers_are_told_apart_by_more_than_a_prefix(shard: Shard) -> None:
    shard.mark("A1", 500, "s:1")
    shard.mark("A", 501, "s:1")
    assert shard.done("A", 2, "s:1")[1] == 1
    assert shard.header("m:s:1") == b"3|A1:500"


def test_a_writer_leaves_its_row_only_if_nobody_else_marked_the_key(shard: Shard) -> None:
    change = shard.mark("A", 500, "s:1")[1]
    assert shard.done("A", change, "s:1", row=b"row") == [b"OK", 1, 1]
    assert shard.payload() == b"row"
    first = shard.mark("A", 502, "s:1")[1]
    second = shard.mark("B", 503, "s:1")[1]
    assert shard.done("B", second, "s:1", row=b"newer") == [b"OK", 1, 0]
    assert shard.done("A", first, "s:1", row=b"older") == [b"OK", 1, 0], "another writer came and went meanwhile"
    assert shard.value() is None


def test_a_row_is_not_left_under_a_tag_that_is_marked_or_has_moved(shard: Shard) -> None:
    change = shard.mark("A", 500, "s:1")[1]
    shard.mark("B", 501, tags=("=s",))
    assert shard.done("A", change, "s:1", row=b"row") == [b"OK", 1, 0]
    shard.done("B", 2, tags=("=s",))
    change = shard.mark("A", 502, "s:1")[1]
    assert shard.done("A", change, "s:1", row=b"row") == [b"OK", 1, 0], "the generation is not the one it was read in"


def test_a_record_is_resolved_only_as_it_was_looked_at(shard: Shard) -> None:
    change = shard.mark("A", 500, "s:1")[1]
    shard.mark("B", 501, "s:1")
    shard.done("B", 2, "s:1")
    assert shard.header("m:s:1").endswith(b"|A:500"), "the same set of writers as at first"
    assert shard.resolve(change, row=b"old") == [b"NO"]
    now = parse_record(shard.header("m:s:1"))[0]
    assert shard.resolve(now, row=b"row") == [b"OK"]
    assert shard.payload() == b"row"
    assert shard.resolve(now, row=b"again") == [b"NO"]


def test_tags_have_generations_that_never_come_back(shard: Shard) -> None:
    shard.lease()
    shard.fill()
    seen = {shard.header("n:=s")}
    for n, lift in enumerate(("done", "resolve", "drop")):
        change = shard.mark("A", 500 + n, tags=("=s",), watched=("=s", "+s"))
        assert len(change) == 5
        if lift == "drop":
            shard.drop(tags=("=s",))
        elif lift == "done":
            shard.done("A", change[1], tags=("=s",))
        else:
            assert shard.lease()[0] == b"HOLD"
            assert shard.resolve(change[1], key="t:=s") == [b"OK"]
        assert shard.header("n:=s") not in seen
        seen.add(shard.header("n:=s"))
    shard.resolve(parse_record(shard.header("m:t:=s"))[0], key="t:=s")
    assert shard.lease()[0] == b"LEASE", "the value of an older generation is no hit"


def test_a_fill_whose_space_was_rewritten_meanwhile_is_refused(shard: Shard) -> None:
    assert shard.lease()[1] == b"-"
    change = shard.mark("A", 500, tags=("=s",))[1]
    assert shard.fill() == [b"NO"], "while it is marked"
    shard.done("A", change, tags=("=s",))
    assert shard.fill() == [b"NO"], "and afterwards"
    assert shard.fill(generation=shard.header("n:=s")) == [b"OK"]


def test_one_who_has_no_mark_lifts_none_and_changes_nothing(shard: Shard) -> None:
    shard.mark("B", 500, "s:1", tags=("=s",))
    before = shard.state()
    assert shard.done("A", 1, "s:1", tags=("=s",), row=b"row") == [b"OK", 0, 0]
    assert shard.state() == before


def test_what_a_reader_proved_is_stored_only_where_nothing_else_has_happened(shard: Shard) -> None:
    change = shard.mark("A", 500, "s:1")[1]
    shard.mark("B", 501, tags=("=s",))
    assert shard.resolve(change, row=b"row") == [b"OK"]
    assert shard.value() is None, "the space is marked"
    shard.done("B", 2, tags=("=s",))
    change = shard.mark("A", 502, "s:1")[1]
    assert shard.resolve(change, row=b"row") == [b"OK"]
    assert shard.value() is None, "its generation is another one than the reader's"
    change = shard.mark("A", 503, "s:1")[1]
    shard.client.set(shard.place.values + "s:1", b"O7.aa|1|overlay")
    assert shard.resolve(change, row=b"row", generation=shard.header("n:=s")) == [b"OK"]
    assert shard.value() == b"O7.aa|1|overlay"


def test_a_drop_takes_values_and_tokens_and_moves_generations(shard: Shard) -> None:
    shard.lease("s:1", "a")
    shard.fill("s:1", "La")
    shard.lease("s:2", "b")
    assert shard.drop("s:1", "s:2", tags=("=s",)) == [b"OK", 1, 1]
    assert (shard.value("s:1"), shard.value("s:2")) == (None, None)
    assert shard.header("n:=s") is not None
    assert shard.drop("s:1") == [b"OK", 2, 2]


def test_no_such_row_ends_with_the_next_birth(shard: Shard) -> None:
    assert shard.lease(token="a")[2:] == [b"-", 0]
    assert shard.fill(expect="La", payload=b"N-") == [b"OK"]
    assert shard.lease()[0] == b"HIT"
    change = shard.mark("A", 500, tags=("+s",))[1]
    assert shard.lease(token="b")[3] == 1
    assert shard.fill(expect="Lb", payload=b"N-") == [b"NO"], "rows are being born"
    shard.done("A", change, tags=("+s",))
    births = shard.header("n:+s")
    shard.client.delete(shard.place.values + "s:1")
    assert shard.lease(token="c")[2] == births
    assert shard.fill(expect="Lc", payload=b"N-") == [b"NO"], "some were born since"
    assert shard.fill(expect="Lc", payload=b"N" + births, births=births) == [b"OK"]
    assert shard.lease()[0] == b"HIT"


def test_a_value_grows_by_a_shape_only_if_it_is_the_same_and_keeps_its_end(shard: Shard) -> None:
    shard.lease(token="a")
    shard.fill(expect="La")
    shard.client.pexpire(shard.place.values + "s:1", 5000)
    prefix = shard.value()[: -len(b"row")].decode()
    assert shard.fill(expect=prefix, payload=b"row+shape") == [b"OK"]
    assert shard.client.pttl(shard.place.values + "s:1") <= 5000
    assert shard.fill(expect=prefix, payload=b"stale") == [b"NO"]
    assert shard.payload() == b"row+shape"


def test_an_overlay_is_not_taken_away_by_marks_or_drops(shard: Shard) -> None:
    shard.client.set(shard.place.values + "s:1", b"O7.aa|1|row")
    shard.mark("A", 500, "s:1")
    shard.drop("s:1")
    assert shard.value() == b"O7.aa|1|row"


def test_messages_carry_epoch_number_and_names(shard: Shard, server: tuple[list[redis.Redis], str]) -> None:
    hearing = shard.client.pubsub()
    connection: Any = hearing
    subscribe = "SSUBSCRIBE" if shard.publish == "SPUBLISH" else "SUBSCRIBE"
    with hearing:
        connection.execute_command(subscribe, shard.place.channel)
        assert connection.parse_response(block=False, timeout=2) is not None
        shard.mark("A", 500, "s:1", tags=("=s",))
        shard.drop("s:2", tags=("+s",))
        shard.beat()
        heard = [connection.parse_response(block=False, timeout=2)[2] for _ in range(3)]
    assert heard == [b"inv 7.aa 1 s:1 t:=s", b"inv 7.aa 2 s:2 t:+s", b"hb 7.aa 2 process nonce"]


LATE = {
    "LEASE": lambda shard, **how: shard.lease(**how),
    "FILL": lambda shard, **how: shard.fill(**how),
    "RELEASE": lambda shard, **how: shard.release(**how),
    "MARK": lambda shard, **how: shard.mark("L", 9, "s:1", tags=("=s",), **how),
    "DONE": lambda shard, **how: shard.done("A", 1, "s:1", tags=("=s",), row=b"late", **how),
    "RESOLVE": lambda shard, **how: shard.resolve(1, row=b"late", **how),
    "DROP": lambda shard, **how: shard.drop("s:1", tags=("=s",), **how),
    "HB": lambda shard, **how: shard.beat(**how),
}


def test_each_key_of_a_batch_has_its_own_answer(shard: Shard) -> None:
    shard.lease("s:2", token="other")
    shard.lease("s:3", token="x"), shard.fill("s:3", "Lx", b"three")
    shard.mark("A", 500, "s:4")
    keys = [f"s:{i}" for i in range(1, 6)]
    answers = shard.run("LEASE", keys, "=s", "+s", LONG, *[item for key in keys for item in (key, "t" + key)])
    assert [answer[0] for answer in answers] == [b"LEASE", b"BUSY", b"HIT", b"MARK", b"LEASE"]
    given = [(key, "-", "-", f"Lt{key}", f"row {key}", LONG) for key in ("s:1", "s:2", "s:4", "s:5")]
    filled = shard.run("FILL", [fill[0] for fill in given], "=s", "+s", *[item for fill in given for item in fill])
    assert filled == [1, 0, 0, 1]
    assert shard.lease("s:5")[1].endswith(b"|-|row s:5")


@pytest.mark.parametrize("name", LATE)
def test_a_call_for_an_epoch_that_is_over_changes_nothing(shard: Shard, name: str) -> None:
    shard.lease()
    shard.mark("A", 500, "s:2", tags=("=s",))
    shard.init(NEXT)
    shard.mark("A", 500, "s:1", epoch=NEXT)
    shard.lease("s:3", epoch=NEXT)
    before = shard.state()
    assert LATE[name](shard) == [b"EPOCH", NEXT]
    assert shard.state() == before


@pytest.mark.parametrize("name", LATE)
def test_a_call_on_data_that_were_lost_changes_nothing(shard: Shard, name: str) -> None:
    shard.client.flushall()
    assert LATE[name](shard) == [b"EPOCH", b""]
    assert shard.state() == {}


@pytest.mark.parametrize("name", ["INIT", *LATE])
def test_a_call_for_another_lineage_changes_nothing(shard: Shard, name: str) -> None:
    shard.lease()
    shard.mark("A", 500, "s:2", tags=("=s",))
    before = shard.state()
    call = LATE.get(name, lambda shard, **how: shard.init(NEXT, **how))
    assert call(shard, lineage=FOREIGN) == [b"RUN"]
    assert shard.state() == before


def test_a_late_call_within_the_epoch_is_harmless(shard: Shard) -> None:
    shard.lease(token="t")
    change = shard.mark("A", 500, "s:1")[1]
    shard.done("A", change, "s:1", row=b"row")
    believed = shard.value()
    assert shard.fill() == [b"NO"]
    assert shard.done("A", change, "s:1", row=b"older") == [b"OK", 0, 0]
    assert shard.resolve(change, row=b"older") == [b"NO"]
    assert shard.init(EPOCH) == [b"OK", EPOCH]
    assert shard.value() == believed
    assert shard.mark("A", 500, "s:1")[0] == b"OK", "a MARK that comes after its DONE costs a cached value"
    assert shard.value() is None
    assert parse_record(shard.header("m:s:1"))[1] == ["500"], "and stands until somebody asks how 500 ended"


def test_a_late_begin_of_the_loser_does_not_bring_its_epoch_back(shard: Shard) -> None:
    """Two openers of epoch 8; the header is lost after the winner's marks; then the loser's INIT arrives."""
    assert shard.init(b"8.win") == [b"OK", b"8.win"]
    shard.mark("A", 500, "s:1", epoch=b"8.win")
    shard.client.delete(shard.place.header)
    assert shard.init(b"8.lose") == [b"OK", b"8.lose"]
    assert shard.lease(epoch=b"8.win") == [b"EPOCH", b"8.lose"], "its marks are gone: nobody may read under 8.win"


def test_with_its_memory_full_the_server_still_marks_and_unmarks_but_fills_nothing(shard: Shard) -> None:
    shard.lease("s:1", "a")
    shard.fill("s:1", "La")
    shard.lease("s:2", "b")
    shard.client.config_set("maxmemory-policy", "noeviction")
    shard.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.ResponseError, match=r"OOM|maxmemory"):
            shard.client.set("{sc:0}:plain", "x")
        with pytest.raises(redis.ResponseError, match=r"OOM|maxmemory"):
            shard.fill("s:2", "Lb")
        change = shard.mark("A", 500, "s:1", "s:9", tags=("=s",))[1]
        assert shard.value("s:1") is None
        assert shard.done("A", change, "s:1", tags=("=s",))[:2] == [b"OK", 2]
        record = parse_record(shard.header("m:s:9"))[0]
        assert shard.resolve(record, key="s:9") == [b"OK"]
        assert shard.drop("s:2", tags=("=s",))[0] == b"OK"
        assert shard.beat()[0] == b"OK"
    finally:
        shard.client.config_set("maxmemory", 0)


def test_a_thousand_marks_are_one_call_of_five_hundred_twice(shard: Shard) -> None:
    keys = [f"s:{i}" for i in range(1000)]
    for part in (keys[:500], keys[500:]):
        assert shard.mark("A", 500, *part)[0] == b"OK"
    assert shard.client.hlen(shard.place.header) == 1004


def test_a_replica_and_a_master_that_was_demoted_run_nothing() -> None:
    master, other = start_redis(), start_redis()
    try:
        with redis.Redis.from_url(master.url, protocol=2) as client:
            shard = Shard(client, "PUBLISH")
            shard.init()
            assert shard.lease()[0] == b"LEASE"
            run_id = client.info("server")["run_id"]
            client.execute_command("REPLICAOF", "127.0.0.1", other.port)
            assert client.info("server")["run_id"] == run_id, "the process is the same, its data are not"
            for name, call in LATE.items():
                assert _refused(shard, call) in ([b"RUN"], "READONLY"), name
            client.execute_command("REPLICAOF", "NO", "ONE")
            assert client.info("replication")["role"] == "master"
            for name, call in LATE.items():
                assert call(shard) == [b"RUN"], f"{name} after it became a master again"
    finally:
        master.stop()
        other.stop()


def _refused(shard: Shard, call: Any) -> Any:
    try:
        return call(shard)
    except redis.ReadOnlyError:  # before the script's first line: the server knows that it writes
        return "READONLY"
