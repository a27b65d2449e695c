"""Each step of each script is needed: without it, some test of the scripts fails."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from schedules import other_script

from datalayer.testing.servers import start_redis
from datalayer.tiers.l2 import scripts


def _tests() -> Any:
    """The tests of the scripts, as a module of functions."""
    spec = importlib.util.spec_from_file_location("script_tests", Path(__file__).with_name("test_scripts.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TESTS = _tests()

ROLE = ("string.find(i, 'role:master', 1, true) and ", "")
LINEAGE = (" and string.find(i, 'master_replid:' .. ARGV[1], 1, true)", "")
ANY_EPOCH = ("if e ~= ARGV[2] then return {'EPOCH', e or ''} end", "")

MUTANTS: dict[str, tuple[str, str, str]] = {
    **{f"{name}: any lineage": (name, *LINEAGE) for name in scripts.ALL},
    **{f"{name}: any epoch": (name, *ANY_EPOCH) for name in scripts.ALL if name != "INIT"},
    **{
        f"{name}: refused when memory is full": (name, "#!lua flags=allow-oom\n", "#!lua\n")
        for name in ("MARK", "DONE", "RESOLVE", "DROP")
    },
    "INIT: an equal number begins anew": ("INIT", ">= tonumber(string.match(ARGV", "> tonumber(string.match(ARGV"),
    "INIT: numbers are compared as text": (
        "INIT",
        "tonumber(string.match(e, '^%d+')) >= tonumber(string.match(ARGV[2], '^%d+'))",
        "string.match(e, '^%d+') >= string.match(ARGV[2], '^%d+')",
    ),
    "INIT: the old header stays": ("INIT", "redis.call('DEL', KEYS[1])", ""),
    "LEASE: marks of the space do not matter": ("LEASE", "if t[1] then return {'HOLD', t[1]} end", ""),
    "LEASE: marks of the row do not matter": ("LEASE", "if h[1] then return {'MARK', h[1], g} end", ""),
    "LEASE: any generation is a hit": ("LEASE", "string.sub(v, a + 1, z - 1) == g", "true"),
    "LEASE: absence is a hit for ever": ("LEASE", "(not t[2] and string.sub(v, z + 2) == n)", "true"),
    "LEASE: everybody gets one": ("LEASE", "return {'BUSY'}", ""),
    "LEASE: a dead reader holds everybody up": (
        "LEASE",
        " and redis.call('PTTL', key) > tonumber(px) - 100",
        "",
    ),
    "LEASE: nothing is left behind": ("LEASE", "redis.call('SET', key, 'L' .. token, 'PX', px)", ""),
    "LEASE: births are not told": ("LEASE", "t[2] and 1 or 0", "0"),
    "FILL: without a token": ("FILL", "if v ~= expect then return 0 end", ""),
    "FILL: over nothing": ("FILL", "if not v then return 0 end", "v = v or expect"),
    "FILL: of any generation": ("FILL", " or (t[3] or '-') ~= gen then", " then"),
    "FILL: absence while rows are born": ("FILL", "(t[2] or (t[4] or '-') ~= births)", "((t[4] or '-') ~= births)"),
    "FILL: absence after rows were born": ("FILL", "(t[2] or (t[4] or '-') ~= births)", "t[2]"),
    "FILL: over another value": ("FILL", "if string.sub(v, 1, #expect) ~= expect then return 0 end", ""),
    "FILL: a value that grows lives on": ("FILL", "if left > 0 and left < px then px = left end", ""),
    "FILL: no end": ("FILL", ", 'PX', px)", ")"),
    "RELEASE: anybody's": ("RELEASE", "if redis.call('GET', KEYS[2]) == ARGV[3] then", "if true then"),
    "RELEASE: nothing": ("RELEASE", "redis.call('DEL', KEYS[2])", ""),
    "MARK: no mark": ("MARK", "redis.call('HSET', KEYS[1], 'm:' .. name, c .. rest)", ""),
    "MARK: the value stays": ("MARK", "redis.call('DEL', KEYS[1 + i])", ""),
    "MARK: overlays go": ("MARK", "v ~= '' and v ~= 'O'", "v ~= ''"),
    "MARK: the last one replaces the others": ("MARK", "c .. rest)", "c .. me)"),
    "MARK: twice is two": (
        "MARK",
        "if not string.find(rest .. '|', me .. '|', 1, true) then rest = rest .. me end",
        "rest = rest .. me",
    ),
    "MARK: no change": ("MARK", "redis.call('HINCRBY', KEYS[1], 'c', 1)", "tonumber(redis.call('HGET', KEYS[1], 'c'))"),
    "MARK: no number": ("MARK", "redis.call('HINCRBY', KEYS[1], 'q', 1)", "tonumber(redis.call('HGET', KEYS[1], 'q'))"),
    "MARK: nobody is told": ("MARK", "redis.call(ARGV[3], ARGV[4], 'inv '", "tostring('inv '"),
    "MARK: tags are not told apart": ("MARK", "name = 't:' .. name", ""),
    "MARK: generations are not told": ("MARK", "out[#out + 1] =", "local _ ="),
    "DONE: everybody's marks": (
        "DONE",
        "then mine = true else keep = keep .. '|' .. w end",
        "then mine = true else mine = true end",
    ),
    "DONE: writers are told apart by a prefix": (
        "DONE",
        "string.sub(w, 1, #ARGV[3] + 1) == ARGV[3] .. ':'",
        "string.sub(w, 1, #ARGV[3]) == ARGV[3]",
    ),
    "DONE: a mark that is not ours counts": ("DONE", "if not mine then return false end", ""),
    "DONE: no change": (
        "DONE",
        "local c = redis.call('HINCRBY', KEYS[1], 'c', 1)",
        "local c = redis.call('HGET', KEYS[1], 'c')",
    ),
    "DONE: the record stays": ("DONE", "redis.call('HDEL', KEYS[1], 'm:' .. name)", ""),
    "DONE: a row over a newer one": ("DONE", "before == ARGV[4] and", "before and"),
    "DONE: a row under a marked space": (
        "DONE",
        "not h[1] and (h[2] or '-') == ARGV[at + 2]",
        "(h[2] or '-') == ARGV[at + 2]",
    ),
    "DONE: a row of any generation": ("DONE", " and (h[2] or '-') == ARGV[at + 2]", ""),
    "DONE: the generation stays": (
        "DONE",
        "redis.call('HSET', KEYS[1], 'n:' .. ARGV[i], redis.call('HINCRBY', KEYS[1], 'f', 1))",
        "",
    ),
    "RESOLVE: any record": ("RESOLVE", " or string.sub(m, 1, string.find(m, '|', 1, true) - 1) ~= ARGV[4]", ""),
    "RESOLVE: the record stays": ("RESOLVE", "redis.call('HDEL', KEYS[1], f)", ""),
    "RESOLVE: the generation stays": (
        "RESOLVE",
        "redis.call('HSET', KEYS[1], 'n:' .. string.sub(ARGV[3], 3), redis.call('HINCRBY', KEYS[1], 'f', 1))",
        "",
    ),
    "RESOLVE: a row under a marked space": ("RESOLVE", "not h[1] and (h[2]", "(h[2]"),
    "RESOLVE: a row of any generation": ("RESOLVE", " and (h[2] or '-') == ARGV[6]", ""),
    "RESOLVE: over what is there": ("RESOLVE", " and redis.call('EXISTS', KEYS[2]) == 0", ""),
    "DROP: the value stays": ("DROP", "redis.call('DEL', KEYS[i - 4])", ""),
    "DROP: overlays go": ("DROP", "redis.call('GETRANGE', KEYS[i - 4], 0, 0) ~= 'O'", "true"),
    "DROP: the generation stays": (
        "DROP",
        "redis.call('HSET', KEYS[1], 'n:' .. name, redis.call('HINCRBY', KEYS[1], 'f', 1))",
        "",
    ),
    "DROP: nobody is told": ("DROP", "redis.call(ARGV[3], ARGV[4], 'inv '", "tostring('inv '"),
    "DROP: no number": ("DROP", "redis.call('HINCRBY', KEYS[1], 'q', 1)", "tonumber(redis.call('HGET', KEYS[1], 'q'))"),
    "HB: not heard": ("HB", "redis.call(ARGV[3], ARGV[4], 'hb '", "tostring('hb '"),
    "HB: any number": ("HB", "local q = redis.call('HGET', KEYS[1], 'q')", "local q = 0"),
}


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    server = start_redis()
    with redis.Redis.from_url(server.url, protocol=2) as client:
        yield client
    server.stop()


def plays() -> Iterator[Callable[[Any], None]]:
    """Each test that takes a shard, with each set of its parameters."""
    for name, test in vars(TESTS).items():
        wanted = list(inspect.signature(test).parameters) if name.startswith("test_") else []
        if wanted == ["shard"]:
            yield test
        elif wanted == ["shard", "name"]:
            for late in [*TESTS.LATE, "INIT"] if "lineage" in name else TESTS.LATE:
                yield lambda shard, test=test, late=late: test(shard, late)
        elif wanted == ["shard", "server"]:
            yield lambda shard, test=test: test(shard, ([shard.client], shard.publish))


def run_all(client: redis.Redis) -> list[str]:
    """What fails."""
    failed = []
    for play in plays():
        client.config_set("maxmemory", 0)
        client.flushall()
        try:
            shard = TESTS.Shard(client, "PUBLISH")
            shard.init()
            play(shard)
        except (AssertionError, redis.RedisError, AttributeError, TypeError, IndexError) as error:
            failed.append(f"{play}: {type(error).__name__}")
            break
        finally:
            client.config_set("maxmemory", 0)
    return failed


def test_the_scripts_pass_their_tests(client: redis.Redis) -> None:
    assert len(list(plays())) > 30
    assert run_all(client) == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_script_without_one_of_its_steps_does_not(client: redis.Redis, mutant: str) -> None:
    name, old, new = MUTANTS[mutant]
    with other_script(name, (old, new)):
        assert run_all(client), "nobody misses this step"
