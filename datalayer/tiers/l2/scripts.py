"""What must happen in Redis in one step: section 3 of the Epoch-Fenced Marks protocol.

Every script touches one shard; KEYS[1] is its header, a hash without a life of its own:

====================  ============================================================================================
``e``                 the epoch id ``<number>.<nonce>``
``q`` ``c`` ``f``     published messages, changes of marks, fills and generations
``m:<name>``          marks on a key (``<space>:<id>``) or a tag (``t:<tag>``): ``<c>|<writer>:<xid>|…``
``n:<tag>``           generation of a tag
====================  ============================================================================================

A value is ``V<epoch>|<fill>.<end, ms of the server's clock>|<generation>|<payload>``, a token ``L<token>``. The tag of
a whole space is ``=<space>``; births in it, which only concern values that say "no such row", are ``+<space>``.

Each script may run late, after its caller has given up: the epoch, the token, the change counter or the writer's unique
name make that harmless.
"""

from __future__ import annotations

import hashlib

_CHECK = b"""
local i = redis.call('INFO', 'replication')
if not (string.find(i, 'role:master', 1, true) and string.find(i, 'master_replid:' .. ARGV[1], 1, true)) then
  return {'RUN'}
end
"""

_EPOCH = (
    _CHECK
    + b"""
local e = redis.call('HGET', KEYS[1], 'e')
if e ~= ARGV[2] then return {'EPOCH', e or ''} end
"""
)

_STORE = b"""
local function store(key, gen, payload, px)
  local t = redis.call('TIME')
  local e = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000) + px)
  local f = redis.call('HINCRBY', KEYS[1], 'f', 1)
  redis.call('SET', key, 'V' .. ARGV[2] .. '|' .. f .. '.' .. e .. '|' .. gen .. '|' .. payload, 'PX', px)
end
"""

_OOM = b"#!lua flags=allow-oom\n"

#: ARGV lineage, id -> {'OK', id in force}
INIT = (
    _CHECK
    + b"""
local e = redis.call('HGET', KEYS[1], 'e')
if e and tonumber(string.match(e, '^%d+')) >= tonumber(string.match(ARGV[2], '^%d+')) then return {'OK', e} end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'e', ARGV[2], 'q', 0, 'c', 0, 'f', 0)
return {'OK', ARGV[2]}
"""
)

#: KEYS header, values · ARGV lineage, epoch, whole tag, births tag, px, (name, token) of each -> of each, in order:
#:    {'HOLD', record of the tag} {'MARK', record, generation} {'HIT', value} {'BUSY'} {'WB', overlay or ''}
#:    {'LEASE', generation, births, whether births are marked} {'FREE'}: nothing was found, and px 0 asks for no token
#: A token that is older than 100 ms may be a dead reader's: the next one takes its place, and its fill is refused.
LEASE = (
    _EPOCH
    + b"""
local px = ARGV[5]
local t = redis.call('HMGET', KEYS[1], 'm:t:' .. ARGV[3], 'm:t:' .. ARGV[4], 'n:' .. ARGV[3], 'n:' .. ARGV[4])
local g, n, p = t[3] or '-', t[4] or '-', 'V' .. ARGV[2] .. '|'
local function lease(key, name, token)
  local h = redis.call('HMGET', KEYS[1], 'm:' .. name, 'o:' .. name)
  if h[2] then return {'WB', redis.call('GET', key) or ''} end
  if t[1] then return {'HOLD', t[1]} end
  if h[1] then return {'MARK', h[1], g} end
  local v = redis.call('GET', key)
  if v then
    if string.sub(v, 1, #p) == p then
      local a = string.find(v, '|', #p + 1, true)
      local z = a and string.find(v, '|', a + 1, true)
      if z and string.sub(v, a + 1, z - 1) == g then
        if string.sub(v, z + 1, z + 1) ~= 'N' or (not t[2] and string.sub(v, z + 2) == n) then return {'HIT', v} end
      end
    elseif px ~= '0' and string.sub(v, 1, 1) == 'L' and redis.call('PTTL', key) > tonumber(px) - 100 then
      return {'BUSY'}
    end
  end
  if px == '0' then return {'FREE'} end
  redis.call('SET', key, 'L' .. token, 'PX', px)
  return {'LEASE', g, n, t[2] and 1 or 0}
end
local out = {}
for k = 2, #KEYS do out[k - 1] = lease(KEYS[k], ARGV[2 * k + 2], ARGV[2 * k + 3]) end
return out
"""
)

#: KEYS header, values · ARGV lineage, epoch, whole tag, births tag, (name, generation, births, expect, payload, px) of
#: each -> 1 or 0 of each. ``expect`` is the token, or the prefix of a value that gets another shape and keeps its end.
FILL = (
    _EPOCH
    + _STORE
    + b"""
local t = redis.call('HMGET', KEYS[1], 'm:t:' .. ARGV[3], 'm:t:' .. ARGV[4], 'n:' .. ARGV[3], 'n:' .. ARGV[4])
local function fill(key, name, gen, births, expect, payload, px)
  if t[1] or (t[3] or '-') ~= gen then return 0 end
  if redis.call('HEXISTS', KEYS[1], 'm:' .. name) == 1 then return 0 end
  if string.sub(payload, 1, 1) == 'N' and (t[2] or (t[4] or '-') ~= births) then return 0 end
  local v = redis.call('GET', key)
  if not v then return 0 end
  if string.sub(expect, 1, 1) == 'L' then
    if v ~= expect then return 0 end
  else
    if string.sub(v, 1, #expect) ~= expect then return 0 end
    local left = redis.call('PTTL', key)
    if left > 0 and left < px then px = left end
  end
  store(key, gen, payload, px)
  return 1
end
local out = {}
for k = 2, #KEYS do
  local at = 6 * k - 7
  out[k - 1] = fill(KEYS[k], ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], tonumber(ARGV[at + 5]))
end
return out
"""
)

#: KEYS header, value · ARGV lineage, epoch, token -> {'OK'}: the reader has failed, the next one need not wait.
RELEASE = (
    _EPOCH
    + b"""
if redis.call('GET', KEYS[2]) == ARGV[3] then redis.call('DEL', KEYS[2]) end
return {'OK'}
"""
)

#: KEYS header, values · ARGV lineage, epoch, publish, channel, writer, xid, numbers of keys and tags, names, tags,
#: watched tags -> {'OK', c, q, generations of the watched tags}
MARK = (
    _OOM
    + _EPOCH
    + b"""
local keys, tags = tonumber(ARGV[7]), tonumber(ARGV[8])
local c = redis.call('HINCRBY', KEYS[1], 'c', 1)
local q = redis.call('HINCRBY', KEYS[1], 'q', 1)
local me = '|' .. ARGV[5] .. ':' .. ARGV[6]
local names, out = {}, {'OK', c, q}
for i = 1, keys + tags do
  local name = ARGV[8 + i]
  if i > keys then
    name = 't:' .. name
  else
    local v = redis.call('GETRANGE', KEYS[1 + i], 0, 0)
    if v ~= '' and v ~= 'O' then redis.call('DEL', KEYS[1 + i]) end
  end
  local m = redis.call('HGET', KEYS[1], 'm:' .. name)
  local rest = m and string.sub(m, string.find(m, '|', 1, true), -1) or ''
  if not string.find(rest .. '|', me .. '|', 1, true) then rest = rest .. me end
  redis.call('HSET', KEYS[1], 'm:' .. name, c .. rest)
  names[i] = name
end
redis.call(ARGV[3], ARGV[4], 'inv ' .. ARGV[2] .. ' ' .. q .. ' ' .. table.concat(names, ' '))
for i = 9 + keys + tags, #ARGV do out[#out + 1] = redis.call('HGET', KEYS[1], 'n:' .. ARGV[i]) or '-' end
return out
"""
)

#: KEYS header, values · ARGV lineage, epoch, writer, c, number of keys, (name, whole tag, generation, payload, px) of
#: each, tags -> {'OK', marks removed, values stored}
DONE = (
    _OOM
    + _EPOCH
    + _STORE
    + b"""
local keys, removed, stored = tonumber(ARGV[5]), 0, 0
local function lift(name)
  local m = redis.call('HGET', KEYS[1], 'm:' .. name)
  if not m then return false end
  local p = string.find(m, '|', 1, true)
  local keep, mine = '', false
  for w in string.gmatch(string.sub(m, p + 1), '[^|]+') do
    if string.sub(w, 1, #ARGV[3] + 1) == ARGV[3] .. ':' then mine = true else keep = keep .. '|' .. w end
  end
  if not mine then return false end
  removed = removed + 1
  local c = redis.call('HINCRBY', KEYS[1], 'c', 1)
  if keep ~= '' then
    redis.call('HSET', KEYS[1], 'm:' .. name, c .. keep)
    return true
  end
  redis.call('HDEL', KEYS[1], 'm:' .. name)
  return true, string.sub(m, 1, p - 1)
end
for k = 1, keys do
  local at = 1 + 5 * k
  local _, before = lift(ARGV[at])
  if before == ARGV[4] and ARGV[at + 3] ~= '' then
    local h = redis.call('HMGET', KEYS[1], 'm:t:' .. ARGV[at + 1], 'n:' .. ARGV[at + 1])
    if not h[1] and (h[2] or '-') == ARGV[at + 2] and redis.call('EXISTS', KEYS[1 + k]) == 0 then
      store(KEYS[1 + k], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4]))
      stored = stored + 1
    end
  end
end
for i = 6 + 5 * keys, #ARGV do
  if lift('t:' .. ARGV[i]) then
    redis.call('HSET', KEYS[1], 'n:' .. ARGV[i], redis.call('HINCRBY', KEYS[1], 'f', 1))
  end
end
return {'OK', removed, stored}
"""
)

#: KEYS header, value · ARGV lineage, epoch, name, c, whole tag, generation, payload, px -> {'OK'} {'NO'}
RESOLVE = (
    _OOM
    + _EPOCH
    + _STORE
    + b"""
local f = 'm:' .. ARGV[3]
local m = redis.call('HGET', KEYS[1], f)
if not m or string.sub(m, 1, string.find(m, '|', 1, true) - 1) ~= ARGV[4] then return {'NO'} end
redis.call('HDEL', KEYS[1], f)
redis.call('HINCRBY', KEYS[1], 'c', 1)
if string.sub(ARGV[3], 1, 2) == 't:' then
  redis.call('HSET', KEYS[1], 'n:' .. string.sub(ARGV[3], 3), redis.call('HINCRBY', KEYS[1], 'f', 1))
elseif ARGV[7] ~= '' then
  local h = redis.call('HMGET', KEYS[1], 'm:t:' .. ARGV[5], 'n:' .. ARGV[5])
  if not h[1] and (h[2] or '-') == ARGV[6] and redis.call('EXISTS', KEYS[2]) == 0 then
    store(KEYS[2], ARGV[6], ARGV[7], tonumber(ARGV[8]))
  end
end
return {'OK'}
"""
)

#: KEYS header, values · ARGV lineage, epoch, publish, channel, number of keys, names, tags -> {'OK', c, q}
DROP = (
    _OOM
    + _EPOCH
    + b"""
local keys = tonumber(ARGV[5])
local c = redis.call('HINCRBY', KEYS[1], 'c', 1)
local q = redis.call('HINCRBY', KEYS[1], 'q', 1)
local names = {}
for i = 6, #ARGV do
  local name = ARGV[i]
  if i > 5 + keys then
    redis.call('HSET', KEYS[1], 'n:' .. name, redis.call('HINCRBY', KEYS[1], 'f', 1))
    name = 't:' .. name
  elseif redis.call('GETRANGE', KEYS[i - 4], 0, 0) ~= 'O' then
    redis.call('DEL', KEYS[i - 4])
  end
  names[#names + 1] = name
end
redis.call(ARGV[3], ARGV[4], 'inv ' .. ARGV[2] .. ' ' .. q .. ' ' .. table.concat(names, ' '))
return {'OK', c, q}
"""
)

#: ARGV lineage, epoch, publish, channel, process, nonce -> {'OK', server's clock in ms, q}
HB = (
    _EPOCH
    + b"""
local q = redis.call('HGET', KEYS[1], 'q')
redis.call(ARGV[3], ARGV[4], 'hb ' .. ARGV[2] .. ' ' .. q .. ' ' .. ARGV[5] .. ' ' .. ARGV[6])
local t = redis.call('TIME')
return {'OK', t[1] * 1000 + math.floor(t[2] / 1000), q}
"""
)

ALL = {
    "INIT": INIT,
    "LEASE": LEASE,
    "FILL": FILL,
    "RELEASE": RELEASE,
    "MARK": MARK,
    "DONE": DONE,
    "RESOLVE": RESOLVE,
    "DROP": DROP,
    "HB": HB,
}


def sha(script: bytes) -> bytes:
    return hashlib.sha1(script).hexdigest().encode()


SHA = {name: sha(script) for name, script in ALL.items()}
